//! Where do operators put what does not fit into memory?
//!
//! Into a folder that is made when the first of them needs one: most queries never do.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::common::Result;
use datafusion::execution::disk_manager::{DiskManager, DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::{SpillFile, TempFileFactory};
use model::Failure;

use crate::error;

/// Local disk of an executor.
pub trait SpillSpace: Send + Sync {
    /// A folder for spilled rows; it is there.
    ///
    /// # Errors
    /// The disk is full or fails.
    fn folder(&self) -> Result<PathBuf, Failure>;
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
                let made = Arc::new(DiskManagerBuilder::default().with_mode(mode).build()?);
                Arc::clone(disk.insert(made))
            }
        };
        disk.create_tmp_file(what)
    }
}
