//! What may the driver ask, and what does it hear?
//!
//! One actor holds every attempt from its launch until the driver has acknowledged its status. It does not care whether
//! the driver is in the same process or behind gRPC, and it outlives connections: a driver that comes back hears what is
//! held, then everything that it has not acknowledged.

use std::collections::{HashMap, HashSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use model::failure::{LossCause, ObjectRef};
use model::messages::{
    ExecutorHeartbeat, FromExecutor, Hello, HelloReply, LaunchTask, Payload, StageBody, TaskOutcome, TaskStatus,
    TaskSuccess, ToExecutor,
};
use model::setting::Values;
use model::shuffle::ReadPlan;
use model::{AppId, AttemptId, Epoch, ExecutorId, Failure, FailureKind, StageAttempt, StageId, keys};
use object_store::path::Path;
use object_store::{ObjectStore, PutPayload};
use proto::version;
use shuffle::{Announced, Budget, ShuffleRuntime};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::blocks::{Blocks, Remote};
use crate::compute_pool::ComputePool;
use crate::lifetime::{Due, End, Lifetime};
use crate::memory::{Pool, working_bytes};
use crate::metrics::{self, Totals};
use crate::slots::Report;
use crate::spill::SpillDir;
use crate::store;
use crate::task::{BodyRunner, Computed, ReadyTask, Stage, Surroundings, TaskProduct};

/// Messages from the driver that may wait here; beyond them the driver waits.
pub(crate) const INCOMING: usize = 256;

/// Messages to the driver that may wait for it; beyond them statuses gather here and travel together.
pub(crate) const OUTGOING: usize = 64;

/// Connections that may wait to be greeted.
pub(crate) const CONNECTIONS: usize = 4;

/// Whoever connects and says nothing is left after so long.
const HELLO_WITHIN: Duration = Duration::from_secs(10);

/// Statuses in one message, so that none of a burst waits for all of it.
const STATUSES_PER_MESSAGE: usize = 4_096;

/// Attempts held at a time, ended ones included until they are acknowledged. A driver has a few per slot.
const HELD_MAX: usize = 1 << 20;

/// A result of more bytes goes to the store (ARCHITECTURE.md, "Driver and executor on the wire").
const RESULT_INLINE_MAX: usize = 1 << 20;

/// Bodies and inputs that are fetched from the store at a time.
const FETCHES: usize = 16;

/// One stream with a driver.
pub(crate) struct Connection {
    pub(crate) incoming: mpsc::Receiver<ToExecutor>,
    pub(crate) outgoing: mpsc::Sender<FromExecutor>,
}

/// Who this executor is.
#[derive(Debug, Clone)]
pub(crate) struct Me {
    pub(crate) app: AppId,
    pub(crate) epoch: Epoch,
    pub(crate) executor: ExecutorId,
    pub(crate) program: String,
    pub(crate) disk: PathBuf,
}

/// What this executor has to work with.
#[derive(Clone)]
pub(crate) struct Means {
    pub(crate) slots: u32,
    pub(crate) memory: u64,
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) root: Path,
    pub(crate) settings: Values,
}

/// What somebody else than the driver asks of an executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// The system wants the machine back.
    Drain(Duration),
    /// The parent is gone.
    ParentGone,
}

/// The actor.
pub(crate) struct Service {
    me: Me,
    /// Known from the start in the driver's process; otherwise the first hello brings them.
    means: Option<Means>,
    runner: Arc<dyn BodyRunner>,
    io: Handle,
    connections: mpsc::Receiver<Connection>,
    orders: mpsc::Receiver<Order>,
    link: Option<Link>,
    /// Made at the first hello. What hindered it is what every task fails with.
    compute: Option<Result<ComputePool, Failure>>,
    stages: HashMap<(StageId, StageAttempt), HeldStage>,
    attempts: HashMap<AttemptId, Attempt>,
    /// Ended and not acknowledged, in the order of their numbers, without gaps.
    ended: VecDeque<TaskStatus>,
    last_number: u64,
    results: u32,
    work: JoinSet<Done>,
    fetches: Arc<Semaphore>,
    life: Lifetime,
    totals: Totals,
}

