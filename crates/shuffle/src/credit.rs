//! Who may hold how many encoded bytes?
//!
//! The encoded half of write memory, given out in the order of asking. Task threads wait here, for memory and never for a
//! request; uploads give back. A wait is bounded by progress: as long as anybody gives back, waiting goes on.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// So many bytes, shared.
#[derive(Debug)]
pub(crate) struct Credit {
    total: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    free: u64,
    next_ticket: u64,
    queue: VecDeque<u64>,
    freed_at: Instant,
}

/// Nothing was given back for this long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoProgress(pub(crate) Duration);

impl Credit {
    pub(crate) fn new(total: u64) -> Arc<Self> {
        let state = State { free: total, next_ticket: 0, queue: VecDeque::new(), freed_at: Instant::now() };
        Arc::new(Self { total, state: Mutex::new(state), changed: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that may panic runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes so many bytes, or all there are if it wants more. Calls `on_wait` once if it must wait.
    ///
    /// # Errors
    /// Nothing was given back for `patience`.
    pub(crate) fn take(
        self: &Arc<Self>,
        wanted: u64,
        patience: Duration,
        on_wait: impl FnOnce(),
    ) -> Result<Held, NoProgress> {
        let wanted = wanted.min(self.total);
        let mut state = self.lock();
        if !state.queue.is_empty() || state.free < wanted {
            let ticket = state.next_ticket;
            state.next_ticket += 1;
            state.queue.push_back(ticket);
            drop(state);
            on_wait();
            let asked_at = Instant::now();
            state = self.lock();
            while state.queue.front() != Some(&ticket) || state.free < wanted {
                let left = patience.saturating_sub(state.freed_at.max(asked_at).elapsed());
                if left.is_zero() {
                    state.queue.retain(|waiting| *waiting != ticket);
                    self.changed.notify_all();
                    return Err(NoProgress(patience));
                }
                state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            }
            state.queue.pop_front();
            self.changed.notify_all();
        }
        state.free -= wanted;
        Ok(Held { credit: Arc::clone(self), bytes: wanted })
    }

    /// Somebody waits.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.lock().queue.is_empty()
    }

    /// Bytes given out.
    pub(crate) fn used(&self) -> u64 {
        self.total - self.lock().free
    }
}

/// Bytes taken; dropping gives them back.
#[derive(Debug)]
pub(crate) struct Held {
    credit: Arc<Credit>,
    bytes: u64,
}

impl Held {
    /// Gives back all but so many bytes.
    pub(crate) fn shrink_to(&mut self, bytes: u64) {
        let surplus = self.bytes.saturating_sub(bytes);
        self.give_back(surplus);
    }

    fn give_back(&mut self, bytes: u64) {
        if bytes > 0 {
            self.bytes -= bytes;
            let mut state = self.credit.lock();
            state.free += bytes;
            state.freed_at = Instant::now();
            self.credit.changed.notify_all();
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn who_wants_more_than_there_is_goes_alone() {
        let credit = Credit::new(10);
        let mut all = credit.take(1_000, PATIENCE, || unreachable!("all is free")).unwrap();
        assert_eq!(credit.used(), 10);
        all.shrink_to(4);
        assert_eq!(credit.used(), 4);
        drop(all);
        assert_eq!(credit.used(), 0);
    }

    #[test]
    fn a_waiter_is_served_in_its_turn() {
        let credit = Credit::new(10);
        let all = credit.take(10, PATIENCE, || ()).unwrap();
        let (asked, heard) = mpsc::channel();
        thread::scope(|scope| {
            let large = scope.spawn(|| credit.take(10, PATIENCE, || asked.send(()).unwrap()).map(drop));
            heard.recv().unwrap();
            assert!(credit.is_wanted());
            // Small, but it does not overtake.
            let small = scope.spawn(|| credit.take(1, PATIENCE, || asked.send(()).unwrap()).map(drop));
            heard.recv().unwrap();
            drop(all);
            large.join().unwrap().unwrap();
            small.join().unwrap().unwrap();
        });
        assert_eq!(credit.used(), 0);
    }

    #[test]
    fn a_wait_without_progress_ends() {
        let credit = Credit::new(10);
        let _all = credit.take(10, PATIENCE, || ()).unwrap();
        let patience = Duration::from_millis(20);
        assert_eq!(credit.take(1, patience, || ()).unwrap_err(), NoProgress(patience));
        assert!(!credit.is_wanted());
    }
}
