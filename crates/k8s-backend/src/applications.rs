//! Which applications are there, how are they, and how are they removed?
//!
//! By their roots: a Job in cluster mode, a Lease in client mode. No server of ours keeps a list.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
/// A time of day: API objects say when they were made.
pub use k8s_openapi::jiff::Timestamp as Wall;
use kube::api::{Api, DeleteParams, ListParams, Preconditions, PropagationPolicy};
use model::Timestamp;
use model::ids::{AppId, ExecutorId};
use serde::Serialize;

use crate::access::Cluster;
use crate::answer::within;
use crate::cause::{self, Ours};
use crate::driver::{self, End, Standing, Told, standing, standing_with};
use crate::follow::{select_driver, when};
use crate::names::{self, APP, Role};
use crate::quantity::number;
use crate::refusal::Request;
use crate::request::{RequestError, ask, insist};
use crate::root::LASTS;
use crate::seen::{Container, Phase, Seen};
use crate::why::{self, Note, Sentence, Situation, Waiting};
use model::exit;

/// Events are listed so many at a time.
const EVENTS_AT_ONCE: u32 = 500;

/// So many times, no more: a thousand executors that start make five thousand of them.
const EVENT_LISTS: usize = 12;

/// Where the driver is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A pod of a Job.
    Cluster,
    /// Somebody's own process.
    Client,
}

/// An application, as one line of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Application {
    /// Its id.
    pub app: String,
    /// What people call it.
    pub name: String,
    /// Where the driver is.
    pub mode: Mode,
    /// How far it has come, in a word.
    pub state: String,
    /// Its root.
    pub root: String,
    /// Its namespace.
    pub namespace: String,
    /// When it was submitted, in RFC 3339.
    pub created: String,
    /// For how many seconds it has been there.
    pub age_seconds: u64,
}

/// The root of an application.
#[derive(Debug, Clone)]
pub enum Root {
    /// Of cluster mode.
    Job(Box<Job>),
    /// Of client mode.
    Lease(Box<Lease>),
}

/// Why an application cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The cluster refuses, or does not answer.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// There is none.
    #[error("find the application `{wanted}`: the namespace {namespace} has none of that id or name")]
    Unknown {
        /// What was asked for.
        wanted: String,
        /// Where.
        namespace: String,
    },
    /// There are many.
    #[error("find the application `{wanted}`: {} have this name: {}; name one by its id", found.len(), found.join(", "))]
    Many {
        /// What was asked for.
        wanted: String,
        /// Their ids.
        found: Vec<String>,
    },
}

impl FindError {
    /// The code with which a command ends.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Request(error) => error.exit_code(),
            Self::Unknown { .. } | Self::Many { .. } => exit::WRONG,
        }
    }
}

impl Root {
    fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::Job(job) => &job.metadata,
            Self::Lease(lease) => &lease.metadata,
        }
    }

    /// Its application.
    #[must_use]
    pub fn app(&self) -> Option<AppId> {
        self.metadata().labels.as_ref()?.get(APP)?.parse().ok()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or_default()
    }

    fn called(&self) -> &str {
        self.metadata().annotations.as_ref().and_then(|all| all.get(names::NAME)).map_or("", String::as_str)
    }

    /// How far it has come, in a word.
    #[must_use]
    pub fn state(&self, now: Wall) -> String {
        match self {
            Self::Job(job) => standing(job).word().to_owned(),
            Self::Lease(lease) if lease.metadata.deletion_timestamp.is_some() => "ending".to_owned(),
            Self::Lease(lease) => match unheard(lease, now) {
                Some(silent) if silent > LASTS => format!("silent for {}", ago(silent)),
                _ => "running".to_owned(),
            },
        }
    }

    /// As one line of a list; nothing if it is none of ours.
    #[must_use]
    pub fn application(&self, namespace: &str, now: Wall) -> Option<Application> {
        let created = self.metadata().creation_timestamp.clone().unwrap_or(Time(now)).0;
        Some(Application {
            app: self.app()?.to_string(),
            name: self.called().to_owned(),
            mode: match self {
                Self::Job(_) => Mode::Cluster,
                Self::Lease(_) => Mode::Client,
            },
            state: self.state(now),
            root: self.name().to_owned(),
            namespace: namespace.to_owned(),
            created: created.to_string(),
            age_seconds: age(created, now).as_secs(),
        })
    }
}

