//! What may the scheduler hear?
//!
//! Whatever is unknown, late or doubled is harmless: an event about an attempt, executor, job or shuffle that the
//! scheduler does not know (any more) changes nothing.

use std::time::Duration;

use model::failure::LossCause;
use model::graph::JobShape;
use model::{AttemptId, ExecutorId, Failure, Generation, JobId, MapId, PartitionId, RddId, ShuffleId};

/// Something that has happened. Past tense: nothing here can be refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The application has begun: the first event. Executors are asked for.
    ApplicationStarted,
    /// A job was handed over. Jobs that compete for slots are served in the order of this event.
    JobSubmitted {
        /// The job; its id is new.
        job: JobId,
        /// The group it can be cancelled with.
        group: Option<String>,
        /// Its stages.
        shape: JobShape,
    },
    /// Somebody does not want a job any more.
    JobCancelled {
        /// The job.
        job: JobId,
        /// Who or what asked, in one sentence.
        why: String,
    },
    /// Somebody does not want any job of a group any more; `None`: no job at all.
    GroupCancelled {
        /// The group.
        group: Option<String>,
        /// Who or what asked, in one sentence.
        why: String,
    },
    /// An executor has answered its hello, and tasks may be sent to it.
    ExecutorJoined {
        /// The executor: an incarnation that never joined before.
        executor: ExecutorId,
        /// How many tasks it runs at a time.
        slots: u32,
    },
    /// An executor is gone, or its hello was refused ([`LossCause::Start`]). The one path for every loss, whoever
    /// noticed it, whether it had joined or not. The same loss may be reported more than once.
    ExecutorLost {
        /// The executor.
        executor: ExecutorId,
        /// Why.
        cause: LossCause,
        /// In one sentence.
        why: String,
    },
    /// The cluster will end this executor soon (spot notice, eviction): nothing is to be started there any more.
    ExecutorDraining {
        /// The executor.
        executor: ExecutorId,
        /// In one sentence.
        why: String,
    },
    /// An executor says that it has drained: nothing runs there.
    ExecutorDrained {
        /// The executor.
        executor: ExecutorId,
    },
    /// A lost link to a living executor was made again, and this is what the executor holds: attempts that run, wait
    /// or have a status that was not acknowledged. Messages that were not delivered before are not sent again.
    LinkRestored {
        /// The executor.
        executor: ExecutorId,
        /// What it holds.
        holding: Vec<AttemptId>,
    },
    /// An executor gave a sign of life. Cheap. Every other event that comes from an executor is one, too.
    HeartbeatHeard {
        /// The executor.
        executor: ExecutorId,
    },
    /// An attempt has begun to run.
    TaskStarted {
        /// The attempt.
        attempt: AttemptId,
        /// Where.
        executor: ExecutorId,
    },
    /// A map attempt has handed its rows over: its slot is free, but it still runs until they are stored.
    TaskHandedOver {
        /// The attempt.
        attempt: AttemptId,
        /// Where.
        executor: ExecutorId,
    },
    /// An attempt has succeeded, and its status passed the registry's check and audit.
    TaskSucceeded {
        /// The attempt.
        attempt: AttemptId,
        /// Where.
        executor: ExecutorId,
        /// Partitions of persisted datasets that the executor now holds.
        cached: Vec<(RddId, PartitionId)>,
    },
    /// An attempt has failed, or could not be launched, or its status did not pass the registry's check or audit.
    TaskFailed {
        /// The attempt.
        attempt: AttemptId,
        /// Where.
        executor: ExecutorId,
        /// Why.
        failure: Failure,
    },
    /// A map that ran again gave other rows than before: the registry says so when an
    /// [`AcceptResult`](crate::Action::AcceptResult) is performed.
    OutputDiffered {
        /// The shuffle.
        shuffle: ShuffleId,
        /// The generation that has two contents now.
        generation: Generation,
        /// The map.
        map: MapId,
    },
    /// Map outputs are lost, noticed by somebody other than a reading task.
    OutputsLost {
        /// The shuffle.
        shuffle: ShuffleId,
        /// The generation.
        generation: Generation,
        /// The maps.
        maps: Vec<MapId>,
        /// In one sentence.
        why: String,
    },
    /// No job of the future can ask for this shuffle.
    ShuffleReleased {
        /// The shuffle.
        shuffle: ShuffleId,
    },
    /// A persisted dataset is not wanted any more: nobody holds its partitions.
    RddUnpersisted {
        /// The dataset.
        rdd: RddId,
    },
    /// A request to the object store has succeeded, the driver's or an executor's. Cheap.
    StoreAnswered,
    /// Why wanted executors are not there yet; empty when nothing is waited for. For error messages only.
    ClusterWaiting {
        /// In one sentence.
        why: String,
    },
    /// The cluster refuses to start executors, and it is of no use to wait; or does so no more.
    ClusterRefused {
        /// In one sentence: why and what to do. Empty when it does so no more.
        why: String,
    },
    /// The time of [`next_deadline`](crate::Scheduler::next_deadline) has come. Too early is harmless. Sent only after
    /// every message that was received before it (R11).
    DeadlinePassed,
    /// The driver did not turn its loop for this long (more than 5 s: stopped, suspended), or could hear no executor since what
    /// leads to all of them did not answer: nobody is blamed for it.
    Slept {
        /// How long.
        gap: Duration,
    },
}
