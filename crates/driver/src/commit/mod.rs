//! How does a write appear all at once?
//!
//! Tasks stage files below the destination; [`Commit`] then makes one entry in the destination's log, and that decides.
//! Whoever finds an entry may carry it out: its own driver, the next one that writes there, or a repair. The steps are
//! pure (`machine`); this file performs them, and asks the store for nothing but put-if-absent, get, list, copy and
//! delete.

mod error;
mod log;
mod machine;
mod read;
mod recover;
mod store;
#[cfg(test)]
mod walk;

use std::sync::Arc;
use std::time::Duration;

use model::keys;
use model::write::{self, StagedFile, WriteId, WriteMode, WriteReport, WriteTarget};
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectMeta, ObjectStore, ObjectStoreExt};
use tokio::time::Instant;

pub use error::Error;
use log::{Decision, Entry, Log};
use machine::{Answer, Do, Ended, Finishing, Intent, Lost, Place, Placing};
pub use read::settled;
pub use recover::{Note, Repaired, SettleNotes, repair};
use store::{Created, Files, in_time};

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
    /// A step that is left out, to prove that a test would notice.
    #[cfg(test)]
    left_out: Option<Step>,
}

/// Steps without which a commit is not safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Read an entry back that may or may not be one's own.
    ReadBack,
    /// Enter a tombstone for a write that is given up.
    Tombstone,
    /// Finish what others left unfinished.
    RollForward,
    /// Finish other writes before an overwrite lists what it replaces.
    Settle,
    /// Look for the mark of an entry that was carried out.
    LookForDone,
}

impl Default for Timing {
    /// Renew every 60 s, expire after 30 min, wait 30 s for the unfinished, retry for 10 min, keep entries for 7 days,
    /// commit within 3.
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self {
            renew_every: Duration::from_secs(60),
            lease_expires: Duration::from_secs(30 * 60),
            unfinished_wait: Duration::from_secs(30),
            retry_for: Duration::from_secs(10 * 60),
            keep_entries: 7 * DAY,
            oldest_write: 3 * DAY,
            #[cfg(test)]
            left_out: None,
        }
    }
}

impl Timing {
    /// Whether a step is left out: never, outside tests.
    fn leaves_out(&self, step: Step) -> bool {
        #[cfg(test)]
        return self.left_out == Some(step);
        #[cfg(not(test))]
        {
            let _ = step;
            false
        }
    }
}

/// How often the log is read while something unfinished is waited for.
const POLL_EVERY: Duration = Duration::from_millis(500);

/// What became of a write that was to begin.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "made once per write")]
pub enum Started {
    /// It may stage files.
    Writing(Commit),
    /// The mode is ignore, and something is there: nothing is to be written.
    Ignored,
}

/// A write between its start and its entry in the destination's log.
#[derive(Debug)]
pub struct Commit {
    destination: Destination,
    application: Arc<dyn ObjectStore>,
    note: Path,
    timing: Timing,
    write: WriteId,
    mode: WriteMode,
    /// The greatest number of the log when the write began.
    base: u64,
    /// Tells the driver's lease and entries from any other's.
    nonce: String,
    /// The lease as it was created.
    began: ObjectMeta,
}

/// A write whose entry is in the log: it is committed, whatever happens to its driver.
#[derive(Debug)]
#[must_use = "a committed write is published by `finish`"]
pub struct Entered<'a> {
    commit: &'a Commit,
    /// `None` if the mode is ignore and somebody else was first: nothing is to be published.
    entry: Option<(u64, Entry)>,
}

/// What became of a write that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Abandoned {
    /// It can never appear; what it had staged is deleted.
    Undone,
    /// Its entry had been made before, unheard: it is published.
    Committed(WriteReport),
}

/// How much later the second object was written, by the store's clock; zero if it was not.
fn later(first: &ObjectMeta, second: &ObjectMeta) -> Duration {
    (second.last_modified - first.last_modified).to_std().unwrap_or_default()
}

/// Whether a write of this mode would be made, as far as can be told now: `false` if it would be ignored.
///
/// # Errors
/// [`Error::DestinationExists`], or the store's.
pub async fn would_write(destination: &Destination, mode: WriteMode) -> Result<bool, Error> {
    if !matches!(mode, WriteMode::ErrorIfExists | WriteMode::Ignore) {
        return Ok(true);
    }
    let files = Files { destination, timing: &Timing::default() };
    let log = Log::new(&files.list(write::FOLDER).await?);
    files.allows(&log, mode).await
}

