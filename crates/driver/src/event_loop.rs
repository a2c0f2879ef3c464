//! How are actions performed, outcomes fed back?
//!
//! One loop owns the scheduler, the registry of shuffles and all tables. A turn takes what has arrived (a bounded batch),
//! tells the scheduler, performs its actions, and feeds back what comes of them at once. At the end of the turn
//! everything leaves together: messages for each executor, records for observers, results for callers. Nothing here waits:
//! links, uploads and commits are tasks of their own that answer through the mailbox.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::{Stream, StreamExt};
use model::backend::{ClusterBackend, ClusterEvent};
use model::events::{AppEvent, EVENT_LOG_VERSION, Record};
use model::failure::{LossCause, ObjectRef};
use model::graph::{Job, Output};
use model::ids::{
    AppId, AttemptId, BroadcastId, Epoch, ExecutorId, Generation, JobId, MapId, RddId, ShuffleId, StageAttempt, StageId,
};
use model::messages::{FromExecutor, Payload, TaskOutcome, TaskStatus, TaskSuccess, ToExecutor};
use model::runner::{JobError, JobItem};
use model::setting::Values;
use model::shuffle::{Codec, MapOutput, MapRows, ShuffleSpec};
use model::write::WriteReport;
use model::{Failure, FailureKind, Timestamp, keys};
use object_store::ObjectStore;
use object_store::path::Path;
use scheduler::{Action, Event, Scheduler};
use shuffle::{Accepted, Registry};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cleanup::Cleaner;
use crate::config::{Limits, MAX_RESULT_SIZE};
use crate::jobs::{Jobs, RunningJob};
use crate::launch::{Held, Upload};
use crate::link::{CUT_OFF_AT_MOST, Dialer, MISSED_HEARTBEATS, Up};
use crate::observe::Observer;
use crate::outbox::{Batch, Outbox};
use crate::requests::{Request, Requests, Staged};
use crate::results::{Arrival, Producer};

/// Messages that may wait for the loop; whoever sends more waits.
pub(crate) const MAILBOX: usize = 4_096;

/// Messages taken in one turn: enough to share its costs, few enough that a turn stays short.
const TURN: usize = 512;

/// The loop turns at least so often, so that it notices when it was stopped.
const IDLE: Duration = Duration::from_secs(1);

/// A loop that has not turned for so long has slept (R11).
const SLEPT: Duration = Duration::from_secs(5);

/// A deadline is told at the latest so long after its time, even if messages never cease.
const OVERDUE: Duration = Duration::from_secs(1);

/// The store's answers are told to the scheduler at most so often.
const STORE_NEWS: Duration = Duration::from_secs(1);

/// The last lines of so many lost executors are remembered; a job that fails for one fails soon.
const LAST_LINES_OF: usize = 64;

/// So many different warnings are shown; more would bury what matters.
const WARNINGS: usize = 1_000;

/// What others tell the loop.
pub(crate) enum Message {
    /// An executor has answered its hello.
    LinkUp { executor: ExecutorId, up: Up },
    /// It said something.
    Heard { executor: ExecutorId, message: FromExecutor },
    /// It runs and has not answered a hello for long; what it has printed last, if that is known.
    Unanswered { executor: ExecutorId, last_line: Option<String> },
    /// Its link is lost for good.
    LinkLost { executor: ExecutorId, cause: LossCause, why: String },
    /// A payload too large for a message is in the store, or cannot be put there.
    Uploaded { upload: Upload, stored: Result<Payload, Failure> },
    /// A job that writes has come to its end: its files are published, or never will be.
    WriteEnded { job: JobId, destination: String, outcome: Result<WriteReport, String>, shown: oneshot::Sender<()> },
    /// The application cannot go on: its lease is lost.
    Doomed { failure: Failure },
    /// The application ends: no job goes on.
    CancelAll { why: String },
    /// The loop ends.
    Stop { error: Option<String>, answer: oneshot::Sender<Remains> },
}

/// What is left when the loop has ended.
pub(crate) struct Remains {
    /// Keys of shuffles that were not released.
    pub(crate) keys: Vec<String>,
    /// An executor was lost, a task failed or was taken back, or never told how it ended: objects may exist that no status names.
    pub(crate) unnamed: bool,
}

/// What the loop is made with.
pub(crate) struct Parts {
    pub(crate) app: AppId,
    pub(crate) epoch: Epoch,
    pub(crate) name: String,
    pub(crate) master: String,
    pub(crate) slots: u32,
    pub(crate) limits: Limits,
    pub(crate) settings: Values,
    pub(crate) codec: Codec,
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) root: Path,
    pub(crate) backend: Arc<dyn ClusterBackend>,
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) observers: Vec<Box<dyn Observer>>,
    pub(crate) requests: Requests,
    pub(crate) mailbox: mpsc::Receiver<Message>,
    pub(crate) cleaner: Cleaner,
    pub(crate) tasks: TaskTracker,
    pub(crate) io: Handle,
}

