//! Which operations need a shuffle?
//!
//! All of them are made of three parts: a [`MapSide`] that writes a stage's rows into a shuffle, a [`ShuffleSource`] that
//! reads them, and a chain that puts together what was read. Rows that lie where they belong already are not moved: the
//! chain then reads its parent ([`Input::Here`]) instead of a shuffle.

#![expect(clippy::type_complexity, reason = "a dataset's type names its operations, as an iterator's does")]

use std::hash::Hash;
use std::marker::PhantomData;
use std::sync::Arc;

use arrow::array::RecordBatch;
use model::ShuffleId;
use model::shuffle::ReadRange;
use serde::de::DeserializeOwned;
use shuffle::Reader;
use shuffle::partitioner::{StableHasher, hash_partition};

use crate::aggregate::{AggregateValues, Aggregator, CombineValues, Distinct, Group, ReduceValues};
use crate::chain::{Chain, Label, Lineage, Partitioning};
use crate::codec::{self, BodyReader, BodyWriter, Data, InputReader, InputWriter};
use crate::compute::Task;
use crate::dataset::Rdd;
use crate::error::Error;
use crate::external::{CombineTable, Combiner, Resources};
use crate::function::{Function, assert_portable};
use crate::stages::{MapSide, ShuffleDependency, ShuffleWriter};

/// The partition in which a key's rows lie.
#[inline]
pub(crate) fn partition_of<K: Hash + ?Sized>(key: &K, partitions: u32) -> u32 {
    hash_partition(StableHasher::hash_one(key), partitions)
}

/// A shuffle, to the chain that reads it: partition `p` of the chain reads partition `p` of the shuffle.
#[derive(Clone)]
pub struct ShuffleSource {
    shuffle: ShuffleId,
    partitions: u32,
    /// In the driver.
    dependency: Option<Arc<ShuffleDependency>>,
}

impl ShuffleSource {
    /// Reads this shuffle.
    #[must_use]
    pub fn new(dependency: Arc<ShuffleDependency>) -> Self {
        Self { shuffle: dependency.shuffle(), partitions: dependency.partitions(), dependency: Some(dependency) }
    }

    /// How many partitions it has.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    /// Writes which shuffle it is.
    ///
    /// # Errors
    /// Never; like all of its kind.
    pub fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        body.value(&(self.shuffle, self.partitions))
    }

    /// Reads which shuffle it is.
    ///
    /// # Errors
    /// When the body is damaged.
    pub fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        let (shuffle, partitions) = body.value()?;
        Ok(Self { shuffle, partitions, dependency: None })
    }

    /// Names what a partition reads.
    pub fn reads(&self, partition: u32, ranges: &mut Vec<ReadRange>) {
        ranges.push(ReadRange { shuffle: self.shuffle, start: partition, end: partition + 1 });
    }

    /// Names the shuffle.
    pub fn lineage(&self, lineage: &mut Lineage) {
        if let Some(dependency) = &self.dependency {
            lineage.shuffle(dependency);
        }
    }

    /// The records of a partition.
    ///
    /// # Errors
    /// When the driver has not planned the read: a defect.
    pub fn records<'a, R: DeserializeOwned>(&self, task: &'a Task, partition: u32) -> Result<Records<'a, R>, Error> {
        let reader = Some(task.read(self.shuffle, partition, partition + 1)?);
        Ok(Records { task, reader, ready: Vec::new() })
    }

    /// The rows of a partition as Arrow has them, if that is how they were shuffled.
    ///
    /// # Errors
    /// When the driver has not planned the read: a defect.
    pub fn batches<'a>(&self, task: &'a Task, partition: u32) -> Result<Batches<'a>, Error> {
        Ok(Batches { task, reader: Some(task.read(self.shuffle, partition, partition + 1)?) })
    }
}

/// The batches of a partition of a shuffle. What was read is reported at the end, or as incomplete when dropped.
pub struct Batches<'a> {
    task: &'a Task,
    /// Gone at the end.
    reader: Option<Reader>,
}

impl Iterator for Batches<'_> {
    type Item = RecordBatch;

    fn next(&mut self) -> Option<RecordBatch> {
        let reader = self.reader.as_mut()?;
        if self.task.ended() {
            return None;
        }
        match reader.next_block() {
            Ok(Some(block)) => return Some(block.batch()),
            Ok(None) => {}
            Err(error) => self.task.fail(error),
        }
        self.report();
        None
    }
}

