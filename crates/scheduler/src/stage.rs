//! Where is a stage in its life?
//!
//! ```text
//! idle ──▶ waiting ──▶ running ──▶ idle      (wanted, inputs complete, all accepted: and back when something is lost)
//! ```

use std::collections::{BTreeMap, BTreeSet};

use model::graph::{Output, StageShape};
use model::{AttemptId, ExecutorId, Failure, JobId, PartitionId, ShuffleId, StageAttempt, StageId, Timestamp};

use crate::attempts::Trouble;
use crate::partitions::Partitions;
use crate::{Action, Scheduler};

/// A stage of an unfinished job.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) job: JobId,
    /// The place of its job in the order of submission.
    pub(crate) seq: u64,
    pub(crate) shape: StageShape,
    pub(crate) phase: Phase,
    /// Its current attempt, or its last.
    pub(crate) attempt: StageAttempt,
    /// The next attempt of a stage that writes no shuffle; for others the shuffle counts.
    pub(crate) next_attempt: u32,
    /// Failures that ended attempts since the stage was last done (R2).
    pub(crate) failures: Vec<Failure>,
    /// Accepted partitions of a stage that writes no shuffle; for others the shuffle knows.
    pub(crate) accepted: Partitions,
    /// Partitions that were accepted and voided: their accumulators have been counted.
    pub(crate) counted: Partitions,
    /// Attempts that an executor holds and that may still count, or may have been taken back too late.
    pub(crate) live: BTreeMap<(PartitionId, StageAttempt, u32), ExecutorId>,
    /// Tasks that have failed.
    pub(crate) trouble: BTreeMap<PartitionId, Trouble>,
    /// Counted failures on executors that live (R7).
    pub(crate) blamed: BTreeMap<ExecutorId, u32>,
    /// Since when no executor may run it, because of `blamed`.
    pub(crate) no_place_since: Option<Timestamp>,
}

/// Where a stage is in its life.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Nobody needs it to run: left when its output is missing and needed.
    Idle,
    /// Needed, but something that it reads is incomplete, or another job's stage makes the same shuffle.
    Waiting,
    /// Its tasks are launched: left when all are accepted, an input is lost or nobody needs it.
    Running(Box<Run>),
}

impl Phase {
    /// How many tasks wait for a slot.
    pub(crate) fn waiting(&self) -> u64 {
        match self {
            Self::Running(run) => run.waiting(),
            Self::Idle | Self::Waiting => 0,
        }
    }
}

/// Tasks of a running stage that wait for a slot. One that is neither here, nor live, nor accepted, is not wanted.
#[derive(Debug)]
pub(crate) struct Run {
    /// May go anywhere.
    pub(crate) pending: Partitions,
    /// Should not go where they failed.
    pub(crate) picky: BTreeSet<PartitionId>,
    /// Want an executor to themselves (R4).
    pub(crate) alone: BTreeSet<PartitionId>,
    /// Wait for a time before they are tried again.
    pub(crate) delayed: BTreeSet<PartitionId>,
    /// The next task attempt of those that were launched in this stage attempt and are to be launched again.
    pub(crate) again: BTreeMap<PartitionId, u32>,
    /// Where tasks should go, if the stage uses cached partitions.
    pub(crate) locality: Option<Locality>,
    /// Executors that believe that maps still wait for a slot.
    pub(crate) hopeful: BTreeSet<ExecutorId>,
    /// What is in the scheduler's own count of waiting tasks for this stage.
    pub(crate) noted: u64,
}

/// Which pending tasks have a holder of their cached partitions.
#[derive(Debug)]
pub(crate) struct Locality {
    /// Until when they wait for it.
    pub(crate) until: Timestamp,
    /// By holder; tasks that are not pending any more are left in until they are met.
    pub(crate) held: BTreeMap<ExecutorId, BTreeSet<PartitionId>>,
    /// Pending tasks that nobody holds anything for.
    pub(crate) free: Partitions,
}

impl Run {
    /// How many tasks wait.
    pub(crate) fn waiting(&self) -> u64 {
        let listed = self.picky.len() + self.alone.len() + self.delayed.len();
        u64::from(self.pending.len()) + listed as u64
    }

