//! Who is alive, what do they run and hold, and who is set aside?

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use model::failure::LossCause;
use model::{AttemptId, ExecutorId, Failure, FailureKind, PartitionId, RddId, StageId, Timestamp};

use crate::attempts::Verdict;
use crate::config::{Config, Sabotage};
use crate::deadlines::Timer;
use crate::stage::Locality;
use crate::{Action, Scheduler};

/// An executor that joined and is not lost.
#[derive(Debug)]
pub(crate) struct Executor {
    pub(crate) slots: u32,
    pub(crate) last_heard: Timestamp,
    pub(crate) duty: Duty,
    /// What it was sent and has not ended.
    pub(crate) live: BTreeMap<AttemptId, Live>,
    /// How many of them have a slot.
    pub(crate) running: u32,
    /// Those that wait there for a slot, oldest first. At most one per slot.
    pub(crate) queue: VecDeque<AttemptId>,
    /// Those in the queue that may still be taken back.
    pub(crate) takeable: u32,
    /// For the one task that is to have it to itself.
    pub(crate) reserved: Option<(StageId, PartitionId)>,
    /// Counted failures (R7).
    failures: VecDeque<Timestamp>,
    /// Cached partitions.
    pub(crate) blocks: BTreeSet<(RddId, PartitionId)>,
    /// Since when nothing runs there.
    pub(crate) idle_since: Timestamp,
    /// Whether a timer looks after it.
    pub(crate) idle_armed: bool,
    /// Its entries in [`Executors::open`] and [`Executors::takeable`].
    pub(crate) open_key: Option<OpenKey>,
    take_key: Option<u32>,
}

/// What an executor is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duty {
    /// Tasks are sent to it.
    Serving,
    /// It finishes what it has.
    Draining,
    /// It has drained and was let go.
    Released,
}

/// Whether its slots are taken, how many attempts it has, and which it is: in this order executors are filled.
pub(crate) type OpenKey = (bool, u32, ExecutorId);

/// An attempt that an executor was sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Live {
    pub(crate) standing: Standing,
    pub(crate) place: Place,
    /// It was heard to have begun.
    pub(crate) started: bool,
    /// It has the executor to itself.
    pub(crate) alone: bool,
    /// [`Scheduler::remakes`] when it was launched.
    pub(crate) launched_at: u64,
}

/// Whether an attempt counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// If it succeeds first.
    Wanted,
    /// It was taken back; if it ran all the same and succeeds first, it counts.
    Withdrawn,
    /// It does not.
    Void,
}

/// What an attempt occupies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// A slot.
    Slot,
    /// The place behind one.
    Queued,
    /// Nothing: its rows are on their way to the store.
    HandedOver,
}

/// All executors.
#[derive(Debug, Default)]
pub(crate) struct Executors {
    pub(crate) map: BTreeMap<ExecutorId, Executor>,
    /// Those that may be sent another task.
    pub(crate) open: BTreeSet<OpenKey>,
    /// Those with tasks that can be taken back, and how many.
    pub(crate) takeable: BTreeSet<(u32, ExecutorId)>,
    /// Who holds which cached partition.
    pub(crate) holders: BTreeMap<(RddId, PartitionId), BTreeSet<ExecutorId>>,
    /// Every executor that was lost: it does not come back.
    pub(crate) gone: BTreeSet<ExecutorId>,
    /// How many serve.
    pub(crate) serving: u32,
    /// How many drain.
    pub(crate) draining: u32,
    /// Attempts that occupy a slot or a place behind one.
    pub(crate) occupying: u64,
    pub(crate) sabotage: Option<Sabotage>,
}

impl Executors {
    pub(crate) fn hear(&mut self, now: Timestamp, id: ExecutorId) {
        if let Some(executor) = self.map.get_mut(&id) {
            executor.last_heard = now;
        }
    }

    pub(crate) fn is_alive(&self, id: ExecutorId) -> bool {
        self.map.contains_key(&id)
    }

    pub(crate) fn serves(&self, id: ExecutorId) -> bool {
        self.map.get(&id).is_some_and(|executor| executor.duty == Duty::Serving)
    }

    /// Whether an executor holds an attempt that counts.
    pub(crate) fn is_wanted(&self, id: ExecutorId, attempt: AttemptId) -> bool {
        let live = self.map.get(&id).and_then(|executor| executor.live.get(&attempt));
        live.is_some_and(|live| live.standing == Standing::Wanted)
    }