impl Batches<'_> {
    fn report(&mut self) {
        if let Some(reader) = self.reader.take() {
            self.task.report_read(reader.report());
        }
    }
}

impl Drop for Batches<'_> {
    fn drop(&mut self) {
        self.report();
    }
}

/// The decoded records of a partition of a shuffle. What was read is reported at the end, or as incomplete when dropped.
pub struct Records<'a, R> {
    task: &'a Task,
    /// Gone at the end.
    reader: Option<Reader>,
    /// Records of one block that are not yet given, last first.
    ready: Vec<R>,
}

impl<R: DeserializeOwned> Records<'_, R> {
    /// Gives the records of the next block to a function; false at the end.
    fn next_block(&mut self, mut each: impl FnMut(&mut Self, R)) -> bool {
        let Some(reader) = &mut self.reader else { return false };
        if self.task.ended() {
            return false;
        }
        match reader.next_block() {
            Ok(Some(block)) => {
                for record in block.records() {
                    match codec::decode(record) {
                        Ok(record) => each(self, record),
                        Err(error) => {
                            self.task.fail(error);
                            return false;
                        }
                    }
                }
                true
            }
            Ok(None) => {
                self.report();
                false
            }
            Err(error) => {
                self.task.fail(error);
                false
            }
        }
    }
}

impl<R> Records<'_, R> {
    fn report(&mut self) {
        if let Some(reader) = self.reader.take() {
            self.task.report_read(reader.report());
        }
    }
}

impl<R> Drop for Records<'_, R> {
    fn drop(&mut self) {
        self.report();
    }
}

impl<R: DeserializeOwned> Iterator for Records<'_, R> {
    type Item = R;

    #[inline]
    fn next(&mut self) -> Option<R> {
        while self.ready.is_empty() {
            if !self.next_block(|this, record| this.ready.push(record)) {
                return None;
            }
            self.ready.reverse();
        }
        self.ready.pop()
    }

    fn fold<B, F: FnMut(B, R) -> B>(mut self, init: B, mut f: F) -> B {
        let mut state = Some(init);
        while let Some(record) = self.ready.pop() {
            state = state.map(|state| f(state, record));
        }
        while self.next_block(|_, record| state = state.take().map(|state| f(state, record))) {}
        state.expect("a fold that does not panic leaves a state")
    }
}

/// Pairs as they are, to the partition of their key's hash.
#[derive(Clone)]
pub struct ByKey;

impl<K: Data + Hash, V: Data> MapSide<(K, V)> for ByKey {
    type Record = (K, V);

    fn encode(&self, _: &mut BodyWriter) -> Result<(), Error> {
        Ok(())
    }

    fn decode(_: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self)
    }

    fn write<I: Iterator<Item = (K, V)>>(
        &self,
        task: &Task,
        _: u32,
        rows: I,
        output: &mut ShuffleWriter,
    ) -> Result<(), Error> {
        let partitions = output.partitions();
        rows.for_each(|row| {
            output.write(partition_of(&row.0, partitions), &row).unwrap_or_else(|error| task.fail(error))
        });
        Ok(())
    }
}

/// Rows one after the other to all partitions in turn.
#[derive(Clone)]
pub struct InTurn;

impl<T: Data> MapSide<T> for InTurn {
    type Record = T;

    fn encode(&self, _: &mut BodyWriter) -> Result<(), Error> {
        Ok(())
    }

    fn decode(_: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self)
    }

    fn write<I: Iterator<Item = T>>(
        &self,
        task: &Task,
        partition: u32,
        rows: I,
        output: &mut ShuffleWriter,
    ) -> Result<(), Error> {
        // Maps begin at different partitions: many small ones would otherwise all fill the first.
        let partitions = output.partitions();
        let mut next = partition_of(&partition, partitions);
        rows.for_each(|row| {
            output.write(next, &row).unwrap_or_else(|error| task.fail(error));
            next = if next + 1 == partitions { 0 } else { next + 1 };
        });
        Ok(())
    }
}

/// Pairs combined by key as far as memory allows, to the partition of their key's hash.
#[derive(Clone)]
pub struct Combining<A>(A);

