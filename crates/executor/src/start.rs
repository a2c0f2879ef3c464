//! How does a process become an executor of one application?

use std::io::{self, BufRead, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use futures::{Sink, SinkExt, Stream, StreamExt, future, stream};
use model::backend::ConnectionClosed;
use model::messages::{FromExecutor, ToExecutor};
use model::setting::{InvalidSetting, Values};
use model::{AppId, Epoch, ExecutorId};
use proto::tls::Identity;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, PollSender};

use crate::config::{self, ExecutorConfig};
use crate::lifetime::{CANNOT_START, DRIVER_LOST_AFTER, End};
use crate::link;
use crate::outbox::{Connection, INCOMING, OUTGOING};
use crate::printed::Own;
use crate::service::{CONNECTIONS, Order, Service};
use crate::surroundings::{Me, Means};
use crate::task::BodyRunner;

/// Threads that do I/O in a process of its own: two, so that one long poll never delays a heartbeat.
const IO_THREADS: usize = 2;

/// Threads that wait for the local file system at a time.
const BLOCKING_THREADS: usize = 16;

/// The longest line that a birth may be.
const BIRTH_MAX: u64 = 1 << 20;

/// Orders from the system that may wait.
const ORDERS: usize = 4;

/// The last words of an executor that ends must be sent within this time.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(2);

/// The stack of the thread that waits for stdin to end.
const WATCH_STACK: usize = 128 << 10;

/// What the driver says to an executor in its own process.
pub type Outgoing = Pin<Box<dyn Sink<ToExecutor, Error = ConnectionClosed> + Send>>;

/// What the driver hears from it. Ends when the executor has ended.
pub type Incoming = Pin<Box<dyn Stream<Item = FromExecutor> + Send>>;

/// Starts an executor in this process: messages travel as they are. It ends when it has drained, or when the driver drops
/// its ends.
#[must_use]
pub fn in_process(config: ExecutorConfig, runner: Arc<dyn BodyRunner>, io: Handle) -> (Outgoing, Incoming) {
    let ExecutorConfig { app, epoch, id, program, slots, memory, store, root, disk, settings } = config;
    let (to_executor, incoming) = mpsc::channel(INCOMING);
    let (outgoing, from_executor) = mpsc::channel(OUTGOING);
    let (connect, connections) = mpsc::channel(1);
    connect.try_send(Connection { incoming, outgoing }).expect("the channel is empty");
    drop(connect);
    let (_, orders) = mpsc::channel(1);
    // What it prints is on the driver's own terminal.
    let me = Me { app, epoch, executor: id, program, disk, disk_taken: 0, printed: None };
    let means = Means { slots, memory, store, root, settings };
    let service = Service::new(me, Some(means), runner, io.clone(), connections, orders, None);
    let running = io.spawn(service.run());
    let outgoing = PollSender::new(to_executor).sink_map_err(|_| ConnectionClosed);
    // The stream owns the task: it ends when the executor has ended, and not before.
    let ended = stream::once(async move {
        if let Err(error) = running.await {
            tracing::error!(%error, "the executor of this process ended badly");
        }
        None
    });
    let incoming = ReceiverStream::new(from_executor).map(Some).chain(ended).filter_map(future::ready);
    (Box::pin(outgoing), Box::pin(incoming))
}

