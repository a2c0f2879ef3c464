//! How do pods become what is wanted?
//!
//! One loop: it waits for orders, watch events, answers and the time; takes them in; asks the allocator what is to be done;
//! does it; and says what is waited for. Nothing here decides: `allocator`, `pace`, `refusal`, `cause` and `why` do.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, Stream, StreamExt};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use model::Timestamp;
use model::backend::ClusterEvent;
use model::failure::LossCause;
use model::ids::ExecutorId;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use super::{Address, Dial, PodConfig, Shared};
use crate::allocator::{self, Observed, PodChange, State, Wanted, reconcile};
use crate::answer::within;
use crate::cause::{self, Ours};
use crate::names;
use crate::pace::Pace;
use crate::pod::ExecutorPods;
use crate::refusal::{Answer, Request, Verdict, judge};
use crate::seen::Seen;
use crate::starts::Starts;
use crate::watcher::{Watched, watch};
use crate::why::{Hope, MENDS_WITHIN, Note, Situation, Waiting, joined, sentences};

/// The loop turns at least so often.
const IDLE: Duration = Duration::from_secs(5);

/// The loop turns so often while something is missing: what holds creations back ends at any time.
const BUSY: Duration = Duration::from_millis(200);

/// Events taken in before what is wanted is compared with what is there.
const TURN: usize = 256;

/// Credentials are read again no more often than this.
const RELOAD_AFTER: Duration = Duration::from_secs(60);

/// A pod that waits so long is asked about.
const ASK_AFTER: Duration = Duration::from_secs(5);

/// So often, and about so many pods at a time: enough to say why, too little to matter to the API server.
const ASK_EVERY: Duration = Duration::from_secs(5);
const ASK_ABOUT: usize = 3;

/// The events of a pod that are looked at.
const EVENTS_OF_POD: u32 = 20;

/// While the API server is away, it is asked so often whether it is back.
const PROBE_EVERY: Duration = Duration::from_secs(2);

/// A deletion that failed is tried again after so long.
const DELETE_AGAIN: Duration = Duration::from_secs(2);

/// A released executor counts as gone after so long, even if its node cannot say so.
const GONE_AFTER: Duration = Duration::from_secs(45);

/// What is waited for is said again after so long.
const SAID_AGAIN: Duration = Duration::from_secs(30);

/// Sentences that change are said no more often than this: many pods come to wait one by one.
const SAID_APART: Duration = Duration::from_millis(700);

/// An executor that has run so long has started well.
const WELL_AFTER: Duration = Duration::from_secs(30);

/// How long pods may take to end when all is over: nothing they do is wanted any more.
const STOP_GRACE_SECONDS: u32 = 2;

/// How long the end of all is waited for. What is left then goes with the root.
const STOPPED_WITHIN: Duration = Duration::from_secs(10);

/// Whether they have ended is looked at so often.
const STOP_LOOKS_EVERY: Duration = Duration::from_millis(400);

type Watch = Pin<Box<dyn Stream<Item = Watched> + Send>>;

/// An answer to a request of ours.
enum Answered {
    Created {
        n: u64,
        answer: Result<Box<Pod>, Answer>,
    },
    /// A look at a name that was taken.
    Found {
        n: u64,
        answer: Result<Option<Box<Pod>>, Answer>,
    },
    Deleted {
        n: u64,
        answer: Result<(), Answer>,
    },
    /// A deletion of what is not ours to count.
    Swept,
    Noted {
        n: u64,
        answer: Result<Option<(String, String)>, Answer>,
    },
    Probed {
        answer: Result<(), Answer>,
    },
    Reloaded {
        answer: Result<(), String>,
    },
}

/// What is known of a pod.
struct Record {
    pod: allocator::Pod,
    seen: Option<Seen>,
    /// When it was last known to be there.
    there_at: Option<Timestamp>,
    /// When it came to run.
    runs_since: Option<Timestamp>,
    /// We have asked for its deletion.
    deleted_by_us: bool,
    delete_again: Option<Timestamp>,
    lost: bool,
    note: Option<Note>,
    asked_at: Option<Timestamp>,
}

impl Record {
    fn new(state: State, now: Timestamp) -> Self {
        Self {
            pod: allocator::Pod { state, since: now, released: None, deleting: false },
            seen: None,
            there_at: None,
            runs_since: None,
            deleted_by_us: false,
            delete_again: None,
            lost: false,
            note: None,
            asked_at: None,
        }
    }
}