impl<K: Data + Hash + Eq, V: 'static, A: Aggregator<V>> MapSide<(K, V)> for Combining<A> {
    type Record = (K, A::Combined);

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        self.0.encode(body)
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self(A::decode(body)?))
    }

    fn write<I: Iterator<Item = (K, V)>>(
        &self,
        task: &Task,
        _: u32,
        rows: I,
        output: &mut ShuffleWriter,
    ) -> Result<(), Error> {
        let partitions = output.partitions();
        let mut table = CombineTable::<K, A::Combined>::new(&Resources::of(task));
        // A table that may not grow is written out as it is: the other side combines anyway.
        let mut pour = |table: &mut CombineTable<K, A::Combined>| {
            table.drain().try_for_each(|pair| output.write(partition_of(&pair.0, partitions), &pair))
        };
        rows.for_each(|(key, value)| {
            let inserted =
                table.insert(key, value, |value| self.0.create(value), |kept, value| self.0.add(kept, value));
            let poured = if table.is_full() { inserted.and_then(|()| pour(&mut table)) } else { inserted };
            if let Err(error) = poured {
                task.fail(error);
            }
        });
        pour(&mut table)
    }
}

/// Where an operation's rows come from: moved through a shuffle, or from a parent that has them where they belong.
#[derive(Clone)]
pub enum Input<C> {
    /// The parent's partition of the same number has them.
    Here(C),
    /// They were moved.
    Moved(ShuffleSource),
}

impl<C: Chain> Input<C> {
    fn partitions(&self) -> u32 {
        match self {
            Self::Here(chain) => chain.partitions(),
            Self::Moved(source) => source.partitions(),
        }
    }

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        match self {
            Self::Here(chain) => {
                body.value(&false)?;
                chain.encode(body)
            }
            Self::Moved(source) => {
                body.value(&true)?;
                source.encode(body)
            }
        }
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(if body.value()? { Self::Moved(ShuffleSource::decode(body)?) } else { Self::Here(C::decode(body)?) })
    }

    fn write_input(&self, partition: u32, input: &mut InputWriter) -> Result<(), Error> {
        match self {
            Self::Here(chain) => chain.write_input(partition, input),
            Self::Moved(_) => Ok(()),
        }
    }

    fn reads(&self, partition: u32, ranges: &mut Vec<ReadRange>) {
        match self {
            Self::Here(chain) => chain.reads(partition, ranges),
            Self::Moved(source) => source.reads(partition, ranges),
        }
    }

    fn lineage(&self, lineage: &mut Lineage) {
        match self {
            Self::Here(chain) => chain.lineage(lineage),
            Self::Moved(source) => source.lineage(lineage),
        }
    }
}

impl<K: Data + Hash, V: Data, C: Chain<Item = (K, V)>> Input<C> {
    /// A parent's pairs, each in the partition of its key's hash: moved only if they are not there already.
    pub(crate) fn by_key(rdd: &Rdd<(K, V), C>, partitions: u32, label: Label) -> Self {
        if rdd.partitioning() == Some(Partitioning::Hash { partitions }) {
            return Self::Here(rdd.chain().clone());
        }
        let chain = rdd.chain().clone();
        Self::Moved(ShuffleSource::new(ShuffleDependency::new(rdd.context(), chain, ByKey, partitions, label)))
    }

    /// Calls a function for every pair of a partition.
    fn for_each(
        &self,
        task: &Task,
        partition: u32,
        input: &mut InputReader,
        each: impl FnMut((K, V)),
    ) -> Result<(), Error> {
        match self {
            Self::Here(chain) => chain.compute(task, partition, input)?.for_each(each),
            Self::Moved(source) => source.records(task, partition)?.for_each(each),
        }
        Ok(())
    }
}

/// Rows of one of two kinds of iterators.
pub(crate) enum Either<A, B> {
    Left(A),
    Right(B),
}

impl<A: Iterator, B: Iterator<Item = A::Item>> Iterator for Either<A, B> {
    type Item = A::Item;

    #[inline]
    fn next(&mut self) -> Option<A::Item> {
        match self {
            Self::Left(rows) => rows.next(),
            Self::Right(rows) => rows.next(),
        }
    }

    #[inline]
    fn fold<S, F: FnMut(S, A::Item) -> S>(self, init: S, f: F) -> S {
        match self {
            Self::Left(rows) => rows.fold(init, f),
            Self::Right(rows) => rows.fold(init, f),
        }
    }
}

/// Rows as a shuffle moved them.
pub struct Moved<T> {
    source: ShuffleSource,
    label: Label,
    rows: PhantomData<fn() -> T>,
}

