//! Do quotas and LimitRanges let the pods in?
//!
//! As the API server counts: a LimitRange gives a container what it does not say itself; then LimitRanges and quotas look.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    Container, LimitRange, LimitRangeItem, Pod, PodSpec, ResourceQuota, ResourceQuotaSpec,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{Check, Outcome};
use crate::names::{CONTAINER, Role};
use crate::quantity::number;

/// What a quota may want every container to say.
const WANTED: &[&str] = &["requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

/// Pods of one kind that are asked for.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) role: Role,
    pub(super) pod: Pod,
    pub(super) count: u64,
}

/// What was found, and how bad the worst of it is.
struct Found {
    outcome: Outcome,
    says: Vec<String>,
}

impl Found {
    fn nothing() -> Self {
        Self { outcome: Outcome::Passed, says: Vec::new() }
    }

    fn warns(&mut self, says: String) {
        if self.outcome == Outcome::Passed {
            self.outcome = Outcome::Warning;
        }
        self.says.push(says);
    }

    fn fails(&mut self, says: String) {
        self.outcome = Outcome::Failed;
        self.says.push(says);
    }

    fn check(self, what: &str, nothing: String) -> Check {
        match self.says.is_empty() {
            true => Check::new(what, Outcome::Passed, nothing),
            false => Check::new(what, self.outcome, self.says.join("; ")),
        }
    }
}

/// What the settings call it.
fn cpu_limit(role: Role) -> String {
    format!("k8s.{}.cpu_limit", role.word())
}

/// Whether everything that is asked for fits beside what is there.
pub(super) fn judge_quotas(quotas: &[ResourceQuota], asked: &[Asked]) -> Check {
    let mut found = Found::nothing();
    let mut many = 0;
    for quota in quotas {
        let fit = |asked: &Asked| quota.spec.as_ref().map_or(Fits::Yes, |spec| fits(spec, &asked.pod));
        let counted: Vec<_> =
            asked.iter().map(|asked| (asked, fit(asked))).filter(|(_, fits)| *fits > Fits::No).collect();
        if !counted.is_empty() {
            many += 1;
            judge_quota(quota, &counted, &mut found);
        }
    }
    let executors = asked.iter().filter(|asked| asked.role == Role::Executor).map(|asked| asked.count).sum::<u64>();
    let nothing = match (quotas.len(), many) {
        (0, _) => "none".to_owned(),
        (all, 0) => format!("none of {all} counts these pods"),
        (_, many) => format!("{many}, with room for {executors} executors"),
    };
    found.check("quotas", nothing)
}

fn judge_quota(quota: &ResourceQuota, counted: &[(&Asked, Fits)], found: &mut Found) {
    let name = quota.metadata.name.as_deref().unwrap_or_default();
    let mut sums = BTreeMap::<String, f64>::new();
    for (asked, _) in counted {
        for (resource, amount) in amounts(&asked.pod) {
            *sums.entry(resource).or_default() += amount * asked.count as f64;
        }
    }
    let perhaps = match counted.iter().all(|(_, fits)| *fits == Fits::Yes) {
        true => "",
        false => ", if its scopes fit",
    };
    let Some(status) = &quota.status else { return };
    for (resource, hard) in status.hard.iter().flatten() {
        let used = status.used.as_ref().and_then(|used| number(used.get(resource)?)).unwrap_or(0.0);
        // A quota on `cpu` is one on requests.
        let key = match resource.as_str() {
            "cpu" | "memory" | "ephemeral-storage" => format!("requests.{resource}"),
            "count/pods" => "pods".to_owned(),
            _ => resource.clone(),
        };
        let unsaid = |(asked, _): &&(&Asked, Fits)| WANTED.contains(&key.as_str()) && !silent(asked, &key).is_empty();
        let unsaid: Vec<_> = counted.iter().filter(unsaid).collect();
        if !unsaid.is_empty() {
            let settings: BTreeSet<_> = unsaid.iter().flat_map(|(asked, _)| says_it(asked, &key)).collect();
            let settings = settings.into_iter().collect::<Vec<_>>().join(" and ");
            let says = format!("{name} wants every pod to say {key}: set {settings}{perhaps}");
            match unsaid.iter().any(|(_, fits)| *fits == Fits::Yes) {
                true => found.fails(says),
                false => found.warns(says),
            }
        } else if let (Some(&asked), Some(hard)) = (sums.get(&key), number(hard))
            && asked + used > hard
        {
            let (left, asked) = (amount(&key, (hard - used).max(0.0)), amount(&key, asked));
            found.warns(format!("{name} leaves {left} of {resource}, and {asked} is asked for{perhaps}"));
        }
    }
}

