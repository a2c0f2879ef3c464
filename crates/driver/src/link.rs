//! How is an executor dialled and kept?
//!
//! One task per executor: it dials, proves who it is, says hello and compares the answer; then it carries messages both
//! ways. A lost connection is made again for `executor.reconnect_timeout`, in which time does not count during which no
//! executor can be reached; the loop then hears what the executor holds, and nothing is sent a second time. Whatever ends the link for good is one [`Message`] to the loop.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Sink, SinkExt, Stream, StreamExt, stream};
use hyper_util::rt::TokioIo;
use model::backend::{ClusterBackend, Connection, ConnectionClosed, DialError, Duplex};
use model::failure::LossCause;
use model::ids::{AttemptId, ExecutorId};
use model::messages::{FromExecutor, Hello, HelloReply, ToExecutor};
use proto::MESSAGE_MAX;
use proto::executor_client::ExecutorClient;
use proto::version::{Mismatch, compare};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::compat::FuturesAsyncReadCompatExt;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tower::service_fn;

use crate::event_loop::Message;
use crate::executable::Executable;
use crate::outbox::Outbox;

/// One try at a connection, hello included, may take so long: a stopped process accepts, and says nothing.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// A new executor is dialled for so long before it counts as one that does not start: it may fetch a large program before it
/// listens.
const FIRST_CONNECT_WITHIN: Duration = Duration::from_secs(60);

/// People hear of a new executor that has not answered for so long.
const UNANSWERED_AFTER: Duration = Duration::from_secs(20);

/// Its last line is waited for so long.
const LAST_LINE_WITHIN: Duration = Duration::from_secs(2);

/// What leads to all executors may be away for so long without counting against them. Without a driver, they end themselves
/// then.
pub(crate) const CUT_OFF_AT_MOST: Duration = Duration::from_secs(60);

/// The wait between two tries at a connection.
const REDIAL_AFTER: Duration = Duration::from_millis(200);

/// A connection over which so many heartbeats were missed is dead, whatever TCP believes; it is made again.
pub(crate) const MISSED_HEARTBEATS: u32 = 3;

/// Messages under way inside one gRPC connection, each way, beyond which the sender waits.
const IN_FLIGHT: usize = 64;

/// What all links of a driver share.
pub(crate) struct Dialer {
    pub(crate) backend: Arc<dyn ClusterBackend>,
    /// The hello; its executor and program are filled in.
    pub(crate) hello: Hello,
    /// How the driver proves who it is, unless every executor is in this process.
    pub(crate) tls: Option<TlsConnector>,
    pub(crate) executable: Executable,
    pub(crate) reconnect_timeout: Duration,
    pub(crate) heartbeat_interval: Duration,
    pub(crate) mailbox: mpsc::Sender<Message>,
    /// Turns true when objects may be written: no executor is told to start before.
    pub(crate) claimed: watch::Receiver<bool>,
}

