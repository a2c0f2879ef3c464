//! Which operations bring partitions of two datasets together, or number the rows of one?

#![expect(clippy::type_complexity, reason = "a dataset's type names its operations, as an iterator's does")]

use std::sync::Arc;

use model::shuffle::ReadRange;
use model::{Failure, FailureKind};

use crate::chain::{Chain, Label, Lineage};
use crate::codec::{BodyReader, BodyWriter, Data, InputReader, InputWriter};
use crate::compute::Task;
use crate::dataset::Rdd;
use crate::error::Error;
use crate::external::{Held, Resources};
use crate::function::{Captured, Function, assert_portable};
use crate::narrow::{MapPartitions, Rows};

/// The first rows of two datasets as a pair, the second rows, and so on.
#[derive(Clone)]
pub struct Zip<A, B> {
    left: A,
    right: B,
    label: Label,
}

impl<A: Chain, B: Chain> Chain for Zip<A, B> {
    type Item = (A::Item, B::Item);

    fn partitions(&self) -> u32 {
        self.left.partitions()
    }

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        same_partitions(self.label, &self.left, &self.right)?;
        self.left.encode(body)?;
        self.right.encode(body)
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self { left: A::decode(body)?, right: B::decode(body)?, label: Label::remote("zip") })
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
    ) -> Result<impl Iterator<Item = Self::Item> + use<'a, A, B>, Error> {
        let mut left = self.left.compute(task, partition, input)?;
        let mut right = self.right.compute(task, partition, input)?;
        Ok(std::iter::from_fn(move || match (left.next(), right.next()) {
            (Some(left), Some(right)) => Some((left, right)),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                // If a row is missing because its source failed, that error came first and counts.
                let what = format!("zip: partition {partition} of one dataset has more rows than that of the other");
                task.fail(Failure::new(FailureKind::Query, what));
                None
            }
        }))
    }
}

/// Two datasets that are brought together partition by partition must have as many.
fn same_partitions<A: Chain, B: Chain>(label: Label, left: &A, right: &B) -> Result<(), Error> {
    let (left, right) = (left.partitions(), right.partitions());
    if left == right {
        return Ok(());
    }
    Err(Error::Invalid(format!("{label}: one dataset has {left} partitions, the other {right}")))
}

/// What a function makes of all rows of a partition of one dataset and all of the other's.
#[derive(Clone)]
pub struct ZipPartitions<A, B, F> {
    left: Arc<A>,
    right: Arc<B>,
    function: F,
    label: Label,
}

impl<A, B, U, F> Chain for ZipPartitions<A, B, F>
where
    A: Chain,
    B: Chain,
    U: IntoIterator<Item: 'static> + 'static,
    F: Fn(Rows<'static, A::Item>, Rows<'static, B::Item>) -> U + Function,
{
    type Item = U::Item;

    fn partitions(&self) -> u32 {
        self.left.partitions()
    }

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        same_partitions(self.label, &*self.left, &*self.right)?;
        self.left.encode(body)?;
        self.right.encode(body)?;
        body.function(&self.function)
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        let (left, right) = (Arc::new(A::decode(body)?), Arc::new(B::decode(body)?));
        Ok(Self { left, right, function: body.function()?, label: Label::remote("zip_partitions") })
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
    ) -> Result<impl Iterator<Item = U::Item> + use<'a, A, B, U, F>, Error> {
        let left = Rows::owning(&self.left, task, partition, input)?;
        let right = Rows::owning(&self.right, task, partition, input)?;
        Ok((self.function)(left, right).into_iter())
    }
}

/// Every row of one dataset with every row of another.
#[derive(Clone)]
pub struct Cartesian<A, B> {
    left: A,
    right: B,
    label: Label,
}

impl<A: Chain, B: Chain> Cartesian<A, B> {
    /// The partitions of both parents that make one up.
    fn parents(&self, partition: u32) -> (u32, u32) {
        (partition / self.right.partitions(), partition % self.right.partitions())
    }
}

impl<T: Clone + 'static, U: Data + Clone, A: Chain<Item = T>, B: Chain<Item = U>> Chain for Cartesian<A, B> {
    type Item = (T, U);

    fn partitions(&self) -> u32 {
        self.left.partitions() * self.right.partitions()
    }

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        self.left.encode(body)?;
        self.right.encode(body)
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self { left: A::decode(body)?, right: B::decode(body)?, label: Label::remote("cartesian") })
    }

    fn write_input(&self, partition: u32, input: &mut InputWriter) -> Result<(), Error> {
        let (left, right) = self.parents(partition);
        // An executor knows a chain, not how many partitions it has.
        input.value(&(left, right))?;
        self.left.write_input(left, input)?;
        self.right.write_input(right, input)
    }

    fn reads(&self, partition: u32, ranges: &mut Vec<ReadRange>) {
        let (left, right) = self.parents(partition);
        self.left.reads(left, ranges);
        self.right.reads(right, ranges);
    }

    fn lineage(&self, lineage: &mut Lineage) {
        lineage.operation(self.label, self.partitions());
        lineage.moved(|lineage| self.left.lineage(lineage));
        lineage.moved(|lineage| self.right.lineage(lineage));
    }

    fn compute<'a>(
        &'a self,
        task: &'a Task,
        _: u32,
        input: &mut InputReader,
    ) -> Result<impl Iterator<Item = (T, U)> + use<'a, T, U, A, B>, Error> {
        let (left, right): (u32, u32) = input.value()?;
        let rows = self.left.compute(task, left, input)?;
        // The rows of the right are held: they are wanted again for each row of the left.
        let mut held = Held::new(&Resources::of(task));
        let mut others = self.right.compute(task, right, input)?;
        others.try_for_each(|row| held.push(row))?;
        task.check()?;
        let held = Arc::new(held);
        Ok(rows.flat_map(move |row| {
            let held = Arc::clone(&held);
            (0..held.rows().len()).map(move |at| (row.clone(), held.rows()[at].clone()))
        }))
    }
}