/// What was said on the stream to the driver, and what is still to be said.
struct Link {
    connection: Connection,
    announced: Announced,
    started: Vec<AttemptId>,
    handed_over: Vec<AttemptId>,
    /// Statuses up to this number were said on this stream.
    said: u64,
    heartbeat_due: bool,
    drained_due: bool,
}

struct HeldStage {
    stage: Arc<Stage>,
    payload: Payload,
    body: Body,
    waiting: Vec<Pending>,
}

enum Body {
    Here(Bytes),
    Coming,
    /// The last try to fetch it failed; the next task tries again.
    Away,
}

/// A task that still lacks something.
struct Pending {
    attempt: AttemptId,
    input: Bytes,
    reads: Vec<ReadPlan>,
    stage_has_pending: bool,
}

struct Attempt {
    cancel: CancellationToken,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Its input, its body or a slot is missing.
    Waiting,
    /// On a compute thread.
    Running,
    /// Computed; its rows are on their way to the store.
    Storing {
        /// The driver knows that the slot is free.
        handed_over: bool,
    },
}

/// I/O that has ended.
enum Done {
    Greeted(Connection, Option<Box<Hello>>),
    Body(StageId, StageAttempt, Result<Bytes, Failure>),
    Input(Box<Pending>, Result<Bytes, Failure>),
    Settled(AttemptId, Result<Box<TaskSuccess>, Failure>),
}

enum Event {
    Ordered(Order),
    Heard(Option<ToExecutor>),
    News,
    Done(Done),
    MaySpeak,
    Connected(Option<Connection>),
    DeadlinePassed,
}

impl Service {
    pub(crate) fn new(
        me: Me,
        means: Option<Means>,
        runner: Arc<dyn BodyRunner>,
        io: Handle,
        connections: mpsc::Receiver<Connection>,
        orders: mpsc::Receiver<Order>,
        lost_after: Option<Duration>,
    ) -> Self {
        Self {
            me,
            means,
            runner,
            io,
            connections,
            orders,
            link: None,
            compute: None,
            stages: HashMap::new(),
            attempts: HashMap::new(),
            ended: VecDeque::new(),
            last_number: 0,
            results: 0,
            work: JoinSet::new(),
            fetches: Arc::new(Semaphore::new(FETCHES)),
            life: Lifetime::new(Instant::now(), lost_after),
            totals: Totals::default(),
        }
    }

    /// Serves until it ends. What still runs then is cancelled; its threads are not waited for.
    pub(crate) async fn run(mut self) -> End {
        let end = loop {
            if self.life.is_draining() && self.attempts.is_empty() {
                self.life.idle(Instant::now());
                if let (true, Some(link)) = (self.ended.is_empty(), &mut self.link) {
                    link.drained_due = true;
                    self.speak();
                    if self.link.as_ref().is_none_or(|link| !link.drained_due) {
                        break End::Drained;
                    }
                }
            }
            self.speak();
            let event = self.next_event().await;
            if let Some(end) = self.handle(event) {
                break end;
            }
            // In the driver's process nobody can dial again: a driver that is gone, or was refused, stays so.
            if self.link.is_none()
                && self.connections.is_closed()
                && self.connections.is_empty()
                && self.work.is_empty()
            {
                break End::Closed;
            }
        };
        self.attempts.values().for_each(|attempt| attempt.cancel.cancel());
        tracing::debug!(?end, totals = ?self.totals, "executor ends");
        end
    }

    async fn next_event(&mut self) -> Event {
        let deadline = self.life.next_deadline();
        let wants_to_speak = self.wants_to_speak();
        let slots =
            self.compute.as_ref().and_then(|compute| compute.as_ref().ok()).map(|compute| compute.slots().clone());
        let (incoming, outgoing) = match &mut self.link {
            Some(link) => (Some(&mut link.connection.incoming), Some(&link.connection.outgoing)),
            None => (None, None),
        };
        tokio::select! {
            biased;
            Some(order) = self.orders.recv() => Event::Ordered(order),
            // What was received goes before deadlines: whoever slept must first hear what was said meanwhile.
            message = async { match incoming { Some(incoming) => incoming.recv().await, None => never().await } } =>
                Event::Heard(message),
            () = async { match &slots { Some(slots) => slots.news().await, None => never().await } } => Event::News,
            Some(done) = self.work.join_next() => match done {
                Ok(done) => Event::Done(done),
                // Only code outside of `contained` is left to panic, and that would be this file's.
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            },
            _ = async { match outgoing { Some(outgoing) => drop(outgoing.reserve().await), None => never().await } },
                if wants_to_speak => Event::MaySpeak,
            connection = self.connections.recv(), if !self.connections.is_closed() || !self.connections.is_empty() =>
                Event::Connected(connection),
            () = sleep_until(deadline) => Event::DeadlinePassed,
        }
    }

