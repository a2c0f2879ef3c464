//! Who stays with a program in its pod until its end, and keeps what it printed?
//!
//! The first process of the container starts the program as a second one and holds its pipes: it passes on what comes, tells
//! the program of every signal, and ends with the program's exit code once the end of what was printed is in the store. A
//! program that crashes, or ends itself, has said its last words all the same.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{env, thread};

use executor::printed::{OF_DRIVER, OF_EXECUTOR, Pipe, Printed, pass_on};
use model::Epoch;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use object_store::PutMode;
use tokio::process::{Child, Command};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::pod::{self, Kept, Who};

/// Who this process is, whatever its file is called.
const THIS: &str = "/proc/self/exe";

/// How long the last words of a program that has ended are waited for: what it has started may hold its pipes open.
const LAST_WORDS_WITHIN: Duration = Duration::from_millis(500);

/// How long the store may take to say which drivers came before.
const EPOCH_WITHIN: Duration = Duration::from_secs(2);

/// What a driver has printed is kept so often while it runs: a container that is killed takes both processes at once.
const KEPT_EVERY: Duration = Duration::from_secs(60);

/// Signals under way to the program.
const SIGNALS: usize = 16;

/// What is passed on: all that a program may heed and others send.
const PASSED_ON: [(SignalKind, Signal); 6] = [
    (SignalKind::terminate(), Signal::SIGTERM),
    (SignalKind::interrupt(), Signal::SIGINT),
    (SignalKind::hangup(), Signal::SIGHUP),
    (SignalKind::quit(), Signal::SIGQUIT),
    (SignalKind::user_defined1(), Signal::SIGUSR1),
    (SignalKind::user_defined2(), Signal::SIGUSR2),
];

/// Returns in the program that the pod is for, and guards it. Whoever stays with it ends with its exit code instead. If the
/// system does not let two processes be, the first one is the program, and what it prints is not kept.
///
/// `filter` says what is logged.
///
/// # Errors
/// The program or what goes along with it cannot be fetched, or it cannot be executed or guarded.
pub(crate) fn take_place(filter: &str) -> Result<(), pod::Error> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    if pod::printed().is_none() {
        if !pod::is_program()? {
            // Its own end comes while it fetches: what it becomes guards itself.
            pod::guard()?;
            match pod::become_program()? {}
        }
        pod::fetch_attached()?;
        stay(filter);
    }
    pod::find_attached();
    pod::guard()
}

/// Stays with the program, and never returns; returns at once in a process that has to be the program itself.
fn stay(filter: &str) {
    let who = match pod::kept() {
        Ok(who) => who,
        // The program says what its pod lacks.
        Err(_) => return,
    };
    match begin(&who) {
        Ok((program, runtime)) => {
            crate::telemetry::init(filter, None);
            std::process::exit(runtime.block_on(program.run(who)))
        }
        Err(error) => {
            eprintln!("what this process prints is not kept: start the program beside its first process: {error}")
        }
    }
}

/// A program that runs.
struct Program {
    child: Child,
    pid: Pid,
    printed: Arc<Printed>,
    /// Hears when all that it printed was passed on.
    passed_on: oneshot::Receiver<()>,
    signals: mpsc::Receiver<Signal>,
}

fn begin(who: &Kept) -> io::Result<(Program, tokio::runtime::Runtime)> {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let entered = runtime.enter();
    // Before the program is there: the first process of a container hears no signal that it does not heed.
    let signals = heed(&runtime)?;
    let printed = Arc::new(Printed::new(match who.who {
        Who::Driver => OF_DRIVER,
        Who::Executor { .. } => OF_EXECUTOR,
    })?);
    let mut arguments = env::args_os();
    let mut command = Command::new(THIS);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command.args(arguments).env(pod::PRINTED, printed.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let no_pipe = || io::Error::other("it has no pipes");
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).ok_or_else(no_pipe)?;
    let stdout = child.stdout.take().ok_or_else(no_pipe)?.into_owned_fd()?;
    let stderr = child.stderr.take().ok_or_else(no_pipe)?.into_owned_fd()?;
    let passed_on = pass_on_both(stdout, stderr, Arc::clone(&printed))?;
    drop(entered);
    Ok((Program { child, pid: Pid::from_raw(pid), printed, passed_on, signals }, runtime))
}

