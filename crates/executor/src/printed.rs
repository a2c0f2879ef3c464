//! What has a process printed last?
//!
//! Whoever starts a process holds the pipes that are its stdout and stderr, passes on what comes, and keeps the end of it in
//! a file that exists in memory alone: [`Printed`]. The starter does this and not the process, because what a process prints
//! just before it crashes is still in the pipe then, and arrives. The process inherits the file and can read its own last
//! lines there: [`Own`].

use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use model::failure::{LAST_BYTES, last_lines};
use rustix::fs::{MemfdFlags, memfd_create};
use tokio::net::unix::pipe::Receiver;

/// How much of what an executor prints is kept.
pub const OF_EXECUTOR: usize = 1 << 20;

/// How much of what a driver prints is kept.
pub const OF_DRIVER: usize = 8 << 20;

/// The file begins with the number of bytes that were printed so far; then follows a ring of the last of them.
const HEADER: u64 = 8;

/// How much is taken from a pipe at a time: as much as a pipe holds.
const AT_ONCE: usize = 64 << 10;

/// A line that is longer is kept in pieces, between which lines of the other pipe may come.
const LINE_MAX: usize = 64 << 10;

/// A process that reads its own lines holds the lock for a few microseconds, unless it is stopped just then.
const LOCK_TRIES: u32 = 1_000;

/// What was printed a moment ago has been passed on after so many milliseconds, unless nobody takes it.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// So many times stderr waits a millisecond while stdout has something: it is emptied meanwhile, unless more and more comes.
const STDOUT_FIRST: u32 = 50;

/// The end of what a process prints, kept by whoever started it.
#[derive(Debug)]
pub struct Printed {
    file: File,
    ring: u64,
    /// Bytes printed so far.
    total: Mutex<u64>,
    /// The pipe that is stdout, while it is passed on.
    stdout: Mutex<Option<OwnedFd>>,
}

/// Which of a process's pipes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pipe {
    /// Its stdout.
    Stdout,
    /// Its stderr. What stdout has goes first: who crashes says last, and here, why.
    Stderr,
}

impl Printed {
    /// Nothing yet. Keeps so many bytes.
    ///
    /// # Errors
    /// The system has no memory for it.
    pub fn new(bytes: usize) -> io::Result<Self> {
        // Inherited by what this process starts, on purpose: the one for which it is made must find it. Others do no harm.
        let file = File::from(memfd_create("printed", MemfdFlags::empty())?);
        let ring = bytes.max(1) as u64;
        file.set_len(HEADER + ring)?;
        Ok(Self { file, ring, total: Mutex::default(), stdout: Mutex::default() })
    }

