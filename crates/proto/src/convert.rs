//! How does a `model` value cross the wire, and which messages are refused?
//!
//! The only place that matches on generated types. Going out nothing can fail but a message that is too large, and
//! [`pieces_to`] and [`pieces_from`] cut those that can be cut. Coming in, whatever is missing, unknown or out of range is
//! an [`Error`], never a default. Messages do not nest in themselves, so their depth is the schema's.

use std::time::Duration;

use bytes::Bytes;
use model::failure::{LossCause, MapFault, ObjectRef};
use model::graph::BodyKind;
use model::messages::{
    AccumulatorUpdate, ExecutorHeartbeat, FromExecutor, Hello, HelloReply, LaunchTask, Payload, StageBody, TaskOutcome,
    TaskStatus, TaskSuccess, ToExecutor,
};
use model::metrics::TaskMetrics;
use model::shuffle::{
    Codec, MapOutput, MapRows, NewObject, OpenObject, ReadMode, ReadPlan, ReadRange, ReadReport, ReadSource, RowKind,
    ShuffleSpec, SourceBytes, SourceMember,
};
use model::write::StagedFile;
use model::{
    AccumulatorId, AppId, AttemptId, BroadcastId, Epoch, ExecutorId, Failure, FailureKind, Generation, JobId, MapId,
    PartitionId, RddId, ShuffleId, StageAttempt, StageId,
};
use prost::Message;

use crate::generated as wire;
use wire::failure_kind::Kind as WireKind;
use wire::from_executor::Message as From_;
use wire::map_output::Location as WireLocation;
use wire::payload::Payload as WirePayload;
use wire::read_source::Bytes as WireBytes;
use wire::shuffle_spec::Kind as WireRows;
use wire::task_status::Outcome as WireOutcome;
use wire::to_executor::Message as To;

/// The largest message that either end accepts: a stage body, or tasks and statuses with shuffle plans or indexes.
pub const MESSAGE_MAX: usize = 64 << 20;

/// The largest status: what else is in its message takes a few bytes.
const STATUS_MAX: usize = MESSAGE_MAX - 64;

/// The largest message without such content.
pub const CONTROL_MAX: usize = 4 << 20;

/// Tasks or statuses are cut into messages of about this size, so that a heartbeat never waits long behind one.
const PIECE: usize = 1 << 20;

/// Tasks, statuses or attempts in one message.
const PIECE_ITEMS: usize = 16_384;

/// A message that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A part that must be there is not.
    #[error("read {message}: no {field}")]
    Missing {
        /// The message.
        message: &'static str,
        /// The part.
        field: &'static str,
    },
    /// A value that no version we know gives.
    #[error("read {message}: {value} is no {field}")]
    Unknown {
        /// The message.
        message: &'static str,
        /// The part.
        field: &'static str,
        /// The value.
        value: i64,
    },
    /// A part that does not have the length it must have.
    #[error("read {message}: {field} has {length} bytes instead of {want}")]
    Length {
        /// The message.
        message: &'static str,
        /// The part.
        field: &'static str,
        /// What it has.
        length: usize,
        /// What it must have.
        want: usize,
    },
    /// A message, or one item of it that cannot be cut, is larger than it may be.
    #[error("{message} has {bytes} bytes, and {limit} is the limit")]
    TooLarge {
        /// The message.
        message: &'static str,
        /// How large it is.
        bytes: usize,
        /// How large it may be.
        limit: usize,
    },
    /// A message has more items than it may have.
    #[error("{message} has {items} items, and {limit} is the limit")]
    TooMany {
        /// The message.
        message: &'static str,
        /// How many it has.
        items: usize,
        /// How many it may have.
        limit: usize,
    },
}

/// A message to an executor as gRPC carries it: several if it is long.
///
/// # Errors
/// [`Error::TooLarge`]: it cannot be cut, and the other end would refuse it.
pub fn pieces_to(message: ToExecutor) -> Result<Vec<wire::ToExecutor>, Error> {
    let wire = |message| wire::ToExecutor { message: Some(message) };
    let pieces: Vec<wire::ToExecutor> = match message {
        ToExecutor::Launch(tasks) => {
            cut(tasks.into_iter().map(Into::into), |tasks| wire(To::Launch(wire::LaunchTasks { tasks })))
        }
        ToExecutor::Cancel(attempts) => {
            cut(attempts.into_iter().map(Into::into), |attempts| wire(To::Cancel(wire::Attempts { attempts })))
        }
        whole => vec![whole.into()],
    };
    pieces.iter().try_for_each(check_to)?;
    Ok(pieces)
}

/// A message from an executor as gRPC carries it: several if it is long. A status that cannot be carried becomes that of
/// a failed attempt: it would be sent again on every stream, and refused on every one.
///
/// # Errors
/// [`Error::TooLarge`]: it cannot be cut, and the other end would refuse it.
pub fn pieces_from(message: FromExecutor) -> Result<Vec<wire::FromExecutor>, Error> {
    let wire = |message| wire::FromExecutor { message: Some(message) };
    let pieces: Vec<wire::FromExecutor> = match message {
        FromExecutor::Status(statuses) => {
            cut(statuses.into_iter().map(fitting), |statuses| wire(From_::Status(wire::TaskStatuses { statuses })))
        }
        FromExecutor::Started(attempts) => {
            cut(attempts.into_iter().map(Into::into), |attempts| wire(From_::Started(wire::Attempts { attempts })))
        }
        FromExecutor::HandedOver(attempts) => {
            cut(attempts.into_iter().map(Into::into), |attempts| wire(From_::HandedOver(wire::Attempts { attempts })))
        }
        whole => vec![whole.into()],
    };
    pieces.iter().try_for_each(check_from)?;
    Ok(pieces)
}

