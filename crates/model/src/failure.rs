//! Why did something fail, whose fault is it, and what may follow?
//!
//! A [`Failure`] is made where the failure happens and stays typed on its whole way to the person who reads it.
//! [`FailureKind::permits`], [`FailureKind::counts`] and [`FailureKind::blame`] are total: nobody else decides what is
//! retried (docs: "what happens when something fails").

use std::error::Error;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{AttemptId, ExecutorId, Generation, MapId, ShuffleId};

/// Why an executor is no longer there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LossCause {
    /// We let it go, and it had drained.
    Released,
    /// Evicted, preempted, node gone, silent, cut off, killed from outside.
    Infrastructure,
    /// Killed for exceeding its memory limit.
    Memory,
    /// Its program ended it: signal, abort, unasked exit.
    Program,
    /// It never started, or its hello was refused: version, program, certificate.
    Start,
}

/// What was wrong with a map output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum MapFault {
    /// The store has no such object.
    Missing,
    /// Bytes, rows or sums are not those that were written, on fresh reads too.
    Corrupt,
}

/// An object of a shuffle: the writer's incarnation and its sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectRef {
    /// The executor that wrote it.
    pub executor: ExecutorId,
    /// Its sequence number in that executor.
    pub seq: u32,
}

/// The class of a failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// Bad query or bad input: SQL, cast, overflow, missing column, a file that cannot be read as what it should be.
    Query,
    /// A function of the user's failed or panicked.
    UserCode {
        /// It panicked; the panic was contained.
        panicked: bool,
        /// The function said that another try may succeed.
        transient: bool,
    },
    /// Shuffled rows are gone or damaged.
    MapOutput {
        /// The shuffle.
        shuffle: ShuffleId,
        /// The generation that was read.
        generation: Generation,
        /// Every map that lost rows with it.
        maps: Vec<MapId>,
        /// What was wrong.
        fault: MapFault,
        /// The object, unless the rows were inline.
        object: Option<ObjectRef>,
    },
    /// The memory pool refused, and nothing could spill.
    TaskMemory,
    /// The spill volume is full or fails.
    Disk,
    /// The object store outlasted all retries.
    StoreUnavailable,
    /// The executor that ran the task is lost.
    Lost(LossCause),
    /// The store refuses: 401, 403, no bucket.
    StoreDenied,
    /// Something is larger than it may be.
    Limit,
    /// Output could not be committed.
    Commit,
    /// A stage gave other rows when it ran again, and the old ones had left.
    NotDeterministic,
    /// Rows read are not the rows written: a defect of Vonk's, turned into an error.
    LedgerMismatch,
    /// Somebody asked for it.
    Cancelled,
    /// Of an old epoch or incarnation.
    Stale,
    /// Broken invariant, undecodable message, unclassified.
    Internal,
}

/// What may follow a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Permits {
    /// The job fails.
    Nothing,
    /// Another try, anywhere.
    Again,
    /// Another try, on another executor if there is one.
    Elsewhere,
    /// Another try with an executor to itself.
    Alone,
    /// Another try once these map outputs have been made again.
    Recompute {
        /// The shuffle.
        shuffle: ShuffleId,
        /// The generation that was read.
        generation: Generation,
        /// The maps to run again.
        maps: Vec<MapId>,
    },
}

/// Against which limit a failure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counts {
    /// None that the task has (an infrastructure loss has its own cap, R3; an unavailable store, R9).
    No,
    /// The task's own: 4 (R1), or 2 for user code that does not say it is transient (R5).
    Task,
    /// The task's strikes: 3 (R4).
    Strike,
    /// The stage's attempts: 4 in a row (R2).
    Stage,
}

/// Who is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Blame {
    /// The user's program, query or data.
    User,
    /// The executor it ran on.
    Executor,
    /// An object in the store.
    Object,
    /// The object store.
    Store,
    /// The task itself: what it needs.
    Task,
    /// The cluster.
    Cluster,
    /// How executors are set up: image, versions, certificates.
    Setup,
    /// Vonk.
    Vonk,
    /// Nobody.
    Nobody,
}

impl FailureKind {
    /// What may follow.
    #[must_use]
    pub fn permits(&self) -> Permits {
        match self {
            Self::Query
            | Self::StoreDenied
            | Self::Limit
            | Self::Commit
            | Self::NotDeterministic
            | Self::LedgerMismatch
            | Self::Cancelled
            | Self::Stale => Permits::Nothing,
            Self::UserCode { transient: true, .. } | Self::StoreUnavailable => Permits::Again,
            Self::UserCode { transient: false, .. }
            | Self::Disk
            | Self::Internal
            | Self::Lost(LossCause::Infrastructure | LossCause::Released | LossCause::Start) => Permits::Elsewhere,
            Self::TaskMemory | Self::Lost(LossCause::Memory | LossCause::Program) => Permits::Alone,
            Self::MapOutput { shuffle, generation, maps, .. } => {
                Permits::Recompute { shuffle: *shuffle, generation: *generation, maps: maps.clone() }
            }
        }
    }

    /// Against which limit it counts.
    #[must_use]
    pub fn counts(&self) -> Counts {
        match self {
            Self::UserCode { .. } | Self::Disk | Self::Internal => Counts::Task,
            Self::TaskMemory | Self::Lost(LossCause::Memory | LossCause::Program) => Counts::Strike,
            Self::MapOutput { .. } => Counts::Stage,
            Self::Query
            | Self::StoreUnavailable
            | Self::Lost(LossCause::Infrastructure | LossCause::Released | LossCause::Start)
            | Self::StoreDenied
            | Self::Limit
            | Self::Commit
            | Self::NotDeterministic
            | Self::LedgerMismatch
            | Self::Cancelled
            | Self::Stale => Counts::No,
        }
    }

