//! How many executors are wanted?

use model::Timestamp;

use crate::deadlines::Timer;
use crate::executors::Duty;
use crate::{Action, Config, Scheduler};

/// By how many executors the number grows first, and at most.
const STEPS: (u32, u32) = (4, 32);

/// How many executors may be asked for now.
#[derive(Debug, Default)]
pub(crate) struct Ceiling {
    at: u32,
    step: u32,
    /// Its timer runs.
    rising: bool,
}

impl Ceiling {
    pub(crate) fn new(config: &Config) -> Self {
        Self { at: config.initial_executors.max(config.min_executors), step: STEPS.0, rising: false }
    }
}

impl Scheduler {
    /// Whether the number of executors may change at all.
    pub(crate) fn dynamic(&self) -> bool {
        self.config.min_executors < self.config.max_executors
    }

    /// As many as are needed and may be asked for now; before the first job, those of the start.
    pub(crate) fn wanted_executors(&self) -> u32 {
        let needed = self.needed_executors();
        let needed = if self.submitted == 0 { needed.max(self.config.initial_executors) } else { needed };
        match self.config.growth {
            Some(_) => needed.min(self.ceiling()),
            None => needed,
        }
    }

    /// Enough for every task that runs or waits, and one more for a stage that may not run on any that is there.
    fn needed_executors(&self) -> u32 {
        let tasks = self.waiting + self.executors.occupying;
        let slots = u64::from(self.config.slots_per_executor.max(1));
        let for_tasks = u32::try_from(tasks.div_ceil(slots)).unwrap_or(u32::MAX);
        let for_outcasts = if self.outcasts > 0 { self.executors.serving + 1 } else { 0 };
        let most = self.config.max_executors.max(self.config.min_executors);
        for_tasks.max(for_outcasts).clamp(self.config.min_executors, most)
    }

    /// Asks for as many as are wanted, beside those that drain: a cluster counts these until they are released.
    pub(crate) fn request_executors(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        self.watch_ceiling(now);
        let most = self.config.max_executors.max(self.config.min_executors);
        let count = (self.wanted_executors() + self.executors.draining).min(most);
        if self.requested != Some(count) {
            self.requested = Some(count);
            actions.push(Action::RequestExecutors { count });
        }
    }

    /// What tasks may ask for at once: one executor, and as many as there are.
    fn ceiling(&self) -> u32 {
        self.ceiling.at.max(self.executors.serving).max(1)
    }

    /// Begins to raise the ceiling when it is in the way, and lowers it when it is not.
    fn watch_ceiling(&mut self, now: Timestamp) {
        let Some(growth) = self.config.growth else { return };
        let needed = self.needed_executors();
        if needed > self.ceiling() {
            if !self.ceiling.rising {
                self.ceiling.rising = true;
                self.timers.insert((now + growth.after, Timer::Grow));
            }
        } else if !self.ceiling.rising && self.submitted > 0 {
            self.ceiling.at = needed;
            self.ceiling.step = STEPS.0;
        }
    }

    /// Raises the ceiling if tasks still wait, and goes on while they do.
    pub(crate) fn grow(&mut self, now: Timestamp) {
        let Some(growth) = self.config.growth else { return };
        let (needed, at) = (self.needed_executors(), self.ceiling());
        self.ceiling.rising = false;
        if needed <= at {
            return;
        }
        self.ceiling.at = needed.min(at + self.ceiling.step);
        self.ceiling.step = (self.ceiling.step * 2).min(STEPS.1);
        if needed > self.ceiling.at {
            self.ceiling.rising = true;
            self.timers.insert((now + growth.every, Timer::Grow));
        }
    }

    /// An executor where nothing has run for a while is let go if it is one too many; one with cached partitions after longer.
    pub(crate) fn check_idle(&mut self, now: Timestamp, id: model::ExecutorId, actions: &mut Vec<Action>) {
        let surplus = self.executors.serving > self.wanted_executors();
        let Some(executor) = self.executors.map.get_mut(&id) else { return };
        executor.idle_armed = false;
        if !executor.live.is_empty() || executor.duty != Duty::Serving {
            return; // armed again when it has nothing to do
        }
        let holds = !executor.blocks.is_empty();
        let timeout = if holds { self.config.idle_timeout_cached } else { self.config.idle_timeout };
        let due = executor.idle_since + timeout;
        if now < due || !surplus || executor.reserved.is_some() {
            executor.idle_armed = true;
            self.timers.insert((if now < due { due } else { now + timeout }, Timer::Idle(id)));
        } else {
            self.drain(id, "it is not needed", actions);
        }
    }

    /// R7: stages that no executor may run wait for another one, for a time.
    pub(crate) fn check_places(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let mut outcasts = 0;
        for id in self.excluding.clone() {
            let Some(stage) = self.stages.get(&id) else {
                self.excluding.remove(&id);
                continue;
            };
            let excluded =
                stage.blamed.keys().filter(|&&e| self.executors.serves(e) && self.is_excluded(stage, e)).count();
            let waits = stage.phase.waiting() > 0;
            let serving = self.executors.serving;
            let nowhere = waits && serving > 0 && excluded >= serving as usize;
            let can_grow = serving < self.config.max_executors;
            let Some(stage) = self.stages.get_mut(&id) else { continue };
            if !nowhere {
                stage.no_place_since = None;
            } else if !can_grow || stage.no_place_since.is_some_and(|at| now.since(at) >= self.config.exclusion_lift) {
                // Nobody comes who could do better.
                let text =
                    format!("tasks of stage {id} have failed on every executor: it goes on with those there are");
                actions.push(Action::Warn { text });
                stage.blamed.clear();
                stage.no_place_since = None;
                self.excluding.remove(&id);
                self.kick = true;
            } else {
                if stage.no_place_since.is_none() {
                    stage.no_place_since = Some(now);
                    self.timers.insert((now + self.config.exclusion_lift, Timer::Lift(id)));
                }
                outcasts += 1;
            }
        }
        self.outcasts = outcasts;
    }
}