    fn handle(&mut self, event: Event) -> Option<End> {
        match event {
            Event::Ordered(Order::ParentGone) => return Some(End::ParentGone),
            Event::Ordered(Order::Drain(grace)) => self.drain(grace),
            Event::Heard(None) => {
                if self.connections.is_closed() {
                    return Some(End::Closed);
                }
                tracing::info!("the driver's stream has ended");
                self.link = None;
            }
            Event::Heard(Some(message)) => self.hear_all(message),
            Event::News => self.take_reports(),
            Event::Done(done) => self.done(done),
            Event::MaySpeak | Event::Connected(None) => {}
            Event::Connected(Some(connection)) => self.greet(connection),
            Event::DeadlinePassed => return self.expire(),
        }
        None
    }

    fn expire(&mut self) -> Option<End> {
        match self.life.due(Instant::now())? {
            Due::NoDriver => {
                tracing::error!("no word of the driver for too long: the executor ends itself");
                return Some(End::NoDriver);
            }
            Due::DrainOver => {
                tracing::warn!(unheard = self.ended.len(), "drained, but nobody acknowledges the last statuses");
                if let Some(link) = &mut self.link {
                    link.drained_due = true;
                }
                self.speak();
                return Some(End::Drained);
            }
            Due::GraceOver => {
                let left: Vec<_> = self.attempts.keys().copied().collect();
                for attempt in left {
                    self.attempts[&attempt].cancel.cancel();
                    self.end(attempt, Err(given_back("stopped: the grace of the executor's drain is over")));
                }
            }
            Due::Heartbeat => {
                if let Some(link) = &mut self.link {
                    link.heartbeat_due = true;
                }
            }
        }
        None
    }

    // --- What is heard ---

    /// A message and all that have come with it: their statuses travel together.
    fn hear_all(&mut self, first: ToExecutor) {
        self.life.heard(Instant::now());
        self.hear(first);
        for _ in 0..INCOMING {
            let Some(Ok(message)) = self.link.as_mut().map(|link| link.connection.incoming.try_recv()) else { break };
            self.hear(message);
        }
    }

    fn hear(&mut self, message: ToExecutor) {
        match message {
            ToExecutor::Hello(_) => tracing::warn!("a second hello on one stream: ignored"),
            ToExecutor::Body(body) => self.hold_stage(*body),
            ToExecutor::Launch(tasks) => self.launch(tasks),
            ToExecutor::Cancel(attempts) => self.cancel(attempts),
            ToExecutor::ForgetStage(stage, attempt) => self.forget_stage(stage, attempt),
            ToExecutor::NoMoreMaps(shuffle, generation) => {
                if let Some(Ok(compute)) = &self.compute {
                    compute.around().shuffle.no_more_maps(shuffle, generation);
                }
            }
            ToExecutor::Acknowledge(number) => {
                while self.ended.front().is_some_and(|status| status.number <= number) {
                    self.ended.pop_front();
                }
            }
            ToExecutor::Unpersist(rdd) => {
                if let Some(Ok(compute)) = &self.compute {
                    // On a compute thread: files may have to be removed.
                    let blocks = compute.around().blocks.clone();
                    compute.do_there(move || blocks.remove(rdd));
                }
            }
            ToExecutor::ForgetBroadcast(broadcast) => self.runner.forget_broadcast(broadcast),
            ToExecutor::Heartbeat => {}
            ToExecutor::Drain { grace } => self.drain(grace),
        }
    }

