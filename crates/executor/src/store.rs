//! How do bodies, inputs and results travel through the object store, and when is a request tried again?

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use model::messages::Payload;
use model::{Failure, FailureKind};
use object_store::path::Path;
use object_store::{Error, MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};

/// The first wait before a request is sent again.
const BACKOFF_MIN: Duration = Duration::from_millis(100);

/// The longest wait between two tries.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// How long tries go on, as for shuffles (shuffle.md, "store_deadline"); then the task fails and may run again.
const DEADLINE: Duration = Duration::from_secs(120);

/// Bytes that arrive damaged are read again so often: what was written damaged stays so.
const FRESH_READS: u32 = 2;

/// Up to this size one PUT carries an object.
const SINGLE_PUT_MAX: usize = 64 << 20;

/// The size of a part of a larger object; all but the last have it.
const PART: usize = 32 << 20;

/// Parts of one object on their way at a time.
const PARTS_IN_FLIGHT: usize = 2;

/// A key under the store's root.
pub(crate) fn key(root: &Path, key: &str) -> Path {
    Path::from_iter(root.parts().chain(Path::from(key).parts()))
}

/// The bytes of a payload that the driver stored, proven by length and CRC.
///
/// # Errors
/// `what` could not be read: gone and damaged are ours, the rest is the store's.
pub(crate) async fn fetch(
    store: &dyn ObjectStore,
    root: &Path,
    what: &str,
    payload: &Payload,
) -> Result<Bytes, Failure> {
    let (name, length, crc) = match payload {
        Payload::Inline(bytes) => return Ok(bytes.clone()),
        Payload::Stored { key, length, crc } => (key, *length, *crc),
    };
    let path = key(root, name);
    for _ in 0..=FRESH_READS {
        let bytes = get(store, &path).await.map_err(|error| failure(&format!("read {what}"), &error))?;
        if bytes.len() as u64 == length && crc32c::crc32c(&bytes) == crc {
            return Ok(bytes);
        }
    }
    Err(corrupt(what, &path, &"length or checksum differ"))
}

/// Reads a whole object.
pub(crate) async fn get(store: &dyn ObjectStore, path: &Path) -> Result<Bytes, Error> {
    persistently(|| async { store.get(path).await?.bytes().await }).await
}

/// Writes an object under a key that nobody else writes: in one request, or in parts if it is large.
pub(crate) async fn put(store: &dyn ObjectStore, path: &Path, payload: PutPayload) -> Result<(), Error> {
    persistently(|| async {
        if payload.content_length() <= SINGLE_PUT_MAX {
            return store.put(path, payload.clone()).await.map(drop);
        }
        let mut upload = store.put_multipart(path).await?;
        let sent = send_parts(&mut *upload, &payload).await;
        if sent.is_err() {
            // The store's own rule removes what is left if this fails too.
            let _ = upload.abort().await;
        }
        sent
    })
    .await
}

async fn send_parts(upload: &mut dyn MultipartUpload, payload: &PutPayload) -> Result<(), Error> {
    let mut pieces: Vec<Bytes> = Vec::new();
    for chunk in payload {
        let mut rest = chunk.clone();
        while !rest.is_empty() {
            pieces.push(rest.split_to(PART.min(rest.len())));
        }
    }
    // Small chunks share a part: all parts but the last must be of one size or larger than the store's least.
    let mut parts = Vec::new();
    let mut part = Vec::new();
    let mut length = 0;
    for piece in pieces {
        length += piece.len();
        part.push(piece);
        if length >= PART {
            parts.push(PutPayload::from_iter(std::mem::take(&mut part)));
            length = 0;
        }
    }
    if !part.is_empty() {
        parts.push(PutPayload::from_iter(part));
    }
    let requests: Vec<_> = parts.into_iter().map(|part| upload.put_part(part)).collect();
    stream::iter(requests).buffered(PARTS_IN_FLIGHT).try_for_each(|()| async { Ok(()) }).await?;
    upload.complete().await.map(drop)
}

