//! Which operations do pairs of key and value have?
//!
//! Those that keep every key keep its place too: a dataset that is partitioned by key stays so, and a join or a reduction
//! after them moves nothing.

#![expect(clippy::type_complexity, reason = "a dataset's type names its operations, as an iterator's does")]

use std::collections::HashMap;
use std::hash::Hash;

use crate::chain::{Chain, Label, Narrow, Partitioning};
use crate::codec::{BodyReader, BodyWriter, Data};
use crate::compute::Task;
use crate::dataset::Rdd;
use crate::error::Error;
use crate::function::{Captured, Function, assert_portable};
use crate::gather::Pruned;
use crate::narrow::{Filter, Map};
use crate::wide::{CoGroup, partition_of};

/// Pairs whose values a function has changed.
#[derive(Clone)]
pub struct MapValues<C, F> {
    parent: C,
    function: F,
    label: Label,
}

impl<K: 'static, V: 'static, W: 'static, C: Chain<Item = (K, V)>, F: Fn(V) -> W + Function> Narrow for MapValues<C, F> {
    type Parent = C;
    type Item = (K, W);

    fn parent(&self) -> &C {
        &self.parent
    }

    fn label(&self) -> Label {
        self.label
    }

    fn partitioning(&self, parent: Option<Partitioning>) -> Option<Partitioning> {
        parent
    }

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        body.function(&self.function)
    }

    fn decode(parent: C, body: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self { parent, function: body.function()?, label: Label::remote("map_values") })
    }

    #[inline]
    fn apply<'a, I>(&'a self, _: &'a Task, _: u32, rows: I) -> impl Iterator<Item = (K, W)> + use<'a, K, V, W, C, F, I>
    where
        I: Iterator<Item = (K, V)> + 'a,
    {
        rows.map(|(key, value)| (key, (self.function)(value)))
    }
}

/// Pairs of which a function has made any number with the same key.
#[derive(Clone)]
pub struct FlatMapValues<C, F> {
    parent: C,
    function: F,
    label: Label,
}

impl<K, V, U, C, F> Narrow for FlatMapValues<C, F>
where
    K: Clone + 'static,
    V: 'static,
    U: IntoIterator<Item: 'static> + 'static,
    C: Chain<Item = (K, V)>,
    F: Fn(V) -> U + Function,
{
    type Parent = C;
    type Item = (K, U::Item);

    fn parent(&self) -> &C {
        &self.parent
    }

    fn label(&self) -> Label {
        self.label
    }

    fn partitioning(&self, parent: Option<Partitioning>) -> Option<Partitioning> {
        parent
    }

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        body.function(&self.function)
    }

    fn decode(parent: C, body: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self { parent, function: body.function()?, label: Label::remote("flat_map_values") })
    }

    #[inline]
    fn apply<'a, I>(
        &'a self,
        _: &'a Task,
        _: u32,
        rows: I,
    ) -> impl Iterator<Item = (K, U::Item)> + use<'a, K, V, U, C, F, I>
    where
        I: Iterator<Item = (K, V)> + 'a,
    {
        rows.flat_map(|(key, value)| (self.function)(value).into_iter().map(move |value| (key.clone(), value)))
    }
}

/// Every value of one side with every value of the other.
fn product<V: Clone, W: Clone>(left: Vec<V>, right: Vec<W>) -> Vec<(V, W)> {
    let mut pairs = Vec::with_capacity(left.len() * right.len());
    for value in left {
        pairs.extend(right.iter().map(|other| (value.clone(), other.clone())));
    }
    pairs
}

/// The values, or one absence if there is none.
fn or_absent<T>(values: Vec<T>) -> Vec<Option<T>> {
    if values.is_empty() { vec![None] } else { values.into_iter().map(Some).collect() }
}

type Values<V, W> = (Vec<V>, Vec<W>);

