//! Which reduce partition is a row's?

use std::hash::Hasher;

use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

/// The partition of a key with this hash: its share of the whole range, without a division.
#[must_use]
#[inline]
pub fn hash_partition(hash: u64, partitions: u32) -> u32 {
    ((u128::from(hash) * u128::from(partitions)) >> 64) as u32
}

/// Bytes a key may have before it is hashed as a stream.
const INLINE: usize = 128;

/// A [`Hasher`] with the same answer in every process, build and platform: xxh3_64 over the bytes a key writes.
///
/// Short keys are gathered in a small buffer and hashed at once, which is several times faster than a streaming state.
#[derive(Clone)]
pub struct StableHasher {
    buffer: [u8; INLINE],
    length: usize,
    long: Option<Box<Xxh3Default>>,
}

impl Default for StableHasher {
    #[inline]
    fn default() -> Self {
        Self::new()
    }
}

impl StableHasher {
    /// A hasher that has seen nothing.
    #[must_use]
    #[inline]
    pub fn new() -> Self {
        Self { buffer: [0; INLINE], length: 0, long: None }
    }

    /// The hash of one key.
    #[must_use]
    #[inline]
    pub fn hash_one<T: std::hash::Hash + ?Sized>(key: &T) -> u64 {
        let mut hasher = Self::new();
        key.hash(&mut hasher);
        hasher.finish()
    }

    #[cold]
    fn stream(&mut self, bytes: &[u8]) {
        let long = self.long.get_or_insert_with(|| {
            let mut long = Box::new(Xxh3Default::new());
            long.update(&self.buffer[..self.length]);
            long
        });
        long.update(bytes);
    }
}

macro_rules! write_little_endian {
    ($($method:ident($int:ty)),*) => {$(
        #[inline]
        fn $method(&mut self, i: $int) {
            self.write(&i.to_le_bytes());
        }
    )*};
}

impl Hasher for StableHasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        if self.long.is_none() && end <= INLINE {
            self.buffer[self.length..end].copy_from_slice(bytes);
            self.length = end;
        } else {
            self.stream(bytes);
        }
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.long.as_ref().map_or_else(|| xxh3_64(&self.buffer[..self.length]), |long| long.digest())
    }

    // Integers are hashed in one byte order and sizes in one width, so that a mixed cluster agrees.
    write_little_endian!(
        write_u16(u16),
        write_u32(u32),
        write_u64(u64),
        write_u128(u128),
        write_i16(i16),
        write_i32(i32),
        write_i64(i64),
        write_i128(i128)
    );

    #[inline]
    fn write_usize(&mut self, i: usize) {
        self.write_u64(i as u64);
    }

    #[inline]
    fn write_isize(&mut self, i: isize) {
        self.write_i64(i as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_never_change() {
        assert_eq!(StableHasher::hash_one("vonk"), xxh3_64(b"vonk\xff"));
        assert_eq!(StableHasher::hash_one(&7u64), xxh3_64(&[7, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!(StableHasher::hash_one(&7usize), StableHasher::hash_one(&7u64));
    }

    #[test]
    fn a_long_key_hashes_as_if_at_once() {
        for length in [0, 1, 127, 128, 129, 1_000] {
            let bytes: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let mut hasher = StableHasher::new();
            bytes.chunks(7).for_each(|chunk| hasher.write(chunk));
            assert_eq!(hasher.finish(), xxh3_64(&bytes), "{length}");
        }
    }

    #[test]
    fn partitions_get_equal_shares() {
        let mut counts = [0u32; 7];
        for key in 0..70_000u64 {
            counts[hash_partition(StableHasher::hash_one(&key), 7) as usize] += 1;
        }
        assert!(counts.iter().all(|n| n.abs_diff(10_000) < 500), "{counts:?}");
        assert_eq!(hash_partition(u64::MAX, 7), 6);
    }
}
