//! How does an executor run a fragment?
//!
//! [`prepare`] decodes a fragment once; every task executes one partition of the same plan, so that what a join collects is
//! built once per executor. Rows are pulled on the task's own compute thread; requests for them run on the I/O runtime.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::row::{Row, RowConverter, Rows, SortField};
use datafusion::common::hash_utils::create_hashes;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result as DfResult, ScalarValue, internal_err};
use datafusion::datasource::sink::DataSinkExec;
use datafusion::execution::config::SessionConfig;
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{LexOrdering, OrderingRequirements, PhysicalExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::filter_pushdown::FilterPushdown;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};
use datafusion::physical_plan::repartition::REPARTITION_RANDOM_STATE;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, Partitioning, replace_children_if_necessary};
use futures::StreamExt;
use model::metrics::TaskMetrics;
use model::shuffle::{ReadPlan, ReadReport, ShuffleSpec};
use model::write::StagedFile;
use model::{AttemptId, Failure, FailureKind, WorkingMemory};
use shuffle::{HandedOver, Member, ShuffleRuntime};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::cancel::{self, Computing};
use crate::csv;
use crate::error::{Error, failure};
use crate::fragment::{self, Fragment};
use crate::functions::{BuiltIn, Carrier, Prefer};
use crate::leaves::Leaves;
use crate::memory::TaskPool;
use crate::read::downcast;
use crate::requests::Requests;
use crate::route::gathers_left;
use crate::rows::Encoder;
use crate::spill::{self, SpillSpace};
use crate::stores::{OwnStore, Stores};
use crate::write;

/// What an executor gives to a task.
#[derive(Clone)]
pub struct TaskEnv {
    /// The attempt.
    pub attempt: AttemptId,
    /// The partition's own input.
    pub input: Bytes,
    /// What the task may read from shuffles.
    pub reads: Vec<ReadPlan>,
    /// The shuffles that it may read.
    pub read_specs: Vec<Arc<ShuffleSpec>>,
    /// The shuffle that it writes.
    pub writes: Option<Arc<ShuffleSpec>>,
    /// Maps of the same stage still wait for a slot.
    pub stage_has_pending: bool,
    /// The process's shuffle runtime.
    pub shuffle: ShuffleRuntime,
    /// Where requests run.
    pub io: Handle,
    /// Set when the task is to stop.
    pub cancel: CancellationToken,
    /// The task's working memory.
    pub memory: Arc<dyn WorkingMemory>,
    /// How much of it there is altogether, in bytes.
    pub memory_limit: u64,
    /// For what does not fit.
    pub spill: Arc<dyn SpillSpace>,
    /// Settings that are not at their default.
    pub settings: Arc<BTreeMap<String, String>>,
}

/// What a task gives to its executor.
#[derive(Default)]
pub struct Product {
    /// The result stage's rows, encoded.
    pub result: Option<Bytes>,
    /// A shuffle stage's output.
    pub written: Option<HandedOver>,
    /// Files staged.
    pub staged: Vec<StagedFile>,
    /// What was read from shuffles.
    pub reads: Vec<ReadReport>,
    /// Counters.
    pub metrics: TaskMetrics,
}

/// A fragment, ready to run any of its partitions.
pub struct Prepared {
    fragment: Fragment,
    plan: Plan,
    counted: Mutex<Counts>,
    requests: Requests,
    runtime: OnceLock<Arc<RuntimeEnv>>,
}

/// What operators have counted: read from tables, and spilled.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    rows: usize,
    bytes: usize,
    requests: usize,
    spilled: usize,
    spills: usize,
    dropped: usize,
    mended: usize,
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").finish_non_exhaustive()
    }
}

