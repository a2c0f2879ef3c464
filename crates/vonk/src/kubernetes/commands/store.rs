//! What do commands want of the store?

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use driver::commit::Destination;
use k8s_backend::chain;
use k8s_backend::preflight::{Check, Outcome};
use model::exit;
use model::{AppId, Failure, keys};
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutPayload};

use crate::config::{Config, STORE};

/// Clocks that differ by more than this make certificates and leases invalid.
const CLOCKS_DIFFER: Duration = Duration::from_secs(300);

/// The store, and where in it everything lies.
pub(crate) struct Store {
    /// Its client.
    pub(crate) objects: Arc<dyn ObjectStore>,
    /// What precedes every key.
    pub(crate) root: Path,
}

/// A store that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// Nobody has named one.
    #[error("open the store: none is named; set --conf store=s3://bucket/prefix, or VONK_STORE")]
    Unset,
    /// Pods cannot see it.
    #[error("use the store `{0}` on Kubernetes: pods cannot see it; set store to an s3://, gs:// or az:// URL")]
    Local(String),
    /// It cannot be opened.
    #[error("open the store")]
    Open(#[from] shuffle::Error),
    /// It refuses, or does not answer.
    #[error("{step} `{key}` in the store")]
    Request {
        /// What was asked.
        step: &'static str,
        /// Of what.
        key: String,
        /// Its last answer.
        source: Error,
    },
}

impl StoreError {
    /// The code with which a command ends.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Unset | Self::Local(_) | Self::Open(_) => exit::WRONG,
            Self::Request { source: Error::PermissionDenied { .. } | Error::Unauthenticated { .. }, .. } => {
                exit::REFUSED
            }
            Self::Request { .. } => exit::LOST,
        }
    }
}

/// The store that the settings name.
///
/// # Errors
/// They name none, or it cannot be opened.
pub(crate) fn open(config: &Config) -> Result<Store, StoreError> {
    let url = STORE.value(config.values());
    if url.is_empty() {
        return Err(StoreError::Unset);
    }
    let (objects, root) = shuffle::store::open(url)?;
    Ok(Store { objects, root })
}

/// The URL of a store that pods can see, too.
///
/// # Errors
/// The settings name none, or one of this machine alone.
pub(crate) fn shared_url(config: &Config) -> Result<String, StoreError> {
    match STORE.value(config.values()) {
        "" => Err(StoreError::Unset),
        url if url.starts_with("memory:") || url.starts_with("file:") => Err(StoreError::Local(url.to_owned())),
        url => Ok(url.to_owned()),
    }
}

/// The folder that a URL names.
///
/// # Errors
/// Its store cannot be opened.
pub(crate) fn destination(url: &str) -> Result<Destination, Failure> {
    let (store, path) = shuffle::store::open(url).map_err(shuffle::Error::into_failure)?;
    Ok(Destination { store, path, url: url.to_owned() })
}

impl Store {
    /// A key below the root.
    pub(crate) fn below(&self, key: &str) -> Path {
        // Keys of Vonk's have nothing to be escaped; a root's name comes from Kubernetes and has neither.
        Path::from(format!("{}/{key}", self.root).trim_start_matches('/'))
    }