/// A status, or the news that it is too large.
fn fitting(status: TaskStatus) -> wire::TaskStatus {
    let (number, attempt) = (status.number, status.attempt);
    let wire = wire::TaskStatus::from(status);
    let bytes = wire.encoded_len();
    if bytes <= STATUS_MAX {
        return wire;
    }
    let error = Error::TooLarge { message: "the status of a task", bytes, limit: STATUS_MAX };
    let failure = Failure { attempt: Some(attempt), ..Failure::from_error(FailureKind::Limit, &error) };
    TaskStatus { number, attempt, outcome: TaskOutcome::Failed(Box::new(failure)) }.into()
}

/// Groups items into messages of at most [`PIECE`] bytes and [`PIECE_ITEMS`] items; a larger item goes alone.
fn cut<I: Message, M>(items: impl Iterator<Item = I>, wrap: impl Fn(Vec<I>) -> M) -> Vec<M> {
    let (mut messages, mut piece, mut bytes) = (Vec::new(), Vec::new(), 0);
    for item in items {
        let size = item.encoded_len();
        if !piece.is_empty() && (bytes + size > PIECE || piece.len() >= PIECE_ITEMS) {
            messages.push(wrap(std::mem::take(&mut piece)));
            bytes = 0;
        }
        bytes += size;
        piece.push(item);
    }
    if !piece.is_empty() {
        messages.push(wrap(piece));
    }
    messages
}

fn check_to(message: &wire::ToExecutor) -> Result<(), Error> {
    match &message.message {
        Some(To::Body(_)) => size("a stage body", message, MESSAGE_MAX),
        Some(To::Launch(tasks)) => {
            count("launched tasks", tasks.tasks.len())?;
            size("launched tasks", message, MESSAGE_MAX)
        }
        Some(To::Cancel(attempts)) => {
            count("cancelled attempts", attempts.attempts.len())?;
            size("a control message", message, CONTROL_MAX)
        }
        Some(
            To::Hello(_)
            | To::ForgetStage(_)
            | To::NoMoreMaps(_)
            | To::Acknowledge(_)
            | To::Unpersist(_)
            | To::ForgetBroadcast(_)
            | To::Heartbeat(_)
            | To::Drain(_),
        )
        | None => size("a control message", message, CONTROL_MAX),
    }
}

fn check_from(message: &wire::FromExecutor) -> Result<(), Error> {
    match &message.message {
        Some(From_::Status(statuses)) => {
            count("statuses", statuses.statuses.len())?;
            size("statuses", message, MESSAGE_MAX)
        }
        // All attempts that an executor holds, and all objects it has opened.
        Some(From_::Hello(_) | From_::Heartbeat(_)) => size("a message about all that is held", message, MESSAGE_MAX),
        Some(From_::Started(attempts) | From_::HandedOver(attempts)) => {
            count("attempts", attempts.attempts.len())?;
            size("a control message", message, CONTROL_MAX)
        }
        Some(From_::Drained(_)) | None => size("a control message", message, CONTROL_MAX),
    }
}

fn size(message: &'static str, value: &impl Message, limit: usize) -> Result<(), Error> {
    let bytes = value.encoded_len();
    if bytes <= limit { Ok(()) } else { Err(Error::TooLarge { message, bytes, limit }) }
}

fn count(message: &'static str, items: usize) -> Result<(), Error> {
    if items <= PIECE_ITEMS { Ok(()) } else { Err(Error::TooMany { message, items, limit: PIECE_ITEMS }) }
}

fn need<T>(value: Option<T>, message: &'static str, field: &'static str) -> Result<T, Error> {
    value.ok_or(Error::Missing { message, field })
}

fn all<T, W: TryInto<T, Error = Error>>(values: Vec<W>) -> Result<Vec<T>, Error> {
    values.into_iter().map(TryInto::try_into).collect()
}

fn into_all<T, W: From<T>>(values: Vec<T>) -> Vec<W> {
    values.into_iter().map(Into::into).collect()
}

fn app_out(app: AppId) -> Bytes {
    Bytes::copy_from_slice(&app.0.to_be_bytes())
}

fn app_in(bytes: &Bytes, message: &'static str) -> Result<AppId, Error> {
    let array = <[u8; 16]>::try_from(&bytes[..]);
    array.map(|array| AppId(u128::from_be_bytes(array))).map_err(|_| Error::Length {
        message,
        field: "application",
        length: bytes.len(),
        want: 16,
    })
}

fn generation_in(value: u32, message: &'static str) -> Result<Generation, Error> {
    let generation = u16::try_from(value);
    generation.map(Generation).map_err(|_| Error::Unknown { message, field: "generation", value: value.into() })
}

// --- Whole messages ---

