//! In which network do the nodes live?
//!
//! ```text
//! host  vonk-host 10.99.0.254 ── vonk0 10.99.0.1   API server 6443, S3 server 7070
//!                                      10.99.0.11  kubelet of node1 ── bridge vonk-node1 ── pods 10.244.1.0/24
//!                                      10.99.0.12  kubelet of node2 ── bridge vonk-node2 ── pods 10.244.2.0/24
//! ```
//! Services are 10.96.0.0/16, kube-proxy's. The host has no route to pods and Services.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::workspace::output;

/// The namespace, as `ip netns` knows it.
const NAMESPACE: &str = "vonk";
const NAMESPACE_FILE: &str = "/run/netns/vonk";

/// The end of the link that is outside the namespace.
const HOST_LINK: &str = "vonk-host";
const HOST_ADDRESS: &str = "10.99.0.254/24";

/// Where the control plane and the S3 server listen.
pub(crate) const MAIN_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
pub(crate) const API_PORT: u16 = 6443;
pub(crate) const S3: SocketAddrV4 = SocketAddrV4::new(MAIN_ADDRESS, 7070);

pub(crate) const SERVICES: &str = "10.96.0.0/16";
/// The first address of Services, which Kubernetes gives to its own API server.
pub(crate) const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
pub(crate) const PODS: &str = "10.244.0.0/16";

/// What names of networks and bridges of pods begin with; the node's number follows.
pub(crate) const POD_NETWORK: &str = "vonk-node";

/// The address of a node, counted from one.
pub(crate) fn node_address(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, 10 + node)
}

/// Addresses of a node's pods.
pub(crate) fn pod_subnet(node: u8) -> String {
    format!("10.244.{node}.0/24")
}

/// Makes the namespace, its link to the host, and its addresses.
pub(crate) fn up(nodes: u8) -> Result<()> {
    let ip = |words: &str| output(Command::new("ip").args(words.split(' ')));
    ip(&format!("netns add {NAMESPACE}"))?;
    ip(&format!("link add {HOST_LINK} type veth peer name vonk0 netns {NAMESPACE}"))?;
    ip(&format!("address add {HOST_ADDRESS} dev {HOST_LINK}"))?;
    ip(&format!("link set {HOST_LINK} up"))?;
    ip(&format!("-n {NAMESPACE} link set lo up"))?;
    ip(&format!("-n {NAMESPACE} link set vonk0 up"))?;
    for address in std::iter::once(MAIN_ADDRESS).chain((1..=nodes).map(node_address)) {
        ip(&format!("-n {NAMESPACE} address add {address}/24 dev vonk0"))?;
    }
    let forward = ["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"];
    output(inside(Path::new("sh")).args(forward)).context("let the nodes forward packets of pods")?;
    Ok(())
}

/// Removes the namespace with every link, route and rule in it. Nothing there is no error.
pub(crate) fn down() -> Result<()> {
    let delete = |words: &[&str]| Command::new("ip").args(words).output().context("run `ip`");
    if Path::new(NAMESPACE_FILE).exists() {
        delete(&["netns", "delete", NAMESPACE])?;
        ensure!(!Path::new(NAMESPACE_FILE).exists(), "the network namespace {NAMESPACE} cannot be deleted");
    }
    // It goes with its other end, but not at once, and not if making that one failed.
    if Path::new("/sys/class/net").join(HOST_LINK).exists() {
        delete(&["link", "delete", HOST_LINK])?;
    }
    Ok(())
}

/// A command that runs in the namespace, and in this machine's mounts: `ip netns exec` would hide cgroups.
pub(crate) fn inside(program: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={NAMESPACE_FILE}")).arg("--").arg(program);
    command
}