    /// Reads an object; nothing if there is none.
    pub(crate) async fn read(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let failed = |source| StoreError::Request { step: "read", key: key.to_owned(), source };
        match self.objects.get(&self.below(key)).await {
            Ok(found) => Ok(Some(found.bytes().await.map_err(failed)?.to_vec())),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// Writes an object.
    pub(crate) async fn write(&self, key: &str, bytes: Vec<u8>) -> Result<(), StoreError> {
        let failed = |source| StoreError::Request { step: "write", key: key.to_owned(), source };
        self.objects.put(&self.below(key), bytes.into()).await.map_err(failed).map(drop)
    }

    /// Does to the store what applications do, with an object that is removed again.
    pub(crate) async fn checks(&self) -> Vec<Check> {
        let key = self.below(&keys::lease_clock(AppId::generate()));
        let mut checks = Vec::new();
        let failed = |what: &str, error: &Error| Check::new(what, Outcome::Failed, chain(error));
        let passed = |what: &str, says: &str| Check::new(what, Outcome::Passed, says);
        let only_create = PutMode::Create.into();
        match self.objects.put_opts(&key, PutPayload::from_static(b"preflight"), only_create).await {
            Ok(_) => checks.push(passed("store: write", "an object was written")),
            Err(error) => return vec![failed("store: write", &error)],
        }
        let again = self.objects.put_opts(&key, PutPayload::from_static(b"again"), PutMode::Create.into()).await;
        checks.push(match again {
            Err(Error::AlreadyExists { .. }) => passed("store: create only", "what is there is not overwritten"),
            Ok(_) => Check::new(
                "store: create only",
                Outcome::Failed,
                "an object was overwritten that was only to be created: two drivers could commit the same write; use a store with conditional writes",
            ),
            Err(error) => failed("store: create only", &error),
        });
        match self.objects.get(&key).await {
            Ok(found) => {
                let written = found.meta.last_modified.timestamp_millis();
                let is_ours = found.bytes().await.is_ok_and(|bytes| bytes.as_ref() == b"preflight");
                checks.push(match is_ours {
                    true => passed("store: read", "the object was read back"),
                    false => Check::new("store: read", Outcome::Failed, "the object came back with other bytes"),
                });
                checks.push(clock(written));
            }
            Err(error) => checks.push(failed("store: read", &error)),
        }
        checks.push(match self.objects.delete(&key).await {
            Ok(()) => passed("store: delete", "the object was removed"),
            Err(error) => failed("store: delete", &error),
        });
        checks
    }
}

/// The store's clock against ours.
fn clock(written_unix_ms: i64) -> Check {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let written = Duration::from_millis(u64::try_from(written_unix_ms).unwrap_or_default());
    let apart = now.abs_diff(written);
    let says = format!("the store's clock and this one are {} s apart", apart.as_secs());
    match apart > CLOCKS_DIFFER {
        true => Check::new("clocks", Outcome::Warning, format!("{says}: certificates and signatures may be refused")),
        false => Check::new("clocks", Outcome::Passed, says),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_store_that_can_do_all_passes_and_is_left_empty() {
        let store = Store { objects: Arc::new(object_store::memory::InMemory::new()), root: Path::from("a/b") };
        let checks = store.checks().await;
        let failed: Vec<_> = checks.iter().filter(|check| check.outcome != Outcome::Passed).collect();
        assert!(failed.is_empty() && checks.len() == 5, "{checks:?}");
        assert!(store.objects.list_with_delimiter(None).await.unwrap().common_prefixes.is_empty());
    }

    /// The program went into a folder of this machine, and the driver could not start.
    #[test]
    fn a_store_that_pods_do_not_see_is_refused() {
        let shared = |url: &str| {
            let mut config = Config::default();
            config.set(STORE.key, url, "a test").unwrap();
            shared_url(&config)
        };
        for url in ["memory:///a", "file:///tmp/a"] {
            let error = shared(url).unwrap_err();
            assert!(error.to_string().contains(url) && error.exit_code() == exit::WRONG, "{error}");
        }
        assert_eq!(shared("s3://a/b").unwrap(), "s3://a/b");
    }

    #[test]
    fn clocks_may_differ_a_little() {
        assert_eq!(clock(0).outcome, Outcome::Warning);
    }

    #[tokio::test]
    async fn what_is_not_there_is_nothing() {
        let store = Store { objects: Arc::new(object_store::memory::InMemory::new()), root: Path::default() };
        assert_eq!(store.read("a/note").await.unwrap(), None);
        store.write("a/note", b"y".to_vec()).await.unwrap();
        assert_eq!(store.read("a/note").await.unwrap(), Some(b"y".to_vec()));
    }
}