impl From<ToExecutor> for wire::ToExecutor {
    fn from(message: ToExecutor) -> Self {
        let message = match message {
            ToExecutor::Hello(hello) => To::Hello((*hello).into()),
            ToExecutor::Body(body) => To::Body((*body).into()),
            ToExecutor::Launch(tasks) => To::Launch(wire::LaunchTasks { tasks: into_all(tasks) }),
            ToExecutor::Cancel(attempts) => To::Cancel(wire::Attempts { attempts: into_all(attempts) }),
            ToExecutor::ForgetStage(stage, attempt) => {
                To::ForgetStage(wire::StageRef { stage: stage.0, stage_attempt: attempt.0 })
            }
            ToExecutor::NoMoreMaps(shuffle, generation) => {
                To::NoMoreMaps(wire::NoMoreMaps { shuffle: shuffle.0, generation: generation.0.into() })
            }
            ToExecutor::Acknowledge(number) => To::Acknowledge(number),
            ToExecutor::Unpersist(rdd) => To::Unpersist(rdd.0),
            ToExecutor::ForgetBroadcast(broadcast) => To::ForgetBroadcast(broadcast.0),
            ToExecutor::Heartbeat => To::Heartbeat(wire::Alive {}),
            ToExecutor::Drain { grace } => {
                To::Drain(wire::Duration { seconds: grace.as_secs(), nanos: grace.subsec_nanos() })
            }
        };
        Self { message: Some(message) }
    }
}

impl TryFrom<wire::ToExecutor> for ToExecutor {
    type Error = Error;

    fn try_from(message: wire::ToExecutor) -> Result<Self, Error> {
        check_to(&message)?;
        Ok(match need(message.message, "a message to an executor", "content")? {
            To::Hello(hello) => Self::Hello(Box::new(hello.try_into()?)),
            To::Body(body) => Self::Body(Box::new(body.try_into()?)),
            To::Launch(tasks) => Self::Launch(all(tasks.tasks)?),
            To::Cancel(attempts) => Self::Cancel(into_all(attempts.attempts)),
            To::ForgetStage(stage) => Self::ForgetStage(StageId(stage.stage), StageAttempt(stage.stage_attempt)),
            To::NoMoreMaps(maps) => {
                Self::NoMoreMaps(ShuffleId(maps.shuffle), generation_in(maps.generation, "no more maps")?)
            }
            To::Acknowledge(number) => Self::Acknowledge(number),
            To::Unpersist(rdd) => Self::Unpersist(RddId(rdd)),
            To::ForgetBroadcast(broadcast) => Self::ForgetBroadcast(BroadcastId(broadcast)),
            To::Heartbeat(wire::Alive {}) => Self::Heartbeat,
            To::Drain(wire::Duration { seconds, nanos }) => {
                if nanos >= 1_000_000_000 {
                    return Err(Error::Unknown { message: "a drain", field: "part of a second", value: nanos.into() });
                }
                Self::Drain { grace: Duration::new(seconds, nanos) }
            }
        })
    }
}

impl From<FromExecutor> for wire::FromExecutor {
    fn from(message: FromExecutor) -> Self {
        let message = match message {
            FromExecutor::Hello(reply) => From_::Hello((*reply).into()),
            FromExecutor::Started(attempts) => From_::Started(wire::Attempts { attempts: into_all(attempts) }),
            FromExecutor::HandedOver(attempts) => From_::HandedOver(wire::Attempts { attempts: into_all(attempts) }),
            FromExecutor::Status(statuses) => From_::Status(wire::TaskStatuses { statuses: into_all(statuses) }),
            FromExecutor::Heartbeat(heartbeat) => From_::Heartbeat(heartbeat.into()),
            FromExecutor::Drained => From_::Drained(wire::Alive {}),
        };
        Self { message: Some(message) }
    }
}

impl TryFrom<wire::FromExecutor> for FromExecutor {
    type Error = Error;

    fn try_from(message: wire::FromExecutor) -> Result<Self, Error> {
        check_from(&message)?;
        Ok(match need(message.message, "a message from an executor", "content")? {
            From_::Hello(reply) => Self::Hello(Box::new(reply.try_into()?)),
            From_::Started(attempts) => Self::Started(into_all(attempts.attempts)),
            From_::HandedOver(attempts) => Self::HandedOver(into_all(attempts.attempts)),
            From_::Status(statuses) => Self::Status(all(statuses.statuses)?),
            From_::Heartbeat(heartbeat) => Self::Heartbeat(heartbeat.try_into()?),
            From_::Drained(wire::Alive {}) => Self::Drained,
        })
    }
}

// --- Hello ---

impl From<Hello> for wire::Hello {
    fn from(hello: Hello) -> Self {
        let Hello { protocol, app, epoch, executor, program, slots, memory, store, settings } = hello;
        let (app, epoch, executor) = (app_out(app), epoch.0, executor.0);
        Self { protocol, app, epoch, executor, program, slots, memory, store, settings }
    }
}

impl TryFrom<wire::Hello> for Hello {
    type Error = Error;

