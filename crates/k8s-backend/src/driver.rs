//! What do a Job and its pods say of the driver?
//!
//! How far it has come, why it is not further, how it ended, and how long to wait for it. No I/O and no clock.

use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Container as PodContainer;
use model::Timestamp;

use crate::cause::OWN_DISK;
use crate::job::QUEUE;
use crate::names::{self, CONTAINER};
use crate::quantity::number;
use crate::refusal::{Answer, Request, Verdict, judge};
use crate::seen::{Container, Phase, Seen};
use crate::sweep::HALF_MADE_AFTER;
use crate::why::{Hope, MENDS_WITHIN, Note, Reason, Sentence, Waiting, lasting, reason, size};
use model::exit;

/// How far a Job has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Its submitter has not made everything that it needs.
    HalfMade,
    /// A queue holds it.
    Queued,
    /// Its driver does not run yet.
    Starting,
    /// Its driver runs.
    Running,
    /// Somebody has deleted it.
    Ending,
    /// It has ended well.
    Succeeded,
    /// It has ended badly.
    Failed,
}

impl Standing {
    /// In a word or two.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::HalfMade => "submitting",
            Self::Queued => "queued",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Ending => "ending",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }

    /// Whether nothing will follow.
    #[must_use]
    pub fn ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// How far a Job has come, by itself and by its last pod: a Job does not count a pod whose sidecar is not ready.
#[must_use]
pub fn standing_with(job: &Job, pod: Option<&Seen>) -> Standing {
    match standing(job) {
        Standing::Starting if pod.is_some_and(|pod| pod.runs() && !pod.deleted) => Standing::Running,
        standing => standing,
    }
}

/// How far a Job has come, by itself.
#[must_use]
pub fn standing(job: &Job) -> Standing {
    let spec = job.spec.as_ref();
    let annotations = job.metadata.annotations.as_ref();
    let complete = annotations.is_some_and(|annotations| annotations.contains_key(names::COMPLETE));
    let status = job.status.as_ref();
    match () {
        () if condition(job, "Complete").is_some() => Standing::Succeeded,
        () if condition(job, "Failed").is_some() => Standing::Failed,
        () if job.metadata.deletion_timestamp.is_some() => Standing::Ending,
        () if !complete => Standing::HalfMade,
        () if spec.is_some_and(|spec| spec.suspend == Some(true)) => Standing::Queued,
        () if status.is_some_and(|status| status.ready.unwrap_or(0) > 0) => Standing::Running,
        () => Standing::Starting,
    }
}

/// Why a Job has a condition, in a word and in a sentence, if it has it.
fn condition<'a>(job: &'a Job, type_: &str) -> Option<(&'a str, &'a str)> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|condition| condition.type_ == type_ && condition.status == "True")?;
    Some((condition.reason.as_deref().unwrap_or_default(), condition.message.as_deref().unwrap_or_default()))
}

/// How an application ended.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct End {
    /// With which exit code.
    pub code: u8,
    /// Why, in one sentence; empty if all is well.
    pub why: String,
    /// Job or pods have told it. Otherwise whoever followed them has given up, and the application may go on.
    #[serde(skip)]
    pub told: bool,
}

impl End {
    /// Told by Job or pods.
    #[must_use]
    pub fn new(code: u8, why: impl Into<String>) -> Self {
        Self { code, why: why.into(), told: true }
    }

    /// Nothing is heard of it.
    #[must_use]
    pub fn unheard(code: u8, why: impl Into<String>) -> Self {
        Self { told: false, ..Self::new(code, why) }
    }

    /// Its Job was deleted.
    #[must_use]
    pub fn killed() -> Self {
        Self::new(exit::KILLED, "the application was killed: its Job was deleted")
    }

    /// Its submitter died before it was complete.
    #[must_use]
    pub fn half_made() -> Self {
        Self::new(exit::LOST, "whoever submitted the application has not finished: submit it again")
    }
}

