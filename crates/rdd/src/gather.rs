//! Which operations take whole partitions together?

use std::ops::Range;
use std::sync::Arc;

use model::shuffle::ReadRange;

use crate::chain::{Chain, Label, Lineage, Partitioning};
use crate::codec::{BodyReader, BodyWriter, InputReader, InputWriter};
use crate::collection::slice;
use crate::compute::Task;
use crate::context::RddContext;
use crate::dataset::Rdd;
use crate::error::Error;
use crate::wide::Either;

/// The partitions of one dataset and, behind them, those of another.
#[derive(Clone)]
pub struct Union<A, B> {
    first: A,
    second: B,
    label: Label,
}

impl<A: Chain, B: Chain<Item = A::Item>> Union<A, B> {
    /// The partition's number in the second, if it is one of those.
    fn of_second(&self, partition: u32) -> Option<u32> {
        partition.checked_sub(self.first.partitions())
    }
}

impl<A: Chain, B: Chain<Item = A::Item>> Chain for Union<A, B> {
    type Item = A::Item;

    fn partitions(&self) -> u32 {
        self.first.partitions() + self.second.partitions()
    }

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        self.first.encode(body)?;
        self.second.encode(body)
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self { first: A::decode(body)?, second: B::decode(body)?, label: Label::remote("union") })
    }

    fn write_input(&self, partition: u32, input: &mut InputWriter) -> Result<(), Error> {
        // An executor does not know how many partitions a chain has.
        let second = self.of_second(partition);
        input.value(&second)?;
        match second {
            None => self.first.write_input(partition, input),
            Some(partition) => self.second.write_input(partition, input),
        }
    }

    fn reads(&self, partition: u32, ranges: &mut Vec<ReadRange>) {
        match self.of_second(partition) {
            None => self.first.reads(partition, ranges),
            Some(partition) => self.second.reads(partition, ranges),
        }
    }

    fn lineage(&self, lineage: &mut Lineage) {
        lineage.operation(self.label, self.partitions());
        lineage.moved(|lineage| self.first.lineage(lineage));
        lineage.moved(|lineage| self.second.lineage(lineage));
    }

    fn compute<'a>(
        &'a self,
        task: &'a Task,
        partition: u32,
        input: &mut InputReader,
    ) -> Result<impl Iterator<Item = A::Item> + use<'a, A, B>, Error> {
        Ok(match input.value::<Option<u32>>()? {
            None => Either::Left(self.first.compute(task, partition, input)?),
            Some(partition) => Either::Right(self.second.compute(task, partition, input)?),
        })
    }
}

/// The partitions of any number of datasets, one dataset after the other.
#[derive(Clone)]
pub struct Unions<C> {
    parents: Arc<[C]>,
    label: Label,
}

impl<C: Chain> Unions<C> {
    /// The parent that a partition comes from, and its number there.
    fn locate(&self, mut partition: u32) -> (usize, u32) {
        for (at, parent) in self.parents.iter().enumerate() {
            match partition.checked_sub(parent.partitions()) {
                None => return (at, partition),
                Some(rest) => partition = rest,
            }
        }
        unreachable!("a partition below the number of partitions lies in one of the parents")
    }
}

impl<C: Chain> Chain for Unions<C> {
    type Item = C::Item;

    fn partitions(&self) -> u32 {
        self.parents.iter().map(Chain::partitions).sum()
    }

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        body.value(&(self.parents.len() as u64))?;
        self.parents.iter().try_for_each(|parent| parent.encode(body))
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        let parents: u64 = body.value()?;
        let parents = (0..parents).map(|_| C::decode(body)).collect::<Result<_, _>>()?;
        Ok(Self { parents, label: Label::remote("union") })
    }

    fn write_input(&self, partition: u32, input: &mut InputWriter) -> Result<(), Error> {
        let (parent, partition) = self.locate(partition);
        input.value(&(parent as u64, partition))?;
        self.parents[parent].write_input(partition, input)
    }

    fn reads(&self, partition: u32, ranges: &mut Vec<ReadRange>) {
        let (parent, partition) = self.locate(partition);
        self.parents[parent].reads(partition, ranges);
    }

    fn lineage(&self, lineage: &mut Lineage) {
        lineage.operation(self.label, self.partitions());
        self.parents.iter().for_each(|parent| lineage.moved(|lineage| parent.lineage(lineage)));
    }

    fn compute<'a>(
        &'a self,
        task: &'a Task,
        _: u32,
        input: &mut InputReader,
    ) -> Result<impl Iterator<Item = C::Item> + use<'a, C>, Error> {
        let (parent, partition): (u64, u32) = input.value()?;
        let parent = usize::try_from(parent).ok().and_then(|parent| self.parents.get(parent));
        parent.ok_or(Error::CorruptBody("a parent that is not there"))?.compute(task, partition, input)
    }
}

/// Several partitions as one, without moving their rows.
#[derive(Clone)]
pub struct Coalesce<C> {
    parent: C,
    partitions: u32,
    label: Label,
}

impl<C: Chain> Coalesce<C> {
    fn parents_of(&self, partition: u32) -> impl Iterator<Item = u32> + use<C> {
        let share = slice(u64::from(self.parent.partitions()), self.partitions, partition);
        share.start as u32..share.end as u32
    }
}

