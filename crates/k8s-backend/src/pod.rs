//! What is in the manifest of an executor's and a driver's pod?
//!
//! Later wins: what every pod has, the user's template, the user's settings, and what Vonk owns. Templates and settings
//! that touch the last were refused when they were read.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar,
    EnvVarSource, NodeAffinity, NodeSelectorRequirement, NodeSelectorTerm, ObjectFieldSelector, Pod,
    PodSecurityContext, PodSpec, PreferredSchedulingTerm, SeccompProfile, SecretVolumeSource, SecurityContext, Volume,
    VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use model::ids::{AppId, Epoch};

use crate::config;
use crate::manifest::overlay;
use crate::names::{self, CONTAINER, PORT, Role, variables};
use crate::settings::PodSettings;
use crate::template::Template;

/// Executors give a drain up at 25 s, and the shortest notice of a spot machine is 30 s.
pub(crate) const GRACE_SECONDS: u32 = 30;

/// Beyond the volume for spilling, a container writes its log, which counts too.
const LOG_DISK: u64 = 1 << 30;

/// Files of a Secret are root's, and the process that reads them is not.
const READABLE: i32 = 0o444;

/// What all pods of an application have in common.
#[derive(Debug, Clone, PartialEq)]
pub struct AppPods {
    /// The application.
    pub app: AppId,
    /// What people call it.
    pub name: String,
    /// The image.
    pub image: String,
    /// The program's SHA-256 in hex, or [`names::IN_IMAGE`] and its path; none if the stock binary serves.
    pub program: Option<String>,
    /// Files that go along with it, as the program reads them; empty if there are none.
    pub attached: String,
    /// The program's architecture as Kubernetes calls it: `amd64` or `arm64`. Any if the stock binary serves.
    pub architecture: Option<String>,
    /// URL of the store.
    pub store: String,
    /// What they log, as a filter of `tracing`; their default if none.
    pub log: Option<String>,
}

/// What executors' pods are made of.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecutorPods {
    /// What they share with the driver's.
    pub of: AppPods,
    /// The epoch.
    pub epoch: Epoch,
    /// What owns them.
    pub owner: OwnerReference,
    /// Tasks at a time, and CPUs that are requested.
    pub cores: u32,
    /// Memory in bytes: as much as is requested, and no more.
    pub memory: u64,
    /// Disk for what does not fit into memory, in bytes.
    pub disk: u64,
    /// The Secret with their TLS files.
    pub tls_secret: String,
    /// A partial Pod of the user's.
    pub template: Option<Template>,
    /// What the settings ask for.
    pub settings: PodSettings,
}

impl ExecutorPods {
    /// The pod of executor `n`, which avoids nodes where others could not start.
    #[must_use]
    pub fn pod(&self, n: u64, avoid: &BTreeSet<String>) -> Pod {
        let app = self.of.app;
        let mut labels = names::labels(app, Role::Executor);
        labels.insert(names::EPOCH.to_owned(), self.epoch.0.to_string());
        labels.insert(names::EXECUTOR.to_owned(), n.to_string());
        let mut pod = base(&self.of, Role::Executor, &self.tls_secret, self.disk);
        lay_over(&mut pod, self.template.as_ref(), &self.settings);
        own_metadata(&mut pod, &self.of, labels);
        pod.metadata.name = Some(names::executor(app, self.epoch, n));
        pod.metadata.owner_references = Some(vec![self.owner.clone()]);
        let cores = Quantity(self.cores.to_string());
        own_resources(&mut pod, &Sizes { cores, memory: self.memory, disk: self.disk }, &self.settings);
        if let Some(spec) = &mut pod.spec {
            spec.automount_service_account_token = Some(false);
            avoid_nodes(spec, avoid);
        }
        let identity = [
            (variables::ROLE, Role::Executor.word().to_owned()),
            (variables::APP, app.to_string()),
            (variables::EPOCH, self.epoch.0.to_string()),
            (variables::EXECUTOR, n.to_string()),
        ];
        own_environment(&mut pod, &self.of, &identity);
        pod
    }
}

/// What a driver's pod is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct DriverPod {
    /// What it shares with executors'.
    pub of: AppPods,
    /// Its root, which gives it its name.
    pub root: String,
    /// CPUs that are requested, as Kubernetes writes them.
    pub cores: Quantity,
    /// Memory in bytes.
    pub memory: u64,
    /// Disk in bytes.
    pub disk: u64,
    /// A partial Pod of the user's.
    pub template: Option<Template>,
    /// What the settings ask for.
    pub settings: PodSettings,
    /// The program's arguments.
    pub args: Vec<String>,
    /// How long it may run before it ends itself.
    pub timeout: Option<Duration>,
}