/// The loop and all that it knows.
pub(super) struct Control {
    shared: Arc<Shared>,
    events: mpsc::Sender<ClusterEvent>,
    pods: ExecutorPods,
    pending_max: u32,
    forward_max: Option<u32>,
    started: Instant,
    records: BTreeMap<u64, Record>,
    /// Executors whose loss was reported and whose pods are gone as far as we know.
    finished: BTreeSet<u64>,
    next: u64,
    target: u32,
    pace: Pace,
    starts: Starts,
    requests: JoinSet<Answered>,
    watch: Watch,
    listing_since: Timestamp,
    quota: Option<String>,
    refused: Option<String>,
    away_since: Option<Timestamp>,
    probed_at: Timestamp,
    reloaded_at: Option<Timestamp>,
    /// All pods were listed once: no number is given out that one of them has.
    listed: bool,
    asked_at: Timestamp,
    /// Events of pods may not be read: sentences are shorter.
    no_events: bool,
    ever_ran: bool,
    hardly_since: Option<Timestamp>,
    said: Vec<String>,
    said_at: Timestamp,
    said_refused: Option<String>,
}

impl Control {
    pub(super) fn new(config: &PodConfig, shared: Arc<Shared>, events: mpsc::Sender<ClusterEvent>) -> Self {
        let zero = Timestamp::default();
        let watch = watch(config.cluster.api(), config.app).boxed();
        Self {
            forward_max: (shared.dial == Dial::Forward).then_some(config.executors.forward_max),
            shared,
            events,
            pods: config.pods(),
            pending_max: config.executors.pending_max,
            started: Instant::now(),
            records: BTreeMap::new(),
            finished: BTreeSet::new(),
            next: 1,
            target: 0,
            pace: Pace::new(zero),
            starts: Starts::default(),
            requests: JoinSet::new(),
            watch,
            listing_since: zero,
            quota: None,
            refused: None,
            away_since: None,
            probed_at: zero,
            reloaded_at: None,
            listed: false,
            asked_at: zero,
            no_events: false,
            ever_ran: false,
            hardly_since: None,
            said: Vec::new(),
            said_at: zero,
            said_refused: None,
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from(self.started.elapsed())
    }

    fn api(&self) -> Api<Pod> {
        self.shared.cluster.api()
    }

    pub(super) async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        loop {
            let pause = self.pause();
            tokio::select! {
                biased;
                () = shared.stopped.cancelled() => break,
                () = shared.ordered.notified() => {}
                Some(answered) = self.requests.join_next(), if !self.requests.is_empty() => {
                    self.on_joined(answered).await;
                }
                Some(watched) = self.watch.next() => self.on_watched(watched).await,
                () = sleep(pause) => {}
            }
            self.take_in().await;
            self.turn().await;
        }
        self.end().await;
    }

    /// Takes in what has come meanwhile, so that many events cost one comparison.
    async fn take_in(&mut self) {
        for _ in 0..TURN {
            if let Some(answered) = self.requests.try_join_next() {
                self.on_joined(answered).await;
            } else if let Some(Some(watched)) = self.watch.next().now_or_never() {
                self.on_watched(watched).await;
            } else {
                return;
            }
        }
    }

    async fn on_joined(&mut self, answered: Result<Answered, JoinError>) {
        match answered {
            Ok(answered) => self.on_answer(answered).await,
            Err(error) => tracing::error!(%error, "a request to the API server ended badly"),
        }
    }

    fn pause(&self) -> Duration {
        let missing = self.running() < self.target || self.records.values().any(|record| record.pod.released.is_some());
        let busy = missing || self.away_since.is_some() || !self.said.is_empty();
        if busy { BUSY } else { IDLE }
    }

    /// Compares what is wanted with what is there, and acts.
    async fn turn(&mut self) {
        let now = self.now();
        self.take_orders(now);
        for record in self.records.values_mut() {
            if record.delete_again.is_some_and(|at| now >= at) {
                record.delete_again = None;
                record.pod.deleting = false;
            }
        }
        let observed = Observed {
            now,
            pods: self.records.iter().map(|(n, record)| (*n, record.pod)).collect(),
            next: self.next,
            budget: if self.listed { self.pace.budget(now) } else { 0 },
        };
        let wanted = Wanted { executors: self.wanted(), pending_max: self.pending_max };
        for change in reconcile(&wanted, &observed) {
            match change {
                PodChange::Create { n } => self.create(n, now),
                PodChange::Delete { n, grace } => self.delete(n, grace),
                PodChange::GiveUp { n, why } => self.give_up(n, &why, now).await,
            }
        }
        self.note_good_starts(now);
        self.forget_unreachable(now).await;
        self.ask(now);
        self.say(now).await;
    }

