//! What exists, and do a status and a report add up?
//!
//! Pure and synchronous, for the driver's event loop. Per map it keeps the winner and the digest, per object the length and
//! rows of each pair, per partition rows, bytes and fingerprint. Sums of rows are folded into these and dropped.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use model::failure::ObjectRef;
use model::ids::{ExecutorId, Generation, MapId, ShuffleId, StageAttempt};
use model::shuffle::{
    MapOutput, MapRows, NewObject, OpenObject, PartitionSize, ReadMode, ReadPlan, ReadRange, ReadReport, ReadSource,
    ShuffleSpec, SourceBytes, SourceMember,
};
use model::{Failure, FailureKind};

use crate::format::{self, HEADER, Index, Pair, put_varint, take_varint};
use crate::ledger::{self, Sum};

/// What became of an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// It won: plans name it from now on.
    Won {
        /// It was the last: every map of the shuffle has an output.
        complete: bool,
    },
    /// The winner's status, heard again.
    Repeated,
    /// Another attempt had won.
    Twin {
        /// Both have the same rows; if not, the stage is not deterministic.
        same_rows: bool,
    },
    /// A map that was lost came back with other rows: a new generation is needed, or, if rows have left, the job fails as
    /// not deterministic. The output was not recorded.
    OtherRows,
    /// The shuffle, or this generation of it, is not wanted any more: delete these keys.
    Void {
        /// Keys of its objects, relative to the store's root.
        keys: Vec<String>,
    },
}

/// Maps that must run before a range can be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("plan a read of {shuffle}: {} maps have no output", maps.len())]
pub struct Missing {
    /// The shuffle.
    pub shuffle: ShuffleId,
    /// The generation.
    pub generation: Generation,
    /// The maps; none if the shuffle itself is unknown.
    pub maps: Vec<MapId>,
}

/// The only table of what shuffles exist.
#[derive(Debug, Default)]
pub struct Registry {
    shuffles: BTreeMap<ShuffleId, Shuffle>,
    /// Specs of shuffles that are released, to name the keys of what still comes.
    released: BTreeMap<ShuffleId, ShuffleSpec>,
}

#[derive(Debug)]
struct Shuffle {
    spec: ShuffleSpec,
    /// `h(p)` for each partition.
    weights: Vec<u64>,
    /// By map; kept when the winner is lost, so that a re-run can be compared.
    maps: Vec<Option<Map>>,
    /// Maps without a winner.
    absent: u32,
    objects: BTreeMap<ObjectRef, Object>,
    sizes: Vec<PartitionSize>,
    fingerprints: Vec<Sum>,
    /// Keys of older generations, and of objects that are in no status.
    other_keys: BTreeSet<String>,
}

#[derive(Debug)]
struct Map {
    digest: u64,
    winner: Option<Winner>,
}

#[derive(Debug)]
struct Winner {
    stage_attempt: StageAttempt,
    attempt: u32,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Inline { blocks: Bytes, pairs: Vec<InlinePair> },
    Stored { parts: Vec<ObjectRef> },
}

#[derive(Debug)]
struct InlinePair {
    partition: u32,
    start: u32,
    end: u32,
    rows: u64,
}

#[derive(Debug)]
struct Object {
    length: u64,
    members: Vec<Member>,
    /// Where each partition begins, and where the last ends.
    offsets: Vec<u64>,
    /// Length and, if that is not 0, rows of each pair, as varints: all members of partition 0, then of 1, and so on.
    pairs: Vec<u8>,
    /// Where each partition begins in `pairs`.
    starts: Vec<u32>,
}

#[derive(Debug)]
struct Member {
    entry: format::Member,
    digest: u64,
    stored: u64,
    /// Its pairs with their sums, until they are folded into the partitions' fingerprints.
    unfolded: Option<Vec<Pair>>,
}

