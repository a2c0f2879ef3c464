//! What lies on an executor's local disk, and who removes it?
//!
//! An executor makes one folder, at the first spill, beside a file that it keeps locked while it lives. The system frees
//! the lock however the process ends, so whoever finds a lock free may remove the folder. Spill files have no name at
//! all: the system frees them with their last handle.
//!
//! Whoever writes there takes room first. A task that finds none fails, and is tried elsewhere: a pod that fills its volume
//! would be evicted, with every task on it.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use model::{Failure, FailureKind};

/// What names of folders and their locks begin with.
const PREFIX: &str = "vonk-spill-";

/// What the name of a lock ends with.
const SUFFIX: &str = ".lock";

/// A new lock may be swept by another process before it is locked; so often another name is tried.
const LOCK_TRIES: u32 = 8;

/// The folder of one executor for what does not fit into memory. Cheap to clone; removed with the last clone.
#[derive(Clone)]
pub struct SpillDir {
    inner: Arc<Inner>,
}

struct Inner {
    base: PathBuf,
    room: Arc<Room>,
    made: Mutex<Option<Arc<Made>>>,
    ended: AtomicBool,
}

/// How many bytes may lie there, and how many do.
struct Room {
    most: u64,
    taken: AtomicU64,
}

struct Made {
    folder: PathBuf,
    lock: PathBuf,
    _held: File,
}

impl SpillDir {
    /// A folder below `base`, which is made when it is first needed, with room for so many bytes.
    pub(crate) fn new(base: PathBuf, most: u64) -> Self {
        let room = Arc::new(Room { most, taken: AtomicU64::new(0) });
        Self { inner: Arc::new(Inner { base, room, made: Mutex::default(), ended: AtomicBool::new(false) }) }
    }

    /// Takes room for bytes that are about to be written. Whoever takes it gives it back when they are gone.
    ///
    /// # Errors
    /// There is not so much: [`io::ErrorKind::StorageFull`].
    pub fn take(&self, bytes: u64) -> io::Result<()> {
        self.inner.room.take(bytes)
    }

    /// Gives back what was taken.
    pub fn give_back(&self, bytes: u64) {
        self.inner.room.give_back(bytes);
    }

    /// A new file. It goes when it and its readers are dropped, and when the process ends, however that ends.
    ///
    /// # Errors
    /// [`FailureKind::Disk`]: elsewhere.
    pub fn create(&self) -> Result<SpillFile, Failure> {
        let folder = self.path()?;
        let file = tempfile::tempfile_in(&folder).map_err(|error| self.failure("create a spill file", &error))?;
        Ok(SpillFile { file: Arc::new(Counted { file, length: AtomicU64::new(0), room: self.inner.room.clone() }) })
    }

    /// The folder, for parts that make files of their own in it. It exists.
    ///
    /// # Errors
    /// [`FailureKind::Disk`]: elsewhere.
    pub fn path(&self) -> Result<PathBuf, Failure> {
        // A panic while the lock is held leaves either nothing or a complete folder.
        let mut made = self.inner.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = &*made {
            return Ok(made.folder.clone());
        }
        if self.inner.ended.load(Ordering::Acquire) {
            return Err(self.failure("create a spill folder", &io::Error::other("the executor has ended")));
        }
        let new = make(&self.inner.base).map_err(|error| self.failure("create a spill folder", &error))?;
        let folder = new.folder.clone();
        *made = Some(Arc::new(new));
        Ok(folder)
    }

    /// The failure of a task that met an error on the local disk while it did `what`, such as `write spilled rows`.
    #[must_use]
    pub fn failure(&self, what: &str, error: &io::Error) -> Failure {
        let base = self.inner.base.display();
        let place = match free_space(&self.inner.base) {
            Some((free, size)) => format!("{what} on {base}, {} MiB free of {} MiB", free >> 20, size >> 20),
            None => format!("{what} on {base}"),
        };
        Failure::new(FailureKind::Disk, place).caused_by(error.to_string())
    }