    /// Waits for a hello, apart from the connection in use: a stranger must not end that.
    fn greet(&mut self, mut connection: Connection) {
        self.work.spawn_on(
            async move {
                let first = timeout(HELLO_WITHIN, connection.incoming.recv()).await;
                match first {
                    Ok(Some(ToExecutor::Hello(hello))) => Done::Greeted(connection, Some(hello)),
                    Ok(_) | Err(_) => Done::Greeted(connection, None),
                }
            },
            &self.io,
        );
    }

    fn greeted(&mut self, connection: Connection, hello: Option<Box<Hello>>) {
        let Some(hello) = hello else {
            tracing::warn!("somebody connected and did not say hello: left");
            return;
        };
        let reply = HelloReply {
            protocol: version::PROTOCOL,
            app: self.me.app,
            epoch: self.me.epoch,
            executor: self.me.executor,
            program: self.me.program.clone(),
            holding: self.attempts.keys().copied().chain(self.ended.iter().map(|status| status.attempt)).collect(),
        };
        let compared = version::compare(&hello, &reply);
        // The first message of an empty channel: there is room unless the other end has gone.
        if connection.outgoing.try_send(FromExecutor::Hello(Box::new(reply))).is_err() {
            return;
        }
        if let Err(mismatch) = compared {
            tracing::error!(%mismatch, "refuse a driver");
            return;
        }
        self.life.heard(Instant::now());
        if self.compute.is_none() {
            let compute = self.set_up(&hello);
            if let Err(failure) = &compute {
                tracing::error!(%failure, "set up: every task will fail with this");
            }
            self.compute = Some(compute);
        }
        let begun = |state: State| self.attempts.iter().filter(move |(_, a)| a.state == state).map(|(id, _)| *id);
        let handed_over: Vec<_> = begun(State::Storing { handed_over: true }).collect();
        let mut started: Vec<_> = begun(State::Running).chain(begun(State::Storing { handed_over: false })).collect();
        started.extend(&handed_over);
        self.link = Some(Link {
            connection,
            announced: Announced::default(),
            started,
            handed_over,
            said: self.ended.front().map_or(self.last_number, |status| status.number - 1),
            heartbeat_due: true,
            drained_due: false,
        });
    }

    /// Makes what the first hello decides: memory, threads, the store.
    fn set_up(&self, hello: &Hello) -> Result<ComputePool, Failure> {
        let means = match &self.means {
            Some(means) => means.clone(),
            None => {
                let (store, root) = shuffle::store::open(&hello.store).map_err(shuffle::Error::into_failure)?;
                let settings = hello.settings.clone();
                Means { slots: hello.slots, memory: hello.memory, store, root, settings }
            }
        };
        let wrong = |error| Failure::from_error(FailureKind::Query, &error);
        let budget = Budget::from_settings(means.memory, means.slots, &means.settings).map_err(wrong)?;
        let Me { app, epoch, executor, .. } = self.me;
        let pool = Pool::new(working_bytes(means.memory), means.slots);
        let spill = SpillDir::new(self.me.disk.clone());
        let remote = Remote { app, epoch, store: means.store.clone(), root: means.root.clone(), io: self.io.clone() };
        let around = Surroundings {
            app,
            epoch,
            executor,
            shuffle: ShuffleRuntime::new(means.store.clone(), means.root.clone(), executor, budget, self.io.clone()),
            store: means.store,
            root: means.root,
            io: self.io.clone(),
            blocks: Blocks::new(pool.clone(), spill.clone(), remote),
            pool,
            spill: spill.clone(),
            settings: Arc::new(means.settings),
            runner: self.runner.clone(),
        };
        let compute = ComputePool::start(means.slots.max(1), around)
            .map_err(|error| Failure::from_error(FailureKind::Internal, &error))?;
        compute.do_there(move || spill.sweep());
        Ok(compute)
    }

    fn hold_stage(&mut self, body: StageBody) {
        let StageBody { stage, stage_attempt, name, kind, body: payload, writes, reads } = body;
        if self.stages.contains_key(&(stage, stage_attempt)) {
            return; // Sent again after a reconnect.
        }
        let stage_of_tasks = Stage::new(name, kind, writes.map(Arc::new), reads.into_iter().map(Arc::new).collect());
        let here = match &payload {
            Payload::Inline(bytes) => Body::Here(bytes.clone()),
            Payload::Stored { .. } => Body::Away,
        };
        let held = HeldStage { stage: Arc::new(stage_of_tasks), payload, body: here, waiting: Vec::new() };
        self.stages.insert((stage, stage_attempt), held);
        self.fetch_body(stage, stage_attempt);
    }

