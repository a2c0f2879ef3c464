//! How many tasks run now, and which wait for a slot?
//!
//! Compute threads come here with what they have computed and leave with the next task: one short lock per task, and the
//! service is woken once for all that has happened since it last looked.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use model::AttemptId;
use tokio::sync::Notify;

use crate::task::{Computed, ReadyTask};

/// What compute threads tell the service.
pub(crate) enum Report {
    /// An attempt has begun.
    Began(AttemptId),
    /// An attempt's computing has ended; its slot is free.
    Ended(Computed),
}

/// The slots of an executor and the tasks that wait for one, in order.
pub(crate) struct Slots {
    state: Mutex<State>,
    news: Notify,
}

struct State {
    slots: u32,
    /// Compute threads that take tasks at the moment: at most one per slot.
    takers: u32,
    waiting: VecDeque<ReadyTask>,
    reports: Vec<Report>,
}

impl Slots {
    pub(crate) fn new(slots: u32) -> Self {
        let state = State { slots, takers: 0, waiting: VecDeque::new(), reports: Vec::new() };
        Self { state: Mutex::new(state), news: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is complete before it can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues tasks. Says how many more threads must come and [`Slots::take`].
    #[must_use]
    pub(crate) fn queue(&self, tasks: impl IntoIterator<Item = ReadyTask>) -> u32 {
        let mut state = self.state();
        state.waiting.extend(tasks);
        let waiting = u32::try_from(state.waiting.len()).unwrap_or(u32::MAX);
        let more = waiting.min(state.slots - state.takers);
        state.takers += more;
        more
    }

    /// Gives what was computed, if anything, and takes the next task. After `None` the thread takes no more.
    pub(crate) fn take(&self, computed: Option<Computed>) -> Option<ReadyTask> {
        let mut state = self.state();
        let quiet = state.reports.is_empty();
        state.reports.extend(computed.map(Report::Ended));
        let next = state.waiting.pop_front();
        match &next {
            Some(task) => state.reports.push(Report::Began(task.attempt)),
            None => state.takers -= 1,
        }
        let wake = quiet && !state.reports.is_empty();
        drop(state);
        if wake {
            self.news.notify_one();
        }
        next
    }

    /// A thread that was to take tasks cannot: the service must send another.
    pub(crate) fn give_up(&self) {
        self.state().takers -= 1;
        self.news.notify_one();
    }

    /// Takes tasks out of the queue that have not begun.
    pub(crate) fn withdraw(&self, unwanted: impl Fn(AttemptId) -> bool) -> Vec<AttemptId> {
        let mut state = self.state();
        let mut withdrawn = Vec::new();
        state.waiting.retain(|task| {
            let keep = !unwanted(task.attempt);
            if !keep {
                withdrawn.push(task.attempt);
            }
            keep
        });
        withdrawn
    }

    /// Takes those of `attempts` out of the queue that have not begun.
    pub(crate) fn withdraw_these(&self, attempts: &HashSet<AttemptId>) -> Vec<AttemptId> {
        self.withdraw(|attempt| attempts.contains(&attempt))
    }

    /// What has happened since the last call.
    pub(crate) fn reports(&self) -> Vec<Report> {
        std::mem::take(&mut self.state().reports)
    }

    /// Waits until [`Slots::reports`] has something, or [`Slots::queue`] should be called again.
    ///
    /// # Cancellation
    /// Loses no news.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }
}
