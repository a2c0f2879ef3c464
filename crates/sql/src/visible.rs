//! Which files of a folder are a table's?
//!
//! Not those whose name, or a folder's on the way, begins with `_` or `.`: `_SUCCESS`, and what writers keep for themselves.
//! Spark and Hive leave them out too.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, future};
use model::write::is_hidden;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};

/// A store whose lists leave out what is hidden. Whoever knows a hidden file's name can read it.
#[derive(Debug)]
pub(crate) struct Visible(pub(crate) Arc<dyn ObjectStore>);

impl fmt::Display for Visible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
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
        self.0.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.0.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.0.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let within = prefix.cloned();
        let listed = self.0.list(prefix);
        listed.try_filter(move |object| future::ready(is_visible(within.as_ref(), &object.location))).boxed()
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let within = prefix.cloned();
        let listed = self.0.list_with_offset(prefix, offset);
        listed.try_filter(move |object| future::ready(is_visible(within.as_ref(), &object.location))).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut listed = self.0.list_with_delimiter(prefix).await?;
        listed.objects.retain(|object| is_visible(prefix, &object.location));
        listed.common_prefixes.retain(|folder| is_visible(prefix, folder));
        Ok(listed)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn what_is_hidden_is_in_no_list_unless_it_was_asked_for() {
        let store = Visible(Arc::new(InMemory::new()));
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
}
