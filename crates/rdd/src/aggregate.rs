//! How do values of one key become one?

use std::marker::PhantomData;

use crate::codec::{BodyReader, BodyWriter, Data};
use crate::error::Error;
use crate::function::Function;

/// Combines the values of a key, in any order and grouping.
pub trait Aggregator<V>: Clone + Send + Sync + 'static {
    /// What values are combined to.
    type Combined: Data;

    /// Whether rows become fewer by combining them before they are moved.
    const COMBINES_BEFORE: bool = true;

    /// Writes its functions.
    ///
    /// # Errors
    /// When a captured variable cannot be encoded.
    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error>;

    /// Reads its functions.
    ///
    /// # Errors
    /// When the body is damaged or of another executable.
    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error>;

    /// What is kept of a key's first value.
    fn create(&self, value: V) -> Self::Combined;

    /// Another value.
    fn add(&self, kept: Self::Combined, value: V) -> Self::Combined;

    /// What was kept at two places.
    fn merge(&self, kept: Self::Combined, other: Self::Combined) -> Self::Combined;
}

/// By one function of two values.
#[derive(Clone)]
pub struct ReduceValues<F>(pub(crate) F);

impl<V: Data, F: Fn(V, V) -> V + Function> Aggregator<V> for ReduceValues<F> {
    type Combined = V;

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        body.function(&self.0)
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self(body.function()?))
    }

    #[inline]
    fn create(&self, value: V) -> V {
        value
    }

    #[inline]
    fn add(&self, kept: V, value: V) -> V {
        (self.0)(kept, value)
    }

    #[inline]
    fn merge(&self, kept: V, other: V) -> V {
        (self.0)(kept, other)
    }
}

/// Into a list.
#[derive(Clone)]
pub struct Group;

impl<V: Data> Aggregator<V> for Group {
    type Combined = Vec<V>;

    const COMBINES_BEFORE: bool = false;

    fn encode(&self, _: &mut BodyWriter) -> Result<(), Error> {
        Ok(())
    }

    fn decode(_: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self)
    }

    #[inline]
    fn create(&self, value: V) -> Vec<V> {
        vec![value]
    }

    #[inline]
    fn add(&self, mut kept: Vec<V>, value: V) -> Vec<V> {
        kept.push(value);
        kept
    }

    #[inline]
    fn merge(&self, mut kept: Vec<V>, other: Vec<V>) -> Vec<V> {
        kept.extend(other);
        kept
    }
}

/// By three functions.
#[derive(Clone)]
pub struct CombineValues<U, A, B, M> {
    create: A,
    add: B,
    merge: M,
    kept: PhantomData<fn() -> U>,
}

impl<U, A, B, M> CombineValues<U, A, B, M> {
    pub(crate) fn new(create: A, add: B, merge: M) -> Self {
        Self { create, add, merge, kept: PhantomData }
    }
}

impl<V, U, A, B, M> Aggregator<V> for CombineValues<U, A, B, M>
where
    U: Data + Clone,
    A: Fn(V) -> U + Function,
    B: Fn(U, V) -> U + Function,
    M: Fn(U, U) -> U + Function,
{
    type Combined = U;

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        body.function(&self.create)?;
        body.function(&self.add)?;
        body.function(&self.merge)
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self::new(body.function()?, body.function()?, body.function()?))
    }

    #[inline]
    fn create(&self, value: V) -> U {
        (self.create)(value)
    }

    #[inline]
    fn add(&self, kept: U, value: V) -> U {
        (self.add)(kept, value)
    }

    #[inline]
    fn merge(&self, kept: U, other: U) -> U {
        (self.merge)(kept, other)
    }
}

/// From a start, by a function that adds a value and one that adds up.
#[derive(Clone)]
pub struct AggregateValues<U, A, M> {
    pub(crate) zero: U,
    pub(crate) add: A,
    pub(crate) merge: M,
}

impl<V, U: Data + Clone, A: Fn(U, V) -> U + Function, M: Fn(U, U) -> U + Function> Aggregator<V>
    for AggregateValues<U, A, M>
{
    type Combined = U;

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        body.value(&self.zero)?;
        body.function(&self.add)?;
        body.function(&self.merge)
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self { zero: body.value()?, add: body.function()?, merge: body.function()? })
    }

    #[inline]
    fn create(&self, value: V) -> U {
        (self.add)(self.zero.clone(), value)
    }

    #[inline]
    fn add(&self, kept: U, value: V) -> U {
        (self.add)(kept, value)
    }

    #[inline]
    fn merge(&self, kept: U, other: U) -> U {
        (self.merge)(kept, other)
    }
}

/// Into nothing: the key says all.
#[derive(Clone)]
pub struct Distinct;

impl Aggregator<()> for Distinct {
    type Combined = ();

    fn encode(&self, _: &mut BodyWriter) -> Result<(), Error> {
        Ok(())
    }

    fn decode(_: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self)
    }

    #[inline]
    fn create(&self, (): ()) {}

    #[inline]
    fn add(&self, (): (), (): ()) {}

    #[inline]
    fn merge(&self, (): (), (): ()) {}
}
