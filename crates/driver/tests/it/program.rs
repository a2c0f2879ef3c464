//! A tiny program: stages are closures, bodies are their names.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use driver::backend::local::LocalBackend;
use driver::config::{Allocation, StoreScope};
use driver::{Driver, DriverConfig, Executable, Observer};
use executor::{BodyRunner, ExecutorConfig, PreparedStage, TaskContext, TaskProduct};
use futures::StreamExt;
use model::backend::ClusterBackend;
use model::events::{AppEvent, Record};
use model::graph::{Body, BodyKind, Job, Output, Ranges, Stage, StageRead, StageShape};
use model::ids::{AppId, Epoch, ExecutorId, JobId, PartitionId, ShuffleId, StageId};
use model::runner::{JobError, JobItem, JobRunner};
use model::setting::Values;
use model::shuffle::RowKind;
use model::{Failure, FailureKind};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::path::Path;
use tokio::runtime::Handle;

pub(crate) const APP: AppId = AppId(42);

/// No test waits longer.
pub(crate) const SOON: Duration = Duration::from_secs(60);

pub(crate) type Task = Arc<dyn Fn(TaskContext) -> Result<TaskProduct, Failure> + Send + Sync>;

/// Runs closures by name.
#[derive(Default)]
pub(crate) struct Program {
    tasks: HashMap<String, Task>,
}

impl Program {
    pub(crate) fn with(
        mut self,
        name: &str,
        task: impl Fn(TaskContext) -> Result<TaskProduct, Failure> + Send + Sync + 'static,
    ) -> Self {
        self.tasks.insert(name.to_owned(), Arc::new(task));
        self
    }

    /// `map` writes the numbers of its partition, `reduce` adds up what it reads.
    pub(crate) fn sums() -> Self {
        Self::default().with("map", write_numbers).with("reduce", add_up).with("empty", |_| Ok(TaskProduct::default()))
    }
}

struct Prepared(Task);

impl PreparedStage for Prepared {
    fn run(&self, task: TaskContext) -> Result<TaskProduct, Failure> {
        (self.0)(task)
    }
}

impl BodyRunner for Program {
    fn prepare(&self, _kind: BodyKind, _name: &str, body: Bytes) -> Result<Arc<dyn PreparedStage>, Failure> {
        // Whatever follows a line's end only makes the body large.
        let name = String::from_utf8_lossy(&body);
        let name = name.lines().next().unwrap_or_default();
        let task = self.tasks.get(name).ok_or_else(|| Failure::new(FailureKind::Internal, format!("run `{name}`")))?;
        Ok(Arc::new(Prepared(Arc::clone(task))))
    }
}

/// Numbers of one map.
pub(crate) const NUMBERS: u64 = 1_000;

pub(crate) fn write_numbers(task: TaskContext) -> Result<TaskProduct, Failure> {
    let spec = task.writes.clone().expect("a map writes a shuffle");
    let mut member = task.shuffle.member(&spec, task.attempt, task.stage_has_pending);
    let first = u64::from(task.attempt.partition.0) * NUMBERS;
    for number in first..first + NUMBERS {
        let partition = (number % u64::from(spec.partitions)) as u32;
        member.write_record(partition, &number.to_le_bytes()).map_err(shuffle::Error::into_failure)?;
    }
    let written = Some(member.finish().map_err(shuffle::Error::into_failure)?);
    Ok(TaskProduct { written, ..TaskProduct::default() })
}

pub(crate) fn add_up(task: TaskContext) -> Result<TaskProduct, Failure> {
    let (mut sum, mut reads) = (0u64, Vec::new());
    for plan in &task.reads {
        let spec = task.read_specs.iter().find(|spec| spec.shuffle == plan.range.shuffle).expect("the spec is told");
        let mut reader = task.shuffle.read(spec, plan.clone());
        while let Some(block) = reader.next_block().map_err(shuffle::Error::into_failure)? {
            for record in block.records() {
                sum += u64::from_le_bytes(record.try_into().expect("eight bytes"));
            }
        }
        reads.push(reader.report());
    }
    let result = Some(Bytes::from(sum.to_le_bytes().to_vec()));
    Ok(TaskProduct { result, reads, ..TaskProduct::default() })
}

pub(crate) fn stage(id: u32, body: &str, partitions: u32, reads: &[u32], output: Output) -> Stage {
    let reads = reads.iter().map(|&id| StageRead { shuffle: ShuffleId(id), ranges: Ranges::Same }).collect();
    let rows = matches!(output, Output::Shuffle { .. }).then(|| RowKind::Records { type_name: "u64".to_owned() });
    Stage {
        name: format!("{body} at program.rs"),
        shape: StageShape { id: StageId(id), partitions, reads, output, cached: Vec::new() },
        rows,
        body: Body { kind: BodyKind::Function, bytes: Bytes::from(body.to_owned()) },
        inputs: Arc::new(|partition: PartitionId| Bytes::from(partition.0.to_string())),
    }
}

