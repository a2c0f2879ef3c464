//! What does caching promise?
//!
//! That a partition which was computed once is usually not computed again, and nothing more: whoever misses one computes
//! it. A checkpoint promises that it is never computed again: its lineage is gone.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use model::shuffle::ReadRange;
use model::{Failure, FailureKind, JobRunner, PartitionId, RddId, keys};
use object_store::ObjectStoreExt;
use object_store::buffered::BufWriter;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use crate::chain::{Chain, Label, Lineage, Partitioning};
use crate::codec::{self, BodyReader, BodyWriter, Data, InputReader, InputWriter};
use crate::compute::Task;
use crate::dataset::Rdd;
use crate::error::Error;
use crate::save::url_of;
use crate::shared::{join, store_failure};
use crate::stages::Action;
use crate::wide::Either;

/// Where the partitions of a persisted dataset are kept, as encoded bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StorageLevel {
    /// In the memory of the executor that computed them, as long as it is not needed for work.
    Memory,
    /// The same, and on the executor's disk when memory is needed for work.
    MemoryAndDisk,
    /// In the object store: they outlive executors.
    ObjectStore,
}

impl StorageLevel {
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::MemoryAndDisk => "memory and disk",
            Self::ObjectStore => "object store",
        }
    }
}

/// A block of encoded rows is closed at this size.
const BLOCK_BYTES: usize = 1 << 20;

/// A checkpoint is uploaded in parts of this size: ten thousand of them, the most that S3 takes, make 80 GB.
const UPLOAD_PART_BYTES: usize = 8 << 20;

/// Encodes rows into blocks: a count of rows, four bytes, and the rows.
#[derive(Default)]
struct BlockWriter {
    blocks: Vec<Bytes>,
    open: Vec<u8>,
    rows: u32,
}

impl BlockWriter {
    /// Adds a row; says how many bytes a block has that was closed by it, else 0.
    #[inline]
    fn push<T: Serialize>(&mut self, row: &T) -> Result<u64, Error> {
        if self.rows == 0 {
            self.open.extend_from_slice(&[0; 4]);
        }
        codec::encode_into(row, &mut self.open)?;
        self.rows += 1;
        Ok(if self.open.len() >= BLOCK_BYTES || self.rows == u32::MAX { self.close() } else { 0 })
    }

    fn close(&mut self) -> u64 {
        if self.rows == 0 {
            return 0;
        }
        self.open[..4].copy_from_slice(&self.rows.to_le_bytes());
        let block = Bytes::from(std::mem::take(&mut self.open));
        let length = block.len() as u64;
        self.blocks.push(block);
        self.rows = 0;
        length
    }

    fn finish(mut self) -> Vec<Bytes> {
        self.close();
        self.blocks
    }
}

/// The rows of blocks. Damage fails the task.
struct BlockRows<'a, T> {
    task: &'a Task,
    blocks: std::vec::IntoIter<Bytes>,
    block: Bytes,
    at: usize,
    left: u32,
    rows: PhantomData<fn() -> T>,
}

impl<'a, T: Data> BlockRows<'a, T> {
    fn new(task: &'a Task, blocks: Vec<Bytes>) -> Self {
        Self { task, blocks: blocks.into_iter(), block: Bytes::new(), at: 0, left: 0, rows: PhantomData }
    }
}

impl<T: Data> Iterator for BlockRows<'_, T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        while self.left == 0 {
            if self.task.ended() {
                return None;
            }
            self.block = self.blocks.next()?;
            let Some(rows) = self.block.first_chunk::<4>() else {
                self.task.fail(Error::CorruptBody("a cached block that is too short"));
                return None;
            };
            (self.left, self.at) = (u32::from_le_bytes(*rows), 4);
        }
        match codec::decode_prefix(&self.block[self.at..]) {
            Ok((row, used)) => {
                self.at += used;
                self.left -= 1;
                Some(row)
            }
            Err(error) => {
                self.task.fail(error);
                None
            }
        }
    }
}

