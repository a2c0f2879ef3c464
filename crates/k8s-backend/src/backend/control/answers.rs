//! What is asked of the API server, and what do its answers change?

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use model::Timestamp;
use model::ids::ExecutorId;
use tokio::time::timeout;

use super::Control;
use super::pods::Record;
use crate::allocator::State;
use crate::answer::within;
use crate::names;
use crate::refusal::{Answer, Request, Verdict, judge};
use crate::seen::Seen;
use crate::watcher::{may_watch, watch};
use crate::why::Note;

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

/// It is away if it has not answered by then: links that wait for it are soon given up.
const PROBED_WITHIN: Duration = Duration::from_secs(3);

/// A deletion that failed is tried again after so long.
const DELETE_AGAIN: Duration = Duration::from_secs(2);

/// An answer to a request of ours.
pub(super) enum Answered {
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
    /// The log of a pod that has ended badly, or else its last words as the kubelet has them.
    Read {
        n: u64,
        printed: String,
    },
    /// What was printed is kept.
    Kept,
}

impl Control {
    pub(super) fn create(&mut self, n: u64, now: Timestamp) {
        let manifest = self.pods.pod(n, &self.starts.avoid(now));
        let record = self.records.entry(n).or_insert_with(|| Record::new(State::Creating, now));
        (record.pod.state, record.sent_at) = (State::Creating, now);
        self.next = self.next.max(n + 1);
        self.pace.sent(now);
        let api = self.api();
        self.requests.spawn(async move {
            let created = within(api.create(&PostParams::default(), &manifest)).await;
            Answered::Created { n, answer: created.map(Box::new) }
        });
    }

    pub(super) fn delete(&mut self, n: u64, grace: Duration) {
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

    pub(super) async fn on_answer(&mut self, answered: Answered) {
        let now = self.now();
        match answered {
            Answered::Created { n, answer: Ok(pod) } => {
                self.pace.succeeded();
                self.answered();
                // One that was under way when another was refused says nothing about the next.
                if self.records.get(&n).is_none_or(|record| record.sent_at > self.refused_at) {
                    (self.quota, self.refused, self.doubted_at) = (None, None, None);
                }
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
            Answered::Probed { answer: Ok(()) } => {
                self.answered();
                if self.unwatched.take().is_some() {
                    // With credentials as they are now.
                    self.watch = watch(self.api(), self.pods.of.app).boxed();
                }
            }
            Answered::Probed { answer: Err(answer) } => match judge(Request::Watch, &answer) {
                Verdict::Away => self.note_away(&Verdict::Away, now),
                _ => self.answered(),
            },
            Answered::Reloaded { answer } => {
                if let Err(why) = answer {
                    self.refused = Some(why);
                }
                self.watch = watch(self.api(), self.pods.of.app).boxed();
            }
            Answered::Read { n, printed } => self.was_read(n, &printed).await,
            Answered::Kept => {}
        }
    }

    /// The API server answers.
    pub(super) fn answered(&mut self) {
        self.away_since = None;
    }

    pub(super) fn note_away(&mut self, verdict: &Verdict, now: Timestamp) {
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
                (self.quota, self.refused_at) = (Some(why), now);
                self.pace.quota(now);
            }
            // An API server that has just begun refuses what it allows a moment later.
            Verdict::Stop { .. } if answer.code == 403 && self.is_doubtful(n) => {
                self.doubted_at.get_or_insert(now);
                self.refused_at = now;
                self.pace.doubted(now);
            }
            Verdict::Stop { why } => {
                (self.refused, self.refused_at) = (Some(why), now);
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

    /// Whether no creation was refused before this one was sent.
    fn is_doubtful(&self, n: u64) -> bool {
        let sent = self.records.get(&n).map(|record| record.sent_at);
        self.doubted_at.is_none_or(|doubted| sent.is_none_or(|sent| sent <= doubted))
    }

    /// Reads credentials once more; false if that was done already.
    pub(super) fn reload(&mut self, now: Timestamp) -> bool {
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

    /// Asks about pods that wait, and whether the API server is back.
    pub(super) fn ask(&mut self, now: Timestamp) {
        let troubled = self.away_since.is_some() || self.unwatched.is_some() || self.doubts;
        if troubled && now.since(self.probed_at) >= PROBE_EVERY {
            (self.probed_at, self.doubts) = (now, false);
            let (api, selector) = (self.api(), names::select_executors(self.pods.of.app));
            self.requests.spawn(async move {
                let probed = timeout(PROBED_WITHIN, may_watch(&api, ListParams::default().labels(&selector))).await;
                Answered::Probed { answer: probed.unwrap_or_else(|_elapsed| Err(Answer::default())) }
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
}

/// Deletes a pod, and no other of its name.
pub(super) async fn remove(api: &Api<Pod>, name: &str, uid: Option<String>, grace: Duration) -> Result<(), Answer> {
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
