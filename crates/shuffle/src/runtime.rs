//! What do the tasks of one process share?

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::failure::ObjectRef;
use model::ids::{AttemptId, ExecutorId, Generation, ShuffleId};
use model::shuffle::{OpenObject, ReadPlan, ShuffleSpec};
use object_store::ObjectStore;
use object_store::path::Path;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::credit::Credit;
use crate::fetch::Permits;
use crate::packer::Packer;
use crate::{Budget, Member, Reader};

/// Objects that no status named are told to the driver by heartbeats; beyond this many, the oldest are left to the listing
/// at the application's end.
const OPEN_MAX: usize = 10_000;

/// Memory, uploads and read permits of one process. Cheap to clone.
#[derive(Clone)]
pub struct ShuffleRuntime {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) root: Path,
    pub(crate) executor: ExecutorId,
    pub(crate) budget: Budget,
    pub(crate) io: Handle,
    pub(crate) credit: Arc<Credit>,
    /// Parts on their way.
    pub(crate) parts: Arc<Semaphore>,
    pub(crate) permits: Permits,
    /// Owns uploads and timers.
    pub(crate) tasks: TaskTracker,
    next_seq: AtomicU32,
    next_member: AtomicU64,
    /// Bytes of rows that members hold.
    pub(crate) raw: AtomicU64,
    packers: Mutex<BTreeMap<(ShuffleId, Generation), Arc<Packer>>>,
    open: Mutex<BTreeSet<OpenObject>>,
}

impl ShuffleRuntime {
    /// A runtime over a store; requests run on `io`. `executor` is never used twice in an epoch.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, root: Path, executor: ExecutorId, budget: Budget, io: Handle) -> Self {
        let inner = Inner {
            credit: Credit::new(budget.encoded_bytes),
            parts: Arc::new(Semaphore::new(budget.parts_in_flight.max(1) as usize)),
            permits: Permits::new(&budget),
            tasks: TaskTracker::new(),
            next_seq: AtomicU32::new(0),
            next_member: AtomicU64::new(0),
            raw: AtomicU64::new(0),
            packers: Mutex::default(),
            open: Mutex::default(),
            store,
            root,
            executor,
            budget,
            io,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Begins the output of a map. `stage_has_pending` says whether maps of its stage still wait for a slot: then it may
    /// wait for company. Dropping the member aborts it.
    #[must_use]
    pub fn member(&self, spec: &Arc<ShuffleSpec>, attempt: AttemptId, stage_has_pending: bool) -> Member {
        let packer = {
            let mut packers = self.inner.packers();
            let packer =
                packers.entry((spec.shuffle, spec.generation)).or_insert_with(|| Packer::new(Arc::clone(spec)));
            packer.enter(stage_has_pending);
            Arc::clone(packer)
        };
        let id = self.inner.next_member.fetch_add(1, Ordering::Relaxed);
        Member::new(Arc::clone(&self.inner), packer, attempt, id)
    }

    /// No map of this shuffle waits for a slot any more: open objects are sealed when the last member ends.
    pub fn no_more_maps(&self, shuffle: ShuffleId, generation: Generation) {
        let packer = self.inner.packers().get(&(shuffle, generation)).cloned();
        if let Some(packer) = packer {
            packer.no_more(&self.inner);
        }
    }

    /// Objects begun but in no output yet, for heartbeats.
    #[must_use]
    pub fn open_objects(&self) -> Vec<OpenObject> {
        self.inner.open().iter().copied().collect()
    }

    /// Bytes that writers hold: rows, and blocks that are not stored.
    #[must_use]
    pub fn memory_used(&self) -> u64 {
        self.inner.raw.load(Ordering::Relaxed) + self.inner.credit.used()
    }

    #[cfg(test)]
    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// Reads what a plan names. Nothing is asked for before the first block is.
    #[must_use]
    pub fn read(&self, spec: &Arc<ShuffleSpec>, plan: ReadPlan) -> Reader {
        Reader::new(Arc::clone(&self.inner), Arc::clone(spec), plan)
    }
}

impl Inner {
    fn packers(&self) -> MutexGuard<'_, BTreeMap<(ShuffleId, Generation), Arc<Packer>>> {
        self.packers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> MutexGuard<'_, BTreeSet<OpenObject>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores everything that is held: somebody waits for memory.
    pub(crate) fn seal_all(self: &Arc<Self>) {
        let packers: Vec<_> = self.packers().values().cloned().collect();
        packers.iter().for_each(|packer| packer.seal(self));
    }

    /// Forgets a packer that has nothing to do.
    pub(crate) fn retire(&self, packer: &Arc<Packer>) {
        let mut packers = self.packers();
        let key = (packer.spec.shuffle, packer.spec.generation);
        if packers.get(&key).is_some_and(|known| Arc::ptr_eq(known, packer) && known.is_done()) {
            packers.remove(&key);
        }
    }

    /// An object of a name that was never used.
    pub(crate) fn next_object(&self) -> ObjectRef {
        ObjectRef { executor: self.executor, seq: self.next_seq.fetch_add(1, Ordering::Relaxed) }
    }

    pub(crate) fn begin(&self, object: OpenObject) {
        let mut open = self.open();
        open.insert(object);
        if open.len() > OPEN_MAX {
            open.pop_first();
        }
    }

    /// These objects go into a status.
    pub(crate) fn told(&self, objects: impl Iterator<Item = OpenObject>) {
        let mut open = self.open();
        objects.for_each(|object| {
            open.remove(&object);
        });
    }

    /// How long a writer waits for memory while none comes free: every upload has ended by then.
    pub(crate) fn credit_patience(&self) -> Duration {
        self.budget.store_deadline * 3
    }
}
