//! How do a program's tasks, in pods, and its test, outside, tell each other where they are?
//!
//! Through the store, which both reach: a task leaves a *note*, an object of its own, and may wait until the test opens a
//! *gate*. A test acts when it has seen the note, so it needs no guess about time.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};

/// The environment variable of pods with the URL under which notes and gates lie.
pub const NOTES: &str = "NOTES_URL";

/// Who waits for a gate or a note looks so often.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Nobody waits longer than this; a task of a test that has failed must end.
const WAIT_AT_MOST: Duration = Duration::from_secs(600);

/// Notes and gates of one test.
#[derive(Debug, Clone)]
pub struct Notes {
    store: Arc<dyn ObjectStore>,
    root: Path,
}

impl Notes {
    /// Those under this URL.
    ///
    /// # Errors
    /// It names no store.
    pub fn open(url: &str) -> Result<Self, anyhow::Error> {
        let (store, root) = shuffle::store::open(url)?;
        Ok(Self { store, root })
    }

    /// When each note of this name was left, in milliseconds since 1970, oldest first.
    ///
    /// # Errors
    /// The store fails.
    pub async fn of(&self, name: &str) -> Result<Vec<u64>, anyhow::Error> {
        let under = self.path("notes", name);
        let listed: Vec<_> = self.store.list(Some(&under)).try_collect().await?;
        let times = listed.iter().filter_map(|object| object.location.filename()?.split('-').next()?.parse().ok());
        let mut times: Vec<u64> = times.collect();
        times.sort_unstable();
        Ok(times)
    }

    /// Lets those who wait for the gate go on.
    ///
    /// # Errors
    /// The store fails.
    pub async fn open_gate(&self, name: &str) -> Result<(), anyhow::Error> {
        self.store.put(&self.path("gates", name), PutPayload::default()).await?;
        Ok(())
    }

    async fn leave(&self, name: &str) -> Result<(), anyhow::Error> {
        let now = unix_ms();
        let object = format!("{now}-{}", std::env::var("HOSTNAME").unwrap_or_default());
        // Two tasks of one executor may be as quick.
        let unique = format!("{object}-{:?}", std::thread::current().id()).replace(['(', ')'], "");
        self.store.put(&self.path("notes", name).join(unique), PutPayload::default()).await?;
        Ok(())
    }

    async fn pass(&self, gate: &str) -> Result<(), anyhow::Error> {
        let gate = self.path("gates", gate);
        let opened = async {
            loop {
                match self.store.head(&gate).await {
                    Err(object_store::Error::NotFound { .. }) => tokio::time::sleep(LOOK_AGAIN_AFTER).await,
                    other => return other.map(drop),
                }
            }
        };
        Ok(tokio::time::timeout(WAIT_AT_MOST, opened).await??)
    }

    fn path(&self, kind: &str, name: &str) -> Path {
        self.root.clone().join(kind).join(name)
    }
}

/// The present, as notes have it.
#[must_use]
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Leaves a note, in a task; nothing if nobody wants notes.
///
/// # Panics
/// The store fails.
pub fn note(name: &str) {
    with_notes(async |notes| notes.leave(name).await);
}

/// Waits, in a task, until the test opens a gate; not at all if nobody wants notes.
///
/// # Panics
/// The store fails, or nobody opens it.
pub fn pass(gate: &str) {
    with_notes(async |notes| notes.pass(gate).await);
}

/// Waits, in a task, until there are so many notes of this name.
///
/// # Panics
/// The store fails, or they do not come.
pub fn meet(name: &str, so_many: usize) {
    with_notes(async |notes| {
        let met = async {
            while notes.of(name).await?.len() < so_many {
                tokio::time::sleep(LOOK_AGAIN_AFTER).await;
            }
            Ok(())
        };
        tokio::time::timeout(WAIT_AT_MOST, met).await?
    });
}

fn with_notes(act: impl AsyncFnOnce(Notes) -> Result<(), anyhow::Error>) {
    let Ok(url) = std::env::var(NOTES) else { return };
    let acted = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(act(Notes::open(&url)?))
    };
    if let Err(error) = acted() {
        panic!("notes at {url}: {error:#}");
    }
}
