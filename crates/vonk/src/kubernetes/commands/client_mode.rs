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
use k8s_backend::manifest::document;
use k8s_backend::names;
use k8s_backend::preflight::try_executor;
use model::AppId;
use model::exit;

use super::cluster_mode::{app_pods, executor_pods};
use super::connection::connect;
use super::output::line;
use super::submit::{DryRun, Order, Program};
use super::{Usage, store, upload};
use crate::attached::listed;
use crate::config::{APP_NAME, variable};
use crate::init::TIMEOUT;
use crate::kubernetes::sent;

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
        Program::InImage(_) | Program::Stored { .. } => return Err(not_here().into()),
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
    if let Some(timeout) = order.timeout {
        command.env(TIMEOUT, timeout.as_millis().to_string());
    }
    command.env("VONK_CONFIG", format!("/proc/self/fd/{}", file.as_raw_fd())).args(&order.args);
    let shown = command.get_program().to_string_lossy().into_owned();
    Err(anyhow::Error::new(command.exec()).context(Usage(format!("run {shown}"))))
}

/// Shows the executors that it would make, or asks the API server about them.
///
/// # Errors
/// The program or a setting cannot be used, or the API server refuses.
pub(crate) async fn dry_run(order: &Order) -> Result<u8, anyhow::Error> {
    let app = AppId::generate();
    let path = match &order.program {
        Program::Executable(path) => path.clone(),
        Program::Sql(_) => upload::this()?,
        Program::InImage(_) | Program::Stored { .. } => return Err(not_here().into()),
    };
    let uploaded = upload::program(&order.config, None, &path).await?;
    let attached = listed(order.config.values()).map_err(sent::Error::from)?;
    let mut of = app_pods(&order.config, app, &order.name, store::shared_url(&order.config)?);
    (of.program, of.architecture) = (Some(uploaded.hash), Some(uploaded.architecture));
    of.attached = sent::send(None, &attached).await?;
    let mut executors = executor_pods(&order.config, of, &names::root(app))?;
    executors.owner.api_version = "coordination.k8s.io/v1".to_owned();
    executors.owner.kind = "Lease".to_owned();
    match order.dry_run {
        Some(DryRun::Server) => {
            try_executor(&connect(&order.config).await?, &executors).await?;
            eprintln!("the API server would create it");
        }
        _ => line(&format!(
            "# The driver is this command's process. It makes a Lease, a Secret with keys, and executors like this one.\n{}",
            document(&executors.pod(1, &Default::default())).trim_end()
        )),
    }
    Ok(exit::DONE)
}

fn not_here() -> Usage {
    Usage(
        "run a program of the image here: its driver would be this command's process; add --deploy-mode cluster"
            .to_owned(),
    )
}

/// A name without a folder means a file of this folder, as it does with --deploy-mode cluster.
fn executable(path: &Path) -> Result<Command, anyhow::Error> {
    let path = std::path::absolute(path).with_context(|| format!("find {}", path.display()))?;
    Ok(Command::new(path))
}
