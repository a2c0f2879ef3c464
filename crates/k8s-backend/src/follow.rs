//! How does a submitter stay with its driver until the end?
//!
//! It watches the Job and its pods, passes on what the driver prints, says why it waits, and ends what will never start.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event as Told, Pod};
use kube::api::{Api, ListParams};
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt, watcher};
use model::Timestamp;
use model::ids::AppId;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::access::Cluster;
use crate::answer::{answer, within};
use crate::applications;
use crate::driver::{self, End, Patience, Standing, standing_with};
use crate::log::{self, Which};
use crate::names::{APP, ROLE, Role};
use crate::refusal::{Answer, Request, Verdict, judge};
use crate::seen::{Container, Phase, Seen};
use crate::watcher::may_watch;
use crate::why::{Note, Sentence, joined};
use model::exit;

/// How often what is seen is judged although nothing was heard.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often a sentence that lasts is said again.
const SAY_EVERY: Duration = Duration::from_secs(30);

/// What waits for so long is looked up among events, and so often.
const EVENTS_AFTER: Duration = Duration::from_secs(5);

/// A Job without a pod says only in events why.
const JOB_EVENTS_AFTER: Duration = Duration::from_secs(1);

/// A watch is begun anew after so many seconds: a connection that died silently is noticed then.
const WATCH_SECONDS: u32 = 60;

/// How long the last lines of an ended driver may take to arrive.
const LOG_WITHIN: Duration = Duration::from_secs(15);

/// A driver that is stopped ends within 30 s; a little more for the news of it.
const STOPPED_WITHIN: Duration = Duration::from_secs(40);

/// An API server that is away for so long is given up.
const AWAY_FOR: Duration = Duration::from_secs(600);

/// Rights that are refused for so long are missing: an API server that has just begun refuses what it allows a moment later.
const REFUSED_FOR: Duration = Duration::from_secs(30);

/// While nothing is heard of the Job or its pods, the API server is asked so often whether it answers: a watch that goes on
/// does not say so, and a list may wait for ever.
const PROBE_EVERY: Duration = Duration::from_secs(5);

/// Lines on their way to the terminal.
const LINES: usize = 256;

/// What is heard of an application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// The driver has printed this.
    Line(Vec<u8>),
    /// Something for people: why it waits, or where it runs.
    Said(String),
}

/// What is followed.
#[derive(Clone)]
pub struct Followed {
    /// Where.
    pub cluster: Cluster,
    /// The application.
    pub app: AppId,
    /// Its Job.
    pub root: String,
    /// The driver is to run within that time.
    pub room_within: Duration,
}

/// Stays until the application has ended, and says how. What will never start is removed.
///
/// # Cancellation
/// The application goes on.
pub async fn follow(followed: &Followed, heard: &mut (dyn FnMut(Heard) + Send)) -> End {
    let mut following = Following::new(followed);
    let end = following.watch(heard).await;
    following.last_lines(heard).await;
    end
}

/// A pod that was seen.
struct Known {
    /// In which order it came.
    order: usize,
    /// As it was last.
    seen: Seen,
    /// It is there no more.
    gone: bool,
}

/// Why nothing is heard of the application.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Trouble {
    /// The API server does not answer.
    Away,
    /// It refuses, for this reason.
    Refused(String),
}

struct Following<'a> {
    followed: &'a Followed,
    began: Instant,
    job: Option<Job>,
    /// Pods by their uid.
    pods: BTreeMap<String, Known>,
    listed: Vec<Pod>,
    /// All pods that there were at the beginning are known: who looks later finds the end and the last pod at once.
    all_listed: bool,
    /// Which pods' logs are read.
    read: Vec<String>,
    readers: JoinSet<()>,
    lines: mpsc::Receiver<Heard>,
    sender: mpsc::Sender<Heard>,
    patience: Patience,
    told: driver::Told,
    told_at: Option<Instant>,
    job_since: Option<Instant>,
    deleted_since: Option<Instant>,
    trouble: Option<(Trouble, Instant)>,
    /// Since when there is trouble of any kind.
    unheard_since: Option<Instant>,
    probes: JoinSet<Result<(), Answer>>,
    probed_at: Instant,
    said: (String, Option<Instant>),
}

