//! How do pods become what is wanted?
//!
//! One loop: it waits for orders, watch events, answers and the time; takes them in; asks the allocator what is to be done;
//! does it; and says what is waited for. Nothing here decides: `allocator`, `pace`, `refusal`, `cause` and `why` do.
//!
//! - `answers`: what is asked of the API server, and what do its answers change?
//! - `pods`: what is known of pods, and what follows when one ends?
//! - `printed`: what has an executor printed that could not keep it itself?
//! - `saying`: what do people hear of what is waited for?
//! - `ending`: what is done when all is over?

mod answers;
mod ending;
mod pods;
mod printed;
mod saying;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::{FutureExt, Stream, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use model::Timestamp;
use model::backend::{ClusterEvent, KeepPrinted};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep};

use self::answers::Answered;
use self::pods::Record;
use super::{Dial, PodConfig, Shared};
use crate::allocator::{Observed, PodChange, State, Wanted, reconcile};
use crate::pace::Pace;
use crate::pod::ExecutorPods;
use crate::starts::Starts;
use crate::watcher::{Watched, watch};

/// The loop turns at least so often.
const IDLE: Duration = Duration::from_secs(5);

/// The loop turns so often while something is missing: what holds creations back ends at any time.
const BUSY: Duration = Duration::from_millis(200);

/// Events taken in before what is wanted is compared with what is there.
const TURN: usize = 256;

/// An executor that has run so long has started well.
const WELL_AFTER: Duration = Duration::from_secs(30);

type Watch = Pin<Box<dyn Stream<Item = Watched> + Send>>;

/// The loop and all that it knows.
pub(super) struct Control {
    shared: Arc<Shared>,
    events: mpsc::Sender<ClusterEvent>,
    keep: Option<KeepPrinted>,
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
    /// When a creation was refused last.
    refused_at: Timestamp,
    /// When a right was refused first, in a row.
    doubted_at: Option<Timestamp>,
    /// Why executors cannot be watched, and since when.
    unwatched: Option<(String, Timestamp)>,
    away_since: Option<Timestamp>,
    /// Somebody wonders whether the API server is there.
    doubts: bool,
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
            keep: config.keep.clone(),
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
            refused_at: zero,
            doubted_at: None,
            unwatched: None,
            away_since: None,
            doubts: false,
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
        // Boxed: it holds logs while they are kept.
        Box::pin(self.end()).await;
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
        let troubled = self.away_since.is_some() || self.unwatched.is_some() || self.doubts;
        let busy = missing || troubled || !self.said.is_empty();
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
                // With the pod goes its log.
                PodChange::Delete { n, .. } if self.is_read(n) => {}
                PodChange::Delete { n, grace } => self.delete(n, grace),
                PodChange::GiveUp { n, why } => self.give_up(n, &why, now).await,
            }
        }
        self.note_good_starts(now);
        self.forget_unreachable(now).await;
        self.ask(now);
        self.shared.cut_off.store(self.away_since.is_some() && self.shared.dial == Dial::Forward, Ordering::Relaxed);
        self.say(now).await;
    }

    fn take_orders(&mut self, now: Timestamp) {
        let mut orders = self.shared.orders();
        self.target = orders.target;
        self.doubts |= std::mem::take(&mut orders.doubts);
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

    fn note_good_starts(&mut self, now: Timestamp) {
        let well = |record: &Record| {
            record.pod.state == State::Running && record.runs_since.is_some_and(|since| now.since(since) >= WELL_AFTER)
        };
        if self.records.values().any(well) {
            self.starts.succeeded();
        }
    }

    async fn report(&mut self, event: ClusterEvent) {
        // Nobody listens any more once the driver has stopped.
        tokio::select! {
            sent = self.events.send(event) => drop(sent),
            () = self.shared.stopped.cancelled() => {}
        }
    }
}
