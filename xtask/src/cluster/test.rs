//! How are Vonk's end-to-end tests run on a cluster?

use std::path::Path;

use anyhow::Result;
use clap::Args;

use super::{image, up};
use crate::workspace::{cargo, run as run_shown, target_folder};

const PACKAGE: &str = "vonk-cluster-tests";

/// The program `vonk`, which pods start, and the names of its image and of one with the program that tests run.
const STOCK: (&str, &str) = ("pod_stock", "localhost/vonk-it:dev");
const PROGRAM: (&str, &str) = ("pod_program", "localhost/vonk-it-program:dev");

/// Two executors each fill two nodes of two CPUs; most of the time tests wait.
const AT_A_TIME: &str = "--test-threads=2";

/// The tests that measure: alone, and only when they are asked for.
const MARKS: &str = "marks::";

#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// Slow tests too.
    #[arg(long)]
    all: bool,
    /// Measures instead, and prints the figures.
    #[arg(long, conflicts_with = "all")]
    marks: bool,
    /// Only tests with this in their names.
    filter: Option<String>,
}

/// Builds program and tests, gives the nodes their images, and runs the tests. The cluster stays up.
pub(crate) fn run(args: &TestArgs) -> Result<()> {
    run_shown(cargo().args(["build", "--locked", "-p", PACKAGE, "--bins"]))?;
    let environment = up::ensure()?;
    let built = target_folder()?.join("debug");
    give(&built, STOCK, &image::NAMES)?;
    give(&built, PROGRAM, &[PROGRAM.0])?;
    let mut test = cargo();
    test.args(["test", "--locked", "-p", PACKAGE, "--features", "cluster-tests", "--test", "it", "--"]);
    test.args(match (args.marks, args.all) {
        (true, _) => vec!["--ignored", "--nocapture", "--test-threads=1", MARKS],
        (false, true) => vec!["--include-ignored", AT_A_TIME, "--skip", MARKS],
        (false, false) => vec![AT_A_TIME],
    });
    run_shown(test.args(&args.filter).envs(environment))
}

fn give(built: &Path, (program, tag): (&str, &str), names: &[&str]) -> Result<()> {
    image::give(&built.join(program), tag, &names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())
}