    fn insert(&mut self, now: Timestamp, id: ExecutorId, slots: u32) {
        let executor = Executor {
            slots,
            last_heard: now,
            duty: Duty::Serving,
            live: BTreeMap::new(),
            running: 0,
            queue: VecDeque::new(),
            takeable: 0,
            reserved: None,
            failures: VecDeque::new(),
            blocks: BTreeSet::new(),
            idle_since: now,
            idle_armed: false,
            open_key: None,
            take_key: None,
        };
        self.map.insert(id, executor);
        self.serving += 1;
        self.reindex(id);
    }

    /// Brings the indexes up to date after an executor has changed.
    pub(crate) fn reindex(&mut self, id: ExecutorId) {
        let Some(executor) = self.map.get_mut(&id) else { return };
        let queued = executor.queue.len() as u32;
        let room = if self.sabotage == Some(Sabotage::OverbookSlots) { 3 } else { 1 };
        let open = executor.duty == Duty::Serving && executor.reserved.is_none() && queued < executor.slots * room;
        let key = open.then_some((executor.running >= executor.slots, executor.running + queued, id));
        if key != executor.open_key {
            if let Some(old) = executor.open_key {
                self.open.remove(&old);
            }
            self.open.extend(key);
            executor.open_key = key;
        }
        let take = (executor.takeable > 0).then_some(executor.takeable);
        if take != executor.take_key {
            if let Some(old) = executor.take_key {
                self.takeable.remove(&(old, id));
            }
            self.takeable.extend(take.map(|count| (count, id)));
            executor.take_key = take;
        }
    }

    /// Notes that an attempt was sent.
    pub(crate) fn add_live(&mut self, id: ExecutorId, attempt: AttemptId, alone: bool, launched_at: u64) {
        let Some(executor) = self.map.get_mut(&id) else { return };
        let overbooks = self.sabotage == Some(Sabotage::OverbookSlots);
        let place = if executor.running < executor.slots * (1 + u32::from(overbooks)) {
            executor.running += 1;
            Place::Slot
        } else {
            executor.queue.push_back(attempt);
            executor.takeable += 1;
            Place::Queued
        };
        let live = Live { standing: Standing::Wanted, place, started: false, alone, launched_at };
        executor.live.insert(attempt, live);
        self.occupying += 1;
        self.reindex(id);
    }

    pub(crate) fn note_started(&mut self, id: ExecutorId, attempt: AttemptId) {
        let Some(executor) = self.map.get_mut(&id) else { return };
        let Some(live) = executor.live.get_mut(&attempt) else { return };
        if !live.started && live.place == Place::Queued && live.standing == Standing::Wanted {
            executor.takeable -= 1;
            live.started = true;
            self.reindex(id);
        } else {
            live.started = true;
        }
    }

    /// Frees the slot of an attempt that still runs; says whether there was one.
    pub(crate) fn hand_over(&mut self, id: ExecutorId, attempt: AttemptId) -> bool {
        let Some(executor) = self.map.get_mut(&id) else { return false };
        let Some(live) = executor.live.get_mut(&attempt) else { return false };
        if live.place == Place::HandedOver {
            return false;
        }
        let takeable = live.standing == Standing::Wanted && !live.started;
        let place = std::mem::replace(&mut live.place, Place::HandedOver);
        live.started = true;
        self.vacate(id, attempt, place, takeable);
        true
    }

    /// Takes an attempt that has ended off an executor.
    pub(crate) fn remove_live(&mut self, now: Timestamp, id: ExecutorId, attempt: AttemptId) -> Option<Live> {
        let executor = self.map.get_mut(&id)?;
        let live = executor.live.remove(&attempt)?;
        if executor.live.is_empty() {
            executor.idle_since = now;
        }
        self.vacate(id, attempt, live.place, live.standing == Standing::Wanted && !live.started);
        Some(live)
    }

    fn vacate(&mut self, id: ExecutorId, attempt: AttemptId, place: Place, takeable: bool) {
        let Some(executor) = self.map.get_mut(&id) else { return };
        match place {
            Place::HandedOver => return,
            Place::Queued => {
                executor.queue.retain(|&queued| queued != attempt);
                executor.takeable -= u32::from(takeable);
            }
            Place::Slot => {
                executor.running -= 1;
                // The executor begins the next by itself.
                if executor.running < executor.slots
                    && let Some(next) = executor.queue.pop_front()
                    && let Some(live) = executor.live.get_mut(&next)
                {
                    executor.running += 1;
                    live.place = Place::Slot;
                    executor.takeable -= u32::from(live.standing == Standing::Wanted && !live.started);
                }
            }
        }
        self.occupying -= 1;
        self.reindex(id);
    }

