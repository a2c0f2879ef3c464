//! Which parts of a plan can no executor run, and what becomes of them?
//!
//! Sources that only this process can read, such as tables of the program's own or the information schema, and recursive
//! queries. They run here when the rest of the plan is about to, and their rows go on from memory.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::physical_plan::recursive_query::RecursiveQueryExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, execute_stream_partitioned};
use futures::{StreamExt, TryStreamExt};

use crate::planner::is_value;
use crate::read::downcast;
use crate::route;

/// A plan whose sources executors can have. What was held in memory for it is counted as long as the second of the pair lives.
pub(crate) async fn gathered(
    plan: Arc<dyn ExecutionPlan>,
    context: &Arc<TaskContext>,
) -> Result<(Arc<dyn ExecutionPlan>, MemoryReservation)> {
    let held = MemoryConsumer::new("rows that only the driver can read").register(context.memory_pool());
    let mut parts = Vec::new();
    plan.apply(|node| {
        if !only_here(node) {
            return Ok(TreeNodeRecursion::Continue);
        }
        parts.push(Arc::clone(node));
        Ok(TreeNodeRecursion::Jump)
    })?;
    let mut rows = Vec::with_capacity(parts.len());
    for part in parts {
        let read = run(&part, context, &held).await?;
        rows.push((part, read));
    }
    let plan = plan.transform_down(|node| match rows.iter().find(|(part, _)| Arc::ptr_eq(part, &node)) {
        Some((_, rows)) => Ok(Transformed::new(Arc::clone(rows), true, TreeNodeRecursion::Jump)),
        None => Ok(Transformed::no(node)),
    });
    Ok((plan?.data, held))
}

/// Whether a plan, or a part of it, runs in this process only.
pub(crate) fn only_here(node: &Arc<dyn ExecutionPlan>) -> bool {
    downcast::<RecursiveQueryExec>(node).is_some()
        || node.children().is_empty() && !route::is_input(node) && !is_value(node)
}

/// The rows of a part, in the partitions that it has.
async fn run(
    part: &Arc<dyn ExecutionPlan>,
    context: &Arc<TaskContext>,
    held: &MemoryReservation,
) -> Result<Arc<dyn ExecutionPlan>> {
    let mut partitions = Vec::with_capacity(part.output_partitioning().partition_count());
    for stream in execute_stream_partitioned(Arc::clone(part), Arc::clone(context))? {
        let counted = stream.map(|batch| {
            let batch = batch?;
            held.try_grow(batch.get_array_memory_size())?;
            Ok::<_, datafusion::common::DataFusionError>(batch)
        });
        partitions.push(counted.try_collect::<Vec<_>>().await?);
    }
    Ok(MemorySourceConfig::try_new_exec(&partitions, part.schema(), None)?)
}
