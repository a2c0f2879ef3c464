//! How are Vonk's end-to-end tests run on a cluster?
//!
//! They are built with all that `cargo xtask test` builds, so that whoever has run that builds little more. Programs that are
//! measured are built as users build them.

mod report;

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use super::{binaries, image, up};
use crate::check::ALL_PACKAGES;
use crate::workspace::{cargo, run as run_shown, target_folder};
use report::Report;

/// The targets with these tests, in each package that has some: no other command runs them.
const TESTS: [&str; 2] = ["--test", "cluster"];

/// The program `vonk`, which pods start, and the names of its image and of one with the program that tests run.
const STOCK: (&str, &str) = ("pod_stock", "localhost/vonk-it:dev");
const PROGRAM: (&str, &str) = ("pod_program", "localhost/vonk-it-program:dev");

/// What tests read to find the program that they start outside.
const PROGRAM_VARIABLE: &str = "VONK_TEST_PROGRAM";

/// What tests read to find the program that pretends nodes.
const KWOK_VARIABLE: &str = "VONK_TEST_KWOK";

/// Two tests at a time need four CPUs and a little; pods that are about to go hold theirs for up to half a minute.
const NODES: u8 = 3;

/// Most of the time tests wait.
const AT_A_TIME: &str = "--test-threads=2";

/// Those that bear nothing beside them.
const ALONE: &str = "--test-threads=1";

/// The tests that take the API server from all.
const OUTAGES: &str = "outages::";

/// The tests that measure: alone, and only when they are asked for.
const MARKS: &str = "marks::";

#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// Slow tests too; what came of it is written to docs/reports/kubernetes-tests.md.
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
    let profile = if args.marks { "release" } else { "debug" };
    if args.marks {
        let mut programs = cargo();
        programs
            .args(["build", "--locked", "--release"])
            .args(ALL_PACKAGES)
            .args(["--bin", STOCK.0, "--bin", PROGRAM.0]);
        run_shown(&mut programs)?;
    }
    let mut environment: Vec<(&str, OsString)> =
        up::ensure(NODES)?.into_iter().map(|(name, value)| (name, value.into())).collect();
    image::give_as_users_get_it(&stripped(STOCK.0, profile)?, STOCK.1)?;
    let program = stripped(PROGRAM.0, profile)?;
    image::give(&program, PROGRAM.1, &[PROGRAM.0.to_owned()])?;
    environment.push((PROGRAM_VARIABLE, program.into()));
    if args.marks {
        environment.push((KWOK_VARIABLE, binaries::kwok()?.into()));
    }
    let command = |words: &[&str]| {
        let mut test = tests();
        test.arg("--").args(words).envs(environment.iter().map(|(name, value)| (name, value)));
        test
    };
    match (args.marks, args.all, args.filter.as_deref()) {
        (true, _, filter) => run_shown(&mut command(&["--ignored", "--nocapture", ALONE, filter.unwrap_or(MARKS)])),
        (false, true, Some(filter)) => run_shown(&mut command(&["--include-ignored", ALONE, filter])),
        (false, true, None) => {
            let mut report = Report::begin()?;
            let beside_each_other =
                report.run(&mut command(&["--include-ignored", AT_A_TIME, "--skip", MARKS, "--skip", OUTAGES]));
            let alone = report.run(&mut command(&["--ignored", ALONE, OUTAGES]));
            report.write()?;
            beside_each_other.and(alone)
        }
        (false, false, filter) => run_shown(&mut command(&[AT_A_TIME].into_iter().chain(filter).collect::<Vec<_>>())),
    }
}

/// A program that was built with the tests, without what only debuggers read: half of its size, and every pod fetches it.
fn stripped(program: &str, profile: &str) -> Result<PathBuf> {
    let target = target_folder()?;
    let folder = target.join("cluster");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let stripped = folder.join(program);
    run_shown(Command::new("strip").arg("-o").arg(&stripped).arg(target.join(profile).join(program)))?;
    Ok(stripped)
}
