//! Which signal has arrived?

use model::exit;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Ctrl-C and SIGTERM, from now on.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) struct Received {
    /// With what a command ends that it has ended.
    pub(crate) code: u8,
    /// What has happened, in a word.
    pub(crate) word: &'static str,
}

impl Signals {
    /// From now on they end nothing by themselves.
    ///
    /// # Errors
    /// The system does not let us.
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Does something that leaves nothing behind when it is dropped, unless a signal comes first.
    ///
    /// # Errors
    /// A signal has come.
    pub(crate) async fn before<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Received> {
        tokio::select! {
            biased;
            received = self.next() => Err(received),
            done = work => Ok(done),
        }
    }

    /// The next one.
    pub(crate) async fn next(&mut self) -> Received {
        tokio::select! {
            _ = self.interrupt.recv() => Received { code: exit::INTERRUPTED, word: "interrupted" },
            _ = self.terminate.recv() => Received { code: exit::KILLED, word: "terminated" },
        }
    }
}