/// Containers that do not say how much of something they take.
fn silent<'a>(asked: &'a Asked, key: &str) -> Vec<&'a str> {
    let silent = containers(&asked.pod).filter(|container| !said_by(container).contains_key(key));
    silent.map(|container| container.name.as_str()).collect()
}

/// What to set, so that they do.
fn says_it(asked: &Asked, key: &str) -> Vec<String> {
    let place = |container| match (container, key) {
        (CONTAINER, "limits.cpu") => cpu_limit(asked.role),
        (container, _) => format!("it for {container} in the {}'s template", asked.role.word()),
    };
    silent(asked, key).into_iter().map(place).collect()
}

/// Whether a quota counts a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fits {
    No,
    /// That depends on what we do not see.
    Perhaps,
    Yes,
}

impl From<bool> for Fits {
    fn from(fits: bool) -> Self {
        if fits { Self::Yes } else { Self::No }
    }
}

/// Every scope has to fit.
fn fits(spec: &ResourceQuotaSpec, pod: &Pod) -> Fits {
    let plain = spec.scopes.iter().flatten().map(|scope| scope_fits(scope, "Exists", &[], pod));
    let selectors = spec.scope_selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten());
    let selected = selectors.map(|selector| {
        scope_fits(&selector.scope_name, &selector.operator, selector.values.as_deref().unwrap_or_default(), pod)
    });
    plain.chain(selected).min().unwrap_or(Fits::Yes)
}

fn scope_fits(scope: &str, operator: &str, values: &[String], pod: &Pod) -> Fits {
    let spec = pod.spec.clone().unwrap_or_default();
    match scope {
        "Terminating" => spec.active_deadline_seconds.is_some().into(),
        "NotTerminating" => spec.active_deadline_seconds.is_none().into(),
        // Pods of Vonk's always say what they take.
        "BestEffort" => Fits::No,
        "NotBestEffort" => Fits::Yes,
        // Of volume claims.
        "VolumeAttributesClass" => Fits::No,
        "PriorityClass" => match (spec.priority_class_name.filter(|class| !class.is_empty()), operator) {
            // The cluster may have a class for those that name none.
            (None, _) => Fits::Perhaps,
            (Some(class), "In") => values.contains(&class).into(),
            (Some(class), "NotIn") => (!values.contains(&class)).into(),
            (Some(_), "DoesNotExist") => Fits::No,
            (Some(_), "Exists") => Fits::Yes,
            (Some(_), _) => Fits::Perhaps,
        },
        "CrossNamespacePodAffinity" => {
            let near = spec.affinity.is_some_and(|it| it.pod_affinity.is_some() || it.pod_anti_affinity.is_some());
            if near { Fits::Perhaps } else { Fits::No }
        }
        _ => Fits::Perhaps,
    }
}

