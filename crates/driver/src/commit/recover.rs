//! What becomes of writes whose drivers are gone?

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use model::write::{self, WriteId};
use model::{Failure, FailureKind};
use object_store::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::error::Error;
use super::log::{Entry, Log};
use super::store::Files;
use super::{Abandoned, Destination, Step, Timing, later};

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

/// Finishes every committed write to the destination, and gives up those whose drivers have not renewed their leases.
/// Any number may run at once, beside any writers.
///
/// # Errors
/// [`Error::OutputDamaged`] if somebody deleted a staged file of a committed write; else the store's.
///
/// # Cancellation
/// The next repair does the rest.
pub async fn repair(destination: &Destination, timing: &Timing) -> Result<Repaired, Error> {
    let files = Files { destination, timing };
    let listed = files.list(write::FOLDER).await?;
    let mut repaired = Repaired::default();
    let log = Log::new(&listed);
    if !timing.leaves_out(Step::RollForward) {
        for number in log.unfinished() {
            let Some(entry) = files.read_entry(number).await? else { continue };
            let (write, commit) = (entry.write, entry.is_commit());
            files.finish(number, entry).await?;
            if commit { &mut repaired.finished } else { &mut repaired.aborted }.push(write);
        }
    }
    // What was finished just now has left the list's staged files behind as ghosts: deleting them again does no harm.
    let stages = Stages::new(&listed);
    files.give_up_dead(&log, &stages, None, &mut repaired).await?;
    Ok(repaired)
}

/// What is staged below a destination: per write its files' metadata, the lease's first.
#[derive(Debug, Default)]
struct Stages {
    writes: BTreeMap<WriteId, Stage>,
    clocks: Vec<(String, ObjectMeta)>,
}

#[derive(Debug, Default)]
struct Stage {
    lease: Option<ObjectMeta>,
    newest: Option<ObjectMeta>,
}

impl Stages {
    fn new(listed: &[(String, ObjectMeta)]) -> Self {
        let mut stages = Self::default();
        for (name, meta) in listed {
            if name.starts_with(&write::clock("")) {
                stages.clocks.push((name.clone(), meta.clone()));
            }
            let Some(rest) = name.strip_prefix(write::STAGE).and_then(|rest| rest.strip_prefix('/')) else { continue };
            let Some((folder, file)) = rest.split_once('/') else { continue };
            let Ok(write) = folder.parse::<WriteId>() else { continue };
            let stage = stages.writes.entry(write).or_default();
            if file == "lease" {
                stage.lease = Some(meta.clone());
            }
            if stage.newest.as_ref().is_none_or(|newest| newest.last_modified < meta.last_modified) {
                stage.newest = Some(meta.clone());
            }
        }
        stages
    }
}

impl Stage {
    /// How long its driver has not been heard of: by its lease, or, when that is gone, by the newest file.
    fn age(&self, now: &ObjectMeta) -> Duration {
        self.lease.as_ref().or(self.newest.as_ref()).map(|meta| later(meta, now)).unwrap_or_default()
    }
}

