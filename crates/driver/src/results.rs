//! How do rows come home?
//!
//! Small results arrive inside statuses and wait, in order of arrival, until the caller takes them: together they have at
//! most `driver.max_result_size` bytes, since a job above it fails. Large ones stay in the store until the caller is
//! near them: at most [`FETCH_AHEAD`] are fetched ahead of what was taken. Where results are [`Streamed`], only those that
//! wait count, and large ones are read piece by piece, one ahead.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt, stream};
use model::graph::Job;
use model::ids::{JobId, PartitionId};
use model::messages::Payload;
use model::runner::{JobError, JobItem, Pieces, StreamedResult};
use model::{Failure, FailureKind};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use crate::requests::{Request, Requests, Staged};

/// So many large results are fetched ahead of the one that the caller is to take next.
const FETCH_AHEAD: usize = 4;

/// A large result that cannot be fetched for so long fails its job (the same time as for a shuffle's reads).
const FETCH_WITHIN: Duration = Duration::from_secs(120);

/// A streamed result is read in pieces of so many bytes: large enough for a store's latency not to matter, and small enough
/// for a piece or two of each partition, where partitions are merged.
const PIECE: u64 = 2 << 20;

/// Something of a job that arrived and was accepted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It is here.
    Item(JobItem),
    /// A result that is in the store.
    Stored { partition: PartitionId, key: String, length: u64, crc: u32 },
}

#[derive(Default)]
struct State {
    arrived: VecDeque<Arrival>,
    end: Option<Result<(), JobError>>,
    /// The loop is gone: nothing arrives any more.
    abandoned: bool,
    waker: Option<Waker>,
}

struct Shared {
    state: Mutex<State>,
    /// Bytes of streamed results that are here and were not taken; `None` where all count.
    waiting: Option<AtomicU64>,
    requests: Requests,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What nobody took is not to stay in the store.
impl Drop for Shared {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        delete(&self.requests, std::mem::take(&mut state.arrived));
    }
}

fn delete(requests: &Requests, arrivals: impl IntoIterator<Item = Arrival>) {
    let keys = arrivals.into_iter().filter_map(|arrival| match arrival {
        Arrival::Stored { key, .. } => Some(key),
        Arrival::Item(_) => None,
    });
    delete_keys(requests, keys.collect());
}

fn delete_keys(requests: &Requests, keys: Vec<String>) {
    if !keys.is_empty() {
        // A driver that has stopped deletes all that was the application's.
        let _ = requests.put(Request::Delete(keys));
    }
}

impl Arrival {
    /// Bytes that count towards the job's limit.
    pub(crate) fn result_bytes(&self) -> u64 {
        match self {
            Self::Item(JobItem::Result { bytes, .. }) => bytes.len() as u64,
            Self::Item(JobItem::Accumulated(_) | JobItem::Shuffled { .. } | JobItem::Written(_)) => 0,
            Self::Stored { length, .. } => *length,
        }
    }
}

/// The loop's end of a job's results.
pub(crate) struct Producer {
    shared: Arc<Shared>,
}

