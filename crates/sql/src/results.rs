//! Where do the rows of the last stage enter what runs in the driver?

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use datafusion::arrow::array::{Array, RecordBatch};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use model::runner::{JobError, Pieces, ResultStream};
use model::{Failure, FailureKind};

use crate::error::wrap_job;
use crate::rows;

/// Gives the results of a job once: as one partition in the order of arrival, or partition by partition.
pub(crate) struct ResultsExec {
    properties: Arc<PlanProperties>,
    streams: Mutex<Vec<Option<SendableRecordBatchStream>>>,
}

impl ResultsExec {
    /// All results in the order of arrival. They are fetched as they are asked for.
    pub(crate) fn merged(results: ResultStream, schema: SchemaRef) -> Self {
        let promised = Arc::clone(&schema);
        let batches = results.map_err(wrap_job).map_ok(move |result| batches(result.pieces, Arc::clone(&promised)));
        let batches = batches.try_flatten();
        let stream = RecordBatchStreamAdapter::new(Arc::clone(&schema), batches);
        Self::new(EquivalenceProperties::new(schema), vec![Some(Box::pin(stream))])
    }

    /// Results of each partition apart, in the order that `equivalences` promise. All must be there before the first row is
    /// given, but only a piece or two of each are here at a time.
    pub(crate) async fn by_partition(
        mut results: ResultStream,
        equivalences: EquivalenceProperties,
        partitions: usize,
    ) -> Result<Self> {
        let schema = Arc::clone(equivalences.schema());
        let mut parts: Vec<_> = (0..partitions).map(|_| stream::empty().boxed()).collect();
        while let Some(result) = results.try_next().await.map_err(wrap_job)? {
            if let Some(part) = parts.get_mut(result.partition.0 as usize) {
                *part = batches(result.pieces, Arc::clone(&schema));
            }
        }
        let streams = parts.into_iter().map(|batches| {
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

/// The rows of a result, with the schema that the query promises.
fn batches(pieces: Pieces, schema: SchemaRef) -> BoxStream<'static, Result<RecordBatch>> {
    let decoding = (pieces, rows::Decoder::new(schema));
    let next = async |(mut pieces, mut decoder): (Pieces, rows::Decoder)| {
        loop {
            if let Some(batch) = decoder.next()? {
                return Ok(Some((batch, (pieces, decoder))));
            }
            match pieces.try_next().await.map_err(wrap_job)? {
                Some(piece) => decoder.push(piece),
                None => {
                    decoder.finish()?;
                    return Ok(None);
                }
            }
        }
    };
    stream::try_unfold(decoding, next).boxed()
}

/// How many bytes of a query's results a program may hold at once: `driver.max_result_size`.
pub(crate) struct MaxHeld(pub(crate) u64);

/// Lets rows through as long as the program does not hold more of them than it may. What it has let go of does not count.
pub(crate) fn limited(rows: SendableRecordBatchStream, max: u64) -> SendableRecordBatchStream {
    let (mut held, mut bytes) = (Vec::<(Weak<dyn Array>, u64)>::new(), 0);
    let schema = rows.schema();
    let looked_at = rows.map(move |batch| {
        let batch = batch?;
        for column in batch.columns() {
            let size = column.to_data().get_slice_memory_size().map_or(0, |size| size as u64);
            held.push((Arc::downgrade(column), size));
            bytes += size;
        }
        if bytes > max {
            held.retain(|(column, _)| column.strong_count() > 0);
            bytes = held.iter().map(|(_, size)| size).sum();
        }
        if bytes > max { Err(too_large(bytes, max)) } else { Ok(batch) }
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, looked_at))
}

fn too_large(bytes: u64, max: u64) -> DataFusionError {
    let what = format!(
        "collect results: the program holds {bytes} bytes and not all are here, `driver.max_result_size` allows {max}; set \
         it higher, or collect less: write the rows, take some, or let go of what a stream of them has given"
    );
    let failure = Box::new(Failure::new(FailureKind::Limit, what));
    wrap_job(JobError::Failed { name: "query".to_owned(), failure, earlier: Vec::new() })
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
