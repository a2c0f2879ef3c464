//! How is one step of a commit asked of a store, and asked again?

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectMeta, ObjectStoreExt, PutMode};

use super::error::Error;
use super::{Destination, Timing};

/// Requests under way at once: copies hide each other's latency, and stay far below a prefix's capacity.
const CONCURRENCY: usize = 64;

/// No request takes longer: a copy within the store of the largest file is one request.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5 * 60);

/// Keys per bulk delete.
const DELETE_BATCH: usize = 1_000;

/// What a store said to a request to create.
#[derive(Debug)]
pub(super) enum Created {
    /// It was created.
    Yes,
    /// Anything else, but a refusal: it may be there, from this request or another's.
    Doubt(StoreError),
}

/// What became of a file that was to be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copied {
    /// It is there, with the right size.
    Yes,
    /// It is not, and neither is its staged one.
    Gone,
}

/// A destination's files, by their names below it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Files<'a> {
    pub(super) destination: &'a Destination,
    pub(super) timing: &'a Timing,
}

/// Whether asking again cannot help.
fn refused(error: &StoreError) -> bool {
    match error {
        StoreError::InvalidPath { .. }
        | StoreError::NotSupported { .. }
        | StoreError::NotImplemented { .. }
        | StoreError::UnknownConfigurationKey { .. } => true,
        other => shuffle::store::is_refusal(other),
    }
}

pub(super) async fn in_time<T>(request: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    tokio::time::timeout(REQUEST_DEADLINE, request)
        .await
        .unwrap_or_else(|elapsed| Err(StoreError::Generic { store: "commit", source: Box::new(elapsed) }))
}

impl Files<'_> {
    /// The key of a name below the destination, which is escaped where a key must be: values of partitions are.
    pub(super) fn key(&self, name: &str) -> Path {
        let parsed = Path::parse(name).unwrap_or_else(|_| Path::from(name));
        Path::from_iter(self.destination.path.parts().chain(parsed.parts()))
    }

    fn error(&self, step: &'static str, name: &str, source: StoreError) -> Error {
        let key = self.key(name).to_string();
        let setup = matches!(source, StoreError::NotFound { .. }) || refused(&source);
        if setup { Error::StoreDenied { step, key, source } } else { Error::Store { step, key, source } }
    }

    async fn retry<T, F>(&self, request: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let backoff = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(100))
            .with_max_delay(Duration::from_secs(10))
            .without_max_times()
            .with_total_delay(Some(self.timing.retry_for));
        let request = || in_time(request());
        request.retry(backoff).when(|error| !refused(error) && !matches!(error, StoreError::NotFound { .. })).await
    }

    /// A small object and what the store knows of it, unless it is not there.
    pub(super) async fn read(&self, name: &str) -> Result<Option<(Bytes, ObjectMeta)>, Error> {
        let key = self.key(name);
        let get = || async {
            let got = self.destination.store.get(&key).await?;
            let meta = got.meta.clone();
            Ok((got.bytes().await?, meta))
        };
        match self.retry(get).await {
            Ok(found) => Ok(Some(found)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(source) => Err(self.error("read", name, source)),
        }
    }

    /// What the store knows of an object, unless it is not there.
    pub(super) async fn look(&self, name: &str) -> Result<Option<ObjectMeta>, Error> {
        let key = self.key(name);
        match self.retry(|| self.destination.store.head(&key)).await {
            Ok(meta) => Ok(Some(meta)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(source) => Err(self.error("look for", name, source)),
        }
    }

    /// Everything below a folder, by its name below the destination; an empty name is the destination itself.
    pub(super) async fn list(&self, folder: &str) -> Result<Vec<(String, ObjectMeta)>, Error> {
        let prefix = self.key(folder);
        let listed = self.retry(|| self.destination.store.list(Some(&prefix)).try_collect::<Vec<_>>()).await;
        let listed = match listed {
            Ok(listed) => listed,
            Err(source) => return Err(self.error("list", folder, source)),
        };
        let named = listed.into_iter().filter_map(|meta| {
            let rest = meta.location.prefix_match(&self.destination.path)?;
            let name = rest.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/");
            Some((name, meta))
        });
        Ok(named.collect())
    }

    /// Writes an object, whatever is there.
    pub(super) async fn write(&self, name: &str, bytes: Vec<u8>) -> Result<(), Error> {
        let (key, bytes) = (self.key(name), Bytes::from(bytes));
        let put = || async { self.destination.store.put(&key, bytes.clone().into()).await.map(drop) };
        self.retry(put).await.map_err(|source| self.error("write", name, source))
    }

    /// Asks once to create an object.
    pub(super) async fn create(&self, name: &str, bytes: Vec<u8>) -> Result<Created, Error> {
        let key = self.key(name);
        match in_time(self.destination.store.put_opts(&key, bytes.into(), PutMode::Create.into())).await {
            Ok(_) => Ok(Created::Yes),
            Err(source) if refused(&source) || matches!(source, StoreError::NotFound { .. }) => {
                Err(self.error("create", name, source))
            }
            Err(source) => Ok(Created::Doubt(source)),
        }
    }

    /// Deletes objects; those that are not there count as deleted.
    pub(super) async fn delete(&self, names: &[String]) -> Result<(), Error> {
        for batch in names.chunks(DELETE_BATCH) {
            let keys: Vec<Path> = batch.iter().map(|name| self.key(name)).collect();
            let request = || async {
                let mut deleted = self.destination.store.delete_stream(stream::iter(keys.clone()).map(Ok).boxed());
                let mut failed = None;
                while let Some(result) = deleted.next().await {
                    match result {
                        Ok(_) | Err(StoreError::NotFound { .. }) => {}
                        Err(error) => failed = Some(error),
                    }
                }
                failed.map_or(Ok(()), Err)
            };
            self.retry(request).await.map_err(|source| self.error("delete", &batch[0], source))?;
        }
        Ok(())
    }

    /// Deletes everything below a folder.
    pub(super) async fn clear(&self, folder: &str) -> Result<(), Error> {
        let names: Vec<String> = self.list(folder).await?.into_iter().map(|(name, _)| name).collect();
        self.delete(&names).await
    }

    /// Copies one staged file to its final name, unless that was done before.
    async fn publish(&self, staged: &str, published: &str, bytes: u64) -> Result<Copied, Error> {
        let (from, to) = (self.key(staged), self.key(published));
        let is_right = |meta: Option<ObjectMeta>| meta.is_some_and(|meta| meta.size == bytes);
        match self.retry(|| self.destination.store.copy(&from, &to)).await {
            // Copied now, or before and the staged file deleted since. If neither gives the right size, somebody else
            // replaced this write already, or it is damaged.
            Ok(()) | Err(StoreError::NotFound { .. }) => {
                Ok(if is_right(self.look(published).await?) { Copied::Yes } else { Copied::Gone })
            }
            Err(source) => Err(self.error("copy", staged, source)),
        }
    }

    /// Copies files, many at a time; gives the first that is gone.
    pub(super) async fn publish_all(&self, files: &[model::write::StagedFile]) -> Result<Option<String>, Error> {
        let mut copies = stream::iter(files.to_vec())
            .map(|file| async move {
                let copied = self.publish(&file.staged, &file.published, file.bytes).await?;
                Ok::<_, Error>((copied == Copied::Gone).then_some(file.staged))
            })
            .buffer_unordered(CONCURRENCY);
        while let Some(gone) = copies.try_next().await? {
            if gone.is_some() {
                return Ok(gone);
            }
        }
        Ok(None)
    }
}
