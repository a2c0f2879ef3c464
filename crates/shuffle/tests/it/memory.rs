//! Does a shuffle stay within its memory, and never wait for itself?

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use model::shuffle::{ReadRange, ShuffleSpec};
use shuffle::testing::SimStore;
use shuffle::{Accepted, Budget};

use crate::setup::{World, budget, spec};

const KIB: u64 = 1 << 10;

fn tiny() -> Budget {
    Budget {
        slots: 4,
        raw_bytes: 64 * KIB,
        encoded_bytes: 64 * KIB,
        object_target: 32 * KIB,
        single_put_max: 16 * KIB,
        part_size: 16 * KIB,
        parts_in_flight: 2,
        read_piece: 4 * KIB,
        read_inflight_bytes: 8 * KIB,
        read_concurrency: 2,
        pack_linger: std::time::Duration::from_secs(3_600),
        ..budget()
    }
}

/// Many members at once, each with far more rows than there is memory, and no timer to help.
#[test]
fn many_members_with_a_tiny_budget_neither_stop_nor_exceed_it() {
    const MAPS: u32 = 16;
    const ROWS: u32 = 4_000;
    let store = SimStore::quiet();
    let mut world = World::new(Arc::new(store), spec(MAPS, 8), tiny());
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let (done, peak) = (AtomicBool::new(false), AtomicU64::new(0));
    let outputs: Vec<_> = thread::scope(|scope| {
        let _done = Done(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(world.runtime.memory_used(), Ordering::Relaxed);
                thread::yield_now();
            }
        });
        let world = &world;
        // Four slots; each runs its maps one after the other, as an executor does.
        let slots: Vec<_> = (0..4)
            .map(|slot| {
                scope.spawn(move || {
                    let mut handed_over = Vec::new();
                    for map in (slot..MAPS).step_by(4) {
                        let mut member = world.member(map);
                        for row in 0..ROWS {
                            member.write_record(row % 8, format!("{map}:{row:>40}").as_bytes()).unwrap();
                        }
                        handed_over.push(member.finish().unwrap());
                    }
                    world.stored(handed_over).unwrap()
                })
            })
            .collect();
        slots.into_iter().flat_map(|slot| slot.join().unwrap()).collect()
    });
    let peak = peak.load(Ordering::Relaxed);
    // The halves, and per slot the one buffer that was growing.
    assert!(peak <= 128 * KIB + 4 * 16 * KIB, "{peak}");
    assert!(peak > 32 * KIB, "the test must press: {peak}");
    for output in outputs {
        assert!(matches!(world.accept(output), Accepted::Won { .. }));
    }
    let rows: usize = world.read(0, 8).unwrap().0.iter().map(shuffle::Block::rows).sum();
    assert_eq!(rows, (MAPS * ROWS) as usize);
}

/// Both inputs of a join are open, one is not read before the other has ended, and there is room for neither.
#[test]
fn two_open_reads_do_not_starve_each_other() {
    let budget = Budget { read_inflight_bytes: KIB, read_concurrency: 1, ..tiny() };
    let mut world = World::new(Arc::new(SimStore::quiet()), spec(4, 1), budget);
    let maps: Vec<Vec<(u32, Vec<u8>)>> =
        (0..4u32).map(|map| (0..2_000u32).map(|row| (0, format!("{map} {row:>30}").into_bytes())).collect()).collect();
    world.write(&maps);
    let range = ReadRange { shuffle: world.spec.shuffle, start: 0, end: 1 };
    let mut readers: Vec<_> =
        (0..6).map(|_| world.runtime.read(&world.spec, world.registry.plan(range).unwrap())).collect();
    for reader in &mut readers {
        reader.next_block().unwrap().unwrap();
    }
    for reader in readers.iter_mut().rev() {
        while reader.next_block().unwrap().is_some() {}
        world.registry.audit(&reader.report()).unwrap();
    }
}

/// A member whose rows exceed the whole encoded half goes alone.
#[test]
fn one_row_may_be_larger_than_the_budget() {
    let mut world = World::new(Arc::new(SimStore::quiet()), ShuffleSpec { ..spec(2, 2) }, tiny());
    let large = vec![3u8; 300 << 10];
    world.write(&[vec![(0, large.clone()), (1, b"x".to_vec())], vec![(0, large.clone())]]);
    assert_eq!(world.records(0, 2).unwrap(), vec![(0, large.clone()), (0, large), (1, b"x".to_vec())]);
    assert_eq!(world.runtime.memory_used(), 0);
}
