//! What do the tasks of one process share?

use std::collections::{BTreeMap, BTreeSet, VecDeque};
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

/// So many shuffles of which no map waits are remembered: those whose maps are launched and have not begun, and more. A map of
/// one that was forgotten waits for company for a moment, in vain.
const COMPLETE_MAX: usize = 256;

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
    packers: Mutex<Packers>,
    open: Mutex<BTreeSet<OpenObject>>,
}

type Key = (ShuffleId, Generation);

#[derive(Default)]
struct Packers {
    known: BTreeMap<Key, Arc<Packer>>,
    /// No map of these waits for a slot. Word of it may be here before the first map begins, and after a packer has retired.
    complete: VecDeque<Key>,
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
            let key = (spec.shuffle, spec.generation);
            let complete = packers.complete.contains(&key);
            let packer = packers.known.entry(key).or_insert_with(|| Packer::new(Arc::clone(spec)));
            packer.enter(stage_has_pending && !complete);
            Arc::clone(packer)
        };
        let id = self.inner.next_member.fetch_add(1, Ordering::Relaxed);
        Member::new(Arc::clone(&self.inner), packer, attempt, id)
    }

    /// No map of this shuffle waits for a slot any more: open objects are sealed when the last member ends.
    pub fn no_more_maps(&self, shuffle: ShuffleId, generation: Generation) {
        let packer = {
            let mut packers = self.inner.packers();
            let key = (shuffle, generation);
            if !packers.complete.contains(&key) {
                if packers.complete.len() == COMPLETE_MAX {
                    packers.complete.pop_front();
                }
                packers.complete.push_back(key);
            }
            packers.known.get(&key).cloned()
        };
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
    fn packers(&self) -> MutexGuard<'_, Packers> {
        self.packers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> MutexGuard<'_, BTreeSet<OpenObject>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores everything that is held: somebody waits for memory.
    pub(crate) fn seal_all(self: &Arc<Self>) {
        let packers: Vec<_> = self.packers().known.values().cloned().collect();
        packers.iter().for_each(|packer| packer.seal(self));
    }

    /// Forgets a packer that has nothing to do.
    pub(crate) fn retire(&self, packer: &Arc<Packer>) {
        let packers = &mut self.packers().known;
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

#[cfg(test)]
mod tests {
    use model::ids::{AppId, Epoch, JobId, PartitionId, StageAttempt, StageId};
    use model::shuffle::{Codec, RowKind};
    use object_store::memory::InMemory;
    use tokio::time::Instant;

    use super::*;

    /// Writes maps one after the other, each launched when others still waited, and tells how long that took.
    async fn maps(runtime: &ShuffleRuntime) -> Duration {
        let spec = Arc::new(ShuffleSpec {
            app: AppId(1),
            epoch: Epoch(1),
            shuffle: ShuffleId(3),
            generation: Generation(0),
            maps: 2,
            partitions: 1,
            kind: RowKind::Records { type_name: "bytes".into() },
            codec: Codec::None,
            inline_max: 0,
        });
        let began = Instant::now();
        for map in 0..2 {
            let (job, stage, stage_attempt) = (JobId(0), StageId(0), StageAttempt(0));
            let attempt = AttemptId { job, stage, stage_attempt, partition: PartitionId(map), attempt: 0 };
            let mut member = runtime.member(&spec, attempt, true);
            member.write_record(0, b"row").unwrap();
            member.finish().unwrap().stored().await.unwrap();
        }
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn maps_that_begin_after_word_of_the_last_wait_for_nobody() {
        let runtime = || {
            let budget = Budget::for_executor(512 << 20, 2);
            ShuffleRuntime::new(Arc::new(InMemory::new()), Path::from("root"), ExecutorId(7), budget, Handle::current())
        };
        let (uninformed, informed) = (runtime(), runtime());
        informed.no_more_maps(ShuffleId(3), Generation(0));
        assert_eq!(maps(&informed).await, Duration::ZERO);
        assert!(maps(&uninformed).await >= Duration::from_millis(100), "company is waited for");
    }
}