    fn try_from(hello: wire::Hello) -> Result<Self, Error> {
        let wire::Hello { protocol, app, epoch, executor, program, slots, memory, store, settings } = hello;
        let (app, epoch, executor) = (app_in(&app, "a hello")?, Epoch(epoch), ExecutorId(executor));
        Ok(Self { protocol, app, epoch, executor, program, slots, memory, store, settings })
    }
}

impl From<HelloReply> for wire::HelloReply {
    fn from(reply: HelloReply) -> Self {
        let HelloReply { protocol, app, epoch, executor, program, holding } = reply;
        let (app, epoch, executor) = (app_out(app), epoch.0, executor.0);
        Self { protocol, app, epoch, executor, program, holding: into_all(holding) }
    }
}

impl TryFrom<wire::HelloReply> for HelloReply {
    type Error = Error;

    fn try_from(reply: wire::HelloReply) -> Result<Self, Error> {
        let wire::HelloReply { protocol, app, epoch, executor, program, holding } = reply;
        let (app, epoch, executor) = (app_in(&app, "a hello's reply")?, Epoch(epoch), ExecutorId(executor));
        Ok(Self { protocol, app, epoch, executor, program, holding: into_all(holding) })
    }
}

impl From<AttemptId> for wire::AttemptId {
    fn from(id: AttemptId) -> Self {
        let AttemptId { job, stage, stage_attempt, partition, attempt } = id;
        Self { job: job.0, stage: stage.0, stage_attempt: stage_attempt.0, partition: partition.0, attempt }
    }
}

impl From<wire::AttemptId> for AttemptId {
    fn from(id: wire::AttemptId) -> Self {
        let wire::AttemptId { job, stage, stage_attempt, partition, attempt } = id;
        Self {
            job: JobId(job),
            stage: StageId(stage),
            stage_attempt: StageAttempt(stage_attempt),
            partition: PartitionId(partition),
            attempt,
        }
    }
}

// --- Stages and tasks ---

impl From<StageBody> for wire::StageBody {
    fn from(body: StageBody) -> Self {
        let StageBody { stage, stage_attempt, name, kind, body, writes, reads } = body;
        let kind = match kind {
            BodyKind::Function => wire::BodyKind::Function,
            BodyKind::Plan => wire::BodyKind::Plan,
        };
        Self {
            stage: stage.0,
            stage_attempt: stage_attempt.0,
            name,
            kind: kind.into(),
            body: Some(body.into()),
            writes: writes.map(Into::into),
            reads: into_all(reads),
        }
    }
}

impl TryFrom<wire::StageBody> for StageBody {
    type Error = Error;

    fn try_from(body: wire::StageBody) -> Result<Self, Error> {
        const MESSAGE: &str = "a stage body";
        let wire::StageBody { stage, stage_attempt, name, kind, body, writes, reads } = body;
        let kind = match wire::BodyKind::try_from(kind) {
            Ok(wire::BodyKind::Function) => BodyKind::Function,
            Ok(wire::BodyKind::Plan) => BodyKind::Plan,
            Ok(wire::BodyKind::Unspecified) | Err(_) => {
                return Err(Error::Unknown { message: MESSAGE, field: "kind", value: kind.into() });
            }
        };
        Ok(Self {
            stage: StageId(stage),
            stage_attempt: StageAttempt(stage_attempt),
            name,
            kind,
            body: need(body, MESSAGE, "body")?.try_into()?,
            writes: writes.map(TryInto::try_into).transpose()?,
            reads: all(reads)?,
        })
    }
}

impl From<Payload> for wire::Payload {
    fn from(payload: Payload) -> Self {
        let payload = match payload {
            Payload::Inline(bytes) => WirePayload::Inline(bytes),
            Payload::Stored { key, length, crc } => WirePayload::Stored(wire::StoredPayload { key, length, crc }),
        };
        Self { payload: Some(payload) }
    }
}

impl TryFrom<wire::Payload> for Payload {
    type Error = Error;

    fn try_from(payload: wire::Payload) -> Result<Self, Error> {
        Ok(match need(payload.payload, "a payload", "bytes")? {
            WirePayload::Inline(bytes) => Self::Inline(bytes),
            WirePayload::Stored(wire::StoredPayload { key, length, crc }) => Self::Stored { key, length, crc },
        })
    }
}

impl From<LaunchTask> for wire::LaunchTask {
    fn from(task: LaunchTask) -> Self {
        let LaunchTask { attempt, input, reads, stage_has_pending } = task;
        Self { attempt: Some(attempt.into()), input: Some(input.into()), reads: into_all(reads), stage_has_pending }
    }
}

impl TryFrom<wire::LaunchTask> for LaunchTask {
    type Error = Error;

    fn try_from(task: wire::LaunchTask) -> Result<Self, Error> {
        let wire::LaunchTask { attempt, input, reads, stage_has_pending } = task;
        Ok(Self {
            attempt: need(attempt, "a task", "attempt")?.into(),
            input: need(input, "a task", "input")?.try_into()?,
            reads: all(reads)?,
            stage_has_pending,
        })
    }
}

// --- Shuffles ---