impl Producer {
    /// Adds what arrived in a turn; leaves the list empty.
    pub(crate) fn put(&self, arrivals: &mut Vec<Arrival>) {
        let waker = {
            let mut state = self.shared.lock();
            state.arrived.extend(arrivals.drain(..));
            state.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }

    /// Says how the job ended. The first end stays.
    pub(crate) fn end(self, end: Result<(), JobError>) {
        self.shared.lock().end.get_or_insert(end);
    }

    /// Takes note of a result that was accepted.
    pub(crate) fn accepted(&self, arrival: &Arrival) {
        if let (Some(waiting), Arrival::Item(_)) = (&self.shared.waiting, arrival) {
            waiting.fetch_add(arrival.result_bytes(), Ordering::Relaxed);
        }
    }

    /// How many bytes count where results are streamed, with one more.
    pub(crate) fn waiting_with(&self, result: &Payload) -> Option<u64> {
        let waiting = self.shared.waiting.as_ref()?.load(Ordering::Relaxed);
        Some(match result {
            Payload::Inline(bytes) => waiting + bytes.len() as u64,
            Payload::Stored { .. } => 0,
        })
    }
}

/// A loop that ends without saying how the job ended was stopped in the middle.
impl Drop for Producer {
    fn drop(&mut self) {
        let waker = {
            let mut state = self.shared.lock();
            state.abandoned = true;
            state.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }
}

/// From where large results are fetched, and who fetches them.
#[derive(Clone)]
pub(crate) struct Fetcher {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) root: Path,
    pub(crate) io: Handle,
    pub(crate) tasks: TaskTracker,
    pub(crate) requests: Requests,
}

/// What arrives of a job. Submits it when it is first polled.
struct Arrivals {
    id: JobId,
    name: String,
    job: Option<(Box<Job>, Producer, Option<Staged>)>,
    shared: Arc<Shared>,
    requests: Requests,
    /// Nothing follows: dropping the stream cancels nothing.
    over: bool,
}

impl Arrivals {
    fn new(job: Job, staged: Option<Staged>, waiting: Option<AtomicU64>, requests: Requests) -> Self {
        let shared = Arc::new(Shared { state: Mutex::default(), waiting, requests: requests.clone() });
        let producer = Producer { shared: Arc::clone(&shared) };
        let (id, name) = (job.id, job.name.clone());
        let job = Some((Box::new(job), producer, staged));
        Self { id, name, job, shared, requests, over: false }
    }

    /// Takes all that has arrived: something, unless it is the end.
    fn poll(&mut self, cx: &Context<'_>) -> Poll<Option<Result<VecDeque<Arrival>, JobError>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if let Some((job, results, staged)) = self.job.take()
            && let Err(ended) = self.requests.put(Request::Run { job, results, staged })
        {
            return Poll::Ready(Some(Err(self.end(ended))));
        }
        let mut state = self.shared.lock();
        if !state.arrived.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut state.arrived))));
        }
        let end = match (state.end.take(), state.abandoned) {
            (None, false) => {
                state.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            (end, _) => end,
        };
        drop(state);
        let ended = || Err(JobError::Ended { why: "its driver could not go on".into() });
        Poll::Ready(end.unwrap_or_else(ended).err().map(|error| Err(self.end(error))).or_else(|| {
            self.over = true;
            None
        }))
    }

    fn end(&mut self, error: JobError) -> JobError {
        self.over = true;
        error
    }

    fn cancel(&self, why: &str) {
        let request = Request::CancelJob { job: self.id, why: why.to_owned() };
        // A driver that has stopped has cancelled everything.
        let _ = self.requests.put(request);
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        if !self.over && self.job.is_none() {
            self.cancel("nobody waits for its results any more");
        }
    }
}

enum Next {
    Here(Arrival),
    Fetching(PartitionId, String, JoinHandle<Result<Bytes, Failure>>),
}

/// The caller's end: see [`JobStream`](model::runner::JobStream).
pub(crate) struct Results {
    arrivals: Arrivals,
    fetcher: Fetcher,
    next: VecDeque<Next>,
    /// How many of `next` are in the store and not asked for.
    stored: usize,
}

impl Results {
    pub(crate) fn new(job: Job, staged: Option<Staged>, fetcher: Fetcher) -> Self {
        let arrivals = Arrivals::new(job, staged, None, fetcher.requests.clone());
        Self { arrivals, fetcher, next: VecDeque::new(), stored: 0 }
    }

