//! What must always hold?

use std::collections::BTreeMap;

use model::AttemptId;

use crate::Scheduler;
use crate::executors::{Duty, Place, Standing};
use crate::stage::Phase;

/// A full check costs as much as there is state. Up to this much it is made after every event; of a larger state so
/// rarely that each event pays for about so much.
const CHECKED_PER_EVENT: u64 = 256;

impl Scheduler {
    pub(crate) fn check_invariants_sometimes(&self) {
        let partitions: u64 = self.stages.values().map(|stage| u64::from(stage.shape.partitions) / 8).sum();
        let size = partitions + self.executors.occupying + 4 * self.executors.map.len() as u64;
        if size <= CHECKED_PER_EVENT || self.handled.is_multiple_of(size / CHECKED_PER_EVENT) {
            self.check_invariants();
        }
    }

    /// Panics if anything is not as it must be between two events. Made in debug builds and by the simulator.
    ///
    /// # Panics
    /// If an invariant is broken: a defect of this crate.
    #[doc(hidden)]
    pub fn check_invariants(&self) {
        assert!(self.jobs.is_empty() || self.next_deadline().is_some(), "an unfinished job has a deadline");
        assert!(self.dirty.is_empty() && self.touched.is_empty() && !self.kick, "an event is handled to its end");
        self.check_executors();
        self.check_stages();
        self.check_shuffles();
    }

    fn check_executors(&self) {
        let (mut occupying, mut serving, mut draining) = (0, 0, 0);
        for (id, executor) in &self.executors.map {
            let count = |place| executor.live.values().filter(|live| live.place == place).count() as u32;
            let (running, queued) = (count(Place::Slot), count(Place::Queued));
            assert!(running <= executor.slots, "no slot of {id} is used twice");
            assert_eq!(running, executor.running, "slots of {id} are counted");
            assert_eq!(queued as usize, executor.queue.len(), "{id} lists what waits there");
            assert!(queued <= executor.slots, "one task waits behind each slot of {id}");
            let takeable = |attempt: &&AttemptId| {
                let live = &executor.live[*attempt];
                live.place == Place::Queued && !live.started && live.standing == Standing::Wanted
            };
            let takeable = executor.queue.iter().filter(takeable).count() as u32;
            assert_eq!(takeable, executor.takeable, "{id} counts what can be taken back");
            assert_eq!(self.executors.takeable.contains(&(takeable, *id)), takeable > 0);
            assert_eq!(
                self.executors.open.contains(&(running >= executor.slots, running + queued, *id)),
                executor.open_key.is_some()
            );
            let open = executor.duty == Duty::Serving && executor.reserved.is_none() && queued < executor.slots;
            assert_eq!(open, executor.open_key.is_some(), "{id} is listed as open if it is");
            let alone = executor.live.values().any(|live| live.alone);
            assert!(!alone || executor.live.len() == 1, "a task of {id} has it to itself");
            assert!(!alone || executor.reserved.is_some(), "{id} is kept for the task that runs there alone");
            if let Some(task) = executor.reserved {
                assert_eq!(self.reservations.get(&task), Some(id), "{id} is reserved for a task that knows it");
            }
            occupying += u64::from(running + queued);
            serving += u32::from(executor.duty == Duty::Serving);
            draining += u32::from(executor.duty == Duty::Draining);
            for attempt in executor.live.iter().filter(|(_, live)| live.standing == Standing::Wanted).map(|(a, _)| a) {
                let stage = self.stages.get(&attempt.stage);
                let key = (attempt.partition, attempt.stage_attempt, attempt.attempt);
                assert_eq!(stage.and_then(|s| s.live.get(&key)), Some(id), "{attempt} on {id} is wanted by its stage");
            }
        }
        assert_eq!(occupying, self.executors.occupying, "occupied places are counted");
        assert_eq!((serving, draining), (self.executors.serving, self.executors.draining), "executors are counted");
        let listed = self.executors.map.values().filter(|executor| executor.open_key.is_some()).count();
        assert_eq!(listed, self.executors.open.len(), "only open executors are listed");
        for executor in self.reservations.values() {
            assert!(self.executors.map.contains_key(executor), "{executor} is reserved and alive");
        }
    }