/// How an application ended, by its Job and its pods as they were last seen, the latest last; nothing if it has not.
#[must_use]
pub fn end(job: &Job, pods: &[Seen]) -> Option<End> {
    if condition(job, "Complete").is_some() {
        return Some(End::new(exit::DONE, ""));
    }
    let (reason, message) = condition(job, "Failed")?;
    if reason == "DeadlineExceeded" {
        return Some(End::new(exit::TIMED_OUT, "the driver ran longer than --timeout, and a minute more"));
    }
    Some(match pods.last() {
        Some(pod) => pod_end(pod, memory(job)),
        None => End::new(exit::LOST, format!("the driver pod is gone, and nobody saw why: {message}")),
    })
}

/// How a driver's pod ended.
fn pod_end(pod: &Seen, memory: u64) -> End {
    let Container::Terminated { exit_code, reason, message } = &pod.container else { return without_code(pod) };
    let last = last_line(message);
    match (*exit_code, reason.as_str()) {
        (_, "OOMKilled") => {
            let limit = size(memory);
            End::new(exit::FAILED, format!("the driver exceeded its memory limit of {limit}: raise --driver-memory"))
        }
        (137 | 143, _) => match taken(pod) {
            Some(end) => end,
            None if pod.deleted => End::new(exit::LOST, "driver pod was deleted"),
            None => End::new(exit::LOST, format!("the driver was ended from outside (exit code {exit_code})")),
        },
        (81, _) => End::new(exit::LOST, format!("the driver pod could not fetch its program{last}")),
        (82, _) => End::new(exit::LOST, format!("the driver pod fetched a program with another hash{last}")),
        (83, _) => End::new(exit::REFUSED, format!("the driver pod could not execute its program{last}")),
        (84, _) => End::new(exit::REFUSED, format!("the store refuses the driver pod{last}")),
        (126..=128, _) | (_, "StartError" | "ContainerCannotRun") => {
            let why = format!(
                "the driver pod could not start: exit code {exit_code}{last}; does its image have vonk-driver?"
            );
            End::new(exit::REFUSED, why)
        }
        (101, _) => End::new(exit::FAILED, format!("the program panicked{last}")),
        (134, _) => End::new(exit::FAILED, format!("the driver crashed: abort{last}")),
        (139, _) => End::new(exit::FAILED, format!("the driver crashed: segmentation fault{last}")),
        // The Job has failed all the same: it was not the last word.
        (0, _) => End::new(exit::LOST, "the driver pod ended well, and its Job did not"),
        (code, _) => {
            let code = u8::try_from(code).unwrap_or(exit::FAILED);
            End::new(code, format!("the driver ended with exit code {code}: {}", exit::meaning(code)))
        }
    }
}

/// Of its container nothing is said.
fn without_code(pod: &Seen) -> End {
    if let Some((name, code, message)) = &pod.init_failed {
        let why = format!(
            "the driver pod could not start: its init container {name} ended with {code}{}",
            last_line(message)
        );
        return End::new(exit::REFUSED, why);
    }
    match taken(pod) {
        Some(end) => end,
        None if pod.deleted => End::new(exit::LOST, "driver pod was deleted"),
        None => End::new(exit::LOST, "the driver pod is gone, and nobody saw why"),
    }
}

/// The cluster has taken the pod, and says so.
fn taken(pod: &Seen) -> Option<End> {
    if pod.reason == "Evicted" && OWN_DISK.iter().any(|phrase| pod.message.contains(phrase)) {
        let why =
            format!("the driver pod was evicted for what it wrote: {}; raise k8s.driver.disk", pod.message.trim());
        return Some(End::new(exit::FAILED, why));
    }
    let (reason, message) = match pod.condition("DisruptionTarget", "True") {
        Some(condition) => (condition.reason.as_str(), condition.message.as_str()),
        None if pod.reason.is_empty() => return None,
        None => (pod.reason.as_str(), pod.message.as_str()),
    };
    let message = message.trim();
    let message = if message.is_empty() { String::new() } else { format!(": {message}") };
    Some(End::new(exit::LOST, format!("the driver pod was taken by the cluster ({reason}){message}")))
}

