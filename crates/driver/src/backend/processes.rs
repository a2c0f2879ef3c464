//! How do processes of this machine act as a cluster?
//!
//! Every executor is a process of the driver's own executable with `VONK_ROLE=executor`. Who it is comes through its
//! stdin, which stays open: its end tells the executor that the driver is gone, however that ended. The first line of its
//! stdout is its port; everything else that it prints goes to the driver's stderr with the executor's name in front, and the
//! end of it is kept.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use executor::printed::{OF_EXECUTOR, Pipe, Printed, pass_on};
use executor::start::Birth;
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt};
use model::backend::{ClusterBackend, ClusterEvent, Connection, DialError, KeepPrinted};
use model::failure::LossCause;
use model::ids::ExecutorId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, Command};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::compat::TokioAsyncReadCompatExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::executable::Executable;

/// The variable that tells a process which part it plays.
pub const ROLE: &str = "VONK_ROLE";

/// The part of an executor.
pub const EXECUTOR: &str = "executor";

/// A process that has not said its port for so long never will: it hashes its executable and opens a socket, no more.
const PORT_WITHIN: Duration = Duration::from_secs(20);

/// A process that is let go may take so long to end by itself; then it is killed.
const END_WITHIN: Duration = Duration::from_secs(3);

/// How long the last words of a process that has ended are waited for: its children may hold its pipes open.
const LAST_WORDS_WITHIN: Duration = Duration::from_millis(500);

/// How often is looked which memory cgroup a process is in: somebody may move it, and after its end nobody can tell.
const CGROUP_EVERY: Duration = Duration::from_secs(1);

/// Starts that fail one after the other wait so long, doubled each time, up to [`RESTART_MAX`].
const RESTART_MIN: Duration = Duration::from_millis(100);

/// The longest wait between starts that fail.
const RESTART_MAX: Duration = Duration::from_secs(10);

/// Events that may wait for the event loop; beyond them, whoever reports waits.
const EVENTS: usize = 256;

/// A line of an executor's output is cut after so many bytes.
const LINE_MAX: usize = 64 << 10;

/// The line with a port is shorter.
const PORT_LINE: usize = 16;

/// The exit codes with which an executor says that it could not start (`executor::lifetime`).
const START_CODES: std::ops::RangeInclusive<i32> = 81..=83;

/// The exit code of a Rust program that panicked.
const PANICKED: i32 = 101;

/// Takes what executors print, whole lines.
pub type Output = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// What executors are started with.
pub struct ProcessConfig {
    /// The executable. Its hash is told to each executor; computing it goes on while the first ones start.
    pub executable: Executable,
    /// What an executor must know before it listens. Its number and the executable's hash are filled in.
    pub birth: Birth,
    /// Takes what executors print.
    pub output: Output,
    /// Keeps the end of it, unless nobody wants that.
    pub keep: Option<KeepPrinted>,
}

/// Executors that are processes of this machine.
pub struct ProcessBackend {
    shared: Arc<Shared>,
    events: Mutex<Option<mpsc::Receiver<ClusterEvent>>>,
}

struct Shared {
    config: ProcessConfig,
    io: Handle,
    state: Mutex<State>,
    events: mpsc::Sender<ClusterEvent>,
    supervisors: TaskTracker,
    stopped: CancellationToken,
}

#[derive(Default)]
struct State {
    target: u32,
    last: u64,
    failed_starts: u32,
    processes: BTreeMap<ExecutorId, Process>,
}

/// A process that was asked for and has not been reported lost.
struct Process {
    port: Option<u16>,
    release: CancellationToken,
}

impl ProcessBackend {
    /// No process yet; they are started when a target is set.
    #[must_use]
    pub fn new(config: ProcessConfig, io: Handle) -> Arc<Self> {
        let (sender, receiver) = mpsc::channel(EVENTS);
        let shared = Arc::new(Shared {
            config,
            io,
            state: Mutex::default(),
            events: sender,
            supervisors: TaskTracker::new(),
            stopped: CancellationToken::new(),
        });
        Arc::new(Self { shared, events: Mutex::new(Some(receiver)) })
    }
}

