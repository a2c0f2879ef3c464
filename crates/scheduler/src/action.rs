//! What may the scheduler ask for?
//!
//! Actions are performed in their order, and none of them needs a decision: what comes of one returns as an
//! [`Event`](crate::Event).

use model::failure::LossCause;
use model::{AttemptId, ExecutorId, Failure, Generation, JobId, MapId, ShuffleId, StageAttempt, StageId};

/// An order to the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send a task, and before it the body of its stage attempt, unless this executor has it. It reads the generations
    /// and winners that the registry holds now. If it cannot be sent at all, say so by
    /// [`TaskFailed`](crate::Event::TaskFailed).
    LaunchTask {
        /// The attempt.
        attempt: AttemptId,
        /// Where.
        executor: ExecutorId,
        /// Maps of the same stage still wait for a slot.
        stage_has_pending: bool,
    },
    /// Stop an attempt, or take it back if it has not started. It holds its slot until its final status is heard.
    CancelTask {
        /// The attempt.
        attempt: AttemptId,
        /// Where.
        executor: ExecutorId,
    },
    /// The attempt of the [`TaskSucceeded`](crate::Event::TaskSucceeded) just handled is the one that counts: accept
    /// its map output, give its rows to the user, note its staged files.
    AcceptResult {
        /// The attempt.
        attempt: AttemptId,
        /// Where it ran.
        executor: ExecutorId,
        /// Whether its partition was never accepted before: only then its accumulators and warnings count.
        first: bool,
    },
    /// The attempt of the `TaskSucceeded` just handled does not count: forget its output; what it wrote is swept.
    VoidResult {
        /// The attempt.
        attempt: AttemptId,
        /// Where it ran.
        executor: ExecutorId,
    },
    /// All that was accepted of this stage, in this attempt and earlier ones, is void: forget the files it staged.
    VoidStage {
        /// The stage.
        stage: StageId,
    },
    /// Show that an attempt failed. For people and the event log; what follows is in other actions.
    ReportFailure {
        /// The attempt.
        attempt: AttemptId,
        /// Where.
        executor: ExecutorId,
        /// Why.
        failure: Failure,
        /// Whether its task is tried again.
        retried: bool,
    },
    /// Show that a stage runs from now on: all that it reads is there.
    StageStarted {
        /// Its job.
        job: JobId,
        /// The stage.
        stage: StageId,
        /// Its attempt.
        attempt: StageAttempt,
        /// How many tasks this attempt is to run.
        tasks: u32,
    },
    /// Show that every wanted partition of a stage is accepted. No task of the attempt is launched any more: executors
    /// may forget its body.
    StageFinished {
        /// The stage.
        stage: StageId,
        /// Its attempt.
        attempt: StageAttempt,
    },
    /// Show that a stage does not run any more and is not done. No task of the attempt is launched any more: executors
    /// may forget its body.
    StageStopped {
        /// The stage.
        stage: StageId,
        /// Its attempt.
        attempt: StageAttempt,
        /// In one sentence.
        why: String,
    },
    /// Tell these executors that no map of the shuffle waits for a slot any more.
    NoMoreMaps {
        /// The shuffle.
        shuffle: ShuffleId,
        /// The generation.
        generation: Generation,
        /// Those that believe the contrary.
        executors: Vec<ExecutorId>,
    },
    /// Drop these map outputs from the registry: they are lost and, if somebody needs them, made again.
    DropOutputs {
        /// The shuffle.
        shuffle: ShuffleId,
        /// The generation.
        generation: Generation,
        /// The maps.
        maps: Vec<MapId>,
        /// In one sentence.
        why: String,
    },
    /// Drop all outputs of earlier generations; the shuffle is written and read with this one from now on.
    RaiseGeneration {
        /// The shuffle.
        shuffle: ShuffleId,
        /// The new generation.
        generation: Generation,
    },
    /// Nobody reads or writes this shuffle any more, and it was released: its objects may be deleted.
    DropShuffle {
        /// The shuffle.
        shuffle: ShuffleId,
    },
    /// Every wanted partition of the job's last stage is accepted: close its stream, or commit its files.
    FinishJob {
        /// The job.
        job: JobId,
    },
    /// The job ends without success. A failure of kind `Cancelled` means that somebody asked for it.
    FailJob {
        /// The job.
        job: JobId,
        /// What ended it.
        failure: Failure,
        /// What came before and led to it, oldest first.
        earlier: Vec<Failure>,
    },
    /// Want this many executors (`ClusterBackend::set_target`).
    RequestExecutors {
        /// How many.
        count: u32,
    },
    /// Tell an executor to drain: it finishes what runs, starts nothing, and says that it has drained.
    DrainExecutor {
        /// The executor.
        executor: ExecutorId,
        /// In one sentence.
        why: String,
    },
    /// An executor that drained is not needed any more: release it (`ClusterBackend::release`).
    ReleaseExecutor {
        /// The executor.
        executor: ExecutorId,
    },
    /// An executor is lost: close its link, hear nothing from it any more, kill it if it still lives
    /// (`ClusterBackend::release`), and show the loss.
    RemoveExecutor {
        /// The executor.
        executor: ExecutorId,
        /// Why.
        cause: LossCause,
        /// In one sentence.
        why: String,
    },
    /// Tell a person.
    Warn {
        /// In one sentence.
        text: String,
    },
}
