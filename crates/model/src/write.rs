//! How are files named that a job writes, and what does a task say of them?

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{AppId, AttemptId, Epoch, JobId, PartitionId};

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

/// A text that is no write's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read write id `{0}`: want application-epoch-job")]
pub struct ParseWriteIdError(String);

impl FromStr for WriteId {
    type Err = ParseWriteIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || ParseWriteIdError(text.to_owned());
        let mut parts = text.split('-');
        let (Some(app), Some(epoch), Some(job), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(refuse());
        };
        Ok(Self {
            app: app.parse().map_err(|_| refuse())?,
            epoch: Epoch(epoch.parse().map_err(|_| refuse())?),
            job: JobId(job.parse().map_err(|_| refuse())?),
        })
    }
}

impl fmt::Display for WriteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.app, self.epoch.0, self.job.0)
    }
}

/// The folder below a destination that holds everything of Vonk's: its log, and files that are staged.
pub const FOLDER: &str = "_vonk";

/// Where entries of a destination's log lie.
pub const LOG: &str = "_vonk/log";

/// Where files are staged, in a folder per write.
pub const STAGE: &str = "_vonk/stage";

/// The file that tells people and other programs that a write is complete. Vonk never trusts it.
pub const SUCCESS: &str = "_SUCCESS";

/// Entry `number` of a destination's log.
#[must_use]
pub fn log_entry(number: u64) -> String {
    format!("{LOG}/{number:020}.json")
}

/// Says that everything entry `number` asks for has been done.
#[must_use]
pub fn log_done(number: u64) -> String {
    format!("{LOG}/{number:020}.done")
}

/// What a file in the log's folder is: the entry's number, and whether it is the mark that it was carried out.
#[must_use]
pub fn parse_log(name: &str) -> Option<(u64, bool)> {
    let (number, extension) = name.split_once('.')?;
    let done = match extension {
        "json" => false,
        "done" => true,
        _ => return None,
    };
    (number.len() == 20).then(|| number.parse().ok()).flatten().map(|number| (number, done))
}

/// The folder in which a write stages its files.
#[must_use]
pub fn stage_folder(write: WriteId) -> String {
    format!("{STAGE}/{write}")
}

/// Says that the driver of a write lives.
#[must_use]
pub fn stage_lease(write: WriteId) -> String {
    format!("{STAGE}/{write}/lease")
}

/// An object written only to learn the store's clock.
#[must_use]
pub fn clock(nonce: &str) -> String {
    format!("{FOLDER}/clock/{nonce}")
}

/// The name, below the destination, of file number `file` that a task attempt stages.
#[must_use]
pub fn staged_name(write: WriteId, attempt: &AttemptId, file: u32) -> String {
    format!("{STAGE}/{write}/{}.{}.{}.{file}", attempt.stage_attempt.0, attempt.partition.0, attempt.attempt)
}

/// The name, below the destination, that file number `file` of a partition has once published. The same whichever
/// attempt staged it. `folder` is empty or ends with `/`, as in `day=1/`; `extension` has no leading dot, and may be
/// empty.
#[must_use]
pub fn published_name(write: WriteId, folder: &str, partition: PartitionId, file: u32, extension: &str) -> String {
    let dot = if extension.is_empty() { "" } else { "." };
    format!("{folder}part-{:05}-{write}-{file}{dot}{extension}", partition.0)
}

/// Whether Vonk's readers skip a file below a destination: one of its segments begins with `_` or `.`.
#[must_use]
pub fn is_hidden(name: &str) -> bool {
    name.split('/').any(|segment| segment.starts_with(['_', '.']))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{StageAttempt, StageId};

    const WRITE: WriteId = WriteId { app: AppId(7), epoch: Epoch(1), job: JobId(4) };

    #[test]
    fn a_write_id_and_a_log_name_read_back() {
        assert_eq!(WRITE.to_string().parse(), Ok(WRITE));
        assert!("x-1-2".parse::<WriteId>().is_err());
        let name = |key: String| key.rsplit('/').next().unwrap().to_owned();
        assert_eq!(parse_log(&name(log_entry(12))), Some((12, false)));
        assert_eq!(parse_log(&name(log_done(12))), Some((12, true)));
        assert_eq!(parse_log("12.json"), None);
        assert_eq!(parse_log("00000000000000000012.tmp"), None);
    }

    #[test]
    fn only_the_staged_name_says_which_attempt() {
        let attempt = AttemptId {
            job: JobId(4),
            stage: StageId(3),
            stage_attempt: StageAttempt(1),
            partition: PartitionId(17),
            attempt: 2,
        };
        assert_eq!(staged_name(WRITE, &attempt, 5), format!("_vonk/stage/{WRITE}/1.17.2.5"));
        let published = published_name(WRITE, "day=1/", attempt.partition, 5, "txt.gz");
        assert_eq!(published, format!("day=1/part-00017-{WRITE}-5.txt.gz"));
        assert!(!is_hidden(&published) && is_hidden(&staged_name(WRITE, &attempt, 5)) && is_hidden("a/.b/c"));
        assert_eq!(published_name(WRITE, "", PartitionId(0), 0, ""), format!("part-00000-{WRITE}-0"));
    }
}
