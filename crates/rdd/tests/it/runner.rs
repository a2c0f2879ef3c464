//! How does a job run in a test? Stage after stage, task after task, over the real shuffle and a store in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use model::graph::{Job, Output, Stage};
use model::ids::IdSource;
use model::runner::{JobError, JobItem, JobStream, ResultStream, StreamedResult};
use model::shuffle::{Codec, ShuffleSpec};
use model::write::{StagedFile, WriteReport, WriteTarget};
use model::{
    AppId, AttemptId, BroadcastId, Epoch, ExecutorId, Failure, FailureKind, Generation, JobRunner, PartitionId, RddId,
    ShuffleId, StageAttempt, WorkingMemory,
};
use object_store::memory::InMemory;
use object_store::path::Path;
use rdd::compute::{CachedBlocks, SpillSpace, TaskEnv, prepare};
use rdd::{RddContext, StorageLevel};
use shuffle::{Accepted, Budget, Registry, ShuffleRuntime};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Memory of the executor that a test pretends to be.
const MEMORY: u64 = 256 << 20;

static IO: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap());

/// A context over a runner of its own, and that runner.
pub(crate) fn context() -> (RddContext, Arc<Runner>) {
    context_with(4, u64::MAX)
}

/// The same with so many partitions by default, and so much working memory.
pub(crate) fn context_with(parallelism: u32, working_memory: u64) -> (RddContext, Arc<Runner>) {
    let store = Arc::new(InMemory::new());
    let (root, io) = (Path::from("root"), IO.handle().clone());
    let budget = Budget::for_executor(MEMORY, 1);
    let shuffle = ShuffleRuntime::new(store.clone(), root.clone(), ExecutorId(1), budget, io.clone());
    let runner = Arc::new(Runner {
        app: AppId::generate(),
        ids: IdSource::default(),
        parallelism,
        store: store.clone(),
        shuffle,
        memory: Arc::new(Pool { limit: working_memory, lent: AtomicU64::new(0) }),
        blocks: Arc::default(),
        state: Mutex::default(),
        fail_first: AtomicU32::new(0),
    });
    let context = RddContext::new(Arc::new(Shared(runner.clone())), store, root, io, &BTreeMap::new()).unwrap();
    (context, runner)
}

pub(crate) struct Runner {
    app: AppId,
    ids: IdSource,
    parallelism: u32,
    store: Arc<InMemory>,
    shuffle: ShuffleRuntime,
    pub(crate) memory: Arc<Pool>,
    pub(crate) blocks: Arc<Cache>,
    state: Mutex<State>,
    /// So many task attempts run to their end and are then thrown away, as if their executor had died.
    pub(crate) fail_first: AtomicU32,
}

#[derive(Default)]
pub(crate) struct State {
    registry: Registry,
    specs: HashMap<ShuffleId, Arc<ShuffleSpec>>,
    pub(crate) complete: BTreeSet<ShuffleId>,
    pub(crate) released: Vec<ShuffleId>,
    pub(crate) forgotten: Vec<BroadcastId>,
    /// Of each job: its name, and the names of the stages that ran with their numbers of tasks.
    pub(crate) ran: Vec<(String, Vec<(String, u32)>)>,
    pub(crate) staged: Vec<StagedFile>,
    pub(crate) warnings: Vec<String>,
    pub(crate) spills: u64,
    attempts: u32,
}

#[derive(Default)]
pub(crate) struct Cache(pub(crate) Mutex<HashMap<(RddId, PartitionId), Vec<Bytes>>>);

impl CachedBlocks for Cache {
    fn get(&self, rdd: RddId, partition: PartitionId, _: StorageLevel) -> Result<Option<Vec<Bytes>>, Failure> {
        Ok(self.0.lock().unwrap().get(&(rdd, partition)).cloned())
    }

    fn put(&self, rdd: RddId, partition: PartitionId, _: StorageLevel, blocks: Vec<Bytes>) -> Result<bool, Failure> {
        self.0.lock().unwrap().insert((rdd, partition), blocks);
        Ok(true)
    }
}

/// Lends up to a limit, and knows what is out.
pub(crate) struct Pool {
    limit: u64,
    lent: AtomicU64,
}

