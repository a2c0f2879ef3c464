//! What is known of pods, and what follows when one ends?

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use model::Timestamp;
use model::backend::ClusterEvent;
use model::failure::LossCause;
use model::ids::ExecutorId;

use super::Control;
use super::answers::{Answered, remove};
use crate::allocator::{self, State};
use crate::backend::{Address, Dial};
use crate::cause::{self, Ours};
use crate::refusal::{Request, Verdict, judge};
use crate::seen::Seen;
use crate::watcher::Watched;
use crate::why::{Note, Situation, Waiting, joined, sentences};

/// A released executor counts as gone after so long, even if its node cannot say so.
const GONE_AFTER: Duration = Duration::from_secs(45);

/// An executor that others take so soon was not to be.
const YOUNG: Duration = Duration::from_secs(10);

/// What is known of a pod.
pub(super) struct Record {
    pub(super) pod: allocator::Pod,
    pub(super) seen: Option<Seen>,
    /// When its creation was sent last.
    pub(super) sent_at: Timestamp,
    /// When it was last known to be there.
    pub(super) there_at: Option<Timestamp>,
    /// When it came to run.
    pub(super) runs_since: Option<Timestamp>,
    /// We have asked for its deletion.
    pub(super) deleted_by_us: bool,
    pub(super) delete_again: Option<Timestamp>,
    pub(super) lost: bool,
    /// Why it has ended, while its log is read.
    pub(super) reading: Option<cause::Ended>,
    pub(super) note: Option<Note>,
    pub(super) asked_at: Option<Timestamp>,
}

impl Record {
    pub(super) fn new(state: State, now: Timestamp) -> Self {
        Self {
            pod: allocator::Pod { state, since: now, released: None, deleting: false },
            seen: None,
            sent_at: now,
            there_at: None,
            runs_since: None,
            deleted_by_us: false,
            delete_again: None,
            lost: false,
            reading: None,
            note: None,
            asked_at: None,
        }
    }
}

impl Control {
    /// A pod that has not come to run is lost now, whatever its deletion takes.
    pub(super) async fn give_up(&mut self, n: u64, why: &str, now: Timestamp) {
        let Some(record) = self.records.get_mut(&n) else { return };
        record.pod.released.get_or_insert(now);
        record.deleted_by_us = true;
        let waits = record.seen.as_ref().map(|seen| Waiting { seen, note: record.note.as_ref() });
        let situation = Situation { now, image: self.pods.of.image.clone(), ..Situation::default() };
        let reason = waits.map(|waits| joined(&sentences(&situation, &[waits]))).filter(|reason| !reason.is_empty());
        let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        let why = format!("{} {why}{reason}", ExecutorId(n));
        self.lose(n, LossCause::Infrastructure, why, Vec::new()).await;
    }

    /// A pod of ours is there, as an answer says: the watch may know better already.
    pub(super) async fn there(&mut self, n: u64, pod: &Pod, now: Timestamp) {
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

    pub(super) async fn on_watched(&mut self, watched: Watched) {
        let now = self.now();
        match watched {
            Watched::Listing => self.listing_since = now,
            Watched::Seen(seen) => {
                self.watched();
                self.on_seen(seen).await;
            }
            Watched::Gone(seen) => {
                self.watched();
                let n = seen.executor.0;
                if seen.epoch == self.pods.epoch {
                    if let Some(record) = self.records.get_mut(&n) {
                        record.seen = Some(seen);
                    }
                    self.gone(n).await;
                }
            }
            Watched::Listed(list) => {
                // That they may be watched, too, is said by what follows.
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
                            self.unwatched(why, now);
                        }
                    }
                    Verdict::Stop { why } | Verdict::Quota { why } => self.unwatched(why, now),
                    verdict => self.note_away(&verdict, now),
                }
            }
        }
    }

    /// The watch tells something.
    fn watched(&mut self) {
        self.answered();
        self.unwatched = None;
    }

    fn unwatched(&mut self, why: String, now: Timestamp) {
        let since = self.unwatched.as_ref().map_or(now, |(_, since)| *since);
        self.unwatched = Some((why, since));
    }

    /// A pod as it is now.
    async fn on_seen(&mut self, seen: Seen) {
        let now = self.now();
        let n = seen.executor.0;
        if seen.epoch > self.pods.epoch {
            // Of a driver that has taken our place.
            return;
        }
        if seen.epoch < self.pods.epoch || self.finished.contains(&n) {
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
    pub(super) async fn gone(&mut self, n: u64) {
        self.ended(n).await;
        self.read_no_more(n).await;
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
        if record.lost || unknown || record.reading.is_some() {
            return;
        }
        let ours =
            Ours { released: record.pod.released.is_some(), deleted: record.deleted_by_us, memory: self.pods.memory };
        let ended = cause::judge(ExecutorId(n), record.seen.as_ref(), ours);
        let node = record.seen.as_ref().and_then(|seen| seen.node.clone());
        let now = self.now();
        let young = now.since(record.pod.since) < YOUNG;
        match ended.cause {
            LossCause::Start => {
                let delay = self.starts.failed(now, node.as_deref());
                self.pace.hold_until(now + delay);
            }
            // Whoever takes pods as soon as they are made takes the next one, too.
            LossCause::Infrastructure if young => {
                let delay = self.starts.failed(now, None);
                self.pace.hold_until(now + delay);
            }
            LossCause::Released | LossCause::Infrastructure => {}
            LossCause::Memory | LossCause::Program => self.starts.succeeded(),
        }
        self.read_then_lose(n, ended).await;
    }

    pub(super) async fn lose(&mut self, n: u64, cause: LossCause, why: String, last_lines: Vec<String>) {
        let executor = ExecutorId(n);
        if let Some(record) = self.records.get_mut(&n) {
            if record.lost {
                return;
            }
            record.lost = true;
        }
        self.shared.addresses().remove(&executor);
        self.report(ClusterEvent::Lost { executor, cause, why, last_lines }).await;
    }

    /// A node that is gone never says that its pods are.
    pub(super) async fn forget_unreachable(&mut self, now: Timestamp) {
        let silent = |(n, record): (&u64, &Record)| {
            let released = record.pod.released.is_some_and(|at| now.since(at) >= GONE_AFTER);
            (released && !record.lost && record.there_at.is_some()).then_some(*n)
        };
        let silent: Vec<u64> = self.records.iter().filter_map(silent).collect();
        for n in silent {
            let why = format!("{} was let go, and its node does not say that it has ended", ExecutorId(n));
            self.lose(n, LossCause::Released, why, Vec::new()).await;
        }
    }
}
