//! What did a part of the cluster print?

use std::fs;

use anyhow::{Context, Result};
use clap::Args;

use super::state::State;

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// The part: `apiserver`, `kubelet-node1` and so on.
    part: Option<String>,
    /// How many lines are shown.
    #[arg(long, short = 'n', default_value_t = 50)]
    lines: usize,
}

pub(crate) fn run(args: &LogsArgs) -> Result<()> {
    let state = State::find()?;
    let Some(part) = &args.part else {
        let folder = state.path("log");
        for entry in fs::read_dir(&folder).context("there is no cluster: `cargo xtask cluster up`")? {
            println!("{}", entry?.path().file_stem().unwrap_or_default().to_string_lossy());
        }
        return Ok(());
    };
    let log = state.log(part);
    let printed = fs::read(&log).with_context(|| format!("read {}", log.display()))?;
    let printed = String::from_utf8_lossy(&printed);
    let lines: Vec<&str> = printed.lines().collect();
    for line in &lines[lines.len().saturating_sub(args.lines)..] {
        println!("{line}");
    }
    Ok(())
}
