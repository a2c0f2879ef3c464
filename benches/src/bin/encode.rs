//! How fast are rows encoded for a shuffle, on one core?

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use clap::Parser;
use model::shuffle::{Codec, RowKind, ShuffleSpec};
use model::{AppId, AttemptId, Epoch, ExecutorId, Generation, JobId, PartitionId, ShuffleId, StageAttempt, StageId};
use object_store::memory::InMemory;
use object_store::path::Path;
use serde_json::json;
use shuffle::partitioner::{StableHasher, hash_partition};
use shuffle::{Budget, Member, ShuffleRuntime, schema_message};
// Allocates as every program of Vonk does.
use vonk as _;

/// Hashes, compresses with lz4 (and batches not at all, too) and seals rows of three kinds, for an object store in memory.
#[derive(Debug, Parser)]
struct Args {
    /// Into how many partitions rows go
    #[arg(long, default_value_t = 32)]
    partitions: u32,
    /// How many megabytes of each kind
    #[arg(long, default_value_t = 400)]
    megabytes: u64,
}

/// A pool that outgrows what a compressor sees at a time, made before the clock runs.
const POOL: u64 = 1 << 18;

const BATCH_ROWS: i64 = 8_192;

/// What a row of a batch has: three numbers, the offset of a text, and the text.
const BATCH_ROW_BYTES: u64 = 3 * 8 + 4 + 7;

fn main() -> Result<()> {
    let args = Args::parse();
    let (bytes, partitions) = (args.megabytes * 1_000_000, args.partitions);
    let io = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let records = RowKind::Records { type_name: "bytes".into() };
    let words: Vec<String> = (0..50_000).map(|n| format!("w{:06x}", mixed(n) >> 40)).collect();

    let mut speeds = Vec::new();
    for pool in [long(partitions), short(&words, partitions)] {
        let rows = bytes / pool[0].1.len() as u64;
        speeds.push(speed(&io, spec(records.clone(), partitions, Codec::Lz4), bytes, |member| {
            pool.iter()
                .cycle()
                .take(rows as usize)
                .try_for_each(|(partition, record)| member.write_record(*partition, record))
        })?);
    }
    let batches = batches(&words, partitions, bytes / (BATCH_ROW_BYTES * BATCH_ROWS as u64))?;
    let schema = batches.first().context("batches have some megabytes")?.0.schema();
    let kind = RowKind::Arrow { schema: schema_message(&schema)? };
    for codec in [Codec::Lz4, Codec::None] {
        speeds.push(speed(&io, spec(kind.clone(), partitions, codec), bytes, |member| {
            batches.iter().try_for_each(|(batch, to)| member.write_batch(batch, to))
        })?);
    }
    println!(
        "{}",
        json!({
            "records_of_100_bytes": speeds[0],
            "records_of_15_bytes": speeds[1],
            "batches": speeds[2],
            "batches_as_they_are": speeds[3],
        })
    );
    Ok(())
}

fn spec(kind: RowKind, partitions: u32, codec: Codec) -> ShuffleSpec {
    ShuffleSpec {
        app: AppId(42),
        epoch: Epoch(1),
        shuffle: ShuffleId(0),
        generation: Generation(0),
        maps: 1,
        partitions,
        kind,
        codec,
        inline_max: 0,
    }
}

/// Megabytes of raw rows per second of a core.
fn speed(
    io: &tokio::runtime::Runtime,
    spec: ShuffleSpec,
    bytes: u64,
    write: impl Fn(&mut Member) -> Result<(), shuffle::Error>,
) -> Result<f64> {
    let spec = Arc::new(spec);
    let budget = Budget { pack_linger: Duration::from_millis(1), ..Budget::for_executor(16 << 30, 2) };
    let (stage, stage_attempt) = (StageId(0), StageAttempt(0));
    let attempt = AttemptId { job: JobId(0), stage, stage_attempt, partition: PartitionId(0), attempt: 0 };
    let mut best = Duration::MAX;
    // The first round has memory given for the first time, which an executor has once in its life.
    for executor in 1..=3 {
        let store = Arc::new(InMemory::new());
        let executor = ExecutorId(executor);
        let runtime = ShuffleRuntime::new(store, Path::from("root"), executor, budget.clone(), io.handle().clone());
        let mut member = runtime.member(&spec, attempt, false);
        let began = on_core()?;
        write(&mut member)?;
        let handed_over = member.finish()?;
        best = best.min(on_core()? - began);
        io.block_on(handed_over.stored())?;
    }
    Ok((bytes as f64 / 1e6 / best.as_secs_f64()).round())
}

/// Time this thread had a core, so that neighbours on the machine do not count.
fn on_core() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(Duration::from_nanos(text.split(' ').next().context("find the time on a core")?.parse()?))
}

fn mixed(number: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// A word and a count, as a word count shuffles them.
fn short(words: &[String], partitions: u32) -> Vec<(u32, Vec<u8>)> {
    let record = |row: u64| {
        let word = &words[(row.wrapping_mul(2_654_435_761) % 50_000) as usize];
        let record = [word.as_bytes(), &(row & 0xff).to_le_bytes()].concat();
        (hash_partition(StableHasher::hash_one(word), partitions), record)
    };
    (0..POOL).map(record).collect()
}

/// A random key and text, as a sort benchmark shuffles them.
fn long(partitions: u32) -> Vec<(u32, Vec<u8>)> {
    let record = |row: u64| {
        let key = mixed(row);
        let text = (0..74).map(|at| b'A' + ((row + at / 9) % 26) as u8);
        let record = key.to_be_bytes().into_iter().chain(*b"  ").chain(format!("{row:016x}").into_bytes()).chain(text);
        (hash_partition(key, partitions), record.collect())
    };
    (0..POOL).map(record).collect()
}

/// Numbers and a text, as a query exchanges them, with the partition of every row.
fn batches(words: &[String], partitions: u32, number: u64) -> Result<Vec<(RecordBatch, Vec<u32>)>> {
    let batch = |batch: i64| {
        let ids: Vec<i64> = (batch * BATCH_ROWS..(batch + 1) * BATCH_ROWS).collect();
        let to = ids.iter().map(|id| hash_partition(StableHasher::hash_one(id), partitions)).collect();
        let keys: Int64Array = ids.iter().map(|id| Some(id * 7_919 % 200_000)).collect();
        let prices: Float64Array = ids.iter().map(|id| Some((id * 37 % 10_000) as f64 / 100.0)).collect();
        let text: StringArray = ids.iter().map(|id| Some(words[(id * 31 % 50_000) as usize].as_str())).collect();
        let columns: [(&str, ArrayRef); 4] = [
            ("id", Arc::new(Int64Array::from(ids))),
            ("key", Arc::new(keys)),
            ("price", Arc::new(prices)),
            ("text", Arc::new(text)),
        ];
        Ok((RecordBatch::try_from_iter(columns)?, to))
    };
    (0..number as i64).map(batch).collect()
}
