//! What is wrong with an application, the worst first?

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Pod, ResourceQuota};
use k8s_openapi::jiff::Timestamp as Wall;
use kube::api::{Api, ListParams, LogParams};
use serde::Serialize;

use crate::access::Cluster;
use crate::answer::within;
use crate::applications::{self, Mode, Root, Seeing, Waits, ago, unheard};
use crate::driver::{self, Standing, standing};
use crate::follow::when;
use crate::names::CONTAINER;
use crate::quantity::number;
use crate::request::RequestError;
use crate::root::LASTS;
use crate::seen::Seen;
use crate::sweep;
use model::exit;

/// Lines of a log that are shown.
const LINES: i64 = 10;

/// Logs of so many executors are looked at: more say the same.
const EXECUTORS: usize = 3;

/// Events that are shown.
const EVENTS: usize = 10;

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The application has failed of it, or will.
    Fatal,
    /// It is slower for it, or may fail of it.
    Warning,
    /// It is good to know.
    Note,
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// In one sentence.
    pub says: String,
    /// Lines that belong to it: of a log.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<String>,
}

impl Finding {
    /// One without lines.
    #[must_use]
    pub fn new(severity: Severity, says: impl Into<String>) -> Self {
        Self { severity, says: says.into(), lines: Vec::new() }
    }
}

/// What was gathered besides pods.
#[derive(Debug, Clone, Default)]
pub struct Gathered {
    /// Events of the namespace.
    pub events: Vec<Event>,
    /// Its quotas.
    pub quotas: Vec<ResourceQuota>,
    /// The last lines of pods, by the pod's name.
    pub logs: BTreeMap<String, Vec<String>>,
    /// What could not be looked at, and why.
    pub unseen: Vec<String>,
}

/// Looks at everything that may say something. What we may not see is no error.
///
/// # Errors
/// The API server does not answer.
pub async fn gather(cluster: &Cluster, seeing: &Seeing) -> Result<Gathered, RequestError> {
    let mut gathered = Gathered::default();
    let (events, why) = applications::events(cluster).await;
    gathered.events = events;
    gathered.unseen.extend(why.map(|why| format!("Events: {why}")));
    let quotas: Api<ResourceQuota> = cluster.api();
    let all = ListParams::default().limit(1_000);
    match within(quotas.list(&all)).await {
        Ok(list) => gathered.quotas = list.items,
        Err(answer) => gathered.unseen.push(format!("quotas: {}", answer.message)),
    }
    let pods: Api<Pod> = cluster.api();
    let bad = seeing.executors.iter().filter(|pod| Seen::of_any(pod).is_some_and(|seen| seen.ended())).take(EXECUTORS);
    for pod in seeing.drivers.last().into_iter().chain(bad) {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let params =
            LogParams { container: Some(CONTAINER.to_owned()), tail_lines: Some(LINES), ..LogParams::default() };
        // A container that has not begun has no log.
        if let Ok(text) = within(pods.logs(&name, &params)).await {
            gathered.logs.insert(name, text.lines().map(str::to_owned).collect());
        }
    }
    Ok(gathered)
}

