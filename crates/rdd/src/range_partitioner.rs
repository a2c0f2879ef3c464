//! Between which keys are partitions cut, so that sorted partitions are about equal?
//!
//! Spark's way: sample every partition of the input, weigh each sampled key with what it stands for, cut the weighted,
//! sorted sample into equal parts.

use serde::{Deserialize, Serialize};

use crate::sort_key;

/// Sampled keys wanted per partition that is to come: enough for parts within a few tens of percent of each other.
const SAMPLE_PER_PARTITION: u64 = 20;

/// Sampled keys wanted at most, since they all come to the driver.
const MAX_SAMPLE: u64 = 1_000_000;

/// A partition is asked for three times its share, since its size is not known before.
const OVERSAMPLING: u64 = 3;

/// What was sampled of one partition of the input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sketch<K> {
    /// How many keys it has.
    pub(crate) keys: u64,
    /// Some of them.
    pub(crate) sample: Vec<K>,
}

/// How large a sample is taken for how many partitions of output and input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SampleSize {
    /// Of all partitions together.
    pub(crate) total: u64,
    /// Of each partition.
    pub(crate) each: u64,
}

/// What is wanted for `partitions` of output and `inputs` partitions of input.
pub(crate) fn sample_size(partitions: u32, inputs: u32) -> SampleSize {
    let total = (SAMPLE_PER_PARTITION * u64::from(partitions)).min(MAX_SAMPLE);
    SampleSize { total, each: (OVERSAMPLING * total).div_ceil(u64::from(inputs.max(1))) }
}

/// Which partitions of the input hold so many keys that their sample is too thin, and the fraction to sample them with.
pub(crate) fn too_thin<K>(sketches: &[Sketch<K>], size: SampleSize) -> (Vec<u32>, f64) {
    let keys: u64 = sketches.iter().map(|sketch| sketch.keys).sum();
    let fraction = (size.total as f64 / keys.max(1) as f64).min(1.0);
    let thin = |sketch: &Sketch<K>| fraction * sketch.keys as f64 > size.each as f64;
    let thin = (0u32..).zip(sketches).filter(|(_, sketch)| thin(sketch)).map(|(at, _)| at).collect();
    (thin, fraction)
}

/// The keys behind which partitions are cut.
///
/// Fewer than wanted come out when keys repeat: all equal keys go to one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RangeBounds<K> {
    upper: Vec<K>,
    ascending: bool,
}

impl<K: Ord> RangeBounds<K> {
    /// The partitions in which keys from `lower` to `upper` lie, both included.
    pub(crate) fn holding(&self, lower: &K, upper: &K) -> std::ops::Range<u32> {
        let at = |key| self.upper.partition_point(|bound| bound < key);
        let (first, last) = (at(lower), at(upper).max(at(lower)));
        let (first, last) =
            if self.ascending { (first, last) } else { (self.upper.len() - last, self.upper.len() - first) };
        first as u32..last as u32 + 1
    }
}

impl<K: Ord + Clone> RangeBounds<K> {
    /// Bounds for at most `partitions` partitions from the samples of all partitions of the input.
    pub(crate) fn determine(sketches: Vec<Sketch<K>>, partitions: u32, ascending: bool) -> Self {
        let mut candidates: Vec<(K, f64)> = Vec::with_capacity(sketches.iter().map(|s| s.sample.len()).sum());
        for sketch in sketches {
            let weight = sketch.keys as f64 / sketch.sample.len().max(1) as f64;
            candidates.extend(sketch.sample.into_iter().map(|key| (key, weight)));
        }
        candidates.sort_by(|(a, _), (b, _)| a.cmp(b));
        let partitions = (partitions as usize).min(candidates.len());
        let step = candidates.iter().map(|(_, weight)| weight).sum::<f64>() / partitions as f64;
        let (mut upper, mut passed, mut target): (Vec<K>, f64, f64) = (Vec::new(), 0.0, step);
        for (key, weight) in candidates {
            if upper.len() + 1 >= partitions {
                break;
            }
            passed += weight;
            // Equal keys stay together: the cut waits for the next larger key.
            if passed >= target && upper.last().is_none_or(|last| key > *last) {
                upper.push(key);
                target += step;
            }
        }
        Self { upper, ascending }
    }
}

impl<K: Ord> RangeBounds<K> {
    /// How many partitions there are.
    #[must_use]
    pub(crate) fn partitions(&self) -> u32 {
        self.upper.len() as u32 + 1
    }
}