/// Decodes a stage's body.
///
/// # Errors
/// It is no fragment of this version, or names functions that this executable does not have.
pub fn prepare(body: Bytes, carrier: Arc<dyn Carrier>) -> Result<Prepared, Failure> {
    let classify = |error: Error| match error {
        Error::Decode(source) => match source.downcast::<DataFusionError>() {
            Ok(error) => failure("decode a stage of the query", &error),
            Err(other) => {
                Failure::new(FailureKind::Internal, "decode a stage of the query").caused_by(other.to_string())
            }
        },
        other => Failure::from_error(FailureKind::Internal, &other),
    };
    let requests = Requests::default();
    let context =
        |config: SessionConfig, store: &OwnStore| Ok(decoding(config, counted(store, &requests)?.build_arc()?));
    let mut fragment = fragment::decode(body, context, &carrier).map_err(classify)?;
    let plan = sorted(Arc::clone(&fragment.plan))
        .and_then(cancel::look_in_joins)
        .and_then(|plan| Plan::new(plan, &mut fragment.config))
        .map_err(|error| failure("prepare a stage of the query", &error))?;
    Ok(Prepared { fragment, plan, counted: Mutex::default(), requests, runtime: OnceLock::new() })
}

/// Sorts where a node wants an order that the rows below it are not known to have. The driver knew more of them, from
/// statistics of all files for example, and did not sort by what it knew to have one value.
fn sorted(plan: Arc<dyn ExecutionPlan>) -> DfResult<Arc<dyn ExecutionPlan>> {
    let sorted = plan.transform_up(|node| {
        let mut changed = false;
        let mut children = Vec::new();
        for (child, wanted) in node.children().into_iter().zip(node.required_input_ordering()) {
            let wanted = wanted.map(OrderingRequirements::into_single).map(LexOrdering::from);
            match wanted {
                Some(by) if !child.equivalence_properties().ordering_satisfy(by.clone())? => {
                    changed = true;
                    children.push(Arc::new(SortExec::new(by, Arc::clone(child)).with_preserve_partitioning(true)) as _);
                }
                _ => children.push(Arc::clone(child)),
            }
        }
        if !changed {
            return Ok(Transformed::no(node));
        }
        Ok(Transformed::yes(replace_children_if_necessary(node, children)?))
    });
    Ok(sorted?.data)
}

/// How the tasks of an executor share a fragment's plan.
///
/// Operators keep state in the plan: what a join has collected, which rows a limited sort still wants. The first is worth
/// sharing and the second must not be, nor may the filters that operators make while they run for those below: of the build
/// rows of one task's partition, say, which would drop rows of another's.
enum Plan {
    /// Something is collected for all tasks: one plan, whose filters are those of what is collected.
    Shared(Arc<dyn ExecutionPlan>),
    /// Every task has a plan of its own, with every filter that there is.
    Own(Arc<dyn ExecutionPlan>),
}

impl Plan {
    fn new(plan: Arc<dyn ExecutionPlan>, config: &mut SessionConfig) -> DfResult<Self> {
        let (mut collects, mut divided) = (false, false);
        plan.apply(|node| {
            collects |= gathers_left(node);
            divided |=
                downcast::<HashJoinExec>(node).is_some_and(|j| *j.partition_mode() == PartitionMode::Partitioned);
            Ok(TreeNodeRecursion::Continue)
        })?;
        let filters = &mut config.options_mut().optimizer;
        // A filter waits until every partition of the plan was executed, and a task executes one.
        filters.enable_dynamic_filter_pushdown = plan.output_partitioning().partition_count() == 1;
        filters.enable_join_dynamic_filter_pushdown = !collects || !divided;
        filters.enable_topk_dynamic_filter_pushdown = !collects;
        filters.enable_aggregate_dynamic_filter_pushdown = !collects;
        Ok(if collects { Self::Shared(with_filters(plan, config)?) } else { Self::Own(plan) })
    }

    /// The plan that a task executes.
    fn of_task(&self, config: &SessionConfig) -> DfResult<Arc<dyn ExecutionPlan>> {
        match self {
            Self::Own(plan) => with_filters(reset_plan_states(Arc::clone(plan))?, config),
            Self::Shared(plan) => {
                // Nodes below a sort stay the same ones.
                let fresh = Arc::clone(plan).transform_up(|node| match downcast::<SortExec>(&node) {
                    Some(sort) if sort.fetch().is_some() => Ok(Transformed::yes(node.reset_state()?)),
                    _ => Ok(Transformed::no(node)),
                });
                Ok(fresh?.data)
            }
        }
    }
}

fn with_filters(plan: Arc<dyn ExecutionPlan>, config: &SessionConfig) -> DfResult<Arc<dyn ExecutionPlan>> {
    if !config.options().optimizer.enable_dynamic_filter_pushdown {
        return Ok(plan);
    }
    FilterPushdown::new_post_optimization().optimize(plan, config.options())
}

