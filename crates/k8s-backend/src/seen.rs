//! What is kept of a pod that was watched?
//!
//! A thousand of these fit into the memory of a few dozen whole Pods.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use model::ids::{AppId, Epoch, ExecutorId};

use crate::names::{self, CONTAINER};

/// The phase of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Its containers do not all run yet.
    #[default]
    Pending,
    /// They run.
    Running,
    /// It has ended well.
    Succeeded,
    /// It has ended badly.
    Failed,
}

/// How far the container `vonk` has come.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Container {
    /// Nothing is said of it yet, or it waits.
    #[default]
    Waiting,
    /// It runs.
    Running,
    /// It has ended.
    Terminated {
        /// Its exit code.
        exit_code: i32,
        /// Why, in a word of the kubelet's.
        reason: String,
        /// Its last lines, or what the kubelet says.
        message: String,
    },
}

/// A container that cannot start yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Its name.
    pub container: String,
    /// Its image.
    pub image: String,
    /// Why, in a word of the kubelet's.
    pub reason: String,
    /// Why, in its sentence.
    pub message: String,
}

/// A condition that says why a pod is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Which.
    pub type_: String,
    /// `True` or `False`.
    pub status: String,
    /// Why, in a word.
    pub reason: String,
    /// Why, in a sentence.
    pub message: String,
}

/// An executor's pod as it was last seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// The executor.
    pub executor: ExecutorId,
    /// Its epoch.
    pub epoch: Epoch,
    /// The pod's name.
    pub name: String,
    /// The pod's uid.
    pub uid: String,
    /// Where it is or will be.
    pub node: Option<String>,
    /// Its address.
    pub ip: Option<String>,
    /// Its phase.
    pub phase: Phase,
    /// Why it is in this phase, in a word.
    pub reason: String,
    /// Why it is in this phase, in a sentence.
    pub message: String,
    /// Somebody has deleted it, and it may still be ending.
    pub deleted: bool,
    /// The container `vonk`.
    pub container: Container,
    /// An init container that has failed, with its exit code and last lines.
    pub init_failed: Option<(String, i32, String)>,
    /// Containers that cannot start yet.
    pub waiting: Vec<Waiting>,
    /// `PodScheduled` and `DisruptionTarget`.
    pub conditions: Vec<Condition>,
    /// What holds it back from being scheduled.
    pub gates: Vec<String>,
}

impl Seen {
    /// What matters of a pod; nothing if it is no executor of this application.
    #[must_use]
    pub fn of(pod: &Pod, app: AppId) -> Option<Self> {
        let (epoch, executor) = names::executor_of(pod, app)?;
        Some(Self { executor, epoch, ..Self::of_any(pod)? })
    }

    /// What matters of a pod, whatever it is for; nothing if it has no name yet.
    #[must_use]
    pub fn of_any(pod: &Pod) -> Option<Self> {
        let spec = pod.spec.as_ref();
        let gates = spec.and_then(|spec| spec.scheduling_gates.as_ref());
        let mut seen = Self {
            name: pod.metadata.name.clone()?,
            uid: pod.metadata.uid.clone()?,
            node: spec.and_then(|spec| spec.node_name.clone()),
            deleted: pod.metadata.deletion_timestamp.is_some(),
            gates: gates.iter().flat_map(|gates| gates.iter()).map(|gate| gate.name.clone()).collect(),
            ..Self::default()
        };
        if let Some(status) = &pod.status {
            seen.read(status);
        }
        Some(seen)
    }

    fn read(&mut self, status: &PodStatus) {
        self.ip = status.pod_ip.clone();
        self.phase = match status.phase.as_deref() {
            Some("Running") => Phase::Running,
            Some("Succeeded") => Phase::Succeeded,
            Some("Failed") => Phase::Failed,
            _ => Phase::Pending,
        };
        self.reason = status.reason.clone().unwrap_or_default();
        self.message = status.message.clone().unwrap_or_default();
        let conditions = status.conditions.iter().flatten();
        let telling = conditions.filter(|c| matches!(c.type_.as_str(), "PodScheduled" | "DisruptionTarget"));
        self.conditions = telling
            .map(|c| Condition {
                type_: c.type_.clone(),
                status: c.status.clone(),
                reason: c.reason.clone().unwrap_or_default(),
                message: c.message.clone().unwrap_or_default(),
            })
            .collect();
        let containers = status.container_statuses.iter().flatten();
        if let Some(ours) = containers.clone().find(|status| status.name == CONTAINER) {
            self.container = container(ours);
        }
        let init = status.init_container_statuses.iter().flatten();
        self.init_failed = init.clone().find_map(|status| {
            let ended = status.state.as_ref()?.terminated.as_ref().filter(|ended| ended.exit_code != 0)?;
            Some((status.name.clone(), ended.exit_code, ended.message.clone().unwrap_or_default()))
        });
        self.waiting = init.chain(containers).filter_map(waiting).collect();
    }

