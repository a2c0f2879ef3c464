//! What is a node?
//!
//! containerd, which runs containers, and a kubelet, which tells it which; both with folders, a cgroup and an address of
//! their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::processes::{Started, start};
use super::state::State;
use super::{cgroups, network, packages, settings};
use crate::workspace::output;

/// Starts a node's containerd.
pub(crate) fn start_containerd(state: &State, node: u8) -> Result<Started> {
    let folder = state.path(format!("node{node}"));
    for part in ["cni", "kubelet", "podlogs"] {
        fs::create_dir_all(folder.join(part)).with_context(|| format!("make folders of node{node}"))?;
    }
    cgroups::make(node)?;
    let told = folder.join("containerd.toml");
    fs::write(&told, toml::to_string(&settings::containerd(state, node))?)?;
    fs::write(folder.join("cni/vonk.conflist"), settings::pod_network(state, node).to_string())?;
    let containerd = packages::find("containerd").context("find containerd")?;
    start(state, &format!("containerd-node{node}"), &containerd, |command| {
        command.arg("--config").arg(told);
        Ok(())
    })
}

/// Starts a node's kubelet.
pub(crate) fn start_kubelet(state: &State, node: u8, programs: &Path) -> Result<Started> {
    let name = format!("node{node}");
    let folder = state.path(&name);
    let told = folder.join("kubelet.json");
    fs::write(&told, settings::kubelet(state, node).to_string())?;
    start(state, &format!("kubelet-{name}"), &programs.join("kubelet"), |command| {
        command.arg("--config").arg(told).arg("--kubeconfig").arg(state.kubeconfig(&name));
        command.arg("--root-dir").arg(folder.join("kubelet"));
        command.args(["--hostname-override", &name, "--node-ip", &network::node_address(node).to_string()]);
        Ok(())
    })
}

/// Whether a node's containerd answers.
pub(crate) fn containerd_answers(state: &State, node: u8) -> bool {
    ctr(state, node).arg("version").output().is_ok_and(|answer| answer.status.success())
}

/// Gives a node the images of an archive.
pub(crate) fn import(state: &State, node: u8, archive: &Path) -> Result<()> {
    let mut import = ctr(state, node);
    output(import.args(["--namespace", "k8s.io", "images", "import"]).arg(archive))
        .with_context(|| format!("give node{node} the image {}", archive.display()))
        .map(drop)
}

fn ctr(state: &State, node: u8) -> Command {
    let socket: PathBuf = state.path(format!("node{node}")).join("containerd.sock");
    let mut command = Command::new("ctr");
    command.arg("--address").arg(socket);
    command
}
