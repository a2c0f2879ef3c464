//! What does caching promise?

use serde::{Deserialize, Serialize};

/// Where the partitions of a persisted dataset are kept, as encoded bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StorageLevel {
    /// In the memory of the executor that computed them, as long as it is not needed for work.
    Memory,
    /// The same, and on the executor's disk when memory is needed for work.
    MemoryAndDisk,
    /// In the object store: they outlive executors.
    ObjectStore,
}