fn last_line(message: &str) -> String {
    match message.lines().map(str::trim).rfind(|line| !line.is_empty()) {
        Some(line) => format!("; its last line: {}", line.chars().take(300).collect::<String>()),
        None => String::new(),
    }
}

/// What Kubernetes told of things that have no status for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// The latest about the pod.
    pub pod: Option<Note>,
    /// Why the Job could not make its pod.
    pub job: Option<String>,
}

/// Why the driver does not run, the worst reason first. Empty once it runs.
#[must_use]
pub fn waits(job: &Job, pod: Option<&Seen>, told: &Told, now: Timestamp) -> Vec<Sentence> {
    match standing_with(job, pod) {
        Standing::Succeeded | Standing::Failed | Standing::Running => return Vec::new(),
        Standing::Ending => return vec![lasting("the driver is being stopped".to_owned(), Hope::Waits)],
        Standing::HalfMade => {
            return vec![lasting("whoever submits the application has not finished yet".to_owned(), Hope::Waits)];
        }
        Standing::Queued => return vec![lasting(format!("held by {}", holder(job)), Hope::Waits)],
        Standing::Starting => {}
    }
    if let Some(why) = told.job.as_deref().filter(|_| pod.is_none()) {
        return vec![not_created(why)];
    }
    let Some(pod) = pod.filter(|pod| pod.phase == Phase::Pending) else { return Vec::new() };
    let image = container(job).and_then(|container| container.image.clone()).unwrap_or_default();
    let found = reason(&Waiting { seen: pod, note: told.pod.as_ref() }, &image);
    found.map(|reason| say(&reason, job, pod, &image, told, now)).into_iter().collect()
}

/// The Job controller says of a pod that it could not create what the API server said to it.
fn not_created(message: &str) -> Sentence {
    let message = message.trim().trim_start_matches("Error creating: ").to_owned();
    let answer = Answer { code: 403, message, ..Answer::default() };
    match judge(Request::Create, &answer) {
        Verdict::Quota { why } => lasting(format!("the driver pod waits: {why}"), Hope::Waits),
        Verdict::Stop { why } | Verdict::Unauthorized { why } => {
            lasting(format!("cannot create the driver pod: {}", driver_keys(&why)), Hope::None)
        }
        _ => lasting(format!("cannot create the driver pod: {}", answer.message), Hope::Hardly),
    }
}

/// Advice names keys of executors, which are most pods.
fn driver_keys(why: &str) -> String {
    why.replace("k8s.executor.", "k8s.driver.")
        .replace("executor.cores", "k8s.driver.cores")
        .replace("change executor.memory", "change k8s.driver.memory")
        .replace("what executors ask for", "what the driver asks for")
}

fn say(reason: &Reason, job: &Job, pod: &Seen, image: &str, told: &Told, now: Timestamp) -> Sentence {
    let on = pod.node.as_ref().map(|node| format!(" on {node}")).unwrap_or_default();
    match reason {
        Reason::NoUse { image, message } => lasting(format!("cannot use image {image}: {message}"), Hope::None),
        Reason::NoPull { image, message } => lasting(format!("cannot pull image {image}{on}: {message}"), Hope::Hardly),
        Reason::NoStart { message } => lasting(format!("cannot start the driver{on}: {message}"), Hope::Hardly),
        Reason::NotYet { message } => lasting(format!("cannot start the driver{on} yet: {message}"), Hope::Waits),
        Reason::Unschedulable { message } => {
            lasting(format!("waiting for room: the driver of {}: {message}", asked(job)), Hope::Waits)
        }
        Reason::Gated { by } => lasting(format!("held by {by}"), Hope::Waits),
        Reason::Pulling => {
            let key = format!("pulling image {image}{on}");
            let since = told.pod.as_ref().map_or(now, |note| note.since);
            Sentence { text: format!("{key} ({} s)", now.since(since).as_secs()), key, hope: Hope::Waits }
        }
    }
}