/// What is wrong, the worst first; a note that nothing is, if nothing is. `told` is what others know: the store, the driver.
#[must_use]
pub fn findings(seeing: &Seeing, gathered: &Gathered, told: Vec<Finding>, namespace: &str, now: Wall) -> Vec<Finding> {
    let mut findings = told;
    let waits = seeing.waits(&gathered.events, now);
    match &seeing.root {
        Root::Job(_) => of_driver(seeing, gathered, &waits, &mut findings),
        Root::Lease(lease) => {
            if let Some(silent) = unheard(lease, now).filter(|silent| *silent > LASTS) {
                let says = format!(
                    "its driver, a process outside of this namespace, has said nothing for {}: it is dead, asleep, or cut off from the API server; its executors end by themselves, and `vonk gc` removes the rest after {}",
                    ago(silent),
                    ago(sweep::STALE_AFTER)
                );
                findings.push(Finding::new(Severity::Fatal, says));
            }
        }
    }
    of_executors(seeing, gathered, &waits, (namespace, now), &mut findings);
    findings.extend(gathered.quotas.iter().flat_map(of_quota));
    findings.extend(of_events(seeing, gathered, now));
    let unseen = gathered.unseen.iter().map(|what| Finding::new(Severity::Note, format!("not looked at: {what}")));
    findings.extend(unseen);
    // The driver says the same, and since when.
    let mut said: Vec<String> = Vec::new();
    findings.retain(|finding| {
        let again = said.iter().any(|before| before.starts_with(&finding.says));
        said.push(finding.says.clone());
        !again
    });
    if findings.iter().all(|finding| finding.severity == Severity::Note) {
        let says = match seeing.state(now).as_str() {
            "succeeded" => "it has succeeded: nothing is wrong".to_owned(),
            state => format!("it is {state}: nothing is wrong"),
        };
        findings.insert(0, Finding::new(Severity::Note, says));
    }
    // What was found first stays first among equals.
    findings.sort_by_key(|finding| finding.severity);
    findings
}

fn of_driver(seeing: &Seeing, gathered: &Gathered, waits: &Waits, findings: &mut Vec<Finding>) {
    let Root::Job(job) = &seeing.root else { return };
    let drivers: Vec<Seen> = seeing.drivers.iter().filter_map(Seen::of_any).collect();
    let log = || {
        let name = seeing.drivers.last().and_then(|pod| pod.metadata.name.clone()).unwrap_or_default();
        gathered.logs.get(&name).cloned().unwrap_or_default()
    };
    if let Some(end) = driver::end(job, &drivers).filter(|end| end.code != exit::DONE) {
        let says = format!("it has ended with exit code {}: {}", end.code, end.why);
        findings.push(Finding { lines: log(), ..Finding::new(Severity::Fatal, says) });
    }
    let severity = match standing(job) {
        Standing::Queued | Standing::HalfMade => Severity::Note,
        _ => Severity::Fatal,
    };
    findings.extend(waits.driver.iter().map(|sentence| Finding::new(severity, sentence.text.clone())));
    if drivers.len() > 1 {
        let says = format!("its driver was started {} times: the program has begun anew each time", drivers.len());
        findings.push(Finding::new(Severity::Warning, says));
    }
}

fn of_executors(
    seeing: &Seeing,
    gathered: &Gathered,
    waits: &Waits,
    (namespace, now): (&str, Wall),
    findings: &mut Vec<Finding>,
) {
    let none_runs = !seeing.executors.iter().any(|pod| Seen::of_any(pod).is_some_and(|seen| seen.runs()));
    let severity = if none_runs { Severity::Fatal } else { Severity::Warning };
    findings.extend(waits.executors.iter().map(|wait| Finding::new(severity, wait.text.clone())));
    let ended: Vec<_> =
        seeing.executors.iter().filter(|pod| Seen::of_any(pod).is_some_and(|seen| seen.ended())).collect();
    for (pod, says) in ended.iter().zip(seeing.ends()) {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let lines = gathered.logs.get(&name).cloned().unwrap_or_default();
        findings.push(Finding { lines, ..Finding::new(Severity::Warning, says) });
    }
    if seeing.root.application(namespace, now).is_some_and(|application| application.mode == Mode::Cluster)
        && ended.len() > EXECUTORS
    {
        findings.push(Finding::new(Severity::Warning, format!("{} executors have ended badly", ended.len())));
    }
}

/// What of a quota is used up.
pub(crate) fn of_quota(quota: &ResourceQuota) -> Vec<Finding> {
    let Some(status) = &quota.status else { return Vec::new() };
    let name = quota.metadata.name.clone().unwrap_or_default();
    let (hard, used) = (status.hard.iter().flatten(), status.used.clone().unwrap_or_default());
    let full = hard.filter_map(|(resource, hard)| {
        let used = used.get(resource)?;
        (number(used)? >= number(hard)?).then(|| format!("{resource}: {} of {}", used.0, hard.0))
    });
    let full: Vec<_> = full.collect();
    match full.is_empty() {
        true => Vec::new(),
        false => vec![Finding::new(Severity::Warning, format!("quota {name} is used up: {}", full.join(", ")))],
    }
}

