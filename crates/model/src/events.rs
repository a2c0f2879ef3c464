//! What happened, as terminal, log and history hear it?
//!
//! The event log is these, one JSON object a line. Closed enums without type names: an old log is read by a newer
//! version, and a hostile one can name nothing but these.

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, LossCause};
use crate::ids::{AppId, AttemptId, Epoch, ExecutorId, JobId, ShuffleId, StageAttempt, StageId};
use crate::metrics::TaskMetrics;
use crate::time::Timestamp;
use crate::write::WriteReport;

/// The version of the event log that this build writes. A reader accepts its own and every earlier one.
pub const EVENT_LOG_VERSION: u32 = 1;

/// An event and when it happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When, since the driver began.
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub event: AppEvent,
}

/// What happened in an application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum AppEvent {
    /// The driver began. Always the first line.
    ApplicationStarted {
        /// Version of the log.
        version: u32,
        /// Version of Vonk.
        vonk: String,
        /// The application.
        app: AppId,
        /// Its epoch.
        epoch: Epoch,
        /// Its name.
        name: String,
        /// Its master.
        master: String,
        /// Milliseconds since 1970.
        unix_ms: u64,
    },
    /// An executor joined.
    ExecutorJoined {
        /// The executor.
        executor: ExecutorId,
        /// Where it runs.
        place: String,
        /// Its slots.
        slots: u32,
    },
    /// An executor is gone.
    ExecutorLost {
        /// The executor.
        executor: ExecutorId,
        /// Why.
        cause: LossCause,
        /// In one sentence.
        why: String,
    },
    /// Executors are awaited; empty when not any more.
    Waiting {
        /// In one sentence.
        why: String,
    },
    /// A job began.
    JobStarted {
        /// The job.
        job: JobId,
        /// Its name.
        name: String,
        /// Its stages, ancestors first.
        stages: Vec<StageId>,
    },
    /// A stage may run: everything it reads is there.
    StageStarted {
        /// Its job.
        job: JobId,
        /// The stage.
        stage: StageId,
        /// Its attempt.
        attempt: StageAttempt,
        /// Its name.
        name: String,
        /// Tasks to run in this attempt.
        tasks: u32,
    },
    /// A task attempt was sent to an executor.
    TaskLaunched {
        /// The attempt.
        attempt: AttemptId,
        /// Where.
        executor: ExecutorId,
    },
    /// A task attempt was accepted.
    TaskFinished {
        /// The attempt.
        attempt: AttemptId,
        /// Where.
        executor: ExecutorId,
        /// Counters.
        metrics: TaskMetrics,
    },
    /// A task attempt failed.
    TaskFailed {
        /// The attempt.
        attempt: AttemptId,
        /// Where.
        executor: ExecutorId,
        /// Why.
        failure: Failure,
        /// Whether the task is tried again.
        retried: bool,
    },
    /// Every wanted partition of the stage is accepted.
    StageFinished {
        /// The stage.
        stage: StageId,
        /// Its attempt.
        attempt: StageAttempt,
    },
    /// The stage is not running any more, and not done: something it needs is lost, or its job ended.
    StageStopped {
        /// The stage.
        stage: StageId,
        /// Its attempt.
        attempt: StageAttempt,
        /// In one sentence.
        why: String,
    },
    /// Map outputs are lost and will be made again.
    OutputsLost {
        /// The shuffle.
        shuffle: ShuffleId,
        /// How many maps.
        maps: u32,
        /// In one sentence.
        why: String,
    },
    /// A job ended.
    JobFinished {
        /// The job.
        job: JobId,
        /// Why it did not succeed, if so: the whole chain.
        error: Option<String>,
    },
    /// A write was committed.
    WriteCommitted {
        /// The job.
        job: JobId,
        /// Where to.
        destination: String,
        /// What it left.
        report: WriteReport,
    },
    /// A person should know this.
    Warning {
        /// In one sentence.
        text: String,
    },
    /// The application ended in order. Always the last line.
    ApplicationEnded {
        /// Why it did not succeed, if so.
        error: Option<String>,
    },
}
