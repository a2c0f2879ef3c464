//! Do all rows arrive, each once, whatever the store does?
//!
//! Time is virtual: requests that hang or take 15 s cost nothing. A small driver runs maps again when their outputs are
//! lost or damaged, and reads again when the store was away, as the real one does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use futures::TryStreamExt;
use model::failure::FailureKind;
use model::ids::MapId;
use model::shuffle::{Codec, ReadRange, ShuffleSpec};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use shuffle::testing::{Chaos, ChaosStore, Fault, Latency, Rule, SimStore, Verb};
use shuffle::{Accepted, Budget, HandedOver, Registry, ShuffleRuntime, store, sweep};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::setup::{EXECUTOR, attempt, budget, spec};

/// More rounds than any seed needs, since each fault passes: a shuffle that needs more does not end.
const ROUNDS: u32 = 60;

type Record = (u32, Vec<u8>);

/// An I/O runtime whose clock jumps whenever it has nothing to do.
struct VirtualTime {
    handle: Handle,
    _stop: oneshot::Sender<()>,
    _thread: JoinHandle<()>,
}

impl VirtualTime {
    fn new() -> Self {
        let (send, receive) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
            send.send(runtime.handle().clone()).unwrap();
            // The other end is dropped when the test ends.
            let _ = runtime.block_on(stopped);
        });
        Self { handle: receive.recv().unwrap(), _stop: stop, _thread: thread }
    }
}

/// One driver, one executor, one store.
struct Cluster {
    io: VirtualTime,
    spec: Arc<ShuffleSpec>,
    runtime: ShuffleRuntime,
    registry: Registry,
    maps: Vec<Vec<Record>>,
    attempts: BTreeMap<u32, u32>,
    /// What was run again, and why.
    again: BTreeMap<&'static str, u32>,
}

impl Cluster {
    fn new(
        io: VirtualTime,
        store: Arc<dyn ObjectStore>,
        spec: ShuffleSpec,
        budget: Budget,
        maps: Vec<Vec<Record>>,
    ) -> Self {
        let runtime = ShuffleRuntime::new(store, Path::from("root"), EXECUTOR, budget, io.handle.clone());
        let mut registry = Registry::new();
        registry.register(&spec);
        Self { io, spec: Arc::new(spec), runtime, registry, maps, attempts: BTreeMap::new(), again: BTreeMap::new() }
    }

    fn note(&mut self, kind: &FailureKind) {
        *self.again.entry(kind.code()).or_default() += 1;
    }

    /// Runs every map without an output; true if all have one.
    fn run_maps(&mut self) -> bool {
        let missing = self.registry.missing(self.spec.shuffle);
        let mut handed_over = Vec::new();
        for (left, MapId(map)) in missing.iter().rev().enumerate().rev() {
            let number = self.attempts.entry(*map).or_default();
            let mut member = self.runtime.member(&self.spec, attempt(*map, *number), left > 0);
            *number += 1;
            let records = &self.maps[*map as usize];
            // An attempt that fails half-way leaves nothing that is read: its twin writes all.
            if (*number + *map).is_multiple_of(5) {
                for (partition, record) in &records[..records.len() / 2] {
                    member.write_record(*partition, record).unwrap();
                }
                drop(member);
                member = self.runtime.member(&self.spec, attempt(*map, *number), left > 0);
                *number += 1;
            }
            for (partition, record) in records {
                member.write_record(*partition, record).unwrap();
            }
            handed_over.push(member.finish().unwrap());
        }
        let stored = handed_over.into_iter().map(HandedOver::stored);
        for result in self.io.handle.block_on(futures::future::join_all(stored)) {
            match result {
                Ok(output) => {
                    self.registry.check(&output, EXECUTOR).unwrap();
                    // A status is sent until it is acknowledged, and so may come twice.
                    let accepted = self.registry.accept(output.clone(), EXECUTOR);
                    assert!(matches!(accepted, Accepted::Won { .. }), "{accepted:?}");
                    let repeated = self.registry.accept(output, EXECUTOR);
                    assert!(!matches!(repeated, Accepted::Won { .. }), "won twice");
                }
                Err(error) => {
                    let failure = error.into_failure();
                    assert_eq!(failure.kind, FailureKind::StoreUnavailable, "{failure}");
                    self.note(&failure.kind);
                }
            }
        }
        self.registry.missing(self.spec.shuffle).is_empty()
    }

