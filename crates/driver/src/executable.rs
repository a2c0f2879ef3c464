//! Which program is this, by content?

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use sha2::{Digest, Sha256};

use crate::error::Error;

/// The executable of this process, as the kernel holds it: the same bytes even after the file was replaced.
const THIS: &str = "/proc/self/exe";

/// An executable and, once somebody asked, its SHA-256. Cloning shares the answer.
#[derive(Debug, Clone)]
pub struct Executable {
    path: PathBuf,
    hash: Arc<OnceLock<String>>,
}

impl Executable {
    /// The executable of this process. Nothing is read yet.
    #[must_use]
    pub fn current() -> Self {
        Self::at(THIS)
    }

    /// The executable at this path. Nothing is read yet.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), hash: Arc::default() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The SHA-256 of its bytes, in lower-case hex. Reads the whole file the first time: tens of milliseconds, so call it
    /// from a thread that may block.
    ///
    /// # Errors
    /// [`Error::Executable`] if it cannot be read.
    pub fn hash(&self) -> Result<String, Error> {
        if let Some(known) = self.hash.get() {
            return Ok(known.clone());
        }
        let unreadable = |source| Error::Executable { path: self.path.display().to_string(), source };
        let mut file = std::fs::File::open(&self.path).map_err(unreadable)?;
        let mut hasher = Sha256::new();
        std::io::copy(&mut file, &mut hasher).map_err(unreadable)?;
        let hash = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        Ok(self.hash.get_or_init(|| hash).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_that_of_the_bytes_and_a_missing_file_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "abc").unwrap();
        let hash = Executable::at(file.path()).hash().unwrap();
        assert_eq!(hash, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let error = Executable::at("/nowhere/at/all").hash().unwrap_err();
        assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
    }

    #[test]
    fn this_process_has_an_executable() {
        assert_eq!(Executable::current().hash().unwrap().len(), 64);
    }
}
