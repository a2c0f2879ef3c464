//! How does a test make a fault happen inside a running program, once, and see that it did?
//!
//! A test puts *token* files into a folder that all processes of a program know by [`FOLDER`]. A function of the program
//! that passes a [`point`] takes a token for it, if there is one, by renaming it: the file system picks one taker however
//! many processes ask. A token left over at the end means that the fault did not fire.

mod fault;
pub mod sqllogic;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub use fault::class;

/// The environment variable that names the folder of tokens.
pub const FOLDER: &str = "VONK_TEST_FAULTS";

/// The environment variable that names the cgroup in which [`Fault::Allocate`] allocates.
pub const CGROUP: &str = "VONK_TEST_CGROUP";

/// What happens to whoever takes a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL to this process.
    Kill,
    /// SIGKILL to every executor of the program.
    KillAll,
    /// SIGKILL to the driver.
    KillDriver,
    /// SIGSTOP to this process and SIGCONT after so many seconds.
    Pause(u32),
    /// The same to the driver.
    PauseDriver(u32),
    /// A panic.
    Panic,
    /// `abort()`.
    Abort,
    /// `exit(42)`.
    Exit,
    /// Endless recursion.
    Overflow,
    /// Allocation without end.
    Allocate,
}

impl Fault {
    fn name(self) -> String {
        match self {
            Self::Kill => "kill".into(),
            Self::KillAll => "kill-all".into(),
            Self::KillDriver => "kill-driver".into(),
            Self::Pause(seconds) => format!("pause-{seconds}"),
            Self::PauseDriver(seconds) => format!("pause-driver-{seconds}"),
            Self::Panic => "panic".into(),
            Self::Abort => "abort".into(),
            Self::Exit => "exit".into(),
            Self::Overflow => "overflow".into(),
            Self::Allocate => "allocate".into(),
        }
    }

    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "kill" => Self::Kill,
            "kill-all" => Self::KillAll,
            "kill-driver" => Self::KillDriver,
            "panic" => Self::Panic,
            "abort" => Self::Abort,
            "exit" => Self::Exit,
            "overflow" => Self::Overflow,
            "allocate" => Self::Allocate,
            other => match other.strip_prefix("pause-driver-") {
                Some(seconds) => Self::PauseDriver(seconds.parse().ok()?),
                None => Self::Pause(other.strip_prefix("pause-")?.parse().ok()?),
            },
        })
    }

    fn happen(self) {
        match self {
            Self::Kill => signal("KILL", std::process::id()),
            Self::KillAll => {
                let me = std::process::id();
                let executor = std::env::var_os("VONK_ROLE").is_some();
                let all = children_of(if executor { parent() } else { me });
                all.into_iter().filter(|pid| *pid != me).for_each(|pid| signal("KILL", pid));
                if executor {
                    signal("KILL", me);
                }
            }
            Self::KillDriver => signal("KILL", parent()),
            Self::Pause(seconds) => pause(std::process::id(), seconds),
            Self::PauseDriver(seconds) => pause(parent(), seconds),
            Self::Panic => panic!("the test wants a panic"),
            Self::Abort => std::process::abort(),
            Self::Exit => std::process::exit(42),
            Self::Overflow => {
                std::hint::black_box(overflow(std::hint::black_box(1)));
            }
            Self::Allocate => {
                // Into the cgroup whose limit is to end it; without one the whole machine would suffer.
                let cgroup = std::env::var_os(CGROUP).expect("the test names a cgroup");
                let procs = Path::new(&cgroup).join("cgroup.procs");
                fs::write(procs, std::process::id().to_string()).expect("the test may write the cgroup");
                // A process that moves between cgroups is looked after once a second: three looks, then it begins.
                let begin = std::time::Instant::now() + std::time::Duration::from_secs(3);
                while let Some(left) = begin.checked_duration_since(std::time::Instant::now()) {
                    std::thread::park_timeout(left);
                }
                allocate();
            }
        }
    }
}

#[expect(clippy::zombie_processes, reason = "it wakes whoever would wait for it, and the program ends soon after")]
fn pause(pid: u32, seconds: u32) {
    let script = format!("sleep {seconds}; kill -CONT {pid}");
    let waker = Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    waker.expect("sh is there");
    signal("STOP", pid);
}

#[expect(unconditional_recursion, reason = "it is to overflow the stack")]
fn overflow(n: u64) -> u64 {
    let page = std::hint::black_box([n; 512]);
    overflow(n + 1) + page[(n % 512) as usize]
}

fn allocate() {
    let mut held: Vec<Vec<u8>> = Vec::new();
    loop {
        held.push(vec![1; 16 << 20]);
        std::hint::black_box(&held);
    }
}

/// Passes the point `name`: takes a token that waits for it, if there is one, and lets its fault happen.
pub fn point(name: &str) {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let Ok(entries) = fs::read_dir(&folder) else { return };
    for entry in entries.flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        let Some(rest) = file.strip_prefix("token-") else { continue };
        let Some((at, what)) = rest.split_once('=') else { continue };
        let Some(fault) = what.split_once('#').map_or(Some(what), |(fault, _)| Some(fault)).and_then(Fault::parse)
        else {
            continue;
        };
        if at == name && fs::rename(entry.path(), folder.join(format!("spent-{rest}"))).is_ok() {
            mark(&folder.join("fired"), &format!("{rest} in {}\n", std::process::id()));
            fault.happen();
        }
    }
}

/// Appends a line to the file `name` of the fault folder: how a program tells its test what it did.
pub fn note(name: &str, line: &str) {
    if let Some(folder) = std::env::var_os(FOLDER) {
        mark(&Path::new(&folder).join(name), &format!("{line}\n"));
    }
}

/// One write of one line: the file system keeps lines of several processes whole.
fn mark(file: &Path, line: &str) {
    let opened = fs::OpenOptions::new().create(true).append(true).open(file);
    opened.and_then(|mut f| f.write_all(line.as_bytes())).expect("the fault folder is writable");
}

/// Tokens of one test.
#[derive(Debug)]
pub struct Tokens {
    folder: tempfile::TempDir,
}

impl Default for Tokens {
    fn default() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }
}

impl Tokens {
    /// The folder, for [`FOLDER`].
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Lets `fault` happen to the first `times` who pass `at`.
    #[must_use]
    pub fn with(self, at: &str, fault: Fault, times: u32) -> Self {
        for i in 0..times {
            let token = self.folder().join(format!("token-{at}={}#{i}", fault.name()));
            fs::write(token, []).expect("the fault folder is writable");
        }
        self
    }

    /// The lines that a program wrote with [`note`].
    #[must_use]
    pub fn notes(&self, name: &str) -> Vec<String> {
        fs::read_to_string(self.folder().join(name)).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// How often faults have fired.
    #[must_use]
    pub fn fired(&self) -> usize {
        self.notes("fired").len()
    }

    /// Tokens that nobody took.
    #[must_use]
    pub fn left(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder()).expect("the fault folder is readable");
        let names = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("token-")).collect()
    }
}

/// The children of a process, from `/proc`.
#[must_use]
pub fn children_of(pid: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|&child| parent_of(child) == Some(pid))
        .collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in brackets and may hold anything; state and parent follow the last bracket.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    (state != "Z").then(|| fields.next()?.parse().ok()).flatten()
}

fn parent() -> u32 {
    std::os::unix::process::parent_id()
}

/// Sends a signal, by the `kill` program: this crate has no unsafe code.
pub fn signal(name: &str, pid: u32) {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).stderr(Stdio::null()).status();
    sent.expect("the kill program is there");
}
