//! How is every application, job, stage, attempt and executor named and printed?
//!
//! `Display` is the one spelling in logs, object keys and what a person sees.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

id!(
    /// How often a driver of this application has begun: 1, unless Kubernetes restarts drivers.
    Epoch(u32), "epoch "
);
id!(
    /// One action of the user's program, or one of several runs that make one action up.
    JobId(u32), "j"
);
id!(
    /// A stage: unique in an application, never reused by another job.
    StageId(u32), "s"
);
id!(
    /// How often a stage was attempted before: 0 at first.
    StageAttempt(u32), "attempt "
);
id!(
    /// A partition of a stage or dataset, counted from 0.
    PartitionId(u32), ""
);
id!(
    /// A map of a shuffle: the partition of the stage that writes it.
    MapId(u32), "map "
);
id!(
    /// A shuffle keeps its id for the whole application.
    ShuffleId(u32), "shuffle "
);
id!(
    /// The version of a shuffle's content: 0 until a re-run produced other rows.
    Generation(u16), "generation "
);
id!(
    /// An executor's incarnation: never given out twice in an epoch.
    ExecutorId(u64), "e"
);
id!(
    /// A persisted dataset.
    RddId(u32), "rdd "
);
id!(
    /// A broadcast variable.
    BroadcastId(u32), "broadcast "
);
id!(
    /// An accumulator.
    AccumulatorId(u32), "accumulator "
);

/// One try at computing one partition of one stage.
///
/// Spelled `stage.partition.attempt`, as in `3.17.0`; a repeated stage shows its attempt: `3r1.17.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptId {
    /// The job that asked for it.
    pub job: JobId,
    /// The stage.
    pub stage: StageId,
    /// The attempt of the stage.
    pub stage_attempt: StageAttempt,
    /// The partition.
    pub partition: PartitionId,
    /// The attempt of the task within that stage attempt, from 0.
    pub attempt: u32,
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.stage.0)?;
        if self.stage_attempt.0 > 0 {
            write!(f, "r{}", self.stage_attempt.0)?;
        }
        write!(f, ".{}.{}", self.partition.0, self.attempt)
    }
}

/// An application: a UUIDv7 in 26 characters of Crockford's base 32, so that names sort by start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppId(pub u128);

/// Crockford's base 32 in lower case: its order is that of the numbers, and Kubernetes accepts every character.
const BASE32: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl AppId {
    /// A new id from the wall clock and the system's randomness.
    #[must_use]
    pub fn generate() -> Self {
        Self(uuid::Uuid::now_v7().as_u128())
    }

    /// Milliseconds since 1970 at which the id was made.
    #[must_use]
    pub fn created_unix_ms(self) -> u64 {
        (self.0 >> 80) as u64
    }
}

impl fmt::Display for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (0..26).rev().try_for_each(|i| {
            let digit = BASE32[((self.0 >> (5 * i)) & 31) as usize];
            fmt::Write::write_char(f, char::from(digit))
        })
    }
}

impl fmt::Debug for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no application id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read application id `{0}`: want 26 characters of 0-9 and a-z without i, l, o, u")]
pub struct ParseAppIdError(String);

impl FromStr for AppId {
    type Err = ParseAppIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || ParseAppIdError(text.to_owned());
        if text.len() != 26 || text.as_bytes()[0] > b'7' {
            return Err(refuse());
        }
        text.bytes().try_fold(Self(0), |id, byte| {
            let digit = BASE32.iter().position(|&c| c == byte).ok_or_else(refuse)?;
            Ok(Self((id.0 << 5) | digit as u128))
        })
    }
}

impl Serialize for AppId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AppId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Gives out the ids of one application, each once. Shared by whoever builds jobs.
#[derive(Debug, Default)]
pub struct IdSource {
    jobs: AtomicU32,
    stages: AtomicU32,
    shuffles: AtomicU32,
    rdds: AtomicU32,
    broadcasts: AtomicU32,
    accumulators: AtomicU32,
}

macro_rules! next {
    ($($(#[$doc:meta])* $name:ident from $field:ident -> $id:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name(&self) -> $id {
            $id(self.$field.fetch_add(1, Ordering::Relaxed))
        }
    )*};
}

impl IdSource {
    next! {
        /// The next job.
        job from jobs -> JobId;
        /// The next stage.
        stage from stages -> StageId;
        /// The next shuffle.
        shuffle from shuffles -> ShuffleId;
        /// The next persisted dataset.
        rdd from rdds -> RddId;
        /// The next broadcast variable.
        broadcast from broadcasts -> BroadcastId;
        /// The next accumulator.
        accumulator from accumulators -> AccumulatorId;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_id_reads_back_and_sorts_by_number() {
        for id in [0, 1, 31, 32, u128::MAX, AppId::generate().0] {
            let text = AppId(id).to_string();
            assert_eq!((text.len(), text.parse()), (26, Ok(AppId(id))));
        }
        assert!(AppId(31).to_string() < AppId(32).to_string());
        assert!("8zzzzzzzzzzzzzzzzzzzzzzzzz".parse::<AppId>().is_err(), "more than 128 bits");
        assert!("short".parse::<AppId>().is_err());
    }

    #[test]
    fn an_attempt_shows_its_stage_attempt_only_when_repeated() {
        let mut id = AttemptId {
            job: JobId(1),
            stage: StageId(3),
            stage_attempt: StageAttempt(0),
            partition: PartitionId(17),
            attempt: 0,
        };
        assert_eq!(id.to_string(), "3.17.0");
        id.stage_attempt = StageAttempt(1);
        assert_eq!(id.to_string(), "3r1.17.0");
    }
}