impl Pool {
    pub(crate) fn lent(&self) -> u64 {
        self.lent.load(Ordering::SeqCst)
    }
}

impl WorkingMemory for Pool {
    fn try_grow(&self, bytes: u64) -> bool {
        let fits = |lent: u64| lent.checked_add(bytes).filter(|&lent| lent <= self.limit);
        self.lent.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fits).is_ok()
    }

    fn shrink(&self, bytes: u64) {
        let before = self.lent.fetch_sub(bytes, Ordering::SeqCst);
        assert!(before >= bytes, "more is given back than was lent");
    }
}

struct Disk;

impl SpillSpace for Disk {
    fn create(&self) -> std::io::Result<File> {
        tempfile::tempfile()
    }
}

impl Runner {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Names of the stages that the last job ran.
    pub(crate) fn last_stages(&self) -> Vec<String> {
        let state = self.state();
        state.ran.last().into_iter().flat_map(|(_, stages)| stages.iter().map(|(name, _)| name.clone())).collect()
    }

    fn run_job(&self, job: &Job, send: &mut dyn FnMut(JobItem) -> bool) -> Result<(), Failure> {
        self.state().ran.push((job.name.clone(), Vec::new()));
        let last = job.stages.len() - 1;
        for (at, stage) in job.stages.iter().enumerate() {
            let spec = match stage.shape.output {
                Output::Shuffle { shuffle, .. } if self.state().complete.contains(&shuffle) => continue,
                Output::Shuffle { shuffle, partitions } => {
                    let spec = Arc::new(ShuffleSpec {
                        app: self.app,
                        epoch: Epoch(1),
                        shuffle,
                        generation: Generation(0),
                        maps: stage.shape.partitions,
                        partitions,
                        kind: stage.rows.clone().unwrap(),
                        codec: Codec::Lz4,
                        inline_max: 1 << 10,
                    });
                    let mut state = self.state();
                    state.registry.register(&spec);
                    state.specs.insert(shuffle, spec.clone());
                    Some(spec)
                }
                Output::Result | Output::Write => None,
            };
            let wanted: Vec<PartitionId> = match at == last {
                true => job.wanted.clone(),
                false => (0..stage.shape.partitions).map(PartitionId).collect(),
            };
            if let Some((_, stages)) = self.state().ran.last_mut() {
                stages.push((stage.name.clone(), wanted.len() as u32));
            }
            let prepared = prepare(&stage.body.bytes)?;
            let mut written = Vec::new();
            for (at, &partition) in wanted.iter().enumerate() {
                let has_pending = at + 1 < wanted.len();
                let product = loop {
                    let env = self.task(job, stage, partition, spec.clone(), has_pending);
                    let product = contained(|| prepared.run(env))?;
                    let thrown_away = |left: u32| left.checked_sub(1);
                    if self.fail_first.fetch_update(Ordering::SeqCst, Ordering::SeqCst, thrown_away).is_err() {
                        break product;
                    }
                };
                let mut state = self.state();
                product.reads.iter().try_for_each(|report| state.registry.audit(report))?;
                state.spills += product.metrics.spills;
                state.staged.extend(product.staged);
                state.warnings.extend(product.warnings);
                drop(state);
                written.extend(product.written);
                let items = [
                    (!product.accumulators.is_empty()).then_some(JobItem::Accumulated(product.accumulators)),
                    product.result.map(|bytes| JobItem::Result { partition, bytes }),
                ];
                if !items.into_iter().flatten().all(&mut *send) {
                    return Ok(());
                }
            }
            let Some(spec) = spec else { continue };
            // The last objects are sealed once no map is to come.
            self.shuffle.no_more_maps(spec.shuffle, spec.generation);
            for output in written {
                let output = IO.block_on(output.stored()).map_err(shuffle::Error::into_failure)?;
                let mut state = self.state();
                state.registry.check(&output, ExecutorId(1))?;
                assert!(matches!(state.registry.accept(output, ExecutorId(1)), Accepted::Won { .. }));
            }
            self.state().complete.insert(spec.shuffle);
        }
        Ok(())
    }