/// Rows that are kept when they are computed.
#[derive(Clone)]
pub struct Cached<C> {
    parent: C,
    rdd: RddId,
    level: StorageLevel,
    keep: Keep,
}

/// Whether rows are kept.
#[derive(Clone)]
enum Keep {
    /// In the driver: until it is told otherwise, or the last handle goes.
    While(Arc<Kept>),
    /// In an executor.
    Now(bool),
}

struct Kept {
    rdd: RddId,
    wanted: AtomicBool,
    runner: Arc<dyn JobRunner>,
}

impl Kept {
    fn end(&self) {
        if self.wanted.swap(false, Ordering::Relaxed) {
            self.runner.unpersist(self.rdd);
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.end();
    }
}

impl<C> Cached<C> {
    fn is_kept(&self) -> bool {
        match &self.keep {
            Keep::While(kept) => kept.wanted.load(Ordering::Relaxed),
            Keep::Now(keep) => *keep,
        }
    }
}

/// Memory taken from the pool for blocks on their way; given back when they are kept elsewhere or used up.
struct Loan<'a> {
    task: &'a Task,
    bytes: u64,
}

impl Loan<'_> {
    fn grow(&mut self, bytes: u64) -> bool {
        let granted = self.task.env.memory.try_grow(bytes);
        if granted {
            self.bytes += bytes;
        }
        granted
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        self.task.env.memory.shrink(self.bytes);
    }
}

impl<C: Chain<Item: Data>> Chain for Cached<C> {
    type Item = C::Item;

    fn partitions(&self) -> u32 {
        self.parent.partitions()
    }

    fn partitioning(&self) -> Option<Partitioning> {
        self.parent.partitioning()
    }

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        body.value(&(self.rdd, self.level, self.is_kept()))?;
        self.parent.encode(body)
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        let (rdd, level, keep) = body.value()?;
        Ok(Self { parent: C::decode(body)?, rdd, level, keep: Keep::Now(keep) })
    }

    fn write_input(&self, partition: u32, input: &mut InputWriter) -> Result<(), Error> {
        // Framed: an executor that has the rows skips what the parent would read.
        let mut own = InputWriter::default();
        self.parent.write_input(partition, &mut own)?;
        let own = own.finish();
        input.value(&(own.len() as u64))?;
        input.append(&own);
        Ok(())
    }

    fn reads(&self, partition: u32, ranges: &mut Vec<ReadRange>) {
        self.parent.reads(partition, ranges);
    }

    fn lineage(&self, lineage: &mut Lineage) {
        if self.is_kept() {
            lineage.persisted(self.rdd, self.level.name());
        }
        self.parent.lineage(lineage);
    }

    fn compute<'a>(
        &'a self,
        task: &'a Task,
        partition: u32,
        input: &mut InputReader,
    ) -> Result<impl Iterator<Item = C::Item> + use<'a, C>, Error> {
        let id = PartitionId(partition);
        let length: u64 = input.value()?;
        let mut own = InputReader::new(input.take(usize::try_from(length).unwrap_or(usize::MAX))?);
        if !self.is_kept() {
            return Ok(Either::Left(self.parent.compute(task, partition, &mut own)?));
        }
        match task.env.blocks.get(self.rdd, id, self.level) {
            Ok(Some(blocks)) => return Ok(Either::Right(Either::Left(BlockRows::new(task, blocks)))),
            Ok(None) => {}
            Err(failure) => {
                task.warn(format!("{} is computed again, since its cached rows cannot be read: {failure}", self.rdd));
            }
        }
        let mut rows = self.parent.compute(task, partition, &mut own)?;
        let mut writer = BlockWriter::default();
        let mut loan = Loan { task, bytes: 0 };
        let mut fits = true;
        while fits && let Some(row) = rows.next() {
            let closed = writer.push(&row)?;
            // In memory alone, rows that do not fit are computed again when they are wanted; elsewhere there is room.
            fits = closed == 0 || loan.grow(closed) || self.level != StorageLevel::Memory;
        }
        // Rows that ended early are not the partition.
        task.check()?;
        let blocks = writer.finish();
        if fits {
            drop(loan);
            if task.env.blocks.put(self.rdd, id, self.level, blocks.clone())? {
                task.note_cached(self.rdd, id);
            }
            return Ok(Either::Right(Either::Left(BlockRows::new(task, blocks))));
        }
        let computed = BlockRows::new(task, blocks);
        Ok(Either::Right(Either::Right(computed.chain(rows.inspect(move |_| {
            let _held = &loan;
        })))))
    }
}

