//! How do a member's rows become the blocks of a run?
//!
//! A run is what a member encodes at a time: all of its output, or as much as its share of memory held.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use bytes::Bytes;
use model::shuffle::Codec;

use crate::arrow_rows::{self, Encoder, Shape};
use crate::compress::Compressor;
use crate::format::{self, BLOCK_BYTES, BLOCK_HEADER, BLOCK_ROWS, BlockHead, BlockKind, Pair, ROW_MAX, seal_block};
use crate::ledger::{self, Sum};
use crate::rowhash::hash_rows;

/// Blocks below this size share memory, so that a thousand partitions with a few rows are not a thousand allocations.
const SMALL: usize = 64 << 10;
/// How much small blocks share.
const SHARED: usize = 1 << 20;
/// Beside a record a buffer has room for its length (5) and the zeros behind a block (7).
const SLACK: usize = 12;
/// A full block of records with its header.
const FULL: usize = BLOCK_HEADER + BLOCK_BYTES + SLACK;
/// The first rows of a partition get so much memory.
const FIRST: usize = 256;

/// Why rows cannot be encoded.
#[derive(Debug)]
pub(crate) enum Unfit {
    /// A row has so many bytes.
    TooLarge(u64),
    /// A batch is not what was announced, or cannot be written.
    Arrow(ArrowError),
}

impl From<ArrowError> for Unfit {
    fn from(error: ArrowError) -> Self {
        Self::Arrow(error)
    }
}

/// Whose blocks these are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Author {
    pub(crate) map: u32,
    pub(crate) tag: u32,
    pub(crate) codec: Codec,
}

/// Blocks by partition, and what the index says of them.
#[derive(Default)]
pub(crate) struct Blocks {
    /// In order of the partitions, and within one in order of writing.
    pub(crate) blocks: Vec<(u32, Bytes)>,
    /// One pair per partition with rows.
    pub(crate) pairs: Vec<Pair>,
    pub(crate) rows: u64,
    pub(crate) raw: u64,
    pub(crate) stored: u64,
    shared: Vec<u8>,
    cuts: Vec<(u32, usize)>,
}

impl Blocks {
    fn note(&mut self, head: &BlockHead, raw: u64) {
        let length = head.length() as u64;
        match self.pairs.last_mut() {
            Some(pair) if pair.partition == head.partition => {
                pair.length += length;
                pair.rows += u64::from(head.rows);
                pair.row_sum = pair.row_sum.wrapping_add(head.row_sum);
            }
            _ => self.pairs.push(Pair {
                partition: head.partition,
                length,
                rows: u64::from(head.rows),
                row_sum: head.row_sum,
            }),
        }
        self.rows += u64::from(head.rows);
        self.raw += raw;
        self.stored += length;
    }

    /// Takes a block whose payload `write` appends to the buffer it is given.
    fn add(
        &mut self,
        mut head: BlockHead,
        expected: usize,
        write: impl FnOnce(&mut Vec<u8>) -> Result<Codec, Unfit>,
    ) -> Result<(), Unfit> {
        let small = expected < SMALL;
        let mut own = if small { std::mem::take(&mut self.shared) } else { Vec::new() };
        own.reserve_exact(BLOCK_HEADER + expected + SLACK);
        let start = own.len();
        own.resize(start + BLOCK_HEADER, 0);
        head.codec = write(&mut own)?;
        head.stored = (own.len() - start - BLOCK_HEADER) as u32;
        seal_block(&mut own, start, head);
        self.note(&head, u64::from(head.raw));
        if small {
            self.cuts.push((head.partition, own.len()));
            self.shared = own;
            if self.shared.len() >= SHARED {
                self.cut();
            }
        } else {
            self.cut();
            self.blocks.push((head.partition, own.into()));
        }
        Ok(())
    }

    /// Takes a block as it lies, header space first.
    fn add_whole(&mut self, mut head: BlockHead, mut buffer: Vec<u8>) {
        head.stored = (buffer.len() - BLOCK_HEADER) as u32;
        seal_block(&mut buffer, 0, head);
        self.note(&head, u64::from(head.raw));
        self.cut();
        buffer.shrink_to_fit();
        self.blocks.push((head.partition, buffer.into()));
    }

