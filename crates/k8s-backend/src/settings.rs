//! What do the settings of one role ask of its pods?

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, ConfigMapVolumeSource, Container, EnvVar, EnvVarSource, LocalObjectReference, Pod, PodSpec,
    ResourceRequirements, SecretKeySelector, SecretVolumeSource, Toleration, TopologySpreadConstraint, Volume,
    VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use model::setting::{InvalidSetting, Setting, Values};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::config::RoleKeys;
use crate::manifest;
use crate::names::{CONTAINER, OWNED_LABELS, OWNED_PREFIX};

/// A part of a Pod, made of the settings under `k8s.executor.` or `k8s.driver.`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodSettings {
    /// What they say, as a partial Pod to be laid over one.
    pub pod: Pod,
    /// The most CPU time, if it is limited.
    pub cpu_limit: Option<Quantity>,
}

impl PodSettings {
    /// Reads the settings of a role.
    ///
    /// # Errors
    /// A value does not fit its key, or asks for what Vonk owns.
    pub fn read(keys: &RoleKeys, values: &Values) -> Result<Self, InvalidSetting> {
        let mut spec = PodSpec {
            affinity: yaml::<Affinity>(&keys.affinity, values)?,
            tolerations: yaml::<Vec<Toleration>>(&keys.tolerations, values)?,
            topology_spread_constraints: yaml::<Vec<TopologySpreadConstraint>>(&keys.topology_spread, values)?,
            node_selector: map(&keys.node_selector, values),
            priority_class_name: text(&keys.priority_class, values),
            scheduler_name: text(&keys.scheduler_name, values),
            runtime_class_name: text(&keys.runtime_class, values),
            // The default stands below the template, not above it.
            service_account_name: values.get(keys.service_account.key).filter(|name| !name.is_empty()).cloned(),
            image_pull_secrets: text(&keys.image_pull_secrets, values).map(|names| {
                let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
                names.map(|name| LocalObjectReference { name: name.to_owned() }).collect()
            }),
            ..PodSpec::default()
        };
        let (mut volumes, mut mounts) = (Vec::new(), Vec::new());
        mounted(&keys.secrets, values, "secret", &mut volumes, &mut mounts, |name, volume| {
            volume.secret = Some(SecretVolumeSource { secret_name: Some(name.to_owned()), ..Default::default() });
        })?;
        mounted(&keys.config_maps, values, "config-map", &mut volumes, &mut mounts, |name, volume| {
            volume.config_map = Some(ConfigMapVolumeSource { name: name.to_owned(), ..Default::default() });
        })?;
        more_volumes(&keys.volumes, values, &mut volumes, &mut mounts)?;
        let resources = resources(&keys.resources, values)?;
        let container = Container {
            name: CONTAINER.to_owned(),
            env: some(environment(keys, values)?),
            volume_mounts: some(mounts),
            resources: (!resources.is_empty()).then(|| ResourceRequirements {
                limits: Some(resources.clone()),
                requests: Some(resources),
                ..Default::default()
            }),
            ..Container::default()
        };
        spec.volumes = some(volumes);
        spec.containers = vec![container];
        let metadata = ObjectMeta {
            labels: owned_by_nobody(&keys.labels, values)?,
            annotations: owned_by_nobody(&keys.annotations, values)?,
            ..ObjectMeta::default()
        };
        let cpu_limit = match text(&keys.cpu_limit, values) {
            Some(limit) => Some(quantity(keys.cpu_limit.key, &limit)?),
            None => None,
        };
        Ok(Self { pod: Pod { metadata, spec: Some(spec), status: None }, cpu_limit })
    }
}

fn invalid(key: &str, value: &str, want: impl Into<String>) -> InvalidSetting {
    InvalidSetting { key: key.to_owned(), value: value.to_owned(), want: want.into() }
}

/// The key of one member of a family.
fn member(setting: &Setting, name: &str) -> String {
    format!("{}{name}", setting.key.trim_end_matches('*'))
}