    fn fetch_ahead(&mut self) {
        if self.stored == 0 {
            return;
        }
        let here = |next: &&mut Next| matches!(next, Next::Here(Arrival::Item(_)));
        for next in self.next.iter_mut().filter(|next| !here(next)).take(FETCH_AHEAD) {
            if let Next::Here(Arrival::Stored { partition, key, length, crc }) = next {
                let (partition, key) = (*partition, std::mem::take(key));
                let fetch = fetch(self.fetcher.clone(), key.clone(), *length, *crc);
                *next = Next::Fetching(partition, key, self.fetcher.tasks.spawn_on(fetch, &self.fetcher.io));
                self.stored -= 1;
            }
        }
    }
}

impl Stream for Results {
    type Item = Result<JobItem, JobError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.arrivals.over {
            return Poll::Ready(None);
        }
        if this.next.is_empty() {
            let arrived = match std::task::ready!(this.arrivals.poll(cx)) {
                Some(Ok(arrived)) => arrived,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            };
            this.stored = arrived.iter().filter(|arrival| matches!(arrival, Arrival::Stored { .. })).count();
            this.next = arrived.into_iter().map(Next::Here).collect();
        }
        this.fetch_ahead();
        let fetched = match this.next.front_mut() {
            Some(Next::Fetching(_, _, fetching)) => std::task::ready!(fetching.poll_unpin(cx)),
            _ => Ok(Ok(Bytes::new())),
        };
        match (this.next.pop_front(), fetched) {
            (Some(Next::Here(Arrival::Item(item))), _) => Poll::Ready(Some(Ok(item))),
            (Some(Next::Fetching(partition, ..)), Ok(Ok(bytes))) => {
                Poll::Ready(Some(Ok(JobItem::Result { partition, bytes })))
            }
            (_, Ok(Err(failure))) => {
                this.arrivals.cancel("a result could not be fetched");
                let failed = unfetched(&this.arrivals.name, failure);
                Poll::Ready(Some(Err(this.arrivals.end(failed))))
            }
            (_, Err(_) | Ok(Ok(_))) => {
                let ended = JobError::Ended { why: "its driver is stopping".into() };
                Poll::Ready(Some(Err(this.arrivals.end(ended))))
            }
        }
    }
}

impl Drop for Results {
    fn drop(&mut self) {
        let left = self.next.drain(..).filter_map(|next| match next {
            Next::Fetching(_, key, fetching) => {
                fetching.abort();
                Some(key)
            }
            Next::Here(Arrival::Stored { key, .. }) => Some(key),
            Next::Here(Arrival::Item(_)) => None,
        });
        delete_keys(&self.fetcher.requests, left.collect());
    }
}

fn unfetched(name: &str, failure: Failure) -> JobError {
    JobError::Failed { name: name.to_owned(), failure: Box::new(failure), earlier: Vec::new() }
}

/// The caller's end where results are read as they are asked for: see [`ResultStream`](model::runner::ResultStream).
pub(crate) struct Streamed {
    arrivals: Arrivals,
    fetcher: Fetcher,
    next: VecDeque<Arrival>,
}

impl Streamed {
    pub(crate) fn new(job: Job, fetcher: Fetcher) -> Self {
        let arrivals = Arrivals::new(job, None, Some(AtomicU64::new(0)), fetcher.requests.clone());
        Self { arrivals, fetcher, next: VecDeque::new() }
    }
}

impl Stream for Streamed {
    type Item = Result<StreamedResult, JobError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            match this.next.pop_front() {
                Some(Arrival::Item(JobItem::Result { partition, bytes })) => {
                    let waiting = Waiting { shared: Arc::clone(&this.arrivals.shared), bytes: bytes.len() as u64 };
                    let pieces = stream::once(async move {
                        drop(waiting);
                        Ok(bytes)
                    });
                    return Poll::Ready(Some(Ok(StreamedResult { partition, pieces: pieces.boxed() })));
                }
                Some(Arrival::Stored { partition, key, length, crc }) => {
                    let name = this.arrivals.name.clone();
                    let stored = Stored { fetcher: this.fetcher.clone(), name, key, length, crc };
                    return Poll::Ready(Some(Ok(StreamedResult { partition, pieces: stored.pieces() })));
                }
                Some(Arrival::Item(_)) => {}
                None => match std::task::ready!(this.arrivals.poll(cx)) {
                    Some(Ok(arrived)) => this.next = arrived,
                    Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                    None => return Poll::Ready(None),
                },
            }
        }
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        delete(&self.fetcher.requests, std::mem::take(&mut self.next));
    }
}

