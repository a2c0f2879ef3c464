//! What exists, and do a status and a report add up?

use model::Failure;
use model::failure::ObjectRef;
use model::ids::{ExecutorId, Generation, MapId, ShuffleId};
use model::shuffle::{MapOutput, OpenObject, ReadPlan, ReadRange, ReadReport, ShuffleSpec};

/// What became of an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// It won: plans name it from now on.
    Won {
        /// It was the last: every map of the shuffle has an output.
        complete: bool,
    },
    /// The winner's status, heard again.
    Repeated,
    /// Another attempt had won.
    Twin {
        /// Both have the same rows; if not, the stage is not deterministic.
        same_rows: bool,
    },
    /// A map that was lost came back with other rows: a new generation is needed. Nothing was recorded.
    OtherRows,
    /// The shuffle, or this generation of it, is not wanted any more: delete these keys.
    Void {
        /// Keys of its objects.
        keys: Vec<String>,
    },
}

/// Maps that must run before a range can be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("plan a read of {shuffle}: {} maps have no output", maps.len())]
pub struct Missing {
    /// The shuffle.
    pub shuffle: ShuffleId,
    /// The generation.
    pub generation: Generation,
    /// The maps.
    pub maps: Vec<MapId>,
}

/// How much one partition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PartitionSize {
    /// Rows.
    pub rows: u64,
    /// Bytes as stored.
    pub bytes: u64,
}

/// The only table of what shuffles exist, for the driver's event loop: pure and synchronous.
#[derive(Debug, Default)]
pub struct Registry {}

impl Registry {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a shuffle known, or a newer generation of it; the older one is then void.
    pub fn register(&mut self, spec: &ShuffleSpec) {
        let _ = spec;
    }

    /// Whether a status adds up, before anybody acts on it.
    ///
    /// # Errors
    /// Its index, lengths, totals, digest or parts disagree.
    pub fn check(&self, output: &MapOutput, executor: ExecutorId) -> Result<(), Failure> {
        let _ = (output, executor);
        Ok(())
    }

    /// Records a checked output.
    pub fn accept(&mut self, output: MapOutput, executor: ExecutorId) -> Accepted {
        let _ = (output, executor);
        Accepted::Repeated
    }

    /// What a task must read for a range.
    ///
    /// # Errors
    /// The maps that have no output.
    pub fn plan(&self, range: ReadRange) -> Result<ReadPlan, Missing> {
        Err(Missing { shuffle: range.shuffle, generation: Generation(0), maps: Vec::new() })
    }

    /// Whether what a task read is what was written.
    ///
    /// # Errors
    /// The partitions that differ.
    pub fn audit(&self, report: &ReadReport) -> Result<(), Failure> {
        let _ = report;
        Ok(())
    }

    /// Drops what is missing or corrupt; gives the maps that must run again.
    pub fn lost(
        &mut self,
        shuffle: ShuffleId,
        generation: Generation,
        object: Option<ObjectRef>,
        maps: &[MapId],
    ) -> Vec<MapId> {
        let _ = (shuffle, generation, object, maps);
        Vec::new()
    }

    /// Notes an object of a heartbeat, so that it is deleted with its shuffle; gives its key if that is already gone.
    pub fn opened(&mut self, object: OpenObject) -> Option<String> {
        let _ = object;
        None
    }

    /// Forgets a shuffle; gives every key to delete, relative to the store's root.
    pub fn release(&mut self, shuffle: ShuffleId) -> Vec<String> {
        let _ = shuffle;
        Vec::new()
    }

    /// Every key that is known, of all shuffles not released: the application ends.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        Vec::new()
    }

    /// The generation that plans name.
    #[must_use]
    pub fn generation(&self, shuffle: ShuffleId) -> Option<Generation> {
        let _ = shuffle;
        None
    }

    /// What each partition holds.
    #[must_use]
    pub fn sizes(&self, shuffle: ShuffleId) -> Option<&[PartitionSize]> {
        let _ = shuffle;
        None
    }
}