impl<T> Clone for Moved<T> {
    fn clone(&self) -> Self {
        Self { source: self.source.clone(), label: self.label, rows: PhantomData }
    }
}

impl<T: Data> Chain for Moved<T> {
    type Item = T;

    fn partitions(&self) -> u32 {
        self.source.partitions()
    }

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        self.source.encode(body)
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self { source: ShuffleSource::decode(body)?, label: Label::remote("repartition"), rows: PhantomData })
    }

    fn write_input(&self, _: u32, _: &mut InputWriter) -> Result<(), Error> {
        Ok(())
    }

    fn reads(&self, partition: u32, ranges: &mut Vec<ReadRange>) {
        self.source.reads(partition, ranges);
    }

    fn lineage(&self, lineage: &mut Lineage) {
        lineage.operation(self.label, self.partitions());
        self.source.lineage(lineage);
    }

    fn compute<'a>(
        &'a self,
        task: &'a Task,
        partition: u32,
        _: &mut InputReader,
    ) -> Result<impl Iterator<Item = T> + use<'a, T>, Error> {
        self.source.records::<T>(task, partition)
    }
}

/// Pairs in the partition of their key's hash.
#[derive(Clone)]
pub struct PartitionBy<C> {
    input: Input<C>,
    label: Label,
}

impl<K: Data + Hash, V: Data, C: Chain<Item = (K, V)>> Chain for PartitionBy<C> {
    type Item = (K, V);

    fn partitions(&self) -> u32 {
        self.input.partitions()
    }

    fn partitioning(&self) -> Option<Partitioning> {
        Some(Partitioning::Hash { partitions: self.partitions() })
    }

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        self.input.encode(body)
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self { input: Input::decode(body)?, label: Label::remote("partition_by") })
    }

    fn write_input(&self, partition: u32, input: &mut InputWriter) -> Result<(), Error> {
        self.input.write_input(partition, input)
    }

    fn reads(&self, partition: u32, ranges: &mut Vec<ReadRange>) {
        self.input.reads(partition, ranges);
    }

    fn lineage(&self, lineage: &mut Lineage) {
        lineage.operation(self.label, self.partitions());
        self.input.lineage(lineage);
    }

    fn compute<'a>(
        &'a self,
        task: &'a Task,
        partition: u32,
        input: &mut InputReader,
    ) -> Result<impl Iterator<Item = (K, V)> + use<'a, K, V, C>, Error> {
        Ok(match &self.input {
            Input::Here(chain) => Either::Left(chain.compute(task, partition, input)?),
            Input::Moved(source) => Either::Right(source.records(task, partition)?),
        })
    }
}

/// One pair per key: the key and what its values were combined to.
#[derive(Clone)]
pub struct CombineByKey<C, A> {
    input: Input<C>,
    aggregator: A,
    label: Label,
}

impl<K: Data + Hash + Eq, V: Data, C: Chain<Item = (K, V)>, A: Aggregator<V>> Chain for CombineByKey<C, A> {
    type Item = (K, A::Combined);

    fn partitions(&self) -> u32 {
        self.input.partitions()
    }

    fn partitioning(&self) -> Option<Partitioning> {
        Some(Partitioning::Hash { partitions: self.partitions() })
    }

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        self.input.encode(body)?;
        self.aggregator.encode(body)
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self { input: Input::decode(body)?, aggregator: A::decode(body)?, label: Label::remote("combine_by_key") })
    }

    fn write_input(&self, partition: u32, input: &mut InputWriter) -> Result<(), Error> {
        self.input.write_input(partition, input)
    }

    fn reads(&self, partition: u32, ranges: &mut Vec<ReadRange>) {
        self.input.reads(partition, ranges);
    }

    fn lineage(&self, lineage: &mut Lineage) {
        lineage.operation(self.label, self.partitions());
        self.input.lineage(lineage);
    }

    fn compute<'a>(
        &'a self,
        task: &'a Task,
        partition: u32,
        input: &mut InputReader,
    ) -> Result<impl Iterator<Item = Self::Item> + use<'a, K, V, C, A>, Error> {
        let aggregator = &self.aggregator;
        let join = |a, b| aggregator.merge(a, b);
        let mut combiner = Combiner::<K, A::Combined>::new(Resources::of(task));
        let (create, add) = (|value| aggregator.create(value), |kept, value| aggregator.add(kept, value));
        match &self.input {
            Input::Moved(source) if A::COMBINES_BEFORE => {
                source.records::<(K, A::Combined)>(task, partition)?.for_each(|(key, kept)| {
                    combiner.insert(key, kept, |kept| kept, join, &join).unwrap_or_else(|error| task.fail(error));
                });
            }
            input_of_values => input_of_values.for_each(task, partition, input, |(key, value)| {
                combiner.insert(key, value, create, add, &join).unwrap_or_else(|error| task.fail(error));
            })?,
        }
        // Rows that ended early make no sums.
        task.check()?;
        Ok(or_fail(task, combiner.finish(join)?))
    }
}

