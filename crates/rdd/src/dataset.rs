//! What is an `Rdd<T>`?

use std::marker::PhantomData;
use std::sync::Arc;

use model::shuffle::ReadRange;

use crate::chain::{Chain, Lineage, Partitioning};
use crate::codec::{BodyReader, BodyWriter, InputReader, InputWriter};
use crate::compute::Task;
use crate::context::RddContext;
use crate::error::Error;
use crate::function::{FunctionRef, Named, reference, resolve};
use crate::narrow::Rows;

/// A lazy, partitioned collection of `T` that is computed by executors when an action asks for it.
///
/// The second parameter names how it is computed, as with iterator adapters, so that a chain of operations is compiled to
/// one loop. [`erase`](Self::erase) forgets it where a type must be written, stored, or assigned in a loop.
pub struct Rdd<T, C = Erased<T>> {
    context: RddContext,
    chain: C,
    rows: PhantomData<fn() -> T>,
}

impl<T, C: Clone> Clone for Rdd<T, C> {
    fn clone(&self) -> Self {
        Self { context: self.context.clone(), chain: self.chain.clone(), rows: PhantomData }
    }
}

impl<T: 'static, C: Chain<Item = T>> Rdd<T, C> {
    /// A dataset that is computed by this chain.
    #[must_use]
    pub fn new(context: &RddContext, chain: C) -> Self {
        Self { context: context.clone(), chain, rows: PhantomData }
    }

    /// The context it belongs to.
    #[must_use]
    pub fn context(&self) -> &RddContext {
        &self.context
    }

    /// How it is computed.
    #[must_use]
    pub fn chain(&self) -> &C {
        &self.chain
    }

    /// How many partitions it has.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.chain.partitions()
    }

    /// How its rows are spread over partitions, if that is known.
    #[must_use]
    pub fn partitioning(&self) -> Option<Partitioning> {
        self.chain.partitioning()
    }

    /// Forgets how it is computed, so that its type is `Rdd<T>`. Rows then pass in chunks of about a thousand from what
    /// came before to what comes after.
    #[must_use]
    pub fn erase(&self) -> Rdd<T> {
        Rdd::new(&self.context, Erased(Arc::new(self.chain.clone())))
    }

    /// Its operations and those of all ancestors, as an indented text with the number of partitions of each.
    #[must_use]
    pub fn to_debug_string(&self) -> String {
        let mut lineage = Lineage::described();
        self.chain.lineage(&mut lineage);
        let line = |(depth, partitions, text): (u32, u32, String)| {
            let indent = if depth == 0 { String::new() } else { format!("{} +-", " |".repeat(depth as usize - 1)) };
            let partitions = if partitions == 0 { String::new() } else { format!("({partitions}) ") };
            format!("{indent}{partitions}{text}\n")
        };
        lineage.into_description().into_iter().map(line).collect()
    }
}

/// A chain whose type is forgotten: one virtual call per chunk of rows.
pub struct Erased<T>(Arc<dyn ErasedChain<T>>);

impl<T> Clone for Erased<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

trait ErasedChain<T>: Send + Sync {
    fn partitions(&self) -> u32;
    fn partitioning(&self) -> Option<Partitioning>;
    fn decoder(&self) -> FunctionRef;
    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error>;
    fn write_input(&self, partition: u32, input: &mut InputWriter) -> Result<(), Error>;
    fn reads(&self, partition: u32, ranges: &mut Vec<ReadRange>);
    fn lineage(&self, lineage: &mut Lineage);
    fn compute<'a>(&'a self, task: &'a Task, partition: u32, input: &mut InputReader) -> Result<Rows<'a, T>, Error>;
}

impl<C: Chain> ErasedChain<C::Item> for C {
    fn partitions(&self) -> u32 {
        Chain::partitions(self)
    }

    fn partitioning(&self) -> Option<Partitioning> {
        Chain::partitioning(self)
    }

    fn decoder(&self) -> FunctionRef {
        reference::<DecodeErased<C>>()
    }

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        Chain::encode(self, body)
    }

    fn write_input(&self, partition: u32, input: &mut InputWriter) -> Result<(), Error> {
        Chain::write_input(self, partition, input)
    }

    fn reads(&self, partition: u32, ranges: &mut Vec<ReadRange>) {
        Chain::reads(self, partition, ranges);
    }

    fn lineage(&self, lineage: &mut Lineage) {
        Chain::lineage(self, lineage);
    }

    fn compute<'a>(
        &'a self,
        task: &'a Task,
        partition: u32,
        input: &mut InputReader,
    ) -> Result<Rows<'a, C::Item>, Error> {
        Ok(Rows::new(Chain::compute(self, task, partition, input)?))
    }
}

/// The entry that decodes a chain and forgets its type.
struct DecodeErased<C>(PhantomData<C>);

impl<C: Chain> Named for DecodeErased<C> {
    type Value = fn(&mut BodyReader<'_>) -> Result<Erased<C::Item>, Error>;

    fn value() -> Self::Value {
        |body| Ok(Erased(Arc::new(C::decode(body)?)))
    }
}

impl<T: 'static> Chain for Erased<T> {
    type Item = T;

    fn partitions(&self) -> u32 {
        self.0.partitions()
    }

    fn partitioning(&self) -> Option<Partitioning> {
        self.0.partitioning()
    }

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        body.value(&self.0.decoder())?;
        self.0.encode(body)
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        let decode: fn(&mut BodyReader<'_>) -> Result<Self, Error> = resolve(body.value()?)?;
        decode(body)
    }

    fn write_input(&self, partition: u32, input: &mut InputWriter) -> Result<(), Error> {
        self.0.write_input(partition, input)
    }

    fn reads(&self, partition: u32, ranges: &mut Vec<ReadRange>) {
        self.0.reads(partition, ranges);
    }

    fn lineage(&self, lineage: &mut Lineage) {
        self.0.lineage(lineage);
    }

    fn compute<'a>(
        &'a self,
        task: &'a Task,
        partition: u32,
        input: &mut InputReader,
    ) -> Result<impl Iterator<Item = T> + use<'a, T>, Error> {
        self.0.compute(task, partition, input)
    }
}
