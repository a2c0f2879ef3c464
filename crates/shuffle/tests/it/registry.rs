//! Does the registry believe only what adds up, and name only winners?

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use model::ids::{ExecutorId, Generation, MapId};
use model::shuffle::{MapOutput, MapRows, OpenObject, ReadRange, ShuffleSpec};
use model::{FailureKind, shuffle::ReadPlan};
use object_store::memory::InMemory;
use proptest::prelude::*;
use shuffle::Accepted;

use crate::setup::{EXECUTOR, World, attempt, budget, map, spec};

const WHOLE: ReadRange = ReadRange { shuffle: model::ids::ShuffleId(3), start: 0, end: 4 };

/// Outputs of these attempts at maps, which lie in one object or in messages.
fn outputs(world: &World, tries: &[(u32, u32, &[u8])]) -> Vec<MapOutput> {
    let members: Vec<_> =
        tries.iter().map(|(map, try_, _)| world.runtime.member(&world.spec, attempt(*map, *try_), false)).collect();
    let handed_over = members.into_iter().zip(tries).map(|(mut member, (map, _, rows))| {
        rows.iter().for_each(|row| member.write_record(u32::from(row % 4), &[*row, *map as u8]).unwrap());
        member.finish().unwrap()
    });
    world.stored(handed_over.collect()).unwrap()
}

fn world(inline_max: u32) -> World {
    World::new(Arc::new(InMemory::new()), ShuffleSpec { inline_max, ..spec(2, 4) }, budget())
}

fn flip(bytes: &Bytes, at: usize) -> Bytes {
    let mut bytes = bytes.to_vec();
    let at = at % bytes.len();
    bytes[at] ^= 0x10;
    bytes.into()
}

#[test]
fn a_tampered_status_is_refused() {
    type Tamper = fn(&mut MapOutput);
    let anywhere: &[Tamper] = &[
        |output| output.rows += 1,
        |output| output.raw_bytes += 1,
        |output| output.stored_bytes -= 8,
        |output| output.digest ^= 1,
        |output| output.map = MapId(1),
        |output| output.map = MapId(99),
        |output| output.attempt += 1,
        |output| output.stage_attempt.0 += 1,
    ];
    let inline: &[Tamper] = &[
        |output| {
            if let MapRows::Inline { index_crc, .. } = &mut output.location {
                *index_crc ^= 1
            }
        },
        |output| {
            if let MapRows::Inline { blocks, .. } = &mut output.location {
                *blocks = blocks.slice(8..)
            }
        },
    ];
    let stored: &[Tamper] = &[
        |output| {
            if let MapRows::Stored { new_objects, .. } = &mut output.location {
                new_objects[0].length += 1
            }
        },
        |output| {
            if let MapRows::Stored { new_objects, .. } = &mut output.location {
                new_objects[0].seq += 1
            }
        },
        |output| {
            if let MapRows::Stored { new_objects, .. } = &mut output.location {
                new_objects[0].index_crc += 1
            }
        },
        |output| {
            if let MapRows::Stored { new_objects, .. } = &mut output.location {
                new_objects.clear()
            }
        },
        |output| {
            if let MapRows::Stored { parts, .. } = &mut output.location {
                parts.clear()
            }
        },
        |output| {
            if let MapRows::Stored { parts, .. } = &mut output.location {
                parts.push(parts[0])
            }
        },
        |output| {
            if let MapRows::Stored { parts, .. } = &mut output.location {
                parts[0].executor.0 += 1
            }
        },
    ];
    for (inline_max, special) in [(1 << 20, inline), (0, stored)] {
        let world = world(inline_max);
        let good = outputs(&world, &[(0, 0, &[1, 2, 3])]).remove(0);
        world.registry.check(&good, EXECUTOR).unwrap();
        for (at, tamper) in anywhere.iter().chain(special).enumerate() {
            let mut bad = good.clone();
            tamper(&mut bad);
            let failure = world.registry.check(&bad, EXECUTOR).expect_err(&format!("{at} of {inline_max}"));
            assert_eq!(failure.kind, FailureKind::Internal, "{failure}");
        }
        let length = match &good.location {
            MapRows::Inline { index, .. } => index.len(),
            MapRows::Stored { new_objects, .. } => new_objects[0].index.len(),
        };
        for at in 0..length {
            let mut bad = good.clone();
            match &mut bad.location {
                MapRows::Inline { index, .. } => *index = flip(index, at),
                MapRows::Stored { new_objects, .. } => new_objects[0].index = flip(&new_objects[0].index, at),
            }
            assert!(world.registry.check(&bad, EXECUTOR).is_err(), "byte {at} of the index, inline {inline_max}");
        }
        let other_generation = MapOutput { generation: Generation(1), ..good.clone() };
        assert_eq!(world.registry.check(&other_generation, EXECUTOR).unwrap_err().kind, FailureKind::Stale);
        if inline_max == 0 {
            assert!(world.registry.check(&good, ExecutorId(99)).is_err());
        }
    }
}

