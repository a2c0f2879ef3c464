//! Why are wanted executors not there yet?
//!
//! One sentence for each reason, in Kubernetes' own words, with a count; and whether it is of any use to wait.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model::Timestamp;
use model::ids::ExecutorId;

use crate::seen::Seen;

/// How long what waiting hardly ever mends may last before it counts as refused: a registry may stumble, and somebody may
/// be about to create a Secret.
pub const MENDS_WITHIN: Duration = Duration::from_secs(60);

/// Nodes that are named in a sentence; of more, the number is enough.
const NODES: usize = 3;

/// What Kubernetes told about a pod, besides its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// In a word, as `Pulling` or `FailedMount`.
    pub reason: String,
    /// In a sentence.
    pub message: String,
    /// When we heard of it first.
    pub since: Timestamp,
}

/// An executor that does not run yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting<'a> {
    /// Its pod as it was last seen.
    pub seen: &'a Seen,
    /// The latest that was told about it.
    pub note: Option<&'a Note>,
}

/// What concerns all executors.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Situation {
    /// What time it is.
    pub now: Timestamp,
    /// Executors that run.
    pub running: u32,
    /// Executors that are wanted.
    pub wanted: u32,
    /// CPUs that each requests.
    pub cores: u32,
    /// Bytes of memory that each requests.
    pub memory: u64,
    /// The image of executors.
    pub image: String,
    /// The quota that is full, in its own words.
    pub quota: Option<String>,
    /// Since when the API server does not answer.
    pub away_since: Option<Timestamp>,
    /// More are wanted than may be reached through the API server: as many as that.
    pub forward_max: Option<u32>,
}

/// What comes of waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hope {
    /// There may be room at any time.
    Waits,
    /// It lasts until somebody does something; after [`MENDS_WITHIN`] it counts as refused.
    Hardly,
    /// It will never be.
    None,
}

/// One reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sentence {
    /// For people.
    pub text: String,
    /// The same without what changes from second to second: two with the same key say the same.
    pub key: String,
    /// What comes of waiting.
    pub hope: Hope,
}

/// Why a pod does not run yet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    NoUse { image: String, message: String },
    NoPull { image: String, message: String },
    NoStart { message: String },
    NotYet { message: String },
    Unschedulable { message: String },
    Gated { by: String },
    Pulling,
}