/// Warnings about the root and its pods, the latest of each reason: messages differ by the pod's name alone.
fn of_events(seeing: &Seeing, gathered: &Gathered, now: Wall) -> Vec<Finding> {
    let root = seeing.root.name();
    let ours = |event: &&Event| {
        let name = event.involved_object.name.as_deref().unwrap_or_default();
        // A pod of a Job has its name and more, and so has an executor unless a key has named the Job.
        let executor = seeing.root.app().is_some_and(|app| name.starts_with(&format!("vonk-{app}-")));
        name == root || name.strip_prefix(root).is_some_and(|rest| rest.starts_with('-')) || executor
    };
    let warnings = gathered.events.iter().filter(ours).filter(|event| event.type_.as_deref() == Some("Warning"));
    let mut reasons: BTreeMap<&str, (Wall, i32, &str)> = BTreeMap::new();
    for event in warnings {
        let happened = when(event).unwrap_or(Wall::MIN);
        let (last, count, message) =
            reasons.entry(event.reason.as_deref().unwrap_or_default()).or_insert((Wall::MIN, 0, ""));
        if happened >= *last {
            (*last, *message) = (happened, event.message.as_deref().unwrap_or_default());
        }
        *count += event.count.unwrap_or(1).max(1);
    }
    let mut reasons: Vec<_> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, (last, ..))| std::cmp::Reverse(*last));
    let mut said = Vec::new();
    for (reason, (last, count, message)) in reasons.into_iter().take(EVENTS) {
        let times = if count > 1 { format!(", {count} times") } else { String::new() };
        let age = Duration::try_from(now.duration_since(last)).unwrap_or_default();
        let says = format!("event {reason}, {} ago{times}: {}", ago(age), message.trim());
        said.push(Finding::new(Severity::Note, says));
    }
    said
}

#[cfg(test)]
mod tests {
    use model::ids::AppId;

    use super::*;
    use crate::applications::tests::root;
    use crate::manifest;
    use crate::pod::tests::executor_pods;

    fn text(seeing: &Seeing, gathered: &Gathered) -> String {
        text_told(seeing, gathered, Vec::new())
    }

    fn text_told(seeing: &Seeing, gathered: &Gathered, told: Vec<Finding>) -> String {
        let now = "2026-01-01T12:00:00Z".parse().unwrap();
        let say = |finding: Finding| {
            let lines: String = finding.lines.iter().map(|line| format!("\n    {line}")).collect();
            format!("{:?}: {}{lines}", finding.severity, finding.says)
        };
        findings(seeing, gathered, told, "a", now).into_iter().map(say).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_worst_comes_first_with_its_last_lines() {
        let app = executor_pods().of.app;
        let failed = "{conditions: [{type: Failed, status: 'True', reason: PodFailurePolicy, message: m}]}";
        let driver: Pod = manifest::read(
            "{metadata: {name: vonk-x-abc, uid: d}, spec: {containers: []}, status: {phase: Failed, containerStatuses:
              [{name: vonk, image: a, imageID: a, ready: false, restartCount: 0, state: {terminated: {exitCode: 101, message: last}}}]}}",
        )
        .unwrap();
        let mut executor = executor_pods().pod(2, &Default::default());
        executor.metadata.uid = Some("e".into());
        executor.status = Some(manifest::read("{phase: Failed, containerStatuses: [{name: vonk, image: a, imageID: a, ready: false, restartCount: 0, state: {terminated: {exitCode: 137, reason: OOMKilled}}}]}").unwrap());
        let name = executor.metadata.name.clone().unwrap();
        let seeing =
            Seeing { drivers: vec![driver], executors: vec![executor], ..Seeing::of(root(app, "nightly", failed)) };
        let event = |name: &str, type_: &str, count: u32| -> Event {
            manifest::read(&format!(
                "{{metadata: {{name: {count}-x}}, involvedObject: {{name: {name}}}, type: {type_}, reason: BackOff, message: again, count: {count}, lastTimestamp: '2026-01-01T11:59:00Z'}}"
            ))
            .unwrap()
        };
        let quota = "{metadata: {name: q}, status: {hard: {pods: '2', cpu: '4'}, used: {pods: '2', cpu: 500m}}}";
        let gathered = Gathered {
            events: vec![
                event(&name, "Warning", 3),
                event(&name, "Warning", 4),
                event("other", "Warning", 1),
                event(&name, "Normal", 2),
            ],
            quotas: vec![manifest::read(quota).unwrap()],
            logs: BTreeMap::from([("vonk-x-abc".to_owned(), vec!["one".to_owned(), "last".to_owned()])]),
            unseen: Vec::new(),
        };
        insta::assert_snapshot!(text(&seeing, &gathered), @r"
        Fatal: it has ended with exit code 1: the program panicked; its last line: last
            one
            last
        Warning: e2 exceeded its memory limit of 4.0 GiB: raise --executor-memory
        Warning: quota q is used up: pods: 2 of 2
        Note: event BackOff, 60 s ago, 7 times: again
        ");
    }

