//! Which partial Pod may a user give, and what of it is Vonk's?

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::manifest::{self, Unreadable};
use crate::names::{CONTAINER, OWNED_LABELS, OWNED_PREFIX, PORT, Role};
use crate::settings::owned_path;

/// A partial Pod that touches nothing of Vonk's.
#[derive(Debug, Clone, PartialEq)]
pub struct Template(pub(crate) Pod);

/// A text that is no template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It is no partial Pod.
    #[error("{} template: {why}", role.word())]
    Unreadable {
        /// Whose template.
        role: Role,
        /// Why not.
        why: Unreadable,
    },
    /// It is something else.
    #[error("{} template: it is a {found}, and a v1 Pod is wanted", role.word())]
    NoPod {
        /// Whose template.
        role: Role,
        /// What it says of itself.
        found: String,
    },
    /// It sets what Vonk sets.
    #[error("{} template: Vonk owns {}", role.word(), list(fields))]
    Owned {
        /// Whose template.
        role: Role,
        /// The fields, each with what to do instead.
        fields: Vec<String>,
    },
}

fn list(fields: &[String]) -> String {
    match fields {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

impl Template {
    /// Reads a template of a role's pods, in YAML or JSON.
    ///
    /// # Errors
    /// It is no partial Pod, has fields that Pods do not have, or touches what Vonk owns.
    pub fn parse(role: Role, text: &str) -> Result<Self, TemplateError> {
        let unreadable = |why| TemplateError::Unreadable { role, why };
        let given: serde_json::Map<String, serde_json::Value> = manifest::yaml(text).map_err(unreadable)?;
        for (key, wanted) in [("kind", "Pod"), ("apiVersion", "v1")] {
            if let Some(found) = given.get(key).filter(|found| found.as_str() != Some(wanted)) {
                return Err(TemplateError::NoPod { role, found: found.as_str().unwrap_or("strange thing").to_owned() });
            }
        }
        let pod: Pod = manifest::read(text).map_err(unreadable)?;
        let fields = owned(&pod, role);
        if fields.is_empty() { Ok(Self(pod)) } else { Err(TemplateError::Owned { role, fields }) }
    }
}

/// The fields of a partial Pod that Vonk owns.
fn owned(pod: &Pod, role: Role) -> Vec<String> {
    let mut fields = Vec::new();
    metadata(&pod.metadata, &mut fields);
    if pod.status.is_some() {
        fields.push("status".to_owned());
    }
    if let Some(spec) = &pod.spec {
        of_spec(spec, role, &mut fields);
    }
    fields
}

fn metadata(metadata: &ObjectMeta, fields: &mut Vec<String>) {
    let set = [
        (metadata.name.is_some(), "name"),
        (metadata.generate_name.is_some(), "generateName"),
        (metadata.namespace.is_some(), "namespace"),
        (metadata.owner_references.is_some(), "ownerReferences"),
    ];
    fields.extend(set.into_iter().filter(|(set, _)| *set).map(|(_, field)| format!("metadata.{field}")));
    let ours = |key: &&String| key.starts_with(OWNED_PREFIX) || OWNED_LABELS.contains(&key.as_str());
    let labels = metadata.labels.iter().flat_map(|labels| labels.keys()).filter(ours);
    fields.extend(labels.map(|label| format!("metadata.labels[{label}]")));
    let annotations = metadata.annotations.iter().flat_map(|all| all.keys()).filter(ours);
    fields.extend(annotations.map(|key| format!("metadata.annotations[{key}]")));
}

fn of_spec(spec: &PodSpec, role: Role, fields: &mut Vec<String>) {
    let set = [
        (spec.restart_policy.is_some(), "restartPolicy"),
        (spec.enable_service_links.is_some(), "enableServiceLinks"),
        (spec.automount_service_account_token.is_some(), "automountServiceAccountToken"),
    ];
    fields.extend(set.into_iter().filter(|(set, _)| *set).map(|(_, field)| format!("spec.{field}")));
    let volumes = spec.volumes.iter().flatten().filter(|volume| volume.name.starts_with("vonk-"));
    fields.extend(volumes.map(|volume| format!("spec.volumes[{}]", volume.name)));
    for container in &spec.containers {
        let at = format!("spec.containers[{}]", container.name);
        if container.ports.iter().flatten().any(|port| port.container_port == i32::from(PORT)) {
            fields.push(format!("{at}.ports[{PORT}]"));
        }
        if container.name == CONTAINER {
            of_container(container, &at, role, fields);
        }
    }
}

fn of_container(container: &Container, at: &str, role: Role, fields: &mut Vec<String>) {
    let set = [
        (container.command.is_some(), "command"),
        (container.args.is_some(), "args"),
        (container.image.is_some(), "image (set k8s.image)"),
    ];
    fields.extend(set.into_iter().filter(|(set, _)| *set).map(|(_, field)| format!("{at}.{field}")));
    let env = container.env.iter().flatten().filter(|variable| variable.name.starts_with("VONK_"));
    fields.extend(env.map(|variable| format!("{at}.env[{}]", variable.name)));
    let mounts = container.volume_mounts.iter().flatten().filter(|mount| owned_path(&mount.mount_path));
    fields.extend(mounts.map(|mount| format!("{at}.volumeMounts[{}]", mount.mount_path)));
    let resources = container.resources.iter();
    for (which, quantities) in resources.flat_map(|r| [("requests", &r.requests), ("limits", &r.limits)]) {
        for name in quantities.iter().flat_map(|quantities| quantities.keys()) {
            let instead = match (name.as_str(), which, role) {
                ("cpu", "limits", Role::Executor) => "k8s.executor.cpu_limit",
                ("cpu", "limits", Role::Driver) => "k8s.driver.cpu_limit",
                ("cpu", _, Role::Executor) => "executor.cores",
                ("cpu", _, Role::Driver) => "k8s.driver.cores",
                ("memory", _, Role::Executor) => "executor.memory",
                ("memory", _, Role::Driver) => "k8s.driver.memory",
                ("ephemeral-storage", _, Role::Executor) => "k8s.executor.disk",
                ("ephemeral-storage", _, Role::Driver) => "k8s.driver.disk",
                _ => continue,
            };
            fields.push(format!("{at}.resources.{which}.{name} (set {instead})"));
        }
    }
}

/// What in a Pod the Pod Security Standard `restricted` forbids, each in a few words; for a warning.
#[must_use]
pub fn weakens_restricted(pod: &Pod) -> Vec<String> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let mut found = Vec::new();
    let mut note = |weak: bool, what: String| {
        if weak {
            found.push(what);
        }
    };
    note(spec.host_network == Some(true), "spec.hostNetwork".into());
    note(spec.host_pid == Some(true), "spec.hostPID".into());
    note(spec.host_ipc == Some(true), "spec.hostIPC".into());
    for volume in spec.volumes.iter().flatten() {
        note(volume.host_path.is_some(), format!("spec.volumes[{}].hostPath", volume.name));
    }
    let context = spec.security_context.as_ref();
    note(context.is_some_and(|c| c.run_as_non_root == Some(false)), "spec.securityContext.runAsNonRoot".into());
    note(context.is_some_and(|c| c.run_as_user == Some(0)), "spec.securityContext.runAsUser".into());
    let unconfined = context.and_then(|c| c.seccomp_profile.as_ref()).is_some_and(|p| p.type_ == "Unconfined");
    note(unconfined, "spec.securityContext.seccompProfile".into());
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let at = format!("spec.containers[{}]", container.name);
        note(container.ports.iter().flatten().any(|port| port.host_port.is_some()), format!("{at}.ports.hostPort"));
        // A sidecar must say what `restricted` wants of every container.
        let context = container.security_context.clone().unwrap_or_default();
        note(context.privileged == Some(true), format!("{at}.securityContext.privileged"));
        let escalates = context.allow_privilege_escalation != Some(false);
        note(escalates, format!("{at}.securityContext.allowPrivilegeEscalation"));
        note(context.run_as_non_root == Some(false), format!("{at}.securityContext.runAsNonRoot"));
        note(context.run_as_user == Some(0), format!("{at}.securityContext.runAsUser"));
        let unconfined = context.seccomp_profile.is_some_and(|profile| profile.type_ == "Unconfined");
        note(unconfined, format!("{at}.securityContext.seccompProfile"));
        let capabilities = context.capabilities.unwrap_or_default();
        let drops_all = capabilities.drop.iter().flatten().any(|name| name == "ALL");
        let adds = capabilities.add.iter().flatten().any(|name| name != "NET_BIND_SERVICE");
        note(!drops_all || adds, format!("{at}.securityContext.capabilities"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        Template::parse(Role::Executor, text).unwrap_err().to_string()
    }

    #[test]
    fn what_vonk_owns_is_named_with_what_to_set_instead() {
        let text =
            "spec:\n  restartPolicy: Always\n  containers:\n  - name: vonk\n    resources: {limits: {memory: 1Gi}}\n";
        assert_eq!(
            refusal(text),
            "executor template: Vonk owns spec.restartPolicy and spec.containers[vonk].resources.limits.memory (set executor.memory)"
        );
    }

    #[test]
    fn every_field_of_vonks_is_refused() {
        let text = "
            metadata: {name: a, generateName: b, namespace: c, ownerReferences: [], labels: {vonk.dev/app: x, app.kubernetes.io/name: y}, annotations: {vonk.dev/name: z}}
            spec:
              enableServiceLinks: true
              automountServiceAccountToken: true
              volumes: [{name: vonk-work, emptyDir: {}}]
              containers:
              - name: vonk
                image: mine
                command: [sh]
                args: [x]
                env: [{name: VONK_APP, value: x}]
                ports: [{containerPort: 7079}]
                volumeMounts: [{name: a, mountPath: /vonk/tls}, {name: b, mountPath: /tmp/}]
                resources: {requests: {cpu: 1, memory: 1, ephemeral-storage: 1}, limits: {cpu: 1}}
              - {name: beside, ports: [{containerPort: 7079}]}
            status: {}";
        insta::assert_snapshot!(refusal(text).replace(", ", ",\n").replace(" and ", " and\n"));
    }

    #[test]
    fn what_is_the_users_passes() {
        let text = "
            apiVersion: v1
            kind: Pod
            metadata: {labels: {team: x}}
            spec:
              containers:
              - {name: vonk, resources: {limits: {nvidia.com/gpu: 1}}, env: [{name: TZ, value: UTC}]}
              - {name: beside, image: log, command: [tail]}";
        let template = Template::parse(Role::Executor, text).unwrap();
        assert_eq!(template.0.spec.map(|spec| spec.containers.len()), Some(2));
        assert!(Template::parse(Role::Driver, "metadata: {labels: {team: x}}").is_ok());
        assert!(Template::parse(Role::Driver, "spec: {priorityClassName: low}").is_ok());
    }

    /// It named the key of executors.
    #[test]
    fn a_drivers_template_is_told_the_drivers_keys() {
        let text = "spec: {containers: [{name: vonk, resources: {limits: {memory: 1Gi}, requests: {cpu: 1}}}]}";
        let error = Template::parse(Role::Driver, text).unwrap_err().to_string();
        assert!(error.contains("limits.memory (set k8s.driver.memory)"), "{error}");
        assert!(error.contains("requests.cpu (set k8s.driver.cores)"), "{error}");
    }

    #[test]
    fn what_is_no_pod_is_refused() {
        assert_eq!(refusal("kind: Deployment"), "executor template: it is a Deployment, and a v1 Pod is wanted");
        assert_eq!(
            refusal("spec: {restartpolicy: Never}"),
            "executor template: Kubernetes has no field spec.restartpolicy"
        );
        assert!(refusal("spec: {containers: {}}").starts_with("executor template: "), "a list is wanted");
        assert!(refusal("- a").starts_with("executor template: "));
    }

    #[test]
    fn a_weaker_pod_is_noticed() {
        let text = "spec: {hostNetwork: true, containers: [{name: beside, securityContext: {privileged: true}}]}";
        let Template(pod) = Template::parse(Role::Executor, text).unwrap();
        let found = weakens_restricted(&pod);
        assert!(found.contains(&"spec.hostNetwork".to_owned()), "{found:?}");
        assert!(found.contains(&"spec.containers[beside].securityContext.privileged".to_owned()), "{found:?}");
        assert!(found.contains(&"spec.containers[beside].securityContext.capabilities".to_owned()), "{found:?}");
    }
}
