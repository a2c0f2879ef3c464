//! Why did an executor's pod end?
//!
//! The first row of the table that fits, in the order of the code below. Besides `refusal` the one place that looks for
//! words: that a pod has filled its own disk, and not others the node's, the kubelet says only in a sentence.

use model::failure::LossCause;
use model::ids::ExecutorId;

use crate::seen::{Container, Seen};

/// The phrases with which the kubelet says that a pod was evicted for what it wrote itself.
pub(crate) const OWN_DISK: [&str; 3] = [
    "exceeded its local ephemeral storage limit",
    "Pod ephemeral local storage usage exceeds the total limit of containers",
    "Usage of EmptyDir volume",
];

/// Reasons with which a kubelet or the node controller ends pods that did nothing wrong.
const FROM_OUTSIDE: [&str; 7] =
    ["Evicted", "Preempting", "NodeLost", "Shutdown", "Terminated", "NodeShutdown", "NodeAffinity"];

/// Reasons with which a container cannot start, and never will.
const CANNOT_START: [&str; 3] = ["InvalidImageName", "ErrImageNeverPull", "StartError"];

/// An executor that had no driver for a minute.
const NO_DRIVER: i32 = 80;

/// The last line of an executor is shown up to so many characters.
pub(crate) const LAST_LINE: usize = 300;

/// What we did about an executor before it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ours {
    /// It was released: it had drained, or nobody wanted it.
    pub released: bool,
    /// Its pod was deleted by us.
    pub deleted: bool,
    /// Its memory limit in bytes, for the sentence.
    pub memory: u64,
}

/// Why, and in one sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The cause.
    pub cause: LossCause,
    /// The sentence, which begins with the executor.
    pub why: String,
}

/// Judges by how a pod was last seen, which is nothing if it vanished before it was seen at all.
#[must_use]
pub fn judge(executor: ExecutorId, seen: Option<&Seen>, ours: Ours) -> Ended {
    let place = seen.and_then(|seen| seen.node.as_deref()).map(|node| format!(" on {node}")).unwrap_or_default();
    let (cause, what) = match seen {
        Some(seen) => what(seen, ours),
        None if ours.released || ours.deleted => (LossCause::Released, "was let go before it started".to_owned()),
        None => (LossCause::Infrastructure, "has vanished: its pod is gone, and nobody saw why".to_owned()),
    };
    Ended { cause, why: format!("{executor}{place} {what}") }
}

fn what(seen: &Seen, ours: Ours) -> (LossCause, String) {
    let code = match &seen.container {
        Container::Terminated { exit_code, .. } => Some(*exit_code),
        Container::Waiting | Container::Running => None,
    };
    if ours.deleted || (ours.released && matches!(code, Some(0 | 143) | None)) {
        return (LossCause::Released, "was let go".to_owned());
    }
    if seen.reason == "Evicted" && OWN_DISK.iter().any(|phrase| seen.message.contains(phrase)) {
        let what = format!("was evicted for what it wrote: {}; raise k8s.executor.disk", seen.message.trim());
        return (LossCause::Program, what);
    }
    if let Some(condition) = seen.condition("DisruptionTarget", "True") {
        return (LossCause::Infrastructure, disrupted(&condition.reason, &condition.message));
    }
    if FROM_OUTSIDE.contains(&seen.reason.as_str()) || seen.reason.starts_with("OutOf") {
        return (LossCause::Infrastructure, disrupted(&seen.reason, &seen.message));
    }
    match &seen.container {
        Container::Terminated { exit_code, reason, message } => ended(seen, ours, *exit_code, reason, message),
        Container::Waiting | Container::Running => unended(seen),
    }
}

