//! Does it work, wherever the driver is and whatever pods must look like?

use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, LogParams};
use model::events::{AppEvent, Record};
use serde_json::json;

use crate::ground::in_namespace;
use crate::running::sums;

/// What nodes have for pods that only sleep.
const BUSYBOX: &str = "localhost/busybox:1";

/// The image with the program of the tests, for a driver that is in a pod of its own.
const PROGRAM: &str = "localhost/vonk-it-program:dev";

const RESTRICTED: (&str, &str) = ("pod-security.kubernetes.io/enforce", "restricted");

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_outside_sums_over_a_shuffle_and_leaves_nothing() {
    in_namespace(&[], async |ground| {
        let ended = ground.start(&[("executor.instances", "2")], &["sum"]).ends().await;
        ended.with_code(0);
        assert_eq!(ended.stdout, sums(40_000, 100));
        assert!(ground.has_programs().await, "pods got the program from the store");
        assert_eq!(ground.notes.of("map").await.unwrap().len(), 4);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_prints_and_fails_as_it_does_anywhere() {
    in_namespace(&[], async |ground| {
        let ended = ground.start(&[], &["print"]).ends().await;
        ended.with_code(0);
        assert_eq!(ended.stdout, "a driver says 0\n");
        let failed = ground.start(&[], &["fail"]).ends().await;
        failed.with_code(1);
        failed.said("row 1 is wrong");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_in_a_pod_needs_only_the_role_of_clients() {
    in_namespace(&[RESTRICTED], async |ground| {
        ground.let_in("vonk-client").await;
        let key = |name: &str, key: &str| json!({ "name": name, "valueFrom": { "secretKeyRef": { "name": "s3", "key": key } } });
        let mut words = ground.flags(&[("executor.instances", "2")]);
        words.push("sum".into());
        let container = json!({
            "name": "notebook",
            "image": PROGRAM,
            "command": ["pod_program"],
            "args": words,
            "env": [key("AWS_ACCESS_KEY_ID", "id"), key("AWS_SECRET_ACCESS_KEY", "key")],
            "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
        });
        let spec = json!({
            "restartPolicy": "Never",
            "serviceAccountName": "vonk-client",
            "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [container],
        });
        ground.make::<Pod>(json!({ "metadata": { "name": "notebook" }, "spec": spec })).await;
        let pods = ground.api::<Pod>();
        let phase = async || pods.get("notebook").await.unwrap().status.and_then(|status| status.phase);
        let owner = ground.root().await.metadata.owner_references.unwrap_or_default();
        assert_eq!(owner.first().map(|owner| owner.name.as_str()), Some("notebook"), "the pod owns what it made");
        let ended = async || matches!(phase().await.as_deref(), Some("Succeeded" | "Failed"));
        ground.until("the driver's pod ends", ended).await;
        let said = pods.logs("notebook", &LogParams::default()).await.unwrap();
        assert_eq!(phase().await.as_deref(), Some("Succeeded"), "{said}");
        let lines: String = said.lines().filter(|line| line.contains('\t')).map(|line| format!("{line}\n")).collect();
        assert_eq!(lines, sums(40_000, 100));
        pods.delete("notebook", &DeleteParams::default()).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restricted_namespace_takes_executors_without_a_warning() {
    in_namespace(&[RESTRICTED, ("pod-security.kubernetes.io/warn", "restricted")], async |ground| {
        let ended = ground.start(&[], &["sum"]).ends().await;
        let said = ended.with_code(0);
        assert!(!said.contains("PodSecurity"), "{said}");
        assert_eq!(ended.stdout, sums(40_000, 100));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn executors_run_as_any_user() {
    in_namespace(&[RESTRICTED], async |ground| {
        // As OpenShift does it: the user is in no file of the image.
        let folder = tempfile::tempdir().unwrap();
        let template = folder.path().join("user.yaml");
        std::fs::write(&template, "spec: {securityContext: {runAsUser: 1000680000, fsGroup: 1000680000}}\n").unwrap();
        let settings = [("k8s.executor.template", template.to_str().unwrap())];
        let running = ground.start(&settings, &["wait", "1"]);
        ground.noted("runs", 1).await;
        let user = |pod: &Pod| pod.spec.as_ref()?.security_context.as_ref()?.run_as_user;
        assert_eq!(ground.executors().await.first().and_then(user), Some(1_000_680_000));
        ground.notes.open_gate("go").await.unwrap();
        let ended = running.ends().await;
        ended.with_code(0);
        assert_eq!(ended.stdout, "0\n");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_is_carried_and_delays_no_end() {
    in_namespace(&[], async |ground| {
        let folder = tempfile::tempdir().unwrap();
        let template = folder.path().join("sidecar.yaml");
        let text = format!(
            "spec:\n  tolerations: [{{key: spot, operator: Exists}}]\n  containers:\n  - name: shipper\n    image: {BUSYBOX}\n    \
             command: [busybox, sleep, '1000']\n"
        );
        std::fs::write(&template, text).unwrap();
        let settings = [("k8s.executor.template", template.to_str().unwrap())];
        let running = ground.start(&settings, &["wait", "1"]);
        ground.noted("runs", 1).await;
        let spec = ground.executors().await.remove(0).spec.unwrap();
        assert!(spec.containers.iter().any(|container| container.name == "shipper"));
        assert!(spec.tolerations.into_iter().flatten().any(|bears| bears.key.as_deref() == Some("spot")));
        ground.notes.open_gate("go").await.unwrap();
        let opened = std::time::Instant::now();
        running.ends().await.with_code(0);
        assert!(opened.elapsed() < Duration::from_secs(15), "{:?}", opened.elapsed());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_may_not_touch_what_is_vonks() {
    in_namespace(&[], async |ground| {
        let folder = tempfile::tempdir().unwrap();
        let template = folder.path().join("always.yaml");
        std::fs::write(&template, "spec: {restartPolicy: Always}\n").unwrap();
        let settings = [("k8s.executor.template", template.to_str().unwrap())];
        let ended = ground.start(&settings, &["sum"]).ends().await;
        ended.with_code(2);
        ended.said("Vonk owns spec.restartPolicy");
        assert!(!ground.has_programs().await, "it is refused before anything is uploaded");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_for_a_newer_glibc_is_refused_before_it_is_uploaded() {
    in_namespace(&[], async |ground| {
        let ended = ground.start(&[("k8s.image_glibc", "2.2")], &["sum"]).ends().await;
        ended.with_code(2);
        ended.said("it needs glibc");
        assert!(!ground.has_programs().await);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn executors_go_and_come_back_and_no_task_runs_again() {
    in_namespace(&[], async |ground| {
        let settings = [("allocation.idle_timeout", "2s"), ("allocation.max", "2")];
        let running = ground.start(&settings, &["sum", "--twice"]);
        running.prints("0099\t").await;
        let first = ground.executor_names().await;
        ground.until("idle executors go", async || ground.executors().await.is_empty()).await;
        ground.notes.open_gate("again").await.unwrap();
        let ended = running.ends().await;
        ended.with_code(0);
        assert_eq!(ended.stdout, sums(40_000, 100).repeat(2));
        assert!(!first.is_empty());
        assert_eq!(ground.notes.of("map").await.unwrap().len(), 4, "what was shuffled is in the store");
        assert_eq!(ground.losses().await, []);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pi_is_the_same_in_both_modes() {
    in_namespace(&[], async |ground| {
        let pi = ["pi", "1000000"];
        let ended = ground.start(&[("executor.instances", "2")], &pi).ends().await;
        ended.with_code(0);
        assert_eq!(ended.stdout, "pi is roughly 3.14\n");
        ground.let_in("vonk-driver").await;
        let ended = ground.submit(&["--num-executors=2"], &pi).ends().await;
        ended.with_code(0);
        assert!(ended.stdout.lines().any(|line| line == "pi is roughly 3.14"), "{ended:?}");
        ground.remove_all::<Job>().await;
    })
    .await;
}

/// Two tables of a thousand rows each, and a query that must exchange them.
fn statements(data: &str) -> String {
    let table = |name: &str, from: u32| {
        let to = from + 999;
        format!(
            "COPY (SELECT value AS n, value % 10 AS k FROM range({from}, {to} + 1)) TO '{data}/{name}/' STORED AS PARQUET;\n\
             CREATE EXTERNAL TABLE {name} STORED AS PARQUET LOCATION '{data}/{name}/';\n"
        )
    };
    let query = "SELECT k, count(*) AS c, sum(n) AS s FROM (SELECT * FROM a UNION ALL SELECT * FROM b) GROUP BY k ORDER BY k;\n";
    [table("a", 1), table("b", 1_001), query.to_owned()].concat()
}

/// What that query prints as CSV, without a header.
fn answer() -> String {
    let row = |k: u64| {
        let of_key: Vec<u64> = (1..=2_000).filter(|n| n % 10 == k).collect();
        format!("{k},{},{}\n", of_key.len(), of_key.iter().sum::<u64>())
    };
    (0..10).map(row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_is_answered_by_pods_in_both_modes() {
    in_namespace(&[], async |ground| {
        ground.let_in("vonk-driver").await;
        let folder = tempfile::tempdir().unwrap();
        for mode in ["client", "cluster"] {
            let file = folder.path().join(format!("{mode}.sql"));
            std::fs::write(&file, statements(&format!("{}/{mode}", ground.data_url()))).unwrap();
            let before = ["submit", "--deploy-mode", mode, "--num-executors", "2"];
            let after = [file.to_str().unwrap(), "--format", "csv", "--no-header", "-q"];
            let ended = ground.stock(&before, &after).ends_within(Duration::from_secs(180)).await;
            ended.with_code(0);
            let is_row = |line: &str| line.split(',').filter(|cell| cell.parse::<u64>().is_ok()).count() == 3;
            let rows = ended.stdout.lines().filter(|line| is_row(line));
            assert_eq!(rows.map(|row| format!("{row}\n")).collect::<String>(), answer(), "{mode}: {ended:?}");
        }
        let stages = |record: &Record| match &record.event {
            AppEvent::JobStarted { stages, .. } => stages.len(),
            _ => 0,
        };
        assert!(ground.records().await.iter().map(stages).max() >= Some(2), "rows were exchanged");
        ground.remove_all::<Job>().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_go_along_in_both_modes() {
    in_namespace(&[], async |ground| {
        ground.let_in("vonk-driver").await;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("words.txt");
        std::fs::write(&file, "stop").unwrap();
        let files = format!("{}#stops", file.display());
        let ended = ground.start(&[("app.files", &files)], &["attached", "stops"]).ends().await;
        ended.with_code(0);
        assert_eq!(ended.stdout, "the driver reads stop\na task reads stop\n");
        let ended = ground.submit(&["--files", &files], &["attached", "stops"]).ends().await;
        ended.with_code(0);
        for line in ["the driver reads stop", "a task reads stop"] {
            assert!(ended.stdout.lines().any(|found| found == line), "{ended:?}");
        }
        ground.remove_all::<Job>().await;
    })
    .await;
}