/// For how long a driver in client mode has said nothing.
#[must_use]
pub fn unheard(lease: &Lease, now: Wall) -> Option<Duration> {
    Some(age(lease.spec.as_ref()?.renew_time.as_ref()?.0, now))
}

fn age(then: Wall, now: Wall) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or_default()
}

/// A time in its largest unit.
#[must_use]
pub fn ago(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7_199 => format!("{} min", seconds / 60),
        seconds @ 7_200..=172_799 => format!("{} h", seconds / 3_600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// All roots in the namespace, the youngest first.
///
/// # Errors
/// The API server refuses or does not answer.
pub async fn roots(cluster: &Cluster, selector: &str) -> Result<Vec<Root>, RequestError> {
    let wanted = ListParams::default().labels(selector);
    let (jobs, leases): (Api<Job>, Api<Lease>) = (cluster.api(), cluster.api());
    // Whoever may see one kind only sees that.
    let jobs = ask("list Jobs", || jobs.list(&wanted)).await;
    let leases = ask("list Leases", || leases.list(&wanted)).await;
    let (jobs, leases) = match (jobs, leases) {
        (Err(error), Err(_)) | (Err(error @ RequestError::Unreachable { .. }), _) => return Err(error),
        (_, Err(error @ RequestError::Unreachable { .. })) => return Err(error),
        (jobs, leases) => (jobs.map(|list| list.items), leases.map(|list| list.items)),
    };
    let jobs = jobs.unwrap_or_default().into_iter().map(|job| Root::Job(Box::new(job)));
    let leases = leases.unwrap_or_default().into_iter().map(|lease| Root::Lease(Box::new(lease)));
    let mut roots: Vec<_> = jobs.chain(leases).filter(|root| root.app().is_some()).collect();
    roots.sort_by_key(|root| std::cmp::Reverse(root.app()));
    Ok(roots)
}

/// Finds an application by its id, its root's name, or what people call it.
///
/// # Errors
/// There is none or many, or the API server refuses or does not answer.
pub async fn find(cluster: &Cluster, wanted: &str) -> Result<Root, FindError> {
    let selector = match names::id_of(wanted) {
        Some(app) => format!("{},{APP}={app}", names::select_all()),
        None => names::select_all(),
    };
    let found = roots(cluster, &selector).await?;
    choose(found, wanted, cluster.namespace())
}

fn choose(mut roots: Vec<Root>, wanted: &str, namespace: &str) -> Result<Root, FindError> {
    let id = names::id_of(wanted);
    let exact = |root: &Root| (id.is_some() && root.app() == id) || root.name() == wanted;
    if let Some(index) = roots.iter().position(exact) {
        return Ok(roots.swap_remove(index));
    }
    roots.retain(|root| root.called() == wanted);
    let unfinished = |root: &Root| !matches!(root, Root::Job(job) if standing(job).ended());
    // Of many that were called so, the one that goes on is meant.
    if roots.iter().filter(|root| unfinished(root)).count() == 1 {
        roots.retain(unfinished);
    }
    match roots.len() {
        0 => Err(FindError::Unknown { wanted: wanted.to_owned(), namespace: namespace.to_owned() }),
        1 => Ok(roots.swap_remove(0)),
        _ => {
            let found = roots.iter().filter_map(Root::app).map(|app| app.to_string()).collect();
            Err(FindError::Many { wanted: wanted.to_owned(), found })
        }
    }
}

/// Deletes a root; Kubernetes then deletes what it owns. Its driver has 30 s for its last words.
///
/// # Errors
/// The API server refuses or does not answer.
pub async fn remove(cluster: &Cluster, root: &Root) -> Result<(), RequestError> {
    match root {
        Root::Job(job) => remove_job(cluster, job).await,
        Root::Lease(lease) => {
            let leases: Api<Lease> = cluster.api();
            let (name, params) = (root.name(), exactly(&lease.metadata));
            insist("delete the application's Lease", Request::Delete, || leases.delete(name, &params)).await.map(drop)
        }
    }
}

pub(crate) async fn remove_job(cluster: &Cluster, job: &Job) -> Result<(), RequestError> {
    let jobs: Api<Job> = cluster.api();
    let (name, params) = (job.metadata.name.clone().unwrap_or_default(), exactly(&job.metadata));
    insist("delete the application's Job", Request::Delete, || jobs.delete(&name, &params)).await.map(drop)
}

/// Deletes an application's pods at once: no last words.
///
/// # Errors
/// The API server refuses or does not answer.
pub async fn remove_pods(cluster: &Cluster, app: AppId) -> Result<(), RequestError> {
    let pods: Api<Pod> = cluster.api();
    let all = ListParams::default().labels(&format!("{APP}={app}"));
    let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    insist("delete the application's pods", Request::Delete, || pods.delete_collection(&at_once, &all)).await.map(drop)
}

/// This object and what it owns, but no other of its name.
fn exactly(metadata: &ObjectMeta) -> DeleteParams {
    DeleteParams {
        propagation_policy: Some(PropagationPolicy::Background),
        preconditions: Some(Preconditions { uid: metadata.uid.clone(), resource_version: None }),
        ..DeleteParams::default()
    }
}

/// A pod of an application, as one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PodLine {
    /// `driver`, or the executor: `e3`.
    pub who: String,
    /// Its name.
    pub pod: String,
    /// Where it is.
    pub node: String,
    /// How far it has come, in a word.
    pub state: String,
}

/// How an application is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The application.
    #[serde(flatten)]
    pub application: Application,
    /// Its pods: the driver's first.
    pub pods: Vec<PodLine>,
    /// What waits and why, the worst first.
    pub waits: Vec<String>,
    /// How it ended, if it has.
    pub end: Option<End>,
}

