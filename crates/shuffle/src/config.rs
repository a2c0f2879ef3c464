//! What can be set, and how much memory does a shuffle take?

use std::time::Duration;

use model::setting::{InvalidSetting, Kind, Setting, Values};
use model::shuffle::Codec;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// How blocks are compressed; empty: not at all for memory and local files, lz4 for other stores.
pub const CODEC: Setting = Setting::new(
    "shuffle.codec",
    Kind::OneOf(&["none", "lz4", "zstd"]),
    "",
    "How shuffled blocks are compressed; by default lz4, but none for memory and local files.",
)
.aliases(&["spark.io.compression.codec"]);

/// The part of an executor's memory that writing takes.
pub const WRITE_MEMORY_FRACTION: Setting = Setting::new(
    "shuffle.write_memory_fraction",
    Kind::Fraction,
    "0.2",
    "The part of an executor's memory that holds rows on their way into a shuffle.",
);

/// An object is sealed when it has so many bytes.
pub const OBJECT_TARGET: Setting = Setting::new(
    "shuffle.object_target",
    Kind::Bytes,
    "512m",
    "Outputs of maps share an object until it has this size, or a quarter of the memory for writing.",
);

/// How long a finished run waits for company.
pub const PACK_LINGER: Setting = Setting::new(
    "shuffle.pack_linger",
    Kind::Duration,
    "3s",
    "How long a finished output waits for others to share its object.",
);

/// One output of a map travels in its status up to this size.
pub const INLINE_TASK_MAX: Setting = Setting::new(
    "shuffle.inline_task_max",
    Kind::Bytes,
    "128k",
    "An output of a map of at most this size travels in messages, without a request to the store; 0 is never.",
);

/// All outputs of a shuffle that travel in statuses have at most this size together.
pub const INLINE_SHUFFLE_MAX: Setting = Setting::new(
    "shuffle.inline_shuffle_max",
    Kind::Bytes,
    "8m",
    "All outputs of one shuffle that travel in messages have at most this size together; 0 is never.",
);

/// How long requests for one thing are repeated.
pub const STORE_DEADLINE: Setting = Setting::new(
    "shuffle.store_deadline",
    Kind::Duration,
    "120s",
    "How long a failing request of a shuffle is repeated before its task fails.",
);

/// Bytes in flight of all reads of an executor.
pub const READ_INFLIGHT_BYTES: Setting = Setting::new(
    "shuffle.read_inflight_bytes",
    Kind::Bytes,
    "128m",
    "How many bytes an executor's shuffle reads hold ahead of their tasks, at most 1/16 of its memory.",
);

/// Reads in flight of an executor.
pub const READ_CONCURRENCY: Setting = Setting::new(
    "shuffle.read_concurrency",
    Kind::Integer { min: 1, max: 1_000 },
    "64",
    "How many shuffle reads an executor has in flight.",
);

/// Every key of this crate.
pub const SETTINGS: &[Setting] = &[
    CODEC,
    WRITE_MEMORY_FRACTION,
    OBJECT_TARGET,
    PACK_LINGER,
    INLINE_TASK_MAX,
    INLINE_SHUFFLE_MAX,
    STORE_DEADLINE,
    READ_INFLIGHT_BYTES,
    READ_CONCURRENCY,
];

/// The codec for a store: what was set, else none for memory and local files, where bytes cost less than cycles.
///
/// # Errors
/// The value is no codec.
pub fn codec(values: &Values, store_url: &str) -> Result<Codec, InvalidSetting> {
    let word = CODEC.value(values);
    CODEC.check(word)?;
    Ok(match word {
        "none" => Codec::None,
        "lz4" => Codec::Lz4,
        "zstd" => Codec::Zstd,
        _ if store_url.starts_with("memory:") || store_url.starts_with("file:") => Codec::None,
        _ => Codec::Lz4,
    })
}

/// `inline_max` of a shuffle of `maps` maps: fixed for the shuffle, so nothing races for a budget and no plan carries
/// more than [`INLINE_SHUFFLE_MAX`] of rows.
///
/// # Errors
/// A value is no size.
pub fn inline_max(values: &Values, maps: u32) -> Result<u32, InvalidSetting> {
    let whole = INLINE_SHUFFLE_MAX.bytes(values)? / u64::from(maps.max(1));
    Ok(u32::try_from(INLINE_TASK_MAX.bytes(values)?.min(whole)).unwrap_or(u32::MAX))
}

