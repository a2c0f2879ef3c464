//! What does a driver leave that ends in an unusual way?

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use model::failure::LossCause;
use serde_json::json;
use tokio::time::sleep;

use crate::ground::{Ground, in_namespace, until_within};
use crate::running::{Running, program, sums};

/// The end of an application takes no longer.
const STOPPED_WITHIN: Duration = Duration::from_secs(10);

/// The code of an executor that has not heard its driver.
const NO_DRIVER: i32 = 80;

/// A program whose tasks wait, on an executor each.
async fn waiting(ground: &Ground, settings: &[(&str, &str)]) -> Running {
    let mut all = vec![("executor.instances", "2")];
    all.extend(settings);
    let running = ground.start(&all, &["wait", "2"]);
    ground.noted("runs", 2).await;
    running
}

fn exit_code(pod: &Pod) -> Option<i32> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let ours = statuses.iter().find(|status| status.name == "vonk")?;
    Some(ours.state.as_ref()?.terminated.as_ref()?.exit_code)
}

/// Removes what a dead driver left: the root as a sweep does, the rows as the next driver does.
pub(crate) async fn swept(ground: &Ground) {
    ground.until("the root is swept", async || ground.sweep().await == 1).await;
    ground.next_driver_sweeps().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn executors_of_a_killed_driver_end_by_themselves() {
    in_namespace(&[], async |ground| {
        let running = waiting(ground, &[("executor.driver_lost_after", "12s")]).await;
        running.signal("KILL");
        let killed = Instant::now();
        assert_eq!(running.ends().await.code, None);
        let both = async || {
            let pods = ground.executors().await;
            pods.len() == 2 && pods.iter().all(|pod| exit_code(pod) == Some(NO_DRIVER))
        };
        until_within(Duration::from_secs(30), "executors end with code 80", both).await;
        assert!(killed.elapsed() > Duration::from_secs(8), "{:?}", killed.elapsed());
        swept(ground).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_the_application_in_time() {
    in_namespace(&[], async |ground| {
        let running = waiting(ground, &[]).await;
        running.signal("INT");
        let asked = Instant::now();
        let ended = running.ends().await;
        ended.with_code(130);
        assert!(asked.elapsed() < STOPPED_WITHIN, "{:?}", asked.elapsed());
        ended.said("interrupted: stopping");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_the_application_in_time() {
    in_namespace(&[], async |ground| {
        let running = waiting(ground, &[]).await;
        running.signal("TERM");
        let asked = Instant::now();
        running.ends().await.with_code(143);
        assert!(asked.elapsed() < STOPPED_WITHIN, "{:?}", asked.elapsed());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_ctrl_c_leaves_at_once_and_a_sweep_takes_the_rest() {
    in_namespace(&[], async |ground| {
        let running = waiting(ground, &[("executor.driver_lost_after", "12s")]).await;
        running.signal("INT");
        running.says("once more ends at once").await;
        running.signal("INT");
        let asked = Instant::now();
        running.ends().await.with_code(130);
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
        // The first one may have come as far as the root.
        ground.sweep().await;
        ground.next_driver_sweeps().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_start_leaves_nothing() {
    in_namespace(&[], async |ground| {
        let running = ground.start(&[("executor.cores", "64")], &["wait", "1"]);
        // The program may still be on its way to the store.
        ground.root().await;
        running.signal("INT");
        let ended = running.ends_within(STOPPED_WITHIN).await;
        ended.with_code(130);
        ended.said("interrupted: stopping");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_driver_sweeps_what_a_dead_one_left() {
    in_namespace(&[], async |ground| {
        let long_ago = json!({
            "metadata": { "name": "vonk-dead", "labels": { "app.kubernetes.io/managed-by": "vonk" } },
            "spec": { "renewTime": "2026-01-01T00:00:00.000000Z" },
        });
        ground.make::<Lease>(long_ago).await;
        ground.start(&[], &["sum"]).ends().await.with_code(0);
        assert!(ground.api::<Lease>().get_opt("vonk-dead").await.unwrap().is_none());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_somebody_removed_ends_and_says_so() {
    in_namespace(&[], async |ground| {
        let running = waiting(ground, &[]).await;
        let root = ground.root().await.metadata.name.unwrap();
        ground.api::<Lease>().delete(&root, &DeleteParams::background()).await.unwrap();
        let ended = running.ends().await;
        ended.with_code(143);
        ended.said("application was removed: its Lease is gone: stopping");
        // Executors whose tasks do not end outlive the driver: the next one removes what they may have stored.
        ground.until("no executor is left", async || ground.executors().await.is_empty()).await;
        ground.next_driver_sweeps().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: only what is silent for two minutes is dead"]
async fn gc_takes_what_a_killed_driver_left() {
    in_namespace(&[], async |ground| {
        let running = waiting(ground, &[]).await;
        running.signal("KILL");
        running.ends().await;
        let root = ground.root().await.metadata.name.unwrap();
        let gc = ["gc", "--older-than", "2m", "--conf=store.sweep_after=1s"];
        let early = ground.ask(&gc).ends().await;
        early.with_code(0);
        assert!(!early.stdout.contains(&root), "it may live: {early:?}");
        let swept = async || ground.ask(&gc).ends().await.stdout.contains(&root);
        until_within(Duration::from_secs(180), "gc removes the root", swept).await;
        let none = async || {
            ground.ask(&gc).ends().await.with_code(0);
            ground.left_in_store().await.is_empty()
        };
        until_within(Duration::from_secs(30), "gc removes the rows", none).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_slept_goes_on_with_new_executors() {
    in_namespace(&[], async |ground| {
        let settings = [
            ("executor.instances", "2"),
            ("executor.driver_lost_after", "12s"),
            ("executor.heartbeat_interval", "1s"),
            ("executor.heartbeat_timeout", "5s"),
        ];
        let running = ground.start(&settings, &["sum", "--hold"]);
        ground.noted("reduce", 2).await;
        running.signal("STOP");
        let both =
            async || ground.executors().await.iter().filter(|pod| exit_code(pod) == Some(NO_DRIVER)).count() == 2;
        until_within(Duration::from_secs(30), "executors give it up", both).await;
        running.signal("CONT");
        ground.noted("reduce", 4).await;
        ground.notes.open_gate("reduce").await.unwrap();
        let ended = running.ends().await;
        ended.with_code(0);
        assert_eq!(ended.stdout, sums(40_000, 100));
        assert_eq!(ground.notes.of("map").await.unwrap().len(), 4, "no map runs again");
        let losses = ground.losses().await;
        assert!(losses.iter().all(|(cause, _)| *cause == LossCause::Infrastructure), "{losses:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: only a Lease that has run out is anybody's to sweep"]
async fn a_driver_that_slept_past_the_sweep_ends_and_says_so() {
    in_namespace(&[], async |ground| {
        let running = waiting(ground, &[]).await;
        running.signal("STOP");
        // The fault itself lasts so long: a Lease lasts a minute.
        sleep(Duration::from_secs(65)).await;
        assert_eq!(ground.sweep().await, 1);
        running.signal("CONT");
        let ended = running.ends().await;
        ended.with_code(78);
        ended.said("application was removed while its driver slept");
        ground.until("no executor is left", async || ground.executors().await.is_empty()).await;
        ground.next_driver_sweeps().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_here_longer_than_its_timeout_ends_itself() {
    in_namespace(&[], async |ground| {
        let words = ["submit", "--timeout=8s"];
        let program = program();
        let running = ground.stock(&words, &[program.to_str().unwrap(), "wait", "1"]);
        ground.noted("runs", 1).await;
        let ended = running.ends().await;
        ended.with_code(124);
        ended.said("it ran longer than --timeout: stopping");
    })
    .await;
}