impl<'a> Following<'a> {
    fn new(followed: &'a Followed) -> Self {
        let (sender, lines) = mpsc::channel(LINES);
        Self {
            followed,
            began: Instant::now(),
            job: None,
            pods: BTreeMap::new(),
            listed: Vec::new(),
            all_listed: false,
            read: Vec::new(),
            readers: JoinSet::new(),
            lines,
            sender,
            patience: Patience::new(followed.room_within),
            told: driver::Told::default(),
            told_at: None,
            job_since: None,
            deleted_since: None,
            trouble: None,
            unheard_since: None,
            probes: JoinSet::new(),
            probed_at: Instant::now(),
            said: (String::new(), None),
        }
    }

    async fn watch(&mut self, heard: &mut (dyn FnMut(Heard) + Send)) -> End {
        let cluster = &self.followed.cluster;
        let of_job = Config::default().fields(&format!("metadata.name={}", self.followed.root)).timeout(WATCH_SECONDS);
        let of_pods = Config::default().labels(&select_driver(self.followed.app)).timeout(WATCH_SECONDS);
        let mut jobs = std::pin::pin!(watcher(cluster.api::<Job>(), of_job).default_backoff());
        let mut pods = std::pin::pin!(watcher(cluster.api::<Pod>(), of_pods).default_backoff());
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut job_seen = false;
        loop {
            tokio::select! {
                Some(line) = self.lines.recv() => {
                    pass_on(line, heard);
                    continue;
                }
                Some(event) = jobs.next() => self.job_event(event, &mut job_seen),
                Some(event) = pods.next() => self.pod_event(event),
                Some(probed) = self.probes.join_next() => match probed {
                    Ok(Ok(())) => (self.trouble, self.unheard_since) = (None, None),
                    Ok(Err(answer)) => self.note(&answer),
                    Err(error) => tracing::error!(%error, "a request to the API server ended badly"),
                },
                _ = look.tick() => {}
            }
            self.probe();
            self.read_logs();
            self.look_up_events().await;
            if let Some(end) = self.look(heard).await {
                return end;
            }
        }
    }

    fn job_event(&mut self, event: Result<Event<Job>, watcher::Error>, seen: &mut bool) {
        match event {
            Ok(Event::Init) => *seen = false,
            Ok(Event::InitApply(job) | Event::Apply(job)) => {
                *seen = true;
                self.job_since.get_or_insert_with(Instant::now);
                self.job = Some(job);
            }
            Ok(Event::InitDone) => {
                if !*seen {
                    self.deleted_since.get_or_insert_with(Instant::now);
                }
            }
            Ok(Event::Delete(job)) => {
                self.job = Some(job);
                self.deleted_since.get_or_insert_with(Instant::now);
            }
            Err(error) => self.broke(&error),
        }
    }

    fn pod_event(&mut self, event: Result<Event<Pod>, watcher::Error>) {
        match event {
            Ok(Event::Init) => self.listed.clear(),
            Ok(Event::InitApply(pod)) => self.listed.push(pod),
            Ok(Event::InitDone) => {
                let mut listed = std::mem::take(&mut self.listed);
                listed.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
                self.all_listed = true;
                let there: Vec<_> = listed.iter().filter_map(|pod| pod.metadata.uid.clone()).collect();
                listed.iter().for_each(|pod| self.seen(pod));
                let gone = self.pods.iter_mut().filter(|(uid, _)| !there.contains(uid));
                gone.for_each(|(_, known)| (known.seen.deleted, known.gone) = (true, true));
            }
            Ok(Event::Apply(pod)) => self.seen(&pod),
            Ok(Event::Delete(pod)) => {
                self.seen(&pod);
                if let Some(known) = pod.metadata.uid.as_ref().and_then(|uid| self.pods.get_mut(uid)) {
                    (known.seen.deleted, known.gone) = (true, true);
                }
            }
            Err(error) => self.broke(&error),
        }
    }

    fn seen(&mut self, pod: &Pod) {
        let Some(seen) = Seen::of_any(pod) else { return };
        let order = self.pods.get(&seen.uid).map_or(self.pods.len(), |known| known.order);
        self.pods.insert(seen.uid.clone(), Known { order, seen, gone: false });
    }

    fn broke(&mut self, error: &watcher::Error) {
        let answer = match error {
            watcher::Error::InitialListFailed(error)
            | watcher::Error::WatchStartFailed(error)
            | watcher::Error::WatchFailed(error) => answer(error),
            watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => return,
        };
        self.note(&answer);
    }

