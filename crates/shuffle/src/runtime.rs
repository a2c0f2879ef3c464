//! What do the tasks of one process share?

use std::sync::Arc;

use model::ids::{AttemptId, ExecutorId, Generation, ShuffleId};
use model::shuffle::{OpenObject, ReadPlan, ShuffleSpec};
use object_store::ObjectStore;
use object_store::path::Path;
use tokio::runtime::Handle;

use crate::{Budget, Member, Reader};

/// Memory, uploads and read permits of one process. Cheap to clone.
#[derive(Clone)]
pub struct ShuffleRuntime {}

impl ShuffleRuntime {
    /// A runtime over a store; requests run on `io`.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, root: Path, executor: ExecutorId, budget: Budget, io: Handle) -> Self {
        let _ = (store, root, executor, budget, io);
        Self {}
    }

    /// Begins the output of a map; dropping it aborts.
    #[must_use]
    pub fn member(&self, spec: &Arc<ShuffleSpec>, attempt: AttemptId, stage_has_pending: bool) -> Member {
        let _ = (spec, attempt, stage_has_pending);
        Member {}
    }

    /// No map of this shuffle waits for a slot any more.
    pub fn no_more_maps(&self, shuffle: ShuffleId, generation: Generation) {
        let _ = (shuffle, generation);
    }

    /// Objects begun but in no status yet.
    #[must_use]
    pub fn open_objects(&self) -> Vec<OpenObject> {
        Vec::new()
    }

    /// Bytes that writers hold.
    #[must_use]
    pub fn memory_used(&self) -> u64 {
        0
    }

    /// Reads what a plan names.
    #[must_use]
    pub fn read(&self, spec: &Arc<ShuffleSpec>, plan: ReadPlan) -> Reader {
        let _ = (spec, plan);
        Reader {}
    }
}