impl<C: Chain> Chain for Coalesce<C> {
    type Item = C::Item;

    fn partitions(&self) -> u32 {
        self.partitions
    }

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        self.parent.encode(body)
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self { parent: C::decode(body)?, partitions: 0, label: Label::remote("coalesce") })
    }

    fn write_input(&self, partition: u32, input: &mut InputWriter) -> Result<(), Error> {
        let parents: Vec<u32> = self.parents_of(partition).collect();
        input.value(&parents)?;
        parents.into_iter().try_for_each(|parent| self.parent.write_input(parent, input))
    }

    fn reads(&self, partition: u32, ranges: &mut Vec<ReadRange>) {
        self.parents_of(partition).for_each(|parent| self.parent.reads(parent, ranges));
    }

    fn lineage(&self, lineage: &mut Lineage) {
        lineage.operation(self.label, self.partitions);
        lineage.moved(|lineage| self.parent.lineage(lineage));
    }

    fn compute<'a>(
        &'a self,
        task: &'a Task,
        _: u32,
        input: &mut InputReader,
    ) -> Result<impl Iterator<Item = C::Item> + use<'a, C>, Error> {
        let parents: Vec<u32> = input.value()?;
        let mut rest = input.rest();
        // One after the other: a parent's rows begin when those before it have ended.
        Ok(parents
            .into_iter()
            .map_while(move |parent| {
                if task.ended() {
                    return None;
                }
                self.parent.compute(task, parent, &mut rest).map_err(|error| task.fail(error)).ok()
            })
            .flatten())
    }
}

/// Some neighbouring partitions of a dataset, and none of its others: those are not computed.
#[derive(Clone)]
pub struct Pruned<C> {
    parent: C,
    first: u32,
    partitions: u32,
    label: Label,
}

impl<C: Chain> Pruned<C> {
    pub(crate) fn new(parent: C, kept: Range<u32>, label: Label) -> Self {
        Self { parent, first: kept.start, partitions: kept.end - kept.start, label }
    }

    fn is_whole(&self) -> bool {
        self.partitions == self.parent.partitions()
    }
}

impl<C: Chain> Chain for Pruned<C> {
    type Item = C::Item;

    fn partitions(&self) -> u32 {
        self.partitions
    }

    fn partitioning(&self) -> Option<Partitioning> {
        // With other numbers, partitions are not where others with the same partitioning look for them.
        self.parent.partitioning().filter(|_| self.is_whole())
    }

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        self.parent.encode(body)
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self { parent: C::decode(body)?, first: 0, partitions: 0, label: Label::remote("prune") })
    }

    fn write_input(&self, partition: u32, input: &mut InputWriter) -> Result<(), Error> {
        let parent = self.first + partition;
        input.value(&parent)?;
        self.parent.write_input(parent, input)
    }

    fn reads(&self, partition: u32, ranges: &mut Vec<ReadRange>) {
        self.parent.reads(self.first + partition, ranges);
    }

    fn lineage(&self, lineage: &mut Lineage) {
        if self.is_whole() {
            return self.parent.lineage(lineage);
        }
        lineage.operation(self.label, self.partitions);
        lineage.moved(|lineage| self.parent.lineage(lineage));
    }

    fn compute<'a>(
        &'a self,
        task: &'a Task,
        _: u32,
        input: &mut InputReader,
    ) -> Result<impl Iterator<Item = C::Item> + use<'a, C>, Error> {
        let parent: u32 = input.value()?;
        self.parent.compute(task, parent, input)
    }
}

impl<T: 'static, C: Chain<Item = T>> Rdd<T, C> {
    /// All rows of both, each as often as it is in either: the partitions of this dataset and then those of the other.
    #[track_caller]
    pub fn union<D: Chain<Item = T>>(&self, other: &Rdd<T, D>) -> Rdd<T, Union<C, D>> {
        let (first, second) = (self.chain().clone(), other.chain().clone());
        Rdd::new(self.context(), Union { first, second, label: Label::here("union") })
    }

    /// The same rows in at most so many partitions, each of several neighbours: no row is moved, and fewer tasks compute
    /// all that came before in this stage. To have more partitions, or to keep what came before at its width,
    /// [`repartition`](Self::repartition).
    #[track_caller]
    pub fn coalesce(&self, partitions: u32) -> Rdd<T, Coalesce<C>> {
        let partitions = partitions.clamp(1, self.partitions().max(1));
        Rdd::new(self.context(), Coalesce { parent: self.chain().clone(), partitions, label: Label::here("coalesce") })
    }
}

impl RddContext {
    /// All rows of all of them: their partitions, one dataset after the other. Datasets of different types of computation
    /// go together when [erased](Rdd::erase).
    #[track_caller]
    pub fn union<'a, T: 'static, C: Chain<Item = T>>(
        &self,
        datasets: impl IntoIterator<Item = &'a Rdd<T, C>>,
    ) -> Rdd<T, Unions<C>> {
        let parents = datasets.into_iter().map(|dataset| dataset.chain().clone()).collect();
        Rdd::new(self, Unions { parents, label: Label::here("union") })
    }
}