    fn take_orders(&mut self, now: Timestamp) {
        let mut orders = self.shared.orders();
        self.target = orders.target;
        for executor in std::mem::take(&mut orders.released) {
            if let Some(record) = self.records.get_mut(&executor.0) {
                record.pod.released.get_or_insert(now);
            }
        }
    }

    /// The target, as far as executors can be reached.
    fn wanted(&self) -> u32 {
        self.forward_max.map_or(self.target, |max| self.target.min(max))
    }

    fn running(&self) -> u32 {
        let runs = |record: &&Record| record.pod.state == State::Running && record.pod.released.is_none();
        self.records.values().filter(runs).count() as u32
    }

    fn create(&mut self, n: u64, now: Timestamp) {
        let manifest = self.pods.pod(n, &self.starts.avoid(now));
        match self.records.get_mut(&n) {
            Some(record) => record.pod.state = State::Creating,
            None => {
                self.records.insert(n, Record::new(State::Creating, now));
            }
        }
        self.next = self.next.max(n + 1);
        self.pace.sent(now);
        let api = self.api();
        self.requests.spawn(async move {
            let created = within(api.create(&PostParams::default(), &manifest)).await;
            Answered::Created { n, answer: created.map(Box::new) }
        });
    }

    fn delete(&mut self, n: u64, grace: Duration) {
        let now = self.now();
        let Some(record) = self.records.get_mut(&n) else { return };
        record.pod.deleting = true;
        // An end that was read is not of our making.
        record.deleted_by_us = record.deleted_by_us || record.pod.state != State::Ended;
        let uid = record.seen.as_ref().map(|seen| seen.uid.clone());
        let name = names::executor(self.pods.of.app, self.pods.epoch, n);
        self.pace.asked(now);
        let api = self.api();
        self.requests.spawn(async move { Answered::Deleted { n, answer: remove(&api, &name, uid, grace).await } });
    }

    /// A pod that has not come to run is lost now, whatever its deletion takes.
    async fn give_up(&mut self, n: u64, why: &str, now: Timestamp) {
        let Some(record) = self.records.get_mut(&n) else { return };
        record.pod.released.get_or_insert(now);
        record.deleted_by_us = true;
        let waits = record.seen.as_ref().map(|seen| Waiting { seen, note: record.note.as_ref() });
        let situation = Situation { now, image: self.pods.of.image.clone(), ..Situation::default() };
        let reason = waits.map(|waits| joined(&sentences(&situation, &[waits]))).filter(|reason| !reason.is_empty());
        let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        let why = format!("{} {why}{reason}", ExecutorId(n));
        self.lose(n, LossCause::Infrastructure, why).await;
    }

