//! How does a collection of the program's become a dataset?

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use model::shuffle::ReadRange;

use crate::chain::{Chain, Label, Lineage};
use crate::codec::{self, BodyReader, BodyWriter, Data, InputReader, InputWriter};
use crate::compute::Task;
use crate::context::RddContext;
use crate::dataset::Rdd;
use crate::error::Error;

/// Rows between two looks at whether the task is to stop.
const ROWS_PER_LOOK: u64 = 1 << 16;

/// Rows that the program gave, encoded when they were given.
pub struct Collection<T> {
    parts: Arc<[Part]>,
    label: Label,
    rows: std::marker::PhantomData<fn() -> T>,
}

#[derive(Clone)]
struct Part {
    rows: u64,
    bytes: Bytes,
    /// Why they could not be encoded: said when an action asks for them.
    broken: Option<String>,
}

impl<T> Clone for Collection<T> {
    fn clone(&self) -> Self {
        Self { parts: Arc::clone(&self.parts), label: self.label, rows: self.rows }
    }
}

impl<T: Data> Chain for Collection<T> {
    type Item = T;

    fn partitions(&self) -> u32 {
        self.parts.len() as u32
    }

    fn encode(&self, _: &mut BodyWriter) -> Result<(), Error> {
        match self.parts.iter().find_map(|part| part.broken.clone()) {
            Some(why) => Err(Error::Invalid(why)),
            None => Ok(()),
        }
    }

    fn decode(_: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self { parts: Arc::new([]), label: Label::remote("parallelize"), rows: std::marker::PhantomData })
    }

    fn write_input(&self, partition: u32, input: &mut InputWriter) -> Result<(), Error> {
        let part = &self.parts[partition as usize];
        input.value(&(part.rows, part.bytes.len() as u64))?;
        input.append(&part.bytes);
        Ok(())
    }

    fn reads(&self, _: u32, _: &mut Vec<ReadRange>) {}

    fn lineage(&self, lineage: &mut Lineage) {
        lineage.operation(self.label, self.partitions());
    }

    fn compute<'a>(
        &'a self,
        task: &'a Task,
        _: u32,
        input: &mut InputReader,
    ) -> Result<impl Iterator<Item = T> + use<'a, T>, Error> {
        let (rows, length): (u64, u64) = input.value()?;
        let bytes = input.take(usize::try_from(length).unwrap_or(usize::MAX))?;
        task.count(|m| m.input_rows += rows);
        let mut at = 0;
        Ok((0..rows).map_while(move |row| {
            if row % ROWS_PER_LOOK == 0 && task.ended() {
                return None;
            }
            match codec::decode_prefix(&bytes[at..]) {
                Ok((value, used)) => {
                    at += used;
                    Some(value)
                }
                Err(error) => {
                    task.fail(error);
                    None
                }
            }
        }))
    }
}

/// An integer that [`RddContext::range`] counts by.
pub trait Integer: Data + Copy {
    /// The integer that is so many later.
    #[must_use]
    fn plus(self, steps: u64) -> Self;

    /// How many steps it is from this to `end`; none if that is not later.
    fn steps_to(self, end: Self) -> u64;
}

macro_rules! integers {
    ($($int:ty)*) => {$(
        impl Integer for $int {
            #[inline]
            fn plus(self, steps: u64) -> Self {
                self.wrapping_add(steps as Self)
            }

            #[inline]
            fn steps_to(self, end: Self) -> u64 {
                if end > self { end.wrapping_sub(self) as u64 } else { 0 }
            }
        }
    )*};
}

integers!(u32 u64 usize);

macro_rules! signed_integers {
    ($($int:ty as $unsigned:ty),*) => {$(
        impl Integer for $int {
            #[inline]
            fn plus(self, steps: u64) -> Self {
                self.wrapping_add(steps as Self)
            }

            #[inline]
            fn steps_to(self, end: Self) -> u64 {
                if end > self { end.wrapping_sub(self) as $unsigned as u64 } else { 0 }
            }
        }
    )*};
}

signed_integers!(i32 as u32, i64 as u64, isize as usize);

/// Consecutive integers.
#[derive(Clone)]
pub struct Integers<N> {
    start: N,
    count: u64,
    partitions: u32,
    label: Label,
}

