//! Which map outputs exist, and what runs again if one is lost?

use std::collections::{BTreeMap, BTreeSet};

use model::failure::FailureKind;
use model::graph::Output;
use model::{ExecutorId, Failure, Generation, JobId, MapId, ShuffleId, StageId};

use crate::config::Sabotage;
use crate::partitions::Partitions;
use crate::stage::{Phase, Stop};
use crate::{Action, Scheduler};

/// What is known of one shuffle, over all jobs of the application.
#[derive(Debug)]
pub(crate) struct Outputs {
    pub(crate) generation: Generation,
    /// Maps of this generation without an accepted attempt.
    pub(crate) missing: Partitions,
    /// Maps that were accepted and then lost or voided: their accumulators have been counted.
    pub(crate) counted: Partitions,
    /// Maps that were accepted again in this generation, and when by [`Scheduler::remakes`]: an attempt launched before
    /// has a plan that names the lost objects.
    pub(crate) remade: BTreeMap<MapId, u64>,
    /// The shuffles it was made from: if one of them gets other rows, so does this.
    pub(crate) made_from: BTreeSet<ShuffleId>,
    /// Unfinished jobs that have it in their graph.
    pub(crate) users: BTreeSet<JobId>,
    /// The one stage that may run to make it. The same shuffle is another stage in every job.
    pub(crate) producer: Option<StageId>,
    /// The next stage attempt. Counted by shuffle, not by stage: with the task's attempt it tells apart the writers of a
    /// map, whichever job's stage they belong to.
    pub(crate) next_attempt: u32,
    /// No future job asks for it.
    pub(crate) released: bool,
}

impl Outputs {
    pub(crate) fn new(maps: u32, made_from: BTreeSet<ShuffleId>) -> Self {
        Self {
            generation: Generation(0),
            missing: Partitions::all(maps),
            counted: Partitions::none(maps),
            remade: BTreeMap::new(),
            made_from,
            users: BTreeSet::new(),
            producer: None,
            next_attempt: 0,
            released: false,
        }
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }

    /// Whether any map is accepted.
    pub(crate) fn has_any(&self) -> bool {
        self.missing.len() < self.missing.bound()
    }
}

/// What a reading attempt says about maps it could not read.
pub(crate) enum Believed {
    /// These are lost.
    Lost(Vec<MapId>),
    /// All of them were known to be lost, and some may be there again.
    Known,
    /// There are no such maps.
    Nonsense,
}

impl Scheduler {
    /// Whether a shuffle is known, and all its maps are accepted.
    pub(crate) fn is_complete(&self, shuffle: ShuffleId) -> bool {
        self.outputs.get(&shuffle).is_some_and(Outputs::is_complete)
    }

    /// What to make of a report by an attempt that was launched when [`Scheduler::remakes`] was `launched_at`.
    pub(crate) fn believe(
        &self,
        shuffle: ShuffleId,
        generation: Generation,
        maps: &[MapId],
        launched_at: u64,
    ) -> Believed {
        let Some(outputs) = self.outputs.get(&shuffle) else { return Believed::Nonsense };
        if generation > outputs.generation || !maps.iter().any(|map| map.0 < outputs.missing.bound()) {
            return Believed::Nonsense;
        }
        let lost: Vec<MapId> = maps
            .iter()
            .copied()
            .filter(|map| map.0 < outputs.missing.bound() && !outputs.missing.contains(map.0))
            .filter(|map| outputs.remade.get(map).is_none_or(|&at| at <= launched_at))
            .collect();
        if lost.is_empty() || generation < outputs.generation { Believed::Known } else { Believed::Lost(lost) }
    }

    /// Takes note that maps are lost: stages that read them stop until they are there again.
    pub(crate) fn lose_outputs(
        &mut self,
        shuffle: ShuffleId,
        generation: Generation,
        maps: &[MapId],
        why: &str,
        actions: &mut Vec<Action>,
    ) {
        if self.config.sabotage == Some(Sabotage::KeepLostOutputs) {
            return;
        }
        let Some(outputs) = self.outputs.get_mut(&shuffle).filter(|o| o.generation == generation) else { return };
        let mut lost = Vec::new();
        for &map in maps {
            if outputs.missing.insert(map.0) {
                outputs.counted.insert(map.0);
                lost.push(map);
            }
        }
        if lost.is_empty() {
            return;
        }
        self.dirty.extend(outputs.users.iter().copied());
        let producer = outputs.producer;
        actions.push(Action::DropOutputs { shuffle, generation, maps: lost, why: why.to_owned() });
        // A running writer begins another attempt: the task attempts of this one are used up for the lost maps.
        if let Some(stage) = producer {
            self.stop_stage(stage, Stop::InputsLost("outputs of it are lost"), actions);
        }
    }

