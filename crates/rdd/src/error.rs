//! What can go wrong with a dataset?

use std::error::Error as StdError;

use model::runner::JobError;
use model::{Failure, FailureKind};

/// What can go wrong with a dataset, in the driver or in a task.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A job did not succeed.
    #[error(transparent)]
    Job(#[from] JobError),
    /// A value cannot be written as bytes.
    #[error("encode a value of type `{type_name}`")]
    Encode {
        /// Its type.
        type_name: &'static str,
        /// Why.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// Bytes are not a value of that type.
    #[error("decode a value of type `{type_name}`")]
    Decode {
        /// The type.
        type_name: &'static str,
        /// Why.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// A stage's body is not one that this executable writes.
    #[error("read the body of a stage: {0}")]
    CorruptBody(&'static str),
    /// A message names a function that this executable has not.
    #[error("find function {index} of {entries}: driver and executor run different executables")]
    UnknownFunction {
        /// The index named.
        index: u32,
        /// How many this executable has.
        entries: usize,
    },
    /// A message names a function by an index at which this executable has another.
    #[error("find function {index}: this executable has `{found}` there, the driver's another")]
    OtherFunction {
        /// The index named.
        index: u32,
        /// What is there.
        found: &'static str,
    },
    /// A function captured variables by itself.
    #[error("send function `{0}`: it captures by other means than `task!` or `map_with`")]
    ForeignCapture(&'static str),
    /// Rows cannot be written to or read from a shuffle.
    #[error(transparent)]
    Shuffle(#[from] shuffle::Error),
    /// Something in a task failed that is classified already.
    #[error(transparent)]
    Failure(Box<Failure>),
    /// The task was asked to stop.
    #[error("compute a partition: cancelled")]
    Cancelled,
    /// Rows that must be held exceed what the task may have, and nothing could be spilled.
    #[error("compute a partition: {0} more bytes of memory are refused")]
    OutOfMemory(u64),
    /// The local disk failed or is full.
    #[error("spill rows to the local disk")]
    Spill(#[source] std::io::Error),
    /// The call makes no sense for this dataset or these arguments.
    #[error("{0}")]
    Invalid(String),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Failure(Box::new(failure))
    }
}

impl Error {
    /// The failure of the task that met it.
    #[must_use]
    pub fn into_failure(self) -> Failure {
        let kind = match self {
            Self::Failure(failure) => return *failure,
            Self::Shuffle(error) => return error.into_failure(),
            Self::Encode { .. } => FailureKind::UserCode { panicked: false, transient: false },
            Self::OutOfMemory(_) => FailureKind::TaskMemory,
            Self::Spill(_) => FailureKind::Disk,
            Self::Cancelled => FailureKind::Cancelled,
            Self::Invalid(_) => FailureKind::Query,
            Self::Job(_)
            | Self::Decode { .. }
            | Self::CorruptBody(_)
            | Self::UnknownFunction { .. }
            | Self::OtherFunction { .. }
            | Self::ForeignCapture(_) => FailureKind::Internal,
        };
        Failure::from_error(kind, &self)
    }
}
