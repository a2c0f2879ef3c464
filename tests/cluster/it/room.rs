//! What happens when there is no room?

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, ResourceQuota};
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::ground::{in_namespace, until_within};

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_lets_a_job_go_on_with_fewer() {
    in_namespace(&[], async |ground| {
        ground.make::<ResourceQuota>(json!({ "metadata": { "name": "q" }, "spec": { "hard": { "pods": "2" } } })).await;
        let running = ground.start(&[("executor.instances", "10")], &["wait", "3"]);
        let (_, said) = running.says("of 10 executors: exceeded quota").await;
        assert!(said.contains("waiting: running with ") && said.contains("limited: pods=2"), "{said}");
        ground.noted("runs", 2).await;
        assert_eq!(ground.executors().await.len(), 2);
        ground.notes.open_gate("go").await.unwrap();
        let ended = running.ends().await;
        ended.with_code(0);
        assert_eq!(ended.stdout, "3\n");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_wants_limits_names_the_setting() {
    in_namespace(&[], async |ground| {
        let hard = json!({ "hard": { "limits.cpu": "8" } });
        ground.make::<ResourceQuota>(json!({ "metadata": { "name": "q" }, "spec": hard })).await;
        let running = ground.start(&[], &["sum"]);
        ground.asks_for_pods().await;
        let asked = std::time::Instant::now();
        let ended = running.ends().await;
        ended.with_code(78);
        ended.said("k8s.executor.cpu_limit");
        assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
        ground.start(&[("k8s.executor.cpu_limit", "1")], &["sum"]).ends().await.with_code(0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_room_is_said_soon_and_ends_the_program_in_time() {
    in_namespace(&[], async |ground| {
        let settings = [("executor.cores", "64"), ("driver.no_executor_timeout", "10s")];
        let running = ground.start(&settings, &["sum"]);
        ground.asks_for_pods().await;
        let (asked, began) = (std::time::Instant::now(), running.began);
        let (said, sentence) = running.says("waiting for room").await;
        assert!(sentence.contains("of 64 cpu") && sentence.contains("Insufficient cpu"), "{sentence}");
        let took = said.saturating_duration_since(asked);
        assert!(took < Duration::from_secs(5), "{took:?}");
        running.ends().await.with_code(75);
        assert!(began.elapsed() > Duration::from_secs(10), "{:?}", began.elapsed());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_goes_on_when_room_appears() {
    in_namespace(&[], async |ground| {
        let namespace = ground.namespace().to_owned();
        let running = ground.start(&[("k8s.executor.node_selector.vonk.dev/room", &namespace)], &["sum"]);
        running.says("waiting for room").await;
        let nodes = ground.api_of_all::<Node>();
        let label = async |value: serde_json::Value| {
            let patch = json!({ "metadata": { "labels": { "vonk.dev/room": value } } });
            nodes.patch("node1", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
        };
        label(json!(namespace)).await;
        let runs = async || {
            ground
                .executors()
                .await
                .iter()
                .any(|pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_deref() == Some("node1")))
        };
        until_within(Duration::from_secs(30), "an executor is on the node", runs).await;
        let ended = running.ends().await;
        label(serde_json::Value::Null).await;
        ended.with_code(0);
        assert_eq!(ended.stdout, crate::running::sums(40_000, 100));
    })
    .await;
}
