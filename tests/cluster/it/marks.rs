//! How fast is it? Each prints what it measured; docs/reports/kubernetes.md keeps it.

use std::time::{Duration, Instant};

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;

use crate::ground::{Ground, in_namespace};
use crate::running::{Running, process_of_pod, processes_of_pod};

/// How often what is short is measured.
const TIMES: usize = 10;

/// What computes for some seconds, three times as slowly beside others.
const LONG: Duration = Duration::from_secs(180);

fn told(what: &str, mut all: Vec<u64>) {
    all.sort_unstable();
    println!("{what}: median {} ms of {all:?}", all[all.len() / 2]);
}

/// Measures how long programs take to their first task.
async fn to_first_task(ground: &Ground, what: &str, start: impl Fn() -> Running) {
    let mut took = Vec::new();
    for n in 0..=TIMES {
        let running = start();
        let began = running.began_unix_ms;
        running.ends().await.with_code(0);
        let noted = ground.notes.of("map").await.unwrap();
        // The first one uploads the program.
        match n {
            0 => println!("the first: {} ms", noted[n] - began),
            _ => took.push(noted[n] - began),
        }
    }
    told(what, took);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn from_start_to_first_task() {
    in_namespace(&[], async |ground| {
        to_first_task(ground, "client mode, from start to first task", || ground.start(&[], &["sum", "--maps", "1"]))
            .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn from_submission_to_first_task() {
    in_namespace(&[], async |ground| {
        ground.let_in("vonk-driver").await;
        to_first_task(ground, "cluster mode, from submission to first task", || {
            ground.submit(&[], &["sum", "--maps", "1"])
        })
        .await;
        ground.remove_all::<Job>().await;
    })
    .await;
}

/// The same program on executors that are pods of two nodes, and on processes of this machine, in turn.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn work_on_pods_and_on_processes() {
    in_namespace(&[], async |ground| {
        for (what, size) in [("pi", "400000000"), ("words", "2000000")] {
            let (mut pods, mut processes) = (Vec::new(), Vec::new());
            let job = ["time", what, size];
            let settings = [("executor.instances", "2")];
            for _ in 0..3 {
                let on_pods = ground.start(&settings, &job).ends_within(LONG).await;
                on_pods.with_code(0);
                let on_processes = ground.start_here("local-cluster[2,1]", &job).ends_within(LONG).await;
                on_processes.with_code(0);
                let (ms, result) = timed(&on_pods.stdout);
                let (other_ms, other_result) = timed(&on_processes.stdout);
                assert_eq!(result, other_result);
                pods.push(ms);
                processes.push(other_ms);
            }
            let ratio = |a: &[u64], b: &[u64]| *a.iter().min().unwrap() as f64 / *b.iter().min().unwrap() as f64;
            println!("{what}: on pods {pods:?} ms, on processes {processes:?} ms: {:.2}", ratio(&pods, &processes));
        }
    })
    .await;
}

/// Milliseconds, and what was computed.
fn timed(stdout: &str) -> (u64, &str) {
    let (ms, result) = stdout.trim().split_once(" ms, ").unwrap();
    (ms.parse().unwrap(), result)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn memory_of_an_idle_executor() {
    in_namespace(&[], async |ground| {
        let running = ground.start(&[], &["wait", "1"]);
        ground.noted("runs", 1).await;
        let uid = ground.executors().await.remove(0).metadata.uid.unwrap();
        // The program, and the process that stays with it, which is the same program: they share what they have of its file.
        let (mut own, mut file) = (0, 0);
        for process in processes_of_pod(&uid) {
            let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
            let kib = |what: &str| -> u64 {
                let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
                line.trim().trim_end_matches(" kB").parse().unwrap()
            };
            println!("an executor with nothing to do, process {process}: {} KiB", kib("VmRSS:"));
            own += kib("RssAnon:") + kib("RssShmem:");
            file = kib("RssFile:").max(file);
        }
        println!("an executor with nothing to do, its pod: {:.1} MB", (own + file) as f64 * 1024.0 / 1e6);
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
