//! Which stages does a job still need?

use std::collections::{BTreeMap, BTreeSet};

use model::failure::FailureKind;
use model::graph::{JobShape, Output, Ranges};
use model::{Failure, JobId, PartitionId, ShuffleId, StageId, Timestamp};

use crate::outputs::Outputs;
use crate::stage::{Phase, Stage, Stop};
use crate::{Action, Scheduler};

/// An unfinished job.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) group: Option<String>,
    /// Ancestors first, the result stage last.
    pub(crate) stages: Vec<StageId>,
    /// Which of them writes which shuffle.
    pub(crate) writers: BTreeMap<ShuffleId, StageId>,
    /// Wanted partitions of the last stage, each once.
    pub(crate) wanted: Vec<PartitionId>,
    /// The last task that failed because the store was unavailable, since the store last answered.
    pub(crate) store_failure: Option<Failure>,
}

impl Scheduler {
    pub(crate) fn submit(&mut self, id: JobId, group: Option<String>, shape: JobShape, actions: &mut Vec<Action>) {
        if self.jobs.contains_key(&id) {
            return;
        }
        if let Err(why) = self.check_shape(&shape) {
            let failure = Failure::new(FailureKind::Internal, format!("plan job {id}: {why}"));
            actions.push(Action::FailJob { job: id, failure, earlier: Vec::new() });
            return;
        }
        self.submitted += 1;
        let seq = self.submitted;
        let mut job =
            Job { group, stages: Vec::new(), writers: BTreeMap::new(), wanted: shape.wanted, store_failure: None };
        for stage in shape.stages {
            let reads: BTreeSet<ShuffleId> = stage.reads.iter().map(|read| read.shuffle).collect();
            if let Output::Shuffle { shuffle, .. } = stage.output {
                let outputs = self.outputs.entry(shuffle).or_insert_with(|| Outputs::new(stage.partitions, reads));
                outputs.users.insert(id);
                job.writers.insert(shuffle, stage.id);
            }
            job.stages.push(stage.id);
            self.stages.insert(stage.id, Stage::new(id, seq, stage));
        }
        self.jobs.insert(id, job);
        self.dirty.insert(id);
        self.check_starts(actions);
    }

    /// A shape that could never finish is refused at once.
    fn check_shape(&self, shape: &JobShape) -> Result<(), String> {
        let Some(last) = shape.stages.last() else { return Err("it has no stage".to_owned()) };
        let mut written = BTreeSet::new();
        let mut ids = BTreeSet::new();
        for stage in &shape.stages {
            if self.stages.contains_key(&stage.id) || !ids.insert(stage.id) {
                return Err(format!("stage {} is not its own", stage.id));
            }
            if let Some(read) = stage.reads.iter().find(|read| !written.contains(&read.shuffle)) {
                return Err(format!("stage {} reads {}, which no earlier stage writes", stage.id, read.shuffle));
            }
            for read in &stage.reads {
                if let Ranges::Listed(lists) = &read.ranges
                    && lists.len() < stage.partitions as usize
                {
                    return Err(format!(
                        "stage {} does not say what each partition reads of {}",
                        stage.id, read.shuffle
                    ));
                }
            }
            match stage.output {
                Output::Shuffle { shuffle, .. } => {
                    let maps = self.outputs.get(&shuffle).map(|outputs| outputs.missing.bound());
                    if !written.insert(shuffle) || maps.is_some_and(|maps| maps != stage.partitions) {
                        return Err(format!("stage {} does not write {shuffle} as it was written before", stage.id));
                    }
                }
                Output::Result | Output::Write if stage.id != last.id => {
                    return Err(format!("stage {} is not the last and writes no shuffle", stage.id));
                }
                Output::Result | Output::Write => {}
            }
        }
        if !shape.wanted.is_sorted_by(|a, b| a < b) {
            return Err("its wanted partitions are not ascending".to_owned());
        }
        match shape.wanted.iter().find(|wanted| wanted.0 >= last.partitions) {
            Some(wanted) => Err(format!("stage {} has no partition {wanted}", last.id)),
            None => Ok(()),
        }
    }

