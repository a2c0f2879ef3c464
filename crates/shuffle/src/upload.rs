//! How does an object get into the store?
//!
//! With one PUT, or in parts if it is long. A PUT is repeated with the same bytes under the same key. A multipart upload
//! whose outcome is in doubt is aborted and the object goes again under the next key: only what a status names is read.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::failure::ObjectRef;
use model::shuffle::{NewObject, OpenObject, ShuffleSpec};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload, PutPayloadMut};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use crate::Error;
use crate::format;
use crate::run::Run;
use crate::runtime::Inner;
use crate::store::{Refusal, persist, request_deadline, under};

/// Blocks below this size are copied together: a request body of many slivers costs more than the copy.
const SLIVER: usize = 64 << 10;
/// A part cannot be sent again by itself, so it may take several times as long as other requests.
const PART_PATIENCE: u32 = 4;

/// An object in the store.
#[derive(Debug, Clone)]
pub(crate) struct StoredObject {
    pub(crate) object: ObjectRef,
    pub(crate) new: NewObject,
}

/// Stores runs as one object and tells whoever waits for them.
pub(crate) async fn upload(runtime: Arc<Inner>, spec: Arc<ShuffleSpec>, runs: Vec<Run>) {
    let result = store(&runtime, &spec, &runs).await.map(Arc::new);
    if let Ok(stored) = &result {
        debug!(shuffle = spec.shuffle.0, seq = stored.object.seq, bytes = stored.new.length, "stored an object");
    }
    // Memory comes free before anybody hears of it.
    let waiting: Vec<_> = runs.into_iter().map(|run| run.done).collect();
    for done in waiting {
        // Nobody listens any more if the task was aborted: then no plan names its rows.
        let _ = done.send(result.clone());
    }
}

async fn store(runtime: &Arc<Inner>, spec: &ShuffleSpec, runs: &[Run]) -> Result<StoredObject, Error> {
    let members: Vec<_> = runs.iter().map(|run| (run.member, run.blocks.pairs.as_slice())).collect();
    let tail = format::index(spec, &members);
    let mut body = in_order(spec.partitions, runs);
    body.push(tail.bytes.clone());

    let mut failed_at = None;
    loop {
        let object = runtime.next_object();
        let (shuffle, generation) = (spec.shuffle, spec.generation);
        runtime.begin(OpenObject { shuffle, generation, object });
        let path = under(&runtime.root, &format::key(spec, object));
        let header = Bytes::copy_from_slice(&format::header(spec, object));
        let chunks = std::iter::once(&header).chain(&body);
        let result = if tail.length <= runtime.budget.single_put_max {
            put(runtime, &path, payload(chunks)).await.map_err(Outcome::Final)
        } else {
            put_parts(runtime, &path, parts(chunks, runtime.budget.part_size)).await
        };
        match result {
            Ok(requests) => {
                let (seq, index) = (object.seq, tail.bytes.clone());
                let new = NewObject { seq, length: tail.length, index, index_crc: tail.index_crc, requests };
                return Ok(StoredObject { object, new });
            }
            Err(Outcome::Final(error)) => return Err(error),
            Err(Outcome::Again(error)) => {
                let since = *failed_at.get_or_insert_with(Instant::now);
                if since.elapsed() >= runtime.budget.store_deadline {
                    return Err(error);
                }
                warn!(key = %path, error = %error, "upload an object again under the next key");
            }
        }
    }
}

/// Blocks of all runs, partition by partition, run by run.
fn in_order(partitions: u32, runs: &[Run]) -> Vec<Bytes> {
    let mut rest: Vec<&[(u32, Bytes)]> = runs.iter().map(|run| run.blocks.blocks.as_slice()).collect();
    let mut body = Vec::with_capacity(rest.iter().map(|blocks| blocks.len()).sum::<usize>() + 1);
    for partition in 0..partitions {
        for blocks in &mut rest {
            let mine = blocks.iter().take_while(|(of, _)| *of == partition).count();
            let (now, later) = blocks.split_at(mine);
            body.extend(now.iter().map(|(_, bytes)| bytes.clone()));
            *blocks = later;
        }
    }
    body
}

fn payload<'a>(chunks: impl Iterator<Item = &'a Bytes>) -> PutPayload {
    let mut payload = PutPayloadMut::new().with_block_size(SLIVER);
    for chunk in chunks {
        if chunk.len() < SLIVER {
            payload.extend_from_slice(chunk);
        } else {
            payload.push(chunk.clone());
        }
    }
    payload.freeze()
}

