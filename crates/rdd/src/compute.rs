//! How is a partition computed?
//!
//! [`prepare`] decodes a stage's body once; [`Prepared::run`] computes one partition of it on the calling thread, which
//! may block. Rows flow through one monomorphised loop; what can fail inside leaves its error in the [`Task`] and ends
//! the rows, and the error is looked for before anything that was computed counts.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use model::messages::AccumulatorUpdate;
use model::metrics::TaskMetrics;
use model::shuffle::{ReadPlan, ReadRange, ReadReport, ShuffleSpec};
use model::write::StagedFile;
use model::{AppId, AttemptId, Epoch, ExecutorId, Failure, FailureKind, PartitionId, RddId, ShuffleId, WorkingMemory};
use object_store::ObjectStore;
use object_store::path::Path;
use shuffle::{HandedOver, Reader, ShuffleRuntime};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::codec::{BodyReader, InputReader};
use crate::error::Error;
use crate::function::FunctionRef;
use crate::persist::StorageLevel;
use crate::shared;
use crate::stages::{DecodeStage, RunStage};

/// Cached partitions of an executor, as encoded bytes.
pub trait CachedBlocks: Send + Sync {
    /// A partition's blocks, if they are here or, for [`StorageLevel::ObjectStore`], in the store.
    ///
    /// # Errors
    /// When they should be there and cannot be read; the caller computes the partition again.
    fn get(&self, rdd: RddId, partition: PartitionId, level: StorageLevel) -> Result<Option<Vec<Bytes>>, Failure>;

    /// Keeps a partition's blocks; whether it did. A partition that is not kept is computed again when it is wanted.
    ///
    /// # Errors
    /// When the level promises that the blocks are kept and they cannot be.
    fn put(&self, rdd: RddId, partition: PartitionId, level: StorageLevel, blocks: Vec<Bytes>)
    -> Result<bool, Failure>;
}

/// Local disk for what does not fit into memory.
pub trait SpillSpace: Send + Sync {
    /// A new file, open for writing and reading, that vanishes when it is closed.
    ///
    /// # Errors
    /// When the disk is full or fails.
    fn create(&self) -> std::io::Result<File>;

    /// Takes room for bytes that are about to be written. Unless limited, there is always some.
    ///
    /// # Errors
    /// There is not so much.
    fn take(&self, bytes: u64) -> std::io::Result<()> {
        let _ = bytes;
        Ok(())
    }

    /// Gives back what was taken, once the bytes are gone.
    fn give_back(&self, bytes: u64) {
        let _ = bytes;
    }
}

/// What an executor gives to a task: field by field its own task context.
#[derive(Clone)]
pub struct TaskEnv {
    /// The attempt.
    pub attempt: AttemptId,
    /// The application.
    pub app: AppId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Where the task runs.
    pub executor: ExecutorId,
    /// The partition's own input.
    pub input: Bytes,
    /// What the task may read from shuffles.
    pub reads: Vec<ReadPlan>,
    /// The shuffles that it may read.
    pub read_specs: Vec<Arc<ShuffleSpec>>,
    /// The shuffle that it writes.
    pub writes: Option<Arc<ShuffleSpec>>,
    /// Maps of the same stage still wait for a slot.
    pub stage_has_pending: bool,
    /// The process's shuffle runtime.
    pub shuffle: ShuffleRuntime,
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// Its root for this deployment.
    pub root: Path,
    /// Where requests run.
    pub io: Handle,
    /// Set when the task is to stop.
    pub cancel: CancellationToken,
    /// Memory for combining and sorting.
    pub memory: Arc<dyn WorkingMemory>,
    /// Cached partitions.
    pub blocks: Arc<dyn CachedBlocks>,
    /// Local disk.
    pub spill: Arc<dyn SpillSpace>,
    /// Settings that are not at their default.
    pub settings: Arc<BTreeMap<String, String>>,
}

/// What a task gives to its executor: field by field the executor's own task product.
#[derive(Default)]
pub struct Product {
    /// The result stage's value, encoded.
    pub result: Option<Bytes>,
    /// A shuffle stage's output.
    pub written: Option<HandedOver>,
    /// Files staged.
    pub staged: Vec<StagedFile>,
    /// What was read from shuffles.
    pub reads: Vec<ReadReport>,
    /// What accumulators received.
    pub accumulators: Vec<AccumulatorUpdate>,
    /// Partitions of persisted datasets that this executor now holds.
    pub cached: Vec<(RddId, PartitionId)>,
    /// What a person should hear once.
    pub warnings: Vec<String>,
    /// Counters.
    pub metrics: TaskMetrics,
}

/// A running task: what it was given and what it has produced besides rows. A cheap handle, for one thread.
#[derive(Clone)]
pub struct Task(Rc<TaskState>);

/// The content of a [`Task`].
pub struct TaskState {
    /// What the executor gave.
    pub env: TaskEnv,
    failed: RefCell<Option<Error>>,
    reads: RefCell<Vec<ReadReport>>,
    staged: RefCell<Vec<StagedFile>>,
    cached: RefCell<Vec<(RddId, PartitionId)>>,
    warnings: RefCell<Vec<String>>,
    metrics: Cell<TaskMetrics>,
    pub(crate) accumulators: RefCell<shared::Buffers>,
}

impl Deref for Task {
    type Target = TaskState;

    #[inline]
    fn deref(&self) -> &TaskState {
        &self.0
    }
}

impl Task {
    pub(crate) fn new(env: TaskEnv) -> Self {
        Self(Rc::new(TaskState {
            env,
            failed: RefCell::default(),
            reads: RefCell::default(),
            staged: RefCell::default(),
            cached: RefCell::default(),
            warnings: RefCell::default(),
            metrics: Cell::default(),
            accumulators: RefCell::default(),
        }))
    }