impl Files<'_> {
    /// What a write does before it begins: finishes committed writes of dead drivers, and gives up their others.
    /// `listed` is everything of Vonk's below the destination.
    pub(super) async fn recover_dead(&self, listed: &[(String, ObjectMeta)], own: WriteId) -> Result<(), Error> {
        let (log, stages) = (Log::new(listed), Stages::new(listed));
        let mut repaired = Repaired::default();
        let unfinished: Vec<u64> = log.unfinished().collect();
        if !unfinished.is_empty() && !self.timing.leaves_out(Step::RollForward) {
            let now = self.clock().await?;
            for number in unfinished {
                let Some(entry) = self.read_entry(number).await? else { continue };
                // A write without anything staged has nothing more to copy: its driver died at the very end, or is there.
                let age = stages.writes.get(&entry.write).map(|stage| stage.age(&now));
                if age.is_none_or(|age| age >= self.timing.lease_expires) {
                    self.finish(number, entry).await?;
                }
            }
        }
        self.give_up_dead(&log, &stages, Some(own), &mut repaired).await?;
        for write in repaired.aborted {
            tracing::info!(%write, destination = self.destination.url, "gave up a write whose driver is gone");
        }
        Ok(())
    }

    /// Gives up staged writes without an entry whose leases have expired, and deletes what late tasks of decided ones
    /// staged.
    async fn give_up_dead(
        &self,
        log: &Log,
        stages: &Stages,
        own: Option<WriteId>,
        repaired: &mut Repaired,
    ) -> Result<(), Error> {
        if stages.writes.is_empty() && stages.clocks.is_empty() {
            return Ok(());
        }
        let now = self.clock().await?;
        let mut decided: BTreeMap<WriteId, u64> = BTreeMap::new();
        if !stages.writes.is_empty() {
            for number in log.entries() {
                if let Some(Entry { write, .. }) = self.read_entry(number).await? {
                    decided.insert(write, number);
                }
            }
        }
        let seen: BTreeSet<WriteId> = repaired.finished.iter().chain(&repaired.aborted).copied().collect();
        for (&write, stage) in &stages.writes {
            if Some(write) == own || seen.contains(&write) {
                continue;
            }
            if let Some(number) = decided.get(&write) {
                if log.is_done(*number) {
                    self.clear(&write::stage_folder(write)).await?;
                }
            } else if stage.age(&now) < self.timing.lease_expires {
                repaired.running.push(write);
            } else {
                let nonce = uuid::Uuid::now_v7().to_string();
                match self.give_up(write, nonce, log.newest()).await? {
                    Abandoned::Undone => repaired.aborted.push(write),
                    Abandoned::Committed(_) => repaired.finished.push(write),
                }
            }
        }
        let old = stages.clocks.iter().filter(|(_, meta)| later(meta, &now) >= self.timing.lease_expires);
        let old: Vec<String> = old.map(|(name, _)| name.clone()).collect();
        self.delete(&old).await
    }

    /// The store's clock: what it knows of an object that was written just now.
    async fn clock(&self) -> Result<ObjectMeta, Error> {
        let name = write::clock(&uuid::Uuid::now_v7().to_string());
        self.write(&name, Vec::new()).await?;
        let now = self.look(&name).await?;
        self.delete(std::slice::from_ref(&name)).await?;
        match now {
            Some(now) => Ok(now),
            None => Err(Error::Store {
                step: "read",
                key: self.key(&name).to_string(),
                source: object_store::Error::Generic {
                    store: "commit",
                    source: "an object that was just written is not there".into(),
                },
            }),
        }
    }

    /// Deletes entries that were carried out long ago, but for the newest. What cannot be deleted is left to the next
    /// write: no failure of this one.
    pub(super) async fn prune(&self, finished: u64) {
        let prune = async {
            let log = self.log().await?;
            let Some((_, now)) = log.done().find(|(number, _)| *number == finished) else { return Ok(()) };
            let old: Vec<u64> = log
                .done()
                .filter(|(number, meta)| *number < log.newest() && later(meta, now) >= self.timing.keep_entries)
                .map(|(number, _)| number)
                .collect();
            // The mark goes after its entry: an entry without it would be carried out again.
            self.delete(&old.iter().map(|number| write::log_entry(*number)).collect::<Vec<_>>()).await?;
            self.delete(&old.iter().map(|number| write::log_done(*number)).collect::<Vec<_>>()).await
        };
        let pruned: Result<(), Error> = prune.await;
        if let Err(error) = pruned {
            tracing::warn!(destination = self.destination.url, error = %error.into_failure(), "prune a destination's log");
        }
    }
}

/// What an application notes of a write before it begins, so that a sweep finds what its driver left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The destination's URL.
    pub destination: String,
    /// The write.
    pub write: WriteId,
}

impl Note {
    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("only numbers and texts")
    }

    /// Reads a note.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, Failure> {
        serde_json::from_slice(bytes).map_err(|error| Failure::from_error(FailureKind::Commit, &error))
    }
}

/// Settles the writes that a dead application noted; `open` finds a destination by its URL.
#[derive(Debug)]
pub struct SettleNotes<F> {
    /// Finds a destination by its URL.
    pub open: F,
    /// How long things may take.
    pub timing: Timing,
}

impl<F> shuffle::sweep::SettleWrites for SettleNotes<F>
where
    F: Fn(&str) -> Result<Destination, Failure> + Send + Sync,
{
    fn settle(&self, note: Bytes) -> BoxFuture<'_, Result<(), Failure>> {
        async move {
            let note = Note::decode(&note)?;
            let destination = (self.open)(&note.destination)?;
            repair(&destination, &self.timing).await.map(drop).map_err(Error::into_failure)
        }
        .boxed()
    }
}
