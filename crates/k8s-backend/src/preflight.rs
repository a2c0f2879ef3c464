//! Would an application run here?
//!
//! Everything that a cluster can refuse is asked for before somebody waits for it: rights, accounts, admission, quotas.

mod room;

use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{LimitRange, Namespace, Pod, ResourceQuota, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, ListParams, PostParams};
use serde::Serialize;

use crate::access::{AccessError, Cluster};
use crate::answer::within;
use crate::job::DriverJob;
use crate::names::Role;
use crate::pod::ExecutorPods;
use crate::refusal::{Answer, Request, Verdict, judge};
use crate::request::{RequestError, insist};
use crate::rights::{self, Part, Rule, Subject, yaml};
use crate::template::weakens_restricted;
use room::{Asked, filled, judge_limits, judge_quotas};

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It is as it should be.
    Passed,
    /// It may be a hindrance.
    Warning,
    /// It is one.
    Failed,
    /// We may not look; something else will say.
    Skipped,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What.
    pub what: String,
    /// How it came out.
    pub outcome: Outcome,
    /// Why, in one sentence.
    pub says: String,
    /// What mends it, as YAML to be applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

impl Check {
    /// With nothing to apply.
    #[must_use]
    pub fn new(what: &str, outcome: Outcome, says: impl Into<String>) -> Self {
        Self { what: what.to_owned(), outcome, says: says.into(), mend: None }
    }
}

/// What is to be tried.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Who asks.
    pub part: Part,
    /// The driver's Job, in cluster mode.
    pub job: Option<DriverJob>,
    /// Executors' pods. Their owner need not exist.
    pub executors: ExecutorPods,
    /// How many of them.
    pub count: u64,
}

/// An owner that stands for a root that was never made.
#[must_use]
pub fn nobody(root: &str) -> OwnerReference {
    OwnerReference {
        api_version: "batch/v1".to_owned(),
        kind: "Job".to_owned(),
        name: root.to_owned(),
        uid: "00000000-0000-0000-0000-000000000000".to_owned(),
        ..OwnerReference::default()
    }
}

/// Looks at everything, and makes nothing.
///
/// # Errors
/// The API server does not answer.
pub async fn checks(cluster: &Cluster, plan: &Plan) -> Result<Vec<Check>, AccessError> {
    // Boxed: it holds the objects that are tried while it waits.
    Box::pin(looked(cluster, plan)).await
}

async fn looked(cluster: &Cluster, plan: &Plan) -> Result<Vec<Check>, AccessError> {
    let mut checks = vec![rights(cluster, plan.part).await?];
    let executor = plan.executors.pod(1, &Default::default());
    let driver = plan.job.as_ref().map(|job| job.pod.pod());
    checks.push(security(cluster, &executor, driver.as_ref()).await);
    checks.push(account(cluster, Role::Executor, &executor).await);
    if let Some(driver) = &driver {
        checks.push(account(cluster, Role::Driver, driver).await);
    }
    let mut asked = vec![Asked { role: Role::Executor, pod: executor.clone(), count: plan.count }];
    asked.extend(driver.map(|pod| Asked { role: Role::Driver, pod, count: 1 }));
    checks.extend(room(cluster, &asked).await);
    if let Some(job) = &plan.job {
        let jobs: Api<Job> = cluster.api();
        checks.push(trial("driver's Job", within(jobs.create(&dry(), &job.job())).await.err()));
    }
    let pods: Api<Pod> = cluster.api();
    // Who submits needs no right to make pods, and may have it.
    let create = Rule { group: "", resources: vec!["pods"], verbs: vec!["create"] };
    checks.push(match plan.part == Part::Submitter && !cluster.may(&create).await? {
        true => Check::new("executor", Outcome::Skipped, "a submitter makes no pods: the driver does"),
        false => trial("executor", within(pods.create(&dry(), &executor)).await.err()),
    });
    Ok(checks)
}

/// Asks the API server what it would say to an executor, and makes nothing.
///
/// # Errors
/// What it would say.
pub async fn try_executor(cluster: &Cluster, executors: &ExecutorPods) -> Result<(), RequestError> {
    let (pods, pod, dry): (Api<Pod>, _, _) = (cluster.api(), executors.pod(1, &Default::default()), dry());
    insist("try to create an executor", Request::Create, || pods.create(&dry, &pod)).await.map(drop)
}

