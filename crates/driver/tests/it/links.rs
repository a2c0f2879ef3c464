//! What do driver and executor say to each other, and what if the link breaks? The executor is played by the test.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::channel::mpsc;
use futures::future::BoxFuture;
use futures::{FutureExt, SinkExt, Stream, StreamExt};
use model::backend::{ClusterBackend, ClusterEvent, Connection, ConnectionClosed, DialError};
use model::events::AppEvent;
use model::failure::LossCause;
use model::graph::Output;
use model::ids::{AttemptId, Epoch, ExecutorId};
use model::messages::{FromExecutor, HelloReply, Payload, TaskOutcome, TaskStatus, TaskSuccess, ToExecutor};
use model::runner::{JobItem, JobRunner};
use model::{Failure, FailureKind};
use object_store::memory::InMemory;
use tokio::time::timeout;

use crate::program::{APP, Heard, Options, SOON, items, job, stage, start_over};

/// The executor's ends of one connection.
struct Ends {
    said: mpsc::Receiver<ToExecutor>,
    says: mpsc::Sender<FromExecutor>,
}

impl Ends {
    /// The next message that is no heartbeat.
    async fn heard(&mut self) -> ToExecutor {
        loop {
            match timeout(SOON, self.said.next()).await.expect("the driver speaks in time").expect("the link holds") {
                ToExecutor::Heartbeat => {}
                message => return message,
            }
        }
    }

    async fn say(&mut self, message: FromExecutor) {
        self.says.send(message).await.unwrap();
    }

    /// Answers the hello.
    async fn greet(&mut self, change: impl FnOnce(&mut HelloReply)) {
        let ToExecutor::Hello(hello) = self.heard().await else { panic!("the first message is a hello") };
        let mut reply = HelloReply {
            protocol: hello.protocol,
            app: APP,
            epoch: Epoch(1),
            executor: hello.executor,
            program: String::new(),
            holding: Vec::new(),
        };
        change(&mut reply);
        self.say(FromExecutor::Hello(Box::new(reply))).await;
    }

    /// Waits for launches; gives their attempts.
    async fn launched(&mut self) -> Vec<AttemptId> {
        loop {
            if let ToExecutor::Launch(tasks) = self.heard().await {
                return tasks.into_iter().map(|task| task.attempt).collect();
            }
        }
    }

    async fn acknowledged(&mut self) -> u64 {
        loop {
            if let ToExecutor::Acknowledge(number) = self.heard().await {
                return number;
            }
        }
    }

    async fn succeed(&mut self, number: u64, attempt: AttemptId, result: &'static [u8]) {
        let result = Some(Payload::Inline(Bytes::from_static(result)));
        let success = TaskSuccess { result, ..TaskSuccess::default() };
        let outcome = TaskOutcome::Succeeded(Box::new(success));
        self.say(FromExecutor::Status(vec![TaskStatus { number, attempt, outcome }])).await;
    }
}

/// One executor, whose connections the test takes.
struct Scripted {
    dialled: mpsc::UnboundedSender<Ends>,
    events: Mutex<Option<mpsc::UnboundedReceiver<ClusterEvent>>>,
    report: mpsc::UnboundedSender<ClusterEvent>,
    released: Arc<Mutex<VecDeque<ExecutorId>>>,
    /// Nobody can be reached.
    cut_off: Arc<AtomicBool>,
}

impl Scripted {
    fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<Ends>) {
        let (dialled, ends) = mpsc::unbounded();
        let (report, events) = mpsc::unbounded();
        let events = Mutex::new(Some(events));
        let (released, cut_off) = Default::default();
        (Arc::new(Self { dialled, events, report, released, cut_off }), ends)
    }
}

impl ClusterBackend for Scripted {
    fn set_target(&self, executors: u32) {
        for number in 1..=u64::from(executors) {
            let place = "the test".to_owned();
            let event = ClusterEvent::Reachable { executor: ExecutorId(number), place };
            self.report.unbounded_send(event).unwrap();
        }
    }

    fn release(&self, executor: ExecutorId) {
        self.released.lock().unwrap().push_back(executor);
    }

