//! Is the same sentence on the terminal, in the event log, in the status and in `vonk diagnose`, also afterwards?

use std::time::Duration;

use k8s_backend::rights::Part;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ResourceQuota;
use model::events::AppEvent;
use serde_json::{Value, json};

use crate::ground::{Ground, in_namespace};

/// A minute for the image, and a little.
const SOON_GIVEN_UP: Duration = Duration::from_secs(90);

/// What follows `waiting: ` in a line of the terminal.
fn sentence(line: &str) -> String {
    line.split_once("waiting: ").unwrap_or_else(|| panic!("no reason: {line}")).1.trim().to_owned()
}

/// Whether the event log has a reason to wait with these words.
async fn logged(ground: &Ground, words: &str) -> bool {
    ground
        .records()
        .await
        .iter()
        .any(|record| matches!(&record.event, AppEvent::Waiting { why } if why.contains(words)))
}

/// Whether the status that the driver writes has a reason to wait with these words.
async fn in_status(ground: &Ground, words: &str) -> bool {
    let status = ground.kept("status.json").await.map(|text| serde_json::from_str::<Value>(&text).unwrap());
    status.is_some_and(|status| status["waiting"].as_str().is_some_and(|why| why.contains(words)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_told_alike_everywhere_and_after_a_kill() {
    in_namespace(&[], async |ground| {
        ground.make::<ResourceQuota>(json!({ "metadata": { "name": "q" }, "spec": { "hard": { "pods": "2" } } })).await;
        let running = ground.start(&[("executor.instances", "10")], &["wait", "10"]);
        let app = ground.app().await;
        let (_, line) = running.says("running with 2 of 10 executors: exceeded quota").await;
        let told = sentence(&line);
        ground.until("the event log has it", async || logged(ground, &told).await).await;
        ground.until("the status has it", async || in_status(ground, &told).await).await;
        ground.until_told(&["diagnose", &app], &format!("warning: {told} (for ")).await;
        ground.until_told(&["status", &app], &told).await;

        let ended = ground.kill(&app, running).await;
        ended.said("application was removed");
        ground.until_told(&["diagnose", &app], "application was removed").await;
        ground.until_told(&["status", &app], "failed").await;
        ground.until_told(&["logs", &app], &told).await;
        ground.next_driver_sweeps().await;
    })
    .await;
}

/// Its Job has no pod that could say it: only events do.
#[tokio::test(flavor = "multi_thread")]
async fn why_a_driver_pod_is_not_made_is_told_alike_everywhere() {
    in_namespace(&[], async |ground| {
        ground.let_in("vonk-driver").await;
        ground.make::<ResourceQuota>(json!({ "metadata": { "name": "q" }, "spec": { "hard": { "pods": "0" } } })).await;
        let running = ground.submit(&[], &["sum"]);
        let app = running.prints("").await.1;
        let told = "the driver pod waits: exceeded quota: q, used: pods=0, limited: pods=0";
        running.says(told).await;
        ground.until_told(&["diagnose", &app], &format!("fatal: {told}")).await;
        ground.until_told(&["status", &app], told).await;
        let rules = Part::Submitter.rules().into_iter().map(|rule| {
            let resources: Vec<_> = rule.resources.into_iter().filter(|resource| *resource != "events").collect();
            json!({ "apiGroups": [rule.group], "resources": resources, "verbs": rule.verbs })
        });
        ground.let_only("somebody", &rules.collect::<Vec<_>>()).await;
        // Rights take a moment.
        ground.until_told(&["status", &app], "starting").await;
        let shown = ground.ask(&["status", &app]).ends().await;
        shown.with_code(0);
        assert!(!shown.stdout.contains(told), "without the right it is only shorter: {shown:?}");
        ground.kill(&app, running).await;
    })
    .await;
}

/// Its pod only waits, as one does whose image comes: only events say for what.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_cannot_be_mounted_is_told_alike_everywhere() {
    in_namespace(&[], async |ground| {
        let running = ground.start(&[("k8s.executor.secrets.db", "/db")], &["sum"]);
        let app = ground.app().await;
        let told = "cannot start e1: secret \"db\" not found";
        running.says(told).await;
        ground.until_told(&["status", &app], told).await;
        ground.until_told(&["diagnose", &app], &format!("fatal: {told}")).await;
        ground.kill(&app, running).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_told_alike_everywhere() {
    in_namespace(&[], async |ground| {
        let settings = [("executor.cores", "2"), ("allocation.max", "1")];
        let running = ground.start(&settings, &["hog", "700"]);
        let app = ground.app().await;
        let ended = running.ends().await;
        ended.with_code(1);
        let told = ground.losses().await.remove(0).1;
        assert!(told.contains("exceeded its memory limit of 0.5 GiB: raise --executor-memory"), "{told}");
        ended.said(&told);
        ground.until_told(&["diagnose", &app], &format!("warning: {told}")).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: an image may still come for a minute"]
async fn an_image_is_told_alike_everywhere() {
    in_namespace(&[], async |ground| {
        let running = ground.start(&[("k8s.image", "localhost/nothing:9")], &["sum"]);
        let app = ground.app().await;
        let told = "cannot pull image localhost/nothing:9 on node";
        running.says(told).await;
        ground.until("the event log has it", async || logged(ground, told).await).await;
        ground.until("the status has it", async || in_status(ground, told).await).await;
        ground.until_told(&["diagnose", &app], &format!("fatal: {told}")).await;
        let ended = running.ends_within(SOON_GIVEN_UP).await;
        ended.with_code(78);
        ended.said(told);
        ground.until_told(&["diagnose", &app], told).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_driver_in_the_cluster_is_asked_about_afterwards() {
    in_namespace(&[], async |ground| {
        ground.let_in("vonk-driver").await;
        let running = ground.submit(&[], &["wait", "1"]);
        let app = running.prints("").await.1;
        ground.noted("runs", 1).await;
        ground.kill(&app, running).await;
        ground
            .until("its Job is gone", async || {
                ground.api::<Job>().get_opt(&format!("vonk-{app}")).await.unwrap().is_none()
            })
            .await;
        ground.until_told(&["logs", &app], "terminated: stopping").await;
        let last = ground.ask(&["logs", &format!("vonk-{app}"), "--tail=1"]).ends().await;
        last.with_code(0);
        last.said("that the store has");
        assert_eq!(last.stdout.lines().count(), 1, "{last:?}");
        ground.until_told(&["status", &app], "exit code 143").await;
        ground.until_told(&["diagnose", &app], "its pods are gone, and history has it as failed: terminated").await;
        let list = ground.ask(&["list", "--all"]).ends().await;
        list.with_code(0);
        assert!(list.stdout.contains(&app), "{list:?}");
        ground.next_driver_sweeps().await;
    })
    .await;
}
