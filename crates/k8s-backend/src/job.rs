//! What does a submitter create for an application whose driver is a pod?
//!
//! A suspended Job, which is the root; what it owns; and the patch that lets it begin once everything is there.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::batch::v1::{
    Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::{ConfigMap, PodTemplateSpec, Secret};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use model::ids::AppId;
use model::setting::{InvalidSetting, Values};
use serde_json::json;

use crate::backend::{SettingsError, template};
use crate::config;
use crate::names::{self, CONTAINER, Role};
use crate::pod::{AppPods, DriverPod};
use crate::settings::{PodSettings, is_quantity};

/// How long a Job is kept after its end: time enough to ask what became of it.
pub const KEEP: Duration = Duration::from_secs(3_600);

/// A driver has so long to end by itself after its `--timeout`, before Kubernetes ends it.
const AFTER_TIMEOUT: Duration = Duration::from_secs(60);

/// The exit codes after which another try may succeed: infrastructure lost, no room in time, killed, ended from outside.
/// Every other means that the program has had its say.
const MAY_REPEAT: [i32; 4] = [69, 75, 137, 143];

/// The most that a ConfigMap holds, and so a configuration.
pub const CONFIG_MAX: usize = 1 << 20;

/// The label by which Kueue knows the queue.
pub(crate) const QUEUE: &str = "kueue.x-k8s.io/queue-name";

/// A driver that is to run as a pod.
#[derive(Debug, Clone, PartialEq)]
pub struct DriverJob {
    /// Its pod. The Job has the name of its root.
    pub pod: DriverPod,
    /// How often the program may begin anew after a loss.
    pub restarts: u32,
    /// The queue that admits it.
    pub queue: Option<String>,
    /// How long it is kept after its end.
    pub keep: Duration,
}

impl DriverJob {
    /// Reads what the settings say of a driver, and its template's file. It gets the name of its own root, and runs without
    /// end.
    ///
    /// # Errors
    /// A value does not fit its key, or the template cannot be used.
    pub fn read(of: AppPods, values: &Values, args: Vec<String>) -> Result<Self, SettingsError> {
        let cores = config::DRIVER_CORES.value(values);
        if !is_quantity(cores) {
            let (key, value) = (config::DRIVER_CORES.key.to_owned(), cores.to_owned());
            let want = "want a number as Kubernetes writes it: 2, 0.5, 500m".to_owned();
            return Err(InvalidSetting { key, value, want }.into());
        }
        let queue = config::QUEUE.value(values);
        let restarts = config::DRIVER_RESTARTS.integer(values)?;
        Ok(Self {
            restarts: u32::try_from(restarts).unwrap_or(u32::MAX),
            queue: (!queue.is_empty()).then(|| queue.to_owned()),
            keep: KEEP,
            pod: DriverPod {
                root: names::root(of.app),
                cores: Quantity(cores.to_owned()),
                memory: config::DRIVER_MEMORY.bytes(values)?,
                disk: config::DRIVER_DISK.bytes(values)?,
                template: template(Role::Driver, values)?,
                settings: PodSettings::read(&config::DRIVER, values)?,
                args,
                timeout: None,
                of,
            },
        })
    }

    /// The Job, suspended: nothing runs before its Secrets are there.
    #[must_use]
    pub fn job(&self) -> Job {
        let of = &self.pod.of;
        let pod = self.pod.pod();
        let mut labels = names::labels(of.app, Role::Driver);
        labels.extend(self.queue.clone().map(|queue| (QUEUE.to_owned(), queue)));
        let annotations = (!of.name.is_empty()).then(|| BTreeMap::from([(names::NAME.to_owned(), of.name.clone())]));
        let final_codes = PodFailurePolicyOnExitCodesRequirement {
            container_name: Some(CONTAINER.to_owned()),
            operator: "NotIn".to_owned(),
            // Zero is no failure, and the policy does not take it.
            values: MAY_REPEAT.to_vec(),
        };
        let rule = PodFailurePolicyRule {
            action: "FailJob".to_owned(),
            on_exit_codes: Some(final_codes),
            on_pod_conditions: None,
        };
        Job {
            metadata: ObjectMeta {
                name: Some(self.pod.root.clone()),
                labels: Some(labels),
                annotations,
                ..ObjectMeta::default()
            },
            spec: Some(JobSpec {
                suspend: Some(true),
                completions: Some(1),
                parallelism: Some(1),
                backoff_limit: Some(i32::try_from(self.restarts).unwrap_or(i32::MAX)),
                pod_replacement_policy: Some("Failed".to_owned()),
                pod_failure_policy: Some(PodFailurePolicy { rules: vec![rule] }),
                ttl_seconds_after_finished: Some(i32::try_from(self.keep.as_secs()).unwrap_or(i32::MAX)),
                active_deadline_seconds: self
                    .pod
                    .timeout
                    .map(|timeout| i64::try_from((timeout + AFTER_TIMEOUT).as_secs()).unwrap_or(i64::MAX)),
                template: PodTemplateSpec { metadata: Some(pod.metadata), spec: pod.spec },
                ..JobSpec::default()
            }),
            status: None,
        }
    }

