//! What do driver and executors tell each other about shuffled rows?
//!
//! Plain values: `shuffle` makes and reads them, `proto` carries them, nobody else looks inside.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::failure::ObjectRef;
use crate::ids::{AppId, AttemptId, Epoch, ExecutorId, Generation, MapId, ShuffleId, StageAttempt};

/// What the rows of a shuffle are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowKind {
    /// Arrow record batches of this schema (an encapsulated IPC schema message).
    Arrow {
        /// The schema message.
        schema: Bytes,
    },
    /// Records: opaque bytes of one Rust type.
    Records {
        /// The type's name, for error messages and the object's index.
        type_name: String,
    },
}

/// How blocks are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// Not at all: for memory and local files.
    #[default]
    None,
    /// LZ4: for stores behind a network.
    Lz4,
    /// Zstandard: smaller and slower.
    Zstd,
}

/// One generation of one shuffle, as every task that writes or reads it must know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShuffleSpec {
    /// The application.
    pub app: AppId,
    /// Its epoch.
    pub epoch: Epoch,
    /// The shuffle.
    pub shuffle: ShuffleId,
    /// The generation written or read.
    pub generation: Generation,
    /// How many maps it has.
    pub maps: u32,
    /// How many partitions the rows are split into.
    pub partitions: u32,
    /// What the rows are.
    pub kind: RowKind,
    /// How blocks are compressed.
    pub codec: Codec,
    /// An output of at most so many stored bytes travels in its task's status, without a request to the store.
    pub inline_max: u32,
}

/// How much one partition of a shuffle holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PartitionSize {
    /// Rows.
    pub rows: u64,
    /// Bytes as stored.
    pub bytes: u64,
    /// Bytes before compression. Maps count them for all of their partitions together: each is taken to be compressed alike.
    pub raw_bytes: u64,
}

/// An object that a status makes known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewObject {
    /// Its sequence number in the executor that wrote it.
    pub seq: u32,
    /// Its length in bytes.
    pub length: u64,
    /// Its index (members, pairs, schema) and, after it, its footer: the end of the object as it is stored.
    pub index: Bytes,
    /// CRC-32C of the index alone.
    pub index_crc: u32,
    /// How many requests stored it: 1, or for an upload in parts one each and two more.
    pub requests: u32,
}

/// Where the rows of one map went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MapRows {
    /// In this message: blocks and, after them, the index, as an object of one member would hold them.
    Inline {
        /// Blocks by partition.
        blocks: Bytes,
        /// The index.
        index: Bytes,
        /// CRC-32C of the index.
        index_crc: u32,
    },
    /// In objects, in the order of the parts.
    Stored {
        /// Every object that holds a part, in part order. All are required.
        parts: Vec<ObjectRef>,
        /// Those objects that were not named on this stream before.
        new_objects: Vec<NewObject>,
    },
}

/// What a map task has written: part of its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapOutput {
    /// The shuffle.
    pub shuffle: ShuffleId,
    /// The generation.
    pub generation: Generation,
    /// The map.
    pub map: MapId,
    /// The attempt of the stage.
    pub stage_attempt: StageAttempt,
    /// The attempt of the task.
    pub attempt: u32,
    /// Rows of all partitions.
    pub rows: u64,
    /// Their bytes before compression.
    pub raw_bytes: u64,
    /// Their bytes as stored, blocks only.
    pub stored_bytes: u64,
    /// The order-free sum over every row, partition by partition.
    pub digest: u64,
    /// Where they are.
    pub location: MapRows,
}

/// Which partitions a task reads, from which shuffle: an entry of a [`ReadPlan`] before the driver fills it in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReadRange {
    /// The shuffle.
    pub shuffle: ShuffleId,
    /// The first partition.
    pub start: u32,
    /// The partition after the last.
    pub end: u32,
}

/// How rows of several maps come out of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ReadMode {
    /// In the order of arrival.
    #[default]
    Fused,
}

/// One map attempt whose rows a source holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceMember {
    /// The map.
    pub map: MapId,
    /// The attempt of the stage that won.
    pub stage_attempt: StageAttempt,
    /// The attempt of the task that won.
    pub attempt: u32,
    /// Stored length of its blocks, per partition of the range.
    pub lengths: Vec<u64>,
    /// Its rows, per partition of the range.
    pub rows: Vec<u64>,
}

/// Where a source's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceBytes {
    /// In this message: the blocks of the range.
    Inline(Bytes),
    /// In an object: one contiguous range of it.
    Object {
        /// The object.
        object: ObjectRef,
        /// Where the range begins.
        offset: u64,
        /// Its length, never 0.
        length: u64,
    },
}

/// One object, or one inline output, that a read takes bytes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadSource {
    /// Where the bytes are. All members' blocks of the range, losers' included, lie in it.
    pub bytes: SourceBytes,
    /// The winners among its members.
    pub members: Vec<SourceMember>,
}

/// Exactly what one task reads of one shuffle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadPlan {
    /// The shuffle and the partitions.
    pub range: ReadRange,
    /// The generation.
    pub generation: Generation,
    /// How rows come out.
    pub mode: ReadMode,
    /// What is read.
    pub sources: Vec<ReadSource>,
}

/// What one task has read of one shuffle: part of its status, audited before the status is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadReport {
    /// The shuffle and the partitions.
    pub range: ReadRange,
    /// The generation.
    pub generation: Generation,
    /// Whether the stream was read to its end; otherwise rows may be fewer.
    pub complete: bool,
    /// Rows, per partition of the range.
    pub rows: Vec<u64>,
    /// The order-free sum, per partition of the range.
    pub fingerprints: Vec<u64>,
    /// Stored bytes read.
    pub bytes: u64,
    /// GET requests.
    pub requests: u64,
    /// Requests that were repeated.
    pub retries: u64,
}

/// An object begun but in no status yet: part of a heartbeat, so that it can be deleted if its executor dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpenObject {
    /// The shuffle.
    pub shuffle: ShuffleId,
    /// The generation.
    pub generation: Generation,
    /// The object.
    pub object: ObjectRef,
}

/// Who writes: the attempt and the executor it runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Writer {
    /// The attempt.
    pub attempt: AttemptId,
    /// The executor.
    pub executor: ExecutorId,
}
