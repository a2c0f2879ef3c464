//! What if groups or an order exceed memory?
//!
//! Both are gathered in memory that the executor's pool lends in steps. When the pool says no, what was gathered goes
//! to the local disk as a *run*, encoded and in order, and memory starts again from nothing; reading merges the runs.
//! Nobody knows how much memory a value takes: the encoded size of some is measured and stands for the others.

use std::any::{Any, TypeId};
use std::cmp::Ordering;
use std::fs::File;
use std::hash::{BuildHasher, Hash};
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::mem::{needs_drop, size_of, take};
use std::rc::Rc;
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use hashbrown::hash_table::{Entry, OccupiedEntry};
use model::WorkingMemory;

use crate::codec::{self, Data};
use crate::compute::{SpillSpace, Task};
use crate::error::Error;
use crate::text::Str;

/// How much is asked of the pool at a time, and how much every buffer has without asking: a pool that is empty must not
/// make each row a run of its own.
const STEP_BYTES: u64 = if cfg!(test) { 4 << 10 } else { 1 << 20 };

/// So many insertions go by without a measurement at most, if what they insert into is small.
const MAX_GAP: u64 = 32;

/// Measuring what has grown large costs more than adding to it: of n bytes, n / 8 additions go unmeasured.
const BYTES_PER_UNMEASURED: u64 = 8;

/// Runs are merged into one when there are so many: each is an open file and a buffer.
const MAX_RUNS: usize = 64;

/// The buffer of a run that is written.
const WRITE_BUFFER_BYTES: usize = 256 << 10;

/// The buffer of a run that is read.
const READ_BUFFER_BYTES: usize = 64 << 10;

/// Where buffers get memory and disk.
#[derive(Clone)]
pub(crate) struct Resources {
    memory: Arc<dyn WorkingMemory>,
    spill: Arc<dyn SpillSpace>,
    /// Hears the bytes of every run.
    note: Rc<dyn Fn(u64)>,
}

impl Resources {
    /// Those of a task, whose counters hear of spills.
    pub(crate) fn of(task: &Task) -> Self {
        let counted = task.clone();
        let note = move |bytes| {
            counted.count(|metrics| {
                metrics.spilled_bytes += bytes;
                metrics.spills += 1;
            });
        };
        Self { memory: Arc::clone(&task.env.memory), spill: Arc::clone(&task.env.spill), note: Rc::new(note) }
    }
}

/// Memory on loan from the pool, and the guess of how much is needed.
struct Loan {
    memory: Arc<dyn WorkingMemory>,
    lent: u64,
    needed: u64,
    /// Insertions until the next measurement.
    until_measured: u64,
    gap: u64,
    scratch: Vec<u8>,
}

impl Loan {
    fn new(memory: &Arc<dyn WorkingMemory>) -> Self {
        Self { memory: Arc::clone(memory), lent: 0, needed: 0, until_measured: 0, gap: 1, scratch: Vec::new() }
    }

    /// Whether the next insertion is to be measured.
    #[inline]
    fn is_due(&mut self) -> bool {
        if self.until_measured > 0 {
            self.until_measured -= 1;
            return false;
        }
        true
    }

    fn encoded_size<T: serde::Serialize + ?Sized>(&mut self, value: &T) -> Result<u64, Error> {
        self.scratch.clear();
        codec::encode_into(value, &mut self.scratch)?;
        Ok(self.scratch.len() as u64)
    }

    /// A measured insertion took so many bytes, and stands for all since the one before; `within` is the encoded size of
    /// what it was added to. False when the pool refuses.
    fn measured(&mut self, bytes: u64, within: u64) -> bool {
        self.needed += bytes * self.gap;
        // Whatever it costs, no more than a step may go by unmeasured.
        let most = (STEP_BYTES / bytes.max(1)).max(1);
        self.gap = (self.gap * 2).min(MAX_GAP).max(within / BYTES_PER_UNMEASURED).min(most);
        self.until_measured = self.gap - 1;
        self.cover()
    }

    /// Asks the pool for what is needed beyond what is lent.
    fn cover(&mut self) -> bool {
        let owned = self.lent + STEP_BYTES;
        if self.needed <= owned {
            return true;
        }
        let step = (self.needed - owned).max(STEP_BYTES);
        let granted = self.memory.try_grow(step);
        if granted {
            self.lent += step;
        }
        granted
    }

    /// What is lent, under another name: for what is still held while the rest is let go.
    fn hold(&mut self) -> Self {
        let mut held = Self::new(&self.memory);
        (held.lent, held.needed) = (take(&mut self.lent), take(&mut self.needed));
        held
    }

