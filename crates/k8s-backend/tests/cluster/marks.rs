//! How fast do many pods come? Each prints what it measured; docs/reports/kubernetes.md keeps it.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use model::backend::{ClusterBackend, ClusterEvent};
use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::cluster::{ECHO, Ground, made, until};

/// The label, annotation and taint of nodes that kwok pretends.
const FAKE: &str = "kwok.x-k8s.io/node";

/// Nodes of the size that people have: each bears some fifty pods.
const FAKE_NODES: usize = 20;

/// So many executors are wanted at once.
const MANY: usize = 1_000;

/// Something is wrong if they take longer.
const MANY_WITHIN: Duration = Duration::from_secs(180);

/// kwok, which keeps fake nodes ready and lets their pods run.
struct Kwok(Child);

impl Kwok {
    fn start() -> Self {
        let program = std::env::var_os("VONK_TEST_KWOK").expect("VONK_TEST_KWOK names the program kwok");
        let config = std::env::var("KUBECONFIG").expect("it leads to a cluster");
        let selector = format!("--manage-nodes-with-annotation-selector={FAKE}=fake");
        let mut command = Command::new(program);
        command.args(["--kubeconfig", &config, "--manage-all-nodes=false", &selector]);
        // It renews the leases of nodes each quarter of this. Without leases a node is heard of every ten minutes.
        command.arg("--node-lease-duration-seconds=40");
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("kwok starts"))
    }
}

impl Drop for Kwok {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The most memory that this process has had, the driver's part of it being the backend, as the system tells it.
fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn a_hundred_pods_are_asked_for() {
    let ground = Ground::new(&[]).await;
    let selector = ("k8s.executor.node_selector.vonk.dev/room", "nowhere");
    let (backend, _events) = ground.backend(ECHO, &[selector]);
    let began = Instant::now();
    backend.set_target(100);
    until(async || ground.pods().list(&ListParams::default()).await.unwrap().items.len() == 100).await;
    println!("100 pods asked for, until all are there: {} ms", began.elapsed().as_millis());
    backend.stop().await;
    ground.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn a_thousand_executors_run_on_fake_nodes() {
    let ground = Ground::new(&[]).await;
    let nodes: Api<Node> = Api::all(ground.cluster.client());
    let fake = ListParams::default().labels(&format!("{FAKE}=fake"));
    // Those of a run that failed.
    nodes.delete_collection(&DeleteParams::default(), &fake).await.unwrap();
    let size = json!({ "cpu": "64", "memory": "256Gi", "ephemeral-storage": "4Ti", "pods": "110" });
    for number in 0..FAKE_NODES {
        let node: Node = made(json!({
            "metadata": {
                "name": format!("fake-{number}"),
                "labels": { FAKE: "fake", "kubernetes.io/os": "linux" },
                "annotations": { FAKE: "fake" },
            },
            "spec": { "taints": [{ "key": FAKE, "value": "fake", "effect": "NoSchedule" }] },
            "status": { "capacity": size, "allocatable": size },
        }));
        nodes.create(&PostParams::default(), &node).await.unwrap();
    }
    let kwok = Kwok::start();
    let ready = |node: &Node| {
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
    };
    until(async || nodes.list(&fake).await.unwrap().items.iter().filter(|node| ready(node)).count() == FAKE_NODES)
        .await;

    let tolerations = format!("[{{key: {FAKE}, operator: Exists}}]");
    let settings = [
        (&*format!("k8s.executor.node_selector.{FAKE}"), "fake"),
        ("k8s.executor.tolerations", &*tolerations),
        // Nobody dials a pod that is none.
        ("k8s.dial", "direct"),
    ];
    let (backend, mut events) = ground.backend(ECHO, &settings);
    let began = Instant::now();
    backend.set_target(MANY as u32);
    let mut running = 0;
    let all = async {
        while running < MANY {
            running += events
                .find(|event| match event {
                    ClusterEvent::Reachable { .. } => Some(1),
                    ClusterEvent::Lost { why, .. } | ClusterEvent::Refused { why } => panic!("{why}"),
                    ClusterEvent::Waiting { .. } => None,
                })
                .await;
        }
    };
    let came = timeout(MANY_WITHIN, all).await;
    println!("{running} executors asked for, until all are seen to run: {} ms", began.elapsed().as_millis());
    println!("{}", peak_memory());
    let stopping = Instant::now();
    backend.stop().await;
    println!("until {MANY} executors are told to go: {} ms", stopping.elapsed().as_millis());
    until(async || ground.pods().list(&ListParams::default()).await.unwrap().items.is_empty()).await;
    println!("until none of their pods is left: {} ms", stopping.elapsed().as_millis());
    nodes.delete_collection(&DeleteParams::default(), &fake).await.unwrap();
    drop(kwok);
    ground.leave().await;
    came.expect("all run in time");
}
