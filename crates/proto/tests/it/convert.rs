//! Is there and back the same, and is what no version of ours says refused?

use bytes::Bytes;
use model::messages::{FromExecutor, LaunchTask, Payload, StageBody, TaskOutcome, TaskStatus, TaskSuccess, ToExecutor};
use model::{AttemptId, FailureKind, JobId, PartitionId, StageAttempt, StageId};
use proptest::prelude::*;
use prost::Message;
use proto::convert::{CONTROL_MAX, Error, MESSAGE_MAX, pieces_from, pieces_to};
use proto::generated as wire;

use crate::dice::Dice;

fn there_and_back_to(message: ToExecutor) -> ToExecutor {
    let bytes = wire::ToExecutor::from(message).encode_to_vec();
    wire::ToExecutor::decode(&bytes[..]).unwrap().try_into().unwrap()
}

fn there_and_back_from(message: FromExecutor) -> FromExecutor {
    let bytes = wire::FromExecutor::from(message).encode_to_vec();
    wire::FromExecutor::decode(&bytes[..]).unwrap().try_into().unwrap()
}

fn check(seed: u64) {
    let mut dice = Dice(seed);
    let (to, from) = (dice.drivers_word(), dice.executors_word());
    assert_eq!(there_and_back_to(to.clone()), to, "seed {seed}");
    assert_eq!(there_and_back_from(from.clone()), from, "seed {seed}");
}

#[test]
fn there_and_back_is_the_same_for_fixed_seeds() {
    (0..2_000).for_each(check);
}

proptest! {
    #[test]
    fn there_and_back_is_the_same(seed in any::<u64>()) {
        check(seed);
    }

    #[test]
    fn bytes_of_a_stranger_are_refused_or_read_but_nothing_worse(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(message) = wire::ToExecutor::decode(&bytes[..]) {
            let _ = ToExecutor::try_from(message);
        }
        if let Ok(message) = wire::FromExecutor::decode(&bytes[..]) {
            let _ = FromExecutor::try_from(message);
        }
    }

    #[test]
    fn a_damaged_message_is_refused_or_read_but_nothing_worse(seed in any::<u64>(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut dice = Dice(seed);
        let mut bytes = wire::FromExecutor::from(dice.executors_word()).encode_to_vec();
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = to;
        }
        if let Ok(message) = wire::FromExecutor::decode(&bytes[..]) {
            let _ = FromExecutor::try_from(message);
        }
    }

    #[test]
    fn pieces_put_together_are_the_whole(seed in any::<u64>(), tasks in 0usize..200) {
        let mut dice = Dice(seed);
        let whole: Vec<_> = (0..tasks).map(|_| dice.task()).collect();
        let mut together = Vec::new();
        for piece in pieces_to(ToExecutor::Launch(whole.clone())).unwrap() {
            let ToExecutor::Launch(tasks) = piece.try_into().unwrap() else { panic!("another message") };
            together.extend(tasks);
        }
        prop_assert_eq!(together, whole);
        let whole: Vec<_> = (0..tasks).map(|_| dice.status()).collect();
        let mut together = Vec::new();
        for piece in pieces_from(FromExecutor::Status(whole.clone())).unwrap() {
            let FromExecutor::Status(statuses) = piece.try_into().unwrap() else { panic!("another message") };
            together.extend(statuses);
        }
        prop_assert_eq!(together, whole);
    }
}

fn to(message: wire::to_executor::Message) -> Result<ToExecutor, Error> {
    wire::ToExecutor { message: Some(message) }.try_into()
}

fn from(message: wire::from_executor::Message) -> Result<FromExecutor, Error> {
    wire::FromExecutor { message: Some(message) }.try_into()
}

fn attempt(partition: u32) -> AttemptId {
    AttemptId {
        job: JobId(1),
        stage: StageId(1),
        stage_attempt: StageAttempt(0),
        partition: PartitionId(partition),
        attempt: 0,
    }
}

fn task(partition: u32, bytes: usize) -> LaunchTask {
    let input = Payload::Inline(vec![7; bytes].into());
    LaunchTask { attempt: attempt(partition), input, reads: Vec::new(), stage_has_pending: false }
}