    fn dial(&self, executor: ExecutorId) -> BoxFuture<'_, Result<Connection, DialError>> {
        if self.is_cut_off() {
            let source = std::io::Error::other("cut off");
            return std::future::ready(Err(DialError::Failed { executor, source })).boxed();
        }
        let (to, said) = mpsc::channel(8);
        let (says, from) = mpsc::channel(8);
        self.dialled.unbounded_send(Ends { said, says }).unwrap();
        let outgoing = Box::pin(to.sink_map_err(|_| ConnectionClosed));
        std::future::ready(Ok(Connection::Messages { outgoing, incoming: Box::pin(from) })).boxed()
    }

    fn is_cut_off(&self) -> bool {
        self.cut_off.load(Ordering::Relaxed)
    }

    fn last_line(&self, _executor: ExecutorId) -> BoxFuture<'_, Option<String>> {
        std::future::ready(Some("fetching".to_owned())).boxed()
    }

    fn events(&self) -> Pin<Box<dyn Stream<Item = ClusterEvent> + Send>> {
        self.events.lock().unwrap().take().unwrap().boxed()
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }
}

fn empty(partitions: u32) -> model::graph::Job {
    job(0, vec![stage(0, "empty", partitions, &[], Output::Result)])
}

#[tokio::test(start_paused = true)]
async fn a_body_comes_once_launches_together_and_statuses_count_once() {
    let (backend, mut ends) = Scripted::new();
    let (driver, _) = start_over(Arc::new(InMemory::new()), Options { slots: 4, ..Options::default() }, backend);
    let executor = async {
        let mut link = ends.next().await.unwrap();
        link.greet(|_| {}).await;
        let ToExecutor::Body(body) = link.heard().await else { panic!("the body comes first") };
        assert_eq!(body.name, "empty at program.rs");
        let ToExecutor::Launch(tasks) = link.heard().await else { panic!("then the tasks") };
        assert!(tasks.len() >= 4, "one message for all that has a slot, not {}", tasks.len());
        let mut number = 0;
        let mut open: VecDeque<_> = tasks.into_iter().map(|task| task.attempt).collect();
        while let Some(attempt) = open.pop_front() {
            number += 1;
            link.succeed(number, attempt, b"x").await;
            link.succeed(number, attempt, b"y").await; // resent: it changes nothing
            while link.acknowledged_or_launched(&mut open).await < number {}
        }
        number
    };
    let (items, number) = tokio::join!(items(&driver, empty(6)), executor);
    assert_eq!(number, 6);
    let items = items.unwrap();
    assert_eq!(items.len(), 6);
    assert!(items.iter().all(|item| matches!(item, JobItem::Result { bytes, .. } if bytes == "x")), "{items:?}");
    driver.stop(None).await;
}

