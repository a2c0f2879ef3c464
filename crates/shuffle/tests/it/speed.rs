//! How fast are rows encoded and read on one core?

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use model::shuffle::{Codec, RowKind, ShuffleSpec};
use object_store::memory::InMemory;
use shuffle::partitioner::{StableHasher, hash_partition};
use shuffle::{Budget, Member, schema_message};

use crate::setup::{World, spec};

const PARTITIONS: u32 = 32;

fn ample() -> Budget {
    Budget { pack_linger: Duration::from_millis(1), ..Budget::for_executor(16 << 30, 2) }
}

/// Time this thread had a core, so that neighbours on the machine do not count.
fn on_core() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

fn measure(name: &str, spec: ShuffleSpec, raw: u64, write: impl FnOnce(&mut Member)) {
    let mut world = World::new(Arc::new(InMemory::new()), spec, ample());
    let mut member = world.member(0);
    let began = on_core();
    write(&mut member);
    let handed_over = member.finish().unwrap();
    let written = on_core() - began;
    let output = world.stored(vec![handed_over]).unwrap().remove(0);
    let stored = output.stored_bytes;
    world.accept(output);
    let began = on_core();
    let (blocks, report) = world.read(0, PARTITIONS).unwrap();
    let bytes: usize = blocks.iter().flat_map(|block| block.records()).map(<[u8]>::len).sum();
    let read = on_core() - began;
    let rate = |time: Duration| raw as f64 / 1e6 / time.as_secs_f64();
    let (rows, ratio) = (report.rows.iter().sum::<u64>(), raw as f64 / stored as f64);
    println!(
        "{name}: {rows} rows, {:.0} MB, write {:.0} MB/s ({:.1} ns a row), read {:.0} MB/s, ratio {ratio:.2}, {bytes}",
        raw as f64 / 1e6,
        rate(written),
        written.as_nanos() as f64 / rows as f64,
        rate(read),
    );
}

/// A pool that outgrows what a compressor sees at a time, made before the clock runs.
const POOL: u64 = 1 << 18;

/// A word and a count, as a word count shuffles them.
fn short(words: &[String]) -> Vec<(u32, Vec<u8>)> {
    let record = |row: u64| {
        let word = &words[(row.wrapping_mul(2_654_435_761) % 50_000) as usize];
        (
            hash_partition(StableHasher::hash_one(word), PARTITIONS),
            [word.as_bytes(), &(row & 0xff).to_le_bytes()].concat(),
        )
    };
    (0..POOL).map(record).collect()
}

/// A random key and text, as a sort benchmark shuffles them.
fn long() -> Vec<(u32, Vec<u8>)> {
    let record = |row: u64| {
        let key = row.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let text = (0..74).map(|at| b'A' + ((row + at / 9) % 26) as u8);
        let record = key.to_be_bytes().into_iter().chain(*b"  ").chain(format!("{row:016x}").into_bytes()).chain(text);
        (hash_partition(key, PARTITIONS), record.collect())
    };
    (0..POOL).map(record).collect()
}

#[test]
#[ignore = "measures: run alone, optimised, with --nocapture"]
fn rows_per_second() {
    let words: Vec<String> =
        (0..50_000u64).map(|i| format!("w{:06x}", i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40)).collect();
    for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
        let spec = || ShuffleSpec { codec, ..spec(1, PARTITIONS) };
        for (rows, pool) in [(10_000_000, short(&words)), (4_000_000, long())] {
            let size = pool[0].1.len();
            measure(&format!("records of {size} bytes, {codec:?}"), spec(), rows * size as u64, |member| {
                for (partition, record) in pool.iter().cycle().take(rows as usize) {
                    member.write_record(*partition, record).unwrap();
                }
            });
        }
        let batches: Vec<(RecordBatch, Vec<u32>)> = (0..400i64)
            .map(|batch| {
                let ids: Vec<i64> = (batch * 8_192..(batch + 1) * 8_192).collect();
                let to = ids.iter().map(|id| hash_partition(StableHasher::hash_one(id), PARTITIONS)).collect();
                let prices: Float64Array = ids.iter().map(|id| Some((id * 37 % 10_000) as f64 / 100.0)).collect();
                let keys: Int64Array = ids.iter().map(|id| Some(id * 7_919 % 200_000)).collect();
                let text: StringArray =
                    ids.iter().map(|id| Some(words[(id * 31 % 50_000) as usize].as_str())).collect();
                let columns: [(&str, ArrayRef); 4] = [
                    ("id", Arc::new(Int64Array::from(ids))),
                    ("key", Arc::new(keys)),
                    ("price", Arc::new(prices)),
                    ("text", Arc::new(text)),
                ];
                (RecordBatch::try_from_iter(columns).unwrap(), to)
            })
            .collect();
        let raw = batches.iter().map(|(batch, _)| batch.num_rows() as u64 * (24 + 4 + 7)).sum();
        let kind = RowKind::Arrow { schema: schema_message(&batches[0].0.schema()).unwrap() };
        measure(&format!("batches, {codec:?}"), ShuffleSpec { kind, ..spec() }, raw, |member| {
            batches.iter().for_each(|(batch, to)| member.write_batch(batch, to).unwrap());
        });
    }
}