impl<T: 'static, C: Chain<Item = T>> Rdd<T, C> {
    /// The first rows of both datasets as a pair, the second rows, and so on. Both must have as many partitions, and as
    /// many rows in each: otherwise the job that computes it fails.
    #[track_caller]
    pub fn zip<U: 'static, D: Chain<Item = U>>(&self, other: &Rdd<U, D>) -> Rdd<(T, U), Zip<C, D>> {
        let (left, right) = (self.chain().clone(), other.chain().clone());
        Rdd::new(self.context(), Zip { left, right, label: Label::here("zip") })
    }

    /// Applies a function to all rows of each partition and all rows of the other dataset's partition of the same number.
    /// Both must have as many partitions.
    #[track_caller]
    pub fn zip_partitions<U, D, V, F>(&self, other: &Rdd<U, D>, function: F) -> Rdd<V::Item, ZipPartitions<C, D, F>>
    where
        U: 'static,
        D: Chain<Item = U>,
        V: IntoIterator<Item: 'static> + 'static,
        F: Fn(Rows<'static, T>, Rows<'static, U>) -> V + Function,
    {
        assert_portable::<F>();
        let (left, right) = (Arc::new(self.chain().clone()), Arc::new(other.chain().clone()));
        let label = Label::here("zip_partitions");
        Rdd::new(self.context(), ZipPartitions { left, right, function, label })
    }

    /// Every row with every row of the other dataset, in as many partitions as the product of both numbers. A partition
    /// of the other dataset must fit into a task's memory.
    #[track_caller]
    pub fn cartesian<U: Data + Clone, D: Chain<Item = U>>(&self, other: &Rdd<U, D>) -> Rdd<(T, U), Cartesian<C, D>>
    where
        T: Clone,
    {
        let (left, right) = (self.chain().clone(), other.chain().clone());
        Rdd::new(self.context(), Cartesian { left, right, label: Label::here("cartesian") })
    }

    /// Each row with its number, counted from 0 through all partitions. Counts the rows of all partitions but the last
    /// at once, if there are several.
    ///
    /// # Errors
    /// When the job that counts does not succeed.
    #[track_caller]
    pub fn zip_with_index(
        &self,
    ) -> Result<
        Rdd<(T, u64), MapPartitions<C, impl Fn(u32, Rows<'static, T>) -> Numbered<T> + Function + use<T, C>>>,
        Error,
    > {
        let label = Label::here("zip_with_index");
        let counts = self.count_partitions(label, 0..self.partitions().saturating_sub(1))?;
        let starts = counts.into_iter().scan(0, |total, count| {
            *total += count;
            Some(*total)
        });
        let starts = Captured::new(std::iter::once(0).chain(starts).collect::<Vec<u64>>());
        Ok(self.map_partitions_labelled(label, false, move |partition, rows| {
            let starts = Captured::get(&starts);
            Numbered { rows, next: starts[partition as usize], step: 1 }
        }))
    }

    /// Each row with a number that no other has: row `k` of partition `p` of `n` has `k * n + p`. Starts no job.
    #[track_caller]
    pub fn zip_with_unique_id(
        &self,
    ) -> Rdd<(T, u64), MapPartitions<C, impl Fn(u32, Rows<'static, T>) -> Numbered<T> + Function + use<T, C>>> {
        let step = Captured::new(u64::from(self.partitions()));
        self.map_partitions_labelled(Label::here("zip_with_unique_id"), false, move |partition, rows| Numbered {
            rows,
            next: u64::from(partition),
            step: *Captured::get(&step),
        })
    }
}

/// Rows with numbers.
pub struct Numbered<T: 'static> {
    rows: Rows<'static, T>,
    next: u64,
    step: u64,
}

impl<T> Iterator for Numbered<T> {
    type Item = (T, u64);

    #[inline]
    fn next(&mut self) -> Option<(T, u64)> {
        let row = self.rows.next()?;
        let number = self.next;
        self.next += self.step;
        Some((row, number))
    }
}
