//! Which waits end by themselves, and when?

use std::time::Duration;

use model::failure::LossCause;
use model::{ExecutorId, Failure, FailureKind, PartitionId, StageId, Timestamp};

use crate::{Action, Scheduler};

/// What is looked at when its time has come. A timer that is not needed any more does nothing: a heartbeat moves no
/// timer, it only has the next look find a later time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// Was an executor heard?
    Heartbeat(ExecutorId),
    /// Is an executor needed?
    Idle(ExecutorId),
    /// Tasks of a stage do not wait for holders of cached partitions any more.
    Locality(StageId),
    /// A task may be tried again.
    Retry(StageId, PartitionId),
    /// A stage is not kept from executors any more.
    Lift(StageId),
    /// Do tasks still wait for more executors than were asked for?
    Grow,
}

impl Scheduler {
    /// When [`Event::DeadlinePassed`](crate::Event::DeadlinePassed) is due, unless something happens before. There is a
    /// deadline whenever a job is unfinished.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let timer = self.timers.first().map(|&(at, _)| at);
        [timer, self.no_executor_deadline(), self.no_store_deadline()].into_iter().flatten().min()
    }

    fn no_executor_deadline(&self) -> Option<Timestamp> {
        let wait = if self.refused.is_some() { self.config.no_executor_refused } else { self.config.no_executor };
        self.no_executor_since.map(|since| since + wait)
    }

    fn no_store_deadline(&self) -> Option<Timestamp> {
        self.store_silent_since.map(|since| since + self.config.no_store)
    }

    pub(crate) fn expire(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        while let Some(&(at, timer)) = self.timers.first()
            && at <= now
        {
            self.timers.pop_first();
            match timer {
                Timer::Heartbeat(executor) => self.check_heartbeat(now, executor, actions),
                Timer::Idle(executor) => self.check_idle(now, executor, actions),
                Timer::Lift(_) => self.kick = true,
                Timer::Grow => self.grow(now),
                Timer::Locality(_) => {
                    // Whoever has a free slot may take tasks that wait behind their holders' slots, too.
                    self.kick = true;
                    let free = self.executors.open.iter().take_while(|(taken, ..)| !taken);
                    self.touched.extend(free.map(|&(.., executor)| executor));
                }
                Timer::Retry(stage, partition) => self.undelay(stage, partition, actions),
            }
        }
        if self.no_executor_deadline().is_some_and(|at| at <= now) {
            self.fail_without_executor(now, actions);
        }
        if self.no_store_deadline().is_some_and(|at| at <= now) {
            self.fail_without_store(actions);
        }
    }

    fn check_heartbeat(&mut self, now: Timestamp, id: ExecutorId, actions: &mut Vec<Action>) {
        let Some(executor) = self.executors.map.get(&id) else { return };
        let due = executor.last_heard + self.config.heartbeat_timeout;
        if now < due {
            self.timers.insert((due, Timer::Heartbeat(id)));
        } else {
            let why = format!("it has been silent for {} s", now.since(executor.last_heard).as_secs());
            self.lose_executor(now, id, LossCause::Infrastructure, &why, actions);
        }
    }

    /// R9: takes note of whether there is an executor that can be used, for jobs that need one.
    pub(crate) fn check_usable(&mut self, now: Timestamp) {
        if self.jobs.is_empty() || self.executors.serving > 0 {
            self.no_executor_since = None;
        } else {
            self.no_executor_since.get_or_insert(now);
        }
        if self.jobs.is_empty() {
            self.store_silent_since = None;
        }
    }

    fn fail_without_executor(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let waited = self.no_executor_since.map_or(Duration::ZERO, |since| now.since(since));
        let kind = if self.refused.is_some() { LossCause::Start } else { LossCause::Infrastructure };
        let message = format!("there was no executor for {} s", waited.as_secs());
        let mut failure = Failure::new(FailureKind::Lost(kind), message);
        if let Some(why) = self.refused.as_ref().or(self.cluster_waits.as_ref()) {
            failure = failure.caused_by(why);
        }
        self.fail_all(&failure, &[], actions);
    }

    /// R11: while the driver slept it could not hear anybody.
    pub(crate) fn slept(&mut self, now: Timestamp, gap: Duration) {
        for executor in self.executors.map.values_mut() {
            executor.last_heard = (executor.last_heard + gap).min(now);
        }
        let waits = self.stages.values_mut().map(|stage| &mut stage.no_place_since);
        for since in waits.chain([&mut self.no_executor_since, &mut self.store_silent_since]).flatten() {
            *since = (*since + gap).min(now);
        }
    }
}
