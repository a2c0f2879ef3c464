//! Which files of a folder are a table's?
//!
//! Not those whose name, or a folder's on the way, begins with `_` or `.`: `_SUCCESS`, and what writers keep for themselves.
//! Spark and Hive leave them out too. And of a write of Vonk's, all files or none: a list that found the log of such writes
//! waits until they are published, and is made again if anything was while it was made.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, future, stream};
use model::runner::JobError;
use model::write::{LOG, is_hidden};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};
use url::Url;

/// A folder into which others write so fast that no list of it finds the same writes before and after.
const LISTS: usize = 10;

/// A store whose lists leave out what is hidden. Whoever knows a hidden file's name can read it.
#[derive(Debug)]
pub(crate) struct Visible {
    store: Arc<dyn ObjectStore>,
    commits: Option<Arc<Commits>>,
}

impl Visible {
    pub(crate) fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store, commits: None }
    }

    /// Lists wait for the writes that `settled` knows of, below the store's URL.
    pub(crate) fn committed(self, settled: Settled, url: Url) -> Self {
        Self { commits: Some(Arc::new(Commits { settled, url, folders: Mutex::default() })), ..self }
    }
}

impl fmt::Display for Visible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

/// Waits for the writes to a folder: see [`JobRunner::settled`](model::JobRunner::settled).
pub(crate) type Settled = Arc<dyn Fn(&str) -> BoxFuture<'static, std::result::Result<u64, JobError>> + Send + Sync>;

/// What is known of the writes to a store.
struct Commits {
    settled: Settled,
    url: Url,
    /// Folders with a log of writes that were seen.
    folders: Mutex<BTreeSet<Path>>,
}

impl fmt::Debug for Commits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commits").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

impl Commits {
    /// All that is visible below a prefix, between two looks at the same state of each log.
    async fn list(&self, store: &Arc<dyn ObjectStore>, prefix: Option<&Path>) -> Result<Vec<ObjectMeta>> {
        let above = prefix.map(table_of);
        let mut before = self.settled(prefix, above.as_ref()).await?;
        for _ in 0..LISTS {
            let (mut listed, mut files) = (store.list(prefix), Vec::new());
            while let Some(object) = listed.try_next().await? {
                if let Some(folder) = writes_of(&object.location) {
                    self.folders.lock().unwrap_or_else(PoisonError::into_inner).insert(folder);
                }
                if is_visible(prefix, &object.location) {
                    files.push(object);
                }
            }
            let after = self.settled(prefix, above.as_ref()).await?;
            if after == before {
                return Ok(files);
            }
            before = after;
        }
        let busy = format!("list `{}`: others write there all the time", prefix.map_or("", Path::as_ref));
        Err(object_store::Error::Generic { store: "vonk", source: busy.into() })
    }

    /// The last write of each folder that matters to a list, when all are published.
    async fn settled(&self, prefix: Option<&Path>, above: Option<&Path>) -> Result<BTreeMap<Path, u64>> {
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner).clone();
        folders.retain(|folder| prefix.is_none_or(|prefix| folder.prefix_matches(prefix)));
        // A list of what lies below `day=1` does not show the log of the table.
        folders.extend(above.filter(|above| Some(*above) != prefix).cloned());
        let settled = folders.into_iter().map(async |folder| {
            let mut url = self.url.clone();
            if let Ok(mut path) = url.path_segments_mut() {
                path.clear().extend(folder.parts().map(|part| part.as_ref().to_owned()));
            }
            let settled = (self.settled)(url.as_str()).await;
            let failed = |error| object_store::Error::Generic { store: "vonk", source: Box::new(error) };
            settled.map(|last| (folder, last)).map_err(failed)
        });
        Ok(future::try_join_all(settled).await?.into_iter().filter(|(_, last)| *last > 0).collect())
    }
}

/// The folder whose log an object belongs to.
fn writes_of(key: &Path) -> Option<Path> {
    let (folder, rest) = key.as_ref().split_once(LOG)?;
    let whole = (folder.is_empty() || folder.ends_with('/')) && rest.starts_with('/');
    whole.then(|| Path::parse(folder).ok()).flatten()
}

/// The folder above those whose names are values of columns.
fn table_of(prefix: &Path) -> Path {
    let parts: Vec<_> = prefix.parts().collect();
    let values = parts.iter().rev().take_while(|part| part.as_ref().contains('=')).count();
    parts.into_iter().rev().skip(values).collect::<Vec<_>>().into_iter().rev().collect()
}