/// Finds partitions between bounds: by their prefixes, so that most keys are looked up in numbers that lie side by side.
pub(crate) struct Lookup<'a, K> {
    bounds: &'a RangeBounds<K>,
    prefixes: Vec<u64>,
}

impl<'a, K: Ord + 'static> Lookup<'a, K> {
    pub(crate) fn new(bounds: &'a RangeBounds<K>) -> Self {
        Self { bounds, prefixes: bounds.upper.iter().map(sort_key::prefix).collect() }
    }

    /// The partition of a key.
    #[inline]
    #[must_use]
    pub(crate) fn partition(&self, key: &K) -> u32 {
        let RangeBounds { upper, ascending } = self.bounds;
        let prefix = sort_key::prefix(key);
        let mut at = self.prefixes.partition_point(|bound| *bound < prefix);
        if self.prefixes.get(at) == Some(&prefix) {
            let alike = self.prefixes[at..].partition_point(|bound| *bound == prefix);
            at += upper[at..at + alike].partition_point(|bound| bound < key);
        }
        (if *ascending { at } else { upper.len() - at }) as u32
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sampling::{generator, reservoir};

    fn sketch(keys: &[u32], each: u64, partition: u32) -> Sketch<u32> {
        let (sample, keys) = reservoir(keys.iter().copied(), each as usize, &mut generator(5, partition));
        Sketch { keys, sample }
    }

    #[test]
    fn parts_of_uneven_inputs_are_about_equal() {
        let inputs: [Vec<u32>; 3] = [(0..30_000).collect(), (30_000..31_000).collect(), (31_000..40_000).collect()];
        let size = sample_size(8, 3);
        assert_eq!(size, SampleSize { total: 160, each: 160 });
        let sketches: Vec<_> = (0..).zip(&inputs).map(|(at, keys)| sketch(keys, size.each, at)).collect();
        assert_eq!(too_thin(&sketches, size).0, [0u32; 0]);
        let bounds = RangeBounds::determine(sketches, 8, true);
        assert_eq!(bounds.partitions(), 8);
        let mut sizes = [0u32; 8];
        let lookup = Lookup::new(&bounds);
        inputs.iter().flatten().for_each(|key| sizes[lookup.partition(key) as usize] += 1);
        assert!(sizes.iter().all(|&n| (2_500..=8_500).contains(&n)), "{sizes:?}");
    }

    #[test]
    fn a_partition_that_holds_nearly_all_is_sampled_again() {
        let size = sample_size(100, 50);
        let mut sketches = vec![Sketch { keys: 10, sample: vec![1u32; 10] }; 50];
        sketches[7] = Sketch { keys: 1_000_000, sample: vec![2; size.each as usize] };
        let (thin, fraction) = too_thin(&sketches, size);
        assert_eq!(thin, [7]);
        assert!((fraction - 2_000.0 / 1_000_490.0).abs() < 1e-9);
    }

    #[test]
    fn of_nothing_there_is_one_partition() {
        let bounds = RangeBounds::<u32>::determine(vec![], 9, true);
        assert_eq!((bounds.partitions(), Lookup::new(&bounds).partition(&3)), (1, 0));
    }

    /// Sorts keys, and checks that their partitions are in order and exist.
    fn keeps_order<K: Ord + Clone + 'static>(mut keys: Vec<K>, partitions: u32, ascending: bool) -> bool {
        let (sample, number) = reservoir(keys.iter().cloned(), 60, &mut generator(5, 0));
        let bounds = RangeBounds::determine(vec![Sketch { keys: number, sample }], partitions, ascending);
        keys.sort_unstable();
        if !ascending {
            keys.reverse();
        }
        let lookup = Lookup::new(&bounds);
        let places: Vec<u32> = keys.iter().map(|key| lookup.partition(key)).collect();
        bounds.partitions() <= partitions && places.is_sorted() && places.iter().all(|&p| p < bounds.partitions())
    }

    proptest! {
        #[test]
        fn order_of_partitions_is_order_of_keys(
            keys in prop::collection::vec(0u32..50, 0..200), partitions in 1u32..12, ascending: bool,
        ) {
            // Keys that are their prefix, keys whose prefixes are alike, keys without one.
            prop_assert!(keeps_order(keys.clone(), partitions, ascending));
            let texts = keys.iter().map(|key| format!("{}:the same{}", key / 10, key % 10)).collect();
            prop_assert!(keeps_order::<String>(texts, partitions, ascending));
            prop_assert!(keeps_order(keys.iter().map(|key| (key / 10, key % 10)).collect(), partitions, ascending));
        }
    }
}