#[test]
fn what_is_missing_or_unknown_is_refused_by_name() {
    use wire::from_executor::Message as From_;
    use wire::to_executor::Message as To;
    let text = |result: Result<ToExecutor, Error>| result.unwrap_err().to_string();
    assert_eq!(
        text(wire::ToExecutor { message: None }.try_into()),
        "read a message to an executor: no content",
        "a message that a later version added"
    );
    assert_eq!(text(to(To::Hello(wire::Hello::default()))), "read a hello: application has 0 bytes instead of 16");
    assert_eq!(text(to(To::Body(wire::StageBody::default()))), "read a stage body: 0 is no kind");
    let body = wire::StageBody { kind: 77, ..Default::default() };
    assert_eq!(text(to(To::Body(body))), "read a stage body: 77 is no kind");
    let maps = wire::NoMoreMaps { shuffle: 1, generation: 65_536 };
    assert_eq!(text(to(To::NoMoreMaps(maps))), "read no more maps: 65536 is no generation");
    let drain = wire::Duration { seconds: 1, nanos: 1_000_000_000 };
    assert_eq!(text(to(To::Drain(drain))), "read a drain: 1000000000 is no part of a second");
    let tasks = wire::LaunchTasks { tasks: vec![wire::LaunchTask::default()] };
    assert_eq!(text(to(To::Launch(tasks))), "read a task: no attempt");

    let status = |outcome| wire::TaskStatuses {
        statuses: vec![wire::TaskStatus {
            number: 1,
            attempt: Some(attempt(0).into()),
            outcome: Some(wire::task_status::Outcome::Failed(wire::Failure { kind: outcome, ..Default::default() })),
        }],
    };
    let kinds = [
        (None, "read a failure: no kind"),
        (Some(wire::FailureKind { kind: None }), "read a failure: no kind"),
        (Some(wire::FailureKind { kind: Some(wire::failure_kind::Kind::Simple(0)) }), "read a failure: 0 is no kind"),
        (
            Some(wire::FailureKind { kind: Some(wire::failure_kind::Kind::Lost(9)) }),
            "read a failure: 9 is no cause of a loss",
        ),
        (
            Some(wire::FailureKind { kind: Some(wire::failure_kind::Kind::MapOutput(Default::default())) }),
            "read a failure: 0 is no fault",
        ),
    ];
    for (kind, want) in kinds {
        assert_eq!(from(From_::Status(status(kind))).unwrap_err().to_string(), want);
    }
}

#[test]
fn each_limit_holds_at_its_edge() {
    let name = |bytes: usize| {
        let mut hello = wire::Hello { app: vec![0; 16].into(), ..Default::default() };
        let message =
            |hello: &wire::Hello| wire::ToExecutor { message: Some(wire::to_executor::Message::Hello(hello.clone())) };
        hello.store = "x".repeat(bytes);
        let over = message(&hello).encoded_len() - bytes;
        hello.store = "x".repeat(bytes - over);
        message(&hello)
    };
    let (fits, over) = (name(CONTROL_MAX), name(CONTROL_MAX + 1));
    assert_eq!((fits.encoded_len(), over.encoded_len()), (CONTROL_MAX, CONTROL_MAX + 1));
    assert!(ToExecutor::try_from(fits).is_ok());
    let error = ToExecutor::try_from(over).unwrap_err();
    assert_eq!(error, Error::TooLarge { message: "a control message", bytes: CONTROL_MAX + 1, limit: CONTROL_MAX });

    let body = |bytes: usize| {
        let body = Payload::Inline(Bytes::from(vec![0; bytes]));
        let (stage, stage_attempt, kind) = (StageId(1), StageAttempt(0), model::graph::BodyKind::Plan);
        let name = String::new();
        ToExecutor::Body(Box::new(StageBody { stage, stage_attempt, name, kind, body, writes: None, reads: vec![] }))
    };
    assert_eq!(pieces_to(body(MESSAGE_MAX - 64)).unwrap().len(), 1);
    assert!(matches!(pieces_to(body(MESSAGE_MAX)), Err(Error::TooLarge { message: "a stage body", .. })));

    let many = vec![wire::AttemptId::from(attempt(0)); 16_385];
    let error = to(wire::to_executor::Message::Cancel(wire::Attempts { attempts: many })).unwrap_err();
    assert_eq!(error, Error::TooMany { message: "cancelled attempts", items: 16_385, limit: 16_384 });
}

#[test]
fn long_messages_are_cut_and_short_ones_are_not() {
    let pieces = |tasks: Vec<LaunchTask>| pieces_to(ToExecutor::Launch(tasks)).unwrap();
    assert_eq!(pieces((0..100).map(|p| task(p, 100)).collect()).len(), 1);
    let long = pieces((0..10).map(|p| task(p, 600_000)).collect());
    assert_eq!(long.len(), 10);
    assert!(long.iter().all(|piece| piece.encoded_len() <= 1 << 20));
    assert_eq!(pieces((0..40_000).map(|p| task(p, 0)).collect()).len(), 3);
    assert_eq!(pieces(vec![task(0, 10 << 20), task(1, 0)]).len(), 2, "a large one goes alone");
}

#[test]
fn a_status_that_cannot_be_carried_becomes_a_failure_and_those_around_it_stay() {
    let status = |number: u64, bytes: usize| {
        let success = TaskSuccess { result: Some(Payload::Inline(vec![0; bytes].into())), ..TaskSuccess::default() };
        TaskStatus { number, attempt: attempt(number as u32), outcome: TaskOutcome::Succeeded(Box::new(success)) }
    };
    let statuses = vec![status(1, 10), status(2, MESSAGE_MAX), status(3, 10)];
    let mut heard = Vec::new();
    for piece in pieces_from(FromExecutor::Status(statuses.clone())).unwrap() {
        let FromExecutor::Status(statuses) = piece.try_into().unwrap() else { panic!("another message") };
        heard.extend(statuses);
    }
    assert_eq!((&heard[0], &heard[2]), (&statuses[0], &statuses[2]));
    let TaskOutcome::Failed(failure) = &heard[1].outcome else { panic!("it was carried") };
    assert_eq!((heard[1].number, heard[1].attempt, &failure.kind), (2, attempt(2), &FailureKind::Limit));
    assert!(failure.message.starts_with("the status of a task has 67"), "{failure}");
}
