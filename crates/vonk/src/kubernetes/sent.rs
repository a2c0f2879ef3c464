//! How do files that go along with a program get into pods?
//!
//! As the program does: by their content, through the store. Pods are told their hashes and names in one variable, and fetch them
//! before the program begins.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path as FilePath;
use std::sync::Arc;

use driver::Executable;
use object_store::ObjectStore;
use object_store::path::Path;

use super::program;
use crate::attached::{self, Attached, is_name, unpack};

/// What is in the variable for a file that is left as it is.
const FILE: &str = "file";

/// What is in the variable for one that is unpacked.
const ARCHIVE: &str = "archive";

/// Why files do not arrive.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] driver::Error),
    /// The store fails, or has another file.
    #[error(transparent)]
    Program(#[from] program::Error),
    /// It cannot be put where programs find it.
    #[error(transparent)]
    Place(#[from] attached::Error),
    /// What the pod is told is nothing that a submitter says.
    #[error("read which files go along: `{0}`")]
    Unreadable(String),
    /// Threads cannot be started.
    #[error("read the files that go along: the application's threads have ended")]
    Ended,
}

/// Puts files into the store, unless they are there; without a store, only looks at them. Gives what pods are told.
///
/// # Errors
/// One cannot be read, or the store fails.
pub(crate) async fn send(
    store: Option<(&Arc<dyn ObjectStore>, &Path)>,
    attached: &[Attached],
) -> Result<String, Error> {
    let mut told = Vec::new();
    for Attached { name, path, archive } in attached {
        let file = Executable::at(path);
        let hash = tokio::task::spawn_blocking(move || file.hash()).await.map_err(|_| Error::Ended)??;
        if let Some((store, root)) = store {
            program::upload(store, root, path, &hash).await?;
        }
        let kind = if *archive { ARCHIVE } else { FILE };
        told.push(format!("{kind}:{hash}#{name}"));
    }
    Ok(told.join(","))
}

/// Fetches what a pod is told into this folder.
///
/// # Errors
/// The store fails or has another file, or the folder cannot be written.
pub(crate) async fn fetch(
    store: &Arc<dyn ObjectStore>,
    root: &Path,
    told: &str,
    folder: &FilePath,
) -> Result<(), Error> {
    for entry in told.split(',').filter(|entry| !entry.is_empty()) {
        let unreadable = || Error::Unreadable(entry.to_owned());
        let (kind, rest) = entry.split_once(':').ok_or_else(unreadable)?;
        let (hash, name) = rest.split_once('#').filter(|(_, name)| is_name(name)).ok_or_else(unreadable)?;
        let failed = |source| attached::Error::Place { name: name.to_owned(), source };
        fs::create_dir_all(folder).map_err(failed)?;
        let to = folder.join(name);
        match kind {
            FILE => {
                program::fetch_to(store, root, hash, &to).await?;
                fs::set_permissions(&to, Permissions::from_mode(0o644)).map_err(failed)?;
            }
            ARCHIVE => {
                let packed = folder.join(format!(".{hash}"));
                program::fetch_to(store, root, hash, &packed).await?;
                unpack(name, &packed, &to)?;
                fs::remove_file(&packed).map_err(failed)?;
            }
            _ => return Err(unreadable()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn files_arrive_under_their_names_and_archives_as_folders() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let (root, here) = (Path::from("root"), tempfile::tempdir().unwrap());
        let (file, archive) = (here.path().join("a"), here.path().join("b.tar"));
        fs::write(&file, "outer").unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        tar.append_path_with_name(&file, "in/a").unwrap();
        fs::write(&archive, tar.into_inner().unwrap()).unwrap();
        let attached = [
            Attached { name: "one".into(), path: file, archive: false },
            Attached { name: "two".into(), path: archive, archive: true },
        ];
        let told = send(Some((&store, &root)), &attached).await.unwrap();
        assert_eq!(send(None, &attached).await.unwrap(), told);
        let folder = here.path().join("files");
        fetch(&store, &root, &told, &folder).await.unwrap();
        assert_eq!(fs::read_to_string(folder.join("one")).unwrap(), "outer");
        assert_eq!(fs::metadata(folder.join("one")).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_to_string(folder.join("two/in/a")).unwrap(), "outer");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2, "nothing packed is left");
        let hash = told.split(['#', ':']).nth(1).unwrap();
        for wrong in [format!("file:{hash}#../x"), format!("folder:{hash}#x"), "x".to_owned()] {
            assert!(matches!(fetch(&store, &root, &wrong, &folder).await, Err(Error::Unreadable(_))), "{wrong}");
        }
        let missing = format!("file:{}#x", "0".repeat(64));
        assert!(matches!(fetch(&store, &root, &missing, &folder).await, Err(Error::Program(_))));
    }
}
