//! What must a cluster do for us?

use std::pin::Pin;
use std::sync::Arc;

use futures_core::{Stream, future::BoxFuture};
use futures_io::{AsyncRead, AsyncWrite};
use futures_sink::Sink;

use crate::failure::LossCause;
use crate::ids::ExecutorId;
use crate::messages::{FromExecutor, ToExecutor};

/// A connection's bytes, before TLS.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// How the driver reaches an executor.
pub enum Connection {
    /// Over bytes: the driver adds TLS and gRPC.
    Bytes(Box<dyn Duplex>),
    /// In this process: messages as they are, through bounded channels.
    Messages {
        /// To the executor.
        outgoing: Pin<Box<dyn Sink<ToExecutor, Error = ConnectionClosed> + Send>>,
        /// From it; ends when it is gone.
        incoming: Pin<Box<dyn Stream<Item = FromExecutor> + Send>>,
    },
}

/// The other end of an in-process connection is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the executor has closed its end")]
pub struct ConnectionClosed;

/// A dial that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// There is no such executor any more; its loss is or will be reported as an event.
    #[error("{0} is gone")]
    Gone(ExecutorId),
    /// Not now; the driver tries again.
    #[error("connect to {executor}")]
    Failed {
        /// The executor.
        executor: ExecutorId,
        /// Why.
        source: std::io::Error,
    },
}

/// Keeps the end of what an executor has printed, unless something is kept of it already. Bounded in time; a store that
/// fails is logged.
pub type KeepPrinted = Arc<dyn Fn(ExecutorId, Vec<u8>) -> BoxFuture<'static, ()> + Send + Sync>;

/// What a cluster reports, in the order in which it became known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterEvent {
    /// An executor runs and can be dialled.
    Reachable {
        /// The executor.
        executor: ExecutorId,
        /// Where it runs, for people: `this process`, `process 4711`, `node-a`.
        place: String,
    },
    /// An executor is gone, whether it ever was reachable or not. Reported once.
    Lost {
        /// The executor.
        executor: ExecutorId,
        /// Why.
        cause: LossCause,
        /// In one sentence: what happened and, if there is something to do, what.
        why: String,
        /// What it had printed last, oldest first, if it ended badly and that is known.
        last_lines: Vec<String>,
    },
    /// The reason why wanted executors are not there yet; empty when nothing is waited for.
    Waiting {
        /// In one sentence.
        why: String,
    },
    /// The cluster refuses to start executors, and it is of no use to wait; or does so no more.
    Refused {
        /// In one sentence: why and what to do. Empty when it does so no more.
        why: String,
    },
}

/// Makes executors exist. Has three implementations: in-process, processes of this machine, pods of Kubernetes.
///
/// Callers set a target whenever it changes and listen; they never wait for an executor by polling. Implementors are
/// level-triggered: they compare the target with what is there, after every change of either.
/// `driver`'s conformance suite (`driver::backend::conformance`) is the contract in tests.
pub trait ClusterBackend: Send + Sync {
    /// Wants this many executors beyond those released. More are started; fewer stop starts that are not yet done.
    fn set_target(&self, executors: u32);

    /// Ends an executor that has drained, or kills one that is lost or refused. Its [`ClusterEvent::Lost`] follows
    /// (with [`LossCause::Released`] if it ended in order). An unknown executor is no error.
    fn release(&self, executor: ExecutorId);

    /// Opens a connection. May be called again after one was lost.
    ///
    /// # Cancellation
    /// Dropping the future leaves nothing behind.
    fn dial(&self, executor: ExecutorId) -> BoxFuture<'_, Result<Connection, DialError>>;

    /// Whether executors cannot be reached for now though they may be well: what leads to all of them does not answer.
    fn is_cut_off(&self) -> bool {
        false
    }

    /// The last line that an executor has printed, if that can be told soon: it runs, and does not answer.
    ///
    /// # Cancellation
    /// Dropping the future leaves nothing behind.
    fn last_line(&self, _executor: ExecutorId) -> BoxFuture<'_, Option<String>> {
        Box::pin(std::future::ready(None))
    }

    /// What happens from now on. Taken once, by the event loop; a second call gives an empty stream.
    fn events(&self) -> Pin<Box<dyn Stream<Item = ClusterEvent> + Send>>;

    /// Ends every executor and removes what was made for them. After it no event follows.
    fn stop(&self) -> BoxFuture<'_, ()>;
}