/// Everything about an application that the API server knows.
#[derive(Debug, Clone)]
pub struct Seeing {
    /// Its root.
    pub root: Root,
    /// Its driver's pods, the latest last.
    pub drivers: Vec<Pod>,
    /// Its executors.
    pub executors: Vec<Pod>,
    /// What else was told of the namespace's objects, as far as it was looked up.
    pub events: Vec<Event>,
}

/// Looks at an application.
///
/// # Errors
/// The API server refuses or does not answer.
pub async fn see(cluster: &Cluster, root: Root) -> Result<Seeing, RequestError> {
    let Some(app) = root.app() else { return Ok(Seeing::of(root)) };
    let pods: Api<Pod> = cluster.api();
    let of = |selector: String| ListParams::default().labels(&selector);
    let (of_driver, of_executors) = (of(select_driver(app)), of(names::select_executors(app)));
    let mut drivers = ask("list the driver's pods", || pods.list(&of_driver)).await?.items;
    drivers.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
    let mut executors = ask("list executors", || pods.list(&of_executors)).await?.items;
    executors.sort_by_key(|pod| names::executor_of(pod, app));
    Ok(Seeing { drivers, executors, ..Seeing::of(root) })
}

/// Events of the namespace; and why these are not all, if so.
pub(crate) async fn events(cluster: &Cluster) -> (Vec<Event>, Option<String>) {
    let api: Api<Event> = cluster.api();
    let (mut events, mut next) = (Vec::new(), ListParams::default().limit(EVENTS_AT_ONCE));
    for _ in 0..EVENT_LISTS {
        let list = match within(api.list(&next)).await {
            Ok(list) => list,
            Err(answer) => return (events, Some(answer.message)),
        };
        events.extend(list.items);
        match list.metadata.continue_.filter(|more| !more.is_empty()) {
            Some(more) => next = next.continue_token(&more),
            None => return (events, None),
        }
    }
    let why = format!("there are more than {}", events.len());
    (events, Some(why))
}

