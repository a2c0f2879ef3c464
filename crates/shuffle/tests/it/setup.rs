//! What does a test need to run a shuffle from end to end?

use std::sync::Arc;
use std::time::Duration;

use model::ids::{
    AppId, AttemptId, Epoch, ExecutorId, Generation, JobId, MapId, PartitionId, ShuffleId, StageAttempt, StageId,
};
use model::shuffle::{Codec, MapOutput, ReadRange, ReadReport, RowKind, ShuffleSpec};
use object_store::ObjectStore;
use object_store::path::Path;
use shuffle::{Accepted, Block, Budget, Error, HandedOver, Member, Registry, ShuffleRuntime};
use tokio::runtime::Runtime;

pub(crate) const EXECUTOR: ExecutorId = ExecutorId(7);
const MIB: u64 = 1 << 20;

pub(crate) fn spec(maps: u32, partitions: u32) -> ShuffleSpec {
    ShuffleSpec {
        app: AppId(42),
        epoch: Epoch(1),
        shuffle: ShuffleId(3),
        generation: Generation(0),
        maps,
        partitions,
        kind: RowKind::Records { type_name: "bytes".into() },
        codec: Codec::None,
        inline_max: 0,
    }
}

/// Small enough that a test meets every limit, with waits that a test can afford.
pub(crate) fn budget() -> Budget {
    Budget {
        pack_linger: Duration::from_millis(50),
        store_deadline: Duration::from_secs(20),
        ..Budget::for_executor(512 * MIB, 2)
    }
}

pub(crate) fn attempt(map: u32, attempt: u32) -> AttemptId {
    AttemptId { job: JobId(0), stage: StageId(0), stage_attempt: StageAttempt(0), partition: PartitionId(map), attempt }
}

/// One executor, one driver's registry, one store. The test's own thread is the compute thread.
pub(crate) struct World {
    pub(crate) io: Runtime,
    pub(crate) spec: Arc<ShuffleSpec>,
    pub(crate) runtime: ShuffleRuntime,
    pub(crate) registry: Registry,
}

impl World {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, spec: ShuffleSpec, budget: Budget) -> Self {
        let io = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let runtime = ShuffleRuntime::new(store, Path::from("root"), EXECUTOR, budget, io.handle().clone());
        let mut registry = Registry::new();
        registry.register(&spec);
        Self { io, spec: Arc::new(spec), runtime, registry }
    }

    pub(crate) fn member(&self, map: u32) -> Member {
        self.runtime.member(&self.spec, attempt(map, 0), map + 1 < self.spec.maps)
    }

    /// Waits for outputs in any order of theirs, as an executor does.
    pub(crate) fn stored(&self, handed_over: Vec<HandedOver>) -> Result<Vec<MapOutput>, Error> {
        self.io.block_on(futures::future::try_join_all(handed_over.into_iter().map(HandedOver::stored)))
    }

    pub(crate) fn accept(&mut self, output: MapOutput) -> Accepted {
        self.registry.check(&output, EXECUTOR).unwrap();
        self.registry.accept(output, EXECUTOR)
    }

    /// Writes records, map by map, and registers them.
    pub(crate) fn write(&mut self, maps: &[Vec<(u32, Vec<u8>)>]) {
        let handed_over = maps.iter().enumerate().map(|(map, records)| {
            let mut member = self.member(map as u32);
            for (partition, record) in records {
                member.write_record(*partition, record).unwrap();
            }
            member.finish().unwrap()
        });
        let handed_over = handed_over.collect();
        let outputs = self.stored(handed_over).unwrap();
        let accepted: Vec<_> = outputs.into_iter().map(|output| self.accept(output)).collect();
        assert_eq!(accepted.last(), Some(&Accepted::Won { complete: true }));
    }

    /// Reads blocks and audits what was read.
    pub(crate) fn read(&self, start: u32, end: u32) -> Result<(Vec<Block>, ReadReport), Error> {
        let plan = self.registry.plan(ReadRange { shuffle: self.spec.shuffle, start, end }).unwrap();
        let mut reader = self.runtime.read(&self.spec, plan);
        let mut blocks = Vec::new();
        while let Some(block) = reader.next_block()? {
            blocks.push(block);
        }
        let report = reader.report();
        assert!(report.complete);
        self.registry.audit(&report).unwrap();
        Ok((blocks, report))
    }

    /// All records, sorted, with their partitions.
    pub(crate) fn records(&self, start: u32, end: u32) -> Result<Vec<(u32, Vec<u8>)>, Error> {
        let (blocks, _) = self.read(start, end)?;
        let records =
            blocks.iter().flat_map(|block| block.records().map(|record| (block.partition(), record.to_vec())));
        let mut records: Vec<_> = records.collect();
        records.sort();
        Ok(records)
    }
}

pub(crate) fn map(output: &MapOutput) -> MapId {
    output.map
}