    /// Forgets that a task waits.
    pub(crate) fn take(&mut self, partition: PartitionId) {
        if self.pending.remove(partition.0) {
            if let Some(locality) = &mut self.locality {
                locality.free.remove(partition.0);
            }
        } else if !self.picky.remove(&partition) && !self.alone.remove(&partition) {
            self.delayed.remove(&partition);
        }
    }

    pub(crate) fn waits(&self, partition: PartitionId) -> bool {
        self.pending.contains(partition.0)
            || self.picky.contains(&partition)
            || self.alone.contains(&partition)
            || self.delayed.contains(&partition)
    }
}

/// Why a stage stops.
pub(crate) enum Stop {
    /// All accepted.
    Finished,
    /// An input or output was lost: attempts that run may still count.
    InputsLost(&'static str),
    /// What its attempts do does not count any more; the caller voids them.
    Void(&'static str),
}

impl Stage {
    pub(crate) fn new(job: JobId, seq: u64, shape: StageShape) -> Self {
        let bound = if matches!(shape.output, Output::Shuffle { .. }) { 0 } else { shape.partitions };
        Self {
            job,
            seq,
            shape,
            phase: Phase::Idle,
            attempt: StageAttempt(0),
            next_attempt: 0,
            failures: Vec::new(),
            accepted: Partitions::none(bound),
            counted: Partitions::none(bound),
            live: BTreeMap::new(),
            trouble: BTreeMap::new(),
            blamed: BTreeMap::new(),
            no_place_since: None,
        }
    }

    /// The shuffle it writes.
    pub(crate) fn shuffle(&self) -> Option<ShuffleId> {
        match self.shape.output {
            Output::Shuffle { shuffle, .. } => Some(shuffle),
            Output::Result | Output::Write => None,
        }
    }

    pub(crate) fn run(&mut self) -> Option<&mut Run> {
        match &mut self.phase {
            Phase::Running(run) => Some(run),
            Phase::Idle | Phase::Waiting => None,
        }
    }

    /// Attempts of a partition that executors hold.
    pub(crate) fn live_of(&self, partition: PartitionId) -> impl Iterator<Item = (StageAttempt, u32, ExecutorId)> {
        let all = (partition, StageAttempt(0), 0)..=(partition, StageAttempt(u32::MAX), u32::MAX);
        self.live.range(all).map(|(&(_, stage, task), &executor)| (stage, task, executor))
    }
}

impl Scheduler {
    /// Begins an attempt of a stage whose inputs are complete.
    pub(crate) fn start_stage(&mut self, now: Timestamp, id: StageId, actions: &mut Vec<Action>) {
        let Some(stage) = self.stages.get_mut(&id) else { return };
        let todo = match stage.shuffle() {
            Some(shuffle) => {
                let Some(outputs) = self.outputs.get_mut(&shuffle) else { return };
                outputs.producer = Some(id);
                stage.attempt = StageAttempt(outputs.next_attempt);
                outputs.next_attempt += 1;
                outputs.missing.clone()
            }
            None => {
                stage.attempt = StageAttempt(stage.next_attempt);
                stage.next_attempt += 1;
                let wanted = &self.jobs[&stage.job].wanted;
                let mut todo = Partitions::none(stage.shape.partitions);
                for partition in wanted.iter().filter(|p| !stage.accepted.contains(p.0)) {
                    todo.insert(partition.0);
                }
                todo
            }
        };
        let tasks = todo.len();
        let mut run = Run {
            pending: todo,
            picky: BTreeSet::new(),
            alone: BTreeSet::new(),
            delayed: BTreeSet::new(),
            again: BTreeMap::new(),
            locality: None,
            hopeful: BTreeSet::new(),
            noted: 0,
        };
        // Those that run since an earlier attempt may still count.
        for &(partition, stage_attempt, attempt) in stage.live.keys() {
            let executor = stage.live[&(partition, stage_attempt, attempt)];
            let attempt = AttemptId { job: stage.job, stage: id, stage_attempt, partition, attempt };
            if self.executors.is_wanted(executor, attempt) {
                run.pending.remove(partition.0);
            }
        }
        for (&partition, trouble) in &stage.trouble {
            if (trouble.alone || !trouble.avoid.is_empty()) && run.pending.remove(partition.0) {
                if trouble.alone {
                    run.alone.insert(partition)
                } else {
                    run.picky.insert(partition)
                };
            }
        }
        if !stage.shape.cached.is_empty() {
            let mut locality = Locality {
                until: now + self.config.locality_wait,
                held: BTreeMap::new(),
                free: Partitions::none(stage.shape.partitions),
            };
            for partition in run.pending.iter() {
                self.executors.note_holders(&mut locality, &stage.shape.cached, PartitionId(partition));
            }
            if !locality.held.is_empty() {
                self.timers.insert((locality.until, crate::deadlines::Timer::Locality(id)));
            }
            run.locality = Some(locality);
        }
        stage.phase = Phase::Running(Box::new(run));
        actions.push(Action::StageStarted { job: stage.job, stage: id, attempt: stage.attempt, tasks });
        self.note_waiting(id, actions);
        self.kick = true;
    }

    /// Ends the current attempt of a stage, if it runs: no task of it is launched any more.
    pub(crate) fn stop_stage(&mut self, id: StageId, why: Stop, actions: &mut Vec<Action>) {
        let Some(stage) = self.stages.get_mut(&id) else { return };
        let attempt = stage.attempt;
        let next = match why {
            Stop::Finished => Phase::Idle,
            Stop::InputsLost(_) | Stop::Void(_) => Phase::Waiting,
        };
        let Phase::Running(mut run) = std::mem::replace(&mut stage.phase, next) else { return };
        run.pending = Partitions::default();
        run.picky.clear();
        run.alone.clear();
        run.delayed.clear();
        self.kick |= stage.no_place_since.take().is_some();
        if matches!(why, Stop::Finished) {
            stage.failures.clear();
            stage.trouble.clear();
        }
        // Counts it down to nothing and tells hopeful executors, as if the last task had been launched.
        let (seq, shuffle) = (stage.seq, stage.shuffle());
        self.waiting -= run.noted;
        self.ready.remove(&(seq, id));
        self.lonely.remove(&(seq, id));
        self.no_more_maps(shuffle, &mut run, actions);
        self.drop_reservations(|reserved, launched| reserved == id && !launched);
        actions.push(match why {
            Stop::Finished => Action::StageFinished { stage: id, attempt },
            Stop::InputsLost(why) | Stop::Void(why) => Action::StageStopped { stage: id, attempt, why: why.to_owned() },
        });
    }

    /// Brings what is kept about waiting tasks up to date after those of a stage have changed.
    pub(crate) fn note_waiting(&mut self, id: StageId, actions: &mut Vec<Action>) {
        let Some(stage) = self.stages.get_mut(&id) else { return };
        let (seq, shuffle) = (stage.seq, stage.shuffle());
        let Phase::Running(run) = &mut stage.phase else { return };
        let waiting = run.waiting();
        self.waiting = self.waiting + waiting - run.noted;
        run.noted = waiting;
        let ready = !run.pending.is_empty() || !run.picky.is_empty();
        let lonely = !run.alone.is_empty();
        if waiting == 0 && !run.hopeful.is_empty() {
            let mut told = std::mem::take(&mut run.hopeful);
            told.retain(|&executor| self.executors.is_alive(executor));
            tell_no_more(&self.outputs, shuffle, told, actions);
        }
        let member = |set: &mut BTreeSet<(u64, StageId)>, wanted| match wanted {
            true => set.insert((seq, id)),
            false => set.remove(&(seq, id)),
        };
        member(&mut self.ready, ready);
        member(&mut self.lonely, lonely);
    }

    fn no_more_maps(&mut self, shuffle: Option<ShuffleId>, run: &mut Run, actions: &mut Vec<Action>) {
        let mut told = std::mem::take(&mut run.hopeful);
        told.retain(|&executor| self.executors.is_alive(executor));
        tell_no_more(&self.outputs, shuffle, told, actions);
    }
}

fn tell_no_more(
    outputs: &BTreeMap<ShuffleId, crate::outputs::Outputs>,
    shuffle: Option<ShuffleId>,
    told: BTreeSet<ExecutorId>,
    actions: &mut Vec<Action>,
) {
    if let Some((shuffle, outputs)) = shuffle.and_then(|id| Some((id, outputs.get(&id)?)))
        && !told.is_empty()
    {
        let executors = told.into_iter().collect();
        actions.push(Action::NoMoreMaps { shuffle, generation: outputs.generation, executors });
    }
}