/// Whether a key below a prefix is a table's. What is part of the prefix was asked for.
fn is_visible(prefix: Option<&Path>, key: &Path) -> bool {
    let below = match prefix {
        Some(prefix) => key.prefix_match(prefix).map(Iterator::collect::<Vec<_>>),
        None => Some(key.parts().collect()),
    };
    below.is_none_or(|parts| !parts.iter().any(|part| is_hidden(part.as_ref())))
}

#[async_trait]
impl ObjectStore for Visible {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.store.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.store.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.store.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let within = prefix.cloned();
        if let Some(commits) = &self.commits {
            let (store, commits) = (Arc::clone(&self.store), Arc::clone(commits));
            let listed = async move { commits.list(&store, within.as_ref()).await };
            return stream::once(listed).map_ok(|files| stream::iter(files).map(Ok)).try_flatten().boxed();
        }
        let listed = self.store.list(prefix);
        listed.try_filter(move |object| future::ready(is_visible(within.as_ref(), &object.location))).boxed()
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let within = prefix.cloned();
        let listed = self.store.list_with_offset(prefix, offset);
        listed.try_filter(move |object| future::ready(is_visible(within.as_ref(), &object.location))).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut listed = self.store.list_with_delimiter(prefix).await?;
        listed.objects.retain(|object| is_visible(prefix, &object.location));
        listed.common_prefixes.retain(|folder| is_visible(prefix, folder));
        Ok(listed)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, TryFutureExt};
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn what_is_hidden_is_in_no_list_unless_it_was_asked_for() {
        let store = Visible::new(Arc::new(InMemory::new()));
        for key in ["t/a.csv", "t/k=1/b.csv", "t/_SUCCESS", "t/_vonk/log/1", "t/k=1/.b.crc"] {
            store.put(&Path::from(key), "x".into()).await.unwrap();
        }
        let list = async |prefix: &str| -> Vec<String> {
            let listed: Vec<_> = store.list(Some(&Path::from(prefix))).try_collect().await.unwrap();
            listed.into_iter().map(|object| object.location.to_string()).collect()
        };
        assert_eq!(list("t").await, ["t/a.csv", "t/k=1/b.csv"]);
        assert_eq!(list("t/_vonk").await, ["t/_vonk/log/1"]);
        let folder = store.list_with_delimiter(Some(&Path::from("t"))).await.unwrap();
        assert_eq!((folder.objects.len(), folder.common_prefixes), (1, vec![Path::from("t/k=1")]));
    }

    #[tokio::test]
    async fn a_list_waits_for_what_was_committed() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        for key in ["t/k=1/part-0", "t/_vonk/log/00000000000000000001.json", "plain/a"] {
            store.put(&Path::from(key), "x".into()).await.unwrap();
        }
        let (publishes, asked) = (Arc::clone(&store), Arc::new(Mutex::new(Vec::new())));
        let heard = Arc::clone(&asked);
        // Whoever waits for the write finds the rest of it published.
        let settled: Settled = Arc::new(move |folder: &str| {
            heard.lock().unwrap().push(folder.to_owned());
            let publishes = Arc::clone(&publishes);
            let published = async move { publishes.put(&Path::from("t/k=2/part-1"), "x".into()).await };
            published.map_ok_or_else(|error| panic!("{error}"), |_| Ok(1)).boxed()
        });
        let store = Visible::new(store).committed(settled, Url::parse("s3://bucket?endpoint=here").unwrap());
        let list = async |prefix: &str| -> Vec<String> {
            let listed: Vec<_> = store.list(Some(&Path::from(prefix))).try_collect().await.unwrap();
            listed.into_iter().map(|object| object.location.to_string()).collect()
        };
        assert_eq!(list("plain").await, ["plain/a"]);
        assert_eq!(*asked.lock().unwrap(), [""; 0], "nobody ever wrote there");
        assert_eq!(list("t").await, ["t/k=1/part-0", "t/k=2/part-1"]);
        assert_eq!(list("t/k=2").await, ["t/k=2/part-1"]);
        assert_eq!(asked.lock().unwrap().len(), 4);
        assert!(asked.lock().unwrap().iter().all(|folder| folder == "s3://bucket/t?endpoint=here"), "{asked:?}");
    }

    #[tokio::test]
    async fn a_list_fails_that_waits_in_vain() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        store.put(&Path::from("t/_vonk/log/00000000000000000001.json"), "x".into()).await.unwrap();
        let settled: Settled = Arc::new(|_: &str| future::ready(Err(JobError::Ended { why: "so".into() })).boxed());
        let store = Visible::new(store).committed(settled, Url::parse("s3://bucket").unwrap());
        let listed = store.list(Some(&Path::from("t"))).try_collect::<Vec<_>>().await.unwrap_err();
        assert!(matches!(listed, object_store::Error::Generic { source, .. } if source.is::<JobError>()));
    }
}
