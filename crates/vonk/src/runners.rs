//! How do stage bodies reach those who can run them?
//!
//! `executor` offers memory, cached partitions and local disk; `rdd` asks for them by traits of its own, so that neither
//! knows the other. This is where they meet.

use std::sync::Arc;

use bytes::Bytes;
use executor::{BodyRunner, PreparedStage, TaskContext, TaskProduct};
#[cfg(not(feature = "sql"))]
use model::FailureKind;
use model::graph::BodyKind;
use model::{BroadcastId, Failure, PartitionId, RddId};
use rdd::StorageLevel;
use rdd::compute::{CachedBlocks, Prepared, SpillSpace, TaskEnv};

/// Runs every kind of body that this build knows.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Runners;

impl BodyRunner for Runners {
    fn prepare(&self, kind: BodyKind, name: &str, body: Bytes) -> Result<Arc<dyn PreparedStage>, Failure> {
        match kind {
            BodyKind::Function => Ok(Arc::new(Functions(rdd::compute::prepare(&body)?))),
            #[cfg(feature = "sql")]
            BodyKind::Plan => {
                let _ = name;
                let carrier = Arc::<crate::queries::Table>::default();
                Ok(Arc::new(Plan(sql::prepare(body, carrier)?)))
            }
            #[cfg(not(feature = "sql"))]
            BodyKind::Plan => {
                let what = format!("run stage `{name}`: this executable was built without SQL");
                Err(Failure::new(FailureKind::Query, what))
            }
        }
    }

    fn may_use(&self, memory: u64) {
        crate::allocator::keep_below(memory);
    }

    fn forget_broadcast(&self, broadcast: BroadcastId) {
        rdd::compute::forget_broadcast(broadcast);
    }
}

/// A stage of Rust functions.
struct Functions(Prepared);

impl PreparedStage for Functions {
    fn run(&self, task: TaskContext) -> Result<TaskProduct, Failure> {
        let product = self.0.run(TaskEnv {
            attempt: task.attempt,
            app: task.app,
            epoch: task.epoch,
            executor: task.executor,
            input: task.input,
            reads: task.reads,
            read_specs: task.read_specs,
            writes: task.writes,
            stage_has_pending: task.stage_has_pending,
            shuffle: task.shuffle,
            store: task.store,
            root: task.root,
            io: task.io,
            cancel: task.cancel,
            memory: Arc::new(task.memory),
            blocks: Arc::new(Blocks(task.blocks)),
            spill: Arc::new(Spill(task.spill)),
            settings: task.settings,
        })?;
        Ok(TaskProduct {
            result: product.result,
            written: product.written,
            staged: product.staged,
            reads: product.reads,
            accumulators: product.accumulators,
            cached: product.cached,
            warnings: product.warnings,
            metrics: product.metrics,
        })
    }
}

/// A stage of a query.
#[cfg(feature = "sql")]
struct Plan(sql::Prepared);

#[cfg(feature = "sql")]
impl PreparedStage for Plan {
    fn run(&self, task: TaskContext) -> Result<TaskProduct, Failure> {
        let memory_limit = task.memory.limit();
        let product = self.0.run(&sql::TaskEnv {
            attempt: task.attempt,
            input: task.input,
            reads: task.reads,
            read_specs: task.read_specs,
            writes: task.writes,
            stage_has_pending: task.stage_has_pending,
            shuffle: task.shuffle,
            io: task.io,
            cancel: task.cancel,
            memory: Arc::new(task.memory),
            memory_limit,
            spill: Arc::new(Spill(task.spill)),
            settings: task.settings,
        })?;
        Ok(TaskProduct {
            result: product.result,
            written: product.written,
            staged: product.staged,
            reads: product.reads,
            metrics: product.metrics,
            ..TaskProduct::default()
        })
    }
}

struct Blocks(executor::Blocks);

fn level(level: StorageLevel) -> executor::Level {
    match level {
        StorageLevel::Memory => executor::Level::Memory,
        StorageLevel::MemoryAndDisk => executor::Level::MemoryAndDisk,
        StorageLevel::ObjectStore => executor::Level::ObjectStore,
    }
}

impl CachedBlocks for Blocks {
    fn get(&self, rdd: RddId, partition: PartitionId, at: StorageLevel) -> Result<Option<Vec<Bytes>>, Failure> {
        self.0.get(rdd, partition, level(at))
    }

    fn put(&self, rdd: RddId, partition: PartitionId, at: StorageLevel, blocks: Vec<Bytes>) -> Result<bool, Failure> {
        self.0.put(rdd, partition, level(at), blocks)
    }
}

struct Spill(executor::SpillDir);

impl SpillSpace for Spill {
    fn create(&self) -> std::io::Result<std::fs::File> {
        let folder = self.0.path().map_err(std::io::Error::other)?;
        tempfile::tempfile_in(folder)
    }

    fn take(&self, bytes: u64) -> std::io::Result<()> {
        self.0.take(bytes)
    }

    fn give_back(&self, bytes: u64) {
        self.0.give_back(bytes);
    }
}

#[cfg(feature = "sql")]
impl sql::SpillSpace for Spill {
    fn folder(&self) -> Result<std::path::PathBuf, Failure> {
        self.0.path()
    }

    fn take(&self, bytes: u64) -> Result<(), Failure> {
        self.0.take(bytes).map_err(|error| self.0.failure("spill rows", &error))
    }

    fn give_back(&self, bytes: u64) {
        self.0.give_back(bytes);
    }
}
