//! Who proves what to whom in a cluster?

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::state::State;
use super::{machine, network};
use crate::workspace::output;

/// A cluster of tests does not live longer.
const DAYS: &str = "365";

const ELLIPTIC: [&str; 4] = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];

/// Makes the authority, the certificates of the control plane and of each node, and the key that signs tokens of pods.
pub(crate) fn make(state: &State, nodes: u8) -> Result<()> {
    fs::create_dir_all(state.path("pki")).context("make a folder for certificates")?;
    authority(state)?;
    let api = [network::MAIN_ADDRESS, network::API_SERVICE].map(|address| format!("IP:{address}"));
    let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];
    let api: Vec<String> = names.iter().map(|name| format!("DNS:{name}")).chain(api).collect();
    certificate(state, "apiserver", "/CN=kube-apiserver", &api.join(","))?;
    certificate(state, "admin", "/O=system:masters/CN=admin", "DNS:admin")?;
    for part in ["scheduler", "controller-manager", "proxy"] {
        certificate(state, part, &format!("/CN=system:kube-{part}"), &format!("DNS:{part}"))?;
    }
    for node in 1..=nodes {
        let (name, address) = (format!("node{node}"), network::node_address(node));
        let subject = format!("/O=system:nodes/CN=system:node:{name}");
        certificate(state, &name, &subject, &format!("DNS:{name},IP:{address}"))?;
    }
    key(&state.key("tokens"))?;
    let mut public = Command::new("openssl");
    public.args(["pkey", "-pubout", "-in"]).arg(state.key("tokens")).arg("-out").arg(state.path("pki/tokens.pub"));
    output(&mut public)?;
    machine::give_to_user(&state.key("admin"))
}

fn authority(state: &State) -> Result<()> {
    key(&state.key("ca"))?;
    let mut request = Command::new("openssl");
    request.args(["req", "-x509", "-days", DAYS, "-subj", "/CN=vonk-cluster", "-key"]).arg(state.key("ca"));
    output(request.arg("-out").arg(state.certificate("ca"))).map(drop)
}

fn key(file: &Path) -> Result<()> {
    output(Command::new("openssl").arg("genpkey").args(ELLIPTIC).arg("-out").arg(file)).map(drop)
}

/// A key and its certificate. The names go through a file of extensions, since what a request asks for is not taken over.
fn certificate(state: &State, name: &str, subject: &str, names: &str) -> Result<()> {
    key(&state.key(name))?;
    let (request, extensions) = (state.path(format!("pki/{name}.csr")), state.path(format!("pki/{name}.ext")));
    fs::write(&extensions, format!("basicConstraints=critical,CA:FALSE\nsubjectAltName={names}\n"))?;
    let mut ask = Command::new("openssl");
    ask.args(["req", "-new", "-subj", subject, "-key"]).arg(state.key(name)).arg("-out").arg(&request);
    output(&mut ask)?;
    let mut sign = Command::new("openssl");
    sign.args(["x509", "-req", "-days", DAYS, "-CAcreateserial", "-in"]).arg(&request);
    sign.arg("-CA").arg(state.certificate("ca")).arg("-CAkey").arg(state.key("ca"));
    output(sign.arg("-extfile").arg(&extensions).arg("-out").arg(state.certificate(name))).map(drop)
}
