//! Which jobs run, what are their stages, and what has each given?

use std::collections::{BTreeMap, HashMap};

use model::graph::{Job, Output, Stage};
use model::ids::{AttemptId, JobId, PartitionId, ShuffleId, StageId};
use model::messages::Payload;
use model::metrics::TaskMetrics;
use model::runner::JobError;
use model::write::StagedFile;

use crate::requests::Staged;
use crate::results::{Arrival, Producer};

/// A job that has not ended.
pub(crate) struct RunningJob {
    pub(crate) name: String,
    stages: Vec<StageId>,
    results: Producer,
    /// What arrived in this turn.
    arrivals: Vec<Arrival>,
    /// Bytes of all results that were accepted.
    result_bytes: u64,
    /// What accepted tasks counted.
    metrics: TaskMetrics,
    /// Files of accepted tasks, and who wants to hear of them.
    staged: BTreeMap<(StageId, PartitionId), Vec<StagedFile>>,
    commit: Option<Staged>,
}

impl RunningJob {
    /// Whether its end is only the beginning of a commit.
    pub(crate) fn writes(&self) -> bool {
        self.commit.is_some()
    }

    /// Tells the caller: everything that arrived, then how it ended.
    pub(crate) fn end(mut self, end: Result<(), JobError>) {
        if !self.arrivals.is_empty() {
            self.results.put(&mut self.arrivals);
        }
        if let (Some(commit), Ok(())) = (self.commit, &end) {
            // Nobody listens if the write was given up.
            let _ = commit.send(self.staged.into_values().flatten().collect());
        }
        self.results.end(end);
    }
}

/// A stage of running jobs.
pub(crate) struct RunningStage {
    pub(crate) name: String,
    pub(crate) stage: Stage,
    /// How many running jobs have it.
    jobs: u32,
    /// Its body in the store, if that was needed.
    pub(crate) stored: Option<Payload>,
    /// Its body is on its way there.
    pub(crate) uploading: bool,
}

/// All jobs that run.
#[derive(Default)]
pub(crate) struct Jobs {
    jobs: BTreeMap<JobId, RunningJob>,
    stages: HashMap<StageId, RunningStage>,
}

impl Jobs {
    pub(crate) fn start(&mut self, job: Job, results: Producer, commit: Option<Staged>) {
        let running = RunningJob {
            name: job.name,
            stages: job.stages.iter().map(|stage| stage.shape.id).collect(),
            results,
            arrivals: Vec::new(),
            result_bytes: 0,
            metrics: TaskMetrics::default(),
            staged: BTreeMap::new(),
            commit,
        };
        self.jobs.insert(job.id, running);
        for stage in job.stages {
            let name = stage.name.clone();
            let entry = self.stages.entry(stage.shape.id);
            entry.or_insert(RunningStage { name, stage, jobs: 0, stored: None, uploading: false }).jobs += 1;
        }
    }

    /// The job is over; its stages go with the last job that has them.
    pub(crate) fn end(&mut self, job: JobId) -> Option<RunningJob> {
        let running = self.jobs.remove(&job)?;
        for id in &running.stages {
            if let Some(stage) = self.stages.get_mut(id) {
                stage.jobs -= 1;
                if stage.jobs == 0 {
                    self.stages.remove(id);
                }
            }
        }
        Some(running)
    }

    /// The shuffle that a job's last stage writes.
    pub(crate) fn writes(&self, job: JobId) -> Option<ShuffleId> {
        let last = self.jobs.get(&job)?.stages.last()?;
        match self.stages.get(last)?.stage.shape.output {
            Output::Shuffle { shuffle, .. } => Some(shuffle),
            Output::Result | Output::Write => None,
        }
    }

    pub(crate) fn stage(&self, stage: StageId) -> Option<&RunningStage> {
        self.stages.get(&stage)
    }

    pub(crate) fn stage_mut(&mut self, stage: StageId) -> Option<&mut RunningStage> {
        self.stages.get_mut(&stage)
    }

    pub(crate) fn result_bytes(&self, job: JobId) -> u64 {
        self.jobs.get(&job).map_or(0, |job| job.result_bytes)
    }

    /// What waits for a reader of a job whose results are streamed, with one more.
    pub(crate) fn waiting_with(&self, job: JobId, result: &Payload) -> Option<u64> {
        self.jobs.get(&job)?.results.waiting_with(result)
    }

    /// Something was accepted. It leaves with [`Self::deliver`].
    pub(crate) fn arrived(&mut self, job: JobId, arrival: Arrival) {
        if let Some(job) = self.jobs.get_mut(&job) {
            job.result_bytes += arrival.result_bytes();
            job.results.accepted(&arrival);
            job.arrivals.push(arrival);
        }
    }

    /// What an accepted task counted.
    pub(crate) fn measure(&mut self, job: JobId, metrics: TaskMetrics) {
        if let Some(job) = self.jobs.get_mut(&job) {
            job.metrics += metrics;
        }
    }

    pub(crate) fn metrics(&self, job: JobId) -> TaskMetrics {
        self.jobs.get(&job).map(|job| job.metrics).unwrap_or_default()
    }

    /// Files of an accepted task.
    pub(crate) fn staged(&mut self, attempt: AttemptId, files: Vec<StagedFile>) {
        if let Some(job) = self.jobs.get_mut(&attempt.job) {
            job.staged.insert((attempt.stage, attempt.partition), files);
        }
    }

    /// All that was accepted of a stage is void.
    pub(crate) fn void_stage(&mut self, stage: StageId) {
        self.jobs.values_mut().for_each(|job| job.staged.retain(|(of, _), _| *of != stage));
    }

    /// Hands what arrived to the caller.
    pub(crate) fn deliver(&mut self, job: JobId) {
        if let Some(job) = self.jobs.get_mut(&job) {
            job.results.put(&mut job.arrivals);
        }
    }
}