fn dry() -> PostParams {
    PostParams { dry_run: true, field_manager: None }
}

async fn rights(cluster: &Cluster, part: Part) -> Result<Check, AccessError> {
    let missing = cluster.missing(part).await?;
    if missing.is_empty() {
        return Ok(Check::new("rights", Outcome::Passed, format!("all of {}", part.role())));
    }
    let count: usize = missing.iter().map(|rule| rule.verbs.len()).sum();
    let says = format!("{count} of {} are missing", part.role());
    let mend = yaml(part, cluster.namespace(), &missing, &asker(cluster).await);
    Ok(Check { mend: Some(mend), ..Check::new("rights", Outcome::Failed, says) })
}

/// Who we are to the API server.
async fn asker(cluster: &Cluster) -> Subject {
    let reviews: Api<SelfSubjectReview> = Api::all(cluster.client());
    let answered = within(reviews.create(&PostParams::default(), &SelfSubjectReview::default())).await;
    let name = answered.ok().and_then(|review| review.status?.user_info?.username).filter(|name| !name.is_empty());
    name.map_or(Subject::Unknown, |name| Subject::named(&name))
}

async fn security(cluster: &Cluster, executor: &Pod, driver: Option<&Pod>) -> Check {
    let namespaces: Api<Namespace> = Api::all(cluster.client());
    let level = match within(namespaces.get(cluster.namespace())).await {
        Ok(namespace) => {
            let labels = namespace.metadata.labels.unwrap_or_default();
            Some(labels.get("pod-security.kubernetes.io/enforce").cloned().unwrap_or_else(|| "privileged".to_owned()))
        }
        Err(answer) if answer.code == 404 => {
            return Check::new("pod security", Outcome::Failed, format!("{}: create the namespace", answer.message));
        }
        Err(_) => None,
    };
    let mut weak = weakens_restricted(executor);
    weak.extend(driver.map(weakens_restricted).unwrap_or_default());
    judge_security(level.as_deref(), &weak)
}

fn judge_security(level: Option<&str>, weak: &[String]) -> Check {
    let what = "pod security";
    let fields = || weak.join(", ");
    match (level, weak.is_empty()) {
        (Some(level), true) => {
            Check::new(what, Outcome::Passed, format!("pods pass `restricted`; here it is `{level}`"))
        }
        (None, true) => Check::new(what, Outcome::Passed, "pods pass `restricted`"),
        (Some("restricted"), false) => {
            let says = format!("`restricted` forbids {}: take it out of template or settings", fields());
            Check::new(what, Outcome::Failed, says)
        }
        (level, false) => {
            let here = level.map(|level| format!(", and here it is `{level}`")).unwrap_or_default();
            Check::new(what, Outcome::Warning, format!("`restricted` would forbid {}{here}", fields()))
        }
    }
}

async fn account(cluster: &Cluster, role: Role, pod: &Pod) -> Check {
    let what = match role {
        Role::Driver => "driver's account",
        Role::Executor => "executors' account",
    };
    let name = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone()).unwrap_or_default();
    let accounts: Api<ServiceAccount> = cluster.api();
    match within(accounts.get_opt(&name)).await {
        Ok(Some(_)) => Check::new(what, Outcome::Passed, format!("{name} is there")),
        Ok(None) => {
            let says = format!("there is no {name}: install the chart, create it, or name another");
            Check { mend: Some(an_account(cluster.namespace(), role, name)), ..Check::new(what, Outcome::Failed, says) }
        }
        Err(_) => Check::new(
            what,
            Outcome::Skipped,
            format!("we may not look for {name}; a pod without its account is refused"),
        ),
    }
}

/// An account, and for a driver the rights without which it is of no use.
fn an_account(namespace: &str, role: Role, name: String) -> String {
    let account = rights::account(namespace, &name);
    match role {
        Role::Executor => account,
        Role::Driver => {
            let subject = Subject::Account { namespace: namespace.to_owned(), name };
            format!("{account}---\n{}", yaml(Part::Driver, namespace, &[], &subject))
        }
    }
}

