//! How is a store opened, and when is a request tried again?
//!
//! Every request has a deadline, and is repeated with growing pauses until a deadline of its own. What the store said is
//! judged by the error's type alone.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::future::Future;
use std::io;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, RetryConfig};
use tokio::time::{Instant, timeout_at};
use url::Url;

use crate::Error;

/// A request may take this long, and longer by its bytes at [`SLOWEST`]: above what a loaded store needs for a first byte.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
/// Bytes a second below which a transfer counts as stalled.
const SLOWEST: u64 = 10_000_000;
/// A missing object is asked for once more: a store that has just failed over may not know it yet.
const MISSING_PAUSE: Duration = Duration::from_millis(200);
/// The first pause after a failed request.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The client's own retries are few, since ours know what a request is for.
const CLIENT_RETRIES: RetryConfig = RetryConfig {
    backoff: object_store::BackoffConfig { init_backoff: FIRST_PAUSE, max_backoff: Duration::from_secs(2), base: 2.0 },
    max_retries: 3,
    retry_timeout: Duration::from_secs(10),
};
/// Above the time that the largest part may take, so that our deadlines end a request first.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(120);
/// A store that does not take a connection in this time takes none.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections kept for the next request: as many as reads in flight.
const IDLE_CONNECTIONS: usize = 64;

/// Opens the store that a URL names, and the path in it: `s3://bucket/path`, `gs://bucket/path`, `az://container/path`,
/// `file:///path`, `memory:///path`.
///
/// Options of the client may stand in the query (`?endpoint=http://localhost:9000&region=eu-west-1`); credentials come
/// from the environment alone. `memory:` is one store per process. Opening sends no request.
///
/// # Errors
/// The URL names no store, or holds a credential.
pub fn open(url: &str) -> Result<(Arc<dyn ObjectStore>, Path), Error> {
    static MEMORY: LazyLock<Arc<InMemory>> = LazyLock::new(Arc::default);

    #[cfg(feature = "testing")]
    if let Some((chaos, inner)) = crate::testing::chaos_url(url) {
        let (store, root) = open(inner)?;
        return Ok((Arc::new(crate::testing::ChaosStore::new(store, chaos)), root));
    }

    let shown = url.split('?').next().unwrap_or_default().to_owned();
    let fail = |why: String| Error::OpenStore { url: shown.clone(), why, source: None };
    let refused = |error: object_store::Error| Error::OpenStore {
        url: shown.clone(),
        why: "its client refuses".into(),
        source: Some(Arc::new(error)),
    };
    let mut url = Url::parse(url).map_err(|error| fail(error.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(fail("credentials belong into the environment".into()));
    }
    let options: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
    url.set_query(None);
    if options.keys().any(|key| ["key", "secret", "token", "password", "sas"].iter().any(|word| key.contains(word))) {
        return Err(fail("credentials belong into the environment".into()));
    }
    let path = || Path::from_url_path(url.path()).map_err(|error| fail(error.to_string()));
    let client = ClientOptions::new()
        .with_timeout(CLIENT_TIMEOUT)
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_pool_max_idle_per_host(IDLE_CONNECTIONS)
        .with_allow_http(options.get("endpoint").is_some_and(|endpoint| endpoint.starts_with("http://")));

    macro_rules! cloud {
        ($builder:ty) => {{
            let mut builder = <$builder>::from_env().with_url(url.as_str()).with_retry(CLIENT_RETRIES);
            builder = builder.with_client_options(client);
            for (key, value) in &options {
                let key = key.parse().map_err(|error: object_store::Error| refused(error))?;
                builder = builder.with_config(key, value);
            }
            Arc::new(builder.build().map_err(refused)?)
        }};
    }
    let store: Arc<dyn ObjectStore> = match url.scheme() {
        "memory" => MEMORY.clone(),
        "file" => {
            let folder = url.to_file_path().map_err(|()| fail("its path is no path of this machine".into()))?;
            return Ok((
                Arc::new(LocalFileSystem::new()),
                Path::from_absolute_path(folder).map_err(|e| fail(e.to_string()))?,
            ));
        }
        "s3" | "s3a" => cloud!(AmazonS3Builder),
        "gs" => cloud!(GoogleCloudStorageBuilder),
        "az" | "abfs" | "abfss" | "azure" => cloud!(MicrosoftAzureBuilder),
        other => return Err(fail(format!("`{other}` is none of s3, gs, az, file, memory"))),
    };
    Ok((store, path()?))
}

/// The path of a key under the store's root.
#[must_use]
pub fn under(root: &Path, key: &str) -> Path {
    Path::from_iter(root.parts().chain(Path::from(key).parts()))
}

/// What a local file system answers when asking again cannot help: somebody must do something about it first.
const LOCAL_REFUSALS: [io::ErrorKind; 6] = [
    io::ErrorKind::PermissionDenied,
    io::ErrorKind::ReadOnlyFilesystem,
    io::ErrorKind::NotADirectory,
    io::ErrorKind::IsADirectory,
    io::ErrorKind::StorageFull,
    io::ErrorKind::QuotaExceeded,
];

/// Whether a store refuses what it was asked, so that asking again cannot help: no rights, or a disk that is full or may not
/// be written.
#[must_use]
pub fn is_refusal(error: &object_store::Error) -> bool {
    use object_store::Error as E;
    if matches!(error, E::PermissionDenied { .. } | E::Unauthenticated { .. }) {
        return true;
    }
    // A local file system tells its reason only here.
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.filter_map(|cause| cause.downcast_ref::<io::Error>()).any(|error| LOCAL_REFUSALS.contains(&error.kind()))
}

/// How long one request with a body of so many bytes may take.
pub(crate) fn request_deadline(bytes: u64) -> Duration {
    REQUEST_DEADLINE + Duration::from_millis(bytes / (SLOWEST / 1_000))
}

/// What an answer of the store's permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// Ask again after a pause, until time is out.
    Unavailable,
    /// Ask once more.
    Missing,
    /// Ask once more, with fresh credentials.
    Denied,
    /// Asking again changes nothing.
    Never,
}

