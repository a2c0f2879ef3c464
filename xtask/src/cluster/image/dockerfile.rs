//! How is docker/Dockerfile built where there is no registry?
//!
//! With buildah, which needs no daemon, on a base of this machine's own Debian, which debootstrap makes once from packages.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::super::{machine, packages};
use crate::workspace::{cache, command, output, root, run as run_shown};

/// What the base has beyond the packages that every Debian has.
const IN_BASE: &str = "ca-certificates,libstdc++6";

/// What must not be in an image: who gets into a pod finds no tools.
const NO_TOOLS: [&str; 8] = ["sh", "bash", "dash", "busybox", "apt-get", "dpkg", "perl", "curl"];

/// Builds the image with a binary that was built before, and writes it as an OCI archive of this name.
pub(super) fn build(program: &Path, tag: &str, archive: &Path) -> Result<()> {
    machine::need_root("image --dockerfile")?;
    packages::install(packages::FOR_IMAGES)?;
    let buildah = Buildah::new()?;
    let base = buildah.base()?;
    // All of the checkout that the Dockerfile copies when it compiles nothing.
    let context = tempfile::tempdir_in(cache()?)?;
    for file in ["docker/Dockerfile", "docker/files.sh"] {
        let copy = context.path().join(file);
        fs::create_dir_all(copy.parent().unwrap_or(context.path()))?;
        fs::copy(root().join(file), copy).with_context(|| format!("copy {file}"))?;
    }
    fs::copy(program, context.path().join("program")).with_context(|| format!("copy {}", program.display()))?;
    let revision = output(command("git").args(["rev-parse", "HEAD"])).unwrap_or_default();
    let revision = String::from_utf8_lossy(&revision);
    let mut build = buildah.command(["bud", "--quiet", "--force-rm", "--layers=false", "--tag", tag]);
    for argument in [
        &format!("BASE={base}"),
        &format!("BUILDER={base}"),
        "BINARY=program",
        concat!("VERSION=", env!("CARGO_PKG_VERSION")),
        &format!("REVISION={}", revision.trim()),
    ] {
        build.args(["--build-arg", argument]);
    }
    run_shown(build.arg("--file").arg(context.path().join("docker/Dockerfile")).arg(context.path()))?;
    let built = buildah.has_no_tools(tag).and_then(|()| {
        let to = format!("oci-archive:{}:{tag}", archive.display());
        run_shown(&mut buildah.command(["push", "--quiet", tag, &to]))
    });
    run_shown(&mut buildah.command(["rmi", "--force", tag]))?;
    built
}

/// buildah, with images and containers of our own.
struct Buildah {
    folder: PathBuf,
}

impl Buildah {
    fn new() -> Result<Self> {
        let folder = cache()?.join("buildah");
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        Ok(Self { folder })
    }

    /// Works in containers, too, where neither overlays nor other isolation may be had.
    fn command<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Command {
        let mut buildah = command("buildah");
        buildah.arg("--root").arg(self.folder.join("root")).arg("--runroot").arg(self.folder.join("run"));
        buildah.args(["--storage-driver", "vfs"]).args(words).env("BUILDAH_ISOLATION", "chroot");
        buildah
    }

    fn says<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Result<String> {
        Ok(String::from_utf8(output(&mut self.command(words))?)?.trim().to_owned())
    }

    /// The name of an image with this machine's Debian, made if there is none.
    fn base(&self) -> Result<String> {
        let (codename, mirror) = debian()?;
        let name = format!("localhost/vonk-base:{codename}");
        if self.says(["images", "--quiet", &name]).is_ok_and(|found| !found.is_empty()) {
            return Ok(name);
        }
        eprintln!("making {name} of packages, once; it takes a minute or two");
        let folder = tempfile::tempdir_in(cache()?)?;
        let include = format!("--include={IN_BASE}");
        output(command("debootstrap").args(["--variant=minbase", &include, &codename]).arg(folder.path()).arg(mirror))?;
        let container = self.says(["from", "scratch"])?;
        run_shown(self.command(["add", "--quiet", &container]).arg(folder.path()).arg("/"))?;
        run_shown(&mut self.command(["commit", "--quiet", "--rm", &container, &name]))?;
        Ok(name)
    }

    fn has_no_tools(&self, image: &str) -> Result<()> {
        let container = self.says(["from", image])?;
        let found = self.says(["mount", &container]).and_then(|files| tools(Path::new(&files)));
        self.says(["rm", &container])?;
        let found = found?;
        ensure!(found.is_empty(), "{image} has what nobody should find in it: {}", found.join(", "));
        Ok(())
    }
}

/// Programs of an image that must not be there.
fn tools(files: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for folder in ["bin", "sbin", "usr/bin", "usr/sbin", "usr/local/bin"] {
        let folder = files.join(folder);
        if !folder.exists() {
            continue;
        }
        for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if NO_TOOLS.contains(&name.as_str()) {
                found.push(name);
            }
        }
    }
    Ok(found)
}

/// This machine's Debian, whose glibc programs that were built here need, and where its packages come from.
fn debian() -> Result<(String, String)> {
    let release = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let codename = codename.context("find out which Debian this is: /etc/os-release has no VERSION_CODENAME")?;
    let listed = output(command("apt-get").args(["indextargets", "--format", "$(CODENAME) $(REPO_URI)"]))?;
    let listed = String::from_utf8_lossy(&listed);
    match listed.lines().filter_map(|line| line.split_once(' ')).find(|(name, _)| *name == codename) {
        Some((_, mirror)) => Ok((codename.to_owned(), mirror.to_owned())),
        None => bail!("apt knows no packages of {codename}: see /etc/apt/sources.list"),
    }
}