impl DriverPod {
    /// The pod, without a name: its Job gives it one.
    #[must_use]
    pub fn pod(&self) -> Pod {
        let app = self.of.app;
        let mut pod = base(&self.of, Role::Driver, &names::files(&self.root, Role::Driver), self.disk);
        let annotations = pod.metadata.annotations.get_or_insert_default();
        // Autoscalers would move it, and its program would begin anew.
        annotations.insert("cluster-autoscaler.kubernetes.io/safe-to-evict".into(), "false".into());
        annotations.insert("karpenter.sh/do-not-disrupt".into(), "true".into());
        lay_over(&mut pod, self.template.as_ref(), &self.settings);
        own_metadata(&mut pod, &self.of, names::labels(app, Role::Driver));
        let sizes = Sizes { cores: self.cores.clone(), memory: self.memory, disk: self.disk };
        own_resources(&mut pod, &sizes, &self.settings);
        if let Some(spec) = &mut pod.spec {
            spec.automount_service_account_token = Some(true);
            spec.volumes.get_or_insert_default().push(Volume {
                name: "vonk-config".into(),
                config_map: Some(ConfigMapVolumeSource {
                    name: names::files(&self.root, Role::Driver),
                    default_mode: Some(READABLE),
                    ..Default::default()
                }),
                ..Volume::default()
            });
        }
        let mut identity = vec![
            (variables::ROLE, Role::Driver.word().to_owned()),
            (variables::APP, app.to_string()),
            (variables::CONFIG, "/vonk/config/vonk.toml".to_owned()),
        ];
        identity.extend(self.timeout.map(|timeout| (variables::TIMEOUT, timeout.as_millis().to_string())));
        own_environment(&mut pod, &self.of, &identity);
        if let Some(container) = ours(&mut pod) {
            container.env.get_or_insert_default().push(of_field(variables::POD_NAME, "metadata.name"));
            container.args = (!self.args.is_empty()).then(|| self.args.clone());
            container.volume_mounts.get_or_insert_default().push(mount("vonk-config", "/vonk/config", true));
        }
        pod
    }
}

/// What every pod has, below what users may say.
fn base(of: &AppPods, role: Role, tls_secret: &str, disk: u64) -> Pod {
    let mut node_selector = BTreeMap::from([("kubernetes.io/os".to_owned(), "linux".to_owned())]);
    if let Some(architecture) = &of.architecture {
        node_selector.insert("kubernetes.io/arch".to_owned(), architecture.clone());
    }
    let account = match role {
        Role::Driver => config::DRIVER.service_account.default,
        Role::Executor => config::EXECUTOR.service_account.default,
    };
    let work = EmptyDirVolumeSource { size_limit: Some(bytes(disk)), ..EmptyDirVolumeSource::default() };
    let tls = SecretVolumeSource {
        secret_name: Some(tls_secret.to_owned()),
        default_mode: Some(READABLE),
        ..SecretVolumeSource::default()
    };
    let container = Container {
        name: CONTAINER.to_owned(),
        command: Some(vec![format!("vonk-{}", role.word())]),
        image: Some(of.image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        ports: (role == Role::Executor).then(|| {
            vec![ContainerPort {
                name: Some("vonk".to_owned()),
                container_port: i32::from(PORT),
                protocol: Some("TCP".to_owned()),
                ..ContainerPort::default()
            }]
        }),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities { add: None, drop: Some(vec!["ALL".to_owned()]) }),
            read_only_root_filesystem: Some(true),
            ..SecurityContext::default()
        }),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(vec![
            VolumeMount { sub_path: Some("work".to_owned()), ..mount("vonk-work", "/vonk/work", false) },
            VolumeMount { sub_path: Some("tmp".to_owned()), ..mount("vonk-work", "/tmp", false) },
            mount("vonk-tls", "/vonk/tls", true),
        ]),
        ..Container::default()
    };
    let spec = PodSpec {
        containers: vec![container],
        enable_service_links: Some(false),
        node_selector: Some(node_selector),
        restart_policy: Some("Never".to_owned()),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
            ..PodSecurityContext::default()
        }),
        service_account_name: Some(account.to_owned()),
        termination_grace_period_seconds: Some(GRACE_SECONDS.into()),
        volumes: Some(vec![
            Volume { name: "vonk-work".to_owned(), empty_dir: Some(work), ..Volume::default() },
            Volume { name: "vonk-tls".to_owned(), secret: Some(tls), ..Volume::default() },
        ]),
        ..PodSpec::default()
    };
    Pod { metadata: ObjectMeta::default(), spec: Some(spec), status: None }
}

