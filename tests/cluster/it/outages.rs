//! What happens while the API server or a node does not answer, or somebody takes what others need?
//!
//! Processes of the cluster are stopped, by a signal, for all who use it, or a node is changed: nothing else may run beside
//! these.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures::FutureExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams};
use model::failure::LossCause;
use serde_json::json;
use tokio::time::sleep;

use crate::endings::swept;
use crate::ground::{Ground, in_namespace, until_within};
use crate::running::{Ended, Running, processes_of_pod, signal, sums};

/// Links outlive it.
const SHORT: Duration = Duration::from_secs(10);

/// Longer than an executor may be silent; its driver knows why nobody is heard.
const LONGER: Duration = Duration::from_secs(40);

/// Executors that have no driver end themselves meanwhile, and nothing else is lost.
const LONG: Duration = Duration::from_secs(300);

/// After it, whatever is to happen does so within this time.
const AFTER: Duration = Duration::from_secs(120);

/// An executor that is silent is lost within this time, which is more than its own: others tell first that it is there.
const SILENT_WITHIN: Duration = Duration::from_secs(35);

/// The process of a name that has an argument like this.
fn process_of_cluster(name: &str, like: impl Fn(&[u8]) -> bool) -> u32 {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut found = processes.filter_map(|entry| {
        let is_named = std::fs::read_to_string(entry.path().join("comm")).ok()?.trim() == name;
        let is_it = is_named && std::fs::read(entry.path().join("cmdline")).ok()?.split(|&byte| byte == 0).any(&like);
        is_it.then(|| entry.file_name().to_str()?.parse().ok()).flatten()
    });
    found.next().unwrap_or_else(|| panic!("{name} is a process of this machine"))
}

/// A process of the cluster that does not go on until this is dropped.
struct Stopped(u32);

impl Stopped {
    fn api_server() -> Self {
        Self::of("kube-apiserver", |_| true)
    }

    fn kubelet(node: &str) -> Self {
        Self::of("kubelet", |argument| argument == node.as_bytes())
    }

    /// The process of a name that has an argument like this.
    fn of(name: &str, like: impl Fn(&[u8]) -> bool) -> Self {
        let process = process_of_cluster(name, like);
        signal("STOP", process);
        Self(process)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal("CONT", self.0);
    }
}

/// Ends the API server and starts it again, as an upgrade does: it has forgotten every watch and every version before.
async fn restart_api_server(down: Duration) {
    let process = process_of_cluster("kube-apiserver", |_| true);
    let told = std::fs::read(format!("/proc/{process}/cmdline")).unwrap();
    let words = told.split(|&byte| byte == 0).filter(|word| !word.is_empty()).map(OsStr::from_bytes);
    // In the network of the others.
    let beside = process_of_cluster("etcd", |_| true).to_string();
    let log = std::fs::read_link(format!("/proc/{process}/fd/1")).unwrap();
    let log = OpenOptions::new().append(true).open(log).unwrap();
    let mut command = Command::new("nsenter");
    command
        .args(["--target", &beside, "--net", "--"])
        .args(words)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .process_group(0);
    signal("KILL", process);
    // The fault itself lasts so long.
    sleep(down).await;
    // It stays when the test is over: whoever takes the cluster down finds it by its name.
    let mut server = command.spawn().unwrap();
    std::thread::spawn(move || server.wait());
}

async fn outage(lasts: Duration) {
    let stopped = Stopped::api_server();
    // The fault itself lasts so long.
    sleep(lasts).await;
    drop(stopped);
}

async fn held(ground: &Ground) -> Running {
    let running = ground.start(&[("executor.instances", "2")], &["sum", "--hold"]);
    ground.noted("reduce", 2).await;
    running
}