/// The container has ended.
fn ended(seen: &Seen, ours: Ours, code: i32, reason: &str, message: &str) -> (LossCause, String) {
    let last = last_line(message);
    match (code, reason) {
        (_, "OOMKilled") => {
            let gib = ours.memory as f64 / f64::from(1 << 30);
            (LossCause::Memory, format!("exceeded its memory limit of {gib:.1} GiB: raise --executor-memory"))
        }
        _ if seen.deleted => (LossCause::Infrastructure, "was deleted by somebody else".to_owned()),
        (143, _) => (LossCause::Infrastructure, "was told to end from outside, and has drained (SIGTERM)".to_owned()),
        (137, _) => (LossCause::Infrastructure, "was killed from outside (SIGKILL)".to_owned()),
        (NO_DRIVER, _) => {
            (LossCause::Infrastructure, "ended itself: it had not heard its driver for too long".to_owned())
        }
        (81, _) => (LossCause::Start, format!("could not fetch its program or listen{last}")),
        (82, _) => (LossCause::Start, format!("fetched a program with another hash{last}")),
        (83, _) => (LossCause::Start, format!("could not execute its program{last}")),
        (84, _) => (LossCause::Start, format!("was refused by the store{last}")),
        (126..=128, _) | (_, "StartError" | "ContainerCannotRun") => {
            (LossCause::Start, format!("could not start: exit code {code}{last}; does its image have vonk-executor?"))
        }
        (0, _) => (LossCause::Program, "was ended by the program it ran (exit code 0)".to_owned()),
        (101, _) => (LossCause::Program, format!("panicked outside of any task (exit code 101){last}")),
        (134, _) => (LossCause::Program, format!("crashed: abort (exit code 134){last}")),
        (139, _) => (LossCause::Program, format!("crashed: segmentation fault (exit code 139){last}")),
        (code, _) => (LossCause::Program, format!("was ended by the program it ran (exit code {code}){last}")),
    }
}

/// The pod is gone or has failed, and of its container nothing is said.
fn unended(seen: &Seen) -> (LossCause, String) {
    if let Some((name, code, message)) = &seen.init_failed {
        let last = last_line(message);
        return (LossCause::Start, format!("could not start: its init container {name} ended with {code}{last}"));
    }
    if seen.deleted {
        return (LossCause::Infrastructure, "was deleted by somebody else".to_owned());
    }
    let fatal = seen.waiting.iter().find(|waiting| CANNOT_START.contains(&waiting.reason.as_str()));
    if let Some(waiting) = fatal {
        return (LossCause::Start, format!("cannot start: {}: {}", waiting.reason, waiting.message));
    }
    let why = match (seen.reason.as_str(), seen.message.as_str()) {
        ("", "") => "its pod is gone, and nobody saw why".to_owned(),
        (reason, "") => reason.to_owned(),
        (reason, message) => format!("{reason} {message}").trim().to_owned(),
    };
    (LossCause::Infrastructure, format!("has vanished: {why}"))
}

fn disrupted(reason: &str, message: &str) -> String {
    match (reason, message.trim()) {
        ("", "") => "was taken by the cluster".to_owned(),
        (reason, "") => format!("was taken by the cluster ({reason})"),
        (reason, message) => format!("was taken by the cluster ({reason}): {message}"),
    }
}

