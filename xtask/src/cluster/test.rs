//! How are Vonk's end-to-end tests run on a cluster?
//!
//! They are built with all that `cargo xtask test` builds, so that whoever has run that builds little more.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use super::{image, up};
use crate::check::ALL_PACKAGES;
use crate::workspace::{cargo, run as run_shown, target_folder};

/// The targets with these tests, in each package that has some: no other command runs them.
const TESTS: [&str; 2] = ["--test", "cluster"];

/// The program `vonk`, which pods start, and the names of its image and of one with the program that tests run.
const STOCK: (&str, &str) = ("pod_stock", "localhost/vonk-it:dev");
const PROGRAM: (&str, &str) = ("pod_program", "localhost/vonk-it-program:dev");

/// What tests read to find the program that they start outside.
const PROGRAM_VARIABLE: &str = "VONK_TEST_PROGRAM";

/// Two executors each fill two nodes of two CPUs; most of the time tests wait.
const AT_A_TIME: &str = "--test-threads=2";

/// Those that bear nothing beside them.
const ALONE: &str = "--test-threads=1";

/// The tests that take the API server from all.
const OUTAGES: &str = "outages::";

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

/// Builds programs and tests, gives the nodes their images, and runs the tests. The cluster stays up.
pub(crate) fn run(args: &TestArgs) -> Result<()> {
    let tests = || {
        let mut test = cargo();
        test.args(["test", "--locked", "--no-fail-fast"]).args(ALL_PACKAGES).args(TESTS);
        test
    };
    run_shown(tests().arg("--no-run"))?;
    let environment = up::ensure()?;
    give(&stripped(STOCK.0)?, STOCK.1, &image::NAMES)?;
    let program = stripped(PROGRAM.0)?;
    give(&program, PROGRAM.1, &[PROGRAM.0])?;
    let run = |words: &[&str]| {
        let mut test = tests();
        test.arg("--").args(words).env(PROGRAM_VARIABLE, &program);
        run_shown(test.envs(environment.iter().map(|(name, value)| (name, value))))
    };
    match (args.marks, args.all, args.filter.as_deref()) {
        (true, ..) => run(&["--ignored", "--nocapture", ALONE, args.filter.as_deref().unwrap_or(MARKS)]),
        (false, true, Some(filter)) => run(&["--include-ignored", ALONE, filter]),
        (false, true, None) => {
            let beside_each_other = run(&["--include-ignored", AT_A_TIME, "--skip", MARKS, "--skip", OUTAGES]);
            beside_each_other.and(run(&["--ignored", ALONE, OUTAGES]))
        }
        (false, false, filter) => run(&[AT_A_TIME].into_iter().chain(filter).collect::<Vec<_>>()),
    }
}

/// A program that was built with the tests, without what only debuggers read: half of its size, and every pod fetches it.
fn stripped(program: &str) -> Result<PathBuf> {
    let target = target_folder()?;
    let folder = target.join("cluster");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let stripped = folder.join(program);
    run_shown(Command::new("strip").arg("-o").arg(&stripped).arg(target.join("debug").join(program)))?;
    Ok(stripped)
}

fn give(program: &Path, tag: &str, names: &[&str]) -> Result<()> {
    image::give(program, tag, &names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())
}
