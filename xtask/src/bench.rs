//! How fast is it, and how fast are others?

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::check::ALL_PACKAGES;
use crate::s3::Server;
use crate::workspace::{cargo, command, run as run_shown, target_folder};

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// What to measure.
    suite: Suite,
    /// What the suite's program should do; `--help` lists it.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    more: Vec<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Suite {
    /// RDD programs, scheduler, shuffle and start-up, against hand-written programs and Spark's RDDs.
    Core,
    /// The queries of TPC-H, against DataFusion, DuckDB, Spark and Sail.
    Tpch,
    /// Planning over a table of 10,000 files: time, and memory of the driver.
    ManyFiles,
}

/// Builds everything that is measured as users build it, then runs the suite; the core's beside an S3-compatible server.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    match args.suite {
        Suite::Core => {
            run_shown(cargo().args([
                "build",
                "--locked",
                "--release",
                "-p",
                "vonk-examples",
                "-p",
                "vonk-benches",
                "--bins",
            ]))?;
            let server = Server::start()?;
            // Started itself: `cargo run` of one package would build what several share once more, with other features.
            let mut core = command(target_folder()?.join("release/core"));
            run_shown(core.args(&args.more).envs(server.environment()).env("VONK_BENCH_S3_LOG", server.requests()))
        }
        Suite::Tpch => queries("tpch", &args.more),
        Suite::ManyFiles => queries("many_files", &args.more),
    }
}

/// Builds and runs a program that measures queries, with the shell beside it.
fn queries(program: &str, more: &[String]) -> Result<()> {
    let mut build = cargo();
    build.args(["build", "--locked", "--release"]).args(ALL_PACKAGES).args(["--bin", program, "--bin", "vonk"]);
    run_shown(&mut build)?;
    run_shown(command(target_folder()?.join("release").join(program)).args(more))
}