impl From<ShuffleSpec> for wire::ShuffleSpec {
    fn from(spec: ShuffleSpec) -> Self {
        let ShuffleSpec { app, epoch, shuffle, generation, maps, partitions, kind, codec, inline_max } = spec;
        let kind = match kind {
            RowKind::Arrow { schema } => WireRows::ArrowSchema(schema),
            RowKind::Records { type_name } => WireRows::RecordType(type_name),
        };
        let codec = match codec {
            Codec::None => wire::Codec::None,
            Codec::Lz4 => wire::Codec::Lz4,
            Codec::Zstd => wire::Codec::Zstd,
        };
        Self {
            app: app_out(app),
            epoch: epoch.0,
            shuffle: shuffle.0,
            generation: generation.0.into(),
            maps,
            partitions,
            kind: Some(kind),
            codec: codec.into(),
            inline_max,
        }
    }
}

impl TryFrom<wire::ShuffleSpec> for ShuffleSpec {
    type Error = Error;

    fn try_from(spec: wire::ShuffleSpec) -> Result<Self, Error> {
        const MESSAGE: &str = "a shuffle's description";
        let wire::ShuffleSpec { app, epoch, shuffle, generation, maps, partitions, kind, codec, inline_max } = spec;
        let kind = match need(kind, MESSAGE, "kind of rows")? {
            WireRows::ArrowSchema(schema) => RowKind::Arrow { schema },
            WireRows::RecordType(type_name) => RowKind::Records { type_name },
        };
        let codec = match wire::Codec::try_from(codec) {
            Ok(wire::Codec::None) => Codec::None,
            Ok(wire::Codec::Lz4) => Codec::Lz4,
            Ok(wire::Codec::Zstd) => Codec::Zstd,
            Ok(wire::Codec::Unspecified) | Err(_) => {
                return Err(Error::Unknown { message: MESSAGE, field: "codec", value: codec.into() });
            }
        };
        Ok(Self {
            app: app_in(&app, MESSAGE)?,
            epoch: Epoch(epoch),
            shuffle: ShuffleId(shuffle),
            generation: generation_in(generation, MESSAGE)?,
            maps,
            partitions,
            kind,
            codec,
            inline_max,
        })
    }
}

impl From<ReadRange> for wire::ReadRange {
    fn from(range: ReadRange) -> Self {
        let ReadRange { shuffle, start, end } = range;
        Self { shuffle: shuffle.0, start, end }
    }
}

impl From<wire::ReadRange> for ReadRange {
    fn from(range: wire::ReadRange) -> Self {
        let wire::ReadRange { shuffle, start, end } = range;
        Self { shuffle: ShuffleId(shuffle), start, end }
    }
}

impl From<ObjectRef> for wire::ObjectRef {
    fn from(object: ObjectRef) -> Self {
        Self { executor: object.executor.0, seq: object.seq }
    }
}

impl From<wire::ObjectRef> for ObjectRef {
    fn from(object: wire::ObjectRef) -> Self {
        Self { executor: ExecutorId(object.executor), seq: object.seq }
    }
}

impl From<ReadPlan> for wire::ReadPlan {
    fn from(plan: ReadPlan) -> Self {
        let ReadPlan { range, generation, mode, sources } = plan;
        let mode = match mode {
            ReadMode::Fused => wire::ReadMode::Fused,
        };
        Self {
            range: Some(range.into()),
            generation: generation.0.into(),
            mode: mode.into(),
            sources: into_all(sources),
        }
    }
}

impl TryFrom<wire::ReadPlan> for ReadPlan {
    type Error = Error;

    fn try_from(plan: wire::ReadPlan) -> Result<Self, Error> {
        const MESSAGE: &str = "a plan to read a shuffle";
        let wire::ReadPlan { range, generation, mode, sources } = plan;
        let mode = match wire::ReadMode::try_from(mode) {
            Ok(wire::ReadMode::Fused) => ReadMode::Fused,
            Ok(wire::ReadMode::Unspecified) | Err(_) => {
                return Err(Error::Unknown { message: MESSAGE, field: "mode", value: mode.into() });
            }
        };
        Ok(Self {
            range: need(range, MESSAGE, "range")?.into(),
            generation: generation_in(generation, MESSAGE)?,
            mode,
            sources: all(sources)?,
        })
    }
}

impl From<ReadSource> for wire::ReadSource {
    fn from(source: ReadSource) -> Self {
        let bytes = match source.bytes {
            SourceBytes::Inline(bytes) => WireBytes::Inline(bytes),
            SourceBytes::Object { object, offset, length } => {
                WireBytes::Object(wire::ObjectRange { object: Some(object.into()), offset, length })
            }
        };
        Self { bytes: Some(bytes), members: into_all(source.members) }
    }
}

impl TryFrom<wire::ReadSource> for ReadSource {
    type Error = Error;

    fn try_from(source: wire::ReadSource) -> Result<Self, Error> {
        const MESSAGE: &str = "a source of shuffled rows";
        let bytes = match need(source.bytes, MESSAGE, "bytes")? {
            WireBytes::Inline(bytes) => SourceBytes::Inline(bytes),
            WireBytes::Object(wire::ObjectRange { object, offset, length }) => {
                SourceBytes::Object { object: need(object, MESSAGE, "object")?.into(), offset, length }
            }
        };
        Ok(Self { bytes, members: into_all(source.members) })
    }
}