/// A join: groups of two datasets, and what is made of each.
pub type Join<A, B, F> = FlatMapValues<CoGroup<A, B>, F>;

impl<K: 'static, V: 'static, C: Chain<Item = (K, V)>> Rdd<(K, V), C> {
    /// The keys.
    #[track_caller]
    pub fn keys(&self) -> Rdd<K, Map<C, impl Fn((K, V)) -> K + Function + use<K, V, C>>> {
        self.map(|(key, _)| key)
    }

    /// The values.
    #[track_caller]
    pub fn values(&self) -> Rdd<V, Map<C, impl Fn((K, V)) -> V + Function + use<K, V, C>>> {
        self.map(|(_, value)| value)
    }

    /// Applies a function to each value. The dataset stays partitioned as it is.
    #[track_caller]
    pub fn map_values<W: 'static, F: Fn(V) -> W + Function>(&self, function: F) -> Rdd<(K, W), MapValues<C, F>> {
        assert_portable::<F>();
        let label = Label::here("map_values");
        Rdd::new(self.context(), MapValues { parent: self.chain().clone(), function, label })
    }

    /// Applies a function that gives any number of values to each value. The dataset stays partitioned as it is.
    #[track_caller]
    pub fn flat_map_values<U, F>(&self, function: F) -> Rdd<(K, U::Item), FlatMapValues<C, F>>
    where
        K: Clone,
        U: IntoIterator<Item: 'static> + 'static,
        F: Fn(V) -> U + Function,
    {
        self.flat_map_values_labelled(Label::here("flat_map_values"), function)
    }

    fn flat_map_values_labelled<U, F>(&self, label: Label, function: F) -> Rdd<(K, U::Item), FlatMapValues<C, F>>
    where
        K: Clone,
        U: IntoIterator<Item: 'static> + 'static,
        F: Fn(V) -> U + Function,
    {
        assert_portable::<F>();
        Rdd::new(self.context(), FlatMapValues { parent: self.chain().clone(), function, label })
    }

    /// The pairs whose key lies from `lower` to `upper`, both included. Of a dataset that was sorted by key, only the
    /// partitions are computed that can hold such keys.
    #[track_caller]
    pub fn filter_by_range(
        &self,
        lower: K,
        upper: K,
    ) -> Rdd<(K, V), Filter<Pruned<C>, impl Fn(&(K, V)) -> bool + Function + use<K, V, C>>>
    where
        K: Data + Clone + Ord,
    {
        let kept = match self.partitioning() {
            Some(Partitioning::Range { bounds, .. }) => bounds.of::<K>().map(|bounds| bounds.holding(&lower, &upper)),
            Some(Partitioning::Hash { .. }) | None => None,
        };
        let kept = kept.unwrap_or(0..self.partitions());
        let pruned = Pruned::new(self.chain().clone(), kept, Label::here("filter_by_range"));
        let bounds = Captured::new((lower, upper));
        Rdd::new(self.context(), pruned).filter(move |(key, _)| {
            let (lower, upper) = Captured::get(&bounds);
            lower <= key && key <= upper
        })
    }
}

impl<K: Data + Hash + Eq + Clone, V: Data + Clone, C: Chain<Item = (K, V)>> Rdd<(K, V), C> {
    /// For every key of both datasets, every value of this one with every value of the other. In as many partitions as
    /// the larger of both has; a side that is partitioned so already is not moved.
    ///
    /// # Examples
    /// ```no_run
    /// # fn example(ctx: &rdd::RddContext) -> Result<(), rdd::Error> {
    /// let ages = ctx.parallelize([(1, 30), (2, 40)]);
    /// let heights = ctx.parallelize([(2, 180), (3, 170)]);
    /// assert_eq!(ages.join(&heights).collect()?, [(2, (40, 180))]);
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn join<W: Data + Clone, D: Chain<Item = (K, W)>>(
        &self,
        other: &Rdd<(K, W), D>,
    ) -> Rdd<(K, (V, W)), Join<C, D, impl Fn(Values<V, W>) -> Vec<(V, W)> + Function + use<K, V, W, C, D>>> {
        self.cogroup(other).flat_map_values_labelled(Label::here("join"), |(left, right)| product(left, right))
    }