#[test]
fn the_first_attempt_wins_and_only_its_rows_are_read() {
    for inline_max in [0, 1 << 20] {
        let mut world = world(inline_max);
        let mut outputs =
            outputs(&world, &[(0, 0, &[1, 2]), (0, 1, &[1, 2]), (0, 2, &[1, 3]), (1, 0, &[7])]).into_iter();
        let mut next = || outputs.next().unwrap();
        let first = next();
        assert_eq!(world.accept(first.clone()), Accepted::Won { complete: false });
        assert_eq!(world.accept(first), Accepted::Repeated);
        assert_eq!(world.accept(next()), Accepted::Twin { same_rows: true });
        assert_eq!(world.accept(next()), Accepted::Twin { same_rows: false });
        assert_eq!(world.registry.plan(WHOLE).unwrap_err().maps, [MapId(1)]);
        assert_eq!(world.accept(next()), Accepted::Won { complete: true });
        let records: Vec<Vec<u8>> = world.records(0, 4).unwrap().into_iter().map(|(_, record)| record).collect();
        assert_eq!(records, [vec![1, 0], vec![2, 0], vec![7, 1]]);
    }
}

#[test]
fn a_lost_map_comes_back_with_the_same_rows_or_not_at_all() {
    for inline_max in [0, 1 << 20] {
        let mut world = world(inline_max);
        for output in outputs(&world, &[(0, 0, &[1, 2]), (1, 0, &[7])]) {
            world.accept(output);
        }
        let old_plan = world.registry.plan(WHOLE).unwrap();
        let object = match &old_plan.sources[0].bytes {
            model::shuffle::SourceBytes::Object { object, .. } => Some(*object),
            model::shuffle::SourceBytes::Inline(_) => None,
        };
        let lost = world.registry.lost(WHOLE.shuffle, Generation(0), object, &[MapId(0)]);
        assert_eq!(lost, if inline_max == 0 { vec![MapId(0), MapId(1)] } else { vec![MapId(0)] });
        assert_eq!(world.registry.lost(WHOLE.shuffle, Generation(0), object, &[MapId(0)]), []);

        let other_rows = outputs(&world, &[(0, 3, &[1, 9])]).remove(0);
        assert_eq!(world.accept(other_rows), Accepted::OtherRows);
        for output in outputs(&world, &[(0, 4, &[1, 2]), (1, 4, &[7])]) {
            world.accept(output);
        }
        assert_eq!(world.records(0, 4).unwrap().len(), 3);
        // Who read the old object whole has read the same rows.
        let mut reader = world.runtime.read(&world.spec, old_plan);
        while reader.next_block().unwrap().is_some() {}
        world.registry.audit(&reader.report()).unwrap();
    }
}

#[test]
fn a_new_generation_voids_the_old() {
    let mut world = world(0);
    let late = outputs(&world, &[(1, 0, &[7])]).remove(0);
    for output in outputs(&world, &[(0, 0, &[1, 2])]) {
        world.accept(output);
    }
    let old_keys = world.registry.keys();
    world.registry.register(&ShuffleSpec { generation: Generation(1), ..(*world.spec).clone() });
    assert_eq!(world.registry.generation(WHOLE.shuffle), Some(Generation(1)));
    assert_eq!(world.registry.plan(WHOLE).unwrap_err().maps, [MapId(0), MapId(1)]);
    let Accepted::Void { keys } = world.registry.accept(late, EXECUTOR) else { panic!("it is void") };
    assert_eq!(keys.len(), 1);
    let released: BTreeSet<String> = world.registry.release(WHOLE.shuffle).into_iter().collect();
    assert!(old_keys.iter().chain(&keys).all(|key| released.contains(key)), "{released:?}");
}

#[test]
fn release_gives_every_key_and_what_comes_late_is_void() {
    let mut world = world(0);
    for output in outputs(&world, &[(0, 0, &[1])]) {
        world.accept(output);
    }
    let late = outputs(&world, &[(1, 0, &[1])]).remove(0);
    let open = |seq| OpenObject {
        shuffle: WHOLE.shuffle,
        generation: Generation(0),
        object: model::failure::ObjectRef { executor: EXECUTOR, seq },
    };
    assert_eq!(world.registry.opened(open(77)), None);
    assert_eq!(world.registry.release(WHOLE.shuffle).len(), 2);
    assert_eq!(world.registry.check(&late, EXECUTOR).unwrap_err().kind, FailureKind::Stale);
    assert!(matches!(world.registry.accept(late, EXECUTOR), Accepted::Void { keys } if keys.len() == 1));
    assert!(world.registry.opened(open(78)).is_some());
    assert!(world.registry.keys().is_empty());
}

