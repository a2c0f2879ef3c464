//! How long does it take from the start of a process until its first task runs?

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Parser;

/// Prints at what time the first task ran: nanoseconds since 1970.
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    vonk: vonk::Args,
}

fn main() -> ExitCode {
    vonk::main(|| {
        let args = Args::parse();
        let ctx = vonk::Context::builder().name("first_task").args(&args.vonk).build()?;
        let ran = ctx.range_into(0..1_u64, 1).map(|_| since_1970()).collect()?;
        println!("{}", ran[0]);
        Ok(())
    })
}

fn since_1970() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}
