//! Where does the n-th dart land?
//!
//! A dart is a pure function of its number, so a partition needs no seed, and every number of partitions, every retry and
//! every program that includes this file counts the same hits.

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014): the n-th output from seed 0.
#[inline]
fn random(n: u64) -> u64 {
    let mut z = n.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Whether the n-th dart, thrown at the unit square, lands within the quarter circle.
#[inline]
#[must_use]
pub fn hits(n: u64) -> bool {
    let bits = random(n);
    let (x, y) = (bits >> 33, (bits << 32) >> 33);
    x * x + y * y < 1 << 62
}

#[cfg(test)]
mod tests {
    use super::hits;

    #[test]
    fn a_million_darts_are_close_to_pi() {
        let inside = (0..1_000_000).filter(|&n| hits(n)).count();
        let pi = 4.0 * inside as f64 / 1e6;
        assert!((pi - std::f64::consts::PI).abs() < 0.005, "{pi}");
    }
}