    #[test]
    fn that_nothing_is_wrong_is_said_too() {
        let seeing = Seeing::of(root(AppId(1), "a", "{active: 1, ready: 1}"));
        let gathered = Gathered { unseen: vec!["Events: forbidden".into()], ..Gathered::default() };
        insta::assert_snapshot!(text(&seeing, &gathered), @r"
        Note: it is running: nothing is wrong
        Note: not looked at: Events: forbidden
        ");
    }

    #[test]
    fn what_only_events_and_the_driver_know_is_said() {
        let app = executor_pods().of.app;
        let mut executor = executor_pods().pod(1, &Default::default());
        executor.metadata.uid = Some("e".into());
        executor.status = Some(manifest::read("{phase: Pending}").unwrap());
        let mut other = executor_pods().pod(2, &Default::default());
        other.metadata.uid = Some("f".into());
        other.status = Some(manifest::read("{phase: Pending}").unwrap());
        let executors = vec![executor, other];
        let seeing = Seeing { executors, ..Seeing::of(root(app, "nightly", "{active: 1, ready: 1}")) };
        let event = |uid: &str, reason: &str, message: &str, at: &str| -> Event {
            manifest::read(&format!(
                "{{metadata: {{name: {uid}-{at}}}, involvedObject: {{uid: {uid}}}, reason: {reason}, message: '{message}', firstTimestamp: '2026-01-01T11:59:{at}Z', lastTimestamp: '2026-01-01T11:59:{at}Z'}}"
            ))
            .unwrap()
        };
        let gathered = Gathered {
            events: vec![
                event("e", "FailedMount", "MountVolume.SetUp failed for volume \"s\" : secret \"db\" not found", "50"),
                event("e", "Scheduled", "on node-a", "40"),
                event("f", "Pulling", "Pulling image", "19"),
            ],
            ..Gathered::default()
        };
        let quota = "running with 2 of 10 executors: exceeded quota: q, used: pods=2, limited: pods=2 (for 40 s)";
        let told = vec![
            Finding::new(Severity::Warning, quota),
            Finding::new(Severity::Fatal, "cannot start e1: secret \"db\" not found (for 9 s)"),
        ];
        insta::assert_snapshot!(text_told(&seeing, &gathered, told), @r#"
        Fatal: cannot start e1: secret "db" not found (for 9 s)
        Fatal: pulling image r/vonk:9 (41 s)
        Warning: running with 2 of 10 executors: exceeded quota: q, used: pods=2, limited: pods=2 (for 40 s)
        "#);
    }
}