    /// Everything was let go.
    fn clear(&mut self) {
        self.memory.shrink(take(&mut self.lent));
        (self.needed, self.gap, self.until_measured) = (0, 1, 0);
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.memory.shrink(self.lent);
    }
}

/// Records on local disk, in an order. The file vanishes with it.
struct Run {
    file: File,
    room: Room,
}

/// Room on the local disk, which is given back with it.
struct Room {
    spill: Arc<dyn SpillSpace>,
    bytes: u64,
}

impl Room {
    fn take(&mut self, bytes: u64) -> io::Result<()> {
        self.spill.take(bytes)?;
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.spill.give_back(self.bytes);
    }
}

impl Run {
    /// Writes records in the order given.
    fn write<T: Data>(resources: &Resources, records: impl Iterator<Item = Result<T, Error>>) -> Result<Self, Error> {
        let mut file = BufWriter::with_capacity(WRITE_BUFFER_BYTES, resources.spill.create().map_err(Error::Spill)?);
        let mut room = Room { spill: Arc::clone(&resources.spill), bytes: 0 };
        let (mut scratch, mut bytes) = (Vec::new(), 0);
        for record in records {
            scratch.clear();
            codec::encode_into(&record?, &mut scratch)?;
            bytes += 4 + scratch.len() as u64;
            let length = u32::try_from(scratch.len()).map_err(|_| too_large(scratch.len()))?;
            if bytes > room.bytes {
                // As much as is written at once, so that rows do not ask one by one.
                room.take((bytes - room.bytes).max(WRITE_BUFFER_BYTES as u64)).map_err(Error::Spill)?;
            }
            file.write_all(&length.to_le_bytes()).and_then(|()| file.write_all(&scratch)).map_err(Error::Spill)?;
        }
        let file = file.into_inner().map_err(|error| Error::Spill(error.into_error()))?;
        (resources.note)(bytes);
        Ok(Self { file, room })
    }

    fn read<T: Data>(mut self) -> Result<Records<T>, Error> {
        self.file.rewind().map_err(Error::Spill)?;
        Ok(Records {
            file: BufReader::with_capacity(READ_BUFFER_BYTES, self.file),
            _room: self.room,
            scratch: Vec::new(),
            record: std::marker::PhantomData,
        })
    }
}

fn too_large(bytes: usize) -> Error {
    Error::Invalid(format!("spill a row of {bytes} bytes: more than 4 GiB"))
}

/// The records of a run.
struct Records<T> {
    file: BufReader<File>,
    _room: Room,
    scratch: Vec<u8>,
    record: std::marker::PhantomData<fn() -> T>,
}

impl<T: Data> Records<T> {
    fn record(&mut self) -> Result<Option<T>, Error> {
        let mut length = [0; 4];
        match self.file.read_exact(&mut length) {
            Ok(()) => {}
            // A run ends where its last record ends; a record cut short is found when its bytes are read.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(Error::Spill(error)),
        }
        self.scratch.resize(u32::from_le_bytes(length) as usize, 0);
        self.file.read_exact(&mut self.scratch).map_err(Error::Spill)?;
        codec::decode(&self.scratch).map(Some)
    }
}

impl<T: Data> Iterator for Records<T> {
    type Item = Result<T, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.record().transpose()
    }
}

/// What is merged: records of a run, or of memory.
enum Source<T> {
    Disk(Records<T>),
    Memory(std::vec::IntoIter<T>),
}

impl<T: Data> Iterator for Source<T> {
    type Item = Result<T, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Disk(records) => records.next(),
            Self::Memory(records) => records.next().map(Ok),
        }
    }
}

/// In which order sources are.
trait Compare<T> {
    fn compare(&self, a: &T, b: &T) -> Ordering;
}

/// Ordered sources as one: a heap of their first records. Of equal records, that of the earlier source is first.
struct Merge<T, L> {
    heap: Vec<(T, usize)>,
    sources: Vec<Source<T>>,
    order: L,
    failed: Option<Error>,
}

impl<T: Data, L: Compare<T>> Merge<T, L> {
    fn new(runs: Vec<Run>, memory: Vec<T>, order: L) -> Result<Self, Error> {
        let disk = runs.into_iter().map(|run| run.read().map(Source::Disk));
        // What is in memory is younger than every run: of equal records it comes last.
        let memory = Source::Memory(memory.into_iter());
        let mut sources = disk.chain([Ok(memory)]).collect::<Result<Vec<_>, _>>()?;
        let mut heap = Vec::with_capacity(sources.len());
        for (at, source) in sources.iter_mut().enumerate() {
            if let Some(first) = source.next().transpose()? {
                heap.push((first, at));
            }
        }
        let mut merge = Self { heap, sources, order, failed: None };
        for at in (0..merge.heap.len() / 2).rev() {
            merge.sift_down(at);
        }
        Ok(merge)
    }