    /// As [`join`](Self::join), and the pairs of this dataset whose key the other lacks, with `None`.
    #[track_caller]
    pub fn left_outer_join<W: Data + Clone, D: Chain<Item = (K, W)>>(
        &self,
        other: &Rdd<(K, W), D>,
    ) -> Rdd<
        (K, (V, Option<W>)),
        Join<C, D, impl Fn(Values<V, W>) -> Vec<(V, Option<W>)> + Function + use<K, V, W, C, D>>,
    > {
        let label = Label::here("left_outer_join");
        self.cogroup(other).flat_map_values_labelled(label, |(left, right)| product(left, or_absent(right)))
    }

    /// As [`join`](Self::join), and the pairs of the other dataset whose key this one lacks, with `None`.
    #[track_caller]
    pub fn right_outer_join<W: Data + Clone, D: Chain<Item = (K, W)>>(
        &self,
        other: &Rdd<(K, W), D>,
    ) -> Rdd<
        (K, (Option<V>, W)),
        Join<C, D, impl Fn(Values<V, W>) -> Vec<(Option<V>, W)> + Function + use<K, V, W, C, D>>,
    > {
        let label = Label::here("right_outer_join");
        self.cogroup(other).flat_map_values_labelled(label, |(left, right)| product(or_absent(left), right))
    }

    /// As [`join`](Self::join), and the pairs of either dataset whose key the other lacks, with `None`.
    #[track_caller]
    pub fn full_outer_join<W: Data + Clone, D: Chain<Item = (K, W)>>(
        &self,
        other: &Rdd<(K, W), D>,
    ) -> Rdd<
        (K, (Option<V>, Option<W>)),
        Join<C, D, impl Fn(Values<V, W>) -> Vec<(Option<V>, Option<W>)> + Function + use<K, V, W, C, D>>,
    > {
        let label = Label::here("full_outer_join");
        self.cogroup(other).flat_map_values_labelled(label, |(left, right)| product(or_absent(left), or_absent(right)))
    }

    /// The pairs whose key the other dataset lacks.
    #[track_caller]
    pub fn subtract_by_key<W: Data, D: Chain<Item = (K, W)>>(
        &self,
        other: &Rdd<(K, W), D>,
    ) -> Rdd<(K, V), impl Chain<Item = (K, V)> + use<K, V, W, C, D>> {
        let label = Label::here("subtract_by_key");
        // Only the other's keys are moved.
        self.cogroup(&other.map_values(drop)).flat_map_values_labelled(label, |(left, right): Values<V, ()>| {
            if right.is_empty() { left } else { Vec::new() }
        })
    }

    /// All values of a key. If the dataset is partitioned by the hash of keys, only the partition of the key is computed.
    ///
    /// # Errors
    /// When the job does not succeed.
    #[track_caller]
    pub fn lookup(&self, key: &K) -> Result<Vec<V>, Error> {
        let matching = self.filter_with(key.clone(), |key, (other, _)| key == other).map(|(_, value)| value);
        match self.partitioning() {
            Some(Partitioning::Hash { partitions }) => {
                let partition = partition_of(key, partitions);
                matching.collect_partitions(Label::here("lookup"), [partition])
            }
            Some(Partitioning::Range { .. }) | None => {
                matching.collect_partitions(Label::here("lookup"), 0..self.partitions())
            }
        }
    }
}

impl<K: Data + Hash + Eq, V: Data, C: Chain<Item = (K, V)>> Rdd<(K, V), C> {
    /// All pairs as a map; of several values of a key, the last.
    ///
    /// # Errors
    /// When the job does not succeed.
    #[track_caller]
    pub fn collect_as_map(&self) -> Result<HashMap<K, V>, Error> {
        Ok(self.collect_partitions(Label::here("collect_as_map"), 0..self.partitions())?.into_iter().collect())
    }

