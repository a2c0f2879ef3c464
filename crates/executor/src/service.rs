//! What may the driver ask?
//!
//! One actor holds every attempt from its launch until the driver has acknowledged its status. It does not care whether
//! the driver is in the same process or behind gRPC, and it outlives connections: a driver that comes back hears what is
//! held, then everything that it has not acknowledged.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use model::failure::{LossCause, ObjectRef};
use model::messages::{
    ExecutorHeartbeat, FromExecutor, Hello, HelloReply, LaunchTask, Payload, StageBody, TaskOutcome, TaskSuccess,
    ToExecutor,
};
use model::setting::Setting;
use model::shuffle::ReadPlan;
use model::{AttemptId, Failure, FailureKind, StageAttempt, StageId, keys};
use object_store::path::Path;
use object_store::{ObjectStore, PutPayload};
use proto::version;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::compute_pool::ComputePool;
use crate::config;
use crate::lifetime::{Due, End, Lifetime};
use crate::metrics::{self, Totals};
use crate::outbox::{Connection, INCOMING, Outbox};
use crate::slots::Report;
use crate::store;
use crate::surroundings::{Me, Means, set_up};
use crate::task::{BodyRunner, Computed, ReadyTask, Stage, TaskProduct};

/// Connections that may wait to be greeted.
pub(crate) const CONNECTIONS: usize = 4;

/// Whoever connects and says nothing is left after so long.
const HELLO_WITHIN: Duration = Duration::from_secs(10);

/// Attempts held at a time, ended ones included until they are acknowledged. A driver has a few per slot.
const HELD_MAX: usize = 1 << 20;

/// A result of more bytes goes to the store (ARCHITECTURE.md, "Driver and executor on the wire").
const RESULT_INLINE_MAX: usize = 1 << 20;

