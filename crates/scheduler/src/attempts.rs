//! Which attempts run, is one more allowed, and which one counts?

use model::failure::{Blame, Counts, LossCause, Permits};
use model::{AttemptId, ExecutorId, Failure, FailureKind, JobId, PartitionId, RddId, StageId, Timestamp};

use crate::config::{Config, Sabotage};
use crate::deadlines::Timer;
use crate::executors::{Live, Place, Standing};
use crate::outputs::Believed;
use crate::{Action, Scheduler};

/// What a task that has failed carries along.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    /// R1.
    counted: u32,
    /// R5.
    user: u32,
    /// R3.
    infrastructure: u32,
    /// R4.
    strikes: u32,
    /// R9: since when it has met nothing but an unavailable store.
    store_since: Option<Timestamp>,
    /// R4: it runs next with an executor to itself.
    pub(crate) alone: bool,
    /// Living executors on which it should not run again.
    pub(crate) avoid: Vec<ExecutorId>,
    /// What happened, oldest first. Bounded: each kind has its limit, and of the unlimited the last is kept.
    pub(crate) failures: Vec<Failure>,
}

/// When and where a task is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// As soon as there is a slot that suits it.
    Retry,
    /// Not before this time: the store is to recover.
    RetryAt(Timestamp),
    /// Not at all: its job fails.
    GiveUp,
}

impl Trouble {
    /// Takes note of a failure; says what follows. Every failure but that of an unreadable map output comes here.
    pub(crate) fn record(
        &mut self,
        now: Timestamp,
        config: &Config,
        executor: ExecutorId,
        failure: Failure,
    ) -> Verdict {
        let kind = &failure.kind;
        let one_more = |count: &mut u32, limit: u32| {
            *count += 1;
            *count >= limit
        };
        let store = matches!(kind, FailureKind::StoreUnavailable);
        let taken_away = matches!(kind, FailureKind::Lost(LossCause::Infrastructure | LossCause::Start));
        let mut exhausted = match kind.counts() {
            Counts::Task => one_more(&mut self.counted, config.task_failures),
            Counts::Strike => one_more(&mut self.strikes, config.strikes),
            // A report of unreadable maps that names none: what is unclassified counts.
            Counts::Stage => one_more(&mut self.counted, config.task_failures),
            Counts::No => taken_away && one_more(&mut self.infrastructure, config.infrastructure_losses),
        };
        if matches!(kind, FailureKind::UserCode { transient: false, .. }) {
            exhausted |= one_more(&mut self.user, config.user_failures);
        }
        if store {
            let since = *self.store_since.get_or_insert(now);
            exhausted |= now.since(since) >= config.no_store;
        } else {
            self.store_since = None;
        }
        let verdict = match kind.permits() {
            Permits::Nothing => Verdict::GiveUp,
            _ if exhausted => Verdict::GiveUp,
            Permits::Alone => {
                self.alone = true;
                Verdict::Retry
            }
            Permits::Again if store => Verdict::RetryAt(now + config.store_retry),
            Permits::Again => Verdict::Retry,
            Permits::Elsewhere | Permits::Recompute { .. } => {
                if !self.avoid.contains(&executor) {
                    self.avoid.push(executor);
                }
                Verdict::Retry
            }
        };
        if store {
            self.failures.retain(|f| !matches!(f.kind, FailureKind::StoreUnavailable));
        }
        self.failures.push(failure);
        verdict
    }
}

impl Scheduler {
    pub(crate) fn start_task(&mut self, now: Timestamp, attempt: AttemptId, executor: ExecutorId) {
        self.executors.hear(now, executor);
        self.executors.note_started(executor, attempt);
    }

    pub(crate) fn hand_over(&mut self, now: Timestamp, attempt: AttemptId, executor: ExecutorId) {
        self.executors.hear(now, executor);
        if self.executors.hand_over(executor, attempt) {
            self.touched.push(executor);
        }
    }