    /// Whether the container `vonk` runs, as far as its node has told.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.container == Container::Running && matches!(self.phase, Phase::Pending | Phase::Running)
    }

    /// Whether it has ended: its container has, whatever a sidecar does, or it never will run.
    #[must_use]
    pub fn ended(&self) -> bool {
        matches!(self.container, Container::Terminated { .. }) || matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }

    /// A condition that is true.
    #[must_use]
    pub fn condition(&self, type_: &str, status: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.type_ == type_ && condition.status == status)
    }
}

fn container(status: &ContainerStatus) -> Container {
    let Some(state) = &status.state else { return Container::Waiting };
    match (&state.terminated, &state.running) {
        (Some(ended), _) => Container::Terminated {
            exit_code: ended.exit_code,
            reason: ended.reason.clone().unwrap_or_default(),
            message: ended.message.clone().unwrap_or_default(),
        },
        (None, Some(_)) => Container::Running,
        (None, None) => Container::Waiting,
    }
}

fn waiting(status: &ContainerStatus) -> Option<Waiting> {
    let waiting = status.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.clone()?;
    // It waits for nothing that can go wrong.
    let usual = matches!(reason.as_str(), "ContainerCreating" | "PodInitializing");
    (!usual).then(|| Waiting {
        container: status.name.clone(),
        image: status.image.clone(),
        reason,
        message: waiting.message.clone().unwrap_or_default(),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::manifest;
    use crate::pod::tests::executor_pods;

    /// A pod of executor 3 with a status, in YAML.
    pub(crate) fn seen(status: &str) -> Seen {
        let mut pod = executor_pods().pod(3, &Default::default());
        pod.metadata.uid = Some("uid-3".into());
        pod.status = Some(manifest::read(status).unwrap());
        pod.spec.as_mut().unwrap().node_name = Some("node-a".into());
        Seen::of(&pod, executor_pods().of.app).unwrap()
    }

    #[test]
    fn a_sidecar_neither_delays_nor_hastens_the_end() {
        let runs = "{phase: Running, podIP: 10.0.0.7, containerStatuses: [\
            {name: vonk, image: a, imageID: a, ready: true, restartCount: 0, state: {running: {}}},\
            {name: beside, image: b, imageID: b, ready: false, restartCount: 0, state: {terminated: {exitCode: 1}}}]}";
        let pod = seen(runs);
        assert!(pod.runs() && !pod.ended());
        assert_eq!((pod.executor, pod.ip.as_deref()), (ExecutorId(3), Some("10.0.0.7")));
        let ended = runs.replace("{running: {}}", "{terminated: {exitCode: 0, reason: Completed}}");
        assert!(seen(&ended).ended() && !seen(&ended).runs());
    }

    #[test]
    fn what_waits_says_why_unless_all_is_well() {
        let pulls = "{phase: Pending, containerStatuses: [\
            {name: vonk, image: r/vonk:9, imageID: '', ready: false, restartCount: 0, state: {waiting: {reason: REASON, message: m}}}]}";
        assert_eq!(seen(&pulls.replace("REASON", "ContainerCreating")).waiting, []);
        let waiting = seen(&pulls.replace("REASON", "ImagePullBackOff")).waiting;
        assert_eq!((waiting[0].image.as_str(), waiting[0].reason.as_str()), ("r/vonk:9", "ImagePullBackOff"));
    }

    #[test]
    fn strangers_are_nobody() {
        assert_eq!(Seen::of(&Pod::default(), executor_pods().of.app), None);
    }
}
