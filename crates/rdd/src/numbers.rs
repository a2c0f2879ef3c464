//! Which actions sum up numbers?

use std::hash::Hash;
use std::iter::Sum;

use shuffle::partitioner::StableHasher;

use crate::chain::{Chain, Label};
use crate::codec::{BodyReader, BodyWriter, Data};
use crate::compute::Task;
use crate::dataset::Rdd;
use crate::distinct_sketch::DistinctSketch;
use crate::error::Error;
use crate::stages::Action;
use crate::stats::{StatCounter, are_edges, bucket, even_edges};

/// A number that statistics can be made of.
pub trait Number: Copy + 'static {
    /// The nearest `f64`.
    fn to_f64(self) -> f64;
}

macro_rules! numbers {
    ($($number:ty)*) => {$(
        impl Number for $number {
            #[inline]
            fn to_f64(self) -> f64 {
                self as f64
            }
        }
    )*};
}

numbers!(u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64);

#[derive(Clone)]
struct SumUp;

impl<T: Data + Sum<T>> Action<T> for SumUp {
    type Output = T;

    fn encode(&self, _: &mut BodyWriter) -> Result<(), Error> {
        Ok(())
    }

    fn decode(_: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self)
    }

    fn run<I: Iterator<Item = T>>(&self, _: &Task, _: u32, rows: I) -> Result<T, Error> {
        Ok(rows.sum())
    }
}

#[derive(Clone)]
struct Stats;

impl<T: Number> Action<T> for Stats {
    type Output = StatCounter;

    fn encode(&self, _: &mut BodyWriter) -> Result<(), Error> {
        Ok(())
    }

    fn decode(_: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self)
    }

    fn run<I: Iterator<Item = T>>(&self, _: &Task, _: u32, rows: I) -> Result<StatCounter, Error> {
        Ok(rows.map(T::to_f64).collect())
    }
}

#[derive(Clone)]
struct Histogram {
    edges: Vec<f64>,
}

impl<T: Number> Action<T> for Histogram {
    type Output = Vec<u64>;

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        body.value(&self.edges)
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self { edges: body.value()? })
    }

    fn run<I: Iterator<Item = T>>(&self, _: &Task, _: u32, rows: I) -> Result<Vec<u64>, Error> {
        let mut counts = vec![0; self.edges.len() - 1];
        rows.filter_map(|row| bucket(&self.edges, row.to_f64())).for_each(|at| counts[at] += 1);
        Ok(counts)
    }
}

#[derive(Clone)]
struct CountDistinct {
    relative_sd: f64,
}

impl<T: Hash + 'static> Action<T> for CountDistinct {
    type Output = DistinctSketch;

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        body.value(&self.relative_sd)
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self { relative_sd: body.value()? })
    }

    fn run<I: Iterator<Item = T>>(&self, _: &Task, _: u32, rows: I) -> Result<DistinctSketch, Error> {
        let mut sketch = DistinctSketch::with_error(self.relative_sd);
        rows.for_each(|row| sketch.add(StableHasher::hash_one(&row)));
        Ok(sketch)
    }
}