impl Commit {
    /// Begins a write: notes the destination below `root` of the application's store, tidies up after dead writers,
    /// looks at what is there, and takes a lease that says that the write's driver lives.
    ///
    /// # Errors
    /// [`Error::DestinationExists`], [`Error::RepeatedAppend`], [`Error::NoPutIfAbsent`], or the store's: then nothing
    /// but the note is left.
    ///
    /// # Cancellation
    /// As if the driver had died: the lease expires, and whoever comes next tidies up.
    pub async fn start(
        destination: Destination,
        (application, root): (Arc<dyn ObjectStore>, Path),
        target: &WriteTarget,
        timing: Timing,
    ) -> Result<Started, Error> {
        let WriteTarget { mode, write, .. } = *target;
        let files = Files { destination: &destination, timing: &timing };
        let note = Path::from(keys::write_note(write.app, write.epoch, write.job));
        let note = Path::from_iter(root.parts().chain(note.parts()));
        let text = Note { destination: destination.url.clone(), write }.encode();
        put_note(application.as_ref(), &note, text).await?;

        let listed = files.list(write::FOLDER).await?;
        let log = Log::new(&listed);
        let base = log.newest();
        files.recover_dead(&listed, write).await?;
        if mode == WriteMode::Append && write.epoch.0 > 1 {
            files.refuse_repeated_append(&log, write).await?;
        }
        let allowed = files.allows(&log, mode).await;
        if !matches!(allowed, Ok(true)) {
            delete_note(application.as_ref(), &note).await;
            return allowed.map(|_| Started::Ignored);
        }
        let nonce = uuid::Uuid::now_v7().to_string();
        let began = files.take_lease(write, &nonce).await?;
        Ok(Started::Writing(Self { destination, application, note, timing, write, mode, base, nonce, began }))
    }

    /// The write.
    #[must_use]
    pub fn write(&self) -> WriteId {
        self.write
    }

    fn files(&self) -> Files<'_> {
        Files { destination: &self.destination, timing: &self.timing }
    }

    /// Rewrites the lease for ever; to be polled beside everything else until the write ends. A request that fails is
    /// made again at the next turn: whether the write was given up meanwhile is told by the log, when it commits.
    ///
    /// # Cancellation
    /// The lease begins to age.
    pub async fn renew(&self) -> std::convert::Infallible {
        let mut turns = tokio::time::interval(self.timing.renew_every);
        turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        turns.tick().await;
        loop {
            turns.tick().await;
            if let Err(error) = self.files().write_lease(self.write, &self.nonce).await {
                tracing::warn!(write = %self.write, error = %error.into_failure(), "renew the lease of a write");
            }
        }
    }

    /// Makes the entry that decides. From then on the write is committed.
    ///
    /// # Errors
    /// [`Error::ConcurrentWrite`], [`Error::WriteAborted`], [`Error::WriteTooOld`]: the write is not committed.
    /// [`Error::Store`]: it may or may not be; [`Commit::abort`] finds out.
    ///
    /// # Cancellation
    /// Likewise.
    pub async fn enter(&self, staged: Vec<StagedFile>) -> Result<Entered<'_>, Error> {
        let files = self.files();
        files.write_lease(self.write, &self.nonce).await?;
        if let Some(now) = files.look(&write::stage_lease(self.write)).await?
            && later(&self.began, &now) > self.timing.oldest_write
        {
            let (destination, write) = (self.destination.url.clone(), self.write);
            return Err(Error::WriteTooOld { destination, write, days: self.timing.oldest_write.as_secs() / 86_400 });
        }
        let decision = Decision::Commit { mode: self.mode, files: staged, deletes: Vec::new() };
        let entry = Entry::new(format!("{}-commit", self.nonce), self.write, decision);
        match files.place(entry, Intent::Commit(self.mode), self.base).await? {
            Ok(placed) => Ok(Entered { commit: self, entry: Some(placed) }),
            Err(Lost::Conflict(_)) if self.mode == WriteMode::Ignore => {
                self.abort().await?;
                Ok(Entered { commit: self, entry: None })
            }
            Err(Lost::Conflict(other)) => {
                Err(Error::ConcurrentWrite { destination: self.destination.url.clone(), other })
            }
            Err(Lost::Committed { entry, .. }) => {
                Err(Error::ConcurrentWrite { destination: self.destination.url.clone(), other: entry.write })
            }
            Err(Lost::Aborted { .. }) => {
                Err(Error::WriteAborted { destination: self.destination.url.clone(), write: self.write })
            }
        }
    }

    /// Makes the entry and finishes the write.
    ///
    /// # Errors
    /// Those of [`Commit::enter`] and [`Entered::finish`].
    ///
    /// # Cancellation
    /// Before the entry is made, the write is to be given up; after it, whoever comes next finishes it.
    pub async fn publish(&self, staged: Vec<StagedFile>) -> Result<WriteReport, Error> {
        self.enter(staged).await?.finish().await
    }

    /// Gives the write up: enters that it never counts, then deletes what it staged. If it turns out to be committed
    /// already, it is finished instead.
    ///
    /// # Errors
    /// The store's, or [`Error::OutputDamaged`]: whoever comes next once the lease has expired does the rest.
    ///
    /// # Cancellation
    /// Likewise.
    pub async fn abort(&self) -> Result<Abandoned, Error> {
        let abandoned = self.files().give_up(self.write, format!("{}-abort", self.nonce), self.base).await?;
        delete_note(self.application.as_ref(), &self.note).await;
        Ok(abandoned)
    }
}