    fn fetch_body(&mut self, stage: StageId, stage_attempt: StageAttempt) {
        let Some(Ok(compute)) = &self.compute else { return };
        let Some(held) = self.stages.get_mut(&(stage, stage_attempt)) else { return };
        let Body::Away = held.body else { return };
        held.body = Body::Coming;
        let (around, permits) = (compute.around(), self.fetches.clone());
        let (store, root, payload) = (around.store.clone(), around.root.clone(), held.payload.clone());
        let what = format!("the body of `{}`", held.stage.name);
        self.work.spawn_on(
            async move {
                let fetch = async {
                    let _permit = permits.acquire().await;
                    store::fetch(&*store, &root, &what, &payload).await
                };
                Done::Body(stage, stage_attempt, contained(fetch).await)
            },
            &self.io,
        );
    }

    fn launch(&mut self, tasks: Vec<LaunchTask>) {
        let mut ready = Vec::with_capacity(tasks.len());
        for task in tasks {
            let attempt = task.attempt;
            if self.attempts.contains_key(&attempt) {
                continue; // Nothing runs twice.
            }
            let full = self.attempts.len() + self.ended.len() >= HELD_MAX;
            let state = State::Waiting;
            let cancel = CancellationToken::new();
            self.attempts.insert(attempt, Attempt { cancel: cancel.clone(), state });
            if full {
                self.end(attempt, Err(Failure::new(FailureKind::Internal, "launch a task: too many are held")));
                continue;
            }
            if self.life.is_draining() {
                self.end(attempt, Err(given_back("not begun: the executor drains")));
                continue;
            }
            let around = match &self.compute {
                Some(Ok(compute)) => compute.around(),
                Some(Err(failure)) => {
                    let failure = failure.clone();
                    self.end(attempt, Err(failure));
                    continue;
                }
                None => continue, // No stream without a hello.
            };
            let mut pending =
                Pending { attempt, input: Bytes::new(), reads: task.reads, stage_has_pending: task.stage_has_pending };
            match task.input {
                Payload::Inline(input) => {
                    pending.input = input;
                    self.offer(pending, cancel, &mut ready);
                }
                stored @ Payload::Stored { .. } => {
                    let (store, root, permits) = (around.store.clone(), around.root.clone(), self.fetches.clone());
                    let what = format!("the input of partition {}", attempt.partition);
                    self.work.spawn_on(
                        async move {
                            let fetch = async {
                                let _permit = permits.acquire().await;
                                store::fetch(&*store, &root, &what, &stored).await
                            };
                            let input = cancel.run_until_cancelled(contained(fetch)).await;
                            Done::Input(Box::new(pending), input.unwrap_or_else(|| Err(cancelled())))
                        },
                        &self.io,
                    );
                }
            }
        }
        self.compute(ready);
    }

    /// Adds a task whose input is here to `ready`, or lets it wait for its body.
    fn offer(&mut self, pending: Pending, cancel: CancellationToken, ready: &mut Vec<ReadyTask>) {
        let attempt = pending.attempt;
        let Some(held) = self.stages.get_mut(&(attempt.stage, attempt.stage_attempt)) else {
            let failure = Failure::new(FailureKind::Internal, format!("run {attempt}: its stage was never sent"));
            return self.end(attempt, Err(failure));
        };
        if let Body::Here(body) = &held.body {
            ready.push(pending.ready(held.stage.clone(), body.clone(), cancel));
        } else {
            held.waiting.push(pending);
            self.fetch_body(attempt.stage, attempt.stage_attempt);
        }
    }

    fn compute(&self, ready: Vec<ReadyTask>) {
        if let Some(Ok(compute)) = &self.compute {
            compute.run(ready);
        }
    }

