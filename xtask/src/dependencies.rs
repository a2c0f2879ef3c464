//! Do the crates we build on keep the rules of `deny.toml`, and do our own crates know only what they may?
//!
//! Reads the rules that need no advisory database (licences, sources, bans, duplicates) from the file that `cargo deny`
//! reads too, so that they hold on a machine without it; `cargo deny` runs in addition where it is installed.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::workspace::{cargo, output, root};

/// Crates of ours in the order of ARCHITECTURE.md: each may use only those before it.
const LAYERS: &[&str] =
    &["model", "proto", "scheduler", "shuffle", "rdd", "sql", "executor", "driver", "k8s-backend", "vonk"];

/// What a crate may never reach, directly or not, and of which folder's crates that is true.
const ABSENT: &[(&str, &[&str])] = &[
    ("model", &["tokio", "tonic", "object_store", "datafusion"]),
    ("scheduler", &["tokio", "tonic", "prost", "kube", "object_store", "datafusion", "futures", "rand", "tracing"]),
    ("shuffle", &["tonic", "kube", "datafusion", "driver", "executor"]),
    ("rdd", &["datafusion", "kube", "tonic", "driver", "executor", "scheduler"]),
    ("sql", &["proto", "scheduler", "rdd", "tonic", "kube"]),
    ("executor", &["driver", "scheduler", "rdd", "sql", "datafusion", "kube"]),
    ("driver", &["kube", "k8s-openapi", "datafusion", "rdd", "sql"]),
    (
        "k8s-backend",
        &["scheduler", "shuffle", "rdd", "sql", "executor", "driver", "object_store", "arrow", "datafusion"],
    ),
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: BTreeSet<String>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    license_file: Option<String>,
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Edge>,
}

#[derive(Deserialize)]
struct Edge {
    pkg: String,
    dep_kinds: Vec<DepKind>,
}

#[derive(Deserialize)]
struct DepKind {
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Rules {
    licenses: Licenses,
    bans: Bans,
    sources: Sources,
}

#[derive(Deserialize)]
struct Licenses {
    allow: BTreeSet<String>,
    #[serde(default)]
    exceptions: Vec<LicenseException>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct LicenseException {
    #[serde(rename = "crate")]
    name: String,
    allow: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
    #[serde(default)]
    deny_multiple_versions: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Sources {
    allow_registry: BTreeSet<String>,
}

/// Checks them all and names every breach.
pub(crate) fn check() -> Result<()> {
    let rules = std::fs::read_to_string(root().join("deny.toml")).context("read deny.toml")?;
    let rules: Rules = toml::from_str(&rules).context("read deny.toml")?;
    let metadata = output(cargo().args(["metadata", "--format-version=1", "--locked", "--quiet"]))?;
    let metadata: Metadata = serde_json::from_slice(&metadata).context("read what `cargo metadata` says")?;

    let mut breaches = Vec::new();
    breaches.extend(sources_and_licences(&metadata, &rules));
    breaches.extend(bans(&metadata, &rules.bans));
    breaches.extend(layers(&metadata));
    breaches.extend(planner_without_sql()?);
    if !breaches.is_empty() {
        bail!("dependencies break rules:\n  {}", breaches.join("\n  "));
    }
    if cargo().args(["deny", "--version"]).output().is_ok_and(|found| found.status.success()) {
        crate::workspace::run(cargo().args(["deny", "--log-level=error", "check"]))?;
    } else {
        eprintln!("advisories: not run (cargo-deny is not installed)");
    }
    Ok(())
}

fn sources_and_licences(metadata: &Metadata, rules: &Rules) -> Vec<String> {
    let foreign = metadata.packages.iter().filter(|p| !metadata.workspace_members.contains(&p.id));
    foreign.filter_map(|package| source_and_licence(package, rules).err().map(|why| why.to_string())).collect()
}

fn source_and_licence(package: &Package, rules: &Rules) -> Result<()> {
    let Package { name, version, .. } = package;
    let registry = package.source.as_deref().unwrap_or("a folder").trim_start_matches("registry+");
    if !rules.sources.allow_registry.contains(registry) {
        bail!("{name} {version} comes from {registry}");
    }
    let Some(licence) = &package.license else {
        match &package.license_file {
            Some(file) => bail!("{name} {version} names no licence, only the file {file}"),
            None => bail!("{name} {version} names no licence"),
        }
    };
    let expression = spdx::Expression::parse_mode(licence, spdx::ParseMode::LAX)
        .with_context(|| format!("{name} {version}: read licence `{licence}`"))?;
    let exceptions = rules.licenses.exceptions.iter().filter(|exception| exception.name == *name);
    let allowed: BTreeSet<&String> = rules.licenses.allow.iter().chain(exceptions.flat_map(|e| &e.allow)).collect();
    if !expression.evaluate(|wanted| allowed.contains(&wanted.to_string())) {
        bail!("{name} {version} has the licence {licence}, which deny.toml does not allow");
    }
    Ok(())
}

fn bans(metadata: &Metadata, bans: &Bans) -> Vec<String> {
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in &metadata.packages {
        versions.entry(&package.name).or_default().insert(&package.version);
    }
    let broken = bans.deny.iter().filter_map(|ban| {
        let found = versions.get(ban.name.as_str())?;
        let few_enough = ban.deny_multiple_versions && found.len() == 1;
        (!few_enough).then(|| format!("{} {found:?}: {}", ban.name, ban.reason))
    });
    broken.collect()
}

/// A program that does without the feature `sql` links no DataFusion. `cargo metadata` cannot say: it joins the features
/// of the whole workspace.
fn planner_without_sql() -> Result<Option<String>> {
    let of = ["-p", "vonk-examples", "--edges", "normal", "--prefix", "none", "--format", "{lib}"];
    let linked = output(cargo().args(["tree", "--locked", "--quiet"]).args(of))?;
    let linked = String::from_utf8_lossy(&linked);
    let met = linked.lines().find(|name| name.starts_with("datafusion"));
    Ok(met.map(|met| format!("programs without the feature `sql` link {met}")))
}

/// Crates of ours reach only crates of ours above them, and nobody reaches what is absent from them.
fn layers(metadata: &Metadata) -> Vec<String> {
    let names: BTreeMap<&str, &str> = metadata.packages.iter().map(|p| (p.id.as_str(), p.name.as_str())).collect();
    let nodes: BTreeMap<&str, &Node> = metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let mut breaches = Vec::new();
    for id in &metadata.workspace_members {
        let name = names[id.as_str()];
        let Some(level) = LAYERS.iter().position(|layer| *layer == name) else { continue };
        let mut reached = BTreeSet::from([id.as_str()]);
        let mut waiting = vec![id.as_str()];
        while let Some(at) = waiting.pop() {
            let linked = |edge: &&Edge| edge.dep_kinds.iter().any(|kind| kind.kind.is_none());
            for edge in nodes[at].deps.iter().filter(linked) {
                if reached.insert(&edge.pkg) {
                    waiting.push(&edge.pkg);
                }
            }
        }
        reached.remove(id.as_str());
        let absent = ABSENT.iter().filter(|(of, _)| *of == name).flat_map(|(_, absent)| *absent);
        let above: BTreeSet<&str> = absent.chain(&LAYERS[level..]).copied().collect();
        let met = reached.iter().map(|id| names[id]).filter(|met| above.contains(met));
        breaches.extend(met.map(|met| format!("{name} reaches {met}, which it must not know")));
    }
    breaches
}
