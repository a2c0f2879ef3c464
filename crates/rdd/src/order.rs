//! Which operations put rows in order?
//!
//! An order needs bounds between partitions, and these a sample of the keys: `sort_by` and its like run one or two short
//! jobs when they are called, as Spark does. Rows then move once, each to the partition of its key's range, and are
//! sorted there.

#![expect(clippy::type_complexity, reason = "a dataset's type names its operations, as an iterator's does")]

use std::cmp::Ordering;
use std::hash::Hash;
use std::marker::PhantomData;
use std::ops::ControlFlow;

use model::shuffle::ReadRange;
use serde::{Deserialize, Serialize};

use crate::chain::{Chain, KeyBounds, Label, Lineage, Partitioning};
use crate::codec::{BodyReader, BodyWriter, Data, InputReader, InputWriter};
use crate::compute::Task;
use crate::dataset::Rdd;
use crate::error::Error;
use crate::external::{Order, Resources, Sorter, permute};
use crate::function::{Function, assert_portable};
use crate::range_partitioner::{Lookup, RangeBounds, Sketch, sample_size, too_thin};
use crate::sampling::{Sampler, generator, reservoir};
use crate::sort_key;
use crate::stages::{Action, MapSide, ShuffleDependency, ShuffleWriter};
use crate::wide::{self, ShuffleSource, or_fail};

/// Which rows come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Direction {
    /// Those with the smallest keys.
    #[default]
    Ascending,
    /// Those with the largest keys.
    Descending,
}

/// What sorts a row: part of it, or what a function makes of it.
pub trait SortBy<T>: Clone + Send + Sync + 'static {
    /// What decides.
    type Key: Data + Ord + Clone;

    /// Uses a row's key.
    fn with_key<R>(&self, row: &T, use_key: impl FnOnce(&Self::Key) -> R) -> R;

    /// Whether a key is made anew whenever it is asked for.
    const COMPUTED: bool;

    /// Writes its function.
    ///
    /// # Errors
    /// When a captured variable cannot be encoded.
    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error>;

    /// Reads its function.
    ///
    /// # Errors
    /// When the body is damaged or of another executable.
    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error>;
}

/// Pairs by their key.
#[derive(Debug, Clone, Copy)]
pub struct ByKey;

impl<K: Data + Ord + Clone, V: 'static> SortBy<(K, V)> for ByKey {
    type Key = K;

    const COMPUTED: bool = false;

    #[inline]
    fn with_key<R>(&self, row: &(K, V), use_key: impl FnOnce(&K) -> R) -> R {
        use_key(&row.0)
    }

    fn encode(&self, _: &mut BodyWriter) -> Result<(), Error> {
        Ok(())
    }

    fn decode(_: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self)
    }
}

/// Rows by what a function makes of them.
#[derive(Debug, Clone, Copy)]
pub struct ByFunction<F>(pub(crate) F);

impl<T: 'static, K: Data + Ord + Clone, F: Fn(&T) -> K + Function> SortBy<T> for ByFunction<F> {
    type Key = K;

    const COMPUTED: bool = true;

    #[inline]
    fn with_key<R>(&self, row: &T, use_key: impl FnOnce(&K) -> R) -> R {
        use_key(&(self.0)(row))
    }

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        body.function(&self.0)
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self(body.function()?))
    }
}

/// A key and a direction: an order of rows.
#[derive(Clone)]
pub(crate) struct Directed<B> {
    pub(crate) by: B,
    pub(crate) direction: Direction,
}

impl<B> Directed<B> {
    fn directed(&self, order: Ordering) -> Ordering {
        match self.direction {
            Direction::Ascending => order,
            Direction::Descending => order.reverse(),
        }
    }
}

impl<T, B: SortBy<T>> Order<T> for Directed<B> {
    #[inline]
    fn compare(&self, a: &T, b: &T) -> Ordering {
        self.directed(self.by.with_key(a, |a| self.by.with_key(b, |b| a.cmp(b))))
    }

    #[inline]
    fn prefix(&self, row: &T) -> u64 {
        let prefix = self.by.with_key(row, sort_key::prefix);
        match self.direction {
            Direction::Ascending => prefix,
            Direction::Descending => !prefix,
        }
    }

    fn is_exact(&self) -> bool {
        sort_key::is_exact::<B::Key>()
    }

    #[expect(unsafe_code, reason = "see `permute`")]
    fn sort(&self, rows: &mut Vec<T>) {
        if !B::COMPUTED || sort_key::has_prefix::<B::Key>() {
            return self.sort_by_prefix(rows);
        }
        // Keys that are computed and have no number are made once, not for every comparison.
        let keys = rows.iter().map(|row| self.by.with_key(row, Clone::clone));
        let mut places: Vec<(B::Key, u32)> = keys.zip(0..).collect();
        places.sort_unstable_by(|a, b| self.directed(a.0.cmp(&b.0)).then_with(|| a.1.cmp(&b.1)));
        // SAFETY: each row got one place, and sorting only moves places.
        unsafe { permute(rows, &places) };
    }
}