fn heed(runtime: &tokio::runtime::Runtime) -> io::Result<mpsc::Receiver<Signal>> {
    let (sender, receiver) = mpsc::channel(SIGNALS);
    for (kind, same) in PASSED_ON {
        let (mut heard, sender) = (signal(kind)?, sender.clone());
        // The runtime owns it, and ends with this process.
        let _heeding = runtime.spawn(async move {
            while heard.recv().await.is_some() {
                if sender.send(same).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(receiver)
}

/// On a thread of its own, since whoever reads this process's output may be slow, and then so is the program, as it would be
/// alone.
fn pass_on_both(stdout: OwnedFd, stderr: OwnedFd, printed: Arc<Printed>) -> io::Result<oneshot::Receiver<()>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (done, passed_on) = oneshot::channel();
    let pass = move || {
        // A reader that is gone is no reason to stop the program.
        let out = pass_on(stdout, Pipe::Stdout, &printed, |bytes| drop(write(&mut io::stdout().lock(), bytes)));
        let err = pass_on(stderr, Pipe::Stderr, &printed, |bytes| drop(write(&mut io::stderr().lock(), bytes)));
        let _ = runtime.block_on(async { tokio::join!(out, err) });
        let _ = done.send(());
    };
    thread::Builder::new().name("printed".into()).spawn(pass)?;
    Ok(passed_on)
}

fn write(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

impl Program {
    /// Stays until it has ended; gives its exit code.
    async fn run(mut self, who: Kept) -> i32 {
        let mut so_far = JoinSet::new();
        let mut keeping = interval(KEPT_EVERY);
        keeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut kept, mut told_to_end) = (self.printed.total(), false);
        let status = loop {
            tokio::select! {
                status = self.child.wait() => break status,
                _ = keeping.tick(), if who.who == Who::Driver => {
                    let total = self.printed.total();
                    if total != kept && so_far.is_empty() && pod::told_epoch().is_some() {
                        kept = total;
                        so_far.spawn(keep(who.clone(), self.printed.kept().unwrap_or_default()));
                    }
                }
                Some(_) = so_far.join_next() => if std::mem::take(&mut told_to_end) {
                    so_far.spawn(keep(who.clone(), self.printed.kept().unwrap_or_default()));
                },
                Some(signal) = self.signals.recv() => {
                    // It may have ended this moment.
                    let _ = kill(self.pid, signal);
                    // Who is told to end may be killed before it has ended: a driver that ends waits 2 s for its executors.
                    let named = who.who != Who::Driver || pod::told_epoch().is_some();
                    match (signal == Signal::SIGTERM && named, so_far.is_empty()) {
                        (true, true) => drop(so_far.spawn(keep(who.clone(), self.printed.kept().unwrap_or_default()))),
                        // Once the one that is under way has arrived: the last one stays.
                        (true, false) => told_to_end = true,
                        (false, _) => {}
                    }
                }
            }
        };
        let _ = timeout(LAST_WORDS_WITHIN, self.passed_on).await;
        let printed = self.printed.kept().unwrap_or_default();
        let code = status.map_or(1, code_of);
        // In this order: the last one stays.
        while so_far.join_next().await.is_some() {}
        tokio::join!(note_end(&who, code), keep(who.clone(), printed));
        code
    }
}

/// As a shell tells it, and Kubernetes too.
fn code_of(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// Keeps what was printed. What hinders that was said by the program already, or is logged.
async fn keep(who: Kept, printed: Vec<u8>) {
    let Ok((store, root)) = shuffle::store::open(&who.store) else { return };
    let (epoch, name) = match who.who {
        Who::Executor { epoch, executor } => (epoch, executor.to_string()),
        Who::Driver => {
            let next = async { timeout(EPOCH_WITHIN, driver::printed::next_epoch(&*store, &root, who.app)).await };
            let epoch = match pod::told_epoch() {
                Some(epoch) => epoch,
                None => next.await.ok().and_then(Result::ok).unwrap_or(Epoch(1)),
            };
            (epoch, "driver".to_owned())
        }
    };
    driver::printed::keep(&*store, &root, (who.app, epoch), &name, printed, PutMode::Overwrite).await;
}

/// Tells how a driver has ended.
async fn note_end(who: &Kept, code: i32) {
    if who.who != Who::Driver {
        return;
    }
    if let Ok((store, root)) = shuffle::store::open(&who.store) {
        driver::standing::note_end(&*store, &root, (who.app, pod::told_epoch()), code, None).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_has_the_code_that_a_shell_gives_it() {
        assert_eq!(code_of(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(code_of(ExitStatus::from_raw(libc_signal(Signal::SIGSEGV))), 139);
        assert_eq!(code_of(ExitStatus::from_raw(libc_signal(Signal::SIGKILL))), 137);
    }

    fn libc_signal(signal: Signal) -> i32 {
        signal as i32
    }
}