/// All reasons, the worst first. Empty if nothing is waited for.
#[must_use]
pub fn sentences(situation: &Situation, waiting: &[Waiting<'_>]) -> Vec<Sentence> {
    let mut sentences = Vec::new();
    if let Some(since) = situation.away_since {
        let (seconds, running) = (situation.now.since(since).as_secs(), executors(situation.running));
        sentences.push(Sentence {
            text: format!("Kubernetes API unreachable for {seconds} s; {running} go on"),
            key: "away".to_owned(),
            hope: Hope::Waits,
        });
    }
    let mut groups: BTreeMap<Reason, Vec<&Waiting<'_>>> = BTreeMap::new();
    for pod in waiting {
        if let Some(reason) = reason(pod, &situation.image) {
            groups.entry(reason).or_default().push(pod);
        }
    }
    one_of_room(&mut groups);
    sentences.extend(groups.iter().map(|(reason, pods)| say(reason, pods, situation)));
    if let Some(quota) = &situation.quota {
        let (running, wanted) = (situation.running, executors(situation.wanted));
        sentences.push(lasting(format!("running with {running} of {wanted}: {quota}"), Hope::Waits));
    }
    if let Some(max) = situation.forward_max {
        let text = format!(
            "a driver outside the cluster reaches at most {max} executors (k8s.forward_max): use --deploy-mode cluster for more"
        );
        sentences.push(lasting(text, Hope::Waits));
    }
    sentences.sort_by_key(|sentence| std::cmp::Reverse(sentence.hope));
    sentences
}

/// All executors ask for the same: that a scheduler says different things of them shows only when it looked at each. What it says
/// of most is said of all.
fn one_of_room(groups: &mut BTreeMap<Reason, Vec<&Waiting<'_>>>) {
    let no_room: Vec<_> = groups.extract_if(.., |reason, _| matches!(reason, Reason::Unschedulable { .. })).collect();
    let said = no_room.iter().max_by_key(|(_, pods)| pods.len()).map(|(reason, _)| reason.clone());
    if let Some(said) = said {
        groups.insert(said, no_room.into_iter().flat_map(|(_, pods)| pods).collect());
    }
}

/// On one line.
#[must_use]
pub fn joined(sentences: &[Sentence]) -> String {
    sentences.iter().map(|sentence| sentence.text.as_str()).collect::<Vec<_>>().join("; ")
}

pub(crate) fn lasting(text: String, hope: Hope) -> Sentence {
    Sentence { key: text.clone(), text, hope }
}

pub(crate) fn reason(pod: &Waiting<'_>, image: &str) -> Option<Reason> {
    let seen = pod.seen;
    if let Some(waiting) = seen.waiting.first() {
        // What the kubelet calls the image has lost its tag when it could not be read.
        let image = if waiting.image.is_empty() { image.to_owned() } else { waiting.image.clone() };
        let message = last_part(&waiting.message).to_owned();
        return Some(match waiting.reason.as_str() {
            "InvalidImageName" => Reason::NoUse { image, message },
            "ErrImageNeverPull" => Reason::NoUse { image, message: waiting.message.clone() },
            "ErrImagePull" | "ImagePullBackOff" | "ImageInspectError" | "RegistryUnavailable" => {
                Reason::NoPull { image, message }
            }
            reason if waiting.message.is_empty() => Reason::NoStart { message: reason.to_owned() },
            _ => Reason::NoStart { message: waiting.message.clone() },
        });
    }
    if let Some(condition) = seen.condition("PodScheduled", "False") {
        return Some(match condition.reason.as_str() {
            "SchedulingGated" => Reason::Gated { by: seen.gates.join(", ") },
            _ => Reason::Unschedulable { message: room(&condition.message).to_owned() },
        });
    }
    let note = pod.note?;
    match note.reason.as_str() {
        "FailedMount" | "Failed" => Some(Reason::NoStart { message: mount(&note.message).to_owned() }),
        // A volume that another node lets go of, an address that becomes free.
        "FailedAttachVolume" | "FailedCreatePodSandBox" => {
            Some(Reason::NotYet { message: mount(&note.message).to_owned() })
        }
        "Pulling" => Some(Reason::Pulling),
        _ => None,
    }
}

fn say(reason: &Reason, pods: &[&Waiting<'_>], situation: &Situation) -> Sentence {
    match reason {
        Reason::NoUse { image, message } => lasting(format!("cannot use image {image}: {message}"), Hope::None),
        Reason::NoPull { image, message } => {
            lasting(format!("cannot pull image {image}{}: {message}", on(pods)), Hope::Hardly)
        }
        Reason::NoStart { message } => lasting(format!("cannot start {}: {message}", who(pods)), Hope::Hardly),
        Reason::NotYet { message } => lasting(format!("cannot start {} yet: {message}", who(pods)), Hope::Waits),
        Reason::Unschedulable { message } => {
            let (count, cores) = (executors(pods.len() as u32), situation.cores);
            let text = format!("waiting for room: {count} of {cores} cpu, {}: {message}", size(situation.memory));
            lasting(text, Hope::Waits)
        }
        Reason::Gated { by } => lasting(format!("held by {by}"), Hope::Waits),
        Reason::Pulling => {
            let since = pods.iter().filter_map(|pod| Some(pod.note?.since)).min().unwrap_or(situation.now);
            let key = format!("pulling image {}{}", situation.image, on(pods));
            let text = format!("{key} ({} s)", situation.now.since(since).as_secs());
            Sentence { text, key, hope: Hope::Waits }
        }
    }
}

fn executors(count: u32) -> String {
    if count == 1 { "1 executor".to_owned() } else { format!("{count} executors") }
}

fn who(pods: &[&Waiting<'_>]) -> String {
    let first = pods.iter().map(|pod| pod.seen.executor).min().unwrap_or(ExecutorId(0));
    match pods.len() {
        0 | 1 => first.to_string(),
        more => format!("{first} and {} more", more - 1),
    }
}

fn on(pods: &[&Waiting<'_>]) -> String {
    let nodes: BTreeSet<&str> = pods.iter().filter_map(|pod| pod.seen.node.as_deref()).collect();
    match nodes.len() {
        0 => String::new(),
        1..=NODES => format!(" on {}", nodes.into_iter().collect::<Vec<_>>().join(", ")),
        more => format!(" on {more} nodes"),
    }
}

pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        _ if bytes.is_multiple_of(1 << 30) => format!("{} GiB", bytes >> 30),
        _ => format!("{} MiB", bytes >> 20),
    }
}

/// After the reasons the scheduler says whom it would have to evict, and what else does not help: that is no advice.
fn room(message: &str) -> &str {
    message.split(". ").next().unwrap_or(message).trim().trim_end_matches('.')
}

/// Errors of registries are chains whose last part says what happened.
fn last_part(message: &str) -> &str {
    message.rsplit(": ").next().unwrap_or(message).trim().trim_end_matches('.')
}

/// After the name of the volume, which is ours.
fn mount(message: &str) -> &str {
    message.rsplit(" : ").next().unwrap_or(message).trim()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seen::tests::seen;

    fn situation() -> Situation {
        Situation {
            now: Timestamp::from_millis(100_000),
            running: 2,
            wanted: 10,
            cores: 2,
            memory: 4 << 30,
            image: "r/vonk:9".into(),
            ..Situation::default()
        }
    }

    fn pod(executor: u64, node: Option<&str>, status: &str) -> Seen {
        Seen { executor: ExecutorId(executor), node: node.map(str::to_owned), ..seen(status) }
    }

    fn unschedulable(executor: u64) -> Seen {
        no_room(
            executor,
            "0/3 nodes are available: 3 Insufficient cpu. no new claims to deallocate, preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod.",
        )
    }

    fn no_room(executor: u64, message: &str) -> Seen {
        let condition = format!("{{type: PodScheduled, status: 'False', reason: Unschedulable, message: '{message}'}}");
        pod(executor, None, &format!("{{phase: Pending, conditions: [{condition}]}}"))
    }

    fn waits(executor: u64, node: &str, image: &str, reason: &str, message: &str) -> Seen {
        let state = format!("{{waiting: {{reason: {reason}, message: '{message}'}}}}");
        let status =
            format!("{{name: vonk, image: '{image}', imageID: '', ready: false, restartCount: 0, state: {state}}}");
        pod(executor, Some(node), &format!("{{phase: Pending, containerStatuses: [{status}]}}"))
    }

    fn texts(situation: &Situation, pods: &[Seen], note: Option<&Note>) -> Vec<String> {
        let waiting: Vec<_> = pods.iter().map(|seen| Waiting { seen, note }).collect();
        let line = |sentence: Sentence| format!("{:?}: {}", sentence.hope, sentence.text);
        sentences(situation, &waiting).into_iter().map(line).collect()
    }

    #[test]
    fn equal_reasons_are_one_sentence() {
        let pods: Vec<_> = (1..=12).map(unschedulable).collect();
        let text = "Waits: waiting for room: 12 executors of 2 cpu, 4 GiB: 0/3 nodes are available: 3 Insufficient cpu";
        assert_eq!(texts(&situation(), &pods, None), [text]);
    }

    #[test]
    fn what_the_scheduler_says_of_most_is_said_of_all() {
        let earlier = (1..=5).map(|executor| no_room(executor, "0/4 nodes are available: 4 Insufficient cpu"));
        let pods: Vec<_> = earlier.chain((6..=12).map(unschedulable)).collect();
        let text = "Waits: waiting for room: 12 executors of 2 cpu, 4 GiB: 0/3 nodes are available: 3 Insufficient cpu";
        assert_eq!(texts(&situation(), &pods, None), [text]);
    }

    #[test]
    fn images_and_secrets_that_are_not_there() {
        let chain = "Back-off pulling image \"r/vonk:9\": ErrImagePull: rpc error: code = NotFound desc = failed to resolve reference: r/vonk:9: not found";
        let pods = [
            waits(1, "node-a", "r/vonk:9", "ImagePullBackOff", chain),
            waits(2, "node-a", "r/vonk:9", "ErrImagePull", "rpc error: r/vonk:9: not found"),
            waits(3, "node-b", "x", "CreateContainerConfigError", "secret \"db\" not found"),
            waits(
                4,
                "node-b",
                "R/vonk:9",
                "InvalidImageName",
                "invalid reference format: repository name must be lowercase",
            ),
            unschedulable(5),
        ];
        insta::assert_snapshot!(texts(&situation(), &pods, None).join("\n"), @r#"
        None: cannot use image R/vonk:9: repository name must be lowercase
        Hardly: cannot pull image r/vonk:9 on node-a: not found
        Hardly: cannot start e3: secret "db" not found
        Waits: waiting for room: 1 executor of 2 cpu, 4 GiB: 0/3 nodes are available: 3 Insufficient cpu
        "#);
    }

    #[test]
    fn what_only_events_tell() {
        let pods = [pod(1, Some("node-a"), "{phase: Pending}"), pod(2, Some("node-b"), "{phase: Pending}")];
        let pulling = Note { reason: "Pulling".into(), message: String::new(), since: Timestamp::from_millis(59_000) };
        assert_eq!(
            texts(&situation(), &pods, Some(&pulling)),
            ["Waits: pulling image r/vonk:9 on node-a, node-b (41 s)"]
        );
        let message = "MountVolume.SetUp failed for volume \"secret-0\" : secret \"db\" not found".to_owned();
        let mount = Note { reason: "FailedMount".into(), message, since: Timestamp::default() };
        assert_eq!(
            texts(&situation(), &pods, Some(&mount)),
            ["Hardly: cannot start e1 and 1 more: secret \"db\" not found"]
        );
        assert_eq!(texts(&situation(), &pods, None), [""; 0]);
    }

    #[test]
    fn what_concerns_all() {
        let all = Situation {
            quota: Some("exceeded quota: q, used: pods=2, limited: pods=2".into()),
            away_since: Some(Timestamp::from_millis(88_000)),
            forward_max: Some(100),
            ..situation()
        };
        let gated = pod(
            1,
            None,
            "{phase: Pending, conditions: [{type: PodScheduled, status: 'False', reason: SchedulingGated}]}",
        );
        let gated = Seen { gates: vec!["kueue.x-k8s.io/admission".into()], ..gated };
        insta::assert_snapshot!(texts(&all, &[gated], None).join("\n"), @r"
        Waits: Kubernetes API unreachable for 12 s; 2 executors go on
        Waits: held by kueue.x-k8s.io/admission
        Waits: running with 2 of 10 executors: exceeded quota: q, used: pods=2, limited: pods=2
        Waits: a driver outside the cluster reaches at most 100 executors (k8s.forward_max): use --deploy-mode cluster for more
        ");
    }

    #[test]
    fn seconds_do_not_make_a_new_sentence() {
        let later = Situation { now: Timestamp::from_millis(200_000), ..situation() };
        let away =
            |situation: Situation| sentences(&Situation { away_since: Some(Timestamp::default()), ..situation }, &[]);
        let (first, second) = (away(situation()), away(later));
        assert_ne!(first[0].text, second[0].text);
        assert_eq!(first[0].key, second[0].key);
    }
}