    fn cancel(&mut self, attempts: Vec<AttemptId>) {
        for attempt in attempts.iter().filter_map(|attempt| self.attempts.get(attempt)) {
            attempt.cancel.cancel();
        }
        let these: HashSet<_> = attempts.into_iter().collect();
        let mut withdrawn = match &self.compute {
            Some(Ok(compute)) => compute.slots().withdraw_these(&these),
            Some(Err(_)) | None => Vec::new(),
        };
        for held in self.stages.values_mut() {
            let waiting = held.waiting.extract_if(.., |pending| these.contains(&pending.attempt));
            withdrawn.extend(waiting.map(|pending| pending.attempt));
        }
        for attempt in withdrawn {
            self.end(attempt, Err(cancelled()));
        }
    }

    fn forget_stage(&mut self, stage: StageId, stage_attempt: StageAttempt) {
        let Some(held) = self.stages.remove(&(stage, stage_attempt)) else { return };
        for pending in held.waiting {
            self.end(pending.attempt, Err(cancelled()));
        }
        if let Some(Ok(compute)) = &self.compute {
            let stage = held.stage;
            compute.do_there(move || drop(stage));
        }
    }

    fn drain(&mut self, grace: Duration) {
        self.life.drain(Instant::now(), grace);
        let mut unbegun = match &self.compute {
            Some(Ok(compute)) => compute.slots().withdraw(|_| true),
            Some(Err(_)) | None => Vec::new(),
        };
        unbegun.extend(self.stages.values_mut().flat_map(|held| held.waiting.drain(..)).map(|pending| pending.attempt));
        // Fetches end by their tokens; what a thread has taken meanwhile runs on.
        for attempt in unbegun {
            self.end(attempt, Err(given_back("not begun: the executor drains")));
        }
    }

    // --- What happens here ---

    fn take_reports(&mut self) {
        let reports = match &self.compute {
            Some(Ok(compute)) => {
                let reports = compute.slots().reports();
                compute.run([]); // In case a thread could not take tasks.
                reports
            }
            Some(Err(_)) | None => return,
        };
        for report in reports {
            match report {
                Report::Began(attempt) => {
                    if let Some(held) = self.attempts.get_mut(&attempt) {
                        held.state = State::Running;
                        if let Some(link) = &mut self.link {
                            link.started.push(attempt);
                        }
                    }
                }
                Report::Ended(computed) => self.computed(computed),
            }
        }
    }