    fn is_before(&self, a: usize, b: usize) -> bool {
        let ((left, i), (right, j)) = (&self.heap[a], &self.heap[b]);
        self.order.compare(left, right).then(i.cmp(j)).is_lt()
    }

    fn sift_down(&mut self, mut at: usize) {
        loop {
            let (left, right) = (2 * at + 1, 2 * at + 2);
            let mut first = at;
            for child in [left, right] {
                if child < self.heap.len() && self.is_before(child, first) {
                    first = child;
                }
            }
            if first == at {
                return;
            }
            self.heap.swap(at, first);
            at = first;
        }
    }
}

impl<T: Data, L: Compare<T>> Iterator for Merge<T, L> {
    type Item = Result<T, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.failed.take() {
            self.heap.clear();
            return Some(Err(error));
        }
        let source = self.heap.first()?.1;
        let record = match self.sources[source].next() {
            Some(Ok(next)) => std::mem::replace(&mut self.heap[0], (next, source)).0,
            Some(Err(error)) => {
                self.failed = Some(error);
                self.heap.swap_remove(0).0
            }
            None => self.heap.swap_remove(0).0,
        };
        self.sift_down(0);
        Some(Ok(record))
    }
}

/// Gives a value bytes of its own, if it may share those of something larger that would stay in memory with it.
pub(crate) fn own<T: Data>(mut value: T) -> Result<T, Error> {
    // The comparisons are of constants: what remains in a program is one of the branches.
    if !needs_drop::<T>() || TypeId::of::<T>() == TypeId::of::<String>() {
        return Ok(value);
    }
    if let Some(text) = (&mut value as &mut dyn Any).downcast_mut::<Str>() {
        *text = take(text).detach();
        return Ok(value);
    }
    codec::decode(&codec::encode(&value)?)
}

/// The hash of a key in tables and runs: it lasts as long as they do.
#[inline]
fn hash_of<K: Hash + 'static>(key: &K) -> u64 {
    match (key as &dyn Any).downcast_ref::<Str>() {
        Some(text) => text.hash_words(),
        None => FixedState::default().hash_one(key),
    }
}

/// A value per key, combined from what is inserted under the key, in memory alone. See [`Combiner`].
pub(crate) struct CombineTable<K, C> {
    table: HashTable<(K, C)>,
    loan: Loan,
    full: bool,
}

impl<K: Data + Hash + Eq, C: Data> CombineTable<K, C> {
    /// With memory of a task.
    pub(crate) fn new(resources: &Resources) -> Self {
        let loan = Loan::new(&resources.memory);
        Self { table: HashTable::new(), loan, full: false }
    }

    /// Whether the pool refused to lend what the table needs: it should be drained now.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.full
    }

    /// Inserts a value: `create` makes what is kept of a key's first one, `merge` adds another.
    #[inline]
    pub(crate) fn insert<V>(
        &mut self,
        key: K,
        value: V,
        create: impl FnOnce(V) -> C,
        merge: impl FnOnce(C, V) -> C,
    ) -> Result<(), Error> {
        let due = self.loan.is_due();
        match self.table.entry(hash_of(&key), |(known, _)| *known == key, |(known, _)| hash_of(known)) {
            Entry::Occupied(entry) => {
                let before = if due { self.loan.encoded_size(&entry.get().1)? } else { 0 };
                let entry = replace(entry, |kept| merge(kept, value));
                if due {
                    let after = self.loan.encoded_size(&entry.get().1)?;
                    self.full |= !self.loan.measured(after.saturating_sub(before), before);
                }
            }
            Entry::Vacant(entry) => {
                let entry = entry.insert((own(key)?, create(value)));
                if due {
                    let encoded = self.loan.encoded_size(entry.get())?;
                    self.full |= !self.loan.measured(encoded + entry_size::<K, C>(), 0);
                }
            }
        }
        Ok(())
    }

    /// Takes everything out.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = (K, C)> + use<K, C> {
        self.full = false;
        self.loan.clear();
        take(&mut self.table).into_iter()
    }

    /// Takes everything out, in the order of the keys' hashes.
    fn drain_by_hash(&mut self) -> Vec<(u64, K, C)> {
        let mut entries: Vec<_> = self.drain().map(|(key, value)| (hash_of(&key), key, value)).collect();
        entries.sort_unstable_by_key(|&(hash, ..)| hash);
        entries
    }
}