    async fn on_answer(&mut self, answered: Answered) {
        let now = self.now();
        match answered {
            Answered::Created { n, answer: Ok(pod) } => {
                self.pace.succeeded();
                self.answered();
                (self.quota, self.refused) = (None, None);
                self.there(n, &pod, now).await;
            }
            Answered::Created { n, answer: Err(answer) } => self.not_created(n, &answer, now),
            Answered::Found { n, answer: Ok(Some(pod)) } => {
                self.pace.ended();
                self.answered();
                let ours = Seen::of(&pod, self.pods.of.app)
                    .is_some_and(|seen| seen.epoch == self.pods.epoch && seen.executor == ExecutorId(n));
                if ours {
                    self.there(n, &pod, now).await;
                } else {
                    // A stranger has the name: the number is given up, and the next one taken.
                    tracing::warn!(executor = %ExecutorId(n), "another pod has the name of an executor");
                    self.records.remove(&n);
                    self.finished.insert(n);
                }
            }
            Answered::Found { n, answer: Ok(None) } => {
                self.pace.ended();
                self.unsent(n);
            }
            Answered::Found { n, answer: Err(answer) } => self.not_created(n, &answer, now),
            Answered::Deleted { n, answer: Ok(()) } => {
                // The watch says when it is gone.
                self.answered();
                tracing::debug!(executor = %ExecutorId(n), "its pod is being deleted");
            }
            Answered::Deleted { n, answer: Err(answer) } => match judge(Request::Delete, &answer) {
                Verdict::Gone => {
                    self.answered();
                    self.gone(n).await;
                }
                verdict => {
                    self.note_away(&verdict, now);
                    tracing::debug!(executor = %ExecutorId(n), why = answer.message, "delete its pod");
                    if let Some(record) = self.records.get_mut(&n) {
                        record.delete_again = Some(now + answer.retry_after.unwrap_or(DELETE_AGAIN));
                    }
                }
            },
            Answered::Swept => {}
            Answered::Noted { n, answer: Ok(told) } => {
                self.answered();
                if let Some(record) = self.records.get_mut(&n) {
                    let since = record.note.as_ref().map(|note| (note.reason.clone(), note.since));
                    record.note = told.map(|(reason, message)| {
                        let since = since.filter(|(before, _)| *before == reason).map_or(now, |(_, since)| since);
                        Note { reason, message, since }
                    });
                }
            }
            Answered::Noted { answer: Err(answer), .. } => {
                self.no_events |= answer.code == 403;
            }
            Answered::Probed { answer: Ok(()) } => self.answered(),
            Answered::Probed { answer: Err(answer) } => {
                if judge(Request::Watch, &answer) != Verdict::Away {
                    self.answered();
                }
            }
            Answered::Reloaded { answer } => {
                if let Err(why) = answer {
                    self.refused = Some(why);
                }
                self.watch = watch(self.api(), self.pods.of.app).boxed();
            }
        }
    }

    /// The API server answers.
    fn answered(&mut self) {
        self.away_since = None;
    }

    fn note_away(&mut self, verdict: &Verdict, now: Timestamp) {
        if *verdict == Verdict::Away {
            self.away_since.get_or_insert(now);
        }
    }

    fn unsent(&mut self, n: u64) {
        if let Some(record) = self.records.get_mut(&n)
            && record.pod.state == State::Creating
        {
            record.pod.state = State::Unsent;
        }
    }

    fn not_created(&mut self, n: u64, answer: &Answer, now: Timestamp) {
        tracing::debug!(executor = %ExecutorId(n), code = answer.code, why = answer.message, "create its pod");
        let verdict = judge(Request::Create, answer);
        if verdict != Verdict::Away {
            self.away_since = None;
        }
        match verdict {
            Verdict::Exists => {
                // Ours, if an answer was lost; the next look tells.
                let (api, name) = (self.api(), names::executor(self.pods.of.app, self.pods.epoch, n));
                self.requests.spawn(async move {
                    let found = within(api.get_opt(&name)).await;
                    Answered::Found { n, answer: found.map(|pod| pod.map(Box::new)) }
                });
                return;
            }
            Verdict::Quota { why } => {
                self.quota = Some(why);
                self.pace.quota(now);
            }
            Verdict::Stop { why } => {
                self.refused = Some(why);
                self.pace.stopped(now);
            }
            Verdict::Unauthorized { why } => match self.reload(now) {
                true => self.pace.away(now),
                false => {
                    self.refused = Some(why);
                    self.pace.stopped(now);
                }
            },
            Verdict::Conflict | Verdict::Gone => self.pace.conflict(now),
            Verdict::Overloaded { retry_after } => self.pace.overloaded(now, retry_after),
            Verdict::Away => {
                self.away_since.get_or_insert(now);
                self.pace.away(now);
            }
        }
        self.unsent(n);
    }

    /// Reads credentials once more; false if that was done already.
    fn reload(&mut self, now: Timestamp) -> bool {
        if self.reloaded_at.is_some_and(|at| now.since(at) < RELOAD_AFTER) {
            return false;
        }
        self.reloaded_at = Some(now);
        let cluster = self.shared.cluster.clone();
        self.requests.spawn(async move {
            let answer = cluster.reload().await.map_err(|error| error.sentence());
            Answered::Reloaded { answer }
        });
        true
    }

