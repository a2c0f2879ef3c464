//! Which operations stay in a partition?

#![expect(unsafe_code, reason = "rows that a program's function receives keep what they are computed from alive")]
#![expect(clippy::type_complexity, reason = "a dataset's type names its operations, as an iterator's does")]

use std::rc::Rc;
use std::sync::Arc;

use model::shuffle::ReadRange;

use crate::chain::{Chain, Label, Lineage, Narrow, Partitioning};
use crate::codec::{BodyReader, BodyWriter, Data, InputReader, InputWriter};
use crate::compute::Task;
use crate::dataset::Rdd;
use crate::error::Error;
use crate::function::{Captured, Function, assert_portable};

/// Rows per chunk across a virtual call, once an iteration is under way.
const CHUNK: usize = 1_024;

/// The rows of a partition, with the type of their computation forgotten: what [`Rdd::map_partitions`] hands over.
///
/// They are computed ahead in chunks that grow to about a thousand rows. `fold`, `for_each` and what builds on them run
/// faster than `next`.
pub struct Rows<'a, T> {
    chunks: Option<Box<dyn Chunks<T> + 'a>>,
    /// Computed and not yet given, last first.
    ready: Vec<T>,
    ahead: usize,
}

trait Chunks<T> {
    /// Appends up to so many rows; fewer only at the end.
    fn fill(&mut self, chunk: &mut Vec<T>, rows: usize);

    /// Gives all rows left in chunks, the last of which may be empty; `each` empties them.
    fn drain(self: Box<Self>, chunk: Vec<T>, each: &mut dyn FnMut(&mut Vec<T>));
}

struct Source<I>(I);

impl<I: Iterator> Chunks<I::Item> for Source<I> {
    fn fill(&mut self, chunk: &mut Vec<I::Item>, rows: usize) {
        chunk.extend(self.0.by_ref().take(rows));
    }

    fn drain(self: Box<Self>, mut chunk: Vec<I::Item>, each: &mut dyn FnMut(&mut Vec<I::Item>)) {
        chunk.reserve_exact(CHUNK);
        self.0.for_each(|row| {
            chunk.push(row);
            if chunk.len() == CHUNK {
                each(&mut chunk);
            }
        });
        each(&mut chunk);
    }
}

impl<'a, T> Rows<'a, T> {
    /// The same rows with their type forgotten.
    pub fn new(rows: impl Iterator<Item = T> + 'a) -> Self {
        Self { chunks: Some(Box::new(Source(rows))), ready: Vec::new(), ahead: 1 }
    }

    #[cold]
    fn refill(&mut self) {
        let Some(chunks) = &mut self.chunks else { return };
        chunks.fill(&mut self.ready, self.ahead);
        if self.ready.len() < self.ahead {
            self.chunks = None;
        }
        self.ready.reverse();
        self.ahead = (self.ahead * 2).min(CHUNK);
    }
}

impl<T: 'static> Rows<'static, T> {
    /// The rows of a partition of a chain that they keep alive, for a function that may return them.
    pub(crate) fn owning<C: Chain<Item = T>>(
        chain: &Arc<C>,
        task: &Task,
        partition: u32,
        input: &mut InputReader,
    ) -> Result<Self, Error> {
        struct Owning<I, C> {
            // Dropped first: it borrows from the owner.
            rows: I,
            _owner: Rc<(Arc<C>, Task)>,
        }
        impl<I: Iterator, C> Iterator for Owning<I, C> {
            type Item = I::Item;

            #[inline]
            fn next(&mut self) -> Option<I::Item> {
                self.rows.next()
            }

            fn fold<B, F: FnMut(B, I::Item) -> B>(self, init: B, f: F) -> B {
                self.rows.fold(init, f)
            }
        }
        let owner = Rc::new((Arc::clone(chain), task.clone()));
        // SAFETY: both stay where they are as long as `_owner` lives, which is dropped after the rows that borrow them;
        // a row borrows nothing, since `T` is 'static.
        let (chain, task): (&'static C, &'static Task) = unsafe {
            let owner = &*Rc::as_ptr(&owner);
            (&*Arc::as_ptr(&owner.0), &owner.1)
        };
        let rows = chain.compute(task, partition, input)?;
        Ok(Self::new(Owning { rows, _owner: owner }))
    }
}

