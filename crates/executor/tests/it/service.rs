//! Does the actor do what its driver asks?

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use model::failure::{FailureKind, LossCause};
use model::messages::*;
use model::shuffle::MapRows;
use model::{BroadcastId, ExecutorId, Generation, RddId, ShuffleId, StageAttempt, StageId};
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};

use crate::fake::*;

fn inline(success: TaskSuccess) -> Bytes {
    match success.result {
        Some(Payload::Inline(bytes)) => bytes,
        other => panic!("no inline result: {other:?}"),
    }
}

fn stored(bytes: &[u8], key: &str) -> Payload {
    Payload::Stored { key: key.into(), length: bytes.len() as u64, crc: crc32c::crc32c(bytes) }
}

#[tokio::test]
async fn tasks_run_and_a_body_is_decoded_once() {
    let mut rig = rig(2).await;
    rig.driver.say(body(1, "echo")).await;
    rig.driver.say(ToExecutor::Launch((0..50).map(|p| task(1, p)).collect())).await;
    for p in 0..50 {
        let success = rig.driver.success(attempt(1, p)).await;
        assert!(success.metrics.output_bytes > 0);
        assert_eq!(inline(success), format!("rows {p}"));
    }
    assert_eq!(rig.words.prepared.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn no_more_tasks_run_than_there_are_slots_and_the_rest_keep_their_order() {
    let mut rig = rig(2).await;
    rig.driver.say(body(1, "door")).await;
    rig.driver.say(ToExecutor::Launch((0..4).map(|p| task(1, p)).collect())).await;
    rig.driver.until(|driver| driver.started.len() == 2).await;
    assert_eq!(rig.driver.started, [attempt(1, 0), attempt(1, 1)]);
    rig.words.doors.open([1]);
    rig.driver.until(|driver| driver.started.len() == 3).await;
    assert_eq!(rig.driver.started[2], attempt(1, 2));
    rig.driver.success(attempt(1, 1)).await;
    rig.words.doors.open([0, 2, 3]);
    for p in [0, 2, 3] {
        rig.driver.success(attempt(1, p)).await;
    }
}

#[tokio::test]
async fn a_panic_is_the_users_and_names_partition_place_and_text() {
    let mut rig = rig(1).await;
    rig.driver.say(body(1, "panic")).await;
    rig.driver.say(body(2, "echo")).await;
    rig.driver.say(ToExecutor::Launch(vec![task(1, 17), task(2, 0)])).await;
    let failure = rig.driver.failure(attempt(1, 17)).await;
    assert_eq!(failure.kind, FailureKind::UserCode { panicked: true, transient: false });
    assert_eq!((failure.attempt, failure.executor), (Some(attempt(1, 17)), Some(ExecutorId(3))));
    assert_eq!(failure.message, "compute partition 17 of `stage 1`");
    assert!(failure.chain[0].contains("fake.rs:") && failure.chain[0].ends_with(": row 17 is bad"), "{failure}");
    rig.driver.success(attempt(2, 0)).await;
}

#[tokio::test]
async fn a_failure_comes_as_it_is_and_a_body_that_failed_is_decoded_afresh() {
    let mut rig = rig(1).await;
    rig.driver.say(body(1, "fail")).await;
    rig.driver.say(ToExecutor::Launch(vec![task(1, 0), task(1, 1)])).await;
    for p in [0, 1] {
        let failure = rig.driver.failure(attempt(1, p)).await;
        assert_eq!(failure.kind, FailureKind::UserCode { panicked: false, transient: true });
        assert_eq!(failure.message, "try again");
    }
    assert_eq!(rig.words.prepared.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_body_that_cannot_be_decoded_fails_its_tasks() {
    let mut rig = rig(1).await;
    rig.driver.say(body(1, "unpreparable")).await;
    rig.driver.say(body(2, "panic in prepare")).await;
    rig.driver.say(ToExecutor::Launch(vec![task(1, 0), task(2, 0), task(9, 0)])).await;
    assert_eq!(rig.driver.failure(attempt(1, 0)).await.message, "no such function");
    assert_eq!(rig.driver.failure(attempt(2, 0)).await.message, "decode stage `stage 2`");
    let unknown = rig.driver.failure(attempt(9, 0)).await;
    assert_eq!(
        (unknown.kind, unknown.message.as_str()),
        (FailureKind::Internal, "run 9.0.0: its stage was never sent")
    );
}

#[tokio::test]
async fn bodies_and_inputs_come_from_the_store_proven() {
    let mut rig = rig(2).await;
    let put = |key: &str, bytes: &'static [u8]| {
        let (store, path) = (rig.store.clone(), Path::from(format!("root/{key}")));
        async move { store.put(&path, PutPayload::from_static(bytes)).await.unwrap() }
    };
    put("apps/x/body", b"echo").await;
    put("apps/x/input", b"stored rows").await;
    put("apps/x/damaged", b"stored r0ws").await;
    rig.driver.say(stored_body(1, stored(b"echo", "apps/x/body"))).await;
    let with = |partition, payload| LaunchTask { input: payload, ..task(1, partition) };
    let tasks = vec![
        with(0, stored(b"stored rows", "apps/x/input")),
        with(1, stored(b"stored rows", "apps/x/damaged")),
        with(2, stored(b"stored rows", "apps/x/nothing")),
        task(1, 3),
    ];
    rig.driver.say(ToExecutor::Launch(tasks)).await;
    assert_eq!(inline(rig.driver.success(attempt(1, 0)).await), "stored rows");
    assert_eq!(inline(rig.driver.success(attempt(1, 3)).await), "rows 3");
    for p in [1, 2] {
        let failure = rig.driver.failure(attempt(1, p)).await;
        assert_eq!(failure.kind, FailureKind::Internal);
        assert!(failure.message.starts_with(&format!("read the input of partition {p}")), "{failure}");
    }
}

#[tokio::test]
async fn a_body_that_is_gone_fails_its_tasks_and_is_looked_for_again() {
    let mut rig = rig(1).await;
    rig.driver.say(stored_body(1, stored(b"echo", "apps/x/body"))).await;
    rig.driver.say(ToExecutor::Launch(vec![task(1, 0)])).await;
    assert_eq!(rig.driver.failure(attempt(1, 0)).await.message, "read the body of `stage 1`");
    rig.store.put(&Path::from("root/apps/x/body"), PutPayload::from_static(b"echo")).await.unwrap();
    rig.driver.say(ToExecutor::Launch(vec![task(1, 1)])).await;
    assert_eq!(inline(rig.driver.success(attempt(1, 1)).await), "rows 1");
}

#[tokio::test]
async fn a_large_result_goes_to_the_store_under_a_key_of_its_own() {
    let mut rig = rig(1).await;
    rig.driver.say(body(1, "megabytes")).await;
    rig.driver.say(ToExecutor::Launch(vec![task(1, 0), task(1, 1)])).await;
    let mut keys = Vec::new();
    for p in [0, 1] {
        let success = rig.driver.success(attempt(1, p)).await;
        let Some(Payload::Stored { key, length, crc }) = success.result else { panic!("inline") };
        let bytes = rig.store.get(&Path::from(format!("root/{key}"))).await.unwrap().bytes().await.unwrap();
        assert_eq!((bytes.len() as u64, crc32c::crc32c(&bytes)), (length, crc));
        assert_eq!(success.metrics.output_bytes, length);
        keys.push(key);
    }
    assert!(keys[0].contains(&format!("apps/{APP}/1/results/0/0-3-")), "{}", keys[0]);
    assert_ne!(keys[0], keys[1]);
}

#[tokio::test]
async fn a_cancelled_attempt_ends_once_whether_it_has_begun_or_not() {
    let mut rig = rig(1).await;
    rig.driver.say(body(1, "until cancelled")).await;
    rig.driver.say(ToExecutor::Launch(vec![task(1, 0), task(1, 1)])).await;
    rig.driver.until(|driver| !driver.started.is_empty()).await;
    rig.driver.say(ToExecutor::Cancel(vec![attempt(1, 1), attempt(1, 0), attempt(8, 8)])).await;
    for p in [0, 1] {
        let failure = rig.driver.failure(attempt(1, p)).await;
        assert_eq!((failure.kind, failure.message.as_str()), (FailureKind::Cancelled, "cancelled"));
    }
    assert_eq!(rig.driver.started, [attempt(1, 0)], "the other never began");
    rig.driver.say(ToExecutor::Cancel(vec![attempt(1, 0)])).await;
    rig.driver.say(body(2, "echo")).await;
    rig.driver.say(ToExecutor::Launch(vec![task(2, 0)])).await;
    rig.driver.success(attempt(2, 0)).await;
    assert_eq!(rig.driver.last_number, 3);
}

#[tokio::test]
async fn nothing_runs_twice() {
    let mut rig = rig(1).await;
    rig.driver.say(body(1, "door")).await;
    rig.driver.say(ToExecutor::Launch(vec![task(1, 0), task(1, 0)])).await;
    rig.driver.say(ToExecutor::Launch(vec![task(1, 0)])).await;
    rig.words.doors.open([0]);
    rig.driver.success(attempt(1, 0)).await;
    rig.driver.say(ToExecutor::Drain { grace: SOON }).await;
    rig.driver.hear_all().await;
    assert_eq!((rig.driver.last_number, rig.driver.drained), (1, true));
}

#[tokio::test]
async fn a_drain_gives_back_what_has_not_begun_and_finishes_the_rest() {
    let mut rig = rig(1).await;
    rig.driver.say(body(1, "door")).await;
    rig.driver.say(ToExecutor::Launch(vec![task(1, 0), task(1, 1)])).await;
    rig.driver.until(|driver| !driver.started.is_empty()).await;
    rig.driver.say(ToExecutor::Drain { grace: SOON }).await;
    rig.driver.say(ToExecutor::Launch(vec![task(1, 2)])).await;
    for p in [1, 2] {
        let failure = rig.driver.failure(attempt(1, p)).await;
        assert_eq!(failure.kind, FailureKind::Lost(LossCause::Released), "{failure}");
    }
    assert!(!rig.driver.drained);
    rig.words.doors.open([0]);
    rig.driver.hear_all().await;
    assert!(rig.driver.drained && matches!(rig.driver.ended[&attempt(1, 0)], TaskOutcome::Succeeded(_)));
}

#[tokio::test]
async fn a_drain_whose_grace_is_over_gives_back_what_runs() {
    let mut rig = rig(1).await;
    rig.driver.say(body(1, "until cancelled")).await;
    rig.driver.say(ToExecutor::Launch(vec![task(1, 0)])).await;
    rig.driver.until(|driver| !driver.started.is_empty()).await;
    rig.driver.say(ToExecutor::Drain { grace: Duration::from_millis(10) }).await;
    rig.driver.hear_all().await;
    let TaskOutcome::Failed(failure) = &rig.driver.ended[&attempt(1, 0)] else { panic!("succeeded") };
    assert_eq!(failure.kind, FailureKind::Lost(LossCause::Released));
    assert!(rig.driver.drained);
}

#[tokio::test(start_paused = true)]
async fn drained_is_said_when_nobody_acknowledges_but_not_at_once() {
    let mut rig = rig(1).await;
    rig.driver.acknowledges = false;
    rig.driver.say(ToExecutor::Launch(vec![task(9, 0)])).await;
    rig.driver.failure(attempt(9, 0)).await;
    let begun = tokio::time::Instant::now();
    rig.driver.say(ToExecutor::Drain { grace: SOON }).await;
    rig.driver.hear_all().await;
    assert!(rig.driver.drained);
    assert_eq!(begun.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn it_says_every_five_seconds_that_it_lives() {
    let mut rig = rig(1).await;
    rig.driver.until(|driver| !driver.heartbeats.is_empty()).await;
    let begun = tokio::time::Instant::now();
    rig.driver.until(|driver| driver.heartbeats.len() == 5).await;
    assert_eq!(begun.elapsed().as_secs(), 20);
}

#[tokio::test]
async fn it_lives_while_every_slot_is_busy() {
    let mut rig = rig(2).await;
    rig.driver.say(body(1, "door")).await;
    rig.driver.say(ToExecutor::Launch((0..2).map(|p| task(1, p)).collect())).await;
    rig.driver.until(|driver| driver.started.len() == 2).await;
    rig.driver.until(|driver| driver.heartbeats.last().is_some_and(|heartbeat| heartbeat.running == 2)).await;
    rig.words.doors.open([0, 1]);
    rig.driver.success(attempt(1, 0)).await;
}

#[tokio::test]
async fn another_program_or_number_is_refused_and_both_are_known() {
    for change in [|hello: &mut Hello| hello.program = "def".into(), |hello: &mut Hello| hello.protocol += 1] {
        let words = std::sync::Arc::new(Words::default());
        let store = std::sync::Arc::new(object_store::memory::InMemory::new());
        let config = config(1, store, std::env::temp_dir());
        let (outgoing, incoming) = executor::start::in_process(config, words, tokio::runtime::Handle::current());
        let mut driver = Driver::new(outgoing, incoming);
        let mut other = hello();
        change(&mut other);
        let reply = driver.hello(other.clone()).await.unwrap();
        assert!(proto::version::compare(&other, &reply).is_err());
        assert_eq!(reply.program, "abc");
        driver.hear_all().await;
    }
}

#[tokio::test]
async fn an_executor_ends_with_its_drivers_ends() {
    let rig = rig(1).await;
    let Driver { outgoing, mut incoming, .. } = rig.driver;
    drop(outgoing);
    let rest = async { while incoming.next().await.is_some() {} };
    tokio::time::timeout(SOON, rest).await.unwrap();
}

#[tokio::test]
async fn cached_partitions_stay_until_they_are_unwanted() {
    let mut rig = rig(1).await;
    rig.driver.say(body(1, "cache")).await;
    rig.driver.say(ToExecutor::Launch(vec![task(1, 0)])).await;
    let success = rig.driver.success(attempt(1, 0)).await;
    assert_eq!(success.cached, [(RddId(1), attempt(1, 0).partition)]);
    assert_eq!(inline(success), "miss");
    let again = |n| LaunchTask { attempt: model::AttemptId { attempt: n, ..attempt(1, 0) }, ..task(1, 0) };
    rig.driver.say(ToExecutor::Launch(vec![again(1)])).await;
    assert_eq!(inline(rig.driver.success(again(1).attempt).await), "hit");
    rig.driver.say(ToExecutor::Unpersist(RddId(1))).await;
    rig.driver.say(ToExecutor::Launch(vec![again(2)])).await;
    assert_eq!(inline(rig.driver.success(again(2).attempt).await), "miss");
}

#[tokio::test]
async fn stages_and_broadcasts_are_forgotten() {
    let mut rig = rig(1).await;
    rig.driver.say(body(1, "echo")).await;
    rig.driver.say(ToExecutor::ForgetStage(StageId(1), StageAttempt(0))).await;
    rig.driver.say(ToExecutor::ForgetBroadcast(BroadcastId(5))).await;
    rig.driver.say(ToExecutor::Launch(vec![task(1, 0)])).await;
    assert_eq!(rig.driver.failure(attempt(1, 0)).await.kind, FailureKind::Internal);
    assert_eq!(*rig.words.forgotten.lock().unwrap(), [BroadcastId(5)]);
}

#[tokio::test]
async fn code_that_splits_its_own_work_gets_its_answer() {
    let mut rig = rig(2).await;
    rig.driver.say(body(1, "parallel")).await;
    rig.driver.say(ToExecutor::Launch((0..100).map(|p| task(1, p)).collect())).await;
    for p in 0..100 {
        let want: u64 = (0..10_000u64).map(|x| x % 7).sum();
        assert_eq!(inline(rig.driver.success(attempt(1, p)).await), want.to_string());
    }
}

#[tokio::test]
async fn memory_of_a_failed_task_comes_back() {
    let mut rig = rig(1).await;
    rig.driver.say(body(1, "overflowing memory")).await;
    rig.driver.say(ToExecutor::Launch((0..20).map(|p| task(1, p)).collect())).await;
    for p in 0..20 {
        assert_eq!(rig.driver.failure(attempt(1, p)).await.kind, FailureKind::TaskMemory);
    }
}

/// A map whose stage has others waiting: its rows wait for company until the driver says that none comes.
fn open_map(partition: u32) -> LaunchTask {
    LaunchTask { stage_has_pending: true, ..task(1, partition) }
}

#[tokio::test]
async fn a_small_map_output_is_in_its_status_and_is_never_handed_over() {
    let mut rig = rig(1).await;
    rig.driver.say(writing_body(1, 3, 128 << 10)).await;
    rig.driver.say(ToExecutor::Launch((0..3).map(open_map).collect())).await;
    for p in 0..3 {
        let success = rig.driver.success(attempt(1, p)).await;
        assert_eq!(success.metrics.shuffle_write_rows, 100);
        let output = success.map_output.unwrap();
        assert!(matches!(output.location, MapRows::Inline { .. }), "{output:?}");
        assert_eq!(success.metrics.shuffle_write_bytes, output.stored_bytes);
    }
    assert_eq!(rig.driver.handed_over, []);
}

#[tokio::test]
async fn a_map_that_is_handed_over_frees_its_slot_and_ends_when_it_is_stored() {
    let mut rig = rig(1).await;
    rig.driver.say(writing_body(1, 2, 0)).await;
    rig.driver.say(ToExecutor::Launch(vec![open_map(0)])).await;
    rig.driver.until(|driver| driver.handed_over == [attempt(1, 0)]).await;
    rig.driver.say(ToExecutor::Launch(vec![open_map(1)])).await;
    rig.driver.until(|driver| driver.handed_over.len() == 2).await;
    rig.driver.say(ToExecutor::NoMoreMaps(ShuffleId(1), Generation(0))).await;
    let mut named = 0;
    for p in [0, 1] {
        let output = rig.driver.success(attempt(1, p)).await.map_output.unwrap();
        let MapRows::Stored { parts, new_objects } = output.location else { panic!("inline") };
        assert_eq!(parts.len(), 1);
        named += new_objects.len();
    }
    assert_eq!(named, 1, "two maps share an object, and it is named once");
}

#[tokio::test]
async fn a_cancelled_map_does_not_wait_for_the_store() {
    let mut rig = rig(1).await;
    rig.driver.say(writing_body(1, 2, 0)).await;
    rig.driver.say(ToExecutor::Launch(vec![open_map(0)])).await;
    rig.driver.until(|driver| driver.handed_over.len() == 1).await;
    rig.driver.say(ToExecutor::Cancel(vec![attempt(1, 0)])).await;
    assert_eq!(rig.driver.failure(attempt(1, 0)).await.kind, FailureKind::Cancelled);
}
