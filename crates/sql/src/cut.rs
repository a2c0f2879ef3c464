//! Where is a plan cut into stages?
//!
//! At every node below which rows change partitions: a repartition, a gathering of partitions into one, a merge. Nodes at
//! the very top that only gather, merge, limit or project run in the driver, over the results of the last stage.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, not_impl_err};
use datafusion::physical_expr::LexOrdering;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec, PartitionMode};
use datafusion::physical_plan::limit::GlobalLimitExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, Partitioning, replace_children_if_necessary};

use crate::adapt;
use crate::hint::hinted;
use crate::read::{EqualColumns, ShuffleReadExec, downcast};
use crate::reduce;
use crate::route::{each_partition_alone, gathers_left};
use crate::stage::Shuffle;

/// A node at which the plan is cut, once everything below it can run as one stage.
#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    node: Arc<dyn ExecutionPlan>,
    /// What the stage computes.
    pub(crate) input: Arc<dyn ExecutionPlan>,
    /// How its rows are divided.
    pub(crate) partitioning: Partitioning,
}

fn partitions(plan: &Arc<dyn ExecutionPlan>) -> usize {
    plan.output_partitioning().partition_count()
}

/// The exchange that a node stands for, if it is one.
pub(crate) fn exchange(node: &Arc<dyn ExecutionPlan>) -> Option<Exchange> {
    let (input, partitioning) = if let Some(repartition) = downcast::<RepartitionExec>(node) {
        (Arc::clone(repartition.input()), repartition.partitioning().clone())
    } else if let Some(coalesce) = downcast::<CoalescePartitionsExec>(node) {
        (Arc::clone(coalesce.input()), Partitioning::UnknownPartitioning(1))
    } else if let Some(merge) = downcast::<SortPreservingMergeExec>(node) {
        let mut input = Arc::clone(merge.input());
        // Rows are sorted once more where they are gathered: before that only what a limit drops is worth a sort.
        if let Some(sort) = downcast::<SortExec>(&input)
            && sort.fetch().is_none()
        {
            input = Arc::clone(sort.input());
        }
        (input, Partitioning::UnknownPartitioning(1))
    } else {
        return None;
    };
    let gathers = partitions(node) == 1;
    if gathers && partitions(&input) == 1 {
        return None; // nothing changes partitions
    }
    Some(Exchange { node: Arc::clone(node), input, partitioning })
}

impl Exchange {
    /// An exchange above a whole plan.
    pub(crate) fn new(plan: Arc<dyn ExecutionPlan>, partitioning: Partitioning) -> Self {
        Self { node: Arc::clone(&plan), input: plan, partitioning }
    }

    /// The rows of its stage, once that has run, in any order.
    pub(crate) fn rows(&self, shuffle: Arc<Shuffle>) -> Result<Arc<dyn ExecutionPlan>> {
        let equal = EqualColumns::of(&self.input);
        let read = ShuffleReadExec::partitioned(shuffle, self.input.schema(), &equal, self.partitioning.clone())?;
        Ok(Arc::new(read.hinted(hinted(&self.input))))
    }

    /// What stands in the exchange's place once its stage has run.
    fn read(&self, shuffle: Arc<Shuffle>) -> Result<Arc<dyn ExecutionPlan>> {
        let mut read = self.rows(shuffle)?;
        let fetch = self.node.fetch();
        // Rows come out of a shuffle in any order.
        if let Some(ordering) = self.node.output_ordering().cloned().and_then(LexOrdering::new) {
            let sort = SortExec::new(ordering, read).with_preserve_partitioning(true).with_fetch(fetch);
            return Ok(Arc::new(sort));
        }
        if let Some(fetch) = fetch {
            read = Arc::new(GlobalLimitExec::new(read, 0, Some(fetch)));
        }
        Ok(read)
    }
}

/// The exchanges that can run now. A join whose right side may turn out to need none, or one of fewer rows, holds the exchanges
/// there back until its left side is measured.
pub(crate) fn ready(plan: &Arc<dyn ExecutionPlan>, adaptive: bool) -> Vec<Exchange> {
    let mut ready = Vec::new();
    collect(plan, false, adaptive, &mut ready);
    ready
}

