//! Does the scheduler keep its invariants under schedules that nobody thought of?

use anyhow::Result;
use clap::Args;

use crate::workspace::{cargo, run as run_shown};

#[derive(Debug, Args)]
pub(crate) struct SimArgs {
    /// How many seeds to try; the test run tries 10,000.
    #[arg(long, default_value_t = 1_000_000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
}

/// Runs the simulator's test with more seeds. A failure prints its seed; `--seeds 1 --from SEED` replays it.
pub(crate) fn run(args: &SimArgs) -> Result<()> {
    run_shown(
        cargo()
            .args(["test", "--locked", "--release", "-p", "scheduler", "simulat", "--", "--nocapture"])
            .env("VONK_SIM_SEEDS", args.seeds.to_string())
            .env("VONK_SIM_SEED_FROM", args.from.to_string()),
    )
}
