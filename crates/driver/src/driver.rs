//! What is the driver from outside?

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, future, stream};
use model::backend::ClusterBackend;
use model::graph::Job;
use model::ids::{AppId, BroadcastId, Epoch, IdSource, RddId, ShuffleId};
use model::messages::Hello;
use model::runner::{JobError, JobItem, JobRunner, JobStream, ResultStream};
use model::write::WriteTarget;
use model::{ExecutorId, Failure};
use object_store::path::Path;
use shuffle::sweep::{Lease, Leftovers};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::cleanup::Cleaner;
use crate::commit;
use crate::config::{DriverConfig, Limits, StoreScope};
use crate::error::Error;
use crate::event_loop::{EventLoop, MAILBOX, Message, Parts, Remains};
use crate::lease::{Holder, destination, give_back};
use crate::link::Dialer;
use crate::requests::{Request, Requests};
use crate::results::{Fetcher, Results, Streamed};
use crate::store::under;
use crate::write::{UPDATES, Write};

/// How long the loop may take to hear that the application ends.
const LOOP_WITHIN: Duration = Duration::from_secs(5);

/// How long commits under way may take at the end: as long as a commit's own retries.
const COMMITS_WITHIN: Duration = Duration::from_secs(600);

/// How long executors may take to end.
const EXECUTORS_WITHIN: Duration = Duration::from_secs(10);

/// How long tasks of the driver's own may take to end after they were told to.
const TASKS_WITHIN: Duration = Duration::from_secs(5);

/// How long the store may take to remove what is left.
const CLEANUP_WITHIN: Duration = Duration::from_secs(300);

/// Runs the jobs of one application.
///
/// Dropping it ends everything at once and leaves in the store what is there; [`Driver::stop`] is the orderly end.
pub struct Driver {
    app: AppId,
    epoch: Epoch,
    ids: IdSource,
    parallelism: u32,
    backend: Arc<dyn ClusterBackend>,
    requests: Requests,
    mailbox: mpsc::Sender<Message>,
    fetcher: Fetcher,
    root: Path,
    cleaner: Cleaner,
    /// Writes under way.
    writes: TaskTracker,
    /// The loop, links, fetches, uploads.
    tasks: TaskTracker,
    /// Ends the lease's renewal and the cleaner.
    stopped: CancellationToken,
    /// Gives up what writes have not entered.
    ending: CancellationToken,
    claimed: watch::Receiver<bool>,
    /// The lease, once its holder has stopped.
    lease: Mutex<Option<oneshot::Receiver<Lease>>>,
    stopping: tokio::sync::Mutex<bool>,
    /// Ends the loop and all links when the driver is dropped.
    _dropped: DropGuard,
}

