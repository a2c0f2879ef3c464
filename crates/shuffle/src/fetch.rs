//! Which ranges are asked for, when, and when again?
//!
//! One task per stream asks for its sources in pieces. A piece needs a permit of the executor's bytes and requests; each
//! stream also owns a floor of one piece, so that the two inputs of a join cannot starve each other. Sources of one piece
//! are parsed as they arrive. Longer ones are parsed one after the other, so that a stream holds at most one block whose
//! end is still to come. A damaged block is read again with fresh requests, from the piece in which it begins; if the rows of
//! a source do not add up, it is read again from its beginning, and blocks that were believed before are known by their
//! place and not given out twice.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, Bytes, BytesMut};
use model::failure::ObjectRef;
use model::ids::MapId;
use model::shuffle::{ReadRange, ReadSource, ShuffleSpec, SourceBytes};
use object_store::path::Path;
use object_store::{GetOptions, GetRange};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::Damage;
use crate::format::{self, BLOCK_HEADER, BlockHead, parse_block};
use crate::runtime::Inner;
use crate::store::{Refusal, persist, request_deadline, under};
use crate::{Budget, Error};

/// A damaged piece is read again so often before its maps are run again; so is a source whose rows do not add up.
pub(crate) const FRESH_READS: u32 = 2;
/// Blocks a stream holds parsed: enough to keep its task busy; their bytes are bounded by permits.
pub(crate) const BLOCKS_AHEAD: usize = 64;
/// Permits count in KiB, since a semaphore counts in 32 bits.
const UNIT: u64 = 1 << 10;

/// Read permits of one executor.
pub(crate) struct Permits {
    bytes: Arc<Semaphore>,
    units: u32,
    requests: Arc<Semaphore>,
}

impl Permits {
    pub(crate) fn new(budget: &Budget) -> Self {
        let units = u32::try_from(budget.read_inflight_bytes / UNIT).unwrap_or(u32::MAX).max(1);
        Self {
            bytes: Arc::new(Semaphore::new(units as usize)),
            units,
            requests: Arc::new(Semaphore::new(budget.read_concurrency.max(1) as usize)),
        }
    }

    /// Leave for a piece: the executor's, or the stream's own floor if that is free sooner.
    async fn take(&self, length: u64, floor: &Arc<Semaphore>) -> Leave {
        let units = u32::try_from(length.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, self.units);
        let shared = async {
            let bytes = Arc::clone(&self.bytes).acquire_many_owned(units).await.expect("nobody closes it");
            let request = Arc::clone(&self.requests).acquire_owned().await.expect("nobody closes it");
            Leave { piece: bytes, request: Some(request) }
        };
        let own = async {
            let piece = Arc::clone(floor).acquire_owned().await.expect("nobody closes it");
            Leave { piece, request: None }
        };
        tokio::select! {
            biased;
            leave = shared => leave,
            leave = own => leave,
        }
    }
}

struct Leave {
    /// Until the piece's last block has been used.
    piece: OwnedSemaphorePermit,
    /// Until the request has been answered.
    request: Option<OwnedSemaphorePermit>,
}

/// A block as it came, checked but not decoded.
#[derive(Debug)]
pub(crate) struct RawBlock {
    pub(crate) head: BlockHead,
    pub(crate) payload: Bytes,
    /// The leave of the piece it lies in.
    pub(crate) leave: Option<Arc<OwnedSemaphorePermit>>,
    /// Whom to blame if it cannot be decoded.
    pub(crate) origin: Arc<Origin>,
    /// Where it began in its source.
    pub(crate) offset: u64,
}

/// Where a source's bytes come from, for errors.
#[derive(Debug)]
pub(crate) struct Origin {
    spec: Arc<ShuffleSpec>,
    object: Option<ObjectRef>,
    key: Path,
    maps: Vec<MapId>,
}

impl Origin {
    pub(crate) fn corrupt(&self, offset: u64, damage: Damage, retries: u32) -> Error {
        Error::Corrupt {
            shuffle: self.spec.shuffle,
            generation: self.spec.generation,
            object: self.object,
            key: if self.object.is_some() { self.key.to_string() } else { "a message".into() },
            maps: self.maps.clone(),
            offset,
            damage,
            retries,
        }
    }

