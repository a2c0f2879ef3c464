//! Which calls start a job?

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use model::PartitionId;
use model::graph::Output;

use crate::chain::{Chain, Label};
use crate::codec::{self, BodyReader, BodyWriter, Data};
use crate::compute::Task;
use crate::dataset::Rdd;
use crate::error::Error;
use crate::function::{Function, assert_portable};
use crate::narrow::Rows;
use crate::stages::{Action, cut};

/// All rows.
#[derive(Clone)]
struct Collect;

impl<T: Data> Action<T> for Collect {
    type Output = Vec<T>;

    fn encode(&self, _: &mut BodyWriter) -> Result<(), Error> {
        Ok(())
    }

    fn decode(_: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self)
    }

    fn run<I: Iterator<Item = T>>(&self, task: &Task, _: u32, rows: I) -> Result<Vec<T>, Error> {
        let rows: Vec<T> = rows.collect();
        task.count(|m| m.output_rows += rows.len() as u64);
        Ok(rows)
    }
}

/// How many rows.
#[derive(Clone)]
struct Count;

impl<T> Action<T> for Count {
    type Output = u64;

    fn encode(&self, _: &mut BodyWriter) -> Result<(), Error> {
        Ok(())
    }

    fn decode(_: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self)
    }

    fn run<I: Iterator<Item = T>>(&self, _: &Task, _: u32, rows: I) -> Result<u64, Error> {
        Ok(rows.fold(0, |count, _| count + 1))
    }
}

/// One row of all, by a function of two.
#[derive(Clone)]
struct Reduce<F>(F);

impl<T: Data, F: Fn(T, T) -> T + Function> Action<T> for Reduce<F> {
    type Output = Option<T>;

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        body.function(&self.0)
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self(body.function()?))
    }

    fn run<I: Iterator<Item = T>>(&self, _: &Task, _: u32, rows: I) -> Result<Option<T>, Error> {
        Ok(rows.reduce(&self.0))
    }
}

/// One value of all rows, from a start.
#[derive(Clone)]
struct Aggregate<A, F> {
    zero: A,
    function: F,
}

impl<T, A: Data + Clone, F: Fn(A, T) -> A + Function> Action<T> for Aggregate<A, F> {
    type Output = A;

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        body.value(&self.zero)?;
        body.function(&self.function)
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self { zero: body.value()?, function: body.function()? })
    }

    fn run<I: Iterator<Item = T>>(&self, _: &Task, _: u32, rows: I) -> Result<A, Error> {
        Ok(rows.fold(self.zero.clone(), &self.function))
    }
}

/// The first rows.
#[derive(Clone)]
struct Take(u64);

impl<T: Data> Action<T> for Take {
    type Output = Vec<T>;

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        body.value(&self.0)
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self(body.value()?))
    }

    fn run<I: Iterator<Item = T>>(&self, task: &Task, _: u32, rows: I) -> Result<Vec<T>, Error> {
        let rows: Vec<T> = rows.take(usize::try_from(self.0).unwrap_or(usize::MAX)).collect();
        task.count(|m| m.output_rows += rows.len() as u64);
        Ok(rows)
    }
}

/// A call for each row.
#[derive(Clone)]
struct ForEach<F>(F);

impl<T, F: Fn(T) + Function> Action<T> for ForEach<F> {
    type Output = ();

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        body.function(&self.0)
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self(body.function()?))
    }

    fn run<I: Iterator<Item = T>>(&self, _: &Task, _: u32, rows: I) -> Result<(), Error> {
        rows.for_each(&self.0);
        Ok(())
    }
}

/// A call for each partition.
#[derive(Clone)]
struct ForEachPartition<F>(F);

impl<T, F: Fn(Rows<'_, T>) + Function> Action<T> for ForEachPartition<F> {
    type Output = ();

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        body.function(&self.0)
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self(body.function()?))
    }

    fn run<I: Iterator<Item = T>>(&self, _: &Task, _: u32, rows: I) -> Result<(), Error> {
        (self.0)(Rows::new(rows));
        Ok(())
    }
}

/// How many times more partitions than before `take` asks for when those it had were not enough (Spark's number).
const TAKE_GROWS_BY: u64 = 4;

