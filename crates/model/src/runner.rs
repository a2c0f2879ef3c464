//! How do `rdd` and `sql` hand over a job?

use std::pin::Pin;

use bytes::Bytes;
use futures_core::Stream;
use futures_core::future::BoxFuture;

use crate::failure::Failure;
use crate::graph::Job;
use crate::ids::{AppId, BroadcastId, Epoch, IdSource, PartitionId, RddId, ShuffleId};
use crate::messages::AccumulatorUpdate;
use crate::metrics::TaskMetrics;
use crate::shuffle::PartitionSize;
use crate::write::{WriteReport, WriteTarget};

/// What a running job gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobItem {
    /// The result of one partition: accepted, and given once. In the order of arrival.
    Result {
        /// The partition.
        partition: PartitionId,
        /// Its bytes, fetched from the store if they were there.
        bytes: Bytes,
    },
    /// What accumulators received from one accepted task.
    Accumulated(Vec<AccumulatorUpdate>),
    /// The last item of a job whose last stage writes a shuffle.
    Shuffled {
        /// How much each of its partitions holds.
        sizes: Vec<PartitionSize>,
        /// What all accepted tasks of the job counted.
        metrics: TaskMetrics,
    },
    /// The last item of a job that was given to [`JobRunner::write`]: its files are there.
    Written(WriteReport),
}

/// Why a job did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// A task could not be computed, or a limit was met. All failures that led there, last first.
    #[error("run job `{name}`")]
    Failed {
        /// The job's name.
        name: String,
        /// What ended it.
        #[source]
        failure: Box<Failure>,
        /// What came before, oldest first.
        earlier: Vec<Failure>,
    },
    /// Somebody cancelled it.
    #[error("run job `{name}`: cancelled: {why}")]
    Cancelled {
        /// The job's name.
        name: String,
        /// Who or what asked.
        why: String,
    },
    /// The application cannot go on, through no fault of the job.
    #[error("run a job: the application cannot go on")]
    Doomed {
        /// Why not.
        #[source]
        failure: Box<Failure>,
    },
    /// The application has stopped, or its driver could not go on.
    #[error("run a job: the application has ended: {why}")]
    Ended {
        /// Why.
        why: String,
    },
}

/// The items of a job, then its end; the first error is the last item. Dropping it cancels the job.
pub type JobStream = Pin<Box<dyn Stream<Item = Result<JobItem, JobError>> + Send>>;

/// The bytes of a result, piece by piece. Each is fetched when it is asked for, or one ahead.
pub type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, JobError>> + Send>>;

/// The result of one partition of a job that is streamed: accepted, and given once.
pub struct StreamedResult {
    /// The partition.
    pub partition: PartitionId,
    /// Its bytes. They are kept until this is dropped, whenever the job ends.
    pub pieces: Pieces,
}

/// The results of a job in the order of arrival, then its end; the first error is the last item. Dropping it cancels the job.
pub type ResultStream = Pin<Box<dyn Stream<Item = Result<StreamedResult, JobError>> + Send>>;

/// Runs jobs: the driver, to those who build jobs.
///
/// Callers may run any number of jobs at once, from any thread. Implementors deliver each result once, keep at most a
/// bounded number of undelivered results in memory, and cancel a job whose stream is dropped.
pub trait JobRunner: Send + Sync {
    /// The application.
    fn app(&self) -> AppId;

    /// Its epoch.
    fn epoch(&self) -> Epoch;

    /// Gives out ids of this application.
    fn ids(&self) -> &IdSource;

    /// How many tasks can run at once when every executor that may exist does: the default number of partitions.
    fn parallelism(&self) -> u32;

    /// Starts a job. Nothing happens before the stream is first polled, but submission order is kept per thread.
    fn run(&self, job: Job) -> JobStream;

    /// Starts a job whose results may have any size together, as they are read piece by piece and not kept. Those that are too
    /// small for the store wait in memory: a job fails whose reader leaves too many of them.
    fn stream(&self, job: Job) -> ResultStream;

    /// Looks whether a write would be made, before anything is computed for it: `false` if its mode ignores what is there.
    /// [`JobRunner::write`] looks again.
    ///
    /// # Errors
    /// The mode refuses what is there, or nobody can look.
    fn would_write(&self, target: &WriteTarget) -> BoxFuture<'static, Result<bool, JobError>>;

    /// Waits until every write that was committed to a folder is published, and gives the number of the last one: 0 where
    /// none ever was. Who lists the folder between two calls that give the same number sees all files of a write, or none.
    ///
    /// # Errors
    /// A write stays unfinished, or nobody can look.
    fn settled(&self, folder: &str) -> BoxFuture<'static, Result<u64, JobError>>;

    /// Runs a job whose last stage writes, and commits its files: they appear exactly once, and all at once. Gives what
    /// accumulators received, then [`JobItem::Written`].
    ///
    /// # Cancellation
    /// Dropping the stream before the commit's entry aborts the write; after it, the write is finished in the
    /// background before the application ends.
    fn write(&self, job: Job, target: WriteTarget) -> JobStream;

    /// No lineage can ask for this shuffle any more: its objects may be deleted.
    fn release_shuffle(&self, shuffle: ShuffleId);

    /// This persisted dataset is not wanted any more: executors drop its partitions, the store too.
    fn unpersist(&self, rdd: RddId);

    /// This broadcast variable is not wanted any more.
    fn forget_broadcast(&self, broadcast: BroadcastId);

    /// Cancels every job of a group; `None` cancels all.
    fn cancel(&self, group: Option<&str>, why: &str);

    /// Tells a person something once, such as a setting that had no effect.
    fn warn(&self, text: &str);
}