impl ClusterBackend for ProcessBackend {
    fn set_target(&self, executors: u32) {
        self.shared.lock().target = executors;
        self.shared.reconcile();
    }

    fn release(&self, executor: ExecutorId) {
        let state = self.shared.lock();
        if let Some(process) = state.processes.get(&executor) {
            process.release.cancel();
        }
    }

    fn dial(&self, executor: ExecutorId) -> BoxFuture<'_, Result<Connection, DialError>> {
        async move {
            let known = self.shared.lock().processes.get(&executor).map(|process| process.port);
            let port = known.flatten().ok_or(DialError::Gone(executor))?;
            let dialled = TcpStream::connect(("127.0.0.1", port)).await;
            let stream = dialled.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
            let stream = stream.map_err(|source| DialError::Failed { executor, source })?;
            Ok(Connection::Bytes(Box::new(stream.compat())))
        }
        .boxed()
    }

    fn events(&self) -> Pin<Box<dyn Stream<Item = ClusterEvent> + Send>> {
        match self.events.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(events) => {
                ReceiverStream::new(events).take_until(self.shared.stopped.clone().cancelled_owned()).boxed()
            }
            None => futures::stream::empty().boxed(),
        }
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        async move {
            self.shared.stopped.cancel();
            self.shared.supervisors.close();
            self.shared.supervisors.wait().await;
        }
        .boxed()
    }
}

