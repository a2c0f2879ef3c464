//! What happens when executors are lost?

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, EvictParams, Patch, PatchParams};
use model::events::{AppEvent, Record};
use model::failure::LossCause;
use serde_json::json;

use crate::ground::{Ground, in_namespace};
use crate::running::{Running, process_of_pod, signal, sums};

/// What the API server says of an executor is known within this time.
const NOTICED_WITHIN: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_are_too_large_together_run_alone() {
    in_namespace(&[], async |ground| {
        let settings = [("executor.cores", "2"), ("allocation.max", "1")];
        let ended = ground.start(&settings, &["hog", "300"]).ends().await;
        ended.with_code(0);
        assert_eq!(ended.stdout, "3\n");
        ended.said("exceeded its memory limit of 0.5 GiB");
        assert!(ground.losses().await.iter().any(|(cause, _)| *cause == LossCause::Memory));
        assert!(ground.notes.of("hogs").await.unwrap().len() >= 4, "both ran again");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_never_fits_fails_its_job_after_three_strikes() {
    in_namespace(&[], async |ground| {
        let settings = [("executor.cores", "2"), ("allocation.max", "1")];
        let ended = ground.start(&settings, &["hog", "700"]).ends().await;
        ended.with_code(1);
        ended.said("exceeded its memory limit of 0.5 GiB");
        ended.said("raise --executor-memory");
        let losses = ground.losses().await;
        assert!(losses.len() >= 3 && losses.iter().all(|(cause, _)| *cause == LossCause::Memory), "{losses:?}");
    })
    .await;
}

/// A program whose maps are done and whose two reduces, on an executor each, wait.
async fn held(ground: &Ground, settings: &[(&str, &str)]) -> Running {
    let mut all = vec![("executor.instances", "2")];
    all.extend(settings);
    let running = ground.start(&all, &["sum", "--hold"]);
    ground.noted("reduce", 2).await;
    running
}

/// Lets the reduces go on once one of them has begun again, and sees that the job ends well, that no map ran again and that
/// nobody is blamed. Gives how many executors were lost.
async fn goes_on(ground: &Ground, running: Running) -> usize {
    let maps = ground.notes.of("map").await.unwrap().len();
    ground.noted("reduce", 3).await;
    ground.notes.open_gate("reduce").await.unwrap();
    let ended = running.ends().await;
    ended.with_code(0);
    assert_eq!(ended.stdout, sums(40_000, 100));
    assert_eq!(ground.notes.of("map").await.unwrap().len(), maps, "no map runs again");
    let losses = ground.losses().await;
    assert!(losses.iter().all(|(cause, _)| *cause == LossCause::Infrastructure), "{losses:?}");
    losses.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_deleted_by_force_costs_its_tasks_and_nothing_else() {
    in_namespace(&[], async |ground| {
        let running = held(ground, &[]).await;
        let name = ground.executor_names().await.remove(0);
        ground.api::<Pod>().delete(&name, &DeleteParams::default().grace_period(0)).await.unwrap();
        let deleted = Instant::now();
        let (lost, _) = running.says("lost e").await;
        let took = lost.saturating_duration_since(deleted);
        assert!(took < NOTICED_WITHIN, "{took:?}");
        assert_eq!(goes_on(ground, running).await, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_its_node_has_no_memory_for_is_nobodys_fault() {
    in_namespace(&[], async |ground| {
        let running = held(ground, &[]).await;
        let name = ground.executor_names().await.remove(0);
        // What a kubelet says that is short of memory. This machine's never are: it would be short for all.
        let message = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 90Mi.";
        let status = json!({ "status": { "phase": "Failed", "reason": "Evicted", "message": message } });
        ground.api::<Pod>().patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
        let evicted = Instant::now();
        let (lost, _) = running.says("lost e").await;
        let took = lost.saturating_duration_since(evicted);
        assert!(took < NOTICED_WITHIN, "{took:?}");
        assert_eq!(goes_on(ground, running).await, 1);
        let (_, why) = ground.losses().await.remove(0);
        assert!(why.contains("low on resource: memory"), "{why}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_evicted_gives_its_tasks_back_and_gets_no_others() {
    in_namespace(&[], async |ground| {
        let running = held(ground, &[("executor.drain_grace", "1s")]).await;
        let name = ground.executor_names().await.remove(0);
        ground.api::<Pod>().evict(&name, &EvictParams::default()).await.unwrap();
        ground.until("the pod goes", async || !ground.executor_names().await.contains(&name)).await;
        goes_on(ground, running).await;
        let failed = |record: &&Record| matches!(record.event, AppEvent::TaskFailed { .. });
        let records = ground.records().await;
        assert_eq!(records.iter().filter(failed).count(), 1, "one task ran there, and no other was sent: {records:#?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_that_hangs_is_replaced_and_not_heard_when_it_wakes() {
    in_namespace(&[], async |ground| {
        let settings = [("executor.heartbeat_interval", "1s"), ("executor.heartbeat_timeout", "5s")];
        let running = held(ground, &settings).await;
        let uid = ground.executors().await.remove(0).metadata.uid.unwrap();
        let process = process_of_pod(&uid);
        signal("STOP", process);
        let stopped = Instant::now();
        let (lost, _) = running.says("lost e").await;
        let took = lost.saturating_duration_since(stopped);
        assert!(took > Duration::from_secs(3) && took < Duration::from_secs(15), "{took:?}");
        // Its pod is being deleted meanwhile; it may already be gone.
        let _ = std::process::Command::new("kill").args(["-CONT", &process.to_string()]).status();
        assert_eq!(goes_on(ground, running).await, 1);
    })
    .await;
}