fn holder(job: &Job) -> String {
    let queue = job.metadata.labels.as_ref().and_then(|labels| labels.get(QUEUE));
    queue.map_or_else(|| "whoever has suspended its Job".to_owned(), |queue| format!("queue {queue}"))
}

fn container(job: &Job) -> Option<&PodContainer> {
    let spec = job.spec.as_ref()?.template.spec.as_ref()?;
    spec.containers.iter().find(|container| container.name == CONTAINER)
}

fn asked(job: &Job) -> String {
    let requests = container(job).and_then(|container| container.resources.as_ref()?.requests.as_ref());
    let cores = requests.and_then(|requests| requests.get("cpu")).map_or("?", |cores| cores.0.as_str());
    format!("{cores} cpu, {}", size(memory(job)))
}

fn memory(job: &Job) -> u64 {
    let limits = container(job).and_then(|container| container.resources.as_ref()?.limits.as_ref());
    // A float beyond u64 is no memory.
    limits.and_then(|limits| number(limits.get("memory")?)).unwrap_or(0.0) as u64
}

/// Decides when waiting is over.
#[derive(Debug, Clone)]
pub struct Patience {
    room_within: Duration,
    waiting_since: Option<Timestamp>,
    hardly_since: Option<Timestamp>,
    half_made_since: Option<Timestamp>,
}

impl Patience {
    /// The driver is to run within that time.
    #[must_use]
    pub fn new(room_within: Duration) -> Self {
        Self { room_within, waiting_since: None, hardly_since: None, half_made_since: None }
    }

    /// Hears why the driver does not run, and says with what the application ends if that has lasted for too long.
    pub fn look(&mut self, now: Timestamp, standing: Standing, waits: &[Sentence]) -> Option<End> {
        let since = |since: &mut Option<Timestamp>, lasts: bool| {
            *since = lasts.then(|| since.unwrap_or(now));
            since.map_or(Duration::ZERO, |since| now.since(since))
        };
        let why = || crate::why::joined(waits);
        let hope = waits.iter().map(|sentence| sentence.hope).max();
        let hardly = since(&mut self.hardly_since, hope == Some(Hope::Hardly));
        let half_made = since(&mut self.half_made_since, standing == Standing::HalfMade);
        // A queue holds as long as it pleases.
        let held = waits.iter().any(|sentence| sentence.text.starts_with("held by "));
        let waiting = since(&mut self.waiting_since, standing == Standing::Starting && !held);
        match () {
            () if hope == Some(Hope::None) => Some(End::new(exit::REFUSED, why())),
            () if hardly >= MENDS_WITHIN => Some(End::new(exit::REFUSED, why())),
            () if half_made >= HALF_MADE_AFTER => Some(End::half_made()),
            () if waiting >= self.room_within => {
                let after = self.room_within.as_secs();
                let why = if waits.is_empty() { "its pod does not start".to_owned() } else { why() };
                Some(End::new(exit::NO_ROOM, format!("the driver does not run after {after} s: {why}")))
            }
            () => None,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::manifest;

    /// A Job as it is listed, with a status in YAML.
    pub(crate) fn job(status: &str) -> Job {
        let text = format!(
            "{{metadata: {{name: vonk-a, uid: j, annotations: {{vonk.dev/complete: 'true'}}}},
              spec: {{suspend: false, template: {{spec: {{containers: [{{name: vonk, image: 'r/vonk:9',
                resources: {{requests: {{cpu: 500m}}, limits: {{memory: 2Gi}}}}}}]}}}}}},
              status: {status}}}"
        );
        manifest::read(&text).unwrap()
    }

    /// A driver's pod with a status in YAML.
    pub(crate) fn pod(status: &str) -> Seen {
        let text = format!(
            "{{metadata: {{name: vonk-a-x, uid: u}}, spec: {{nodeName: node-a, containers: []}}, status: {status}}}"
        );
        Seen::of_any(&manifest::read(&text).unwrap()).unwrap()
    }

    fn failed(reason: &str) -> Job {
        job(&format!("{{conditions: [{{type: Failed, status: 'True', reason: {reason}, message: m}}]}}"))
    }

