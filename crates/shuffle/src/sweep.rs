//! When may objects go?
//!
//! A shuffle's objects go when nothing needs it any more ([`delete_all`]); an application's rest goes when it ends
//! ([`end`]); what a dead driver left goes once its [`Lease`] has expired ([`sweep`]). Ages are told by the store's
//! clock alone. What applications leave on purpose, programs and history, goes when it is old ([`sweep_old`]). The only lists
//! of this crate are made here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt, TryStreamExt};
use model::{AppId, Epoch, Failure, FailureKind, keys};
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode};

/// How often a driver renews its lease: several tries fit before [`LEASE_LIMIT`].
pub const RENEW_EVERY: Duration = Duration::from_secs(5 * 60);

/// A driver that could not renew its lease for this long fails its application, half an hour before others may sweep it.
pub const LEASE_LIMIT: Duration = Duration::from_secs(30 * 60);

/// A lease this much older than an object just written belongs to a dead driver.
pub const SWEEP_AFTER: Duration = Duration::from_secs(60 * 60);

/// How long programs are kept after their last use, and an application's history after its last line.
pub const KEEP_FOR: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How long after its release a shuffle's objects are deleted: reads that were cancelled have ended by then.
pub const RELEASE_AFTER: Duration = Duration::from_secs(60);

/// Keys per bulk request: S3's limit, and what is held in memory of a large application at once.
const BATCH: usize = 1_000;

/// Lists and bulk deletes under way at once: enough to hide their latency, few beside a prefix's capacity.
const CONCURRENCY: usize = 16;

/// Tries of one request, beside those of the store's client.
const TRIES: usize = 6;

/// What can go wrong with leases and sweeps.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another driver has claimed the same application and epoch, or took the lease over.
    #[error("hold lease `{key}`: another driver holds it")]
    Taken {
        /// The lease.
        key: Path,
    },
    /// The lease is gone: somebody held this driver for dead, and has swept what it stored.
    #[error("renew lease `{key}`: it was swept, and so was what this application had stored")]
    Swept {
        /// The lease.
        key: Path,
    },
    /// The lease was not renewed in time.
    #[error("renew lease `{key}`: the driver slept for {} s, more than {} s", .slept.as_secs(), LEASE_LIMIT.as_secs())]
    Expired {
        /// The lease.
        key: Path,
        /// Between the last two renewals, by the store's clock.
        slept: Duration,
    },
    /// The store does not answer, or refuses.
    #[error("{step} `{key}`")]
    Store {
        /// What was asked.
        step: &'static str,
        /// Of what.
        key: Path,
        /// Its last answer.
        #[source]
        source: StoreError,
    },
    /// An unfinished write could not be settled.
    #[error("settle the write noted in `{key}`")]
    Unsettled {
        /// The note.
        key: Path,
        /// Why.
        #[source]
        source: Failure,
    },
}

impl Error {
    /// What the driver and a person hear of it.
    #[must_use]
    pub fn into_failure(self) -> Failure {
        let kind = match &self {
            Self::Taken { .. } | Self::Swept { .. } | Self::Expired { .. } => FailureKind::Stale,
            Self::Store {
                source: StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. }, ..
            } => FailureKind::StoreDenied,
            Self::Store { .. } => FailureKind::StoreUnavailable,
            Self::Unsettled { source, .. } => source.kind.clone(),
        };
        Failure::from_error(kind, &self)
    }
}

fn denied(error: &StoreError) -> bool {
    matches!(error, StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. })
}

/// Repeats what may be repeated; `NotFound` and refusals are answers.
async fn retry<T, F>(step: &'static str, key: &Path, request: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let backoff = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(5))
        .with_max_times(TRIES - 1);
    request
        .retry(backoff)
        .when(|error| {
            !denied(error) && !matches!(error, StoreError::NotFound { .. } | StoreError::AlreadyExists { .. })
        })
        .await
        .map_err(|source| Error::Store { step, key: key.clone(), source })
}

/// A key below the store's root.
fn below(root: &Path, key: &str) -> Path {
    Path::from_iter(root.parts().chain(Path::from(key).parts()))
}

