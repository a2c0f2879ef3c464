//! How are files named that a job writes, and what does a task say of them?

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{AppId, Epoch, JobId};

/// One write: the application, epoch and job that make it. In every file name, so that no two writes collide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WriteId {
    /// The application.
    pub app: AppId,
    /// Its epoch.
    pub epoch: Epoch,
    /// The job.
    pub job: JobId,
}

impl fmt::Display for WriteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.app, self.epoch.0, self.job.0)
    }
}

/// What happens to what is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WriteMode {
    /// The write fails before any task runs.
    #[default]
    ErrorIfExists,
    /// New files join it.
    Append,
    /// It is replaced, at the instant of the commit.
    Overwrite,
    /// Nothing is written.
    Ignore,
}

/// A file that a task staged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedFile {
    /// Its name below the destination while staged: `_vonk/stage/<write>/<stage attempt>.<partition>.<attempt>.<file>`.
    pub staged: String,
    /// Its name below the destination once published: `[k=v/]part-<partition>-<write>-<file>.<ext>`.
    pub published: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its rows.
    pub rows: u64,
    /// The order-free sum over its rows.
    pub fingerprint: u64,
}

/// What a job is to write, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteTarget {
    /// The destination folder's URL.
    pub destination: String,
    /// What happens to what is there.
    pub mode: WriteMode,
    /// The write's id, in the staged names. Its job is the job that runs.
    pub write: WriteId,
}

/// What a committed write left.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WriteReport {
    /// Files published.
    pub files: u64,
    /// Rows in them.
    pub rows: u64,
    /// Bytes in them.
    pub bytes: u64,
}