    /// Removes the folder, whoever still holds it: the executor ends, and a task that cannot be stopped may go on.
    pub(crate) fn end(&self) {
        self.inner.ended.store(true, Ordering::Release);
        drop(self.inner.made.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Removes what dead processes left below the same base.
    pub(crate) fn sweep(&self) {
        match sweep(&self.inner.base) {
            Ok(0) => {}
            Ok(folders) => {
                tracing::info!(folders, base = %self.inner.base.display(), "removed left-over spill folders")
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, base = %self.inner.base.display(), "look for left-over spill folders"),
        }
    }
}

impl Room {
    fn take(&self, bytes: u64) -> io::Result<()> {
        let Self { most, taken } = self;
        let fits = |now: u64| now.checked_add(bytes).filter(|then| then <= most);
        match taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => Ok(()),
            Err(now) => Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!("{} MiB of the {} MiB that may be spilled are taken", now >> 20, most >> 20),
            )),
        }
    }

    fn give_back(&self, bytes: u64) {
        let before = self.taken.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "more is given back than was taken");
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next executor that starts here.
        let _ = fs::remove_dir_all(&self.folder);
        let _ = fs::remove_file(&self.lock);
    }
}

/// Free and total bytes of the volume that `base`, or what exists of it, lies on.
fn free_space(base: &Path) -> Option<(u64, u64)> {
    let volume = base.ancestors().find_map(|folder| rustix::fs::statvfs(folder).ok())?;
    Some((volume.f_bavail * volume.f_frsize, volume.f_blocks * volume.f_frsize))
}

fn make(base: &Path) -> io::Result<Made> {
    fs::create_dir_all(base)?;
    for _ in 0..LOCK_TRIES {
        let (file, lock) = tempfile::Builder::new().prefix(PREFIX).suffix(SUFFIX).tempfile_in(base)?.keep()?;
        if !hold(&file, &lock)? {
            continue;
        }
        let folder = folder_of(&lock);
        DirBuilder::new().mode(0o700).create(&folder)?;
        return Ok(Made { folder, lock, _held: file });
    }
    Err(io::Error::other("others take every lock"))
}

