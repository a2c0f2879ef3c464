//! How are the rows of a query written, once and all at once?
//!
//! DataFusion plans a write as a `DataSinkExec`. [`WriteExec`] takes its place: tasks stage files as its sink says, and the
//! driver commits them.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::datasource::sink::DataSinkExec;
use datafusion::execution::config::SessionConfig;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::dml::InsertOp;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use futures::StreamExt;
use model::graph::Output;
use model::runner::JobItem;
use model::write::{WriteId, WriteMode, WriteTarget};

use crate::error::wrap_job;
use crate::fragment::Destination;
use crate::name;
use crate::order;
use crate::query::{Cluster, run_exchanges};
use crate::read::downcast;
use crate::stage::{End, StageTemplate};
use crate::write;

/// What happens to what is at the destination, for writes of this session. Without it DataFusion's own word counts, which is
/// to append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode(pub WriteMode);

/// Writes the rows of a plan when it is executed. Gives one row: how many were written.
pub(crate) struct WriteExec {
    cluster: Arc<Cluster>,
    sink: Arc<dyn ExecutionPlan>,
    mode: WriteMode,
    destination: String,
    config: SessionConfig,
    properties: Arc<PlanProperties>,
}

impl WriteExec {
    /// Takes the place of a plan's root, if that writes files.
    pub(crate) fn new(cluster: Arc<Cluster>, sink: Arc<dyn ExecutionPlan>, config: SessionConfig) -> Result<Self> {
        let Some(root) = downcast::<DataSinkExec>(&sink) else { return internal_err!("a write without a sink") };
        let files = write::files(root)?;
        let Some(destination) = files.config.table_paths.first().map(ToString::to_string) else {
            return internal_err!("a write without a destination");
        };
        let mode = match (config.get_extension::<Mode>(), files.config.insert_op) {
            (Some(mode), _) => mode.0,
            (None, InsertOp::Append) => WriteMode::Append,
            (None, InsertOp::Overwrite | InsertOp::Replace) => WriteMode::Overwrite,
        };
        let schema = Arc::new(Schema::new(vec![Field::new("count", DataType::UInt64, false)]));
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Ok(Self { cluster, sink, mode, destination, config, properties: Arc::new(properties) })
    }
}

impl fmt::Debug for WriteExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteExec").field("destination", &self.destination).finish_non_exhaustive()
    }
}

impl DisplayAs for WriteExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WriteExec: destination={}, mode={:?}", self.destination, self.mode)
    }
}

impl ExecutionPlan for WriteExec {
    fn name(&self) -> &'static str {
        "WriteExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.sink]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(match children.pop() {
            Some(sink) => Arc::new(Self::new(Arc::clone(&self.cluster), sink, self.config.clone())?),
            None => self,
        })
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let schema = self.schema();
        let (cluster, sink, config) = (Arc::clone(&self.cluster), Arc::clone(&self.sink), self.config.clone());
        let (mode, destination) = (self.mode, self.destination.clone());
        let batch_schema = Arc::clone(&schema);
        let run = async move {
            let rows = run(&cluster, &sink, mode, destination, &config).await?;
            Ok(RecordBatch::try_new(batch_schema, vec![Arc::new(UInt64Array::from(vec![rows]))])?)
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::once(run))))
    }
}

async fn run(
    cluster: &Cluster,
    sink: &Arc<dyn ExecutionPlan>,
    mode: WriteMode,
    destination: String,
    config: &SessionConfig,
) -> Result<u64> {
    let Some(root) = downcast::<DataSinkExec>(sink) else { return internal_err!("a write without a sink") };
    let runner = &cluster.runner;
    let job = runner.ids().job();
    let write = WriteId { app: runner.app(), epoch: runner.epoch(), job };
    let target = WriteTarget { destination: destination.clone(), mode, write };
    if !runner.would_write(&target).await.map_err(wrap_job)? {
        return Ok(0);
    }
    // Each partition writes files of its own: gathering them would only take time. Sorted partitions become ranges of the order.
    let input = match downcast::<CoalescePartitionsExec>(root.input()) {
        Some(gathered) if gathered.fetch().is_none() => gathered.input(),
        _ => root.input(),
    };
    let plan = match order::sorts(input) {
        Some(sort) => order::in_ranges(cluster, sort, config).await?,
        None => run_exchanges(cluster, Arc::clone(input), config, &mut Vec::new()).await?,
    };
    let end = End::Write {
        sink: Arc::clone(sink),
        destination: Destination { write: write.to_string(), url: destination.clone() },
    };
    let stage = StageTemplate::new(format!("{}, write", name::stage(&plan)), &plan, &end, config, &cluster.carrier)?;
    let mut work = stage.job(&**runner, format!("write {destination}"), Output::Write)?;
    work.id = job;
    let mut items = runner.write(work, target);
    let mut rows = 0;
    while let Some(item) = items.next().await {
        if let JobItem::Written(report) = item.map_err(wrap_job)? {
            rows = report.rows;
        }
    }
    Ok(rows)
}
