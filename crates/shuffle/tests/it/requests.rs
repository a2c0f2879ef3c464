//! Does a shuffle ask of its store what section "cost" of its design says, and nothing else?

use std::sync::Arc;

use model::shuffle::{ReadRange, ShuffleSpec, SourceBytes};
use shuffle::config::inline_max;
use shuffle::testing::{SimStore, Verb};
use shuffle::{Budget, Registry};

use crate::setup::{World, budget, spec};

fn rows(maps: u32, per_map: u32, partitions: u32, size: usize) -> Vec<Vec<(u32, Vec<u8>)>> {
    let record = |map: u32, row: u32| format!("{map}-{row}-{}", "v".repeat(size)).into_bytes();
    (0..maps).map(|map| (0..per_map).map(|row| (row % partitions, record(map, row))).collect()).collect()
}

/// The formula: one PUT per small object, parts and two more per large one; one GET per object, reader and piece.
fn expected(registry: &Registry, spec: &ShuffleSpec, budget: &Budget, lengths: &[u64]) -> (u64, u64) {
    let puts = lengths
        .iter()
        .map(|length| if *length <= budget.single_put_max { 1 } else { length.div_ceil(budget.part_size) + 2 })
        .sum();
    let gets = (0..spec.partitions)
        .flat_map(|p| registry.plan(ReadRange { shuffle: spec.shuffle, start: p, end: p + 1 }).unwrap().sources)
        .map(|source| match source.bytes {
            SourceBytes::Inline(_) => 0,
            SourceBytes::Object { length, .. } => length.div_ceil(budget.read_piece),
        })
        .sum();
    (puts, gets)
}

fn run(maps: &[Vec<(u32, Vec<u8>)>], partitions: u32, budget: Budget) -> (SimStore, u64, u64) {
    let store = SimStore::quiet();
    let spec = spec(maps.len() as u32, partitions);
    let mut world = World::new(Arc::new(store.clone()), spec.clone(), budget.clone());
    world.write(maps);
    let list = world.io.block_on(async {
        use futures::TryStreamExt;
        use object_store::ObjectStore;
        store.memory().list(None).try_collect::<Vec<_>>().await.unwrap()
    });
    let lengths: Vec<u64> = list.iter().map(|meta| meta.size).collect();
    let (puts, gets) = expected(&world.registry, &spec, &budget, &lengths);
    for partition in 0..partitions {
        world.read(partition, partition + 1).unwrap();
    }
    (store, puts, gets)
}

fn writes(store: &SimStore) -> u64 {
    let verbs = [Verb::Put, Verb::Create, Verb::MultipartStart, Verb::MultipartPart, Verb::MultipartComplete];
    verbs.iter().map(|verb| store.meter().of(*verb).requests).sum()
}

#[test]
fn requests_are_those_of_the_formula() {
    let small = run(&rows(6, 500, 4, 50), 4, budget());
    let parts = Budget { single_put_max: 8 << 10, part_size: 8 << 10, read_piece: 5_000, ..budget() };
    let large = run(&rows(6, 500, 4, 200), 4, parts);
    for (store, puts, gets) in [small, large] {
        let meter = store.meter();
        assert_eq!((writes(&store), meter.of(Verb::Get).requests), (puts, gets), "{meter}");
        let all = meter.requests();
        assert_eq!(all, puts + gets, "no list, no head, nothing else: {meter}");
    }
}

#[test]
fn maps_of_a_slice_share_an_object() {
    // None ends before all have begun, so that they are company for each other.
    let store = SimStore::quiet();
    let world = World::new(Arc::new(store.clone()), spec(5, 3), budget());
    let members: Vec<_> = (0..5).map(|map| world.member(map)).collect();
    let handed_over = members.into_iter().map(|mut member| {
        (0..3).for_each(|p| member.write_record(p, b"row").unwrap());
        member.finish().unwrap()
    });
    world.stored(handed_over.collect()).unwrap();
    assert_eq!(store.meter().requests(), 1, "{}", store.meter());
}

#[test]
fn small_outputs_make_no_request() {
    let store = SimStore::quiet();
    let inline_max = inline_max(&Default::default(), 10).unwrap();
    let mut world = World::new(Arc::new(store.clone()), ShuffleSpec { inline_max, ..spec(10, 4) }, budget());
    let maps = rows(10, 1_000, 4, 90);
    world.write(&maps);
    assert_eq!(world.records(0, 4).unwrap().len(), 10_000);
    assert_eq!(store.meter().requests(), 0, "{}", store.meter());
}

#[test]
fn an_output_without_rows_makes_no_request_even_if_nothing_is_inline() {
    let store = SimStore::quiet();
    let mut world = World::new(Arc::new(store.clone()), spec(3, 4), budget());
    world.write(&[vec![], vec![], vec![]]);
    assert!(world.records(0, 4).unwrap().is_empty());
    assert_eq!(store.meter().requests(), 0);
}
