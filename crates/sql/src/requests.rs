//! How many requests does a stage make for its tables?

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::common::Result as DfResult;
use datafusion::execution::object_store::ObjectStoreRegistry;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};
use url::Url;

/// Counts requests for objects, of every store that is asked for through it. Clones count together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Requests(Arc<AtomicUsize>);

impl Requests {
    /// The same stores, counted.
    pub(crate) fn of(&self, stores: &Arc<dyn ObjectStoreRegistry>) -> Counted {
        Counted { stores: Arc::clone(stores), requests: self.clone() }
    }

    pub(crate) fn so_far(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn one_more(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Stores whose requests are counted.
#[derive(Debug)]
pub(crate) struct Counted {
    stores: Arc<dyn ObjectStoreRegistry>,
    requests: Requests,
}

impl ObjectStoreRegistry for Counted {
    fn register_store(&self, url: &Url, store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        self.stores.register_store(url, store)
    }

    fn get_store(&self, url: &Url) -> DfResult<Arc<dyn ObjectStore>> {
        let (store, requests) = (self.stores.get_store(url)?, self.requests.clone());
        Ok(Arc::new(Counting { store, requests, is_local: url.scheme() == "file" }))
    }
}

#[derive(Debug)]
struct Counting {
    store: Arc<dyn ObjectStore>,
    requests: Requests,
    is_local: bool,
}

impl fmt::Display for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Counting {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.store.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.requests.one_more();
        self.store.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        if self.is_local {
            // One visit to the file reads them all.
            self.requests.one_more();
            return self.store.get_ranges(location, ranges).await;
        }
        // As stores do it themselves, whose requests nobody counts: ranges that lie close together are one.
        let one = |range: Range<u64>| async {
            self.requests.one_more();
            self.store.get_opts(location, GetOptions::new().with_range(Some(range))).await?.bytes().await
        };
        object_store::coalesce_ranges(ranges, one, object_store::OBJECT_STORE_COALESCE_DEFAULT).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    use super::*;
    use crate::stores::{OwnStore, Stores};

    #[tokio::test]
    async fn what_lies_close_together_is_one_request() {
        let stores: Arc<dyn ObjectStoreRegistry> = Arc::new(Stores::new(&OwnStore::default()));
        let url = Url::parse("memory://").unwrap();
        stores.register_store(&url, Arc::new(InMemory::new()));
        let (first, second) = (Requests::default(), Requests::default());
        let (store, others) = (first.of(&stores).get_store(&url).unwrap(), second.of(&stores).get_store(&url).unwrap());
        let key = Path::from("table");
        store.put(&key, vec![7; 4 << 20].into()).await.unwrap();
        store.get_ranges(&key, &[0..10, 20..30, 3 << 20..(3 << 20) + 5]).await.unwrap();
        assert_eq!(first.so_far(), 2);
        others.get(&key).await.unwrap();
        assert_eq!((first.so_far(), second.so_far()), (2, 1), "each stage counts its own");
    }
}
