//! What do the events of an application add up to?

use std::collections::BTreeMap;

use model::events::{AppEvent, Record};
use model::ids::{JobId, StageAttempt, StageId};
use model::metrics::TaskMetrics;
use model::{ExecutorId, Timestamp};

/// A stage that has started and not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageStatus {
    /// Its job.
    pub job: JobId,
    /// Its attempt.
    pub attempt: StageAttempt,
    /// Its name.
    pub name: String,
    /// Tasks to run in this attempt.
    pub tasks: u32,
    /// Tasks accepted.
    pub done: u32,
    /// Attempts sent out and not ended.
    pub running: u32,
    /// Attempts that failed.
    pub failed: u32,
    /// When the attempt began.
    pub started: Timestamp,
    /// The sum over accepted tasks.
    pub metrics: TaskMetrics,
}

impl StageStatus {
    /// Bytes read from and written to shuffles so far.
    #[must_use]
    pub fn shuffled_bytes(&self) -> u64 {
        self.metrics.shuffle_read_bytes + self.metrics.shuffle_write_bytes
    }
}

/// What is known of an application: the fold over its records.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// Stages that run.
    pub stages: BTreeMap<StageId, StageStatus>,
    /// Jobs that run, by name.
    pub jobs: BTreeMap<JobId, String>,
    /// Executors that are there, and where.
    pub executors: BTreeMap<ExecutorId, String>,
    /// Why executors are awaited, if they are.
    pub waiting: Option<String>,
    /// Jobs that ended well.
    pub jobs_done: u32,
    /// Jobs that failed or were cancelled.
    pub jobs_failed: u32,
    /// Stage attempts that ended well.
    pub stages_done: u32,
    /// Tasks accepted.
    pub tasks_done: u64,
    /// Task attempts that failed.
    pub tasks_failed: u64,
    /// Executors that were lost.
    pub executors_lost: u32,
    /// The sum over all accepted tasks.
    pub metrics: TaskMetrics,
}

impl Status {
    /// Takes one record into account.
    pub fn apply(&mut self, record: &Record) {
        match &record.event {
            AppEvent::ExecutorJoined { executor, place, .. } => {
                self.executors.insert(*executor, place.clone());
            }
            AppEvent::ExecutorLost { executor, cause, .. } => {
                let was_there = self.executors.remove(executor).is_some();
                self.executors_lost += u32::from(was_there && *cause != model::failure::LossCause::Released);
            }
            AppEvent::Waiting { why } => self.waiting = (!why.is_empty()).then(|| why.clone()),
            AppEvent::JobStarted { job, name, .. } => {
                self.jobs.insert(*job, name.clone());
            }
            AppEvent::JobFinished { job, error } => {
                self.jobs.remove(job);
                self.stages.retain(|_, stage| stage.job != *job);
                *(if error.is_none() { &mut self.jobs_done } else { &mut self.jobs_failed }) += 1;
            }
            AppEvent::StageStarted { job, stage, attempt, name, tasks } => {
                let status = StageStatus {
                    job: *job,
                    attempt: *attempt,
                    name: name.clone(),
                    tasks: *tasks,
                    done: 0,
                    running: 0,
                    failed: 0,
                    started: record.at,
                    metrics: TaskMetrics::default(),
                };
                self.stages.insert(*stage, status);
            }
            AppEvent::TaskLaunched { attempt, .. } => {
                if let Some(stage) = self.running(attempt.stage, attempt.stage_attempt) {
                    stage.running += 1;
                }
            }
            AppEvent::TaskFinished { attempt, metrics, .. } => {
                self.tasks_done += 1;
                self.metrics += *metrics;
                if let Some(stage) = self.running(attempt.stage, attempt.stage_attempt) {
                    stage.done += 1;
                    stage.running = stage.running.saturating_sub(1);
                    stage.metrics += *metrics;
                }
            }
            AppEvent::TaskFailed { attempt, .. } => {
                self.tasks_failed += 1;
                if let Some(stage) = self.running(attempt.stage, attempt.stage_attempt) {
                    stage.failed += 1;
                    stage.running = stage.running.saturating_sub(1);
                }
            }
            AppEvent::StageFinished { stage, .. } => {
                self.stages_done += u32::from(self.stages.remove(stage).is_some());
            }
            AppEvent::StageStopped { stage, .. } => {
                self.stages.remove(stage);
            }
            AppEvent::ApplicationStarted { .. }
            | AppEvent::OutputsLost { .. }
            | AppEvent::WriteCommitted { .. }
            | AppEvent::Warning { .. }
            | AppEvent::ApplicationEnded { .. } => {}
        }
    }

    fn running(&mut self, stage: StageId, attempt: StageAttempt) -> Option<&mut StageStatus> {
        self.stages.get_mut(&stage).filter(|s| s.attempt == attempt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::ids::PartitionId;
    use model::{AttemptId, Failure, FailureKind};

    fn attempt(partition: u32, attempt: u32) -> AttemptId {
        AttemptId {
            job: JobId(0),
            stage: StageId(0),
            stage_attempt: StageAttempt(0),
            partition: PartitionId(partition),
            attempt,
        }
    }

    #[test]
    fn a_stage_counts_what_runs_what_is_done_and_what_failed() {
        let mut status = Status::default();
        let executor = ExecutorId(1);
        let metrics = TaskMetrics { shuffle_write_bytes: 7, ..TaskMetrics::default() };
        let failure = Failure::new(FailureKind::Internal, "x");
        let events = [
            AppEvent::JobStarted { job: JobId(0), name: "count".into(), stages: vec![StageId(0)] },
            AppEvent::StageStarted {
                job: JobId(0),
                stage: StageId(0),
                attempt: StageAttempt(0),
                name: "count".into(),
                tasks: 2,
            },
            AppEvent::TaskLaunched { attempt: attempt(0, 0), executor },
            AppEvent::TaskLaunched { attempt: attempt(1, 0), executor },
            AppEvent::TaskFinished { attempt: attempt(0, 0), executor, metrics },
            AppEvent::TaskFailed { attempt: attempt(1, 0), executor, failure, retried: true },
            AppEvent::TaskLaunched { attempt: attempt(1, 1), executor },
        ];
        for event in events {
            status.apply(&Record { at: Timestamp(0), event });
        }
        let stage = &status.stages[&StageId(0)];
        assert_eq!((stage.done, stage.running, stage.failed, stage.shuffled_bytes()), (1, 1, 1, 7));
        status.apply(&Record { at: Timestamp(1), event: AppEvent::JobFinished { job: JobId(0), error: None } });
        assert!(status.stages.is_empty() && status.jobs.is_empty() && status.jobs_done == 1);
    }
}
