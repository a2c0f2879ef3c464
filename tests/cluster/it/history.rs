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
