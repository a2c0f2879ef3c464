//! What must Debian bring?

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::machine;
use crate::workspace::run as run_shown;

/// Programs and folders, and the package of Debian and Ubuntu that has them.
type Needed = &'static [(&'static str, &'static str)];

/// What a cluster consists of.
pub(crate) const FOR_CLUSTER: Needed = &[
    ("etcd", "etcd-server"),
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("iptables", "iptables"),
    ("ip", "iproute2"),
    ("openssl", "openssl"),
    ("nsenter", "util-linux"),
    ("setsid", "util-linux"),
    ("umount", "mount"),
    ("/bin/busybox", "busybox-static"),
    ("cc", "gcc"),
    ("strip", "binutils"),
    // Its package has the static C library too.
    ("/usr/include/stdlib.h", "libc6-dev"),
    // What fetches Go, where there is none.
    ("curl", "curl"),
    ("unzip", "unzip"),
    ("/etc/ssl/certs/ca-certificates.crt", "ca-certificates"),
];

/// What builds docker/Dockerfile, and its base.
pub(crate) const FOR_IMAGES: Needed = &[("buildah", "buildah"), ("debootstrap", "debootstrap")];

/// What pods of a cluster of this machine are connected by.
pub(crate) const CNI_PROGRAMS: &str = "/usr/lib/cni";

/// Where programs for root lie: not on every user's path.
const ROOTS_FOLDERS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Installs what is missing, if that is allowed here.
///
/// # Errors
/// Names the command that installs the rest, where neither root nor sudo without a password is at hand.
pub(crate) fn install(needed: Needed) -> Result<()> {
    let missing = missing(needed, |name| find(name).is_some());
    if missing.is_empty() {
        return Ok(());
    }
    let apt = ["install", "--yes", "--no-install-recommends"];
    let by_hand = format!("sudo apt-get {} {}", apt.join(" "), missing.join(" "));
    if find("apt-get").is_none() {
        bail!("this needs what Debian has in its packages {}: install their like", missing.join(", "));
    }
    let sudo = || Command::new("sudo").args(["-n", "true"]).output().is_ok_and(|tried| tried.status.success());
    let words = match () {
        () if machine::is_root() => &["apt-get"][..],
        () if sudo() => &["sudo", "-n", "apt-get"][..],
        () => bail!("this needs packages that are not installed: `{by_hand}`"),
    };
    eprintln!("installing packages: {}", missing.join(" "));
    let apt_get = |more: &[&str]| {
        run_shown(Command::new(words[0]).args(&words[1..]).args(more).env("DEBIAN_FRONTEND", "noninteractive"))
    };
    let packages: Vec<&str> = apt.into_iter().chain(missing.iter().copied()).chain(["-qq"]).collect();
    // Lists of packages that were never fetched, or are too old, are the usual reason for a failure.
    apt_get(&packages).or_else(|_| apt_get(&["update", "-qq"]).and_then(|()| apt_get(&packages))).context(by_hand)
}

/// Packages of which something is not there, each once.
fn missing(needed: Needed, is_there: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let mut packages: Vec<_> = needed.iter().filter(|(name, _)| !is_there(name)).map(|(_, package)| *package).collect();
    packages.dedup();
    packages
}

/// A program on the path, or where root's programs lie.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(ROOTS_FOLDERS.iter().map(PathBuf::from));
    // A name that is a path is looked for as it is.
    folders.map(|folder| folder.join(Path::new(name))).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::{FOR_CLUSTER, missing};

    #[test]
    fn a_package_is_named_once() {
        assert_eq!(
            missing(FOR_CLUSTER, |name| !matches!(name, "containerd" | "ctr" | "ip")),
            ["containerd", "iproute2"]
        );
        assert!(missing(FOR_CLUSTER, |_| true).is_empty());
    }
}