/// Lets the reduces of a driver outside go on, and sees that its job ends well.
async fn goes_on(ground: &Ground, running: Running) -> Ended {
    ground.notes.open_gate("reduce").await.unwrap();
    let ended = running.ends_within(AFTER).await;
    ended.with_code(0);
    assert_eq!(ended.stdout, sums(40_000, 100));
    ended
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: stops the API server of all"]
async fn one_of_less_than_a_minute_costs_nothing() {
    for lasts in [SHORT, LONGER] {
        in_namespace(&[], async |ground| {
            let running = held(ground).await;
            outage(lasts).await;
            goes_on(ground, running).await;
            assert_eq!(ground.losses().await, []);
            assert_eq!(ground.notes.of("reduce").await.unwrap().len(), 2, "no task ran again");
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: ends the API server of all"]
async fn a_server_that_begins_anew_doubles_and_forgets_no_pod() {
    in_namespace(&[], async |ground| {
        let running = held(ground).await;
        let names = ground.executor_names().await;
        let executor = ground.executors().await.remove(0);
        restart_api_server(SHORT).await;
        // It is heard of by a list: versions from before are forgotten.
        let pods = ground.api::<Pod>();
        let name = executor.metadata.name.unwrap();
        let deleted = async || pods.delete(&name, &DeleteParams::default().grace_period(0)).await.is_ok();
        ground.until("it is there again", deleted).await;
        running.says("lost e1").await;
        // Kubelets look for the API server less and less often, and see their pods late.
        let again = async || ground.notes.of("reduce").await.unwrap().len() == 3;
        until_within(AFTER, "its task runs elsewhere", again).await;
        let now = ground.executor_names().await;
        assert!(now.len() == 2 && now.iter().filter(|name| names.contains(name)).count() == 1, "{names:?}, {now:?}");
        goes_on(ground, running).await;
        assert_eq!(ground.notes.of("map").await.unwrap().len(), 4, "what was finished is there");
        let losses = ground.losses().await;
        assert!(matches!(&losses[..], [(LossCause::Infrastructure, _)]), "{losses:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: stops the API server of all"]
async fn a_long_one_costs_a_driver_outside_its_links() {
    in_namespace(&[], async |ground| {
        let running = held(ground).await;
        outage(LONG).await;
        let ended = goes_on(ground, running).await;
        assert_eq!(ground.notes.of("map").await.unwrap().len(), 4, "what was finished is there");
        ended.said("Kubernetes API unreachable");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: stops the API server of all"]
async fn a_long_one_costs_a_driver_in_the_cluster_nothing() {
    in_namespace(&[], async |ground| {
        ground.let_in("vonk-driver").await;
        let running = ground.submit(&["--num-executors=2"], &["sum", "--hold"]);
        ground.noted("reduce", 2).await;
        outage(LONG).await;
        ground.notes.open_gate("reduce").await.unwrap();
        let ended = running.ends_within(AFTER).await;
        ended.with_code(0);
        assert!(sums(40_000, 100).lines().all(|row| ended.stdout.lines().any(|line| line == row)), "{ended:?}");
        assert_eq!(ground.notes.of("reduce").await.unwrap().len(), 2, "no task ran again");
        assert_eq!(ground.losses().await, []);
        let app = ended.stdout.lines().next().unwrap_or_default();
        ground.vonk(&["kill", app]).ends().await.with_code(0);
        // Nodes tell late after this that executors have ended; what only they could still write is then left to a sweep.
        let swept = async || {
            ground.next_driver_sweeps().await;
            ground.sweep().await;
            ground.left_in_cluster().await.is_empty() && ground.left_in_store().await.is_empty()
        };
        until_within(AFTER, "all is swept", swept).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: stops a node's kubelet"]
async fn a_node_that_does_not_answer_is_done_without() {
    in_namespace(&[], async |ground| {
        let running = held(ground).await;
        let executors = ground.executors().await.into_iter();
        let nodes: Vec<String> = executors.map(|pod| pod.spec.unwrap().node_name.unwrap()).collect();
        let there = nodes.iter().filter(|node| **node == nodes[0]).count();
        let stopped = Stopped::kubelet(&nodes[0]);
        let began = Instant::now();
        let (lost, _) = running.says("lost e").await;
        let took = lost.saturating_duration_since(began);
        assert!(took < SILENT_WITHIN, "{took:?}");
        ground.noted("reduce", 2 + there).await;
        goes_on(ground, running).await;
        drop(stopped);
        assert_eq!(ground.notes.of("map").await.unwrap().len(), 4, "what was finished is there");
        let losses = ground.losses().await;
        assert!(losses.iter().all(|(cause, _)| *cause == LossCause::Infrastructure), "{losses:?}");
        // Nobody could tell the driver that the executor there had ended: its root is left to a sweep.
        swept(ground).await;
    })
    .await;
}

/// Whoever takes a node for lost may be wrong: its driver goes on there, beside the one that takes its place.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: stops a node's kubelet"]
async fn a_driver_that_was_given_up_ends_itself_and_harms_nobody() {
    in_namespace(&[], async |ground| {
        ground.let_in("vonk-driver").await;
        let flags = ["--num-executors=2", "--driver-restarts=1", "--conf=store.sweep_after=1m"];
        let running = ground.submit(&flags, &["sum", "--hold"]);
        ground.noted("reduce", 2).await;
        let driver = ground.drivers().await.remove(0);
        let node = driver.spec.unwrap().node_name.unwrap();
        let processes = processes_of_pod(&driver.metadata.uid.unwrap());
        assert!(!processes.is_empty());
        let nodes = ground.api_of_all::<Node>();
        let stopped = Stopped::kubelet(&node);
        let drivers = ground.api::<Pod>();
        drivers.delete(&driver.metadata.name.unwrap(), &DeleteParams::default()).await.unwrap();
        // As people do when a node is shut down: from then on its pods count as ended.
        let taints = async |taints: serde_json::Value| {
            let patch = json!({ "spec": { "taints": taints } });
            nodes.patch(&node, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
        };
        let key = "node.kubernetes.io/out-of-service";
        taints(json!([{ "key": key, "value": "nodeshutdown", "effect": "NoExecute" }])).await;
        let both = async {
            // The second epoch computes all of it, beside the first.
            let second = async || ground.notes.of("reduce").await.unwrap().len() == 4;
            until_within(AFTER, "there is a second driver", second).await;
            let is_there = |process: &u32| std::fs::exists(format!("/proc/{process}/exe")).unwrap();
            until_within(AFTER, "the first has ended by itself", async || !processes.iter().any(is_there)).await;
        };
        // Whatever comes of it, others need the node.
        let both = AssertUnwindSafe(both).catch_unwind().await;
        drop(stopped);
        taints(json!(null)).await;
        both.unwrap_or_else(|panic| resume_unwind(panic));
        ground.notes.open_gate("reduce").await.unwrap();
        let ended = running.ends_within(AFTER).await;
        ended.with_code(0);
        assert!(sums(40_000, 100).lines().all(|row| ended.stdout.lines().any(|line| line == row)), "{ended:?}");
        let app = ended.stdout.lines().next().unwrap_or_default();
        ground.vonk(&["kill", app]).ends().await.with_code(0);
        ground.next_driver_sweeps().await;
    })
    .await;
}

/// A resource of which a node has one: whoever has it can be preempted, and nobody else for it.
const ONE: &str = "vonk.dev/one";

/// Says that a node has one, or that it has none.
async fn advertise(ground: &Ground, has: bool) {
    let nodes = ground.api_of_all::<Node>();
    let amount = if has { json!("1") } else { serde_json::Value::Null };
    let patch = json!({ "status": { "capacity": { ONE: amount }, "allocatable": { ONE: amount } } });
    nodes.patch_status("node1", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: takes what an executor has"]
async fn an_executor_that_is_preempted_is_nobodys_fault() {
    in_namespace(&[], async |ground| {
        advertise(ground, true).await;
        let resource = format!("k8s.executor.resources.{ONE}");
        let settings = [("executor.instances", "1"), (resource.as_str(), "1"), ("executor.drain_grace", "1s")];
        let running = ground.start(&settings, &["wait", "1"]);
        ground.noted("runs", 1).await;
        let sleeps = json!({
            "name": "sleeps", "image": "localhost/busybox:1", "command": ["busybox", "sleep", "1000"],
            "resources": { "limits": { ONE: "1" } },
        });
        let spec = json!({ "priorityClassName": "system-cluster-critical", "containers": [sleeps] });
        ground.make::<Pod>(json!({ "metadata": { "name": "urgent" }, "spec": spec })).await;
        // It hears of it from its node, and ends in order.
        running.says("e1 is let go").await;
        running.says("waiting for room").await;
        ground.api::<Pod>().delete("urgent", &DeleteParams::default().grace_period(0)).await.unwrap();
        ground.noted("runs", 2).await;
        ground.notes.open_gate("go").await.unwrap();
        let ended = running.ends_within(AFTER).await;
        advertise(ground, false).await;
        ended.with_code(0);
        let losses = ground.losses().await;
        assert!(losses.iter().all(|(cause, _)| *cause == LossCause::Infrastructure), "no strike: {losses:?}");
    })
    .await;
}
