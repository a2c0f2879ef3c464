//! How does the driver use the store: where is a key, what does an answer mean, how are large payloads put there?

use std::sync::Arc;

use bytes::Bytes;
use model::messages::Payload;
use model::{Failure, FailureKind};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

/// The path of a key under the root.
pub(crate) fn under(root: &Path, key: &str) -> Path {
    key.split('/').fold(root.clone(), |path, part| path.join(part))
}

/// What an answer of the store permits.
pub(crate) fn failure(what: String, error: &object_store::Error) -> Failure {
    let kind = match shuffle::store::is_refusal(error) {
        true => FailureKind::StoreDenied,
        false => FailureKind::StoreUnavailable,
    };
    let because = Failure::from_error(kind, error);
    Failure {
        message: what,
        chain: std::iter::once(because.message).chain(because.chain).collect(),
        ..Failure::new(because.kind, "")
    }
}

/// Puts bytes into the store; gives what a message says of them.
pub(crate) async fn put(
    store: Arc<dyn ObjectStore>,
    root: Path,
    key: String,
    bytes: Bytes,
) -> Result<Payload, Failure> {
    let (length, crc) = (bytes.len() as u64, crc32c::crc32c(&bytes));
    match store.put(&under(&root, &key), bytes.into()).await {
        Ok(_) => Ok(Payload::Stored { key, length, crc }),
        Err(error) => Err(failure(format!("put `{key}`"), &error)),
    }
}