fn last_line(message: &str) -> String {
    let line = message.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
    if line.is_empty() {
        return String::new();
    }
    let cut: String = line.chars().take(LAST_LINE).collect();
    format!("; its last line: {cut}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seen::tests::seen;

    const NOT_OURS: Ours = Ours { released: false, deleted: false, memory: 4 << 30 };

    fn status(state: &str, more: &str) -> Seen {
        let container = format!("{{name: vonk, image: a, imageID: a, ready: false, restartCount: 0, state: {state}}}");
        seen(&format!("{{phase: Failed, containerStatuses: [{container}]{more}}}"))
    }

    fn exit(code: i32, reason: &str) -> Seen {
        status(&format!("{{terminated: {{exitCode: {code}, reason: '{reason}', message: 'a\nlast words\n'}}}}"), "")
    }

    #[test]
    fn the_table_row_by_row() {
        let evicted = |message: &str| seen(&format!("{{phase: Failed, reason: Evicted, message: '{message}'}}"));
        let disrupted = ", conditions: [{type: DisruptionTarget, status: 'True', reason: PreemptionByScheduler, message: for another}]";
        let mut deleted = exit(0, "Completed");
        deleted.deleted = true;
        let mut oom_deleted = exit(137, "OOMKilled");
        oom_deleted.deleted = true;
        let init = seen(
            "{phase: Failed, initContainerStatuses: [{name: prepare, image: a, imageID: a, ready: false, restartCount: 0, state: {terminated: {exitCode: 3, message: no}}}]}",
        );
        let mut fatal = status("{waiting: {reason: InvalidImageName, message: must be lowercase}}", "");
        fatal.phase = crate::seen::Phase::Pending;
        let ours = |released, deleted| Ours { released, deleted, ..NOT_OURS };
        let rows = [
            ("1 drained", Some(exit(0, "Completed")), ours(true, false)),
            ("1 drained, stopped by SIGTERM", Some(exit(143, "Error")), ours(true, false)),
            ("1 stopped", Some(exit(137, "Error")), ours(false, true)),
            ("1 never seen", None, ours(true, true)),
            (
                "2 its own disk",
                Some(evicted("Usage of EmptyDir volume \"vonk-work\" exceeds the limit \"10Gi\". ")),
                NOT_OURS,
            ),
            (
                "2 its own disk",
                Some(evicted("Container vonk exceeded its local ephemeral storage limit \"11Gi\". ")),
                NOT_OURS,
            ),
            (
                "2 its own disk",
                Some(evicted("Pod ephemeral local storage usage exceeds the total limit of containers 11Gi. ")),
                NOT_OURS,
            ),
            ("3 the node's disk", Some(evicted("The node was low on resource: ephemeral-storage. ")), NOT_OURS),
            ("3 preempted", Some(status("{terminated: {exitCode: 143}}", disrupted)), NOT_OURS),
            ("3 kubelet", Some(seen("{phase: Failed, reason: OutOfcpu, message: Pod was rejected}")), NOT_OURS),
            ("4 memory", Some(exit(137, "OOMKilled")), NOT_OURS),
            ("4 memory, then deleted", Some(oom_deleted), NOT_OURS),
            ("4 memory while it drained", Some(exit(137, "OOMKilled")), ours(true, false)),
            ("5 deleted", Some(deleted), NOT_OURS),
            ("5 SIGTERM", Some(exit(143, "Error")), NOT_OURS),
            ("5 SIGKILL", Some(exit(137, "Error")), NOT_OURS),
            ("5 no driver", Some(exit(80, "Error")), NOT_OURS),
            ("5 vanished", Some(seen("{phase: Running}")), NOT_OURS),
            ("5 never seen", None, NOT_OURS),
            ("5 failed without statuses", Some(seen("{phase: Failed}")), NOT_OURS),
            ("6 not fetched", Some(exit(81, "Error")), NOT_OURS),
            ("6 wrong hash", Some(exit(82, "Error")), NOT_OURS),
            ("6 cannot exec", Some(exit(83, "Error")), NOT_OURS),
            ("6 refused by the store", Some(exit(84, "Error")), NOT_OURS),
            ("6 no such command", Some(exit(128, "StartError")), NOT_OURS),
            ("6 init container", Some(init), NOT_OURS),
            ("6 image", Some(fatal), NOT_OURS),
            ("7 panic", Some(exit(101, "Error")), NOT_OURS),
            ("7 abort", Some(exit(134, "Error")), NOT_OURS),
            ("7 fault", Some(exit(139, "Error")), NOT_OURS),
            ("7 other", Some(exit(7, "Error")), NOT_OURS),
            ("7 zero, unasked", Some(exit(0, "Completed")), NOT_OURS),
        ];
        let lines = rows.map(|(row, seen, ours)| {
            let Ended { cause, why } = judge(ExecutorId(3), seen.as_ref(), ours);
            format!("{row}: {cause:?}: {why}")
        });
        insta::assert_snapshot!(lines.join("\n"));
    }
}