    /// Reads one partition; none if something must run again first.
    fn read(&mut self, partition: u32) -> Option<Vec<Record>> {
        let range = ReadRange { shuffle: self.spec.shuffle, start: partition, end: partition + 1 };
        let plan = self.registry.plan(range).ok()?;
        let mut reader = self.runtime.read(&self.spec, plan);
        let mut rows = Vec::new();
        loop {
            match reader.next_block() {
                Ok(Some(block)) => rows.extend(block.records().map(|record| (partition, record.to_vec()))),
                Ok(None) => break,
                Err(error) => {
                    let failure = error.into_failure();
                    self.note(&failure.kind);
                    match failure.kind {
                        FailureKind::MapOutput { shuffle, generation, maps, object, .. } => {
                            let lost = self.registry.lost(shuffle, generation, object, &maps);
                            assert!(!lost.is_empty(), "a damaged object is some map's");
                        }
                        FailureKind::StoreUnavailable => {}
                        other => panic!("{other:?}: {}", failure.message),
                    }
                    return None;
                }
            }
        }
        let report = reader.report();
        assert!(report.complete);
        self.registry.audit(&report).unwrap();
        Some(rows)
    }

    /// Runs the shuffle to its end and compares its rows with those that went in.
    fn run(&mut self) {
        let mut read = BTreeMap::new();
        for _ in 0..ROUNDS {
            if !self.run_maps() {
                continue;
            }
            for partition in 0..self.spec.partitions {
                if !read.contains_key(&partition)
                    && let Some(rows) = self.read(partition)
                {
                    read.insert(partition, rows);
                }
            }
            if read.len() == self.spec.partitions as usize {
                let (mut got, mut want): (Vec<Record>, _) =
                    (read.into_values().flatten().collect(), self.maps.concat());
                got.sort();
                want.sort();
                assert_eq!(got.len(), want.len(), "rows");
                assert!(got == want, "other rows");
                return;
            }
        }
        panic!("not done after {ROUNDS} rounds: {:?}", self.again);
    }

    /// Releases the shuffle: nothing of it may be left behind the store, whatever was lost on the way.
    fn release(&mut self, memory: &dyn ObjectStore) {
        for object in self.runtime.open_objects() {
            assert_eq!(self.registry.opened(object), None);
        }
        let keys = self.registry.release(self.spec.shuffle);
        let root = Path::from("root");
        let keys: Vec<Path> = keys.iter().map(|key| store::under(&root, key)).collect();
        self.io.handle.block_on(async {
            sweep::delete_all(memory, keys).await.unwrap();
            let left: Vec<_> = memory.list(None).map_ok(|meta| meta.location).try_collect().await.unwrap();
            assert_eq!(left, [], "left behind");
        });
    }
}

fn rows(maps: u32, partitions: u32, per_map: u32) -> Vec<Vec<Record>> {
    let row = |map: u32, row: u32| (row % partitions, format!("{map} {row}").repeat(3).into_bytes());
    (0..maps).map(|map| (0..per_map).map(|n| row(map, n)).collect()).collect()
}

/// Request budgets in which every object is an upload in parts.
fn in_parts() -> Budget {
    Budget { single_put_max: 512, part_size: 512, ..budget() }
}