impl Entered<'_> {
    /// The write.
    #[must_use]
    pub fn write(&self) -> WriteId {
        self.commit.write
    }

    /// Publishes the files, deletes what they replace, and cleans up. The application does not end before.
    ///
    /// # Errors
    /// [`Error::OutputDamaged`] if somebody deleted a staged file; else the store's: the write is committed, and
    /// whoever comes next finishes it.
    ///
    /// # Cancellation
    /// Likewise.
    pub async fn finish(self) -> Result<WriteReport, Error> {
        let Self { commit, entry } = self;
        let Some((number, entry)) = entry else { return Ok(WriteReport::default()) };
        let report = commit.files().finish(number, entry).await?;
        commit.files().prune(number).await;
        delete_note(commit.application.as_ref(), &commit.note).await;
        Ok(report)
    }
}

async fn put_note(store: &dyn ObjectStore, note: &Path, text: Vec<u8>) -> Result<(), Error> {
    use backon::Retryable;
    let put = || in_time(async { store.put(note, text.clone().into()).await.map(drop) });
    let denied = |error: &StoreError| {
        matches!(
            error,
            StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } | StoreError::NotFound { .. }
        )
    };
    let backoff = backon::ExponentialBuilder::default().with_min_delay(Duration::from_millis(100)).with_max_times(6);
    put.retry(backoff).when(|error| !denied(error)).await.map_err(|source| {
        let (step, key) = ("write", note.to_string());
        if denied(&source) { Error::StoreDenied { step, key, source } } else { Error::Store { step, key, source } }
    })
}

/// A note that stays costs one look at the destination when the application is swept: no failure of the write.
async fn delete_note(store: &dyn ObjectStore, note: &Path) {
    match in_time(store.delete(note)).await {
        Ok(()) | Err(StoreError::NotFound { .. }) => {}
        Err(error) => tracing::warn!(%note, %error, "delete the note of a write"),
    }
}

