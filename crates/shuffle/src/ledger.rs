//! How is it proven that rows read are the rows written?
//!
//! A pair is a map and a partition. Everything is a sum modulo 2⁶⁴, so neither order nor packing of rows matters: a map's
//! digest sums its pairs by partition and shows whether a re-run gave the same rows; a partition's fingerprint sums its
//! pairs by map and shows whether a reader got every row once.

use xxhash_rust::xxh3::xxh3_64;

/// Makes a count of rows visible whose hashes sum to nothing.
const PER_ROW: u64 = 0x9E37_79B9_7F4A_7C15;

/// The hash of a record.
#[must_use]
#[inline]
pub fn record_hash(record: &[u8]) -> u64 {
    xxh3_64(record)
}

/// What a pair, or any share of its rows, adds to the sums.
#[must_use]
#[inline]
pub fn entry(rows: u64, row_sum: u64) -> u64 {
    row_sum.wrapping_add(rows.wrapping_mul(PER_ROW))
}

/// The weight of a map or a partition: odd, so that no entry vanishes.
#[must_use]
#[inline]
pub fn weight(index: u32) -> u64 {
    xxh3_64(&index.to_le_bytes()) | 1
}

/// A sum of weighted entries: a digest over partitions, or a fingerprint over maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sum(pub u64);

impl Sum {
    /// Adds an entry of this weight.
    #[inline]
    pub fn add(&mut self, weight: u64, entry: u64) {
        self.0 = self.0.wrapping_add(weight.wrapping_mul(entry));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_never_change() {
        let mut sum = Sum::default();
        sum.add(weight(0), entry(2, record_hash(b"a").wrapping_add(record_hash(b"b"))));
        sum.add(weight(1), entry(1, record_hash(b"")));
        assert_eq!((weight(0) & 1, weight(1) & 1), (1, 1));
        insta::assert_snapshot!(
            format!("{:016x} {:016x} {:016x}", weight(0), weight(1), sum.0),
            @"48b2c92616fc193d db02334e96d65709 1f5b4136861032f7"
        );
    }

    #[test]
    fn rows_count_even_if_their_hashes_cancel_out() {
        assert_ne!(entry(1, 0), entry(2, 0));
    }
}