    fn exited(code: i32, reason: &str, more: &str) -> Seen {
        pod(&format!(
            "{{phase: Failed{more}, containerStatuses: [{{name: vonk, image: a, imageID: a, ready: false, restartCount: 0,
              state: {{terminated: {{exitCode: {code}, reason: {reason}, message: 'one\ntwo\n'}}}}}}]}}"
        ))
    }

    #[test]
    fn every_end_has_its_code() {
        let deleted = |pod: Seen| Seen { deleted: true, ..pod };
        let preempted = ", conditions: [{type: DisruptionTarget, status: 'True', reason: PreemptionByScheduler, message: for another}]";
        let node = ", reason: Evicted, message: 'The node was low on resource: memory.'";
        let pressure = ", reason: Evicted, message: 'The node had condition: [DiskPressure]. '";
        let disk = ", reason: Evicted, message: 'Usage of EmptyDir volume \"vonk-work\" exceeds the limit \"2Gi\".'";
        let rows = [
            ("the program", exited(1, "Error", "")),
            ("its own code", exited(3, "Error", "")),
            ("configuration", exited(2, "Error", "")),
            ("no room", exited(75, "Error", "")),
            ("refused", exited(78, "Error", "")),
            ("timeout", exited(124, "Error", "")),
            ("panic", exited(101, "Error", "")),
            ("fault", exited(139, "Error", "")),
            ("memory", exited(137, "OOMKilled", "")),
            ("deleted", deleted(exited(143, "Error", ""))),
            ("deleted before it ran", deleted(pod("{phase: Pending}"))),
            ("from outside", exited(137, "Error", "")),
            ("preempted", deleted(exited(143, "Error", preempted))),
            ("the node's memory", exited(137, "Error", node)),
            ("the node's disk", exited(137, "Error", pressure)),
            ("its own disk", exited(137, "Error", disk)),
            ("not fetched", exited(81, "Error", "")),
            ("not executed", exited(83, "Error", "")),
            ("refused by the store", exited(84, "Error", "")),
            ("no such command", exited(128, "StartError", "")),
            ("vanished", pod("{phase: Running}")),
        ];
        let lines = rows.map(|(row, pod)| {
            let End { code, why, .. } = end(&failed("PodFailurePolicy"), &[pod]).unwrap();
            format!("{row}: {code}: {why}")
        });
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn a_job_says_what_pods_do_not() {
        let running = job("{active: 1, ready: 1}");
        assert_eq!(end(&running, &[]), None);
        let done = job("{conditions: [{type: Complete, status: 'True'}]}");
        assert_eq!(end(&done, &[]), Some(End::new(0, "")));
        assert_eq!(end(&failed("DeadlineExceeded"), &[exited(143, "Error", "")]).unwrap().code, exit::TIMED_OUT);
        assert_eq!(end(&failed("BackoffLimitExceeded"), &[]).unwrap().code, exit::LOST);
        // The latest pod counts.
        let pods = [exited(137, "Error", ""), exited(1, "Error", "")];
        assert_eq!(end(&failed("PodFailurePolicy"), &pods).unwrap().code, exit::FAILED);
    }

    #[test]
    fn a_job_is_as_far_as_it_says() {
        assert_eq!(standing(&job("{active: 1}")), Standing::Starting);
        assert_eq!(standing(&job("{active: 1, ready: 1}")), Standing::Running);
        assert_eq!(standing(&failed("x")), Standing::Failed);
        let unready = "{phase: Running, containerStatuses: [
            {name: vonk, image: a, imageID: a, ready: true, restartCount: 0, state: {running: {}}},
            {name: beside, image: b, imageID: b, ready: false, restartCount: 0, state: {terminated: {exitCode: 1}}}]}";
        let unready = pod(unready);
        assert_eq!(standing_with(&job("{active: 1, ready: 0}"), Some(&unready)), Standing::Running);
        assert_eq!(standing_with(&failed("x"), Some(&unready)), Standing::Failed);
        let lost = Seen { deleted: true, ..unready };
        assert_eq!(standing_with(&job("{active: 1, ready: 0}"), Some(&lost)), Standing::Starting, "on a dead node");
        let mut queued = job("{}");
        queued.spec.as_mut().unwrap().suspend = Some(true);
        assert_eq!(standing(&queued), Standing::Queued);
        queued.metadata.annotations = None;
        assert_eq!(standing(&queued), Standing::HalfMade);
    }

    fn said(job: &Job, pod: Option<&Seen>, told: &Told) -> String {
        let line = |sentence: &Sentence| format!("{:?}: {}", sentence.hope, sentence.text);
        waits(job, pod, told, Timestamp::from_millis(41_000)).iter().map(line).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn why_a_driver_waits() {
        let starting = job("{active: 1}");
        let nothing = Told::default();
        let told = |message: &str| Told { job: Some(message.into()), pod: None };
        let room = pod("{phase: Pending, conditions: [{type: PodScheduled, status: 'False', reason: Unschedulable,
            message: '0/2 nodes are available: 2 Insufficient memory. preemption: 0/2 nodes are available.'}]}");
        let image = pod("{phase: Pending, containerStatuses: [{name: vonk, image: 'r/vonk:9', imageID: '', ready: false, restartCount: 0,
            state: {waiting: {reason: ErrImagePull, message: 'rpc error: code = NotFound desc = r/vonk:9: not found'}}}]}");
        let pulling = Told {
            job: None,
            pod: Some(Note { reason: "Pulling".into(), message: String::new(), since: Timestamp::default() }),
        };
        let mut queued = job("{}");
        queued.spec.as_mut().unwrap().suspend = Some(true);
        queued.metadata.labels = Some([(QUEUE.to_owned(), "team-a".to_owned())].into());
        let quota = "Error creating: pods \"vonk-a-x\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2";
        let cpu = "Error creating: pods \"vonk-a-x\" is forbidden: failed quota: q: must specify limits.cpu for: vonk";
        let account = "Error creating: pods \"vonk-a-x\" is forbidden: error looking up service account a/vonk-driver: serviceaccount \"vonk-driver\" not found";
        insta::assert_snapshot!(
            [
                said(&starting, Some(&room), &nothing),
                said(&starting, Some(&image), &nothing),
                said(&starting, Some(&pod("{phase: Pending}")), &pulling),
                said(&queued, None, &nothing),
                said(&starting, None, &told(quota)),
                said(&starting, None, &told(cpu)),
                said(&starting, None, &told(account)),
            ]
            .join("\n")
        );
        assert_eq!(said(&job("{active: 1, ready: 1}"), Some(&pod("{phase: Running}")), &nothing), "");
    }

    #[test]
    fn waiting_ends_as_its_reason_says() {
        let at = Timestamp::from_millis;
        let look = |sentence: Sentence, ms: u64| {
            let mut patience = Patience::new(Duration::from_secs(600));
            assert_eq!(patience.look(at(0), Standing::Starting, &[]), None);
            let first = patience.look(at(1_000), Standing::Starting, std::slice::from_ref(&sentence));
            first.or_else(|| patience.look(at(ms), Standing::Starting, &[sentence])).map(|end| end.code)
        };
        let lasts = |hope| lasting("because".into(), hope);
        assert_eq!(look(lasts(Hope::None), 1_001), Some(exit::REFUSED));
        assert_eq!(look(lasts(Hope::Hardly), 60_999), None);
        assert_eq!(look(lasts(Hope::Hardly), 61_000), Some(exit::REFUSED));
        assert_eq!(look(lasts(Hope::Waits), 599_999), None);
        assert_eq!(look(lasts(Hope::Waits), 600_000), Some(exit::NO_ROOM));
        assert_eq!(look(lasting("held by queue a".into(), Hope::Waits), 9_000_000), None);
        let mut patience = Patience::new(Duration::from_secs(600));
        assert_eq!(patience.look(at(0), Standing::HalfMade, &[]), None);
        assert_eq!(patience.look(at(600_000), Standing::HalfMade, &[]).map(|end| end.code), Some(exit::LOST));
    }
}