/// What decoding a fragment needs: functions, by name, and the stores that its sources read.
fn decoding(config: SessionConfig, runtime: Arc<RuntimeEnv>) -> TaskContext {
    let all = BuiltIn::get(Prefer::of(&config));
    TaskContext::new(
        None,
        String::new(),
        config,
        all.scalar.clone(),
        all.higher_order.clone(),
        all.aggregate.clone(),
        all.window.clone(),
        runtime,
    )
}

/// What a plan executes in: its functions are part of it.
fn executing(config: SessionConfig, runtime: Arc<RuntimeEnv>) -> TaskContext {
    let (scalar, higher_order, aggregate, window) = Default::default();
    TaskContext::new(None, String::new(), config, scalar, higher_order, aggregate, window, runtime)
}

/// A pool of fewer bytes merges few spilled files at a time.
const SMALL_POOL: u64 = 256 << 20;

/// So many.
const SMALL_FAN_IN: usize = 8;

/// What all tasks of a process share: open stores, and what is known of files.
fn shared_runtime(store: &OwnStore) -> DfResult<Arc<RuntimeEnv>> {
    static RUNTIME: OnceLock<Arc<RuntimeEnv>> = OnceLock::new();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(Arc::clone(runtime));
    }
    let runtime = RuntimeEnvBuilder::new().with_object_store_registry(Arc::new(Stores::new(store))).build_arc()?;
    Ok(Arc::clone(RUNTIME.get_or_init(|| runtime)))
}

/// The same, whose requests are counted for a stage: by sources from when they are decoded on.
fn counted(store: &OwnStore, requests: &Requests) -> DfResult<RuntimeEnvBuilder> {
    let shared = shared_runtime(store)?;
    let stores = Arc::new(requests.of(&shared.object_store_registry));
    Ok(RuntimeEnvBuilder::from_runtime_env(&shared).with_object_store_registry(stores))
}

impl Prepared {
    /// What the tasks of this stage share besides: where they spill, which ends with the stage.
    fn runtime(&self, env: &TaskEnv) -> DfResult<Arc<RuntimeEnv>> {
        if let Some(runtime) = self.runtime.get() {
            return Ok(Arc::clone(runtime));
        }
        // A merge holds a batch of every file that it reads.
        let fan_in = if env.memory_limit < SMALL_POOL { SMALL_FAN_IN } else { 0 };
        let runtime = counted(&self.fragment.store, &self.requests)?
            .with_disk_manager_builder(spill::disk(Arc::clone(&env.spill)))
            .with_max_spill_merge_fan_in(fan_in)
            .build_arc()?;
        Ok(Arc::clone(self.runtime.get_or_init(|| runtime)))
    }

    /// Computes one partition on the calling thread, which it blocks.
    ///
    /// # Errors
    /// The failure of the task.
    pub fn run(&self, env: &TaskEnv) -> Result<Product, Failure> {
        let what = || format!("compute partition {} of the query's stage", env.attempt.partition);
        self.compute(env).map_err(|error| failure(&what(), &error))
    }

    fn compute(&self, env: &TaskEnv) -> DfResult<Product> {
        let (partition, leaves) =
            Leaves::decode(env.input.clone(), env.reads.clone(), env.read_specs.clone(), env.shuffle.clone())?;
        let leaves = Arc::new(leaves);
        let pool = TaskPool::new(Arc::clone(&env.memory), env.memory_limit);
        let runtime =
            RuntimeEnvBuilder::from_runtime_env(&*self.runtime(env)?).with_memory_pool(Arc::new(pool)).build_arc()?;
        let config = self.fragment.config.clone().with_extension(Arc::clone(&leaves));
        let context = Arc::new(executing(config, runtime));
        // Operators spawn tasks, which need a runtime around them.
        let _io = env.io.enter();
        let _computing = Computing::new(&env.cancel);
        let plan = self.plan.of_task(context.session_config())?;
        let pool = context.memory_pool();
        let stream = plan.execute(partition, Arc::clone(&context))?;
        let mut batches = Batches { stream, env };

        let mut product = Product::default();
        if let Some(spec) = &env.writes {
            let member = env.shuffle.member(spec, env.attempt, env.stage_has_pending);
            product.written = Some(self.shuffle(&mut batches, member, spec)?);
        } else if let Some((destination, sink)) = &self.fragment.write {
            let Some(sink) = downcast::<DataSinkExec>(sink) else { return internal_err!("a write without a sink") };
            let id = destination.write.parse().map_err(Error::decode)?;
            product.staged = write::stage(&write::files(sink)?, id, &destination.url, &mut batches, env)?;
            for file in &product.staged {
                product.metrics.output_rows += file.rows;
                product.metrics.output_bytes += file.bytes;
            }
        } else {
            let mut rows = Encoder::new();
            let held = MemoryConsumer::new("result").register(pool);
            while let Some(batch) = batches.next()? {
                rows.push(&batch)?;
                held.try_resize(rows.bytes()).map_err(|_| too_large(rows.bytes()))?;
            }
            product.result = Some(rows.finish()?);
        }
        drop(batches);
        self.count(&plan, &mut product.metrics);
        product.reads = leaves.take_reports();
        Ok(product)
    }