/// Rows until the first error, which fails the task.
pub(crate) fn or_fail<'a, T>(
    task: &'a Task,
    rows: impl Iterator<Item = Result<T, Error>> + 'a,
) -> impl Iterator<Item = T> + 'a {
    rows.map_while(|row| row.map_err(|error| task.fail(error)).ok())
}

/// For each key of either of two datasets, its values in both.
#[derive(Clone)]
pub struct CoGroup<A, B> {
    left: Input<A>,
    right: Input<B>,
    label: Label,
}

impl<K, V, W, A, B> Chain for CoGroup<A, B>
where
    K: Data + Hash + Eq,
    V: Data,
    W: Data,
    A: Chain<Item = (K, V)>,
    B: Chain<Item = (K, W)>,
{
    type Item = (K, (Vec<V>, Vec<W>));

    fn partitions(&self) -> u32 {
        self.left.partitions()
    }

    fn partitioning(&self) -> Option<Partitioning> {
        Some(Partitioning::Hash { partitions: self.partitions() })
    }

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        self.left.encode(body)?;
        self.right.encode(body)
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self { left: Input::decode(body)?, right: Input::decode(body)?, label: Label::remote("cogroup") })
    }

    fn write_input(&self, partition: u32, input: &mut InputWriter) -> Result<(), Error> {
        self.left.write_input(partition, input)?;
        self.right.write_input(partition, input)
    }

    fn reads(&self, partition: u32, ranges: &mut Vec<ReadRange>) {
        self.left.reads(partition, ranges);
        self.right.reads(partition, ranges);
    }

    fn lineage(&self, lineage: &mut Lineage) {
        lineage.operation(self.label, self.partitions());
        lineage.beside(|lineage| self.left.lineage(lineage));
        lineage.beside(|lineage| self.right.lineage(lineage));
    }

    fn compute<'a>(
        &'a self,
        task: &'a Task,
        partition: u32,
        input: &mut InputReader,
    ) -> Result<impl Iterator<Item = Self::Item> + use<'a, K, V, W, A, B>, Error> {
        fn join<V, W>(mut a: (Vec<V>, Vec<W>), b: (Vec<V>, Vec<W>)) -> (Vec<V>, Vec<W>) {
            a.0.extend(b.0);
            a.1.extend(b.1);
            a
        }
        let mut combiner = Combiner::<K, (Vec<V>, Vec<W>)>::new(Resources::of(task));
        self.left.for_each(task, partition, input, |(key, value)| {
            let add = |mut kept: (Vec<V>, Vec<W>), value| {
                kept.0.push(value);
                kept
            };
            let inserted = combiner.insert(key, value, |value| (vec![value], Vec::new()), add, &join);
            inserted.unwrap_or_else(|error| task.fail(error));
        })?;
        self.right.for_each(task, partition, input, |(key, value)| {
            let add = |mut kept: (Vec<V>, Vec<W>), value| {
                kept.1.push(value);
                kept
            };
            let inserted = combiner.insert(key, value, |value| (Vec::new(), vec![value]), add, &join);
            inserted.unwrap_or_else(|error| task.fail(error));
        })?;
        task.check()?;
        Ok(or_fail(task, combiner.finish(join)?))
    }
}

impl<T: Data, C: Chain<Item = T>> Rdd<T, C> {
    /// The same rows in so many partitions of about the same size. Moves every row; to have fewer partitions,
    /// [`coalesce`](Self::coalesce) moves none.
    #[track_caller]
    pub fn repartition(&self, partitions: u32) -> Rdd<T, Moved<T>> {
        self.moved(InTurn, partitions, Label::here("repartition"))
    }