/// The latest that Events tell of pods, by the pod's uid.
pub(crate) type Notes = BTreeMap<String, Note>;

/// Why an application is not further, the worst first.
pub(crate) struct Waits {
    pub(crate) driver: Vec<Sentence>,
    pub(crate) executors: Vec<Sentence>,
}

impl Seeing {
    /// Without pods.
    pub(crate) fn of(root: Root) -> Self {
        Self { root, drivers: Vec::new(), executors: Vec::new(), events: Vec::new() }
    }

    /// Looks up what Events tell, where something waits that does not say why. Whoever may not list them knows less.
    pub async fn look_up_events(&mut self, cluster: &Cluster) {
        if !self.waits_unsaid() {
            return;
        }
        let (events, why) = events(cluster).await;
        if let Some(why) = why {
            tracing::debug!(why, "list Events");
        }
        self.events = events;
    }

    /// Whether something waits of which neither Job nor pods say why.
    fn waits_unsaid(&self) -> bool {
        let unsaid = |seen: &Seen| {
            let waits = seen.phase == Phase::Pending && !seen.deleted;
            waits && why::reason(&Waiting { seen, note: None }, "").is_none()
        };
        let driver = match &self.root {
            Root::Job(job) => {
                let pod = self.driver();
                standing_with(job, pod.as_ref()) == Standing::Starting && pod.as_ref().is_none_or(unsaid)
            }
            Root::Lease(_) => false,
        };
        driver || self.executors.iter().filter_map(Seen::of_any).any(|seen| unsaid(&seen))
    }

    /// How far it has come, in a word.
    #[must_use]
    pub fn state(&self, now: Wall) -> String {
        match &self.root {
            Root::Job(job) => standing_with(job, self.driver().as_ref()).word().to_owned(),
            Root::Lease(_) => self.root.state(now),
        }
    }

    /// The driver's latest pod.
    fn driver(&self) -> Option<Seen> {
        self.drivers.last().and_then(Seen::of_any)
    }

    /// What of it concerns a person.
    #[must_use]
    pub fn status(&self, namespace: &str, now: Wall) -> Option<Status> {
        let app = self.root.app()?;
        let drivers: Vec<Seen> = self.drivers.iter().filter_map(Seen::of_any).collect();
        let executors: Vec<Seen> = self.executors.iter().filter_map(|pod| Seen::of(pod, app)).collect();
        let end = match &self.root {
            Root::Job(job) => driver::end(job, &drivers),
            Root::Lease(_) => None,
        };
        let Waits { driver, executors: of_executors } = self.waits(&self.events, now);
        let waits = driver.into_iter().chain(of_executors);
        let line = |who: String, seen: &Seen| PodLine {
            who,
            pod: seen.name.clone(),
            node: seen.node.clone().unwrap_or_default(),
            state: pod_state(seen),
        };
        let lines = drivers.iter().map(|seen| line("driver".to_owned(), seen));
        Some(Status {
            application: Application { state: self.state(now), ..self.root.application(namespace, now)? },
            pods: lines.chain(executors.iter().map(|seen| line(seen.executor.to_string(), seen))).collect(),
            waits: waits.map(|sentence| sentence.text).collect(),
            end,
        })
    }

