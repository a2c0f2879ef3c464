//! What are the parts of a cluster told in their files?
//!
//! JSON is YAML, so what Kubernetes reads is written as JSON.

use serde_json::{Value, json};

use super::state::State;
use super::{cgroups, network, packages, pause};

/// How long a node may be silent before it is NotReady, and how often it speaks: quick, since tests wait for it.
pub(crate) const NODE_SILENT_SECONDS: u32 = 20;
const NODE_SPEAKS_EVERY: &str = "4s";

/// Where a user of the cluster finds it, and how it proves who it is.
pub(crate) fn kubeconfig(state: &State, user: &str) -> Value {
    let server = format!("https://{}:{}", network::MAIN_ADDRESS, network::API_PORT);
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "vonk", "cluster": {"server": server, "certificate-authority": state.certificate("ca")}}],
        "users": [{
            "name": user,
            "user": {"client-certificate": state.certificate(user), "client-key": state.key(user)},
        }],
        "contexts": [{"name": "vonk", "context": {"cluster": "vonk", "user": user, "namespace": "default"}}],
        "current-context": "vonk",
    })
}

/// A node's kubelet. Two of them share a machine, hence a cgroup, an address and folders for each.
pub(crate) fn kubelet(state: &State, node: u8) -> Value {
    let name = format!("node{node}");
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": network::node_address(node),
        // Two would want the same port; nobody asks.
        "healthzPort": 0,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", cgroups::name(node)),
        "failCgroupV1": false,
        "failSwapOn": false,
        "enforceNodeAllocatable": [],
        "containerRuntimeEndpoint": format!("unix://{}", state.path(&name).join("containerd.sock").display()),
        "authentication": {
            "anonymous": {"enabled": false},
            "x509": {"clientCAFile": state.certificate("ca")},
            "webhook": {"enabled": false},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "tlsCertFile": state.certificate(&name),
        "tlsPrivateKeyFile": state.key(&name),
        "clusterDomain": "cluster.local",
        "nodeStatusUpdateFrequency": NODE_SPEAKS_EVERY,
        // The machine's disk is shared by many; only a node that is nearly out of it may throw pods out.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        // Images came from archives and cannot be pulled again.
        "imageGCHighThresholdPercent": 100,
        "podLogsDir": state.path(&name).join("podlogs"),
        "volumePluginDir": state.path(&name).join("plugins"),
    })
}

/// A node's containerd. Everything lies in the node's folder, network namespaces and runc's notes too.
pub(crate) fn containerd(state: &State, node: u8) -> Value {
    let folder = state.path(format!("node{node}"));
    json!({
        "version": 2,
        "root": folder.join("containerd"),
        "state": folder.join("containerd-run"),
        // What is not used and would write elsewhere, or warn.
        "disabled_plugins": [
            "io.containerd.internal.v1.opt",
            "io.containerd.snapshotter.v1.aufs",
            "io.containerd.snapshotter.v1.btrfs",
            "io.containerd.snapshotter.v1.devmapper",
            "io.containerd.snapshotter.v1.zfs",
        ],
        "grpc": {"address": folder.join("containerd.sock")},
        "plugins": {"io.containerd.grpc.v1.cri": {
            "sandbox_image": pause::IMAGE,
            "restrict_oom_score_adj": true,
            "netns_mounts_under_state_dir": true,
            "stream_server_address": "127.0.0.1",
            "cni": {"bin_dir": packages::CNI_PROGRAMS, "conf_dir": folder.join("cni")},
            "containerd": {"runtimes": {"runc": {
                "runtime_type": "io.containerd.runc.v2",
                "options": {"SystemdCgroup": false, "Root": folder.join("runc")},
            }}},
        }},
    })
}

/// A node's bridge, on which its pods get their addresses. Nothing is masqueraded: pods see each other as they are.
pub(crate) fn pod_network(state: &State, node: u8) -> Value {
    let name = format!("{}{node}", network::POD_NETWORK);
    json!({
        "cniVersion": "0.4.0",
        "name": name,
        "plugins": [{
            "type": "bridge",
            "bridge": name,
            "isGateway": true,
            "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                "dataDir": state.path(format!("node{node}")).join("addresses"),
                "ranges": [[{"subnet": network::pod_subnet(node)}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::{State, containerd, kubeconfig, kubelet, pod_network};

    /// Every text in a value.
    fn texts(value: &Value) -> Vec<String> {
        match value {
            Value::String(text) => vec![text.clone()],
            Value::Array(values) => values.iter().flat_map(texts).collect(),
            Value::Object(values) => values.values().flat_map(texts).collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn nodes_share_nothing_but_certificates() {
        let state = State::at("/c/cluster");
        for settings in [kubelet, containerd, pod_network] {
            let of_one = texts(&settings(&state, 1));
            let shared: Vec<_> = texts(&settings(&state, 2)).into_iter().filter(|text| of_one.contains(text)).collect();
            let ours = shared.iter().filter(|text| text.contains("/c/cluster") || text.contains("10."));
            assert_eq!(ours.filter(|text| !text.ends_with("pki/ca.crt")).count(), 0, "{shared:?}");
        }
    }

    #[test]
    fn containerd_reads_toml() {
        let text = toml::to_string(&containerd(&State::at("/c/cluster"), 2)).unwrap();
        let read: Value = toml::from_str(&text).unwrap();
        assert_eq!(read["grpc"]["address"], "/c/cluster/node2/containerd.sock");
        let cri = &read["plugins"]["io.containerd.grpc.v1.cri"];
        assert_eq!(cri["containerd"]["runtimes"]["runc"]["options"]["Root"], "/c/cluster/node2/runc");
    }

    #[test]
    fn a_kubeconfig_names_files_of_its_user() {
        let config = kubeconfig(&State::at("/c/cluster"), "proxy");
        assert_eq!(config["users"][0]["user"]["client-key"], "/c/cluster/pki/proxy.key");
        assert_eq!(config["clusters"][0]["cluster"]["server"], "https://10.99.0.1:6443");
    }
}
