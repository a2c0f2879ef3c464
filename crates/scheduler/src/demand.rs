//! How many executors are wanted?

use model::Timestamp;

use crate::deadlines::Timer;
use crate::executors::Duty;
use crate::{Action, Scheduler};

impl Scheduler {
    /// Whether the number of executors may change at all.
    pub(crate) fn dynamic(&self) -> bool {
        self.config.min_executors < self.config.max_executors
    }

    /// Enough for every task that runs or waits, and one more for a stage that may not run on any that is there.
    pub(crate) fn wanted_executors(&self) -> u32 {
        let tasks = self.waiting + self.executors.occupying;
        let slots = u64::from(self.config.slots_per_executor.max(1));
        let for_tasks = u32::try_from(tasks.div_ceil(slots)).unwrap_or(u32::MAX);
        let for_outcasts = if self.outcasts > 0 { self.executors.serving + 1 } else { 0 };
        let most = self.config.max_executors.max(self.config.min_executors);
        for_tasks.max(for_outcasts).clamp(self.config.min_executors, most)
    }

    /// Asks for as many as are wanted, beside those that drain: a cluster counts these until they are released.
    pub(crate) fn request_executors(&mut self, actions: &mut Vec<Action>) {
        let most = self.config.max_executors.max(self.config.min_executors);
        let count = (self.wanted_executors() + self.executors.draining).min(most);
        if self.requested != Some(count) {
            self.requested = Some(count);
            actions.push(Action::RequestExecutors { count });
        }
    }

    /// An executor where nothing has run for a while is let go if it is one too many and holds nothing.
    pub(crate) fn check_idle(&mut self, now: Timestamp, id: model::ExecutorId, actions: &mut Vec<Action>) {
        let timeout = self.config.idle_timeout;
        let surplus = self.executors.serving > self.wanted_executors();
        let Some(executor) = self.executors.map.get_mut(&id) else { return };
        executor.idle_armed = false;
        if !executor.live.is_empty() || executor.duty != Duty::Serving {
            return; // armed again when it has nothing to do
        }
        let due = executor.idle_since + timeout;
        if now < due || !surplus || !executor.blocks.is_empty() || executor.reserved.is_some() {
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
