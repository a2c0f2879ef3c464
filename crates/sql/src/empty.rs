//! What need not run, because what it would have worked on has turned out to have no rows?

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{JoinType, Result};
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, SortMergeJoinExec};
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

use crate::read::{ShuffleReadExec, downcast};

/// The plan without what gives no rows: shuffles that have none, and all above them that can then have none.
pub(crate) fn dropped(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let dropped = plan.transform_up(|node| {
        if downcast::<EmptyExec>(&node).is_some() || !is_empty(&node) {
            return Ok(Transformed::no(node));
        }
        let partitions = node.output_partitioning().partition_count();
        let empty = EmptyExec::new(node.schema()).with_partitions(partitions);
        Ok(Transformed::yes(Arc::new(empty) as Arc<dyn ExecutionPlan>))
    });
    Ok(dropped?.data)
}

/// Whether a node has no rows, as far as those below it tell that have been looked at.
fn is_empty(node: &Arc<dyn ExecutionPlan>) -> bool {
    if let Some(read) = downcast::<ShuffleReadExec>(node) {
        return read.shuffle().is_some() && read.size(None).rows == 0;
    }
    let children = node.children();
    let empty = |child: usize| children.get(child).is_some_and(|child| downcast::<EmptyExec>(child).is_some());
    if let Some(join) = downcast::<HashJoinExec>(node) {
        return joins_nothing(*join.join_type(), empty(0), empty(1));
    }
    if let Some(join) = downcast::<SortMergeJoinExec>(node) {
        return joins_nothing(join.join_type(), empty(0), empty(1));
    }
    if downcast::<CrossJoinExec>(node).is_some() {
        return empty(0) || empty(1);
    }
    if let Some(groups) = downcast::<AggregateExec>(node) {
        // Without a key there is a row also of nothing.
        return !groups.group_expr().expr().is_empty() && groups.group_expr().is_single() && empty(0);
    }
    let passes = downcast::<ProjectionExec>(node).is_some()
        || downcast::<FilterExec>(node).is_some()
        || downcast::<SortExec>(node).is_some()
        || downcast::<RepartitionExec>(node).is_some()
        || downcast::<CoalescePartitionsExec>(node).is_some()
        || downcast::<SortPreservingMergeExec>(node).is_some()
        || downcast::<GlobalLimitExec>(node).is_some()
        || downcast::<LocalLimitExec>(node).is_some()
        || downcast::<WindowAggExec>(node).is_some()
        || downcast::<BoundedWindowAggExec>(node).is_some();
    passes && empty(0)
}

/// Whether a join has no rows if one of its sides has none.
fn joins_nothing(join: JoinType, left: bool, right: bool) -> bool {
    match join {
        JoinType::Inner | JoinType::LeftSemi | JoinType::RightSemi => left || right,
        JoinType::Left | JoinType::LeftAnti | JoinType::LeftMark => left,
        JoinType::Right | JoinType::RightAnti | JoinType::RightMark => right,
        JoinType::Full => left && right,
    }
}