    /// The rows as a shuffle of this kind moves them.
    pub(crate) fn moved<R: Data, W: MapSide<T, Record = R>>(
        &self,
        write: W,
        partitions: u32,
        label: Label,
    ) -> Rdd<R, Moved<R>> {
        let (context, chain) = (self.context(), self.chain().clone());
        let source = ShuffleSource::new(ShuffleDependency::new(context, chain, write, partitions.max(1), label));
        Rdd::new(context, Moved { source, label, rows: PhantomData })
    }

    /// Each of the rows once, in as many partitions as before.
    #[track_caller]
    pub fn distinct(&self) -> Rdd<T, impl Chain<Item = T> + use<T, C>>
    where
        T: Hash + Eq,
    {
        self.distinct_labelled(self.partitions(), Label::here("distinct"))
    }

    /// Each of the rows once, in so many partitions.
    #[track_caller]
    pub fn distinct_into(&self, partitions: u32) -> Rdd<T, impl Chain<Item = T> + use<T, C>>
    where
        T: Hash + Eq,
    {
        self.distinct_labelled(partitions, Label::here("distinct"))
    }

    fn distinct_labelled(&self, partitions: u32, label: Label) -> Rdd<T, impl Chain<Item = T> + use<T, C>>
    where
        T: Hash + Eq,
    {
        let pairs = self.map_labelled(label, |row: T| (row, ()));
        pairs.combine(Distinct, partitions, label).map_labelled(label, |(row, ())| row)
    }
}

impl<K: Data + Hash + Eq, V: Data, C: Chain<Item = (K, V)>> Rdd<(K, V), C> {
    /// One pair per key, in so many partitions: what an aggregator makes of its values.
    pub(crate) fn combine<A: Aggregator<V>>(
        &self,
        aggregator: A,
        partitions: u32,
        label: Label,
    ) -> Rdd<(K, A::Combined), CombineByKey<C, A>> {
        let (context, chain, partitions) = (self.context(), self.chain().clone(), partitions.max(1));
        let input = if self.partitioning() == Some(Partitioning::Hash { partitions }) {
            Input::Here(chain)
        } else if A::COMBINES_BEFORE {
            let write = Combining(aggregator.clone());
            Input::Moved(ShuffleSource::new(ShuffleDependency::new(context, chain, write, partitions, label)))
        } else {
            Input::Moved(ShuffleSource::new(ShuffleDependency::new(context, chain, ByKey, partitions, label)))
        };
        Rdd::new(context, CombineByKey { input, aggregator, label })
    }

    /// How many partitions an operation by key has when the program names no number: as many as this dataset has.
    pub(crate) fn partitions_by_key(&self) -> u32 {
        self.partitions().max(1)
    }

    /// The same pairs, each in the partition of its key's hash.
    #[track_caller]
    pub fn partition_by(&self, partitions: u32) -> Rdd<(K, V), PartitionBy<C>> {
        let label = Label::here("partition_by");
        Rdd::new(self.context(), PartitionBy { input: Input::by_key(self, partitions.max(1), label), label })
    }

    /// One pair per key: its values reduced by a function that is associative and commutative. Values are reduced before
    /// they are moved too.
    #[track_caller]
    pub fn reduce_by_key<F: Fn(V, V) -> V + Function>(
        &self,
        function: F,
    ) -> Rdd<(K, V), CombineByKey<C, ReduceValues<F>>> {
        assert_portable::<F>();
        self.combine(ReduceValues(function), self.partitions_by_key(), Label::here("reduce_by_key"))
    }

    /// [`reduce_by_key`](Self::reduce_by_key) into so many partitions.
    #[track_caller]
    pub fn reduce_by_key_into<F: Fn(V, V) -> V + Function>(
        &self,
        function: F,
        partitions: u32,
    ) -> Rdd<(K, V), CombineByKey<C, ReduceValues<F>>> {
        assert_portable::<F>();
        self.combine(ReduceValues(function), partitions, Label::here("reduce_by_key"))
    }

    /// One pair per key: the list of its values, in no order. To reduce the list at once, an operation that combines
    /// values before it moves them is cheaper.
    #[track_caller]
    pub fn group_by_key(&self) -> Rdd<(K, Vec<V>), CombineByKey<C, Group>> {
        self.combine(Group, self.partitions_by_key(), Label::here("group_by_key"))
    }

