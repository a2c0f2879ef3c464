//! A driver's end of an executor, and stage bodies that say in words what their tasks do.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use executor::start::{Incoming, Outgoing, in_process};
use executor::{BodyRunner, ExecutorConfig, Level, PreparedStage, TaskContext, TaskProduct};
use futures::{SinkExt, StreamExt};
use model::failure::FailureKind;
use model::graph::BodyKind;
use model::messages::*;
use model::shuffle::{Codec, RowKind, ShuffleSpec};
use model::{
    AppId, AttemptId, BroadcastId, Epoch, ExecutorId, Failure, Generation, JobId, PartitionId, RddId, ShuffleId,
    StageAttempt, StageId, WorkingMemory,
};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::path::Path;
use tokio::runtime::Handle;
use tokio::time::timeout;

/// Longer than anything here takes, also on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);

pub(crate) const APP: AppId = AppId(7);

/// Doors that tasks wait at until a test opens them.
#[derive(Default)]
pub(crate) struct Doors {
    open: Mutex<HashSet<u32>>,
    changed: Condvar,
}

impl Doors {
    pub(crate) fn open(&self, partitions: impl IntoIterator<Item = u32>) {
        self.open.lock().unwrap().extend(partitions);
        self.changed.notify_all();
    }

    fn wait(&self, partition: u32) {
        let open = self.open.lock().unwrap();
        let (open, _) = self.changed.wait_timeout_while(open, SOON, |open| !open.contains(&partition)).unwrap();
        assert!(open.contains(&partition), "nobody opened door {partition}");
    }
}

/// Runs bodies that are one word.
#[derive(Default)]
pub(crate) struct Words {
    pub(crate) doors: Arc<Doors>,
    pub(crate) prepared: AtomicUsize,
    pub(crate) forgotten: Mutex<Vec<BroadcastId>>,
}

struct Word {
    word: String,
    doors: Arc<Doors>,
}

impl BodyRunner for Words {
    fn prepare(&self, _: BodyKind, _: &str, body: Bytes) -> Result<Arc<dyn PreparedStage>, Failure> {
        self.prepared.fetch_add(1, Ordering::SeqCst);
        match &body[..] {
            b"unpreparable" => Err(Failure::new(FailureKind::Query, "no such function")),
            b"panic in prepare" => panic!("no body"),
            _ => Ok(Arc::new(Word { word: String::from_utf8_lossy(&body).into(), doors: self.doors.clone() })),
        }
    }

    fn forget_broadcast(&self, broadcast: BroadcastId) {
        self.forgotten.lock().unwrap().push(broadcast);
    }
}

impl PreparedStage for Word {
    fn run(&self, task: TaskContext) -> Result<TaskProduct, Failure> {
        let result = |bytes: Bytes| Ok(TaskProduct { result: Some(bytes), ..TaskProduct::default() });
        match self.word.as_str() {
            "echo" => result(task.input),
            "panic" => panic!("row 17 is bad"),
            "fail" => Err(Failure::new(FailureKind::UserCode { panicked: false, transient: true }, "try again")),
            "door" => {
                self.doors.wait(task.attempt.partition.0);
                result(task.input)
            }
            "until cancelled" => {
                task.io.block_on(task.cancel.cancelled());
                Err(Failure::new(FailureKind::Internal, "what a cancelled task says does not matter"))
            }
            "megabytes" => result(vec![7u8; (2 << 20) + 3].into()),
            "cache" => {
                let (rdd, partition) = (RddId(1), task.attempt.partition);
                if task.blocks.get(rdd, partition, Level::Memory)?.is_some() {
                    return result(Bytes::from_static(b"hit"));
                }
                let held = task.blocks.put(rdd, partition, Level::Memory, vec![task.input])?;
                Ok(TaskProduct {
                    result: Some(Bytes::from_static(b"miss")),
                    cached: if held { vec![(rdd, partition)] } else { Vec::new() },
                    ..TaskProduct::default()
                })
            }
            "parallel" => {
                use rayon::prelude::*;
                let sum: u64 = (0..10_000u64).into_par_iter().map(|x| x % 7).sum();
                result(sum.to_string().into_bytes().into())
            }
            "overflowing memory" => {
                assert!(task.memory.try_grow(task.memory.floor()));
                match task.memory.try_grow(u64::MAX / 2) {
                    true => panic!("the pool gave what nobody has"),
                    false => Err(Failure::new(FailureKind::TaskMemory, "hold rows")),
                }
            }
            "write" => {
                let spec = task.writes.as_ref().expect("a stage that writes");
                let mut member = task.shuffle.member(spec, task.attempt, task.stage_has_pending);
                (0..100u32)
                    .try_for_each(|row| member.write_record(row % spec.partitions, &task.input))
                    .and_then(|()| member.finish())
                    .map(|written| TaskProduct { written: Some(written), ..TaskProduct::default() })
                    .map_err(shuffle::Error::into_failure)
            }
            "empty" => Ok(TaskProduct::default()),
            other => panic!("no body is called {other}"),
        }
    }
}