    fn missing(&self, source: Arc<object_store::Error>) -> Error {
        let object = self.object.expect("only objects are asked for");
        let (shuffle, generation) = (self.spec.shuffle, self.spec.generation);
        let (key, maps) = (self.key.to_string(), self.maps.clone());
        Error::Missing { shuffle, generation, object, key, maps, source }
    }
}

/// What a stream has asked for.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) bytes: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) retries: AtomicU64,
}

/// What a source should hold, and what of it has come.
pub(crate) struct Progress {
    pub(crate) origin: Arc<Origin>,
    range: ReadRange,
    /// Map and tag of each winner.
    winners: HashMap<(u32, u32), usize>,
    maps: Vec<MapId>,
    /// Rows promised, by winner and partition.
    promised: Vec<u64>,
    /// Rows that came in this pass.
    came: Vec<u64>,
    length: u64,
    /// Everything before has been parsed.
    at: u64,
    /// A block whose end is still to come.
    begun: BytesMut,
    /// Where blocks lie that were given out.
    given: BTreeSet<u64>,
    /// Blocks believed in this pass.
    believed: usize,
}

impl Progress {
    pub(crate) fn new(runtime: &Inner, spec: &Arc<ShuffleSpec>, range: ReadRange, source: &ReadSource) -> Self {
        let (object, key, length) = match &source.bytes {
            SourceBytes::Inline(bytes) => (None, Path::default(), bytes.len() as u64),
            SourceBytes::Object { object, length, .. } => {
                (Some(*object), under(&runtime.root, &format::key(spec, *object)), *length)
            }
        };
        let maps: Vec<MapId> = source.members.iter().map(|member| member.map).collect();
        let origin = Arc::new(Origin { spec: Arc::clone(spec), object, key, maps: maps.clone() });
        let width = (range.end - range.start) as usize;
        let tag = |member: &model::shuffle::SourceMember| {
            (member.map.0, format::tag(spec, member.map, member.stage_attempt, member.attempt))
        };
        let promised: Vec<u64> = source
            .members
            .iter()
            .flat_map(|member| (0..width).map(|p| member.rows.get(p).copied().unwrap_or(0)))
            .collect();
        Self {
            origin,
            range,
            winners: source.members.iter().enumerate().map(|(at, member)| (tag(member), at)).collect(),
            maps,
            came: vec![0; promised.len()],
            promised,
            length,
            at: 0,
            begun: BytesMut::new(),
            given: BTreeSet::new(),
            believed: 0,
        }
    }

    /// The first byte that is still to come.
    fn position(&self) -> u64 {
        self.at + self.begun.len() as u64
    }

    /// Forgets what has come of the block that is not whole.
    fn drop_block(&mut self) {
        self.begun.clear();
    }

    /// Forgets the pass, not what was given out.
    fn restart(&mut self) {
        self.came.fill(0);
        self.at = 0;
        self.begun.clear();
        self.believed = 0;
    }

    /// Parses the bytes that follow. Gives whole blocks of winners, each once.
    ///
    /// # Errors
    /// What is wrong at [`Self::at`].
    pub(crate) fn parse(
        &mut self,
        mut bytes: Bytes,
        leave: Option<&Arc<OwnedSemaphorePermit>>,
        out: &mut VecDeque<RawBlock>,
    ) -> Result<(), Damage> {
        while !bytes.is_empty() {
            if !self.begun.is_empty() || bytes.len() < BLOCK_HEADER {
                // Header first, then as much as it announces.
                self.fill(&mut bytes, BLOCK_HEADER);
                let Some(header) = self.begun.first_chunk() else { break };
                let length = format::announced_length(header)?;
                self.within(length)?;
                self.fill(&mut bytes, length);
                if self.begun.len() < length {
                    break;
                }
                let whole = std::mem::take(&mut self.begun).freeze();
                self.block(whole, leave, out)?;
                continue;
            }
            let header = bytes.first_chunk().expect("a header's bytes are there");
            let length = format::announced_length(header)?;
            self.within(length)?;
            if bytes.len() < length {
                // Copied, so that the piece is free when this block's end arrives.
                self.begun.reserve(length);
                let rest = bytes.len();
                self.fill(&mut bytes, rest);
                break;
            }
            let whole = bytes.split_to(length);
            self.block(whole, leave, out)?;
        }
        Ok(())
    }