    /// What lets a complete root begin. A queue lets it begin itself.
    #[must_use]
    pub fn begin(&self) -> serde_json::Value {
        let annotations = json!({ "annotations": { names::COMPLETE: "true" } });
        match self.queue {
            Some(_) => json!({ "metadata": annotations }),
            None => json!({ "metadata": annotations, "spec": { "suspend": false } }),
        }
    }
}

/// A Secret with files for a role's pods, owned by the root that it lies beside.
#[must_use]
pub fn secret(app: AppId, role: Role, root: &OwnerReference, files: &BTreeMap<String, Vec<u8>>) -> Secret {
    let data = files.iter().map(|(name, bytes)| (name.clone(), ByteString(bytes.clone()))).collect();
    Secret {
        metadata: owned(app, role, root),
        type_: Some("Opaque".to_owned()),
        // Nobody changes it, and so no kubelet need ask again.
        immutable: Some(true),
        data: Some(data),
        string_data: None,
    }
}

/// A configuration that a ConfigMap cannot hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("submit the configuration: with its templates it has {bytes} bytes, and {CONFIG_MAX} are the most")]
pub struct TooMuchConfig {
    /// How much there is.
    pub bytes: usize,
}

/// The ConfigMap with a driver's `vonk.toml` and templates.
///
/// # Errors
/// They have more than [`CONFIG_MAX`] bytes.
pub fn config_map(
    app: AppId,
    root: &OwnerReference,
    files: BTreeMap<String, String>,
) -> Result<ConfigMap, TooMuchConfig> {
    let bytes = files.iter().map(|(name, text)| name.len() + text.len()).sum();
    if bytes > CONFIG_MAX {
        return Err(TooMuchConfig { bytes });
    }
    let metadata = owned(app, Role::Driver, root);
    Ok(ConfigMap { metadata, immutable: Some(true), data: Some(files), binary_data: None })
}

fn owned(app: AppId, role: Role, root: &OwnerReference) -> ObjectMeta {
    ObjectMeta {
        name: Some(names::files(&root.name, role)),
        labels: Some(names::labels(app, role)),
        owner_references: Some(vec![root.clone()]),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::tests::{driver_pod, executor_pods};

    fn driver_job() -> DriverJob {
        let pod = DriverPod { timeout: Some(Duration::from_secs(600)), ..driver_pod() };
        DriverJob { pod, restarts: 1, queue: None, keep: KEEP }
    }

    #[test]
    fn a_job_is_suspended_and_knows_which_ends_are_final() {
        let mut job = driver_job().job();
        if let Some(spec) = &mut job.spec {
            // It has a snapshot of its own.
            spec.template = PodTemplateSpec::default();
        }
        insta::assert_snapshot!(serde_saphyr::to_string(&job).unwrap());
    }

    #[test]
    fn settings_say_what_a_driver_gets() {
        let settings = [
            ("k8s.driver.cores", "2"),
            ("k8s.driver.memory", "3g"),
            ("k8s.queue", "team-a"),
            ("k8s.driver.restarts", "2"),
        ];
        let values: Values = settings.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let job = DriverJob::read(driver_pod().of, &values, Vec::new()).unwrap();
        assert_eq!((job.pod.cores.0.as_str(), job.pod.memory, job.restarts), ("2", 3 << 30, 2));
        assert_eq!(job.queue.as_deref(), Some("team-a"));
        let values = Values::from([("k8s.driver.cores".to_owned(), "two".to_owned())]);
        let error = DriverJob::read(driver_pod().of, &values, Vec::new()).unwrap_err().to_string();
        assert!(error.starts_with("set `k8s.driver.cores` to `two`: want a number"), "{error}");
    }

    #[test]
    fn a_queue_lets_it_begin() {
        let queued = DriverJob { queue: Some("team-a".into()), ..driver_job() };
        assert_eq!(driver_job().begin()["spec"]["suspend"], false);
        assert!(queued.begin().get("spec").is_none());
        assert_eq!(queued.begin()["metadata"]["annotations"][names::COMPLETE], "true");
        let labels = queued.job().metadata.labels.unwrap();
        assert_eq!(labels.get(QUEUE).map(String::as_str), Some("team-a"));
    }

    #[test]
    fn what_a_root_owns_names_it() {
        let (app, owner) = (executor_pods().of.app, executor_pods().owner);
        let files = BTreeMap::from([("key.pem".to_owned(), b"secret".to_vec())]);
        let secret = secret(app, Role::Executor, &owner, &files);
        assert_eq!(secret.metadata.name, Some(executor_pods().tls_secret));
        assert_eq!(secret.metadata.owner_references, Some(vec![owner.clone()]));
        let large = BTreeMap::from([("vonk.toml".to_owned(), "x".repeat(CONFIG_MAX))]);
        let error = config_map(app, &owner, large).unwrap_err().to_string();
        assert!(error.starts_with("submit the configuration: with its templates it has 1048585 bytes"), "{error}");
    }
}