impl Driver {
    /// Starts the event loop and asks the backend for executors; returns at once.
    ///
    /// # Errors
    /// A setting or the identity cannot be used.
    pub fn start(config: DriverConfig, backend: Arc<dyn ClusterBackend>, io: Handle) -> Result<Arc<Self>, Error> {
        let limits = Limits::read(&config)?;
        let sweep_after = limits.sweep_after;
        let codec = shuffle::config::codec(&config.settings, &config.store_url)?;
        shuffle::config::inline_max(&config.settings, 1)?;
        let tls = match &config.identity {
            Some(identity) => Some(TlsConnector::from(Arc::new(proto::tls::client_config(identity, config.app)?))),
            None => None,
        };
        let (mailbox, letters) = mpsc::channel(MAILBOX);
        let (claim, claimed) = watch::channel(config.scope == StoreScope::Private);
        let (dropped, stopped, tasks) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        let requests = Requests::default();
        let cleaner = Cleaner::new(Arc::clone(&config.store), config.root.clone());
        if config.identity.is_some() {
            // Executors in other processes will be asked which program they run; hashing ours takes a while.
            let executable = config.executable.clone();
            let hash = move || executable.hash().map(drop);
            tasks.spawn_blocking_on(hash, &io);
        }
        let dialer = Dialer {
            backend: Arc::clone(&backend),
            hello: Hello {
                protocol: proto::version::PROTOCOL,
                app: config.app,
                epoch: config.epoch,
                executor: ExecutorId(0),
                program: String::new(),
                slots: config.slots,
                memory: config.memory,
                store: config.store_url.clone(),
                settings: config.settings.clone(),
            },
            tls,
            executable: config.executable,
            reconnect_timeout: limits.reconnect_timeout,
            heartbeat_interval: limits.heartbeat_interval,
            mailbox: mailbox.clone(),
            claimed: claimed.clone(),
        };
        let parts = Parts {
            app: config.app,
            epoch: config.epoch,
            name: config.name,
            master: config.master,
            slots: config.slots,
            limits,
            settings: config.settings,
            codec,
            store: Arc::clone(&config.store),
            root: config.root.clone(),
            backend: Arc::clone(&backend),
            dialer: Arc::new(dialer),
            observers: config.observers,
            requests: requests.clone(),
            mailbox: letters,
            cleaner: cleaner.clone(),
            tasks: tasks.clone(),
            io: io.clone(),
        };
        let given = (config.scope == StoreScope::Shared).then(|| {
            let (give, given) = oneshot::channel();
            let holder = Holder {
                store: Arc::clone(&config.store),
                root: config.root.clone(),
                app: config.app,
                epoch: config.epoch,
                sweep_after,
                mailbox: mailbox.clone(),
            };
            tasks.spawn_on(holder.hold(claim, stopped.clone(), give), &io);
            given
        });
        tasks.spawn_on(EventLoop::new(parts).run(dropped.clone()), &io);
        tasks.spawn_on(cleaner.clone().run(stopped.clone()), &io);
        let fetcher = Fetcher {
            store: config.store,
            root: config.root.clone(),
            io,
            tasks: tasks.clone(),
            requests: requests.clone(),
        };
        Ok(Arc::new(Self {
            app: config.app,
            epoch: config.epoch,
            ids: IdSource::default(),
            parallelism: config.allocation.usual().saturating_mul(config.slots).max(1),
            backend,
            requests,
            mailbox,
            fetcher,
            root: config.root,
            cleaner,
            writes: TaskTracker::new(),
            tasks,
            stopped,
            ending: CancellationToken::new(),
            claimed,
            lease: Mutex::new(given),
            stopping: tokio::sync::Mutex::new(false),
            _dropped: dropped.drop_guard(),
        }))
    }

    /// Ends the application: cancels jobs, finishes commits, ends executors, removes what is left in the store. Every step
    /// runs within a bound of its own, whatever became of those before it. A second call waits for the first.
    ///
    /// `error` is why the application did not succeed, if so; observers hear it with the last record.
    ///
    /// # Cancellation
    /// Another call starts over; steps that are done have no effect.
    pub async fn stop(&self, error: Option<String>) {
        let mut stopped = self.stopping.lock().await;
        if std::mem::replace(&mut *stopped, true) {
            return;
        }
        self.requests.close(JobError::Ended { why: "it was stopped".to_owned() });
        self.ending.cancel();
        let why = "the application has ended".to_owned();
        within("cancel jobs", LOOP_WITHIN, self.mailbox.send(Message::CancelAll { why })).await;
        self.writes.close();
        within("finish commits", COMMITS_WITHIN, self.writes.wait()).await;
        let (answer, remains) = oneshot::channel();
        let end = async {
            let _ = self.mailbox.send(Message::Stop { error, answer }).await;
            remains.await.ok()
        };
        let remains = within("end the event loop", LOOP_WITHIN, end).await.flatten();
        let ended = within("end executors", EXECUTORS_WITHIN, self.backend.stop()).await;
        self.stopped.cancel();
        self.tasks.close();
        within("end the driver's tasks", TASKS_WITHIN, self.tasks.wait()).await;
        within("clean up", CLEANUP_WITHIN, self.clean_up(remains, ended.is_some())).await;
    }

    async fn clean_up(&self, remains: Option<Remains>, executors_ended: bool) {
        let lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (keys, lost) = remains.map_or((Vec::new(), true), |remains| (remains.keys, remains.unnamed));
        let Some(lease) = lease else {
            self.cleaner.rest(keys).await;
            return;
        };
        self.cleaner.rest(Vec::new()).await;
        let Ok(lease) = lease.await else { return }; // never claimed: nothing was written
        let known = keys.iter().map(|key| under(&self.root, key)).collect();
        let leftovers = match (executors_ended, lost) {
            (false, _) => Leftovers::StillGrowing,
            (true, true) => Leftovers::Unknown,
            (true, false) => Leftovers::Known,
        };
        give_back(lease, known, leftovers).await;
    }
}