fn text(setting: &Setting, values: &Values) -> Option<String> {
    let text = setting.value(values).trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn map(setting: &Setting, values: &Values) -> Option<BTreeMap<String, String>> {
    let map: BTreeMap<_, _> = setting.family(values).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    (!map.is_empty()).then_some(map)
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

fn yaml<T: DeserializeOwned + Serialize>(setting: &Setting, values: &Values) -> Result<Option<T>, InvalidSetting> {
    let Some(text) = text(setting, values) else { return Ok(None) };
    manifest::read(&text).map(Some).map_err(|error| invalid(setting.key, &text, error.to_string()))
}

fn owned_by_nobody(setting: &Setting, values: &Values) -> Result<Option<BTreeMap<String, String>>, InvalidSetting> {
    let owned = |key: &str| key.starts_with(OWNED_PREFIX) || OWNED_LABELS.contains(&key);
    match setting.family(values).find(|(name, _)| owned(name)) {
        Some((name, value)) => Err(invalid(&member(setting, name), value, "Vonk sets it")),
        None => Ok(map(setting, values)),
    }
}

fn environment(keys: &RoleKeys, values: &Values) -> Result<Vec<EnvVar>, InvalidSetting> {
    let ours = |setting: &Setting, name: &str, value: &str| match name.starts_with("VONK_") {
        true => Err(invalid(&member(setting, name), value, "variables of that name are Vonk's")),
        false => Ok(()),
    };
    let mut variables = Vec::new();
    for (name, value) in keys.env.family(values) {
        ours(&keys.env, name, value)?;
        variables.push(EnvVar { name: name.to_owned(), value: Some(value.to_owned()), value_from: None });
    }
    for (name, value) in keys.secret_env.family(values) {
        ours(&keys.secret_env, name, value)?;
        let (secret, key) = value
            .split_once(':')
            .filter(|(secret, key)| !secret.is_empty() && !key.is_empty())
            .ok_or_else(|| invalid(&member(&keys.secret_env, name), value, "want SECRET:KEY"))?;
        let secret = SecretKeySelector { name: secret.to_owned(), key: key.to_owned(), optional: None };
        let from = EnvVarSource { secret_key_ref: Some(secret), ..Default::default() };
        variables.push(EnvVar { name: name.to_owned(), value: None, value_from: Some(from) });
    }
    Ok(variables)
}

fn mounted(
    setting: &Setting,
    values: &Values,
    kind: &str,
    volumes: &mut Vec<Volume>,
    mounts: &mut Vec<VolumeMount>,
    source: impl Fn(&str, &mut Volume),
) -> Result<(), InvalidSetting> {
    for (index, (name, path)) in setting.family(values).enumerate() {
        mountable(path).map_err(|want| invalid(&member(setting, name), path, want))?;
        // Names of objects may be longer than names of volumes.
        let mut volume = Volume { name: format!("{kind}-{index}"), ..Volume::default() };
        source(name, &mut volume);
        mounts.push(VolumeMount {
            name: volume.name.clone(),
            mount_path: path.to_owned(),
            read_only: Some(true),
            ..VolumeMount::default()
        });
        volumes.push(volume);
    }
    Ok(())
}

/// Where something of the user's may be mounted.
fn mountable(path: &str) -> Result<(), &'static str> {
    match path {
        _ if !path.starts_with('/') => Err("want an absolute path"),
        _ if path.split('/').any(|part| part == "..") => Err("want a path without `..`"),
        _ if owned_path(path) => Err("want a path elsewhere: /vonk and /tmp are Vonk's"),
        _ => Ok(()),
    }
}

/// Whether Vonk owns a path in its containers.
pub(crate) fn owned_path(path: &str) -> bool {
    let path = path.trim_end_matches('/');
    path == "/tmp" || path == "/vonk" || path.starts_with("/vonk/")
}

fn more_volumes(
    setting: &Setting,
    values: &Values,
    volumes: &mut Vec<Volume>,
    mounts: &mut Vec<VolumeMount>,
) -> Result<(), InvalidSetting> {
    let Some(text) = text(setting, values) else { return Ok(()) };
    let refuse = |want: String| invalid(setting.key, &text, want);
    let list: Vec<serde_json::Map<String, Value>> =
        manifest::yaml(&text).map_err(|error| refuse(format!("want a list of volumes: {error}")))?;
    for mut volume in list {
        let mount = ["mountPath", "readOnly", "subPath"].map(|key| volume.remove(key));
        let [Some(Value::String(path)), read_only, sub_path] = mount else {
            return Err(refuse("want a mountPath in each volume".into()));
        };
        mountable(&path).map_err(|want| refuse(want.into()))?;
        let volume: Volume =
            manifest::from_value(Value::Object(volume)).map_err(|error| refuse(format!("want a volume: {error}")))?;
        if volume.name.starts_with("vonk-") {
            return Err(refuse("want another name: volumes whose names begin with vonk- are Vonk's".into()));
        }
        mounts.push(VolumeMount {
            name: volume.name.clone(),
            mount_path: path,
            read_only: read_only.and_then(|value| value.as_bool()),
            sub_path: sub_path.and_then(|value| value.as_str().map(str::to_owned)),
            ..VolumeMount::default()
        });
        volumes.push(volume);
    }
    Ok(())
}

fn resources(setting: &Setting, values: &Values) -> Result<BTreeMap<String, Quantity>, InvalidSetting> {
    let owned = |name: &str| match name {
        "cpu" => Some("want executor.cores or k8s.driver.cores for CPUs"),
        "memory" => Some("want executor.memory or k8s.driver.memory for memory"),
        "ephemeral-storage" => Some("want k8s.executor.disk or k8s.driver.disk for local disk"),
        _ => None,
    };
    let of = |(name, value): (&str, &str)| match owned(name) {
        Some(want) => Err(invalid(&member(setting, name), value, want)),
        None => Ok((name.to_owned(), quantity(&member(setting, name), value)?)),
    };
    setting.family(values).map(of).collect()
}

/// Reads a number as Kubernetes writes it: `2`, `0.5`, `500m`, `4Gi`.
fn quantity(key: &str, text: &str) -> Result<Quantity, InvalidSetting> {
    match is_quantity(text) {
        true => Ok(Quantity(text.to_owned())),
        false => Err(invalid(key, text, "want a number as Kubernetes writes it: 2, 0.5, 500m, 4Gi")),
    }
}

/// Whether a text is a quantity of Kubernetes', and not negative.
#[must_use]
pub fn is_quantity(text: &str) -> bool {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let units = ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    number.parse::<f64>().is_ok() && units.contains(&unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EXECUTOR;

    fn read(settings: &[(&str, &str)]) -> Result<PodSettings, InvalidSetting> {
        let values = settings.iter().map(|(key, value)| (format!("k8s.executor.{key}"), (*value).to_owned()));
        PodSettings::read(&EXECUTOR, &values.collect())
    }

    #[test]
    fn every_key_has_its_place() {
        let settings = read(&[
            ("node_selector.disk", "ssd"),
            ("tolerations", "[{key: spot, operator: Exists}]"),
            ("affinity", r#"{"podAntiAffinity": {}}"#),
            ("topology_spread", "[{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: ScheduleAnyway}]"),
            ("priority_class", "low"),
            ("scheduler_name", "volcano"),
            ("runtime_class", "gvisor"),
            ("service_account", "reader"),
            ("image_pull_secrets", "a, b"),
            ("labels.team", "x"),
            ("annotations.a.b/c", "y"),
            ("env.TZ", "UTC"),
            ("secret_env.PASSWORD", "db:password"),
            ("secrets.db", "/secrets/db"),
            ("config_maps.app", "/etc/app"),
            ("volumes", "[{name: data, mountPath: /data, readOnly: true, persistentVolumeClaim: {claimName: data}}]"),
            ("cpu_limit", "2500m"),
            ("resources.nvidia.com/gpu", "1"),
        ]);
        let PodSettings { pod, cpu_limit } = settings.unwrap();
        insta::assert_snapshot!(serde_saphyr::to_string(&pod).unwrap());
        assert_eq!(cpu_limit, Some(Quantity("2500m".into())));
    }

    #[test]
    fn what_does_not_fit_says_what_would() {
        for (key, value, want) in [
            ("secret_env.A", "db", "want SECRET:KEY"),
            ("env.VONK_ROLE", "x", "variables of that name are Vonk's"),
            ("labels.vonk.dev/app", "x", "Vonk sets it"),
            ("secrets.db", "relative", "want an absolute path"),
            ("secrets.db", "/vonk/tls", "want a path elsewhere: /vonk and /tmp are Vonk's"),
            ("config_maps.a", "/a/../vonk", "want a path without `..`"),
            ("resources.memory", "1", "want executor.memory or k8s.driver.memory for memory"),
            ("resources.gpu", "many", "want a number as Kubernetes writes it: 2, 0.5, 500m, 4Gi"),
            ("cpu_limit", "-1", "want a number as Kubernetes writes it: 2, 0.5, 500m, 4Gi"),
            ("tolerations", "[{kee: x}]", "Kubernetes has no field [0].kee"),
            ("volumes", "[{name: a}]", "want a mountPath in each volume"),
            (
                "volumes",
                "[{name: vonk-a, mountPath: /a}]",
                "want another name: volumes whose names begin with vonk- are Vonk's",
            ),
        ] {
            let error = read(&[(key, value)]).unwrap_err();
            assert_eq!(error.to_string(), format!("set `k8s.executor.{key}` to `{value}`: {want}"));
        }
    }
}