    /// What waits and why, with what Events tell: of pods, and of a Job that could not make its pod.
    pub(crate) fn waits(&self, events: &[Event], now: Wall) -> Waits {
        let (notes, clock) = (notes(events, now), clock(now));
        let driver = match &self.root {
            Root::Job(job) => {
                let pod = self.driver();
                let of_pod = pod.as_ref().and_then(|pod| notes.get(&pod.uid)).cloned();
                driver::waits(job, pod.as_ref(), &Told { pod: of_pod, job: not_created(job, events) }, clock)
            }
            Root::Lease(_) => Vec::new(),
        };
        let of = |app| self.executors.iter().filter_map(move |pod| Seen::of(pod, app));
        let executors: Vec<Seen> = self.root.app().map(|app| of(app).collect()).unwrap_or_default();
        let situation = Situation { now: clock, ..situation(&self.executors, &executors) };
        Waits { driver, executors: why::sentences(&situation, &waiting(&executors, &notes)) }
    }

    /// Why executors ended whose pods are still there.
    #[must_use]
    pub fn ends(&self) -> Vec<String> {
        let Some(app) = self.root.app() else { return Vec::new() };
        let ended =
            self.executors.iter().filter_map(|pod| Some((pod, Seen::of(pod, app)?))).filter(|(_, seen)| seen.ended());
        ended.map(|(pod, seen)| cause::judge(seen.executor, Some(&seen), ours(pod)).why).collect()
    }

    /// The pod whose log is wanted: the driver's, or that of an executor in its latest epoch.
    #[must_use]
    pub fn pod(&self, executor: Option<ExecutorId>) -> Option<&Pod> {
        match (executor, self.root.app()) {
            (None, _) => self.drivers.last(),
            (Some(wanted), Some(app)) => {
                let of = |pod: &&Pod| names::executor_of(pod, app).is_some_and(|(_, executor)| executor == wanted);
                self.executors.iter().filter(of).max_by_key(|pod| names::executor_of(pod, app))
            }
            (Some(_), None) => None,
        }
    }
}

/// A time of day as the clock of what waits: before 1970 there was no cluster.
fn clock(time: Wall) -> Timestamp {
    Timestamp::from_millis(u64::try_from(time.as_millisecond()).unwrap_or_default())
}

fn notes(events: &[Event], now: Wall) -> Notes {
    let mut latest: BTreeMap<String, (Option<Wall>, Note)> = BTreeMap::new();
    for event in events {
        let Some(uid) = event.involved_object.uid.clone() else { continue };
        let happened = when(event);
        let note = Note {
            reason: event.reason.clone().unwrap_or_default(),
            message: event.message.clone().unwrap_or_default(),
            since: clock(event.first_timestamp.as_ref().map(|time| time.0).or(happened).unwrap_or(now)),
        };
        match latest.get(&uid) {
            Some((before, _)) if *before > happened => {}
            _ => drop(latest.insert(uid, (happened, note))),
        }
    }
    latest.into_iter().map(|(uid, (_, note))| (uid, note)).collect()
}

/// Why a Job could not make its pod, as it was told last.
fn not_created(job: &Job, events: &[Event]) -> Option<String> {
    let about = |event: &&Event| {
        event.reason.as_deref() == Some("FailedCreate") && event.involved_object.uid == job.metadata.uid
    };
    events.iter().filter(about).max_by_key(|event| when(event)).and_then(|event| event.message.clone())
}

fn ours(pod: &Pod) -> Ours {
    let memory = limit(pod, "memory");
    // Others saw what became of it; a drained executor ends with 0 and is deleted at once.
    Ours { memory, ..Ours::default() }
}

fn limit(pod: &Pod, name: &str) -> u64 {
    let ours = pod.spec.iter().flat_map(|spec| &spec.containers).find(|container| container.name == names::CONTAINER);
    let limits = ours.and_then(|container| container.resources.as_ref()?.limits.as_ref());
    limits.and_then(|limits| number(limits.get(name)?)).unwrap_or(0.0) as u64
}

