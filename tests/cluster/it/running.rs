//! How is a program that runs outside of the cluster watched?

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout;
use vonk_cluster_tests::{NOTES, unix_ms};

use crate::ground::SOON;

/// Where a program runs.
pub(crate) struct Place<'a> {
    /// Where its notes lie.
    pub(crate) notes: String,
    /// Who it is to the cluster; the administrator if nobody says.
    pub(crate) kubeconfig: Option<&'a Path>,
}

/// A program that runs. It is killed when this is dropped.
pub(crate) struct Running {
    child: Child,
    stdout: Lines,
    stderr: Lines,
    pub(crate) began: Instant,
    /// The same moment, as notes have it.
    pub(crate) began_unix_ms: u64,
}

/// A program that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// None after a signal that ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Lines as they come, each with its moment.
struct Lines {
    seen: watch::Receiver<Vec<(Instant, String)>>,
}

impl Lines {
    fn of(from: impl Read + Send + 'static) -> Self {
        let (sender, seen) = watch::channel(Vec::new());
        std::thread::spawn(move || {
            for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                sender.send_modify(|lines| lines.push((Instant::now(), line)));
            }
        });
        Self { seen }
    }

    fn text(&self) -> String {
        self.seen.borrow().iter().map(|(_, line)| format!("{line}\n")).collect()
    }

    /// The first line with these words, and its moment; none if the program ends first.
    async fn find(&self, words: &str) -> Option<(Instant, String)> {
        let mut seen = self.seen.clone();
        let found = |lines: &Vec<(Instant, String)>| lines.iter().find(|(_, line)| line.contains(words)).cloned();
        seen.wait_for(|lines| found(lines).is_some()).await.ok().and_then(|lines| found(&lines))
    }

    /// Waits until there are no more.
    async fn all(&self) {
        let mut seen = self.seen.clone();
        while seen.changed().await.is_ok() {}
    }
}

impl Running {
    pub(crate) fn start(program: &OsStr, words: &[String], place: &Place<'_>) -> Self {
        let mut command = Command::new(program);
        command.args(words).env(NOTES, &place.notes).stdin(Stdio::null());
        if let Some(kubeconfig) = place.kubeconfig {
            command.env("KUBECONFIG", kubeconfig);
        }
        let (began, began_unix_ms) = (Instant::now(), unix_ms());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let stdout = Lines::of(child.stdout.take().expect("it is piped"));
        let stderr = Lines::of(child.stderr.take().expect("it is piped"));
        Self { child, stdout, stderr, began, began_unix_ms }
    }

    /// Waits for words on stderr, and gives the line and when it came.
    pub(crate) async fn says(&self, words: &str) -> (Instant, String) {
        self.find(&self.stderr, words).await
    }

    /// Waits for words on stdout.
    pub(crate) async fn prints(&self, words: &str) -> (Instant, String) {
        self.find(&self.stdout, words).await
    }

    async fn find(&self, lines: &Lines, words: &str) -> (Instant, String) {
        match timeout(SOON, lines.find(words)).await {
            Ok(Some(found)) => found,
            Ok(None) => panic!("it ended without `{words}`:\n{}", self.stderr.text()),
            Err(_) => panic!("no `{words}` within {SOON:?}:\n{}", self.stderr.text()),
        }
    }

    /// Sends a signal: INT, TERM, KILL, STOP, CONT.
    pub(crate) fn signal(&self, name: &str) {
        signal(name, self.child.id());
    }

    /// Waits for its end.
    pub(crate) async fn ends(self) -> Ended {
        self.ends_within(SOON).await
    }

    pub(crate) async fn ends_within(mut self, within: Duration) -> Ended {
        // Executors are pods, so nobody else holds the pipes.
        let ended = timeout(within, async { tokio::join!(self.stdout.all(), self.stderr.all()) }).await;
        assert!(ended.is_ok(), "no end within {within:?}:\n{}", self.stderr.text());
        let code = self.child.wait().expect("it is our child").code();
        Ended { code, stdout: self.stdout.text(), stderr: self.stderr.text() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// Sees that it ended with this code, and gives what it said on stderr.
    #[track_caller]
    pub(crate) fn with_code(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        &self.stderr
    }

    /// Sees that it said these words on stderr.
    #[track_caller]
    pub(crate) fn said(&self, words: &str) {
        assert!(self.stderr.contains(words), "no `{words}`:\n{}", self.stderr);
    }
}

/// Sends a signal to a process of this machine.
pub(crate) fn signal(name: &str, pid: u32) {
    let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()), "signal {name} to {pid}");
}

/// The process of this machine that is the executor in a pod, and not the one that stays with it.
pub(crate) fn process_of_pod(uid: &str) -> u32 {
    *processes_of_pod(uid).get(1).expect("the executor is a process of this machine, and root may see it")
}

/// The processes of this machine that are an executor's pod, the one that stays with it first: the cluster's nodes are this
/// machine.
pub(crate) fn processes_of_pod(uid: &str) -> Vec<u32> {
    let wanted = format!("VONK_POD_UID={uid}");
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let found = processes.filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let environment = std::fs::read(entry.path().join("environ")).ok()?;
        let has = |wanted: &dyn Fn(&[u8]) -> bool| environment.split(|&byte| byte == 0).any(wanted);
        has(&|variable| variable == wanted.as_bytes()).then(|| (has(&|v| v.starts_with(b"VONK_PRINTED=")), pid))
    });
    let mut found: Vec<(bool, u32)> = found.collect();
    found.sort_unstable();
    found.into_iter().map(|(_, pid)| pid).collect()
}

/// Ports at which somebody listens in a process's network, in order.
pub(crate) fn listening(process: u32) -> Vec<u16> {
    let tables = ["tcp", "tcp6"].map(|name| std::fs::read_to_string(format!("/proc/{process}/net/{name}")).unwrap());
    let sockets = tables.iter().flat_map(|table| table.lines().skip(1));
    let ports = sockets.filter_map(|line| {
        let mut fields = line.split_whitespace();
        let (local, _remote, state) = (fields.nth(1)?, fields.next()?, fields.next()?);
        // TCP_LISTEN.
        (state == "0A").then(|| u16::from_str_radix(local.rsplit(':').next()?, 16).ok()).flatten()
    });
    ports.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}

/// The program, as small as can be if somebody has seen to it.
pub(crate) fn program() -> OsString {
    std::env::var_os("VONK_TEST_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_pod_program").into())
}

/// The program `vonk`, as pods have it if somebody has seen to that: whoever sends itself sends little then.
pub(crate) fn vonk() -> OsString {
    let beside = |program| Path::new(&program).with_file_name("pod_stock");
    let found = std::env::var_os("VONK_TEST_PROGRAM").map(beside).filter(|path| path.exists());
    found.map_or_else(|| env!("CARGO_BIN_EXE_pod_stock").into(), Into::into)
}

/// What `sum` prints.
pub(crate) fn sums(rows: u64, keys: u64) -> String {
    let line = |key: u64| {
        let of_key: Vec<u64> = (0..rows).filter(|row| row % keys == key).collect();
        format!("{key:04}\t{}\t{}\n", of_key.len(), of_key.iter().sum::<u64>())
    };
    (0..keys).map(line).collect()
}
