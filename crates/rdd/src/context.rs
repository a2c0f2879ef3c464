//! How does a program begin, and how is a job run from it?

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::ThreadId;

use bytes::Bytes;
use futures::StreamExt;
use model::graph::{Job, Stage};
use model::runner::{JobError, JobItem, JobStream};
use model::setting::Values;
use model::shuffle::PartitionSize;
use model::write::{WriteReport, WriteTarget};
use model::{AccumulatorId, JobId, JobRunner, PartitionId};
use object_store::ObjectStore;
use object_store::path::Path;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::chain::Label;
use crate::codec::Data;
use crate::config::DEFAULT_PARALLELISM;
use crate::error::Error;
use crate::function::Function;
use crate::shared::{self, Accumulator, Broadcast};

/// Results that wait for the program at a time, per job: enough to keep it busy, few enough to hold.
const RESULTS_WAITING: usize = 64;

/// Makes datasets and runs jobs on them. A cheap handle, for any thread.
///
/// Calls block the calling thread, also inside an async runtime; there, prefer a thread for blocking work.
#[derive(Clone)]
pub struct RddContext(Arc<Inner>);

type Merge = Box<dyn Fn(&[u8]) -> Result<bool, Error> + Send>;

struct Inner {
    runner: Arc<dyn JobRunner>,
    store: Arc<dyn ObjectStore>,
    root: Path,
    io: Handle,
    default_parallelism: Option<u32>,
    groups: Mutex<HashMap<ThreadId, String>>,
    checkpoint_dir: Mutex<Option<String>>,
    totals: Mutex<HashMap<AccumulatorId, Merge>>,
}

impl RddContext {
    /// A context over whoever runs jobs, and the store in which large values lie.
    ///
    /// # Errors
    /// When a setting of this crate has a value that it does not take.
    pub fn new(
        runner: Arc<dyn JobRunner>,
        store: Arc<dyn ObjectStore>,
        root: Path,
        io: Handle,
        values: &Values,
    ) -> Result<Self, Error> {
        let chosen = !DEFAULT_PARALLELISM.value(values).is_empty();
        let default_parallelism = chosen.then(|| DEFAULT_PARALLELISM.integer(values)).transpose();
        let default_parallelism = default_parallelism.map_err(|error| Error::Invalid(error.to_string()))?;
        Ok(Self(Arc::new(Inner {
            runner,
            store,
            root,
            io,
            default_parallelism: default_parallelism.map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
            groups: Mutex::default(),
            checkpoint_dir: Mutex::default(),
            totals: Mutex::default(),
        })))
    }

    /// How many partitions a dataset gets when nobody names a number.
    #[must_use]
    pub fn default_parallelism(&self) -> u32 {
        self.0.default_parallelism.unwrap_or_else(|| self.0.runner.parallelism()).max(1)
    }

    /// A value that every executor has once, for functions to capture.
    pub fn broadcast<T: Data>(&self, value: T) -> Broadcast<T> {
        Broadcast::new(self, value)
    }

    /// A total that tasks add to with `+=`.
    pub fn accumulator<T: Data + Clone + std::ops::AddAssign>(&self, zero: T) -> Accumulator<T> {
        Accumulator::new(self, zero, |total: &mut T, added| *total += added)
    }

    /// A total that tasks add to with a function of the program's, which is associative and commutative and captures
    /// nothing. `zero` changes nothing when it is merged.
    pub fn accumulator_with<T: Data + Clone, F: Fn(&mut T, T) + Function>(&self, zero: T, merge: F) -> Accumulator<T> {
        Accumulator::new(self, zero, merge)
    }

    /// Puts the jobs that this thread starts from now on into a group, or into none.
    pub fn set_job_group(&self, group: Option<&str>) {
        let mut groups = lock(&self.0.groups);
        match group {
            Some(group) => groups.insert(std::thread::current().id(), group.to_owned()),
            None => groups.remove(&std::thread::current().id()),
        };
    }

    /// Cancels every job of a group that runs.
    pub fn cancel_job_group(&self, group: &str) {
        self.0.runner.cancel(Some(group), "its group was cancelled by the program");
    }

    /// Cancels every job that runs.
    pub fn cancel_all_jobs(&self) {
        self.0.runner.cancel(None, "all jobs were cancelled by the program");
    }

    /// The folder, as a URL, to which [`checkpoint`](crate::Rdd::checkpoint) writes.
    pub fn set_checkpoint_dir(&self, url: &str) {
        *lock(&self.0.checkpoint_dir) = Some(url.to_owned());
    }

