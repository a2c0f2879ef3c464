//! Which task goes to which slot?
//!
//! Jobs in the order of submission, then stages, then partitions; holders of cached partitions first. Nothing is
//! searched anew: an event looks at the executors it has touched, and at all that are open only when tasks or executors
//! have become available.

use std::ops::Bound::{Excluded, Unbounded};

use model::{AttemptId, ExecutorId, PartitionId, StageId, Timestamp};

use crate::stage::{Run, Stage};
use crate::{Action, Scheduler};

/// How many executors are looked at for a task to take back: enough to pass over those whose tasks do not suit.
const TAKE_BACK_TRIES: usize = 4;

impl Scheduler {
    /// Fills the slots that the last event has freed, or all that are open.
    pub(crate) fn place(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let mut touched = std::mem::take(&mut self.touched);
        if self.kick || !self.reservations.is_empty() {
            self.place_alone(&touched, actions);
        }
        if std::mem::take(&mut self.kick) {
            self.place_everywhere(now, actions);
        }
        for executor in touched.drain(..) {
            while self.place_one(now, executor, actions) {}
            while self.has_free_slot(executor) && self.take_back_for(now, executor, actions) {}
        }
        self.touched = touched;
    }

    /// Spreads what waits over all open executors, the emptiest first.
    fn place_everywhere(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let mut passed = None;
        while !self.ready.is_empty() {
            let next = match passed {
                None => self.executors.open.first(),
                Some(key) => self.executors.open.range((Excluded(key), Unbounded)).next(),
            };
            let Some(&key) = next else { return };
            if !self.place_one(now, key.2, actions) {
                passed = Some(key);
            }
        }
    }

    /// Sends an executor one more task, if it is open and one suits it.
    fn place_one(&mut self, now: Timestamp, executor: ExecutorId, actions: &mut Vec<Action>) -> bool {
        if self.ready.is_empty() || self.executors.map.get(&executor).is_none_or(|e| e.open_key.is_none()) {
            return false;
        }
        let Some((stage, partition)) = self.pick(now, executor) else { return false };
        self.launch(stage, partition, executor, false, actions);
        true
    }

    fn pick(&mut self, now: Timestamp, executor: ExecutorId) -> Option<(StageId, PartitionId)> {
        for &(_, id) in &self.ready {
            let stage = self.stages.get(&id)?;
            if self.is_excluded(stage, executor) {
                continue;
            }
            let Some(run) = (match &stage.phase {
                crate::stage::Phase::Running(run) => Some(run),
                crate::stage::Phase::Idle | crate::stage::Phase::Waiting => None,
            }) else {
                continue;
            };
            let picky = run.picky.iter().find(|&&partition| self.suits(stage, partition, executor));
            let partition = picky.copied().or_else(|| pending_for(run, now, executor));
            if let Some(partition) = partition {
                return Some((id, partition));
            }
        }
        None
    }

    /// R7: whether a stage may not run on an executor.
    pub(crate) fn is_excluded(&self, stage: &Stage, executor: ExecutorId) -> bool {
        stage.blamed.get(&executor).is_some_and(|&count| count >= self.config.stage_exclusion)
    }

    /// Whether a task that failed may run there: not where it failed, if there is any other place for it.
    fn suits(&self, stage: &Stage, partition: PartitionId, executor: ExecutorId) -> bool {
        let Some(trouble) = stage.trouble.get(&partition).filter(|trouble| trouble.avoid.contains(&executor)) else {
            return true;
        };
        let avoided =
            trouble.avoid.iter().filter(|&&e| self.executors.serves(e) && !self.is_excluded(stage, e)).count();
        let excluded = stage.blamed.keys().filter(|&&e| self.executors.serves(e) && self.is_excluded(stage, e)).count();
        avoided + excluded >= self.executors.serving as usize
    }

    /// Sends a task that waits.
    fn launch(
        &mut self,
        stage_id: StageId,
        partition: PartitionId,
        executor: ExecutorId,
        alone: bool,
        actions: &mut Vec<Action>,
    ) {
        let Some(stage) = self.stages.get_mut(&stage_id) else { return };
        let (job, stage_attempt) = (stage.job, stage.attempt);
        let Some(run) = stage.run() else { return };
        run.take(partition);
        let attempt = run.again.remove(&partition).unwrap_or(0);
        let stage_has_pending = run.waiting() > 0;
        if stage_has_pending {
            run.hopeful.insert(executor);
        }
        stage.live.insert((partition, stage_attempt, attempt), executor);
        let attempt = AttemptId { job, stage: stage_id, stage_attempt, partition, attempt };
        self.executors.add_live(executor, attempt, alone, self.remakes);
        actions.push(Action::LaunchTask { attempt, executor, stage_has_pending });
        self.note_waiting(stage_id, actions);
    }

    fn has_free_slot(&self, executor: ExecutorId) -> bool {
        let executor = self.executors.map.get(&executor);
        executor.is_some_and(|e| matches!(e.open_key, Some((false, ..))))
    }