fn mount(volume: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: volume.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

fn bytes(bytes: u64) -> Quantity {
    let (number, unit) = match bytes {
        _ if bytes.is_multiple_of(1 << 30) => (bytes >> 30, "Gi"),
        _ if bytes.is_multiple_of(1 << 20) => (bytes >> 20, "Mi"),
        _ => (bytes, ""),
    };
    Quantity(format!("{number}{unit}"))
}

fn lay_over(pod: &mut Pod, template: Option<&Template>, settings: &PodSettings) {
    if let Some(Template(template)) = template {
        overlay(pod, template.clone());
    }
    overlay(pod, settings.pod.clone());
}

fn own_metadata(pod: &mut Pod, of: &AppPods, labels: BTreeMap<String, String>) {
    pod.metadata.labels.get_or_insert_default().extend(labels);
    if !of.name.is_empty() {
        pod.metadata.annotations.get_or_insert_default().insert(names::NAME.to_owned(), of.name.clone());
    }
}

struct Sizes {
    cores: Quantity,
    memory: u64,
    disk: u64,
}

fn own_resources(pod: &mut Pod, sizes: &Sizes, settings: &PodSettings) {
    let Some(container) = ours(pod) else { return };
    let resources = container.resources.get_or_insert_default();
    let fixed = [("memory", bytes(sizes.memory)), ("ephemeral-storage", bytes(sizes.disk + LOG_DISK))];
    let requests = resources.requests.get_or_insert_default();
    requests.insert("cpu".to_owned(), sizes.cores.clone());
    requests.extend(fixed.clone().map(|(name, quantity)| (name.to_owned(), quantity)));
    let limits = resources.limits.get_or_insert_default();
    limits.extend(fixed.map(|(name, quantity)| (name.to_owned(), quantity)));
    limits.extend(settings.cpu_limit.clone().map(|limit| ("cpu".to_owned(), limit)));
}

/// The engine's variables come last, and a template cannot name them.
fn own_environment(pod: &mut Pod, of: &AppPods, identity: &[(&str, String)]) {
    let Some(container) = ours(pod) else { return };
    let variable = |name: &str, value: String| EnvVar { name: name.to_owned(), value: Some(value), value_from: None };
    let env = container.env.get_or_insert_default();
    env.extend(identity.iter().map(|(name, value)| variable(name, value.clone())));
    env.push(of_field(variables::POD_UID, "metadata.uid"));
    env.extend(of.log.clone().map(|log| variable(variables::LOG, log)));
    env.extend(of.program.clone().map(|program| variable(variables::PROGRAM, program)));
    if !of.attached.is_empty() {
        env.push(variable(variables::ATTACHED, of.attached.clone()));
    }
    env.push(variable(variables::STORE, of.store.clone()));
}

/// A variable with what Kubernetes knows of the pod.
fn of_field(name: &str, path: &str) -> EnvVar {
    let field = ObjectFieldSelector { api_version: None, field_path: path.to_owned() };
    let from = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
    EnvVar { name: name.to_owned(), value: None, value_from: Some(from) }
}

/// A wish and no condition: a pod on a bad node is better than none.
fn avoid_nodes(spec: &mut PodSpec, avoid: &BTreeSet<String>) {
    if avoid.is_empty() {
        return;
    }
    // Kubernetes takes one name in each requirement.
    let elsewhere = avoid.iter().map(|node| NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "NotIn".to_owned(),
        values: Some(vec![node.clone()]),
    });
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    let nodes: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    nodes.preferred_during_scheduling_ignored_during_execution.get_or_insert_default().push(PreferredSchedulingTerm {
        weight: 100,
        preference: NodeSelectorTerm { match_fields: Some(elsewhere.collect()), match_expressions: None },
    });
}

