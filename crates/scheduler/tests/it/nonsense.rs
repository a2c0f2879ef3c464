//! Do the invariants hold whatever the scheduler is told, in whatever order?

use std::collections::BTreeSet;
use std::time::Duration;

use model::failure::{LossCause, MapFault};
use model::graph::{JobShape, Output, Ranges, StageRead, StageShape};
use model::{
    AttemptId, ExecutorId, Failure, FailureKind, Generation, JobId, MapId, PartitionId, RddId, ShuffleId, StageAttempt,
    StageId, Timestamp,
};
use proptest::prelude::*;
use scheduler::{Action, Config, Event, Scheduler};

/// Three jobs of three stages each, whose first writes a shuffle that all jobs share.
fn job(job: u32) -> Event {
    let read = |shuffle| StageRead { shuffle: ShuffleId(shuffle), ranges: Ranges::Same };
    let stage = |at: u32, reads, output| StageShape {
        id: StageId(3 * job + at),
        partitions: 3,
        reads,
        output,
        cached: if at == 1 { vec![RddId(0)] } else { Vec::new() },
    };
    let shuffle = |shuffle| Output::Shuffle { shuffle: ShuffleId(shuffle), partitions: 3 };
    let last = if job == 1 { Output::Write } else { Output::Result };
    let stages = vec![
        stage(0, Vec::new(), shuffle(0)),
        stage(1, vec![read(0)], shuffle(1 + job)),
        stage(2, vec![read(0), read(1 + job)], last),
    ];
    let wanted = (0..3).map(PartitionId).collect();
    Event::JobSubmitted { job: JobId(job), group: None, shape: JobShape { stages, wanted } }
}

fn kind() -> impl Strategy<Value = FailureKind> {
    prop_oneof![
        Just(FailureKind::Disk),
        Just(FailureKind::TaskMemory),
        Just(FailureKind::StoreUnavailable),
        Just(FailureKind::Cancelled),
        Just(FailureKind::UserCode { panicked: false, transient: true }),
        (0..5_u32, 0..2_u16, prop::collection::vec(0..4_u32, 0..3)).prop_map(|(shuffle, generation, maps)| {
            let maps = maps.into_iter().map(MapId).collect();
            let (shuffle, generation) = (ShuffleId(shuffle), Generation(generation));
            FailureKind::MapOutput { shuffle, generation, maps, fault: MapFault::Corrupt, object: None }
        }),
    ]
}

fn cause() -> impl Strategy<Value = LossCause> {
    use LossCause::{Infrastructure, Memory, Program, Released, Start};
    prop::sample::select(vec![Released, Infrastructure, Memory, Program, Start])
}

/// An event about attempts picks one that was launched, if it can, and any other now and then.
#[derive(Debug, Clone)]
enum Step {
    Tell(Event),
    OfAttempt(prop::sample::Index, u8, FailureKind),
}

fn step() -> impl Strategy<Value = Step> {
    let executor = || (0..5_u64).prop_map(ExecutorId);
    let attempt =
        (0..3_u32, 0..9_u32, 0..2_u32, 0..4_u32, 0..2_u32).prop_map(|(job, stage, repeat, partition, attempt)| {
            let (job, stage, stage_attempt) = (JobId(job), StageId(stage), StageAttempt(repeat));
            AttemptId { job, stage, stage_attempt, partition: PartitionId(partition), attempt }
        });
    let event = prop_oneof![
        3 => (0..3_u32).prop_map(job),
        6 => (executor(), 1..3_u32).prop_map(|(executor, slots)| Event::ExecutorJoined { executor, slots }),
        2 => (executor(), cause()).prop_map(|(executor, cause)| Event::ExecutorLost { executor, cause, why: String::new() }),
        1 => executor().prop_map(|executor| Event::ExecutorDraining { executor, why: String::new() }),
        1 => executor().prop_map(|executor| Event::ExecutorDrained { executor }),
        1 => (executor(), prop::collection::vec(attempt.clone(), 0..3))
            .prop_map(|(executor, holding)| Event::LinkRestored { executor, holding }),
        1 => (0..3_u32).prop_map(|job| Event::JobCancelled { job: JobId(job), why: String::new() }),
        1 => (attempt, executor())
            .prop_map(|(attempt, executor)| Event::TaskSucceeded { attempt, executor, cached: Vec::new() }),
        2 => (0..5_u32, 0..2_u16, 0..4_u32).prop_map(|(shuffle, generation, map)| Event::OutputDiffered {
            shuffle: ShuffleId(shuffle),
            generation: Generation(generation),
            map: MapId(map),
        }),
        3 => (0..5_u32, 0..2_u16, 0..4_u32).prop_map(|(shuffle, generation, map)| Event::OutputsLost {
            shuffle: ShuffleId(shuffle),
            generation: Generation(generation),
            maps: vec![MapId(map)],
            why: String::new(),
        }),
        1 => (0..5_u32).prop_map(|shuffle| Event::ShuffleReleased { shuffle: ShuffleId(shuffle) }),
        1 => Just(Event::RddUnpersisted { rdd: RddId(0) }),
        1 => Just(Event::StoreAnswered),
        1 => Just(Event::ClusterRefused { why: String::new() }),
        4 => Just(Event::DeadlinePassed),
        1 => Just(Event::Slept { gap: Duration::from_secs(9) }),
    ];
    prop_oneof![
        1 => event.prop_map(Step::Tell),
        2 => (any::<prop::sample::Index>(), 0..8_u8, kind()).prop_map(|(which, what, kind)| Step::OfAttempt(which, what, kind)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn invariants_hold(steps in prop::collection::vec((step(), 0..15_u64), 0..150)) {
        let config = Config { max_executors: 4, slots_per_executor: 2, ..Config::default() };
        let mut scheduler = Scheduler::new(config);
        let mut now = Timestamp(0);
        let mut launched: Vec<(AttemptId, ExecutorId)> = Vec::new();
        let mut submitted = BTreeSet::new();
        for (step, seconds) in steps {
            now = now + Duration::from_secs(seconds);
            let event = match step {
                Step::Tell(Event::JobSubmitted { job, .. }) if !submitted.insert(job) => continue, // ids are new
                Step::Tell(event) => event,
                Step::OfAttempt(which, what, kind) => {
                    let Some(&(attempt, executor)) = (!launched.is_empty()).then(|| which.get(&launched)) else { continue };
                    match what {
                        0 => Event::TaskStarted { attempt, executor },
                        1 => Event::TaskHandedOver { attempt, executor },
                        2 | 3 => Event::TaskFailed { attempt, executor, failure: Failure::new(kind, "") },
                        _ => Event::TaskSucceeded { attempt, executor, cached: vec![(RddId(0), attempt.partition)] },
                    }
                }
            };
            for action in scheduler.handle(now, event) {
                if let Action::LaunchTask { attempt, executor, .. } = action {
                    prop_assert!(!launched.contains(&(attempt, executor)), "{} is launched twice", attempt);
                    launched.push((attempt, executor));
                }
            }
            scheduler.check_invariants();
        }
    }
}
