//! Whose resources are a node's?
//!
//! Every node has a cgroup of its own, below which its kubelet puts pods: two kubelets of one machine must not meet, and
//! whatever runs there can be ended, even if nothing that started it is alive.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

const ROOT: &str = "/sys/fs/cgroup";

/// What a kubelet and runc want to limit, where the kernel can.
const CONTROLLERS: [&str; 6] = ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"];

/// The cgroup of a node, as the kubelet's `cgroupRoot` has it without the slash.
pub(crate) fn name(node: u8) -> String {
    format!("vonk-node{node}")
}

/// Makes a node's cgroup in every hierarchy.
pub(crate) fn make(node: u8) -> Result<()> {
    let root = Path::new(ROOT);
    // In version 2 a folder must allow it to those below.
    if let Ok(available) = fs::read_to_string(root.join("cgroup.controllers")) {
        let (file, allowed) = (root.join("cgroup.subtree_control"), allowed(&available));
        fs::write(&file, &allowed).with_context(|| {
            format!("let nodes limit pods: write `{allowed}` to {} (the cgroup may hold no process)", file.display())
        })?;
    }
    for hierarchy in hierarchies()? {
        let folder = hierarchy.join(name(node));
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        // In version 1 nothing may run in a new cgroup before it has been given processors and memory.
        for resource in ["cpuset.cpus", "cpuset.mems"] {
            let above = hierarchy.join(resource);
            if above.exists() && fs::read_to_string(folder.join(resource)).is_ok_and(|own| own.trim().is_empty()) {
                fs::write(folder.join(resource), fs::read(&above)?).with_context(|| format!("write {resource}"))?;
            }
        }
    }
    Ok(())
}

/// What to allow, of what the kernel has.
fn allowed(available: &str) -> String {
    let wanted = available.split_whitespace().filter(|name| CONTROLLERS.contains(name));
    wanted.map(|name| format!("+{name}")).collect::<Vec<_>>().join(" ")
}

/// Processes in the cgroups of all nodes.
pub(crate) fn processes() -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for folder in folders()? {
        let listed = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        found.extend(listed.lines().filter_map(|line| line.parse::<u32>().ok()));
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Removes the cgroups of all nodes. One that is in use stays, and `down` looks again.
pub(crate) fn remove() -> Result<()> {
    for folder in folders()?.iter().rev() {
        fs::remove_dir(folder).ok();
    }
    Ok(())
}

/// Every cgroup of a node, each after the one that it is in.
pub(crate) fn folders() -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = Vec::new();
    for hierarchy in hierarchies()? {
        found.extend(folders_of(&hierarchy)?.into_iter().filter(|path| is_nodes(path)));
    }
    let mut next = 0;
    while next < found.len() {
        found.extend(folders_of(&found[next])?);
        next += 1;
    }
    Ok(found)
}

fn is_nodes(folder: &Path) -> bool {
    folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vonk-node"))
}

/// The one tree of version 2, or one per controller.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let root = PathBuf::from(ROOT);
    if root.join("cgroup.procs").exists() { Ok(vec![root]) } else { folders_of(&root) }
}

/// Folders in a folder; links (`cpu,cpuacct`) would give the same twice. One that vanishes meanwhile has none.
fn folders_of(folder: &Path) -> Result<Vec<PathBuf>> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("list {}", folder.display()))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::allowed;

    #[test]
    fn only_what_the_kernel_has_is_allowed() {
        assert_eq!(allowed("cpu memory pids rdma misc\n"), "+cpu +memory +pids");
    }
}
