//! How is an attempt decoded, run, contained, reported?

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use model::failure::Blame;
use model::graph::BodyKind;
use model::messages::AccumulatorUpdate;
use model::metrics::TaskMetrics;
use model::panic::contain;
use model::setting::Values;
use model::shuffle::{ReadPlan, ReadReport, ShuffleSpec};
use model::write::StagedFile;
use model::{AppId, AttemptId, BroadcastId, Epoch, ExecutorId, Failure, FailureKind, PartitionId, RddId};
use object_store::ObjectStore;
use object_store::path::Path;
use shuffle::{HandedOver, ShuffleRuntime};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::blocks::Blocks;
use crate::memory::WorkingPool;
use crate::spill::SpillDir;
use crate::surroundings::Surroundings;

/// Makes stage bodies runnable.
///
/// The executor calls it from compute threads and contains its panics.
pub trait BodyRunner: Send + Sync {
    /// Decodes a body. Called once per executor and stage attempt, before its first task, and again after a task of it
    /// failed. `name` is what a person calls the stage.
    ///
    /// # Errors
    /// The failure of every task that waits for it.
    fn prepare(&self, kind: BodyKind, name: &str, body: Bytes) -> Result<Arc<dyn PreparedStage>, Failure>;

    /// This process is an executor and nothing else, and may use so many bytes altogether. Called once, before any body is
    /// decoded. Must not block.
    fn may_use(&self, memory: u64) {
        let _ = memory;
    }

    /// A broadcast variable is not wanted any more. Must not block.
    fn forget_broadcast(&self, broadcast: BroadcastId) {
        let _ = broadcast;
    }
}

/// A decoded stage body, shared by all its tasks on this executor.
pub trait PreparedStage: Send + Sync {
    /// Computes one partition, on a compute thread, which it may block. Should look at `task.cancel` now and then.
    ///
    /// # Errors
    /// The failure of the attempt. The executor adds which attempt it was.
    ///
    /// # Panics
    /// Panics are contained and become failures of the user's code.
    fn run(&self, task: TaskContext) -> Result<TaskProduct, Failure>;
}

/// Everything that one attempt may use.
#[derive(Clone)]
pub struct TaskContext {
    /// Which attempt.
    pub attempt: AttemptId,
    /// The application.
    pub app: AppId,
    /// Its epoch.
    pub epoch: Epoch,
    /// The executor it runs on.
    pub executor: ExecutorId,
    /// The partition's own input.
    pub input: Bytes,
    /// What to read from shuffles.
    pub reads: Vec<ReadPlan>,
    /// Every shuffle the stage reads.
    pub read_specs: Vec<Arc<ShuffleSpec>>,
    /// The shuffle the stage writes, if any.
    pub writes: Option<Arc<ShuffleSpec>>,
    /// Maps of the same stage still wait for a slot.
    pub stage_has_pending: bool,
    /// Writes and reads shuffles.
    pub shuffle: ShuffleRuntime,
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// Its root.
    pub root: Path,
    /// Where I/O runs; a compute thread may block on it.
    pub io: Handle,
    /// Cancelled when the attempt is not wanted any more.
    pub cancel: CancellationToken,
    /// The attempt's share of the working memory.
    pub memory: WorkingPool,
    /// Cached partitions.
    pub blocks: Blocks,
    /// Local disk.
    pub spill: SpillDir,
    /// All settings that are not at their default, by key.
    pub settings: Arc<Values>,
}

/// What a successful attempt gives.
#[derive(Default)]
pub struct TaskProduct {
    /// The result stage's rows for the driver.
    pub result: Option<Bytes>,
    /// A shuffle stage's output: encoded and packed, perhaps not stored yet.
    pub written: Option<HandedOver>,
    /// Files staged by a stage that writes.
    pub staged: Vec<StagedFile>,
    /// What was read from shuffles.
    pub reads: Vec<ReadReport>,
    /// What accumulators received.
    pub accumulators: Vec<AccumulatorUpdate>,
    /// Partitions of persisted datasets that this executor now holds.
    pub cached: Vec<(RddId, PartitionId)>,
    /// Things a person should hear once.
    pub warnings: Vec<String>,
    /// Counters. The executor fills in what it knows itself: time, shuffle rows and bytes, bytes of the result.
    pub metrics: TaskMetrics,
}