/// Samples the keys of a partition.
#[derive(Clone)]
struct SampleKeys<B> {
    by: B,
    size: Wanted,
}

/// The seed of samples for bounds: which keys are looked at changes the sizes of partitions, never a result.
const SAMPLE_SEED: u64 = 0x5eed;

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Wanted {
    /// So many keys.
    Number(u64),
    /// This part of all keys.
    Fraction(f64),
}

impl<T: 'static, B: SortBy<T>> Action<T> for SampleKeys<B> {
    type Output = Sketch<B::Key>;

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        body.value(&self.size)?;
        self.by.encode(body)
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self { size: body.value()?, by: B::decode(body)? })
    }

    fn run<I: Iterator<Item = T>>(&self, _: &Task, partition: u32, rows: I) -> Result<Self::Output, Error> {
        let key = |row: &T| self.by.with_key(row, Clone::clone);
        Ok(match self.size {
            Wanted::Number(size) => {
                let size = usize::try_from(size).unwrap_or(usize::MAX);
                let (sample, keys) = reservoir(rows, size, &mut generator(SAMPLE_SEED, partition));
                Sketch { keys, sample: sample.iter().map(key).collect() }
            }
            Wanted::Fraction(fraction) => {
                let mut sampler = Sampler::bernoulli(fraction, SAMPLE_SEED, partition);
                let (mut keys, mut sample) = (0, Vec::new());
                rows.for_each(|row| {
                    keys += 1;
                    if sampler.copies() > 0 {
                        sample.push(key(&row));
                    }
                });
                Sketch { keys, sample }
            }
        })
    }
}

/// Rows to the partition of their key's range.
#[derive(Clone)]
struct ByRange<B, K> {
    by: B,
    bounds: RangeBounds<K>,
}

impl<T: Data, B: SortBy<T>> MapSide<T> for ByRange<B, B::Key> {
    type Record = T;

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        self.by.encode(body)?;
        body.value(&self.bounds)
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self { by: B::decode(body)?, bounds: body.value()? })
    }

    fn write<I: Iterator<Item = T>>(
        &self,
        task: &Task,
        _: u32,
        rows: I,
        output: &mut ShuffleWriter,
    ) -> Result<(), Error> {
        let bounds = Lookup::new(&self.bounds);
        rows.for_each(|row| {
            let partition = self.by.with_key(&row, |key| bounds.partition(key));
            output.write(partition, &row).unwrap_or_else(|error| task.fail(error));
        });
        Ok(())
    }
}

/// Rows in order: within each partition, and, if they were moved by ranges, from each partition to the next.
pub struct Sorted<T, B> {
    source: ShuffleSource,
    order: Directed<B>,
    partitioning: Option<Partitioning>,
    label: Label,
    rows: PhantomData<fn() -> T>,
}

impl<T, B: Clone> Clone for Sorted<T, B> {
    fn clone(&self) -> Self {
        Self {
            source: self.source.clone(),
            order: self.order.clone(),
            partitioning: self.partitioning.clone(),
            label: self.label,
            rows: PhantomData,
        }
    }
}

impl<T: Data, B: SortBy<T>> Chain for Sorted<T, B> {
    type Item = T;

    fn partitions(&self) -> u32 {
        self.source.partitions()
    }

    fn partitioning(&self) -> Option<Partitioning> {
        self.partitioning.clone()
    }

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        self.source.encode(body)?;
        body.value(&self.order.direction)?;
        self.order.by.encode(body)
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        let source = ShuffleSource::decode(body)?;
        let order = Directed { direction: body.value()?, by: B::decode(body)? };
        Ok(Self { source, order, partitioning: None, label: Label::remote("sort"), rows: PhantomData })
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
    ) -> Result<impl Iterator<Item = T> + use<'a, T, B>, Error> {
        let mut sorter = Sorter::new(Resources::of(task), &self.order);
        self.source.records(task, partition)?.for_each(|row| {
            sorter.push(row).unwrap_or_else(|error| task.fail(error));
        });
        // Rows that ended early are not put in order.
        task.check()?;
        Ok(or_fail(task, sorter.finish()?))
    }
}

impl<T: Data, C: Chain<Item = T>> Rdd<T, C> {
    /// All rows in the order of what a function makes of them, in at most as many partitions as before: each partition in
    /// order, and every key of one at or below those of the next. Equal rows keep no order. Samples the keys at once.
    ///
    /// # Errors
    /// When the job that samples does not succeed.
    ///
    /// # Examples
    /// ```no_run
    /// # fn example(ctx: &rdd::RddContext) -> Result<(), rdd::Error> {
    /// let words = ctx.parallelize(["pear", "fig", "apple"].map(rdd::Str::from));
    /// let shortest_first = words.sort_by(|word| word.len())?.collect()?;
    /// assert_eq!(shortest_first, ["fig", "pear", "apple"]);
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn sort_by<K: Data + Ord + Clone, F: Fn(&T) -> K + Function>(
        &self,
        key: F,
    ) -> Result<Rdd<T, Sorted<T, ByFunction<F>>>, Error> {
        self.sort_by_into(key, Direction::Ascending, self.partitions())
    }