    fn computed(&mut self, computed: Computed) {
        let Computed { attempt, product, took } = computed;
        let product = match product {
            Ok(product) => product,
            Err(failure) => return self.end(attempt, Err(failure)),
        };
        let Some(held) = self.attempts.get_mut(&attempt) else { return };
        let large = product.result.as_ref().is_some_and(|result| result.len() > RESULT_INLINE_MAX);
        if product.written.is_none() && !large {
            let mut success = Box::new(product.into_success());
            metrics::complete(&mut success, took);
            return self.end(attempt, Ok(success));
        }
        let Some(Ok(compute)) = &self.compute else { return };
        let handed_over = product.written.is_some();
        let around = compute.around();
        self.results += u32::from(large);
        let object = ObjectRef { executor: self.me.executor, seq: self.results };
        let key = keys::result(self.me.app, self.me.epoch, attempt.job, attempt.partition, object);
        let (store, path) = (around.store.clone(), store::key(&around.root, &key));
        let cancel = held.cancel.clone();
        let mut settling = Box::pin(async move {
            let settled = contained(settle(*product, key, &*store, path, took));
            Done::Settled(attempt, cancel.run_until_cancelled(settled).await.unwrap_or_else(|| Err(cancelled())))
        });
        // Most small outputs are in their own messages, and so stored at once.
        if let Some(done) = (&mut settling).now_or_never() {
            return self.done(done);
        }
        held.state = State::Storing { handed_over };
        if let (true, Some(link)) = (handed_over, &mut self.link) {
            link.handed_over.push(attempt);
        }
        self.work.spawn_on(settling, &self.io);
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Greeted(connection, hello) => self.greeted(connection, hello),
            Done::Body(stage, stage_attempt, body) => self.body_came(stage, stage_attempt, body),
            Done::Input(pending, input) => self.input_came(*pending, input),
            Done::Settled(attempt, outcome) => self.end(attempt, outcome),
        }
    }

    fn body_came(&mut self, stage: StageId, stage_attempt: StageAttempt, body: Result<Bytes, Failure>) {
        let Some(held) = self.stages.get_mut(&(stage, stage_attempt)) else { return };
        let waiting = std::mem::take(&mut held.waiting);
        match body {
            Ok(body) => {
                held.body = Body::Here(body);
                let mut ready = Vec::with_capacity(waiting.len());
                for pending in waiting {
                    if let Some(cancel) = self.attempts.get(&pending.attempt).map(|held| held.cancel.clone()) {
                        self.offer(pending, cancel, &mut ready);
                    }
                }
                self.compute(ready);
            }
            Err(failure) => {
                held.body = Body::Away;
                for pending in waiting {
                    self.end(pending.attempt, Err(failure.clone()));
                }
            }
        }
    }

    fn input_came(&mut self, mut pending: Pending, input: Result<Bytes, Failure>) {
        let attempt = pending.attempt;
        let Some(cancel) = self.attempts.get(&attempt).map(|held| held.cancel.clone()) else { return };
        match input {
            Ok(_) if self.life.is_draining() => self.end(attempt, Err(given_back("not begun: the executor drains"))),
            Ok(input) => {
                pending.input = input;
                let mut ready = Vec::with_capacity(1);
                self.offer(pending, cancel, &mut ready);
                self.compute(ready);
            }
            Err(failure) => self.end(attempt, Err(failure)),
        }
    }

    /// The end of an attempt, whatever came before. An attempt ends once.
    fn end(&mut self, attempt: AttemptId, outcome: Result<Box<TaskSuccess>, Failure>) {
        let Some(held) = self.attempts.remove(&attempt) else { return };
        let outcome = match outcome {
            Ok(success) => TaskOutcome::Succeeded(success),
            Err(failure) => {
                // What a cancelled attempt fails with is a consequence. What was given back keeps its own reason.
                let consequence = held.cancel.is_cancelled() && failure.kind != FailureKind::Lost(LossCause::Released);
                let failure = if consequence { cancelled() } else { failure };
                TaskOutcome::Failed(Box::new(failure.during(attempt, self.me.executor)))
            }
        };
        self.totals.count(&outcome);
        self.last_number += 1;
        self.ended.push_back(TaskStatus { number: self.last_number, attempt, outcome });
    }

    // --- What is said ---

    fn wants_to_speak(&self) -> bool {
        self.link.as_ref().is_some_and(|link| {
            link.said < self.last_number
                || link.heartbeat_due
                || link.drained_due
                || !link.started.is_empty()
                || !link.handed_over.is_empty()
        })
    }

    /// Says what is to be said, as long as there is room.
    fn speak(&mut self) {
        while self.wants_to_speak() {
            let Some(link) = &self.link else { return };
            let outgoing = link.connection.outgoing.clone();
            match outgoing.try_reserve() {
                Ok(room) => {
                    if let Some(message) = self.next_message() {
                        room.send(message);
                    }
                }
                Err(mpsc::error::TrySendError::Full(())) => return,
                Err(mpsc::error::TrySendError::Closed(())) => return self.lose_link(),
            }
        }
    }

    /// Nobody listens any more. What was said may be lost and is said again on the next stream.
    fn lose_link(&mut self) {
        // In the driver's process the other channel closes too, and that ends the executor.
        if let Some(link) = &mut self.link {
            if self.connections.is_closed() {
                link.said = self.last_number;
                link.started.clear();
                link.handed_over.clear();
                link.heartbeat_due = false;
                link.drained_due = false;
            } else {
                self.link = None;
            }
        }
    }

    fn next_message(&mut self) -> Option<FromExecutor> {
        let heartbeat = self.link.as_ref().is_some_and(|link| link.heartbeat_due).then(|| self.heartbeat());
        let link = self.link.as_mut()?;
        // Who has ended already need not be said to have begun.
        let attempts = &self.attempts;
        link.started.retain(|attempt| attempts.contains_key(attempt));
        link.handed_over.retain(|attempt| attempts.contains_key(attempt));
        if !link.started.is_empty() {
            return Some(FromExecutor::Started(std::mem::take(&mut link.started)));
        }
        if !link.handed_over.is_empty() {
            return Some(FromExecutor::HandedOver(std::mem::take(&mut link.handed_over)));
        }
        if link.said < self.last_number {
            let first = self.ended.front().map_or(self.last_number, |status| status.number);
            let skip = usize::try_from((link.said + 1).saturating_sub(first)).unwrap_or(usize::MAX);
            let statuses: Vec<_> = self.ended.iter().skip(skip).take(STATUSES_PER_MESSAGE).cloned().collect();
            link.said = statuses.last().map_or(self.last_number, |status| status.number);
            let statuses: Vec<_> = statuses.into_iter().map(|status| announce(&mut link.announced, status)).collect();
            return (!statuses.is_empty()).then_some(FromExecutor::Status(statuses));
        }
        if let Some(heartbeat) = heartbeat {
            link.heartbeat_due = false;
            return Some(FromExecutor::Heartbeat(heartbeat));
        }
        std::mem::take(&mut link.drained_due).then_some(FromExecutor::Drained)
    }

    fn heartbeat(&self) -> ExecutorHeartbeat {
        let running = self.attempts.values().filter(|attempt| attempt.state != State::Waiting).count();
        let running = u32::try_from(running).unwrap_or(u32::MAX);
        match &self.compute {
            Some(Ok(compute)) => {
                let around = compute.around();
                ExecutorHeartbeat {
                    open_objects: around.shuffle.open_objects(),
                    memory_used: around.pool.used() + around.shuffle.memory_used(),
                    running,
                }
            }
            Some(Err(_)) | None => ExecutorHeartbeat { running, ..ExecutorHeartbeat::default() },
        }
    }
}