    fn task(
        &self,
        job: &Job,
        stage: &Stage,
        partition: PartitionId,
        writes: Option<Arc<ShuffleSpec>>,
        stage_has_pending: bool,
    ) -> TaskEnv {
        let mut state = self.state();
        state.attempts += 1;
        let ranges = stage.shape.reads.iter().flat_map(|read| read.of(partition));
        TaskEnv {
            attempt: AttemptId {
                job: job.id,
                stage: stage.shape.id,
                stage_attempt: StageAttempt(0),
                partition,
                attempt: state.attempts,
            },
            app: self.app,
            epoch: Epoch(1),
            executor: ExecutorId(1),
            input: stage.inputs.input(partition),
            reads: ranges.map(|range| state.registry.plan(range).unwrap()).collect(),
            read_specs: stage.shape.reads.iter().map(|read| state.specs[&read.shuffle].clone()).collect(),
            writes,
            stage_has_pending,
            shuffle: self.shuffle.clone(),
            store: self.store.clone(),
            root: Path::from("root"),
            io: IO.handle().clone(),
            cancel: CancellationToken::new(),
            memory: self.memory.clone(),
            blocks: self.blocks.clone(),
            spill: Arc::new(Disk),
            settings: Arc::default(),
        }
    }
}

/// As an executor does: a panic is the failure of a task.
fn contained<T>(run: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
        let kind = FailureKind::UserCode { panicked: true, transient: false };
        Err(Failure::new(kind, text.unwrap_or_default()))
    })
}

/// The runner as others hold it.
pub(crate) struct Shared(pub(crate) Arc<Runner>);

impl JobRunner for Shared {
    fn app(&self) -> AppId {
        self.0.app
    }

    fn epoch(&self) -> Epoch {
        Epoch(1)
    }

    fn ids(&self) -> &IdSource {
        &self.0.ids
    }

    fn parallelism(&self) -> u32 {
        self.0.parallelism
    }

    fn run(&self, job: Job) -> JobStream {
        let runner = Arc::clone(&self.0);
        let start = async move {
            let (sender, receiver) = mpsc::unbounded_channel();
            // A thread of its own: tasks block, which a thread of the runtime may not.
            std::thread::spawn(move || {
                let mut send = |item| sender.send(Ok(item)).is_ok();
                let (ran, name) = (runner.run_job(&job, &mut send), job.name.clone());
                drop(job);
                if let Err(failure) = ran {
                    let failure = Box::new(failure);
                    let _ = sender.send(Err(JobError::Failed { name, failure, earlier: Vec::new() }));
                }
            });
            stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)))
        };
        Box::pin(stream::once(start).flatten())
    }

    fn stream(&self, job: Job) -> ResultStream {
        let results = self.run(job).filter_map(async |item| match item {
            Ok(JobItem::Result { partition, bytes }) => {
                let pieces = stream::once(std::future::ready(Ok(bytes))).boxed();
                Some(Ok(StreamedResult { partition, pieces }))
            }
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        });
        results.boxed()
    }

    fn would_write(&self, _: &WriteTarget) -> BoxFuture<'static, Result<bool, JobError>> {
        Box::pin(std::future::ready(Ok(true)))
    }

    fn settled(&self, _: &str) -> BoxFuture<'static, Result<u64, JobError>> {
        Box::pin(std::future::ready(Ok(0)))
    }

    fn write(&self, job: Job, _: WriteTarget) -> JobStream {
        let runner = Arc::clone(&self.0);
        let written = async move {
            let mut report = WriteReport::default();
            for file in runner.state().staged.drain(..) {
                report.files += 1;
                report.rows += file.rows;
                report.bytes += file.bytes;
            }
            Ok(JobItem::Written(report))
        };
        Box::pin(self.run(job).chain(stream::once(written)))
    }

    fn release_shuffle(&self, shuffle: ShuffleId) {
        self.0.state().released.push(shuffle);
    }

    fn unpersist(&self, rdd: RddId) {
        self.0.blocks.0.lock().unwrap().retain(|(known, _), _| *known != rdd);
    }

    fn forget_broadcast(&self, broadcast: BroadcastId) {
        self.0.state().forgotten.push(broadcast);
    }

    fn cancel(&self, _: Option<&str>, _: &str) {}

    fn warn(&self, text: &str) {
        self.0.state().warnings.push(text.to_owned());
    }
}
