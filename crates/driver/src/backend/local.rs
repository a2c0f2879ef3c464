//! How does this process act as a cluster?
//!
//! One executor in the driver's own process: no socket, no certificate, messages as they are. Should its connection ever
//! end, the executor is lost and a new one takes its place.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use executor::start::{Incoming, Outgoing};
use executor::{BodyRunner, ExecutorConfig};
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt};
use model::backend::{ClusterBackend, ClusterEvent, Connection, DialError};
use model::failure::LossCause;
use model::ids::ExecutorId;
use model::messages::FromExecutor;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// Events that may wait for the event loop: at most one executor lives, and each has two.
const EVENTS: usize = 1_024;

/// A cluster of one executor, in this process.
pub struct LocalBackend {
    shared: Arc<Shared>,
    events: Mutex<Option<mpsc::Receiver<ClusterEvent>>>,
}

struct Shared {
    config: ExecutorConfig,
    runner: Arc<dyn BodyRunner>,
    io: Handle,
    state: Mutex<State>,
    events: mpsc::Sender<ClusterEvent>,
    ended: Notify,
    stopped: CancellationToken,
}

#[derive(Default)]
struct State {
    target: u32,
    last: u64,
    executor: Option<Executor>,
}

struct Executor {
    id: ExecutorId,
    /// Until somebody dials.
    ends: Option<(Outgoing, Incoming)>,
    released: CancellationToken,
}

impl LocalBackend {
    /// An executor of this configuration will be started when one is wanted; its number is filled in.
    #[must_use]
    pub fn new(config: ExecutorConfig, runner: Arc<dyn BodyRunner>, io: Handle) -> Arc<Self> {
        let (sender, receiver) = mpsc::channel(EVENTS);
        let shared = Shared {
            config,
            runner,
            io,
            state: Mutex::default(),
            events: sender,
            ended: Notify::new(),
            stopped: CancellationToken::new(),
        };
        Arc::new(Self { shared: Arc::new(shared), events: Mutex::new(Some(receiver)) })
    }
}

impl ClusterBackend for LocalBackend {
    fn set_target(&self, executors: u32) {
        self.shared.lock().target = executors;
        self.shared.reconcile();
    }

    fn release(&self, executor: ExecutorId) {
        let undialled = {
            let mut state = self.shared.lock();
            match &mut state.executor {
                Some(running) if running.id == executor => {
                    running.released.cancel();
                    running.ends.take().is_some()
                }
                _ => false,
            }
        };
        if undialled {
            self.shared.lost(executor, LossCause::Released, format!("{executor} was let go"));
        }
    }

    fn dial(&self, executor: ExecutorId) -> BoxFuture<'_, Result<Connection, DialError>> {
        let mut state = self.shared.lock();
        let running = state.executor.as_mut().filter(|running| running.id == executor);
        let dialled = running.and_then(|running| Some((running.ends.take()?, running.released.clone())));
        drop(state);
        let dialled = dialled.map(|((outgoing, incoming), released)| {
            let end = End { shared: Arc::clone(&self.shared), executor, released: released.clone() };
            let incoming = incoming.take_until(Box::pin(released.cancelled_owned()));
            let incoming = Watched { incoming, _end: end };
            Connection::Messages { outgoing, incoming: Box::pin(incoming) }
        });
        std::future::ready(dialled.ok_or(DialError::Gone(executor))).boxed()
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
            loop {
                let ended = self.shared.ended.notified();
                tokio::pin!(ended);
                ended.as_mut().enable();
                let running = {
                    let mut state = self.shared.lock();
                    if state.executor.as_ref().is_some_and(|executor| executor.ends.is_some()) {
                        state.executor = None;
                    }
                    state.executor.as_ref().map(|executor| executor.released.clone())
                };
                match running {
                    Some(released) => released.cancel(),
                    None => return,
                }
                ended.await;
            }
        }
        .boxed()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reconcile(&self) {
        let mut state = self.lock();
        if state.target == 0 || state.executor.is_some() || self.stopped.is_cancelled() {
            return;
        }
        state.last += 1;
        let id = ExecutorId(state.last);
        let config = ExecutorConfig { id, ..self.config.clone() };
        let ends = executor::start::in_process(config, Arc::clone(&self.runner), self.io.clone());
        state.executor = Some(Executor { id, ends: Some(ends), released: CancellationToken::new() });
        drop(state);
        self.report(ClusterEvent::Reachable { executor: id, place: "this process".to_owned() });
    }

    fn lost(&self, executor: ExecutorId, cause: LossCause, why: String) {
        {
            let mut state = self.lock();
            if state.executor.as_ref().is_none_or(|running| running.id != executor) {
                return;
            }
            state.executor = None;
        }
        self.ended.notify_waiters();
        if !self.stopped.is_cancelled() {
            self.report(ClusterEvent::Lost { executor, cause, why, last_lines: Vec::new() });
            self.reconcile();
        }
    }

    fn report(&self, event: ClusterEvent) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.events.try_send(event) {
            tracing::error!("an event of the in-process executor was not heard");
        }
    }
}

/// The end of a connection is the end of its executor.
struct End {
    shared: Arc<Shared>,
    executor: ExecutorId,
    released: CancellationToken,
}

impl Drop for End {
    fn drop(&mut self) {
        let (cause, why) = match self.released.is_cancelled() {
            true => (LossCause::Released, format!("{} was let go", self.executor)),
            false => (LossCause::Infrastructure, format!("{} has ended, or its connection was dropped", self.executor)),
        };
        self.shared.lost(self.executor, cause, why);
    }
}

/// What an executor says, and its end.
struct Watched<S> {
    incoming: S,
    _end: End,
}

impl<S: Stream<Item = FromExecutor> + Unpin> Stream for Watched<S> {
    type Item = FromExecutor;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<FromExecutor>> {
        self.incoming.poll_next_unpin(cx)
    }
}
