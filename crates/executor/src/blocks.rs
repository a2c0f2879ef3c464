//! What is cached on an executor?
//!
//! Cached partitions are encoded bytes in pieces. They use what tasks leave of the working pool; when a task needs the
//! memory, the longest unused goes first: to the local disk if its level says so, else away. Losing one costs only time.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use model::{AppId, Epoch, Failure, PartitionId, RddId, keys};
use object_store::path::Path;
use object_store::{ObjectStore, PutPayload};
use tokio::runtime::Handle;

use crate::memory::{Evict, Pool};
use crate::spill::SpillDir;
use crate::store;

/// Where a cached partition is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// In memory, while there is room.
    Memory,
    /// In memory while there is room, else on the local disk.
    MemoryAndDisk,
    /// In the object store: it outlives the executor.
    ObjectStore,
}

/// The cached partitions of an executor. Cheap to clone.
#[derive(Clone)]
pub struct Blocks {
    inner: Arc<Inner>,
}

struct Inner {
    pool: Arc<Pool>,
    spill: SpillDir,
    remote: Remote,
    held: Mutex<Held>,
    /// One thread at a time moves partitions out of memory, so that two do not choose the same ones.
    evicting: Mutex<()>,
    files: AtomicU64,
}

/// Where partitions of the level [`Level::ObjectStore`] lie.
pub(crate) struct Remote {
    pub(crate) app: AppId,
    pub(crate) epoch: Epoch,
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) root: Path,
    pub(crate) io: Handle,
}

type Key = (RddId, PartitionId);

#[derive(Default)]
struct Held {
    blocks: HashMap<Key, Block>,
    /// Partitions in memory, by when they were last used.
    by_use: BTreeMap<u64, Key>,
    uses: u64,
}

struct Block {
    level: Level,
    place: Place,
}

enum Place {
    Memory { pieces: Vec<Bytes>, bytes: u64, used: u64 },
    Disk(Arc<OnDisk>),
}

/// A partition on the local disk; its file goes with it.
struct OnDisk {
    path: PathBuf,
    bytes: u64,
    spill: SpillDir,
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        // The folder goes with the executor, whatever happens here.
        let _ = fs::remove_file(&self.path);
        self.spill.give_back(self.bytes);
    }
}

impl Held {
    /// Forgets a partition; says how many bytes of memory it held.
    fn remove(&mut self, key: Key) -> u64 {
        match self.blocks.remove(&key).map(|block| block.place) {
            Some(Place::Memory { bytes, used, .. }) => {
                self.by_use.remove(&used);
                bytes
            }
            Some(Place::Disk(_)) | None => 0,
        }
    }

    fn next_use(&mut self) -> u64 {
        self.uses += 1;
        self.uses
    }
}

impl Blocks {
    pub(crate) fn new(pool: Arc<Pool>, spill: SpillDir, remote: Remote) -> Self {
        let inner = Arc::new(Inner {
            pool: pool.clone(),
            spill,
            remote,
            held: Mutex::default(),
            evicting: Mutex::new(()),
            files: AtomicU64::new(0),
        });
        pool.evict_with(Arc::new(EvictFrom(Arc::downgrade(&inner))));
        Self { inner }
    }

    /// A cached partition, from wherever it lies. Blocks while it is read.
    ///
    /// # Errors
    /// The object store fails. What cannot be read from the local disk counts as not cached.
    pub fn get(&self, rdd: RddId, partition: PartitionId, level: Level) -> Result<Option<Vec<Bytes>>, Failure> {
        match level {
            Level::Memory | Level::MemoryAndDisk => Ok(self.inner.get((rdd, partition))),
            Level::ObjectStore => self.inner.remote.get(rdd, partition),
        }
    }

