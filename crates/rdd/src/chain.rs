//! What is a dataset to the one who computes it?
//!
//! A [`Chain`] is a value composed like an iterator adapter: its type names every operation between a stage's inputs and
//! its end, so that a whole stage is one function, compiled as one loop. Narrow operations implement [`Narrow`].

use std::any::Any;
use std::panic::Location;
use std::sync::Arc;

use model::RddId;
use model::shuffle::ReadRange;

use crate::codec::{BodyReader, BodyWriter, InputReader, InputWriter};
use crate::compute::Task;
use crate::error::Error;
use crate::range_partitioner::RangeBounds;
use crate::stages::ShuffleDependency;

/// A lazily computed, partitioned collection: the type behind an [`Rdd`](crate::Rdd).
///
/// Callers: everything but `compute` and `decode` is for the driver. Implementors: a decoded chain knows what
/// `compute` needs and nothing else; `write_input` and `compute` handle the parts of an input in the same order. What
/// fails while rows flow is given to [`Task::fail`] and ends the rows; sources ask [`Task::ended`] once per chunk.
pub trait Chain: Clone + Send + Sync + 'static {
    /// Its rows.
    type Item: 'static;

    /// How many partitions it has.
    fn partitions(&self) -> u32;

    /// How rows are spread over partitions, if that is known.
    fn partitioning(&self) -> Option<Partitioning> {
        None
    }

    /// Writes what executors need to compute any partition.
    ///
    /// # Errors
    /// When a captured variable cannot be encoded.
    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error>;

    /// Reads what `encode` wrote.
    ///
    /// # Errors
    /// When the body is damaged or of another executable.
    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error>;

    /// Writes what executors need for this partition alone.
    ///
    /// # Errors
    /// When a value cannot be encoded.
    fn write_input(&self, partition: u32, input: &mut InputWriter) -> Result<(), Error>;

    /// Which ranges of shuffles this partition reads.
    fn reads(&self, partition: u32, ranges: &mut Vec<ReadRange>);

    /// Names ancestors: shuffles, persisted datasets, and what a person sees of the operations.
    fn lineage(&self, lineage: &mut Lineage);

    /// The rows of a partition.
    ///
    /// # Errors
    /// When they cannot even begin.
    fn compute<'a>(
        &'a self,
        task: &'a Task,
        partition: u32,
        input: &mut InputReader,
    ) -> Result<impl Iterator<Item = Self::Item> + use<'a, Self>, Error>;
}

/// An operation whose partition `p` needs partition `p` of one parent and nothing else.
pub trait Narrow: Clone + Send + Sync + 'static {
    /// Where rows come from.
    type Parent: Chain;
    /// The rows it gives.
    type Item: 'static;

    /// The parent.
    fn parent(&self) -> &Self::Parent;

    /// What a person sees.
    fn label(&self) -> Label;

    /// How its rows are spread, given how its parent's are. Rows that keep their key stay where they are.
    fn partitioning(&self, parent: Option<Partitioning>) -> Option<Partitioning> {
        let _ = parent;
        None
    }

    /// Writes its functions.
    ///
    /// # Errors
    /// When a captured variable cannot be encoded.
    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error>;

    /// Reads its functions.
    ///
    /// # Errors
    /// When the body is damaged or of another executable.
    fn decode(parent: Self::Parent, body: &mut BodyReader<'_>) -> Result<Self, Error>;

    /// Its rows of a partition, given the parent's.
    fn apply<'a, I>(
        &'a self,
        task: &'a Task,
        partition: u32,
        rows: I,
    ) -> impl Iterator<Item = Self::Item> + use<'a, Self, I>
    where
        I: Iterator<Item = <Self::Parent as Chain>::Item> + 'a;
}

impl<N: Narrow> Chain for N {
    type Item = N::Item;

    fn partitions(&self) -> u32 {
        self.parent().partitions()
    }

    fn partitioning(&self) -> Option<Partitioning> {
        Narrow::partitioning(self, self.parent().partitioning())
    }

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        self.parent().encode(body)?;
        Narrow::encode(self, body)
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        let parent = N::Parent::decode(body)?;
        Narrow::decode(parent, body)
    }

    fn write_input(&self, partition: u32, input: &mut InputWriter) -> Result<(), Error> {
        self.parent().write_input(partition, input)
    }

    fn reads(&self, partition: u32, ranges: &mut Vec<ReadRange>) {
        self.parent().reads(partition, ranges);
    }

    fn lineage(&self, lineage: &mut Lineage) {
        lineage.operation(self.label(), self.partitions());
        self.parent().lineage(lineage);
    }

    #[inline]
    fn compute<'a>(
        &'a self,
        task: &'a Task,
        partition: u32,
        input: &mut InputReader,
    ) -> Result<impl Iterator<Item = Self::Item> + use<'a, N>, Error> {
        let rows = self.parent().compute(task, partition, input)?;
        Ok(self.apply(task, partition, rows))
    }
}

