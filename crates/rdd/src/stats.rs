//! How are numbers summed up: moments, buckets?

use serde::{Deserialize, Serialize};

/// Count, mean, variance and extremes of numbers, gathered in one pass and mergeable. Spark's `StatCounter`.
///
/// # Examples
/// ```
/// let stats: rdd::StatCounter = [1.0, 2.0, 3.0, 4.0].into_iter().collect();
/// assert_eq!((stats.count(), stats.mean(), stats.variance()), (4, 2.5, 1.25));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StatCounter {
    count: u64,
    mean: f64,
    /// Sum of squared distances from the mean.
    spread: f64,
    min: f64,
    max: f64,
}

impl Default for StatCounter {
    fn default() -> Self {
        Self { count: 0, mean: 0.0, spread: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY }
    }
}

impl StatCounter {
    /// Of no numbers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a number (Welford's recurrence: no sum of squares that would lose digits).
    #[inline]
    pub fn add(&mut self, value: f64) {
        self.count += 1;
        let delta = value - self.mean;
        self.mean += delta / self.count as f64;
        self.spread += delta * (value - self.mean);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    /// Adds what another counter has seen.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        if self.count == 0 {
            return other;
        }
        if other.count > 0 {
            let (n, m) = (self.count as f64, other.count as f64);
            let delta = other.mean - self.mean;
            self.mean = if m * 10.0 < n {
                self.mean + delta * m / (n + m)
            } else if n * 10.0 < m {
                other.mean - delta * n / (n + m)
            } else {
                (self.mean * n + other.mean * m) / (n + m)
            };
            self.spread += other.spread + delta * delta * n * m / (n + m);
            self.count += other.count;
            self.min = self.min.min(other.min);
            self.max = self.max.max(other.max);
        }
        self
    }

    /// How many numbers.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their sum.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.mean * self.count as f64
    }

    /// Their mean; 0 of no numbers, as in Spark.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// The smallest; infinity of no numbers.
    #[must_use]
    pub fn min(&self) -> f64 {
        self.min
    }

    /// The largest; minus infinity of no numbers.
    #[must_use]
    pub fn max(&self) -> f64 {
        self.max
    }

    /// The variance of the numbers as a whole population; NaN of no numbers.
    #[must_use]
    pub fn variance(&self) -> f64 {
        if self.count == 0 { f64::NAN } else { self.spread / self.count as f64 }
    }

    /// The variance estimated from the numbers as a sample (divided by `count - 1`); NaN of fewer than two.
    #[must_use]
    pub fn sample_variance(&self) -> f64 {
        if self.count < 2 { f64::NAN } else { self.spread / (self.count - 1) as f64 }
    }

    /// The square root of [`variance`](Self::variance).
    #[must_use]
    pub fn stdev(&self) -> f64 {
        self.variance().sqrt()
    }

    /// The square root of [`sample_variance`](Self::sample_variance).
    #[must_use]
    pub fn sample_stdev(&self) -> f64 {
        self.sample_variance().sqrt()
    }
}

impl Extend<f64> for StatCounter {
    fn extend<I: IntoIterator<Item = f64>>(&mut self, values: I) {
        values.into_iter().for_each(|value| self.add(value));
    }
}

impl FromIterator<f64> for StatCounter {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut stats = Self::new();
        stats.extend(values);
        stats
    }
}

impl std::fmt::Display for StatCounter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { count, mean, max, min, .. } = self;
        write!(f, "(count: {count}, mean: {mean}, stdev: {}, max: {max}, min: {min})", self.stdev())
    }
}

/// The edges of `buckets` buckets of one width from `min` to `max`; of one bucket if both are equal.
pub(crate) fn even_edges(min: f64, max: f64, buckets: usize) -> Vec<f64> {
    if min == max {
        return vec![min, max];
    }
    let mut edges: Vec<f64> = (0..buckets).map(|n| min + n as f64 * (max - min) / buckets as f64).collect();
    edges.push(max);
    edges
}

/// Whether these can be the edges of buckets: two at least, ascending, none NaN.
pub(crate) fn are_edges(edges: &[f64]) -> bool {
    edges.len() >= 2 && edges.is_sorted() && edges.iter().all(|edge| !edge.is_nan())
}

/// The bucket of a value: each holds its lower edge, the last one its upper edge too. None if it lies outside.
#[inline]
pub(crate) fn bucket(edges: &[f64], value: f64) -> Option<usize> {
    let last = edges.len() - 1;
    if !(edges[0]..=edges[last]).contains(&value) {
        return None;
    }
    Some(edges.partition_point(|&edge| edge <= value).clamp(1, last) - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn of_no_numbers_it_says_so() {
        let stats = StatCounter::new();
        assert_eq!((stats.count(), stats.sum(), stats.mean()), (0, 0.0, 0.0));
        assert!(stats.variance().is_nan() && stats.sample_stdev().is_nan());
        assert_eq!(stats.merge([3.0].into_iter().collect()).mean(), 3.0);
    }

    #[test]
    fn a_bucket_holds_its_lower_edge_and_the_last_one_both() {
        let edges = even_edges(0.0, 10.0, 2);
        assert_eq!(edges, [0.0, 5.0, 10.0]);
        let of = |value| bucket(&edges, value);
        assert_eq!([of(0.0), of(4.9), of(5.0), of(10.0)], [Some(0), Some(0), Some(1), Some(1)]);
        assert_eq!([of(-0.1), of(10.1), of(f64::NAN)], [None; 3]);
        assert_eq!(bucket(&even_edges(2.0, 2.0, 7), 2.0), Some(0));
        assert!(!are_edges(&[1.0]) && !are_edges(&[2.0, 1.0]) && !are_edges(&[1.0, f64::NAN]));
    }

    proptest! {
        #[test]
        fn merged_parts_are_the_whole(values in prop::collection::vec(-1e6f64..1e6, 1..80), cut in 0usize..80) {
            let (left, right) = values.split_at(cut.min(values.len()));
            let merged = left.iter().copied().collect::<StatCounter>().merge(right.iter().copied().collect());
            let n = values.len() as f64;
            let mean = values.iter().sum::<f64>() / n;
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
            prop_assert_eq!(merged.count(), values.len() as u64);
            prop_assert!((merged.mean() - mean).abs() < 1e-6 * mean.abs().max(1.0));
            prop_assert!((merged.variance() - variance).abs() <= 1e-9 * variance.max(1.0), "{} {}", merged.variance(), variance);
            prop_assert_eq!(merged.min(), values.iter().copied().fold(f64::INFINITY, f64::min));
            prop_assert_eq!(merged.max(), values.iter().copied().fold(f64::NEG_INFINITY, f64::max));
        }
    }
}