    /// Caches a partition, in place of an earlier copy. Blocks while it is written. `false` if there is no room for it.
    ///
    /// # Errors
    /// The object store fails.
    pub fn put(&self, rdd: RddId, partition: PartitionId, level: Level, pieces: Vec<Bytes>) -> Result<bool, Failure> {
        match level {
            Level::Memory | Level::MemoryAndDisk => Ok(self.inner.put((rdd, partition), level, pieces)),
            Level::ObjectStore => self.inner.remote.put(rdd, partition, pieces).map(|()| true),
        }
    }

    /// Drops every partition of a dataset that this executor holds. What lies in the store is the driver's to delete.
    pub(crate) fn remove(&self, rdd: RddId) {
        let mut held = self.inner.held();
        let keys: Vec<Key> = held.blocks.keys().filter(|key| key.0 == rdd).copied().collect();
        let freed = keys.into_iter().map(|key| held.remove(key)).sum();
        drop(held);
        self.inner.pool.uncache(freed);
    }
}

impl Inner {
    fn held(&self) -> MutexGuard<'_, Held> {
        // Every change is complete before it can panic.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, key: Key) -> Option<Vec<Bytes>> {
        let on_disk = {
            let mut held = self.held();
            let now = held.next_use();
            let held = &mut *held;
            match &mut held.blocks.get_mut(&key)?.place {
                Place::Memory { pieces, used, .. } => {
                    held.by_use.remove(used);
                    held.by_use.insert(now, key);
                    *used = now;
                    return Some(pieces.clone());
                }
                Place::Disk(block) => block.clone(),
            }
        };
        match read_file(&on_disk) {
            Ok(pieces) => Some(pieces),
            Err(error) => {
                tracing::warn!(%error, rdd = %key.0, partition = %key.1, "read a cached partition from disk: dropped");
                self.held().remove(key);
                None
            }
        }
    }

    fn put(&self, key: Key, level: Level, pieces: Vec<Bytes>) -> bool {
        let earlier = self.held().remove(key);
        self.pool.uncache(earlier);
        let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        if self.reserve(key.0, bytes) {
            let mut held = self.held();
            let used = held.next_use();
            held.by_use.insert(used, key);
            let twin = held.blocks.insert(key, Block { level, place: Place::Memory { pieces, bytes, used } });
            // Another attempt may have put the same partition meanwhile.
            if let Some(Block { place: Place::Memory { bytes, used, .. }, .. }) = twin {
                held.by_use.remove(&used);
                self.pool.uncache(bytes);
            }
            return true;
        }
        level == Level::MemoryAndDisk && self.put_on_disk(key, &pieces)
    }

    /// Takes memory for a partition, from others of other datasets if need be.
    fn reserve(&self, rdd: RddId, bytes: u64) -> bool {
        loop {
            match self.pool.cache(bytes) {
                Ok(()) => return true,
                Err(None) => return false,
                Err(Some(missing)) => {
                    if !self.evict(missing, Some(rdd)) {
                        return false;
                    }
                }
            }
        }
    }

    /// Moves the longest unused out of memory until so many bytes are free; `false` if nothing could be moved. Partitions
    /// of `spare` stay: a dataset larger than memory would push out its own head just before it is read again.
    fn evict(&self, bytes: u64, spare: Option<RddId>) -> bool {
        let _one = self.evicting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut freed = 0;
        while freed < bytes {
            let victim = {
                let held = self.held();
                let key = held.by_use.values().find(|key| Some(key.0) != spare).copied();
                key.and_then(|key| match &held.blocks.get(&key)?.place {
                    Place::Memory { pieces, used, .. } => Some((key, held.blocks[&key].level, pieces.clone(), *used)),
                    Place::Disk(_) => None,
                })
            };
            let Some((key, level, pieces, seen)) = victim else { return freed > 0 };
            let moved = (level == Level::MemoryAndDisk).then(|| self.write_file(key, &pieces)).flatten();
            let mut held = self.held();
            // Whoever used it meanwhile has its own clone of the pieces; only a new copy must stay.
            let same = matches!(
                held.blocks.get(&key).map(|block| &block.place),
                Some(Place::Memory { pieces: now, used, .. }) if *used == seen || same_bytes(now, &pieces)
            );
            if !same {
                continue;
            }
            let gone = held.remove(key);
            if let Some(on_disk) = moved {
                held.blocks.insert(key, Block { level, place: Place::Disk(Arc::new(on_disk)) });
            }
            drop(held);
            self.pool.uncache(gone);
            freed += gone.max(1); // An empty partition is progress too.
        }
        true
    }

    fn put_on_disk(&self, key: Key, pieces: &[Bytes]) -> bool {
        let Some(on_disk) = self.write_file(key, pieces) else { return false };
        let mut held = self.held();
        let twin = held.remove(key);
        held.blocks.insert(key, Block { level: Level::MemoryAndDisk, place: Place::Disk(Arc::new(on_disk)) });
        drop(held);
        self.pool.uncache(twin);
        true
    }

    fn write_file(&self, key: Key, pieces: &[Bytes]) -> Option<OnDisk> {
        let name = format!("cached-{}-{}-{}", key.0.0, key.1.0, self.files.fetch_add(1, Ordering::Relaxed));
        let head = head(pieces);
        let bytes = pieces.iter().chain([&head]).map(|piece| piece.len() as u64).sum();
        let written = self.spill.path().map_err(|failure| failure.to_string()).and_then(|folder| {
            let write = || -> io::Result<OnDisk> {
                self.spill.take(bytes)?;
                let on_disk = OnDisk { path: folder.join(name), bytes, spill: self.spill.clone() };
                let mut file = File::create_new(&on_disk.path)?;
                file.write_all(&head)?;
                pieces.iter().try_for_each(|piece| file.write_all(piece))?;
                Ok(on_disk)
            };
            write().map_err(|error| self.spill.failure("write a cached partition", &error).to_string())
        });
        written.inspect_err(|error| tracing::warn!(error, "keep a cached partition on disk: dropped")).ok()
    }
}

