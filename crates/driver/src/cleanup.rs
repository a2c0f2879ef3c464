//! What does the driver delete from the store, and when?
//!
//! Keys of a shuffle that nobody needs go [`RELEASE_AFTER`] later, so that a reader which is void already meets no missing object;
//! whatever is left goes when the application ends.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::path::Path;
use shuffle::sweep::{RELEASE_AFTER, delete_all};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::store::under;

/// How long one round of deletions may take; what it leaves is deleted at the end, or swept.
const ROUND_WITHIN: Duration = Duration::from_secs(120);

#[derive(Default)]
struct Shared {
    due: Mutex<VecDeque<(Instant, Vec<Path>)>>,
    filled: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, VecDeque<(Instant, Vec<Path>)>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Deletes objects in the background. Clones share the work.
#[derive(Clone)]
pub(crate) struct Cleaner {
    store: Arc<dyn ObjectStore>,
    root: Path,
    shared: Arc<Shared>,
}

impl Cleaner {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, root: Path) -> Self {
        Self { store, root, shared: Arc::default() }
    }

    /// These keys go in a while.
    pub(crate) fn later(&self, keys: Vec<String>) {
        if keys.is_empty() {
            return;
        }
        let paths = keys.iter().map(|key| under(&self.root, key)).collect();
        self.shared.lock().push_back((Instant::now() + RELEASE_AFTER, paths));
        self.shared.filled.notify_one();
    }

    /// Deletes what is due, until it is told to stop; what is not due then is left to [`Self::rest`].
    pub(crate) async fn run(self, stopped: CancellationToken) {
        loop {
            let due = self.shared.lock().front().map(|(due, _)| *due);
            let wait = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => self.shared.filled.notified().await,
                }
            };
            tokio::select! {
                () = stopped.cancelled() => return,
                () = wait => {}
            }
            let paths = {
                let mut queue = self.shared.lock();
                match queue.front() {
                    Some((due, _)) if *due <= Instant::now() => queue.pop_front().map(|(_, paths)| paths),
                    _ => None,
                }
            };
            self.delete(paths.unwrap_or_default()).await;
        }
    }

    /// Deletes everything that waits, and these keys, at once.
    pub(crate) async fn rest(&self, keys: Vec<String>) {
        let waiting = std::mem::take(&mut *self.shared.lock());
        let waiting = waiting.into_iter().flat_map(|(_, paths)| paths);
        let paths = waiting.chain(keys.iter().map(|key| under(&self.root, key))).collect();
        self.delete(paths).await;
    }

    /// Deletes whatever lies under a key.
    pub(crate) async fn folder(&self, key: &str) {
        let prefix = under(&self.root, key);
        match self.store.list(Some(&prefix)).map_ok(|object| object.location).try_collect().await {
            Ok(paths) => self.delete(paths).await,
            Err(error) => {
                tracing::warn!(%prefix, error = &error as &dyn std::error::Error, "cannot list what is to go")
            }
        }
    }

    async fn delete(&self, paths: Vec<Path>) {
        if paths.is_empty() {
            return;
        }
        let count = paths.len();
        match timeout(ROUND_WITHIN, delete_all(self.store.as_ref(), paths)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::warn!(count, error = &error as &dyn std::error::Error, "cannot delete every object");
            }
            Err(_elapsed) => tracing::warn!(count, "deleting objects takes too long: what is left goes at the end"),
        }
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    use super::*;

    async fn left(store: &InMemory) -> Vec<String> {
        store.list(None).map_ok(|object| object.location.to_string()).try_collect().await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn keys_go_after_a_while_and_the_rest_at_the_end() {
        let store = Arc::new(InMemory::new());
        for key in ["root/a", "root/b", "root/c", "root/apps/x/1", "root/apps/xy/1"] {
            store.put(&Path::from(key), "1".into()).await.unwrap();
        }
        let cleaner = Cleaner::new(store.clone(), Path::from("root"));
        let stopped = CancellationToken::new();
        let mut running = std::pin::pin!(cleaner.clone().run(stopped.clone()));
        cleaner.later(vec!["a".into(), "never-written".into()]);
        assert!(tokio::time::timeout(RELEASE_AFTER - Duration::from_secs(1), &mut running).await.is_err());
        assert_eq!(left(&store).await.len(), 5, "not yet");
        assert!(tokio::time::timeout(Duration::from_secs(2), &mut running).await.is_err());
        assert_eq!(left(&store).await.len(), 4);
        cleaner.later(vec!["b".into()]);
        stopped.cancel();
        running.await;
        cleaner.rest(vec!["c".into()]).await;
        cleaner.folder("apps/x").await;
        assert_eq!(left(&store).await, ["root/apps/xy/1"], "a folder is whole segments");
    }
}
