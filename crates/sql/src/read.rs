//! Where do the rows of an earlier stage enter a plan?
//!
//! [`ShuffleReadExec`] stands in the plan where an exchange stood before its stage had run. In the driver it knows what
//! every partition holds; in an executor it is one of the fragment's leaves, and reads what the task's input names.

use std::any::Any;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics, internal_err};
use datafusion::execution::memory_pool::MemoryLimit;
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{AcrossPartitions, ConstExpr, EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::coop::make_cooperative;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet, RecordOutput};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, StatisticsArgs};
use futures::Stream;
use model::ids::ShuffleId;
use model::shuffle::PartitionSize;
use shuffle::Reader;

use crate::error;
use crate::leaves::{Input, Leaves};
use crate::stage::Shuffle;

/// Which columns are known to be equal to each other, and which have one value only. Plans rely on it when they sort by
/// fewer columns than they were asked to, and so must whoever runs a part of one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct EqualColumns {
    /// Columns that are equal, each list with at least two.
    pub(crate) classes: Vec<Vec<u32>>,
    /// Columns with the same value in every row of every partition.
    pub(crate) constants: Vec<u32>,
}

impl EqualColumns {
    /// What a plan knows of its own columns.
    pub(crate) fn of(plan: &Arc<dyn ExecutionPlan>) -> Self {
        let index = |expr: &Arc<dyn PhysicalExpr>| {
            let column = (expr.as_ref() as &dyn Any).downcast_ref::<Column>()?;
            u32::try_from(column.index()).ok()
        };
        let properties = &plan.properties().eq_properties;
        let classes = properties.eq_group().iter().map(|class| class.iter().filter_map(index).collect::<Vec<_>>());
        let constants = properties.constants().into_iter();
        let uniform = constants.filter(|constant| matches!(constant.across_partitions, AcrossPartitions::Uniform(_)));
        Self {
            classes: classes.filter(|class| class.len() > 1).collect(),
            constants: uniform.filter_map(|constant| index(&constant.expr)).collect(),
        }
    }

    fn properties(&self, schema: SchemaRef) -> Result<EquivalenceProperties> {
        let column = |&index: &u32| -> Arc<dyn PhysicalExpr> {
            Arc::new(Column::new(schema.field(index as usize).name(), index as usize))
        };
        let mut properties = EquivalenceProperties::new(Arc::clone(&schema));
        for class in &self.classes {
            for pair in class.windows(2) {
                properties.add_equal_conditions(column(&pair[0]), column(&pair[1]))?;
            }
        }
        let constants = self.constants.iter().map(column);
        properties.add_constants(constants.map(|expr| ConstExpr::new(expr, AcrossPartitions::Uniform(None))))?;
        Ok(properties)
    }
}

/// For each partition of a plan, the reduce partitions that it reads.
pub(crate) type Ranges = Arc<[(u32, u32)]>;

/// From where the rows come.
#[derive(Debug, Clone)]
enum Source {
    /// The driver's view: partition `p` of the plan reads `ranges[p]` of the shuffle. `hinted`: somebody wants its rows broadcast.
    Shuffle { shuffle: Arc<Shuffle>, ranges: Ranges, hinted: bool },
    /// An executor's view: the task's input says which range leaf number `leaf` reads.
    Leaf { leaf: u32, shuffle: ShuffleId },
}