impl<N: Integer> Chain for Integers<N>
where
    Range<N>: Iterator<Item = N>,
{
    type Item = N;

    fn partitions(&self) -> u32 {
        self.partitions
    }

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        body.value(&(self.start, self.count, self.partitions))
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        let (start, count, partitions) = body.value()?;
        Ok(Self { start, count, partitions, label: Label::remote("range") })
    }

    fn write_input(&self, _: u32, _: &mut InputWriter) -> Result<(), Error> {
        Ok(())
    }

    fn reads(&self, _: u32, _: &mut Vec<ReadRange>) {}

    fn lineage(&self, lineage: &mut Lineage) {
        lineage.operation(self.label, self.partitions);
    }

    fn compute<'a>(
        &'a self,
        task: &'a Task,
        partition: u32,
        _: &mut InputReader,
    ) -> Result<impl Iterator<Item = N> + use<'a, N>, Error> {
        let share = slice(self.count, self.partitions, partition);
        task.count(|m| m.input_rows += share.end - share.start);
        // Each look gives a plain range, so that the inner loop is one of the compiler's own.
        let start = self.start;
        Ok(share
            .clone()
            .step_by(ROWS_PER_LOOK as usize)
            .take_while(|_| !task.ended())
            .flat_map(move |from| start.plus(from)..start.plus((from + ROWS_PER_LOOK).min(share.end))))
    }
}

/// Which of `count` rows are in a partition: equal shares, in order.
pub(crate) fn slice(count: u64, partitions: u32, partition: u32) -> Range<u64> {
    let cut = |p: u32| (u128::from(count) * u128::from(p) / u128::from(partitions)) as u64;
    cut(partition)..cut(partition + 1)
}

impl RddContext {
    /// Rows of the program's, in as many partitions as tasks can run at once.
    #[track_caller]
    pub fn parallelize<T: Data>(&self, rows: impl IntoIterator<Item = T>) -> Rdd<T, Collection<T>> {
        self.parallelize_into(rows, self.default_parallelism())
    }

    /// Rows of the program's, in order, cut into equal partitions.
    #[track_caller]
    pub fn parallelize_into<T: Data>(
        &self,
        rows: impl IntoIterator<Item = T>,
        partitions: u32,
    ) -> Rdd<T, Collection<T>> {
        let label = Label::here("parallelize");
        let mut bytes = Vec::new();
        let mut broken = None;
        let mut ends = Vec::new();
        for row in rows {
            if let Err(error) = codec::encode_into(&row, &mut bytes) {
                let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                broken.get_or_insert(format!("parallelize: {error}: {source}"));
            }
            ends.push(bytes.len());
        }
        let bytes = Bytes::from(bytes);
        let partitions = partitions.max(1);
        let end = |row: u64| if row == 0 { 0 } else { ends[row as usize - 1] };
        let parts = (0..partitions).map(|partition| {
            let rows = slice(ends.len() as u64, partitions, partition);
            let bytes = bytes.slice(end(rows.start)..end(rows.end));
            Part { rows: rows.end - rows.start, bytes, broken: broken.clone() }
        });
        Rdd::new(self, Collection { parts: parts.collect(), label, rows: std::marker::PhantomData })
    }

    /// Consecutive integers, in as many partitions as tasks can run at once.
    #[track_caller]
    pub fn range<N: Integer>(&self, range: Range<N>) -> Rdd<N, Integers<N>>
    where
        Range<N>: Iterator<Item = N>,
    {
        self.range_into(range, self.default_parallelism())
    }

    /// Consecutive integers, cut into equal partitions.
    #[track_caller]
    pub fn range_into<N: Integer>(&self, range: Range<N>, partitions: u32) -> Rdd<N, Integers<N>>
    where
        Range<N>: Iterator<Item = N>,
    {
        let (count, partitions) = (range.start.steps_to(range.end), partitions.max(1));
        Rdd::new(self, Integers { start: range.start, count, partitions, label: Label::here("range") })
    }

    /// No rows, in no partition.
    #[track_caller]
    pub fn empty<T: Data>(&self) -> Rdd<T, Collection<T>> {
        let label = Label::here("empty");
        Rdd::new(self, Collection { parts: Arc::new([]), label, rows: std::marker::PhantomData })
    }
}
