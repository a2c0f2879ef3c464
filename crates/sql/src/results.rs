//! Where do the rows of the last stage enter what runs in the driver?

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use futures::StreamExt;
use model::runner::{JobItem, JobStream};

use crate::error::wrap_job;
use crate::rows;

/// Gives the results of a job once: as one partition in the order of arrival, or partition by partition.
pub(crate) struct ResultsExec {
    properties: Arc<PlanProperties>,
    streams: Mutex<Vec<Option<SendableRecordBatchStream>>>,
}

impl ResultsExec {
    /// All results in the order of arrival. They are fetched as they are asked for.
    pub(crate) fn merged(jobs: JobStream, schema: SchemaRef) -> Self {
        let promised = Arc::clone(&schema);
        let batches = jobs.flat_map(move |item| {
            let batches = match item {
                Ok(JobItem::Result { bytes, .. }) => match rows::decode_as(bytes, &promised) {
                    Ok(batches) => batches.into_iter().map(Ok).collect(),
                    Err(error) => vec![Err(error.into())],
                },
                Ok(JobItem::Accumulated(_) | JobItem::Shuffled { .. } | JobItem::Written(_)) => Vec::new(),
                Err(error) => vec![Err(wrap_job(error))],
            };
            futures::stream::iter(batches)
        });
        let stream = RecordBatchStreamAdapter::new(Arc::clone(&schema), batches);
        Self::new(EquivalenceProperties::new(schema), vec![Some(Box::pin(stream))])
    }

    /// Results of each partition apart, in the order that `equivalences` promise. All are fetched before the first is given.
    pub(crate) async fn by_partition(
        mut jobs: JobStream,
        equivalences: EquivalenceProperties,
        partitions: usize,
    ) -> Result<Self> {
        let schema = Arc::clone(equivalences.schema());
        let mut results = vec![Vec::new(); partitions];
        while let Some(item) = jobs.next().await {
            if let JobItem::Result { partition, bytes } = item.map_err(wrap_job)?
                && let Some(result) = results.get_mut(partition.0 as usize)
            {
                *result = rows::decode_as(bytes, &schema)?;
            }
        }
        let streams = results.into_iter().map(|batches| {
            let batches = futures::stream::iter(batches.into_iter().map(Ok));
            Some(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&schema), batches)) as SendableRecordBatchStream)
        });
        Ok(Self::new(equivalences, streams.collect()))
    }

    fn new(equivalences: EquivalenceProperties, streams: Vec<Option<SendableRecordBatchStream>>) -> Self {
        let properties = PlanProperties::new(
            equivalences,
            Partitioning::UnknownPartitioning(streams.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self { properties: Arc::new(properties), streams: Mutex::new(streams) }
    }
}

impl fmt::Debug for ResultsExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResultsExec")
    }
}

impl DisplayAs for ResultsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResultsExec")
    }
}

impl ExecutionPlan for ResultsExec {
    fn name(&self) -> &'static str {
        "ResultsExec"
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

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        match streams.get_mut(partition).and_then(Option::take) {
            Some(stream) => Ok(stream),
            None => internal_err!("results of partition {partition} were asked for twice"),
        }
    }
}