/// Repeats a request until it succeeds, is refused, or [`DEADLINE`] has passed.
async fn persistently<T, F: Future<Output = Result<T, Error>>>(request: impl FnMut() -> F) -> Result<T, Error> {
    let backoff = ExponentialBuilder::default()
        .with_min_delay(BACKOFF_MIN)
        .with_max_delay(BACKOFF_MAX)
        .with_total_delay(Some(DEADLINE))
        .without_max_times()
        .with_jitter();
    request.retry(backoff).when(|error| class(error) == FailureKind::StoreUnavailable).await
}

/// What an error of the store's is: nobody tries again what is gone or refused.
fn class(error: &Error) -> FailureKind {
    match error {
        Error::NotFound { .. } => FailureKind::Internal,
        other if shuffle::store::is_refusal(other) => FailureKind::StoreDenied,
        _ => FailureKind::StoreUnavailable,
    }
}

/// The failure of a task for which the store could not do `what`.
pub(crate) fn failure(what: &str, error: &Error) -> Failure {
    let Failure { message, chain, .. } = Failure::from_error(class(error), error);
    let failure = Failure::new(class(error), what).caused_by(message);
    chain.into_iter().fold(failure, Failure::caused_by)
}

/// The failure of a task whose bytes are not those that were written.
pub(crate) fn corrupt(what: &str, path: &Path, why: &dyn std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Internal, format!("read {what} from {path}")).caused_by(why.to_string())
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    fn stored(bytes: &[u8]) -> Payload {
        Payload::Stored { key: "apps/x/bodies/1".into(), length: bytes.len() as u64, crc: crc32c::crc32c(bytes) }
    }

    #[tokio::test]
    async fn a_stored_payload_is_proven_before_it_is_used() {
        let (store, root) = (InMemory::new(), Path::from("root/folder"));
        let path = key(&root, "apps/x/bodies/1");
        assert_eq!(path.as_ref(), "root/folder/apps/x/bodies/1");
        let gone = fetch(&store, &root, "the body of stage s1", &stored(b"abc")).await.unwrap_err();
        assert_eq!((gone.kind, gone.message.as_str()), (FailureKind::Internal, "read the body of stage s1"));
        put(&store, &path, PutPayload::from_static(b"abc")).await.unwrap();
        assert_eq!(fetch(&store, &root, "a body", &stored(b"abc")).await.unwrap(), "abc");
        for other in [b"abd".as_slice(), b"abcd"] {
            let damaged = fetch(&store, &root, "a body", &stored(other)).await.unwrap_err();
            assert_eq!(damaged.kind, FailureKind::Internal);
            assert!(damaged.to_string().contains("length or checksum differ"), "{damaged}");
        }
    }

    #[tokio::test]
    async fn a_large_object_goes_in_parts_and_comes_back_whole() {
        let store = InMemory::new();
        let bytes: Vec<u8> = (0..SINGLE_PUT_MAX + 12_345).map(|i| (i >> 8) as u8).collect();
        let (first, second) = bytes.split_at(1_000);
        let payload = PutPayload::from_iter([Bytes::copy_from_slice(first), Bytes::copy_from_slice(second)]);
        put(&store, &Path::from("large"), payload).await.unwrap();
        assert!(get(&store, &Path::from("large")).await.unwrap() == bytes);
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_comes_back_is_waited_for_and_one_that_refuses_is_not() {
        let mut tries = 0;
        let back = persistently(|| {
            tries += 1;
            let answer = if tries < 10 { Err(unavailable()) } else { Ok(tries) };
            async { answer }
        });
        assert_eq!(back.await.unwrap(), 10);
        let mut tries = 0;
        let refused = persistently(|| {
            tries += 1;
            async { Err::<(), _>(Error::PermissionDenied { path: "x".into(), source: "403".into() }) }
        });
        assert_eq!(failure("read x", &refused.await.unwrap_err()).kind, FailureKind::StoreDenied);
        assert_eq!(tries, 1);
        let begun = tokio::time::Instant::now();
        let never = persistently(|| async { Err::<(), _>(unavailable()) }).await.unwrap_err();
        assert_eq!(failure("read x", &never).kind, FailureKind::StoreUnavailable);
        assert!(begun.elapsed() <= DEADLINE + BACKOFF_MAX, "{:?}", begun.elapsed());
    }

    fn unavailable() -> Error {
        Error::Generic { store: "test", source: "503".into() }
    }
}