impl Registry {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a shuffle known, or a newer generation of it; the older one is then void, its outputs and plans with it.
    /// What is already known, or newer, stays.
    pub fn register(&mut self, spec: &ShuffleSpec) {
        let mut other_keys = BTreeSet::new();
        if let Some(old) = self.shuffles.get_mut(&spec.shuffle) {
            if old.spec.generation >= spec.generation {
                return;
            }
            other_keys = std::mem::take(&mut old.other_keys);
            other_keys.extend(old.objects.keys().map(|object| format::key(&old.spec, *object)));
        }
        let shuffle = Shuffle {
            weights: (0..spec.partitions).map(ledger::weight).collect(),
            maps: (0..spec.maps).map(|_| None).collect(),
            absent: spec.maps,
            objects: BTreeMap::new(),
            sizes: vec![PartitionSize::default(); spec.partitions as usize],
            fingerprints: vec![Sum::default(); spec.partitions as usize],
            other_keys,
            spec: spec.clone(),
        };
        self.shuffles.insert(spec.shuffle, shuffle);
    }

    /// Whether a status adds up, before anybody acts on it.
    ///
    /// # Errors
    /// `Stale` if the shuffle or its generation is not wanted any more, `Internal` if index, lengths, totals, digest or
    /// parts disagree.
    pub fn check(&self, output: &MapOutput, executor: ExecutorId) -> Result<(), Failure> {
        let shuffle = self.shuffles.get(&output.shuffle).filter(|shuffle| shuffle.spec.generation == output.generation);
        let Some(shuffle) = shuffle else {
            let (id, generation) = (output.shuffle, output.generation);
            return Err(Failure::new(
                FailureKind::Stale,
                format!("accept an output of {id}, {generation}: it is void"),
            ));
        };
        shuffle.check(output, executor).map_err(|why| {
            let message = format!("accept the output of {} of {}", output.map, output.shuffle);
            Failure::new(FailureKind::Internal, message).caused_by(why)
        })
    }

    /// Records an output that [`check`](Self::check) let pass.
    pub fn accept(&mut self, output: MapOutput, executor: ExecutorId) -> Accepted {
        let id = output.shuffle;
        match self.shuffles.get_mut(&id) {
            Some(shuffle) if shuffle.spec.generation == output.generation => shuffle.accept(output, executor),
            Some(shuffle) => {
                let spec = ShuffleSpec { generation: output.generation, ..shuffle.spec.clone() };
                let keys = keys_of(&spec, &output);
                // A generation that is not known yet cannot have an output; one that is void goes with the shuffle, too.
                shuffle.other_keys.extend(keys.iter().cloned());
                Accepted::Void { keys }
            }
            None => {
                let spec = self.released.get(&id).cloned();
                let spec = spec.map(|spec| ShuffleSpec { generation: output.generation, ..spec });
                Accepted::Void { keys: spec.map(|spec| keys_of(&spec, &output)).unwrap_or_default() }
            }
        }
    }

    /// What a task must read for a range.
    ///
    /// # Errors
    /// The maps that have no output.
    ///
    /// # Panics
    /// If the range reaches beyond the shuffle's partitions.
    pub fn plan(&self, range: ReadRange) -> Result<ReadPlan, Missing> {
        let Some(shuffle) = self.shuffles.get(&range.shuffle) else {
            return Err(Missing { shuffle: range.shuffle, generation: Generation(0), maps: Vec::new() });
        };
        assert!(range.start <= range.end && range.end <= shuffle.spec.partitions, "{range:?} of {:?}", shuffle.spec);
        if shuffle.absent > 0 {
            let maps = shuffle.absent_maps().collect();
            return Err(Missing { shuffle: range.shuffle, generation: shuffle.spec.generation, maps });
        }
        let sources = shuffle.inline_sources(range).chain(shuffle.object_sources(range)).collect();
        Ok(ReadPlan { range, generation: shuffle.spec.generation, mode: ReadMode::Fused, sources })
    }

    /// Whether what a task read is what was written.
    ///
    /// # Errors
    /// `LedgerMismatch` with the partitions that differ; `Stale` if the shuffle or its generation is void.
    pub fn audit(&self, report: &ReadReport) -> Result<(), Failure> {
        let (id, range) = (report.range.shuffle, report.range);
        let shuffle = self.shuffles.get(&id).filter(|shuffle| shuffle.spec.generation == report.generation);
        let Some(shuffle) = shuffle else {
            let message = format!("audit a read of {id}, {}: it is void", report.generation);
            return Err(Failure::new(FailureKind::Stale, message));
        };
        let mismatch =
            |what: String| Failure::new(FailureKind::LedgerMismatch, format!("audit a read of {id}: {what}"));
        let width = range.end.saturating_sub(range.start) as usize;
        if range.end > shuffle.spec.partitions || report.rows.len() != width || report.fingerprints.len() != width {
            return Err(mismatch(format!("it reports {} partitions of {range:?}", report.rows.len())));
        }
        let wrong = (0..width).find(|at| {
            let partition = range.start as usize + at;
            let (rows, wanted) = (report.rows[*at], shuffle.sizes[partition].rows);
            let same = rows == wanted && report.fingerprints[*at] == shuffle.fingerprints[partition].0;
            if report.complete { !same } else { rows > wanted }
        });
        match wrong {
            None => Ok(()),
            Some(at) => {
                let partition = range.start + at as u32;
                let wanted = shuffle.sizes[partition as usize].rows;
                let rows = report.rows[at];
                Err(mismatch(format!("partition {partition} gave {rows} rows where {wanted} were written, or others")))
            }
        }
    }

