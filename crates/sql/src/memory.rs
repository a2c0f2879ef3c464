//! Whose memory does a query use?
//!
//! In an executor, the working memory of its task: DataFusion's fair pool divides it among the operators that can spill, and
//! every byte is asked of the executor too, which shares it with cached partitions and with tasks of functions.

use std::fmt;
use std::sync::Arc;

use datafusion::common::{DataFusionError, Result};
use datafusion::execution::memory_pool::{FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};
use model::WorkingMemory;

/// The pool of one task.
pub(crate) struct TaskPool {
    fair: FairSpillPool,
    limit: usize,
    memory: Arc<dyn WorkingMemory>,
}

impl TaskPool {
    /// A pool over a task's memory, of which it can hope to get `limit` bytes.
    pub(crate) fn new(memory: Arc<dyn WorkingMemory>, limit: u64) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Self { fair: FairSpillPool::new(limit), limit, memory }
    }
}

impl fmt::Debug for TaskPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskPool").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl fmt::Display for TaskPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task pool of {} bytes", self.limit)
    }
}

impl MemoryPool for TaskPool {
    fn name(&self) -> &'static str {
        "task"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.fair.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.fair.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        // What cannot be refused is taken; if the executor says no, it is only not counted there.
        self.fair.grow(reservation, additional);
        let _ = self.memory.try_grow(additional as u64);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.fair.shrink(reservation, shrink);
        self.memory.shrink(shrink as u64);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        self.fair.try_grow(reservation, additional)?;
        if self.memory.try_grow(additional as u64) {
            return Ok(());
        }
        self.fair.shrink(reservation, additional);
        let (name, used) = (reservation.consumer().name(), self.fair.reserved());
        Err(DataFusionError::ResourcesExhausted(format!(
            "{name} asked for {additional} bytes more, and the executor has none to give: the task uses {used}; raise \
             executor.memory, or run fewer tasks at a time"
        )))
    }

    fn reserved(&self) -> usize {
        self.fair.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.limit)
    }
}
