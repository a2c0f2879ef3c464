//! How much memory does an executor hold that has nothing to do?

use std::process::ExitCode;

use clap::Parser;
use vonk_benches::measure::memory;

/// Prints the resident memory of the executors after a job, in bytes each.
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    vonk: vonk::Args,
}

fn main() -> ExitCode {
    vonk::main(|| {
        let args = Args::parse();
        let ctx = vonk::Context::builder().name("idle").args(&args.vonk).build()?;
        let executors = ctx.range_into(0..8_u64, 8).map(|_| std::process::id()).collect()?;
        let own = std::process::id();
        let mut seen = std::collections::BTreeSet::from([own]);
        for executor in executors {
            if seen.insert(executor) {
                println!("{}", memory(executor, "VmRSS")?);
            }
        }
        Ok(())
    })
}