impl<T: 'static, C: Chain<Item = T>> Rdd<T, C> {
    /// Runs an action on some partitions and gives what it makes of each, in the order of arrival, to a function on this
    /// thread, until that breaks.
    ///
    /// # Errors
    /// When the job does not succeed, or the function fails.
    pub fn run_action<A: Action<T>>(
        &self,
        label: Label,
        action: A,
        partitions: impl IntoIterator<Item = u32>,
        mut each: impl FnMut(u32, A::Output) -> Result<ControlFlow<()>, Error>,
    ) -> Result<(), Error> {
        let wanted: Vec<_> = partitions.into_iter().map(PartitionId).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let stages = cut(self.context(), self.chain().clone(), action, label, Output::Result)?;
        let job = self.context().job(label, stages, wanted);
        self.context().run(job, |partition, bytes| each(partition.0, codec::decode(&bytes)?))
    }

    /// Runs an action on every partition and gives what it makes of them, in the order of partitions.
    ///
    /// # Errors
    /// When the job does not succeed.
    pub fn run_all<A: Action<T>>(&self, label: Label, action: A) -> Result<Vec<A::Output>, Error> {
        let mut outputs: Vec<Option<A::Output>> = (0..self.partitions()).map(|_| None).collect();
        self.run_action(label, action, 0..self.partitions(), |partition, output| {
            outputs[partition as usize] = Some(output);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(outputs.into_iter().flatten().collect())
    }

    /// All rows, in the order of partitions.
    ///
    /// # Errors
    /// When the job does not succeed; its rows may be more than `driver.max_result_size`.
    #[track_caller]
    pub fn collect(&self) -> Result<Vec<T>, Error>
    where
        T: Data,
    {
        Ok(self.run_all(Label::here("collect"), Collect)?.into_iter().flatten().collect())
    }

    /// All rows of some partitions, in ascending order of these.
    pub(crate) fn collect_partitions(
        &self,
        label: Label,
        partitions: impl IntoIterator<Item = u32>,
    ) -> Result<Vec<T>, Error>
    where
        T: Data,
    {
        let mut parts = BTreeMap::new();
        self.run_action(label, Collect, partitions, |partition, rows| {
            parts.insert(partition, rows);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(parts.into_values().flatten().collect())
    }

    /// How many rows some partitions have, in ascending order of these.
    pub(crate) fn count_partitions(
        &self,
        label: Label,
        partitions: impl IntoIterator<Item = u32>,
    ) -> Result<Vec<u64>, Error> {
        let mut counts = BTreeMap::new();
        self.run_action(label, Count, partitions, |partition, count| {
            counts.insert(partition, count);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(counts.into_values().collect())
    }

    /// How many rows.
    ///
    /// # Errors
    /// When the job does not succeed.
    #[track_caller]
    pub fn count(&self) -> Result<u64, Error> {
        Ok(self.run_all(Label::here("count"), Count)?.into_iter().sum())
    }

    /// One row of all, by a function that is associative and commutative; none of none.
    ///
    /// # Errors
    /// When the job does not succeed.
    #[track_caller]
    pub fn reduce<F: Fn(T, T) -> T + Function>(&self, function: F) -> Result<Option<T>, Error>
    where
        T: Data,
    {
        assert_portable::<F>();
        let parts = self.run_all(Label::here("reduce"), Reduce(function.clone()))?;
        Ok(parts.into_iter().flatten().reduce(function))
    }

    /// One row of all and, in each partition and at the end, of `zero`, by a function that is associative and commutative.
    ///
    /// # Errors
    /// When the job does not succeed.
    #[track_caller]
    pub fn fold<F: Fn(T, T) -> T + Function>(&self, zero: T, function: F) -> Result<T, Error>
    where
        T: Data + Clone,
    {
        assert_portable::<F>();
        let action = Aggregate { zero: zero.clone(), function: function.clone() };
        Ok(self.run_all(Label::here("fold"), action)?.into_iter().fold(zero, function))
    }

    /// One value of all rows: each partition's from `zero` and its rows, then the whole from `zero` and those.
    ///
    /// # Errors
    /// When the job does not succeed.
    #[track_caller]
    pub fn aggregate<A, F, G>(&self, zero: A, add: F, merge: G) -> Result<A, Error>
    where
        A: Data + Clone,
        F: Fn(A, T) -> A + Function,
        G: Fn(A, A) -> A,
    {
        assert_portable::<F>();
        let action = Aggregate { zero: zero.clone(), function: add };
        Ok(self.run_all(Label::here("aggregate"), action)?.into_iter().fold(zero, merge))
    }

    /// The first so many rows. Computes one partition, then four times as many at a time, until there are enough.
    ///
    /// # Errors
    /// When a job does not succeed.
    #[track_caller]
    pub fn take(&self, rows: usize) -> Result<Vec<T>, Error>
    where
        T: Data,
    {
        let label = Label::here("take");
        let (mut taken, mut next, mut batch) = (Vec::new(), 0u64, 1u64);
        let all = u64::from(self.partitions());
        while taken.len() < rows && next < all {
            let end = (next + batch).min(all);
            let mut parts: Vec<Vec<T>> = (next..end).map(|_| Vec::new()).collect();
            let action = Take((rows - taken.len()) as u64);
            self.run_action(label, action, next as u32..end as u32, |partition, rows| {
                parts[partition as usize - next as usize] = rows;
                Ok(ControlFlow::Continue(()))
            })?;
            taken.extend(parts.into_iter().flatten().take(rows - taken.len()));
            (next, batch) = (end, batch * TAKE_GROWS_BY);
        }
        Ok(taken)
    }

    /// The first row, if there is one.
    ///
    /// # Errors
    /// When a job does not succeed.
    #[track_caller]
    pub fn first(&self) -> Result<Option<T>, Error>
    where
        T: Data,
    {
        Ok(self.take(1)?.pop())
    }

    /// Calls a function once per partition with all of its rows, in the executor that computes it: for what is costly to
    /// set up, such as a connection.
    ///
    /// # Errors
    /// When the job does not succeed.
    #[track_caller]
    pub fn foreach_partition<F: Fn(Rows<'_, T>) + Function>(&self, function: F) -> Result<(), Error> {
        assert_portable::<F>();
        self.run_all(Label::here("foreach_partition"), ForEachPartition(function)).map(drop)
    }

    /// Calls a function for each row, in the executor that computes it.
    ///
    /// # Errors
    /// When the job does not succeed.
    #[track_caller]
    pub fn foreach<F: Fn(T) + Function>(&self, function: F) -> Result<(), Error> {
        assert_portable::<F>();
        self.run_all(Label::here("foreach"), ForEach(function)).map(drop)
    }
}