    fn cut(&mut self) {
        if self.cuts.is_empty() {
            return;
        }
        let shared = Bytes::from(std::mem::replace(&mut self.shared, Vec::with_capacity(SMALL)));
        let mut start = 0;
        for (partition, end) in self.cuts.drain(..) {
            self.blocks.push((partition, shared.slice(start..end)));
            start = end;
        }
    }

    fn finish(mut self) -> Self {
        self.shared.shrink_to_fit();
        self.cut();
        self.shared = Vec::new();
        self
    }
}

/// Rows that a member holds.
#[expect(clippy::large_enum_variant, reason = "every record passes here: a pointer less to follow")]
pub(crate) enum Rows {
    Records(Records),
    Arrow(Box<ArrowRows>),
}

impl Rows {
    /// Bytes held.
    pub(crate) fn held(&self) -> u64 {
        match self {
            Self::Records(records) => records.held,
            Self::Arrow(rows) => rows.held,
        }
    }

    /// About how many blocks they make.
    pub(crate) fn blocks(&self) -> u64 {
        match self {
            Self::Records(records) => (records.open.len() + records.closed.len()) as u64,
            Self::Arrow(rows) => rows.stretches.len() as u64 + rows.held / BLOCK_BYTES as u64,
        }
    }

    /// Makes blocks of all of them.
    pub(crate) fn encode(&mut self, author: Author) -> Result<Blocks, Unfit> {
        match self {
            Self::Records(records) => records.encode(author),
            Self::Arrow(rows) => rows.encode(author),
        }
    }
}

/// A block of records that grows: room for its header, then the payload as it is stored.
#[derive(Default)]
pub(crate) struct OpenBlock {
    buffer: Vec<u8>,
    rows: u32,
    row_sum: u64,
}

impl OpenBlock {
    fn head(&self, author: Author, partition: u32) -> BlockHead {
        let raw = (self.buffer.len() - BLOCK_HEADER) as u32;
        let Author { map, tag, .. } = author;
        let (rows, row_sum) = (self.rows, self.row_sum);
        BlockHead { kind: BlockKind::Records, codec: Codec::None, partition, map, rows, stored: raw, raw, row_sum, tag }
    }
}

/// Records by partition.
pub(crate) struct Records {
    open: Vec<OpenBlock>,
    closed: Vec<(u32, OpenBlock)>,
    held: u64,
    compressor: Compressor,
}

impl Records {
    pub(crate) fn new(partitions: u32) -> Self {
        let open = std::iter::repeat_with(OpenBlock::default).take(partitions as usize).collect();
        Self { open, closed: Vec::new(), held: 0, compressor: Compressor::default() }
    }

    /// Appends a record if the partition exists and its block has room.
    #[inline]
    pub(crate) fn append(&mut self, partition: u32, record: &[u8]) -> bool {
        let Some(block) = self.open.get_mut(partition as usize) else { return false };
        if block.buffer.capacity() - block.buffer.len() < record.len() + SLACK || block.rows == BLOCK_ROWS {
            return false;
        }
        format::put_varint(&mut block.buffer, record.len() as u64);
        block.buffer.extend_from_slice(record);
        block.rows += 1;
        block.row_sum = block.row_sum.wrapping_add(ledger::record_hash(record));
        true
    }

    /// Makes room for a record in its partition.
    #[cold]
    pub(crate) fn make_room(&mut self, partition: u32, length: usize) -> Result<(), Unfit> {
        if length > ROW_MAX {
            return Err(Unfit::TooLarge(length as u64));
        }
        let block = &mut self.open[partition as usize];
        let mut grown = (block.buffer.capacity() * 2).clamp(FIRST, FULL);
        if block.rows == BLOCK_ROWS || (block.rows > 0 && block.buffer.len() + length + SLACK > FULL) {
            self.closed.push((partition, std::mem::take(block)));
            // What filled one block will fill the next.
            grown = FULL;
        }
        let before = block.buffer.capacity();
        if block.buffer.is_empty() {
            block.buffer.reserve_exact(grown.max(BLOCK_HEADER + length + SLACK));
            block.buffer.resize(BLOCK_HEADER, 0);
        } else {
            let wanted = grown.max(block.buffer.len() + length + SLACK);
            block.buffer.reserve_exact(wanted - block.buffer.len());
        }
        self.held += (block.buffer.capacity() - before) as u64;
        Ok(())
    }

