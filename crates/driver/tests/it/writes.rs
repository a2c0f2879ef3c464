//! Do writes appear once, and only whole?

use std::sync::Arc;

use bytes::Bytes;
use executor::{TaskContext, TaskProduct};
use futures::StreamExt;
use model::events::AppEvent;
use model::graph::Output;
use model::ids::{AccumulatorId, Epoch, JobId};
use model::messages::AccumulatorUpdate;
use model::runner::{JobError, JobItem, JobRunner, JobStream};
use model::write::{StagedFile, WriteId, WriteMode, WriteReport, WriteTarget};
use model::{Failure, FailureKind};
use object_store::ObjectStoreExt;
use tokio::time::timeout;

use crate::program::{APP, Program, SOON, job, stage, start};

const ROWS: u64 = 3;

/// Stages one file per partition.
fn stage_files(url: String) -> impl Fn(TaskContext) -> Result<TaskProduct, Failure> {
    move |task| {
        let (store, path) = shuffle::store::open(&url).map_err(shuffle::Error::into_failure)?;
        let write = WriteId { app: task.app, epoch: task.epoch, job: task.attempt.job };
        let staged = model::write::staged_name(write, &task.attempt, 0);
        let published = model::write::published_name(write, "", task.attempt.partition, 0, "txt");
        let rows = Bytes::from(format!("{}\n", task.attempt.partition).repeat(ROWS as usize));
        let bytes = rows.len() as u64;
        let key = staged.split('/').fold(path, |path, part| path.join(part));
        task.io
            .block_on(store.put(&key, rows.into()))
            .map_err(|e| Failure::from_error(FailureKind::StoreUnavailable, &e))?;
        let staged = vec![StagedFile { staged, published, bytes, rows: ROWS, fingerprint: 0 }];
        Ok(TaskProduct { staged, ..TaskProduct::default() })
    }
}

fn target(url: &str, id: u32, mode: WriteMode) -> WriteTarget {
    let write = WriteId { app: APP, epoch: Epoch(1), job: JobId(id) };
    WriteTarget { destination: url.to_owned(), mode, write }
}

async fn written(mut items: JobStream) -> Result<WriteReport, JobError> {
    while let Some(item) = items.next().await {
        if let JobItem::Written(report) = item? {
            return Ok(report);
        }
    }
    panic!("neither a report nor an error")
}

fn published(folder: &std::path::Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name.starts_with("part-"));
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accumulators_hear_of_each_accepted_task_of_a_write_once() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().join("out").display());
    let (stage_file, update) = (stage_files(url.clone()), |value: &'static [u8]| AccumulatorUpdate {
        accumulator: AccumulatorId(1),
        value: Bytes::from_static(value),
    });
    let program = Program::default().with("write", move |task| {
        let again = task.attempt.partition.0 == 1 && task.attempt.attempt == 0;
        let product = stage_file(task)?;
        if again {
            let kind = FailureKind::UserCode { panicked: false, transient: true };
            return Err(Failure::new(kind, "the first attempt fails"));
        }
        Ok(TaskProduct { accumulators: vec![update(b"one")], ..product })
    });
    let running = start(program);
    let files = job(0, vec![stage(0, "write", 3, &[], Output::Write)]);
    let items = running.driver.write(files, target(&url, 0, WriteMode::ErrorIfExists)).collect::<Vec<_>>();
    let items: Vec<_> = timeout(SOON, items).await.unwrap().into_iter().map(Result::unwrap).collect();
    let (last, updates) = items.split_last().unwrap();
    assert!(matches!(last, JobItem::Written(report) if report.rows == 3 * ROWS), "{last:?}");
    assert_eq!(updates, vec![JobItem::Accumulated(vec![update(b"one")]); 3]);
    running.driver.stop(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_appears_whole_and_only_once() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let url = format!("file://{}", out.display());
    let running = start(Program::default().with("write", stage_files(url.clone())));
    let write = |id, mode| {
        let files = job(id, vec![stage(id, "write", 3, &[], Output::Write)]);
        timeout(SOON, written(running.driver.write(files, target(&url, id, mode))))
    };
    let report = write(0, WriteMode::ErrorIfExists).await.unwrap().unwrap();
    assert_eq!((report.files, report.rows), (3, 3 * ROWS));
    assert_eq!(published(&out).len(), 3);
    assert!(out.join("_SUCCESS").exists());
    assert_eq!(running.heard.count(|e| matches!(e, AppEvent::WriteCommitted { .. })), 1);

    let refused = write(1, WriteMode::ErrorIfExists).await.unwrap().unwrap_err();
    let JobError::Failed { failure, .. } = refused else { panic!("{refused:?}") };
    assert_eq!(failure.kind, FailureKind::Commit, "{failure}");
    let ended = running.heard.count(|e| matches!(e, AppEvent::JobStarted { .. }));
    assert_eq!(ended, 1, "a write that is refused runs no task");
    running.driver.stop(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_job_fails_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let url = format!("file://{}", out.display());
    let stage_file = stage_files(url.clone());
    let program = Program::default().with("write", move |task| match task.attempt.partition.0 {
        2 => Err(Failure::new(FailureKind::Query, "read the input: no such column")),
        _ => stage_file(task),
    });
    let running = start(program);
    let files = job(0, vec![stage(0, "write", 3, &[], Output::Write)]);
    let write = running.driver.write(files, target(&url, 0, WriteMode::ErrorIfExists));
    let error = timeout(SOON, written(write)).await.unwrap().unwrap_err();
    let JobError::Failed { failure, .. } = error else { panic!("{error:?}") };
    assert_eq!(failure.kind, FailureKind::Query);
    assert!(published(&out).is_empty());
    assert_eq!(running.heard.count(|e| matches!(e, AppEvent::JobFinished { error: Some(_), .. })), 1);
    running.driver.stop(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_nobody_waits_for_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let url = format!("file://{}", out.display());
    let began = Arc::new(tokio::sync::Notify::new());
    let said = Arc::clone(&began);
    let program = Program::default().with("write", move |task| {
        said.notify_one();
        task.io.block_on(task.cancel.cancelled());
        Err(Failure::new(FailureKind::Cancelled, "stop when asked"))
    });
    let running = start(program);
    let files = job(0, vec![stage(0, "write", 1, &[], Output::Write)]);
    let mut items = running.driver.write(files, target(&url, 0, WriteMode::ErrorIfExists));
    tokio::select! {
        item = items.next() => panic!("{item:?}"),
        () = began.notified() => {}
    }
    drop(items);
    timeout(SOON, running.driver.stop(None)).await.unwrap();
    assert!(published(&out).is_empty());
    assert_eq!(running.heard.count(|e| matches!(e, AppEvent::JobFinished { error: Some(_), .. })), 1);
}
