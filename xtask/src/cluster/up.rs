//! How does a cluster start, and how is it found?

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::processes::Started;
use super::state::State;
use super::{
    binaries, control_plane, down, image, machine, network, node, packages, pause, pki, processes, settings, state,
};
use crate::s3;
use crate::workspace::{command as workspace_command, output, run as run_shown};

/// An S3 server of this machine is reached at once or not at all.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// Two, so that one can be lost.
const NODES: u8 = 2;

/// What pods that only sleep, end, fail or fill a disk run: BusyBox, in tests.
const TRY: (&str, &str) = ("/bin/busybox", "localhost/busybox:1");

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// How many nodes it has.
    #[arg(long, default_value_t = NODES, value_parser = clap::value_parser!(u8).range(1..=9))]
    nodes: u8,
}

/// What is noted of a cluster that came up.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Up {
    pub(crate) nodes: u8,
}

/// Starts a cluster, or finds that it is up, and prints how it is reached.
pub(crate) fn up(args: &UpArgs) -> Result<()> {
    let state = State::find()?;
    bring_up(&state, args.nodes)?;
    for (name, value) in environment(&state) {
        println!("export {name}='{value}'");
    }
    Ok(())
}

/// Runs a command with what it needs to find a cluster: the one that the environment names, else ours, which is started
/// unless it is up.
pub(crate) fn with_cluster(words: &[String]) -> Result<()> {
    let environment = ensure(NODES)?;
    run_shown(workspace_command(&words[0]).args(&words[1..]).envs(environment))
}

/// Sees that there is a cluster, started with so many nodes if there was none, and gives what finds it beyond what the
/// environment says.
pub(crate) fn ensure(nodes: u8) -> Result<Vec<(&'static str, String)>> {
    if ["KUBECONFIG", "VONK_TEST_S3_URL"].iter().all(|name| std::env::var_os(name).is_some()) {
        return Ok(Vec::new());
    }
    let state = State::find()?;
    // Let go before a command runs: it may well be one of ours.
    let _alone = state::alone()?;
    if found(&state).is_none() {
        bring_up(&state, nodes)?;
    }
    Ok(environment(&state))
}

fn bring_up(state: &State, nodes: u8) -> Result<()> {
    machine::need_root("up")?;
    match found(state) {
        Some(up) if up.nodes == nodes => eprintln!("a cluster with {nodes} nodes is up already"),
        Some(up) => bail!("a cluster with {} nodes is up: `cargo xtask cluster down` first", up.nodes),
        None => {
            let began = Instant::now();
            machine::need_namespaces()?;
            packages::install(packages::FOR_CLUSTER)?;
            let programs = binaries::kubernetes()?;
            if state.folder().exists() {
                eprintln!("removing what is left of an earlier cluster");
            }
            down::remove(state)?;
            let started = Instant::now();
            start(state, nodes, &programs)
                .with_context(|| format!("start a cluster (logs: {})", state.path("log").display()))?;
            eprintln!("{nodes} nodes are ready, {:.1?} (of {:.1?})", started.elapsed(), began.elapsed());
        }
    }
    Ok(())
}

/// Says what runs.
pub(crate) fn status() -> Result<()> {
    let state = State::find()?;
    let running = processes::running(&state)?;
    match found(&state) {
        Some(up) => println!("up, {} nodes", up.nodes),
        None if running.is_empty() && !state.folder().exists() => println!("down"),
        None => println!("broken: `cargo xtask cluster up` starts it anew, `cargo xtask cluster down` removes it"),
    }
    for (pid, program) in running.iter().filter(|(_, program)| !program.starts_with("containerd-shim")) {
        println!("  {program} ({pid})");
    }
    if state.folder().exists() {
        println!("logs: {}", state.path("log").display());
        println!("export KUBECONFIG='{}'", state.admin().display());
    }
    Ok(())
}