/// A stage attempt as its tasks see it.
pub(crate) struct Stage {
    pub(crate) name: String,
    pub(crate) kind: BodyKind,
    pub(crate) writes: Option<Arc<ShuffleSpec>>,
    pub(crate) reads: Vec<Arc<ShuffleSpec>>,
    prepared: Mutex<Option<Arc<dyn PreparedStage>>>,
}

impl Stage {
    pub(crate) fn new(
        name: String,
        kind: BodyKind,
        writes: Option<Arc<ShuffleSpec>>,
        reads: Vec<Arc<ShuffleSpec>>,
    ) -> Self {
        Self { name, kind, writes, reads, prepared: Mutex::default() }
    }

    /// The decoded body. Whoever comes while another decodes it waits for that one.
    fn prepared(&self, runner: &dyn BodyRunner, body: &Bytes) -> Result<Arc<dyn PreparedStage>, Failure> {
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stage) = &*prepared {
            return Ok(stage.clone());
        }
        let decode = || runner.prepare(self.kind, &self.name, body.clone());
        let new = contain(decode, || format!("decode stage `{}`", self.name)).flatten()?;
        *prepared = Some(new.clone());
        Ok(new)
    }

    /// Drops a decoded body that failed: what it shares between tasks may be half done.
    fn discard(&self, failed: &Arc<dyn PreparedStage>) {
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        if prepared.as_ref().is_some_and(|stage| Arc::ptr_eq(stage, failed)) {
            *prepared = None;
        }
    }
}

/// An attempt with everything it needs, ready for a compute thread.
pub(crate) struct ReadyTask {
    pub(crate) attempt: AttemptId,
    pub(crate) stage: Arc<Stage>,
    pub(crate) body: Bytes,
    pub(crate) input: Bytes,
    pub(crate) reads: Vec<ReadPlan>,
    pub(crate) stage_has_pending: bool,
    pub(crate) cancel: CancellationToken,
}

/// How an attempt's computing ended.
pub(crate) struct Computed {
    pub(crate) attempt: AttemptId,
    pub(crate) product: Result<Box<TaskProduct>, Failure>,
    pub(crate) took: Duration,
}

impl ReadyTask {
    /// Computes the partition on the calling thread. Does not panic, whatever the body does.
    pub(crate) fn run(self, around: &Surroundings) -> Computed {
        let begun = Instant::now();
        let attempt = self.attempt;
        let mut product = self.compute(around).map(Box::new);
        if let (Err(failure), Some(printed)) = (&mut product, &around.printed)
            && says_more(failure.kind.blame())
        {
            failure.last_lines = printed.last_lines(LAST_LINES_WITHIN);
        }
        Computed { attempt, product, took: begun.elapsed() }
    }

    fn compute(self, around: &Surroundings) -> Result<TaskProduct, Failure> {
        let attempt = self.attempt;
        if self.cancel.is_cancelled() {
            return Err(Failure::new(FailureKind::Cancelled, "cancelled before it began"));
        }
        let stage = self.stage;
        let prepared = stage.prepared(&*around.runner, &self.body)?;
        let task = TaskContext {
            attempt,
            app: around.app,
            epoch: around.epoch,
            executor: around.executor,
            input: self.input,
            reads: self.reads,
            read_specs: stage.reads.clone(),
            writes: stage.writes.clone(),
            stage_has_pending: self.stage_has_pending,
            shuffle: around.shuffle.clone(),
            store: around.store.clone(),
            root: around.root.clone(),
            io: around.io.clone(),
            cancel: self.cancel,
            memory: around.pool.share(),
            blocks: around.blocks.clone(),
            spill: around.spill.clone(),
            settings: around.settings.clone(),
        };
        let what = || format!("compute partition {} of `{}`", attempt.partition, stage.name);
        let product = contain(|| prepared.run(task), what).flatten();
        if product.is_err() {
            stage.discard(&prepared);
        }
        product
    }
}

/// Whether what was printed may say more about a failure than its message: not if the store or nobody is to blame.
fn says_more(blame: Blame) -> bool {
    match blame {
        Blame::User | Blame::Task | Blame::Executor | Blame::Vonk => true,
        Blame::Object | Blame::Store | Blame::Cluster | Blame::Setup | Blame::Nobody => false,
    }
}

/// A task that has failed waits so long until what it has printed is kept, which takes a few microseconds.
const LAST_LINES_WITHIN: Duration = Duration::from_millis(200);
