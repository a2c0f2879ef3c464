//! What is left for those who ask later?

use model::failure::LossCause;
use serde_json::Value;

use crate::ground::{Ground, in_namespace};
use crate::running::{processes_of_pod, signal};

/// How the only application of the namespace was told to be last.
async fn status(ground: &Ground) -> Value {
    serde_json::from_str(&ground.kept("status.json").await.expect("its driver told how it was")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_keeps_what_it_printed_and_its_pod_is_gone() {
    in_namespace(&[], async |ground| {
        ground.start(&[], &["print"]).ends().await.with_code(0);
        let log = ground.kept("00000001-e1.log").await.expect("it was kept");
        assert!(log.contains("a task says 0"), "{log}");
        assert!(ground.kept("00000001-driver.log").await.is_some());
        assert_eq!(status(ground).await["end"]["exit_code"], 0);
    })
    .await;
}

/// Once the root was gone, a log was found by the id alone, and was shown as if it were the pod's.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_found_by_every_name_when_its_pod_and_root_are_gone() {
    in_namespace(&[], async |ground| {
        ground.start(&[("app.name", "nightly")], &["print"]).ends().await.with_code(0);
        let listed = ground.ask(&["list", "--all", "--output=json"]).ends().await;
        listed.with_code(0);
        let row: Value = serde_json::from_str(listed.stdout.trim()).unwrap();
        let (app, root) = (row["app"].as_str().unwrap(), row["root"].as_str().unwrap());
        assert_eq!((row["namespace"].as_str(), root), (Some(ground.namespace()), format!("vonk-{app}").as_str()));
        for name in ["nightly", app, root] {
            let shown = ground.ask(&["logs", name, "--executor=e1"]).ends().await;
            shown.with_code(0);
            shown.said("this is the end of the log of e1 that the store has, of epoch 1");
            assert!(shown.stdout.contains("a task says 0"), "{shown:?}");
            let last = ground.ask(&["logs", name, "--executor=e1", "--tail=1"]).ends().await;
            last.with_code(0);
            assert_eq!(last.stdout.lines().count(), 1, "{last:?}");
            assert!(shown.stdout.ends_with(&last.stdout), "{last:?}");
            ground.until_told(&["status", name], app).await;
            ground.until_told(&["diagnose", name], "history has it as succeeded").await;
        }
        let none = ground.ask(&["logs", "nightly", "--executor=e9"]).ends().await;
        none.with_code(2);
        none.said("the store has none of it, since nobody keeps what is empty, but those of driver, e1");
        for command in ["logs", "status", "diagnose"] {
            let unset = ground.vonk(&[command, "nightly"]).ends().await;
            unset.with_code(2);
            unset.said("no `store` is configured, so only applications with a root in the cluster are known");
        }
    })
    .await;
}

/// The pod is there, and its container has no log.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_without_a_log_says_why_and_what_to_do() {
    in_namespace(&[], async |ground| {
        let running = ground.start(&[("k8s.image", "localhost/nothing:9")], &["sum"]);
        let app = ground.app().await;
        let says_so = async || {
            let shown = ground.ask(&["logs", &app, "--executor=e1"]).ends().await;
            let says = |words| shown.stderr.contains(words);
            shown.code == Some(2) && says("is waiting to start") && says("and the store has no log of it")
        };
        ground.until("there is no log, and it is said why", says_so).await;
        ground.kill(&app, running).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_tells_what_runs_while_it_runs() {
    in_namespace(&[], async |ground| {
        let running = ground.start(&[("executor.instances", "1")], &["wait", "3"]);
        ground.noted("runs", 1).await;
        let told = async || ground.kept("status.json").await.map(|text| serde_json::from_str::<Value>(&text).unwrap());
        ground
            .until("its driver tells that a task runs", async || {
                told().await.is_some_and(|told| told["tasks"]["running"] == 1 && told["tasks"]["waiting"] == 2)
            })
            .await;
        ground.notes.open_gate("go").await.unwrap();
        running.ends().await.with_code(0);
    })
    .await;
}

/// The program crashes, and whoever stays with it keeps what it said; the whole container is killed, and the driver reads the
/// pod's log.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_crashed_executor_printed_is_kept_whoever_is_left() {
    for (process, name) in [(1, "ABRT"), (0, "KILL")] {
        in_namespace(&[], async |ground| {
            let settings = [("executor.instances", "1"), ("task.max_executor_losses", "1"), ("log", "info")];
            let running = ground.start(&settings, &["wait", "1"]);
            ground.noted("runs", 1).await;
            let uid = ground.executors().await.remove(0).metadata.uid.unwrap();
            let processes = processes_of_pod(&uid);
            assert_eq!(processes.len(), 2, "who stays, and the program");
            signal(name, processes[process]);
            running.says("lost e1").await;
            let log = async || ground.kept("00000001-e1.log").await;
            let kept = async || log().await.is_some_and(|log| log.contains("a task waits"));
            ground.until(&format!("its log is kept after SIG{name}"), kept).await;
            ground.notes.open_gate("go").await.unwrap();
            running.ends().await;
            let (cause, why) = ground.losses().await.remove(0);
            let wanted = if name == "ABRT" { LossCause::Program } else { LossCause::Infrastructure };
            assert_eq!(cause, wanted, "{why}");
        })
        .await;
    }
}