impl Drop for ProcessBackend {
    fn drop(&mut self) {
        self.shared.stopped.cancel();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts what is wanted and not there; takes back starts that are not wanted any more.
    fn reconcile(self: &Arc<Self>) {
        if self.stopped.is_cancelled() {
            return;
        }
        let mut state = self.lock();
        let kept = |process: &&Process| !process.release.is_cancelled();
        let there = state.processes.values().filter(kept).count();
        let wanted = state.target as usize;
        let starting = state.processes.values().rev().filter(kept).filter(|process| process.port.is_none());
        starting.take(there.saturating_sub(wanted)).for_each(|process| process.release.cancel());
        for _ in there..wanted {
            state.last += 1;
            let executor = ExecutorId(state.last);
            let delay = match state.failed_starts {
                0 => Duration::ZERO,
                failed => RESTART_MIN.saturating_mul(1 << (failed - 1).min(10)).min(RESTART_MAX),
            };
            let release = CancellationToken::new();
            state.processes.insert(executor, Process { port: None, release: release.clone() });
            let shared = Arc::clone(self);
            self.supervisors.spawn_on(async move { shared.supervise(executor, release, delay).await }, &self.io);
        }
    }

    /// The whole life of one process; exactly one `Lost` is reported at its end.
    async fn supervise(self: Arc<Self>, executor: ExecutorId, release: CancellationToken, delay: Duration) {
        let unwanted = async {
            tokio::select! {
                () = release.cancelled() => {}
                () = self.stopped.cancelled() => {}
            }
        };
        tokio::pin!(unwanted);
        let (mut last_lines, mut kept) = (Vec::new(), None);
        let (cause, why) = tokio::select! {
            biased;
            () = &mut unwanted => (LossCause::Released, format!("{executor} was not needed any more before it started")),
            () = tokio::time::sleep(delay) => match self.spawn(executor).await {
                Ok((child, stdin, printed)) => {
                    let printed = Arc::new(printed);
                    let end = self.run(executor, child, stdin, &printed, unwanted).await;
                    (last_lines, kept) = (printed.last_lines(), printed.kept().ok());
                    end
                }
                Err(error) => {
                    let program = self.config.executable.path().display();
                    (LossCause::Start, format!("{executor} could not be started: run {program}: {error}"))
                }
            },
        };
        {
            let mut state = self.lock();
            state.processes.remove(&executor);
            if cause == LossCause::Start {
                state.failed_starts += 1;
            }
        }
        if cause == LossCause::Released {
            last_lines.clear();
        }
        self.report(ClusterEvent::Lost { executor, cause, why, last_lines }).await;
        self.reconcile();
        // Last: nobody waits for the store to learn of a loss.
        if let (Some(keep), Some(kept)) = (&self.config.keep, kept) {
            keep(executor, kept).await;
        }
    }

    async fn spawn(&self, executor: ExecutorId) -> std::io::Result<(Child, ChildStdin, Printed)> {
        let printed = Printed::new(OF_EXECUTOR)?;
        let mut child = Command::new(self.config.executable.path())
            .arg0(format!("vonk-executor-{executor}"))
            .env(ROLE, EXECUTOR)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C in a terminal goes to the driver alone, which ends its executors in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let mut stdin = child.stdin.take().ok_or_else(|| std::io::Error::other("its stdin is no pipe"))?;
        let executable = self.config.executable.clone();
        let hash = self.io.spawn_blocking(move || executable.hash()).await.map_err(std::io::Error::other)?;
        let program = hash.map_err(std::io::Error::other)?;
        let birth = Birth { executor, program, printed: Some(printed.path()), ..self.config.birth.clone() };
        let mut birth = birth.to_line();
        birth.push('\n');
        // An executor that ends before it has read shows why by its exit status.
        if let Err(error) = stdin.write_all(birth.as_bytes()).await {
            tracing::debug!(%executor, %error, "an executor did not read who it is");
        }
        Ok((child, stdin, printed))
    }

    async fn run(
        &self,
        executor: ExecutorId,
        mut child: Child,
        stdin: ChildStdin,
        printed: &Arc<Printed>,
        unwanted: Pin<&mut impl Future<Output = ()>>,
    ) -> (LossCause, String) {
        let words = TaskTracker::new();
        let pid = child.id().unwrap_or_default();
        let mut cgroup = MemoryCgroup::of(pid);
        let mut stdout = child.stdout.take();
        let forward = |pipe: std::io::Result<OwnedFd>, which| {
            let mut lines = Lines::of(executor, Arc::clone(&self.config.output));
            let printed = Arc::clone(printed);
            words.spawn(async move {
                let passed = async { pass_on(pipe?, which, &printed, |bytes| lines.take(bytes)).await };
                if let Err(error) = passed.await {
                    tracing::warn!(%executor, %error, "read what an executor prints");
                }
                lines.end();
            });
        };
        if let Some(stderr) = child.stderr.take() {
            forward(stderr.into_owned_fd(), Pipe::Stderr);
        }
        let port = match &mut stdout {
            Some(stdout) => timeout(PORT_WITHIN, read_port(stdout)).await,
            None => Ok(None),
        };
        let started = matches!(port, Ok(Some(_)));
        if let Ok(Some(port)) = port {
            {
                let mut state = self.lock();
                state.failed_starts = 0;
                if let Some(process) = state.processes.get_mut(&executor) {
                    process.port = Some(port);
                }
            }
            self.report(ClusterEvent::Reachable { executor, place: format!("process {pid}") }).await;
        }
        if let Some(stdout) = stdout {
            forward(stdout.into_owned_fd(), Pipe::Stdout);
        }

        let mut ended_by_us = false;
        let mut look = interval(CGROUP_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut unwanted = unwanted.fuse();
        let status = loop {
            tokio::select! {
                status = child.wait() => break status,
                () = &mut unwanted, if !ended_by_us => { ended_by_us = true; break end(&mut child, stdin).await },
                _ = look.tick() => cgroup.follow(pid),
            }
            if !started {
                break end(&mut child, stdin).await;
            }
        };
        words.close();
        if timeout(LAST_WORDS_WITHIN, words.wait()).await.is_err() {
            tracing::debug!(%executor, "something that the executor started still holds its output");
        }
        let status = match status {
            Ok(status) => status,
            Err(error) => return (LossCause::Infrastructure, format!("{executor} cannot be watched: {error}")),
        };
        match (started, ended_by_us) {
            (_, true) if status.success() || !started => (LossCause::Released, format!("{executor} was let go")),
            (_, true) => (LossCause::Released, format!("{executor} was ended ({})", describe(status))),
            (true, false) => {
                let (cause, what) = judge(status, cgroup.has_killed());
                (cause, format!("{executor} {what}"))
            }
            (false, false) if port.is_err() => {
                (LossCause::Start, format!("{executor} did not say its port within {} s", PORT_WITHIN.as_secs()))
            }
            (false, false) => (
                LossCause::Start,
                format!("{executor} ended before it was ready ({}); its output says why", describe(status)),
            ),
        }
    }

    async fn report(&self, event: ClusterEvent) {
        // Nobody listens any more once the driver has stopped.
        tokio::select! {
            sent = self.events.send(event) => drop(sent),
            () = self.stopped.cancelled() => {}
        }
    }
}

/// Ends a process: its stdin closes, and if that is not enough it is killed.
async fn end(child: &mut Child, stdin: ChildStdin) -> std::io::Result<ExitStatus> {
    drop(stdin);
    if let Ok(status) = timeout(END_WITHIN, child.wait()).await {
        return status;
    }
    child.start_kill()?;
    child.wait().await
}

/// What an exit says of an executor that had started and was not asked to end.
fn judge(status: ExitStatus, out_of_memory: bool) -> (LossCause, String) {
    match (status.signal(), status.code()) {
        (Some(libc::SIGKILL), _) if out_of_memory => {
            let what = "was killed by the kernel: its memory cgroup is at its limit; give executors more memory, or a task less to hold";
            (LossCause::Memory, what.to_owned())
        }
        (Some(signal @ (libc::SIGKILL | libc::SIGTERM | libc::SIGINT | libc::SIGHUP)), _) => {
            (LossCause::Infrastructure, format!("was ended from outside ({})", signal_name(signal)))
        }
        (Some(signal), _) => (LossCause::Program, format!("crashed: {}", signal_name(signal))),
        (None, Some(code)) if START_CODES.contains(&code) => {
            (LossCause::Start, format!("refused to run (exit code {code}); its output says why"))
        }
        (None, Some(executor::lifetime::NO_DRIVER)) => {
            (LossCause::Infrastructure, "ended itself: it had not heard its driver for too long".to_owned())
        }
        (None, Some(executor::lifetime::TERMINATED)) => {
            (LossCause::Infrastructure, "was told to end from outside, and has drained (SIGTERM)".to_owned())
        }
        (None, Some(PANICKED)) => (LossCause::Program, "panicked outside of any task (exit code 101)".to_owned()),
        (None, code) => {
            let code = code.unwrap_or_default();
            (LossCause::Program, format!("was ended by the program it ran (exit code {code})"))
        }
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => signal_name(signal),
        (None, code) => format!("exit code {}", code.unwrap_or_default()),
    }
}

fn signal_name(signal: i32) -> String {
    let name = match signal {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGILL => "SIGILL, illegal instruction",
        libc::SIGABRT => "SIGABRT, abort",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGSEGV => "SIGSEGV, segmentation fault",
        libc::SIGTERM => "SIGTERM",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

/// The port in the first line; `None` if the first line is none. Reads nothing beyond it.
async fn read_port(stdout: &mut (impl AsyncRead + Unpin)) -> Option<u16> {
    let mut line = String::new();
    while line.len() < PORT_LINE {
        match stdout.read_u8().await.ok()? {
            b'\n' => return line.parse().ok(),
            byte => line.push(char::from(byte)),
        }
    }
    None
}

/// Hands whole lines on, each with the executor's name in front.
struct Lines {
    name: String,
    line: Vec<u8>,
    output: Output,
}

impl Lines {
    fn of(executor: ExecutorId, output: Output) -> Self {
        Self { name: format!("{executor}: "), line: Vec::new(), output }
    }

    fn take(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let room = LINE_MAX.saturating_sub(self.line.len());
            let (now, later) = piece.split_at(piece.len().min(room));
            self.line.extend_from_slice(now);
            if self.line.ends_with(b"\n") || self.line.len() >= LINE_MAX {
                self.hand_on();
            }
            // What is longer than the longest line is several of them.
            later.chunks(LINE_MAX).for_each(|chunk| {
                self.line.extend_from_slice(chunk);
                if self.line.ends_with(b"\n") || self.line.len() >= LINE_MAX {
                    self.hand_on();
                }
            });
        }
    }

    fn hand_on(&mut self) {
        let mut line = self.name.clone().into_bytes();
        line.append(&mut self.line);
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        (self.output)(&line);
    }

    /// A last line may have no end.
    fn end(&mut self) {
        if !self.line.is_empty() {
            self.hand_on();
        }
    }
}

/// The memory cgroup of a process, and how many it had killed when it was first looked at.
struct MemoryCgroup {
    counter: Option<PathBuf>,
    killed: u64,
}

impl MemoryCgroup {
    fn of(pid: u32) -> Self {
        let counter = counter_of(pid);
        Self { killed: counter.as_ref().and_then(read_killed).unwrap_or_default(), counter }
    }

    /// The process may have been moved since.
    fn follow(&mut self, pid: u32) {
        let now = counter_of(pid);
        if now.is_some() && now != self.counter {
            self.killed = now.as_ref().and_then(read_killed).unwrap_or_default();
            self.counter = now;
        }
    }

    fn has_killed(&self) -> bool {
        self.counter.as_ref().and_then(read_killed).is_some_and(|killed| killed > self.killed)
    }
}

/// The file that counts what the kernel killed in a process's memory cgroup, of either version.
fn counter_of(pid: u32) -> Option<PathBuf> {
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let candidates = cgroups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?.trim_start_matches('/'));
        match controllers {
            "" => Some(PathBuf::from("/sys/fs/cgroup").join(path).join("memory.events")),
            _ if controllers.split(',').any(|controller| controller == "memory") => {
                Some(PathBuf::from("/sys/fs/cgroup/memory").join(path).join("memory.oom_control"))
            }
            _ => None,
        }
    });
    candidates.into_iter().find(|path| path.exists())
}