impl<T> Iterator for Rows<'_, T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        if self.ready.is_empty() {
            self.refill();
        }
        self.ready.pop()
    }

    fn fold<B, F: FnMut(B, T) -> B>(mut self, init: B, mut f: F) -> B {
        let mut state = Some(init);
        while let Some(row) = self.ready.pop() {
            state = state.map(|state| f(state, row));
        }
        if let Some(chunks) = self.chunks.take() {
            chunks.drain(self.ready, &mut |chunk| {
                let folded = state.take().map(|state| chunk.drain(..).fold(state, &mut f));
                state = folded;
            });
        }
        state.expect("a fold that does not panic leaves a state")
    }
}

/// One row of each.
#[derive(Clone)]
pub struct Map<C, F> {
    parent: C,
    function: F,
    label: Label,
}

impl<C: Chain, U: 'static, F: Fn(C::Item) -> U + Function> Narrow for Map<C, F> {
    type Parent = C;
    type Item = U;

    fn parent(&self) -> &C {
        &self.parent
    }

    fn label(&self) -> Label {
        self.label
    }

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        body.function(&self.function)
    }

    fn decode(parent: C, body: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self { parent, function: body.function()?, label: Label::remote("map") })
    }

    #[inline]
    fn apply<'a, I>(&'a self, _: &'a Task, _: u32, rows: I) -> impl Iterator<Item = U> + use<'a, C, U, F, I>
    where
        I: Iterator<Item = C::Item> + 'a,
    {
        rows.map(&self.function)
    }
}

/// The rows that pass a test.
#[derive(Clone)]
pub struct Filter<C, F> {
    parent: C,
    function: F,
    label: Label,
}

impl<C: Chain, F: Fn(&C::Item) -> bool + Function> Narrow for Filter<C, F> {
    type Parent = C;
    type Item = C::Item;

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
        Ok(Self { parent, function: body.function()?, label: Label::remote("filter") })
    }

    #[inline]
    fn apply<'a, I>(&'a self, _: &'a Task, _: u32, rows: I) -> impl Iterator<Item = C::Item> + use<'a, C, F, I>
    where
        I: Iterator<Item = C::Item> + 'a,
    {
        rows.filter(&self.function)
    }
}

/// Any number of rows of each.
#[derive(Clone)]
pub struct FlatMap<C, F> {
    parent: C,
    function: F,
    label: Label,
}

impl<C: Chain, U: IntoIterator<Item: 'static> + 'static, F: Fn(C::Item) -> U + Function> Narrow for FlatMap<C, F> {
    type Parent = C;
    type Item = U::Item;

    fn parent(&self) -> &C {
        &self.parent
    }

    fn label(&self) -> Label {
        self.label
    }

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        body.function(&self.function)
    }

    fn decode(parent: C, body: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self { parent, function: body.function()?, label: Label::remote("flat_map") })
    }

    #[inline]
    fn apply<'a, I>(&'a self, _: &'a Task, _: u32, rows: I) -> impl Iterator<Item = U::Item> + use<'a, C, U, F, I>
    where
        I: Iterator<Item = C::Item> + 'a,
    {
        rows.flat_map(&self.function)
    }
}

/// The rows of a partition as one vector.
#[derive(Clone)]
pub struct Glom<C> {
    parent: C,
    label: Label,
}

impl<C: Chain> Narrow for Glom<C> {
    type Parent = C;
    type Item = Vec<C::Item>;

    fn parent(&self) -> &C {
        &self.parent
    }

    fn label(&self) -> Label {
        self.label
    }

    fn encode(&self, _: &mut BodyWriter) -> Result<(), Error> {
        Ok(())
    }