/// Where one partition of a checkpoint lies.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Piece {
    key: String,
    length: u64,
    hash: u64,
}

/// Writes a partition to the store.
#[derive(Clone, Serialize, Deserialize)]
struct WriteCheckpoint {
    folder: String,
    rdd: RddId,
}

impl<T: Data> Action<T> for WriteCheckpoint {
    type Output = Piece;

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        body.value(self)
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        body.value()
    }

    fn run<I: Iterator<Item = T>>(&self, task: &Task, _: u32, rows: I) -> Result<Piece, Error> {
        let (store, root) = shuffle::store::open(&self.folder)?;
        let key = keys::checkpointed_partition(task.env.app, task.env.epoch, self.rdd, task.env.attempt);
        let path = join(&root, &key);
        let failed =
            |error: object_store::Error| Error::from(store_failure(format!("write checkpoint {path}"), &error));
        let mut upload = BufWriter::with_capacity(store, path.clone(), UPLOAD_PART_BYTES);
        let (mut hash, mut length) = (Xxh3Default::new(), 0u64);
        let written = || {
            let mut writer = BlockWriter::default();
            let mut send = |blocks: &mut Vec<Bytes>| {
                blocks.drain(..).try_for_each(|block| {
                    let head = (block.len() as u64).to_le_bytes();
                    hash.update(&head);
                    hash.update(&block);
                    length += (head.len() + block.len()) as u64;
                    task.wait(async {
                        upload.put(Bytes::copy_from_slice(&head)).await?;
                        upload.put(block).await
                    })?
                    .map_err(failed)
                })
            };
            for row in rows {
                if writer.push(&row)? > 0 {
                    send(&mut writer.blocks)?;
                }
            }
            // Rows that ended early are not the partition.
            task.check()?;
            send(&mut writer.finish())
        };
        let written = written().and_then(|()| {
            task.wait(upload.shutdown())?.map_err(|error| {
                let unknown = |error| object_store::Error::Generic { store: "upload", source: Box::new(error) };
                failed(error.downcast().unwrap_or_else(unknown))
            })
        });
        if let Err(error) = written {
            // Parts of an upload that is not completed are found by nobody. The first error is the one to tell.
            let _ = task.wait(upload.abort());
            return Err(error);
        }
        Ok(Piece { key, length, hash: hash.digest() })
    }
}

/// Rows that lie in the store: a dataset without ancestors.
pub struct Checkpoint<T> {
    folder: String,
    pieces: Arc<[Piece]>,
    partitioning: Option<Partitioning>,
    label: Label,
    rows: PhantomData<fn() -> T>,
}

impl<T> Clone for Checkpoint<T> {
    fn clone(&self) -> Self {
        let Self { folder, pieces, partitioning, label, rows } = self;
        Self {
            folder: folder.clone(),
            pieces: Arc::clone(pieces),
            partitioning: partitioning.clone(),
            label: *label,
            rows: *rows,
        }
    }
}

impl<T: Data> Chain for Checkpoint<T> {
    type Item = T;

    fn partitions(&self) -> u32 {
        self.pieces.len() as u32
    }

