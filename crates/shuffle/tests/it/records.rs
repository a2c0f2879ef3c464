//! Does every record arrive once, whatever its size, codec and way?

use std::sync::Arc;

use model::shuffle::{Codec, MapRows, ReadRange};
use object_store::memory::InMemory;
use proptest::prelude::*;
use shuffle::{Announced, Budget, Error};

use crate::setup::{World, budget, spec};

fn records() -> impl Strategy<Value = Vec<Vec<(u32, Vec<u8>)>>> {
    let record = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..40),
        1 => prop::collection::vec(0u8..4, 0..3_000),
    ];
    prop::collection::vec(prop::collection::vec((0u32..5, record), 0..60), 1..5)
}

fn codecs() -> impl Strategy<Value = Codec> {
    prop_oneof![Just(Codec::None), Just(Codec::Lz4), Just(Codec::Zstd)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_shuffle_loses_and_invents_no_row(
        maps in records(),
        codec in codecs(),
        inline_max in prop_oneof![Just(0u32), Just(400), Just(1 << 20)],
        tiny in any::<bool>(),
        cut in 0u32..=5,
    ) {
        let spec = model::shuffle::ShuffleSpec { codec, inline_max, ..spec(maps.len() as u32, 5) };
        let budget = if tiny {
            Budget {
                raw_bytes: 8 << 10,
                encoded_bytes: 8 << 10,
                object_target: 4 << 10,
                single_put_max: 3_000,
                part_size: 3_000,
                read_piece: 700,
                read_inflight_bytes: 2_000,
                ..budget()
            }
        } else {
            budget()
        };
        let mut world = World::new(Arc::new(InMemory::new()), spec, budget);
        world.write(&maps);
        let mut want: Vec<_> = maps.concat();
        want.sort();
        let mut got = world.records(0, cut).unwrap();
        got.extend(world.records(cut, 5).unwrap());
        prop_assert_eq!(got, want);
        prop_assert_eq!(world.runtime.memory_used(), 0);
        prop_assert!(world.runtime.open_objects().is_empty());
    }
}

#[test]
fn order_of_writing_is_kept_within_a_pair() {
    let records: Vec<(u32, Vec<u8>)> = (0..200_000u32).map(|i| (i % 2, i.to_le_bytes().to_vec())).collect();
    let mut world = World::new(Arc::new(InMemory::new()), spec(1, 2), budget());
    world.write(&[records]);
    let (blocks, _) = world.read(1, 2).unwrap();
    assert!(blocks.len() > 1, "65,536 rows close a block");
    let numbers: Vec<u32> =
        blocks.iter().flat_map(|block| block.records()).map(|r| u32::from_le_bytes(r.try_into().unwrap())).collect();
    assert_eq!(numbers, (0..100_000).map(|i| 2 * i + 1).collect::<Vec<_>>());
}

#[test]
fn a_record_may_have_64_mib_and_no_more() {
    let mut world = World::new(Arc::new(InMemory::new()), spec(1, 1), budget());
    let mut record = vec![7u8; (64 << 20) + 1];
    let mut member = world.member(0);
    assert!(matches!(member.write_record(0, &record), Err(Error::TooLarge { .. })));
    drop(member);
    record.pop();
    world.write(&[vec![(0, record.clone()), (0, vec![1])]]);
    assert_eq!(world.records(0, 1).unwrap(), vec![(0, vec![1]), (0, record)]);
}

#[test]
fn a_partition_that_is_not_there_is_the_callers_fault() {
    let world = World::new(Arc::new(InMemory::new()), spec(1, 2), budget());
    let mut member = world.member(0);
    assert!(matches!(member.write_record(2, b"x"), Err(Error::Misuse { .. })));
}

#[test]
fn a_dropped_member_leaves_nothing() {
    let world = World::new(Arc::new(InMemory::new()), spec(2, 2), budget());
    let mut member = world.member(0);
    (0..10_000u32).for_each(|i| member.write_record(i % 2, &i.to_le_bytes()).unwrap());
    assert!(world.runtime.memory_used() > 0);
    drop(member);
    assert_eq!(world.runtime.memory_used(), 0);
    let mut member = world.member(0);
    member.write_record(0, b"x").unwrap();
    drop(member.finish().unwrap());
    assert_eq!(world.runtime.memory_used(), 0);
}

#[test]
fn an_early_end_is_reported_as_such() {
    let mut world = World::new(Arc::new(InMemory::new()), spec(1, 4), budget());
    world.write(&[(0..4_000u32).map(|i| (i % 4, i.to_le_bytes().to_vec())).collect()]);
    let plan = world.registry.plan(ReadRange { shuffle: world.spec.shuffle, start: 0, end: 4 }).unwrap();
    let mut reader = world.runtime.read(&world.spec, plan);
    reader.next_block().unwrap().unwrap();
    let mut report = reader.report();
    assert!(!report.complete);
    world.registry.audit(&report).unwrap();
    report.rows[0] += 1_000_000;
    assert!(world.registry.audit(&report).is_err());
}

#[test]
fn outputs_that_share_an_object_describe_it_once_per_stream() {
    let world = World::new(Arc::new(InMemory::new()), spec(3, 2), budget());
    let members: Vec<_> = (0..3).map(|map| world.member(map)).collect();
    let handed_over = members.into_iter().map(|mut member| {
        member.write_record(0, b"x").unwrap();
        member.finish().unwrap()
    });
    let outputs = world.stored(handed_over.collect()).unwrap();
    let mut announced = Announced::default();
    let described = outputs.into_iter().map(|output| match announced.strip(output).location {
        MapRows::Stored { parts, new_objects } => (parts.len(), new_objects.len()),
        MapRows::Inline { .. } => panic!("nothing is inline here"),
    });
    assert_eq!(described.collect::<Vec<_>>(), [(1, 1), (1, 0), (1, 0)]);
}