/// An object, unless it is not there.
async fn read(store: &dyn ObjectStore, key: &Path) -> Result<Option<(Bytes, ObjectMeta)>, Error> {
    let get = || async {
        let got = store.get(key).await?;
        let meta = got.meta.clone();
        Ok((got.bytes().await?, meta))
    };
    match retry("read", key, get).await {
        Ok(found) => Ok(Some(found)),
        Err(Error::Store { source: StoreError::NotFound { .. }, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// How much later the second object was written, by the store's clock; zero if it was not.
fn later(first: &ObjectMeta, second: &ObjectMeta) -> Duration {
    (second.last_modified - first.last_modified).to_std().unwrap_or_default()
}

/// The claim to an application's epoch, kept in the store: created before its first object, deleted after its last.
pub struct Lease {
    store: Arc<dyn ObjectStore>,
    root: Path,
    app: AppId,
    epoch: Epoch,
    key: Path,
    /// Tells this driver's lease from any other's.
    nonce: String,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("key", &self.key).field("nonce", &self.nonce).finish_non_exhaustive()
    }
}

impl Lease {
    /// Claims an application's epoch. A lease that is there is never overwritten.
    ///
    /// # Errors
    /// [`Error::Taken`] if another driver has it; else the store's.
    ///
    /// # Cancellation
    /// The lease may be there; it expires.
    pub async fn claim(store: Arc<dyn ObjectStore>, root: &Path, app: AppId, epoch: Epoch) -> Result<Self, Error> {
        let key = below(root, &keys::lease(app, epoch));
        let lease = Self { store, root: root.clone(), app, epoch, key, nonce: AppId::generate().to_string() };
        let mut last = None;
        for _ in 0..TRIES {
            let body = lease.nonce.clone().into();
            let refused = match lease.store.put_opts(&lease.key, body, PutMode::Create.into()).await {
                Ok(_) => return Ok(lease),
                Err(error) if denied(&error) => Some(error),
                // It may be ours: a client repeats a request whose answer it did not hear, and a reply can be lost.
                Err(error) => {
                    last = Some(error);
                    None
                }
            };
            if let Some(source) = refused {
                return Err(Error::Store { step: "create lease", key: lease.key, source });
            }
            match read(lease.store.as_ref(), &lease.key).await? {
                Some((nonce, _)) if nonce == lease.nonce => return Ok(lease),
                Some(_) => return Err(Error::Taken { key: lease.key }),
                None => {}
            }
        }
        let source = last.unwrap_or(StoreError::NotImplemented {
            operation: "create".to_owned(),
            implementer: lease.store.to_string(),
        });
        Err(Error::Store { step: "create lease", key: lease.key, source })
    }

    /// The application.
    #[must_use]
    pub fn app(&self) -> AppId {
        self.app
    }

    /// The epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Says that the driver lives. To be called every [`RENEW_EVERY`].
    ///
    /// # Errors
    /// [`Error::Swept`], [`Error::Taken`], [`Error::Expired`]: the application has lost what it stored, or may at any
    /// moment, and must fail. Else the store's: try again, until [`LEASE_LIMIT`] after the last success.
    pub async fn renew(&self) -> Result<(), Error> {
        let store = self.store.as_ref();
        let before = self.read_own().await?;
        retry("renew lease", &self.key, || store.put(&self.key, self.nonce.clone().into())).await?;
        let slept = later(&before, &self.read_own().await?);
        if slept > LEASE_LIMIT { Err(Error::Expired { key: self.key.clone(), slept }) } else { Ok(()) }
    }

    async fn read_own(&self) -> Result<ObjectMeta, Error> {
        match read(self.store.as_ref(), &self.key).await? {
            None => Err(Error::Swept { key: self.key.clone() }),
            Some((nonce, _)) if nonce != self.nonce => Err(Error::Taken { key: self.key.clone() }),
            Some((_, meta)) => Ok(meta),
        }
    }

    /// Gives the epoch up; everything else of it must be gone. [`end`] does both.
    ///
    /// # Errors
    /// The store's: the lease expires, then.
    pub async fn release(self) -> Result<(), Error> {
        delete_all(self.store.as_ref(), [self.key]).await.map(drop)
    }
}

/// Deletes objects in bulk. What is not there counts as deleted.
///
/// # Errors
/// The store's, after all tries; other keys may be gone.
pub async fn delete_all(store: &dyn ObjectStore, keys: impl IntoIterator<Item = Path>) -> Result<u64, Error> {
    let mut keys = keys.into_iter().peekable();
    let batches = std::iter::from_fn(|| {
        keys.peek()?;
        Some(keys.by_ref().take(BATCH).collect::<Vec<_>>())
    });
    let counts = stream::iter(batches).map(|batch| delete_batch(store, batch)).buffer_unordered(CONCURRENCY);
    counts.try_fold(0, |sum, count| async move { Ok(sum + count) }).await
}

async fn delete_batch(store: &dyn ObjectStore, batch: Vec<Path>) -> Result<u64, Error> {
    let count = batch.len() as u64;
    let first = batch.first().cloned().unwrap_or_default();
    let request = || async {
        let mut deleted = store.delete_stream(stream::iter(batch.clone()).map(Ok).boxed());
        let mut failed = None;
        // The stream is read to its end: an answer for one key says nothing about the next.
        while let Some(result) = deleted.next().await {
            match result {
                Ok(_) | Err(StoreError::NotFound { .. }) => {}
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(()), Err)
    };
    retry("delete", &first, request).await.map(|()| count)
}

async fn list(store: &dyn ObjectStore, prefix: &Path) -> Result<Vec<ObjectMeta>, Error> {
    retry("list", prefix, || store.list(Some(prefix)).try_collect()).await
}

/// Deletes whatever lies below a prefix.
async fn delete_below(store: &dyn ObjectStore, prefix: &Path) -> Result<u64, Error> {
    let listed = list(store, prefix).await?;
    delete_all(store, listed.into_iter().map(|meta| meta.location)).await
}

/// Deletes everything that an application's epoch shuffled, known or not.
async fn delete_shuffles(store: &dyn ObjectStore, root: &Path, app: AppId, epoch: Epoch) -> Result<u64, Error> {
    let prefixes: Vec<Path> = keys::shuffle_prefixes(app, epoch).map(|prefix| below(root, &prefix)).collect();
    stream::iter(prefixes)
        .map(|prefix| async move { delete_below(store, &prefix).await })
        .buffer_unordered(CONCURRENCY)
        .try_fold(0, |sum, count| async move { Ok(sum + count) })
        .await
}

/// Finishes or undoes writes that a driver began and did not end. The driver's commit is the one that can.
pub trait SettleWrites: Send + Sync {
    /// Settles the write that a note tells of, whose driver is dead.
    ///
    /// # Errors
    /// It could not be settled now: the note stays for the next sweep.
    fn settle(&self, note: Bytes) -> BoxFuture<'_, Result<(), Failure>>;
}

/// What is deleted when an application ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftovers {
    /// No executor was lost: every object is known.
    Known,
    /// An executor was lost and is surely dead: it may have stored what nobody heard of.
    Unknown,
    /// An executor was lost and may still live: it may yet store something, so that the lease is left to a later sweep.
    StillGrowing,
}

/// Deletes what an application stored, and last its lease.
///
/// `known` are the keys of shuffle objects that were not released before.
///
/// # Errors
/// The store's, or of a write that cannot be settled: the lease stays, and a later sweep does the rest.
pub async fn end(
    lease: Lease,
    known: Vec<Path>,
    leftovers: Leftovers,
    writes: &dyn SettleWrites,
) -> Result<Swept, Error> {
    let store = lease.store.as_ref();
    let mut swept = Swept { objects: delete_all(store, known).await?, ..Swept::default() };
    if leftovers != Leftovers::Known {
        swept.objects += delete_shuffles(store, &lease.root, lease.app, lease.epoch).await?;
    }
    if leftovers == Leftovers::StillGrowing {
        return Ok(swept);
    }
    let others = list(store, &below(&lease.root, keys::LEASES)).await?;
    let last =
        !others.iter().any(|meta| lease_of(meta).is_some_and(|(app, epoch)| app == lease.app && epoch != lease.epoch));
    if last {
        swept.objects += delete_application(store, &lease.root, lease.app, writes).await?;
    }
    swept.leases.push((lease.app, lease.epoch));
    lease.release().await?;
    Ok(swept)
}

/// Settles an application's writes, then deletes its folder.
async fn delete_application(
    store: &dyn ObjectStore,
    root: &Path,
    app: AppId,
    writes: &dyn SettleWrites,
) -> Result<u64, Error> {
    for note in list(store, &below(root, &keys::writes(app))).await? {
        let key = note.location;
        if let Some((body, _)) = read(store, &key).await? {
            writes.settle(body).await.map_err(|source| Error::Unsettled { key: key.clone(), source })?;
        }
    }
    delete_below(store, &below(root, &keys::application(app))).await
}

fn lease_of(meta: &ObjectMeta) -> Option<(AppId, Epoch)> {
    keys::parse_lease(meta.location.filename()?)
}

/// What went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    /// Leases, with everything they stood for.
    pub leases: Vec<(AppId, Epoch)>,
    /// Objects.
    pub objects: u64,
    /// Leases that were left, since something below them could not be swept, and why.
    pub left: Vec<(AppId, Epoch, String)>,
}

/// Deletes what applications left whose drivers are dead: those whose leases are `after` older (production:
/// [`SWEEP_AFTER`]) than an object that is written for the purpose. Several sweeps at once do no harm.
///
/// # Errors
/// The store's, before anything was deleted. What cannot be deleted of one application is told in [`Swept::left`].
pub async fn sweep(
    store: &dyn ObjectStore,
    root: &Path,
    after: Duration,
    writes: &dyn SettleWrites,
) -> Result<Swept, Error> {
    let clock = below(root, &keys::lease_clock(AppId::generate()));
    retry("write", &clock, || store.put(&clock, "".into())).await?;
    let listed = list(store, &below(root, keys::LEASES)).await?;
    let now = match listed.iter().find(|meta| meta.location == clock) {
        Some(now) => now.clone(),
        // Another sweep took it for an old one: then this one has nothing to go by.
        None => return Ok(Swept::default()),
    };
    let expired = |meta: &&ObjectMeta| later(meta, &now) >= after && meta.location != clock;
    let mut living: BTreeMap<AppId, BTreeSet<Epoch>> = BTreeMap::new();
    for (app, epoch) in listed.iter().filter_map(lease_of) {
        living.entry(app).or_default().insert(epoch);
    }
    let mut swept = Swept::default();
    let mut dead: Vec<(AppId, Epoch, &Path)> =
        listed.iter().filter(expired).filter_map(|meta| lease_of(meta).map(|(a, e)| (a, e, &meta.location))).collect();
    dead.sort_unstable();
    for (app, epoch, key) in dead {
        let epochs = living.entry(app).or_default();
        let one = async {
            let mut objects = delete_shuffles(store, root, app, epoch).await?;
            if epochs.len() == 1 {
                objects += delete_application(store, root, app, writes).await?;
            }
            delete_all(store, [key.clone()]).await?;
            Ok::<u64, Error>(objects)
        };
        match one.await {
            Ok(objects) => {
                epochs.remove(&epoch);
                swept.objects += objects;
                swept.leases.push((app, epoch));
            }
            Err(error) => {
                swept.left.push((app, epoch, error.into_failure().to_string()));
            }
        }
    }
    // Clocks of sweeps that died, and this one's.
    let old_clocks = listed.iter().filter(expired).filter(|meta| lease_of(meta).is_none());
    let clocks: Vec<Path> = old_clocks.map(|meta| meta.location.clone()).chain([clock.clone()]).collect();
    delete_all(store, clocks).await?;
    Ok(swept)
}

/// Deletes programs and the history of applications that are `after` older (production: [`KEEP_FOR`]) than an object that
/// is written for the purpose. A history goes as a whole, by the age of its youngest part, and not while its application
/// has a lease. Gives how many objects went.
///
/// # Errors
/// The store's: some may be gone, and a later sweep does the rest.
pub async fn sweep_old(store: &dyn ObjectStore, root: &Path, after: Duration) -> Result<u64, Error> {
    let clock = below(root, &keys::lease_clock(AppId::generate()));
    retry("write", &clock, || store.put(&clock, "".into())).await?;
    let swept = async {
        let Some((_, now)) = read(store, &clock).await? else { return Ok(0) };
        let leases = list(store, &below(root, keys::LEASES)).await?;
        let living: BTreeSet<String> = leases.iter().filter_map(lease_of).map(|(app, _)| app.to_string()).collect();
        let mut objects = 0;
        for folder in [keys::PROGRAMS, keys::HISTORY] {
            let folder = below(root, folder);
            let mut entries: BTreeMap<String, Vec<ObjectMeta>> = BTreeMap::new();
            for meta in list(store, &folder).await? {
                let entry = meta.location.prefix_match(&folder).and_then(|mut parts| parts.next());
                if let Some(entry) = entry.map(|part| part.as_ref().to_owned()) {
                    entries.entry(entry).or_default().push(meta);
                }
            }
            entries.retain(|name, parts| !living.contains(name) && parts.iter().all(|meta| later(meta, &now) >= after));
            objects += delete_all(store, entries.into_values().flatten().map(|meta| meta.location)).await?;
        }
        Ok(objects)
    };
    let swept = swept.await;
    delete_all(store, [clock]).await?;
    swept
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::FutureExt;
    use model::failure::ObjectRef;
    use model::{ExecutorId, Generation, ShuffleId};

    use super::*;
    use crate::testing::{Chaos, ChaosStore, Fault, Rule, SimStore, Verb};

    const APP: AppId = AppId(7);

    #[derive(Default)]
    struct Settled {
        notes: Mutex<Vec<Bytes>>,
        fails: bool,
    }

    impl SettleWrites for Settled {
        fn settle(&self, note: Bytes) -> BoxFuture<'_, Result<(), Failure>> {
            self.notes.lock().unwrap().push(note);
            let result = if self.fails { Err(Failure::new(FailureKind::Commit, "refuse")) } else { Ok(()) };
            async { result }.boxed()
        }
    }

    fn root() -> Path {
        Path::from("deep/root")
    }

    async fn store_something(store: &dyn ObjectStore, app: AppId, epoch: Epoch) -> Vec<Path> {
        let object = |seq| ObjectRef { executor: ExecutorId(1), seq };
        let shuffled = |seq| keys::shuffle_object(app, epoch, ShuffleId(0), Generation(0), object(seq));
        let mut keys: Vec<String> = (0..20).map(shuffled).collect();
        keys.push(keys::write_note(app, epoch, model::JobId(3)));
        keys.push(keys::broadcast(app, epoch, model::BroadcastId(0)));
        let keys: Vec<Path> = keys.iter().map(|key| below(&root(), key)).collect();
        for key in &keys {
            store.put(key, "note".into()).await.unwrap();
        }
        keys
    }

    async fn everything(store: &dyn ObjectStore) -> Vec<Path> {
        list(store, &Path::default()).await.unwrap().into_iter().map(|meta| meta.location).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_claimed_once_and_never_overwritten() {
        let store: Arc<dyn ObjectStore> = Arc::new(SimStore::quiet());
        let lease = Lease::claim(Arc::clone(&store), &root(), APP, Epoch(1)).await.unwrap();
        let second = Lease::claim(Arc::clone(&store), &root(), APP, Epoch(1)).await;
        assert!(matches!(second, Err(Error::Taken { .. })), "{second:?}");
        Lease::claim(Arc::clone(&store), &root(), APP, Epoch(2)).await.unwrap();
        lease.renew().await.unwrap();
        lease.release().await.unwrap();
        Lease::claim(store, &root(), APP, Epoch(1)).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_whose_reply_is_lost_or_false_is_read_back() {
        for fault in [Fault::LostReply, Fault::AppliedAlreadyExists, Fault::FalseAlreadyExists, Fault::Status(503)] {
            let chaos = Chaos::new([Rule::new(Verb::Create, "*/_lease/*", fault)]);
            let store = ChaosStore::new(Arc::new(SimStore::quiet()), chaos);
            let lease = Lease::claim(Arc::new(store.clone()), &root(), APP, Epoch(1)).await.unwrap();
            lease.renew().await.unwrap();
            store.check_spent().unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_driver_that_slept_or_was_swept_hears_of_it() {
        let store: Arc<dyn ObjectStore> = Arc::new(SimStore::quiet());
        let lease = Lease::claim(Arc::clone(&store), &root(), APP, Epoch(1)).await.unwrap();
        tokio::time::advance(LEASE_LIMIT - Duration::from_secs(1)).await;
        lease.renew().await.unwrap();
        tokio::time::advance(LEASE_LIMIT + Duration::from_secs(1)).await;
        assert!(matches!(lease.renew().await, Err(Error::Expired { .. })));
        tokio::time::advance(SWEEP_AFTER).await;
        let swept = sweep(store.as_ref(), &root(), SWEEP_AFTER, &Settled::default()).await.unwrap();
        assert_eq!(swept.leases, [(APP, Epoch(1))]);
        assert!(matches!(lease.renew().await, Err(Error::Swept { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn the_dead_are_swept_and_the_living_are_not() {
        let store: Arc<dyn ObjectStore> = Arc::new(SimStore::quiet());
        let at = root();
        let claim = |app, epoch| Lease::claim(Arc::clone(&store), &at, app, epoch);
        let living = AppId(8);
        for epoch in [Epoch(1), Epoch(2)] {
            drop(claim(APP, epoch).await.unwrap());
            store_something(store.as_ref(), APP, epoch).await;
        }
        let lease = claim(living, Epoch(1)).await.unwrap();
        let kept = store_something(store.as_ref(), living, Epoch(1)).await;
        tokio::time::advance(SWEEP_AFTER - Duration::from_secs(1)).await;
        let hook = Settled::default();
        assert_eq!(sweep(store.as_ref(), &root(), SWEEP_AFTER, &hook).await.unwrap(), Swept::default());
        lease.renew().await.unwrap_err();
        tokio::time::advance(Duration::from_secs(1)).await;
        let swept = sweep(store.as_ref(), &root(), SWEEP_AFTER, &hook).await.unwrap();
        assert_eq!((swept.leases, swept.objects), (vec![(APP, Epoch(1)), (APP, Epoch(2))], 44));
        assert_eq!(hook.notes.lock().unwrap().len(), 2, "both writes of the dead were settled, the living's was not");
        let left: BTreeSet<Path> = everything(store.as_ref()).await.into_iter().collect();
        let lease_key = below(&root(), &keys::lease(living, Epoch(1)));
        assert_eq!(left, kept.into_iter().chain([lease_key]).collect());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_goes_last_and_stays_while_a_write_is_unsettled() {
        let store: Arc<dyn ObjectStore> = Arc::new(SimStore::quiet());
        drop(Lease::claim(Arc::clone(&store), &root(), APP, Epoch(1)).await.unwrap());
        store_something(store.as_ref(), APP, Epoch(1)).await;
        tokio::time::advance(SWEEP_AFTER).await;
        let refuses = Settled { fails: true, ..Settled::default() };
        let swept = sweep(store.as_ref(), &root(), SWEEP_AFTER, &refuses).await.unwrap();
        assert_eq!((swept.leases.len(), swept.left.len()), (0, 1));
        assert_eq!(everything(store.as_ref()).await.len(), 3, "lease, note, broadcast");
        sweep(store.as_ref(), &root(), SWEEP_AFTER, &Settled::default()).await.unwrap();
        assert!(everything(store.as_ref()).await.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_leaves_nothing_unless_something_may_still_grow() {
        for (leftovers, know_all, left) in
            [(Leftovers::Known, true, 0), (Leftovers::Unknown, false, 0), (Leftovers::StillGrowing, false, 3)]
        {
            let store: Arc<dyn ObjectStore> = Arc::new(SimStore::quiet());
            let lease = Lease::claim(Arc::clone(&store), &root(), APP, Epoch(1)).await.unwrap();
            let stored = store_something(store.as_ref(), APP, Epoch(1)).await;
            let known = if know_all { stored } else { Vec::new() };
            end(lease, known, leftovers, &Settled::default()).await.unwrap();
            assert_eq!(everything(store.as_ref()).await.len(), left, "{leftovers:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_goes_when_it_is_old_and_not_while_it_grows() {
        let store: Arc<dyn ObjectStore> = Arc::new(SimStore::quiet());
        let put = async |key: &str| drop(store.put(&below(&root(), key), "x".into()).await.unwrap());
        let day = Duration::from_secs(24 * 60 * 60);
        let (dead, growing, living) = (AppId(1), AppId(2), AppId(3));
        for app in [dead, growing, living] {
            put(&keys::event_log(app, Epoch(1), 0)).await;
        }
        let lease = Lease::claim(Arc::clone(&store), &root(), living, Epoch(1)).await.unwrap();
        put("programs/old").await;
        put("programs/used").await;
        tokio::time::advance(29 * day).await;
        put("programs/used").await;
        put(&keys::event_log(growing, Epoch(1), 1)).await;
        assert_eq!(sweep_old(store.as_ref(), &root(), KEEP_FOR).await.unwrap(), 0);
        tokio::time::advance(day).await;
        assert_eq!(sweep_old(store.as_ref(), &root(), KEEP_FOR).await.unwrap(), 2, "one program, one history");
        let mut kept = [keys::event_log(growing, Epoch(1), 0), keys::event_log(growing, Epoch(1), 1)].to_vec();
        kept.extend([keys::event_log(living, Epoch(1), 0), "programs/used".to_owned(), keys::lease(living, Epoch(1))]);
        let kept: BTreeSet<Path> = kept.iter().map(|key| below(&root(), key)).collect();
        assert_eq!(everything(store.as_ref()).await.into_iter().collect::<BTreeSet<_>>(), kept);
        drop(lease);
    }

    #[tokio::test]
    async fn a_store_of_files_tells_ages_too() {
        let folder = tempfile::tempdir().unwrap();
        let store = object_store::local::LocalFileSystem::new_with_prefix(folder.path()).unwrap();
        for key in ["programs/old", "programs/new"] {
            store.put(&Path::from(key), "x".into()).await.unwrap();
        }
        let long_ago = std::time::SystemTime::now() - KEEP_FOR - Duration::from_secs(60);
        let file = std::fs::File::options().write(true).open(folder.path().join("programs/old")).unwrap();
        file.set_modified(long_ago).unwrap();
        assert_eq!(sweep_old(&store, &Path::default(), KEEP_FOR).await.unwrap(), 1);
        assert_eq!(everything(&store).await, [Path::from("programs/new")]);
    }

    /// A sweep that dies anywhere leaves the lease until all else is gone, so that the next one finds the rest.
    #[tokio::test(start_paused = true)]
    async fn a_sweep_may_die_after_any_request() {
        let mut stopped = 0;
        for last in 0.. {
            let sim: Arc<dyn ObjectStore> = Arc::new(SimStore::quiet());
            drop(Lease::claim(Arc::clone(&sim), &root(), APP, Epoch(1)).await.unwrap());
            store_something(sim.as_ref(), APP, Epoch(1)).await;
            tokio::time::advance(SWEEP_AFTER).await;
            let chaos = ChaosStore::new(Arc::clone(&sim), Chaos::stop_after(last));
            let (hook, at) = (Settled::default(), root());
            let died = tokio::select! {
                biased;
                swept = sweep(&chaos, &at, SWEEP_AFTER, &hook) => { swept.unwrap(); false }
                () = chaos.held() => true,
            };
            let left = everything(sim.as_ref()).await;
            let lease = below(&root(), &keys::lease(APP, Epoch(1)));
            let only_clocks = left.iter().all(|key| key.filename().is_some_and(|name| name.starts_with("clock-")));
            assert!(left.contains(&lease) || only_clocks, "stopped after {last}: {left:?}");
            tokio::time::advance(SWEEP_AFTER).await;
            sweep(sim.as_ref(), &root(), SWEEP_AFTER, &hook).await.unwrap();
            assert_eq!(everything(sim.as_ref()).await, [], "stopped after {last}");
            if !died {
                break;
            }
            stopped += 1;
        }
        assert!(stopped > 256, "{stopped} points");
    }
}
