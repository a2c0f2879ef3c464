//! How do many tasks put rows into one order?
//!
//! Each of them sorts a range of the order, as Spark does it: some rows, taken at random, say where ranges begin. Only writes
//! need it: the driver merges sorted partitions into a result.

use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::common::stats::Precision;
use datafusion::common::{DataFusionError, Result, ScalarValue, SplitPoint};
use datafusion::execution::config::SessionConfig;
use datafusion::functions::math::random;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{binary, lit};
use datafusion::physical_expr::{LexOrdering, RangePartitioning, ScalarFunctionExpr};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, Partitioning, StatisticsContext};
use futures::StreamExt;
use model::graph::Output;
use model::runner::JobItem;

use crate::cut::Exchange;
use crate::error::wrap_job;
use crate::query::{Cluster, Ran, again, run_exchanges, run_last_exchange};
use crate::read::downcast;
use crate::rows;
use crate::stage::{End, StageTemplate};

/// Rows that are looked at for each range: ranges then hold at most about a third more rows than they should (Spark's
/// `spark.sql.execution.rangeExchange.sampleSizePerPartition`).
const SAMPLED_PER_RANGE: usize = 100;

/// What a row is taken to have in bytes where nobody has counted: little, so that too many are looked at rather than too few.
const ROW_BYTES: usize = 32;

/// The sort of a plan that gathers sorted partitions into one, if there is any.
pub(crate) fn sorts(plan: &Arc<dyn ExecutionPlan>) -> Option<&SortExec> {
    let merge = downcast::<SortPreservingMergeExec>(plan).filter(|merge| merge.fetch().is_none())?;
    let sort = downcast::<SortExec>(merge.input()).filter(|sort| sort.fetch().is_none())?;
    (sort.input().output_partitioning().partition_count() > 1).then_some(sort)
}

/// The sort as a plan whose partitions follow each other in its order. What is below it runs, and is added to `ran`.
pub(crate) async fn in_ranges(
    cluster: &Cluster,
    sort: &SortExec,
    config: &SessionConfig,
    ran: &mut Vec<Ran>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let order = sort.expr().clone();
    let mut input = Arc::clone(sort.input());
    let (input, partitioning) = loop {
        input = run_exchanges(cluster, input, config, ran).await?;
        let ranges = input.output_partitioning().partition_count();
        if ranges == 1 {
            break (input, Partitioning::UnknownPartitioning(1));
        }
        match sample(cluster, &input, &order, ranges * SAMPLED_PER_RANGE, config).await {
            Ok(mut keys) => {
                let points = split(&mut keys, &order, ranges)?;
                break (input, Partitioning::Range(RangePartitioning::try_new(order.clone(), points)?));
            }
            Err(error) => input = again(error, &input, cluster)?,
        }
    };
    let exchange = Exchange::new(input, partitioning);
    let (exchange, shuffle) = run_last_exchange(cluster, exchange, config, ran).await?;
    Ok(Arc::new(SortExec::new(order, exchange.rows(shuffle)?).with_preserve_partitioning(true)))
}

