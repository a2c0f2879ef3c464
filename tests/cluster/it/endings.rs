//! What does a driver leave that ends in an unusual way?

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;

use crate::ground::{Ground, in_namespace, until_within};
use crate::running::Running;

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
async fn swept(ground: &Ground) {
    ground.until("the root is swept", async || ground.sweep().await == 1).await;
    ground.start(&[("store.sweep_after", "1s")], &["sum"]).ends().await.with_code(0);
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
        ground.start(&[("store.sweep_after", "1s")], &["sum"]).ends().await.with_code(0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_start_leaves_nothing_that_a_sweep_does_not_take() {
    in_namespace(&[], async |ground| {
        let running = ground.start(&[("executor.cores", "64")], &["wait", "1"]);
        ground.root().await;
        running.signal("INT");
        let ended = running.ends_within(STOPPED_WITHIN).await;
        assert!(matches!(ended.code, Some(130) | None), "{ended:?}");
        if ended.code.is_none() {
            swept(ground).await;
        }
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
        ended.with_code(78);
        ended.said("application was removed");
    })
    .await;
}