/// Puts in place of what is kept what a function makes of it.
#[inline]
#[expect(unsafe_code, reason = "a table of small values is a third larger if each may be absent for an instant")]
fn replace<K, C>(mut entry: OccupiedEntry<'_, (K, C)>, with: impl FnOnce(C) -> C) -> OccupiedEntry<'_, (K, C)> {
    if needs_drop::<C>() {
        // Should the function panic, the entry is gone.
        let ((key, kept), vacant) = entry.remove();
        return vacant.insert((key, with(kept)));
    }
    let kept = &raw mut entry.get_mut().1;
    // SAFETY: it is read once and written once. Should the function panic, the bytes that were read are still there, and
    // a type without a destructor does not mind that they were used.
    unsafe { kept.write(with(kept.read())) };
    entry
}

/// What an entry takes besides what its bytes say: itself, and its part of a table that is between half and all full.
const fn entry_size<K, C>() -> u64 {
    (size_of::<(K, C)>() + 1) as u64 * 3 / 2
}

/// A value per key, combined from what is inserted under the key; what exceeds memory goes to the local disk.
pub(crate) struct Combiner<K, C> {
    resources: Resources,
    table: CombineTable<K, C>,
    runs: Vec<Run>,
}

impl<K: Data + Hash + Eq, C: Data> Combiner<K, C> {
    /// With memory and disk of a task.
    pub(crate) fn new(resources: Resources) -> Self {
        Self { table: CombineTable::new(&resources), resources, runs: Vec::new() }
    }

    /// Inserts a value: `create` makes what is kept of a key's first one, `merge` adds another. `join` adds up two that
    /// were kept of one key.
    #[inline]
    pub(crate) fn insert<V>(
        &mut self,
        key: K,
        value: V,
        create: impl FnOnce(V) -> C,
        merge: impl FnOnce(C, V) -> C,
        join: &impl Fn(C, C) -> C,
    ) -> Result<(), Error> {
        self.table.insert(key, value, create, merge)?;
        if self.table.is_full() { self.spill(join) } else { Ok(()) }
    }

    #[cold]
    fn spill(&mut self, join: &impl Fn(C, C) -> C) -> Result<(), Error> {
        if self.runs.len() >= MAX_RUNS {
            let merge = Merge::new(take(&mut self.runs), Vec::<Hashed<K, C>>::new(), ByHash)?;
            self.runs.push(Run::write(&self.resources, JoinEqual::new(merge, join))?);
        }
        let entries = self.table.drain_by_hash();
        self.runs.push(Run::write(&self.resources, entries.into_iter().map(Ok))?);
        Ok(())
    }

    /// Every key once with what its values were combined to. The first error is the last item.
    pub(crate) fn finish<J: Fn(C, C) -> C>(mut self, join: J) -> Result<Combined<K, C, J>, Error> {
        if self.runs.is_empty() {
            let CombineTable { table, loan, .. } = self.table;
            return Ok(Combined { entries: Content::Memory(table.into_iter()), _loan: loan });
        }
        let loan = self.table.loan.hold();
        let merge = Merge::new(self.runs, self.table.drain_by_hash(), ByHash)?;
        Ok(Combined { entries: Content::Merged(JoinEqual::new(merge, join)), _loan: loan })
    }
}

type Hashed<K, C> = (u64, K, C);

struct ByHash;

impl<K, C> Compare<Hashed<K, C>> for ByHash {
    #[inline]
    fn compare(&self, a: &Hashed<K, C>, b: &Hashed<K, C>) -> Ordering {
        a.0.cmp(&b.0)
    }
}

/// What a [`Combiner`] gives.
pub(crate) struct Combined<K, C, J> {
    entries: Content<K, C, J>,
    _loan: Loan,
}

enum Content<K, C, J> {
    Memory(hashbrown::hash_table::IntoIter<(K, C)>),
    Merged(JoinEqual<K, C, J>),
}

impl<K: Data + Eq, C: Data, J: Fn(C, C) -> C> Iterator for Combined<K, C, J> {
    type Item = Result<(K, C), Error>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.entries {
            Content::Memory(entries) => entries.next().map(Ok),
            Content::Merged(entries) => Some(entries.next()?.map(|(_, key, value)| (key, value))),
        }
    }
}

/// Joins entries of equal keys, which come one after the other but for other keys of the same hash.
struct JoinEqual<K, C, J> {
    entries: Merge<Hashed<K, C>, ByHash>,
    join: J,
    /// All entries of the hash that is at its turn; nearly always one.
    equal: Vec<Hashed<K, C>>,
    next: Option<Hashed<K, C>>,
}

