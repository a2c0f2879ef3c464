//! Would an application run here?
//!
//! Everything that a cluster can refuse is asked for before somebody waits for it: rights, accounts, admission, quotas.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{LimitRange, Namespace, Pod, ResourceQuota, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, ListParams, PostParams};
use serde::Serialize;

use crate::access::{AccessError, Cluster};
use crate::answer::within;
use crate::job::DriverJob;
use crate::names::{CONTAINER, Role};
use crate::pod::ExecutorPods;
use crate::quantity::number;
use crate::refusal::{Answer, Request, Verdict, judge};
use crate::request::{RequestError, insist};
use crate::rights::{Part, yaml};
use crate::template::weakens_restricted;

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
    checks.push(account(cluster, "executors' account", &executor).await);
    if let Some(driver) = &driver {
        checks.push(account(cluster, "driver's account", driver).await);
    }
    checks.push(quotas(cluster, plan, &executor, driver.as_ref()).await);
    checks.push(limits(cluster, &executor, driver.as_ref()).await);
    if let Some(job) = &plan.job {
        let jobs: Api<Job> = cluster.api();
        checks.push(trial("driver's Job", within(jobs.create(&dry(), &job.job())).await.err()));
    }
    let pods: Api<Pod> = cluster.api();
    checks.push(match plan.part {
        // Who submits makes no pods.
        Part::Submitter => Check::new("executor", Outcome::Skipped, "a submitter makes no pods: the driver does"),
        Part::Driver | Part::Client => trial("executor", within(pods.create(&dry(), &executor)).await.err()),
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
    Ok(if missing.is_empty() {
        Check::new("rights", Outcome::Passed, format!("all of {}", part.role()))
    } else {
        let count: usize = missing.iter().map(|rule| rule.verbs.len()).sum();
        let says = format!("{count} of {} are missing", part.role());
        Check { mend: Some(yaml(part, cluster.namespace(), &missing)), ..Check::new("rights", Outcome::Failed, says) }
    })
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

async fn account(cluster: &Cluster, what: &str, pod: &Pod) -> Check {
    let name = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone()).unwrap_or_default();
    let accounts: Api<ServiceAccount> = cluster.api();
    match within(accounts.get_opt(&name)).await {
        Ok(Some(_)) => Check::new(what, Outcome::Passed, format!("{name} is there")),
        Ok(None) => {
            let namespace = cluster.namespace();
            let mend =
                format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}, namespace: {namespace}}}\n");
            let says = format!("there is no {name}: install the chart, create it, or name another");
            Check { mend: Some(mend), ..Check::new(what, Outcome::Failed, says) }
        }
        Err(_) => Check::new(
            what,
            Outcome::Skipped,
            format!("we may not look for {name}; a pod without its account is refused"),
        ),
    }
}

async fn quotas(cluster: &Cluster, plan: &Plan, executor: &Pod, driver: Option<&Pod>) -> Check {
    let quotas: Api<ResourceQuota> = cluster.api();
    match within(quotas.list(&ListParams::default())).await {
        Ok(quotas) => judge_quotas(&quotas.items, executor, driver, plan.count),
        Err(_) => Check::new("quotas", Outcome::Skipped, "we may not list them; pods beyond one wait"),
    }
}

/// Whether everything that is asked for fits beside what is there.
fn judge_quotas(quotas: &[ResourceQuota], executor: &Pod, driver: Option<&Pod>, count: u64) -> Check {
    let mut asked = amounts(executor, count as f64);
    for (resource, amount) in driver.map(|driver| amounts(driver, 1.0)).unwrap_or_default() {
        *asked.entry(resource).or_default() += amount;
    }
    let mut problems = Vec::new();
    let mut outcome = Outcome::Passed;
    for quota in quotas {
        let name = quota.metadata.name.as_deref().unwrap_or_default();
        let Some(status) = &quota.status else { continue };
        for (resource, hard) in status.hard.iter().flatten() {
            let used = status.used.as_ref().and_then(|used| number(used.get(resource)?)).unwrap_or(0.0);
            // A quota on `cpu` is one on requests.
            let key = match resource.as_str() {
                "cpu" | "memory" | "ephemeral-storage" => format!("requests.{resource}"),
                _ => resource.clone(),
            };
            let asked = asked.get(&key).copied();
            let (Some(hard_number), counted) = (number(hard), is_counted(&key)) else { continue };
            match asked {
                None if counted && key.starts_with("limits.") => {
                    outcome = Outcome::Failed;
                    let setting =
                        if key == "limits.cpu" { "k8s.executor.cpu_limit and k8s.driver.cpu_limit" } else { "a limit" };
                    problems.push(format!("{name} wants every pod to say {key}: set {setting}"));
                }
                Some(asked) if asked + used > hard_number => {
                    outcome = if outcome == Outcome::Failed { outcome } else { Outcome::Warning };
                    let left = (hard_number - used).max(0.0);
                    problems.push(format!(
                        "{name} leaves {} of {resource}, and {} is asked for",
                        amount(&key, left),
                        amount(&key, asked)
                    ));
                }
                _ => {}
            }
        }
    }
    match (problems.is_empty(), quotas.len()) {
        (true, 0) => Check::new("quotas", Outcome::Passed, "none"),
        (true, many) => Check::new("quotas", Outcome::Passed, format!("{many}, with room for {count} executors")),
        (false, _) => Check::new("quotas", outcome, problems.join("; ")),
    }
}

/// What a quota may count of a pod.
fn is_counted(resource: &str) -> bool {
    resource == "pods" || resource.starts_with("requests.") || resource.starts_with("limits.")
}

fn amount(resource: &str, amount: f64) -> String {
    match resource.ends_with("memory") || resource.ends_with("storage") {
        true => format!("{:.1} GiB", amount / f64::from(1 << 30)),
        false => format!("{}", (amount * 1_000.0).round() / 1_000.0),
    }
}