    /// Where a process that this one starts finds it: for [`Own::open`].
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    /// What is kept, from the beginning of a line on.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn kept(&self) -> io::Result<Vec<u8>> {
        let _total = self.total.lock().unwrap_or_else(PoisonError::into_inner);
        end_of(&self.file, self.ring, self.ring)
    }

    /// So many bytes were printed so far.
    #[must_use]
    pub fn total(&self) -> u64 {
        *self.total.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last lines.
    #[must_use]
    pub fn last_lines(&self) -> Vec<String> {
        let _total = self.total.lock().unwrap_or_else(PoisonError::into_inner);
        end_of(&self.file, self.ring, LAST_BYTES as u64).map_or_else(|_| Vec::new(), |end| last_lines(&end))
    }

    /// Adds what was printed.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add(&self, bytes: &[u8]) -> io::Result<()> {
        let mut total = self.total.lock().unwrap_or_else(PoisonError::into_inner);
        self.append(&mut total, bytes)
    }

    fn append(&self, total: &mut u64, bytes: &[u8]) -> io::Result<()> {
        let skipped = bytes.len().saturating_sub(usize::try_from(self.ring).unwrap_or(usize::MAX));
        *total += skipped as u64;
        let mut rest = &bytes[skipped..];
        while !rest.is_empty() {
            let at = *total % self.ring;
            let fits = usize::try_from(self.ring - at).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at(fits);
            self.file.write_all_at(now, HEADER + at)?;
            *total += now.len() as u64;
            rest = later;
        }
        self.file.write_all_at(&total.to_le_bytes(), 0)
    }

    /// Takes what a pipe has, and keeps whole lines: what has no end yet waits in `line`, since the other pipe has lines, too.
    /// To the process, a whole line is in the pipe or in the file, and never in neither.
    fn take(&self, from: &Receiver, buffer: &mut [u8], line: &mut Vec<u8>) -> io::Result<usize> {
        let mut total = self.total.lock().unwrap_or_else(PoisonError::into_inner);
        let locked = self.lock();
        let taken = from.try_read(buffer);
        if let Ok(bytes) = taken {
            let new = &buffer[..bytes];
            let whole = match new.iter().rposition(|&byte| byte == b'\n') {
                Some(end) => end + 1,
                // There is no more, or too much to wait for the rest.
                None if bytes == 0 || line.len() + bytes > LINE_MAX => bytes,
                None => 0,
            };
            let (now, later) = new.split_at(whole);
            if whole > 0 || bytes == 0 {
                line.extend_from_slice(now);
                if bytes == 0 && !line.is_empty() {
                    line.push(b'\n');
                }
                // What cannot be kept is passed on all the same.
                let _ = self.append(&mut total, line);
                line.clear();
            }
            line.extend_from_slice(later);
        }
        if locked {
            let _ = self.file.unlock();
        }
        taken
    }

    /// Whether stdout has something that was not taken yet.
    fn stdout_waits(&self) -> bool {
        let stdout = self.stdout.lock().unwrap_or_else(PoisonError::into_inner);
        stdout.as_ref().is_some_and(|pipe| rustix::io::ioctl_fionread(pipe).unwrap_or(0) > 0)
    }

    fn set_stdout(&self, pipe: Option<OwnedFd>) {
        *self.stdout.lock().unwrap_or_else(PoisonError::into_inner) = pipe;
    }

    /// A stopped process that holds the lock must stop nobody else, so it is done without after a while.
    fn lock(&self) -> bool {
        for _ in 0..LOCK_TRIES {
            match self.file.try_lock() {
                Ok(()) => return true,
                Err(TryLockError::WouldBlock) => std::thread::yield_now(),
                Err(TryLockError::Error(_)) => return false,
            }
        }
        false
    }
}

