//! How is an executor reached from outside the cluster?
//!
//! Through the API server, which asks the kubelet, which connects to the pod: no route into the cluster is needed. Each
//! stream is a connection of its own, so that a slow one delays no other.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::future::BoxFuture;
use futures::io::{AsyncRead, AsyncWrite};
use futures::{FutureExt, io::Error};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Portforwarder};
use tokio::io::DuplexStream;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

use crate::answer::chain;

/// A connection to a port of a pod. It is closed when this is dropped.
pub(crate) struct Forwarded {
    stream: Compat<DuplexStream>,
    /// What the other end says when it gives the port up.
    refused: Option<BoxFuture<'static, Option<String>>>,
    forwarder: Portforwarder,
}

/// Connects to a port of a pod. That the pod does not listen is said by the first read.
pub(crate) async fn open(pods: &Api<Pod>, name: &str, port: u16) -> io::Result<Forwarded> {
    let forwarder = pods.portforward(name, &[port]).await;
    let mut forwarder = forwarder.map_err(|error| Error::other(format!("forward port {port}: {}", chain(&error))))?;
    let stream = forwarder.take_stream(port).ok_or_else(|| Error::other("the forwarder has no stream"))?;
    let refused = forwarder.take_error(port).map(FutureExt::boxed);
    Ok(Forwarded { stream: stream.compat(), refused, forwarder })
}

impl Forwarded {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(refused) = &mut self.refused else { return Ok(()) };
        match refused.poll_unpin(cx) {
            Poll::Ready(Some(why)) => {
                self.refused = None;
                Err(Error::new(io::ErrorKind::ConnectionRefused, why.trim().to_owned()))
            }
            Poll::Ready(None) => {
                self.refused = None;
                Ok(())
            }
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Forwarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if read == 0 {
            // The reason may have come with the end.
            self.check(cx)?;
        }
        Poll::Ready(Ok(read))
    }
}

impl AsyncWrite for Forwarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        // Its task would go on carrying what nobody reads.
        self.forwarder.abort();
    }
}
