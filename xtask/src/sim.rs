//! Does the scheduler keep its invariants under schedules that nobody thought of?

use anyhow::Result;
use clap::Args;

use crate::workspace::{cargo, run as run_shown};

#[derive(Debug, Args)]
pub(crate) struct SimArgs {
    /// How many seeds to try; the test run tries 10,000
    #[arg(long, default_value_t = 1_000_000, conflicts_with = "seed")]
    seeds: u64,
    /// Replay this one and print its trace
    #[arg(long)]
    seed: Option<u64>,
}

/// Runs the simulator's tests with more seeds. A failure prints its seed.
pub(crate) fn run(args: &SimArgs) -> Result<()> {
    let (variable, value) = match args.seed {
        Some(seed) => ("VONK_SIM_SEED", seed),
        None => ("VONK_SIM_SEEDS", args.seeds),
    };
    run_shown(
        cargo()
            .args([
                "test",
                "--locked",
                "--profile",
                "sim",
                "-p",
                "scheduler",
                "--test",
                "it",
                "sim::",
                "--",
                "--nocapture",
            ])
            .env(variable, value.to_string()),
    )
}
