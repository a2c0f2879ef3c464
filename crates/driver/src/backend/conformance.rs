//! What must every backend keep?
//!
//! One function per promise of [`ClusterBackend`], for every implementation and wrapper. Each takes a way to make a
//! backend of which nothing is asked yet, and panics if the promise is broken.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use model::backend::{ClusterBackend, ClusterEvent, DialError};
use model::failure::LossCause;
use model::ids::ExecutorId;
use tokio::time::timeout;

/// Whatever is promised to happen does so within this time.
const SOON: Duration = Duration::from_secs(30);

/// What must not happen is waited for so long.
const NEVER: Duration = Duration::from_millis(300);

type Events = Pin<Box<dyn Stream<Item = ClusterEvent> + Send>>;

async fn next(events: &mut Events) -> ClusterEvent {
    loop {
        let event = timeout(SOON, events.next()).await.expect("something happens in time");
        match event.expect("the events go on") {
            ClusterEvent::Waiting { .. } => {}
            event => return event,
        }
    }
}

async fn reachable(events: &mut Events) -> ExecutorId {
    match next(events).await {
        ClusterEvent::Reachable { executor, place } => {
            assert!(!place.is_empty(), "a person is told where {executor} runs");
            executor
        }
        other => panic!("an executor is reachable, not {other:?}"),
    }
}

async fn lost(events: &mut Events) -> (ExecutorId, LossCause) {
    match next(events).await {
        ClusterEvent::Lost { executor, cause, why, .. } => {
            assert!(why.contains(&executor.to_string()), "a person is told which executor is lost: {why}");
            (executor, cause)
        }
        other => panic!("an executor is lost, not {other:?}"),
    }
}

async fn nothing(events: &mut Events) {
    if let Ok(Some(event)) = timeout(NEVER, events.next()).await {
        panic!("nothing happens, not {event:?}");
    }
}

/// Nothing starts before somebody wants it; then each is reported once, under a number of its own, and can be dialled.
///
/// # Panics
/// The promise is broken.
pub async fn starts_what_is_wanted(backend: Arc<dyn ClusterBackend>, executors: u32) {
    let mut events = backend.events();
    nothing(&mut events).await;
    backend.set_target(executors);
    let mut started = BTreeSet::new();
    for _ in 0..executors {
        assert!(started.insert(reachable(&mut events).await), "numbers are never given out twice");
    }
    nothing(&mut events).await;
    for &executor in &started {
        assert!(backend.dial(executor).await.is_ok(), "{executor} can be dialled");
    }
    backend.stop().await;
}

/// The events are taken once; a second taker hears nothing.
///
/// # Panics
/// The promise is broken.
pub async fn gives_its_events_once(backend: Arc<dyn ClusterBackend>) {
    let mut first = backend.events();
    let mut second = backend.events();
    assert!(timeout(SOON, second.next()).await.expect("an empty stream ends").is_none());
    backend.set_target(1);
    reachable(&mut first).await;
    backend.stop().await;
}

/// An executor that is released is lost, once and in order, and replaced if the target asks for it.
///
/// # Panics
/// The promise is broken.
pub async fn ends_what_is_released(backend: Arc<dyn ClusterBackend>) {
    let mut events = backend.events();
    backend.set_target(1);
    let first = reachable(&mut events).await;
    backend.release(first);
    backend.release(first);
    let mut seen = [next(&mut events).await, next(&mut events).await];
    seen.sort_by_key(|event| matches!(event, ClusterEvent::Reachable { .. }));
    match &seen {
        [ClusterEvent::Lost { executor, cause, .. }, ClusterEvent::Reachable { executor: second, .. }] => {
            assert_eq!((*executor, *cause), (first, LossCause::Released));
            assert_ne!(*second, first, "an incarnation is never used twice");
        }
        other => panic!("one is lost and one takes its place, not {other:?}"),
    }
    nothing(&mut events).await;
    assert!(matches!(backend.dial(first).await, Err(DialError::Gone(executor)) if executor == first));
    backend.stop().await;
}

/// With a target of nothing, what is released is not replaced.
///
/// # Panics
/// The promise is broken.
pub async fn starts_nothing_unwanted(backend: Arc<dyn ClusterBackend>) {
    let mut events = backend.events();
    backend.set_target(1);
    let first = reachable(&mut events).await;
    backend.set_target(0);
    nothing(&mut events).await;
    backend.release(first);
    assert_eq!(lost(&mut events).await, (first, LossCause::Released));
    nothing(&mut events).await;
    backend.stop().await;
}

/// An executor that nobody knows is no error to release, and gone to whoever dials it.
///
/// # Panics
/// The promise is broken.
pub async fn knows_whom_it_does_not_know(backend: Arc<dyn ClusterBackend>) {
    let mut events = backend.events();
    let stranger = ExecutorId(4_711);
    backend.release(stranger);
    assert!(matches!(backend.dial(stranger).await, Err(DialError::Gone(executor)) if executor == stranger));
    nothing(&mut events).await;
    backend.stop().await;
}

/// After it is stopped, nothing is left and nothing is heard; stopping twice does no harm.
///
/// # Panics
/// The promise is broken.
pub async fn stops_for_good(backend: Arc<dyn ClusterBackend>) {
    let mut events = backend.events();
    backend.set_target(1);
    let executor = reachable(&mut events).await;
    timeout(SOON, backend.stop()).await.expect("it stops in time");
    nothing(&mut events).await;
    assert!(matches!(backend.dial(executor).await, Err(DialError::Gone(_))), "{executor} is gone");
    backend.set_target(1);
    nothing(&mut events).await;
    timeout(SOON, backend.stop()).await.expect("it has stopped");
}

/// Every promise, each with a backend of its own that can hold two executors, or one if `executors` says so.
///
/// # Panics
/// A promise is broken.
pub async fn every_promise(new: impl Fn() -> Arc<dyn ClusterBackend>, executors: u32) {
    starts_what_is_wanted(new(), executors).await;
    gives_its_events_once(new()).await;
    ends_what_is_released(new()).await;
    starts_nothing_unwanted(new()).await;
    knows_whom_it_does_not_know(new()).await;
    stops_for_good(new()).await;
}