    /// The partition of the stage.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        self.env.attempt.partition
    }

    /// Fails the task. The caller ends its rows; the first error counts.
    #[cold]
    pub fn fail(&self, error: impl Into<Error>) {
        self.failed.borrow_mut().get_or_insert_with(|| error.into());
    }

    /// Whether the task has failed or is to stop; sources ask this once per chunk of rows, and end if so.
    #[must_use]
    pub fn ended(&self) -> bool {
        if self.env.cancel.is_cancelled() {
            self.fail(Error::Cancelled);
        }
        self.failed.borrow().is_some()
    }

    /// The error that ended the rows, if any. To be asked before what was computed from them counts.
    ///
    /// # Errors
    /// That error.
    pub fn check(&self) -> Result<(), Error> {
        self.failed.borrow_mut().take().map_or(Ok(()), Err)
    }

    /// Opens the rows of partitions `[start, end)` of a shuffle.
    ///
    /// # Errors
    /// When the driver has not planned that read: a defect.
    pub fn read(&self, shuffle: ShuffleId, start: u32, end: u32) -> Result<Reader, Error> {
        let range = ReadRange { shuffle, start, end };
        let plan = self.env.reads.iter().find(|plan| plan.range == range);
        let spec = self.env.read_specs.iter().find(|spec| spec.shuffle == shuffle);
        match (plan, spec) {
            (Some(plan), Some(spec)) => Ok(self.env.shuffle.read(spec, plan.clone())),
            _ => Err(Failure::new(FailureKind::Internal, format!("read {shuffle}: no plan for {start}..{end}")).into()),
        }
    }

    /// Notes what was read from a shuffle.
    pub fn report_read(&self, report: ReadReport) {
        self.count(|m| {
            m.shuffle_read_rows += report.rows.iter().sum::<u64>();
            m.shuffle_read_bytes += report.bytes;
            m.shuffle_read_requests += report.requests;
            m.shuffle_read_retries += report.retries;
        });
        self.reads.borrow_mut().push(report);
    }

    /// Notes a file staged for the job's write.
    pub fn stage_file(&self, file: StagedFile) {
        self.staged.borrow_mut().push(file);
    }

    /// Notes a cached partition.
    pub fn note_cached(&self, rdd: RddId, partition: PartitionId) {
        self.cached.borrow_mut().push((rdd, partition));
    }

    /// Something a person should hear once.
    pub fn warn(&self, text: impl Into<String>) {
        self.warnings.borrow_mut().push(text.into());
    }

    /// Changes the counters.
    pub fn count(&self, change: impl FnOnce(&mut TaskMetrics)) {
        let mut metrics = self.metrics.get();
        change(&mut metrics);
        self.metrics.set(metrics);
    }

    /// Waits for a future of the I/O runtime; ends early if the task is cancelled.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub fn wait<F: Future>(&self, future: F) -> Result<F::Output, Error> {
        let _entered = self.env.io.enter();
        futures::executor::block_on(async {
            tokio::select! {
                biased;
                () = self.env.cancel.cancelled() => Err(Error::Cancelled),
                output = future => Ok(output),
            }
        })
    }

    fn product(&self, ran: StageOutput) -> Result<Product, Error> {
        self.check()?;
        let accumulators = self.accumulators.borrow_mut().take()?;
        Ok(Product {
            result: ran.result,
            written: ran.written,
            staged: self.staged.take(),
            reads: self.reads.take(),
            accumulators,
            cached: self.cached.take(),
            warnings: self.warnings.take(),
            metrics: self.metrics.get(),
        })
    }
}

/// What a stage's loop gives.
#[derive(Default)]
pub struct StageOutput {
    /// The value for the driver, encoded.
    pub result: Option<Bytes>,
    /// The shuffle output.
    pub written: Option<HandedOver>,
}

pub use crate::shared::forget_broadcast;

/// A stage that is ready to compute partitions, on any number of threads at once.
pub struct Prepared {
    stage: Box<dyn RunStage>,
    broadcasts: shared::Attached,
}

/// Decodes a stage's body. Once per executor and stage attempt.
///
/// # Errors
/// When the body is of another executable, or damaged.
pub fn prepare(body: &Bytes) -> Result<Prepared, Failure> {
    let decode = || {
        let mut body = BodyReader::new(body)?;
        let broadcasts = shared::Attached::read(&mut body)?;
        let stage = {
            let _scope = broadcasts.enter();
            let decode: DecodeStage = crate::function::resolve(body.value::<FunctionRef>()?)?;
            decode(&mut body)?
        };
        body.finish()?;
        Ok(Prepared { stage, broadcasts })
    };
    decode().map_err(Error::into_failure)
}

impl Prepared {
    /// Computes one partition. Blocks the calling thread, which must not be one of an async runtime.
    ///
    /// # Errors
    /// Whatever ended the task.
    ///
    /// # Panics
    /// When a function of the user's panics: the caller contains it.
    pub fn run(&self, env: TaskEnv) -> Result<Product, Failure> {
        let task = Task::new(env);
        let _current = shared::enter(&task);
        let mut input = InputReader::new(task.env.input.clone());
        let run = self.broadcasts.fetch(&task).and_then(|()| self.stage.run(&task, &mut input));
        let ran = run.map_err(|error| {
            // An earlier error of a source is the cause of whatever its missing rows led to.
            task.check().err().unwrap_or(error).into_failure()
        })?;
        task.product(ran).map_err(Error::into_failure)
    }
}