/// Every row of the failure matrix that the store plays in: which request, what happens to it, what must run again.
#[test]
fn each_fault_of_the_store_costs_time_and_no_row() {
    let again = |verb, fault| (verb, fault, None);
    let lost = |verb, fault, code| (verb, fault, Some(code));
    for (budget, cases) in [
        (
            budget(),
            vec![
                again(Verb::Put, Fault::Status(500)),
                again(Verb::Put, Fault::Status(503)),
                again(Verb::Put, Fault::Status(429)),
                again(Verb::Put, Fault::LostReply),
                again(Verb::Put, Fault::Hang),
                again(Verb::Put, Fault::BytesPerSecond(100)),
                again(Verb::Put, Fault::DelayMs(4_000)),
                lost(Verb::Put, Fault::FlipBit, "map-output-corrupt"),
                again(Verb::Get, Fault::Status(503)),
                again(Verb::Get, Fault::LostReply),
                again(Verb::Get, Fault::Hang),
                again(Verb::Get, Fault::DelayMs(60_000)),
                again(Verb::Get, Fault::BytesPerSecond(10)),
                again(Verb::Get, Fault::ShortBody),
                again(Verb::Get, Fault::FlipBit),
                again(Verb::Get, Fault::WrongObject),
                again(Verb::Get, Fault::Missing),
            ],
        ),
        (
            in_parts(),
            vec![
                again(Verb::MultipartStart, Fault::Status(503)),
                again(Verb::MultipartStart, Fault::LostReply),
                again(Verb::MultipartStart, Fault::Hang),
                again(Verb::MultipartPart, Fault::Status(500)),
                again(Verb::MultipartPart, Fault::LostReply),
                again(Verb::MultipartPart, Fault::Hang),
                lost(Verb::MultipartPart, Fault::FlipBit, "map-output-corrupt"),
                again(Verb::MultipartComplete, Fault::Status(503)),
                again(Verb::MultipartComplete, Fault::LostReply),
                again(Verb::MultipartComplete, Fault::Hang),
            ],
        ),
    ] {
        for (verb, fault, code) in cases {
            let io = VirtualTime::new();
            let sim = {
                let _inside = io.handle.enter();
                SimStore::quiet()
            };
            let chaos = ChaosStore::new(Arc::new(sim.clone()), Chaos::new([Rule::new(verb, "*/shuffle/v1/*", fault)]));
            let mut cluster = Cluster::new(io, Arc::new(chaos.clone()), spec(3, 3), budget.clone(), rows(3, 3, 60));
            cluster.run();
            chaos.check_spent().unwrap();
            let want: Vec<&str> = code.into_iter().collect();
            assert_eq!(cluster.again.keys().copied().collect::<Vec<_>>(), want, "{verb:?} {fault:?}");
            cluster.release(sim.memory().as_ref());
        }
    }
}

/// A damage that every fresh read shows again, and an object that somebody deleted: its maps run again, and no others.
#[test]
fn what_stays_damaged_is_made_again() {
    for (fault, code) in [
        (Some(Fault::FlipBit), "map-output-corrupt"),
        (Some(Fault::ShortBody), "map-output-corrupt"),
        (Some(Fault::Missing), "map-output-missing"),
        (None, "map-output-missing"),
    ] {
        let io = VirtualTime::new();
        let sim = {
            let _inside = io.handle.enter();
            SimStore::quiet()
        };
        // Every fresh read of one object is damaged; what is made in its place is whole.
        let rules = fault.map(|fault| {
            Rule::new(Verb::Get, "*-00000001.vonk", fault).times(if fault == Fault::Missing { 2 } else { 3 })
        });
        let chaos = ChaosStore::new(Arc::new(sim.clone()), Chaos::new(rules));
        // One object a map, as none waits for company.
        let budget = Budget { object_target: 1, ..budget() };
        let mut cluster = Cluster::new(io, Arc::new(chaos.clone()), spec(3, 1), budget, rows(3, 1, 40));
        assert!(cluster.run_maps());
        if fault.is_none() {
            let memory = sim.memory();
            cluster.io.handle.block_on(async {
                let listed: Vec<_> = memory.list(None).try_collect().await.unwrap();
                memory.delete(&listed[0].location).await.unwrap();
            });
        }
        let ran: u32 = cluster.attempts.values().sum();
        cluster.run();
        chaos.check_spent().unwrap();
        assert_eq!(cluster.again, BTreeMap::from([(code, 1)]), "{fault:?}");
        let ran_again = cluster.attempts.values().sum::<u32>() - ran;
        assert!((1..=2).contains(&ran_again), "{ran_again} attempts more, for one map");
        cluster.release(sim.memory().as_ref());
    }
}

