//! How does a cluster go, whatever state it is in?
//!
//! Nothing of it is worth asking politely: every process is ended at once, then what they made is removed. Each step finds
//! its own work, so it may be done twice, after a crash, and after the machine was started anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::state::State;
use super::{cgroups, machine, network, processes};

/// The kernel frees what a process held, which takes longer on a machine that is short of memory.
const END_WITHIN: Duration = Duration::from_secs(30);
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Where kubelets put links to logs, whatever they are told.
const LOG_LINKS: &str = "/var/log/containers";

/// Where programs of the container network keep notes, whatever they are told.
const ADDRESS_NOTES: &str = "/var/lib/cni/results";

pub(crate) fn down() -> Result<()> {
    machine::need_root("down")?;
    let began = Instant::now();
    let state = State::find()?;
    let was_there = state.folder().exists();
    remove(&state)?;
    match was_there {
        true => eprintln!("the cluster is down, {:.1?}", began.elapsed()),
        false => eprintln!("there is no cluster"),
    }
    Ok(())
}

/// Ends and removes everything. Nothing there is no error.
///
/// # Errors
/// Something cannot be removed, or the network is that of a cluster in another folder.
pub(crate) fn remove(state: &State) -> Result<()> {
    if let Some(other) = processes::other_cluster(state)? {
        bail!(
            "another cluster of this machine is up, in {}: use it, or stop it (`VONK_CACHE={} cargo xtask cluster down`)",
            other.display(),
            other.parent().unwrap_or(&other).display()
        );
    }
    // Those that would start others first; a pod's processes know nothing of our folder, but are in a node's cgroup.
    let programs = || Ok(processes::running(state)?.into_iter().map(|(pid, _)| pid).collect());
    processes::end("programs of the cluster", END_WITHIN, programs)?;
    processes::end("processes of pods", END_WITHIN, cgroups::processes)?;
    let sockets = shim_sockets(state);
    machine::unmount_below(state.folder())?;
    network::down()?;
    remove_cgroups()?;
    machine::restore_settings(state);
    let outside = [sockets, log_links(state), address_notes(Path::new(ADDRESS_NOTES))];
    for leftover in outside.iter().flatten() {
        fs::remove_file(leftover).ok();
    }
    if state.folder().exists() {
        fs::remove_dir_all(state.folder()).with_context(|| format!("remove {}", state.folder().display()))?;
    }
    Ok(())
}

/// A cgroup can be removed once the kernel has let go of the last process in it.
fn remove_cgroups() -> Result<()> {
    let began = Instant::now();
    loop {
        cgroups::remove()?;
        let left = cgroups::folders()?;
        if left.is_empty() {
            return Ok(());
        }
        ensure!(began.elapsed() < END_WITHIN, "cgroups are still in use: {left:?}");
        std::thread::park_timeout(LOOK_AGAIN_AFTER);
    }
}

/// Sockets of the processes between containerd and its containers, which lie outside every folder that it is told.
fn shim_sockets(state: &State) -> Vec<PathBuf> {
    let nodes = entries(state.folder());
    let tasks = nodes.iter().map(|node| node.join("containerd-run/io.containerd.runtime.v2.task/k8s.io"));
    let addresses = tasks.flat_map(|tasks| entries(&tasks)).map(|task| task.join("address"));
    let read = addresses.filter_map(|address| fs::read_to_string(address).ok());
    read.filter_map(|address| Some(PathBuf::from(address.trim().strip_prefix("unix://")?))).collect()
}

fn log_links(state: &State) -> Vec<PathBuf> {
    let ours = |link: &PathBuf| fs::read_link(link).is_ok_and(|target| target.starts_with(state.folder()));
    entries(Path::new(LOG_LINKS)).into_iter().filter(ours).collect()
}

/// What was noted of the addresses of pods that were not asked to go, for our networks and for the pods' own loopback.
fn address_notes(folder: &Path) -> Vec<PathBuf> {
    let notes = entries(folder);
    let name = |note: &PathBuf| note.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let ours = |name: &str| name.starts_with(network::POD_NETWORK);
    let pods: Vec<String> = notes.iter().map(name).filter(|name| ours(name)).collect();
    // NETWORK-POD-INTERFACE
    let pods: Vec<&str> = pods.iter().filter_map(|name| name.rsplit('-').nth(1)).collect();
    notes.iter().filter(|note| pods.iter().any(|pod| name(note).contains(pod))).cloned().collect()
}

/// What a folder holds; nothing, if there is none.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::address_notes;

    #[test]
    fn notes_of_other_networks_stay() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["vonk-node1-ab12-eth0", "cni-loopback-ab12-lo", "podman-cd34-eth0", "cni-loopback-cd34-lo"] {
            std::fs::write(folder.path().join(name), "{}").unwrap();
        }
        let mut found = address_notes(folder.path());
        found.sort();
        assert_eq!(found, ["cni-loopback-ab12-lo", "vonk-node1-ab12-eth0"].map(|name| folder.path().join(name)));
    }
}
