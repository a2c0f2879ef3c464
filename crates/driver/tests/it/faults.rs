//! What if an executor is lost in the middle?

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use driver::backend::local::LocalBackend;
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt};
use model::backend::{ClusterBackend, ClusterEvent, Connection, DialError};
use model::events::AppEvent;
use model::failure::{LossCause, MapFault};
use model::ids::{ExecutorId, MapId};
use model::{Failure, FailureKind};
use tokio_util::sync::CancellationToken;

use crate::program::{Options, Program, add_up, numbers, right_sums, start_with, sums, write_numbers};

/// Drops the connection to the executor when told to.
struct Cutting {
    inner: Arc<LocalBackend>,
    cut: Arc<Mutex<CancellationToken>>,
}

impl ClusterBackend for Cutting {
    fn set_target(&self, executors: u32) {
        self.inner.set_target(executors);
    }

    fn release(&self, executor: ExecutorId) {
        self.inner.release(executor);
    }

    fn dial(&self, executor: ExecutorId) -> BoxFuture<'_, Result<Connection, DialError>> {
        async move {
            let cut = CancellationToken::new();
            *self.cut.lock().unwrap() = cut.clone();
            match self.inner.dial(executor).await? {
                Connection::Messages { outgoing, incoming } => {
                    let incoming = Box::pin(incoming.take_until(cut.cancelled_owned()));
                    Ok(Connection::Messages { outgoing, incoming })
                }
                bytes @ Connection::Bytes(_) => Ok(bytes),
            }
        }
        .boxed()
    }

    fn events(&self) -> Pin<Box<dyn Stream<Item = ClusterEvent> + Send>> {
        self.inner.events()
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        self.inner.stop()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_executor_is_replaced_and_only_its_tasks_run_again() {
    let cut = Arc::new(Mutex::new(CancellationToken::new()));
    let (maps, once) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let (counted, scissors) = (Arc::clone(&maps), Arc::clone(&cut));
    let program = Program::default()
        .with("map", move |task| {
            counted.fetch_add(1, Ordering::Relaxed);
            write_numbers(task)
        })
        .with("reduce", move |task| {
            // The first reduce task loses its executor; every map is accepted by then.
            if !once.swap(true, Ordering::Relaxed) {
                scissors.lock().unwrap().cancel();
                task.io.block_on(task.cancel.cancelled());
                return Err(Failure::new(FailureKind::Cancelled, "its executor is lost"));
            }
            add_up(task)
        });
    let wrap = |inner| Arc::new(Cutting { inner, cut }) as Arc<dyn ClusterBackend>;
    let running = start_with(program, Options::default(), wrap);
    assert_eq!(numbers(&running.driver, sums(0, 6, 4)).await.unwrap(), right_sums(6, 4));
    assert_eq!(maps.load(Ordering::Relaxed), 6, "what is stored or inline outlives its executor");
    running.driver.stop(None).await;
    let lost = |e: &AppEvent| matches!(e, AppEvent::ExecutorLost { cause: LossCause::Infrastructure, .. });
    assert_eq!(running.heard.count(lost), 1, "the fault fired");
    assert_eq!(running.heard.count(|e| matches!(e, AppEvent::ExecutorJoined { .. })), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_map_whose_rows_are_missing_runs_again_and_no_other() {
    let (maps, once) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let counted = Arc::clone(&maps);
    let program = Program::default()
        .with("map", move |task| {
            counted.fetch_add(1, Ordering::Relaxed);
            write_numbers(task)
        })
        .with("reduce", move |task| {
            if !once.swap(true, Ordering::Relaxed) {
                let (shuffle, generation) = (task.reads[0].range.shuffle, task.reads[0].generation);
                let kind = FailureKind::MapOutput {
                    shuffle,
                    generation,
                    maps: vec![MapId(2)],
                    fault: MapFault::Missing,
                    object: None,
                };
                return Err(Failure::new(kind, "read a shuffle: no such object"));
            }
            add_up(task)
        });
    let running = start_with(program, Options::default(), |local| local);
    assert_eq!(numbers(&running.driver, sums(0, 5, 3)).await.unwrap(), right_sums(5, 3));
    assert_eq!(maps.load(Ordering::Relaxed), 6);
    assert_eq!(running.heard.count(|e| matches!(e, AppEvent::OutputsLost { maps: 1, .. })), 1);
    running.driver.stop(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stage_that_gives_other_rows_fails_once_some_have_left() {
    let runs = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&runs);
    let program = Program::default()
        .with("map", move |task| {
            // Every run writes other rows.
            let run = u64::from(counted.fetch_add(1, Ordering::Relaxed));
            let spec = task.writes.clone().expect("a map writes a shuffle");
            let mut member = task.shuffle.member(&spec, task.attempt, task.stage_has_pending);
            for partition in 0..spec.partitions {
                member.write_record(partition, &run.to_le_bytes()).map_err(shuffle::Error::into_failure)?;
            }
            let written = Some(member.finish().map_err(shuffle::Error::into_failure)?);
            Ok(executor::TaskProduct { written, ..Default::default() })
        })
        .with("reduce", move |task| {
            if task.attempt.partition.0 == 1 && task.attempt.stage_attempt.0 == 0 {
                let (shuffle, generation) = (task.reads[0].range.shuffle, task.reads[0].generation);
                let maps = vec![MapId(0)];
                let fault = MapFault::Missing;
                let kind = FailureKind::MapOutput { shuffle, generation, maps, fault, object: None };
                return Err(Failure::new(kind, "read a shuffle: no such object"));
            }
            add_up(task)
        });
    let running = start_with(program, Options { slots: 1, ..Options::default() }, |local| local);
    let error = numbers(&running.driver, sums(0, 2, 2)).await.unwrap_err();
    let model::runner::JobError::Failed { failure, .. } = error else { panic!("{error:?}") };
    assert_eq!(failure.kind, FailureKind::NotDeterministic, "{failure}");
    running.driver.stop(None).await;
}
