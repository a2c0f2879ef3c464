//! Which configuration goes with a driver that is a pod?
//!
//! All that the submitter has set, but for what only means something where the submitter is. Files that it names go along.

use std::collections::BTreeMap;

use anyhow::Context;
use k8s_backend::config as keys;
use model::setting::Values;

use super::Usage;
use crate::config::{APP_NAME, ARCHIVES, Config, FILES, MASTER, settings};

/// Where the files are in the driver's pod.
pub(crate) const FOLDER: &str = "/vonk/config";

/// The configuration's name in the folder, which the pod is told.
const CONFIG: &str = "vonk.toml";

/// The template's name in the folder.
const TEMPLATE: &str = "executor.yaml";

/// Keys that say something of the submitter's machine, or of the driver's pod, which is made before it reads them.
fn stays(key: &str) -> bool {
    let here = [keys::CONTEXT.key, keys::QUEUE.key, keys::DIAL.key, MASTER.key, executor::config::DISK.key];
    // Pods are told otherwise which files go along: by their content.
    here.contains(&key) || [FILES.key, ARCHIVES.key].contains(&key) || key.starts_with("k8s.driver.")
}

/// The files of a driver's ConfigMap: `vonk.toml`, and what it names.
///
/// # Errors
/// A file cannot be read, or a secret was set.
pub(crate) fn files(config: &Config, namespace: &str, name: &str) -> Result<BTreeMap<String, String>, anyhow::Error> {
    let mut values: Values = config.values().clone();
    if let Some(secret) = settings().into_iter().find(|setting| setting.secret && values.contains_key(setting.key)) {
        let says = format!(
            "send `{}` to the cluster: it is a secret; give it to the pods with k8s.driver.secret_env",
            secret.key
        );
        return Err(Usage(says).into());
    }
    values.retain(|key, _| !stays(key));
    values.insert(MASTER.key.to_owned(), "k8s://".to_owned());
    values.insert(keys::NAMESPACE.key.to_owned(), namespace.to_owned());
    values.insert(APP_NAME.key.to_owned(), name.to_owned());
    let mut files = BTreeMap::new();
    let template = keys::EXECUTOR.template;
    if let Some(path) = values.get(template.key).filter(|path| !path.is_empty()) {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {path}"))?;
        files.insert(TEMPLATE.to_owned(), text);
        values.insert(template.key.to_owned(), format!("{FOLDER}/{TEMPLATE}"));
    }
    // Keys with dots are one key in quotes: that is how they are read back, whatever is between the dots.
    let table: toml::Table = values.into_iter().map(|(key, value)| (key, toml::Value::String(value))).collect();
    files.insert(CONFIG.to_owned(), toml::to_string(&table).context("write the driver's configuration")?);
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_arrives_but_for_what_is_the_submitters() {
        let template = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(template.path(), "spec: {}\n").unwrap();
        let mut config = Config::default();
        for (key, value) in [
            ("master", "k8s://https://here"),
            ("k8s.context", "mine"),
            ("k8s.driver.memory", "8g"),
            ("executor.memory", "2g"),
            ("app.files", "a.txt"),
            ("k8s.executor.labels.a.b/c", "x\"y"),
            ("store", "s3://a/b?region=c"),
            ("k8s.executor.template", template.path().to_str().unwrap()),
        ] {
            config.set(key, value, "a test").unwrap();
        }
        let files = files(&config, "team-a", "nightly").unwrap();
        assert_eq!(files.get("executor.yaml").map(String::as_str), Some("spec: {}\n"));
        let arrived: toml::Table = toml::from_str(&files["vonk.toml"]).unwrap();
        let text: Vec<_> = arrived.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap())).collect();
        assert_eq!(
            text,
            [
                "app.name=nightly",
                "executor.memory=2g",
                "k8s.executor.labels.a.b/c=x\"y",
                "k8s.executor.template=/vonk/config/executor.yaml",
                "k8s.namespace=team-a",
                "master=k8s://",
                "store=s3://a/b?region=c",
            ]
        );
    }
}