/// How much memory the shuffle of one executor takes, and when it acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// How many members write at a time: each has an equal share of the raw half.
    pub slots: u32,
    /// The raw half of write memory: rows not yet encoded. Default: 0.10 of executor memory.
    pub raw_bytes: u64,
    /// The encoded half: blocks until their object is stored. Default: 0.10 of executor memory.
    pub encoded_bytes: u64,
    /// An object is sealed when it has so many bytes. Default: min(512 MiB, encoded half / 2).
    pub object_target: u64,
    /// An object is sealed when its index has so many bytes. Default: 8 MiB.
    pub index_max: u64,
    /// A finished run's wait for company. Default: 3 s.
    pub pack_linger: Duration,
    /// Objects up to this length are stored with one PUT. Default: 64 MiB; 32 below 8 GiB of memory; 8 below 1 GiB.
    pub single_put_max: u64,
    /// Parts of longer ones. Default: as `single_put_max`.
    pub part_size: u64,
    /// Parts, or whole small objects, on their way at a time. Default: 4; 2 below 8 GiB of memory.
    pub parts_in_flight: u32,
    /// Bytes that all reads hold ahead of their tasks, each stream's floor apart. Default: min(128 MiB, memory / 16).
    pub read_inflight_bytes: u64,
    /// GETs in flight, each stream's floor apart. Default: 64.
    pub read_concurrency: u32,
    /// The most bytes one GET asks for. Default: 8 MiB; 2 below 1 GiB of memory.
    pub read_piece: u64,
    /// How long one request is repeated. Default: 120 s.
    pub store_deadline: Duration,
}

impl Budget {
    /// The defaults for an executor with so many bytes of memory.
    #[must_use]
    pub fn for_executor(memory: u64, slots: u32) -> Self {
        let half = memory / 10;
        let (upload, parts_in_flight) = match memory {
            m if m >= 8 * GIB => (64 * MIB, 4),
            m if m >= GIB => (32 * MIB, 2),
            _ => (8 * MIB, 2),
        };
        Self {
            slots: slots.max(1),
            raw_bytes: half,
            encoded_bytes: half,
            object_target: (512 * MIB).min(half / 2),
            index_max: 8 * MIB,
            pack_linger: Duration::from_secs(3),
            single_put_max: upload,
            part_size: upload,
            parts_in_flight,
            read_inflight_bytes: (128 * MIB).min(memory / 16),
            read_concurrency: 64,
            read_piece: if memory >= GIB { 8 * MIB } else { 2 * MIB },
            store_deadline: Duration::from_secs(120),
        }
    }

    /// The defaults for an executor, as settings change them.
    ///
    /// # Errors
    /// A value does not fit its key.
    pub fn from_settings(memory: u64, slots: u32, values: &Values) -> Result<Self, InvalidSetting> {
        let default = Self::for_executor(memory, slots);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a fraction of a size is a size")]
        let half = (memory as f64 * WRITE_MEMORY_FRACTION.fraction(values)? / 2.0) as u64;
        Ok(Self {
            raw_bytes: half,
            encoded_bytes: half,
            object_target: OBJECT_TARGET.bytes(values)?.min(half / 2),
            pack_linger: PACK_LINGER.duration(values)?,
            store_deadline: STORE_DEADLINE.duration(values)?,
            read_inflight_bytes: READ_INFLIGHT_BYTES.bytes(values)?.min(memory / 16),
            read_concurrency: u32::try_from(READ_CONCURRENCY.integer(values)?).unwrap_or(u32::MAX),
            ..default
        })
    }

    /// A member's share of the raw half.
    #[must_use]
    pub fn raw_share(&self) -> u64 {
        (self.raw_bytes / u64::from(self.slots.max(1))).max(4 * KIB)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_the_settings() {
        for memory in [256 * MIB, 4 * GIB, 64 * GIB] {
            let budget = Budget::from_settings(memory, 4, &Values::new()).unwrap();
            let plain = Budget::for_executor(memory, 4);
            assert!(budget.raw_bytes.abs_diff(plain.raw_bytes) <= 1, "{budget:?}");
            let rounded = Budget {
                raw_bytes: plain.raw_bytes,
                encoded_bytes: plain.encoded_bytes,
                object_target: plain.object_target,
                ..budget
            };
            assert_eq!(rounded, plain);
        }
    }

    #[test]
    fn the_codec_follows_the_store_unless_it_is_set() {
        let mut values = Values::new();
        assert_eq!(codec(&values, "file:///tmp/x").unwrap(), Codec::None);
        assert_eq!(codec(&values, "s3://bucket").unwrap(), Codec::Lz4);
        values.insert("shuffle.codec".into(), "zstd".into());
        assert_eq!(codec(&values, "file:///tmp/x").unwrap(), Codec::Zstd);
    }

    #[test]
    fn no_plan_carries_more_rows_than_a_shuffle_may_have_inline() {
        let values = Values::new();
        assert_eq!(inline_max(&values, 1).unwrap(), 128 << 10);
        assert_eq!(inline_max(&values, 1_024).unwrap(), 8 << 10);
    }
}