/// Bodies and inputs that are fetched from the store at a time.
const FETCHES: usize = 16;

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
    outbox: Outbox,
    /// Made at the first hello. What hindered it is what every task fails with.
    compute: Option<Result<ComputePool, Failure>>,
    stages: HashMap<(StageId, StageAttempt), HeldStage>,
    attempts: HashMap<AttemptId, Attempt>,
    results: u32,
    work: JoinSet<Done>,
    fetches: Arc<Semaphore>,
    life: Lifetime,
    /// How long tasks may run on when the system tells it to end, once the driver has said so.
    grace: Option<Duration>,
    /// As what it ends once it has drained.
    drained: End,
    totals: Totals,
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
            outbox: Outbox::default(),
            compute: None,
            stages: HashMap::new(),
            attempts: HashMap::new(),
            results: 0,
            work: JoinSet::new(),
            fetches: Arc::new(Semaphore::new(FETCHES)),
            life: Lifetime::new(Instant::now(), lost_after),
            grace: None,
            drained: End::Terminated,
            totals: Totals::default(),
        }
    }

    /// Serves until it ends. What still runs then is cancelled; its threads are not waited for.
    pub(crate) async fn run(mut self) -> End {
        let end = loop {
            let drained = self.is_drained();
            if drained {
                self.outbox.drained();
            }
            self.speak();
            if drained && !self.outbox.wants_to_speak() {
                break self.drained;
            }
            let event = self.next_event().await;
            if let Some(end) = self.handle(event) {
                break end;
            }
            // In the driver's process nobody can dial again: a driver that is gone, or was refused, stays so.
            let forsaken = self.connections.is_closed() && self.connections.is_empty();
            if forsaken && !self.outbox.is_attached() && self.work.is_empty() {
                break End::Closed;
            }
        };
        self.attempts.values().for_each(|attempt| attempt.cancel.cancel());
        if let Some(Ok(compute)) = &self.compute {
            compute.around().spill.end();
        }
        tracing::debug!(?end, totals = ?self.totals, "executor ends");
        end
    }

    /// Whether it was told to drain and all is done and heard.
    fn is_drained(&mut self) -> bool {
        if !self.life.is_draining() || !self.attempts.is_empty() {
            return false;
        }
        self.life.idle(Instant::now());
        self.outbox.unheard().len() == 0
    }

    fn speak(&mut self) {
        let attempts = &self.attempts;
        self.outbox.speak(|attempt| attempts.contains_key(&attempt));
    }

    async fn next_event(&mut self) -> Event {
        let deadline = self.life.next_deadline();
        let wants_to_speak = self.outbox.wants_to_speak();
        let slots =
            self.compute.as_ref().and_then(|compute| compute.as_ref().ok()).map(|compute| compute.slots().clone());
        let (incoming, outgoing) = self.outbox.ends().unzip();
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
            Event::Ordered(Order::Drain(grace)) => self.drain(self.grace.unwrap_or(grace)),
            Event::Heard(None) => {
                if self.connections.is_closed() {
                    return Some(End::Closed);
                }
                tracing::info!("the driver's stream has ended");
                self.outbox.detach();
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
                tracing::warn!(
                    unheard = self.outbox.unheard().len(),
                    "drained, but the last statuses are not acknowledged"
                );
                self.outbox.drained();
                self.speak();
                return Some(self.drained);
            }
            Due::GraceOver => {
                let left: Vec<_> = self.attempts.keys().copied().collect();
                for attempt in left {
                    self.attempts[&attempt].cancel.cancel();
                    self.end(attempt, Err(given_back("stopped: the grace of the executor's drain is over")));
                }
            }
            Due::Heartbeat => self.outbox.heartbeat(self.heartbeat()),
        }
        None
    }

    // --- What is heard ---

    /// A message and all that have come with it: their statuses travel together.
    fn hear_all(&mut self, first: ToExecutor) {
        self.life.heard(Instant::now());
        self.hear(first);
        for _ in 0..INCOMING {
            let Some(Ok(message)) = self.outbox.ends().map(|(incoming, _)| incoming.try_recv()) else { break };
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
            ToExecutor::Acknowledge(number) => self.outbox.acknowledge(number),
            ToExecutor::Unpersist(rdd) => {
                if let Some(Ok(compute)) = &self.compute {
                    // On a compute thread: files may have to be removed.
                    let blocks = compute.around().blocks.clone();
                    compute.do_there(move || blocks.remove(rdd));
                }
            }
            ToExecutor::ForgetBroadcast(broadcast) => self.runner.forget_broadcast(broadcast),
            ToExecutor::Heartbeat => {}
            ToExecutor::Drain { grace } => {
                self.drained = End::Drained;
                self.drain(grace);
            }
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
            // A driver that ends at once, or a probe of the port.
            tracing::debug!("somebody connected and did not say hello: left");
            return;
        };
        let reply = HelloReply {
            protocol: version::PROTOCOL,
            app: self.me.app,
            epoch: self.me.epoch,
            executor: self.me.executor,
            program: self.me.program.clone(),
            holding: self.attempts.keys().copied().chain(self.outbox.unheard()).collect(),
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
        let now = Instant::now();
        self.life.heard(now);
        match config::heartbeat_interval(&hello.settings) {
            Ok(interval) => self.life.beat_every(interval, now),
            Err(error) => tracing::warn!(%error, "heartbeats stay as they are"),
        }
        // What is at its default says nothing: a birth may have said something else.
        let told = |setting: Setting| {
            let set = hello.settings.contains_key(setting.key);
            set.then(|| setting.duration(&hello.settings)).transpose()
        };
        match told(config::LOST_AFTER) {
            Ok(after) => after.into_iter().for_each(|after| self.life.lost_after(after)),
            Err(error) => tracing::warn!(%error, "the wait for a driver stays as it is"),
        }
        match told(config::DRAIN_GRACE) {
            Ok(grace) => self.grace = grace.or(self.grace),
            Err(error) => tracing::warn!(%error, "the grace of a drain stays as it is"),
        }
        if self.compute.is_none() {
            let means = match self.means.take() {
                Some(means) => Ok(means),
                None => {
                    self.runner.may_use(hello.memory);
                    Means::of(&hello)
                }
            };
            let compute = means.and_then(|means| set_up(&self.me, means, self.runner.clone(), self.io.clone()));
            if let Err(failure) = &compute {
                tracing::error!(%failure, "set up: every task will fail with this");
            }
            self.compute = Some(compute);
        }
        let begun = |state: State| self.attempts.iter().filter(move |(_, a)| a.state == state).map(|(id, _)| *id);
        let handed_over: Vec<_> = begun(State::Storing { handed_over: true }).collect();
        let mut started: Vec<_> = begun(State::Running).chain(begun(State::Storing { handed_over: false })).collect();
        started.extend(&handed_over);
        self.outbox.attach(connection, started, handed_over);
        self.outbox.heartbeat(self.heartbeat());
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
            let full = self.attempts.len() + self.outbox.unheard().len() >= HELD_MAX;
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
                        self.outbox.started(attempt);
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
        if handed_over {
            self.outbox.handed_over(attempt);
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
        self.outbox.ended(attempt, outcome);
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

#[cfg(test)]
mod tests {
    use model::graph::BodyKind;
    use model::{AppId, Epoch, ExecutorId};

    use super::*;
    use crate::task::PreparedStage;

    struct Nothing;

    impl BodyRunner for Nothing {
        fn prepare(&self, _: BodyKind, _: &str, _: Bytes) -> Result<Arc<dyn PreparedStage>, Failure> {
            Err(Failure::new(FailureKind::Query, "no body"))
        }
    }

    async fn end_of(order: Order) -> (End, Duration) {
        let (_connect, connections) = mpsc::channel(CONNECTIONS);
        let (orders, ordered) = mpsc::channel(1);
        let disk = std::env::temp_dir();
        let me = Me {
            app: AppId(7),
            epoch: Epoch(1),
            executor: ExecutorId(3),
            program: "abc".into(),
            disk,
            disk_taken: 0,
            printed: None,
        };
        let minute = Some(Duration::from_secs(60));
        let service = Service::new(me, None, Arc::new(Nothing), Handle::current(), connections, ordered, minute);
        let begun = Instant::now();
        orders.send(order).await.unwrap();
        (service.run().await, begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_executor_that_is_told_to_end_does_so_at_once() {
        assert_eq!(end_of(Order::ParentGone).await, (End::ParentGone, Duration::ZERO));
        assert_eq!(end_of(Order::Drain(Duration::from_secs(25))).await, (End::Terminated, Duration::ZERO));
    }
}
