//! How fast is it? Each prints what it measured; docs/reports/kubernetes.md keeps it.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;

use crate::ground::{in_namespace, until_within};
use crate::running::process_of_pod;

/// How often what is short is measured.
const TIMES: usize = 10;

fn told(what: &str, mut all: Vec<u64>) {
    all.sort_unstable();
    println!("{what}: median {} ms of {all:?}", all[all.len() / 2]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn from_start_to_first_task() {
    in_namespace(&[], async |ground| {
        let mut took = Vec::new();
        for n in 0..=TIMES {
            let running = ground.start(&[], &["sum", "--maps", "1"]);
            let began = running.began_unix_ms;
            running.ends().await.with_code(0);
            let noted = ground.notes.of("map").await.unwrap();
            // The first one uploads the program.
            match n {
                0 => println!("the first: {} ms", noted[n] - began),
                _ => took.push(noted[n] - began),
            }
        }
        told("client mode, from start to first task", took);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn memory_of_an_idle_executor() {
    in_namespace(&[], async |ground| {
        let running = ground.start(&[], &["wait", "1"]);
        ground.noted("runs", 1).await;
        let uid = ground.executors().await.remove(0).metadata.uid.unwrap();
        let status = std::fs::read_to_string(format!("/proc/{}/status", process_of_pod(&uid))).unwrap();
        for line in status.lines().filter(|line| line.starts_with("VmRSS") || line.starts_with("Rss")) {
            println!("an executor with nothing to do: {line}");
        }
        ground.notes.open_gate("go").await.unwrap();
        running.ends().await.with_code(0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn until_a_killed_executor_is_noticed() {
    in_namespace(&[], async |ground| {
        let running = ground.start(&[("allocation.max", "1"), ("allocation.initial", "1")], &["wait", "1"]);
        let (mut killed, mut deleted) = (Vec::new(), Vec::new());
        for n in 1..=6 {
            ground.noted("runs", n).await;
            let pods = ground.executors().await;
            let number = |pod: &Pod| pod.metadata.name.as_ref()?.rsplit('-').next()?.parse::<u32>().ok();
            let pod = pods.iter().max_by_key(|pod| number(pod)).unwrap();
            let (name, number, began) = (pod.metadata.name.clone().unwrap(), number(pod).unwrap(), Instant::now());
            let list = match n % 2 {
                0 => {
                    crate::running::signal("KILL", process_of_pod(pod.metadata.uid.as_ref().unwrap()));
                    &mut killed
                }
                _ => {
                    ground.api::<Pod>().delete(&name, &DeleteParams::default().grace_period(0)).await.unwrap();
                    &mut deleted
                }
            };
            let (lost, _) = running.says(&format!("lost e{number}:")).await;
            list.push(u64::try_from(lost.saturating_duration_since(began).as_millis()).unwrap());
        }
        ground.notes.open_gate("go").await.unwrap();
        running.ends().await.with_code(0);
        told("a killed executor is noticed", killed);
        told("a deleted pod is noticed", deleted);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn a_hundred_pods_are_asked_for() {
    in_namespace(&[], async |ground| {
        let selector = ("k8s.executor.node_selector.vonk.dev/room", "nowhere");
        let running = ground.start(&[("executor.instances", "100"), selector], &["wait", "1"]);
        let first = async || !ground.executors().await.is_empty();
        until_within(Duration::from_secs(60), "the first pod", first).await;
        let began = Instant::now();
        until_within(Duration::from_secs(60), "all", async || ground.executors().await.len() == 100).await;
        println!("from the first of 100 pods to the last: {} ms", began.elapsed().as_millis());
        running.signal("INT");
        running.ends().await.with_code(130);
    })
    .await;
}
