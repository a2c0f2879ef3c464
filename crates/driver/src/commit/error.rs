//! What can go wrong with a commit, and what does each permit?

use model::write::WriteId;
use model::{Failure, FailureKind};

/// Why a write could not be started, committed, finished, undone or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The mode is error-if-exists, and something is there.
    #[error("write to {destination}: there is something already (mode `overwrite` replaces it, `append` joins it)")]
    DestinationExists {
        /// The destination.
        destination: String,
    },
    /// Somebody else committed to the destination, and this write's mode does not go together with that.
    #[error("write to {destination}: write {other} was committed in the meantime")]
    ConcurrentWrite {
        /// The destination.
        destination: String,
        /// The other write.
        other: WriteId,
    },
    /// The write was given up, by somebody who held its driver for dead or by the driver itself.
    #[error("commit write {write} to {destination}: it was aborted, since its driver did not renew its lease")]
    WriteAborted {
        /// The destination.
        destination: String,
        /// The write.
        write: WriteId,
    },
    /// Another driver has the same write in hand.
    #[error("write to {destination}: another driver holds the lease of write {write}")]
    LeaseTaken {
        /// The destination.
        destination: String,
        /// The write.
        write: WriteId,
    },
    /// The write ran so long that entries it might have met are gone.
    #[error("commit write {write} to {destination}: it began more than {days} days ago")]
    WriteTooOld {
        /// The destination.
        destination: String,
        /// The write.
        write: WriteId,
        /// How old a write may be.
        days: u64,
    },
    /// An earlier epoch of the application appended already: rows would be there twice.
    #[error("append to {destination}: write {earlier} of this application's earlier epoch did so already")]
    RepeatedAppend {
        /// The destination.
        destination: String,
        /// The earlier write.
        earlier: WriteId,
    },
    /// The store overwrote an object that was to be created only if absent.
    #[error("write to {destination}: its store has no put-if-absent, so that no write to it can be exactly once")]
    NoPutIfAbsent {
        /// The destination.
        destination: String,
    },
    /// A staged file is gone, its published copy is not there, and nobody finished the write.
    #[error("publish write {write} to {destination}: `{file}` is gone: somebody else deleted it")]
    OutputDamaged {
        /// The destination.
        destination: String,
        /// The write.
        write: WriteId,
        /// The staged file.
        file: String,
    },
    /// A write is committed but not finished, and nobody seems to be at it.
    #[error("read {destination}: write {write} is committed but not published yet (`vonk repair` finishes it)")]
    UnfinishedWrite {
        /// The destination.
        destination: String,
        /// The write.
        write: WriteId,
    },
    /// An entry of the log cannot be read.
    #[error("read log entry `{key}`: {why}")]
    BadEntry {
        /// Its key.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// The store refuses.
    #[error("{step} `{key}`")]
    StoreDenied {
        /// What was asked.
        step: &'static str,
        /// Of which object.
        key: String,
        /// Its answer.
        #[source]
        source: object_store::Error,
    },
    /// The store outlasted all retries.
    #[error("{step} `{key}`")]
    Store {
        /// What was asked.
        step: &'static str,
        /// Of which object.
        key: String,
        /// Its last answer.
        #[source]
        source: object_store::Error,
    },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        error.into_failure()
    }
}

impl Error {
    /// What the scheduler and a person hear of it.
    #[must_use]
    pub fn into_failure(self) -> Failure {
        let kind = match &self {
            Self::DestinationExists { .. }
            | Self::ConcurrentWrite { .. }
            | Self::WriteAborted { .. }
            | Self::LeaseTaken { .. }
            | Self::WriteTooOld { .. }
            | Self::RepeatedAppend { .. }
            | Self::NoPutIfAbsent { .. }
            | Self::OutputDamaged { .. }
            | Self::UnfinishedWrite { .. }
            | Self::BadEntry { .. } => FailureKind::Commit,
            Self::StoreDenied { .. } => FailureKind::StoreDenied,
            Self::Store { .. } => FailureKind::StoreUnavailable,
        };
        Failure::from_error(kind, &self)
    }
}
