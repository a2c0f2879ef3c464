//! How is a range of partitions read, and what is blamed if some is missing?
//!
//! Rows in messages come first, from this thread; those in objects follow as they arrive. A block is decoded by whoever
//! asks for it. The end is proven: every source has given the rows that the plan promises.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use futures::Stream;
use model::shuffle::{Codec, ReadPlan, ReadReport, ReadSource, RowKind, ShuffleSpec, SourceBytes};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;

use crate::Error;
use crate::arrow_rows::Shape;
use crate::error::Damage;
use crate::fetch::{BLOCKS_AHEAD, Counters, Heard, Progress, RawBlock, fetch};
use crate::format::{BlockKind, take_varint};
use crate::ledger::{self, Sum};
use crate::rowhash::hash_rows;
use crate::runtime::Inner;

/// Tests hash every row again as it is read; elsewhere the checksum over hashes and rows speaks for them.
const REHASH: bool = cfg!(any(test, feature = "testing"));

/// The rows of a range of partitions: a stream, or blocking from a compute thread. Dropping it stops its requests.
pub struct Reader {
    runtime: Arc<Inner>,
    spec: Arc<ShuffleSpec>,
    plan: ReadPlan,
    shape: Option<Shape>,
    inline: VecDeque<ReadSource>,
    remote: Vec<ReadSource>,
    raw: VecDeque<RawBlock>,
    ready: VecDeque<Block>,
    /// The piece that the block given out last lies in.
    leave: Option<Arc<OwnedSemaphorePermit>>,
    heard: Option<mpsc::Receiver<Result<Heard, Error>>>,
    /// Owns the task that fetches.
    tasks: JoinSet<()>,
    rows: Vec<u64>,
    sums: Vec<Sum>,
    counters: Arc<Counters>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    Complete,
    Failed,
}

impl Reader {
    pub(crate) fn new(runtime: Arc<Inner>, spec: Arc<ShuffleSpec>, mut plan: ReadPlan) -> Self {
        let width = plan.range.end.saturating_sub(plan.range.start) as usize;
        let (inline, remote): (Vec<_>, Vec<_>) = std::mem::take(&mut plan.sources)
            .into_iter()
            .partition(|source| matches!(source.bytes, SourceBytes::Inline(_)));
        Self {
            runtime,
            spec,
            plan,
            shape: None,
            inline: inline.into(),
            remote,
            raw: VecDeque::new(),
            ready: VecDeque::new(),
            leave: None,
            heard: None,
            tasks: JoinSet::new(),
            rows: vec![0; width],
            sums: vec![Sum::default(); width],
            counters: Arc::default(),
            state: State::Reading,
        }
    }

    /// The next block, or none when every promised row has come. Blocks until it is there: never call it on a runtime's
    /// own thread.
    ///
    /// # Errors
    /// Rows are missing or damaged, or the store failed. After an error there are no more blocks.
    pub fn next_block(&mut self) -> Result<Option<Block>, Error> {
        loop {
            match self.step() {
                Ok(Step::Block(block)) => return Ok(Some(block)),
                Ok(Step::End) => return Ok(None),
                Ok(Step::Listen) => {
                    let heard = self.heard.as_mut().and_then(mpsc::Receiver::blocking_recv);
                    if let Err(error) = self.hear(heard) {
                        return Err(self.fail(error));
                    }
                }
                Err(error) => return Err(self.fail(error)),
            }
        }
    }

    /// What was read, for the task's status. Before the end, or after an error, it says that it is not complete.
    #[must_use]
    pub fn report(&self) -> ReadReport {
        ReadReport {
            range: self.plan.range,
            generation: self.plan.generation,
            complete: self.state == State::Complete,
            rows: self.rows.clone(),
            fingerprints: self.sums.iter().map(|sum| sum.0).collect(),
            bytes: self.counters.bytes.load(Ordering::Relaxed),
            requests: self.counters.requests.load(Ordering::Relaxed),
            retries: self.counters.retries.load(Ordering::Relaxed),
        }
    }

    fn fail(&mut self, error: Error) -> Error {
        self.state = State::Failed;
        self.tasks.abort_all();
        self.heard = None;
        (self.leave, self.raw, self.ready) = (None, VecDeque::new(), VecDeque::new());
        error
    }

    fn step(&mut self) -> Result<Step, Error> {
        if self.state != State::Reading {
            return Ok(Step::End);
        }
        // Requests are on their way while rows from messages are used.
        if !self.remote.is_empty() {
            self.start();
        }
        loop {
            if let Some(block) = self.ready.pop_front() {
                return Ok(Step::Block(block));
            }
            self.leave = None;
            if let Some(raw) = self.raw.pop_front() {
                self.decode(raw)?;
            } else if let Some(source) = self.inline.pop_front() {
                let mut progress = Progress::new(&self.runtime, &self.spec, self.plan.range, &source);
                let SourceBytes::Inline(bytes) = source.bytes else { continue };
                self.counters.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                let parsed = progress.parse(bytes, None, &mut self.raw).and_then(|()| progress.finish());
                parsed.map_err(|damage| progress.corrupt(damage, 0))?;
            } else if self.heard.is_some() {
                return Ok(Step::Listen);
            } else {
                self.state = State::Complete;
                return Ok(Step::End);
            }
        }
    }

    fn start(&mut self) {
        let (tell, heard) = mpsc::channel(BLOCKS_AHEAD);
        self.heard = Some(heard);
        let sources = std::mem::take(&mut self.remote);
        let (runtime, spec, counters) = (Arc::clone(&self.runtime), Arc::clone(&self.spec), Arc::clone(&self.counters));
        let io = runtime.io.clone();
        self.tasks.spawn_on(fetch(runtime, spec, self.plan.range, sources, counters, tell), &io);
    }