    /// A map that ran again has other rows (reliability rules for non-determinism): the shuffle and all that was made
    /// from it begin anew.
    pub(crate) fn raise_generation(
        &mut self,
        shuffle: ShuffleId,
        generation: Generation,
        map: MapId,
        actions: &mut Vec<Action>,
    ) {
        if self.outputs.get(&shuffle).is_none_or(|o| o.generation != generation) {
            return;
        }
        let failure = Failure::new(
            FailureKind::NotDeterministic,
            format!("{map} of {shuffle} gave other rows when it ran again"),
        );
        let mut failed: BTreeMap<JobId, (Failure, Vec<Failure>)> = BTreeMap::new();
        let mut raised = BTreeSet::new();
        let mut next = vec![shuffle];
        while let Some(shuffle) = next.pop() {
            if !raised.insert(shuffle) {
                continue;
            }
            let Some(outputs) = self.outputs.get_mut(&shuffle) else { continue };
            let accepted = (0..outputs.missing.bound()).filter(|&map| !outputs.missing.contains(map));
            accepted.for_each(|map| _ = outputs.counted.insert(map));
            outputs.generation = Generation(outputs.generation.0 + 1);
            outputs.missing = Partitions::all(outputs.missing.bound());
            outputs.remade.clear();
            actions.push(Action::RaiseGeneration { shuffle, generation: outputs.generation });
            let users = outputs.users.clone();
            self.dirty.extend(users.iter().copied());
            for job in users {
                for stage in self.jobs[&job].stages.clone() {
                    self.void_stage(stage, shuffle, &failure, &mut failed, actions);
                }
            }
            let made_from_it =
                |(&id, o): (&ShuffleId, &Outputs)| (o.made_from.contains(&shuffle) && o.has_any()).then_some(id);
            next.extend(self.outputs.iter().filter_map(made_from_it));
        }
        let writers: Vec<StageId> = self.writers_of(shuffle).collect();
        for stage in writers {
            if let Some(failure) = self.count_stage_failure(stage, &failure) {
                failed.entry(self.stages[&stage].job).or_insert(failure);
            }
        }
        for (job, (failure, earlier)) in failed {
            self.fail_job(job, failure, earlier, actions);
        }
    }

    /// Voids what a stage did with, or for, a shuffle whose rows have changed.
    fn void_stage(
        &mut self,
        id: StageId,
        shuffle: ShuffleId,
        failure: &Failure,
        failed: &mut BTreeMap<JobId, (Failure, Vec<Failure>)>,
        actions: &mut Vec<Action>,
    ) {
        let Some(stage) = self.stages.get_mut(&id) else { return };
        let reads = stage.shape.reads.iter().any(|read| read.shuffle == shuffle);
        let writes = stage.shuffle() == Some(shuffle);
        if !reads && !writes {
            return;
        }
        if reads && !stage.accepted.is_empty() {
            match stage.shape.output {
                Output::Result => {
                    let failure = failure.clone().caused_by(
                        "rows made from the earlier ones have left already: sort, seed or checkpoint what is unstable",
                    );
                    failed.insert(stage.job, (failure, Vec::new()));
                }
                Output::Write => {
                    let accepted = std::mem::replace(&mut stage.accepted, Partitions::none(stage.shape.partitions));
                    stage.counted.extend(&accepted);
                    actions.push(Action::VoidStage { stage: id });
                }
                Output::Shuffle { .. } => {} // its outputs are voided with their own shuffle
            }
        }
        self.stop_stage(id, Stop::Void("rows that it reads or wrote are not the same any more"), actions);
        self.void_live(id, actions);
    }

    /// The stages of unfinished jobs that write a shuffle.
    pub(crate) fn writers_of(&self, shuffle: ShuffleId) -> impl Iterator<Item = StageId> {
        let users = self.outputs.get(&shuffle).into_iter().flat_map(|o| &o.users);
        users.filter_map(move |job| self.jobs.get(job)?.writers.get(&shuffle).copied())
    }

    /// A shuffle that nobody can ask for goes as soon as no job has it in its graph.
    pub(crate) fn release_shuffle(&mut self, shuffle: ShuffleId, actions: &mut Vec<Action>) {
        if let Some(outputs) = self.outputs.get_mut(&shuffle) {
            outputs.released = true;
            self.drop_if_unused(shuffle, actions);
        }
    }

    pub(crate) fn drop_if_unused(&mut self, shuffle: ShuffleId, actions: &mut Vec<Action>) {
        if self.outputs.get(&shuffle).is_some_and(|o| o.released && o.users.is_empty()) {
            self.outputs.remove(&shuffle);
            actions.push(Action::DropShuffle { shuffle });
        }
    }

    /// Cancels every attempt of a stage, whatever becomes of it.
    pub(crate) fn void_live(&mut self, id: StageId, actions: &mut Vec<Action>) {
        let Some(stage) = self.stages.get_mut(&id) else { return };
        let live = std::mem::take(&mut stage.live);
        let job = stage.job;
        for ((partition, stage_attempt, attempt), executor) in live {
            let attempt = model::AttemptId { job, stage: id, stage_attempt, partition, attempt };
            self.void_attempt(attempt, executor, actions);
        }
    }

    fn void_attempt(&mut self, attempt: model::AttemptId, executor: ExecutorId, actions: &mut Vec<Action>) {
        if self.executors.void(executor, attempt) {
            actions.push(Action::CancelTask { attempt, executor });
        }
    }

    /// Whether a stage runs at present.
    pub(crate) fn runs(&self, stage: StageId) -> bool {
        self.stages.get(&stage).is_some_and(|s| matches!(s.phase, Phase::Running(_)))
    }
}
