//! Is every damaged or missing byte noticed, healed if it can be, and blamed on the right maps?

use std::sync::Arc;

use futures::TryStreamExt;
use model::FailureKind;
use model::failure::MapFault;
use model::ids::MapId;
use model::shuffle::{Codec, ShuffleSpec, SourceBytes};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use shuffle::testing::{Chaos, ChaosStore, Fault, Rule, Verb};
use shuffle::{Budget, Error, format};

use crate::setup::{World, budget, spec};

fn maps() -> Vec<Vec<(u32, Vec<u8>)>> {
    (0..3u32).map(|map| (0..40u32).map(|row| (row % 3, format!("{map} {row}").into_bytes())).collect()).collect()
}

fn only_object(world: &World, store: &InMemory) -> (Path, Vec<u8>) {
    world.io.block_on(async {
        let metas: Vec<_> = store.list(None).try_collect().await.unwrap();
        assert_eq!(metas.len(), 1);
        let bytes = store.get(&metas[0].location).await.unwrap().bytes().await.unwrap();
        (metas[0].location.clone(), bytes.to_vec())
    })
}

#[test]
fn any_flipped_byte_of_an_object_is_detected() {
    for codec in [Codec::None, Codec::Lz4] {
        let store = Arc::new(InMemory::new());
        // One run for all maps, so that there is one object.
        let spec = ShuffleSpec { codec, ..spec(3, 3) };
        let mut world = World::new(store.clone(), spec.clone(), budget());
        let members: Vec<_> = (0..3).map(|map| world.member(map)).collect();
        let handed_over = members.into_iter().zip(maps()).map(|(mut member, records)| {
            records.iter().for_each(|(partition, record)| member.write_record(*partition, record).unwrap());
            member.finish().unwrap()
        });
        let handed_over = handed_over.collect();
        for output in world.stored(handed_over).unwrap() {
            world.accept(output);
        }
        let (path, good) = only_object(&world, &store);
        let plan = world.registry.plan(model::shuffle::ReadRange { shuffle: spec.shuffle, start: 0, end: 3 }).unwrap();
        let SourceBytes::Object { object, offset, length } = plan.sources[0].bytes else { panic!("{plan:?}") };
        format::check_object(&spec, object, &good).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            assert!(format::check_object(&spec, object, &bad).is_err(), "byte {at}");
            if (offset..offset + length).contains(&(at as u64)) {
                world.io.block_on(store.put(&path, bad.into())).unwrap();
                match world.read(0, 3) {
                    Err(error @ Error::Corrupt { .. }) => {
                        let FailureKind::MapOutput { maps, fault, object: blamed, .. } = error.into_failure().kind
                        else {
                            panic!("a corrupt object is a lost map output")
                        };
                        assert_eq!(
                            (maps, fault, blamed),
                            (vec![MapId(0), MapId(1), MapId(2)], MapFault::Corrupt, Some(object))
                        );
                    }
                    other => panic!("byte {at} was believed: {other:?}"),
                }
            }
        }
    }
}

/// A fault on the way that does not repeat itself is read again, and no row comes twice.
#[test]
fn a_read_heals_what_a_fresh_request_can_heal() {
    let small_pieces = Budget { read_piece: 300, ..budget() };
    for (fault, budget) in [Fault::FlipBit, Fault::ShortBody, Fault::WrongObject, Fault::Status(503), Fault::Missing]
        .into_iter()
        .flat_map(|fault| [(fault, budget()), (fault, small_pieces.clone())])
    {
        for nth in 1..4 {
            let chaos = Chaos::new([Rule::new(Verb::Get, "*", fault).nth(nth)]);
            let store = ChaosStore::new(Arc::new(InMemory::new()), chaos);
            let mut world = World::new(Arc::new(store.clone()), spec(3, 3), budget.clone());
            world.write(&maps());
            let mut want = maps().concat();
            want.sort();
            let mut got: Vec<_> = (0..3).flat_map(|p| world.records(p, p + 1).unwrap()).collect();
            got.sort();
            assert_eq!(got, want, "{fault:?} of get {nth}");
            store.check_spent().unwrap();
        }
    }
}

#[test]
fn a_missing_object_names_its_maps() {
    let store = Arc::new(InMemory::new());
    let mut world = World::new(store.clone(), spec(1, 3), budget());
    world.write(&maps()[..1]);
    let (path, _) = only_object(&world, &store);
    world.io.block_on(store.delete(&path)).unwrap();
    let failure = world.read(0, 3).unwrap_err().into_failure();
    let FailureKind::MapOutput { shuffle, generation, maps, fault: MapFault::Missing, object } = failure.kind else {
        panic!("{failure}")
    };
    assert_eq!(maps, [MapId(0)]);
    assert_eq!(world.registry.lost(shuffle, generation, object, &maps), [MapId(0)]);
    assert_eq!(world.registry.missing(shuffle), [MapId(0)]);
}

#[test]
fn a_write_survives_faults_that_pass() {
    let multipart = Budget { single_put_max: 512, part_size: 512, ..budget() };
    for (verb, budget) in [
        (Verb::Put, budget()),
        (Verb::MultipartStart, multipart.clone()),
        (Verb::MultipartPart, multipart.clone()),
        (Verb::MultipartComplete, multipart),
    ] {
        for fault in [Fault::Status(503), Fault::LostReply] {
            let store = ChaosStore::new(Arc::new(InMemory::new()), Chaos::new([Rule::new(verb, "*", fault)]));
            let mut world = World::new(Arc::new(store.clone()), spec(3, 3), budget.clone());
            world.write(&maps());
            let mut want = maps().concat();
            want.sort();
            assert_eq!(world.records(0, 3).unwrap(), want, "{verb:?} {fault:?}");
            store.check_spent().unwrap();
            let aborted = store.requests().iter().any(|(verb, _)| *verb == Verb::MultipartAbort);
            assert_eq!(aborted, matches!(verb, Verb::MultipartPart | Verb::MultipartComplete), "{verb:?} {fault:?}");
        }
    }
}

#[test]
fn a_store_that_refuses_ends_a_write_at_once() {
    let store = ChaosStore::new(
        Arc::new(InMemory::new()),
        Chaos::new([Rule::new(Verb::Put, "*", Fault::Status(403)).always()]),
    );
    let world = World::new(Arc::new(store.clone()), spec(1, 3), budget());
    let mut member = world.member(0);
    member.write_record(0, b"x").unwrap();
    let error = world.stored(vec![member.finish().unwrap()]).unwrap_err();
    assert!(matches!(error, Error::Denied { operation: "put", .. }), "{error:?}");
    assert_eq!(error.into_failure().kind, FailureKind::StoreDenied);
    assert_eq!(world.runtime.memory_used(), 0);
    assert_eq!(world.runtime.open_objects().len(), 1, "it may be there all the same");
}