/// Quotas and LimitRanges.
async fn room(cluster: &Cluster, asked: &[Asked]) -> [Check; 2] {
    let ranges: Api<LimitRange> = cluster.api();
    let (known, limits) = match within(ranges.list(&ListParams::default())).await {
        Ok(ranges) => {
            let limits = judge_limits(&ranges.items, asked);
            (ranges.items, limits)
        }
        Err(_) => {
            let says = "we may not list them; a pod beyond one is refused";
            (Vec::new(), Check::new("limit ranges", Outcome::Skipped, says))
        }
    };
    let filled = asked.iter().map(|asked| Asked { pod: filled(&asked.pod, &known), ..asked.clone() });
    [quotas(cluster, &filled.collect::<Vec<_>>()).await, limits]
}

async fn quotas(cluster: &Cluster, asked: &[Asked]) -> Check {
    let quotas: Api<ResourceQuota> = cluster.api();
    match within(quotas.list(&ListParams::default())).await {
        Ok(quotas) => judge_quotas(&quotas.items, asked),
        Err(_) => Check::new("quotas", Outcome::Skipped, "we may not list them; pods beyond one wait"),
    }
}

/// What the API server says to something that it would create.
fn trial(what: &str, refused: Option<Answer>) -> Check {
    let Some(answer) = refused else { return Check::new(what, Outcome::Passed, "would be created") };
    match judge(Request::Create, &answer) {
        Verdict::Quota { why } => Check::new(what, Outcome::Warning, format!("would wait: {why}")),
        Verdict::Stop { why } | Verdict::Unauthorized { why } => Check::new(what, Outcome::Failed, why),
        _ => Check::new(what, Outcome::Failed, format!("the API server answered: {}", answer.message)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(check: &Check) -> String {
        format!("{:?}: {}", check.outcome, check.says)
    }

    /// An account that is bound to nothing was no help.
    #[test]
    fn a_drivers_account_comes_with_its_rights() {
        insta::assert_snapshot!(an_account("team-a", Role::Driver, "vonk-driver".into()), @r#"
        apiVersion: v1
        kind: ServiceAccount
        metadata: {name: vonk-driver, namespace: team-a}
        ---
        apiVersion: rbac.authorization.k8s.io/v1
        kind: Role
        metadata: {name: vonk-driver, namespace: team-a}
        rules:
        - {apiGroups: [""], resources: [pods], verbs: [create, get, list, watch, delete, deletecollection]}
        - {apiGroups: [""], resources: [pods/log, events], verbs: [get, list]}
        ---
        apiVersion: rbac.authorization.k8s.io/v1
        kind: RoleBinding
        metadata: {name: vonk-driver-for-team-a.vonk-driver, namespace: team-a}
        roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: vonk-driver}
        subjects:
        - {kind: ServiceAccount, name: vonk-driver, namespace: team-a}
        "#);
        let executors = an_account("team-a", Role::Executor, "vonk-executor".into());
        assert!(!executors.contains("Role"), "{executors}");
    }

    #[test]
    fn a_weaker_pod_fails_only_where_it_is_forbidden() {
        let weak = vec!["spec.hostNetwork".to_owned()];
        assert_eq!(judge_security(Some("restricted"), &[]).outcome, Outcome::Passed);
        assert_eq!(judge_security(Some("restricted"), &weak).outcome, Outcome::Failed);
        assert_eq!(judge_security(Some("baseline"), &weak).outcome, Outcome::Warning);
        assert_eq!(judge_security(None, &weak).outcome, Outcome::Warning);
    }

    #[test]
    fn a_refusal_is_told_in_the_policys_words() {
        let answer = |message: &str| Some(Answer { code: 403, message: message.into(), ..Answer::default() });
        assert_eq!(said(&trial("executor", None)), "Passed: would be created");
        let quota = "pods \"a\" is forbidden: exceeded quota: q, used: pods=2, limited: pods=2";
        assert_eq!(
            said(&trial("executor", answer(quota))),
            "Warning: would wait: exceeded quota: q, used: pods=2, limited: pods=2"
        );
        assert!(
            said(&trial("executor", answer("violates PodSecurity \"restricted\""))).starts_with("Failed: violates")
        );
    }
}