/// Cuts an object into parts of equal length; the last has what is left. Lazily, so that slivers are copied only for parts
/// on their way.
fn parts<'a>(chunks: impl Iterator<Item = &'a Bytes>, part_size: u64) -> impl Iterator<Item = PutPayload> {
    let mut chunks = chunks.cloned().collect::<Vec<_>>().into_iter();
    let mut begun = Bytes::new();
    let part_size = usize::try_from(part_size).unwrap_or(usize::MAX);
    std::iter::from_fn(move || {
        let (mut part, mut length) = (Vec::new(), 0);
        while length < part_size {
            if begun.is_empty() {
                match chunks.next() {
                    Some(chunk) => begun = chunk,
                    None => break,
                }
            }
            let piece = begun.split_to(begun.len().min(part_size - length));
            length += piece.len();
            part.push(piece);
        }
        (length > 0).then(|| payload(part.iter()))
    })
}

enum Outcome {
    /// Nothing helps.
    Final(Error),
    /// The same object under another key may succeed.
    Again(Error),
}

/// For a write the store has everything it needs but the bucket.
fn refused(operation: &'static str, path: &Path, refusal: Refusal) -> Error {
    match refusal {
        Refusal::Missing(source) => Error::Denied { operation, key: path.to_string(), source },
        Refusal::Other(error) => error,
    }
}

async fn put(runtime: &Inner, path: &Path, payload: PutPayload) -> Result<u32, Error> {
    let _slot = runtime.parts.acquire().await.expect("nobody closes it");
    let deadline = request_deadline(payload.content_length() as u64);
    persist("put", path, deadline, runtime.budget.store_deadline, || runtime.store.put(path, payload.clone()))
        .await
        .map(|_| 1)
        .map_err(|refusal| refused("put", path, refusal))
}

async fn put_parts(runtime: &Inner, path: &Path, parts: impl Iterator<Item = PutPayload>) -> Result<u32, Outcome> {
    let patience = runtime.budget.store_deadline;
    let (mut upload, _) =
        persist("create upload", path, request_deadline(0), patience, || runtime.store.put_multipart(path))
            .await
            .map_err(|refusal| Outcome::Final(refused("create upload", path, refusal)))?;
    match send_parts(runtime, path, upload.as_mut(), parts).await {
        // And one that began it, one that ended it.
        Ok(parts) => Ok(parts + 2),
        Err(outcome) => {
            // Parts of an upload that is not aborted cost money that no listing shows.
            let abort = timeout(request_deadline(0), upload.abort()).await;
            if !matches!(abort, Ok(Ok(()))) {
                warn!(key = %path, "abort an upload: the store did not confirm; its lifecycle rule must");
            }
            Err(outcome)
        }
    }
}

async fn send_parts(
    runtime: &Inner,
    path: &Path,
    upload: &mut dyn MultipartUpload,
    parts: impl Iterator<Item = PutPayload>,
) -> Result<u32, Outcome> {
    // Dropped on every way out, which stops what is still on its way.
    let (mut sending, mut count) = (JoinSet::new(), 0);
    for part in parts {
        count += 1;
        let slot = Arc::clone(&runtime.parts).acquire_owned().await.expect("nobody closes it");
        while let Some(sent) = sending.try_join_next() {
            judge("put part", path, flatten(sent))?;
        }
        let deadline = request_deadline(part.content_length() as u64) * PART_PATIENCE;
        let request = upload.put_part(part);
        sending.spawn(async move {
            let sent = timeout(deadline, request).await;
            drop(slot);
            sent.unwrap_or_else(|_| Err(timed_out(deadline)))
        });
    }
    while let Some(sent) = sending.join_next().await {
        judge("put part", path, flatten(sent))?;
    }
    let deadline = request_deadline(0) * PART_PATIENCE;
    let completed = timeout(deadline, upload.complete()).await.unwrap_or_else(|_| Err(timed_out(deadline)));
    judge("complete upload", path, completed.map(|_| ()))?;
    Ok(count)
}

fn flatten(sent: Result<object_store::Result<()>, tokio::task::JoinError>) -> object_store::Result<()> {
    sent.unwrap_or_else(|source| Err(object_store::Error::JoinError { source }))
}

fn timed_out(waited: Duration) -> object_store::Error {
    object_store::Error::Generic { store: "store", source: format!("no answer in {waited:?}").into() }
}

fn judge(operation: &'static str, path: &Path, result: object_store::Result<()>) -> Result<(), Outcome> {
    use object_store::Error as E;
    let Err(error) = result else { return Ok(()) };
    let (key, denied) = (path.to_string(), matches!(error, E::PermissionDenied { .. } | E::Unauthenticated { .. }));
    let source = Arc::new(error);
    Err(if denied {
        Outcome::Final(Error::Denied { operation, key, source })
    } else {
        let (tries, waited) = (1, Duration::ZERO);
        Outcome::Again(Error::StoreUnavailable { operation, key, tries, waited, source: Some(source) })
    })
}