/// Locks a file unless somebody holds it, and says whether it is still the one of that name.
fn hold(file: &File, path: &Path) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(false),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    match fs::metadata(path) {
        Ok(named) => Ok(named.ino() == file.metadata()?.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn folder_of(lock: &Path) -> PathBuf {
    lock.with_extension("")
}

fn sweep(base: &Path) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(base)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if !(name.starts_with(PREFIX) && name.ends_with(SUFFIX)) {
            continue;
        }
        // Another's, or gone meanwhile: neither is ours to remove.
        let Ok(file) = File::options().write(true).open(&path) else { continue };
        if hold(&file, &path)? {
            let folder = folder_of(&path);
            if folder.exists() {
                fs::remove_dir_all(folder)?;
            }
            fs::remove_file(&path)?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// A file of spilled bytes: written once from its start, then read at any place by any number of readers. Unbuffered.
pub struct SpillFile {
    file: Arc<Counted>,
}

/// A file and the room that it takes.
struct Counted {
    file: File,
    length: AtomicU64,
    room: Arc<Room>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.room.give_back(*self.length.get_mut());
    }
}

impl SpillFile {
    /// How many bytes were written.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.file.length.load(Ordering::Relaxed)
    }

    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads `length` bytes from `offset` on, or as many as were written; the reader keeps the file alive.
    #[must_use]
    pub fn reader(&self, offset: u64, length: u64) -> SpillReader {
        let end = offset.saturating_add(length).min(self.len());
        SpillReader { file: self.file.clone(), at: offset, end }
    }
}

impl io::Write for SpillFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Counted { file, length, room } = &*self.file;
        let wanted = bytes.len() as u64;
        room.take(wanted)?;
        // Only this handle writes.
        let written = file.write_at(bytes, length.load(Ordering::Relaxed)).inspect_err(|_| room.give_back(wanted))?;
        room.give_back(wanted - written as u64);
        length.fetch_add(written as u64, Ordering::Relaxed);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a part of a spill file. Unbuffered.
pub struct SpillReader {
    file: Arc<Counted>,
    at: u64,
    end: u64,
}

impl io::Read for SpillReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        if wanted == 0 {
            return Ok(0);
        }
        let read = self.file.file.read_at(&mut buffer[..wanted], self.at)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn entries(base: &Path) -> usize {
        fs::read_dir(base).unwrap().count()
    }

    #[test]
    fn spilled_bytes_are_read_back_from_anywhere_and_leave_nothing() {
        let base = tempfile::tempdir().unwrap();
        let spill = SpillDir::new(base.path().join("deep/er"), u64::MAX);
        let mut file = spill.create().unwrap();
        file.write_all(b"hello ").unwrap();
        file.write_all(b"world").unwrap();
        let (mut a, mut b) = (file.reader(0, 5), file.reader(6, 1_000));
        drop(file);
        let (mut first, mut second) = (String::new(), String::new());
        b.read_to_string(&mut second).unwrap();
        a.read_to_string(&mut first).unwrap();
        assert_eq!((first.as_str(), second.as_str()), ("hello", "world"));
        assert_eq!(entries(&spill.path().unwrap()), 0, "a spill file has no name");
        drop(spill);
        assert_eq!(entries(&base.path().join("deep/er")), 0);
    }

    #[test]
    fn nothing_is_made_before_it_is_needed() {
        let base = tempfile::tempdir().unwrap();
        let _spill = SpillDir::new(base.path().join("later"), u64::MAX);
        assert_eq!(entries(base.path()), 0);
    }

    #[test]
    fn folders_of_the_dead_go_and_those_of_the_living_stay() {
        let base = tempfile::tempdir().unwrap();
        let living = SpillDir::new(base.path().to_owned(), u64::MAX);
        fs::write(living.path().unwrap().join("block"), b"needed").unwrap();
        // What a killed process leaves: a lock that nobody holds, and its folder.
        fs::write(base.path().join("vonk-spill-dead.lock"), b"").unwrap();
        fs::create_dir(base.path().join("vonk-spill-dead")).unwrap();
        fs::write(base.path().join("vonk-spill-dead/block"), b"left").unwrap();
        fs::write(base.path().join("somebody-elses"), b"kept").unwrap();
        assert_eq!(sweep(base.path()).unwrap(), 1);
        assert!(!base.path().join("vonk-spill-dead").exists());
        assert!(living.path().unwrap().join("block").exists());
        assert!(base.path().join("somebody-elses").exists());
        assert_eq!(sweep(base.path()).unwrap(), 0);
    }

    #[test]
    fn a_disk_that_refuses_is_a_disk_failure_that_says_where() {
        let base = tempfile::tempdir().unwrap();
        let file = base.path().join("no-folder");
        fs::write(&file, b"").unwrap();
        let failure = SpillDir::new(file.join("spill"), u64::MAX).create().err().unwrap();
        assert_eq!(failure.kind, FailureKind::Disk);
        assert!(failure.message.starts_with("create a spill folder on "), "{failure}");
        assert!(failure.message.contains("MiB free of"), "{failure}");
    }

    #[test]
    fn what_does_not_fit_into_the_room_is_refused_before_it_is_written() {
        let base = tempfile::tempdir().unwrap();
        let spill = SpillDir::new(base.path().to_owned(), 3 << 20);
        let (mut one, mut other) = (spill.create().unwrap(), spill.create().unwrap());
        one.write_all(&vec![1; 2 << 20]).unwrap();
        let error = other.write_all(&vec![1; 2 << 20]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(error.to_string(), "2 MiB of the 3 MiB that may be spilled are taken");
        assert!(other.is_empty());
        // A reader keeps the file, and the file its room.
        let reader = one.reader(0, 1);
        drop(one);
        assert!(other.write_all(&vec![1; 2 << 20]).is_err());
        drop(reader);
        other.write_all(&vec![1; 2 << 20]).unwrap();
    }
}