/// Everything at once, at random.
fn walk(seed: u64, fired: &mut BTreeMap<String, u64>, again: &mut BTreeMap<&'static str, u32>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let faults = [
        Fault::Status(503),
        Fault::Status(500),
        Fault::LostReply,
        Fault::Hang,
        Fault::ShortBody,
        Fault::FlipBit,
        Fault::WrongObject,
        Fault::Missing,
    ];
    let shares = [0.0, 0.01, 0.03];
    let faults = faults.into_iter().map(|fault| (fault, shares[rng.random_range(0..3)])).collect();
    let io = VirtualTime::new();
    let sim = {
        let _inside = io.handle.enter();
        SimStore::faulty(seed, Latency::s3(), faults)
    };
    let (maps, partitions) = (rng.random_range(1..8), rng.random_range(1..6));
    let written = (0..maps).map(|_| {
        let count = rng.random_range(0..200);
        (0..count)
            .map(|_| {
                let record: Vec<u8> = (0..rng.random_range(0..120)).map(|_| rng.random()).collect();
                (rng.random_range(0..partitions), record)
            })
            .collect()
    });
    let written: Vec<Vec<Record>> = written.collect();
    let spec = ShuffleSpec {
        codec: [Codec::None, Codec::Lz4, Codec::Zstd][rng.random_range(0..3)],
        inline_max: [0, 0, 2_000][rng.random_range(0..3)],
        ..spec(maps, partitions)
    };
    // Not many parts: an object is only whole if each of them is.
    let in_parts = Budget { single_put_max: 4_096, part_size: 8_192, ..budget() };
    let base = if rng.random() { budget() } else { in_parts };
    let budget = Budget {
        // A source is read again from its beginning: of many pieces one would be damaged each time.
        read_piece: [2_000, 1 << 20][rng.random_range(0..2)],
        object_target: [1, 8_000, 1 << 20][rng.random_range(0..3)],
        store_deadline: Duration::from_secs(120),
        ..base
    };
    let mut cluster = Cluster::new(io, Arc::new(sim.clone()), spec, budget, written);
    cluster.run();
    cluster.release(sim.memory().as_ref());
    let meter = sim.meter();
    assert_eq!((meter.of(Verb::List).requests, meter.of(Verb::Head).requests), (0, 0), "nobody lists or probes");
    for (fault, times) in sim.fired() {
        *fired.entry(fault).or_default() += times;
    }
    for (code, times) in &cluster.again {
        *again.entry(code).or_default() += times;
    }
}

/// `VONK_SIM_SEED` replays one seed, `VONK_SIM_SEEDS` sets how many are run.
#[test]
fn seeds_of_faults_lose_no_row_and_double_none() {
    let variable = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match variable("VONK_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("VONK_SIM_SEEDS").unwrap_or(200),
    };
    let whole = seeds.end - seeds.start >= 200;
    let (mut fired, mut again) = (BTreeMap::new(), BTreeMap::new());
    for seed in seeds {
        eprintln!("seed {seed}");
        walk(seed, &mut fired, &mut again);
    }
    eprintln!("fired {fired:?}, run again {again:?}");
    if whole {
        assert_eq!(fired.len(), 8, "every fault fired: {fired:?}");
        assert!(again.contains_key("map-output-corrupt"), "damage at rest was found: {again:?}");
    }
}
