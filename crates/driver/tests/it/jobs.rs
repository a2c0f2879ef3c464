//! Do jobs give what they should, in one process?

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use driver::config::StoreScope;
use executor::TaskProduct;
use futures::{StreamExt, TryStreamExt};
use model::events::AppEvent;
use model::graph::Output;
use model::ids::{AccumulatorId, ShuffleId};
use model::messages::AccumulatorUpdate;
use model::runner::{JobError, JobItem, JobRunner};
use model::setting::Values;
use model::{Failure, FailureKind};
use object_store::ObjectStore;
use tokio::sync::Notify;

use crate::program::{Options, Program, SOON, items, job, numbers, right_sums, stage, start, start_with, sums};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_stages_give_every_row_once() {
    let running = start(Program::sums());
    assert_eq!(numbers(&running.driver, sums(0, 7, 5)).await.unwrap(), right_sums(7, 5));
    running.driver.stop(None).await;
    let events = running.heard.events();
    assert!(matches!(events.first(), Some(AppEvent::ApplicationStarted { .. })));
    assert!(matches!(events.last(), Some(AppEvent::ApplicationEnded { error: None })));
    assert_eq!(running.heard.count(|e| matches!(e, AppEvent::TaskFinished { .. })), 12);
    assert_eq!(running.heard.count(|e| matches!(e, AppEvent::StageFinished { .. })), 2);
    assert_eq!(running.heard.count(|e| matches!(e, AppEvent::JobFinished { error: None, .. })), 1);
    let left: Vec<_> = running.store.list(None).try_collect().await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shuffle_that_is_complete_is_not_made_again() {
    let running = start(Program::sums());
    let first = sums(0, 3, 2);
    let mut second = sums(0, 3, 2);
    second.id = model::JobId(1);
    numbers(&running.driver, first).await.unwrap();
    assert_eq!(numbers(&running.driver, second).await.unwrap(), right_sums(3, 2));
    assert_eq!(running.heard.count(|e| matches!(e, AppEvent::TaskFinished { .. })), 3 + 2 + 2);
    running.driver.stop(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_run_side_by_side() {
    let running = start(Program::sums());
    let jobs = (0..8).map(|id| numbers(&running.driver, sums(id, 4, 3)));
    for result in futures::future::join_all(jobs).await {
        assert_eq!(result.unwrap(), right_sums(4, 3));
    }
    running.driver.stop(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transient_failure_is_tried_again_and_accumulators_count_once() {
    let tries = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&tries);
    let program = Program::default().with("flaky", move |_| {
        let update = |value: &'static [u8]| AccumulatorUpdate { accumulator: AccumulatorId(1), value: value.into() };
        if counted.fetch_add(1, Ordering::Relaxed) < 2 {
            let kind = FailureKind::UserCode { panicked: false, transient: true };
            return Err(Failure::new(kind, "read the weather: not today"));
        }
        let warnings = vec!["it rained".to_owned(), "it rained".to_owned()];
        Ok(TaskProduct { accumulators: vec![update(b"one")], warnings, ..TaskProduct::default() })
    });
    let running = start(program);
    let got = items(&running.driver, job(0, vec![stage(0, "flaky", 1, &[], Output::Result)])).await.unwrap();
    let expected = AccumulatorUpdate { accumulator: AccumulatorId(1), value: Bytes::from_static(b"one") };
    let accumulated: Vec<_> = got.iter().filter(|item| matches!(item, JobItem::Accumulated(_))).collect();
    assert_eq!(accumulated, [&JobItem::Accumulated(vec![expected])]);
    assert_eq!(tries.load(Ordering::Relaxed), 3);
    assert_eq!(running.heard.count(|e| matches!(e, AppEvent::TaskFailed { retried: true, .. })), 2);
    assert_eq!(running.heard.count(|e| matches!(e, AppEvent::Warning { text } if text == "it rained")), 1);
    running.driver.stop(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_fails_the_job_with_the_users_words() {
    let program = Program::sums().with("broken", |_| panic!("row 7 is odd"));
    let running = start(program);
    let error = items(&running.driver, job(0, vec![stage(0, "broken", 3, &[], Output::Result)])).await.unwrap_err();
    let JobError::Failed { failure, .. } = error else { panic!("{error:?}") };
    assert!(matches!(failure.kind, FailureKind::UserCode { panicked: true, .. }), "{failure:?}");
    assert!(failure.to_string().contains("row 7 is odd"), "{failure}");
    // The application goes on.
    assert_eq!(numbers(&running.driver, sums(1, 2, 2)).await.unwrap(), right_sums(2, 2));
    running.driver.stop(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_above_the_limit_fail_the_job_and_name_the_setting() {
    let program = Program::default()
        .with("wide", |_| Ok(TaskProduct { result: Some(vec![7; 600].into()), ..TaskProduct::default() }));
    let settings = Values::from([("driver.max_result_size".to_owned(), "1000".to_owned())]);
    let running = start_with(program, Options { settings, ..Options::default() }, |local| local);
    let wide = |id, partitions| job(id, vec![stage(id, "wide", partitions, &[], Output::Result)]);
    let error = items(&running.driver, wide(0, 4)).await.unwrap_err();
    let JobError::Failed { failure, .. } = error else { panic!("{error:?}") };
    assert_eq!(failure.kind, FailureKind::Limit);
    assert!(failure.to_string().contains("driver.max_result_size"), "{failure}");
    assert_eq!(items(&running.driver, wide(1, 1)).await.unwrap().len(), 1, "the limit is one job's");
    running.driver.stop(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_result_comes_through_the_store() {
    let program = Program::default().with("large", |task| {
        let bytes = vec![task.attempt.partition.0 as u8; 3 << 20];
        Ok(TaskProduct { result: Some(bytes.into()), ..TaskProduct::default() })
    });
    let running = start(program);
    let got = items(&running.driver, job(0, vec![stage(0, "large", 9, &[], Output::Result)])).await.unwrap();
    assert_eq!(got.len(), 9);
    for item in got {
        let JobItem::Result { partition, bytes } = item else { panic!("only results") };
        assert!(bytes.len() == 3 << 20 && bytes.iter().all(|&byte| u32::from(byte) == partition.0));
    }
    running.driver.stop(None).await;
    let left: Vec<_> = running.store.list(None).try_collect().await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}

/// A stage whose tasks run until they are cancelled, and say when they begin.
fn endless(began: Arc<Notify>, ended: Arc<Notify>) -> Program {
    Program::sums().with("endless", move |task| {
        began.notify_one();
        task.io.block_on(task.cancel.cancelled());
        ended.notify_one();
        Err(Failure::new(FailureKind::Cancelled, "stop when asked"))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_cancelled_and_says_why() {
    let (began, ended) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let running = start(endless(Arc::clone(&began), Arc::clone(&ended)));
    let mut endless = job(0, vec![stage(0, "endless", 2, &[], Output::Result)]);
    endless.group = Some("nightly".into());
    let stream = running.driver.run(endless).collect::<Vec<_>>();
    let cancel = async {
        began.notified().await;
        running.driver.cancel(Some("hourly"), "wrong group");
        running.driver.cancel(Some("nightly"), "the night is over");
    };
    let (items, ()) = tokio::time::timeout(SOON, async { tokio::join!(stream, cancel) }).await.unwrap();
    match &items[..] {
        [Err(JobError::Cancelled { why, .. })] => assert!(why.contains("the night is over"), "{why}"),
        other => panic!("{other:?}"),
    }
    tokio::time::timeout(SOON, ended.notified()).await.unwrap();
    running.driver.stop(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_stream_stops_its_tasks() {
    let (began, ended) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let running = start(endless(Arc::clone(&began), Arc::clone(&ended)));
    let mut stream = running.driver.run(job(0, vec![stage(0, "endless", 1, &[], Output::Result)]));
    tokio::select! {
        item = stream.next() => panic!("{item:?}"),
        () = began.notified() => {}
    }
    drop(stream);
    tokio::time::timeout(SOON, ended.notified()).await.unwrap();
    assert_eq!(numbers(&running.driver, sums(1, 2, 2)).await.unwrap(), right_sums(2, 2));
    running.driver.stop(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_driver_ends_its_jobs_and_takes_no_more() {
    let (began, ended) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let running = start(endless(Arc::clone(&began), ended));
    let stream = running.driver.run(job(0, vec![stage(0, "endless", 1, &[], Output::Result)])).collect::<Vec<_>>();
    let stop = async {
        began.notified().await;
        running.driver.stop(Some("enough".into())).await;
    };
    let (items, ()) = tokio::time::timeout(SOON, async { tokio::join!(stream, stop) }).await.unwrap();
    assert!(matches!(&items[..], [Err(JobError::Cancelled { .. } | JobError::Ended { .. })]), "{items:?}");
    assert!(matches!(items_of(&running, 1).await, Err(JobError::Ended { .. })));
    running.driver.stop(None).await;
    let last = running.heard.events().pop();
    assert_eq!(last, Some(AppEvent::ApplicationEnded { error: Some("enough".into()) }));
}

async fn items_of(running: &crate::program::Running, id: u32) -> Result<Vec<JobItem>, JobError> {
    items(&running.driver, job(id, vec![stage(id, "empty", 1, &[], Output::Result)])).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_store_is_claimed_and_left_clean() {
    let options = Options { scope: StoreScope::Shared, ..Options::default() };
    let running = start_with(Program::sums(), options, |local| local);
    assert_eq!(numbers(&running.driver, sums(0, 3, 2)).await.unwrap(), right_sums(3, 2));
    let lease =
        object_store::path::Path::from(format!("root/{}", model::keys::lease(crate::program::APP, model::Epoch(1))));
    assert!(object_store::ObjectStoreExt::head(running.store.as_ref(), &lease).await.is_ok(), "the epoch is claimed");
    running.driver.stop(None).await;
    let left: Vec<_> = running.store.list(None).try_collect().await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_released_shuffle_is_made_again_by_nobody() {
    let running = start(Program::sums());
    numbers(&running.driver, sums(0, 3, 2)).await.unwrap();
    running.driver.release_shuffle(ShuffleId(0));
    running.driver.unpersist(model::RddId(3));
    running.driver.forget_broadcast(model::BroadcastId(3));
    running.driver.warn("careful");
    running.driver.warn("careful");
    assert_eq!(numbers(&running.driver, sums(1, 3, 2)).await.unwrap(), right_sums(3, 2));
    assert_eq!(running.heard.count(|e| matches!(e, AppEvent::Warning { text } if text == "careful")), 1);
    running.driver.stop(None).await;
}

/// Not a test of right or wrong: prints how fast empty tasks go. The mark is held by the benches.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_empty_tasks_end() {
    let tasks = if cfg!(debug_assertions) { 5_000 } else { 100_000 };
    let running = start(Program::sums());
    items_of(&running, 0).await.unwrap();
    let began = Instant::now();
    let got = items(&running.driver, job(1, vec![stage(1, "empty", tasks, &[], Output::Result)])).await.unwrap();
    let took = began.elapsed().max(Duration::from_millis(1));
    assert!(got.is_empty());
    eprintln!("{tasks} empty tasks: {:.0} tasks/s", f64::from(tasks) / took.as_secs_f64());
    running.driver.stop(None).await;
}