/// One step of the end. It may fail or take too long; the next one is taken all the same.
async fn within<T>(step: &'static str, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let done = timeout(limit, std::panic::AssertUnwindSafe(work).catch_unwind()).await;
    match done {
        Ok(Ok(value)) => return Some(value),
        Ok(Err(_panic)) => tracing::error!(step, "a step of the application's end panicked"),
        Err(_elapsed) => {
            tracing::warn!(step, seconds = limit.as_secs(), "a step of the application's end takes too long")
        }
    }
    None
}

impl Driver {
    /// Looks at a destination.
    fn look<T: Send + 'static>(
        &self,
        name: String,
        look: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, JobError>> {
        // Requests want the threads that make them.
        let looked = self.fetcher.io.spawn(look);
        async move {
            let ended = |_| JobError::Ended { why: "its driver could not go on".to_owned() };
            let failed = |failure| JobError::Failed { name, failure: Box::new(failure), earlier: Vec::new() };
            looked.await.map_err(ended)?.map_err(failed)
        }
        .boxed()
    }

    fn ask(&self, request: Request) {
        // A driver that has stopped has let go of everything.
        let _ = self.requests.put(request);
    }
}

impl JobRunner for Driver {
    fn app(&self) -> AppId {
        self.app
    }

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn ids(&self) -> &IdSource {
        &self.ids
    }

    fn parallelism(&self) -> u32 {
        self.parallelism
    }

    fn run(&self, job: Job) -> JobStream {
        Box::pin(Results::new(job, None, self.fetcher.clone()))
    }

    fn stream(&self, job: Job) -> ResultStream {
        Box::pin(Streamed::new(job, self.fetcher.clone()))
    }

    fn would_write(&self, target: &WriteTarget) -> BoxFuture<'static, Result<bool, JobError>> {
        let (url, mode) = (target.destination.clone(), target.mode);
        let name = format!("write {url}");
        self.look(name, async move { Ok(commit::would_write(&destination(&url)?, mode).await?) })
    }

    fn settled(&self, folder: &str) -> BoxFuture<'static, Result<u64, JobError>> {
        let url = folder.to_owned();
        let name = format!("read {url}");
        self.look(name, async move { Ok(commit::settled(&destination(&url)?, &commit::Timing::default()).await?) })
    }

    fn write(&self, job: Job, target: WriteTarget) -> JobStream {
        let (accumulated, updates) = mpsc::channel(UPDATES);
        let write = Write {
            job,
            target,
            accumulated,
            fetcher: self.fetcher.clone(),
            root: self.root.clone(),
            mailbox: self.mailbox.clone(),
            claimed: self.claimed.clone(),
        };
        let (writes, io, given_up) = (self.writes.clone(), self.fetcher.io.clone(), self.ending.child_token());
        let begin = async move {
            if writes.is_closed() {
                let ended = JobError::Ended { why: "it was stopped".to_owned() };
                return stream::once(future::ready(Err(ended))).left_stream();
            }
            let dropped = given_up.clone().drop_guard();
            let writing = writes.spawn_on(write.run(given_up), &io);
            let end = async move {
                // Held until the end is heard: who drops the stream before gives the write up.
                let _dropped = dropped;
                let ended = |_| Err(JobError::Ended { why: "its driver could not go on".to_owned() });
                writing.await.unwrap_or_else(ended).map(JobItem::Written)
            };
            let updates = ReceiverStream::new(updates).map(|updates| Ok(JobItem::Accumulated(updates)));
            updates.chain(stream::once(end)).right_stream()
        };
        Box::pin(stream::once(begin).flatten())
    }

    fn release_shuffle(&self, shuffle: ShuffleId) {
        self.ask(Request::ReleaseShuffle(shuffle));
    }

    fn unpersist(&self, rdd: RddId) {
        self.ask(Request::Unpersist(rdd));
    }

    fn forget_broadcast(&self, broadcast: BroadcastId) {
        self.ask(Request::ForgetBroadcast(broadcast));
    }

    fn cancel(&self, group: Option<&str>, why: &str) {
        self.ask(Request::CancelGroup { group: group.map(str::to_owned), why: why.to_owned() });
    }

    fn warn(&self, text: &str) {
        self.ask(Request::Warn(text.to_owned()));
    }
}