    fn fill(&mut self, bytes: &mut Bytes, length: usize) {
        let missing = length.saturating_sub(self.begun.len()).min(bytes.len());
        self.begun.extend_from_slice(&bytes.split_to(missing));
    }

    fn within(&self, length: usize) -> Result<(), Damage> {
        if self.at + length as u64 > self.length { Err(Damage::Overrun) } else { Ok(()) }
    }

    fn block(
        &mut self,
        whole: Bytes,
        leave: Option<&Arc<OwnedSemaphorePermit>>,
        out: &mut VecDeque<RawBlock>,
    ) -> Result<(), Damage> {
        let head = parse_block(&whole)?.ok_or(Damage::Overrun)?;
        if !(self.range.start..self.range.end).contains(&head.partition) {
            return Err(Damage::Partition(head.partition));
        }
        let offset = self.at;
        self.at += whole.len() as u64;
        // Who is not named has lost: a twin, or an attempt that was aborted.
        if let Some(&winner) = self.winners.get(&(head.map, head.tag)) {
            let width = (self.range.end - self.range.start) as usize;
            let pair = winner * width + (head.partition - self.range.start) as usize;
            self.came[pair] += u64::from(head.rows);
            self.believed += 1;
            if self.came[pair] > self.promised[pair] {
                return Err(self.wrong_rows(pair));
            }
            if self.given.insert(offset) {
                let payload = whole.slice(BLOCK_HEADER..BLOCK_HEADER + head.stored as usize);
                let origin = Arc::clone(&self.origin);
                out.push_back(RawBlock { head, payload, leave: leave.cloned(), origin, offset });
            }
        }
        Ok(())
    }

    /// Whether every promised row has come.
    ///
    /// # Errors
    /// The pair that lacks rows.
    pub(crate) fn finish(&self) -> Result<(), Damage> {
        if self.at != self.length || !self.begun.is_empty() {
            return Err(Damage::Overrun);
        }
        if let Some(pair) = (0..self.came.len()).find(|pair| self.came[*pair] != self.promised[*pair]) {
            return Err(self.wrong_rows(pair));
        }
        if self.believed != self.given.len() { Err(Damage::Changed) } else { Ok(()) }
    }

    fn wrong_rows(&self, pair: usize) -> Damage {
        let width = (self.range.end - self.range.start) as usize;
        Damage::Rows {
            map: self.maps[pair / width],
            partition: self.range.start + (pair % width) as u32,
            want: self.promised[pair],
            got: self.came[pair],
        }
    }

    pub(crate) fn corrupt(&self, damage: Damage, retries: u32) -> Error {
        self.origin.corrupt(self.at, damage, retries)
    }
}

/// What a stream's task hears.
pub(crate) enum Heard {
    /// A block.
    Block(RawBlock),
    /// Every source was read to its end.
    End,
}

struct Remote {
    progress: Progress,
    path: Path,
    offset: u64,
    length: u64,
    pieces: u64,
    /// Answers to what was asked in an earlier pass do not count.
    pass: u32,
    /// How often each piece was asked for afresh since a block that begins in it was damaged.
    fresh: BTreeMap<u64, u32>,
    /// How often the whole was.
    fresh_whole: u32,
    /// Pieces that came before their turn.
    arrived: BTreeMap<u64, Piece>,
    next: u64,
}

struct Piece {
    bytes: Bytes,
    leave: Arc<OwnedSemaphorePermit>,
}

#[derive(Clone, Copy)]
struct Ask {
    source: usize,
    pass: u32,
    piece: u64,
}

/// Reads sources that lie in objects, and tells `tell` every block and the end.
pub(crate) async fn fetch(
    runtime: Arc<Inner>,
    spec: Arc<ShuffleSpec>,
    range: ReadRange,
    sources: Vec<ReadSource>,
    counters: Arc<Counters>,
    tell: mpsc::Sender<Result<Heard, Error>>,
) {
    let mut fetch = Fetch::new(runtime, &spec, range, &sources, counters);
    drop(sources);
    // Nobody listens any more if the stream was closed early.
    let _ = match fetch.run(&tell).await {
        Ok(()) => tell.send(Ok(Heard::End)).await,
        Err(Some(error)) => tell.send(Err(error)).await,
        Err(None) => Ok(()),
    };
}

