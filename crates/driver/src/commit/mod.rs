//! How does a write appear all at once?

mod error;

use std::sync::Arc;
use std::time::Duration;

use model::Failure;
use model::write::{StagedFile, WriteId, WriteReport, WriteTarget};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};

pub use error::Error;

/// A folder that is written to or read.
#[derive(Debug, Clone)]
pub struct Destination {
    /// The store it lies in.
    pub store: Arc<dyn ObjectStore>,
    /// Its path in that store.
    pub path: Path,
    /// Its URL, for notes and messages.
    pub url: String,
}

/// How long things may take. The defaults are those of production; tests shorten them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// How often a living driver rewrites its lease.
    pub renew_every: Duration,
    /// A lease of this age, by the store's clock, belongs to a dead driver.
    pub lease_expires: Duration,
    /// How long readers and overwrites wait for a committed write to be finished by its own driver.
    pub unfinished_wait: Duration,
    /// How long a request is repeated that the store does not answer.
    pub retry_for: Duration,
    /// How long finished entries are kept.
    pub keep_entries: Duration,
    /// How old a write may be when it commits: less than `keep_entries`, since it must meet what others entered.
    pub oldest_write: Duration,
}

/// What became of a write that was to begin.
#[derive(Debug)]
pub enum Started {
    /// It may stage files.
    Writing(Commit),
    /// The mode is ignore, and something is there: nothing is to be written.
    Ignored,
}

/// A write between its start and its entry in the destination's log.
#[derive(Debug)]
pub struct Commit {}

/// A write whose entry is in the log: it is committed, whatever happens to its driver.
#[derive(Debug)]
pub struct Entered {}

/// What became of a write that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Abandoned {
    /// It can never appear; what it had staged is deleted.
    Undone,
    /// Its entry had been made before, unheard: it is published.
    Committed(WriteReport),
}

/// What a repair did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Writes that were committed, and are published now.
    pub finished: Vec<WriteId>,
    /// Writes that can never appear any more; what they had staged is deleted.
    pub aborted: Vec<WriteId>,
    /// Writes whose drivers live.
    pub running: Vec<WriteId>,
}

impl Commit {
    /// Begins a write.
    pub async fn start(
        _destination: Destination,
        _application: (Arc<dyn ObjectStore>, Path),
        _target: &WriteTarget,
        _timing: Timing,
    ) -> Result<Started, Error> {
        Ok(Started::Ignored)
    }

    /// Rewrites the lease for ever; to be polled by the caller while the write runs.
    pub async fn renew(&self) -> Error {
        std::future::pending().await
    }

    /// Makes the entry. From then on the write is committed.
    pub async fn enter(&self, _staged: Vec<StagedFile>) -> Result<Entered, Error> {
        Ok(Entered {})
    }

    /// Makes the entry and finishes the write.
    pub async fn publish(&self, staged: Vec<StagedFile>) -> Result<WriteReport, Error> {
        self.enter(staged).await?.finish().await
    }

    /// Gives the write up.
    pub async fn abort(&self) -> Result<Abandoned, Error> {
        Ok(Abandoned::Undone)
    }
}

impl Entered {
    /// Publishes the files, deletes what they replace, and cleans up.
    pub async fn finish(self) -> Result<WriteReport, Error> {
        Ok(WriteReport::default())
    }
}

/// Finishes every committed write to the destination, and undoes those whose drivers are dead.
pub async fn repair(_destination: &Destination, _timing: &Timing) -> Result<Repaired, Error> {
    Ok(Repaired::default())
}

/// The files that make up the destination's rows.
pub async fn read_committed(_destination: &Destination, _timing: &Timing) -> Result<Vec<ObjectMeta>, Error> {
    Ok(Vec::new())
}

/// The failure of a commit, as the scheduler hears of it.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        error.into_failure()
    }
}
