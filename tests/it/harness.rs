//! How does a test run a program, and see what it left?

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use vonk_tests::{FOLDER, Tokens, children_of, signal};

/// No run takes longer, faults and all: whatever does hangs.
const HANGS_AFTER: Duration = Duration::from_secs(100);

/// Deadlines short enough for a test to wait for them, and long enough for a busy machine with two cores.
pub(crate) const IMPATIENT: &[&str] = &[
    "executor.heartbeat_interval=500ms",
    "executor.heartbeat_timeout=4s",
    "executor.reconnect_timeout=2s",
    "executor.driver_lost_after=5s",
];

/// Seconds after which an executor that was stopped is surely lost to a driver that is [`IMPATIENT`].
pub(crate) const LONG_SILENCE: u32 = 8;

/// A program that is to run.
pub(crate) struct Program {
    command: Command,
    home: tempfile::TempDir,
    tokens: Tokens,
    store: Option<String>,
    /// Runs without a leftover check: for tests that look themselves, or whose driver is killed.
    leaves: bool,
    hangs_after: Duration,
}

/// What a program did.
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
    pub(crate) tokens: Tokens,
    /// The folder that was its temporary one.
    pub(crate) home: tempfile::TempDir,
}

impl Program {
    /// The test program with these arguments. Its temporary folder and thus its store are its own.
    pub(crate) fn new(args: &[&str]) -> Self {
        Self::of(env!("CARGO_BIN_EXE_program"), args)
    }

    /// Another executable.
    pub(crate) fn of(executable: &str, args: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut command = Command::new(executable);
        command.args(args).env("TMPDIR", home.path()).env("RUST_BACKTRACE", "0").env_remove("VONK_LOG");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).current_dir(home.path());
        Self { command, home, tokens: Tokens::default(), store: None, leaves: false, hangs_after: HANGS_AFTER }
    }

    pub(crate) fn master(self, master: &str) -> Self {
        self.args(&["--master", master])
    }

    pub(crate) fn args(mut self, args: &[&str]) -> Self {
        // Flags go before the subcommand.
        let old: Vec<_> = self.command.get_args().map(ToOwned::to_owned).collect();
        let mut command = Command::new(self.command.get_program());
        for (key, value) in self.command.get_envs() {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        command.args(args).args(old).current_dir(self.home.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.command = command;
        self
    }

    pub(crate) fn conf(self, pairs: &[&str]) -> Self {
        pairs.iter().fold(self, |program, pair| program.args(&["--conf", pair]))
    }

    pub(crate) fn env(mut self, key: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    pub(crate) fn faults(mut self, tokens: Tokens) -> Self {
        self.tokens = tokens;
        self
    }

    pub(crate) fn store(mut self, url: &str) -> Self {
        self.store = Some(url.to_owned());
        self.args(&["--conf", &format!("store={url}")])
    }

    /// Under another program, which is to become this one: the last thing that is said before it starts.
    pub(crate) fn under(mut self, prefix: &[&str]) -> Self {
        let mut command = Command::new(prefix[0]);
        command.args(&prefix[1..]).arg(self.command.get_program()).args(self.command.get_args());
        for (key, value) in self.command.get_envs() {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).current_dir(self.home.path());
        self.command = command;
        self
    }

    /// With a disk of this size in this folder, which only the program and its executors see.
    pub(crate) fn disk(self, folder: &Path, size: &str) -> Self {
        let script = r#"mount -t tmpfs -o "size=$0" none "$1" && shift && exec "$@""#;
        self.under(&["unshare", "--map-root-user", "--mount", "sh", "-c", script, size, folder.to_str().unwrap()])
    }

    /// It has more to do than others.
    pub(crate) fn hangs_after(mut self, time: Duration) -> Self {
        self.hangs_after = time;
        self
    }

    /// It may leave files and processes behind: the test looks for itself.
    pub(crate) fn leaves(mut self) -> Self {
        self.leaves = true;
        self
    }

    /// Runs it where files of the test lie in its folder.
    pub(crate) fn run_leaving(self) -> Outcome {
        self.leaves().run()
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// Starts it.
    pub(crate) fn start(mut self) -> Running {
        let child = self.command.env(FOLDER, self.tokens.folder()).spawn().unwrap();
        Running { child, started: Instant::now(), program: self }
    }

    /// Runs it to its end and checks that nothing is left of it.
    pub(crate) fn run(self) -> Outcome {
        self.start().wait()
    }
}

/// A program that runs.
pub(crate) struct Running {
    pub(crate) child: Child,
    started: Instant,
    program: Program,
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn executors(&self) -> Vec<u32> {
        children_of(self.pid())
    }

    pub(crate) fn tokens(&self) -> &Tokens {
        &self.program.tokens
    }

    pub(crate) fn home(&self) -> &Path {
        self.program.home()
    }

    pub(crate) fn wait(mut self) -> Outcome {
        let read = |pipe: Box<dyn Read + Send>| {
            let (sender, receiver) = mpsc::channel();
            std::thread::spawn(move || {
                let mut pipe = pipe;
                let mut text = Vec::new();
                let _ = pipe.read_to_end(&mut text);
                let _ = sender.send(String::from_utf8_lossy(&text).into_owned());
            });
            receiver
        };
        let stdout = read(Box::new(self.child.stdout.take().unwrap()));
        let stderr = read(Box::new(self.child.stderr.take().unwrap()));
        let deadline = self.started + self.program.hangs_after;
        let text =
            |pipe: &mpsc::Receiver<String>| pipe.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        let (stdout, stderr) = match (text(&stdout), text(&stderr)) {
            (Ok(stdout), Ok(stderr)) => (stdout, stderr),
            _ => {
                let executors = self.executors();
                signal("KILL", self.pid());
                executors.into_iter().for_each(|pid| signal("KILL", pid));
                let words = stderr.recv_timeout(Duration::from_secs(5)).unwrap_or_default();
                panic!("the program hangs; its stderr:\n{words}");
            }
        };
        let status = self.child.wait().unwrap();
        let Program { home, tokens, leaves, .. } = self.program;
        let outcome = Outcome { code: status.code(), stdout, stderr, took: self.started.elapsed(), tokens, home };
        if !leaves {
            assert_eq!(outcome.leftovers(), Vec::<PathBuf>::new(), "left behind; stderr:\n{}", outcome.stderr);
        }
        outcome
    }
}

impl Outcome {
    /// The program succeeded and every fault fired.
    pub(crate) fn succeeded(self) -> Self {
        assert_eq!(self.code, Some(0), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        assert_eq!(self.tokens.left(), Vec::<String>::new(), "faults that did not fire; stderr:\n{}", self.stderr);
        self
    }

    /// The program failed with this code, its stderr says all of this, and nothing panicked in the engine.
    pub(crate) fn failed(self, code: i32, says: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        for words in says {
            assert!(self.stderr.contains(words), "stderr lacks `{words}`:\n{}", self.stderr);
        }
        self
    }

    /// Files in the program's temporary folder, but history.
    pub(crate) fn leftovers(&self) -> Vec<PathBuf> {
        files_below(self.home.path())
            .into_iter()
            .filter(|path| !path.components().any(|c| c.as_os_str() == "history"))
            .collect()
    }
}

/// All files below a folder.
pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                _ => files.push(entry.path()),
            }
        }
    }
    files.sort();
    files
}

/// Waits for a condition, as long as no test may.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    let (never, waiting) = mpsc::channel::<()>();
    while !holds() {
        assert!(Instant::now() < deadline, "never came: {what}");
        let _ = waiting.recv_timeout(Duration::from_millis(20));
    }
    drop(never);
}