    pub(crate) fn checkpoint_dir(&self) -> Option<String> {
        lock(&self.0.checkpoint_dir).clone()
    }

    /// Whoever runs jobs.
    #[must_use]
    pub fn runner(&self) -> &Arc<dyn JobRunner> {
        &self.0.runner
    }

    /// The store in which large values lie.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.0.store
    }

    /// The runtime on which requests run.
    #[must_use]
    pub fn io(&self) -> &Handle {
        &self.0.io
    }

    /// A key of the store, below the root.
    #[must_use]
    pub fn root_key(&self, key: &str) -> Path {
        shared::join(&self.0.root, key)
    }

    pub(crate) fn totals(&self) -> MutexGuard<'_, HashMap<AccumulatorId, Merge>> {
        lock(&self.0.totals)
    }

    /// Waits for a future of the I/O runtime, from any thread.
    pub fn wait<F: Future>(&self, future: F) -> F::Output {
        let _entered = self.0.io.enter();
        futures::executor::block_on(future)
    }

    pub(crate) fn job(&self, label: Label, stages: Vec<Stage>, wanted: Vec<PartitionId>) -> Job {
        self.job_with_id(self.0.runner.ids().job(), label, stages, wanted)
    }

    pub(crate) fn job_with_id(&self, id: JobId, label: Label, stages: Vec<Stage>, wanted: Vec<PartitionId>) -> Job {
        let group = lock(&self.0.groups).get(&std::thread::current().id()).cloned();
        Job { id, name: label.to_string(), group, stages, wanted }
    }

    /// Runs a job and gives its results, in the order of arrival, to a function on this thread, until that says that it
    /// has enough or fails: then the rest of the job is cancelled.
    ///
    /// # Errors
    /// When the job does not succeed, or the function fails.
    pub fn run(
        &self,
        job: Job,
        mut each: impl FnMut(PartitionId, Bytes) -> Result<ControlFlow<()>, Error>,
    ) -> Result<(), Error> {
        self.drive(self.0.runner.run(job), |item| match item {
            JobItem::Result { partition, bytes } => each(partition, bytes),
            // Its last stage gives results.
            JobItem::Accumulated(_) | JobItem::Shuffled { .. } | JobItem::Written(_) => Ok(ControlFlow::Continue(())),
        })
    }

    /// Runs a job that ends with a shuffle, and says how much is in each partition.
    ///
    /// # Errors
    /// When the job does not succeed.
    pub(crate) fn shuffle(&self, job: Job) -> Result<Vec<PartitionSize>, Error> {
        let mut shuffled = Vec::new();
        self.drive(self.0.runner.run(job), |item| {
            if let JobItem::Shuffled { sizes, .. } = item {
                shuffled = sizes;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(shuffled)
    }

    /// Runs a job that writes, and says what it wrote.
    ///
    /// # Errors
    /// When the job does not succeed.
    pub(crate) fn write(&self, job: Job, target: WriteTarget) -> Result<WriteReport, Error> {
        let mut written = WriteReport::default();
        self.drive(self.0.runner.write(job, target), |item| {
            if let JobItem::Written(report) = item {
                written = report;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(written)
    }

    /// Merges what accumulators receive, and gives all other items of a job to a function on this thread.
    fn drive(
        &self,
        mut stream: JobStream,
        mut each: impl FnMut(JobItem) -> Result<ControlFlow<()>, Error>,
    ) -> Result<(), Error> {
        let (sender, receiver) = mpsc::channel::<Result<JobItem, JobError>>();
        let room = Arc::new(Semaphore::new(RESULTS_WAITING));
        let pump = self.0.io.spawn({
            let room = Arc::clone(&room);
            async move {
                while let Some(item) = stream.next().await {
                    let Ok(permit) = room.acquire().await else { break };
                    permit.forget();
                    if sender.send(item).is_err() {
                        break;
                    }
                }
                // What the job holds is gone before its end is seen: a shuffle dropped next is released at once.
                drop(stream);
            }
        });
        // Dropped with this call, however it ends: the stream goes with it, and with that the job.
        let _pump = AbortOnDrop(pump);
        for item in receiver {
            room.add_permits(1);
            match item? {
                JobItem::Accumulated(updates) => {
                    let mut totals = self.totals();
                    for update in updates {
                        let known = totals.get(&update.accumulator).map(|merge| merge(&update.value)).transpose()?;
                        if known == Some(false) {
                            totals.remove(&update.accumulator);
                        }
                    }
                }
                item => {
                    if each(item)?.is_break() {
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