struct Fetch {
    runtime: Arc<Inner>,
    counters: Arc<Counters>,
    remotes: Vec<Remote>,
    asks: VecDeque<Ask>,
    /// Sources of several pieces, in the order they are parsed.
    line: VecDeque<usize>,
    floor: Arc<Semaphore>,
    gets: JoinSet<(Ask, Result<Piece, Refusal>)>,
}

impl Fetch {
    fn new(
        runtime: Arc<Inner>,
        spec: &Arc<ShuffleSpec>,
        range: ReadRange,
        sources: &[ReadSource],
        counters: Arc<Counters>,
    ) -> Self {
        let piece = runtime.budget.read_piece.max(1);
        let mut remotes: Vec<(u64, Remote)> = sources
            .iter()
            .filter_map(|source| {
                let SourceBytes::Object { object, offset, length } = source.bytes else { return None };
                let progress = Progress::new(&runtime, spec, range, source);
                let path = progress.origin.key.clone();
                let (pieces, arrived) = (length.div_ceil(piece), BTreeMap::new());
                let (fresh, fresh_whole) = (BTreeMap::new(), 0);
                let (pass, next) = (0, 0);
                let remote = Remote { progress, path, offset, length, pieces, pass, fresh, fresh_whole, arrived, next };
                Some((starting_place(object, range.start), remote))
            })
            .collect();
        remotes.sort_by_key(|(place, _)| *place);
        let remotes: Vec<Remote> = remotes.into_iter().map(|(_, remote)| remote).collect();
        let mut fetch = Self {
            runtime,
            counters,
            remotes,
            asks: VecDeque::new(),
            line: VecDeque::new(),
            floor: Arc::new(Semaphore::new(1)),
            gets: JoinSet::new(),
        };
        (0..fetch.remotes.len()).for_each(|source| fetch.ask(source));
        fetch
    }

    fn ask(&mut self, source: usize) {
        let Remote { pieces, pass, next, .. } = self.remotes[source];
        self.asks.extend((next..pieces).map(|piece| Ask { source, pass, piece }));
        if pieces > 1 {
            self.line.push_back(source);
        }
    }

    /// Where a piece begins in its source, and its length.
    fn place(&self, ask: Ask) -> (u64, u64) {
        let piece = self.runtime.budget.read_piece.max(1);
        let start = ask.piece * piece;
        (start, piece.min(self.remotes[ask.source].length - start))
    }

    async fn run(&mut self, tell: &mpsc::Sender<Result<Heard, Error>>) -> Result<(), Option<Error>> {
        let mut out = VecDeque::new();
        loop {
            let next = self.asks.front().copied();
            if next.is_none() && self.gets.is_empty() {
                return Ok(());
            }
            let length = next.map_or(0, |ask| self.place(ask).1);
            let leave = self.runtime.permits.take(length, &self.floor);
            tokio::select! {
                Some(got) = self.gets.join_next(), if !self.gets.is_empty() => {
                    let ended = |_| Error::Ended { shuffle: self.remotes[0].progress.range.shuffle, what: "a request" };
                    let (ask, result) = got.map_err(ended)?;
                    self.got(ask, result, &mut out)?;
                }
                leave = leave, if next.is_some() => {
                    if let Some(ask) = self.asks.pop_front() {
                        self.get(ask, leave);
                    }
                }
                () = tell.closed() => return Err(None),
            }
            for block in out.drain(..) {
                tell.send(Ok(Heard::Block(block))).await.map_err(|_| None)?;
            }
        }
    }

    /// Asks for a piece, unless its source begins anew meanwhile.
    fn get(&mut self, ask: Ask, leave: Leave) {
        let remote = &self.remotes[ask.source];
        if remote.pass != ask.pass {
            return;
        }
        let (start, length) = self.place(ask);
        let range = remote.offset + start..remote.offset + start + length;
        let (runtime, path, counters) = (Arc::clone(&self.runtime), remote.path.clone(), Arc::clone(&self.counters));
        let Leave { piece, request } = leave;
        self.gets.spawn(async move {
            let get = || async {
                counters.requests.fetch_add(1, Ordering::Relaxed);
                let options = GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
                runtime.store.get_opts(&path, options).await?.bytes().await
            };
            let answer = persist("get", &path, request_deadline(length), runtime.budget.store_deadline, get).await;
            drop(request);
            let answer = answer.map(|(bytes, retries)| {
                counters.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                counters.retries.fetch_add(u64::from(retries), Ordering::Relaxed);
                Piece { bytes, leave: Arc::new(piece) }
            });
            (ask, answer)
        });
    }