/// What is known of executors without their driver: how many it wants, only it knows.
fn situation(pods: &[Pod], executors: &[Seen]) -> Situation {
    let first = pods.first();
    let container = first.and_then(|pod| pod.spec.as_ref()?.containers.iter().find(|c| c.name == names::CONTAINER));
    let cores = container.and_then(|container| number(container.resources.as_ref()?.requests.as_ref()?.get("cpu")?));
    Situation {
        running: executors.iter().filter(|seen| seen.runs()).count() as u32,
        wanted: executors.iter().filter(|seen| !seen.ended()).count() as u32,
        cores: cores.unwrap_or(0.0) as u32,
        memory: first.map_or(0, |pod| limit(pod, "memory")),
        image: container.and_then(|container| container.image.clone()).unwrap_or_default(),
        ..Situation::default()
    }
}

fn waiting<'a>(executors: &'a [Seen], notes: &'a Notes) -> Vec<Waiting<'a>> {
    let pending = executors.iter().filter(|seen| seen.phase == Phase::Pending && !seen.deleted);
    pending.map(|seen| Waiting { seen, note: notes.get(&seen.uid) }).collect()
}

/// How far a pod has come, in a few words.
fn pod_state(seen: &Seen) -> String {
    match (&seen.container, seen.phase) {
        (Container::Terminated { exit_code, reason, .. }, _) => match reason.as_str() {
            "" | "Error" | "Completed" => format!("ended with {exit_code}"),
            reason => format!("ended with {exit_code} ({reason})"),
        },
        _ if seen.deleted => "being deleted".to_owned(),
        (_, Phase::Failed) if !seen.reason.is_empty() => seen.reason.clone(),
        (_, Phase::Failed) => "failed".to_owned(),
        (_, Phase::Succeeded) => "ended".to_owned(),
        (Container::Running, _) => "running".to_owned(),
        (Container::Waiting, _) => "pending".to_owned(),
    }
}