/// Collects what is ready in a subtree; whether it has any exchange.
fn collect(plan: &Arc<dyn ExecutionPlan>, held_back: bool, adaptive: bool, ready: &mut Vec<Exchange>) -> bool {
    let mut below = false;
    let join = downcast::<HashJoinExec>(plan).filter(|_| adaptive);
    let waits = join.is_some_and(|join| adapt::may_broadcast(join) || reduce::may_reduce(join));
    for child in plan.children() {
        let held_back = held_back || waits && below;
        below |= collect(child, held_back, adaptive, ready);
        if let Some(join) = join
            && waits
            && !below
            && reduce::may_be_small(join.left())
            && reduce::exchanges(join.right())
        {
            // A stage of its own, only to be measured.
            below = true;
            if !held_back {
                ready.push(Exchange::new(Arc::clone(join.left()), join.left().output_partitioning().clone()));
            }
        }
    }
    let Some(exchange) = exchange(plan) else { return below };
    if !below && !held_back {
        ready.push(exchange);
    }
    true
}

/// Puts what has run in the place of its exchanges.
pub(crate) fn replace(
    plan: Arc<dyn ExecutionPlan>,
    done: &[(Exchange, Arc<Shuffle>)],
) -> Result<Arc<dyn ExecutionPlan>> {
    let replaced =
        plan.transform_down(|node| match done.iter().find(|(exchange, _)| Arc::ptr_eq(&exchange.node, &node)) {
            Some((exchange, shuffle)) => Ok(Transformed::yes(exchange.read(Arc::clone(shuffle))?)),
            None => Ok(Transformed::no(node)),
        });
    Ok(replaced?.data)
}

/// Puts another input below an exchange.
pub(crate) fn replace_input(
    plan: Arc<dyn ExecutionPlan>,
    exchange: &Exchange,
    input: &Arc<dyn ExecutionPlan>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let replaced = plan.transform_down(|node| {
        if !Arc::ptr_eq(&exchange.node, &node) {
            return Ok(Transformed::no(node));
        }
        let node = if Arc::ptr_eq(&exchange.node, &exchange.input) {
            Arc::clone(input) // cut off only to be measured
        } else {
            replace_children_if_necessary(node, vec![Arc::clone(input)])?
        };
        Ok(Transformed::new(node, true, TreeNodeRecursion::Jump))
    });
    Ok(replaced?.data)
}

/// What runs in the driver: nodes from the root downwards, the last of them above the results.
#[derive(Debug, Clone, Default)]
pub(crate) struct Top {
    nodes: Vec<Arc<dyn ExecutionPlan>>,
}

impl Top {
    /// Whether results of several partitions are merged in order.
    pub(crate) fn merges(&self) -> bool {
        self.nodes.last().is_some_and(|node| downcast::<SortPreservingMergeExec>(node).is_some())
    }

    /// The nodes, from the root downwards.
    pub(crate) fn nodes(&self) -> &[Arc<dyn ExecutionPlan>] {
        &self.nodes
    }

    /// The nodes over the results.
    pub(crate) fn over(&self, results: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        self.nodes
            .iter()
            .rev()
            .try_fold(results, |below, node| replace_children_if_necessary(Arc::clone(node), vec![below]))
    }
}

/// Parts the nodes that run in the driver from those that run in stages.
pub(crate) fn peel(plan: Arc<dyn ExecutionPlan>) -> (Top, Arc<dyn ExecutionPlan>) {
    let mut nodes = Vec::new();
    let mut at = Arc::clone(&plan);
    let mut cut = None;
    loop {
        let gathers =
            downcast::<CoalescePartitionsExec>(&at).is_some() || downcast::<SortPreservingMergeExec>(&at).is_some();
        let cheap = downcast::<ProjectionExec>(&at).is_some() || downcast::<GlobalLimitExec>(&at).is_some();
        if !(gathers || cheap) || partitions(&at) != 1 {
            break;
        }
        let below = Arc::clone(at.children()[0]);
        nodes.push(at);
        if gathers && partitions(&below) > 1 {
            cut = Some((nodes.len(), Arc::clone(&below)));
        }
        at = below;
    }
    match cut {
        Some((length, below)) => {
            nodes.truncate(length);
            (Top { nodes }, below)
        }
        None => (Top::default(), plan),
    }
}