    /// Takes note of an answer that is none. Everything is asked again until it is answered.
    fn note(&mut self, answer: &Answer) {
        tracing::debug!(why = answer.message, "watch the application");
        let trouble = match judge(Request::Watch, answer) {
            Verdict::Stop { why } | Verdict::Unauthorized { why } | Verdict::Quota { why } => Trouble::Refused(why),
            Verdict::Away => Trouble::Away,
            // A version that is too old is listed anew.
            Verdict::Gone | Verdict::Exists | Verdict::Conflict | Verdict::Overloaded { .. } => return,
        };
        let since = match &self.trouble {
            Some((before, since)) if std::mem::discriminant(before) == std::mem::discriminant(&trouble) => *since,
            _ => Instant::now(),
        };
        self.trouble = Some((trouble, since));
        self.unheard_since.get_or_insert(since);
    }

    /// Asks for Job and pods whether they can be heard of.
    fn probe(&mut self) {
        let heard = self.trouble.is_none() && self.all_listed && (self.job.is_some() || self.deleted_since.is_some());
        if heard || !self.probes.is_empty() || self.probed_at.elapsed() < PROBE_EVERY {
            return;
        }
        self.probed_at = Instant::now();
        let Followed { cluster, app, root, .. } = self.followed.clone();
        self.probes.spawn(async move {
            let (jobs, pods): (Api<Job>, Api<Pod>) = (cluster.api(), cluster.api());
            let this = ListParams::default().fields(&format!("metadata.name={root}"));
            let driver = ListParams::default().labels(&select_driver(app));
            may_watch(&jobs, this).await?;
            may_watch(&pods, driver).await
        });
    }

    /// Nothing is heard of the application, and it is of no use to wait.
    fn cut_off(&self) -> Option<End> {
        let (trouble, since) = self.trouble.as_ref()?;
        let unheard = self.unheard_since.map_or(Duration::ZERO, |since| since.elapsed());
        match trouble {
            Trouble::Refused(why) if since.elapsed() > REFUSED_FOR => {
                let why = format!("cannot follow the application, which may go on: {why}");
                Some(End::unheard(exit::REFUSED, why))
            }
            Trouble::Away | Trouble::Refused(_) if unheard > AWAY_FOR => {
                let seconds = unheard.as_secs();
                let why = format!("the API server has not answered for {seconds} s; the application may go on");
                Some(End::unheard(exit::LOST, why))
            }
            Trouble::Away | Trouble::Refused(_) => None,
        }
    }

    /// Pods in the order in which they came.
    fn in_order(&self) -> Vec<Seen> {
        let mut pods: Vec<_> = self.pods.values().collect();
        pods.sort_by_key(|known| known.order);
        pods.into_iter().map(|known| known.seen.clone()).collect()
    }

    fn read_logs(&mut self) {
        for seen in self.in_order() {
            let begun = seen.container != Container::Waiting;
            if begun && !self.read.contains(&seen.uid) {
                self.read.push(seen.uid.clone());
                let (cluster, sender) = (self.followed.cluster.clone(), self.sender.clone());
                self.readers.spawn(async move {
                    let which = Which { follow: true, tail: None };
                    if let Err(answer) = log::read(&cluster, &seen.name, which, &sender).await {
                        tracing::warn!(pod = seen.name, why = answer.message, "read the driver's log");
                    }
                });
            }
        }
    }

    async fn look_up_events(&mut self) {
        let pod = self.in_order().pop().filter(|pod| !pod.deleted);
        let waits = match &pod {
            Some(pod) => pod.phase == Phase::Pending && pod.waiting.is_empty(),
            None => true,
        };
        let starting = self.job.as_ref().is_some_and(|job| standing_with(job, pod.as_ref()) == Standing::Starting);
        let after = if pod.is_some() { EVENTS_AFTER } else { JOB_EVENTS_AFTER };
        let due = self.told_at.map_or_else(
            || self.job_since.is_some_and(|since| since.elapsed() >= after),
            |at| at.elapsed() >= EVENTS_AFTER,
        );
        if !(waits && starting && due) {
            return;
        }
        self.told_at = Some(Instant::now());
        match (pod, self.job.as_ref().and_then(|job| job.metadata.uid.clone())) {
            (Some(pod), _) => self.told.pod = self.latest(&pod.uid, self.told.pod.clone()).await,
            (None, Some(uid)) => {
                let latest = events(&self.followed.cluster, &uid)
                    .await
                    .into_iter()
                    .rfind(|event| event.reason.as_deref() == Some("FailedCreate"));
                self.told.job = latest.and_then(|event| event.message);
            }
            (None, None) => {}
        }
    }