/// Whether pods are larger or smaller than LimitRanges let them be, and what these do to them.
pub(super) fn judge_limits(ranges: &[LimitRange], asked: &[Asked]) -> Check {
    let mut found = Found::nothing();
    for Asked { role, pod, .. } in asked {
        throttled(ranges, *role, pod, &mut found);
        let whole = filled(pod, ranges);
        for (name, item) in items(ranges) {
            match item.type_.as_str() {
                "Container" => {
                    for container in containers(&whole) {
                        let who = match container.name.as_str() {
                            CONTAINER => format!("the {}", role.word()),
                            beside => format!("{beside} beside the {}", role.word()),
                        };
                        within(item, (name, "container"), (&who, *role), &said_by(container), &mut found);
                    }
                }
                "Pod" => {
                    let who = format!("the {}", role.word());
                    within(item, (name, "pod"), (&who, *role), &amounts(&whole), &mut found);
                }
                _ => {}
            }
        }
    }
    found.check("limit ranges", if ranges.is_empty() { "none" } else { "pods are within them" }.to_owned())
}

/// Holds what somebody asks for against a range.
fn within(
    item: &LimitRangeItem,
    (name, what): (&str, &str),
    (who, role): (&str, Role),
    says: &BTreeMap<String, f64>,
    found: &mut Found,
) {
    let said = |which: &str, resource: &str| says.get(&format!("{which}.{resource}")).copied();
    for (resource, max) in item.max.iter().flatten() {
        let (limit, request) = (said("limits", resource), said("requests", resource));
        let Some(number) = number(max) else { continue };
        if limit.into_iter().chain(request).any(|asked| asked > number) {
            let max = &max.0;
            found.fails(format!("{name} lets a {what} have {max} of {resource} at most, and {who} asks for more"));
        } else if limit.is_none() {
            let set = if resource == "cpu" { format!(": set {}", cpu_limit(role)) } else { String::new() };
            found.fails(format!("{name} wants a {what} to limit its {resource}, and {who} does not{set}"));
        }
    }
    for (resource, min) in item.min.iter().flatten() {
        let (limit, request) = (said("limits", resource), said("requests", resource));
        let enough = |asked: f64| number(min).is_none_or(|min| asked >= min);
        if !(request.is_some_and(enough) && limit.is_none_or(enough)) {
            let min = &min.0;
            found.fails(format!("{name} wants a {what} to have {min} of {resource} at least, and {who} asks for less"));
        }
    }
}

/// A limit that nobody asked for stalls heartbeats, and one below what is requested is refused.
fn throttled(ranges: &[LimitRange], role: Role, pod: &Pod, found: &mut Found) {
    let Some(ours) = containers(pod).find(|container| container.name == CONTAINER).map(said_by) else { return };
    let given = |(name, item): (_, &'_ LimitRangeItem)| Some((name, default_of(item, "cpu")?.clone()));
    let Some((name, limit)) = items(ranges).find_map(given).filter(|_| !ours.contains_key("limits.cpu")) else {
        return;
    };
    let (who, set, requested) = (role.word(), cpu_limit(role), ours.get("requests.cpu").copied().unwrap_or(0.0));
    let Quantity(text) = &limit;
    if number(&limit).is_some_and(|limit| limit < requested) {
        found.fails(format!(
            "{name} limits containers to {text} cpu unless told otherwise, and the {who} requests more: set {set}"
        ));
    } else if role == Role::Executor {
        found.warns(format!(
            "{name} limits containers to {text} cpu unless told otherwise, and a throttled executor looks dead: set {set}"
        ));
    }
}

fn items(ranges: &[LimitRange]) -> impl Iterator<Item = (&str, &LimitRangeItem)> {
    ranges.iter().flat_map(|range| {
        let name = range.metadata.name.as_deref().unwrap_or_default();
        range.spec.iter().flat_map(|spec| &spec.limits).map(move |item| (name, item))
    })
}

fn default_of<'a>(item: &'a LimitRangeItem, resource: &str) -> Option<&'a Quantity> {
    item.default.as_ref().filter(|_| item.type_ == "Container")?.get(resource)
}