    /// Drops what is missing or corrupt: every winner with rows in the object, or, if none is named, the winners of the maps.
    /// Gives the maps that must run again. Their digests stay, to compare with.
    pub fn lost(
        &mut self,
        shuffle: ShuffleId,
        generation: Generation,
        object: Option<ObjectRef>,
        maps: &[MapId],
    ) -> Vec<MapId> {
        let Some(shuffle) = self.shuffles.get_mut(&shuffle).filter(|known| known.spec.generation == generation) else {
            return Vec::new();
        };
        let mut lost = Vec::new();
        for (index, map) in shuffle.maps.iter_mut().enumerate() {
            let Some(map) = map else { continue };
            let id = MapId(index as u32);
            let hit = match (&map.winner, object) {
                (None, _) => false,
                (Some(Winner { place: Place::Stored { parts }, .. }), Some(object)) => parts.contains(&object),
                (Some(_), None) => maps.contains(&id),
                (Some(Winner { place: Place::Inline { .. }, .. }), Some(_)) => false,
            };
            if hit {
                map.winner = None;
                shuffle.absent += 1;
                lost.push(id);
            }
        }
        if let Some(object) = object
            && shuffle.objects.remove(&object).is_some()
        {
            shuffle.other_keys.insert(format::key(&shuffle.spec, object));
        }
        lost
    }

    /// Maps of the newest generation without an output.
    #[must_use]
    pub fn missing(&self, shuffle: ShuffleId) -> Vec<MapId> {
        self.shuffles.get(&shuffle).map(|shuffle| shuffle.absent_maps().collect()).unwrap_or_default()
    }

    /// Notes an object of a heartbeat, so that it is deleted with its shuffle; gives its key if that is already gone.
    pub fn opened(&mut self, object: OpenObject) -> Option<String> {
        let key = |spec: &ShuffleSpec| {
            format::key(&ShuffleSpec { generation: object.generation, ..spec.clone() }, object.object)
        };
        match self.shuffles.get_mut(&object.shuffle) {
            Some(shuffle) => {
                let known =
                    shuffle.spec.generation == object.generation && shuffle.objects.contains_key(&object.object);
                if !known {
                    shuffle.other_keys.insert(key(&shuffle.spec));
                }
                None
            }
            None => self.released.get(&object.shuffle).map(key),
        }
    }

    /// Forgets a shuffle; gives every key to delete, relative to the store's root.
    pub fn release(&mut self, shuffle: ShuffleId) -> Vec<String> {
        let Some(known) = self.shuffles.remove(&shuffle) else { return Vec::new() };
        let keys = known.keys().into_iter().collect();
        self.released.insert(shuffle, known.spec);
        keys
    }

    /// Every key that is known, of all shuffles not released: the application ends.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        self.shuffles.values().flat_map(Shuffle::keys).collect()
    }

    /// The generation that plans name.
    #[must_use]
    pub fn generation(&self, shuffle: ShuffleId) -> Option<Generation> {
        self.shuffles.get(&shuffle).map(|shuffle| shuffle.spec.generation)
    }

    /// What each partition holds, of the maps that have an output.
    #[must_use]
    pub fn sizes(&self, shuffle: ShuffleId) -> Option<&[PartitionSize]> {
        self.shuffles.get(&shuffle).map(|shuffle| shuffle.sizes.as_slice())
    }
}

fn keys_of(spec: &ShuffleSpec, output: &MapOutput) -> Vec<String> {
    match &output.location {
        MapRows::Inline { .. } => Vec::new(),
        MapRows::Stored { parts, .. } => parts.iter().map(|object| format::key(spec, *object)).collect(),
    }
}

