//! What can be set about pods?

use model::setting::{Kind, Setting};

/// The namespace.
pub const NAMESPACE: Setting = Setting::new(
    "k8s.namespace",
    Kind::Text,
    "",
    "The namespace of all objects; that of the kubeconfig's context or of the pod it runs in if empty.",
)
.aliases(&["spark.kubernetes.namespace"]);

/// The context of the kubeconfig.
pub const CONTEXT: Setting =
    Setting::new("k8s.context", Kind::Text, "", "The context of the kubeconfig; its current one if empty.")
        .aliases(&["spark.kubernetes.context"]);

/// The image.
pub const IMAGE: Setting = Setting::new(
    "k8s.image",
    Kind::Text,
    concat!("ghcr.io/vonk-dev/vonk:", env!("CARGO_PKG_VERSION")),
    "The image of driver and executors: the stock one of this version, or one that is made from it.",
)
.aliases(&["spark.kubernetes.container.image"]);

/// How executors are reached.
pub const DIAL: Setting = Setting::new(
    "k8s.dial",
    Kind::OneOf(&["auto", "direct", "forward"]),
    "auto",
    "How the driver reaches executors: at their address, or through the API server; auto is direct in a pod.",
);

/// How many executors may be reached through the API server.
pub const FORWARD_MAX: Setting = Setting::new(
    "k8s.forward_max",
    Kind::Integer { min: 1, max: 10_000 },
    "100",
    "A driver outside the cluster wants no more executors than this: each is a stream through the API server.",
);

/// How many pods may be on their way.
pub const PENDING_MAX: Setting = Setting::new(
    "k8s.pending_max",
    Kind::Integer { min: 1, max: 10_000 },
    "100",
    "So many pods may have been asked for without running yet.",
)
.aliases(&["spark.kubernetes.allocation.maxPendingPods"]);

/// The queue.
pub const QUEUE: Setting = Setting::new(
    "k8s.queue",
    Kind::Text,
    "",
    "The queue of Kueue that admits an application's driver; without one it starts at once.",
);

/// How many tasks an executor runs at a time.
pub const EXECUTOR_CORES: Setting = Setting::new(
    "executor.cores",
    Kind::Integer { min: 1, max: 1_024 },
    "2",
    "How many tasks an executor pod runs at a time, and how many CPUs it requests.",
)
.aliases(&["spark.executor.cores"]);

/// How much disk an executor may fill.
pub const EXECUTOR_DISK: Setting = Setting::new(
    "k8s.executor.disk",
    Kind::Bytes,
    "10g",
    "How much local disk an executor pod may fill with what does not fit into memory.",
);

/// The driver's CPUs.
pub const DRIVER_CORES: Setting = Setting::new(
    "k8s.driver.cores",
    Kind::Text,
    "500m",
    "The CPUs that a driver pod requests, as Kubernetes writes them: 500m is half of one.",
)
.aliases(&["spark.driver.cores"]);

/// The driver's memory.
pub const DRIVER_MEMORY: Setting =
    Setting::new("k8s.driver.memory", Kind::Bytes, "2g", "How much memory a driver pod may use.")
        .aliases(&["spark.driver.memory"]);

/// The driver's disk.
pub const DRIVER_DISK: Setting =
    Setting::new("k8s.driver.disk", Kind::Bytes, "2g", "How much local disk a driver pod may fill.");

/// How often a driver is started anew.
pub const DRIVER_RESTARTS: Setting = Setting::new(
    "k8s.driver.restarts",
    Kind::Integer { min: 0, max: 100 },
    "0",
    "How often a driver pod that was lost is started again; the program then runs again from its beginning.",
);