impl<K: Data + Eq, C: Data, J: Fn(C, C) -> C> JoinEqual<K, C, J> {
    fn new(entries: Merge<Hashed<K, C>, ByHash>, join: J) -> Self {
        Self { entries, join, equal: Vec::new(), next: None }
    }

    /// Gathers the entries of the next hash, each key once.
    fn gather(&mut self) -> Result<(), Error> {
        let next = match self.next.take() {
            Some(next) => Some(next),
            None => self.entries.next().transpose()?,
        };
        let Some(first) = next else { return Ok(()) };
        let turn = first.0;
        self.equal.push(first);
        while let Some((hash, key, value)) = self.entries.next().transpose()? {
            if hash != turn {
                self.next = Some((hash, key, value));
                break;
            }
            match self.equal.iter().position(|(_, known, _)| *known == key) {
                Some(at) => {
                    let (_, key, kept) = self.equal.swap_remove(at);
                    self.equal.push((hash, key, (self.join)(kept, value)));
                }
                None => self.equal.push((hash, key, value)),
            }
        }
        Ok(())
    }
}

impl<K: Data + Eq, C: Data, J: Fn(C, C) -> C> Iterator for JoinEqual<K, C, J> {
    type Item = Result<Hashed<K, C>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.equal.is_empty()
            && let Err(error) = self.gather()
        {
            return Some(Err(error));
        }
        self.equal.pop().map(Ok)
    }
}

/// Rows that must be in memory all at once.
pub(crate) struct Held<T> {
    rows: Vec<T>,
    loan: Loan,
}

impl<T: Data> Held<T> {
    /// With memory of a task.
    pub(crate) fn new(resources: &Resources) -> Self {
        Self { rows: Vec::new(), loan: Loan::new(&resources.memory) }
    }

    /// Adds a row, if the pool has room for it.
    pub(crate) fn push(&mut self, row: T) -> Result<(), Error> {
        if self.loan.is_due() {
            let encoded = self.loan.encoded_size(&row)?;
            if !self.loan.measured(encoded + 2 * size_of::<T>() as u64, 0) {
                return Err(Error::OutOfMemory(STEP_BYTES));
            }
        }
        self.rows.push(row);
        Ok(())
    }

    pub(crate) fn rows(&self) -> &[T] {
        &self.rows
    }
}

/// How rows are ordered.
pub(crate) trait Order<T> {
    /// The order of two rows.
    fn compare(&self, a: &T, b: &T) -> Ordering;

    /// A number whose order does not contradict that of rows: mostly it spares the look at the rows themselves.
    fn prefix(&self, row: &T) -> u64;

    /// Whether rows of equal numbers are equal.
    fn is_exact(&self) -> bool;

    /// Puts rows in order; equal ones keep theirs.
    fn sort(&self, rows: &mut Vec<T>) {
        self.sort_by_prefix(rows);
    }

    /// Puts rows in order by the numbers first.
    #[expect(unsafe_code, reason = "see `permute`")]
    fn sort_by_prefix(&self, rows: &mut Vec<T>) {
        let mut places: Vec<Place> = (0..).zip(rows.iter()).map(|(at, row)| (self.prefix(row), at)).collect();
        if self.is_exact() {
            places.sort_unstable();
        } else {
            let row = |place: &Place| &rows[place.1 as usize];
            places.sort_unstable_by(|a, b| {
                a.0.cmp(&b.0).then_with(|| self.compare(row(a), row(b))).then_with(|| a.1.cmp(&b.1))
            });
        }
        // SAFETY: each row got one place, and sorting only moves places.
        unsafe { permute(rows, &places) };
    }
}

impl<T, O: Order<T>> Order<T> for &O {
    fn compare(&self, a: &T, b: &T) -> Ordering {
        (**self).compare(a, b)
    }

    fn prefix(&self, row: &T) -> u64 {
        (**self).prefix(row)
    }

    fn is_exact(&self) -> bool {
        (**self).is_exact()
    }
}

impl<T, O: Order<T>> Compare<T> for O {
    #[inline]
    fn compare(&self, a: &T, b: &T) -> Ordering {
        Order::compare(self, a, b)
    }
}

/// A row's prefix and where it is.
type Place = (u64, u32);