    /// Has an attempt not count any more; says whether it did not yet have to stop.
    pub(crate) fn void(&mut self, id: ExecutorId, attempt: AttemptId) -> bool {
        self.lower(id, attempt, Standing::Void) == Some(Standing::Wanted)
    }

    /// Takes an attempt back.
    pub(crate) fn withdraw(&mut self, id: ExecutorId, attempt: AttemptId) {
        self.lower(id, attempt, Standing::Withdrawn);
    }

    fn lower(&mut self, id: ExecutorId, attempt: AttemptId, to: Standing) -> Option<Standing> {
        let executor = self.map.get_mut(&id)?;
        let live = executor.live.get_mut(&attempt)?;
        let before = std::mem::replace(&mut live.standing, to);
        if before == Standing::Wanted && live.place == Place::Queued && !live.started {
            executor.takeable -= 1;
            self.reindex(id);
        }
        Some(before)
    }

    pub(crate) fn set_reserved(&mut self, id: ExecutorId, task: Option<(StageId, PartitionId)>) {
        if let Some(executor) = self.map.get_mut(&id) {
            executor.reserved = task;
            self.reindex(id);
        }
    }

    /// R7: whether one more counted failure is one too many.
    pub(crate) fn count_failure(&mut self, now: Timestamp, id: ExecutorId, config: &Config) -> bool {
        let Some(executor) = self.map.get_mut(&id) else { return false };
        executor.failures.push_back(now);
        while executor.failures.front().is_some_and(|&at| now.since(at) > config.exclusion_window) {
            executor.failures.pop_front();
        }
        executor.failures.len() >= config.executor_exclusion as usize && executor.duty == Duty::Serving
    }

    /// Notes cached partitions.
    pub(crate) fn hold(&mut self, id: ExecutorId, cached: Vec<(RddId, PartitionId)>) {
        let Some(executor) = self.map.get_mut(&id) else { return };
        for block in cached {
            executor.blocks.insert(block);
            self.holders.entry(block).or_default().insert(id);
        }
    }

    pub(crate) fn unpersist(&mut self, rdd: RddId) {
        let all = (rdd, PartitionId(0))..=(rdd, PartitionId(u32::MAX));
        let blocks: Vec<_> = self.holders.range(all).map(|(&block, _)| block).collect();
        for block in blocks {
            for holder in self.holders.remove(&block).unwrap_or_default() {
                if let Some(executor) = self.map.get_mut(&holder) {
                    executor.blocks.remove(&block);
                }
            }
        }
    }

    /// Lists a pending task with the executors that hold what it uses.
    pub(crate) fn note_holders(&self, locality: &mut Locality, cached: &[RddId], partition: PartitionId) {
        let mut held = false;
        for holder in cached.iter().filter_map(|&rdd| self.holders.get(&(rdd, partition))).flatten() {
            if self.serves(*holder) {
                locality.held.entry(*holder).or_default().insert(partition);
                held = true;
            }
        }
        if !held {
            locality.free.insert(partition.0);
        }
    }

    fn set_duty(&mut self, id: ExecutorId, duty: Duty) {
        let Some(executor) = self.map.get_mut(&id) else { return };
        let count = |duty, by: u32, serving: &mut u32, draining: &mut u32| match duty {
            Duty::Serving => *serving = serving.wrapping_add(by),
            Duty::Draining => *draining = draining.wrapping_add(by),
            Duty::Released => {}
        };
        count(executor.duty, u32::MAX, &mut self.serving, &mut self.draining);
        count(duty, 1, &mut self.serving, &mut self.draining);
        executor.duty = duty;
        self.reindex(id);
    }

    /// Forgets an executor; gives what it was sent.
    fn remove(&mut self, id: ExecutorId) -> Option<Executor> {
        self.gone.insert(id);
        self.set_duty(id, Duty::Released);
        let executor = self.map.remove(&id)?;
        if let Some(count) = executor.take_key {
            self.takeable.remove(&(count, id));
        }
        for block in &executor.blocks {
            if let Some(holders) = self.holders.get_mut(block) {
                holders.remove(&id);
                if holders.is_empty() {
                    self.holders.remove(block);
                }
            }
        }
        self.occupying -= executor.live.values().filter(|live| live.place != Place::HandedOver).count() as u64;
        Some(executor)
    }
}