fn same_bytes(a: &[Bytes], b: &[Bytes]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.as_ptr() == b.as_ptr() && a.len() == b.len())
}

/// The pool holds the cache weakly: the cache holds the pool.
struct EvictFrom(std::sync::Weak<Inner>);

impl Evict for EvictFrom {
    fn evict(&self, bytes: u64) {
        if let Some(inner) = self.0.upgrade() {
            inner.evict(bytes, None);
        }
    }
}

impl Remote {
    fn key(&self, rdd: RddId, partition: PartitionId) -> Path {
        store::key(&self.root, &keys::cached_partition(self.app, self.epoch, rdd, partition))
    }

    fn get(&self, rdd: RddId, partition: PartitionId) -> Result<Option<Vec<Bytes>>, Failure> {
        let key = self.key(rdd, partition);
        let read = store::get(&*self.store, &key);
        match self.io.block_on(read) {
            Ok(bytes) => parse(bytes).map(Some).map_err(|error| store::corrupt("a cached partition", &key, &error)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(store::failure("read a cached partition", &error)),
        }
    }

    fn put(&self, rdd: RddId, partition: PartitionId, mut pieces: Vec<Bytes>) -> Result<(), Failure> {
        pieces.insert(0, head(&pieces));
        let payload = PutPayload::from_iter(pieces);
        let key = self.key(rdd, partition);
        self.io
            .block_on(store::put(&*self.store, &key, payload))
            .map_err(|error| store::failure("write a cached partition", &error))
    }
}

/// What stands before the pieces of a partition on disk or in the store: how many, how long each, and their CRC-32C.
fn head(pieces: &[Bytes]) -> Bytes {
    let mut head = BytesMut::with_capacity(8 + 8 * pieces.len());
    let crc = pieces.iter().fold(0, |crc, piece| crc32c::crc32c_append(crc, piece));
    head.put_u32_le(crc);
    head.put_u32_le(u32::try_from(pieces.len()).unwrap_or(u32::MAX));
    pieces.iter().for_each(|piece| head.put_u64_le(piece.len() as u64));
    head.freeze()
}

fn parse(mut bytes: Bytes) -> io::Result<Vec<Bytes>> {
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "its bytes are damaged");
    if bytes.len() < 8 {
        return Err(damaged());
    }
    let (crc, count) = (bytes.get_u32_le(), bytes.get_u32_le() as usize);
    if bytes.len() / 8 < count {
        return Err(damaged());
    }
    let lengths: Vec<usize> = (0..count).map(|_| usize::try_from(bytes.get_u64_le()).unwrap_or(usize::MAX)).collect();
    if crc32c::crc32c(&bytes) != crc {
        return Err(damaged());
    }
    let mut pieces = Vec::with_capacity(count);
    for length in lengths {
        if length > bytes.len() {
            return Err(damaged());
        }
        pieces.push(bytes.split_to(length));
    }
    if bytes.is_empty() { Ok(pieces) } else { Err(damaged()) }
}