/// What can be set for pods of one role, under one prefix.
#[derive(Debug, Clone, Copy)]
pub struct RoleKeys {
    /// A partial pod.
    pub template: Setting,
    /// Labels of nodes.
    pub node_selector: Setting,
    /// Tolerations.
    pub tolerations: Setting,
    /// Affinity.
    pub affinity: Setting,
    /// Topology spread constraints.
    pub topology_spread: Setting,
    /// The priority class.
    pub priority_class: Setting,
    /// The scheduler.
    pub scheduler_name: Setting,
    /// The runtime class.
    pub runtime_class: Setting,
    /// The service account.
    pub service_account: Setting,
    /// Secrets for pulling the image.
    pub image_pull_secrets: Setting,
    /// Labels.
    pub labels: Setting,
    /// Annotations.
    pub annotations: Setting,
    /// Environment.
    pub env: Setting,
    /// Environment from secrets.
    pub secret_env: Setting,
    /// Mounted secrets.
    pub secrets: Setting,
    /// Mounted configuration maps.
    pub config_maps: Setting,
    /// More volumes.
    pub volumes: Setting,
    /// A limit of CPU time.
    pub cpu_limit: Setting,
    /// Other resources.
    pub resources: Setting,
}

macro_rules! text {
    ($role:literal, $key:literal, $about:expr) => {
        Setting::new(concat!("k8s.", $role, ".", $key), Kind::Text, "", $about)
    };
}

macro_rules! role_keys {
    ($name:ident, $role:literal, $pods:literal, $env_alias:literal, $account:literal) => {
        #[doc = concat!("What can be set for ", $pods, ".")]
        pub const $name: RoleKeys = RoleKeys {
            template: text!(
                $role,
                "template",
                concat!("A file with a partial Pod in YAML that is merged into ", $pods, ".")
            )
            .aliases(&[concat!("spark.kubernetes.", $role, ".podTemplateFile")]),
            node_selector: text!($role, "node_selector.*", concat!("A label that nodes of ", $pods, " must have."))
                .aliases(&[concat!("spark.kubernetes.", $role, ".node.selector.*")]),
            tolerations: text!(
                $role,
                "tolerations",
                concat!("Taints that ", $pods, " bear: a list in YAML or JSON, as in a Pod.")
            ),
            affinity: text!($role, "affinity", concat!("Where ", $pods, " like to be: in YAML or JSON, as in a Pod.")),
            topology_spread: text!(
                $role,
                "topology_spread",
                concat!("How ", $pods, " are spread: topologySpreadConstraints of a Pod in YAML or JSON.")
            ),
            priority_class: text!($role, "priority_class", concat!("The PriorityClass of ", $pods, ".")),
            scheduler_name: text!($role, "scheduler_name", concat!("The scheduler that places ", $pods, "."))
                .aliases(&[concat!("spark.kubernetes.", $role, ".scheduler.name")]),
            runtime_class: text!($role, "runtime_class", concat!("The RuntimeClass of ", $pods, ".")),
            service_account: Setting {
                default: $account,
                ..text!($role, "service_account", concat!("The service account of ", $pods, "."))
            }
            .aliases(&[concat!("spark.kubernetes.authenticate.", $role, ".serviceAccountName")]),
            image_pull_secrets: text!(
                $role,
                "image_pull_secrets",
                concat!("Secrets with which the image of ", $pods, " is pulled: names with commas between.")
            ),
            labels: text!($role, "labels.*", concat!("A label of ", $pods, ".")).aliases(&[concat!(
                "spark.kubernetes.",
                $role,
                ".label.*"
            )]),
            annotations: text!($role, "annotations.*", concat!("An annotation of ", $pods, ".")).aliases(&[concat!(
                "spark.kubernetes.",
                $role,
                ".annotation.*"
            )]),
            env: text!(
                $role,
                "env.*",
                concat!("An environment variable of ", $pods, "; for what is secret, see secret_env.")
            )
            .aliases(&[$env_alias]),
            secret_env: text!(
                $role,
                "secret_env.*",
                concat!("An environment variable of ", $pods, " from a Secret: SECRET:KEY.")
            )
            .aliases(&[concat!("spark.kubernetes.", $role, ".secretKeyRef.*")]),
            secrets: text!($role, "secrets.*", concat!("The folder where a Secret is mounted in ", $pods, "."))
                .aliases(&[concat!("spark.kubernetes.", $role, ".secrets.*")]),
            config_maps: text!(
                $role,
                "config_maps.*",
                concat!("The folder where a ConfigMap is mounted in ", $pods, ".")
            ),
            volumes: text!(
                $role,
                "volumes",
                concat!(
                    "More volumes of ",
                    $pods,
                    ": a list in YAML or JSON as in a Pod, each with its mountPath and, if wanted, readOnly."
                )
            ),
            cpu_limit: text!(
                $role,
                "cpu_limit",
                concat!(
                    "The most CPU time that ",
                    $pods,
                    " get, as Kubernetes writes it; none if empty, since throttled executors look dead."
                )
            )
            .aliases(&[concat!("spark.kubernetes.", $role, ".limit.cores")]),
            resources: text!(
                $role,
                "resources.*",
                concat!("How much of another resource, such as nvidia.com/gpu, ", $pods, " get.")
            ),
        };
    };
}