    pub(crate) fn succeed(
        &mut self,
        now: Timestamp,
        id: AttemptId,
        executor: ExecutorId,
        cached: Vec<(RddId, PartitionId)>,
        actions: &mut Vec<Action>,
    ) {
        self.executors.hear(now, executor);
        let Some(live) = self.forget_live(now, id, executor) else { return };
        self.executors.hold(executor, cached);
        let void = live.standing == Standing::Void && self.config.sabotage != Some(Sabotage::AcceptLateTwins);
        let Some(stage) = self.stages.get_mut(&id.stage).filter(|_| !void) else {
            actions.push(Action::VoidResult { attempt: id, executor });
            return;
        };
        let (fresh, first) = match stage.shuffle() {
            Some(shuffle) => {
                let Some(outputs) = self.outputs.get_mut(&shuffle) else { return };
                let first = !outputs.counted.contains(id.partition.0);
                let fresh = outputs.missing.remove(id.partition.0);
                if fresh && !first {
                    self.remakes += 1;
                    outputs.remade.insert(model::MapId(id.partition.0), self.remakes);
                }
                if outputs.is_complete() {
                    self.dirty.extend(outputs.users.iter().copied());
                }
                (fresh, first)
            }
            None => {
                let fresh = stage.accepted.insert(id.partition.0);
                if stage.accepted.len() as usize >= self.jobs[&id.job].wanted.len() {
                    self.dirty.insert(id.job);
                }
                (fresh, !stage.counted.contains(id.partition.0))
            }
        };
        if !fresh && self.config.sabotage != Some(Sabotage::AcceptLateTwins) {
            actions.push(Action::VoidResult { attempt: id, executor });
            return;
        }
        actions.push(Action::AcceptResult { attempt: id, executor, first });
        stage.trouble.remove(&id.partition);
        // Its twins are late now, and so is the one that would have been launched next.
        let twins: Vec<_> = stage.live_of(id.partition).collect();
        for (stage_attempt, task, at) in twins {
            stage.live.remove(&(id.partition, stage_attempt, task));
            let twin = AttemptId { stage_attempt, attempt: task, ..id };
            if self.executors.void(at, twin) {
                actions.push(Action::CancelTask { attempt: twin, executor: at });
            }
        }
        let waited = stage.run().is_some_and(|run| {
            let waited = run.waits(id.partition);
            run.take(id.partition);
            waited
        });
        if waited {
            self.drop_reservations_of(id.stage, id.partition);
            self.note_waiting(id.stage, actions);
        }
    }

    pub(crate) fn fail(
        &mut self,
        now: Timestamp,
        id: AttemptId,
        executor: ExecutorId,
        failure: Failure,
        actions: &mut Vec<Action>,
    ) {
        self.executors.hear(now, executor);
        if let Some(live) = self.forget_live(now, id, executor) {
            self.judge(now, id, executor, live, failure, actions);
        }
    }

    /// Takes an attempt that has ended off its executor and its stage.
    pub(crate) fn forget_live(&mut self, now: Timestamp, id: AttemptId, executor: ExecutorId) -> Option<Live> {
        let live = self.executors.remove_live(now, executor, id)?;
        self.touched.push(executor);
        if let Some(stage) = self.stages.get_mut(&id.stage) {
            stage.live.remove(&(id.partition, id.stage_attempt, id.attempt));
        }
        if live.alone {
            self.executors.set_reserved(executor, None);
            self.reservations.remove(&(id.stage, id.partition));
            self.kick = true;
        }
        if self.dynamic() {
            self.arm_idle(now, executor);
        }
        Some(live)
    }

