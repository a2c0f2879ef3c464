//! What does a destination's log say?

use std::collections::{BTreeMap, BTreeSet};

use model::write::{self, StagedFile, WriteId, WriteMode, WriteReport};
use object_store::ObjectMeta;
use serde::{Deserialize, Serialize};

/// The version of entries that this program writes, and the only one it reads.
const VERSION: u32 = 1;

/// One entry: what a write decided, for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    version: u32,
    /// Tells this entry from any other, so that its maker knows it again.
    pub(super) nonce: String,
    /// The write that is decided.
    pub(super) write: WriteId,
    /// How.
    pub(super) decision: Decision,
}

/// What is decided of a write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(super) enum Decision {
    /// It counts.
    Commit {
        /// What happens to what was there.
        mode: WriteMode,
        /// The files it consists of.
        files: Vec<StagedFile>,
        /// The files it replaces: keys below the destination.
        deletes: Vec<String>,
    },
    /// It can never count.
    Tombstone,
}

/// What `_SUCCESS` holds.
#[derive(Debug, Serialize)]
struct Success<'a> {
    version: u32,
    write: WriteId,
    entry: u64,
    mode: &'a WriteMode,
    files: u64,
    rows: u64,
    bytes: u64,
    fp: u64,
}

impl Entry {
    pub(super) fn new(nonce: String, write: WriteId, decision: Decision) -> Self {
        Self { version: VERSION, nonce, write, decision }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("only numbers, texts and lists")
    }

    /// Reads an entry; the error says what is wrong with it.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if version != VERSION {
            return Err(format!("it has version {version}, and this program reads {VERSION}"));
        }
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }

    /// What the write leaves.
    pub(super) fn report(&self) -> WriteReport {
        match &self.decision {
            Decision::Tombstone => WriteReport::default(),
            Decision::Commit { files, .. } => WriteReport {
                files: files.len() as u64,
                rows: files.iter().map(|file| file.rows).sum(),
                bytes: files.iter().map(|file| file.bytes).sum(),
            },
        }
    }

    /// What people and other programs are told.
    pub(super) fn success(&self, number: u64) -> Vec<u8> {
        let WriteReport { files, rows, bytes } = self.report();
        let (mode, fp) = match &self.decision {
            Decision::Tombstone => (&WriteMode::Append, 0),
            Decision::Commit { mode, files, .. } => {
                (mode, files.iter().fold(0u64, |sum, file| sum.wrapping_add(file.fingerprint)))
            }
        };
        let success = Success { version: VERSION, write: self.write, entry: number, mode, files, rows, bytes, fp };
        serde_json::to_vec(&success).expect("only numbers and texts")
    }

    pub(super) fn is_commit(&self) -> bool {
        matches!(self.decision, Decision::Commit { .. })
    }
}

/// Which entries there are, and which of them were carried out.
#[derive(Debug, Clone, Default)]
pub(super) struct Log {
    entries: BTreeSet<u64>,
    done: BTreeMap<u64, ObjectMeta>,
}

impl Log {
    /// From what a list says: names below the destination.
    pub(super) fn new<'a>(listed: impl IntoIterator<Item = &'a (String, ObjectMeta)>) -> Self {
        let mut log = Self::default();
        for (name, meta) in listed {
            let name = name.strip_prefix(write::LOG).and_then(|rest| rest.strip_prefix('/'));
            match name.and_then(write::parse_log) {
                Some((number, false)) => {
                    log.entries.insert(number);
                }
                Some((number, true)) => {
                    log.done.insert(number, meta.clone());
                }
                None => {}
            }
        }
        log
    }

    /// The greatest number; 0 if there is none.
    pub(super) fn newest(&self) -> u64 {
        self.entries.last().copied().unwrap_or(0)
    }

    /// All entries, oldest first.
    pub(super) fn entries(&self) -> impl Iterator<Item = u64> + '_ {
        self.entries.iter().copied()
    }

    /// Entries that may not have been carried out, oldest first.
    pub(super) fn unfinished(&self) -> impl Iterator<Item = u64> + '_ {
        self.entries.iter().copied().filter(|number| !self.done.contains_key(number))
    }

    /// Whether an entry was carried out.
    pub(super) fn is_done(&self, number: u64) -> bool {
        self.done.contains_key(&number)
    }

    /// Marks of carried-out entries, with what the store knows of them.
    pub(super) fn done(&self) -> impl Iterator<Item = (u64, &ObjectMeta)> + '_ {
        self.done.iter().map(|(number, meta)| (*number, meta))
    }
}