impl Pending {
    fn ready(self, stage: Arc<Stage>, body: Bytes, cancel: CancellationToken) -> ReadyTask {
        let Self { attempt, input, reads, stage_has_pending } = self;
        ReadyTask { attempt, stage, body, input, reads, stage_has_pending, cancel }
    }
}

impl TaskProduct {
    fn into_success(self) -> TaskSuccess {
        TaskSuccess {
            result: self.result.map(Payload::Inline),
            map_output: None,
            staged: self.staged,
            reads: self.reads,
            accumulators: self.accumulators,
            cached: self.cached,
            warnings: self.warnings,
            metrics: self.metrics,
        }
    }
}

/// Waits until every row of a product is in the store or in the status.
async fn settle(
    mut product: TaskProduct,
    key: String,
    store: &dyn ObjectStore,
    path: Path,
    took: Duration,
) -> Result<Box<TaskSuccess>, Failure> {
    let written = product.written.take();
    let result = product.result.take();
    let mut success = Box::new(product.into_success());
    if let Some(written) = written {
        success.map_output = Some(written.stored().await.map_err(shuffle::Error::into_failure)?);
    }
    success.result = match result {
        Some(result) if result.len() > RESULT_INLINE_MAX => {
            let (length, crc) = (result.len() as u64, crc32c::crc32c(&result));
            let put = store::put(store, &path, PutPayload::from_bytes(result)).await;
            put.map_err(|error| store::failure("store a result", &error))?;
            Some(Payload::Stored { key, length, crc })
        }
        small_or_none => small_or_none.map(Payload::Inline),
    };
    metrics::complete(&mut success, took);
    Ok(success)
}

/// A status as it is said on a stream: objects that the stream has named already are not named again.
fn announce(announced: &mut Announced, mut status: TaskStatus) -> TaskStatus {
    if let TaskOutcome::Succeeded(success) = &mut status.outcome {
        success.map_output = success.map_output.take().map(|output| announced.strip(output));
    }
    status
}

/// I/O of an attempt; a panic in it fails that attempt, not the executor.
async fn contained<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let ended = AssertUnwindSafe(work).catch_unwind().await;
    ended.unwrap_or_else(|_| Err(Failure::new(FailureKind::Internal, "do a task's I/O: panicked")))
}

fn cancelled() -> Failure {
    Failure::new(FailureKind::Cancelled, "cancelled")
}

fn given_back(why: &str) -> Failure {
    Failure::new(FailureKind::Lost(LossCause::Released), why)
}

async fn never<T>() -> T {
    std::future::pending().await
}
