//! How is a part of a manifest read, and laid over another?

use k8s_openapi::DeepMerge;
use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The largest text that is read: a Pod never comes near it.
const MAX: usize = 1 << 20;

/// A text that is no such part of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// More than 1 MiB.
    #[error("it has {0} bytes, and {MAX} are the most")]
    TooLarge(usize),
    /// No YAML, or a value of another type than the field's.
    #[error("{0}")]
    Yaml(String),
    /// Fields that Kubernetes does not have: it would ignore them, and nobody would know.
    #[error("Kubernetes has no field {}", .0.join(" and no field "))]
    Unknown(Vec<String>),
}

/// Reads YAML or JSON into a type of Kubernetes'; nothing in it is ignored.
///
/// # Errors
/// It is no such thing.
pub fn read<T: DeserializeOwned + Serialize>(text: &str) -> Result<T, Unreadable> {
    if text.len() > MAX {
        return Err(Unreadable::TooLarge(text.len()));
    }
    let typed: T = yaml(text)?;
    let given: Value = yaml(text)?;
    known(&given, &typed)?;
    Ok(typed)
}

/// Reads a value that is already parsed; nothing in it is ignored.
///
/// # Errors
/// It is no such thing.
pub fn from_value<T: DeserializeOwned + Serialize>(given: Value) -> Result<T, Unreadable> {
    let typed: T = serde_json::from_value(given.clone()).map_err(|error| Unreadable::Yaml(error.to_string()))?;
    known(&given, &typed)?;
    Ok(typed)
}

/// Reads YAML or JSON without asking what its fields mean.
///
/// # Errors
/// It is neither.
pub fn yaml<T: DeserializeOwned>(text: &str) -> Result<T, Unreadable> {
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| Unreadable::Yaml(error.to_string()))
}

fn known<T: Serialize>(given: &Value, typed: &T) -> Result<(), Unreadable> {
    // What the type has no field for does not come back.
    let understood = serde_json::to_value(typed).map_err(|error| Unreadable::Yaml(error.to_string()))?;
    let mut unknown = Vec::new();
    compare(given, &understood, String::new(), &mut unknown);
    if unknown.is_empty() { Ok(()) } else { Err(Unreadable::Unknown(unknown)) }
}

fn compare(given: &Value, understood: &Value, path: String, unknown: &mut Vec<String>) {
    match (given, understood) {
        (Value::Object(given), Value::Object(understood)) => {
            for (name, value) in given.iter().filter(|(_, value)| !value.is_null()) {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                match understood.get(name) {
                    Some(understood) => compare(value, understood, path, unknown),
                    None => unknown.push(path),
                }
            }
        }
        (Value::Array(given), Value::Array(understood)) => {
            for (index, (value, understood)) in given.iter().zip(understood).enumerate() {
                // Lists of named things are read by name.
                let name = value.get("name").and_then(Value::as_str).map_or(index.to_string(), str::to_owned);
                compare(value, understood, format!("{path}[{name}]"), unknown);
            }
        }
        _ => {}
    }
}

/// An object as YAML, as it would be applied.
#[must_use]
pub fn document<T: Serialize>(object: &T) -> String {
    serde_saphyr::to_string(object).unwrap_or_else(|error| format!("# cannot be shown: {error}\n"))
}

/// Lays a partial Pod over a whole one as a strategic merge does: named things by their names, scalars replaced.
/// Tolerations and spread constraints are added to what is there.
pub fn overlay(pod: &mut Pod, mut over: Pod) {
    let mut taken = over.spec.as_mut().map(|spec| {
        // A node selector is a map like labels are: one key does not void another.
        (spec.tolerations.take(), spec.topology_spread_constraints.take(), spec.node_selector.take())
    });
    pod.merge_from(over);
    if let (Some((tolerations, spread, selector)), Some(spec)) = (taken.take(), pod.spec.as_mut()) {
        append(&mut spec.tolerations, tolerations);
        append(&mut spec.topology_spread_constraints, spread);
        if let Some(selector) = selector {
            spec.node_selector.get_or_insert_default().extend(selector);
        }
    }
}

fn append<T>(to: &mut Option<Vec<T>>, more: Option<Vec<T>>) {
    if let Some(more) = more {
        to.get_or_insert_default().extend(more);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Toleration;

    use super::*;

    #[test]
    fn what_would_be_ignored_is_refused() {
        let error =
            read::<Pod>("spec: {containers: [{name: vonk, imagePullPolice: Always}], nodename: a}").unwrap_err();
        let text = "Kubernetes has no field spec.containers[vonk].imagePullPolice and no field spec.nodename";
        assert_eq!(error.to_string(), text);
        let error = read::<Pod>("spec: {containers: [], hostNetwork: perhaps}").unwrap_err().to_string();
        assert!(error.contains("line 1") && error.contains("boolean"), "{error}");
        assert_eq!(read::<Pod>(&" ".repeat(MAX + 1)), Err(Unreadable::TooLarge(MAX + 1)));
        assert!(read::<Pod>("spec: [").is_err());
    }

    #[test]
    fn lists_merge_by_what_names_their_parts() {
        let mut pod = read::<Pod>(
            "spec: {tolerations: [{key: a}], containers: [{name: vonk, env: [{name: A, value: '1'}, {name: B, value: '2'}]}]}",
        )
        .unwrap();
        let over = "spec: {tolerations: [{key: b}], nodeSelector: {disk: ssd}, \
                    containers: [{name: vonk, env: [{name: B, value: '3'}]}, {name: beside}]}";
        overlay(&mut pod, read::<Pod>(over).unwrap());
        let spec = pod.spec.unwrap();
        let keys = |t: &[Toleration]| t.iter().filter_map(|t| t.key.clone()).collect::<Vec<_>>();
        assert_eq!(keys(&spec.tolerations.unwrap()), ["a", "b"]);
        assert_eq!(spec.containers.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["vonk", "beside"]);
        let env: Vec<_> = spec.containers[0].env.iter().flatten().filter_map(|e| e.value.as_deref()).collect();
        assert_eq!(env, ["1", "3"]);
    }
}