    /// Starts and stops the stages of a job according to what is complete. Does nothing if nothing has changed, so it is
    /// called whenever something may have: at transitions, never for a single task.
    pub(crate) fn advance(&mut self, now: Timestamp, id: JobId, actions: &mut Vec<Action>) {
        let Some(job) = self.jobs.get(&id) else { return };
        let stages = job.stages.clone();
        let Some(&last) = stages.last() else { return };
        if self.is_done(last) {
            self.stop_stage(last, Stop::Finished, actions);
            actions.push(Action::FinishJob { job: id });
            self.end_job(id, actions);
            return;
        }
        let mut needed = BTreeSet::from([last]);
        let mut runnable = BTreeSet::new();
        for stage in stages.iter().rev().filter_map(|id| self.stages.get(id).map(|stage| (*id, stage))) {
            let (id, stage) = stage;
            if !needed.contains(&id) {
                continue;
            }
            let producer = stage.shuffle().and_then(|shuffle| self.outputs[&shuffle].producer);
            if producer.is_some_and(|producer| producer != id) {
                continue; // another job makes it; its end makes this one look again
            }
            let missing = stage.shape.reads.iter().map(|read| read.shuffle).filter(|&read| !self.is_complete(read));
            let mut complete = true;
            for shuffle in missing {
                complete = false;
                needed.extend(self.jobs[&stage.job].writers.get(&shuffle));
            }
            if complete {
                runnable.insert(id);
            }
        }
        for &stage in &stages {
            if !needed.contains(&stage) {
                self.rest_stage(stage, actions);
            } else if !runnable.contains(&stage) {
                self.stop_stage(stage, Stop::InputsLost("something that it reads is lost"), actions);
                if let Some(stage) = self.stages.get_mut(&stage) {
                    stage.phase = Phase::Waiting;
                }
            }
        }
        for &stage in &stages {
            if runnable.contains(&stage) && !self.runs(stage) {
                self.start_stage(now, stage, actions);
                if self.is_done(stage) {
                    self.dirty.insert(id); // it has no partition
                }
            }
        }
    }

    /// A stage that nobody needs (any more).
    fn rest_stage(&mut self, id: StageId, actions: &mut Vec<Action>) {
        let done = self.is_done(id);
        self.stop_stage(id, if done { Stop::Finished } else { Stop::Void("nobody needs it any more") }, actions);
        self.void_live(id, actions);
        self.let_others_produce(id);
        if let Some(stage) = self.stages.get_mut(&id) {
            stage.phase = Phase::Idle;
        }
    }

    /// Whether all that a stage is to give is accepted.
    pub(crate) fn is_done(&self, id: StageId) -> bool {
        let Some(stage) = self.stages.get(&id) else { return false };
        match stage.shuffle() {
            Some(shuffle) => self.is_complete(shuffle),
            None => stage.accepted.len() as usize >= self.jobs[&stage.job].wanted.len(),
        }
    }

    /// The shuffle of a stage that does not run any more may be made by another job's.
    fn let_others_produce(&mut self, id: StageId) {
        let Some(shuffle) = self.stages.get(&id).and_then(Stage::shuffle) else { return };
        if let Some(outputs) = self.outputs.get_mut(&shuffle).filter(|outputs| outputs.producer == Some(id)) {
            outputs.producer = None;
            self.dirty.extend(outputs.users.iter().copied());
        }
    }

    pub(crate) fn cancel_job(&mut self, id: JobId, why: &str, actions: &mut Vec<Action>) {
        self.fail_job(id, Failure::new(FailureKind::Cancelled, why), Vec::new(), actions);
    }

    pub(crate) fn cancel_group(&mut self, group: Option<&str>, why: &str, actions: &mut Vec<Action>) {
        let of_group = |job: &Job| group.is_none() || job.group.as_deref() == group;
        let jobs: Vec<JobId> = self.jobs.iter().filter(|(_, job)| of_group(job)).map(|(&id, _)| id).collect();
        jobs.into_iter().for_each(|job| self.cancel_job(job, why, actions));
    }

    pub(crate) fn fail_job(&mut self, id: JobId, failure: Failure, earlier: Vec<Failure>, actions: &mut Vec<Action>) {
        if self.jobs.contains_key(&id) {
            actions.push(Action::FailJob { job: id, failure, earlier });
            self.end_job(id, actions);
        }
    }

    /// Fails every unfinished job.
    pub(crate) fn fail_all(&mut self, failure: &Failure, earlier: &[Failure], actions: &mut Vec<Action>) {
        let jobs: Vec<JobId> = self.jobs.keys().copied().collect();
        jobs.into_iter().for_each(|job| self.fail_job(job, failure.clone(), earlier.to_vec(), actions));
    }

    /// Forgets a job: what runs for it is cancelled, what others need of it is left to them.
    fn end_job(&mut self, id: JobId, actions: &mut Vec<Action>) {
        let Some(stages) = self.jobs.get(&id).map(|job| job.stages.clone()) else { return };
        for stage in stages {
            self.rest_stage(stage, actions);
            if let Some(shuffle) = self.stages.remove(&stage).and_then(|stage| stage.shuffle()) {
                if let Some(outputs) = self.outputs.get_mut(&shuffle) {
                    outputs.users.remove(&id);
                }
                self.drop_if_unused(shuffle, actions);
            }
        }
        self.jobs.remove(&id);
        self.dirty.remove(&id);
        self.kick = true;
    }
}