    fn partitioning(&self) -> Option<Partitioning> {
        self.partitioning.clone()
    }

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        body.value(&self.folder)
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        let (folder, label) = (body.value()?, Label::remote("checkpoint"));
        Ok(Self { folder, pieces: Arc::new([]), partitioning: None, label, rows: PhantomData })
    }

    fn write_input(&self, partition: u32, input: &mut InputWriter) -> Result<(), Error> {
        input.value(&self.pieces[partition as usize])
    }

    fn reads(&self, _: u32, _: &mut Vec<ReadRange>) {}

    fn lineage(&self, lineage: &mut Lineage) {
        lineage.operation(self.label, self.partitions());
    }

    fn compute<'a>(
        &'a self,
        task: &'a Task,
        _: u32,
        input: &mut InputReader,
    ) -> Result<impl Iterator<Item = T> + use<'a, T>, Error> {
        let piece: Piece = input.value()?;
        let (store, root) = shuffle::store::open(&self.folder)?;
        let path = join(&root, &piece.key);
        let get = async { store.get(&path).await?.bytes().await };
        let mut bytes = task.wait(get)?.map_err(|e| store_failure(format!("read checkpoint {path}"), &e))?;
        let damaged = || Failure::new(FailureKind::StoreUnavailable, format!("read checkpoint {path}: it is damaged"));
        if bytes.len() as u64 != piece.length || xxh3_64(&bytes) != piece.hash {
            return Err(damaged().into());
        }
        let mut blocks = Vec::new();
        while let Some(head) = bytes.first_chunk::<8>() {
            let length = usize::try_from(u64::from_le_bytes(*head)).unwrap_or(usize::MAX);
            if length > bytes.len() - head.len() {
                return Err(damaged().into());
            }
            drop(bytes.split_to(8));
            blocks.push(bytes.split_to(length));
        }
        Ok(BlockRows::new(task, blocks))
    }
}

impl<T: Data, C: Chain<Item = T>> Rdd<T, C> {
    /// Keeps each partition, once it was computed, for whoever wants it next. The dataset that this returns is the one
    /// that is kept; what is kept goes with its last handle.
    #[must_use]
    pub fn persist(&self, level: StorageLevel) -> Rdd<T, Cached<C>> {
        let runner = Arc::clone(self.context().runner());
        let rdd = runner.ids().rdd();
        let keep = Keep::While(Arc::new(Kept { rdd, wanted: AtomicBool::new(true), runner }));
        Rdd::new(self.context(), Cached { parent: self.chain().clone(), rdd, level, keep })
    }

    /// [Persists](Self::persist) in memory.
    #[must_use]
    pub fn cache(&self) -> Rdd<T, Cached<C>> {
        self.persist(StorageLevel::Memory)
    }

    /// Computes every partition now and writes it to the folder that
    /// [`set_checkpoint_dir`](crate::RddContext::set_checkpoint_dir) named. The dataset that this returns reads it there
    /// and has no ancestors; the files stay until somebody deletes them.
    ///
    /// # Errors
    /// When the job does not succeed, or no folder was named.
    #[track_caller]
    pub fn checkpoint(&self) -> Result<Rdd<T, Checkpoint<T>>, Error> {
        let label = Label::here("checkpoint");
        let context = self.context();
        let Some(folder) = context.checkpoint_dir() else {
            return Err(Error::Invalid(format!("{label}: no folder was named by `set_checkpoint_dir`")));
        };
        let folder = url_of(&folder)?;
        let action = WriteCheckpoint { folder: folder.clone(), rdd: context.runner().ids().rdd() };
        let pieces = self.run_all(label, action)?.into();
        let partitioning = self.partitioning();
        Ok(Rdd::new(context, Checkpoint { folder, pieces, partitioning, label, rows: PhantomData }))
    }
}

impl<T: Data, C: Chain<Item = T>> Rdd<T, Cached<C>> {
    /// Keeps its partitions no longer. Later actions compute them.
    pub fn unpersist(&self) {
        if let Keep::While(kept) = &self.chain().keep {
            kept.end();
        }
    }
}