role_keys!(EXECUTOR, "executor", "executor pods", "spark.executorEnv.*", "default");
role_keys!(DRIVER, "driver", "driver pods", "spark.kubernetes.driverEnv.*", "vonk-driver");

/// Every key of this crate.
pub const SETTINGS: &[Setting] = &[
    NAMESPACE,
    CONTEXT,
    IMAGE,
    DIAL,
    FORWARD_MAX,
    PENDING_MAX,
    QUEUE,
    EXECUTOR_CORES,
    EXECUTOR_DISK,
    DRIVER_CORES,
    DRIVER_MEMORY,
    DRIVER_DISK,
    DRIVER_RESTARTS,
    EXECUTOR.template,
    EXECUTOR.node_selector,
    EXECUTOR.tolerations,
    EXECUTOR.affinity,
    EXECUTOR.topology_spread,
    EXECUTOR.priority_class,
    EXECUTOR.scheduler_name,
    EXECUTOR.runtime_class,
    EXECUTOR.service_account,
    EXECUTOR.image_pull_secrets,
    EXECUTOR.labels,
    EXECUTOR.annotations,
    EXECUTOR.env,
    EXECUTOR.secret_env,
    EXECUTOR.secrets,
    EXECUTOR.config_maps,
    EXECUTOR.volumes,
    EXECUTOR.cpu_limit,
    EXECUTOR.resources,
    DRIVER.template,
    DRIVER.node_selector,
    DRIVER.tolerations,
    DRIVER.affinity,
    DRIVER.topology_spread,
    DRIVER.priority_class,
    DRIVER.scheduler_name,
    DRIVER.runtime_class,
    DRIVER.service_account,
    DRIVER.image_pull_secrets,
    DRIVER.labels,
    DRIVER.annotations,
    DRIVER.env,
    DRIVER.secret_env,
    DRIVER.secrets,
    DRIVER.config_maps,
    DRIVER.volumes,
    DRIVER.cpu_limit,
    DRIVER.resources,
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn keys_are_unique_and_described() {
        let names: Vec<&str> = SETTINGS.iter().flat_map(|s| s.aliases.iter().copied().chain([s.key])).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "a name stands twice");
        for setting in SETTINGS {
            setting.check(setting.default).unwrap();
            assert!(setting.about.ends_with('.'), "{}: one sentence", setting.key);
            let stars = setting.aliases.iter().filter(|alias| alias.ends_with(".*") != setting.key.ends_with(".*"));
            assert_eq!(stars.count(), 0, "{}: a family's other names are families", setting.key);
        }
    }

    #[test]
    fn sparks_families_are_known() {
        let key = |name: &str| SETTINGS.iter().find_map(|setting| setting.key_of(name));
        assert_eq!(key("spark.executorEnv.TZ"), Some("k8s.executor.env.TZ".to_owned()));
        assert_eq!(key("spark.kubernetes.driver.label.team"), Some("k8s.driver.labels.team".to_owned()));
        assert_eq!(key("spark.kubernetes.executor.labels.team"), None);
    }
}
