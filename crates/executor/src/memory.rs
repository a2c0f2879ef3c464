//! Who may use how much of an executor's memory?
//!
//! `executor.memory` is divided once: shuffles take their part (`shuffle::Budget`), 45 % are one working pool for tasks
//! that combine and sort, cached partitions use what tasks leave of it and go first, and the rest is for code, threads
//! and what nobody counts.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use model::WorkingMemory;

/// The working pool's part of an executor's memory, in percent (ARCHITECTURE.md, "Memory of an executor").
const WORKING_PERCENT: u64 = 45;

/// How large the working pool of an executor is, in bytes.
#[must_use]
pub fn working_bytes(memory: u64) -> u64 {
    memory / 100 * WORKING_PERCENT
}

/// Drops cached bytes when tasks need the memory.
pub(crate) trait Evict: Send + Sync {
    /// Drops at least so many cached bytes, or all there are. Gives them back to the pool itself.
    fn evict(&self, bytes: u64);
}

/// The memory that tasks and cached partitions share.
///
/// Every slot has a floor, half of an equal share, that nobody else is ever given: a task that starts late can always
/// work. Above its floor a task takes what is free up to an equal share of those that use memory at the time, so that a
/// single task may use most of the pool.
pub(crate) struct Pool {
    limit: u64,
    floor: u64,
    slots: u64,
    state: Mutex<State>,
    cache: OnceLock<Arc<dyn Evict>>,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes that tasks hold.
    used: u64,
    /// Those of them that lie within their task's floor.
    within_floors: u64,
    /// Tasks that hold any.
    users: u64,
    /// Bytes of cached partitions.
    cached: u64,
}

impl Pool {
    pub(crate) fn new(limit: u64, slots: u32) -> Arc<Self> {
        let slots = u64::from(slots.max(1));
        let state = Mutex::default();
        Arc::new(Self { limit, floor: limit / (2 * slots), slots, state, cache: OnceLock::new() })
    }

    /// Says who drops cached partitions. Once.
    pub(crate) fn evict_with(&self, cache: Arc<dyn Evict>) {
        let _ = self.cache.set(cache);
    }

    /// A task's share.
    pub(crate) fn share(self: &Arc<Self>) -> WorkingPool {
        WorkingPool { share: Arc::new(Share { pool: self.clone(), used: AtomicU64::new(0), peak: AtomicU64::new(0) }) }
    }

    /// Bytes held by tasks and by cached partitions.
    pub(crate) fn used(&self) -> u64 {
        let state = self.state();
        state.used + state.cached
    }

    /// Takes bytes for a cached partition. `Err` says how many others must be dropped first; never, if that is `None`.
    pub(crate) fn cache(&self, bytes: u64) -> Result<(), Option<u64>> {
        let mut state = self.state();
        let wanted = state.used + state.cached + bytes;
        if wanted <= self.limit {
            state.cached += bytes;
            return Ok(());
        }
        let missing = wanted - self.limit;
        Err((missing <= state.cached).then_some(missing))
    }

    /// Gives bytes of a cached partition back.
    pub(crate) fn uncache(&self, bytes: u64) {
        let mut state = self.state();
        state.cached = state.cached.saturating_sub(bytes);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change below is complete before it can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn grow(&self, share: &Share, bytes: u64) -> bool {
        let excess = {
            let mut state = self.state();
            let held = share.used.load(Ordering::Relaxed);
            let Some(wanted) = held.checked_add(bytes) else { return false };
            let users = state.users + u64::from(held == 0);
            let within = wanted.min(self.floor) - held.min(self.floor);
            let kept_free = (self.slots * self.floor).saturating_sub(state.within_floors + within);
            let fair = self.floor.max(self.limit / users.max(1));
            if wanted > fair || state.used.saturating_add(bytes).saturating_add(kept_free) > self.limit {
                return false;
            }
            state.used += bytes;
            state.within_floors += within;
            state.users = users;
            share.used.store(wanted, Ordering::Relaxed);
            share.peak.fetch_max(wanted, Ordering::Relaxed);
            (state.used + state.cached).saturating_sub(self.limit)
        };
        // Outside the lock: dropping a cached partition may write it to disk.
        if let (true, Some(cache)) = (excess > 0, self.cache.get()) {
            cache.evict(excess);
        }
        true
    }

    fn shrink(&self, share: &Share, bytes: u64) {
        let mut state = self.state();
        let held = share.used.load(Ordering::Relaxed);
        let left = held.saturating_sub(bytes);
        state.used -= held - left;
        state.within_floors -= held.min(self.floor) - left.min(self.floor);
        state.users -= u64::from(held > 0 && left == 0);
        share.used.store(left, Ordering::Relaxed);
    }
}

/// One task's share of the working pool. Clones are the same share; what it still holds goes back with the last of them.
#[derive(Clone)]
pub struct WorkingPool {
    share: Arc<Share>,
}

struct Share {
    pool: Arc<Pool>,
    used: AtomicU64, // Changed only under the pool's lock.
    peak: AtomicU64,
}

impl WorkingMemory for WorkingPool {
    /// Cached partitions are dropped for it. Up to half of an equal share of the pool per slot it never refuses. Each call
    /// takes a lock: take steps, not rows.
    fn try_grow(&self, bytes: u64) -> bool {
        bytes == 0 || self.share.pool.grow(&self.share, bytes)
    }