pub(crate) fn job(id: u32, stages: Vec<Stage>) -> Job {
    let wanted = stages.last().map_or(0, |stage| stage.shape.partitions);
    let wanted = (0..wanted).map(PartitionId).collect();
    Job { id: JobId(id), name: format!("job {id}"), group: None, stages, wanted }
}

/// `maps` maps and `reduces` reduces.
pub(crate) fn sums(id: u32, maps: u32, reduces: u32) -> Job {
    let shuffle = ShuffleId(id);
    job(
        id,
        vec![
            stage(2 * id, "map", maps, &[], Output::Shuffle { shuffle, partitions: reduces }),
            stage(2 * id + 1, "reduce", reduces, &[id], Output::Result),
        ],
    )
}

/// What [`sums`] gives, by partition.
pub(crate) fn right_sums(maps: u32, reduces: u32) -> BTreeMap<u32, u64> {
    let reduces = u64::from(reduces);
    let mut sums = BTreeMap::new();
    for number in 0..u64::from(maps) * NUMBERS {
        *sums.entry((number % reduces) as u32).or_default() += number;
    }
    sums
}

/// Remembers what happened.
#[derive(Clone, Default)]
pub(crate) struct Heard(Arc<Mutex<Vec<Record>>>);

impl Observer for Heard {
    fn observe(&mut self, records: &[Record]) {
        self.0.lock().unwrap().extend_from_slice(records);
    }
}

impl Heard {
    pub(crate) fn events(&self) -> Vec<AppEvent> {
        self.0.lock().unwrap().iter().map(|record| record.event.clone()).collect()
    }

    pub(crate) fn count(&self, which: impl Fn(&AppEvent) -> bool) -> usize {
        self.events().iter().filter(|event| which(event)).count()
    }
}

/// A driver and what it was made of.
pub(crate) struct Running {
    pub(crate) driver: Arc<Driver>,
    pub(crate) store: Arc<InMemory>,
    pub(crate) heard: Heard,
    _disk: tempfile::TempDir,
}

pub(crate) struct Options {
    pub(crate) slots: u32,
    pub(crate) executors: u32,
    pub(crate) scope: StoreScope,
    pub(crate) settings: Values,
}

impl Default for Options {
    fn default() -> Self {
        Self { slots: 2, executors: 1, scope: StoreScope::Private, settings: Values::new() }
    }
}

pub(crate) fn executor_config(store: Arc<dyn ObjectStore>, slots: u32, disk: PathBuf) -> ExecutorConfig {
    ExecutorConfig {
        app: APP,
        epoch: Epoch(1),
        id: ExecutorId(0),
        program: String::new(),
        slots,
        memory: 256 << 20,
        store,
        root: Path::from("root"),
        disk,
        settings: Values::new(),
    }
}

/// A driver over a backend made of the local one.
pub(crate) fn start_with(
    program: Program,
    options: Options,
    wrap: impl FnOnce(Arc<LocalBackend>) -> Arc<dyn ClusterBackend>,
) -> Running {
    let store = Arc::new(InMemory::new());
    let disk = tempfile::tempdir().unwrap();
    let config = executor_config(store.clone(), options.slots, disk.path().to_owned());
    let local = LocalBackend::new(config, Arc::new(program), Handle::current());
    let (driver, heard) = start_over(store.clone(), options, wrap(local));
    Running { driver, store, heard, _disk: disk }
}

pub(crate) fn start_over(
    store: Arc<InMemory>,
    options: Options,
    backend: Arc<dyn ClusterBackend>,
) -> (Arc<Driver>, Heard) {
    let heard = Heard::default();
    let config = DriverConfig {
        app: APP,
        epoch: Epoch(1),
        name: "test".into(),
        master: "local[2]".into(),
        settings: options.settings,
        store,
        store_url: "memory:///root".into(),
        root: Path::from("root"),
        scope: options.scope,
        slots: options.slots,
        memory: 256 << 20,
        allocation: Allocation::fixed(options.executors),
        executable: Executable::current(),
        identity: None,
        observers: vec![Box::new(heard.clone())],
    };
    (Driver::start(config, backend, Handle::current()).unwrap(), heard)
}

pub(crate) fn start(program: Program) -> Running {
    start_with(program, Options::default(), |local| local)
}

/// Everything a job gives, in order.
pub(crate) async fn items(driver: &Driver, job: Job) -> Result<Vec<JobItem>, JobError> {
    let all = async {
        let (mut stream, mut items) = (driver.run(job), Vec::new());
        while let Some(item) = stream.next().await {
            items.push(item?);
        }
        Ok(items)
    };
    tokio::time::timeout(SOON, all).await.expect("a job ends in time")
}

/// The numbers that a job gives, by partition; each partition once.
pub(crate) async fn numbers(driver: &Driver, job: Job) -> Result<BTreeMap<u32, u64>, JobError> {
    let mut numbers = BTreeMap::new();
    for item in items(driver, job).await? {
        if let JobItem::Result { partition, bytes } = item {
            let number = u64::from_le_bytes(bytes[..].try_into().expect("eight bytes"));
            assert_eq!(numbers.insert(partition.0, number), None, "partition {partition} is given once");
        }
    }
    Ok(numbers)
}