/// Passes on what comes from a pipe until its other end is closed everywhere, and keeps the end of it.
///
/// # Errors
/// What was given is no pipe, or it cannot be read.
///
/// # Cancellation
/// What was taken was passed on.
pub async fn pass_on(pipe: OwnedFd, which: Pipe, printed: &Printed, mut to: impl FnMut(&[u8])) -> io::Result<()> {
    let _known = match which {
        Pipe::Stdout => {
            printed.set_stdout(Some(pipe.try_clone()?));
            Some(Known(printed))
        }
        Pipe::Stderr => None,
    };
    let from = Receiver::from_owned_fd(pipe)?;
    let (mut buffer, mut line) = (vec![0; AT_ONCE], Vec::new());
    loop {
        from.readable().await?;
        for _ in 0..STDOUT_FIRST {
            if which == Pipe::Stdout || !printed.stdout_waits() {
                break;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        match printed.take(&from, &mut buffer, &mut line) {
            Ok(0) => return Ok(()),
            Ok(bytes) => to(&buffer[..bytes]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Stdout is known as long as this is there: a pipe that nobody reads must break.
struct Known<'a>(&'a Printed);

impl Drop for Known<'_> {
    fn drop(&mut self) {
        self.0.set_stdout(None);
    }
}

/// What this process has printed, as whoever started it keeps it.
#[derive(Debug)]
pub struct Own {
    file: File,
    ring: u64,
}

impl Own {
    /// Opens what [`Printed::path`] named.
    ///
    /// # Errors
    /// It is not there: the process was not started by somebody who keeps it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let ring = file.metadata()?.len().checked_sub(HEADER).filter(|ring| *ring > 0);
        Ok(Self { file, ring: ring.ok_or_else(|| io::Error::other("it is too short"))? })
    }

    /// The last lines, with all that was printed before the call; what nobody has taken from the pipes after `patience` is
    /// missing. Blocks as long.
    #[must_use]
    pub fn last_lines(&self, patience: Duration) -> Vec<String> {
        let until = Instant::now() + patience;
        loop {
            let locked = self.file.try_lock().is_ok();
            let late = Instant::now() >= until;
            if (locked && nothing_is_on_its_way()) || late {
                let end = end_of(&self.file, self.ring, LAST_BYTES as u64);
                if locked {
                    let _ = self.file.unlock();
                }
                return end.map_or_else(|_| Vec::new(), |end| last_lines(&end));
            }
            if locked {
                let _ = self.file.unlock();
            }
            std::thread::park_timeout(LOOK_AGAIN);
        }
    }
}

/// Whether all that this process has printed was taken from its pipes. What is no pipe has nothing on its way.
fn nothing_is_on_its_way() -> bool {
    let empty = |waiting: rustix::io::Result<u64>| waiting.unwrap_or(0) == 0;
    empty(rustix::io::ioctl_fionread(io::stdout())) && empty(rustix::io::ioctl_fionread(io::stderr()))
}

/// At most so many bytes of the end; without the rest of a line whose beginning is gone.
fn end_of(file: &File, ring: u64, most: u64) -> io::Result<Vec<u8>> {
    let mut total = [0; HEADER as usize];
    file.read_exact_at(&mut total, 0)?;
    let total = u64::from_le_bytes(total);
    let length = total.min(ring).min(most);
    let mut end = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    let begin = (total - length) % ring;
    let before_wrap = usize::try_from((ring - begin).min(length)).map_err(io::Error::other)?;
    let (first, second) = end.split_at_mut(before_wrap);
    file.read_exact_at(first, HEADER + begin)?;
    file.read_exact_at(second, HEADER)?;
    if length < total
        && let Some(line_end) = end.iter().position(|&byte| byte == b'\n')
    {
        end.drain(..=line_end);
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_end_is_kept_from_a_lines_beginning() {
        let printed = Printed::new(16).unwrap();
        assert_eq!(printed.kept().unwrap(), b"");
        printed.add(b"one\ntwo\n").unwrap();
        assert_eq!(printed.kept().unwrap(), b"one\ntwo\n");
        printed.add(b"three\nfour\n").unwrap();
        assert_eq!(printed.kept().unwrap(), b"two\nthree\nfour\n");
        printed.add(b"a line that is longer than all that is kept\nx").unwrap();
        assert_eq!(printed.kept().unwrap(), b"x");
        printed.add(&[b'y'; 40]).unwrap();
        assert_eq!(printed.kept().unwrap(), [b'y'; 16], "the end of one long line is better than nothing");
        assert_eq!(printed.last_lines(), ["y".repeat(16)]);
    }

    #[test]
    fn another_process_reads_the_same_file() {
        let printed = Printed::new(OF_EXECUTOR).unwrap();
        printed.add(b"one\ntwo\n").unwrap();
        let own = Own::open(&printed.path()).unwrap();
        // The pipes of a test are the runner's, and somebody else prints into them.
        assert_eq!(own.last_lines(Duration::ZERO), ["one", "two"]);
        let length = Command::new("stat").args(["-L", "-c", "%s"]).arg(printed.path()).output().unwrap();
        assert_eq!(String::from_utf8(length.stdout).unwrap().trim(), (OF_EXECUTOR + 8).to_string(), "it is inherited");
    }

    #[tokio::test]
    async fn everything_is_passed_on_in_order_although_little_is_kept() {
        let printed = Printed::new(1_000).unwrap();
        let script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; echo last; kill -ABRT $$";
        let mut child = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut heard = Vec::new();
        pass_on(child.stdout.take().unwrap().into(), Pipe::Stdout, &printed, |bytes| heard.write_all(bytes).unwrap())
            .await
            .unwrap();
        assert!(!child.wait().unwrap().success());
        let wanted: String = (0..20_000).map(|i| format!("line {i}\n")).chain(["last\n".to_owned()]).collect();
        assert!(heard == wanted.as_bytes(), "{} of {} bytes", heard.len(), wanted.len());
        let kept = String::from_utf8(printed.kept().unwrap()).unwrap();
        assert!(wanted.ends_with(&kept) && kept.starts_with("line ") && kept.len() > 900, "{kept}");
        assert_eq!(printed.last_lines().last().map(String::as_str), Some("last"));
        assert_eq!(printed.last_lines().len(), 50);
    }

    #[tokio::test]
    async fn lines_of_two_pipes_are_not_torn() {
        let printed = Printed::new(OF_EXECUTOR).unwrap();
        let (out, err) = ((0..200).map(|i| format!("out {i}")), (0..200).map(|i| format!("err {i}")));
        // The shell writes each word by itself.
        let script = "i=0; while [ $i -lt 200 ]; do printf err >&2; printf 'out %d\\n' $i; printf ' %d\\n' $i >&2; i=$((i+1)); done; printf end";
        let mut child =
            Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (one, other) = (child.stdout.take().unwrap().into(), child.stderr.take().unwrap().into());
        let (one, other) =
            tokio::join!(pass_on(one, Pipe::Stdout, &printed, |_| ()), pass_on(other, Pipe::Stderr, &printed, |_| ()));
        one.and(other).unwrap();
        child.wait().unwrap();
        let kept = String::from_utf8(printed.kept().unwrap()).unwrap();
        let of =
            |begins: &str| kept.lines().filter(|line| line.starts_with(begins)).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(of("out"), out.collect::<Vec<_>>());
        assert_eq!(of("err"), err.collect::<Vec<_>>());
        assert!(kept.lines().any(|line| line == "end") && kept.lines().count() == 401, "{kept}");
    }

    #[tokio::test]
    async fn last_words_on_stderr_are_last() {
        let printed = Printed::new(OF_EXECUTOR).unwrap();
        let script = "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; echo overflow >&2";
        let mut child =
            Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // All of it fits into the pipes.
        child.wait().unwrap();
        let (out, err) = (child.stdout.take().unwrap().into(), child.stderr.take().unwrap().into());
        let (err, out) =
            tokio::join!(pass_on(err, Pipe::Stderr, &printed, |_| ()), pass_on(out, Pipe::Stdout, &printed, |_| ()));
        err.and(out).unwrap();
        let last = printed.last_lines();
        assert_eq!(last[48..], ["line 1999", "overflow"], "{last:?}");
        assert!(printed.stdout.lock().unwrap().is_none());
    }

    #[tokio::test]
    async fn a_stopped_reader_of_its_own_lines_holds_nobody_up() {
        let printed = Printed::new(1_000).unwrap();
        let own = Own::open(&printed.path()).unwrap();
        own.file.lock().unwrap();
        let mut child = Command::new("echo").arg("x").stdout(Stdio::piped()).spawn().unwrap();
        let mut heard = Vec::new();
        pass_on(child.stdout.take().unwrap().into(), Pipe::Stdout, &printed, |bytes| heard.extend_from_slice(bytes))
            .await
            .unwrap();
        child.wait().unwrap();
        assert_eq!((heard, printed.last_lines()), (b"x\n".to_vec(), vec!["x".to_owned()]));
    }
}