    fn check_stages(&self) {
        let mut waiting = 0;
        for (id, stage) in &self.stages {
            assert!(self.jobs.contains_key(&stage.job), "{id} belongs to an unfinished job");
            assert!(stage.failures.len() < self.config.stage_failures as usize, "{id} is within its limit");
            let mut wanted: BTreeMap<u32, u32> = BTreeMap::new();
            for (&(partition, stage_attempt, attempt), executor) in &stage.live {
                let attempt = AttemptId { job: stage.job, stage: *id, stage_attempt, partition, attempt };
                let live = self.executors.map.get(executor).and_then(|executor| executor.live.get(&attempt));
                let standing = live.map(|live| live.standing);
                assert!(
                    standing.is_some_and(|s| s != Standing::Void),
                    "{attempt} runs on a living executor: {standing:?}"
                );
                *wanted.entry(partition.0).or_default() += u32::from(standing == Some(Standing::Wanted));
            }
            let Phase::Running(run) = &stage.phase else {
                assert!(!self.ready.contains(&(stage.seq, *id)) && !self.lonely.contains(&(stage.seq, *id)));
                continue;
            };
            waiting += run.waiting();
            assert_eq!(run.noted, run.waiting(), "{id}: waiting tasks are counted");
            let ready = !run.pending.is_empty() || !run.picky.is_empty();
            assert_eq!(ready, self.ready.contains(&(stage.seq, *id)), "{id} is served if it has tasks");
            assert_eq!(!run.alone.is_empty(), self.lonely.contains(&(stage.seq, *id)));
            for read in &stage.shape.reads {
                assert!(self.is_complete(read.shuffle), "{id} runs: {} is complete", read.shuffle);
            }
            if let Some(shuffle) = stage.shuffle() {
                assert_eq!(self.outputs[&shuffle].producer, Some(*id), "one stage makes {shuffle}");
            }
            // Every partition is accepted, or has exactly one attempt that counts, or waits in exactly one place.
            let todo = match stage.shuffle() {
                Some(shuffle) => self.outputs[&shuffle].missing.clone(),
                None => {
                    let mut todo = crate::partitions::Partitions::none(stage.shape.partitions);
                    let wanted = self.jobs[&stage.job].wanted.iter();
                    wanted.filter(|p| !stage.accepted.contains(p.0)).for_each(|p| _ = todo.insert(p.0));
                    todo
                }
            };
            for partition in todo.iter() {
                let p = model::PartitionId(partition);
                let waits = [
                    run.pending.contains(partition),
                    run.picky.contains(&p),
                    run.alone.contains(&p),
                    run.delayed.contains(&p),
                ];
                let places = waits.into_iter().filter(|&waits| waits).count() as u32;
                let live = wanted.get(&partition).copied().unwrap_or(0);
                assert_eq!(places + live, 1, "{id}.{partition} waits {waits:?} or runs ({live}) once");
            }
            if let Some(locality) = &run.locality {
                let listed = |partition: &u32| {
                    locality.free.contains(*partition)
                        || locality.held.values().any(|held| held.contains(&model::PartitionId(*partition)))
                };
                assert!(run.pending.iter().all(|p| listed(&p)), "{id}: every pending task is listed by holder");
                assert!(locality.free.iter().all(|p| run.pending.contains(p)));
            }
        }
        assert_eq!(waiting, self.waiting, "waiting tasks are counted");
    }

    fn check_shuffles(&self) {
        for (shuffle, outputs) in &self.outputs {
            if let Some(producer) = outputs.producer {
                let stage = self.stages.get(&producer);
                assert_eq!(stage.and_then(|s| s.shuffle()), Some(*shuffle), "{producer} makes {shuffle}");
            }
            assert!(outputs.users.iter().all(|job| self.jobs.contains_key(job)), "{shuffle} is used by living jobs");
        }
    }
}