/// A driver's end.
pub(crate) struct Driver {
    pub(crate) outgoing: Outgoing,
    pub(crate) incoming: Incoming,
    pub(crate) started: Vec<AttemptId>,
    pub(crate) handed_over: Vec<AttemptId>,
    pub(crate) heartbeats: Vec<ExecutorHeartbeat>,
    /// What has ended, by attempt; each once.
    pub(crate) ended: HashMap<AttemptId, TaskOutcome>,
    pub(crate) last_number: u64,
    pub(crate) drained: bool,
    pub(crate) acknowledges: bool,
}

pub(crate) struct Rig {
    pub(crate) driver: Driver,
    pub(crate) words: Arc<Words>,
    pub(crate) store: Arc<dyn ObjectStore>,
    _disk: tempfile::TempDir,
}

pub(crate) fn hello() -> Hello {
    Hello {
        protocol: proto::version::PROTOCOL,
        app: APP,
        epoch: Epoch(1),
        executor: ExecutorId(3),
        program: "abc".into(),
        slots: 2,
        memory: 1 << 30,
        store: "memory://".into(),
        settings: BTreeMap::new(),
    }
}

/// An executor in this process that has said hello.
pub(crate) async fn rig(slots: u32) -> Rig {
    let (words, disk) = (Arc::new(Words::default()), tempfile::tempdir().unwrap());
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let config = config(slots, store.clone(), disk.path().to_owned());
    let (outgoing, incoming) = in_process(config, words.clone(), Handle::current());
    let mut driver = Driver::new(outgoing, incoming);
    let reply = driver.hello(hello()).await.unwrap();
    assert_eq!(reply.holding, []);
    Rig { driver, words, store, _disk: disk }
}

pub(crate) fn config(slots: u32, store: Arc<dyn ObjectStore>, disk: PathBuf) -> ExecutorConfig {
    ExecutorConfig {
        app: APP,
        epoch: Epoch(1),
        id: ExecutorId(3),
        program: "abc".into(),
        slots,
        memory: 1 << 30,
        store,
        root: Path::from("root"),
        disk,
        settings: BTreeMap::new(),
    }
}

pub(crate) fn attempt(stage: u32, partition: u32) -> AttemptId {
    AttemptId {
        job: JobId(0),
        stage: StageId(stage),
        stage_attempt: StageAttempt(0),
        partition: PartitionId(partition),
        attempt: 0,
    }
}

pub(crate) fn body(stage: u32, word: &str) -> ToExecutor {
    stored_body(stage, Payload::Inline(Bytes::copy_from_slice(word.as_bytes())))
}

pub(crate) fn stored_body(stage: u32, body: Payload) -> ToExecutor {
    ToExecutor::Body(Box::new(StageBody {
        stage: StageId(stage),
        stage_attempt: StageAttempt(0),
        name: format!("stage {stage}"),
        kind: BodyKind::Function,
        body,
        writes: None,
        reads: Vec::new(),
    }))
}