/// Brings to every place the row that belongs there, from wherever it lies: rows are read independently of each other,
/// so that the processor waits for many of them at once.
///
/// # Safety
/// `places` names every row once.
#[expect(unsafe_code, reason = "moving rows one by one along cycles waits for memory at every step")]
pub(crate) unsafe fn permute<T, P>(rows: &mut Vec<T>, places: &[(P, u32)]) {
    let mut sorted = Vec::with_capacity(rows.len());
    // SAFETY: rows are dropped where they are put now, not where they were; the caller says that each is read once.
    unsafe {
        rows.set_len(0);
        sorted.extend(places.iter().map(|(_, at)| rows.as_ptr().add(*at as usize).read()));
    }
    *rows = sorted;
}

/// Sorts rows; what exceeds memory goes to the local disk. Equal rows keep their order.
pub(crate) struct Sorter<T, O> {
    resources: Resources,
    order: O,
    rows: Vec<T>,
    loan: Loan,
    runs: Vec<Run>,
}

impl<T: Data, O: Order<T>> Sorter<T, O> {
    /// With memory and disk of a task.
    pub(crate) fn new(resources: Resources, order: O) -> Self {
        let loan = Loan::new(&resources.memory);
        Self { resources, order, rows: Vec::new(), loan, runs: Vec::new() }
    }

    /// Adds a row.
    #[inline]
    pub(crate) fn push(&mut self, row: T) -> Result<(), Error> {
        if self.loan.is_due() {
            let encoded = self.loan.encoded_size(&row)?;
            // Besides itself: its place in the list, which doubles as it grows, its prefix and number, and its place in
            // the sorted list.
            let place = (3 * size_of::<T>() + size_of::<Place>()) as u64;
            if !self.loan.measured(encoded + place, 0) {
                self.spill()?;
            }
        }
        self.rows.push(row);
        if self.rows.len() >= u32::MAX as usize { self.spill() } else { Ok(()) }
    }

    #[cold]
    fn spill(&mut self) -> Result<(), Error> {
        if self.runs.len() >= MAX_RUNS {
            let merge = Merge::new(take(&mut self.runs), Vec::new(), &self.order)?;
            self.runs.push(Run::write(&self.resources, merge)?);
        }
        self.order.sort(&mut self.rows);
        self.runs.push(Run::write(&self.resources, self.rows.drain(..).map(Ok))?);
        self.rows.shrink_to_fit();
        self.loan.clear();
        Ok(())
    }

    /// All rows in order. The first error is the last item.
    pub(crate) fn finish(mut self) -> Result<Sorted<T, O>, Error> {
        self.order.sort(&mut self.rows);
        if self.runs.is_empty() {
            return Ok(Sorted { rows: Ordered::Memory(self.rows.into_iter()), _loan: self.loan });
        }
        let rows = Ordered::Merged(Merge::new(self.runs, self.rows, self.order)?);
        Ok(Sorted { rows, _loan: self.loan })
    }
}

/// What a [`Sorter`] gives.
pub(crate) struct Sorted<T, O> {
    rows: Ordered<T, O>,
    _loan: Loan,
}

enum Ordered<T, O> {
    Memory(std::vec::IntoIter<T>),
    Merged(Merge<T, O>),
}