impl<T: 'static, C: Chain<Item = T>> Rdd<T, C> {
    /// The sum of all numbers, in their own type.
    ///
    /// # Errors
    /// When the job does not succeed.
    #[track_caller]
    pub fn sum(&self) -> Result<T, Error>
    where
        T: Data + Sum<T>,
    {
        Ok(self.run_all(Label::here("sum"), SumUp)?.into_iter().sum())
    }

    /// Count, mean, variance and extremes of all numbers, in one pass.
    ///
    /// # Errors
    /// When the job does not succeed.
    #[track_caller]
    pub fn stats(&self) -> Result<StatCounter, Error>
    where
        T: Number,
    {
        self.stats_labelled(Label::here("stats"))
    }

    fn stats_labelled(&self, label: Label) -> Result<StatCounter, Error>
    where
        T: Number,
    {
        Ok(self.run_all(label, Stats)?.into_iter().fold(StatCounter::new(), StatCounter::merge))
    }

    /// The mean of all numbers; 0 of none.
    ///
    /// # Errors
    /// When the job does not succeed.
    #[track_caller]
    pub fn mean(&self) -> Result<f64, Error>
    where
        T: Number,
    {
        Ok(self.stats_labelled(Label::here("mean"))?.mean())
    }

    /// The variance of all numbers, as a whole population; NaN of none.
    ///
    /// # Errors
    /// When the job does not succeed.
    #[track_caller]
    pub fn variance(&self) -> Result<f64, Error>
    where
        T: Number,
    {
        Ok(self.stats_labelled(Label::here("variance"))?.variance())
    }

    /// The standard deviation of all numbers, as a whole population; NaN of none.
    ///
    /// # Errors
    /// When the job does not succeed.
    #[track_caller]
    pub fn stdev(&self) -> Result<f64, Error>
    where
        T: Number,
    {
        Ok(self.stats_labelled(Label::here("stdev"))?.stdev())
    }

    /// How many numbers fall into each of so many buckets of one width, from the smallest number to the largest: the
    /// buckets' edges, one more than buckets, and the counts. Each bucket holds its lower edge, the last one both. If all
    /// numbers are equal there is one bucket.
    ///
    /// # Errors
    /// When the job does not succeed, there is no number or no bucket, or one is infinite or NaN.
    #[track_caller]
    pub fn histogram(&self, buckets: usize) -> Result<(Vec<f64>, Vec<u64>), Error>
    where
        T: Number,
    {
        let label = Label::here("histogram");
        let stats = self.stats_labelled(label)?;
        let finite = stats.min().is_finite() && stats.max().is_finite() && !stats.mean().is_nan();
        if buckets == 0 || !finite {
            let why = "it needs a bucket, a number, and no number that is infinite or NaN";
            return Err(Error::Invalid(format!("make a histogram: {why}")));
        }
        let edges = even_edges(stats.min(), stats.max(), buckets);
        let counts = self.counts(edges.clone(), label)?;
        Ok((edges, counts))
    }

    /// How many numbers fall into each bucket between two of these edges, which ascend. Each bucket holds its lower edge,
    /// the last one both; numbers outside are in none.
    ///
    /// # Errors
    /// When the job does not succeed, or these are no edges: two at least, ascending, none NaN.
    #[track_caller]
    pub fn histogram_between(&self, edges: &[f64]) -> Result<Vec<u64>, Error>
    where
        T: Number,
    {
        if !are_edges(edges) {
            return Err(Error::Invalid("make a histogram: its edges must be two at least, and ascend".to_owned()));
        }
        self.counts(edges.to_vec(), Label::here("histogram"))
    }

    fn counts(&self, edges: Vec<f64>, label: Label) -> Result<Vec<u64>, Error>
    where
        T: Number,
    {
        let mut counts = vec![0; edges.len() - 1];
        for part in self.run_all(label, Histogram { edges })? {
            counts.iter_mut().zip(part).for_each(|(count, more)| *count += more);
        }
        Ok(counts)
    }

    /// About how many distinct rows there are, with this relative standard deviation (Spark's default is 0.05). Each
    /// partition sends a sketch of some kilobytes, however many rows it has.
    ///
    /// # Errors
    /// When the job does not succeed.
    #[track_caller]
    pub fn count_approx_distinct(&self, relative_sd: f64) -> Result<u64, Error>
    where
        T: Hash,
    {
        let mut all = DistinctSketch::with_error(relative_sd);
        let sketches = self.run_all(Label::here("count_approx_distinct"), CountDistinct { relative_sd })?;
        sketches.iter().for_each(|sketch| all.merge(sketch));
        Ok(all.estimate().round() as u64)
    }
}
