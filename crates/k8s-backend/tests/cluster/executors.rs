//! Do executors come, answer and go as they should?

use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, EvictParams, ListParams};
use model::backend::{ClusterBackend, Connection, DialError};
use model::failure::LossCause;
use model::ids::ExecutorId;
use tokio::time::{Instant, timeout};

use crate::cluster::{ECHO, Ground, SOON, until};

/// The kubelet looks at disks every ten seconds, and then takes its time.
const LONG: Duration = Duration::from_secs(120);

async fn answers(backend: &dyn ClusterBackend, executor: ExecutorId) {
    // It may run a moment before it listens; whoever dials tries again.
    let said = async {
        loop {
            let Ok(Connection::Bytes(mut stream)) = backend.dial(executor).await else { continue };
            let mut heard = [0; 5];
            if stream.write_all(b"hello").await.is_ok()
                && stream.flush().await.is_ok()
                && stream.read_exact(&mut heard).await.is_ok()
            {
                return heard;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    assert_eq!(&timeout(SOON, said).await.expect("an answer in time"), b"hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn executors_are_reached_from_outside_and_leave_nothing() {
    let ground = Ground::new(&[("pod-security.kubernetes.io/enforce", "restricted")]).await;
    let (backend, mut events) = ground.backend(ECHO, &[]);
    backend.set_target(2);
    let executors = [events.reachable().await, events.reachable().await];
    assert_ne!(executors[0], executors[1]);
    for executor in executors {
        answers(&*backend, executor).await;
    }
    let stopping = Instant::now();
    backend.stop().await;
    assert!(stopping.elapsed() < Duration::from_secs(10), "{:?}", stopping.elapsed());
    assert!(matches!(backend.dial(executors[0]).await, Err(DialError::Gone(_))));
    until(async || ground.pods().list(&ListParams::default()).await.unwrap().items.is_empty()).await;
    ground.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_on_which_nobody_listens_is_an_error_and_no_end() {
    let ground = Ground::new(&[]).await;
    let (backend, mut events) = ground.backend("trap 'exit 0' TERM; busybox sleep 1000 & wait", &[]);
    backend.set_target(1);
    let executor = events.reachable().await;
    let Connection::Bytes(mut stream) = backend.dial(executor).await.unwrap() else { panic!("bytes") };
    let read = timeout(SOON, stream.read(&mut [0; 1])).await.expect("an answer in time");
    let error = read.expect_err("nobody listens").to_string();
    assert!(error.contains("7079"), "{error}");
    backend.stop().await;
    ground.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_released_ends_in_order_and_is_replaced() {
    let ground = Ground::new(&[]).await;
    let (backend, mut events) = ground.backend(ECHO, &[]);
    backend.set_target(1);
    let first = events.reachable().await;
    backend.release(first);
    let mut seen = Vec::new();
    for _ in 0..2 {
        let event = events.find(|event| Some(format!("{event:?}"))).await;
        seen.push(event.split(' ').next().unwrap_or_default().to_owned());
    }
    seen.sort();
    assert_eq!(seen, ["Lost", "Reachable"]);
    backend.set_target(0);
    backend.stop().await;
    ground.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_end_has_its_cause() {
    let ground = Ground::new(&[]).await;
    let wait = "busybox sleep 3; ";
    for (script, cause, words) in [
        ("exit 101", LossCause::Program, "panicked"),
        ("busybox echo no such program; exit 81", LossCause::Start, "its last line: no such program"),
        ("exit 80", LossCause::Infrastructure, "had not heard its driver"),
        ("busybox tail /dev/zero", LossCause::Memory, "memory limit of 0.1 GiB: raise --executor-memory"),
        (
            "busybox dd if=/dev/zero of=/tmp/full bs=1M count=200; busybox sleep 1000",
            LossCause::Program,
            "was evicted for what it wrote",
        ),
        ("exit 139", LossCause::Program, "segmentation fault"),
    ] {
        let (backend, mut events) = ground.backend(&format!("{wait}{script}"), &[]);
        backend.set_target(1);
        let (found, why) = events.lost_within(LONG).await;
        assert_eq!(found, cause, "{script}: {why}");
        assert!(why.contains(words), "{script}: {why}");
        backend.stop().await;
    }
    ground.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_deleted_or_evicted_by_others_is_not_to_blame() {
    let ground = Ground::new(&[]).await;
    let (backend, mut events) = ground.backend(ECHO, &[]);
    let pod = async |executor: ExecutorId| -> String {
        let label = format!("vonk.dev/executor={}", executor.0);
        let found = ground.pods().list(&ListParams::default().labels(&label)).await.unwrap();
        found.items.first().and_then(|pod: &Pod| pod.metadata.name.clone()).unwrap()
    };
    backend.set_target(1);
    let first = events.reachable().await;
    ground.pods().delete(&pod(first).await, &DeleteParams::default().grace_period(2)).await.unwrap();
    let (cause, why) = events.lost().await;
    assert_eq!(cause, LossCause::Infrastructure, "{why}");
    assert!(why.contains("was deleted by somebody else"), "{why}");
    let second = events.reachable().await;
    ground.pods().evict(&pod(second).await, &EvictParams::default()).await.unwrap();
    let (cause, why) = events.lost().await;
    assert_eq!(cause, LossCause::Infrastructure, "{why}");
    assert!(why.contains("taken by the cluster (EvictionByEvictionAPI)"), "{why}");
    let third = events.reachable().await;
    let name = pod(third).await;
    ground.pods().delete(&name, &DeleteParams { grace_period_seconds: Some(0), ..Default::default() }).await.unwrap();
    let deleted = Instant::now();
    let (cause, why) = events.lost().await;
    assert_eq!(cause, LossCause::Infrastructure, "{why}");
    assert!(deleted.elapsed() < Duration::from_secs(2), "{:?}", deleted.elapsed());
    backend.stop().await;
    ground.leave().await;
}
