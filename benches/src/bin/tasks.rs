//! How many empty tasks run in a second?

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

/// Runs a job of empty tasks, after a small one that has executors started.
#[derive(Debug, Parser)]
struct Args {
    /// How many tasks
    #[arg(long, default_value_t = 100_000)]
    tasks: u32,
    #[command(flatten)]
    vonk: vonk::Args,
}

fn main() -> ExitCode {
    vonk::main(|| {
        let args = Args::parse();
        let ctx = vonk::Context::builder().name("tasks").args(&args.vonk).build()?;
        ctx.range_into(0..100_u64, 100).foreach(|_| ())?;
        let began = Instant::now();
        ctx.range_into(0..u64::from(args.tasks), args.tasks).foreach(|_| ())?;
        let seconds = began.elapsed().as_secs_f64();
        println!(r#"{{"tasks_per_second": {:.0}, "seconds": {seconds}}}"#, f64::from(args.tasks) / seconds);
        Ok(())
    })
}