/// What a part of the stored bytes was before compression.
fn scaled(part: u64, raw: u64, stored: u64) -> u64 {
    let raw = u128::from(part) * u128::from(raw) / u128::from(stored.max(1));
    u64::try_from(raw).unwrap_or(u64::MAX)
}

fn ensure(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

impl Shuffle {
    fn keys(&self) -> BTreeSet<String> {
        let objects = self.objects.keys().map(|object| format::key(&self.spec, *object));
        objects.chain(self.other_keys.iter().cloned()).collect()
    }

    fn absent_maps(&self) -> impl Iterator<Item = MapId> {
        let absent = |(_, map): &(usize, &Option<Map>)| map.as_ref().is_none_or(|map| map.winner.is_none());
        self.maps.iter().enumerate().filter(absent).map(|(index, _)| MapId(index as u32))
    }

    fn digest(&self, pairs: &[Pair]) -> u64 {
        let mut sum = Sum::default();
        for pair in pairs {
            sum.add(self.weights[pair.partition as usize], ledger::entry(pair.rows, pair.row_sum));
        }
        sum.0
    }

    fn check(&self, output: &MapOutput, executor: ExecutorId) -> Result<(), String> {
        ensure(output.map.0 < self.spec.maps, "there is no such map")?;
        let is_part = |member: &format::Member, part: usize, parts: usize| {
            (member.map, member.stage_attempt, member.attempt) == (output.map, output.stage_attempt, output.attempt)
                && member.part as usize == part
                && member.last == (part + 1 == parts)
        };
        // Rows, bytes before compression, bytes stored, digest.
        let mut totals = (0u64, 0u64, 0u64, 0u64);
        let mut add = |rows: u64, raw: u64, stored: u64, digest: u64| {
            totals.0 = totals.0.saturating_add(rows);
            totals.1 = totals.1.saturating_add(raw);
            totals.2 = totals.2.saturating_add(stored);
            totals.3 = totals.3.wrapping_add(digest);
        };
        match &output.location {
            MapRows::Inline { blocks, index, index_crc } => {
                let index = self.index(index, *index_crc)?;
                let [member] = index.members.as_slice() else { return Err("its index is not of one member".into()) };
                ensure(is_part(member, 0, 1), "its index is of another attempt")?;
                ensure(index.blocks == blocks.len() as u64, "its blocks are not as long as its index says")?;
                ensure(blocks.len() as u64 <= u64::from(self.spec.inline_max), "it is too long for a message")?;
                add(member.rows, member.raw_bytes, index.blocks, self.digest(&index.pairs[0]));
            }
            MapRows::Stored { parts, new_objects } => {
                ensure(!parts.is_empty(), "it has no parts")?;
                ensure(parts.iter().all(|part| part.executor == executor), "its objects are another executor's")?;
                let mut new = BTreeMap::new();
                for object in new_objects {
                    let index = self.index(&object.index, object.index_crc)?;
                    ensure(index.length == object.length, "an object is not as long as its index says")?;
                    let object = ObjectRef { executor, seq: object.seq };
                    ensure(new.insert(object, index).is_none(), "an object is described twice")?;
                }
                ensure(new.keys().all(|object| parts.contains(object)), "an object holds none of its parts")?;
                for (part, object) in parts.iter().enumerate() {
                    let found = match (new.get(object), self.objects.get(object)) {
                        (Some(index), _) => {
                            let at = index.members.iter().position(|member| is_part(member, part, parts.len()));
                            at.map(|at| {
                                let stored = index.pairs[at].iter().map(|pair| pair.length).sum();
                                (index.members[at], stored, self.digest(&index.pairs[at]))
                            })
                        }
                        (None, Some(known)) => {
                            let mut members = known.members.iter();
                            members
                                .find(|member| is_part(&member.entry, part, parts.len()))
                                .map(|member| (member.entry, member.stored, member.digest))
                        }
                        (None, None) => return Err(format!("object {object:?} was never described")),
                    };
                    let (member, stored, digest) = found.ok_or_else(|| format!("part {part} lies elsewhere"))?;
                    add(member.rows, member.raw_bytes, stored, digest);
                }
            }
        }
        let claimed = (output.rows, output.raw_bytes, output.stored_bytes, output.digest);
        ensure(totals == claimed, "its totals or its digest do not add up")
    }

    fn index(&self, bytes: &Bytes, crc: u32) -> Result<Index, String> {
        let index = Index::parse(&self.spec, bytes).map_err(|error| error.to_string())?;
        ensure(index.crc == crc, "the checksum of its index differs")?;
        Ok(index)
    }

    fn accept(&mut self, output: MapOutput, executor: ExecutorId) -> Accepted {
        // Objects are known whoever wins: they must be deleted, and others' rows lie in them.
        let mut inline_pairs = Vec::new();
        match &output.location {
            MapRows::Inline { index, .. } => {
                if let Ok(index) = Index::parse(&self.spec, index) {
                    inline_pairs = index.pairs.into_iter().next().unwrap_or_default();
                }
            }
            MapRows::Stored { new_objects, .. } => {
                for object in new_objects {
                    self.learn(ObjectRef { executor, seq: object.seq }, object);
                }
            }
        }
        let Some(known) = self.maps.get(output.map.0 as usize) else { return Accepted::Void { keys: Vec::new() } };
        if let Some(Map { digest, winner }) = known {
            let same_rows = *digest == output.digest;
            match winner {
                Some(winner) if (winner.stage_attempt, winner.attempt) == (output.stage_attempt, output.attempt) => {
                    return Accepted::Repeated;
                }
                Some(_) => return Accepted::Twin { same_rows },
                None if !same_rows => return Accepted::OtherRows,
                None => {}
            }
        }
        let first = known.is_none();
        let pairs = match &output.location {
            MapRows::Inline { .. } => inline_pairs.clone(),
            MapRows::Stored { parts, .. } => self.unfolded(parts, &output),
        };
        if first {
            let weight = ledger::weight(output.map.0);
            for pair in &pairs {
                let at = pair.partition as usize;
                self.sizes[at].rows += pair.rows;
                self.sizes[at].bytes += pair.length;
                self.sizes[at].raw_bytes += scaled(pair.length, output.raw_bytes, output.stored_bytes);
                self.fingerprints[at].add(weight, ledger::entry(pair.rows, pair.row_sum));
            }
        }
        let place = match output.location {
            MapRows::Inline { blocks, .. } => Place::Inline { blocks, pairs: places(&inline_pairs) },
            MapRows::Stored { parts, .. } => Place::Stored { parts },
        };
        let (stage_attempt, attempt) = (output.stage_attempt, output.attempt);
        let winner = Some(Winner { stage_attempt, attempt, place });
        self.maps[output.map.0 as usize] = Some(Map { digest: output.digest, winner });
        self.absent -= 1;
        Accepted::Won { complete: self.absent == 0 }
    }

    /// Makes an object known. A second time changes nothing.
    fn learn(&mut self, object: ObjectRef, new: &NewObject) {
        if self.objects.contains_key(&object) {
            return;
        }
        let Ok(index) = Index::parse(&self.spec, &new.index) else { return };
        self.other_keys.remove(&format::key(&self.spec, object));
        let partitions = self.spec.partitions as usize;
        let mut pairs = Vec::new();
        let (mut offsets, mut starts) = (Vec::with_capacity(partitions + 1), Vec::with_capacity(partitions));
        let mut offset = HEADER as u64;
        let mut rest: Vec<&[Pair]> = index.pairs.iter().map(Vec::as_slice).collect();
        for partition in 0..self.spec.partitions {
            offsets.push(offset);
            starts.push(pairs.len() as u32);
            for member in &mut rest {
                match member.split_first() {
                    Some((pair, behind)) if pair.partition == partition => {
                        put_varint(&mut pairs, pair.length);
                        put_varint(&mut pairs, pair.rows);
                        offset += pair.length;
                        *member = behind;
                    }
                    _ => pairs.push(0),
                }
            }
        }
        offsets.push(offset);
        pairs.shrink_to_fit();
        let members = index.members.into_iter().zip(index.pairs).map(|(entry, pairs)| Member {
            entry,
            digest: self.digest(&pairs),
            stored: pairs.iter().map(|pair| pair.length).sum(),
            unfolded: Some(pairs),
        });
        let members = members.collect();
        self.objects.insert(object, Object { length: index.length, members, offsets, pairs, starts });
    }

    /// Takes the pairs of an output's parts, with their sums.
    fn unfolded(&mut self, parts: &[ObjectRef], output: &MapOutput) -> Vec<Pair> {
        let mut pairs = Vec::new();
        let attempt = (output.map, output.stage_attempt, output.attempt);
        for object in parts.iter().collect::<BTreeSet<_>>() {
            let Some(object) = self.objects.get_mut(object) else { continue };
            for member in &mut object.members {
                let entry = &member.entry;
                if (entry.map, entry.stage_attempt, entry.attempt) == attempt {
                    pairs.extend(member.unfolded.take().unwrap_or_default());
                }
            }
        }
        pairs
    }

    fn winner(&self, map: MapId) -> Option<&Winner> {
        self.maps.get(map.0 as usize)?.as_ref()?.winner.as_ref()
    }

    fn inline_sources(&self, range: ReadRange) -> impl Iterator<Item = ReadSource> {
        self.maps.iter().enumerate().filter_map(move |(index, map)| {
            let Winner { stage_attempt, attempt, place: Place::Inline { blocks, pairs } } =
                map.as_ref()?.winner.as_ref()?
            else {
                return None;
            };
            let from = pairs.partition_point(|pair| pair.partition < range.start);
            let to = pairs.partition_point(|pair| pair.partition < range.end);
            let pairs = &pairs[from..to];
            let bytes = blocks.slice(pairs.first()?.start as usize..pairs.last()?.end as usize);
            let mut member = empty_member(MapId(index as u32), *stage_attempt, *attempt, range);
            for pair in pairs {
                let at = (pair.partition - range.start) as usize;
                member.lengths[at] = u64::from(pair.end - pair.start);
                member.rows[at] = pair.rows;
            }
            Some(ReadSource { bytes: SourceBytes::Inline(bytes), members: vec![member] })
        })
    }

    fn object_sources(&self, range: ReadRange) -> impl Iterator<Item = ReadSource> {
        self.objects.iter().filter_map(move |(id, object)| {
            let offset = object.offsets[range.start as usize];
            let length = object.offsets[range.end as usize] - offset;
            if length == 0 {
                return None;
            }
            debug_assert!(offset + length <= object.length);
            // A map may have several parts in one object: readers know them by map alone.
            let mut members: Vec<SourceMember> = Vec::new();
            let mut by_map = BTreeMap::new();
            let slots: Vec<Option<usize>> = object
                .members
                .iter()
                .map(|member| {
                    let entry = &member.entry;
                    let winner = self.winner(entry.map)?;
                    let won = (winner.stage_attempt, winner.attempt) == (entry.stage_attempt, entry.attempt)
                        && matches!(&winner.place, Place::Stored { parts } if parts.contains(id));
                    won.then(|| {
                        *by_map.entry(entry.map).or_insert_with(|| {
                            let (stage_attempt, attempt) = (entry.stage_attempt, entry.attempt);
                            members.push(empty_member(entry.map, stage_attempt, attempt, range));
                            members.len() - 1
                        })
                    })
                })
                .collect();
            let mut rest = &object.pairs[object.starts.get(range.start as usize).map_or(0, |start| *start as usize)..];
            for at in 0..(range.end - range.start) as usize {
                for slot in &slots {
                    let length = take_varint(&mut rest)?;
                    let rows = if length > 0 { take_varint(&mut rest)? } else { 0 };
                    if let Some(member) = slot.map(|slot| &mut members[slot]) {
                        member.lengths[at] += length;
                        member.rows[at] += rows;
                    }
                }
            }
            members.retain(|member| member.rows.iter().any(|rows| *rows > 0));
            (!members.is_empty())
                .then(|| ReadSource { bytes: SourceBytes::Object { object: *id, offset, length }, members })
        })
    }
}

fn empty_member(map: MapId, stage_attempt: StageAttempt, attempt: u32, range: ReadRange) -> SourceMember {
    let width = (range.end - range.start) as usize;
    SourceMember { map, stage_attempt, attempt, lengths: vec![0; width], rows: vec![0; width] }
}

fn places(pairs: &[Pair]) -> Vec<InlinePair> {
    let mut end = 0;
    pairs
        .iter()
        .map(|pair| {
            let start = end;
            end += pair.length as u32;
            InlinePair { partition: pair.partition, start, end, rows: pair.rows }
        })
        .collect()
}