    fn decode(parent: C, _: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self { parent, label: Label::remote("glom") })
    }

    fn apply<'a, I>(&'a self, _: &'a Task, _: u32, rows: I) -> impl Iterator<Item = Vec<C::Item>> + use<'a, C, I>
    where
        I: Iterator<Item = C::Item> + 'a,
    {
        std::iter::once_with(|| rows.collect())
    }
}

/// What a function makes of all rows of a partition, and the partition's number.
#[derive(Clone)]
pub struct MapPartitions<C, F> {
    parent: Arc<C>,
    function: F,
    label: Label,
    keeps_keys: bool,
}

impl<C: Chain, U: IntoIterator<Item: 'static> + 'static, F: Fn(u32, Rows<'static, C::Item>) -> U + Function> Chain
    for MapPartitions<C, F>
{
    type Item = U::Item;

    fn partitions(&self) -> u32 {
        self.parent.partitions()
    }

    fn partitioning(&self) -> Option<Partitioning> {
        self.parent.partitioning().filter(|_| self.keeps_keys)
    }

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        self.parent.encode(body)?;
        body.function(&self.function)
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        let parent = Arc::new(C::decode(body)?);
        Ok(Self { parent, function: body.function()?, label: Label::remote("map_partitions"), keeps_keys: false })
    }

    fn write_input(&self, partition: u32, input: &mut InputWriter) -> Result<(), Error> {
        self.parent.write_input(partition, input)
    }

    fn reads(&self, partition: u32, ranges: &mut Vec<ReadRange>) {
        self.parent.reads(partition, ranges);
    }

    fn lineage(&self, lineage: &mut Lineage) {
        lineage.operation(self.label, self.partitions());
        self.parent.lineage(lineage);
    }

    fn compute<'a>(
        &'a self,
        task: &'a Task,
        partition: u32,
        input: &mut InputReader,
    ) -> Result<impl Iterator<Item = U::Item> + use<'a, C, U, F>, Error> {
        let rows = Rows::owning(&self.parent, task, partition, input)?;
        Ok((self.function)(partition, rows).into_iter())
    }
}

