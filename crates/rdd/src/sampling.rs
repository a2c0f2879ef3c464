//! Which elements does a sample take, the same ones whenever a partition is computed again?

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The generator of one partition: the same seed and partition give the same numbers on every machine.
pub(crate) fn generator(seed: u64, partition: u32) -> ChaCha8Rng {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(u64::from(partition));
    generator
}

/// Decides how often each element of a partition is taken.
#[derive(Debug, Clone)]
pub(crate) enum Sampler {
    /// Each element once with this probability; the state is how many are passed over before the next one.
    Bernoulli { fraction: f64, skip: u64, generator: Box<ChaCha8Rng> },
    /// Each element a Poisson distributed number of times with this mean.
    Poisson { mean: f64, generator: Box<ChaCha8Rng> },
}

impl Sampler {
    /// Without replacement; a fraction outside 0 to 1 is brought there.
    pub(crate) fn bernoulli(fraction: f64, seed: u64, partition: u32) -> Self {
        let mut generator = Box::new(generator(seed, partition));
        let fraction = fraction.clamp(0.0, 1.0);
        let skip = gap(fraction, &mut generator);
        Self::Bernoulli { fraction, skip, generator }
    }

    /// With replacement.
    pub(crate) fn poisson(mean: f64, seed: u64, partition: u32) -> Self {
        Self::Poisson { mean, generator: Box::new(generator(seed, partition)) }
    }

    /// How often the next element is taken.
    #[inline]
    pub(crate) fn copies(&mut self) -> u32 {
        match self {
            Self::Bernoulli { skip: skip @ 1.., .. } => {
                *skip -= 1;
                0
            }
            Self::Bernoulli { fraction, skip, generator } => {
                *skip = gap(*fraction, generator);
                1
            }
            Self::Poisson { mean, generator } => poisson(*mean, generator),
        }
    }
}

/// How many elements lie between two that are taken with probability `fraction` each: one random number per element that
/// is taken, not per element.
fn gap(fraction: f64, generator: &mut impl Rng) -> u64 {
    if fraction >= 1.0 {
        return 0;
    }
    if fraction.is_nan() || fraction <= 0.0 {
        return u64::MAX;
    }
    (unit(generator).ln() / (-fraction).ln_1p()) as u64
}

/// A number above 0, up to 1, whose logarithm is finite.
fn unit(generator: &mut impl Rng) -> f64 {
    1.0 - generator.random::<f64>()
}

/// Beyond it `exp(-mean)` has few digits left; a sum of smaller ones is the same distribution.
const POISSON_STEP: f64 = 30.0;

/// A Poisson distributed number, by inversion.
pub(crate) fn poisson(mut mean: f64, generator: &mut impl Rng) -> u32 {
    let mut total = 0;
    while mean > 0.0 {
        let step = mean.min(POISSON_STEP);
        mean -= step;
        let mut rest: f64 = generator.random();
        let mut chance = (-step).exp();
        let mut count = 0u32;
        while rest > chance && chance > 0.0 {
            rest -= chance;
            count += 1;
            chance *= step / f64::from(count);
        }
        total += count;
    }
    total
}

/// Spark's fraction of which a sample holds at least `wanted` of `total` elements, with 99.99 % certainty.
pub(crate) fn fraction_for(wanted: u64, total: u64, with_replacement: bool) -> f64 {
    let (wanted, total) = (wanted as f64, total as f64);
    if with_replacement {
        let deviations = if wanted < 6.0 {
            12.0
        } else if wanted < 16.0 {
            9.0
        } else {
            6.0
        };
        (wanted + deviations * wanted.sqrt()).max(1e-10) / total
    } else {
        let gamma = -(1e-4f64.ln()) / total;
        let fraction = wanted / total;
        (fraction + gamma + (gamma * gamma + 2.0 * gamma * fraction).sqrt()).clamp(1e-10, 1.0)
    }
}

