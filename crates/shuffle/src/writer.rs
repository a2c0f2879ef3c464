//! How is a map task's output published, all or none?
//!
//! Rows are held until a member's share of memory is full or it ends, then encoded on the task's own thread into a run. A
//! small output becomes a message; the rest goes through the packer. What was spilled early is already in its final
//! place: an output of several parts counts only when all of them are named together.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::RecordBatch;
use bytes::BytesMut;
use model::failure::ObjectRef;
use model::ids::{AttemptId, MapId};
use model::shuffle::{MapOutput, MapRows, OpenObject, RowKind, ShuffleSpec};
use tokio::sync::oneshot;

use crate::Error;
use crate::credit::NoProgress;
use crate::format::{self, ROW_MAX};
use crate::ledger::{self, Sum};
use crate::packer::Packer;
use crate::run::{ArrowRows, Author, Blocks, Records, Rows, Run, Unfit};
use crate::runtime::Inner;
use crate::upload::StoredObject;

/// What a block may need beyond its rows while it is encoded.
const BLOCK_OVERHEAD: u64 = 512;

/// A run that went to the packer.
enum Part {
    Waiting(oneshot::Receiver<Result<Arc<StoredObject>, Error>>),
    Stored(Arc<StoredObject>),
}

/// The output of one running map task. Used from its compute thread, which it may block while memory is short; dropping it
/// aborts: nothing of it will ever be read.
pub struct Member {
    // First, so that rows are gone before the packer hears that the member ended.
    rows: Result<Rows, Error>,
    spec: Arc<ShuffleSpec>,
    author: Author,
    entry: format::Member,
    share: u64,
    charge: Charge,
    entered: u64,
    digest: Sum,
    totals: Totals,
    parts: Vec<Part>,
    claim: Claim,
}

#[derive(Default, Clone, Copy)]
struct Totals {
    rows: u64,
    raw: u64,
    stored: u64,
}

/// A member's place in its packer.
struct Claim {
    runtime: Arc<Inner>,
    packer: Arc<Packer>,
    id: u64,
    running: bool,
}