    /// [`group_by_key`](Self::group_by_key) into so many partitions.
    #[track_caller]
    pub fn group_by_key_into(&self, partitions: u32) -> Rdd<(K, Vec<V>), CombineByKey<C, Group>> {
        self.combine(Group, partitions, Label::here("group_by_key"))
    }

    /// One pair per key: `create` makes what is kept of its first value, `add` adds another, `merge` adds up what was
    /// kept at two places.
    #[track_caller]
    pub fn combine_by_key<U, A, B, M>(
        &self,
        create: A,
        add: B,
        merge: M,
    ) -> Rdd<(K, U), CombineByKey<C, CombineValues<U, A, B, M>>>
    where
        U: Data + Clone,
        A: Fn(V) -> U + Function,
        B: Fn(U, V) -> U + Function,
        M: Fn(U, U) -> U + Function,
    {
        assert_portable::<A>();
        assert_portable::<B>();
        assert_portable::<M>();
        let aggregator = CombineValues::new(create, add, merge);
        self.combine(aggregator, self.partitions_by_key(), Label::here("combine_by_key"))
    }

    /// One pair per key: its values added to `zero` by one function, what comes of it at several places merged by another.
    #[track_caller]
    pub fn aggregate_by_key<U, A, M>(
        &self,
        zero: U,
        add: A,
        merge: M,
    ) -> Rdd<(K, U), CombineByKey<C, AggregateValues<U, A, M>>>
    where
        U: Data + Clone,
        A: Fn(U, V) -> U + Function,
        M: Fn(U, U) -> U + Function,
    {
        assert_portable::<A>();
        assert_portable::<M>();
        let aggregator = AggregateValues { zero, add, merge };
        self.combine(aggregator, self.partitions_by_key(), Label::here("aggregate_by_key"))
    }

    /// One pair per key: its values and, at each place, `zero`, folded by a function that is associative and commutative.
    #[track_caller]
    pub fn fold_by_key<F: Fn(V, V) -> V + Function>(
        &self,
        zero: V,
        function: F,
    ) -> Rdd<(K, V), CombineByKey<C, AggregateValues<V, F, F>>>
    where
        V: Clone,
    {
        assert_portable::<F>();
        let aggregator = AggregateValues { zero, add: function.clone(), merge: function };
        self.combine(aggregator, self.partitions_by_key(), Label::here("fold_by_key"))
    }

    /// For each key of either dataset, its values in both: in as many partitions as the larger has, or as one has that is
    /// partitioned by key already.
    #[track_caller]
    pub fn cogroup<W: Data, D: Chain<Item = (K, W)>>(
        &self,
        other: &Rdd<(K, W), D>,
    ) -> Rdd<(K, (Vec<V>, Vec<W>)), CoGroup<C, D>> {
        self.cogroup_labelled(other, self.partitions_with(other), Label::here("cogroup"))
    }

    /// [`cogroup`](Self::cogroup) into so many partitions.
    #[track_caller]
    pub fn cogroup_into<W: Data, D: Chain<Item = (K, W)>>(
        &self,
        other: &Rdd<(K, W), D>,
        partitions: u32,
    ) -> Rdd<(K, (Vec<V>, Vec<W>)), CoGroup<C, D>> {
        self.cogroup_labelled(other, partitions, Label::here("cogroup"))
    }

    /// How many partitions an operation of two datasets has when the program names no number.
    pub(crate) fn partitions_with<W: Data, D: Chain<Item = (K, W)>>(&self, other: &Rdd<(K, W), D>) -> u32 {
        let most = self.partitions().max(other.partitions()).max(1);
        let hashed = [self.partitioning(), other.partitioning()].into_iter().flatten();
        let hashed = hashed.filter(|known| matches!(known, Partitioning::Hash { .. })).map(|known| known.partitions());
        // A partitioning is kept unless it is far too narrow for the other side (Spark's rule: a tenth).
        hashed.max().filter(|kept| u64::from(*kept) * 10 > u64::from(most)).unwrap_or(most)
    }

    pub(crate) fn cogroup_labelled<W: Data, D: Chain<Item = (K, W)>>(
        &self,
        other: &Rdd<(K, W), D>,
        partitions: u32,
        label: Label,
    ) -> Rdd<(K, (Vec<V>, Vec<W>)), CoGroup<C, D>> {
        let partitions = partitions.max(1);
        let (left, right) = (Input::by_key(self, partitions, label), Input::by_key(other, partitions, label));
        Rdd::new(self.context(), CoGroup { left, right, label })
    }
}
