//! Where on this machine do files go that nobody asked for by name?
//!
//! Below one folder of the user's: `store` for local clusters, swept by leases like every store, and a folder per process
//! for what only that process reads, removed when it ends or, if it was killed, by a later one.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Why there is no folder.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be made.
    #[error("make folder {}", path.display())]
    Make {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is there, and somebody else could have made it.
    #[error("use folder {}: it is not a folder that only you can write; remove it, or set executor.disk", .0.display())]
    NotOurs(PathBuf),
}

/// The user's folder below `base`, made if need be: nobody else may write to it.
///
/// # Errors
/// It cannot be made, or is not the user's.
pub(crate) fn folder(base: &Path) -> Result<PathBuf, Error> {
    let user = fs::metadata("/proc/self").map_or(0, |m| m.uid());
    let path = base.join(format!("vonk-{user}"));
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
    made.map_err(|source| Error::Make { path: path.clone(), source })?;
    let found = fs::symlink_metadata(&path).map_err(|source| Error::Make { path: path.clone(), source })?;
    if !found.is_dir() || found.uid() != user || found.permissions().mode() & 0o022 != 0 {
        return Err(Error::NotOurs(path));
    }
    Ok(path)
}

/// A folder of this process, removed when dropped.
#[derive(Debug)]
pub(crate) struct Own(PathBuf);

impl Own {
    /// Makes it, and removes those of processes that are gone.
    pub(crate) fn make(folder: &Path) -> Result<Self, Error> {
        sweep(folder);
        let pid = std::process::id();
        let path = folder.join(format!("process-{pid}-{}", started(pid).unwrap_or(0)));
        fs::create_dir_all(&path).map_err(|source| Error::Make { path: path.clone(), source })?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // What stays is swept by the next process.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Removes the folders of processes that are gone.
fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| {
            let (pid, start) = name.strip_prefix("process-")?.split_once('-')?;
            Some((pid.parse().ok()?, start.parse().ok()?))
        });
        if let Some((pid, start)) = owner
            && started(pid) != Some(start)
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// When a process started, in clock ticks since boot: with its number, its identity. `None` if it is gone.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in brackets and may hold anything; the start is the 22nd field, the name the second.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_a_dead_process_goes_and_of_a_living_one_stays() {
        let base = tempfile::tempdir().unwrap();
        let mine = folder(base.path()).unwrap();
        let dead = mine.join("process-4194304999-17");
        let reused = mine.join("process-1-1");
        let other = mine.join("store");
        [&dead, &reused, &other].iter().for_each(|p| fs::create_dir(p).unwrap());
        let own = Own::make(&mine).unwrap();
        sweep(&mine);
        assert_eq!((dead.exists(), reused.exists(), other.exists(), own.path().exists()), (false, false, true, true));
        let path = own.path().to_owned();
        drop(own);
        assert!(!path.exists());
    }

    #[test]
    fn a_folder_that_others_may_write_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let path = folder(base.path()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(folder(base.path()), Err(Error::NotOurs(_))));
    }
}