/// Why a connection could not be made, or broke.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("prove to {executor} who we are")]
    Tls { executor: ExecutorId, source: std::io::Error },
    #[error("dial {0}: it runs in another process, and the driver was given no identity to prove who it is")]
    NoIdentity(ExecutorId),
    #[error("talk to the executor")]
    Grpc(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("carry a message")]
    Convert(#[from] proto::convert::Error),
    #[error("the executor has closed the connection")]
    Closed,
    #[error("hear the executor: it has said nothing for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("wait for the executor's hello: it said something else first")]
    NoHello,
    #[error("compare hellos")]
    Refused(#[from] Mismatch),
    #[error("hash this process's executable")]
    Hash(#[from] crate::Error),
    #[error("connect within {} s", CONNECT_WITHIN.as_secs())]
    TimedOut,
}

impl LinkError {
    /// Whether another try would find the same.
    fn is_final(&self) -> bool {
        match self {
            Self::Refused(_) | Self::NoIdentity(_) | Self::Hash(_) | Self::Convert(_) => true,
            Self::Tls { source, .. } => source.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()),
            Self::Dial(_) | Self::Grpc(_) | Self::Closed | Self::Silent(_) | Self::NoHello | Self::TimedOut => false,
        }
    }
}

type Outgoing = Pin<Box<dyn Sink<ToExecutor, Error = LinkError> + Send>>;
type Incoming = Pin<Box<dyn Stream<Item = Result<FromExecutor, LinkError>> + Send>>;

struct Connected {
    outgoing: Outgoing,
    incoming: Incoming,
    in_process: bool,
}

/// A connection that is up: what the loop must know of it.
pub(crate) struct Up {
    /// Where messages for it go. What an earlier connection had not taken is void.
    pub(crate) outbox: Outbox,
    /// Messages are not copied: nothing need go through the store.
    pub(crate) in_process: bool,
    /// What the executor holds, if there was a connection before.
    pub(crate) restored: Option<Vec<AttemptId>>,
}

impl Dialer {
    /// Keeps the link until it is lost for good or `closed`.
    pub(crate) async fn keep(self: Arc<Self>, executor: ExecutorId, closed: CancellationToken) {
        let lost = tokio::select! {
            lost = self.run(executor) => lost,
            () = closed.cancelled() => return,
        };
        if let Some((cause, why)) = lost {
            let _ = self.mailbox.send(Message::LinkLost { executor, cause, why }).await;
        }
    }

    /// Returns why the executor is lost; nothing if the backend says so.
    async fn run(&self, executor: ExecutorId) -> Option<(LossCause, String)> {
        let mut claimed = self.claimed.clone();
        claimed.wait_for(|claimed| *claimed).await.ok()?;
        let mut restored = false;
        let mut broken: Option<LinkError> = None;
        loop {
            let connected = match restored {
                true => self.connect_for(executor, self.reconnect_timeout).await,
                false => self.connect_first(executor).await,
            };
            let (connected, reply) = match connected {
                Ok(connected) => connected,
                Err(LinkError::Dial(DialError::Gone(_))) => return None,
                Err(error) => {
                    let cause = match restored && !matches!(error, LinkError::Refused(_)) {
                        true => LossCause::Infrastructure,
                        false => LossCause::Start,
                    };
                    let before = broken.map(|broken| format!("; the link broke before: {}", chain(&broken)));
                    let what = if restored { "could not be reached again" } else { "could not be used" };
                    return Some((
                        cause,
                        format!("{executor} {what}: {}{}", chain(&error), before.unwrap_or_default()),
                    ));
                }
            };
            let outbox = Outbox::default();
            let up = Up {
                outbox: outbox.clone(),
                in_process: connected.in_process,
                restored: restored.then_some(reply.holding),
            };
            self.mailbox.send(Message::LinkUp { executor, up }).await.ok()?;
            restored = true;
            let error = self.carry(executor, connected, &outbox).await;
            tracing::debug!(%executor, error = &error as &dyn std::error::Error, "the link broke");
            broken = Some(error);
        }
    }

    /// The first connection; if it takes long, the loop hears of it.
    async fn connect_first(&self, executor: ExecutorId) -> Result<(Connected, HelloReply), LinkError> {
        let telling = async {
            sleep(UNANSWERED_AFTER).await;
            let line = timeout(LAST_LINE_WITHIN, self.backend.last_line(executor)).await;
            let last_line = line.ok().flatten();
            // A loop that has ended need not know.
            let _ = self.mailbox.send(Message::Unanswered { executor, last_line }).await;
            std::future::pending().await
        };
        tokio::select! {
            connected = self.connect_for(executor, FIRST_CONNECT_WITHIN) => connected,
            never = telling => never,
        }
    }

    async fn connect_for(
        &self,
        executor: ExecutorId,
        patience: Duration,
    ) -> Result<(Connected, HelloReply), LinkError> {
        let mut until = Instant::now() + patience;
        let latest = until + CUT_OFF_AT_MOST;
        loop {
            let began = Instant::now();
            let tried = timeout(CONNECT_WITHIN, self.connect(executor)).await.unwrap_or(Err(LinkError::TimedOut));
            if self.backend.is_cut_off() {
                until = (until + began.elapsed() + REDIAL_AFTER).min(latest);
            }
            match tried {
                Ok(connected) => return Ok(connected),
                Err(error @ LinkError::Dial(DialError::Gone(_))) => return Err(error),
                Err(error) if error.is_final() || Instant::now() + REDIAL_AFTER >= until => return Err(error),
                Err(error) => {
                    tracing::debug!(%executor, error = &error as &dyn std::error::Error, "dialled in vain");
                    sleep(REDIAL_AFTER).await;
                }
            }
        }
    }

    async fn connect(&self, executor: ExecutorId) -> Result<(Connected, HelloReply), LinkError> {
        let mut connected = match self.backend.dial(executor).await? {
            Connection::Bytes(bytes) => self.secure(executor, bytes).await?,
            Connection::Messages { outgoing, incoming } => Connected {
                outgoing: Box::pin(outgoing.sink_map_err(|ConnectionClosed| LinkError::Closed)),
                incoming: Box::pin(incoming.map(Ok)),
                in_process: true,
            },
        };
        let program = if connected.in_process { String::new() } else { self.program().await? };
        let hello = Hello { executor, program, ..self.hello.clone() };
        connected.outgoing.send(ToExecutor::Hello(Box::new(hello.clone()))).await?;
        let reply = match connected.incoming.next().await {
            Some(Ok(FromExecutor::Hello(reply))) => *reply,
            Some(Ok(_)) => return Err(LinkError::NoHello),
            Some(Err(error)) => return Err(error),
            None => return Err(LinkError::Closed),
        };
        if connected.in_process {
            // One process, one program: nobody computed its hash.
            compare(&Hello { program: reply.program.clone(), ..hello }, &reply)?;
        } else {
            compare(&hello, &reply)?;
        }
        Ok((connected, reply))
    }

    /// The hash of the executable; computed once, away from the threads of I/O.
    async fn program(&self) -> Result<String, LinkError> {
        let executable = self.executable.clone();
        let hashed = tokio::task::spawn_blocking(move || executable.hash()).await;
        Ok(hashed.map_err(|error| LinkError::Grpc(error.into()))??)
    }

    /// TLS, then gRPC, over bytes.
    async fn secure(&self, executor: ExecutorId, bytes: Box<dyn Duplex>) -> Result<Connected, LinkError> {
        let tls = self.tls.as_ref().ok_or(LinkError::NoIdentity(executor))?;
        let name = proto::tls::executor_name(self.hello.app);
        let stream = tls.connect(name, bytes.compat()).await.map_err(|source| LinkError::Tls { executor, source })?;
        let mut once = Some(TokioIo::new(stream));
        let connector = service_fn(move |_| {
            let stream = once.take().ok_or_else(|| std::io::Error::other("this connection was used before"));
            std::future::ready(stream)
        });
        let grpc = |error: tonic::transport::Error| LinkError::Grpc(error.into());
        let endpoint = Endpoint::from_static("http://executor").tcp_nodelay(true);
        let channel = endpoint.connect_with_connector(connector).await.map_err(grpc)?;
        let mut client =
            ExecutorClient::new(channel).max_decoding_message_size(MESSAGE_MAX).max_encoding_message_size(MESSAGE_MAX);
        let (sender, receiver) = mpsc::channel(IN_FLIGHT);
        let answered = client.run(ReceiverStream::new(receiver)).await;
        let incoming = answered.map_err(|status| LinkError::Grpc(status.into()))?.into_inner().map(|message| {
            let message = message.map_err(|status| LinkError::Grpc(status.into()))?;
            Ok(FromExecutor::try_from(message)?)
        });
        let outgoing = tokio_util::sync::PollSender::new(sender).sink_map_err(|_| LinkError::Closed);
        let outgoing = outgoing.with_flat_map(|message| match proto::convert::pieces_to(message) {
            Ok(pieces) => stream::iter(pieces.into_iter().map(Ok).collect::<Vec<_>>()),
            Err(error) => stream::iter(vec![Err(LinkError::from(error))]),
        });
        Ok(Connected { outgoing: Box::pin(outgoing), incoming: Box::pin(incoming), in_process: false })
    }

    /// Carries messages both ways until something breaks.
    async fn carry(&self, executor: ExecutorId, connected: Connected, outbox: &Outbox) -> LinkError {
        let Connected { mut outgoing, mut incoming, in_process } = connected;
        let send = async {
            loop {
                for message in outbox.take().await {
                    if let Err(error) = outgoing.feed(message).await {
                        return error;
                    }
                }
                if let Err(error) = outgoing.flush().await {
                    return error;
                }
            }
        };
        let hear = async {
            let silence = self.heartbeat_interval * MISSED_HEARTBEATS;
            loop {
                let next = if in_process {
                    incoming.next().await
                } else {
                    match timeout_at(Instant::now() + silence, incoming.next()).await {
                        Ok(next) => next,
                        Err(_elapsed) => return LinkError::Silent(silence),
                    }
                };
                match next {
                    Some(Ok(message)) => {
                        if self.mailbox.send(Message::Heard { executor, message }).await.is_err() {
                            return LinkError::Closed;
                        }
                    }
                    Some(Err(error)) => return error,
                    None => return LinkError::Closed,
                }
            }
        };
        tokio::select! {
            error = send => error,
            error = hear => error,
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