fn ours(pod: &mut Pod) -> Option<&mut Container> {
    pod.spec.as_mut()?.containers.iter_mut().find(|container| container.name == CONTAINER)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::{DRIVER, EXECUTOR};
    use model::setting::Values;

    pub(crate) fn app_pods() -> AppPods {
        AppPods {
            app: AppId(0x0190_0000_0000_7000_8000_0000_0000_0001),
            name: "nightly".into(),
            image: "r/vonk:9".into(),
            program: Some("0123abcd".into()),
            attached: String::new(),
            architecture: Some("amd64".into()),
            store: "s3://bucket/vonk".into(),
            log: None,
        }
    }

    pub(crate) fn executor_pods() -> ExecutorPods {
        let of = app_pods();
        ExecutorPods {
            epoch: Epoch(1),
            owner: OwnerReference {
                api_version: "coordination.k8s.io/v1".into(),
                kind: "Lease".into(),
                name: names::root(of.app),
                uid: "root-uid".into(),
                controller: Some(false),
                block_owner_deletion: None,
            },
            cores: 2,
            memory: 4 << 30,
            disk: 10 << 30,
            tls_secret: names::files(&names::root(of.app), Role::Executor),
            template: None,
            settings: PodSettings::read(&EXECUTOR, &Values::new()).unwrap(),
            of,
        }
    }

    pub(crate) fn driver_pod() -> DriverPod {
        let of = app_pods();
        DriverPod {
            root: names::root(of.app),
            cores: Quantity("500m".into()),
            memory: 2 << 30,
            disk: 2 << 30,
            template: None,
            settings: PodSettings::read(&DRIVER, &Values::new()).unwrap(),
            args: vec!["--rows".into(), "10".into()],
            timeout: None,
            of,
        }
    }

    fn yaml(pod: &Pod) -> String {
        serde_saphyr::to_string(pod).unwrap()
    }

    #[test]
    fn an_executor() {
        insta::assert_snapshot!(yaml(&executor_pods().pod(7, &BTreeSet::new())));
    }

    #[test]
    fn a_driver() {
        insta::assert_snapshot!(yaml(&driver_pod().pod()));
    }

    /// Executors heard nothing of it: a template may not set it.
    #[test]
    fn pods_are_told_what_to_log() {
        let of = AppPods { log: Some("debug".into()), ..app_pods() };
        let executor = ExecutorPods { of: of.clone(), ..executor_pods() }.pod(1, &BTreeSet::new());
        for mut pod in [executor, DriverPod { of, ..driver_pod() }.pod()] {
            let env = ours(&mut pod).unwrap().env.take().unwrap();
            let log = env.into_iter().find(|variable| variable.name == variables::LOG);
            assert_eq!(log.and_then(|variable| variable.value).as_deref(), Some("debug"));
        }
    }

    #[test]
    fn files_that_go_along_are_told_to_both() {
        let of = AppPods { attached: "file:ab#a.txt".into(), ..app_pods() };
        let pods = [
            ExecutorPods { of: of.clone(), ..executor_pods() }.pod(1, &BTreeSet::new()),
            DriverPod { of, ..driver_pod() }.pod(),
        ];
        for mut pod in pods {
            let env = ours(&mut pod).unwrap().env.take().unwrap();
            let told = env.into_iter().find(|variable| variable.name == variables::ATTACHED);
            assert_eq!(told.and_then(|variable| variable.value), Some("file:ab#a.txt".to_owned()));
        }
    }

    #[test]
    fn a_driver_is_told_how_long_it_may_run() {
        let told = |timeout| {
            let mut pod = DriverPod { timeout, ..driver_pod() }.pod();
            let env = ours(&mut pod).unwrap().env.take().unwrap();
            env.into_iter().find(|variable| variable.name == variables::TIMEOUT).and_then(|variable| variable.value)
        };
        assert_eq!(told(Some(Duration::from_secs(90))), Some("90000".to_owned()));
        assert_eq!(told(None), None);
    }

    #[test]
    fn pods_of_vonk_pass_restricted() {
        for pod in [executor_pods().pod(1, &BTreeSet::new()), driver_pod().pod()] {
            assert_eq!(crate::template::weakens_restricted(&pod), Vec::<String>::new());
        }
    }

    #[test]
    fn settings_win_over_the_template_and_vonk_over_both() {
        let template = "
            metadata: {labels: {team: template, tier: template}}
            spec:
              priorityClassName: template
              serviceAccountName: template
              nodeSelector: {disk: ssd}
              tolerations: [{key: template}]
              containers:
              - name: vonk
                env: [{name: TZ, value: template}, {name: A, value: template}]
                resources: {limits: {nvidia.com/gpu: 1}}
              - {name: beside, image: log}";
        let set = [
            ("labels.team", "settings"),
            ("env.TZ", "settings"),
            ("tolerations", "[{key: settings}]"),
            ("cpu_limit", "3"),
            ("resources.x/y", "2"),
        ];
        let values = set.iter().map(|(key, value)| (format!("k8s.executor.{key}"), (*value).to_owned())).collect();
        let pods = ExecutorPods {
            template: Some(Template::parse(Role::Executor, template).unwrap()),
            settings: PodSettings::read(&EXECUTOR, &values).unwrap(),
            ..executor_pods()
        };
        insta::assert_snapshot!(yaml(&pods.pod(1, &BTreeSet::from(["node-a".to_owned()]))));
    }

    #[test]
    fn sizes_are_written_as_people_read_them() {
        assert_eq!(bytes(4 << 30).0, "4Gi");
        assert_eq!(bytes(1536 << 20).0, "1536Mi");
        assert_eq!(bytes(1_000_001).0, "1000001");
    }
}