impl From<SourceMember> for wire::SourceMember {
    fn from(member: SourceMember) -> Self {
        let SourceMember { map, stage_attempt, attempt, lengths, rows } = member;
        Self { map: map.0, stage_attempt: stage_attempt.0, attempt, lengths, rows }
    }
}

impl From<wire::SourceMember> for SourceMember {
    fn from(member: wire::SourceMember) -> Self {
        let wire::SourceMember { map, stage_attempt, attempt, lengths, rows } = member;
        Self { map: MapId(map), stage_attempt: StageAttempt(stage_attempt), attempt, lengths, rows }
    }
}

// --- Statuses ---

impl From<TaskStatus> for wire::TaskStatus {
    fn from(status: TaskStatus) -> Self {
        let TaskStatus { number, attempt, outcome } = status;
        let outcome = match outcome {
            TaskOutcome::Succeeded(success) => WireOutcome::Succeeded((*success).into()),
            TaskOutcome::Failed(failure) => WireOutcome::Failed((*failure).into()),
        };
        Self { number, attempt: Some(attempt.into()), outcome: Some(outcome) }
    }
}

impl TryFrom<wire::TaskStatus> for TaskStatus {
    type Error = Error;

    fn try_from(status: wire::TaskStatus) -> Result<Self, Error> {
        let wire::TaskStatus { number, attempt, outcome } = status;
        let outcome = match need(outcome, "a status", "outcome")? {
            WireOutcome::Succeeded(success) => TaskOutcome::Succeeded(Box::new(success.try_into()?)),
            WireOutcome::Failed(failure) => TaskOutcome::Failed(Box::new(failure.try_into()?)),
        };
        Ok(Self { number, attempt: need(attempt, "a status", "attempt")?.into(), outcome })
    }
}

impl From<TaskSuccess> for wire::TaskSuccess {
    fn from(success: TaskSuccess) -> Self {
        let TaskSuccess { result, map_output, staged, reads, accumulators, cached, warnings, metrics } = success;
        let update = |update: AccumulatorUpdate| wire::AccumulatorUpdate {
            accumulator: update.accumulator.0,
            value: update.value,
        };
        let partition =
            |(rdd, partition): (RddId, PartitionId)| wire::CachedPartition { rdd: rdd.0, partition: partition.0 };
        Self {
            result: result.map(Into::into),
            map_output: map_output.map(Into::into),
            staged: into_all(staged),
            reads: into_all(reads),
            accumulators: accumulators.into_iter().map(update).collect(),
            cached: cached.into_iter().map(partition).collect(),
            warnings,
            metrics: Some(metrics.into()),
        }
    }
}

impl TryFrom<wire::TaskSuccess> for TaskSuccess {
    type Error = Error;

    fn try_from(success: wire::TaskSuccess) -> Result<Self, Error> {
        let wire::TaskSuccess { result, map_output, staged, reads, accumulators, cached, warnings, metrics } = success;
        let update = |update: wire::AccumulatorUpdate| AccumulatorUpdate {
            accumulator: AccumulatorId(update.accumulator),
            value: update.value,
        };
        let partition = |held: wire::CachedPartition| (RddId(held.rdd), PartitionId(held.partition));
        Ok(Self {
            result: result.map(TryInto::try_into).transpose()?,
            map_output: map_output.map(TryInto::try_into).transpose()?,
            staged: into_all(staged),
            reads: all(reads)?,
            accumulators: accumulators.into_iter().map(update).collect(),
            cached: cached.into_iter().map(partition).collect(),
            warnings,
            metrics: need(metrics, "a success", "metrics")?.into(),
        })
    }
}

impl From<MapOutput> for wire::MapOutput {
    fn from(output: MapOutput) -> Self {
        let MapOutput {
            shuffle,
            generation,
            map,
            stage_attempt,
            attempt,
            rows,
            raw_bytes,
            stored_bytes,
            digest,
            location,
        } = output;
        let location = match location {
            MapRows::Inline { blocks, index, index_crc } => {
                WireLocation::Inline(wire::InlineRows { blocks, index, index_crc })
            }
            MapRows::Stored { parts, new_objects } => {
                WireLocation::Stored(wire::StoredRows { parts: into_all(parts), new_objects: into_all(new_objects) })
            }
        };
        Self {
            shuffle: shuffle.0,
            generation: generation.0.into(),
            map: map.0,
            stage_attempt: stage_attempt.0,
            attempt,
            rows,
            raw_bytes,
            stored_bytes,
            digest,
            location: Some(location),
        }
    }
}

impl TryFrom<wire::MapOutput> for MapOutput {
    type Error = Error;

    fn try_from(output: wire::MapOutput) -> Result<Self, Error> {
        const MESSAGE: &str = "a map output";
        let wire::MapOutput {
            shuffle,
            generation,
            map,
            stage_attempt,
            attempt,
            rows,
            raw_bytes,
            stored_bytes,
            digest,
            location,
        } = output;
        let location = match need(location, MESSAGE, "location")? {
            WireLocation::Inline(wire::InlineRows { blocks, index, index_crc }) => {
                MapRows::Inline { blocks, index, index_crc }
            }
            WireLocation::Stored(wire::StoredRows { parts, new_objects }) => {
                MapRows::Stored { parts: into_all(parts), new_objects: into_all(new_objects) }
            }
        };
        Ok(Self {
            shuffle: ShuffleId(shuffle),
            generation: generation_in(generation, MESSAGE)?,
            map: MapId(map),
            stage_attempt: StageAttempt(stage_attempt),
            attempt,
            rows,
            raw_bytes,
            stored_bytes,
            digest,
            location,
        })
    }
}

