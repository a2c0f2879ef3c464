//! Where does what a cluster is made of lie?

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::machine;
use crate::workspace::cache;

/// Held by whoever changes the cluster or its programs, for as long as this lives.
///
/// # Cancellation
/// The kernel lets go of it when the process ends, however that is.
pub(crate) fn alone() -> Result<fs::File> {
    let cache = cache()?;
    fs::create_dir_all(&cache).with_context(|| format!("make {}", cache.display()))?;
    let file = cache.join("cluster.lock");
    let lock = fs::File::options().create(true).append(true).open(&file);
    let lock = lock.with_context(|| format!("open {}", file.display()))?;
    // It may have been made by root just now, and the user comes back without `sudo`.
    machine::give_to_user(&file)?;
    if lock.try_lock().is_err() {
        eprintln!("waiting for another `cargo xtask cluster` to end");
        lock.lock().with_context(|| format!("lock {}", file.display()))?;
    }
    Ok(lock)
}

/// The folder of the cluster, `$VONK_CACHE/cluster`: there is one per cache. Its path is written out, since processes and
/// mounts are recognised by it.
#[derive(Debug)]
pub(crate) struct State {
    folder: PathBuf,
}

impl State {
    /// Names the folder; it need not exist.
    pub(crate) fn find() -> Result<Self> {
        let cache = cache()?;
        fs::create_dir_all(&cache).with_context(|| format!("make {}", cache.display()))?;
        let cache = fs::canonicalize(&cache).with_context(|| format!("find {}", cache.display()))?;
        Ok(Self { folder: cache.join("cluster") })
    }

    #[cfg(test)]
    pub(crate) fn at(folder: &str) -> Self {
        Self { folder: folder.into() }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A path in it.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.join(name)
    }

    /// What `KUBECONFIG` should say to be allowed everything.
    pub(crate) fn admin(&self) -> PathBuf {
        self.path("admin.conf")
    }

    /// What a process of this name prints.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.path("log").join(format!("{name}.log"))
    }

    /// A certificate, by the name of whose it is.
    pub(crate) fn certificate(&self, name: &str) -> PathBuf {
        self.path("pki").join(format!("{name}.crt"))
    }

    /// The key that belongs to a certificate.
    pub(crate) fn key(&self, name: &str) -> PathBuf {
        self.path("pki").join(format!("{name}.key"))
    }

    /// The kubeconfig of a part of the cluster.
    pub(crate) fn kubeconfig(&self, name: &str) -> PathBuf {
        self.path("pki").join(format!("{name}.conf"))
    }

    /// Written when everything answers: how many nodes there are.
    pub(crate) fn is_up(&self) -> PathBuf {
        self.path("up.json")
    }
}