/// A pod with what the API server and LimitRanges give to containers that do not say it.
pub(super) fn filled(pod: &Pod, ranges: &[LimitRange]) -> Pod {
    let mut pod = pod.clone();
    let Some(spec) = &mut pod.spec else { return pod };
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        let resources = container.resources.get_or_insert_default();
        // Before anybody looks: who says its limits alone requests them.
        for (name, quantity) in resources.limits.iter().flatten() {
            let requests = resources.requests.get_or_insert_default();
            requests.entry(name.clone()).or_insert_with(|| quantity.clone());
        }
        for (_, item) in items(ranges).filter(|(_, item)| item.type_ == "Container") {
            for (given, said) in
                [(&item.default, &mut resources.limits), (&item.default_request, &mut resources.requests)]
            {
                for (name, quantity) in given.iter().flatten() {
                    said.get_or_insert_default().entry(name.clone()).or_insert_with(|| quantity.clone());
                }
            }
        }
    }
    pod
}

fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
}

/// What a container requests, and to what it is limited: `requests.cpu`, `limits.memory`.
fn said_by(container: &Container) -> BTreeMap<String, f64> {
    let resources = container.resources.iter();
    let both = resources.flat_map(|both| [("requests", &both.requests), ("limits", &both.limits)]);
    let each = both.flat_map(|(which, quantities)| {
        quantities
            .iter()
            .flatten()
            .map(move |(name, quantity)| (format!("{which}.{name}"), number(quantity).unwrap_or(0.0)))
    });
    each.collect()
}

/// What a pod takes, and the pod itself: the sum over containers that run beside each other, or what one that runs before them
/// takes, if that is more.
fn amounts(pod: &Pod) -> BTreeMap<String, f64> {
    let mut amounts = BTreeMap::from([("pods".to_owned(), 1.0)]);
    let before = |container: &&Container| {
        let is_init = |spec: &PodSpec| spec.init_containers.iter().flatten().any(|init| init.name == container.name);
        pod.spec.as_ref().is_some_and(is_init) && container.restart_policy.as_deref() != Some("Always")
    };
    let (before, beside): (Vec<_>, Vec<_>) = containers(pod).partition(before);
    for (resource, amount) in beside.into_iter().flat_map(said_by) {
        *amounts.entry(resource).or_default() += amount;
    }
    for (resource, amount) in before.into_iter().flat_map(said_by) {
        let most = amounts.entry(resource).or_default();
        *most = most.max(amount);
    }
    amounts
}