    fn hear(&mut self, heard: Option<Result<Heard, Error>>) -> Result<(), Error> {
        match heard {
            Some(Ok(Heard::Block(block))) => self.raw.push_back(block),
            Some(Ok(Heard::End)) => self.heard = None,
            Some(Err(error)) => return Err(error),
            // A stream that closes without saying so is no end.
            None => return Err(Error::Ended { shuffle: self.spec.shuffle, what: "a read" }),
        }
        Ok(())
    }

    fn decode(&mut self, raw: RawBlock) -> Result<(), Error> {
        let RawBlock { head, payload, leave, origin, offset } = raw;
        // What the checksum lets pass was written so: asking again would give the same.
        let undecodable = || origin.corrupt(offset, Damage::Decode, 0);
        let payload = decompress(head.codec, payload, head.raw as usize).ok_or_else(undecodable)?;
        let (mut rows, mut row_sum) = (0, 0u64);
        match head.kind {
            BlockKind::Records => {
                let mut rest = &payload[..];
                while !rest.is_empty() {
                    let record = take_record(&mut rest).ok_or_else(undecodable)?;
                    rows += 1;
                    if REHASH {
                        row_sum = row_sum.wrapping_add(ledger::record_hash(record));
                    }
                }
                let content = Content::Records(payload);
                self.ready.push_back(Block { partition: head.partition, rows: rows as usize, content });
            }
            BlockKind::Arrow => {
                let shape = self.shape()?.clone();
                for batch in shape.decode(payload).map_err(|_| undecodable())? {
                    rows += batch.num_rows() as u64;
                    if REHASH {
                        let hashes = hash_rows(batch.columns(), batch.num_rows()).map_err(|_| undecodable())?;
                        row_sum = hashes.into_iter().fold(row_sum, u64::wrapping_add);
                    }
                    let (partition, rows) = (head.partition, batch.num_rows());
                    self.ready.push_back(Block { partition, rows, content: Content::Arrow(batch) });
                }
            }
        }
        if rows != u64::from(head.rows) || (REHASH && row_sum != head.row_sum) {
            return Err(undecodable());
        }
        let at = (head.partition - self.plan.range.start) as usize;
        self.rows[at] += rows;
        self.sums[at].add(ledger::weight(head.map), ledger::entry(rows, head.row_sum));
        self.leave = leave;
        Ok(())
    }

    fn shape(&mut self) -> Result<&Shape, Error> {
        if self.shape.is_none() {
            let shuffle = self.spec.shuffle;
            let RowKind::Arrow { schema } = &self.spec.kind else {
                return Err(Error::Misuse { shuffle, what: "a batch lies among records".into() });
            };
            let shape = Shape::parse(schema).map_err(|source| Error::Encode { shuffle, source: Arc::new(source) })?;
            self.shape = Some(shape);
        }
        Ok(self.shape.as_ref().expect("it was just made"))
    }
}

enum Step {
    Block(Block),
    /// Nothing is here: listen to the task that fetches.
    Listen,
    End,
}

impl Stream for Reader {
    type Item = Result<Block, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            match this.step() {
                Ok(Step::Block(block)) => return Poll::Ready(Some(Ok(block))),
                Ok(Step::End) => return Poll::Ready(None),
                Ok(Step::Listen) => {
                    let Some(receiver) = &mut this.heard else { return Poll::Ready(None) };
                    let heard = ready!(receiver.poll_recv(context));
                    if let Err(error) = this.hear(heard) {
                        return Poll::Ready(Some(Err(this.fail(error))));
                    }
                }
                Err(error) => return Poll::Ready(Some(Err(this.fail(error)))),
            }
        }
    }
}

fn decompress(codec: Codec, payload: Bytes, raw: usize) -> Option<Bytes> {
    let (mut out, length);
    match codec {
        Codec::None => return Some(payload),
        Codec::Lz4 => {
            out = vec![0; raw];
            length = lz4_flex::block::decompress_into(&payload, &mut out).ok()?;
        }
        Codec::Zstd => {
            out = vec![0; raw];
            length = zstd::bulk::decompress_to_buffer(&payload, &mut out).ok()?;
        }
    }
    (length == raw).then(|| out.into())
}

#[inline]
fn take_record<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_varint(rest)?).ok()?;
    let (record, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(record)
}

/// Rows of one partition, checked and decoded. Holds the bytes it came from while it lives.
#[derive(Debug, Clone)]
pub struct Block {
    partition: u32,
    rows: usize,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    Records(Bytes),
    Arrow(RecordBatch),
}

impl Block {
    /// The partition.
    #[must_use]
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// How many rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The records, in the order they were written, each a slice of the block; none if the shuffle holds Arrow rows.
    #[must_use]
    pub fn records(&self) -> Records<'_> {
        match &self.content {
            Content::Records(bytes) => Records { rest: bytes, left: self.rows },
            Content::Arrow(_) => Records { rest: &[], left: 0 },
        }
    }

    /// The rows as a batch of the shuffle's schema.
    ///
    /// # Panics
    /// If the shuffle holds records.
    #[must_use]
    pub fn batch(&self) -> RecordBatch {
        match &self.content {
            Content::Arrow(batch) => batch.clone(),
            Content::Records(_) => panic!("a shuffle of records was read as one of batches"),
        }
    }
}

/// The records of a block, each a slice of it.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Iterator for Records<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        // Every record was seen when the block was decoded.
        let record = take_record(&mut self.rest)?;
        self.left -= 1;
        Some(record)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Records<'_> {}
