//! What must a change pass?

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::workspace::{cargo, run};
use crate::{absences, dependencies, docs, s3, sqllogic};

#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// What `cargo test` should do: packages, names of tests, `-- --nocapture`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    cargo_args: Vec<String>,
}

/// All crates with what only their features build. Not `--all-features`, which would add xtask's generators.
pub(crate) const ALL_PACKAGES: [&str; 3] = ["--workspace", "--features", "vonk/k8s,vonk-examples/sql,vonk-benches/sql"];

/// What takes minutes and gigabytes is run only when it is named.
const TOO_LARGE: [&str; 2] = ["--skip", "at_another_scale"];

/// Everything, cheapest first; the first failure ends it.
pub(crate) fn check() -> Result<()> {
    without_compiler()?;
    crate::generate(crate::GenerateArgs { check: true })?;
    // Tests that need a cluster are none of all targets.
    for targets in [&["--all-targets"][..], &["--test", "cluster"]] {
        run(cargo().args(["clippy", "--locked"]).args(targets).args(ALL_PACKAGES).args(["--", "-D", "warnings"]))?;
    }
    tests(&[])?;
    docs::run()
}

/// What CI runs. A breach of a rule is told first and fails the run, but does not keep the tests from being seen.
pub(crate) fn test(args: &TestArgs) -> Result<()> {
    if !args.cargo_args.is_empty() {
        return tests(&args.cargo_args);
    }
    let rules = without_compiler();
    if let Err(breach) = &rules {
        eprintln!("error: {breach:#}");
    }
    let tested = tests(&[]);
    rules.and(tested)
}

/// Checks that take seconds: format, dependencies, absences, links between documents.
fn without_compiler() -> Result<()> {
    let checks = [
        ("format", format()),
        ("dependencies", dependencies::check()),
        ("absences", absences::check()),
        ("links", docs::links()),
    ];
    let mut failed = Vec::new();
    for (name, checked) in checks {
        match checked {
            Ok(()) => eprintln!("{name}: ok"),
            Err(error) => failed.push(format!("{name}: {error:#}")),
        }
    }
    if !failed.is_empty() {
        bail!("{}", failed.join("\n"));
    }
    Ok(())
}

fn format() -> Result<()> {
    run(cargo().args(["fmt", "--all", "--", "--check", "--files-with-diff"]))
        .context("`cargo fmt --all` would change files")
}

/// Every test of every crate, the examples' runs, the fixed-seed simulation, the documentation's examples; with an
/// S3-compatible server beside them, and DataFusion's scripts, so those that are ignored where there is none run too.
fn tests(more: &[String]) -> Result<()> {
    let server = s3::Server::start()?;
    let mut command = cargo();
    command.args(["test", "--locked", "--no-fail-fast"]);
    if !more.iter().any(|word| word == "-p" || word.starts_with("--package")) {
        command.args(ALL_PACKAGES);
    }
    let (for_cargo, for_tests) = more.split_at(more.iter().position(|word| word == "--").unwrap_or(more.len()));
    command.args(for_cargo).args(["--", "--include-ignored"]).args(for_tests.iter().skip(1));
    if more.is_empty() {
        command.args(TOO_LARGE);
    }
    run(command.envs(server.environment()).envs([sqllogic::environment()?]))
}
