//! How does a driver reach an executor from another process?
//!
//! A socket, TLS that lets nobody in but this application's driver, and one gRPC stream whose messages go to the service
//! and come from it. A stream that ends, however it ends, is only a stream: the service goes on.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use model::messages::{FromExecutor, ToExecutor};
use proto::executor_server::{Executor, ExecutorServer};
use proto::{MESSAGE_MAX, convert, generated as wire};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};

use crate::outbox::{Connection, INCOMING, OUTGOING};

/// Who has not proven who it is after so long is left.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// Handshakes at a time; more wait in the system's own queue.
const HANDSHAKES: usize = 8;

/// Connections that have proven who they are and wait for gRPC to take them.
const PROVEN: usize = 4;

/// Streams at a time on one connection: the driver keeps one, and may open the next before the last is closed.
const STREAMS: u32 = 4;

/// How much of a stream may be on its way unread. A body, a plan or a result seldom has more.
const WINDOW: u32 = 4 << 20;

/// Messages that have come and wait for the service.
const READ_AHEAD: usize = INCOMING;

/// After a failure to accept, such as too many open files, the next try waits so long.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Serves until `stop` is cancelled and what was said is sent, or cannot be.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    connections: mpsc::Sender<Connection>,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let (proven, accepted) = mpsc::channel(PROVEN);
    let mut accepting = JoinSet::new();
    accepting.spawn(accept(listener, TlsAcceptor::from(tls), proven));
    let service = ExecutorServer::new(Link { connections, readers: TaskTracker::new() })
        .max_decoding_message_size(MESSAGE_MAX)
        .max_encoding_message_size(MESSAGE_MAX);
    let server = Server::builder()
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(2 * WINDOW)
        .max_concurrent_streams(STREAMS)
        .add_service(service);
    server.serve_with_incoming_shutdown(ReceiverStream::new(accepted), stop.cancelled()).await
}

/// Accepts connections and hands over those that prove to be the driver's.
async fn accept(listener: TcpListener, tls: TlsAcceptor, proven: mpsc::Sender<io::Result<Proven>>) {
    let mut handshakes = JoinSet::new();
    loop {
        while handshakes.len() >= HANDSHAKES {
            handshakes.join_next().await;
        }
        while handshakes.try_join_next().is_some() {}
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::warn!(%error, "accept a connection");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let (tls, proven) = (tls.clone(), proven.clone());
        handshakes.spawn(async move {
            // Launches and statuses are small, and somebody waits for each.
            let _ = socket.set_nodelay(true);
            match timeout(HANDSHAKE_WITHIN, tls.accept(socket)).await {
                Ok(Ok(stream)) => drop(proven.send(Ok(Proven(stream))).await),
                Ok(Err(error)) => tracing::warn!(%error, "refuse a connection"),
                Err(_) => tracing::warn!("refuse a connection: no handshake in {HANDSHAKE_WITHIN:?}"),
            }
        });
    }
}

/// A connection whose other end is this application's driver.
struct Proven(TlsStream<TcpStream>);

impl Connected for Proven {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Proven {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Proven {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

struct Link {
    connections: mpsc::Sender<Connection>,
    readers: TaskTracker,
}

#[tonic::async_trait]
impl Executor for Link {
    type RunStream = Pin<Box<dyn Stream<Item = Result<wire::FromExecutor, Status>> + Send>>;

    async fn run(&self, request: Request<Streaming<wire::ToExecutor>>) -> Result<Response<Self::RunStream>, Status> {
        let (heard, incoming) = mpsc::channel(READ_AHEAD);
        let (outgoing, said) = mpsc::channel(OUTGOING);
        self.connections
            .send(Connection { incoming, outgoing })
            .await
            .map_err(|_| Status::unavailable("the executor ends"))?;
        self.readers.spawn(read(request.into_inner(), heard));
        Ok(Response::new(Box::pin(ReceiverStream::new(said).flat_map(pieces))))
    }
}

/// Passes messages on until the stream ends, the service has another one, or a message is none.
async fn read(mut stream: Streaming<wire::ToExecutor>, heard: mpsc::Sender<ToExecutor>) {
    loop {
        let message = tokio::select! {
            message = stream.message() => message,
            () = heard.closed() => return,
        };
        let message = match message {
            Ok(Some(message)) => message,
            Ok(None) => return,
            Err(status) => {
                tracing::info!(%status, "read the driver's stream");
                return;
            }
        };
        match ToExecutor::try_from(message) {
            Ok(message) => {
                if heard.send(message).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::error!(%error, "refuse a message of the driver's: its stream ends");
                return;
            }
        }
    }
}

/// A message as gRPC carries it.
fn pieces(message: FromExecutor) -> impl Stream<Item = Result<wire::FromExecutor, Status>> {
    let pieces = match convert::pieces_from(message) {
        Ok(pieces) => pieces.into_iter().map(Ok).collect(),
        Err(error) => vec![Err(Status::resource_exhausted(error.to_string()))],
    };
    stream::iter(pieces)
}