/// How rows are spread over partitions. Equal values mean that equal keys lie in partitions of the same number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Partitioning {
    /// By the stable hash of the key.
    Hash {
        /// Into so many.
        partitions: u32,
    },
    /// By ranges that were sampled once: a number for those samples, unique in the application.
    Range {
        /// Which samples.
        id: u32,
        /// Into so many.
        partitions: u32,
        /// Where the ranges end.
        bounds: KeyBounds,
    },
}

/// Bounds between ranges of keys, whatever the type of the keys.
#[derive(Clone)]
pub struct KeyBounds(Arc<dyn Any + Send + Sync>);

impl KeyBounds {
    pub(crate) fn new<K: Send + Sync + 'static>(bounds: RangeBounds<K>) -> Self {
        Self(Arc::new(bounds))
    }

    /// The bounds, if they lie between keys of this type.
    pub(crate) fn of<K: 'static>(&self) -> Option<&RangeBounds<K>> {
        self.0.downcast_ref()
    }
}

impl std::fmt::Debug for KeyBounds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyBounds")
    }
}

/// Bounds are the same if they were made once: two samples never count as one.
impl PartialEq for KeyBounds {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for KeyBounds {}

impl Partitioning {
    /// Into how many partitions.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        match self {
            Self::Hash { partitions } | Self::Range { partitions, .. } => *partitions,
        }
    }
}

/// What a person sees of an operation: its name and the line of the program, which only the driver knows.
#[derive(Debug, Clone, Copy)]
pub struct Label {
    name: &'static str,
    at: Option<&'static Location<'static>>,
}

impl Label {
    /// The operation that the caller's caller asked for.
    #[must_use]
    #[track_caller]
    pub fn here(name: &'static str) -> Self {
        Self { name, at: Some(Location::caller()) }
    }

    /// In an executor.
    #[must_use]
    pub const fn remote(name: &'static str) -> Self {
        Self { name, at: None }
    }
}

impl std::fmt::Display for Label {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.at {
            Some(at) => write!(f, "{} at {}:{}", self.name, at.file(), at.line()),
            None => f.write_str(self.name),
        }
    }
}

/// What is gathered on a walk through a chain.
#[derive(Default)]
pub struct Lineage {
    /// Every shuffle read, nearest first; one that is read at two places is here twice.
    pub dependencies: Vec<Arc<ShuffleDependency>>,
    /// Persisted datasets of which partition `p` of the chain uses partition `p`.
    pub cached: Vec<RddId>,
    /// How many operations were met at which partitions differ from those of the chain.
    moved: u32,
    /// What a person sees, outermost first: depth, partitions, text. Gathered only if wanted.
    description: Option<Vec<(u32, u32, String)>>,
    depth: u32,
}

impl Lineage {
    /// With a description for people.
    pub(crate) fn described() -> Self {
        Self { description: Some(Vec::new()), ..Self::default() }
    }

    pub(crate) fn into_description(self) -> Vec<(u32, u32, String)> {
        self.description.unwrap_or_default()
    }

    /// An operation.
    pub fn operation(&mut self, label: Label, partitions: u32) {
        self.note(partitions, || label.to_string());
    }

    fn note(&mut self, partitions: u32, text: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.description {
            lines.push((self.depth, partitions, text()));
        }
    }

    /// A read of a shuffle.
    pub fn shuffle(&mut self, dependency: &Arc<ShuffleDependency>) {
        if self.description.is_some() {
            self.deeper(|lineage| dependency.describe(lineage));
        }
        self.dependencies.push(Arc::clone(dependency));
    }

    /// A persisted dataset.
    pub fn persisted(&mut self, rdd: RddId, level: &str) {
        if self.moved == 0 {
            self.cached.push(rdd);
        }
        self.note(0, || format!("persisted: {level}"));
    }

    /// Parents whose partitions have other numbers than their child's, or several parents.
    pub fn moved(&mut self, walk: impl FnOnce(&mut Self)) {
        self.moved += 1;
        self.deeper(walk);
        self.moved -= 1;
    }

    /// One of several parents.
    pub fn beside(&mut self, walk: impl FnOnce(&mut Self)) {
        self.deeper(walk);
    }

    fn deeper(&mut self, walk: impl FnOnce(&mut Self)) {
        self.depth += 1;
        walk(self);
        self.depth -= 1;
    }
}