    /// A pod of ours is there, as an answer says: the watch may know better already.
    async fn there(&mut self, n: u64, pod: &Pod, now: Timestamp) {
        let Some(record) = self.records.get_mut(&n) else { return };
        record.there_at = Some(now);
        if record.pod.state == State::Creating {
            record.pod.state = State::Pending;
        }
        if record.seen.is_none()
            && let Some(seen) = Seen::of(pod, self.pods.of.app)
        {
            self.on_seen(seen).await;
        }
    }

    async fn on_watched(&mut self, watched: Watched) {
        let now = self.now();
        match watched {
            Watched::Listing => self.listing_since = now,
            Watched::Seen(seen) => {
                self.answered();
                self.on_seen(seen).await;
            }
            Watched::Gone(seen) => {
                self.answered();
                let n = seen.executor.0;
                if seen.epoch == self.pods.epoch {
                    if let Some(record) = self.records.get_mut(&n) {
                        record.seen = Some(seen);
                    }
                    self.gone(n).await;
                }
            }
            Watched::Listed(list) => {
                self.answered();
                self.listed = true;
                let listed: BTreeSet<u64> =
                    list.iter().filter(|seen| seen.epoch == self.pods.epoch).map(|seen| seen.executor.0).collect();
                for seen in list {
                    self.on_seen(seen).await;
                }
                // What came to be while the list was made is told by the watch that follows it.
                let gone = |(n, record): (&u64, &Record)| {
                    let before = record.there_at.is_some_and(|at| at < self.listing_since);
                    (before && !listed.contains(n)).then_some(*n)
                };
                let gone: Vec<u64> = self.records.iter().filter_map(gone).collect();
                for n in gone {
                    self.gone(n).await;
                }
            }
            Watched::Broke(answer) => {
                tracing::debug!(code = answer.code, why = answer.message, "watch executors");
                match judge(Request::Watch, &answer) {
                    Verdict::Unauthorized { why } => {
                        if !self.reload(now) {
                            self.refused = Some(why);
                        }
                    }
                    Verdict::Stop { why } | Verdict::Quota { why } => {
                        self.refused = Some(why);
                    }
                    verdict => self.note_away(&verdict, now),
                }
            }
        }
    }

    /// A pod as it is now.
    async fn on_seen(&mut self, seen: Seen) {
        let now = self.now();
        let n = seen.executor.0;
        if seen.epoch != self.pods.epoch || self.finished.contains(&n) {
            // Of a driver before us, or of an executor that everybody was told is lost.
            if !seen.deleted {
                let api = self.api();
                self.requests.spawn(async move {
                    let removed = remove(&api, &seen.name, Some(seen.uid), Duration::ZERO).await;
                    if let Err(answer) = removed {
                        tracing::debug!(pod = seen.name, why = answer.message, "delete a pod that nobody wants");
                    }
                    Answered::Swept
                });
            }
            return;
        }
        self.next = self.next.max(n + 1);
        let record = self.records.entry(n).or_insert_with(|| Record::new(State::Pending, now));
        record.there_at = Some(now);
        let reachable = seen.runs() && (self.shared.dial == Dial::Forward || seen.ip.is_some());
        record.pod.state = match record.pod.state {
            State::Ended => State::Ended,
            _ if seen.ended() => State::Ended,
            State::Running => State::Running,
            _ if reachable => State::Running,
            _ => State::Pending,
        };
        let (state, first_run) = (record.pod.state, record.runs_since.is_none());
        let address = Address { pod: seen.name.clone(), ip: seen.ip.clone() };
        let place = seen.node.clone().unwrap_or_else(|| "a node".to_owned());
        record.seen = Some(seen);
        match state {
            State::Running if first_run && !record.lost => {
                record.runs_since = Some(now);
                record.note = None;
                self.ever_ran = true;
                let executor = ExecutorId(n);
                self.shared.addresses().insert(executor, address);
                self.report(ClusterEvent::Reachable { executor, place }).await;
            }
            State::Ended => self.ended(n).await,
            State::Unsent | State::Creating | State::Pending | State::Running => {}
        }
    }

    /// A pod is gone.
    async fn gone(&mut self, n: u64) {
        self.ended(n).await;
        if self.records.remove(&n).is_some() {
            self.finished.insert(n);
        }
    }