    /// All rows in the order of what a function makes of them, in this direction and in so many partitions at most. See
    /// [`sort_by`](Self::sort_by).
    ///
    /// # Errors
    /// When the job that samples does not succeed.
    #[track_caller]
    pub fn sort_by_into<K: Data + Ord + Clone, F: Fn(&T) -> K + Function>(
        &self,
        key: F,
        direction: Direction,
        partitions: u32,
    ) -> Result<Rdd<T, Sorted<T, ByFunction<F>>>, Error> {
        assert_portable::<F>();
        self.sorted(ByFunction(key), direction, partitions, Label::here("sort_by"))
    }

    fn sorted<B: SortBy<T>>(
        &self,
        by: B,
        direction: Direction,
        partitions: u32,
        label: Label,
    ) -> Result<Rdd<T, Sorted<T, B>>, Error> {
        let bounds = self.bounds(&by, direction, partitions, label)?;
        let (partitions, known) = (bounds.partitions(), KeyBounds::new(bounds.clone()));
        let write = ByRange { by: by.clone(), bounds };
        let dependency = ShuffleDependency::new(self.context(), self.chain().clone(), write, partitions, label);
        // The shuffle's number is as unique as the samples that its bounds were made of.
        let id = dependency.shuffle().0;
        let partitioning = (!B::COMPUTED).then_some(Partitioning::Range { id, partitions, bounds: known });
        let source = ShuffleSource::new(dependency);
        let order = Directed { by, direction };
        Ok(Rdd::new(self.context(), Sorted { source, order, partitioning, label, rows: PhantomData }))
    }

    fn bounds<B: SortBy<T>>(
        &self,
        by: &B,
        direction: Direction,
        partitions: u32,
        label: Label,
    ) -> Result<RangeBounds<B::Key>, Error> {
        let ascending = direction == Direction::Ascending;
        let partitions = partitions.max(1);
        if partitions == 1 {
            return Ok(RangeBounds::determine(Vec::new(), 1, ascending));
        }
        let size = sample_size(partitions, self.partitions());
        let mut sketches = self.run_all(label, SampleKeys { by: by.clone(), size: Wanted::Number(size.each) })?;
        let (thin, fraction) = too_thin(&sketches, size);
        let again = SampleKeys { by: by.clone(), size: Wanted::Fraction(fraction) };
        self.run_action(label, again, thin, |partition, sketch| {
            sketches[partition as usize] = sketch;
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(RangeBounds::determine(sketches, partitions, ascending))
    }
}

impl<K: Data + Ord + Clone, V: Data, C: Chain<Item = (K, V)>> Rdd<(K, V), C> {
    /// All pairs in the order of their keys. See [`sort_by`](Rdd::sort_by).
    ///
    /// # Errors
    /// When the job that samples does not succeed.
    #[track_caller]
    pub fn sort_by_key(&self) -> Result<Rdd<(K, V), Sorted<(K, V), ByKey>>, Error> {
        self.sort_by_key_into(Direction::Ascending, self.partitions())
    }

    /// All pairs in the order of their keys, in this direction and in so many partitions at most. See
    /// [`sort_by`](Rdd::sort_by).
    ///
    /// # Errors
    /// When the job that samples does not succeed.
    #[track_caller]
    pub fn sort_by_key_into(
        &self,
        direction: Direction,
        partitions: u32,
    ) -> Result<Rdd<(K, V), Sorted<(K, V), ByKey>>, Error> {
        self.sorted(ByKey, direction, partitions, Label::here("sort_by_key"))
    }

    /// Pairs in so many partitions by the hash of their key, each partition in the order of its keys: cheaper than
    /// [`partition_by`](Self::partition_by) and a sort after it.
    #[track_caller]
    pub fn repartition_and_sort_within_partitions(&self, partitions: u32) -> Rdd<(K, V), Sorted<(K, V), ByKey>>
    where
        K: Hash,
    {
        let label = Label::here("repartition_and_sort_within_partitions");
        let partitions = partitions.max(1);
        let dependency = ShuffleDependency::new(self.context(), self.chain().clone(), wide::ByKey, partitions, label);
        let source = ShuffleSource::new(dependency);
        let order = Directed { by: ByKey, direction: Direction::Ascending };
        let partitioning = Some(Partitioning::Hash { partitions });
        Rdd::new(self.context(), Sorted { source, order, partitioning, label, rows: PhantomData })
    }
}