/// At most `size` elements of a sequence, each sequence of that size equally likely, and the sequence's length.
///
/// Algorithm L: a random number per element that is kept for a while, not per element.
pub(crate) fn reservoir<T>(items: impl IntoIterator<Item = T>, size: usize, generator: &mut impl Rng) -> (Vec<T>, u64) {
    let mut items = items.into_iter();
    let mut kept: Vec<T> = items.by_ref().take(size).collect();
    let mut seen = kept.len() as u64;
    if kept.is_empty() || kept.len() < size {
        return (kept, seen + items.count() as u64);
    }
    let (mut weight, mut skip) = (1.0f64, 0u64);
    let mut leap = |generator: &mut _| {
        weight *= (unit(generator).ln() / size as f64).exp();
        (unit(generator).ln() / (-weight).ln_1p()) as u64
    };
    skip += leap(generator);
    for item in items {
        seen += 1;
        if skip > 0 {
            skip -= 1;
        } else {
            kept[generator.random_range(0..size)] = item;
            skip = leap(generator);
        }
    }
    (kept, seen)
}

/// Puts them in random order.
pub(crate) fn shuffle<T>(items: &mut [T], generator: &mut impl Rng) {
    for last in (1..items.len()).rev() {
        items.swap(last, generator.random_range(0..=last));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(mut sampler: Sampler, of: u64) -> Vec<u64> {
        (0..of).flat_map(|n| (0..sampler.copies()).map(move |_| n)).collect()
    }

    #[test]
    fn a_partition_gives_the_same_sample_again_and_another_one_another() {
        let sample = |seed, partition| taken(Sampler::bernoulli(0.3, seed, partition), 1_000);
        assert_eq!(sample(7, 0), sample(7, 0));
        assert_ne!(sample(7, 0), sample(7, 1));
        assert_ne!(sample(7, 0), sample(8, 0));
    }

    #[test]
    fn fractions_are_kept() {
        for fraction in [0.001, 0.02, 0.3, 0.9] {
            let size = taken(Sampler::bernoulli(fraction, 1, 0), 200_000).len() as f64 / 200_000.0;
            assert!((size - fraction).abs() < 5.0 * (fraction / 200_000.0).sqrt(), "{fraction}: {size}");
        }
        assert_eq!(taken(Sampler::bernoulli(0.0, 1, 0), 100).len(), 0);
        assert_eq!(taken(Sampler::bernoulli(1.0, 1, 0), 100).len(), 100);
        for mean in [0.1, 1.0, 4.0, 75.0] {
            let size = taken(Sampler::poisson(mean, 1, 0), 20_000).len() as f64 / 20_000.0;
            assert!((size - mean).abs() < 5.0 * (mean / 20_000.0).sqrt(), "{mean}: {size}");
        }
    }

    #[test]
    fn a_bernoulli_sample_has_no_place_it_prefers() {
        let mut hits = [0u32; 50];
        for seed in 0..4_000 {
            taken(Sampler::bernoulli(0.1, seed, 0), 50).iter().for_each(|&at| hits[at as usize] += 1);
        }
        assert!(hits.iter().all(|&n| (290..=510).contains(&n)), "{hits:?}");
    }

    #[test]
    fn a_reservoir_prefers_nobody() {
        let mut hits = [0u32; 40];
        for partition in 0..4_000 {
            let (kept, seen) = reservoir(0..40usize, 4, &mut generator(3, partition));
            assert_eq!((kept.len(), seen), (4, 40));
            kept.iter().for_each(|&at| hits[at] += 1);
        }
        assert!(hits.iter().all(|&n| (290..=510).contains(&n)), "{hits:?}");
        assert_eq!(reservoir(0..3, 5, &mut generator(3, 0)), (vec![0, 1, 2], 3));
        assert_eq!(reservoir(0..3, 0, &mut generator(3, 0)), (vec![], 3));
    }

    #[test]
    fn the_fraction_for_a_sample_is_enough() {
        for (wanted, total) in [(1, 100), (50, 100), (100, 10_000), (5_000, 100_000)] {
            for with_replacement in [false, true] {
                let fraction = fraction_for(wanted, total, with_replacement);
                for seed in 0..20 {
                    let sampler = if with_replacement { Sampler::poisson } else { Sampler::bernoulli };
                    let size = taken(sampler(fraction, seed, 0), total).len() as u64;
                    assert!(size >= wanted, "{wanted} of {total}: {size}");
                }
            }
        }
    }

    #[test]
    fn a_shuffle_loses_nothing() {
        let mut items: Vec<u32> = (0..100).collect();
        shuffle(&mut items, &mut generator(1, 0));
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