fn amount(resource: &str, amount: f64) -> String {
    match resource.ends_with("memory") || resource.ends_with("storage") {
        true => format!("{:.1} GiB", amount / f64::from(1 << 30)),
        false => format!("{}", (amount * 1_000.0).round() / 1_000.0),
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

    fn asked(executor: Pod) -> [Asked; 2] {
        let driver = driver_pod().pod();
        [Asked { role: Role::Executor, pod: executor, count: 10 }, Asked { role: Role::Driver, pod: driver, count: 1 }]
    }

    fn said(check: &Check) -> String {
        format!("{:?}: {}", check.outcome, check.says)
    }

    fn quota(spec: &str, hard: &str, used: &str) -> ResourceQuota {
        let text = format!("{{metadata: {{name: q}}, spec: {spec}, status: {{hard: {hard}, used: {used}}}}}");
        manifest::read(&text).unwrap()
    }

    fn range(limits: &str) -> LimitRange {
        manifest::read(&format!("{{metadata: {{name: l}}, spec: {{limits: [{limits}]}}}}")).unwrap()
    }

    #[test]
    fn quotas_are_held_against_what_is_asked_for() {
        let judged = |hard: &str, used: &str| said(&judge_quotas(&[quota("{}", hard, used)], &asked(executor())));
        assert_eq!(judged("{pods: '20'}", "{pods: '2'}"), "Passed: 1, with room for 10 executors");
        assert_eq!(judged("{pods: '12'}", "{pods: '2'}"), "Warning: q leaves 10 of pods, and 11 is asked for");
        assert_eq!(judged("{count/pods: '10'}", "{}"), "Warning: q leaves 10 of count/pods, and 11 is asked for");
        assert_eq!(
            judged("{requests.memory: 10Gi}", "{}"),
            "Warning: q leaves 10.0 GiB of requests.memory, and 42.0 GiB is asked for"
        );
        assert_eq!(judged("{cpu: '100'}", "{}"), "Passed: 1, with room for 10 executors");
        let text = "Failed: q wants every pod to say limits.cpu: set k8s.driver.cpu_limit and k8s.executor.cpu_limit";
        assert_eq!(judged("{limits.cpu: '100'}", "{}"), text);
        assert_eq!(judged("{services: '0'}", "{}"), "Passed: 1, with room for 10 executors");
        assert_eq!(said(&judge_quotas(&[], &asked(executor()))), "Passed: none");
    }

    /// A quota on best-effort pods, of which there are none, was a hindrance.
    #[test]
    fn quotas_count_what_their_scopes_fit() {
        let judged = |class: Option<&str>, spec: &str| {
            let mut pod = executor();
            pod.spec.as_mut().unwrap().priority_class_name = class.map(str::to_owned);
            let quota = quota(spec, "{limits.cpu: '1', pods: '5'}", "{}");
            said(&judge_quotas(&[quota], &asked(pod)[..1]))
        };
        let selector = |operator: &str| {
            format!("{{scopeSelector: {{matchExpressions: [{{scopeName: PriorityClass, operator: {operator}}}]}}}}")
        };
        let (none, fails) = ("Passed: none of 1 counts these pods", "Failed: q wants every pod to say limits.cpu: set");
        for scope in ["BestEffort", "Terminating", "CrossNamespacePodAffinity", "VolumeAttributesClass"] {
            assert_eq!(judged(None, &format!("{{scopes: [{scope}]}}")), none, "{scope}");
        }
        assert!(judged(None, "{scopes: [NotBestEffort, NotTerminating]}").starts_with(fails));
        assert_eq!(judged(None, "{scopes: [NotBestEffort, Terminating]}"), none);
        assert!(judged(Some("high"), &selector("In, values: [high, low]")).starts_with(fails));
        assert_eq!(judged(Some("mid"), &selector("In, values: [high, low]")), none);
        assert_eq!(judged(Some("high"), &selector("NotIn, values: [high]")), none);
        assert_eq!(judged(Some("high"), &selector("DoesNotExist")), none);
        let perhaps = "Warning: q wants every pod to say limits.cpu: set k8s.executor.cpu_limit, if its scopes fit; \
                       q leaves 5 of pods, and 10 is asked for, if its scopes fit";
        assert_eq!(judged(None, &selector("In, values: [high]")), perhaps, "the cluster may have a default class");
        assert_eq!(judged(None, "{scopes: [SomethingNew]}"), perhaps);
    }

    #[test]
    fn a_limit_by_default_is_one_that_a_quota_wants() {
        let ranges = [range("{type: Container, default: {cpu: '4'}, defaultRequest: {cpu: '1'}}")];
        let filled = asked(executor()).map(|asked| Asked { pod: filled(&asked.pod, &ranges), ..asked });
        let judged = judge_quotas(&[quota("{}", "{limits.cpu: '40', requests.cpu: '40'}", "{}")], &filled);
        assert_eq!(said(&judged), "Warning: q leaves 40 of limits.cpu, and 44 is asked for");
    }

    #[test]
    fn limits_alone_are_requests_and_what_runs_before_the_others_counts_if_it_is_more() {
        let mut pod = executor();
        let spec = pod.spec.as_mut().unwrap();
        let container = |text: &str| manifest::read(text).unwrap();
        spec.containers
            .push(container("{name: beside, image: a, resources: {limits: {cpu: '1', nvidia.com/gpu: '1'}}}"));
        let before = "{name: before, image: a, resources: {requests: {cpu: '7'}}}";
        let sidecar = "{name: sidecar, image: a, restartPolicy: Always, resources: {requests: {cpu: '2'}}}";
        spec.init_containers = Some(vec![container(before), container(sidecar)]);
        let amounts = amounts(&filled(&pod, &[]));
        assert_eq!(amounts["requests.nvidia.com/gpu"], 1.0);
        assert_eq!(amounts["requests.cpu"], 7.0, "{amounts:?}");
        let quota = [quota("{}", "{limits.cpu: '100'}", "{}")];
        let says = said(&judge_quotas(&quota, &asked(filled(&pod, &[]))[..1]));
        assert!(says.contains("it for before in the executor's template"), "{says}");
    }

    #[test]
    fn limit_ranges_are_held_against_containers() {
        let judged = |limits: &str| said(&judge_limits(&[range(limits)], &asked(executor())));
        assert_eq!(judged("{type: Container, max: {memory: 8Gi}}"), "Passed: pods are within them");
        assert_eq!(
            judged("{type: Container, max: {memory: 3Gi}}"),
            "Failed: l lets a container have 3Gi of memory at most, and the executor asks for more"
        );
        assert_eq!(
            judged("{type: Container, min: {cpu: '1'}}"),
            "Failed: l wants a container to have 1 of cpu at least, and the driver asks for less"
        );
        assert_eq!(judged("{type: PersistentVolumeClaim, max: {storage: 1Gi}}"), "Passed: pods are within them");
    }

    #[test]
    fn limit_ranges_are_held_against_the_sum_of_a_pods_containers() {
        let beside = |resources: &str| {
            let mut pod = executor();
            let text = format!("{{name: beside, image: log, resources: {resources}}}");
            pod.spec.as_mut().unwrap().containers.push(manifest::read(&text).unwrap());
            pod
        };
        let judged = |limits: &str, pod: Pod| said(&judge_limits(&[range(limits)], &asked(pod)[..1]));
        let two = || beside("{requests: {memory: 1Gi}, limits: {memory: 1Gi}}");
        assert_eq!(
            judged("{type: Pod, max: {memory: 4Gi}}", two()),
            "Failed: l lets a pod have 4Gi of memory at most, and the executor asks for more"
        );
        assert_eq!(judged("{type: Pod, max: {memory: 5Gi}}", two()), "Passed: pods are within them");
        assert_eq!(
            judged("{type: Container, max: {memory: 4Gi}, min: {memory: 2Gi}}", two()),
            "Failed: l wants a container to have 2Gi of memory at least, and beside beside the executor asks for less"
        );
        assert_eq!(
            judged("{type: Pod, max: {cpu: '8'}}", executor()),
            "Failed: l wants a pod to limit its cpu, and the executor does not: set k8s.executor.cpu_limit"
        );
    }

    #[test]
    fn a_cpu_limit_that_nobody_asked_for_is_told() {
        let judged = |cpu: &str, pod: Pod| {
            said(&judge_limits(&[range(&format!("{{type: Container, default: {{cpu: '{cpu}'}}}}"))], &asked(pod)))
        };
        assert_eq!(
            judged("4", executor()),
            "Warning: l limits containers to 4 cpu unless told otherwise, and a throttled executor looks dead: \
             set k8s.executor.cpu_limit"
        );
        assert!(
            judged("1", executor())
                .starts_with("Failed: l limits containers to 1 cpu unless told otherwise, and the executor")
        );
        let mut limited = executor();
        let limits = limited.spec.as_mut().unwrap().containers[0].resources.as_mut().unwrap().limits.as_mut();
        limits.unwrap().insert("cpu".into(), Quantity("6".into()));
        assert_eq!(judged("4", limited), "Passed: pods are within them");
    }
}