    /// What follows from the failure of an attempt that is not on its executor any more.
    pub(crate) fn judge(
        &mut self,
        now: Timestamp,
        id: AttemptId,
        executor: ExecutorId,
        live: Live,
        mut failure: Failure,
        actions: &mut Vec<Action>,
    ) {
        if live.standing != Standing::Wanted || !self.stages.contains_key(&id.stage) {
            return; // another one was to take its place anyway
        }
        // Nobody asked for the end of this attempt: whoever ended it took the executor away.
        if matches!(failure.kind, FailureKind::Cancelled | FailureKind::Stale) {
            failure.kind = FailureKind::Lost(LossCause::Infrastructure);
        }
        failure.attempt.get_or_insert(id);
        failure.executor.get_or_insert(executor);
        let report = |retried| Action::ReportFailure { attempt: id, executor, failure: failure.clone(), retried };
        if let Permits::Recompute { shuffle, generation, maps } = failure.kind.permits()
            && self.stages[&id.stage].shape.reads.iter().any(|read| read.shuffle == shuffle)
        {
            match self.believe(shuffle, generation, &maps, live.launched_at) {
                Believed::Lost(maps) => {
                    actions.push(report(true));
                    self.lose_outputs(shuffle, generation, &maps, &failure.message, actions);
                    self.requeue(id, Verdict::Retry, actions);
                    if id.stage_attempt == self.stages[&id.stage].attempt
                        && let Some((failure, earlier)) = self.count_stage_failure(id.stage, &failure)
                    {
                        self.fail_job(id.job, failure, earlier, actions);
                    }
                    return;
                }
                Believed::Known => {
                    actions.push(report(true));
                    return self.requeue(id, Verdict::Retry, actions);
                }
                Believed::Nonsense => {}
            }
        }
        if matches!(failure.kind, FailureKind::StoreUnavailable) {
            if self.store_silent_since.is_none() {
                self.store_silent_since = Some(now);
                let time = match self.config.no_store.as_secs() {
                    seconds if seconds >= 60 && seconds % 60 == 0 => format!("{} min", seconds / 60),
                    seconds => format!("{seconds} s"),
                };
                let text = format!("the store is unavailable: tasks that need it are tried again for {time}");
                actions.push(Action::Warn { text });
            }
            if let Some(job) = self.jobs.get_mut(&id.job) {
                job.store_failure = Some(failure.clone());
            }
        }
        let Some(stage) = self.stages.get_mut(&id.stage) else { return };
        let trouble = stage.trouble.entry(id.partition).or_default();
        let verdict = trouble.record(now, &self.config, executor, failure.clone());
        actions.push(report(verdict != Verdict::GiveUp));
        if verdict == Verdict::GiveUp {
            let mut earlier = std::mem::take(&mut trouble.failures);
            earlier.pop();
            self.fail_job(id.job, failure, earlier, actions);
        } else {
            if failure.kind.counts() == Counts::Task {
                self.blame(now, executor, id.stage, failure.kind.blame(), actions);
            }
            self.requeue(id, verdict, actions);
        }
    }

    /// R7: takes note of a counted failure of a stage on an executor.
    fn blame(&mut self, now: Timestamp, executor: ExecutorId, stage: StageId, blame: Blame, actions: &mut Vec<Action>) {
        if !self.executors.is_alive(executor) {
            return;
        }
        if let Some(stage_state) = self.stages.get_mut(&stage) {
            let blamed = stage_state.blamed.entry(executor).or_default();
            *blamed += 1;
            if *blamed == self.config.stage_exclusion {
                self.excluding.insert(stage);
                self.kick = true;
            }
        }
        // A user's function that fails everywhere does not take executors with it.
        if blame != Blame::User && self.executors.count_failure(now, executor, &self.config) {
            let why = format!(
                "{} tasks failed there within {} minutes",
                self.config.executor_exclusion,
                self.config.exclusion_window.as_secs() / 60
            );
            self.drain(executor, &why, actions);
        }
    }