    /// Counts what operators did. Sources of all tasks count together, and so does all of a plan that tasks share: each task
    /// adds what has happened since the last one that ended here.
    fn count(&self, plan: &Arc<dyn ExecutionPlan>, metrics: &mut TaskMetrics) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let mut now = Counts { requests: self.requests.so_far(), ..Counts::default() };
        let seen = plan.apply(|node| {
            if let Some(metrics) = node.metrics() {
                if node.name() == "DataSourceExec" {
                    let sum = |name| metrics.sum_by_name(name).map_or(0, |sum| sum.as_usize());
                    now.rows += metrics.output_rows().unwrap_or(0);
                    now.bytes += sum("bytes_scanned");
                    now.dropped += sum(csv::DROPPED);
                    now.mended += sum(csv::MENDED);
                }
                now.spilled += metrics.spilled_bytes().unwrap_or(0);
                now.spills += metrics.spill_count().unwrap_or(0);
            }
            Ok(TreeNodeRecursion::Continue)
        });
        debug_assert!(seen.is_ok(), "nothing above fails");
        let mut before = std::mem::replace(&mut *counted, now);
        if let Plan::Own(_) = self.plan {
            (before.spilled, before.spills) = (0, 0);
        }
        metrics.input_rows += now.rows.saturating_sub(before.rows) as u64;
        metrics.input_bytes += now.bytes.saturating_sub(before.bytes) as u64;
        metrics.input_requests += now.requests.saturating_sub(before.requests) as u64;
        metrics.spilled_bytes += now.spilled.saturating_sub(before.spilled) as u64;
        metrics.spills += now.spills.saturating_sub(before.spills) as u64;
        metrics.broken_rows_dropped += now.dropped.saturating_sub(before.dropped) as u64;
        metrics.broken_rows_mended += now.mended.saturating_sub(before.mended) as u64;
    }

    fn shuffle(&self, batches: &mut Batches<'_>, mut member: Member, spec: &ShuffleSpec) -> DfResult<HandedOver> {
        let wrong = |error: shuffle::Error| crate::error::wrap(error.into_failure());
        let (by, first) = (self.fragment.partitioning.as_ref(), batches.env.attempt.partition.0);
        let mut divide = Divide::new(by, spec.partitions, first, &batches.schema())?;
        while let Some(batch) = batches.next()? {
            let partitions = divide.partitions(&batch)?;
            member.write_batch(&batch, partitions).map_err(wrong)?;
        }
        member.finish().map_err(wrong)
    }
}

/// A task's part of a result is in memory until all of it is there.
fn too_large(bytes: usize) -> DataFusionError {
    DataFusionError::ResourcesExhausted(format!(
        "the part of the result that one task has is {bytes} bytes so far, and does not fit into its memory: write the rows to \
         files, take fewer with LIMIT, give tasks less each with sql.partitions, or raise executor.memory"
    ))
}

/// The batches of a task, pulled on its own thread.
pub(crate) struct Batches<'a> {
    stream: SendableRecordBatchStream,
    env: &'a TaskEnv,
}

