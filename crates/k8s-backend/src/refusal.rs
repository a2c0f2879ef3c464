//! What does an answer of the API server permit?
//!
//! A quota that is full, a manifest that breaks a policy and a missing right are all a 403. So this module, with `cause`,
//! looks for words; tests on a real cluster hold them against what it says.

use std::time::Duration;

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// To create an object.
    Create,
    /// To delete one or many.
    Delete,
    /// To list or watch.
    Watch,
}

/// An answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// The HTTP status; 0 if there was no answer at all.
    pub code: u16,
    /// Why, in a word of the API server's.
    pub reason: String,
    /// Why, in its sentence.
    pub message: String,
    /// The fields it complains about.
    pub fields: Vec<String>,
    /// How long it wants us to wait.
    pub retry_after: Option<Duration>,
}

/// What it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A quota is full: what runs goes on, and there may be room later.
    Quota {
        /// In the quota's own words.
        why: String,
    },
    /// Trying again finds the same, unless somebody changes something in the cluster.
    Stop {
        /// In one sentence: why and what to do.
        why: String,
    },
    /// There is an object of that name: ours, after an answer that was lost, or a stranger's.
    Exists,
    /// Somebody else was quicker; again in a moment.
    Conflict,
    /// What was to be deleted is gone, or a version to watch from is too old: all is well.
    Gone,
    /// Too many requests.
    Overloaded {
        /// How long the server wants us to wait, if it says so.
        retry_after: Option<Duration>,
    },
    /// No answer, or an error of the server's own: it may have done what was asked.
    Away,
    /// It does not know us: credentials are read once more, then it is a [`Verdict::Stop`].
    Unauthorized {
        /// In one sentence.
        why: String,
    },
}

/// Judges an answer.
#[must_use]
pub fn judge(request: Request, answer: &Answer) -> Verdict {
    let has = |words: &str| answer.message.contains(words);
    match (answer.code, answer.reason.as_str()) {
        (404, _) if request == Request::Delete => Verdict::Gone,
        (410, _) | (_, "Expired" | "Gone") if request != Request::Create => Verdict::Gone,
        (409, "AlreadyExists") => Verdict::Exists,
        (409, _) => Verdict::Conflict,
        (401, _) => {
            Verdict::Unauthorized { why: format!("the API server does not accept these credentials: {}", said(answer)) }
        }
        (403, _) if has("exceeded quota:") => Verdict::Quota { why: quota(&answer.message) },
        (429, _) => Verdict::Overloaded { retry_after: answer.retry_after },
        (0 | 408 | 500..=599, _) => Verdict::Away,
        _ => Verdict::Stop { why: refused(answer) },
    }
}

fn refused(answer: &Answer) -> String {
    let said = said(answer);
    let has = |words: &str| answer.message.contains(words);
    match answer.code {
        403 if has("failed quota:") && has("must specify") => format!("{said}: set {}", wanted_by_quota(&said)),
        403 if has("usage per ") => format!("{said}: {}", within_limits(&said)),
        403 if has("violates PodSecurity") => {
            format!("{said}: take what it forbids out of the template, or use another namespace")
        }
        403 => match missing_right(&answer.message) {
            Some(rule) => format!("{said}: add this rule to the Role: {rule}"),
            None => said,
        },
        404 => format!("{said}: create the namespace, or set k8s.namespace"),
        _ if answer.fields.is_empty() => said,
        _ => format!("{said} (fields {})", answer.fields.join(", ")),
    }
}

/// Rights are refused in one sentence of the API server's: `pods is forbidden: User "u" cannot create resource "pods" in
/// API group "" in the namespace "n"`.
fn missing_right(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("\" cannot ")?;
    let (verb, rest) = rest.split_once(" resource \"")?;
    let (resource, rest) = rest.split_once("\" in API group \"")?;
    let (group, _) = rest.split_once('"')?;
    let group = if group.is_empty() { "\"\"" } else { group };
    Some(format!("{{apiGroups: [{group}], resources: [{resource}], verbs: [{verb}]}}"))
}

fn said(answer: &Answer) -> String {
    match answer.message.trim() {
        "" => format!("the API server answered {} {}", answer.code, answer.reason).trim().to_owned(),
        message => message.to_owned(),
    }
}

/// From `exceeded quota:` on: what comes before is the pod's name, and differs from one pod to the next.
fn quota(message: &str) -> String {
    let begin = message.find("exceeded quota:").unwrap_or_default();
    let parts = message[begin..].split(", ");
    // What was asked for is in our own settings; used and limited are what a person wants to see.
    parts.filter(|part| !part.starts_with("requested:")).collect::<Vec<_>>().join(", ").trim().to_owned()
}

