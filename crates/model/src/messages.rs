//! What do driver and executor say to each other?
//!
//! One ordered stream each way. In one process these values go through a channel as they are; across processes `proto`
//! converts them. Everything of an old epoch or a lost incarnation is void.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use crate::failure::Failure;
use crate::graph::BodyKind;
use crate::ids::{
    AccumulatorId, AppId, AttemptId, BroadcastId, Epoch, ExecutorId, Generation, PartitionId, RddId, ShuffleId,
    StageAttempt, StageId,
};
use crate::metrics::TaskMetrics;
use crate::shuffle::{MapOutput, OpenObject, ReadPlan, ReadReport, ShuffleSpec};
use crate::write::StagedFile;

/// The driver's first message: who calls, and what the executor is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Version of this protocol ([`proto`'s `version`]).
    pub protocol: u32,
    /// The application.
    pub app: AppId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Which executor the driver believes it reached.
    pub executor: ExecutorId,
    /// SHA-256 of the executable, in hex: both must run the same.
    pub program: String,
    /// How many tasks at a time.
    pub slots: u32,
    /// How much memory, in bytes, everything together may use.
    pub memory: u64,
    /// The URL of the store's root.
    pub store: String,
    /// All settings that are not at their default, by key.
    pub settings: BTreeMap<String, String>,
}

/// The executor's answer to [`Hello`], accepted or not: the driver compares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelloReply {
    /// Its version of the protocol.
    pub protocol: u32,
    /// The application it serves.
    pub app: AppId,
    /// The epoch it serves.
    pub epoch: Epoch,
    /// Its number.
    pub executor: ExecutorId,
    /// SHA-256 of its executable.
    pub program: String,
    /// Attempts that it holds, running or ended but not acknowledged: after a reconnect, the driver's truth.
    pub holding: Vec<AttemptId>,
}

/// A body, sent once per executor and stage attempt before the first task of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageBody {
    /// The stage.
    pub stage: StageId,
    /// The attempt of the stage.
    pub stage_attempt: StageAttempt,
    /// What a person sees.
    pub name: String,
    /// Which kind of code runs it.
    pub kind: BodyKind,
    /// Its bytes.
    pub body: Payload,
    /// The shuffle it writes, if any.
    pub writes: Option<ShuffleSpec>,
    /// Every shuffle it reads.
    pub reads: Vec<ShuffleSpec>,
}

/// Bytes in the message, or in the store when they are more than a message should carry (1 MiB).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// Here.
    Inline(Bytes),
    /// At this key under the store's root.
    Stored {
        /// The key.
        key: String,
        /// How many bytes.
        length: u64,
        /// Their CRC-32C.
        crc: u32,
    },
}

impl Payload {
    /// How many bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Stored { length, .. } => *length,
        }
    }
}

/// One task to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchTask {
    /// Which attempt.
    pub attempt: AttemptId,
    /// The partition's own input.
    pub input: Payload,
    /// What it reads from shuffles.
    pub reads: Vec<ReadPlan>,
    /// Maps of the same stage still wait for a slot: its output may share an object with theirs.
    pub stage_has_pending: bool,
}

/// What the driver says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToExecutor {
    /// First of all.
    Hello(Box<Hello>),
    /// Before the first task of a stage attempt.
    Body(Box<StageBody>),
    /// Tasks to run, in this order; those without a free slot wait in the executor.
    Launch(Vec<LaunchTask>),
    /// Stop these attempts, or take them back if they have not started; each still gets a final status.
    Cancel(Vec<AttemptId>),
    /// No task of this stage attempt comes any more: its body may go.
    ForgetStage(StageId, StageAttempt),
    /// No map of this shuffle waits for a slot any more: open objects may be sealed.
    NoMoreMaps(ShuffleId, Generation),
    /// Statuses up to this number have been heard.
    Acknowledge(u64),
    /// This persisted dataset is not wanted any more.
    Unpersist(RddId),
    /// This broadcast variable is not wanted any more.
    ForgetBroadcast(BroadcastId),
    /// The driver lives. Every 5 s.
    Heartbeat,
    /// Finish what runs, start nothing, then end.
    Drain {
        /// How long what runs may take.
        grace: Duration,
    },
}

/// What an accumulator received from one task: bytes that only its type understands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccumulatorUpdate {
    /// The accumulator.
    pub accumulator: AccumulatorId,
    /// What was added.
    pub value: Bytes,
}

/// What a successful task gives.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TaskSuccess {
    /// The result stage's rows for the driver.
    pub result: Option<Payload>,
    /// A shuffle stage's output.
    pub map_output: Option<MapOutput>,
    /// Files staged by a stage that writes.
    pub staged: Vec<StagedFile>,
    /// What was read from shuffles.
    pub reads: Vec<ReadReport>,
    /// What accumulators received.
    pub accumulators: Vec<AccumulatorUpdate>,
    /// Partitions of persisted datasets that this executor now holds because of the task.
    pub cached: Vec<(RddId, PartitionId)>,
    /// Things a person should hear once, such as replaced characters of a text file.
    pub warnings: Vec<String>,
    /// Counters.
    pub metrics: TaskMetrics,
}

/// How an attempt went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskOutcome {
    /// Everything it produced is stored or in this message.
    Succeeded(Box<TaskSuccess>),
    /// It failed.
    Failed(Box<Failure>),
}

/// The end of an attempt. Resent until acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskStatus {
    /// Counts up by one per executor, from 1.
    pub number: u64,
    /// The attempt.
    pub attempt: AttemptId,
    /// How it went.
    pub outcome: TaskOutcome,
}

/// What an executor says every 5 s.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecutorHeartbeat {
    /// Objects of shuffles begun but in no status yet.
    pub open_objects: Vec<OpenObject>,
    /// Bytes of memory that pools have given out.
    pub memory_used: u64,
    /// Attempts running.
    pub running: u32,
}

/// What an executor says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromExecutor {
    /// First of all, in answer to [`ToExecutor::Hello`].
    Hello(Box<HelloReply>),
    /// These attempts have begun to run.
    Started(Vec<AttemptId>),
    /// These attempts have handed their rows over: their slots are free, but they still run.
    HandedOver(Vec<AttemptId>),
    /// These attempts have ended.
    Status(Vec<TaskStatus>),
    /// It lives. Every 5 s.
    Heartbeat(ExecutorHeartbeat),
    /// It has drained and ends now.
    Drained,
}
