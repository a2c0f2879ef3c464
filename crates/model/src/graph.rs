//! Which stages and shuffles make a job?
//!
//! [`JobShape`] is all that the scheduler sees of a job: numbers, no rows and no bodies. [`Job`] adds what executors need.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::failure::Failure;
use crate::ids::{JobId, PartitionId, RddId, ShuffleId, StageId};
use crate::runner::JobRunner;
use crate::shuffle::{ReadRange, RowKind};

/// Which ranges of one shuffle each partition of a stage reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ranges {
    /// Partition `p` of the stage reads partition `p` of the shuffle.
    Same,
    /// Partition `p` of the stage reads these ranges `[start, end)`; none where the list is empty.
    Listed(Arc<[Vec<(u32, u32)>]>),
}

/// One shuffle that a stage reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageRead {
    /// The shuffle.
    pub shuffle: ShuffleId,
    /// What each partition reads of it.
    pub ranges: Ranges,
}

impl StageRead {
    /// What a partition reads, in order.
    pub fn of(&self, partition: PartitionId) -> Vec<ReadRange> {
        let range = |&(start, end): &(u32, u32)| ReadRange { shuffle: self.shuffle, start, end };
        match &self.ranges {
            Ranges::Same => vec![range(&(partition.0, partition.0 + 1))],
            Ranges::Listed(lists) => lists[partition.0 as usize].iter().map(range).collect(),
        }
    }
}

/// Where a stage's rows go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Into a shuffle of so many partitions. Map `m` is partition `m` of the stage.
    Shuffle {
        /// The shuffle.
        shuffle: ShuffleId,
        /// How many partitions its rows are split into.
        partitions: u32,
    },
    /// To the user, partition by partition, as soon as each is accepted.
    Result,
    /// Into files that the driver commits when every partition is accepted.
    Write,
}

/// The shape of a stage: what the scheduler needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageShape {
    /// The stage.
    pub id: StageId,
    /// How many partitions it has.
    pub partitions: u32,
    /// Which shuffles it reads. All must be complete before a task starts.
    pub reads: Vec<StageRead>,
    /// Where its rows go.
    pub output: Output,
    /// Persisted datasets of which partition `p` of the stage uses partition `p`: placement prefers their holders.
    pub cached: Vec<RddId>,
}

/// The shape of a job: all stages its result descends from, ancestors first, the result stage last.
///
/// A stage whose shuffle is complete does not run; it is here so that a lost output can be made again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobShape {
    /// The stages. Every shuffle that one reads is written by an earlier one.
    pub stages: Vec<StageShape>,
    /// Which partitions of the last stage are wanted, each once, in ascending order.
    pub wanted: Vec<PartitionId>,
}

/// Which kind of code runs a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BodyKind {
    /// An entry of the executable's task table and what its functions captured.
    Function,
    /// A fragment of a DataFusion plan.
    Plan,
}

/// What an executor runs for every partition of a stage. Opaque to the scheduler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// Which kind of code.
    pub kind: BodyKind,
    /// Its bytes, as the kind's runner reads them.
    pub bytes: Bytes,
}

/// Gives the input that belongs to one partition: rows of `parallelize`, file groups. Made when the task is launched.
pub trait Inputs: Send + Sync {
    /// The bytes that the stage's body reads for this partition.
    fn input(&self, partition: PartitionId) -> Bytes;
}

impl<F: Fn(PartitionId) -> Bytes + Send + Sync> Inputs for F {
    fn input(&self, partition: PartitionId) -> Bytes {
        self(partition)
    }
}

/// A stage with everything that runs it.
#[derive(Clone)]
pub struct Stage {
    /// What a person sees: the operation and the line of the program, as in `reduce_by_key at src/main.rs:12`.
    pub name: String,
    /// The shape.
    pub shape: StageShape,
    /// What the rows are, if they go into a shuffle.
    pub rows: Option<RowKind>,
    /// What runs.
    pub body: Body,
    /// What each partition brings.
    pub inputs: Arc<dyn Inputs>,
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage").field("name", &self.name).field("shape", &self.shape).finish_non_exhaustive()
    }
}

/// A job, ready to be handed over.
#[derive(Debug, Clone)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// What a person sees: the action and the line of the program, as in `collect at src/main.rs:14`.
    pub name: String,
    /// The group it can be cancelled with.
    pub group: Option<String>,
    /// All stages, ancestors first, the result stage last.
    pub stages: Vec<Stage>,
    /// Which partitions of the last stage are wanted, each once, in ascending order.
    pub wanted: Vec<PartitionId>,
}

impl Job {
    /// What the scheduler sees of it.
    #[must_use]
    pub fn shape(&self) -> JobShape {
        JobShape { stages: self.stages.iter().map(|s| s.shape.clone()).collect(), wanted: self.wanted.clone() }
    }
}

/// A shuffle that stages of one kind have written, to stages of the other kind that read it: rows of functions in a query,
/// rows of a query in functions. It is not released while somebody holds this.
pub trait Origin: Send + Sync {
    /// The shuffle.
    fn shuffle(&self) -> ShuffleId;

    /// Into how many partitions it splits.
    fn partitions(&self) -> u32;

    /// Adds the stages that can make it again, ancestors first, each before those that read it. Those of shuffles in `seen`
    /// are there already.
    ///
    /// # Errors
    /// A stage's body cannot be encoded.
    fn stages(
        &self,
        runner: &dyn JobRunner,
        seen: &mut BTreeSet<ShuffleId>,
        stages: &mut Vec<Stage>,
    ) -> Result<(), Failure>;
}