/// Which label says what an application's pods are for.
#[must_use]
pub fn is_driver(pod: &Pod) -> bool {
    pod.metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(names::ROLE))
        .is_some_and(|role| role == Role::Driver.word())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use kube::Client;
    use kube::client::Body;
    use serde_json::{Value, json};
    use tower::service_fn;

    use super::*;
    use crate::driver::tests::job;
    use crate::manifest;
    use crate::pod::tests::executor_pods;

    const NOW: &str = "2026-01-01T12:00:00Z";

    fn now() -> Wall {
        NOW.parse().unwrap()
    }

    /// The Job of an application, called so.
    pub(crate) fn root(app: AppId, name: &str, status: &str) -> Root {
        let mut job = job(status);
        job.metadata.name = Some(names::root(app));
        job.metadata.labels = Some(names::labels(app, Role::Driver));
        job.metadata.annotations.get_or_insert_default().insert(names::NAME.into(), name.into());
        job.metadata.creation_timestamp = Some(Time("2026-01-01T11:00:00Z".parse().unwrap()));
        Root::Job(Box::new(job))
    }

    fn lease(app: AppId, renewed: &str) -> Root {
        let lease: Lease = manifest::read(&format!(
            "{{metadata: {{name: {}, creationTimestamp: '2026-01-01T11:00:00Z'}}, spec: {{renewTime: '{renewed}'}}}}",
            names::root(app)
        ))
        .unwrap();
        let mut lease = lease;
        lease.metadata.labels = Some(names::labels(app, Role::Driver));
        Root::Lease(Box::new(lease))
    }

    #[test]
    fn an_application_is_found_by_id_root_or_name() {
        let roots = || {
            vec![
                root(AppId(1), "nightly", "{active: 1, ready: 1}"),
                root(AppId(2), "nightly", "{conditions: [{type: Complete, status: 'True'}]}"),
                root(AppId(3), "twice", "{active: 1}"),
                root(AppId(4), "twice", "{active: 1}"),
            ]
        };
        let chosen = |wanted: &str| choose(roots(), wanted, "team-a").map(|root| root.app().unwrap().0);
        assert_eq!(chosen(&AppId(2).to_string()).unwrap(), 2);
        assert_eq!(chosen(&names::root(AppId(3))).unwrap(), 3);
        let mut keyed = root(AppId(5), "keyed", "{active: 1}");
        let Root::Job(job) = &mut keyed else { panic!("it is one") };
        job.metadata.name = Some("vonk-kx-1".into());
        assert_eq!(choose(vec![keyed], &names::root(AppId(5)), "team-a").unwrap().app(), Some(AppId(5)), "as most are");
        assert_eq!(chosen("nightly").unwrap(), 1, "the one that runs");
        let error = chosen("twice").unwrap_err().to_string();
        assert!(error.contains("2 have this name") && error.contains(&AppId(4).to_string()), "{error}");
        let error = chosen("weekly").unwrap_err().to_string();
        assert_eq!(error, "find the application `weekly`: the namespace team-a has none of that id or name");
    }

    #[test]
    fn a_list_says_how_far_each_has_come() {
        let roots = [
            root(AppId(1), "nightly", "{active: 1, ready: 1}"),
            lease(AppId(2), "2026-01-01T11:59:50.000000Z"),
            lease(AppId(3), "2026-01-01T11:40:00.000000Z"),
        ];
        let rows = roots.map(|root| root.application("a", now()).unwrap());
        let said: Vec<_> = rows.iter().map(|row| (row.state.as_str(), row.mode, row.age_seconds)).collect();
        assert_eq!(
            said,
            [
                ("running", Mode::Cluster, 3_600),
                ("running", Mode::Client, 3_600),
                ("silent for 20 min", Mode::Client, 3_600)
            ]
        );
    }

    #[test]
    fn a_status_says_what_waits() {
        let app = executor_pods().of.app;
        let mut waiting = executor_pods().pod(1, &Default::default());
        waiting.metadata.uid = Some("u".into());
        waiting.status = Some(manifest::read("{phase: Pending, conditions: [{type: PodScheduled, status: 'False', reason: Unschedulable, message: '0/2 nodes are available: 2 Insufficient cpu.'}]}").unwrap());
        let mut ended = executor_pods().pod(2, &Default::default());
        ended.metadata.uid = Some("v".into());
        ended.status = Some(manifest::read("{phase: Failed, containerStatuses: [{name: vonk, image: a, imageID: a, ready: false, restartCount: 0, state: {terminated: {exitCode: 137, reason: OOMKilled}}}]}").unwrap());
        let root = root(app, "nightly", "{active: 1, ready: 1}");
        let seeing = Seeing { executors: vec![waiting, ended], ..Seeing::of(root) };
        let status = seeing.status("a", now()).unwrap();
        assert_eq!(
            status.waits,
            ["waiting for room: 1 executor of 2 cpu, 4 GiB: 0/2 nodes are available: 2 Insufficient cpu"]
        );
        let states: Vec<_> = status.pods.iter().map(|pod| (pod.who.as_str(), pod.state.as_str())).collect();
        assert_eq!(states, [("e1", "pending"), ("e2", "ended with 137 (OOMKilled)")]);
        assert_eq!(seeing.ends(), ["e2 exceeded its memory limit of 4.0 GiB: raise --executor-memory"]);
        assert!(seeing.pod(Some(ExecutorId(2))).is_some() && seeing.pod(None).is_none());
    }

    /// A cluster with these events, two at a time; which may not be listed if there are none. Counts how often it is asked.
    fn told(events: Vec<Value>) -> (Cluster, Arc<AtomicUsize>) {
        let asked = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&asked);
        let service = service_fn(move |request: http::Request<Body>| {
            count.fetch_add(1, Ordering::Relaxed);
            let query = request.uri().query().unwrap_or_default();
            let begin = query.split('&').find_map(|part| part.strip_prefix("continue=")?.parse().ok()).unwrap_or(0);
            let end = events.len().min(begin + 2);
            let (code, body) = match events.is_empty() {
                true => (403, json!({ "kind": "Status", "status": "Failure", "code": 403, "message": "no" })),
                false => {
                    let more = if end < events.len() { end.to_string() } else { String::new() };
                    (200, json!({ "metadata": { "continue": more }, "items": events[begin..end] }))
                }
            };
            assert!(request.uri().path().ends_with("/namespaces/test/events"), "{}", request.uri());
            let body = Body::from(body.to_string().into_bytes());
            async move { Ok::<_, std::io::Error>(http::Response::builder().status(code).body(body).unwrap()) }
        });
        (Cluster::with_client(Client::new(service, "test"), "test", false), asked)
    }

    fn event(uid: &str, reason: &str, message: &str, second: u32) -> Value {
        let time = format!("2026-01-01T11:59:{second:02}Z");
        json!({ "metadata": { "name": format!("{uid}.{second}") }, "involvedObject": { "uid": uid }, "reason": reason,
            "message": message, "firstTimestamp": time, "lastTimestamp": time })
    }

    async fn waits(mut seeing: Seeing, cluster: &Cluster) -> Vec<String> {
        seeing.look_up_events(cluster).await;
        seeing.status("test", now()).unwrap().waits
    }

    #[tokio::test]
    async fn a_status_says_what_only_events_tell() {
        let app = executor_pods().of.app;
        let of_job = |message: &str| {
            vec![
                event("j", "FailedCreate", &format!("Error creating: pods \"vonk-a-x\" is forbidden: {message}"), 50),
                event("j", "FailedCreate", "Error creating: pods \"vonk-a-x\" is forbidden: earlier", 40),
                event("x", "FailedCreate", "another's", 55),
            ]
        };
        let mut said = Vec::new();
        for message in [
            "exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2",
            "error looking up service account a/vonk-driver: serviceaccount \"vonk-driver\" not found",
            "violates PodSecurity \"restricted:latest\": privileged (container \"vonk\" must not set it)",
        ] {
            let (cluster, asked) = told(of_job(message));
            said.extend(waits(Seeing::of(root(app, "nightly", "{active: 1}")), &cluster).await);
            assert_eq!(asked.load(Ordering::Relaxed), 2, "two lists");
        }
        let pod = |n: u64, uid: &str| {
            let mut pod = executor_pods().pod(n, &Default::default());
            pod.metadata.uid = Some(uid.into());
            pod.status = Some(manifest::read("{phase: Pending}").unwrap());
            pod
        };
        let executors = || vec![pod(1, "e"), pod(2, "f")];
        let running = || root(app, "nightly", "{active: 1, ready: 1}");
        let mount = "MountVolume.SetUp failed for volume \"s\" : secret \"db\" not found";
        let (cluster, _) = told(vec![event("e", "FailedMount", mount, 50), event("f", "Pulling", "Pulling image", 19)]);
        said.extend(waits(Seeing { executors: executors(), ..Seeing::of(running()) }, &cluster).await);
        insta::assert_snapshot!(said.join("\n"), @r#"
        the driver pod waits: exceeded quota: q, used: pods=2, limited: pods=2
        cannot create the driver pod: pods "vonk-a-x" is forbidden: error looking up service account a/vonk-driver: serviceaccount "vonk-driver" not found
        cannot create the driver pod: pods "vonk-a-x" is forbidden: violates PodSecurity "restricted:latest": privileged (container "vonk" must not set it): take what it forbids out of the template, or use another namespace
        cannot start e1: secret "db" not found
        pulling image r/vonk:9 (41 s)
        "#);

        let (cluster, asked) = told(Vec::new());
        assert_eq!(waits(Seeing { executors: executors(), ..Seeing::of(running()) }, &cluster).await, [""; 0]);
        assert_eq!(asked.load(Ordering::Relaxed), 1, "without the right, it is only shorter");
        assert_eq!(waits(Seeing::of(running()), &cluster).await, [""; 0]);
        assert_eq!(asked.load(Ordering::Relaxed), 1, "nothing waits");
    }
}