/// A streamed result that is here, and counts until it is taken.
struct Waiting {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(waiting) = &self.shared.waiting {
            waiting.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

/// A streamed result that is in the store as long as this is.
struct Stored {
    fetcher: Fetcher,
    name: String,
    key: String,
    length: u64,
    crc: u32,
}

impl Drop for Stored {
    fn drop(&mut self) {
        delete_keys(&self.fetcher.requests, vec![std::mem::take(&mut self.key)]);
    }
}

/// A result on its way.
struct Reading {
    stored: Stored,
    ahead: Option<Ahead>,
    /// Where the piece ends that is on its way.
    end: u64,
    crc: u32,
}

/// A piece that is being fetched as long as somebody wants it.
struct Ahead(JoinHandle<Result<Bytes, Failure>>);

impl Drop for Ahead {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Stored {
    /// Its bytes. Nothing is fetched before the first is asked for; then a piece ahead.
    fn pieces(self) -> Pieces {
        let reading = Reading { stored: self, ahead: None, end: 0, crc: 0 };
        stream::try_unfold(reading, Reading::next).boxed()
    }
}

impl Reading {
    /// Begins to fetch the next piece, if there is one.
    fn fetch_next(&mut self) {
        let Stored { fetcher, key, length, crc, .. } = &self.stored;
        let begin = self.end;
        self.end = (begin + PIECE).min(*length);
        if begin == self.end {
            return;
        }
        let piece = if *length <= PIECE {
            fetcher.tasks.spawn_on(fetch(fetcher.clone(), key.clone(), *length, *crc), &fetcher.io)
        } else {
            fetcher.tasks.spawn_on(fetch_piece(fetcher.clone(), key.clone(), begin, self.end), &fetcher.io)
        };
        self.ahead = Some(Ahead(piece));
    }

    async fn next(mut self) -> Result<Option<(Bytes, Self)>, JobError> {
        if self.end == 0 {
            self.fetch_next();
        }
        let Some(mut ahead) = self.ahead.take() else { return Ok(None) };
        let bytes = (&mut ahead.0).await.map_err(|_| JobError::Ended { why: "its driver is stopping".into() })?;
        let bytes = bytes.map_err(|failure| unfetched(&self.stored.name, failure))?;
        self.crc = crc32c::crc32c_append(self.crc, &bytes);
        if self.end == self.stored.length && self.crc != self.stored.crc {
            return Err(unfetched(&self.stored.name, damaged(&self.stored.key)));
        }
        self.fetch_next();
        Ok(Some((bytes, self)))
    }
}

/// Gets a large result and deletes it from the store: nobody asks for it again.
async fn fetch(fetcher: Fetcher, key: String, length: u64, crc: u32) -> Result<Bytes, Failure> {
    let path = crate::store::under(&fetcher.root, &key);
    let attempt = || async {
        let bytes = fetcher.store.get(&path).await?.bytes().await?;
        Ok::<_, object_store::Error>((bytes.len() as u64 == length && crc32c::crc32c(&bytes) == crc).then_some(bytes))
    };
    let checked = || async {
        match attempt().await {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => Err(damaged(&key)),
            Err(error) => Err(crate::store::failure(format!("fetch result `{key}`"), &error)),
        }
    };
    let bytes = patiently(checked).await?;
    let _ = fetcher.requests.put(Request::StoreAnswered);
    if let Err(error) = fetcher.store.delete(&path).await {
        tracing::debug!(%path, error = &error as &dyn std::error::Error, "a fetched result stays until the end");
    }
    Ok(bytes)
}

/// Gets a part of a large result.
async fn fetch_piece(fetcher: Fetcher, key: String, begin: u64, end: u64) -> Result<Bytes, Failure> {
    let path = crate::store::under(&fetcher.root, &key);
    let checked = || async {
        match fetcher.store.get_range(&path, begin..end).await {
            Ok(bytes) if bytes.len() as u64 == end - begin => Ok(bytes),
            Ok(_) => Err(damaged(&key)),
            Err(error) => Err(crate::store::failure(format!("fetch result `{key}`"), &error)),
        }
    };
    let bytes = patiently(checked).await?;
    let _ = fetcher.requests.put(Request::StoreAnswered);
    Ok(bytes)
}

fn damaged(key: &str) -> Failure {
    Failure::new(FailureKind::Internal, format!("fetch result `{key}`: its bytes are damaged"))
}

/// Asks again as long as the store does not answer, and twice where it answers wrong.
async fn patiently<F>(request: impl Fn() -> F) -> Result<Bytes, Failure>
where
    F: Future<Output = Result<Bytes, Failure>>,
{
    let waits = ExponentialBuilder::default().with_total_delay(Some(FETCH_WITHIN)).without_max_times().with_jitter();
    let mut damaged = 0;
    let again = |failure: &Failure| match failure.kind {
        FailureKind::StoreUnavailable => true,
        FailureKind::Internal => {
            damaged += 1;
            damaged <= 2
        }
        _ => false,
    };
    request.retry(waits).when(again).await
}

#[cfg(test)]
mod tests {
    use std::task::Context;

