//! How are programs built that are written in Go?
//!
//! They are ordinary Go modules. A Go that is new enough is fetched when there is none.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::workspace::{cache, output, run as run_shown};

/// The oldest Go that builds what we need (the `go` lines of versitygw, Kubernetes, kwok and helm), and the one fetched
/// when there is none as new.
const GO_NEEDED: (u32, u32) = (1, 25);
const GO_FETCHED: &str = "go1.25.5";

/// A version of a module, as `go mod download` describes it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Module {
    /// Its go.mod in the module cache.
    go_mod: PathBuf,
}

/// Builds the program of a package at a version (`v1.2.3`) and moves it to `program`, whole or not at all.
pub(crate) fn install(package: &str, version: &str, program: &Path) -> Result<()> {
    let built = folder_beside(program)?;
    run_shown(
        go(&go_program()?)
            .args(["install", "-trimpath", "-ldflags=-s -w"])
            .arg(format!("{package}@{version}"))
            .env("GOBIN", built.path()),
    )?;
    let name = package.rsplit('/').next().unwrap_or(package);
    fs::rename(built.path().join(name), program).with_context(|| format!("move {name} to {}", program.display()))
}

/// Builds programs of a module that `go install` refuses because its go.mod replaces modules by its own folders
/// (`./staging/src/…`). Each of those is a module with releases of its own, and `staging` is the one that belongs to
/// `version`. The programs are left in `folder` under the last part of their package's name.
pub(crate) fn build_staged(
    (module, version): (&str, &str),
    staging: &str,
    packages: &[String],
    flags: &str,
    folder: &Path,
) -> Result<()> {
    let program = go_program()?;
    let described = output(go(&program).args(["mod", "download", "-json"]).arg(format!("{module}@{version}")))
        .with_context(|| format!("fetch {module} {version}"))?;
    let described: Module = serde_json::from_slice(&described).context("read what `go mod download` says")?;
    let original =
        fs::read_to_string(&described.go_mod).with_context(|| format!("read {}", described.go_mod.display()))?;
    let around = folder_beside(folder)?;
    fs::write(around.path().join("go.mod"), requiring(&original, (module, version), staging))?;
    let mut build = go(&program);
    build.current_dir(around.path()).args(["build", "-mod=mod", "-trimpath", "-ldflags", flags, "-o"]);
    run_shown(build.arg(folder).args(packages))
}

/// The go.mod of a module that needs nothing but another one, whose replaced folders are pinned to their releases.
fn requiring(original: &str, (module, version): (&str, &str), staging: &str) -> String {
    let lines = || original.lines().map(str::trim);
    let go = lines().find(|line| line.starts_with("go ")).unwrap_or_default();
    let replaced = lines().filter_map(|line| {
        let (name, folder) = line.strip_prefix("replace ").unwrap_or(line).split_once(" => ")?;
        folder.starts_with("./").then_some(name)
    });
    let pinned: String = replaced.map(|name| format!("replace {name} => {name} {staging}\n")).collect();
    format!("module cluster\n\n{go}\n\nrequire {module} {version}\n\n{pinned}")
}

/// A temporary folder on the same file system, so that what is built in it can be moved, and a build that was stopped
/// leaves nothing half done.
fn folder_beside(path: &Path) -> Result<tempfile::TempDir> {
    let parent = path.parent().context("a program has a folder")?;
    fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
    tempfile::tempdir_in(fs::canonicalize(parent)?).with_context(|| format!("make a folder in {}", parent.display()))
}

/// Go that builds programs which need no library, with itself and no other version.
fn go(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("CGO_ENABLED", "0").env("GOTOOLCHAIN", "local").env("GOFLAGS", "-buildvcs=false");
    command
}

/// A Go that is new enough: the one on the path, else one from the module proxy, as a Go of 1.21 would fetch it.
fn go_program() -> Result<PathBuf> {
    let installed = output(Command::new("go").args(["env", "GOVERSION"])).ok();
    let installed = installed.map(|version| String::from_utf8_lossy(&version).trim().to_owned());
    if installed.as_deref().and_then(go_version).is_some_and(|version| version >= GO_NEEDED) {
        return Ok("go".into());
    }
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("install Go {}.{} or newer: none can be fetched for {other}", GO_NEEDED.0, GO_NEEDED.1),
    };
    let version = format!("v0.0.1-{GO_FETCHED}.linux-{arch}");
    let folder = cache()?.join(format!("golang.org/toolchain@{version}"));
    let go = folder.join("bin/go");
    if go.exists() {
        return Ok(go);
    }
    let found = installed.unwrap_or_else(|| "no Go".to_owned());
    eprintln!("{found} on this machine, {}.{} or newer is needed: fetching {GO_FETCHED}", GO_NEEDED.0, GO_NEEDED.1);
    let proxy = std::env::var("GOPROXY").unwrap_or_default();
    let proxy = proxy.split([',', '|']).find(|proxy| proxy.starts_with("http")).unwrap_or("https://proxy.golang.org");
    let url = format!("{}/golang.org/toolchain/@v/{version}.zip", proxy.trim_end_matches('/'));
    let unpacked = folder_beside(&folder)?;
    let archive = unpacked.path().join("go.zip");
    run_shown(Command::new("curl").args(["-fsSL", "--retry", "3", "-o"]).arg(&archive).arg(&url))
        .with_context(|| format!("fetch Go (or install {}.{} or newer)", GO_NEEDED.0, GO_NEEDED.1))?;
    run_shown(Command::new("unzip").arg("-q").arg(&archive).arg("-d").arg(unpacked.path()))?;
    let module = unpacked.path().join(format!("golang.org/toolchain@{version}"));
    // The archive of a module carries no file modes.
    for tools in ["bin", "pkg/tool"] {
        run_shown(Command::new("chmod").args(["-R", "+x"]).arg(module.join(tools)))?;
    }
    fs::rename(&module, &folder)?;
    ensure!(go.exists(), "{url} has no bin/go");
    Ok(go)
}

/// `go1.25.5` is (1, 25).
fn go_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.strip_prefix("go")?.split(['.', '-', 'r', 'b', ' ']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::{go_version, requiring};

    #[test]
    fn go_versions_compare_as_numbers() {
        assert_eq!(go_version("go1.25.5"), Some((1, 25)));
        assert_eq!(go_version("go1.26rc1"), Some((1, 26)));
        assert!(go_version("go1.9") < go_version("go1.25"));
        assert_eq!(go_version("devel"), None);
    }

    #[test]
    fn folders_of_a_module_become_releases() {
        let original = "module k8s.io/kubernetes\n\ngo 1.24.0\n\nrequire example.org/a v1.0.0\n\nreplace (\n\
            \tk8s.io/api => ./staging/src/k8s.io/api\n\texample.org/a => example.org/fork v1.0.1\n)\n\
            replace k8s.io/metrics => ./staging/src/k8s.io/metrics\n";
        assert_eq!(
            requiring(original, ("k8s.io/kubernetes", "v1.34.4"), "v0.34.4"),
            "module cluster\n\ngo 1.24.0\n\nrequire k8s.io/kubernetes v1.34.4\n\n\
             replace k8s.io/api => k8s.io/api v0.34.4\nreplace k8s.io/metrics => k8s.io/metrics v0.34.4\n"
        );
    }
}
