//! Where is kept what an application has printed last?
//!
//! Under `history/<app>/logs/`, an object for the driver and for each executor, written at its end: a store cannot append.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use model::backend::KeepPrinted;
use model::{AppId, Epoch, keys};
use object_store::path::Path;
use object_store::{Error, ObjectStore, PutMode};
use tokio::time::timeout;

use crate::store::under;

/// Whoever ends waits so long for the store: a pod has 30 s for its end, of which a drain takes up to 25.
pub const KEPT_WITHIN: Duration = Duration::from_secs(4);

/// Keeps what a process of an application has printed: `driver`, or an executor as in `e3`. Gives up after
/// [`KEPT_WITHIN`]; a failure is logged and no more, since a log never stops anything. With [`PutMode::Create`], what is
/// kept already stays, and nothing is no news; who keeps its own says also that it has printed nothing.
pub async fn keep(
    store: &dyn ObjectStore,
    root: &Path,
    (app, epoch): (AppId, Epoch),
    who: &str,
    printed: Vec<u8>,
    mode: PutMode,
) {
    if printed.is_empty() && matches!(mode, PutMode::Create) {
        return;
    }
    let path = under(root, &keys::log(app, epoch, who));
    match timeout(KEPT_WITHIN, store.put_opts(&path, printed.into(), mode.into())).await {
        Ok(Ok(_) | Err(Error::AlreadyExists { .. })) => {}
        Ok(Err(error)) => {
            tracing::warn!(%path, error = &error as &dyn std::error::Error, "cannot keep what was printed");
        }
        Err(_elapsed) => tracing::warn!(%path, "cannot keep what was printed: the store is too slow"),
    }
}

/// Keeps the ends of what executors have printed that cannot do so themselves.
#[must_use]
pub fn keeper(store: Arc<dyn ObjectStore>, root: Path, app: AppId, epoch: Epoch) -> KeepPrinted {
    Arc::new(move |executor, printed| {
        let (store, root) = (Arc::clone(&store), root.clone());
        async move { keep(&*store, &root, (app, epoch), &executor.to_string(), printed, PutMode::Create).await }.boxed()
    })
}

/// The epoch of the driver whose end is kept next, if nobody else knows it: the one after the last.
///
/// # Errors
/// The store refuses or does not answer.
pub async fn next_epoch(store: &dyn ObjectStore, root: &Path, app: AppId) -> Result<Epoch, Error> {
    let kept = store.list_with_delimiter(Some(&under(root, &keys::logs(app)))).await?;
    let epochs = kept.objects.iter().filter_map(|object| keys::parse_log(object.location.filename()?));
    let last = epochs.filter(|(_, who)| *who == "driver").map(|(epoch, _)| epoch.0).max();
    Ok(Epoch(last.unwrap_or(0) + 1))
}

#[cfg(test)]
mod tests {
    use model::ExecutorId;
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    use super::*;

    const APP: AppId = AppId(7);

    #[tokio::test]
    async fn what_an_executor_kept_itself_stays() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let root = Path::from("root");
        let read = async || {
            let path = under(&root, &keys::log(APP, Epoch(1), "e3"));
            store.get(&path).await.unwrap().bytes().await.unwrap()
        };
        keep(&*store, &root, (APP, Epoch(1)), "e3", b"its own".to_vec(), PutMode::Overwrite).await;
        keeper(Arc::clone(&store), root.clone(), APP, Epoch(1))(ExecutorId(3), b"shorter".to_vec()).await;
        assert_eq!(read().await, "its own");
        keep(&*store, &root, (APP, Epoch(1)), "e3", b"more".to_vec(), PutMode::Overwrite).await;
        assert_eq!(read().await, "more");
    }

    #[tokio::test]
    async fn a_driver_that_never_said_its_epoch_overwrites_no_earlier_one() {
        let store = InMemory::new();
        let root = Path::from("root");
        assert_eq!(next_epoch(&store, &root, APP).await.unwrap(), Epoch(1));
        for (epoch, who) in [(2, "driver"), (10, "driver"), (12, "e1")] {
            keep(&store, &root, (APP, Epoch(epoch)), who, b"x".to_vec(), PutMode::Overwrite).await;
        }
        assert_eq!(next_epoch(&store, &root, APP).await.unwrap(), Epoch(11));
    }
}