    use futures::StreamExt;
    use model::graph::Job;
    use object_store::memory::InMemory;

    use super::*;

    fn fetcher(store: Arc<dyn ObjectStore>) -> Fetcher {
        let (io, tasks) = (Handle::current(), TaskTracker::new());
        Fetcher { store, root: Path::from("root"), io, tasks, requests: Requests::default() }
    }

    fn job() -> Job {
        Job { id: JobId(7), name: "collect".into(), group: None, stages: Vec::new(), wanted: Vec::new() }
    }

    fn item(partition: u32) -> JobItem {
        JobItem::Result { partition: PartitionId(partition), bytes: Bytes::from(partition.to_string()) }
    }

    /// Polls once, so that the job is handed over, and takes the loop's end.
    fn submit(results: &mut Results) -> Producer {
        let requests = results.fetcher.requests.clone();
        submitted(results, &requests)
    }

    fn submitted(results: &mut (impl Stream + Unpin), requests: &Requests) -> Producer {
        assert!(results.poll_next_unpin(&mut Context::from_waker(Waker::noop())).is_pending());
        match requests.take().pop() {
            Some(Request::Run { results, .. }) => results,
            _ => panic!("the job was not submitted"),
        }
    }

    #[tokio::test]
    async fn items_come_in_order_of_arrival_wherever_they_were() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let stored = item(1);
        let JobItem::Result { bytes, .. } = &stored else { unreachable!() };
        store.put(&Path::from("root/large/one"), bytes.clone().into()).await.unwrap();
        let mut results = Results::new(job(), None, fetcher(store.clone()));
        let producer = submit(&mut results);
        let large = Arrival::Stored {
            partition: PartitionId(1),
            key: "large/one".into(),
            length: bytes.len() as u64,
            crc: crc32c::crc32c(bytes),
        };
        producer.put(&mut vec![Arrival::Item(item(2)), large, Arrival::Item(item(0))]);
        producer.end(Ok(()));
        let all: Vec<_> = results.by_ref().collect().await;
        assert_eq!(all, [Ok(item(2)), Ok(item(1)), Ok(item(0))]);
        assert!(store.head(&Path::from("root/large/one")).await.is_err(), "what was fetched is deleted");
        let fetcher = results.fetcher.clone();
        drop(results);
        assert!(!fetcher.requests.take().iter().any(|r| matches!(r, Request::CancelJob { .. })), "it had ended");
    }

