//! How do Kubernetes' programs get onto this machine?
//!
//! From their Go modules, once: six minutes on two cores. They are kept until another version is wanted.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use super::{packages, pause};
use crate::workspace::cache;
use crate::{go, s3};

/// The version of Kubernetes. containerd 1.6 and cgroup v1, as in Debian 12, still work with it.
pub(crate) const KUBERNETES: &str = "1.34.4";
const KUBERNETES_PROGRAMS: [&str; 6] =
    ["kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet"];

/// Fake nodes by the thousand against a real API server.
const KWOK: (&str, &str, &str) = ("kwok", "sigs.k8s.io/kwok/cmd/kwok", "v0.7.0");
const HELM: (&str, &str, &str) = ("helm", "helm.sh/helm/v3/cmd/helm", "v3.19.5");

/// Changes when `pause.c` does.
const PAUSE: &str = "1";

#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// Builds kwok too, which pretends nodes and pods.
    #[arg(long)]
    kwok: bool,
    /// Builds helm too, which installs charts.
    #[arg(long)]
    helm: bool,
}

pub(crate) fn build(args: &BuildArgs) -> Result<()> {
    packages::install(packages::FOR_CLUSTER)?;
    kubernetes()?;
    for ((name, package, version), wanted) in [(KWOK, args.kwok), (HELM, args.helm)] {
        if wanted {
            installed(name, package, version)?;
        }
    }
    s3::build()?;
    println!("{}", folder()?.display());
    Ok(())
}

/// The folder of the programs, all built.
pub(crate) fn kubernetes() -> Result<PathBuf> {
    let folder = folder()?;
    let mut built = Built::read()?;
    let version = format!("v{KUBERNETES}");
    if KUBERNETES_PROGRAMS.iter().any(|program| !built.has(program, &version)) {
        eprintln!("building Kubernetes {KUBERNETES}, once; on two cores it takes six minutes");
        let packages = KUBERNETES_PROGRAMS.map(|program| format!("k8s.io/kubernetes/cmd/{program}"));
        // Kubernetes 1.34.4 belongs to the release 0.34.4 of the modules that it consists of.
        let staging = format!("v0.{}", KUBERNETES.trim_start_matches("1."));
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        go::build_staged(("k8s.io/kubernetes", &version), &staging, &packages, &flags(), &folder)
            .context("build Kubernetes")?;
        built.note(KUBERNETES_PROGRAMS, &version)?;
    }
    if !built.has("pause", PAUSE) {
        pause::build(&folder.join("pause"))?;
        built.note(["pause"], PAUSE)?;
    }
    Ok(folder)
}

/// The program that renders and checks charts.
pub(crate) fn helm() -> Result<PathBuf> {
    let (name, package, version) = HELM;
    installed(name, package, version)
}

/// The program that pretends nodes.
pub(crate) fn kwok() -> Result<PathBuf> {
    let (name, package, version) = KWOK;
    installed(name, package, version)
}

fn installed(name: &str, package: &str, version: &str) -> Result<PathBuf> {
    let program = folder()?.join(name);
    let mut built = Built::read()?;
    if !built.has(name, version) {
        eprintln!("building {name} {version}, once; on two cores it takes some minutes");
        go::install(package, version, &program).with_context(|| format!("build {name}"))?;
        built.note([name], version)?;
    }
    Ok(program)
}

/// Where the programs lie.
pub(crate) fn folder() -> Result<PathBuf> {
    Ok(cache()?.join("kubernetes/bin"))
}

/// What the programs say when they are asked for their version; clients compare it.
fn flags() -> String {
    let version = "k8s.io/component-base/version";
    let mut parts = KUBERNETES.split('.');
    let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    format!("-s -w -X {version}.gitVersion=v{KUBERNETES} -X {version}.gitMajor={major} -X {version}.gitMinor={minor}")
}

/// Which version of each program is there, as a file beside their folder says.
struct Built {
    versions: BTreeMap<String, String>,
}

impl Built {
    fn file() -> Result<PathBuf> {
        Ok(cache()?.join("kubernetes/versions.json"))
    }

    fn read() -> Result<Self> {
        let file = Self::file()?;
        if !file.exists() {
            return Ok(Self { versions: BTreeMap::new() });
        }
        let text = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        Ok(Self { versions: serde_json::from_slice(&text).with_context(|| format!("read {}", file.display()))? })
    }

    fn has(&self, program: &str, version: &str) -> bool {
        let noted = self.versions.get(program).is_some_and(|noted| noted == version);
        noted && folder().is_ok_and(|folder| folder.join(program).exists())
    }

    fn note<const N: usize>(&mut self, programs: [&str; N], version: &str) -> Result<()> {
        self.versions.extend(programs.map(|program| (program.to_owned(), version.to_owned())));
        let file = Self::file()?;
        fs::write(&file, serde_json::to_string_pretty(&self.versions)?)
            .with_context(|| format!("write {}", file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::flags;

    #[test]
    fn programs_know_their_version() {
        assert!(flags().ends_with("gitVersion=v1.34.4 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=34"));
    }
}