impl Claim {
    fn leave(&mut self) {
        if std::mem::take(&mut self.running) {
            self.packer.leave(&self.runtime);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Nobody waits for these runs any more; those that are stored are not there to be found.
        self.packer.abort(&self.runtime, self.id);
        self.leave();
    }
}

/// Rows held, as the runtime counts them.
struct Charge {
    runtime: Arc<Inner>,
    bytes: u64,
}

impl Charge {
    fn set(&mut self, bytes: u64) {
        // Wraps around when it shrinks, as it does in the sum.
        self.runtime.raw.fetch_add(bytes.wrapping_sub(self.bytes), Ordering::Relaxed);
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl Member {
    pub(crate) fn new(runtime: Arc<Inner>, packer: Arc<Packer>, attempt: AttemptId, id: u64) -> Self {
        let spec = Arc::clone(&packer.spec);
        let map = MapId(attempt.partition.0);
        let (stage_attempt, attempt) = (attempt.stage_attempt, attempt.attempt);
        let rows = match &spec.kind {
            RowKind::Records { .. } => Ok(Rows::Records(Records::new(spec.partitions))),
            RowKind::Arrow { schema } => ArrowRows::new(schema, spec.codec, spec.partitions)
                .map(|rows| Rows::Arrow(Box::new(rows)))
                .map_err(|source| Error::Encode { shuffle: spec.shuffle, source: Arc::new(source) }),
        };
        let tag = format::tag(&spec, map, stage_attempt, attempt);
        Self {
            rows,
            author: Author { map: map.0, tag, codec: spec.codec },
            entry: format::Member { map, stage_attempt, attempt, part: 0, last: false, rows: 0, raw_bytes: 0 },
            share: runtime.budget.raw_share(),
            charge: Charge { runtime: Arc::clone(&runtime), bytes: 0 },
            entered: 0,
            digest: Sum::default(),
            totals: Totals::default(),
            parts: Vec::new(),
            claim: Claim { runtime, packer, id, running: true },
            spec,
        }
    }

    /// Adds a record to a partition. Appends to memory; now and then encodes, and may wait for memory then.
    ///
    /// # Errors
    /// The record is longer than 64 MiB, or earlier rows could not be stored.
    #[inline]
    pub fn write_record(&mut self, partition: u32, record: &[u8]) -> Result<(), Error> {
        if let Ok(Rows::Records(records)) = &mut self.rows
            && records.append(partition, record)
        {
            self.entered += 1;
            return Ok(());
        }
        self.write_record_slowly(partition, record)
    }

    #[cold]
    fn write_record_slowly(&mut self, partition: u32, record: &[u8]) -> Result<(), Error> {
        if partition >= self.spec.partitions {
            return Err(self.no_partition(partition));
        }
        if self.held()? > self.share {
            self.encode(false)?;
        }
        let Ok(Rows::Records(records)) = &mut self.rows else {
            return Err(self.misuse("a record came where batches were announced".into()));
        };
        let room = records.make_room(partition, record.len());
        let appended = room.is_ok() && records.append(partition, record);
        self.charge();
        room.map_err(|unfit| self.unfit(unfit))?;
        debug_assert!(appended, "there is room now");
        self.entered += 1;
        Ok(())
    }

    /// Adds the rows of a batch, row `i` to partition `partitions[i]`.
    ///
    /// # Errors
    /// The batch is not of the announced schema, a row is larger than 64 MiB, or earlier rows could not be stored.
    pub fn write_batch(&mut self, batch: &RecordBatch, partitions: &[u32]) -> Result<(), Error> {
        if partitions.len() != batch.num_rows() {
            let (rows, named) = (batch.num_rows(), partitions.len());
            return Err(self.misuse(format!("{named} partitions were named for {rows} rows")));
        }
        if let Some(&partition) = partitions.iter().find(|partition| **partition >= self.spec.partitions) {
            return Err(self.no_partition(partition));
        }
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let appended = match &mut self.rows {
            Ok(Rows::Arrow(rows)) => rows.append(batch, partitions),
            Ok(Rows::Records(_)) => return Err(self.misuse("a batch came where records were announced".into())),
            Err(error) => return Err(error.clone()),
        };
        appended.map_err(|error| self.unfit(Unfit::Arrow(error)))?;
        self.entered += partitions.len() as u64;
        self.charge();
        if self.held()? > self.share { self.encode(false).map(|_| ()) } else { Ok(()) }
    }

    /// Encodes and packs what is left: then the slot may be released.
    ///
    /// # Errors
    /// Rows could not be encoded or stored, or blocks do not hold what was written.
    pub fn finish(mut self) -> Result<HandedOver, Error> {
        let inline = self.encode(true)?;
        let sums_agree = match &self.rows {
            Ok(Rows::Arrow(rows)) => rows.entered == self.digest,
            _ => true,
        };
        if self.totals.rows != self.entered || !sums_agree {
            let (shuffle, map) = (self.spec.shuffle, self.entry.map);
            return Err(Error::Unbalanced { shuffle, map, rows: self.entered, published: self.totals.rows });
        }
        let output = MapOutput {
            shuffle: self.spec.shuffle,
            generation: self.spec.generation,
            map: self.entry.map,
            stage_attempt: self.entry.stage_attempt,
            attempt: self.entry.attempt,
            rows: self.totals.rows,
            raw_bytes: self.totals.raw,
            stored_bytes: self.totals.stored,
            digest: self.digest.0,
            location: inline.unwrap_or(MapRows::Stored { parts: Vec::new(), new_objects: Vec::new() }),
        };
        self.claim.leave();
        Ok(HandedOver { output, parts: self.parts, claim: self.claim })
    }

    /// Encodes all rows held: into the packer, or, if they are all there is and few, into a message.
    fn encode(&mut self, last: bool) -> Result<Option<MapRows>, Error> {
        // What has failed already need not be computed to its end.
        for part in &mut self.parts {
            if let Part::Waiting(waiting) = part
                && let Ok(stored) = waiting.try_recv()
            {
                *part = Part::Stored(stored?);
            }
        }
        let rows = self.rows.as_mut().map_err(|error| error.clone())?;
        let runtime = &self.claim.runtime;
        let wanted = rows.held() + BLOCK_OVERHEAD * rows.blocks();
        let mut credit = runtime
            .credit
            .take(wanted, runtime.credit_patience(), || runtime.seal_all())
            .map_err(|NoProgress(waited)| Error::NoCredit { shuffle: self.spec.shuffle, waited })?;
        let encoded = rows.encode(self.author);
        self.charge();
        let blocks = encoded.map_err(|unfit| self.unfit(unfit))?;
        credit.shrink_to(blocks.stored);

        self.entry.rows = blocks.rows;
        self.entry.raw_bytes = blocks.raw;
        self.entry.last = last;
        for pair in &blocks.pairs {
            self.digest.add(ledger::weight(pair.partition), ledger::entry(pair.rows, pair.row_sum));
        }
        self.totals.rows += blocks.rows;
        self.totals.raw += blocks.raw;
        self.totals.stored += blocks.stored;

        if last && self.parts.is_empty() && blocks.stored <= u64::from(self.spec.inline_max) {
            return Ok(Some(self.inline(&blocks)));
        }
        let (done, stored) = oneshot::channel();
        let (member_id, member) = (self.claim.id, self.entry);
        self.claim.packer.add(&self.claim.runtime, Run { member_id, member, blocks, credit, done });
        self.parts.push(Part::Waiting(stored));
        self.entry.part += 1;
        Ok(None)
    }

    fn inline(&self, blocks: &Blocks) -> MapRows {
        let tail = format::index(&self.spec, &[(self.entry, blocks.pairs.as_slice())]);
        let mut all = BytesMut::with_capacity(blocks.stored as usize);
        blocks.blocks.iter().for_each(|(_, block)| all.extend_from_slice(block));
        MapRows::Inline { blocks: all.freeze(), index: tail.bytes, index_crc: tail.index_crc }
    }

    fn held(&self) -> Result<u64, Error> {
        self.rows.as_ref().map(Rows::held).map_err(Clone::clone)
    }

    /// Makes what is charged to the runtime what is held.
    fn charge(&mut self) {
        self.charge.set(self.rows.as_ref().map_or(0, Rows::held));
    }

    fn misuse(&self, what: String) -> Error {
        Error::Misuse { shuffle: self.spec.shuffle, what }
    }

    fn no_partition(&self, partition: u32) -> Error {
        self.misuse(format!("partition {partition} of {} was named", self.spec.partitions))
    }

    fn unfit(&self, unfit: Unfit) -> Error {
        let shuffle = self.spec.shuffle;
        match unfit {
            Unfit::TooLarge(bytes) => Error::TooLarge { shuffle, bytes, max: ROW_MAX as u64 },
            Unfit::Arrow(source) => Error::Encode { shuffle, source: Arc::new(source) },
        }
    }
}

/// An output that is encoded and packed, but perhaps not stored. Dropping it aborts.
pub struct HandedOver {
    output: MapOutput,
    parts: Vec<Part>,
    claim: Claim,
}

impl HandedOver {
    /// Waits until every row is in the store or in the output itself: the task may report success.
    ///
    /// # Errors
    /// The store failed.
    ///
    /// # Cancellation
    /// Aborts the output.
    pub async fn stored(self) -> Result<MapOutput, Error> {
        let Self { mut output, parts, claim } = self;
        let MapRows::Stored { parts: objects, new_objects } = &mut output.location else { return Ok(output) };
        for part in parts {
            let stored = match part {
                Part::Stored(stored) => stored,
                Part::Waiting(waiting) => {
                    waiting.await.map_err(|_| Error::Ended { shuffle: output.shuffle, what: "an upload" })??
                }
            };
            if !objects.contains(&stored.object) {
                new_objects.push(stored.new.clone());
            }
            objects.push(stored.object);
        }
        let (shuffle, generation) = (output.shuffle, output.generation);
        claim.runtime.told(objects.iter().map(|object| OpenObject { shuffle, generation, object: *object }));
        Ok(output)
    }
}

/// Which objects a stream of statuses has already made known.
///
/// A [`MapOutput`] describes every object that holds its rows, since only the sender knows which of several outputs in one
/// object goes first. The sender keeps one of these per stream, begins anew after a reconnect, and strips from each output,
/// in the order of sending, what the driver has heard: the index of an object can have megabytes.
#[derive(Debug, Default)]
pub struct Announced {
    seen: HashSet<ObjectRef>,
}

impl Announced {
    /// The output without descriptions that an earlier output of this stream brought.
    #[must_use]
    pub fn strip(&mut self, mut output: MapOutput) -> MapOutput {
        if let MapRows::Stored { parts, new_objects } = &mut output.location {
            let executor = parts.first().map(|part| part.executor);
            new_objects
                .retain(|new| executor.is_none_or(|executor| self.seen.insert(ObjectRef { executor, seq: new.seq })));
        }
        output
    }
}
