//! Which operations draw lots?

use std::collections::HashMap;
use std::hash::Hash;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::chain::{Chain, Label, Narrow, Partitioning};
use crate::codec::{BodyReader, BodyWriter, Data};
use crate::compute::Task;
use crate::dataset::Rdd;
use crate::error::Error;
use crate::narrow::Rows;
use crate::sampling::{Sampler, fraction_for, generator, poisson, shuffle};

/// How lots are drawn.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Draw {
    /// Each row once, with this probability.
    Once(f64),
    /// Each row any number of times, so often on average.
    Often(f64),
    /// The rows whose lot, from 0 to 1, is at least the first number and below the second.
    Between(f64, f64),
}

/// A random part of the rows: the same whenever it is computed from the same rows.
#[derive(Clone)]
pub struct Sample<C> {
    parent: C,
    draw: Draw,
    seed: u64,
    label: Label,
}

impl<T: Clone + 'static, C: Chain<Item = T>> Narrow for Sample<C> {
    type Parent = C;
    type Item = T;

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
        body.value(&(self.draw, self.seed))
    }

    fn decode(parent: C, body: &mut BodyReader<'_>) -> Result<Self, Error> {
        let (draw, seed) = body.value()?;
        Ok(Self { parent, draw, seed, label: Label::remote("sample") })
    }

    fn apply<'a, I>(&'a self, _: &'a Task, partition: u32, rows: I) -> impl Iterator<Item = T> + use<'a, T, C, I>
    where
        I: Iterator<Item = T> + 'a,
    {
        let mut lots: Box<dyn FnMut() -> u32> = match self.draw {
            Draw::Once(fraction) => {
                let mut sampler = Sampler::bernoulli(fraction, self.seed, partition);
                Box::new(move || sampler.copies())
            }
            Draw::Often(mean) => {
                let mut sampler = Sampler::poisson(mean, self.seed, partition);
                Box::new(move || sampler.copies())
            }
            Draw::Between(from, to) => {
                let mut generator = generator(self.seed, partition);
                Box::new(move || u32::from((from..to).contains(&generator.random::<f64>())))
            }
        };
        rows.flat_map(move |row| std::iter::repeat_n(row, lots() as usize))
    }
}

/// The pairs of a partition that a [`sample_by_key`](Rdd::sample_by_key) takes.
pub struct ByKey<K: 'static, V: 'static> {
    rows: Rows<'static, (K, V)>,
    with_replacement: bool,
    fractions: HashMap<K, f64>,
    generator: Box<ChaCha8Rng>,
    /// A pair that is to be given again, and how often.
    again: Option<((K, V), u32)>,
}

impl<K, V> ByKey<K, V> {
    pub(crate) fn new(
        rows: Rows<'static, (K, V)>,
        with_replacement: bool,
        fractions: HashMap<K, f64>,
        seed: u64,
        partition: u32,
    ) -> Self {
        Self { rows, with_replacement, fractions, generator: Box::new(generator(seed, partition)), again: None }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Iterator for ByKey<K, V> {
    type Item = (K, V);

    fn next(&mut self) -> Option<(K, V)> {
        loop {
            let (row, copies) = match self.again.take() {
                Some(again) => again,
                None => {
                    let row = self.rows.next()?;
                    let fraction = self.fractions.get(&row.0).copied().unwrap_or(0.0);
                    let copies = if self.with_replacement {
                        poisson(fraction, &mut self.generator)
                    } else {
                        u32::from(self.generator.random::<f64>() < fraction)
                    };
                    (row, copies)
                }
            };
            match copies {
                0 => {}
                1 => return Some(row),
                _ => {
                    self.again = Some((row.clone(), copies - 1));
                    return Some(row);
                }
            }
        }
    }
}

/// How often `take_sample` draws anew before it gives up: once is nearly always enough.
const MAX_DRAWS: u64 = 100;

impl<T: Clone + 'static, C: Chain<Item = T>> Rdd<T, C> {
    /// A random part of the rows: each with probability `fraction`, or, with replacement, each `fraction` times on
    /// average. The same seed takes the same of the same rows.
    #[track_caller]
    pub fn sample(&self, with_replacement: bool, fraction: f64, seed: u64) -> Rdd<T, Sample<C>> {
        let draw = if with_replacement { Draw::Often(fraction) } else { Draw::Once(fraction) };
        self.drawn(draw, seed, Label::here("sample"))
    }

    fn drawn(&self, draw: Draw, seed: u64, label: Label) -> Rdd<T, Sample<C>> {
        Rdd::new(self.context(), Sample { parent: self.chain().clone(), draw, seed, label })
    }

    /// Splits the rows at random into datasets whose sizes are about in the proportion of `weights`. Each row is in one of
    /// them. The dataset is computed for each: persist it if that is dear, and always if its rows come in no fixed order.
    #[track_caller]
    pub fn random_split(&self, weights: &[f64], seed: u64) -> Vec<Rdd<T, Sample<C>>> {
        let label = Label::here("random_split");
        let total: f64 = weights.iter().sum();
        let mut from = 0.0;
        let mut parts = Vec::with_capacity(weights.len());
        for (at, weight) in weights.iter().enumerate() {
            // The last one takes what rounding left.
            let to = if at + 1 == weights.len() { f64::INFINITY } else { from + weight / total };
            parts.push(self.drawn(Draw::Between(from, to), seed, label));
            from = to;
        }
        parts
    }

    /// Exactly so many rows at random, in random order; all of them if there are fewer and each may be taken once.
    ///
    /// # Errors
    /// When a job does not succeed.
    #[track_caller]
    pub fn take_sample(&self, with_replacement: bool, rows: usize, seed: u64) -> Result<Vec<T>, Error>
    where
        T: Data,
    {
        let label = Label::here("take_sample");
        let total = if rows == 0 { 0 } else { self.count()? };
        if total == 0 {
            return Ok(Vec::new());
        }
        // A generator of its own: partitions have the streams from 0 on.
        let mut generator = generator(seed, u32::MAX);
        if !with_replacement && rows as u64 >= total {
            let mut all = self.collect_partitions(label, 0..self.partitions())?;
            shuffle(&mut all, &mut generator);
            return Ok(all);
        }
        let fraction = fraction_for(rows as u64, total, with_replacement);
        let draw = if with_replacement { Draw::Often(fraction) } else { Draw::Once(fraction) };
        for attempt in 0..MAX_DRAWS {
            let mut sample =
                self.drawn(draw, seed.wrapping_add(attempt), label).collect_partitions(label, 0..self.partitions())?;
            if sample.len() >= rows {
                shuffle(&mut sample, &mut generator);
                sample.truncate(rows);
                return Ok(sample);
            }
        }
        Err(Error::Invalid(format!(
            "take a sample of {rows} rows: the dataset has other rows each time it is computed"
        )))
    }
}