impl Ends {
    /// Takes in launches until something is acknowledged.
    async fn acknowledged_or_launched(&mut self, open: &mut VecDeque<AttemptId>) -> u64 {
        loop {
            match self.heard().await {
                ToExecutor::Acknowledge(number) => return number,
                ToExecutor::Launch(tasks) => open.extend(tasks.into_iter().map(|task| task.attempt)),
                ToExecutor::Body(_) => panic!("a body comes once"),
                _ => {}
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_hello_that_differs_is_refused_and_both_values_are_named() {
    let (backend, mut ends) = Scripted::new();
    let released = Arc::clone(&backend.released);
    let (driver, heard) = start_over(Arc::new(InMemory::new()), Options::default(), backend);
    let mut link = ends.next().await.unwrap();
    link.greet(|reply| reply.protocol = 99).await;
    let lost = async {
        loop {
            let events = heard.events();
            let lost = events.iter().find_map(|event| match event {
                AppEvent::ExecutorLost { cause, why, .. } => Some((*cause, why.clone())),
                _ => None,
            });
            if let Some(lost) = lost {
                return lost;
            }
            tokio::task::yield_now().await;
        }
    };
    let (cause, why) = timeout(SOON, lost).await.unwrap();
    assert_eq!(cause, LossCause::Start);
    assert!(why.contains("protocol 1") && why.contains("99"), "{why}");
    assert_eq!(released.lock().unwrap().front(), Some(&ExecutorId(1)), "it is killed");
    driver.stop(None).await;
}

#[tokio::test(start_paused = true)]
async fn a_link_that_broke_is_made_again_and_nothing_runs_twice() {
    let (backend, mut ends) = Scripted::new();
    let (driver, heard) = start_over(Arc::new(InMemory::new()), Options::default(), backend);
    let executor = async {
        let mut link = ends.next().await.unwrap();
        link.greet(|_| {}).await;
        let attempts = link.launched().await;
        assert_eq!(attempts.len(), 2);
        link.succeed(1, attempts[0], b"x").await;
        assert_eq!(link.acknowledged().await, 1);
        drop(link);
        let mut link = ends.next().await.unwrap();
        link.greet(|reply| reply.holding = vec![attempts[1]]).await;
        // The first status again, since its acknowledgement may have been lost, and the second.
        link.succeed(1, attempts[0], b"y").await;
        link.succeed(2, attempts[1], b"x").await;
        while link.acknowledged().await < 2 {}
    };
    let (items, ()) = tokio::join!(items(&driver, empty(2)), executor);
    assert_eq!(items.unwrap().len(), 2);
    assert_eq!(heard.count(|e| matches!(e, AppEvent::TaskLaunched { .. })), 2);
    assert_eq!(heard.count(|e| matches!(e, AppEvent::ExecutorJoined { .. })), 1);
    assert_eq!(heard.count(|e| matches!(e, AppEvent::ExecutorLost { .. })), 0);
    driver.stop(None).await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_a_broken_link_lost_is_launched_anew() {
    let (backend, mut ends) = Scripted::new();
    let (driver, _) = start_over(Arc::new(InMemory::new()), Options::default(), backend);
    let executor = async {
        let mut link = ends.next().await.unwrap();
        link.greet(|_| {}).await;
        let first = link.launched().await;
        drop(link);
        let mut link = ends.next().await.unwrap();
        link.greet(|_| {}).await;
        let ToExecutor::Body(_) = link.heard().await else { panic!("a new connection has no bodies") };
        let second = link.launched().await;
        assert_ne!(first, second, "an attempt is never sent twice");
        link.succeed(1, second[0], b"x").await;
        link.acknowledged().await;
    };
    let (items, ()) = tokio::join!(items(&driver, empty(1)), executor);
    assert_eq!(items.unwrap().len(), 1);
    driver.stop(None).await;
}

/// It was told to end by its system. It got every task again at once, thousands of times until it was gone.
#[tokio::test(start_paused = true)]
async fn an_executor_that_gives_a_task_back_is_sent_no_other() {
    let (backend, mut ends) = Scripted::new();
    let (driver, heard) = start_over(Arc::new(InMemory::new()), Options::default(), backend);
    let executor = async {
        let mut link = ends.next().await.unwrap();
        link.greet(|_| {}).await;
        let attempt = link.launched().await[0];
        let failure = Failure::new(FailureKind::Lost(LossCause::Released), "not begun: the executor drains");
        let outcome = TaskOutcome::Failed(Box::new(failure));
        link.say(FromExecutor::Status(vec![TaskStatus { number: 1, attempt, outcome }])).await;
        loop {
            match link.heard().await {
                ToExecutor::Drain { .. } => return,
                ToExecutor::Launch(tasks) => panic!("{} tasks are launched there", tasks.len()),
                _ => {}
            }
        }
    };
    tokio::select! {
        _ = items(&driver, empty(1)) => panic!("nobody has run the task"),
        () = executor => {}
    }
    assert_eq!(heard.count(|e| matches!(e, AppEvent::TaskLaunched { .. })), 1);
    driver.stop(None).await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_executor_is_lost_within_30_seconds() {
    let (backend, mut ends) = Scripted::new();
    let (driver, heard) = start_over(Arc::new(InMemory::new()), Options::default(), backend);
    let began = tokio::time::Instant::now();
    let mut link = ends.next().await.unwrap();
    link.greet(|_| {}).await;
    // It takes what it is told, and says nothing.
    let deaf = async { while link.said.next().await.is_some() {} };
    timeout(std::time::Duration::from_secs(40), deaf).await.expect("the driver closes the link");
    assert!(began.elapsed() <= std::time::Duration::from_secs(30), "{:?}", began.elapsed());
    assert_eq!(heard.count(|e| matches!(e, AppEvent::ExecutorLost { cause: LossCause::Infrastructure, .. })), 1);
    driver.stop(None).await;
}

/// Sentences about what is waited for.
fn waits(heard: &Heard) -> Vec<String> {
    let said = heard.events().into_iter().filter_map(|event| match event {
        AppEvent::Waiting { why } => Some(why),
        _ => None,
    });
    said.collect()
}

/// Fetching and unpacking its program took longer than 20 s, and two such executors failed the application.
#[tokio::test(start_paused = true)]
async fn an_executor_that_answers_late_is_waited_for_and_said_to_be_silent() {
    let (backend, mut ends) = Scripted::new();
    let (driver, heard) = start_over(Arc::new(InMemory::new()), Options::default(), backend);
    let began = tokio::time::Instant::now();
    let mut unanswered = Vec::new();
    while began.elapsed() < Duration::from_secs(45) {
        // It accepts, and says nothing.
        unanswered.push(ends.next().await.unwrap());
    }
    assert_eq!(waits(&heard), ["e1 runs but does not answer; its last line: fetching"]);
    let mut link = ends.next().await.unwrap();
    link.greet(|_| {}).await;
    assert!(matches!(link.said.next().await, Some(ToExecutor::Heartbeat)));
    assert_eq!(waits(&heard)[1..], [""]);
    assert_eq!(heard.count(|e| matches!(e, AppEvent::ExecutorJoined { .. })), 1);
    assert_eq!(heard.count(|e| matches!(e, AppEvent::ExecutorLost { .. })), 0);
    driver.stop(None).await;
}

#[tokio::test(start_paused = true)]
async fn an_executor_that_never_answers_could_not_be_used() {
    let (backend, mut ends) = Scripted::new();
    let (driver, heard) = start_over(Arc::new(InMemory::new()), Options::default(), backend);
    let began = tokio::time::Instant::now();
    let mut unanswered = Vec::new();
    let lost = |event: &AppEvent| matches!(event, AppEvent::ExecutorLost { cause: LossCause::Start, .. });
    while heard.count(lost) == 0 {
        let next = timeout(Duration::from_secs(6), ends.next()).await;
        unanswered.extend(next.ok().flatten());
    }
    assert!((55..=66).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert_eq!(waits(&heard)[1..], [""], "nobody waits for it any more");
    driver.stop(None).await;
}

/// The API server through which executors are reached was away: they were lost after 20 s.
#[tokio::test(start_paused = true)]
async fn executors_that_are_cut_off_are_waited_for_a_minute_and_no_longer() {
    for (lasts, lost) in [(50, 0), (90, 1)] {
        let (backend, mut ends) = Scripted::new();
        let cut_off = Arc::clone(&backend.cut_off);
        let (driver, heard) = start_over(Arc::new(InMemory::new()), Options::default(), backend);
        let mut link = ends.next().await.unwrap();
        link.greet(|_| {}).await;
        assert!(matches!(link.said.next().await, Some(ToExecutor::Heartbeat)));
        cut_off.store(true, Ordering::Relaxed);
        drop(link);
        let again = timeout(Duration::from_secs(lasts), ends.next()).await;
        assert!(again.is_err(), "nobody is reached");
        cut_off.store(false, Ordering::Relaxed);
        if lost == 0 {
            let mut link = ends.next().await.unwrap();
            link.greet(|_| {}).await;
            assert!(matches!(link.said.next().await, Some(ToExecutor::Heartbeat)));
        }
        let losses = heard.count(|e| matches!(e, AppEvent::ExecutorLost { cause: LossCause::Infrastructure, .. }));
        assert_eq!(losses, lost, "cut off for {lasts} s");
        driver.stop(None).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_executor_is_told_what_to_forget() {
    let (backend, mut ends) = Scripted::new();
    let (driver, _) = start_over(Arc::new(InMemory::new()), Options::default(), backend);
    let mut link = ends.next().await.unwrap();
    link.greet(|_| {}).await;
    // The driver has taken the hello once it sends its first heartbeat.
    assert!(matches!(link.said.next().await, Some(ToExecutor::Heartbeat)));
    driver.unpersist(model::RddId(7));
    assert_eq!(link.heard().await, ToExecutor::Unpersist(model::RddId(7)));
    driver.forget_broadcast(model::BroadcastId(8));
    assert_eq!(link.heard().await, ToExecutor::ForgetBroadcast(model::BroadcastId(8)));
    driver.stop(None).await;
}