    /// The latest event about a pod; the clock of the one before goes on if it says the same.
    async fn latest(&self, uid: &str, before: Option<Note>) -> Option<Note> {
        let event = events(&self.followed.cluster, uid).await.pop()?;
        let (reason, message) = (event.reason.unwrap_or_default(), event.message.unwrap_or_default());
        let same = before.filter(|note| note.reason == reason);
        let since = same.map_or_else(|| self.now(), |note| note.since);
        Some(Note { reason, message, since })
    }

    fn now(&self) -> Timestamp {
        // From the beginning on: within u64 for half a billion years.
        Timestamp::from_millis(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    async fn look(&mut self, heard: &mut (dyn FnMut(Heard) + Send)) -> Option<End> {
        let cut_off = self.cut_off();
        if !self.all_listed && cut_off.is_none() {
            self.say(&[], &[], heard);
            return None;
        }
        let pods = self.in_order();
        if let Some(since) = self.deleted_since {
            // An end that was seen before goes before the end of the Job.
            if let Some(end) = self.job.as_ref().and_then(|job| driver::end(job, &pods)) {
                return Some(end);
            }
            let left = self.pods.values().any(|known| !known.gone && !known.seen.ended());
            return (!left || since.elapsed() > STOPPED_WITHIN).then(End::killed);
        }
        let end = self.job.as_ref().and_then(|job| driver::end(job, &pods));
        if let Some(end) = end.or(cut_off) {
            return Some(end);
        }
        let Some(job) = self.job.clone() else {
            self.say(&pods, &[], heard);
            return None;
        };
        let now = self.now();
        let waits = driver::waits(&job, pods.last(), &self.told, now);
        let end = self.patience.look(now, standing_with(&job, pods.last()), &waits);
        self.say(&pods, &waits, heard);
        if end.is_some()
            && let Err(error) = applications::remove_job(&self.followed.cluster, &job).await
        {
            heard(Heard::Said(format!("{error}; remove it with `vonk kill {}`", self.followed.app)));
        }
        end
    }

    /// Says what has changed, and what lasts every half minute.
    fn say(&mut self, pods: &[Seen], waits: &[Sentence], heard: &mut (dyn FnMut(Heard) + Send)) {
        let trouble = self.trouble.as_ref().filter(|(_, since)| since.elapsed() > Duration::from_secs(2));
        let (text, key, again) = match (trouble, waits, pods.last()) {
            (Some((Trouble::Away, since)), ..) => {
                let text =
                    format!("Kubernetes API unreachable for {} s; the application goes on", since.elapsed().as_secs());
                (text, "away".to_owned(), true)
            }
            (Some((Trouble::Refused(why), _)), ..) => {
                (format!("cannot follow the application: {why}"), why.clone(), true)
            }
            (None, [], Some(pod)) if pod.runs() => {
                let node = pod.node.clone().unwrap_or_else(|| "a node".to_owned());
                (format!("driver {} runs on {node}", pod.name), pod.uid.clone(), false)
            }
            (None, [], _) => return,
            (None, waits, _) => {
                let keys: Vec<_> = waits.iter().map(|sentence| sentence.key.as_str()).collect();
                (joined(waits), keys.join("; "), true)
            }
        };
        let due = again && self.said.1.is_none_or(|at| at.elapsed() >= SAY_EVERY);
        if key != self.said.0 || due {
            self.said = (key, Some(Instant::now()));
            heard(Heard::Said(text));
        }
    }

    /// What the driver has printed, and has not arrived yet.
    async fn last_lines(&mut self, heard: &mut (dyn FnMut(Heard) + Send)) {
        self.read_logs();
        let rest = async {
            loop {
                tokio::select! {
                    biased;
                    Some(line) = self.lines.recv() => pass_on(line, heard),
                    ended = self.readers.join_next() => if ended.is_none() { break },
                }
            }
            while let Ok(line) = self.lines.try_recv() {
                pass_on(line, heard);
            }
        };
        if timeout(LOG_WITHIN, rest).await.is_err() {
            heard(Heard::Said("the driver's last lines have not arrived".to_owned()));
        }
    }
}

/// That a log cannot be read is no news: why is said already.
fn pass_on(line: Heard, heard: &mut (dyn FnMut(Heard) + Send)) {
    if matches!(line, Heard::Line(_)) {
        heard(line);
    }
}

/// Selects the pods of a driver.
pub(crate) fn select_driver(app: AppId) -> String {
    format!("{APP}={app},{ROLE}={}", Role::Driver.word())
}

/// What was told about an object, oldest first; nothing if we may not know.
pub(crate) async fn events(cluster: &Cluster, uid: &str) -> Vec<Told> {
    let api: Api<Told> = cluster.api();
    let about = ListParams::default().fields(&format!("involvedObject.uid={uid}"));
    let mut events = match within(api.list(&about)).await {
        Ok(events) => events.items,
        Err(answer) => {
            tracing::debug!(why = answer.message, "list Events");
            return Vec::new();
        }
    };
    events.sort_by_key(when);
    events
}

/// When an event happened last.
pub(crate) fn when(event: &Told) -> Option<k8s_openapi::jiff::Timestamp> {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
    let times = [
        series,
        event.last_timestamp.as_ref().map(|time| time.0),
        event.event_time.as_ref().map(|time| time.0),
        event.metadata.creation_timestamp.as_ref().map(|time| time.0),
    ];
    times.into_iter().flatten().max()
}

#[cfg(test)]
mod tests {
    use http::Response;
    use kube::Client;
    use kube::client::Body;
    use tower::service_fn;

    use super::*;

    /// A cluster that gives this answer to everything; none at all if it is none.
    fn cluster(answer: Option<(u16, &'static str)>) -> Cluster {
        let service = service_fn(move |_: http::Request<Body>| async move {
            let Some((code, message)) = answer else { return std::future::pending().await };
            let status = serde_json::json!({
                "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": "Forbidden", "message": message,
            });
            let body = Body::from(status.to_string().into_bytes());
            Ok::<_, std::io::Error>(Response::builder().status(code).body(body).unwrap())
        });
        Cluster::with_client(Client::new(service, "test"), "test", false)
    }

    async fn followed(answer: Option<(u16, &'static str)>) -> (End, Vec<String>, Duration) {
        let (began, mut said) = (Instant::now(), Vec::new());
        let followed = Followed {
            cluster: cluster(answer),
            app: AppId(7),
            root: "vonk-a".into(),
            room_within: Duration::from_secs(600),
        };
        let mut heard = |heard| match heard {
            Heard::Said(text) => said.push(text),
            Heard::Line(line) => panic!("nobody prints {line:?}"),
        };
        let end = timeout(AWAY_FOR * 2, follow(&followed, &mut heard)).await.expect("it ends");
        (end, said, began.elapsed())
    }

    /// Its API server was gone right after the submission: whoever submitted waited for ever, and heard nothing.
    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_never_answers_is_given_up() {
        for answer in [None, Some((503, "away"))] {
            let (end, said, waited) = followed(answer).await;
            assert_eq!(end.code, exit::LOST, "{end:?}");
            assert!(waited < AWAY_FOR + Duration::from_secs(60), "{waited:?}");
            assert!(said[0].starts_with("Kubernetes API unreachable for "), "{said:?}");
        }
    }

    /// It read as an API server that is away, for ten minutes.
    #[tokio::test(start_paused = true)]
    async fn a_right_that_is_missing_is_named() {
        let message = r#"jobs.batch is forbidden: User "ada" cannot list resource "jobs" in API group "batch" in the namespace "test""#;
        let (end, said, waited) = followed(Some((403, message))).await;
        assert_eq!(end.code, exit::REFUSED, "{end:?}");
        let rule = "add this rule to the Role: {apiGroups: [batch], resources: [jobs], verbs: [list]}";
        assert!(end.why.ends_with(rule) && said[0].ends_with(rule), "{end:?} {said:?}");
        assert!(waited < REFUSED_FOR + Duration::from_secs(15), "{waited:?}");
    }
}