/// Everything that an executor process must know before it listens: one line of JSON on its stdin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Birth {
    /// How it proves who it is, and whom it lets in.
    pub identity: Identity,
    /// The application.
    pub app: AppId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its number.
    pub executor: ExecutorId,
    /// SHA-256 of the executable, in hex.
    pub program: String,
    /// The folder under which it makes one of its own for what does not fit into memory.
    pub disk: PathBuf,
    /// How many bytes of what it may keep there others have taken already, for as long as it lives.
    #[serde(default)]
    pub disk_taken: u64,
    /// The folder with files that go along with the program, for the program's own use.
    #[serde(default)]
    pub files: Option<PathBuf>,
    /// Where it listens; by default on a free port of 127.0.0.1.
    #[serde(default = "local")]
    pub listen: SocketAddr,
    /// How long it waits for a driver, in milliseconds, before it ends itself. By default a minute.
    #[serde(default = "lost_after_ms")]
    pub lost_after_ms: u64,
    /// How long tasks may run on after SIGTERM, in milliseconds. By default 25 s.
    #[serde(default = "drain_grace_ms")]
    pub drain_grace_ms: u64,
    /// It ends at once when its stdin does: whoever holds the other end is its parent.
    #[serde(default)]
    pub end_with_parent: bool,
    /// Where whoever started it keeps the end of what it prints, so that failed tasks can say it.
    #[serde(default)]
    pub printed: Option<PathBuf>,
}

fn local() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

fn lost_after_ms() -> u64 {
    millis(DRIVER_LOST_AFTER)
}

fn drain_grace_ms() -> u64 {
    25_000
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Birth {
    /// What an executor of the local cluster is told. The two times come from the settings.
    ///
    /// # Errors
    /// A setting does not fit its key.
    pub fn new(
        identity: Identity,
        (app, epoch, executor): (AppId, Epoch, ExecutorId),
        program: String,
        disk: PathBuf,
        settings: &Values,
    ) -> Result<Self, InvalidSetting> {
        Ok(Self {
            identity,
            app,
            epoch,
            executor,
            program,
            disk,
            disk_taken: 0,
            files: None,
            listen: local(),
            lost_after_ms: millis(config::LOST_AFTER.duration(settings)?),
            drain_grace_ms: millis(config::DRAIN_GRACE.duration(settings)?),
            end_with_parent: true,
            printed: None,
        })
    }

    /// As one line, without the line's end. It holds a private key: for a pipe, not for a log.
    #[must_use]
    pub fn to_line(&self) -> String {
        serde_json::to_string(self).expect("every field has a JSON form")
    }

    /// Reads the line from stdin. The rest of stdin stays unread.
    ///
    /// # Errors
    /// There is no line, or it is no birth: the process should end with [`CANNOT_START`].
    pub fn read() -> Result<Self, Error> {
        let mut line = String::new();
        io::stdin().lock().take(BIRTH_MAX).read_line(&mut line).map_err(Error::ReadBirth)?;
        serde_json::from_str(&line).map_err(Error::ParseBirth)
    }
}

/// What hinders an executor from starting.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Stdin cannot be read.
    #[error("read who this executor is from stdin")]
    ReadBirth(#[source] io::Error),
    /// What came is no birth.
    #[error("understand who this executor is: want one line of JSON on stdin")]
    ParseBirth(#[source] serde_json::Error),
    /// Its identity is of no use.
    #[error("prepare to prove who this executor is")]
    Identity(#[from] proto::tls::Error),
    /// The I/O runtime cannot be started.
    #[error("start the threads that do I/O")]
    Runtime(#[source] io::Error),
    /// It cannot listen.
    #[error("listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// Its port cannot be told.
    #[error("print the port")]
    PrintPort(#[source] io::Error),
    /// The system's signals cannot be heard.
    #[error("listen for signals")]
    Signals(#[source] io::Error),
}

impl Error {
    /// The code with which the process ends.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        CANNOT_START
    }
}

/// Runs an executor in this process until it ends; then the caller should exit with its [`End::exit_code`] at once, since
/// threads of user code may still run. A port that the system has chosen is the first line of stdout.
///
/// SIGTERM drains; SIGINT is ignored, since a terminal sends it to the driver too, which decides.
///
/// # Errors
/// The executor cannot start.
pub fn serve(birth: Birth, runner: Arc<dyn BodyRunner>) -> Result<End, Error> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(IO_THREADS)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("io")
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    let io = runtime.handle().clone();
    let end = runtime.block_on(async {
        let address = birth.listen;
        let listener = TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
        let port = listener.local_addr().map_err(|source| Error::Listen { address, source })?.port();
        let (order, orders) = mpsc::channel(ORDERS);
        let mut signals = JoinSet::new();
        let (mut terminate, mut interrupt) = (heed(SignalKind::terminate())?, heed(SignalKind::interrupt())?);
        let (grace, drain) = (Duration::from_millis(birth.drain_grace_ms), order.clone());
        signals.spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => drop(drain.send(Order::Drain(grace)).await),
                    _ = interrupt.recv() => {}
                }
            }
        });
        if birth.end_with_parent {
            watch_parent(order);
        }
        let serving = listen(&birth, listener, runner, io, orders)?;
        // Whoever has chosen the port knows it.
        if address.port() == 0 {
            let mut stdout = io::stdout().lock();
            writeln!(stdout, "{port}").and_then(|()| stdout.flush()).map_err(Error::PrintPort)?;
        }
        Ok(serving.await)
    });
    // User code may still run on threads that nobody can stop.
    runtime.shutdown_background();
    end
}