    fn got(&mut self, ask: Ask, answer: Result<Piece, Refusal>, out: &mut VecDeque<RawBlock>) -> Result<(), Error> {
        if self.remotes[ask.source].pass != ask.pass {
            return Ok(());
        }
        let piece = answer.map_err(|refusal| match refusal {
            Refusal::Missing(source) => self.remotes[ask.source].progress.origin.missing(source),
            Refusal::Other(error) => error,
        })?;
        let want = self.place(ask).1;
        let got = piece.bytes.len() as u64;
        if got != want {
            return self.again(ask.source, Some(ask.piece), Damage::Length { want, got });
        }
        self.remotes[ask.source].arrived.insert(ask.piece, piece);
        if self.remotes[ask.source].pieces == 1 {
            self.advance(ask.source, out)?;
        }
        while let Some(&source) = self.line.front() {
            let pass = self.remotes[source].pass;
            self.advance(source, out)?;
            let remote = &self.remotes[source];
            if remote.pass != pass {
                // It begins anew, at the end of the line.
                continue;
            }
            if remote.next < remote.pieces {
                break;
            }
            self.line.pop_front();
        }
        Ok(())
    }

    /// Parses the pieces of a source that have come.
    fn advance(&mut self, source: usize, out: &mut VecDeque<RawBlock>) -> Result<(), Error> {
        let length = self.runtime.budget.read_piece.max(1);
        let remote = &mut self.remotes[source];
        while let Some(mut piece) = remote.arrived.remove(&remote.next) {
            // A piece that was asked for afresh begins with what was believed before.
            let known = remote.progress.position() - remote.next * length;
            piece.bytes.advance(known as usize);
            remote.next += 1;
            if let Err(damage) = remote.progress.parse(piece.bytes, Some(&piece.leave), out) {
                // Rows that are too many may lie in any block before.
                let begins = (!matches!(damage, Damage::Rows { .. })).then_some(remote.progress.at / length);
                return self.again(source, begins, damage);
            }
            if remote.next == remote.pieces
                && let Err(damage) = remote.progress.finish()
            {
                return self.again(source, None, damage);
            }
        }
        Ok(())
    }

    /// Reads a source again, from the block that is damaged or from its beginning, behind all others: pieces of theirs that
    /// wait for their turn hold leave, and must not wait for this one.
    fn again(&mut self, source: usize, piece: Option<u64>, damage: Damage) -> Result<(), Error> {
        let length = self.runtime.budget.read_piece.max(1);
        let remote = &mut self.remotes[source];
        let fresh = match piece {
            Some(piece) => remote.fresh.entry(piece).or_default(),
            None => &mut remote.fresh_whole,
        };
        if *fresh == FRESH_READS {
            return Err(remote.progress.corrupt(damage, FRESH_READS));
        }
        *fresh += 1;
        tracing::warn!(key = %remote.path, %damage, "read a damaged source again");
        match piece {
            Some(_) => remote.progress.drop_block(),
            None => remote.progress.restart(),
        }
        remote.pass += 1;
        remote.next = remote.progress.position() / length;
        remote.arrived.clear();
        self.counters.retries.fetch_add(remote.pieces - remote.next, Ordering::Relaxed);
        self.asks.retain(|ask| ask.source != source);
        self.line.retain(|waiting| *waiting != source);
        self.ask(source);
        Ok(())
    }
}

/// Where a source stands in a stream's order: readers of other partitions begin with other objects.
fn starting_place(object: ObjectRef, start: u32) -> u64 {
    let mut id = [0u8; 16];
    id[..8].copy_from_slice(&object.executor.0.to_le_bytes());
    id[8..12].copy_from_slice(&object.seq.to_le_bytes());
    id[12..].copy_from_slice(&start.to_le_bytes());
    xxh3_64(&id)
}

#[cfg(test)]
mod tests {
    use model::ids::{
        AppId, AttemptId, Epoch, ExecutorId, Generation, JobId, PartitionId, ShuffleId, StageAttempt, StageId,
    };
    use model::shuffle::{Codec, RowKind};
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;
    use tokio::runtime::Handle;

