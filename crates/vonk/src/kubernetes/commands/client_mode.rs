//! How does a program run whose driver is here?
//!
//! It takes the place of this process, so that signals, terminal and exit code are its own. Its settings come in a file that
//! exists in memory alone.

use std::io::{Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::Context;

use super::submit::{Order, Program};
use super::{Usage, upload};
use crate::config::{APP_NAME, variable};

/// Runs it. Returns only if it cannot be started.
///
/// # Errors
/// It cannot be started.
pub(crate) fn run(order: Order) -> Result<u8, anyhow::Error> {
    let mut command = match &order.program {
        Program::Executable(path) => executable(path)?,
        Program::Sql(path) => {
            let mut command = Command::new(upload::this()?);
            command.args(["sql", "--file"]).arg(path);
            command
        }
    };
    let mut values = order.config.values().clone();
    values.insert(APP_NAME.key.to_owned(), order.name);
    // What was set in the environment is in these values, unless a flag has won over it.
    values.keys().for_each(|key| {
        command.env_remove(variable(key));
    });
    let table: toml::Table = values.into_iter().map(|(key, value)| (key, toml::Value::String(value))).collect();
    let text = toml::to_string(&table).context("write the program's settings")?;
    let file = rustix::fs::memfd_create("vonk.toml", rustix::fs::MemfdFlags::empty())
        .context("write the program's settings")?;
    let mut file = std::fs::File::from(file);
    file.write_all(text.as_bytes()).and_then(|()| file.rewind()).context("write the program's settings")?;
    command.env("VONK_CONFIG", format!("/proc/self/fd/{}", file.as_raw_fd())).args(&order.args);
    let shown = command.get_program().to_string_lossy().into_owned();
    Err(anyhow::Error::new(command.exec()).context(Usage(format!("run {shown}"))))
}

/// A name without a folder means a file of this folder, as it does with --deploy-mode cluster.
fn executable(path: &Path) -> Result<Command, anyhow::Error> {
    let path = std::path::absolute(path).with_context(|| format!("find {}", path.display()))?;
    Ok(Command::new(path))
}