    /// How many pairs each key has. All keys come to the program.
    ///
    /// # Errors
    /// When the job does not succeed.
    #[track_caller]
    pub fn count_by_key(&self) -> Result<HashMap<K, u64>, Error> {
        let counts = self.map_values(|_| 1u64).reduce_by_key(|a, b| a + b);
        Ok(counts.collect_partitions(Label::here("count_by_key"), 0..counts.partitions())?.into_iter().collect())
    }

    /// A sample by key: of the pairs of each key about the fraction that is named for it, of other keys none. With
    /// replacement, a pair may be taken several times.
    #[track_caller]
    pub fn sample_by_key(
        &self,
        with_replacement: bool,
        fractions: HashMap<K, f64>,
        seed: u64,
    ) -> Rdd<
        (K, V),
        crate::narrow::MapPartitions<
            C,
            impl Fn(u32, crate::narrow::Rows<'static, (K, V)>) -> crate::sample::ByKey<K, V> + Function + use<K, V, C>,
        >,
    >
    where
        K: Clone,
        V: Clone,
    {
        let environment = Captured::new((with_replacement, fractions, seed));
        self.map_partitions_labelled(Label::here("sample_by_key"), true, move |partition, rows| {
            let (with_replacement, fractions, seed) = Captured::get(&environment);
            crate::sample::ByKey::new(rows, *with_replacement, fractions.clone(), *seed, partition)
        })
    }
}

impl<T: Data + Hash + Eq + Clone, C: Chain<Item = T>> Rdd<T, C> {
    /// The rows that the other dataset lacks; those that are here several times stay so.
    #[track_caller]
    pub fn subtract<D: Chain<Item = T>>(&self, other: &Rdd<T, D>) -> Rdd<T, impl Chain<Item = T> + use<T, C, D>> {
        let label = Label::here("subtract");
        self.map(|row| (row, ()))
            .cogroup(&other.map(|row| (row, ())))
            .flat_map_values_labelled(
                label,
                |(left, right): Values<(), ()>| if right.is_empty() { left } else { Vec::new() },
            )
            .keys()
    }

    /// The rows of both datasets, each once.
    #[track_caller]
    pub fn intersection<D: Chain<Item = T>>(&self, other: &Rdd<T, D>) -> Rdd<T, impl Chain<Item = T> + use<T, C, D>> {
        let label = Label::here("intersection");
        self.map(|row| (row, ()))
            .cogroup(&other.map(|row| (row, ())))
            .flat_map_values_labelled(label, |(left, right): Values<(), ()>| {
                (!left.is_empty() && !right.is_empty()).then_some(())
            })
            .keys()
    }

    /// How often each row is there. All distinct rows come to the program.
    ///
    /// # Errors
    /// When the job does not succeed.
    #[track_caller]
    pub fn count_by_value(&self) -> Result<HashMap<T, u64>, Error> {
        let counts = self.map(|row| (row, 1u64)).reduce_by_key(|a, b| a + b);
        Ok(counts.collect_partitions(Label::here("count_by_value"), 0..counts.partitions())?.into_iter().collect())
    }
}

impl<T: 'static, C: Chain<Item = T>> Rdd<T, C> {
    /// The rows by what a function makes of them, each group as one row.
    #[track_caller]
    pub fn group_by<K: Data + Hash + Eq, F: Fn(&T) -> K + Function>(
        &self,
        key: F,
    ) -> Rdd<(K, Vec<T>), impl Chain<Item = (K, Vec<T>)> + use<T, C, K, F>>
    where
        T: Data,
    {
        assert_portable::<F>();
        self.map(move |row| ((&key as &F)(&row), row)).group_by_key()
    }
}