impl<T: Data, O: Order<T>> Iterator for Sorted<T, O> {
    type Item = Result<T, Error>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.rows {
            Ordered::Memory(rows) => rows.next().map(Ok),
            Ordered::Merged(rows) => rows.next(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicU64, Ordering as Atomic};

    use proptest::prelude::*;

    use super::*;
    use crate::order::{ByFunction, ByKey as Key, Directed, Direction};

    fn by_key(descending: bool) -> Directed<Key> {
        Directed { by: Key, direction: direction(descending) }
    }

    fn direction(descending: bool) -> Direction {
        if descending { Direction::Descending } else { Direction::Ascending }
    }

    /// Lends up to a limit, and knows what is out.
    pub(crate) struct Pool {
        limit: u64,
        lent: AtomicU64,
    }

    impl WorkingMemory for Pool {
        fn try_grow(&self, bytes: u64) -> bool {
            let fits = |lent| (lent + bytes <= self.limit).then_some(lent + bytes);
            self.lent.fetch_update(Atomic::SeqCst, Atomic::SeqCst, fits).is_ok()
        }

        fn shrink(&self, bytes: u64) {
            let before = self.lent.fetch_sub(bytes, Atomic::SeqCst);
            assert!(before >= bytes, "more is given back than was lent");
        }
    }

    struct Disk;

    impl SpillSpace for Disk {
        fn create(&self) -> io::Result<File> {
            tempfile::tempfile()
        }
    }

    /// Refuses, as a full disk does.
    struct FullDisk;

    impl SpillSpace for FullDisk {
        fn create(&self) -> io::Result<File> {
            Err(io::Error::from(io::ErrorKind::StorageFull))
        }
    }

    /// Has room for so many bytes.
    struct SmallDisk {
        most: u64,
        taken: AtomicU64,
    }

    impl SpillSpace for SmallDisk {
        fn create(&self) -> io::Result<File> {
            tempfile::tempfile()
        }

        fn take(&self, bytes: u64) -> io::Result<()> {
            let fits = |taken: u64| Some(taken + bytes).filter(|taken| *taken <= self.most);
            let taken = self.taken.fetch_update(Atomic::SeqCst, Atomic::SeqCst, fits);
            taken.map(drop).map_err(|_| io::ErrorKind::StorageFull.into())
        }

        fn give_back(&self, bytes: u64) {
            self.taken.fetch_sub(bytes, Atomic::SeqCst);
        }
    }

    struct Setup {
        resources: Resources,
        pool: Arc<Pool>,
        spills: Rc<Cell<u64>>,
    }

    fn setup(limit: u64, spill: Arc<dyn SpillSpace>) -> Setup {
        let pool = Arc::new(Pool { limit, lent: AtomicU64::new(0) });
        let spills = Rc::new(Cell::new(0));
        let counted = Rc::clone(&spills);
        let note = Rc::new(move |_| counted.set(counted.get() + 1));
        Setup { resources: Resources { memory: pool.clone(), spill, note }, pool, spills }
    }

    fn payload(n: u64) -> String {
        // Skewed: most are short, every 97th takes 20 kB.
        format!("{n}{}", "x".repeat(if n.is_multiple_of(97) { 20_000 } else { n as usize % 50 }))
    }

    #[test]
    fn sorting_spills_and_gives_every_row_in_order() {
        for limit in [0, 100 << 10, u64::MAX / 2] {
            let setup = setup(limit, Arc::new(Disk));
            let mut sorter = Sorter::new(setup.resources.clone(), by_key(false));
            let rows: Vec<(u64, String)> = (0..20_000).map(|n| ((n * 7_919) % 10_007, payload(n))).collect();
            rows.iter().for_each(|row| sorter.push(row.clone()).unwrap());
            let sorted: Vec<_> = sorter.finish().unwrap().map(Result::unwrap).collect();
            let mut expected = rows;
            expected.sort_by_key(|(key, _)| *key);
            assert!(sorted == expected, "stable and complete at {limit}");
            assert_eq!(setup.spills.get() > 0, limit < u64::MAX / 2);
            assert_eq!(setup.pool.lent.load(Atomic::SeqCst), 0);
        }
    }

    #[test]
    fn combining_spills_and_gives_every_key_once() {
        for limit in [0, 100 << 10, u64::MAX / 2] {
            let setup = setup(limit, Arc::new(Disk));
            let join = |mut a: Vec<u64>, b: Vec<u64>| {
                a.extend(b);
                a
            };
            let mut combiner = Combiner::new(setup.resources.clone());
            let mut expected: BTreeMap<String, Vec<u64>> = BTreeMap::new();
            for n in 0..40_000u64 {
                let key = payload(n % 9_000);
                expected.entry(key.clone()).or_default().push(n);
                let push = |mut list: Vec<u64>, n| {
                    list.push(n);
                    list
                };
                combiner.insert(key, n, |n| vec![n], push, &join).unwrap();
            }
            let mut entries = 0;
            for entry in combiner.finish(join).unwrap() {
                let (key, values) = entry.unwrap();
                assert!(expected.get(&key) == Some(&values), "values of a key keep their order");
                entries += 1;
            }
            assert_eq!(entries, expected.len());
            assert_eq!(setup.spills.get() > 0, limit < u64::MAX / 2);
            assert_eq!(setup.pool.lent.load(Atomic::SeqCst), 0);
        }
    }

    #[test]
    fn so_many_runs_that_they_are_merged_in_between() {
        let setup = setup(0, Arc::new(Disk));
        let mut sorter = Sorter::new(setup.resources.clone(), by_key(true));
        let total = 2_200u64;
        (0..total).for_each(|n| sorter.push((n * 31 % total, "y".repeat(600))).unwrap());
        assert!(setup.spills.get() > MAX_RUNS as u64, "{} spills", setup.spills.get());
        let keys: Vec<u64> = sorter.finish().unwrap().map(|row| row.unwrap().0).collect();
        assert!(keys == (0..total).rev().collect::<Vec<_>>());
    }

    #[test]
    fn one_huge_value_is_sorted_and_combined_like_any() {
        let setup = setup(0, Arc::new(Disk));
        let mut sorter = Sorter::new(setup.resources.clone(), by_key(false));
        sorter.push((2u32, "z".repeat(8 << 20))).unwrap();
        sorter.push((1, String::new())).unwrap();
        let sizes: Vec<_> = sorter.finish().unwrap().map(|row| row.unwrap().1.len()).collect();
        assert_eq!(sizes, [0, 8 << 20]);
    }

    #[test]
    fn a_full_disk_is_named_and_gives_memory_back() {
        let setup = setup(1 << 20, Arc::new(FullDisk));
        let mut sorter = Sorter::new(setup.resources.clone(), by_key(false));
        let failed = (0..1_000u64).find_map(|n| sorter.push((n, "x".repeat(100_000))).err());
        assert!(matches!(failed, Some(Error::Spill(_))));
        drop(sorter);
        assert_eq!(setup.pool.lent.load(Atomic::SeqCst), 0);
    }

    #[test]
    fn what_is_spilled_takes_room_until_it_is_read_and_no_more_than_there_is() {
        let disk = Arc::new(SmallDisk { most: 8 << 20, taken: AtomicU64::new(0) });
        let spilled = |rows: u64| {
            let setup = setup(1 << 20, disk.clone());
            let mut sorter = Sorter::new(setup.resources.clone(), by_key(false));
            (0..rows).find_map(|n| sorter.push((n, "x".repeat(100_000))).err())
        };
        assert!(spilled(50).is_none());
        assert_eq!(disk.taken.load(Atomic::SeqCst), 0, "what was spilled is gone");
        assert!(matches!(spilled(1_000), Some(Error::Spill(_))));
        assert_eq!(disk.taken.load(Atomic::SeqCst), 0);
    }

    #[test]
    fn keys_that_are_kept_let_their_source_go() {
        let line = Str::from("a line that is shared by all the words that were cut from it, long ones too".repeat(9));
        let word = line.slice(2..40);
        let pair = own((word.clone(), 1u32)).unwrap();
        assert_eq!(pair.0, word);
        let within = |part: &Str| line.as_bytes().as_ptr_range().contains(&part.as_ptr());
        assert!(within(&word) && !within(&pair.0) && !within(&own(word.clone()).unwrap()));
    }

    type Row = (String, i16);

    fn sorted(setup: &Setup, rows: &[Row], order: impl Order<Row>) -> Vec<Row> {
        let mut sorter = Sorter::new(setup.resources.clone(), order);
        rows.iter().for_each(|row| sorter.push(row.clone()).unwrap());
        sorter.finish().unwrap().map(Result::unwrap).collect()
    }

    proptest! {
        #[test]
        fn a_combination_is_that_of_a_map(rows in prop::collection::vec(("[ab]{0,6}", any::<i16>()), 0..600)) {
            let setup = setup(0, Arc::new(Disk));
            let add = |a: i64, b: i64| a + b;
            let mut combiner = Combiner::new(setup.resources.clone());
            let mut expected = BTreeMap::new();
            for (key, value) in rows {
                *expected.entry(key.clone()).or_insert(0) += i64::from(value);
                combiner.insert(key, i64::from(value), |value| value, add, &add).unwrap();
            }
            let combined: BTreeMap<_, _> = combiner.finish(add).unwrap().map(Result::unwrap).collect();
            prop_assert_eq!(combined, expected);
        }

        #[test]
        fn a_sort_is_that_of_a_list(rows in prop::collection::vec(("[ab]{0,12}", any::<i16>()), 0..400), descending: bool) {
            let setup = setup(0, Arc::new(Disk));
            let direction = direction(descending);
            let by_key = sorted(&setup, &rows, by_key(descending));
            let by_number = sorted(&setup, &rows, Directed { by: ByFunction(|row: &Row| row.1), direction });
            let by_tuple = sorted(&setup, &rows, Directed { by: ByFunction(|row: &Row| (row.1, row.0.clone())), direction });
            let flip = |order: Ordering| if descending { order.reverse() } else { order };
            let mut expected = rows.clone();
            expected.sort_by(|a, b| flip(a.0.cmp(&b.0)));
            prop_assert_eq!(by_key, expected);
            let mut expected = rows.clone();
            expected.sort_by(|a, b| flip(a.1.cmp(&b.1)));
            prop_assert_eq!(by_number, expected);
            let mut expected = rows.clone();
            expected.sort_by(|a, b| flip((a.1, &a.0).cmp(&(b.1, &b.0))));
            prop_assert_eq!(by_tuple, expected);
        }
    }
}