/// Runs an executor on a socket that the caller has bound: [`serve`] without anything of a process. Nothing happens before
/// the future is polled.
///
/// # Errors
/// The birth's identity is of no use.
///
/// # Cancellation
/// Ends the executor; its driver sees a lost connection.
pub fn serve_on(
    listener: TcpListener,
    birth: &Birth,
    runner: Arc<dyn BodyRunner>,
    io: Handle,
) -> Result<impl Future<Output = End> + use<>, Error> {
    let (_, orders) = mpsc::channel(ORDERS);
    listen(birth, listener, runner, io, orders)
}

/// Serves on a socket until the executor ends and its last words are sent.
fn listen(
    birth: &Birth,
    listener: TcpListener,
    runner: Arc<dyn BodyRunner>,
    io: Handle,
    orders: mpsc::Receiver<Order>,
) -> Result<impl Future<Output = End> + use<>, Error> {
    let tls = Arc::new(proto::tls::server_config(&birth.identity, birth.app)?);
    let Birth { app, epoch, executor, program, disk, disk_taken, .. } = birth.clone();
    let printed = birth.printed.as_deref().and_then(|path| match Own::open(path) {
        Ok(own) => Some(Arc::new(own)),
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "failed tasks will not say what was printed last");
            None
        }
    });
    let me = Me { app, epoch, executor, program, disk, disk_taken, printed };
    let (connect, connections) = mpsc::channel(CONNECTIONS);
    let lost_after = Some(Duration::from_millis(birth.lost_after_ms));
    Ok(async move {
        let stop = CancellationToken::new();
        let mut serving = JoinSet::new();
        serving.spawn(link::serve(listener, tls, connect, stop.clone()));
        let end = Service::new(me, None, runner, io, connections, orders, lost_after).run().await;
        stop.cancel();
        match timeout(LAST_WORDS_WITHIN, serving.join_next()).await {
            Ok(Some(Ok(Err(error)))) => tracing::error!(%error, "serve the driver"),
            Ok(Some(Err(error))) => tracing::error!(%error, "serve the driver"),
            Ok(Some(Ok(Ok(()))) | None) | Err(_) => {}
        }
        end
    })
}

fn heed(kind: SignalKind) -> Result<Signal, Error> {
    signal(kind).map_err(Error::Signals)
}

/// Tells the service when stdin ends. The thread ends with the process: nothing can wake it from its read.
fn watch_parent(order: mpsc::Sender<Order>) {
    let watch = move || {
        let ended = io::copy(&mut io::stdin().lock(), &mut io::sink());
        tracing::debug!(?ended, "stdin has ended");
        // The service is gone already: it ends anyway.
        let _ = order.blocking_send(Order::ParentGone);
    };
    if let Err(error) = thread::Builder::new().name("parent".into()).stack_size(WATCH_STACK).spawn(watch) {
        tracing::warn!(%error, "watch stdin: the executor will outlive its parent by its wait for a driver");
    }
}
