//! How fast do rows get through a shuffle?

use std::process::ExitCode;
use std::time::Instant;

use anyhow::ensure;
use clap::Parser;
use vonk::task;

/// Sends rows of 100 bytes through one shuffle and counts them on the other side.
#[derive(Debug, Parser)]
struct Args {
    /// Maps
    #[arg(long, default_value_t = 16)]
    maps: u32,
    /// Partitions of the shuffle
    #[arg(long, default_value_t = 16)]
    partitions: u32,
    /// Rows of each map
    #[arg(long, default_value_t = 500_000)]
    rows: u64,
    #[command(flatten)]
    vonk: vonk::Args,
}

/// What a row has behind its key of 8 bytes: 90 bytes that do not compress, with two of length.
type Payload = Vec<u8>;

fn main() -> ExitCode {
    vonk::main(|| {
        let args = Args::parse();
        let ctx = vonk::Context::builder().name("exchange").args(&args.vonk).build()?;
        let began = Instant::now();
        let rows = args.rows;
        let made = ctx.range_into(0..args.maps, args.maps).flat_map(task!(move [rows] |map: u32| {
            (0..rows).map(move |row| row_of(u64::from(map) * rows + row))
        }));
        let sent = made.partition_by(args.partitions);
        let count = sent.count()?;
        let seconds = began.elapsed().as_secs_f64();
        ensure!(count == u64::from(args.maps) * args.rows, "{count} rows arrived");
        println!(r#"{{"seconds": {seconds}, "mb_per_second": {:.1}}}"#, count as f64 * 100.0 / 1e6 / seconds);
        Ok(())
    })
}

fn row_of(number: u64) -> (u64, Payload) {
    let mut z = number;
    let mut next = || {
        z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed ^ (mixed >> 31)
    };
    let key = next();
    let payload = (0..12).flat_map(|_| next().to_le_bytes()).take(90).collect();
    (key, payload)
}