    /// R2: takes note that an attempt of a stage was in vain. With the last one allowed, says with what its job fails.
    pub(crate) fn count_stage_failure(&mut self, id: StageId, failure: &Failure) -> Option<(Failure, Vec<Failure>)> {
        let stage = self.stages.get_mut(&id)?;
        stage.failures.push(failure.clone());
        if stage.failures.len() < self.config.stage_failures as usize {
            return None;
        }
        let mut earlier = std::mem::take(&mut stage.failures);
        let last = earlier.pop()?;
        let message = format!("run stage {id}: {} attempts in a row failed", earlier.len() + 1);
        let chain = std::iter::once(last.message).chain(last.chain).collect();
        Some((Failure { message, chain, ..failure.clone() }, earlier))
    }

    /// Has a task wait for its next attempt, unless it is accepted, runs elsewhere, or its stage waits itself.
    pub(crate) fn requeue(&mut self, id: AttemptId, verdict: Verdict, actions: &mut Vec<Action>) {
        let p = id.partition;
        let Some(stage) = self.stages.get_mut(&id.stage) else { return };
        let current = id.stage_attempt == stage.attempt;
        let accepted = match stage.shuffle() {
            Some(shuffle) => !self.outputs[&shuffle].missing.contains(p.0),
            None => stage.accepted.contains(p.0),
        };
        let live = stage.live.range((p, model::StageAttempt(0), 0)..).take_while(|((q, ..), _)| *q == p).any(
            |(&(partition, stage_attempt, attempt), &at)| {
                self.executors.is_wanted(at, AttemptId { stage_attempt, attempt, partition, ..id })
            },
        );
        let trouble = stage.trouble.get(&p);
        let (alone, picky) = trouble.map_or((false, false), |t| (t.alone, !t.avoid.is_empty()));
        let cached = stage.shape.cached.clone();
        let Some(run) = stage.run() else { return };
        if accepted || live || run.waits(p) {
            return;
        }
        if current {
            let next = run.again.entry(p).or_default();
            *next = (*next).max(id.attempt + 1);
        }
        match verdict {
            Verdict::GiveUp => return,
            Verdict::RetryAt(at) => {
                run.delayed.insert(p);
                self.timers.insert((at, Timer::Retry(id.stage, p)));
            }
            Verdict::Retry if alone => _ = run.alone.insert(p),
            Verdict::Retry if picky => _ = run.picky.insert(p),
            Verdict::Retry => {
                run.pending.insert(p.0);
                if let Some(locality) = &mut run.locality {
                    self.executors.note_holders(locality, &cached, p);
                }
            }
        }
        self.kick = true;
        self.note_waiting(id.stage, actions);
    }

    /// A delayed task may be tried again.
    pub(crate) fn undelay(&mut self, stage: StageId, partition: PartitionId, actions: &mut Vec<Action>) {
        let Some(state) = self.stages.get_mut(&stage) else { return };
        let id = AttemptId { job: state.job, stage, stage_attempt: state.attempt, partition, attempt: 0 };
        let Some(run) = state.run() else { return };
        if run.delayed.remove(&partition) {
            // The number of its next attempt is noted already.
            self.requeue(id, Verdict::Retry, actions);
            self.note_waiting(stage, actions);
        }
    }

    /// R6 and losses: whether an attempt that runs, waits or has handed over was seen to begin.
    pub(crate) fn has_run(live: &Live) -> bool {
        live.started || live.place != Place::Queued
    }

    /// Jobs that need the store, which has not answered for too long (R9).
    pub(crate) fn fail_without_store(&mut self, actions: &mut Vec<Action>) {
        self.store_silent_since = None;
        let jobs: Vec<(JobId, Failure)> =
            self.jobs.iter().filter_map(|(&id, job)| Some((id, job.store_failure.clone()?))).collect();
        for (job, last) in jobs {
            let message =
                format!("the store has answered no request for {} s: {}", self.config.no_store.as_secs(), last.message);
            self.fail_job(job, Failure { message, ..last }, Vec::new(), actions);
        }
    }
}
