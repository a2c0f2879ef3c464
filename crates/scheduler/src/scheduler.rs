//! Which method answers which event?

use model::Timestamp;

use crate::{Action, Config, Event};

/// The state machine. Owned by one event loop.
#[derive(Debug)]
pub struct Scheduler {
    config: Config,
    requested: u32,
}

impl Scheduler {
    /// A scheduler that has heard nothing yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config, requested: 0 }
    }

    /// Takes note of what happened and says what to do about it, in order. `now` never goes back.
    pub fn handle(&mut self, _now: Timestamp, _event: Event) -> Vec<Action> {
        if self.requested == self.config.min_executors {
            return Vec::new();
        }
        self.requested = self.config.min_executors;
        vec![Action::RequestExecutors { count: self.requested }]
    }

    /// When [`Event::DeadlinePassed`] is due, unless something happens before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        None
    }
}
