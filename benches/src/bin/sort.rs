//! What does sorting records cost?

use std::process::ExitCode;
use std::time::Instant;

use anyhow::ensure;
use clap::Parser;
use vonk_benches::data::KEY_BYTES;

/// Reads records of 100 bytes, sorts them by their first 10, checks the order, writes nothing.
#[derive(Debug, Parser)]
struct Args {
    /// The folder of records
    folder: String,
    #[command(flatten)]
    vonk: vonk::Args,
}

type Key = [u8; KEY_BYTES];

fn main() -> ExitCode {
    vonk::main(|| {
        let args = Args::parse();
        let ctx = vonk::Context::builder().name("sort").args(&args.vonk).build()?;
        let began = Instant::now();
        let records = ctx.text_file(&args.folder)?.map(|line| {
            let key: Key = line.as_bytes()[..KEY_BYTES].try_into().expect("a record begins with its key");
            (key, line)
        });
        // Of each partition: how many records, the first and the last key, and whether all are in order.
        let parts = records.sort_by_key()?.map_partitions(|records| {
            let mut part: Option<(u64, Key, Key, bool)> = None;
            for (key, _) in records {
                part = Some(match part {
                    None => (1, key, key, true),
                    Some((count, first, last, ordered)) => (count + 1, first, key, ordered && last <= key),
                });
            }
            part
        });
        let parts = parts.collect()?;
        ensure!(parts.iter().all(|(_, _, _, ordered)| *ordered), "a partition is out of order");
        ensure!(parts.windows(2).all(|pair| pair[0].2 <= pair[1].1), "partitions are out of order");
        println!("{} records in order", parts.iter().map(|(count, ..)| count).sum::<u64>());
        eprintln!("{:.3} s", began.elapsed().as_secs_f64());
        Ok(())
    })
}