/// An executor that is or was reachable.
pub(crate) struct Remote {
    place: String,
    /// Ends its link.
    closed: CancellationToken,
    /// Where messages for it go; nowhere before its first hello.
    outbox: Option<Outbox>,
    pub(crate) in_process: bool,
    /// What this turn has for it.
    pub(crate) turn: Batch,
    /// Which bodies it has been sent over this connection.
    pub(crate) bodies: HashSet<(StageId, StageAttempt)>,
    /// The last status heard.
    heard: u64,
    /// Whether it must be told so.
    acknowledge: bool,
    /// It drains or has drained: its end is in order.
    drains: bool,
}

pub(crate) struct EventLoop {
    pub(crate) parts: Parts,
    scheduler: Scheduler,
    pub(crate) registry: Registry,
    pub(crate) jobs: Jobs,
    pub(crate) shuffles: HashMap<ShuffleId, ShuffleSpec>,
    executors: BTreeMap<ExecutorId, Remote>,
    /// Executors for which this turn has messages.
    addressed: BTreeSet<ExecutorId>,
    /// Launches that wait for an upload.
    pub(crate) held: BTreeMap<AttemptId, Held>,
    /// Datasets and broadcasts that executors were told to forget: told again after a lost link.
    unpersisted: BTreeSet<RddId>,
    forgotten: BTreeSet<BroadcastId>,
    /// The success that the scheduler is being told of.
    success: Option<(AttemptId, Box<TaskSuccess>)>,
    /// The object that the failure blames which the scheduler is being told of.
    blamed: Option<(ShuffleId, Generation, ObjectRef)>,
    /// What must be told to the scheduler next.
    outcomes: VecDeque<Event>,
    records: Vec<Record>,
    /// Jobs for which something arrived in this turn.
    delivered: BTreeSet<JobId>,
    /// Jobs that ended in this turn.
    ended: Vec<(RunningJob, Result<(), JobError>)>,
    /// Who waits until this turn's records were observed.
    shown: Vec<oneshot::Sender<()>>,
    warned: HashSet<String>,
    began: Instant,
    now: Timestamp,
    store_answered: Option<Timestamp>,
    unnamed: bool,
    /// Attempts that were launched and have not told how they ended.
    unheard: BTreeMap<AttemptId, ExecutorId>,
    doomed: Option<Failure>,
    last_lines: LastLines,
    waits: Waits,
    /// How long executors have been cut off, while they are.
    cut_off_for: Option<Duration>,
}

/// Why wanted executors are not there yet.
#[derive(Default)]
struct Waits {
    /// As the cluster says.
    cluster: String,
    /// Executors that run and do not answer, and what each has printed last.
    unanswered: BTreeMap<ExecutorId, Option<String>>,
    said: String,
}

impl Waits {
    fn sentence(&self) -> String {
        let unanswered = self.unanswered.first_key_value().map(|(executor, line)| {
            let line = line.as_ref().map(|line| format!("; its last line: {line}")).unwrap_or_default();
            match self.unanswered.len() - 1 {
                0 => format!("{executor} runs but does not answer{line}"),
                more => format!("{executor} and {more} more run but do not answer{line}"),
            }
        });
        let all = std::iter::once(self.cluster.clone()).chain(unanswered).filter(|why| !why.is_empty());
        all.collect::<Vec<_>>().join("; ")
    }
}

/// What executors that were lost had printed last.
#[derive(Default)]
struct LastLines(BTreeMap<ExecutorId, Vec<String>>);

impl LastLines {
    fn note(&mut self, executor: ExecutorId, lines: Vec<String>) {
        if lines.is_empty() {
            return;
        }
        self.0.insert(executor, lines);
        if self.0.len() > LAST_LINES_OF {
            self.0.pop_first();
        }
    }

    /// A failure that an executor could not tell any more tells what it had printed.
    fn added_to(&self, mut failure: Failure) -> Failure {
        if failure.last_lines.is_empty()
            && matches!(failure.kind, FailureKind::Lost(_))
            && let Some(lines) = failure.executor.and_then(|executor| self.0.get(&executor))
        {
            failure.last_lines.clone_from(lines);
        }
        failure
    }
}

/// However the loop ends, nobody can ask it any more.
struct CloseRequests(Requests);

impl Drop for CloseRequests {
    fn drop(&mut self) {
        self.0.close(JobError::Ended { why: "its driver could not go on".to_owned() });
    }
}