impl<T: 'static, C: Chain<Item = T>> Rdd<T, C> {
    /// Applies a function to each row.
    #[track_caller]
    pub fn map<U: 'static, F: Fn(T) -> U + Function>(&self, function: F) -> Rdd<U, Map<C, F>> {
        self.map_labelled(Label::here("map"), function)
    }

    /// [`map`](Self::map) for operations built on it, with their own label.
    pub(crate) fn map_labelled<U: 'static, F: Fn(T) -> U + Function>(
        &self,
        label: Label,
        function: F,
    ) -> Rdd<U, Map<C, F>> {
        assert_portable::<F>();
        Rdd::new(self.context(), Map { parent: self.chain().clone(), function, label })
    }

    /// Applies a function that is given a captured environment to each row.
    #[track_caller]
    pub fn map_with<E: Data, U: 'static, F: Fn(&E, T) -> U + Function>(
        &self,
        environment: E,
        function: F,
    ) -> Rdd<U, Map<C, impl Fn(T) -> U + Function + use<T, C, E, U, F>>> {
        const { assert!(size_of::<F>() == 0, "the function of `map_with` uses its environment and captures nothing") };
        let captured = Captured::new(environment);
        self.map(move |row| function(Captured::get(&captured), row))
    }

    /// Keeps the rows for which a function is true. The dataset stays partitioned as it is.
    #[track_caller]
    pub fn filter<F: Fn(&T) -> bool + Function>(&self, function: F) -> Rdd<T, Filter<C, F>> {
        assert_portable::<F>();
        Rdd::new(self.context(), Filter { parent: self.chain().clone(), function, label: Label::here("filter") })
    }

    /// Keeps the rows for which a function is true that is given a captured environment.
    #[track_caller]
    pub fn filter_with<E: Data, F: Fn(&E, &T) -> bool + Function>(
        &self,
        environment: E,
        function: F,
    ) -> Rdd<T, Filter<C, impl Fn(&T) -> bool + Function + use<T, C, E, F>>> {
        const { assert!(size_of::<F>() == 0, "the function of `filter_with` uses its environment and captures nothing") };
        let captured = Captured::new(environment);
        self.filter(move |row| function(Captured::get(&captured), row))
    }

    /// Applies a function that gives any number of rows to each row.
    #[track_caller]
    pub fn flat_map<U, F>(&self, function: F) -> Rdd<U::Item, FlatMap<C, F>>
    where
        U: IntoIterator<Item: 'static> + 'static,
        F: Fn(T) -> U + Function,
    {
        assert_portable::<F>();
        Rdd::new(self.context(), FlatMap { parent: self.chain().clone(), function, label: Label::here("flat_map") })
    }

    /// Applies a function that is given a captured environment, and gives any number of rows, to each row.
    #[track_caller]
    pub fn flat_map_with<E, U, F>(
        &self,
        environment: E,
        function: F,
    ) -> Rdd<U::Item, FlatMap<C, impl Fn(T) -> U + Function + use<T, C, E, U, F>>>
    where
        E: Data,
        U: IntoIterator<Item: 'static> + 'static,
        F: Fn(&E, T) -> U + Function,
    {
        const { assert!(size_of::<F>() == 0, "the function of `flat_map_with` uses its environment and captures nothing") };
        let captured = Captured::new(environment);
        self.flat_map(move |row| function(Captured::get(&captured), row))
    }

    /// Applies a function to all rows of each partition at once, for work whose preparation is dear.
    #[track_caller]
    pub fn map_partitions<U, F>(
        &self,
        function: F,
    ) -> Rdd<U::Item, MapPartitions<C, impl Fn(u32, Rows<'static, T>) -> U + Function + use<T, C, U, F>>>
    where
        U: IntoIterator<Item: 'static> + 'static,
        F: Fn(Rows<'static, T>) -> U + Function,
    {
        assert_portable::<F>();
        self.map_partitions_labelled(Label::here("map_partitions"), false, move |_, rows| (&function as &F)(rows))
    }

    /// Applies a function to the number of each partition and all its rows.
    #[track_caller]
    pub fn map_partitions_with_index<U, F>(&self, function: F) -> Rdd<U::Item, MapPartitions<C, F>>
    where
        U: IntoIterator<Item: 'static> + 'static,
        F: Fn(u32, Rows<'static, T>) -> U + Function,
    {
        self.map_partitions_labelled(Label::here("map_partitions_with_index"), false, function)
    }

    /// [`map_partitions_with_index`](Self::map_partitions_with_index) for operations built on it: with their own label,
    /// and whether every row keeps its key.
    pub(crate) fn map_partitions_labelled<U, F>(
        &self,
        label: Label,
        keeps_keys: bool,
        function: F,
    ) -> Rdd<U::Item, MapPartitions<C, F>>
    where
        U: IntoIterator<Item: 'static> + 'static,
        F: Fn(u32, Rows<'static, T>) -> U + Function,
    {
        assert_portable::<F>();
        let parent = Arc::new(self.chain().clone());
        Rdd::new(self.context(), MapPartitions { parent, function, label, keeps_keys })
    }

    /// Each partition as one row: the vector of its rows.
    #[track_caller]
    pub fn glom(&self) -> Rdd<Vec<T>, Glom<C>> {
        Rdd::new(self.context(), Glom { parent: self.chain().clone(), label: Label::here("glom") })
    }

    /// Puts a key before each row.
    #[track_caller]
    pub fn key_by<K: 'static, F: Fn(&T) -> K + Function>(
        &self,
        function: F,
    ) -> Rdd<(K, T), Map<C, impl Fn(T) -> (K, T) + Function + use<T, C, K, F>>> {
        assert_portable::<F>();
        self.map(move |row| ((&function as &F)(&row), row))
    }
}
