//! How does a program reach a driver that is a pod?

use std::path::{Path, PathBuf};

use anyhow::Context;
use driver::Executable;
use k8s_backend::config as keys;

use super::Usage;
use super::store::Store;
use crate::config::Config;
use crate::kubernetes::{program, start};

/// A program that pods can fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Uploaded {
    /// Its SHA-256 in hex.
    pub(crate) hash: String,
    /// As Kubernetes calls it.
    pub(crate) architecture: String,
}

/// Checks that the image can run it, and puts it into the store unless it is there. Without a store, only the first.
///
/// # Errors
/// It cannot be read, no pod could run it, or the store fails.
pub(crate) async fn program(config: &Config, store: Option<&Store>, path: &Path) -> Result<Uploaded, anyhow::Error> {
    let values = config.values();
    let needs = program::needs(path)?;
    needs.suit(path, keys::IMAGE.value(values), start::glibc(values)?)?;
    let executable = Executable::at(path);
    let hash = tokio::task::spawn_blocking(move || executable.hash()).await.context("hash the program")??;
    if let Some(store) = store {
        program::upload(&store.objects, &store.root, path, &hash).await?;
    }
    Ok(Uploaded { hash, architecture: needs.architecture.to_owned() })
}

/// This program itself, which runs files with SQL.
///
/// # Errors
/// It has no SQL, or does not know where it is.
pub(crate) fn this() -> Result<PathBuf, anyhow::Error> {
    if !cfg!(feature = "sql") {
        return Err(Usage("run SQL: this build of vonk has none; build it with the feature sql".to_owned()).into());
    }
    std::env::current_exe().context("find this program")
}

/// With which code a command ends whose program cannot be sent.
pub(crate) fn exit_code(error: &program::Error) -> u8 {
    match error {
        program::Error::Store { .. } => model::exit::LOST,
        _ => model::exit::WRONG,
    }
}