impl EventLoop {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            scheduler: Scheduler::new(parts.limits.scheduler.clone()),
            registry: Registry::new(),
            jobs: Jobs::default(),
            shuffles: HashMap::new(),
            executors: BTreeMap::new(),
            addressed: BTreeSet::new(),
            held: BTreeMap::new(),
            unpersisted: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            success: None,
            blamed: None,
            outcomes: VecDeque::new(),
            records: Vec::new(),
            delivered: BTreeSet::new(),
            ended: Vec::new(),
            shown: Vec::new(),
            warned: HashSet::new(),
            began: Instant::now(),
            now: Timestamp::default(),
            store_answered: None,
            unnamed: false,
            unheard: BTreeMap::new(),
            doomed: None,
            last_lines: LastLines::default(),
            waits: Waits::default(),
            cut_off_for: None,
            parts,
        }
    }

    /// Turns until it is told to stop, or `dropped`.
    pub(crate) async fn run(mut self, dropped: CancellationToken) {
        let _close = CloseRequests(self.parts.requests.clone());
        let mut cluster = self.parts.backend.events();
        let mut messages = Vec::with_capacity(TURN);
        let heartbeat_interval = self.parts.limits.heartbeat_interval;
        let mut heartbeat = Instant::now() + heartbeat_interval;
        self.begin();
        self.end_turn();
        loop {
            let turned = Instant::now();
            let deadline = self.scheduler.next_deadline().map(|at| self.began + at.since(Timestamp::default()));
            let wake = [Some(turned + IDLE), Some(heartbeat), deadline].into_iter().flatten().min().unwrap_or(turned);
            let mut event = None;
            tokio::select! {
                biased;
                () = dropped.cancelled() => return self.leave(),
                happened = next_cluster_event(&mut cluster) => event = Some(happened),
                _ = self.parts.mailbox.recv_many(&mut messages, TURN) => {}
                () = self.parts.requests.filled() => {}
                () = sleep_until(wake) => {}
            }
            let awake = Instant::now();
            self.now = Timestamp::from(awake - self.began);
            if awake - turned > SLEPT {
                self.tell(Event::Slept { gap: awake - turned });
            } else {
                self.note_cut_off(awake - turned);
            }
            event.into_iter().for_each(|event| self.on_cluster(event));
            for message in messages.drain(..) {
                if let Message::Stop { error, answer } = message {
                    let _ = answer.send(self.end(error));
                    return;
                }
                self.on_message(message);
            }
            for request in self.parts.requests.take() {
                self.on_request(request);
            }
            if awake >= heartbeat {
                heartbeat = awake + heartbeat_interval;
                self.tell_all(|| ToExecutor::Heartbeat);
            }
            if let Some(deadline) = deadline
                && awake >= deadline
                && (self.parts.mailbox.is_empty() || awake >= deadline + OVERDUE)
            {
                self.tell(Event::DeadlinePassed);
            }
            self.end_turn();
        }
    }

    /// While what leads to all executors is away, their silence is nobody's fault, up to a bound.
    fn note_cut_off(&mut self, turn: Duration) {
        if !self.parts.backend.is_cut_off() {
            self.cut_off_for = None;
            return;
        }
        // It is noticed when links have missed their heartbeats: their silence has begun before.
        let missed = self.parts.limits.heartbeat_interval * MISSED_HEARTBEATS;
        let gap = if self.cut_off_for.is_some() { turn } else { missed };
        let lasted = self.cut_off_for.map_or(Duration::ZERO, |lasted| lasted + turn);
        self.cut_off_for = Some(lasted);
        if lasted < CUT_OFF_AT_MOST {
            self.tell(Event::Slept { gap });
        }
    }

    /// Says why wanted executors are not there yet: `again` although it was said before.
    fn say_waits(&mut self, again: bool) {
        let why = self.waits.sentence();
        if again || why != self.waits.said {
            self.waits.said.clone_from(&why);
            self.record(|_| AppEvent::Waiting { why: why.clone() });
            self.came_of_it(Event::ClusterWaiting { why });
        }
    }

    fn begin(&mut self) {
        let unix_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        self.record(|parts| AppEvent::ApplicationStarted {
            version: EVENT_LOG_VERSION,
            vonk: env!("CARGO_PKG_VERSION").to_owned(),
            app: parts.app,
            epoch: parts.epoch,
            name: parts.name.clone(),
            master: parts.master.clone(),
            unix_ms: u64::try_from(unix_ms).unwrap_or_default(),
        });
        self.tell(Event::ApplicationStarted);
    }

    fn end(&mut self, error: Option<String>) -> Remains {
        self.tell(Event::GroupCancelled { group: None, why: "the application has ended".to_owned() });
        self.record(|_| AppEvent::ApplicationEnded { error });
        self.end_turn();
        self.leave();
        // A task that was taken back may have run nevertheless.
        let unnamed = self.unnamed || !self.unheard.is_empty();
        Remains { keys: self.registry.keys(), unnamed }
    }

    /// Lets go of executors: none is replaced any more.
    fn leave(&self) {
        self.parts.backend.set_target(0);
        self.executors.values().for_each(|remote| remote.closed.cancel());
    }

    /// Everything that this turn has for others leaves: first what keeps executors busy.
    fn end_turn(&mut self) {
        for executor in std::mem::take(&mut self.addressed) {
            let Some(remote) = self.executors.get_mut(&executor) else { continue };
            if std::mem::take(&mut remote.acknowledge) {
                remote.turn.push(ToExecutor::Acknowledge(remote.heard));
            }
            if let Some(outbox) = &remote.outbox
                && !remote.turn.is_empty()
            {
                outbox.put(&mut remote.turn);
            }
        }
        if !self.records.is_empty() {
            self.parts.observers.iter_mut().for_each(|observer| observer.observe(&self.records));
            self.records.clear();
        }
        for job in std::mem::take(&mut self.delivered) {
            self.jobs.deliver(job);
        }
        for (job, end) in self.ended.drain(..) {
            job.end(end);
        }
        for shown in self.shown.drain(..) {
            let _ = shown.send(());
        }
    }

    fn record(&mut self, event: impl FnOnce(&Parts) -> AppEvent) {
        if !self.parts.observers.is_empty() {
            self.records.push(Record { at: self.now, event: event(&self.parts) });
        }
    }

    /// Tells the scheduler, performs what it answers, and tells it what came of that, until nothing is left to say.
    pub(crate) fn tell(&mut self, event: Event) {
        let mut next = Some(event);
        while let Some(event) = next {
            for action in self.scheduler.handle(self.now, event) {
                self.perform(action);
            }
            next = self.outcomes.pop_front();
        }
    }

    /// Tells what came of something that was done outside of [`Self::tell`].
    pub(crate) fn tell_outcomes(&mut self) {
        while let Some(outcome) = self.outcomes.pop_front() {
            self.tell(outcome);
        }
    }

    /// A task has left for its executor.
    pub(crate) fn launched(&mut self, attempt: AttemptId, executor: ExecutorId) {
        self.record(|_| AppEvent::TaskLaunched { attempt, executor });
    }

    /// Notes what came of an action: told to the scheduler right after the actions in hand.
    pub(crate) fn came_of_it(&mut self, outcome: Event) {
        self.outcomes.push_back(outcome);
    }

    /// Adds to what this turn has for an executor. Gone executors hear nothing.
    fn send(&mut self, executor: ExecutorId, message: ToExecutor) {
        if let Some(remote) = self.address(executor) {
            remote.turn.push(message);
        }
    }

    fn tell_all(&mut self, message: impl Fn() -> ToExecutor) {
        for (&executor, remote) in self.executors.iter_mut().filter(|(_, remote)| remote.outbox.is_some()) {
            remote.turn.push(message());
            self.addressed.insert(executor);
        }
    }

    /// An executor that can be told something: what this turn has for it will be sent.
    pub(crate) fn address(&mut self, executor: ExecutorId) -> Option<&mut Remote> {
        let remote = self.executors.get_mut(&executor).filter(|remote| remote.outbox.is_some())?;
        self.addressed.insert(executor);
        Some(remote)
    }

    fn on_cluster(&mut self, event: ClusterEvent) {
        match event {
            ClusterEvent::Reachable { executor, place } => {
                let closed = CancellationToken::new();
                let link = Arc::clone(&self.parts.dialer).keep(executor, closed.clone());
                self.parts.tasks.spawn_on(link, &self.parts.io);
                let remote = Remote {
                    place,
                    closed,
                    outbox: None,
                    in_process: false,
                    turn: Batch::default(),
                    bodies: HashSet::new(),
                    heard: 0,
                    acknowledge: false,
                    drains: false,
                };
                self.executors.insert(executor, remote);
            }
            ClusterEvent::Lost { executor, cause, why, last_lines } => {
                self.last_lines.note(executor, last_lines);
                // A process that has drained ends by itself, perhaps before it is released.
                let drains = self.executors.get(&executor).is_some_and(|remote| remote.drains);
                let cause = if drains && cause == LossCause::Program { LossCause::Released } else { cause };
                self.tell(Event::ExecutorLost { executor, cause, why });
            }
            ClusterEvent::Waiting { why } => {
                self.waits.cluster = why;
                self.say_waits(true);
                self.tell_outcomes();
            }
            ClusterEvent::Refused { why } => {
                if why.is_empty() {
                    self.say_waits(true);
                } else {
                    self.record(|_| AppEvent::Waiting { why: why.clone() });
                }
                self.tell(Event::ClusterRefused { why });
            }
        }
    }

    fn on_message(&mut self, message: Message) {
        match message {
            Message::Heard { executor, message } => self.on_heard(executor, message),
            Message::LinkUp { executor, up } => self.on_link(executor, up),
            Message::Unanswered { executor, last_line } => {
                if self.executors.get(&executor).is_some_and(|remote| remote.outbox.is_none()) {
                    self.waits.unanswered.insert(executor, last_line);
                    self.say_waits(false);
                    self.tell_outcomes();
                }
            }
            Message::LinkLost { executor, cause, why } => self.tell(Event::ExecutorLost { executor, cause, why }),
            Message::Uploaded { upload, stored } => self.on_uploaded(upload, stored),
            Message::WriteEnded { job, destination, outcome, shown } => {
                let error = match outcome {
                    Ok(report) => {
                        self.record(|_| AppEvent::WriteCommitted { job, destination, report });
                        None
                    }
                    Err(error) => Some(error),
                };
                self.record(|_| AppEvent::JobFinished { job, error });
                self.shown.push(shown);
            }
            Message::Doomed { failure } => {
                self.parts.requests.close(JobError::Doomed { failure: Box::new(failure.clone()) });
                let why = failure.to_string();
                self.doomed = Some(failure);
                self.tell(Event::GroupCancelled { group: None, why });
            }
            Message::CancelAll { why } => self.tell(Event::GroupCancelled { group: None, why }),
            Message::Stop { .. } => {}
        }
    }

    fn on_link(&mut self, executor: ExecutorId, up: Up) {
        self.answers(executor);
        let Some(remote) = self.executors.get_mut(&executor) else { return };
        remote.outbox = Some(up.outbox);
        remote.in_process = up.in_process;
        remote.turn = Batch::default();
        remote.bodies.clear();
        match up.restored {
            None => {
                let (place, slots) = (remote.place.clone(), self.parts.slots);
                self.record(|_| AppEvent::ExecutorJoined { executor, place, slots });
                self.tell(Event::ExecutorJoined { executor, slots });
            }
            Some(holding) => {
                let (rdds, broadcasts) = (self.unpersisted.clone(), self.forgotten.clone());
                rdds.into_iter().for_each(|rdd| self.send(executor, ToExecutor::Unpersist(rdd)));
                broadcasts.into_iter().for_each(|id| self.send(executor, ToExecutor::ForgetBroadcast(id)));
                self.tell(Event::LinkRestored { executor, holding });
            }
        }
    }

    /// It has answered, or never will.
    fn answers(&mut self, executor: ExecutorId) {
        if self.waits.unanswered.remove(&executor).is_some() {
            self.say_waits(false);
        }
    }

    fn on_heard(&mut self, executor: ExecutorId, message: FromExecutor) {
        if !self.executors.contains_key(&executor) {
            return; // lost: it changes nothing any more
        }
        match message {
            FromExecutor::Hello(_) => {}
            FromExecutor::Started(attempts) => {
                attempts.into_iter().for_each(|attempt| self.tell(Event::TaskStarted { attempt, executor }));
            }
            FromExecutor::HandedOver(attempts) => {
                attempts.into_iter().for_each(|attempt| self.tell(Event::TaskHandedOver { attempt, executor }));
            }
            FromExecutor::Status(statuses) => statuses.into_iter().for_each(|status| self.on_status(executor, status)),
            FromExecutor::Heartbeat(heartbeat) => {
                let void = heartbeat.open_objects.into_iter().filter_map(|object| self.registry.opened(object));
                let void = void.collect();
                self.parts.cleaner.later(void);
                self.tell(Event::HeartbeatHeard { executor });
            }
            FromExecutor::Drained => {
                self.note_drain(executor);
                self.tell(Event::ExecutorDrained { executor });
            }
        }
    }

    fn note_drain(&mut self, executor: ExecutorId) {
        if let Some(remote) = self.executors.get_mut(&executor) {
            remote.drains = true;
        }
    }

    fn on_status(&mut self, executor: ExecutorId, status: TaskStatus) {
        let Some(remote) = self.executors.get_mut(&executor) else { return };
        remote.acknowledge = true;
        self.addressed.insert(executor);
        if status.number <= remote.heard {
            return; // resent: it was heard
        }
        remote.heard = status.number;
        let attempt = status.attempt;
        self.unheard.remove(&attempt);
        match status.outcome {
            TaskOutcome::Failed(failure) => {
                // Rows that it had handed over may be stored all the same.
                self.unnamed = true;
                if failure.kind == FailureKind::Lost(LossCause::Released) {
                    // It was told to end by its system, and would give back whatever it is sent.
                    let why = "its system told it to end".to_owned();
                    self.tell(Event::ExecutorDraining { executor, why });
                }
                self.blamed = match failure.kind {
                    FailureKind::MapOutput { shuffle, generation, object, .. } => {
                        object.map(|o| (shuffle, generation, o))
                    }
                    _ => None,
                };
                self.tell(Event::TaskFailed { attempt, executor, failure: *failure });
                self.blamed = None;
            }
            TaskOutcome::Succeeded(success) => match self.judge(executor, attempt, &success) {
                Ok(()) => self.succeed(executor, attempt, success),
                Err(failure) => {
                    let failure = failure.during(attempt, executor);
                    self.tell(Event::TaskFailed { attempt, executor, failure });
                }
            },
        }
    }

    /// Whether a success adds up, before anybody acts on it.
    fn judge(&self, executor: ExecutorId, attempt: AttemptId, success: &TaskSuccess) -> Result<(), Failure> {
        if let Some(output) = &success.map_output {
            self.registry.check(output, executor)?;
        }
        success.reads.iter().try_for_each(|report| self.registry.audit(report))?;
        let Some(result) = &success.result else { return Ok(()) };
        let (max, key) = (self.parts.limits.max_result_size, MAX_RESULT_SIZE.key);
        let what = match self.jobs.waiting_with(attempt.job, result) {
            Some(waiting) if waiting > max => format!(
                "keep results until they are read: {waiting} bytes wait, `{key}` allows {max}; set it higher, or read them \
                 faster"
            ),
            Some(_) => return Ok(()),
            None => match self.jobs.result_bytes(attempt.job) + result.length() {
                arrived if arrived > max => format!(
                    "collect results: {arrived} bytes have arrived and not all are here, `{key}` allows {max}; set it \
                     higher, or collect less: write the rows, or take some"
                ),
                _ => return Ok(()),
            },
        };
        Err(Failure::new(FailureKind::Limit, what))
    }

    fn succeed(&mut self, executor: ExecutorId, attempt: AttemptId, mut success: Box<TaskSuccess>) {
        if used_store(&success) {
            self.hear_of_store();
        }
        let cached = std::mem::take(&mut success.cached);
        self.success = Some((attempt, success));
        self.tell(Event::TaskSucceeded { attempt, executor, cached });
        // A scheduler that does not know the attempt any more says nothing.
        if let Some((_, success)) = self.success.take() {
            self.void(executor, *success);
        }
    }

    fn hear_of_store(&mut self) {
        if self.store_answered.is_none_or(|last| self.now - last >= STORE_NEWS) {
            self.store_answered = Some(self.now);
            self.tell(Event::StoreAnswered);
        }
    }

    fn on_request(&mut self, request: Request) {
        match request {
            Request::Run { job, results, staged } => self.submit(*job, results, staged),
            Request::CancelJob { job, why } => self.tell(Event::JobCancelled { job, why }),
            Request::CancelGroup { group, why } => self.tell(Event::GroupCancelled { group, why }),
            Request::ReleaseShuffle(shuffle) => self.tell(Event::ShuffleReleased { shuffle }),
            Request::Unpersist(rdd) => {
                self.unpersisted.insert(rdd);
                self.tell_all(|| ToExecutor::Unpersist(rdd));
                self.tell(Event::RddUnpersisted { rdd });
                let (cleaner, key) =
                    (self.parts.cleaner.clone(), keys::cached_rdd(self.parts.app, self.parts.epoch, rdd));
                self.parts.tasks.spawn_on(async move { cleaner.folder(&key).await }, &self.parts.io);
            }
            Request::ForgetBroadcast(broadcast) => {
                self.forgotten.insert(broadcast);
                self.tell_all(|| ToExecutor::ForgetBroadcast(broadcast));
                self.parts.cleaner.later(vec![keys::broadcast(self.parts.app, self.parts.epoch, broadcast)]);
            }
            Request::Delete(keys) => self.parts.cleaner.later(keys),
            Request::Warn(text) => self.warn(text),
            Request::StoreAnswered => self.hear_of_store(),
        }
    }

    fn submit(&mut self, job: Job, results: Producer, staged: Option<Staged>) {
        if let Some(failure) = &self.doomed {
            results.end(Err(JobError::Doomed { failure: Box::new(failure.clone()) }));
            return;
        }
        for stage in &job.stages {
            let Output::Shuffle { shuffle, partitions } = stage.shape.output else { continue };
            let maps = stage.shape.partitions;
            let Some(kind) = stage.rows.clone() else {
                let failure =
                    Failure::new(FailureKind::Internal, format!("run {}: nobody said what its rows are", stage.name));
                let name = job.name.clone();
                results.end(Err(JobError::Failed { name, failure: Box::new(failure), earlier: Vec::new() }));
                return;
            };
            let parts = &self.parts;
            self.shuffles.entry(shuffle).or_insert_with(|| {
                let spec = ShuffleSpec {
                    app: parts.app,
                    epoch: parts.epoch,
                    shuffle,
                    generation: Generation(0),
                    maps,
                    partitions,
                    kind,
                    codec: parts.codec,
                    inline_max: shuffle::config::inline_max(&parts.settings, maps).unwrap_or_default(),
                };
                self.registry.register(&spec);
                spec
            });
        }
        let (id, group, shape) = (job.id, job.group.clone(), job.shape());
        self.record(|_| AppEvent::JobStarted {
            job: id,
            name: job.name.clone(),
            stages: job.stages.iter().map(|stage| stage.shape.id).collect(),
        });
        self.jobs.start(job, results, staged);
        self.tell(Event::JobSubmitted { job: id, group, shape });
    }

    fn warn(&mut self, text: String) {
        if self.warned.len() < WARNINGS && self.warned.insert(text.clone()) {
            self.record(|_| AppEvent::Warning { text });
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::LaunchTask { attempt, executor, stage_has_pending } => {
                self.unheard.insert(attempt, executor);
                self.launch(Held { attempt, executor, stage_has_pending, input: None });
            }
            Action::CancelTask { attempt, executor } => {
                if self.held.remove(&attempt).is_some() {
                    self.unheard.remove(&attempt);
                    let failure = Failure::new(FailureKind::Cancelled, "cancelled before it was sent");
                    self.came_of_it(Event::TaskFailed { attempt, executor, failure });
                } else {
                    self.send(executor, ToExecutor::Cancel(vec![attempt]));
                }
            }
            Action::AcceptResult { attempt, executor, first } => self.accept(attempt, executor, first),
            Action::VoidResult { executor, .. } => {
                if let Some((_, success)) = self.success.take() {
                    self.void(executor, *success);
                }
            }
            Action::VoidStage { stage } => self.jobs.void_stage(stage),
            Action::ReportFailure { attempt, executor, failure, retried } => {
                let failure = self.last_lines.added_to(failure);
                self.record(|_| AppEvent::TaskFailed { attempt, executor, failure, retried });
            }
            Action::StageStarted { job, stage, attempt, tasks } => {
                let name = self.jobs.stage(stage).map(|stage| stage.name.clone()).unwrap_or_default();
                self.record(|_| AppEvent::StageStarted { job, stage, attempt, name, tasks });
            }
            Action::StageFinished { stage, attempt } => {
                self.forget_stage(stage, attempt);
                self.record(|_| AppEvent::StageFinished { stage, attempt });
            }
            Action::StageStopped { stage, attempt, why } => {
                self.forget_stage(stage, attempt);
                self.record(|_| AppEvent::StageStopped { stage, attempt, why });
            }
            Action::NoMoreMaps { shuffle, generation, executors } => {
                for executor in executors {
                    self.send(executor, ToExecutor::NoMoreMaps(shuffle, generation));
                }
            }
            Action::DropOutputs { shuffle, generation, maps, why } => {
                self.drop_outputs(shuffle, generation, &maps, why)
            }
            Action::RaiseGeneration { shuffle, generation } => {
                if let Some(spec) = self.shuffles.get_mut(&shuffle) {
                    spec.generation = generation;
                    self.registry.register(spec);
                }
            }
            Action::DropShuffle { shuffle } => {
                self.shuffles.remove(&shuffle);
                self.parts.cleaner.later(self.registry.release(shuffle));
            }
            Action::FinishJob { job } => self.end_job(job, Ok(())),
            Action::FailJob { job, failure, earlier } => self.end_job(job, Err((failure, earlier))),
            Action::RequestExecutors { count } => self.parts.backend.set_target(count),
            Action::DrainExecutor { executor, why } => {
                self.record(|_| AppEvent::Warning { text: format!("{executor} is let go: {why}") });
                self.note_drain(executor);
                self.send(executor, ToExecutor::Drain { grace: self.parts.limits.drain_grace });
            }
            Action::ReleaseExecutor { executor } => self.parts.backend.release(executor),
            Action::RemoveExecutor { executor, cause, why } => self.remove(executor, cause, why),
            Action::Warn { text } => self.warn(text),
        }
    }

    /// Drops what the scheduler says is lost, and whatever else lay in the object that was found to be.
    fn drop_outputs(&mut self, shuffle: ShuffleId, generation: Generation, maps: &[MapId], why: String) {
        let mut dropped = Vec::new();
        if let Some((_, _, object)) = self.blamed.filter(|blamed| (blamed.0, blamed.1) == (shuffle, generation)) {
            dropped = self.registry.lost(shuffle, generation, Some(object), &[]);
        }
        dropped.extend(self.registry.lost(shuffle, generation, None, maps));
        dropped.retain(|map| !maps.contains(map));
        let count = u32::try_from(maps.len() + dropped.len()).unwrap_or(u32::MAX);
        self.record(|_| AppEvent::OutputsLost { shuffle, maps: count, why: why.clone() });
        if !dropped.is_empty() {
            self.came_of_it(Event::OutputsLost { shuffle, generation, maps: dropped, why });
        }
    }

    fn forget_stage(&mut self, stage: StageId, attempt: StageAttempt) {
        for (&executor, remote) in &mut self.executors {
            if remote.bodies.remove(&(stage, attempt)) {
                remote.turn.push(ToExecutor::ForgetStage(stage, attempt));
                self.addressed.insert(executor);
            }
        }
    }

    fn remove(&mut self, executor: ExecutorId, cause: LossCause, why: String) {
        if let Some(remote) = self.executors.remove(&executor) {
            remote.closed.cancel();
        }
        self.answers(executor);
        self.held.retain(|_, held| held.executor != executor);
        self.unheard.retain(|_, on| *on != executor);
        self.unnamed |= cause != LossCause::Released && cause != LossCause::Start;
        self.parts.backend.release(executor);
        self.record(|_| AppEvent::ExecutorLost { executor, cause, why });
    }

    fn end_job(&mut self, job: JobId, end: Result<(), (Failure, Vec<Failure>)>) {
        if end.is_ok()
            && let Some(sizes) = self.jobs.writes(job).and_then(|shuffle| self.registry.sizes(shuffle))
        {
            let item = JobItem::Shuffled { sizes: sizes.to_vec(), metrics: self.jobs.metrics(job) };
            self.jobs.arrived(job, Arrival::Item(item));
        }
        let Some(running) = self.jobs.end(job) else { return };
        self.delivered.remove(&job);
        // Tasks that were stopped on the way may have stored what no status names.
        self.unnamed |= end.is_err();
        let end = end.map_err(|(failure, earlier)| {
            let (name, failure) = (running.name.clone(), self.last_lines.added_to(failure));
            match (&self.doomed, failure.kind == FailureKind::Cancelled) {
                (Some(failure), true) => JobError::Doomed { failure: Box::new(failure.clone()) },
                (None, true) => JobError::Cancelled { name, why: failure.to_string() },
                (_, false) => JobError::Failed { name, failure: Box::new(failure), earlier },
            }
        });
        let error = end.as_ref().err().map(|error| match error {
            JobError::Failed { failure, .. } | JobError::Doomed { failure } => format!("{error}: {failure}"),
            JobError::Cancelled { .. } | JobError::Ended { .. } => error.to_string(),
        });
        if !running.writes() {
            self.record(|_| AppEvent::JobFinished { job, error });
        }
        self.ended.push((running, end));
    }

    /// The success in hand is the one that counts.
    fn accept(&mut self, attempt: AttemptId, executor: ExecutorId, first: bool) {
        let Some((_, success)) = self.success.take() else { return };
        let success = *success;
        if let Some(output) = success.map_output {
            self.register(output, executor);
        }
        let metrics = success.metrics;
        self.jobs.measure(attempt.job, metrics);
        self.record(|_| AppEvent::TaskFinished { attempt, executor, metrics });
        if let Some(result) = success.result {
            let partition = attempt.partition;
            let arrival = match result {
                Payload::Inline(bytes) => Arrival::Item(JobItem::Result { partition, bytes }),
                Payload::Stored { key, length, crc } => Arrival::Stored { partition, key, length, crc },
            };
            self.jobs.arrived(attempt.job, arrival);
            self.delivered.insert(attempt.job);
        }
        if !success.staged.is_empty() {
            self.jobs.staged(attempt, success.staged);
        }
        if first {
            if !success.accumulators.is_empty() {
                self.jobs.arrived(attempt.job, Arrival::Item(JobItem::Accumulated(success.accumulators)));
                self.delivered.insert(attempt.job);
            }
            success.warnings.into_iter().for_each(|text| self.warn(text));
        }
    }

    fn register(&mut self, output: MapOutput, executor: ExecutorId) {
        let (shuffle, generation, map) = (output.shuffle, output.generation, output.map);
        if let Accepted::OtherRows = self.enter(output, executor) {
            self.came_of_it(Event::OutputDiffered { shuffle, generation, map });
        }
    }

    fn enter(&mut self, output: MapOutput, executor: ExecutorId) -> Accepted {
        let (shuffle, map) = (output.shuffle, output.map);
        let mut accepted = self.registry.accept(output, executor);
        match &mut accepted {
            Accepted::Won { .. } | Accepted::Repeated | Accepted::Twin { same_rows: true } | Accepted::OtherRows => {}
            Accepted::Twin { same_rows: false } => {
                self.warn(format!(
                    "a stage is not deterministic: two attempts of {map} of {shuffle} gave different rows"
                ));
            }
            Accepted::Void { keys } => self.parts.cleaner.later(std::mem::take(keys)),
        }
        accepted
    }

    /// The success in hand does not count. Rows of others may lie in its objects, so the registry hears of them; what
    /// nobody needs is deleted.
    fn void(&mut self, executor: ExecutorId, success: TaskSuccess) {
        if let Some(output) = success.map_output {
            self.enter(output, executor);
        }
        if let Some(Payload::Stored { key, .. }) = success.result {
            self.parts.cleaner.later(vec![key]);
        }
    }
}

async fn next_cluster_event(events: &mut Pin<Box<dyn Stream<Item = ClusterEvent> + Send>>) -> ClusterEvent {
    match events.next().await {
        Some(event) => event,
        None => std::future::pending().await,
    }
}

fn used_store(success: &TaskSuccess) -> bool {
    let wrote = success.map_output.as_ref().is_some_and(|output| matches!(output.location, MapRows::Stored { .. }));
    wrote
        || success.reads.iter().any(|read| read.requests > 0)
        || matches!(success.result, Some(Payload::Stored { .. }))
}