fn read_file(on_disk: &OnDisk) -> io::Result<Vec<Bytes>> {
    let mut bytes = Vec::new();
    File::open(&on_disk.path)?.read_to_end(&mut bytes)?;
    parse(bytes.into())
}

#[cfg(test)]
mod tests {
    use model::WorkingMemory;
    use object_store::memory::InMemory;

    use super::*;

    fn blocks(limit: u64, folder: &std::path::Path, io: &Handle) -> (Arc<Pool>, Blocks) {
        let pool = Pool::new(limit, 1);
        let remote = Remote {
            app: AppId(1),
            epoch: Epoch(1),
            store: Arc::new(InMemory::new()),
            root: Path::from("root"),
            io: io.clone(),
        };
        let blocks = Blocks::new(pool.clone(), SpillDir::new(folder.to_owned(), u64::MAX), remote);
        (pool, blocks)
    }

    fn rows(byte: u8, length: usize) -> Vec<Bytes> {
        vec![Bytes::from(vec![byte; length / 2]), Bytes::from(vec![byte; length - length / 2])]
    }

    fn with_blocks(limit: u64, test: impl FnOnce(&Arc<Pool>, &Blocks, &std::path::Path)) {
        let (runtime, folder) = (tokio::runtime::Runtime::new().unwrap(), tempfile::tempdir().unwrap());
        let (pool, blocks) = blocks(limit, folder.path(), runtime.handle());
        test(&pool, &blocks, folder.path());
    }

    fn p(n: u32) -> PartitionId {
        PartitionId(n)
    }

    #[test]
    fn the_longest_unused_goes_first_and_the_disk_keeps_what_may_go_there() {
        with_blocks(1_000, |pool, blocks, _| {
            assert!(blocks.put(RddId(1), p(0), Level::MemoryAndDisk, rows(1, 300)).unwrap());
            assert!(blocks.put(RddId(1), p(1), Level::Memory, rows(2, 300)).unwrap());
            assert!(blocks.put(RddId(1), p(2), Level::Memory, rows(3, 300)).unwrap());
            assert!(blocks.get(RddId(1), p(1), Level::Memory).unwrap().is_some(), "used: now the last to go");
            assert!(blocks.put(RddId(2), p(0), Level::Memory, rows(4, 500)).unwrap());
            assert_eq!(blocks.get(RddId(1), p(0), Level::MemoryAndDisk).unwrap(), Some(rows(1, 300)), "from disk");
            assert_eq!(blocks.get(RddId(1), p(2), Level::Memory).unwrap(), None, "dropped");
            assert_eq!(blocks.get(RddId(1), p(1), Level::Memory).unwrap(), Some(rows(2, 300)));
            assert_eq!(pool.used(), 800);
        });
    }

