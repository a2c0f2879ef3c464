//! How are the rows of a query written, once and all at once?
//!
//! DataFusion plans a write as a `DataSinkExec`. [`WriteExec`] takes its place: tasks stage files as its sink says, and the
//! driver commits them.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

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
use model::write::{WriteId, WriteMode, WriteReport, WriteTarget};

use crate::error::wrap_job;
use crate::fragment::Destination;
use crate::here;
use crate::name;
use crate::order;
use crate::query::{Cluster, Ran, again, run_exchanges};
use crate::read::downcast;
use crate::stage::{End, StageTemplate};
use crate::stores::OwnStore;
use crate::write;

/// What happens to what is at the destination, for writes of this session. Without it DataFusion's own word counts, which is
/// to append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode(pub WriteMode);

/// Writes the rows of a plan when it is executed. Gives one row: how many were written.
#[derive(Clone)]
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

    fn execute(&self, _: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let schema = self.schema();
        let (write, batch_schema) = (self.clone(), Arc::clone(&schema));
        let run = async move {
            let rows = write.run(&context, &mut Vec::new()).await?;
            Ok(RecordBatch::try_new(batch_schema, vec![Arc::new(UInt64Array::from(vec![rows]))])?)
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::once(run))))
    }
}

impl WriteExec {
    /// The rows that are written. Each partition writes files of its own: gathering them would only take time.
    pub(crate) fn rows(&self) -> Result<&Arc<dyn ExecutionPlan>> {
        let Some(root) = downcast::<DataSinkExec>(&self.sink) else { return internal_err!("a write without a sink") };
        Ok(match downcast::<CoalescePartitionsExec>(root.input()) {
            Some(gathered) if gathered.fetch().is_none() => gathered.input(),
            _ => root.input(),
        })
    }

    /// Runs all stages, and commits the files; how many rows they have. Adds what was measured to `ran`.
    pub(crate) async fn run(&self, context: &Arc<TaskContext>, ran: &mut Vec<Ran>) -> Result<u64> {
        let (cluster, config) = (&*self.cluster, &self.config);
        let mut target = self.target();
        if !cluster.runner.would_write(&target).await.map_err(wrap_job)? {
            return Ok(0);
        }
        let (rows, _held) = here::gathered(Arc::clone(self.rows()?), context).await?;
        // Sorted partitions become ranges of the order.
        let mut plan = match order::sorts(&rows) {
            Some(sort) => order::in_ranges(cluster, sort, config, ran).await?,
            None => run_exchanges(cluster, rows, config, ran).await?,
        };
        loop {
            match self.write(&plan, target, ran).await {
                Ok(rows) => return Ok(rows),
                Err(error) => plan = run_exchanges(cluster, again(error, &plan, cluster)?, config, ran).await?,
            }
            target = self.target(); // what a failed job has staged is another write's
        }
    }

    /// Where a new job writes.
    fn target(&self) -> WriteTarget {
        let runner = &self.cluster.runner;
        let write = WriteId { app: runner.app(), epoch: runner.epoch(), job: runner.ids().job() };
        let destination = OwnStore::of(&self.config).located(&self.destination);
        WriteTarget { destination, mode: self.mode, write }
    }

    /// Runs the last stage.
    async fn write(&self, plan: &Arc<dyn ExecutionPlan>, target: WriteTarget, ran: &mut Vec<Ran>) -> Result<u64> {
        let started = Instant::now();
        let (runner, destination) = (&self.cluster.runner, &self.destination);
        let end = End::Write {
            sink: Arc::clone(&self.sink),
            destination: Destination { write: target.write.to_string(), url: target.destination.clone() },
        };
        let name = format!("{}, write", name::stage(plan));
        let stage = StageTemplate::new(name, plan, &end, &self.config, &self.cluster.carrier)?;
        let mut work = stage.job(&**runner, format!("write {destination}"), Output::Write)?;
        work.id = target.write.job;
        let mut items = runner.write(work, target);
        let mut written = WriteReport::default();
        while let Some(item) = items.next().await {
            if let JobItem::Written(report) = item.map_err(wrap_job)? {
                written = report;
            }
        }
        let WriteReport { rows, bytes, .. } = written;
        let (plan, tasks, took) = (Arc::clone(plan), stage.tasks(), started.elapsed());
        ran.push(Ran { plan, tasks, took, rows, bytes, metrics: None });
        Ok(rows)
    }
}