    fn encode(&mut self, author: Author) -> Result<Blocks, Unfit> {
        let mut blocks = Blocks::default();
        // Stable: blocks of a partition stay in order of writing, the open one last.
        let mut closed = std::mem::take(&mut self.closed);
        closed.sort_by_key(|(partition, _)| *partition);
        let mut closed = closed.into_iter().peekable();
        for partition in 0..self.open.len() as u32 {
            while let Some((_, block)) = closed.next_if(|(p, _)| *p == partition) {
                self.encode_block(&mut blocks, author, partition, block)?;
            }
            let block = std::mem::take(&mut self.open[partition as usize]);
            if block.rows > 0 {
                self.encode_block(&mut blocks, author, partition, block)?;
            }
        }
        self.held = 0;
        Ok(blocks.finish())
    }

    fn encode_block(
        &mut self,
        blocks: &mut Blocks,
        author: Author,
        partition: u32,
        block: OpenBlock,
    ) -> Result<(), Unfit> {
        let head = block.head(author, partition);
        if author.codec == Codec::None && block.buffer.len() >= SMALL {
            blocks.add_whole(head, block.buffer);
            return Ok(());
        }
        let raw = &block.buffer[BLOCK_HEADER..];
        // What does not shrink is read faster as it is.
        let (codec, payload) = match self.compressor.compress(author.codec, raw) {
            Some(compressed) => (author.codec, compressed),
            None => (Codec::None, raw),
        };
        blocks.add(head, payload.len(), |out| {
            out.extend_from_slice(payload);
            Ok(codec)
        })
    }
}

/// Consecutive rows of a batch that go to one partition.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stretch {
    pub(crate) batch: u32,
    pub(crate) start: u32,
    pub(crate) rows: u32,
}

/// Batches, each with its rows in order of their partitions: while a batch is fresh its rows are moved at little cost, and
/// later blocks are made of long stretches.
pub(crate) struct ArrowRows {
    shape: Shape,
    encoder: Encoder,
    batches: Vec<RecordBatch>,
    /// By partition.
    stretches: Vec<Vec<Stretch>>,
    rows: u64,
    bytes: u64,
    held: u64,
    weights: Vec<u64>,
    /// What blocks must add up to.
    pub(crate) entered: Sum,
    /// Where the next row of each partition goes, while a batch is put in order.
    next: Vec<u32>,
}

impl ArrowRows {
    pub(crate) fn new(schema: &[u8], codec: Codec, partitions: u32) -> Result<Self, ArrowError> {
        let shape = Shape::parse(schema)?;
        Ok(Self {
            encoder: Encoder::new(&shape, codec)?,
            shape,
            batches: Vec::new(),
            stretches: vec![Vec::new(); partitions as usize],
            rows: 0,
            bytes: 0,
            held: 0,
            weights: (0..partitions).map(ledger::weight).collect(),
            entered: Sum::default(),
            next: vec![0; partitions as usize],
        })
    }

    /// Takes the rows of a batch, each to its partition, all of which exist.
    pub(crate) fn append(&mut self, batch: &RecordBatch, partitions: &[u32]) -> Result<(), ArrowError> {
        let batch = self.shape.plain(batch)?;
        let hashes = hash_rows(batch.columns(), batch.num_rows())?;
        self.next.fill(0);
        for (&partition, hash) in partitions.iter().zip(hashes) {
            self.next[partition as usize] += 1;
            self.entered.add(self.weights[partition as usize], ledger::entry(1, hash));
        }
        let (index, mut start) = (self.batches.len() as u32, 0);
        let mut pushed = 0;
        for (next, stretches) in self.next.iter_mut().zip(&mut self.stretches) {
            let rows = std::mem::replace(next, start);
            if rows > 0 {
                stretches.push(Stretch { batch: index, start, rows });
                pushed += size_of::<Stretch>() as u64;
                start += rows;
            }
        }
        let mut order = vec![0; partitions.len()];
        for (row, &partition) in partitions.iter().enumerate() {
            let next = &mut self.next[partition as usize];
            order[*next as usize] = row as u32;
            *next += 1;
        }
        let batch = arrow_rows::reorder(&batch, order)?;
        let bytes = arrow_rows::memory(&batch) as u64;
        self.bytes += bytes;
        self.rows += partitions.len() as u64;
        self.held += bytes + pushed;
        self.batches.push(batch);
        Ok(())
    }