/// Why an executor is lost, and what it ran: one of them needed what there was not.
fn with_tasks(why: &str, executor: &Executor) -> String {
    let ran = executor.live.iter().filter(|(_, live)| Scheduler::has_run(live)).map(|(attempt, _)| attempt.to_string());
    match ran.collect::<Vec<_>>().as_slice() {
        [] => why.to_owned(),
        tasks => format!("{why}; it ran {}", tasks.join(", ")),
    }
}

impl Scheduler {
    pub(crate) fn join(&mut self, now: Timestamp, id: ExecutorId, slots: u32, actions: &mut Vec<Action>) {
        if self.executors.gone.contains(&id) {
            let why = "it was given up before it joined".to_owned();
            actions.push(Action::RemoveExecutor { executor: id, cause: LossCause::Infrastructure, why });
            return;
        }
        if self.executors.is_alive(id) {
            return self.executors.hear(now, id);
        }
        self.executors.insert(now, id, slots.max(1));
        self.timers.insert((now + self.config.heartbeat_timeout, Timer::Heartbeat(id)));
        self.ever_joined = true;
        self.refused = None;
        if self.dynamic() {
            self.arm_idle(now, id);
        }
        self.touched.push(id);
        self.kick = true;
    }

    /// The one path for every loss.
    pub(crate) fn lose_executor(
        &mut self,
        now: Timestamp,
        id: ExecutorId,
        cause: LossCause,
        why: &str,
        actions: &mut Vec<Action>,
    ) {
        if self.executors.gone.contains(&id) {
            return;
        }
        let executor = self.executors.remove(id);
        let why = match &executor {
            Some(executor) if cause == LossCause::Memory => with_tasks(why, executor),
            _ => why.to_owned(),
        };
        actions.push(Action::RemoveExecutor { executor: id, cause, why: why.clone() });
        self.unplace(id);
        let excluding: Vec<StageId> =
            self.stages.iter().filter(|(_, s)| s.blamed.contains_key(&id)).map(|(&s, _)| s).collect();
        for stage in excluding {
            if let Some(stage) = self.stages.get_mut(&stage) {
                stage.blamed.remove(&id);
            }
        }
        let failure = Failure::new(FailureKind::Lost(cause), format!("{id} is lost: {why}"));
        for (attempt, live) in executor.into_iter().flat_map(|executor| executor.live) {
            if let Some(stage) = self.stages.get_mut(&attempt.stage) {
                stage.live.remove(&(attempt.partition, attempt.stage_attempt, attempt.attempt));
            }
            if live.alone {
                self.reservations.remove(&(attempt.stage, attempt.partition));
            }
            if self.config.sabotage == Some(Sabotage::ForgetLostTasks) {
                continue;
            }
            // Only what it ran can have suffered from the loss, or caused it.
            if cause != LossCause::Released && Self::has_run(&live) {
                self.judge(now, attempt, id, live, failure.clone(), actions);
            } else if live.standing == crate::executors::Standing::Wanted {
                self.requeue(attempt, Verdict::Retry, actions);
            }
        }
        self.kick = true;
        // R4 has had its say: if a task was to blame, it was named.
        match cause {
            LossCause::Memory | LossCause::Program | LossCause::Start => self.count_crash(now, cause, failure, actions),
            LossCause::Released | LossCause::Infrastructure => {}
        }
    }

    /// R8.
    fn count_crash(&mut self, now: Timestamp, cause: LossCause, failure: Failure, actions: &mut Vec<Action>) {
        if cause == LossCause::Start {
            self.start_failures.push(failure.clone());
            self.check_starts(actions);
        }
        self.crashes.push_back((now, failure));
        while self.crashes.front().is_some_and(|&(at, _)| now.since(at) > self.config.exclusion_window) {
            self.crashes.pop_front();
        }
        let limit = self.config.crashes.max(2 * self.wanted_executors()) as usize;
        if self.crashes.len() >= limit && !self.jobs.is_empty() {
            let mut earlier: Vec<Failure> = self.crashes.drain(..).map(|(_, failure)| failure).collect();
            if let Some(last) = earlier.pop() {
                let message = format!(
                    "executors crash again and again: {limit} times within {} minutes",
                    self.config.exclusion_window.as_secs() / 60
                );
                let failure = Failure { message, ..last.clone() }.caused_by(last.message);
                self.fail_all(&failure, &earlier, actions);
            }
        }
        // Without a job to fail nothing is gained by remembering more.
        while self.crashes.len() > limit {
            self.crashes.pop_front();
        }
    }