    use super::*;
    use crate::{Registry, ShuffleRuntime};

    const PIECE: u64 = 700;

    /// A source of three blocks in seven pieces, and its bytes.
    async fn source() -> (Fetch, Bytes) {
        let spec = ShuffleSpec {
            app: AppId(42),
            epoch: Epoch(1),
            shuffle: ShuffleId(3),
            generation: Generation(0),
            maps: 3,
            partitions: 1,
            kind: RowKind::Records { type_name: "bytes".into() },
            codec: Codec::None,
            inline_max: 0,
        };
        let (spec, store) = (Arc::new(spec), Arc::new(InMemory::new()));
        let budget = Budget { read_piece: PIECE, ..Budget::for_executor(512 << 20, 2) };
        let runtime = ShuffleRuntime::new(store.clone(), Path::from("root"), ExecutorId(7), budget, Handle::current());
        let attempt = |map| AttemptId {
            job: JobId(0),
            stage: StageId(0),
            stage_attempt: StageAttempt(0),
            partition: PartitionId(map),
            attempt: 0,
        };
        let mut registry = Registry::new();
        registry.register(&spec);
        let members: Vec<_> = (0..3).map(|map| runtime.member(&spec, attempt(map), map < 2)).collect();
        let mut written = Vec::new();
        for mut member in members {
            member.write_record(0, &[b'x'; 1_550]).unwrap();
            written.push(member.finish().unwrap());
        }
        for output in written {
            registry.accept(output.stored().await.unwrap(), ExecutorId(7));
        }
        let range = ReadRange { shuffle: ShuffleId(3), start: 0, end: 1 };
        let plan = registry.plan(range).unwrap();
        let fetch = Fetch::new(Arc::clone(runtime.inner()), &spec, range, &plan.sources, Arc::default());
        assert_eq!((fetch.remotes.len(), fetch.remotes[0].pieces), (1, 7));
        let Remote { path, offset, length, .. } = &fetch.remotes[0];
        let bytes = store.get_range(path, *offset..*offset + *length).await.unwrap();
        (fetch, bytes)
    }

    /// Answers what was asked, in order, until nothing is asked for any more; `damage` says what is done to a piece that was
    /// asked for so often. Gives the pieces in the order of the questions, and the blocks.
    async fn answered(damage: impl Fn(u64, u32) -> bool) -> (Vec<u64>, Result<usize, Error>) {
        let (mut fetch, bytes) = source().await;
        let (mut asked, mut times, mut out) = (Vec::new(), BTreeMap::<u64, u32>::new(), VecDeque::new());
        while let Some(ask) = fetch.asks.pop_front() {
            let (start, length) = fetch.place(ask);
            let mut body = bytes.slice(start as usize..(start + length) as usize).to_vec();
            let times = times.entry(ask.piece).or_default();
            *times += 1;
            asked.push(ask.piece);
            if damage(ask.piece, *times) {
                body[length as usize / 2] ^= 1;
            }
            let permit = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
            let piece = Piece { bytes: body.into(), leave: Arc::new(permit) };
            if let Err(error) = fetch.got(ask, Ok(piece), &mut out) {
                return (asked, Err(error));
            }
        }
        (asked, Ok(out.len()))
    }

    #[tokio::test]
    async fn a_damaged_block_is_read_again_from_its_piece_and_each_for_itself() {
        // Blocks of 1,590 bytes begin in pieces 0, 2 and 4.
        let (asked, blocks) = answered(|piece, times| piece == 1 && times == 1).await;
        assert_eq!((asked, blocks.unwrap()), (vec![0, 1, 2, 0, 1, 2, 3, 4, 5, 6], 3));
        let (asked, blocks) = answered(|piece, times| [1, 3, 5].contains(&piece) && times <= 2).await;
        assert_eq!(blocks.unwrap(), 3, "six fresh reads, two for each block");
        assert_eq!(asked, [0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 4, 2, 3, 4, 2, 3, 4, 5, 6, 4, 5, 6, 4, 5, 6]);
        let (_, corrupt) = answered(|piece, _| piece == 3).await;
        assert!(matches!(corrupt, Err(Error::Corrupt { retries: FRESH_READS, .. })), "{corrupt:?}");
    }
}
