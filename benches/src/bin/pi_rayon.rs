//! What does Pi cost, written by hand with rayon?

use clap::Parser;
use rayon::prelude::*;
use vonk_benches::darts;

/// Estimates Pi as `examples/src/bin/pi.rs` does, without Vonk.
#[derive(Debug, Parser)]
struct Args {
    /// How many darts are thrown.
    #[arg(long, default_value_t = 1_000_000_000)]
    samples: u64,
    /// How many threads throw.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    rayon::ThreadPoolBuilder::new().num_threads(args.threads).build_global()?;
    let inside: u64 = (0..args.samples).into_par_iter().map(|n| u64::from(darts::hits(n))).sum();
    println!("Pi is roughly {}", 4.0 * inside as f64 / args.samples as f64);
    Ok(())
}