/// The cluster, if there is one whose servers answer.
pub(crate) fn found(state: &State) -> Option<Up> {
    let noted = fs::read(state.is_up()).ok()?;
    let up: Up = serde_json::from_slice(&noted).ok()?;
    // Only root may ask containerd.
    let nodes_answer = || !machine::is_root() || (1..=up.nodes).all(|node| node::containerd_answers(state, node));
    (api_answers(state, &binaries::folder().ok()?) && s3_answers() && nodes_answer()).then_some(up)
}

/// What tests and users read to find it.
pub(crate) fn environment(state: &State) -> Vec<(&'static str, String)> {
    let kubeconfig = ("KUBECONFIG", state.admin().display().to_string());
    std::iter::once(kubeconfig).chain(s3::environment(network::S3)).collect()
}

fn start(state: &State, nodes: u8, programs: &Path) -> Result<()> {
    fs::create_dir_all(state.path("log")).with_context(|| format!("make {}", state.folder().display()))?;
    machine::note_settings(state)?;
    network::up(nodes)?;
    pki::make(state, nodes)?;
    let users = ["scheduler", "controller-manager", "proxy"].map(str::to_owned);
    for user in users.into_iter().chain((1..=nodes).map(|node| format!("node{node}"))) {
        fs::write(state.kubeconfig(&user), settings::kubeconfig(state, &user).to_string())?;
    }
    fs::write(state.admin(), settings::kubeconfig(state, "admin").to_string())?;

    control_plane::start_database(state)?;
    let mut api = control_plane::start_api_server(state, programs)?;
    let mut s3 = control_plane::start_s3_server(state)?;
    let containerds = (1..=nodes).map(|node| node::start_containerd(state, node)).collect::<Result<Vec<_>>>()?;
    let pause = state.path("pause.tar");
    pause::image(&programs.join("pause"))?.write(&pause)?;
    let to_try = state.path("busybox.tar");
    image::pack(Path::new(TRY.0), TRY.1, &["busybox".to_owned()])?.write(&to_try)?;
    for (node, mut containerd) in (1..=nodes).zip(containerds) {
        containerd.until("containerd answers", || node::containerd_answers(state, node))?;
        node::import(state, node, &pause)?;
        node::import(state, node, &to_try)?;
    }
    api.until("the API server answers", || api_answers(state, programs))?;
    let mut controllers = control_plane::start_controllers(state, programs)?;
    control_plane::start_scheduler(state, programs)?;
    control_plane::start_proxy(state, programs)?;
    let mut kubelets: Vec<Started> =
        (1..=nodes).map(|node| node::start_kubelet(state, node, programs)).collect::<Result<_>>()?;
    for (node, kubelet) in (1..=nodes).zip(&mut kubelets) {
        kubelet.until(&format!("node{node} is ready"), || is_ready(state, programs, node))?;
    }
    let kubectl =
        |words: &[&str]| kubectl(state, programs).args(words).output().is_ok_and(|said| said.status.success());
    controllers.until("pods have an account", || kubectl(&["get", "serviceaccount", "default"]))?;
    s3.until("the S3 server listens", s3_answers)?;
    fs::write(state.is_up(), serde_json::to_string(&Up { nodes })?).context("note that the cluster is up")
}

fn api_answers(state: &State, programs: &Path) -> bool {
    let mut ask = kubectl(state, programs);
    ask.args(["get", "--raw=/readyz", "--request-timeout=2s"]).output().is_ok_and(|answer| answer.status.success())
}

fn s3_answers() -> bool {
    TcpStream::connect_timeout(&SocketAddr::V4(network::S3), CONNECT_WITHIN).is_ok()
}

fn is_ready(state: &State, programs: &Path, node: u8) -> bool {
    let name = format!("node{node}");
    let ready = "-o=jsonpath={.status.conditions[?(@.type=='Ready')].status}";
    output(kubectl(state, programs).args(["get", "node", &name, ready])).is_ok_and(|said| said == b"True")
}

/// kubectl, as the administrator.
fn kubectl(state: &State, programs: &Path) -> Command {
    let mut command = Command::new(programs.join("kubectl"));
    command.env("KUBECONFIG", state.admin());
    command
}
