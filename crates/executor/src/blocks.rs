//! What is cached on an executor?

use bytes::Bytes;
use model::{Failure, PartitionId, RddId};

/// Where a cached partition lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// In memory, while there is room.
    Memory,
    /// In memory while there is room, else on the local disk.
    MemoryAndDisk,
    /// In the object store: it outlives the executor.
    ObjectStore,
}

/// The cached partitions of an executor: encoded, in pieces. Cheap to clone.
#[derive(Clone)]
pub struct Blocks {}

impl Blocks {
    /// A cached partition, from wherever it lies. Blocks while it is read.
    ///
    /// # Errors
    /// The object store fails. What cannot be read from the local disk counts as not cached.
    pub fn get(&self, rdd: RddId, partition: PartitionId, level: Level) -> Result<Option<Vec<Bytes>>, Failure> {
        let _ = (rdd, partition, level);
        Ok(None)
    }

    /// Caches a partition. Blocks while it is written. `false` if there is no room for it.
    ///
    /// # Errors
    /// The object store fails.
    pub fn put(&self, rdd: RddId, partition: PartitionId, level: Level, pieces: Vec<Bytes>) -> Result<bool, Failure> {
        let _ = (rdd, partition, level, pieces);
        Ok(false)
    }
}