/// What a quota on something wants every pod to say.
fn wanted_by_quota(message: &str) -> &'static str {
    match message {
        _ if message.contains("limits.cpu") => "k8s.executor.cpu_limit",
        _ => "it with k8s.executor.resources.NAME, or take the quota's scope away",
    }
}

/// What of a pod is beyond a LimitRange.
fn within_limits(message: &str) -> &'static str {
    match message {
        _ if message.contains("cpu") => "change executor.cores or k8s.executor.cpu_limit",
        _ if message.contains("memory") => "change executor.memory",
        _ if message.contains("ephemeral-storage") => "change k8s.executor.disk",
        _ => "change what executors ask for",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: u16, reason: &str, message: &str) -> Answer {
        Answer { code, reason: reason.into(), message: message.into(), ..Answer::default() }
    }

    fn why(verdict: Verdict) -> String {
        match verdict {
            Verdict::Quota { why } | Verdict::Stop { why } | Verdict::Unauthorized { why } => why,
            other => panic!("a reason, not {other:?}"),
        }
    }

    #[test]
    fn a_full_quota_may_have_room_later() {
        let message =
            "pods \"vonk-x-e1-3\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2";
        let verdict = judge(Request::Create, &answer(403, "Forbidden", message));
        assert_eq!(verdict, Verdict::Quota { why: "exceeded quota: q, used: pods=2, limited: pods=2".into() });
    }

    #[test]
    fn what_waiting_does_not_help_names_what_does() {
        for (code, reason, message, want) in [
            (
                403,
                "Forbidden",
                "pods \"a\" is forbidden: failed quota: q: must specify limits.cpu for: vonk",
                "set k8s.executor.cpu_limit",
            ),
            (
                403,
                "Forbidden",
                "pods \"a\" is forbidden: maximum memory usage per Container is 1Gi, but limit is 4Gi",
                "change executor.memory",
            ),
            (
                403,
                "Forbidden",
                "pods \"a\" is forbidden: maximum cpu usage per Container is 1, but no limit is specified",
                "k8s.executor.cpu_limit",
            ),
            (
                403,
                "Forbidden",
                "pods is forbidden: User \"system:serviceaccount:a:b\" cannot create resource \"pods\" in API group \"\" in the namespace \"a\"",
                "{apiGroups: [\"\"], resources: [pods], verbs: [create]}",
            ),
            (
                403,
                "Forbidden",
                "pods \"a\" is forbidden: violates PodSecurity \"restricted:latest\": privileged",
                "template",
            ),
            (403, "Forbidden", "admission webhook \"x\" denied the request: no label team", "no label team"),
            (400, "BadRequest", "admission webhook \"x\" denied the request: no", "denied the request: no"),
            (404, "NotFound", "namespaces \"a\" not found", "set k8s.namespace"),
            (403, "Forbidden", "", "the API server answered 403 Forbidden"),
        ] {
            let verdict = judge(Request::Create, &answer(code, reason, message));
            assert!(matches!(verdict, Verdict::Stop { .. }), "{message}: {verdict:?}");
            let why = why(verdict);
            assert!(why.starts_with(message) && why.contains(want), "{why}");
        }
        let fields = vec!["spec.containers[0].image".to_owned()];
        let invalid = Answer { fields, ..answer(422, "Invalid", "Pod \"a\" is invalid") };
        assert_eq!(why(judge(Request::Create, &invalid)), "Pod \"a\" is invalid (fields spec.containers[0].image)");
    }

    #[test]
    fn the_same_code_means_different_things() {
        assert_eq!(judge(Request::Create, &answer(409, "AlreadyExists", "")), Verdict::Exists);
        assert_eq!(judge(Request::Create, &answer(409, "Conflict", "")), Verdict::Conflict);
        assert_eq!(judge(Request::Delete, &answer(404, "NotFound", "")), Verdict::Gone);
        assert_eq!(judge(Request::Watch, &answer(410, "Expired", "")), Verdict::Gone);
        assert!(matches!(judge(Request::Create, &answer(404, "NotFound", "")), Verdict::Stop { .. }));
        assert!(matches!(judge(Request::Create, &answer(401, "Unauthorized", "")), Verdict::Unauthorized { .. }));
    }

    #[test]
    fn a_server_that_is_away_or_overloaded_is_asked_again() {
        for code in [0, 408, 500, 502, 503, 504] {
            assert_eq!(judge(Request::Create, &answer(code, "", "")), Verdict::Away, "{code}");
        }
        let after = Some(Duration::from_secs(3));
        let verdict = judge(Request::Create, &Answer { retry_after: after, ..answer(429, "TooManyRequests", "") });
        assert_eq!(verdict, Verdict::Overloaded { retry_after: after });
    }
}