impl From<NewObject> for wire::NewObject {
    fn from(object: NewObject) -> Self {
        let NewObject { seq, length, index, index_crc, requests } = object;
        Self { seq, length, index, index_crc, requests }
    }
}

impl From<wire::NewObject> for NewObject {
    fn from(object: wire::NewObject) -> Self {
        let wire::NewObject { seq, length, index, index_crc, requests } = object;
        Self { seq, length, index, index_crc, requests }
    }
}

impl From<StagedFile> for wire::StagedFile {
    fn from(file: StagedFile) -> Self {
        let StagedFile { staged, published, bytes, rows, fingerprint } = file;
        Self { staged, published, bytes, rows, fingerprint }
    }
}

impl From<wire::StagedFile> for StagedFile {
    fn from(file: wire::StagedFile) -> Self {
        let wire::StagedFile { staged, published, bytes, rows, fingerprint } = file;
        Self { staged, published, bytes, rows, fingerprint }
    }
}

impl From<ReadReport> for wire::ReadReport {
    fn from(report: ReadReport) -> Self {
        let ReadReport { range, generation, complete, rows, fingerprints, bytes, requests, retries } = report;
        let (range, generation) = (Some(range.into()), generation.0.into());
        Self { range, generation, complete, rows, fingerprints, bytes, requests, retries }
    }
}

impl TryFrom<wire::ReadReport> for ReadReport {
    type Error = Error;

    fn try_from(report: wire::ReadReport) -> Result<Self, Error> {
        const MESSAGE: &str = "a report of a read";
        let wire::ReadReport { range, generation, complete, rows, fingerprints, bytes, requests, retries } = report;
        let (range, generation) = (need(range, MESSAGE, "range")?.into(), generation_in(generation, MESSAGE)?);
        Ok(Self { range, generation, complete, rows, fingerprints, bytes, requests, retries })
    }
}

macro_rules! metrics {
    ($($field:ident),* $(,)?) => {
        impl From<TaskMetrics> for wire::TaskMetrics {
            fn from(metrics: TaskMetrics) -> Self {
                let TaskMetrics { $($field),* } = metrics;
                Self { $($field),* }
            }
        }

        impl From<wire::TaskMetrics> for TaskMetrics {
            fn from(metrics: wire::TaskMetrics) -> Self {
                let wire::TaskMetrics { $($field),* } = metrics;
                Self { $($field),* }
            }
        }
    };
}

metrics! {
    run_micros, input_rows, input_bytes, output_rows, output_bytes, shuffle_read_rows, shuffle_read_bytes,
    shuffle_read_requests, shuffle_read_retries, shuffle_write_rows, shuffle_write_bytes, spilled_bytes, spills,
    broken_rows_dropped, broken_rows_mended, input_requests, shuffle_write_requests,
}

impl From<ExecutorHeartbeat> for wire::ExecutorHeartbeat {
    fn from(heartbeat: ExecutorHeartbeat) -> Self {
        let ExecutorHeartbeat { open_objects, memory_used, running } = heartbeat;
        let open = |open: OpenObject| wire::OpenObject {
            shuffle: open.shuffle.0,
            generation: open.generation.0.into(),
            object: Some(open.object.into()),
        };
        Self { open_objects: open_objects.into_iter().map(open).collect(), memory_used, running }
    }
}

impl TryFrom<wire::ExecutorHeartbeat> for ExecutorHeartbeat {
    type Error = Error;

    fn try_from(heartbeat: wire::ExecutorHeartbeat) -> Result<Self, Error> {
        const MESSAGE: &str = "a heartbeat";
        let wire::ExecutorHeartbeat { open_objects, memory_used, running } = heartbeat;
        let open = |open: wire::OpenObject| {
            Ok(OpenObject {
                shuffle: ShuffleId(open.shuffle),
                generation: generation_in(open.generation, MESSAGE)?,
                object: need(open.object, MESSAGE, "object")?.into(),
            })
        };
        Ok(Self { open_objects: open_objects.into_iter().map(open).collect::<Result<_, _>>()?, memory_used, running })
    }
}

// --- Failures ---

impl From<Failure> for wire::Failure {
    fn from(failure: Failure) -> Self {
        let Failure { kind, message, chain, attempt, executor, last_lines } = failure;
        Self {
            kind: Some(wire::FailureKind { kind: Some(kind.into()) }),
            message,
            chain,
            attempt: attempt.map(Into::into),
            executor: executor.map(|executor| executor.0),
            last_lines,
        }
    }
}

impl TryFrom<wire::Failure> for Failure {
    type Error = Error;

    fn try_from(failure: wire::Failure) -> Result<Self, Error> {
        let wire::Failure { kind, message, chain, attempt, executor, last_lines } = failure;
        let kind = need(kind.and_then(|kind| kind.kind), "a failure", "kind")?.try_into()?;
        Ok(Self {
            kind,
            message,
            chain,
            attempt: attempt.map(Into::into),
            executor: executor.map(ExecutorId),
            last_lines,
        })
    }
}