#[derive(Debug, Clone)]
enum Step {
    Accept { map: u32, attempt: u32, other: bool },
    Repeat,
    Lose { source: usize },
    Raise,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0u32..2, 0u32..4, prop::bool::weighted(0.2)).prop_map(|(map, attempt, other)| Step::Accept { map, attempt, other }),
        1 => Just(Step::Repeat),
        2 => (0usize..4).prop_map(|source| Step::Lose { source }),
        1 => Just(Step::Raise),
    ];
    prop::collection::vec(step, 1..25)
}

fn objects(plan: &ReadPlan) -> Vec<(Option<model::failure::ObjectRef>, Vec<MapId>)> {
    let of = |source: &model::shuffle::ReadSource| {
        let object = match source.bytes {
            model::shuffle::SourceBytes::Object { object, .. } => Some(object),
            model::shuffle::SourceBytes::Inline(_) => None,
        };
        (object, source.members.iter().map(|member| member.map).collect())
    };
    plan.sources.iter().map(of).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever happens in whatever order: a plan exists exactly if every map has a winner, and reading it gives exactly
    /// the rows of the generation's first winners.
    #[test]
    fn a_walk_keeps_every_promise(steps in steps(), inline_max in prop_oneof![Just(0u32), Just(1 << 20)]) {
        let mut world = world(inline_max);
        // Rows of each map's first winner in this generation, and whether it has a winner now.
        let mut rows: BTreeMap<u32, bool> = BTreeMap::new();
        let mut present: BTreeSet<u32> = BTreeSet::new();
        let mut winners: BTreeMap<u32, u32> = BTreeMap::new();
        let mut last = None;
        for step in steps {
            match step {
                Step::Accept { map, attempt: number, other } => {
                    let attempt_rows: &[u8] = if other { &[1, 9] } else { &[1, 2] };
                    let output = outputs(&world, &[(map, number, attempt_rows)]).remove(0);
                    prop_assert_eq!(self::map(&output), MapId(map));
                    let accepted = world.accept(output.clone());
                    let want = match (rows.get(&map), present.contains(&map)) {
                        (Some(_), true) if winners[&map] == number => Accepted::Repeated,
                        (Some(first), true) => Accepted::Twin { same_rows: *first == other },
                        (Some(first), false) if *first != other => Accepted::OtherRows,
                        _ => {
                            rows.insert(map, other);
                            present.insert(map);
                            winners.insert(map, number);
                            Accepted::Won { complete: present.len() == 2 }
                        }
                    };
                    prop_assert_eq!(accepted, want);
                    last = Some(output);
                }
                Step::Repeat => {
                    if let Some(output) = last.clone().filter(|output| world.registry.check(output, EXECUTOR).is_ok()) {
                        let won = winners.get(&output.map.0) == Some(&output.attempt) && present.contains(&output.map.0);
                        if won {
                            prop_assert_eq!(world.accept(output), Accepted::Repeated);
                        }
                    }
                }
                Step::Lose { source } => {
                    if let Ok(plan) = world.registry.plan(WHOLE) {
                        let objects = objects(&plan);
                        let (object, maps) = &objects[source % objects.len()];
                        let generation = world.spec.generation;
                        for lost in world.registry.lost(WHOLE.shuffle, generation, *object, maps) {
                            prop_assert!(present.remove(&lost.0));
                        }
                    }
                }
                Step::Raise => {
                    let generation = Generation(world.spec.generation.0 + 1);
                    world.spec = Arc::new(ShuffleSpec { generation, ..(*world.spec).clone() });
                    world.registry.register(&world.spec);
                    rows.clear();
                    present.clear();
                }
            }
            let missing: Vec<MapId> = (0..2).filter(|map| !present.contains(map)).map(MapId).collect();
            prop_assert_eq!(&world.registry.missing(WHOLE.shuffle), &missing);
            if missing.is_empty() {
                let want: BTreeSet<(u32, Vec<u8>)> = rows
                    .iter()
                    .flat_map(|(map, other)| {
                        let rows: &[u8] = if *other { &[1, 9] } else { &[1, 2] };
                        rows.iter().map(|row| (u32::from(row % 4), vec![*row, *map as u8]))
                    })
                    .collect();
                prop_assert_eq!(world.records(0, 4).unwrap(), want.into_iter().collect::<Vec<_>>());
                let sizes: u64 = world.registry.sizes(WHOLE.shuffle).unwrap().iter().map(|size| size.rows).sum();
                prop_assert_eq!(sizes, 4);
            } else {
                prop_assert_eq!(world.registry.plan(WHOLE).unwrap_err().maps, missing);
            }
        }
    }
}
