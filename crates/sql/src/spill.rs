//! Where do operators put what does not fit into memory?
//!
//! Into a folder that is made when the first of them needs one: most queries never do. What they write is counted there, where
//! all tasks of an executor are counted together: a disk manager has a limit too, and knows one stage alone.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use datafusion::common::Result;
use datafusion::execution::disk_manager::{DiskManager, DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::{SpillFile, SpillWriter, TempFileFactory};
use futures::Stream;
use model::Failure;

use crate::error;

/// Local disk of an executor.
pub trait SpillSpace: Send + Sync {
    /// A folder for spilled rows; it is there.
    ///
    /// # Errors
    /// The disk is full or fails.
    fn folder(&self) -> Result<PathBuf, Failure>;

    /// Takes room for bytes that are about to be written. Unless limited, there is always some.
    ///
    /// # Errors
    /// There is not so much.
    fn take(&self, bytes: u64) -> Result<(), Failure> {
        let _ = bytes;
        Ok(())
    }

    /// Gives back what was taken, once the bytes are gone.
    fn give_back(&self, bytes: u64) {
        let _ = bytes;
    }
}

/// The folder of a process, given.
pub(crate) struct Folder(pub(crate) PathBuf);

impl SpillSpace for Folder {
    fn folder(&self) -> Result<PathBuf, Failure> {
        Ok(self.0.clone())
    }
}

/// Makes files in a space.
pub(crate) struct Files {
    space: Arc<dyn SpillSpace>,
    disk: Mutex<Option<Arc<DiskManager>>>,
}

/// A disk manager's builder over a space.
pub(crate) fn disk(space: Arc<dyn SpillSpace>) -> DiskManagerBuilder {
    let files = Files { space, disk: Mutex::default() };
    DiskManagerBuilder::default().with_mode(DiskManagerMode::Custom(Arc::new(files)))
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Files")
    }
}

impl TempFileFactory for Files {
    fn create_temp_file(&self, what: &str) -> Result<Arc<dyn SpillFile>> {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        let disk = match &*disk {
            Some(disk) => Arc::clone(disk),
            None => {
                let folder = self.space.folder().map_err(error::wrap)?;
                let mode = DiskManagerMode::Directories(vec![folder]);
                let made = DiskManagerBuilder::default().with_mode(mode).with_max_temp_directory_size(u64::MAX);
                Arc::clone(disk.insert(Arc::new(made.build()?)))
            }
        };
        let file = disk.create_tmp_file(what)?;
        Ok(Arc::new(Counted {
            file,
            room: Arc::new(Room { space: Arc::clone(&self.space), taken: AtomicU64::new(0) }),
        }))
    }
}

/// A file whose bytes are counted.
struct Counted {
    // Before its room: the bytes are gone first.
    file: Arc<dyn SpillFile>,
    room: Arc<Room>,
}

/// The room that a file takes, given back with the last that may write to it.
struct Room {
    space: Arc<dyn SpillSpace>,
    taken: AtomicU64,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.space.give_back(*self.taken.get_mut());
    }
}

impl SpillFile for Counted {
    fn path(&self) -> Option<&Path> {
        self.file.path()
    }

    fn size(&self) -> Option<u64> {
        self.file.size()
    }

    fn read_stream(&self) -> Result<Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>> {
        self.file.read_stream()
    }

    fn open_writer(&self) -> Result<Box<dyn SpillWriter>> {
        Ok(Box::new(Counting { to: self.file.open_writer()?, room: Arc::clone(&self.room) }))
    }
}

/// Writes what there is room for.
struct Counting {
    to: Box<dyn SpillWriter>,
    room: Arc<Room>,
}

impl Write for Counting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The failure is found again inside: an error of the disk, wherever it is met.
        self.room.space.take(bytes.len() as u64).map_err(io::Error::other)?;
        self.room.taken.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.to.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

impl SpillWriter for Counting {
    fn finish(&mut self) -> Result<()> {
        self.to.finish()
    }
}

#[cfg(test)]
mod tests {
    use model::FailureKind;

    use super::*;

    /// Room for ten bytes.
    struct Ten(tempfile::TempDir, AtomicU64);

    impl SpillSpace for Ten {
        fn folder(&self) -> Result<PathBuf, Failure> {
            Ok(self.0.path().to_owned())
        }

        fn take(&self, bytes: u64) -> Result<(), Failure> {
            match self.1.fetch_add(bytes, Ordering::Relaxed) + bytes {
                ..=10 => Ok(()),
                _ => {
                    self.give_back(bytes);
                    Err(Failure::new(FailureKind::Disk, "spill rows"))
                }
            }
        }

        fn give_back(&self, bytes: u64) {
            self.1.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    #[test]
    fn all_files_of_a_space_share_its_room_and_what_they_refuse_is_the_disks() {
        let space = Arc::new(Ten(tempfile::tempdir().unwrap(), AtomicU64::new(0)));
        let manager = |space: &Arc<Ten>| Arc::new(disk(Arc::clone(space) as Arc<dyn SpillSpace>).build().unwrap());
        let (one, other) = (manager(&space), manager(&space));
        let (first, second) = (one.create_tmp_file("sort").unwrap(), other.create_tmp_file("join").unwrap());
        first.open_writer().unwrap().write_all(b"sixsix").unwrap();
        let refused = second.open_writer().unwrap().write_all(b"sixsix").unwrap_err();
        let failure = error::failure("sort rows", &refused.into());
        assert_eq!(failure.kind, FailureKind::Disk, "{failure}");
        drop(first);
        second.open_writer().unwrap().write_all(b"sixsix").unwrap();
        drop(second);
        assert_eq!(space.1.load(Ordering::Relaxed), 0);
    }
}
