//! What can go wrong, and what does it permit?

use std::sync::Arc;
use std::time::Duration;

use arrow::error::ArrowError;
use model::failure::{MapFault, ObjectRef};
use model::ids::{Generation, MapId, ShuffleId};
use model::{Failure, FailureKind};

/// Whatever goes wrong between a row's writer and its reader. Cheap to clone: one upload fails several maps.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The store has no object that a plan names.
    #[error("read {key} of {shuffle}: the store has no such object")]
    Missing {
        /// The shuffle.
        shuffle: ShuffleId,
        /// The generation that was read.
        generation: Generation,
        /// The object.
        object: ObjectRef,
        /// Its key.
        key: String,
        /// Every map with rows in it.
        maps: Vec<MapId>,
        /// What the store said.
        source: Arc<object_store::Error>,
    },
    /// Bytes or rows are not those that were written, on fresh reads too.
    #[error("read {shuffle} from {key} at byte {offset}: {damage} after {retries} fresh reads")]
    Corrupt {
        /// The shuffle.
        shuffle: ShuffleId,
        /// The generation that was read.
        generation: Generation,
        /// The object, unless the rows were inline.
        object: Option<ObjectRef>,
        /// Its key, or "a message".
        key: String,
        /// Every map with rows in it.
        maps: Vec<MapId>,
        /// Where in the source's range.
        offset: u64,
        /// What is wrong.
        damage: Damage,
        /// How often it was read again.
        retries: u32,
    },
    /// The store outlasted all retries.
    #[error("{operation} {key}: the store failed {tries} times in {waited:?}")]
    StoreUnavailable {
        /// What was asked: `get`, `put`, …
        operation: &'static str,
        /// Of which object.
        key: String,
        /// How often.
        tries: u32,
        /// For how long.
        waited: Duration,
        /// What the store said last; none if it said nothing in time.
        source: Option<Arc<object_store::Error>>,
    },
    /// The store refuses: rights, no bucket, an operation it lacks.
    #[error("{operation} {key}: the store refuses")]
    Denied {
        /// What was asked.
        operation: &'static str,
        /// Of which object.
        key: String,
        /// What the store said.
        source: Arc<object_store::Error>,
    },
    /// A row is larger than a block may be.
    #[error("write a row of {bytes} bytes to {shuffle}: a row may have {max}")]
    TooLarge {
        /// The shuffle.
        shuffle: ShuffleId,
        /// The row.
        bytes: u64,
        /// The most.
        max: u64,
    },
    /// Rows cannot be written as their shuffle's kind of rows.
    #[error("encode rows of {shuffle}")]
    Encode {
        /// The shuffle.
        shuffle: ShuffleId,
        /// Why.
        source: Arc<ArrowError>,
    },
    /// The caller broke the contract of this crate.
    #[error("write to {shuffle}: {what}")]
    Misuse {
        /// The shuffle.
        shuffle: ShuffleId,
        /// How.
        what: String,
    },
    /// Blocks do not hold the rows that went into them.
    #[error("{map} of {shuffle} took {rows} rows and would publish {published}, or others")]
    Unbalanced {
        /// The shuffle.
        shuffle: ShuffleId,
        /// The map.
        map: MapId,
        /// Rows that came in.
        rows: u64,
        /// Rows in blocks.
        published: u64,
    },
    /// No memory for encoded rows came free, and none was freed for anybody else.
    #[error("write {shuffle}: no memory came free in {waited:?}")]
    NoCredit {
        /// The shuffle.
        shuffle: ShuffleId,
        /// For how long nothing moved.
        waited: Duration,
    },
    /// The task that carried the rows on has ended without a word: the process is ending.
    #[error("{what} of {shuffle} ended early")]
    Ended {
        /// The shuffle.
        shuffle: ShuffleId,
        /// Which part.
        what: &'static str,
    },
    /// A store's URL cannot be opened.
    #[error("open store `{url}`: {why}")]
    OpenStore {
        /// The URL, without its query.
        url: String,
        /// Why.
        why: String,
        /// What the store's client said.
        source: Option<Arc<object_store::Error>>,
    },
}

/// What is wrong with bytes that were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// A body has another length than was asked for.
    #[error("{got} bytes came where {want} were asked for")]
    Length {
        /// Asked for.
        want: u64,
        /// Came.
        got: u64,
    },
    /// A block's header is none.
    #[error("no block header")]
    Header,
    /// A block ends after its range.
    #[error("a block reaches past its range")]
    Overrun,
    /// A block's checksum differs.
    #[error("wrong checksum")]
    Checksum,
    /// A block holds a partition outside its range.
    #[error("partition {0} was not asked for")]
    Partition(u32),
    /// A fresh read gave other blocks than one that had been believed.
    #[error("other blocks than before")]
    Changed,
    /// A block cannot be decoded.
    #[error("undecodable block")]
    Decode,
    /// Rows of a pair are not those that the plan promises.
    #[error("{map}, partition {partition}: {got} rows where {want} were promised")]
    Rows {
        /// The map.
        map: MapId,
        /// The partition.
        partition: u32,
        /// Promised.
        want: u64,
        /// Came.
        got: u64,
    },
}

impl Error {
    /// The failure of the task that met it.
    #[must_use]
    pub fn into_failure(self) -> Failure {
        let kind = match &self {
            Self::Missing { shuffle, generation, object, maps, .. } => FailureKind::MapOutput {
                shuffle: *shuffle,
                generation: *generation,
                maps: maps.clone(),
                fault: MapFault::Missing,
                object: Some(*object),
            },
            Self::Corrupt { shuffle, generation, object, maps, .. } => FailureKind::MapOutput {
                shuffle: *shuffle,
                generation: *generation,
                maps: maps.clone(),
                fault: MapFault::Corrupt,
                object: *object,
            },
            Self::StoreUnavailable { .. } | Self::NoCredit { .. } => FailureKind::StoreUnavailable,
            Self::Denied { .. } | Self::OpenStore { .. } => FailureKind::StoreDenied,
            Self::TooLarge { .. } => FailureKind::Limit,
            Self::Encode { .. } => FailureKind::Query,
            Self::Unbalanced { .. } => FailureKind::LedgerMismatch,
            Self::Misuse { .. } | Self::Ended { .. } => FailureKind::Internal,
        };
        Failure::from_error(kind, &self)
    }
}