    fn encode(&mut self, author: Author) -> Result<Blocks, Unfit> {
        let mut blocks = Blocks::default();
        let row_bytes = (self.bytes / self.rows.max(1)).max(1);
        let most = (BLOCK_BYTES as u64 / row_bytes).clamp(1, u64::from(BLOCK_ROWS)) as u32;
        let mut chosen = Vec::new();
        for partition in 0..self.stretches.len() {
            let mut rows = 0;
            for mut stretch in std::mem::take(&mut self.stretches[partition]) {
                while rows + stretch.rows > most {
                    let fits = most - rows;
                    chosen.push(Stretch { rows: fits, ..stretch });
                    (stretch.start, stretch.rows) = (stretch.start + fits, stretch.rows - fits);
                    self.encode_chosen(&mut blocks, author, partition as u32, &chosen)?;
                    chosen.clear();
                    rows = 0;
                }
                rows += stretch.rows;
                chosen.push(stretch);
            }
            if rows > 0 {
                self.encode_chosen(&mut blocks, author, partition as u32, &chosen)?;
            }
            chosen.clear();
        }
        self.batches.clear();
        (self.rows, self.bytes, self.held) = (0, 0, 0);
        Ok(blocks.finish())
    }

    fn encode_chosen(
        &mut self,
        blocks: &mut Blocks,
        author: Author,
        partition: u32,
        chosen: &[Stretch],
    ) -> Result<(), Unfit> {
        let batch = match arrow_rows::gather(&self.batches, chosen) {
            // Rows of very different sizes: together they are too long for one array.
            Err(_) if chosen.len() > 1 => {
                let (some, others) = chosen.split_at(chosen.len() / 2);
                self.encode_chosen(blocks, author, partition, some)?;
                return self.encode_chosen(blocks, author, partition, others);
            }
            gathered => gathered?,
        };
        self.encode_batch(blocks, author, partition, &batch)
    }

    fn encode_batch(
        &mut self,
        blocks: &mut Blocks,
        author: Author,
        partition: u32,
        batch: &RecordBatch,
    ) -> Result<(), Unfit> {
        let (raw, rows) = (arrow_rows::memory(batch), batch.num_rows());
        if raw > 2 * BLOCK_BYTES && rows > 1 {
            self.encode_batch(blocks, author, partition, &batch.slice(0, rows / 2))?;
            return self.encode_batch(blocks, author, partition, &batch.slice(rows / 2, rows - rows / 2));
        }
        if raw > ROW_MAX {
            return Err(Unfit::TooLarge(raw as u64));
        }
        let row_sum = hash_rows(batch.columns(), rows)?.into_iter().fold(0, u64::wrapping_add);
        let Author { map, tag, .. } = author;
        let raw = raw as u32;
        let (kind, codec, rows) = (BlockKind::Arrow, Codec::None, rows as u32);
        let head = BlockHead { kind, codec, partition, map, rows, stored: 0, raw, row_sum, tag };
        let message = self.encoder.encode(batch)?;
        blocks.add(head, message.length(), |out| {
            message.append_to(out);
            Ok(Codec::None)
        })
    }
}

/// An encoded run on its way into an object, with the memory it holds and whoever waits for it.
pub(crate) struct Run {
    pub(crate) member_id: u64,
    pub(crate) member: format::Member,
    pub(crate) blocks: Blocks,
    /// Given back when the run is stored or dropped.
    #[expect(dead_code, reason = "held for its drop")]
    pub(crate) credit: crate::credit::Held,
    pub(crate) done: tokio::sync::oneshot::Sender<Result<Arc<crate::upload::StoredObject>, crate::Error>>,
}