    /// R8: executors fail to start, and none ever ran.
    pub(crate) fn check_starts(&mut self, actions: &mut Vec<Action>) {
        if self.ever_joined {
            self.start_failures.clear();
            return;
        }
        let keep = self.config.start_failures as usize;
        let surplus = self.start_failures.len().saturating_sub(keep);
        self.start_failures.drain(..surplus);
        if self.start_failures.len() >= keep && !self.jobs.is_empty() {
            let mut earlier = std::mem::take(&mut self.start_failures);
            if let Some(last) = earlier.pop() {
                let message = format!("no executor could start, {keep} have tried");
                let failure = Failure { message, ..last.clone() }.caused_by(last.message);
                self.fail_all(&failure, &earlier, actions);
            }
        }
    }

    /// Has an executor finish what it has; what waits there is taken back.
    pub(crate) fn drain(&mut self, id: ExecutorId, why: &str, actions: &mut Vec<Action>) {
        if !self.executors.serves(id) {
            return;
        }
        self.executors.set_duty(id, Duty::Draining);
        actions.push(Action::DrainExecutor { executor: id, why: why.to_owned() });
        self.unplace(id);
        self.take_back_queue(id, actions);
        self.kick = true;
    }

    /// Takes back what waits at an executor.
    pub(crate) fn take_back_queue(&mut self, id: ExecutorId, actions: &mut Vec<Action>) {
        let Some(executor) = self.executors.map.get(&id) else { return };
        let takeable = |attempt: &&AttemptId| {
            executor.live.get(attempt).is_some_and(|live| !live.started && live.standing == Standing::Wanted)
        };
        let queue: Vec<AttemptId> = executor.queue.iter().filter(takeable).copied().collect();
        for attempt in queue {
            self.executors.withdraw(id, attempt);
            actions.push(Action::CancelTask { attempt, executor: id });
            self.requeue(attempt, Verdict::Retry, actions);
        }
    }

    /// An executor that is not sent tasks any more: nobody waits for it.
    fn unplace(&mut self, id: ExecutorId) {
        self.drop_reservations_on(id);
        let stages: Vec<StageId> = self.stages.keys().copied().collect();
        for stage in stages {
            let Some(stage) = self.stages.get_mut(&stage) else { continue };
            let cached = stage.shape.cached.clone();
            let Some(run) = stage.run() else { continue };
            let pending = &run.pending;
            if let Some(locality) = &mut run.locality {
                for partition in locality.held.remove(&id).unwrap_or_default() {
                    if pending.contains(partition.0) {
                        self.executors.note_holders(locality, &cached, partition);
                    }
                }
            }
        }
    }

    pub(crate) fn drained(&mut self, now: Timestamp, id: ExecutorId, actions: &mut Vec<Action>) {
        if let Some(executor) = self.executors.map.get(&id)
            && executor.duty != Duty::Released
        {
            self.executors.set_duty(id, Duty::Released);
            self.unplace(id);
            self.kick = true;
            self.request_executors(now, actions);
            actions.push(Action::ReleaseExecutor { executor: id });
        }
    }

    /// Compares what an executor holds with what it was sent, after messages may have been lost.
    pub(crate) fn relink(
        &mut self,
        now: Timestamp,
        id: ExecutorId,
        holding: Vec<AttemptId>,
        actions: &mut Vec<Action>,
    ) {
        self.executors.hear(now, id);
        let Some(executor) = self.executors.map.get(&id) else { return };
        let holding: BTreeSet<AttemptId> = holding.into_iter().collect();
        let undelivered: Vec<AttemptId> =
            executor.live.keys().filter(|attempt| !holding.contains(attempt)).copied().collect();
        let stop =
            |attempt: &&AttemptId| executor.live.get(attempt).is_none_or(|live| live.standing != Standing::Wanted);
        let unwanted: Vec<AttemptId> = holding.iter().filter(stop).copied().collect();
        actions.extend(unwanted.into_iter().map(|attempt| Action::CancelTask { attempt, executor: id }));
        for attempt in undelivered {
            if let Some(live) = self.forget_live(now, attempt, id)
                && live.standing == Standing::Wanted
            {
                self.requeue(attempt, Verdict::Retry, actions);
            }
        }
    }

    /// Has a timer look at an executor where nothing runs.
    pub(crate) fn arm_idle(&mut self, now: Timestamp, id: ExecutorId) {
        if let Some(executor) = self.executors.map.get_mut(&id)
            && executor.live.is_empty()
            && !executor.idle_armed
        {
            executor.idle_armed = true;
            self.timers.insert((now + self.config.idle_timeout, Timer::Idle(id)));
        }
    }
}