impl From<FailureKind> for WireKind {
    fn from(kind: FailureKind) -> Self {
        let simple = match kind {
            FailureKind::UserCode { panicked, transient } => {
                return Self::UserCode(wire::UserCodeFailure { panicked, transient });
            }
            FailureKind::MapOutput { shuffle, generation, maps, fault, object } => {
                let fault = match fault {
                    MapFault::Missing => wire::MapFault::Missing,
                    MapFault::Corrupt => wire::MapFault::Corrupt,
                };
                return Self::MapOutput(wire::MapOutputFailure {
                    shuffle: shuffle.0,
                    generation: generation.0.into(),
                    maps: maps.into_iter().map(|map| map.0).collect(),
                    fault: fault.into(),
                    object: object.map(Into::into),
                });
            }
            FailureKind::Lost(cause) => {
                let cause = match cause {
                    LossCause::Released => wire::LossCause::Released,
                    LossCause::Infrastructure => wire::LossCause::Infrastructure,
                    LossCause::Memory => wire::LossCause::Memory,
                    LossCause::Program => wire::LossCause::Program,
                    LossCause::Start => wire::LossCause::Start,
                };
                return Self::Lost(cause.into());
            }
            FailureKind::Query => wire::SimpleFailure::Query,
            FailureKind::TaskMemory => wire::SimpleFailure::TaskMemory,
            FailureKind::Disk => wire::SimpleFailure::Disk,
            FailureKind::StoreUnavailable => wire::SimpleFailure::StoreUnavailable,
            FailureKind::StoreDenied => wire::SimpleFailure::StoreDenied,
            FailureKind::Limit => wire::SimpleFailure::Limit,
            FailureKind::Commit => wire::SimpleFailure::Commit,
            FailureKind::NotDeterministic => wire::SimpleFailure::NotDeterministic,
            FailureKind::LedgerMismatch => wire::SimpleFailure::LedgerMismatch,
            FailureKind::Cancelled => wire::SimpleFailure::Cancelled,
            FailureKind::Stale => wire::SimpleFailure::Stale,
            FailureKind::Internal => wire::SimpleFailure::Internal,
        };
        Self::Simple(simple.into())
    }
}

impl TryFrom<WireKind> for FailureKind {
    type Error = Error;

    fn try_from(kind: WireKind) -> Result<Self, Error> {
        const MESSAGE: &str = "a failure";
        let unknown = |field, value: i32| Error::Unknown { message: MESSAGE, field, value: value.into() };
        Ok(match kind {
            WireKind::Simple(simple) => match wire::SimpleFailure::try_from(simple) {
                Ok(wire::SimpleFailure::Query) => Self::Query,
                Ok(wire::SimpleFailure::TaskMemory) => Self::TaskMemory,
                Ok(wire::SimpleFailure::Disk) => Self::Disk,
                Ok(wire::SimpleFailure::StoreUnavailable) => Self::StoreUnavailable,
                Ok(wire::SimpleFailure::StoreDenied) => Self::StoreDenied,
                Ok(wire::SimpleFailure::Limit) => Self::Limit,
                Ok(wire::SimpleFailure::Commit) => Self::Commit,
                Ok(wire::SimpleFailure::NotDeterministic) => Self::NotDeterministic,
                Ok(wire::SimpleFailure::LedgerMismatch) => Self::LedgerMismatch,
                Ok(wire::SimpleFailure::Cancelled) => Self::Cancelled,
                Ok(wire::SimpleFailure::Stale) => Self::Stale,
                Ok(wire::SimpleFailure::Internal) => Self::Internal,
                Ok(wire::SimpleFailure::Unspecified) | Err(_) => return Err(unknown("kind", simple)),
            },
            WireKind::UserCode(wire::UserCodeFailure { panicked, transient }) => Self::UserCode { panicked, transient },
            WireKind::MapOutput(wire::MapOutputFailure { shuffle, generation, maps, fault, object }) => {
                let fault = match wire::MapFault::try_from(fault) {
                    Ok(wire::MapFault::Missing) => MapFault::Missing,
                    Ok(wire::MapFault::Corrupt) => MapFault::Corrupt,
                    Ok(wire::MapFault::Unspecified) | Err(_) => return Err(unknown("fault", fault)),
                };
                Self::MapOutput {
                    shuffle: ShuffleId(shuffle),
                    generation: generation_in(generation, MESSAGE)?,
                    maps: maps.into_iter().map(MapId).collect(),
                    fault,
                    object: object.map(Into::into),
                }
            }
            WireKind::Lost(cause) => Self::Lost(match wire::LossCause::try_from(cause) {
                Ok(wire::LossCause::Released) => LossCause::Released,
                Ok(wire::LossCause::Infrastructure) => LossCause::Infrastructure,
                Ok(wire::LossCause::Memory) => LossCause::Memory,
                Ok(wire::LossCause::Program) => LossCause::Program,
                Ok(wire::LossCause::Start) => LossCause::Start,
                Ok(wire::LossCause::Unspecified) | Err(_) => return Err(unknown("cause of a loss", cause)),
            }),
        })
    }
}