    #[tokio::test(start_paused = true)]
    async fn a_damaged_result_fails_the_job() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        store.put(&Path::from("root/k"), Bytes::from_static(b"abd").into()).await.unwrap();
        let mut results = Results::new(job(), None, fetcher(store));
        let producer = submit(&mut results);
        let arrival =
            Arrival::Stored { partition: PartitionId(0), key: "k".into(), length: 3, crc: crc32c::crc32c(b"abc") };
        producer.put(&mut vec![arrival]);
        let error = results.next().await.unwrap().unwrap_err();
        assert!(matches!(error, JobError::Failed { failure, .. } if failure.message.contains("damaged")));
        assert_eq!(results.next().await, None, "an error is the last item");
        let asked = results.fetcher.requests.take();
        assert!(matches!(asked[..], [Request::CancelJob { job: JobId(7), .. }]));
    }

    #[tokio::test]
    async fn a_streamed_result_comes_in_pieces_and_counts_until_it_is_taken() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let large: Vec<u8> = (0..2 * PIECE + 5).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let stored =
            |crc| Arrival::Stored { partition: PartitionId(1), key: "large".into(), length: large.len() as u64, crc };
        let fetcher = fetcher(Arc::clone(&store));
        let requests = fetcher.requests.clone();
        let mut results = Streamed::new(job(), fetcher);
        let producer = submitted(&mut results, &requests);
        let waiting = || producer.waiting_with(&Payload::Inline(Bytes::new())).unwrap();
        store.put(&Path::from("root/large"), large.clone().into()).await.unwrap();

        let small = Arrival::Item(item(0));
        producer.accepted(&small);
        producer.accepted(&stored(0));
        producer.put(&mut vec![small, stored(crc32c::crc32c(&large)), stored(7), stored(7)]);
        let first = results.next().await.unwrap().unwrap();
        assert_eq!(waiting(), 1, "what is large waits in the store");
        let pieces: Vec<_> = first.pieces.collect().await;
        assert_eq!((pieces, waiting()), (vec![Ok(Bytes::from("0"))], 0));

        let pieces: Vec<_> = results.next().await.unwrap().unwrap().pieces.map(Result::unwrap).collect().await;
        let lengths: Vec<_> = pieces.iter().map(|piece| piece.len() as u64).collect();
        assert_eq!((lengths, pieces.concat()), (vec![PIECE, PIECE, 5], large.clone()));
        let damaged: Vec<_> = results.next().await.unwrap().unwrap().pieces.collect().await;
        assert!(
            damaged.last().unwrap().as_ref().is_err_and(|error| error.to_string().contains("collect")),
            "{damaged:?}"
        );
        drop(results);
        let asked = requests.take();
        let deleted = asked.iter().filter(|request| matches!(request, Request::Delete(keys) if keys[..] == ["large"]));
        assert_eq!(deleted.count(), 3, "what was read and what was not");
        assert!(asked.iter().any(|request| matches!(request, Request::CancelJob { job: JobId(7), .. })));
    }

    #[tokio::test]
    async fn a_dropped_stream_cancels_its_job_and_a_gone_loop_ends_it() {
        let mut results = Results::new(job(), None, fetcher(Arc::new(InMemory::new())));
        let requests = results.fetcher.requests.clone();
        let producer = submit(&mut results);
        drop(results);
        assert!(matches!(requests.take()[..], [Request::CancelJob { job: JobId(7), .. }]));
        drop(producer);

        let mut results = Results::new(job(), None, fetcher(Arc::new(InMemory::new())));
        drop(submit(&mut results));
        assert!(matches!(results.next().await, Some(Err(JobError::Ended { .. }))));

        let never_polled = Results::new(job(), None, fetcher(Arc::new(InMemory::new())));
        let requests = never_polled.fetcher.requests.clone();
        drop(never_polled);
        assert!(requests.take().is_empty(), "a stream that was never polled has started nothing");
    }
}