/// Rewrites what is right in one process only, so that every node computes each of its partitions from the same partition of
/// what is below it.
pub(crate) fn distribute(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    Ok(plan.transform_up(distribute_node)?.data)
}

fn distribute_node(node: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    if let Some(join) = downcast::<HashJoinExec>(&node)
        && *join.partition_mode() == PartitionMode::CollectLeft
        && !each_partition_alone(*join.join_type())
        && partitions(join.right()) > 1
    {
        // Which rows of the left side have no match is known only when all of the right side was seen.
        return Ok(Transformed::yes(if join.null_aware || join.on().is_empty() {
            gather_right(&node)?
        } else {
            partition_both(join)?
        }));
    }
    if let Some(join) = downcast::<HashJoinExec>(&node)
        && *join.partition_mode() == PartitionMode::Partitioned
        && hinted(join.right())
        && !hinted(join.left())
        && !join.null_aware
        && each_partition_alone(join.join_type().swap())
    {
        return Ok(Transformed::yes(join.swap_inputs(PartitionMode::Partitioned)?)); // the left side is what is broadcast
    }
    if let Some(join) = downcast::<NestedLoopJoinExec>(&node)
        && !each_partition_alone(*join.join_type())
        && partitions(join.right()) > 1
    {
        return Ok(Transformed::yes(gather_right(&node)?));
    }
    if exchange(&node).is_some() || downcast::<UnionExec>(&node).is_some() || gathers_left(&node) {
        return Ok(Transformed::no(node));
    }
    if let Some(groups) = downcast::<AggregateExec>(&node)
        && groups.group_expr().has_grouping_set()
        && groups.group_expr().expr().is_empty()
    {
        // Plans are sent without the number of sets that have no column: executors would find none.
        return not_impl_err!(
            "`GROUPING SETS (())` alone is not run in stages: without `GROUP BY` the row is the same"
        );
    }
    // A node that gathers by itself would gather only what its own task has.
    let own = partitions(&node);
    let children = node.children();
    if own == 1 && children.iter().any(|child| partitions(child) > 1) {
        let gathered = children.iter().map(|child| gather(child)).collect();
        return Ok(Transformed::yes(replace_children_if_necessary(Arc::clone(&node), gathered)?));
    }
    Ok(Transformed::no(node))
}

fn gather(plan: &Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    if partitions(plan) == 1 { Arc::clone(plan) } else { Arc::new(CoalescePartitionsExec::new(Arc::clone(plan))) }
}

fn gather_right(node: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let before = node.output_partitioning().clone();
    let children = node.children();
    let (left, right) = (Arc::clone(children[0]), gather(children[1]));
    let join = replace_children_if_necessary(Arc::clone(node), vec![left, right])?;
    Ok(match before {
        // Somebody above may count on it.
        Partitioning::Hash(..) => Arc::new(RepartitionExec::try_new(join, before)?),
        _ => join,
    })
}

fn partition_both(join: &HashJoinExec) -> Result<Arc<dyn ExecutionPlan>> {
    let width = partitions(join.right());
    let (left_keys, right_keys): (Vec<_>, Vec<_>) = join.on().iter().cloned().unzip();
    let left = match downcast::<CoalescePartitionsExec>(join.left()) {
        Some(gathered) => gathered.input(),
        None => join.left(),
    };
    let left = RepartitionExec::try_new(Arc::clone(left), Partitioning::Hash(left_keys, width))?;
    let right = RepartitionExec::try_new(Arc::clone(join.right()), Partitioning::Hash(right_keys, width))?;
    join.builder()
        .with_partition_mode(PartitionMode::Partitioned)
        .with_new_children(vec![Arc::new(left), Arc::new(right)])?
        .recompute_properties()
        .build_exec()
}