    /// With nothing left that waits: takes a task back that waits behind another executor's slot, for a slot that is
    /// free. It is launched here at once; should it have begun there all the same, the first to succeed counts.
    fn take_back_for(&mut self, now: Timestamp, executor: ExecutorId, actions: &mut Vec<Action>) -> bool {
        let donors = self.executors.takeable.iter().rev().filter(|&&(_, donor)| donor != executor);
        let found = donors.take(TAKE_BACK_TRIES).find_map(|&(_, donor)| {
            let queue = &self.executors.map.get(&donor)?.queue;
            let attempt = queue.iter().rev().find(|attempt| {
                let live = self.executors.map[&donor].live.get(attempt);
                live.is_some_and(|l| !l.started && l.standing == crate::executors::Standing::Wanted)
            })?;
            let stage = self.stages.get(&attempt.stage)?;
            let crate::stage::Phase::Running(run) = &stage.phase else { return None };
            let waits_for_holder = run.locality.as_ref().is_some_and(|locality| now < locality.until);
            let suits = !self.is_excluded(stage, executor) && self.suits(stage, attempt.partition, executor);
            (suits && !waits_for_holder).then_some((donor, *attempt))
        });
        let Some((donor, attempt)) = found else { return false };
        self.executors.withdraw(donor, attempt);
        actions.push(Action::CancelTask { attempt, executor: donor });
        let current = self.stages.get(&attempt.stage).is_some_and(|stage| stage.attempt == attempt.stage_attempt);
        if let Some(run) = self.stages.get_mut(&attempt.stage).and_then(Stage::run) {
            if current {
                run.again.insert(attempt.partition, attempt.attempt + 1);
            }
            run.pending.insert(attempt.partition.0);
            self.launch(attempt.stage, attempt.partition, executor, false, actions);
        }
        true
    }

    /// R4: gives tasks that may have crashed an executor one to themselves, at most half of all at a time.
    fn place_alone(&mut self, touched: &[ExecutorId], actions: &mut Vec<Action>) {
        for &executor in touched {
            self.launch_alone(executor, actions);
        }
        if !self.kick {
            return;
        }
        let limit = (self.executors.serving as usize / 2).max(1);
        let waiting: Vec<(StageId, PartitionId)> = self
            .lonely
            .iter()
            .filter_map(|(_, id)| match &self.stages.get(id)?.phase {
                crate::stage::Phase::Running(run) => Some((*id, run)),
                crate::stage::Phase::Idle | crate::stage::Phase::Waiting => None,
            })
            .flat_map(|(id, run)| run.alone.iter().map(move |&partition| (id, partition)))
            .filter(|task| !self.reservations.contains_key(task))
            .take(limit.saturating_sub(self.reservations.len()))
            .collect();
        for (stage, partition) in waiting {
            let Some(executor) = self.quietest(stage, partition) else { continue };
            self.reservations.insert((stage, partition), executor);
            self.executors.set_reserved(executor, Some((stage, partition)));
            self.take_back_queue(executor, actions);
            self.launch_alone(executor, actions);
        }
    }

    /// The executor with the fewest attempts that may run a task alone.
    fn quietest(&self, stage: StageId, partition: PartitionId) -> Option<ExecutorId> {
        let stage = self.stages.get(&stage)?;
        let avoid = stage.trouble.get(&partition).map_or(&[][..], |trouble| &trouble.avoid);
        self.executors
            .map
            .iter()
            .filter(|(id, executor)| self.executors.serves(**id) && executor.reserved.is_none())
            .filter(|(id, _)| !self.is_excluded(stage, **id))
            .min_by_key(|(id, executor)| (avoid.contains(id), executor.live.len(), **id))
            .map(|(&id, _)| id)
    }

    /// Sends a reserved executor its task once nothing runs there any more.
    fn launch_alone(&mut self, executor: ExecutorId, actions: &mut Vec<Action>) {
        let Some(state) = self.executors.map.get(&executor).filter(|state| state.live.is_empty()) else { return };
        let Some((stage, partition)) = state.reserved else { return };
        let waits = self.stages.get_mut(&stage).and_then(Stage::run).is_some_and(|run| run.alone.contains(&partition));
        if !waits {
            return;
        }
        self.launch(stage, partition, executor, true, actions);
    }

    /// Frees executors reserved for tasks that are not wanted any more. The predicate sees the stage, and whether the
    /// task has been launched.
    pub(crate) fn drop_reservations(&mut self, gone: impl Fn(StageId, bool) -> bool) {
        let dropped: Vec<_> = self
            .reservations
            .iter()
            .filter(|((stage, _), executor)| gone(*stage, self.runs_alone(**executor)))
            .map(|(&task, &executor)| (task, executor))
            .collect();
        for (task, executor) in dropped {
            self.reservations.remove(&task);
            self.executors.set_reserved(executor, None);
            self.kick = true;
        }
    }

    fn runs_alone(&self, executor: ExecutorId) -> bool {
        self.executors.map.get(&executor).is_some_and(|e| e.live.values().any(|live| live.alone))
    }

    /// Frees the executor reserved for one task, unless it runs there.
    pub(crate) fn drop_reservations_of(&mut self, stage: StageId, partition: PartitionId) {
        if let Some(&executor) = self.reservations.get(&(stage, partition))
            && !self.runs_alone(executor)
        {
            self.reservations.remove(&(stage, partition));
            self.executors.set_reserved(executor, None);
            self.kick = true;
        }
    }

    /// Gives up the reservation of an executor that takes no tasks any more.
    pub(crate) fn drop_reservations_on(&mut self, executor: ExecutorId) {
        if !self.runs_alone(executor) {
            self.reservations.retain(|_, reserved| *reserved != executor);
            self.executors.set_reserved(executor, None);
        }
    }
}

/// The pending task of a stage that an executor should take, if any.
fn pending_for(run: &Run, now: Timestamp, executor: ExecutorId) -> Option<PartitionId> {
    let Some(locality) = &run.locality else { return run.pending.first().map(PartitionId) };
    let held = locality.held.get(&executor).into_iter().flatten();
    let own = held.copied().find(|partition| run.pending.contains(partition.0));
    let anybody = if now >= locality.until { &run.pending } else { &locality.free };
    own.or_else(|| anybody.first().map(PartitionId))
}