    /// Who is to blame.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            Self::Query | Self::UserCode { .. } | Self::Limit | Self::Commit | Self::NotDeterministic => Blame::User,
            Self::MapOutput { .. } => Blame::Object,
            Self::TaskMemory | Self::Lost(LossCause::Memory | LossCause::Program) => Blame::Task,
            Self::Disk => Blame::Executor,
            Self::StoreUnavailable | Self::StoreDenied => Blame::Store,
            Self::Lost(LossCause::Infrastructure) => Blame::Cluster,
            Self::Lost(LossCause::Start) => Blame::Setup,
            Self::LedgerMismatch | Self::Internal => Blame::Vonk,
            Self::Cancelled | Self::Stale | Self::Lost(LossCause::Released) => Blame::Nobody,
        }
    }

    /// A short stable word for logs, the event log and tests.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::UserCode { panicked: true, .. } => "user-panic",
            Self::UserCode { panicked: false, .. } => "user-code",
            Self::MapOutput { fault: MapFault::Missing, .. } => "map-output-missing",
            Self::MapOutput { fault: MapFault::Corrupt, .. } => "map-output-corrupt",
            Self::TaskMemory => "task-memory",
            Self::Disk => "disk",
            Self::StoreUnavailable => "store-unavailable",
            Self::Lost(LossCause::Released) => "released",
            Self::Lost(LossCause::Infrastructure) => "lost-infrastructure",
            Self::Lost(LossCause::Memory) => "lost-memory",
            Self::Lost(LossCause::Program) => "lost-program",
            Self::Lost(LossCause::Start) => "lost-start",
            Self::StoreDenied => "store-denied",
            Self::Limit => "limit",
            Self::Commit => "commit",
            Self::NotDeterministic => "not-deterministic",
            Self::LedgerMismatch => "ledger-mismatch",
            Self::Cancelled => "cancelled",
            Self::Stale => "stale",
            Self::Internal => "internal",
        }
    }
}

/// A failure, from where it happened to the person who reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Its class.
    pub kind: FailureKind,
    /// What failed: a verb phrase, lower case, no full stop.
    pub message: String,
    /// Its causes, nearest first, each saying only itself.
    pub chain: Vec<String>,
    /// The attempt it ended, if any.
    pub attempt: Option<AttemptId>,
    /// Where it happened, if on an executor.
    pub executor: Option<ExecutorId>,
    /// What that executor had printed last, oldest first, if that is known and may say more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_lines: Vec<String>,
}

/// So many of its executor's last lines are shown with a failure.
pub const LAST_LINES: usize = 50;

/// The last lines are looked for in so many bytes.
pub const LAST_BYTES: usize = 32 << 10;

/// A line is cut after so many characters.
const LINE_CHARACTERS: usize = 1_000;

/// The last lines of what somebody has printed, at most [`LAST_LINES`], oldest first.
#[must_use]
pub fn last_lines(printed: &[u8]) -> Vec<String> {
    let printed = &printed[printed.len().saturating_sub(LAST_BYTES)..];
    let printed = printed.strip_suffix(b"\n").unwrap_or(printed);
    if printed.is_empty() {
        return Vec::new();
    }
    let mut lines: Vec<String> = printed
        .rsplit(|&byte| byte == b'\n')
        .take(LAST_LINES)
        .map(|line| String::from_utf8_lossy(line).trim_end_matches('\r').chars().take(LINE_CHARACTERS).collect())
        .collect();
    lines.reverse();
    lines
}

impl Failure {
    /// A failure without causes.
    #[must_use]
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), chain: Vec::new(), attempt: None, executor: None, last_lines: Vec::new() }
    }

    /// A failure from an error and all its sources.
    #[must_use]
    pub fn from_error(kind: FailureKind, error: &(dyn Error + 'static)) -> Self {
        let mut chain = Vec::new();
        let mut source = error.source();
        while let Some(cause) = source {
            chain.push(cause.to_string());
            source = cause.source();
        }
        Self { chain, ..Self::new(kind, error.to_string()) }
    }

    /// Adds a cause behind all that are known.
    #[must_use]
    pub fn caused_by(mut self, cause: impl Into<String>) -> Self {
        self.chain.push(cause.into());
        self
    }

    /// Names the attempt and the executor it happened on.
    #[must_use]
    pub fn during(mut self, attempt: AttemptId, executor: ExecutorId) -> Self {
        self.attempt = Some(attempt);
        self.executor = Some(executor);
        self
    }
}

/// The message and its causes on one line, for logs and terminals.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.chain.iter().try_for_each(|cause| write!(f, ": {cause}"))
    }
}

impl Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_the_last_fifty() {
        assert_eq!(last_lines(b""), Vec::<String>::new());
        assert_eq!(last_lines(b"one\r\n\ntwo"), ["one", "", "two"]);
        let many: String = (0..100).map(|i| format!("line {i}\n")).collect();
        let last = last_lines(many.as_bytes());
        assert_eq!((last.len(), last[0].as_str(), last[49].as_str()), (LAST_LINES, "line 50", "line 99"));
        assert_eq!(last_lines(&[b'x'; 5_000]), ["x".repeat(LINE_CHARACTERS)]);
    }
}