    #[test]
    fn a_dataset_does_not_push_out_itself() {
        with_blocks(1_000, |_, blocks, _| {
            assert!(blocks.put(RddId(1), p(0), Level::Memory, rows(1, 600)).unwrap());
            assert!(!blocks.put(RddId(1), p(1), Level::Memory, rows(2, 600)).unwrap());
            assert!(blocks.get(RddId(1), p(0), Level::Memory).unwrap().is_some());
            assert!(blocks.put(RddId(1), p(2), Level::MemoryAndDisk, rows(3, 600)).unwrap());
            assert_eq!(blocks.get(RddId(1), p(2), Level::MemoryAndDisk).unwrap(), Some(rows(3, 600)));
        });
    }

    #[test]
    fn tasks_take_memory_from_cached_partitions() {
        with_blocks(1_000, |pool, blocks, _| {
            blocks.put(RddId(1), p(0), Level::Memory, rows(1, 400)).unwrap();
            blocks.put(RddId(1), p(1), Level::MemoryAndDisk, rows(2, 600)).unwrap();
            let task = pool.share();
            assert!(task.try_grow(900));
            assert_eq!(pool.used(), 900);
            assert_eq!(blocks.get(RddId(1), p(0), Level::Memory).unwrap(), None);
            assert_eq!(blocks.get(RddId(1), p(1), Level::MemoryAndDisk).unwrap(), Some(rows(2, 600)));
        });
    }

    #[test]
    fn an_unwanted_dataset_frees_its_memory_and_its_files() {
        with_blocks(500, |pool, blocks, folder| {
            blocks.put(RddId(1), p(0), Level::MemoryAndDisk, rows(1, 400)).unwrap();
            blocks.put(RddId(1), p(1), Level::MemoryAndDisk, rows(2, 400)).unwrap();
            blocks.put(RddId(2), p(0), Level::Memory, rows(3, 0)).unwrap();
            blocks.remove(RddId(1));
            assert_eq!(pool.used(), 0);
            assert_eq!(blocks.get(RddId(1), p(1), Level::MemoryAndDisk).unwrap(), None);
            assert_eq!(blocks.get(RddId(2), p(0), Level::Memory).unwrap(), Some(rows(3, 0)));
            let files = |entry: io::Result<fs::DirEntry>| {
                let path = entry.unwrap().path();
                if path.is_dir() { fs::read_dir(path).unwrap().count() } else { 0 }
            };
            assert_eq!(fs::read_dir(folder).unwrap().map(files).sum::<usize>(), 0);
        });
    }

    #[test]
    fn a_copy_replaces_an_earlier_one() {
        with_blocks(1_000, |pool, blocks, _| {
            blocks.put(RddId(1), p(0), Level::Memory, rows(1, 400)).unwrap();
            blocks.put(RddId(1), p(0), Level::Memory, rows(2, 500)).unwrap();
            assert_eq!(pool.used(), 500);
            assert_eq!(blocks.get(RddId(1), p(0), Level::Memory).unwrap(), Some(rows(2, 500)));
        });
    }

    #[test]
    fn the_store_keeps_partitions_apart_from_memory() {
        with_blocks(100, |pool, blocks, _| {
            assert_eq!(blocks.get(RddId(1), p(0), Level::ObjectStore).unwrap(), None);
            assert!(blocks.put(RddId(1), p(0), Level::ObjectStore, rows(1, 4_000)).unwrap());
            assert_eq!(blocks.get(RddId(1), p(0), Level::ObjectStore).unwrap(), Some(rows(1, 4_000)));
            assert_eq!(pool.used(), 0);
        });
    }

    #[test]
    fn damaged_bytes_are_no_partition() {
        let pieces = rows(7, 100);
        let mut whole = BytesMut::from(&head(&pieces)[..]);
        pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
        assert_eq!(parse(whole.clone().freeze()).unwrap(), pieces);
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            assert!(parse(damaged.freeze()).is_err(), "byte {at}");
            assert!(parse(whole.clone().freeze().slice(..at)).is_err(), "cut at {at}");
        }
    }
}