fn read_killed(counter: &PathBuf) -> Option<u64> {
    let text = std::fs::read_to_string(counter).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_says_whose_fault_it_was() {
        let killed = ExitStatus::from_raw(libc::SIGKILL);
        assert_eq!(judge(killed, true).0, LossCause::Memory);
        assert_eq!(judge(killed, false).0, LossCause::Infrastructure);
        assert_eq!(judge(ExitStatus::from_raw(libc::SIGTERM), true).0, LossCause::Infrastructure);
        for signal in [libc::SIGABRT, libc::SIGSEGV] {
            assert_eq!(judge(ExitStatus::from_raw(signal), true).0, LossCause::Program);
        }
        let exit = |code: i32| judge(ExitStatus::from_raw(code << 8), false).0;
        assert_eq!([exit(81), exit(82), exit(83)], [LossCause::Start; 3]);
        assert_eq!([exit(0), exit(42), exit(101)], [LossCause::Program; 3]);
        assert_eq!([exit(80), exit(143)], [LossCause::Infrastructure; 2]);
    }

    #[tokio::test]
    async fn a_port_is_a_whole_first_line() {
        assert_eq!(read_port(&mut &b"4711\nhello"[..]).await, Some(4711));
        assert_eq!(read_port(&mut &b"4711"[..]).await, None);
        assert_eq!(read_port(&mut &b"Hello, world!\n"[..]).await, None);
        assert_eq!(read_port(&mut &b"99999999999999999999999\n"[..]).await, None);
        let mut more = &b"4711\nhello"[..];
        assert_eq!((read_port(&mut more).await, more), (Some(4711), &b"hello"[..]), "what follows is the program's");
    }

    #[test]
    fn every_line_bears_the_executors_name() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let output: Output = {
            let heard = Arc::clone(&heard);
            Arc::new(move |line: &[u8]| heard.lock().unwrap().push(line.to_vec()))
        };
        let mut lines = Lines::of(ExecutorId(3), output);
        for piece in ["on", "e\n\ntw", "o"] {
            lines.take(piece.as_bytes());
        }
        lines.end();
        assert_eq!(heard.lock().unwrap().concat(), b"e3: one\ne3: \ne3: two\n");
        heard.lock().unwrap().clear();
        lines.take(&[b'x'; 2 * LINE_MAX + 1]);
        lines.take(b"y\n");
        let lengths: Vec<usize> = heard.lock().unwrap().iter().map(Vec::len).collect();
        assert_eq!(lengths, [LINE_MAX + 5, LINE_MAX + 5, 7], "a line without an end is cut");
    }

    #[test]
    fn this_process_is_in_some_memory_cgroup() {
        let counter = counter_of(std::process::id()).expect("cgroups of either version");
        assert!(read_killed(&counter).is_some(), "{}", counter.display());
    }
}