fn judge(error: &object_store::Error) -> Answer {
    use object_store::Error as E;
    match error {
        E::NotFound { .. } => Answer::Missing,
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => Answer::Denied,
        E::NotSupported { .. }
        | E::NotImplemented { .. }
        | E::InvalidPath { .. }
        | E::UnknownConfigurationKey { .. }
        | E::AlreadyExists { .. }
        | E::NotModified { .. } => Answer::Never,
        other if is_refusal(other) => Answer::Never,
        // Everything that hides an HTTP status lies in `Generic`, and whatever comes later is no reason to give up.
        _ => Answer::Unavailable,
    }
}

/// Why a request failed for good.
#[derive(Debug, Clone)]
pub(crate) enum Refusal {
    /// The store has no such object; for a write, no such bucket.
    Missing(Arc<object_store::Error>),
    /// As it says.
    Other(Error),
}

/// Sends a request until it succeeds, is refused, or `patience` ends. Gives the answer and how often it was repeated.
///
/// A request that hangs is dropped after `deadline`, which doubles each time: a slow link gets through at last.
pub(crate) async fn persist<T, F>(
    operation: &'static str,
    key: &Path,
    deadline: Duration,
    patience: Duration,
    mut request: impl FnMut() -> F,
) -> Result<(T, u32), Refusal>
where
    F: Future<Output = object_store::Result<T>>,
{
    let began = Instant::now();
    let give_up = began + patience;
    let mut pauses = ExponentialBuilder::new()
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(LONGEST_PAUSE)
        .without_max_times()
        .with_jitter()
        .build();
    let (mut tries, mut deadline, mut asked_again) = (0, deadline, false);
    loop {
        tries += 1;
        let answer = timeout_at((Instant::now() + deadline).min(give_up), request()).await;
        deadline *= 2;
        let (verdict, source) = match answer {
            Ok(Ok(value)) => return Ok((value, tries - 1)),
            Ok(Err(error)) => (judge(&error), Some(Arc::new(error))),
            Err(_) => (Answer::Unavailable, None),
        };
        let pause = match (verdict, &source) {
            (Answer::Missing, _) if !asked_again => MISSING_PAUSE,
            (Answer::Denied, _) if !asked_again => FIRST_PAUSE,
            (Answer::Missing, Some(error)) => return Err(Refusal::Missing(Arc::clone(error))),
            (Answer::Denied | Answer::Never, Some(error)) => {
                let source = Arc::clone(error);
                return Err(Refusal::Other(Error::Denied { operation, key: key.to_string(), source }));
            }
            _ => pauses.next().unwrap_or(LONGEST_PAUSE),
        };
        asked_again |= verdict != Answer::Unavailable;
        let resume = Instant::now() + pause;
        if resume >= give_up {
            let waited = began.elapsed();
            let key = key.to_string();
            return Err(Refusal::Other(Error::StoreUnavailable { operation, key, tries, waited, source }));
        }
        tokio::time::sleep_until(resume).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(120);

    fn generic() -> object_store::Error {
        object_store::Error::Generic { store: "test", source: "503".into() }
    }

    fn missing() -> object_store::Error {
        object_store::Error::NotFound { path: "x".into(), source: "gone".into() }
    }

    async fn play(mut answers: Vec<object_store::Error>) -> (Result<((), u32), Refusal>, u32) {
        let asked = Cell::new(0);
        answers.reverse();
        let result = persist("get", &Path::from("x"), Duration::from_secs(5), PATIENCE, || {
            asked.set(asked.get() + 1);
            let answer = answers.pop().map_or(Ok(()), Err);
            async move { answer }
        })
        .await;
        (result, asked.get())
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_recovers_is_forgiven() {
        let (result, asked) = play(vec![generic(), generic(), missing()]).await;
        assert_eq!((result.unwrap().1, asked), (3, 4));
    }

    #[tokio::test(start_paused = true)]
    async fn a_missing_object_is_asked_for_twice() {
        let (result, asked) = play(vec![missing(), missing()]).await;
        assert!(matches!(result, Err(Refusal::Missing(_))), "{result:?}");
        assert_eq!(asked, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_heard_after_one_more_try() {
        let denied = || object_store::Error::PermissionDenied { path: "x".into(), source: "403".into() };
        let (result, asked) = play(vec![denied(), denied(), denied()]).await;
        assert!(matches!(result, Err(Refusal::Other(Error::Denied { .. }))), "{result:?}");
        assert_eq!(asked, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends() {
        let began = Instant::now();
        let (result, asked) = play((0..1_000).map(|_| generic()).collect()).await;
        assert!(matches!(result, Err(Refusal::Other(Error::StoreUnavailable { .. }))), "{result:?}");
        assert!((20..60).contains(&asked), "{asked}");
        assert!(began.elapsed() <= PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hanging_request_is_dropped_and_sent_again() {
        let asked = Cell::new(0);
        let result = persist("get", &Path::from("x"), Duration::from_secs(5), PATIENCE, || {
            asked.set(asked.get() + 1);
            let hang = asked.get() < 3;
            async move {
                if hang {
                    std::future::pending::<()>().await;
                }
                Ok(())
            }
        })
        .await;
        assert_eq!(result.unwrap().1, 2);
    }

    #[test]
    fn urls_name_stores() {
        let (_, path) = open("memory:///a/b").unwrap();
        assert_eq!(path, Path::from("a/b"));
        let (_, path) = open("file:///tmp/vonk%20x").unwrap();
        assert_eq!(path, Path::from("tmp/vonk x"));
        for bad in ["ftp://x", "nonsense", "s3://id:secret@bucket/x", "s3://bucket/x?aws_secret_access_key=1"] {
            assert!(matches!(open(bad), Err(Error::OpenStore { .. })), "{bad}");
        }
        let (_, path) = open("s3://bucket/some/root?endpoint=http://localhost:9&region=eu-west-1").unwrap();
        assert_eq!(path, Path::from("some/root"));
    }

    #[test]
    fn keys_lie_under_the_root() {
        assert_eq!(under(&Path::from("a/b"), "c/d").as_ref(), "a/b/c/d");
        assert_eq!(under(&Path::default(), "c/d").as_ref(), "c/d");
    }
}