    /// An executor has ended: says why, once.
    async fn ended(&mut self, n: u64) {
        // It may have ended because it was released a moment ago.
        self.take_orders(self.now());
        let Some(record) = self.records.get(&n) else { return };
        let unknown = record.seen.is_none() && record.there_at.is_none();
        if record.lost || unknown {
            return;
        }
        let ours =
            Ours { released: record.pod.released.is_some(), deleted: record.deleted_by_us, memory: self.pods.memory };
        let ended = cause::judge(ExecutorId(n), record.seen.as_ref(), ours);
        let node = record.seen.as_ref().and_then(|seen| seen.node.clone());
        let now = self.now();
        match ended.cause {
            LossCause::Start => {
                let delay = self.starts.failed(now, node.as_deref());
                self.pace.hold_until(now + delay);
            }
            LossCause::Released | LossCause::Infrastructure => {}
            LossCause::Memory | LossCause::Program => self.starts.succeeded(),
        }
        self.lose(n, ended.cause, ended.why).await;
    }

    async fn lose(&mut self, n: u64, cause: LossCause, why: String) {
        let executor = ExecutorId(n);
        if let Some(record) = self.records.get_mut(&n) {
            if record.lost {
                return;
            }
            record.lost = true;
        }
        self.shared.addresses().remove(&executor);
        self.report(ClusterEvent::Lost { executor, cause, why }).await;
    }

    fn note_good_starts(&mut self, now: Timestamp) {
        let well = |record: &Record| {
            record.pod.state == State::Running && record.runs_since.is_some_and(|since| now.since(since) >= WELL_AFTER)
        };
        if self.records.values().any(well) {
            self.starts.succeeded();
        }
    }

    /// A node that is gone never says that its pods are.
    async fn forget_unreachable(&mut self, now: Timestamp) {
        let silent = |(n, record): (&u64, &Record)| {
            let released = record.pod.released.is_some_and(|at| now.since(at) >= GONE_AFTER);
            (released && !record.lost && record.there_at.is_some()).then_some(*n)
        };
        let silent: Vec<u64> = self.records.iter().filter_map(silent).collect();
        for n in silent {
            let why = format!("{} was let go, and its node does not say that it has ended", ExecutorId(n));
            self.lose(n, LossCause::Released, why).await;
        }
    }

    /// Asks about pods that wait, and whether the API server is back.
    fn ask(&mut self, now: Timestamp) {
        if self.away_since.is_some() && now.since(self.probed_at) >= PROBE_EVERY {
            self.probed_at = now;
            let (api, params) =
                (self.api(), ListParams::default().limit(1).labels(&names::select_executors(self.pods.of.app)));
            self.requests.spawn(async move {
                Answered::Probed { answer: within(api.list_metadata(&params)).await.map(|_| ()) }
            });
        }
        if self.no_events || self.away_since.is_some() || now.since(self.asked_at) < ASK_EVERY {
            return;
        }
        let mut waiting: Vec<_> = self
            .records
            .iter_mut()
            .filter(|(_, record)| record.pod.state == State::Pending && now.since(record.pod.since) >= ASK_AFTER)
            // What the pod's own status says is enough.
            .filter(|(_, record)| {
                record.seen.as_ref().is_some_and(|seen| seen.node.is_some() && seen.waiting.is_empty())
            })
            .collect();
        waiting.sort_by_key(|(_, record)| record.asked_at);
        let events: Api<Event> = self.shared.cluster.api();
        for (&n, record) in waiting.into_iter().take(ASK_ABOUT) {
            self.asked_at = now;
            record.asked_at = Some(now);
            let uid = record.seen.as_ref().map(|seen| seen.uid.clone()).unwrap_or_default();
            let events = events.clone();
            self.requests.spawn(async move { Answered::Noted { n, answer: latest(&events, &uid).await } });
        }
    }