impl Batches<'_> {
    /// The next batch that has rows.
    pub(crate) fn next(&mut self) -> DfResult<Option<RecordBatch>> {
        loop {
            let next = self.env.io.block_on(async {
                tokio::select! {
                    biased;
                    () = self.env.cancel.cancelled() => Some(Err(cancel::cancelled())),
                    next = self.stream.next() => next,
                }
            });
            match next.transpose()? {
                Some(batch) if batch.num_rows() == 0 => {}
                other => return Ok(other),
            }
        }
    }

    pub(crate) fn schema(&self) -> SchemaRef {
        self.stream.schema()
    }
}

/// The range of a key: how many ranges begin at it or below it, without the first.
fn first_above(splits: &Rows, key: Row<'_>) -> u32 {
    let (mut low, mut high) = (0, splits.num_rows());
    while low < high {
        let middle = usize::midpoint(low, high);
        if splits.row(middle) <= key { low = middle + 1 } else { high = middle }
    }
    u32::try_from(low).unwrap_or(u32::MAX)
}

/// Divides rows among the partitions of a shuffle.
enum Divide<'a> {
    /// All into one.
    One { partitions: Vec<u32> },
    /// By DataFusion's hash of these columns, as its own repartition does in one process.
    Hash { by: &'a [Arc<dyn PhysicalExpr>], width: u64, hashes: Vec<u64>, partitions: Vec<u32> },
    /// By the range of an order that they belong to.
    Range { by: &'a LexOrdering, converter: RowConverter, splits: Rows, partitions: Vec<u32> },
    /// In turn.
    Turn { next: u32, width: u32, partitions: Vec<u32> },
}

impl<'a> Divide<'a> {
    fn new(partitioning: Option<&'a Partitioning>, width: u32, first: u32, schema: &SchemaRef) -> DfResult<Self> {
        Ok(match partitioning {
            Some(Partitioning::Hash(by, _)) if width > 1 => {
                Self::Hash { by, width: u64::from(width), hashes: Vec::new(), partitions: Vec::new() }
            }
            Some(Partitioning::Range(ranges)) if width > 1 => {
                let by = ranges.ordering();
                let fields =
                    by.iter().map(|key| Ok(SortField::new_with_options(key.expr.data_type(schema)?, key.options)));
                let converter = RowConverter::new(fields.collect::<DfResult<_>>()?)?;
                let columns = (0..by.len()).map(|column| {
                    ScalarValue::iter_to_array(ranges.split_points().iter().map(|point| point.values()[column].clone()))
                });
                let splits = converter.convert_columns(&columns.collect::<DfResult<Vec<_>>>()?)?;
                Self::Range { by, converter, splits, partitions: Vec::new() }
            }
            Some(_) if width > 1 => Self::Turn { next: first % width, width, partitions: Vec::new() },
            _ => Self::One { partitions: Vec::new() },
        })
    }

    fn partitions(&mut self, batch: &RecordBatch) -> DfResult<&[u32]> {
        let rows = batch.num_rows();
        match self {
            Self::One { partitions } => {
                partitions.resize(rows, 0);
                Ok(partitions)
            }
            Self::Hash { by, width, hashes, partitions } => {
                let columns = by.iter().map(|by| by.evaluate(batch)?.into_array(rows)).collect::<DfResult<Vec<_>>>()?;
                hashes.clear();
                hashes.resize(rows, 0);
                create_hashes(&columns, REPARTITION_RANDOM_STATE.random_state(), hashes)?;
                partitions.clear();
                #[expect(clippy::cast_possible_truncation, reason = "less than the width, which is a u32")]
                partitions.extend(hashes.iter().map(|hash| (hash % *width) as u32));
                Ok(partitions)
            }
            Self::Range { by, converter, splits, partitions } => {
                let columns =
                    by.iter().map(|key| key.expr.evaluate(batch)?.into_array(rows)).collect::<DfResult<Vec<_>>>()?;
                let keys = converter.convert_columns(&columns)?;
                partitions.clear();
                partitions.extend(keys.iter().map(|key| first_above(splits, key)));
                Ok(partitions)
            }
            Self::Turn { next, width, partitions } => {
                partitions.clear();
                partitions.extend((0..rows).map(|_| {
                    *next = (*next + 1) % *width;
                    *next
                }));
                Ok(partitions)
            }
        }
    }
}
