//! Which command did a developer mean?
//!
//! `cargo xtask help` lists them. Nothing has to be installed but what `rustup` brings; `s3`, and so `test`, builds an
//! S3 server once with Go, which it fetches itself when there is none.

mod absences;
mod bench;
mod check;
mod cluster;
mod dependencies;
mod docs;
#[cfg(feature = "generate")]
mod generate;
mod go;
mod s3;
mod sim;
mod sqllogic;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Builds, checks and measures Vonk.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything a change must pass, cheapest first: format, dependencies, generated files, absences, clippy, tests,
    /// documentation.
    Check,
    /// What CI runs: the checks that need no compiler, then every test, with an S3-compatible server beside them.
    Test(check::TestArgs),
    /// Runs the scheduler's simulator with many seeds.
    Sim(sim::SimArgs),
    /// Measures against peers and keeps the figures under benches/results.
    Bench(bench::BenchArgs),
    /// Generates what is committed but follows from other files: crates/proto/src/generated, docs/configuration.md.
    Gen(GenerateArgs),
    /// What `gen` starts for crates/proto/src/generated alone.
    #[command(hide = true)]
    Wire(GenerateArgs),
    /// Builds the API documentation and checks the book.
    Docs,
    /// Starts, stops or wraps a command with an S3-compatible server.
    #[command(subcommand)]
    S3(s3::S3Command),
    /// A Kubernetes cluster on this machine, with an S3-compatible server.
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
}

#[derive(Debug, Clone, Copy, clap::Args)]
struct GenerateArgs {
    /// Changes nothing and fails if a file is not what would be generated.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    match run(Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Check => check::check(),
        Command::Test(args) => check::test(&args),
        Command::Sim(args) => sim::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Gen(args) => generate(args),
        Command::Wire(args) => wire_code(args),
        Command::Docs => docs::run(),
        Command::S3(command) => s3::run(command),
        Command::Cluster(command) => cluster::run(command),
    }
}

/// Generates the wire's code here, in a program that was built with the generators, or starts such a program; the page
/// of keys is written by the test that would find it stale.
fn generate(args: GenerateArgs) -> Result<()> {
    wire_code(args)?;
    if args.check {
        return Ok(());
    }
    let mut page = workspace::cargo();
    page.args([
        "test",
        "--quiet",
        "--locked",
        "-p",
        "vonk",
        "--features",
        "sql,k8s",
        "--lib",
        "the_page_of_keys_is_current",
    ]);
    workspace::run(page.env("VONK_TEST_WRITE_PAGE", "1"))
}

#[cfg(feature = "generate")]
use generate::wire_code;

#[cfg(not(feature = "generate"))]
fn wire_code(args: GenerateArgs) -> Result<()> {
    let mut command = workspace::cargo();
    command.args(["run", "--quiet", "--locked", "--package", "xtask", "--features", "generate", "--", "wire"]);
    workspace::run(if args.check { command.arg("--check") } else { &mut command })
}