    /// Says what is waited for: when it changes, and now and then.
    async fn say(&mut self, now: Timestamp) {
        let wanted = self.wanted();
        let waits = |record: &&Record| {
            record.pod.state == State::Pending && record.pod.released.is_none() && !record.pod.deleting
        };
        let pods: Vec<_> = self.records.values().filter(waits).collect();
        let waiting: Vec<_> = pods
            .iter()
            .filter_map(|record| Some(Waiting { seen: record.seen.as_ref()?, note: record.note.as_ref() }))
            .collect();
        let running = self.running();
        let situation = Situation {
            now,
            running,
            wanted,
            cores: self.pods.cores,
            memory: self.pods.memory,
            image: self.pods.of.image.clone(),
            quota: self.quota.clone().filter(|_| running < wanted),
            away_since: self.away_since,
            forward_max: self.forward_max.filter(|max| self.target > *max),
        };
        let sentences = sentences(&situation, &waiting);
        let worst = sentences.first().map_or(Hope::Waits, |sentence| sentence.hope);
        self.hardly_since = match worst {
            Hope::Waits => None,
            Hope::Hardly | Hope::None => self.hardly_since.or(Some(now)),
        };
        let mended = self.hardly_since.is_none_or(|since| now.since(since) < MENDS_WITHIN);
        let hopeless = worst == Hope::None || (worst == Hope::Hardly && !mended && !self.ever_ran);
        let refused = match &self.refused {
            Some(why) if running < wanted => Some(format!("cannot create executors: {why}")),
            _ => sentences.first().filter(|_| hopeless).map(|sentence| sentence.text.clone()),
        };
        if refused != self.said_refused {
            self.said_refused.clone_from(&refused);
            if let Some(why) = refused {
                self.report(ClusterEvent::Refused { why }).await;
            }
        }
        let keys: Vec<String> = sentences.iter().map(|sentence| sentence.key.clone()).collect();
        let since = now.since(self.said_at);
        if (keys != self.said && (since >= SAID_APART || self.said.is_empty()))
            || (!keys.is_empty() && since >= SAID_AGAIN)
        {
            self.said = keys;
            self.said_at = now;
            self.report(ClusterEvent::Waiting { why: joined(&sentences) }).await;
        }
    }

    async fn report(&mut self, event: ClusterEvent) {
        // Nobody listens any more once the driver has stopped.
        tokio::select! {
            sent = self.events.send(event) => drop(sent),
            () = self.shared.stopped.cancelled() => {}
        }
    }

    /// Deletes every executor. What cannot be goes with the root.
    async fn end(mut self) {
        self.shared.addresses().clear();
        let api = self.api();
        let app = self.pods.of.app;
        let ended = timeout(STOPPED_WITHIN, async move {
            // A creation that is under way would come after the deletion.
            while self.requests.join_next().await.is_some() {}
            delete_all(&api, &names::select_executors(app)).await;
        });
        if ended.await.is_err() {
            tracing::debug!("some executors are still ending");
        }
    }
}

/// Deletes pods, and waits until they are gone.
async fn delete_all(api: &Api<Pod>, selector: &str) {
    let pods = ListParams::default().labels(selector);
    let params = DeleteParams { grace_period_seconds: Some(STOP_GRACE_SECONDS), ..DeleteParams::default() };
    while let Err(answer) = within(api.delete_collection(&params, &pods)).await {
        if matches!(judge(Request::Delete, &answer), Verdict::Stop { .. }) {
            return tracing::warn!(why = answer.message, "delete executors: they end with the root");
        }
        tracing::debug!(why = answer.message, "delete executors");
        sleep(STOP_LOOKS_EVERY).await;
    }
    while !within(api.list_metadata(&pods)).await.is_ok_and(|left| left.items.is_empty()) {
        sleep(STOP_LOOKS_EVERY).await;
    }
}

/// Deletes a pod, and no other of its name.
async fn remove(api: &Api<Pod>, name: &str, uid: Option<String>, grace: Duration) -> Result<(), Answer> {
    let params = DeleteParams {
        grace_period_seconds: (!grace.is_zero()).then(|| u32::try_from(grace.as_secs()).unwrap_or(u32::MAX)),
        preconditions: uid.map(|uid| Preconditions { uid: Some(uid), resource_version: None }),
        ..DeleteParams::default()
    };
    within(api.delete(name, &params)).await.map(|_| ())
}

/// The latest that was told about a pod, in a word and in a sentence.
async fn latest(events: &Api<Event>, uid: &str) -> Result<Option<(String, String)>, Answer> {
    let params = ListParams::default().fields(&format!("involvedObject.uid={uid}")).limit(EVENTS_OF_POD);
    let listed = within(events.list(&params)).await?;
    let time = |event: &Event| {
        let last = event.last_timestamp.as_ref().map(|time| time.0);
        last.or(event.event_time.as_ref().map(|time| time.0))
    };
    let latest = listed.items.into_iter().max_by_key(time);
    Ok(latest.map(|event| (event.reason.unwrap_or_default(), event.message.unwrap_or_default())))
}