    fn shrink(&self, bytes: u64) {
        if bytes > 0 {
            self.share.pool.shrink(&self.share, bytes);
        }
    }
}

impl WorkingPool {
    /// Bytes held now.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.share.used.load(Ordering::Relaxed)
    }

    /// The most bytes ever held.
    #[must_use]
    pub fn peak(&self) -> u64 {
        self.share.peak.load(Ordering::Relaxed)
    }

    /// Bytes of the whole pool, of which this task has a share.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.share.pool.limit
    }

    /// Bytes that this task is given whatever others hold.
    #[must_use]
    pub fn floor(&self) -> u64 {
        self.share.pool.floor
    }
}

impl fmt::Debug for WorkingPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkingPool").field("used", &self.used()).finish_non_exhaustive()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let held = self.used.load(Ordering::Relaxed);
        if held > 0 {
            self.pool.clone().shrink(self, held);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_task_may_use_most_of_the_pool_and_a_late_one_still_gets_its_floor() {
        let pool = Pool::new(800, 2);
        let (first, second) = (pool.share(), pool.share());
        assert!(first.try_grow(600));
        assert!(!first.try_grow(1), "the floor of the idle slot is kept free");
        assert!(second.try_grow(200));
        assert!(!second.try_grow(1));
        first.shrink(400);
        assert!(second.try_grow(200), "up to an equal share");
        assert!(!second.try_grow(1), "not above it while another uses memory");
        drop(first);
        assert!(second.try_grow(200));
        assert_eq!((second.used(), second.peak(), pool.used()), (600, 600, 600));
        drop(second);
        assert_eq!(pool.used(), 0);
    }

    #[test]
    fn absurd_sizes_are_refused() {
        let pool = Pool::new(800, 2);
        let task = pool.share();
        assert!(task.try_grow(1));
        assert!(!task.try_grow(u64::MAX));
        assert!(!pool.share().try_grow(u64::MAX));
        task.shrink(u64::MAX);
        assert_eq!(pool.used(), 0);
    }

    #[test]
    fn caching_takes_only_what_tasks_leave() {
        let pool = Pool::new(800, 1);
        assert_eq!(pool.cache(700), Ok(()));
        assert_eq!(pool.cache(200), Err(Some(100)));
        let task = pool.share();
        assert!(task.try_grow(400), "cached bytes never stand in a task's way");
        assert_eq!(pool.cache(900), Err(None));
    }

    proptest! {
        #[test]
        fn whatever_tasks_do_the_limit_holds_and_floors_are_never_refused(
            limit in 100u64..10_000,
            slots in 1u32..5,
            steps in prop::collection::vec((0usize..4, any::<bool>(), 1u64..5_000), 0..200),
        ) {
            let pool = Pool::new(limit, slots);
            let mut tasks: Vec<_> = (0..slots).map(|_| pool.share()).collect();
            for (task, grow, bytes) in steps {
                let task = task % tasks.len();
                if grow {
                    let wanted = tasks[task].used() + bytes;
                    let grown = tasks[task].try_grow(bytes);
                    prop_assert!(grown || wanted > pool.floor);
                } else if bytes % 5 == 0 {
                    tasks[task] = pool.share();
                } else {
                    tasks[task].shrink(bytes);
                }
                prop_assert_eq!(pool.used(), tasks.iter().map(WorkingPool::used).sum::<u64>());
                prop_assert!(pool.used() <= limit);
            }
            drop(tasks);
            let state = pool.state();
            prop_assert_eq!((state.used, state.within_floors, state.users), (0, 0, 0));
        }
    }
}