/// Reads what an earlier stage has shuffled.
#[derive(Debug, Clone)]
pub(crate) struct ShuffleReadExec {
    source: Source,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl ShuffleReadExec {
    fn with_source(source: Source, known: EquivalenceProperties, partitioning: Partitioning) -> Self {
        let properties = PlanProperties::new(known, partitioning, EmissionType::Incremental, Boundedness::Bounded);
        Self { source, properties: Arc::new(properties), metrics: ExecutionPlanMetricsSet::new() }
    }

    /// Reads a shuffle partition by partition, distributed as the exchange that it replaces.
    pub(crate) fn partitioned(
        shuffle: Arc<Shuffle>,
        schema: SchemaRef,
        equal: &EqualColumns,
        partitioning: Partitioning,
    ) -> Result<Self> {
        let ranges = (0..shuffle.partitions()).map(|p| (p, p + 1)).collect();
        Ok(Self::with_source(
            Source::Shuffle { shuffle, ranges, hinted: false },
            equal.properties(schema)?,
            partitioning,
        ))
    }

    /// Reads all of a shuffle as one partition: what a broadcast is made of.
    pub(crate) fn whole(&self) -> Option<Self> {
        let (shuffle, _) = self.shuffle()?;
        let ranges = Arc::new([(0, shuffle.partitions())]);
        let source = Source::Shuffle { shuffle: Arc::clone(shuffle), ranges, hinted: self.is_hinted() };
        Some(Self::with_source(source, self.known(), Partitioning::UnknownPartitioning(1)))
    }

    /// The same, with what a hint says about its rows.
    pub(crate) fn hinted(mut self, wanted: bool) -> Self {
        if let Source::Shuffle { hinted, .. } = &mut self.source {
            *hinted = wanted;
        }
        self
    }

    /// Whether somebody wants its rows broadcast.
    pub(crate) fn is_hinted(&self) -> bool {
        matches!(self.source, Source::Shuffle { hinted: true, .. })
    }

    fn known(&self) -> EquivalenceProperties {
        self.properties.eq_properties.clone()
    }

    /// Reads the same shuffle by other ranges: neighbours that are small become one partition.
    pub(crate) fn regrouped(&self, ranges: Ranges) -> Option<Self> {
        let (shuffle, _) = self.shuffle()?;
        let partitioning = match &self.properties.partitioning {
            Partitioning::Hash(by, _) => Partitioning::Hash(by.clone(), ranges.len()),
            _ => Partitioning::UnknownPartitioning(ranges.len()),
        };
        let source = Source::Shuffle { shuffle: Arc::clone(shuffle), ranges, hinted: self.is_hinted() };
        Some(Self::with_source(source, self.known(), partitioning))
    }

    /// Leaf number `leaf` of a fragment, as an executor has it.
    pub(crate) fn leaf(leaf: u32, shuffle: ShuffleId, schema: SchemaRef, equal: &EqualColumns) -> Result<Self> {
        let known = equal.properties(schema)?;
        Ok(Self::with_source(Source::Leaf { leaf, shuffle }, known, Partitioning::UnknownPartitioning(1)))
    }

    /// The shuffle and what each partition reads of it; none in an executor.
    pub(crate) fn shuffle(&self) -> Option<(&Arc<Shuffle>, &Ranges)> {
        match &self.source {
            Source::Shuffle { shuffle, ranges, .. } => Some((shuffle, ranges)),
            Source::Leaf { .. } => None,
        }
    }

    /// The leaf's number and the shuffle, in an executor.
    pub(crate) fn as_leaf(&self) -> Option<(u32, ShuffleId)> {
        match &self.source {
            Source::Leaf { leaf, shuffle } => Some((*leaf, *shuffle)),
            Source::Shuffle { .. } => None,
        }
    }

    /// What one partition holds, or all. Raw bytes are what its rows take in memory, stored ones what reading them costs.
    pub(crate) fn size(&self, partition: Option<usize>) -> PartitionSize {
        let Some((shuffle, ranges)) = self.shuffle() else { return PartitionSize::default() };
        let ranges = match partition {
            Some(partition) => ranges.get(partition..=partition).unwrap_or_default(),
            None => ranges,
        };
        let sizes = ranges.iter().flat_map(|&(start, end)| &shuffle.sizes()[start as usize..end as usize]);
        sizes.fold(PartitionSize::default(), |sum, size| PartitionSize {
            rows: sum.rows + size.rows,
            bytes: sum.bytes + size.bytes,
            raw_bytes: sum.raw_bytes + size.raw_bytes,
        })
    }
}

impl DisplayAs for ShuffleReadExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::Shuffle { shuffle, ranges, .. } => {
                let PartitionSize { rows, bytes, .. } = self.size(None);
                let (id, of) = (shuffle.id(), shuffle.partitions());
                write!(
                    f,
                    "ShuffleReadExec: shuffle={id}, partitions={} of {of}, rows={rows}, bytes={bytes}",
                    ranges.len()
                )
            }
            Source::Leaf { leaf, shuffle } => write!(f, "ShuffleReadExec: shuffle={shuffle}, leaf={leaf}"),
        }
    }
}