/// A stage whose tasks write 100 records each; the shuffle has the number of the stage.
pub(crate) fn writing_body(stage: u32, maps: u32, inline_max: u32) -> ToExecutor {
    let ToExecutor::Body(mut body) = body(stage, "write") else { unreachable!("made above") };
    body.writes = Some(ShuffleSpec {
        app: APP,
        epoch: Epoch(1),
        shuffle: ShuffleId(stage),
        generation: Generation(0),
        maps,
        partitions: 4,
        kind: RowKind::Records { type_name: "text".into() },
        codec: Codec::None,
        inline_max,
    });
    ToExecutor::Body(body)
}

pub(crate) fn task(stage: u32, partition: u32) -> LaunchTask {
    let input = Payload::Inline(format!("rows {partition}").into_bytes().into());
    LaunchTask { attempt: attempt(stage, partition), input, reads: Vec::new(), stage_has_pending: false }
}

impl Driver {
    pub(crate) fn new(outgoing: Outgoing, incoming: Incoming) -> Self {
        Self {
            outgoing,
            incoming,
            started: Vec::new(),
            handed_over: Vec::new(),
            heartbeats: Vec::new(),
            ended: HashMap::new(),
            last_number: 0,
            drained: false,
            acknowledges: true,
        }
    }

    pub(crate) async fn say(&mut self, message: ToExecutor) {
        self.outgoing.send(message).await.unwrap();
    }

    pub(crate) async fn hello(&mut self, hello: Hello) -> Option<HelloReply> {
        self.say(ToExecutor::Hello(Box::new(hello))).await;
        match timeout(SOON, self.incoming.next()).await.expect("an answer") {
            Some(FromExecutor::Hello(reply)) => Some(*reply),
            Some(other) => panic!("instead of a hello: {other:?}"),
            None => None,
        }
    }

    /// Hears one message; `None` if the executor has ended.
    pub(crate) async fn hear(&mut self) -> Option<()> {
        match timeout(SOON, self.incoming.next()).await.expect("a word of the executor")? {
            FromExecutor::Hello(reply) => panic!("a second hello: {reply:?}"),
            FromExecutor::Started(attempts) => self.started.extend(attempts),
            FromExecutor::HandedOver(attempts) => self.handed_over.extend(attempts),
            FromExecutor::Status(statuses) => {
                for status in statuses {
                    assert_eq!(status.number, self.last_number + 1, "numbers have no gap");
                    self.last_number = status.number;
                    assert!(self.ended.insert(status.attempt, status.outcome).is_none(), "{} twice", status.attempt);
                }
                if self.acknowledges {
                    let _ = self.outgoing.send(ToExecutor::Acknowledge(self.last_number)).await;
                }
            }
            FromExecutor::Heartbeat(heartbeat) => self.heartbeats.push(heartbeat),
            FromExecutor::Drained => self.drained = true,
        }
        Some(())
    }

    pub(crate) async fn until(&mut self, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            self.hear().await.expect("the executor ended early");
        }
    }

    pub(crate) async fn outcome(&mut self, attempt: AttemptId) -> TaskOutcome {
        self.until(|driver| driver.ended.contains_key(&attempt)).await;
        self.ended[&attempt].clone()
    }

    pub(crate) async fn success(&mut self, attempt: AttemptId) -> TaskSuccess {
        match self.outcome(attempt).await {
            TaskOutcome::Succeeded(success) => *success,
            TaskOutcome::Failed(failure) => panic!("{attempt} failed: {failure}"),
        }
    }

    pub(crate) async fn failure(&mut self, attempt: AttemptId) -> Failure {
        match self.outcome(attempt).await {
            TaskOutcome::Succeeded(success) => panic!("{attempt} succeeded: {success:?}"),
            TaskOutcome::Failed(failure) => *failure,
        }
    }

    /// Hears until the executor has ended.
    pub(crate) async fn hear_all(&mut self) {
        while self.hear().await.is_some() {}
    }
}
