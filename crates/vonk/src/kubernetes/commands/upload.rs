//! How does a program reach a driver that is a pod?

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::Context;
use driver::Executable;
use object_store::ObjectStoreExt;

use super::Usage;
use super::store::Store;
use super::submit::Program;
use crate::config::Config;
use crate::kubernetes::program;

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
    program::Image::read(values)?.suits(path, &needs)?;
    let executable = Executable::at(path);
    let hash = tokio::task::spawn_blocking(move || executable.hash()).await.context("hash the program")??;
    if let Some(store) = store {
        program::upload(&store.objects, &store.root, path, &hash).await?;
    }
    Ok(Uploaded { hash, architecture: needs.architecture.to_owned() })
}

/// Brings a program of a store into this process's memory, and names it there. What is given back keeps it.
///
/// # Errors
/// The store has no such object, or fails.
pub(crate) async fn bring_here(program: &mut Program) -> Result<Option<File>, anyhow::Error> {
    let Program::Stored { url, sql, .. } = &*program else { return Ok(None) };
    let (store, key) = shuffle::store::open(url).context(Usage(format!("run {url}")))?;
    let failed = |source| {
        let error = program::Error::Store { what: "fetch the program", key: key.clone(), source };
        anyhow::Error::new(error).context(format!("run {url}"))
    };
    let bytes = store.get(&key).await.map_err(failed)?.bytes().await.map_err(failed)?;
    let memory = || anyhow::Error::msg(format!("keep {url} in memory"));
    let file = rustix::fs::memfd_create("program", rustix::fs::MemfdFlags::empty());
    let mut file = File::from(file.with_context(memory)?);
    file.write_all(&bytes).and_then(|()| file.rewind()).with_context(memory)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    *program = if *sql { Program::Sql(path) } else { Program::Executable(path) };
    Ok(Some(file))
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
        error if error.is_denied() => model::exit::REFUSED,
        program::Error::Store { source: object_store::Error::NotFound { .. }, .. } => model::exit::WRONG,
        program::Error::Store { .. } => model::exit::LOST,
        _ => model::exit::WRONG,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_of_a_store_is_brought_here() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.sql"), "SELECT 1").unwrap();
        let url = |name: &str| format!("file://{}/{name}", folder.path().display());
        let stored = |name: &str| Program::Stored { url: url(name), name: name.into(), sql: true };
        let mut program = stored("a.sql");
        let held = bring_here(&mut program).await.unwrap();
        let Program::Sql(path) = &program else { panic!("{program:?}") };
        assert_eq!(std::fs::read_to_string(path).unwrap(), "SELECT 1");
        assert!(held.is_some() && bring_here(&mut program).await.unwrap().is_none(), "it is here");
        let error = bring_here(&mut stored("b.sql")).await.unwrap_err();
        assert_eq!(super::super::code_of(&error), model::exit::WRONG);
    }
}