/// About so many of a plan's keys, taken at random.
async fn sample(
    cluster: &Cluster,
    plan: &Arc<dyn ExecutionPlan>,
    order: &LexOrdering,
    wanted: usize,
    config: &SessionConfig,
) -> Result<Vec<RecordBatch>> {
    let statistics = StatisticsContext::new().compute(plan.as_ref(), &Default::default())?;
    let rows = match (statistics.num_rows, statistics.total_byte_size) {
        (Precision::Exact(rows) | Precision::Inexact(rows), _) => rows,
        (_, Precision::Exact(bytes) | Precision::Inexact(bytes)) => bytes / ROW_BYTES,
        _ => 0,
    };
    let keys = order
        .iter()
        .enumerate()
        .map(|(index, key)| ProjectionExpr { expr: Arc::clone(&key.expr), alias: format!("key{index}") });
    let mut sampled: Arc<dyn ExecutionPlan> =
        Arc::new(ProjectionExec::try_new(keys.collect::<Vec<_>>(), Arc::clone(plan))?);
    if rows > wanted {
        let random =
            ScalarFunctionExpr::try_new(random(), Vec::new(), &sampled.schema(), Arc::clone(config.options()))?;
        let share = lit(wanted as f64 / rows as f64);
        let some = binary(Arc::new(random), Operator::Lt, share, &sampled.schema())?;
        sampled = Arc::new(FilterExec::try_new(some, sampled)?);
    }
    let stage = StageTemplate::new("sample".to_owned(), &sampled, &End::Result, config, &cluster.carrier)?;
    let mut items = cluster.runner.run(stage.job(&*cluster.runner, "query: sample".to_owned(), Output::Result)?);
    let mut keys = Vec::new();
    while let Some(item) = items.next().await {
        if let JobItem::Result { bytes, .. } = item.map_err(wrap_job)? {
            keys.extend(rows::decode_as(bytes, &sampled.schema())?);
        }
    }
    Ok(keys)
}

/// Keys at which ranges begin, so that each has about as many of them; fewer where a key is frequent.
fn split(keys: &mut Vec<RecordBatch>, order: &LexOrdering, ranges: usize) -> Result<Vec<SplitPoint>> {
    keys.retain(|batch| batch.num_rows() > 0);
    let Some(first) = keys.first() else { return Ok(Vec::new()) };
    let all = arrow::compute::concat_batches(&first.schema(), keys.iter())?;
    let columns: Vec<_> = all
        .columns()
        .iter()
        .zip(order.iter())
        .map(|(values, key)| arrow::compute::SortColumn { values: Arc::clone(values), options: Some(key.options) })
        .collect();
    let sorted = arrow::compute::lexsort_to_indices(&columns, None)?;
    let key = |place: usize| {
        let row = sorted.value(place) as usize;
        let values = all.columns().iter().map(|column| ScalarValue::try_from_array(column, row));
        Ok::<_, DataFusionError>(SplitPoint::new(values.collect::<Result<_>>()?))
    };
    let (mut points, mut last, mut place) = (Vec::new(), key(0)?, 0);
    for range in 1..ranges {
        place = place.max(range * sorted.len() / ranges);
        while place < sorted.len() {
            let point = key(place)?;
            if point != last {
                points.push(point.clone());
                last = point;
                break;
            }
            place += 1;
        }
    }
    Ok(points)
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array};
    use datafusion::physical_expr::PhysicalSortExpr;
    use datafusion::physical_expr::expressions::Column;

    use super::*;

    fn points(keys: Vec<Option<i64>>, descending: bool, ranges: usize) -> Vec<ScalarValue> {
        let options = arrow::compute::SortOptions { descending, nulls_first: true };
        let order = LexOrdering::new([PhysicalSortExpr::new(Arc::new(Column::new("key", 0)), options)]).unwrap();
        let column: ArrayRef = Arc::new(Int64Array::from(keys));
        let points = split(&mut vec![RecordBatch::try_from_iter([("key", column)]).unwrap()], &order, ranges).unwrap();
        RangePartitioning::try_new(order, points.clone()).unwrap();
        points.into_iter().map(|point| point.values()[0].clone()).collect()
    }

    #[test]
    fn ranges_hold_as_many_keys_each() {
        let keys = (0..100).rev().map(Some).collect::<Vec<_>>();
        assert_eq!(points(keys.clone(), false, 4), [25, 50, 75].map(|key| ScalarValue::Int64(Some(key))));
        assert_eq!(points(keys, true, 2), [ScalarValue::Int64(Some(49))]);
    }

    #[test]
    fn a_frequent_key_has_one_range() {
        assert_eq!(points([vec![Some(7); 90], vec![Some(8); 10]].concat(), false, 4), [ScalarValue::Int64(Some(8))]);
        assert!(points(vec![None; 10], false, 4).is_empty());
        assert!(points(Vec::new(), false, 4).is_empty());
    }
}
