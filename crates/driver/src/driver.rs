//! What is the driver from outside?

use std::sync::Arc;

use futures::future::BoxFuture;
use model::backend::ClusterBackend;
use model::graph::Job;
use model::ids::{AppId, BroadcastId, Epoch, IdSource, RddId, ShuffleId};
use model::runner::{JobError, JobRunner, JobStream};
use model::write::{WriteReport, WriteTarget};
use tokio::runtime::Handle;

use crate::config::DriverConfig;
use crate::error::Error;

/// Runs the jobs of one application.
pub struct Driver {
    app: AppId,
    epoch: Epoch,
    ids: IdSource,
    parallelism: u32,
}

impl Driver {
    /// Starts the event loop and asks the backend for executors; returns at once.
    ///
    /// # Errors
    /// A setting that cannot be used, or an identity that cannot be.
    pub fn start(config: DriverConfig, _backend: Arc<dyn ClusterBackend>, _io: Handle) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self {
            app: config.app,
            epoch: config.epoch,
            ids: IdSource::default(),
            parallelism: config.executors * config.slots,
        }))
    }

    /// Ends the application: cancels jobs, finishes commits, ends executors, removes what it left in the store. Every step
    /// runs, whatever became of those before it. A second call waits for the first.
    pub async fn stop(&self, _error: Option<String>) {}
}

fn ended() -> JobError {
    JobError::Ended { why: "the driver has not begun".into() }
}

impl JobRunner for Driver {
    fn app(&self) -> AppId {
        self.app
    }

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn ids(&self) -> &IdSource {
        &self.ids
    }

    fn parallelism(&self) -> u32 {
        self.parallelism
    }

    fn run(&self, _job: Job) -> JobStream {
        Box::pin(futures::stream::once(async { Err(ended()) }))
    }

    fn write(&self, _job: Job, _target: WriteTarget) -> BoxFuture<'static, Result<WriteReport, JobError>> {
        Box::pin(async { Err(ended()) })
    }

    fn release_shuffle(&self, _shuffle: ShuffleId) {}

    fn unpersist(&self, _rdd: RddId) {}

    fn forget_broadcast(&self, _broadcast: BroadcastId) {}

    fn cancel(&self, _group: Option<&str>, _why: &str) {}

    fn warn(&self, _text: &str) {}
}
