//! Which nouns do the crates of Vonk share, and through which seams do they meet?
//!
//! Only what two crates name that may not know each other lives here: ids, failures, the shape of a job, the messages
//! between driver and executor, the events that a person hears of, and the two seams [`ClusterBackend`] (what must a
//! cluster do for us?) and [`JobRunner`] (how is a job handed over?). No tokio, no I/O, no clock.

pub mod backend;
pub mod events;
pub mod exit;
pub mod failure;
pub mod graph;
pub mod ids;
pub mod keys;
pub mod memory;
pub mod messages;
pub mod metrics;
pub mod panic;
pub mod pattern;
pub mod runner;
pub mod setting;
pub mod shuffle;
pub mod time;
pub mod write;

pub use backend::ClusterBackend;
pub use failure::{Failure, FailureKind};
pub use ids::{
    AccumulatorId, AppId, AttemptId, BroadcastId, Epoch, ExecutorId, Generation, JobId, MapId, PartitionId, RddId,
    ShuffleId, StageAttempt, StageId,
};
pub use memory::WorkingMemory;
pub use runner::JobRunner;
pub use time::Timestamp;