impl Files<'_> {
    /// The log as it is now.
    async fn log(&self) -> Result<Log, Error> {
        Ok(Log::new(&self.list(write::LOG).await?))
    }

    async fn read_entry(&self, number: u64) -> Result<Option<Entry>, Error> {
        let name = write::log_entry(number);
        let Some((bytes, _)) = self.read(&name).await? else { return Ok(None) };
        Entry::decode(&bytes).map(Some).map_err(|why| Error::BadEntry { key: self.key(&name).to_string(), why })
    }

    async fn write_lease(&self, write: WriteId, nonce: &str) -> Result<(), Error> {
        self.write(&write::stage_lease(write), nonce.as_bytes().to_vec()).await
    }

    /// Creates the lease, then once more: a store that accepts that has no put-if-absent.
    async fn take_lease(&self, write: WriteId, nonce: &str) -> Result<ObjectMeta, Error> {
        let (name, destination) = (write::stage_lease(write), || self.destination.url.clone());
        let began =
            self.until_heard(&name, nonce.as_bytes(), || Error::LeaseTaken { destination: destination(), write });
        let began = began.await?;
        let again = self.create(&name, format!("{nonce}-again").into_bytes()).await?;
        let overwritten = match again {
            Created::Yes => true,
            // Without a word from the store the content tells.
            Created::Doubt(_) => self.read(&name).await?.is_some_and(|(bytes, _)| bytes != nonce.as_bytes()),
        };
        if overwritten {
            self.clear(&write::stage_folder(write)).await?;
            return Err(Error::NoPutIfAbsent { destination: destination() });
        }
        Ok(began)
    }

    /// Creates an object that only this driver writes, until it is there.
    async fn until_heard(&self, name: &str, bytes: &[u8], taken: impl Fn() -> Error) -> Result<ObjectMeta, Error> {
        let deadline = Instant::now() + self.timing.retry_for;
        loop {
            let created = self.create(name, bytes.to_vec()).await?;
            match self.read(name).await? {
                Some((found, meta)) if found == bytes => return Ok(meta),
                Some(_) => return Err(taken()),
                None => {}
            }
            self.pause_or_give_up(name, created, deadline).await?;
        }
    }

    async fn pause_or_give_up(&self, name: &str, created: Created, deadline: Instant) -> Result<(), Error> {
        if let Created::Doubt(source) = created
            && Instant::now() >= deadline
        {
            return Err(Error::Store { step: "create", key: self.key(name).to_string(), source });
        }
        tokio::time::sleep(POLL_EVERY).await;
        Ok(())
    }

    /// Brings an entry into the log; gives its number, and the entry with what it deletes.
    async fn place(&self, mut entry: Entry, intent: Intent, base: u64) -> Result<Result<(u64, Entry), Lost>, Error> {
        let mut placing = Placing::new(entry.write, entry.nonce.clone(), intent, base);
        let deadline = Instant::now() + self.timing.retry_for;
        let mut heard = None;
        loop {
            match placing.next().clone() {
                Place::Settle => {
                    if !self.timing.leaves_out(Step::Settle) {
                        self.settle().await?;
                    }
                    let there = self.visible().await?;
                    if let Decision::Commit { deletes, .. } = &mut entry.decision {
                        *deletes = there.into_iter().map(|(name, _)| name).collect();
                    }
                    placing.settled();
                }
                Place::Create(number) => {
                    let name = write::log_entry(number);
                    if let Some(doubt) = heard.take() {
                        self.pause_or_give_up(&name, doubt, deadline).await?;
                    }
                    let created = self.create(&name, entry.encode()).await?;
                    placing.created(matches!(created, Created::Yes));
                    heard = Some(created);
                }
                Place::Read(number) => {
                    let found = self.read_entry(number).await?;
                    if found.is_some() {
                        heard = None;
                    }
                    placing.read(match found {
                        // As if whatever is there were somebody else's.
                        Some(mut own) if self.timing.leaves_out(Step::ReadBack) => {
                            own.nonce.clear();
                            own.write.job.0 = u32::MAX;
                            Some(own)
                        }
                        other => other,
                    });
                }
                Place::Won(number) => return Ok(Ok((number, entry))),
                Place::Lost(lost) => return Ok(Err(lost)),
            }
        }
    }

    /// Carries an entry out.
    async fn finish(&self, number: u64, entry: Entry) -> Result<WriteReport, Error> {
        let mut finishing = Finishing::new(number, entry);
        loop {
            let answer = match finishing.next() {
                Do::Look(_) if self.timing.leaves_out(Step::LookForDone) => Answer::Found(false),
                Do::Look(name) => Answer::Found(self.look(&name).await?.is_some()),
                Do::Delete(names) => {
                    self.delete(&names).await?;
                    Answer::Ok
                }
                Do::Copy => {
                    let gone = match &finishing.entry().decision {
                        Decision::Commit { files, .. } => self.publish_all(files).await?,
                        Decision::Tombstone => None,
                    };
                    gone.map_or(Answer::Ok, Answer::Gone)
                }
                Do::Announce(bytes) => {
                    self.announce(number, &bytes).await?;
                    Answer::Ok
                }
                Do::Write(name, bytes) => {
                    self.write(&name, bytes).await?;
                    Answer::Ok
                }
                Do::Clear(write) => {
                    self.clear(&write::stage_folder(write)).await?;
                    Answer::Ok
                }
                Do::End(Ended::Finished) => return Ok(finishing.entry().report()),
                Do::End(Ended::Before) => {
                    // Late tasks and a late lease may have come after whoever was faster.
                    self.clear(&write::stage_folder(finishing.entry().write)).await?;
                    return Ok(finishing.entry().report());
                }
                Do::End(Ended::Damaged(file)) => {
                    let (destination, write) = (self.destination.url.clone(), finishing.entry().write);
                    return Err(Error::OutputDamaged { destination, write, file });
                }
            };
            finishing.answer(answer);
        }
    }

    /// Writes `_SUCCESS` for an entry, unless somebody else has finished that: then a later write may have written its own,
    /// which a driver that slept must not replace.
    async fn announce(&self, number: u64, bytes: &[u8]) -> Result<(), Error> {
        let deadline = Instant::now() + self.timing.retry_for;
        loop {
            let created = self.create(write::SUCCESS, bytes.to_vec()).await?;
            match self.read(write::SUCCESS).await? {
                Some((found, _)) if found == bytes => return Ok(()),
                Some(_) if self.look(&write::log_done(number)).await?.is_some() => return Ok(()),
                // Of an earlier write: its driver was slow to say so.
                Some(_) => self.delete(&[write::SUCCESS.to_owned()]).await?,
                None => self.pause_or_give_up(write::SUCCESS, created, deadline).await?,
            }
        }
    }

    /// Enters that a write never counts, then deletes what it staged; finishes it if it is committed already.
    async fn give_up(&self, write: WriteId, nonce: String, base: u64) -> Result<Abandoned, Error> {
        if self.timing.leaves_out(Step::Tombstone) {
            self.clear(&write::stage_folder(write)).await?;
            return Ok(Abandoned::Undone);
        }
        let tombstone = Entry::new(nonce, write, Decision::Tombstone);
        match self.place(tombstone.clone(), Intent::Tombstone, base).await? {
            Ok((number, entry)) => self.finish(number, entry).await.map(|_| Abandoned::Undone),
            Err(Lost::Aborted { number }) => self.finish(number, tombstone).await.map(|_| Abandoned::Undone),
            Err(Lost::Committed { number, entry }) => self.finish(number, *entry).await.map(Abandoned::Committed),
            Err(Lost::Conflict(other)) => {
                Err(Error::ConcurrentWrite { destination: self.destination.url.clone(), other })
            }
        }
    }

    /// The files that readers see, whatever the log says.
    async fn visible(&self) -> Result<Vec<(String, ObjectMeta)>, Error> {
        let mut listed = self.list("").await?;
        listed.retain(|(name, _)| !name.is_empty() && !write::is_hidden(name));
        Ok(listed)
    }

    /// Whether a write may go on: `false` if it is ignored for what is there.
    async fn allows(&self, log: &Log, mode: WriteMode) -> Result<bool, Error> {
        match mode {
            WriteMode::Append | WriteMode::Overwrite => Ok(true),
            WriteMode::Ignore => Ok(!self.is_there(log).await?),
            WriteMode::ErrorIfExists if self.is_there(log).await? => {
                Err(Error::DestinationExists { destination: self.destination.url.clone() })
            }
            WriteMode::ErrorIfExists => Ok(true),
        }
    }

    /// Whether a write that must not find anything finds something: a file that is not Vonk's own, or a committed write.
    async fn is_there(&self, log: &Log) -> Result<bool, Error> {
        let own = format!("{}/", write::FOLDER);
        if self.list("").await?.iter().any(|(name, _)| !name.is_empty() && !name.starts_with(&own)) {
            return Ok(true);
        }
        for number in log.unfinished() {
            if self.read_entry(number).await?.is_some_and(|entry| entry.is_commit()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// An earlier epoch of the same application may have appended the same rows.
    async fn refuse_repeated_append(&self, log: &Log, write: WriteId) -> Result<(), Error> {
        for number in log.entries() {
            let Some(Entry { write: earlier, decision, .. }) = self.read_entry(number).await? else { continue };
            let appended = matches!(decision, Decision::Commit { mode: WriteMode::Append, .. });
            if appended && earlier.app == write.app && earlier.epoch < write.epoch {
                return Err(Error::RepeatedAppend { destination: self.destination.url.clone(), earlier });
            }
        }
        Ok(())
    }

    /// Waits for entries that others are carrying out, then carries out those that are left.
    async fn settle(&self) -> Result<(), Error> {
        let deadline = Instant::now() + self.timing.unfinished_wait;
        loop {
            let log = self.log().await?;
            let unfinished: Vec<u64> = log.unfinished().collect();
            if unfinished.is_empty() {
                return Ok(());
            }
            if Instant::now() < deadline {
                tokio::time::sleep(POLL_EVERY).await;
                continue;
            }
            for number in unfinished {
                if let Some(entry) = self.read_entry(number).await? {
                    self.finish(number, entry).await?;
                }
            }
        }
    }
}
