//! What lies on an executor's local disk, and who removes it?

use std::io;
use std::path::Path;

use model::{Failure, FailureKind};

/// The folder of one executor for what does not fit into memory. Cheap to clone.
#[derive(Clone)]
pub struct SpillDir {}

impl SpillDir {
    /// A new file. It goes when it is dropped, and when the process ends, however that ends.
    ///
    /// # Errors
    /// [`FailureKind::Disk`]: elsewhere.
    pub fn create(&self) -> Result<SpillFile, Failure> {
        Err(Failure::new(FailureKind::Disk, "create a spill file"))
    }

    /// The folder, for parts that make files of their own in it.
    ///
    /// # Errors
    /// [`FailureKind::Disk`]: elsewhere.
    pub fn path(&self) -> Result<&Path, Failure> {
        Err(Failure::new(FailureKind::Disk, "create a spill folder"))
    }

    /// The failure of a task that met this error on the local disk.
    #[must_use]
    pub fn failure(&self, error: &io::Error) -> Failure {
        Failure::from_error(FailureKind::Disk, error)
    }
}

/// A file of spilled bytes: written once from its start, then read at any place by any number of readers.
pub struct SpillFile {}

impl SpillFile {
    /// How many bytes were written.
    #[must_use]
    pub fn len(&self) -> u64 {
        0
    }

    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads `length` bytes from `offset` on; readers keep the file.
    #[must_use]
    pub fn reader(&self, offset: u64, length: u64) -> SpillReader {
        let _ = (offset, length);
        SpillReader {}
    }
}

impl io::Write for SpillFile {
    fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a part of a spill file. Unbuffered.
pub struct SpillReader {}

impl io::Read for SpillReader {
    fn read(&mut self, _buffer: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