impl ExecutionPlan for ShuffleReadExec {
    fn name(&self) -> &'static str {
        "ShuffleReadExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Source::Leaf { leaf, .. } = self.source else {
            return internal_err!("a shuffle can be read by a task only");
        };
        let Some(leaves) = context.session_config().get_extension::<Leaves>() else {
            return internal_err!("a shuffle was read without a task");
        };
        let reader = match leaves.input(leaf) {
            Some(Input::Range(range)) => leaves.open(*range)?,
            _ => None,
        };
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let (rows, memory) = (context.session_config().batch_size(), context.memory_pool().memory_limit());
        let bytes = match memory {
            MemoryLimit::Finite(bytes) => bytes / BATCHES_IN_MEMORY,
            _ => usize::MAX,
        };
        let pieces = Pieces { rows, bytes, left: None };
        // Lets go now and then, so that a task that reads and gives nothing can be cancelled.
        Ok(make_cooperative(Box::pin(Rows { reader, leaves, schema: self.schema(), metrics, pieces })))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn statistics_from_inputs(&self, _: &[Arc<Statistics>], args: &StatisticsArgs) -> Result<Arc<Statistics>> {
        let mut statistics = Statistics::new_unknown(&self.schema());
        if self.shuffle().is_some() {
            let PartitionSize { rows, raw_bytes, .. } = self.size(args.partition());
            statistics.num_rows = Precision::Exact(usize::try_from(rows).unwrap_or(usize::MAX));
            statistics.total_byte_size = Precision::Inexact(usize::try_from(raw_bytes).unwrap_or(usize::MAX));
        }
        Ok(Arc::new(statistics))
    }
}

/// A batch that takes more than this part of a task's memory is given in pieces: operators hold several at a time.
const BATCHES_IN_MEMORY: usize = 64;

/// Cuts batches that are large for the memory there is.
struct Pieces {
    /// Rows of a piece.
    rows: usize,
    /// The largest batch that is passed on as it is.
    bytes: usize,
    /// What is left of a batch.
    left: Option<RecordBatch>,
}

impl Pieces {
    fn next(&mut self) -> Result<Option<RecordBatch>> {
        let Some(batch) = self.left.take() else { return Ok(None) };
        if batch.get_array_memory_size() <= self.bytes {
            return Ok(Some(batch));
        }
        let rows = self.rows.min(batch.num_rows());
        if rows < batch.num_rows() {
            self.left = Some(batch.slice(rows, batch.num_rows() - rows));
        }
        // Copied: a slice would count, and be kept, as all of the batch.
        let first = UInt32Array::from_iter_values(0..u32::try_from(rows).unwrap_or(u32::MAX));
        Ok(Some(take_record_batch(&batch, &first)?))
    }
}

/// The batches of one range. Hands in what was read when it is dropped, also if that was not all.
struct Rows {
    reader: Option<Reader>,
    leaves: Arc<Leaves>,
    schema: SchemaRef,
    metrics: BaselineMetrics,
    pieces: Pieces,
}

impl Stream for Rows {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Some(reader) = &mut this.reader else { return Poll::Ready(None) };
        loop {
            if let Some(batch) = this.pieces.next().transpose() {
                return Poll::Ready(Some(batch.map(|batch| batch.record_output(&this.metrics))));
            }
            match ready!(Pin::new(&mut *reader).poll_next(context)) {
                Some(Ok(block)) => this.pieces.left = Some(block.batch()),
                Some(Err(error)) => return Poll::Ready(Some(Err(error::wrap(error.into_failure())))),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl RecordBatchStream for Rows {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        if let Some(reader) = self.reader.take() {
            self.leaves.report(reader.report());
        }
    }
}

/// The node behind a plan, if it is of this type.
pub(crate) fn downcast<T: ExecutionPlan>(plan: &Arc<dyn ExecutionPlan>) -> Option<&T> {
    (plan.as_ref() as &dyn Any).downcast_ref()
}
