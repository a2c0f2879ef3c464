//! How many of many darts land in a quarter circle?

use std::process::ExitCode;

use clap::Parser;
use vonk_examples::darts;

/// Estimates Pi by throwing darts at a square.
#[derive(Debug, Parser)]
struct Args {
    /// How many darts are thrown
    #[arg(long, default_value_t = 100_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    samples: u64,
    /// Into how many partitions the work is split [default: as many as tasks can run at once]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    partitions: Option<u32>,
    #[command(flatten)]
    vonk: vonk::Args,
}

fn main() -> ExitCode {
    vonk::main(|| {
        let args = Args::parse();
        let ctx = vonk::Context::builder().name("pi").args(&args.vonk).build()?;
        let partitions = args.partitions.unwrap_or_else(|| ctx.default_parallelism());
        let darts = ctx.range_into(0..args.samples, partitions);
        let inside = darts.map(|n| u64::from(darts::hits(n))).sum()?;
        println!("Pi is roughly {}", 4.0 * inside as f64 / args.samples as f64);
        Ok(())
    })
}
