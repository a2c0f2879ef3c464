//! Which method answers which event?

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use model::{ExecutorId, Failure, JobId, PartitionId, ShuffleId, StageId, Timestamp};

use crate::deadlines::Timer;
use crate::demand::Ceiling;
use crate::executors::Executors;
use crate::job::Job;
use crate::outputs::Outputs;
use crate::stage::Stage;
use crate::{Action, Config, Event};

/// The state machine. Owned by one event loop, the only caller.
#[derive(Debug, Default)]
pub struct Scheduler {
    pub(crate) config: Config,
    pub(crate) jobs: BTreeMap<JobId, Job>,
    /// How many jobs were submitted.
    pub(crate) submitted: u64,
    /// The stages of all unfinished jobs.
    pub(crate) stages: BTreeMap<StageId, Stage>,
    /// What is known of every shuffle, over all jobs.
    pub(crate) outputs: BTreeMap<ShuffleId, Outputs>,
    /// How many lost maps were accepted again.
    pub(crate) remakes: u64,
    pub(crate) executors: Executors,

    /// Running stages with tasks that wait and may share an executor, in the order they are served in.
    pub(crate) ready: BTreeSet<(u64, StageId)>,
    /// Running stages with tasks that wait for an executor to themselves.
    pub(crate) lonely: BTreeSet<(u64, StageId)>,
    /// Executors kept or used for one task alone.
    pub(crate) reservations: BTreeMap<(StageId, PartitionId), ExecutorId>,
    /// How many tasks wait, over all running stages.
    pub(crate) waiting: u64,
    /// Stages that are excluded from an executor.
    pub(crate) excluding: BTreeSet<StageId>,
    /// How many stages are excluded everywhere.
    pub(crate) outcasts: u32,

    pub(crate) timers: BTreeSet<(Timestamp, Timer)>,
    pub(crate) no_executor_since: Option<Timestamp>,
    pub(crate) store_silent_since: Option<Timestamp>,
    pub(crate) ever_joined: bool,
    pub(crate) start_failures: Vec<Failure>,
    pub(crate) crashes: VecDeque<(Timestamp, Failure)>,
    pub(crate) cluster_waits: Option<String>,
    pub(crate) refused: Option<String>,
    pub(crate) requested: Option<u32>,
    /// More executors are not asked for yet.
    pub(crate) ceiling: Ceiling,

    /// Jobs whose stages may have to start or stop. Empty between events.
    pub(crate) dirty: BTreeSet<JobId>,
    /// Executors with a slot that may be free. Empty between events.
    pub(crate) touched: Vec<ExecutorId>,
    /// Tasks or executors have become available. False between events.
    pub(crate) kick: bool,
    /// How many events were handled: now and then all invariants are checked.
    pub(crate) handled: u64,
}

impl Scheduler {
    /// A scheduler that has heard nothing yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let executors = Executors { sabotage: config.sabotage, ..Executors::default() };
        let ceiling = Ceiling::new(&config);
        Self { config, executors, ceiling, ..Self::default() }
    }

    /// Takes note of what happened and says what to do about it, in order. `now` is the time since the driver began and
    /// never goes back.
    pub fn handle(&mut self, now: Timestamp, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        let out = &mut actions;
        match event {
            Event::ApplicationStarted => {}
            Event::JobSubmitted { job, group, shape } => self.submit(job, group, shape, out),
            Event::JobCancelled { job, why } => self.cancel_job(job, &why, out),
            Event::GroupCancelled { group, why } => self.cancel_group(group.as_deref(), &why, out),
            Event::ExecutorJoined { executor, slots } => self.join(now, executor, slots, out),
            Event::ExecutorLost { executor, cause, why } => self.lose_executor(now, executor, cause, &why, out),
            Event::ExecutorDraining { executor, why } => self.drain(executor, &why, out),
            Event::ExecutorDrained { executor } => self.drained(now, executor, out),
            Event::LinkRestored { executor, holding } => self.relink(now, executor, holding, out),
            Event::HeartbeatHeard { executor } => {
                self.executors.hear(now, executor);
                return actions;
            }
            Event::TaskStarted { attempt, executor } => {
                self.start_task(now, attempt, executor);
                return actions;
            }
            Event::TaskHandedOver { attempt, executor } => self.hand_over(now, attempt, executor),
            Event::TaskSucceeded { attempt, executor, cached } => self.succeed(now, attempt, executor, cached, out),
            Event::TaskFailed { attempt, executor, failure } => self.fail(now, attempt, executor, failure, out),
            Event::OutputDiffered { shuffle, generation, map } => {
                self.raise_generation(shuffle, generation, map, out);
            }
            Event::OutputsLost { shuffle, generation, maps, why } => {
                self.lose_outputs(shuffle, generation, &maps, &why, out);
            }
            Event::ShuffleReleased { shuffle } => self.release_shuffle(shuffle, out),
            Event::RddUnpersisted { rdd } => self.executors.unpersist(rdd),
            Event::StoreAnswered => {
                self.store_answered();
                return actions;
            }
            Event::ClusterWaiting { why } => self.cluster_waits = Some(why).filter(|why| !why.is_empty()),
            Event::ClusterRefused { why } => self.refused = Some(why).filter(|why| !why.is_empty()),
            Event::DeadlinePassed => self.expire(now, out),
            Event::Slept { gap } => self.slept(now, gap),
        }
        self.settle(now, out);
        self.handled += 1;
        if cfg!(debug_assertions) {
            self.check_invariants_sometimes();
        }
        actions
    }

    /// Draws the conclusions: starts and stops stages, fills slots, asks for executors.
    fn settle(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        while let Some(job) = self.dirty.pop_first() {
            self.advance(now, job, actions);
        }
        if self.kick && !self.excluding.is_empty() {
            self.check_places(now, actions);
        }
        self.place(now, actions);
        self.request_executors(now, actions);
        self.check_usable(now);
    }

    fn store_answered(&mut self) {
        if self.store_silent_since.take().is_some() {
            self.jobs.values_mut().for_each(|job| job.store_failure = None);
        }
    }
}
