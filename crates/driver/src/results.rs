//! How do rows come home?
//!
//! Small results arrive inside statuses and wait, in order of arrival, until the caller takes them: together they have at
//! most `driver.max_result_size` bytes, since a job above it fails. Large ones stay in the store until the caller is
//! near them: at most [`FETCH_AHEAD`] are fetched ahead of what was taken.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use futures::{FutureExt, Stream};
use model::graph::Job;
use model::ids::{JobId, PartitionId};
use model::runner::{JobError, JobItem};
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

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

enum Next {
    Item(JobItem),
    Stored { partition: PartitionId, key: String, length: u64, crc: u32 },
    Fetching(PartitionId, JoinHandle<Result<Bytes, Failure>>),
}

/// The caller's end: see [`JobStream`](model::runner::JobStream). Submits the job when it is first polled.
pub(crate) struct Results {
    id: JobId,
    name: String,
    job: Option<(Box<Job>, Producer, Option<Staged>)>,
    shared: Arc<Shared>,
    fetcher: Fetcher,
    next: VecDeque<Next>,
    /// How many of `next` are in the store and not asked for.
    stored: usize,
    /// Nothing follows: dropping the stream cancels nothing.
    over: bool,
}

impl Results {
    pub(crate) fn new(job: Job, staged: Option<Staged>, fetcher: Fetcher) -> Self {
        let shared = Arc::new(Shared::default());
        let producer = Producer { shared: Arc::clone(&shared) };
        let (id, name) = (job.id, job.name.clone());
        let job = Some((Box::new(job), producer, staged));
        Self { id, name, job, shared, fetcher, next: VecDeque::new(), stored: 0, over: false }
    }

    fn end(&mut self, error: JobError) -> Poll<Option<Result<JobItem, JobError>>> {
        self.over = true;
        Poll::Ready(Some(Err(error)))
    }

    /// Takes over what has arrived; answers if the stream is at its end, or must wait.
    fn refill(&mut self, cx: &Context<'_>) -> Option<Poll<Option<Result<JobItem, JobError>>>> {
        let arrived = {
            let mut state = self.shared.lock();
            if state.arrived.is_empty() {
                match (state.end.take(), state.abandoned) {
                    (None, false) => {
                        state.waker = Some(cx.waker().clone());
                        return Some(Poll::Pending);
                    }
                    (Some(Ok(())), _) => {
                        self.over = true;
                        return Some(Poll::Ready(None));
                    }
                    (end, _) => {
                        let ended = || JobError::Ended { why: "its driver could not go on".into() };
                        let error = end.and_then(Result::err).unwrap_or_else(ended);
                        self.over = true;
                        return Some(Poll::Ready(Some(Err(error))));
                    }
                }
            }
            std::mem::take(&mut state.arrived)
        };
        self.next.extend(arrived.into_iter().map(|arrival| match arrival {
            Arrival::Item(item) => Next::Item(item),
            Arrival::Stored { partition, key, length, crc } => {
                self.stored += 1;
                Next::Stored { partition, key, length, crc }
            }
        }));
        None
    }

    fn fetch_ahead(&mut self) {
        if self.stored == 0 {
            return;
        }
        for next in self.next.iter_mut().filter(|next| !matches!(next, Next::Item(_))).take(FETCH_AHEAD) {
            if let Next::Stored { partition, key, length, crc } = next {
                let fetch = fetch(self.fetcher.clone(), std::mem::take(key), *length, *crc);
                *next = Next::Fetching(*partition, self.fetcher.tasks.spawn_on(fetch, &self.fetcher.io));
                self.stored -= 1;
            }
        }
    }
}

impl Stream for Results {
    type Item = Result<JobItem, JobError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.over {
            return Poll::Ready(None);
        }
        if let Some((job, results, staged)) = this.job.take()
            && let Err(ended) = this.fetcher.requests.put(Request::Run { job, results, staged })
        {
            return this.end(ended);
        }
        if this.next.is_empty()
            && let Some(answer) = this.refill(cx)
        {
            return answer;
        }
        this.fetch_ahead();
        let fetched = match this.next.front_mut() {
            Some(Next::Fetching(_, fetching)) => std::task::ready!(fetching.poll_unpin(cx)),
            _ => Ok(Ok(Bytes::new())),
        };
        match (this.next.pop_front(), fetched) {
            (Some(Next::Item(item)), _) => Poll::Ready(Some(Ok(item))),
            (Some(Next::Fetching(partition, _)), Ok(Ok(bytes))) => {
                Poll::Ready(Some(Ok(JobItem::Result { partition, bytes })))
            }
            (_, Ok(Err(failure))) => {
                this.cancel("a result could not be fetched");
                let name = std::mem::take(&mut this.name);
                this.end(JobError::Failed { name, failure: Box::new(failure), earlier: Vec::new() })
            }
            (_, Err(_) | Ok(Ok(_))) => this.end(JobError::Ended { why: "its driver is stopping".into() }),
        }
    }
}

impl Results {
    fn cancel(&self, why: &str) {
        let request = Request::CancelJob { job: self.id, why: why.to_owned() };
        // A driver that has stopped has cancelled everything.
        let _ = self.fetcher.requests.put(request);
    }
}

impl Drop for Results {
    fn drop(&mut self) {
        for next in &self.next {
            if let Next::Fetching(_, fetching) = next {
                fetching.abort();
            }
        }
        if !self.over && self.job.is_none() {
            self.cancel("nobody waits for its results any more");
        }
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
            Ok(None) => {
                Err(Failure::new(FailureKind::Internal, format!("fetch result `{key}`: its bytes are damaged")))
            }
            Err(error) => Err(crate::store::failure(format!("fetch result `{key}`"), &error)),
        }
    };
    let waits = ExponentialBuilder::default().with_total_delay(Some(FETCH_WITHIN)).without_max_times().with_jitter();
    let mut damaged = 0;
    let bytes = checked
        .retry(waits)
        .when(|failure| match failure.kind {
            FailureKind::StoreUnavailable => true,
            FailureKind::Internal => {
                damaged += 1;
                damaged <= 2
            }
            _ => false,
        })
        .await?;
    let _ = fetcher.requests.put(Request::StoreAnswered);
    if let Err(error) = fetcher.store.delete(&path).await {
        tracing::debug!(%path, error = &error as &dyn std::error::Error, "a fetched result stays until the end");
    }
    Ok(bytes)
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
        assert!(results.poll_next_unpin(&mut Context::from_waker(Waker::noop())).is_pending());
        match results.fetcher.requests.take().pop() {
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
