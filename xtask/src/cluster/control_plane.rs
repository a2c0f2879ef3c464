//! What runs beside the nodes?
//!
//! The database of Kubernetes, its API server, scheduler and controllers, the proxy of Services, and the S3 server.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::processes::{Started, start};
use super::state::State;
use super::{network, packages, settings};
use crate::s3;

/// The database listens within the namespace alone, where nobody else does.
const DATABASE: &str = "http://127.0.0.1:2379";

pub(crate) fn start_database(state: &State) -> Result<Started> {
    let etcd = packages::find("etcd").context("find etcd")?;
    start(state, "etcd", &etcd, |command| {
        command.arg("--data-dir").arg(state.path("etcd"));
        command.args(["--listen-client-urls", DATABASE, "--advertise-client-urls", DATABASE]);
        Ok(())
    })
}

pub(crate) fn start_api_server(state: &State, programs: &Path) -> Result<Started> {
    let address = network::MAIN_ADDRESS.to_string();
    start(state, "apiserver", &programs.join("kube-apiserver"), |command| {
        let file = |command: &mut Command, flag: &str, file: &Path| {
            command.arg(flag).arg(file);
        };
        command.args(["--etcd-servers", DATABASE, "--advertise-address", &address, "--bind-address", &address]);
        command.args(["--secure-port", &network::API_PORT.to_string()]);
        file(command, "--tls-cert-file", &state.certificate("apiserver"));
        file(command, "--tls-private-key-file", &state.key("apiserver"));
        file(command, "--client-ca-file", &state.certificate("ca"));
        file(command, "--kubelet-client-certificate", &state.certificate("admin"));
        file(command, "--kubelet-client-key", &state.key("admin"));
        file(command, "--kubelet-certificate-authority", &state.certificate("ca"));
        file(command, "--service-account-key-file", &state.path("pki/tokens.pub"));
        file(command, "--service-account-signing-key-file", &state.key("tokens"));
        command.args(["--service-account-issuer", "https://kubernetes.default.svc"]);
        command.args(["--service-cluster-ip-range", network::SERVICES]);
        command.args(["--kubelet-preferred-address-types", "InternalIP"]);
        command.args(["--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction"]);
        command.arg("--allow-privileged=true");
        // Debian 12's etcd cannot tell the progress of a watch. A watch from any version on would be refused.
        command.arg("--feature-gates=WatchList=false");
        Ok(())
    })
}

pub(crate) fn start_controllers(state: &State, programs: &Path) -> Result<Started> {
    start(state, "controller-manager", &programs.join("kube-controller-manager"), |command| {
        command.arg("--kubeconfig").arg(state.kubeconfig("controller-manager"));
        command.arg("--service-account-private-key-file").arg(state.key("tokens"));
        command.arg("--root-ca-file").arg(state.certificate("ca"));
        command.args(["--use-service-account-credentials", "--leader-elect=false", "--node-monitor-period=2s"]);
        command.arg(format!("--node-monitor-grace-period={}s", settings::NODE_SILENT_SECONDS));
        Ok(())
    })
}

pub(crate) fn start_scheduler(state: &State, programs: &Path) -> Result<Started> {
    start(state, "scheduler", &programs.join("kube-scheduler"), |command| {
        for flag in ["--kubeconfig", "--authentication-kubeconfig", "--authorization-kubeconfig"] {
            command.arg(flag).arg(state.kubeconfig("scheduler"));
        }
        command.arg("--leader-elect=false");
        Ok(())
    })
}

/// One proxy serves all nodes: they share a network.
pub(crate) fn start_proxy(state: &State, programs: &Path) -> Result<Started> {
    start(state, "proxy", &programs.join("kube-proxy"), |command| {
        command.arg("--kubeconfig").arg(state.kubeconfig("proxy"));
        command.args(["--hostname-override", "node1", "--cluster-cidr", network::PODS, "--proxy-mode", "iptables"]);
        // How many connections the kernel follows is the machine's affair.
        command.args(["--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0s"]);
        command.arg("--conntrack-tcp-timeout-close-wait=0s");
        Ok(())
    })
}

pub(crate) fn start_s3_server(state: &State) -> Result<Started> {
    let program = s3::build()?;
    start(state, "s3", &program, |command| s3::prepare(command, network::S3, &state.path("s3")))
}
