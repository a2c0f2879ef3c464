//! Which outputs share an object, and when is it sealed?
//!
//! One packer per shuffle and generation in a process. It holds encoded runs until there is reason to store them: enough
//! bytes, an index that grows large, somebody who waits for memory, a run that has waited long enough for company, or no
//! company to be expected.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::shuffle::ShuffleSpec;

use crate::format;
use crate::run::Run;
use crate::runtime::Inner;
use crate::upload::upload;

/// Without a member, and without word that no more maps wait, a packer holds its runs this long: the next map of the same
/// slot begins within one round trip to the driver.
const IDLE_LINGER: Duration = Duration::from_millis(100);
/// What a pair adds to an index at most: two lengths of five bytes and a sum.
const PAIR_BYTES: u64 = 18;

/// Runs of one shuffle's members that are encoded but not on their way.
pub(crate) struct Packer {
    pub(crate) spec: Arc<ShuffleSpec>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    runs: Vec<Run>,
    bytes: u64,
    index_bytes: u64,
    /// Members that still run.
    members: u32,
    /// No map waits for a slot any more.
    no_more: bool,
    /// Counts seals, so that a timer knows whether its runs have gone.
    batch: u64,
    /// Counts members that came, so that a timer knows whether the packer stayed idle.
    arrivals: u64,
}

impl Packer {
    pub(crate) fn new(spec: Arc<ShuffleSpec>) -> Arc<Self> {
        Arc::new(Self { spec, state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic leaves runs as they were: whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A member begins.
    pub(crate) fn enter(&self, stage_has_pending: bool) {
        let mut state = self.lock();
        state.members += 1;
        state.arrivals += 1;
        // Members may begin in another order than they were launched: what was once true stays true.
        state.no_more |= !stage_has_pending;
    }

    /// A member ends, for good or bad; what it handed over stays.
    pub(crate) fn leave(self: &Arc<Self>, runtime: &Arc<Inner>) {
        let mut state = self.lock();
        state.members -= 1;
        self.consider(runtime, state);
        runtime.retire(self);
    }

    /// No map of the shuffle waits for a slot any more.
    pub(crate) fn no_more(self: &Arc<Self>, runtime: &Arc<Inner>) {
        let mut state = self.lock();
        state.no_more = true;
        self.consider(runtime, state);
    }

    /// Takes a run.
    pub(crate) fn add(self: &Arc<Self>, runtime: &Arc<Inner>, run: Run) {
        let mut state = self.lock();
        state.bytes += run.blocks.stored;
        state.index_bytes +=
            format::MEMBER as u64 + u64::from(self.spec.partitions) + run.blocks.pairs.len() as u64 * PAIR_BYTES;
        state.runs.push(run);
        if state.runs.len() == 1 {
            let batch = state.batch;
            let linger = runtime.budget.pack_linger;
            self.later(runtime, linger, move |state| state.batch == batch);
        }
        self.consider(runtime, state);
    }

    /// Drops the runs of a member that are not on their way.
    pub(crate) fn abort(self: &Arc<Self>, runtime: &Arc<Inner>, member_id: u64) {
        let aborted: Vec<Run> = {
            let mut state = self.lock();
            let aborted: Vec<Run> = state.runs.extract_if(.., |run| run.member_id == member_id).collect();
            state.bytes -= aborted.iter().map(|run| run.blocks.stored).sum::<u64>();
            aborted
        };
        if !aborted.is_empty() {
            drop(aborted);
            runtime.retire(self);
        }
    }

    /// Stores what there is.
    pub(crate) fn seal(self: &Arc<Self>, runtime: &Arc<Inner>) {
        self.seal_locked(runtime, self.lock());
        runtime.retire(self);
    }

    /// Nothing runs here and nothing is held.
    pub(crate) fn is_done(&self) -> bool {
        let state = self.lock();
        state.members == 0 && state.runs.is_empty()
    }

    fn consider(self: &Arc<Self>, runtime: &Arc<Inner>, state: MutexGuard<'_, State>) {
        if state.runs.is_empty() {
            return;
        }
        let full = state.bytes >= runtime.budget.object_target || state.index_bytes >= runtime.budget.index_max;
        let alone = state.members == 0;
        if full || (alone && state.no_more) || runtime.credit.is_wanted() {
            self.seal_locked(runtime, state);
        } else if alone {
            let (batch, arrivals) = (state.batch, state.arrivals);
            let idle = move |state: &State| state.batch == batch && state.arrivals == arrivals;
            self.later(runtime, IDLE_LINGER, idle);
        }
    }

    /// Seals after a while if `still` holds then.
    fn later(self: &Arc<Self>, runtime: &Arc<Inner>, wait: Duration, still: impl Fn(&State) -> bool + Send + 'static) {
        let (packer, inner) = (Arc::clone(self), Arc::clone(runtime));
        let timer = async move {
            tokio::time::sleep(wait).await;
            let state = packer.lock();
            if still(&state) {
                packer.seal_locked(&inner, state);
                inner.retire(&packer);
            }
        };
        runtime.tasks.spawn_on(timer, &runtime.io);
    }

    fn seal_locked(self: &Arc<Self>, runtime: &Arc<Inner>, mut state: MutexGuard<'_, State>) {
        let runs = std::mem::take(&mut state.runs);
        (state.bytes, state.index_bytes) = (0, 0);
        state.batch += 1;
        drop(state);
        if !runs.is_empty() {
            let (inner, spec) = (Arc::clone(runtime), Arc::clone(&self.spec));
            runtime.tasks.spawn_on(upload(inner, spec, runs), &runtime.io);
        }
    }
}
