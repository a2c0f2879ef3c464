//! How is an attempt decoded, run, contained, reported?

use std::sync::Arc;

use bytes::Bytes;
use model::graph::BodyKind;
use model::messages::AccumulatorUpdate;
use model::metrics::TaskMetrics;
use model::setting::Values;
use model::shuffle::{ReadPlan, ReadReport, ShuffleSpec};
use model::write::StagedFile;
use model::{AppId, AttemptId, BroadcastId, Epoch, ExecutorId, Failure, PartitionId, RddId};
use object_store::ObjectStore;
use object_store::path::Path;
use shuffle::{HandedOver, ShuffleRuntime};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::blocks::Blocks;
use crate::memory::WorkingPool;
use crate::spill::SpillDir;

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