fn amounts(pod: &Pod, times: f64) -> BTreeMap<String, f64> {
    let mut amounts = BTreeMap::from([("pods".to_owned(), times)]);
    for container in pod.spec.iter().flat_map(|spec| &spec.containers) {
        let Some(resources) = &container.resources else { continue };
        for (which, quantities) in [("requests", &resources.requests), ("limits", &resources.limits)] {
            for (name, quantity) in quantities.iter().flatten() {
                *amounts.entry(format!("{which}.{name}")).or_default() += number(quantity).unwrap_or(0.0) * times;
            }
        }
    }
    amounts
}

async fn limits(cluster: &Cluster, executor: &Pod, driver: Option<&Pod>) -> Check {
    let ranges: Api<LimitRange> = cluster.api();
    match within(ranges.list(&ListParams::default())).await {
        Ok(ranges) => judge_limits(&ranges.items, executor, driver),
        Err(_) => Check::new("limit ranges", Outcome::Skipped, "we may not list them; a pod beyond one is refused"),
    }
}

/// Whether a pod is larger or smaller than a LimitRange lets containers be.
fn judge_limits(ranges: &[LimitRange], executor: &Pod, driver: Option<&Pod>) -> Check {
    let mut problems = Vec::new();
    let pods = [(Role::Executor, Some(executor)), (Role::Driver, driver)];
    for (role, pod) in pods.into_iter().filter_map(|(role, pod)| Some((role, pod?))) {
        let amounts = ours(pod);
        for (range, item) in ranges
            .iter()
            .flat_map(|range| range.spec.iter().flat_map(move |spec| spec.limits.iter().map(move |item| (range, item))))
        {
            if item.type_ != "Container" {
                continue;
            }
            let name = range.metadata.name.as_deref().unwrap_or_default();
            let asked = |resource: &str| {
                let limit = amounts.get(&format!("limits.{resource}"));
                limit.or_else(|| amounts.get(&format!("requests.{resource}"))).copied()
            };
            for (resource, max) in item.max.iter().flatten() {
                if asked(resource).zip(number(max)).is_some_and(|(asked, max)| asked > max) {
                    problems.push(format!(
                        "{name} lets a container have {} of {resource} at most, and the {} asks for more",
                        max.0,
                        role.word()
                    ));
                }
            }
            for (resource, min) in item.min.iter().flatten() {
                if asked(resource).zip(number(min)).is_some_and(|(asked, min)| asked < min) {
                    problems.push(format!(
                        "{name} wants a container to have {} of {resource} at least, and the {} asks for less",
                        min.0,
                        role.word()
                    ));
                }
            }
        }
    }
    match problems.is_empty() {
        true => {
            Check::new("limit ranges", Outcome::Passed, if ranges.is_empty() { "none" } else { "pods are within them" })
        }
        false => Check::new("limit ranges", Outcome::Failed, problems.join("; ")),
    }
}

fn ours(pod: &Pod) -> BTreeMap<String, f64> {
    let mut only = pod.clone();
    if let Some(spec) = &mut only.spec {
        spec.containers.retain(|container| container.name == CONTAINER);
    }
    amounts(&only, 1.0)
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
    use crate::manifest;
    use crate::pod::tests::{driver_pod, executor_pods};

    fn executor() -> Pod {
        executor_pods().pod(1, &Default::default())
    }

    fn quota(hard: &str, used: &str) -> ResourceQuota {
        manifest::read(&format!("{{metadata: {{name: q}}, status: {{hard: {hard}, used: {used}}}}}")).unwrap()
    }

    fn said(check: &Check) -> String {
        format!("{:?}: {}", check.outcome, check.says)
    }

    #[test]
    fn quotas_are_held_against_what_is_asked_for() {
        let judged = |hard: &str, used: &str| {
            said(&judge_quotas(&[quota(hard, used)], &executor(), Some(&driver_pod().pod()), 10))
        };
        assert_eq!(judged("{pods: '20'}", "{pods: '2'}"), "Passed: 1, with room for 10 executors");
        assert_eq!(judged("{pods: '12'}", "{pods: '2'}"), "Warning: q leaves 10 of pods, and 11 is asked for");
        assert_eq!(
            judged("{requests.memory: 10Gi}", "{}"),
            "Warning: q leaves 10.0 GiB of requests.memory, and 42.0 GiB is asked for"
        );
        assert_eq!(judged("{cpu: '100'}", "{}"), "Passed: 1, with room for 10 executors");
        let text = "Failed: q wants every pod to say limits.cpu: set k8s.executor.cpu_limit and k8s.driver.cpu_limit";
        assert_eq!(judged("{limits.cpu: '100'}", "{}"), text);
        assert_eq!(judged("{services: '0'}", "{}"), "Passed: 1, with room for 10 executors");
    }

    #[test]
    fn limit_ranges_are_held_against_containers() {
        let range = |limits: &str| -> LimitRange {
            manifest::read(&format!("{{metadata: {{name: l}}, spec: {{limits: [{limits}]}}}}")).unwrap()
        };
        let judged = |limits: &str| said(&judge_limits(&[range(limits)], &executor(), Some(&driver_pod().pod())));
        assert_eq!(judged("{type: Container, max: {memory: 8Gi}}"), "Passed: pods are within them");
        assert_eq!(
            judged("{type: Container, max: {memory: 3Gi}}"),
            "Failed: l lets a container have 3Gi of memory at most, and the executor asks for more"
        );
        assert_eq!(
            judged("{type: Container, min: {cpu: '1'}}"),
            "Failed: l wants a container to have 1 of cpu at least, and the driver asks for less"
        );
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
