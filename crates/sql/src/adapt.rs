//! What is decided only when rows have been measured?
//!
//! After each stage the rest of the plan is looked at again: a join whose left side has turned out small broadcasts it, and the
//! exchange of its right side never runs, or runs with the rows only that can have a match (`reduce`); one whose left side does not fit a task's memory sorts and merges instead;
//! partitions that have turned out small are read together.

use std::sync::Arc;

use datafusion::arrow::compute::SortOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{JoinType, NullEquality, Result};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{Distribution, LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode, SortMergeJoinExec};
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, Partitioning, replace_children_if_necessary};

use crate::planner::leaves;
use crate::read::{ShuffleReadExec, downcast};
use crate::reduce;
use crate::route::each_partition_alone;

/// By how much rows grow when a join hashes them: the table beside the rows as they were shuffled.
const HASH_TABLE_FACTOR: u64 = 2;

/// Below this, a task costs more than it computes.
const PARTITION_BYTES_MIN: u64 = 1 << 20;

/// What decisions depend on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The largest side of a join that is sent to every executor, in bytes.
    pub(crate) broadcast: u64,
    /// What the build side of a join may take of a task's memory, in bytes.
    pub(crate) build: u64,
    /// How many bytes a partition should have.
    pub(crate) partition: u64,
    /// How many tasks run at once.
    pub(crate) slots: usize,
}

/// Whether a join could broadcast its left side, if that were small.
pub(crate) fn may_broadcast(join: &HashJoinExec) -> bool {
    *join.partition_mode() == PartitionMode::Partitioned && each_partition_alone(*join.join_type())
}

/// Chooses how joins run whose left side has been measured.
pub(crate) fn joins(plan: Arc<dyn ExecutionPlan>, limits: &Limits) -> Result<Arc<dyn ExecutionPlan>> {
    choose(plan, false, limits)
}

/// `held`: somebody above counts on how this plan's rows are divided.
fn choose(plan: Arc<dyn ExecutionPlan>, held: bool, limits: &Limits) -> Result<Arc<dyn ExecutionPlan>> {
    let needs: Vec<bool> = {
        let requirements = plan.input_distribution_requirements();
        requirements
            .per_child_distributions()
            .map(|distribution| match distribution {
                Distribution::UnspecifiedDistribution => held && downcast::<RepartitionExec>(&plan).is_none(),
                Distribution::SinglePartition => false,
                _ => true,
            })
            .collect()
    };
    let children = plan.children().into_iter().cloned().zip(needs);
    let children = children.map(|(child, held)| choose(child, held, limits)).collect::<Result<Vec<_>>>()?;
    let plan = if children.is_empty() { plan } else { replace_children_if_necessary(plan, children)? };

    let Some(join) = downcast::<HashJoinExec>(&plan) else { return Ok(plan) };
    if *join.partition_mode() != PartitionMode::Partitioned {
        return Ok(plan);
    }
    let Some(left) = downcast::<ShuffleReadExec>(join.left()) else { return Ok(plan) };
    let (_, bytes) = left.size(None);
    if may_broadcast(join)
        && !held
        && (bytes <= limits.broadcast || left.is_hinted())
        && let Some(right) = downcast::<RepartitionExec>(join.right())
        && let Some(whole) = left.whole()
    {
        return join
            .builder()
            .with_partition_mode(PartitionMode::CollectLeft)
            .with_new_children(vec![Arc::new(whole), Arc::clone(right.input())])?
            .recompute_properties()
            .build_exec();
    }
    if let Some(reduced) = reduce::reduced(join, limits)? {
        return Ok(reduced);
    }
    let partitions = join.left().output_partitioning().partition_count();
    let largest = (0..partitions).map(|partition| left.size(Some(partition)).1).max().unwrap_or(0);
    if largest.saturating_mul(HASH_TABLE_FACTOR) > limits.build && can_merge(join) {
        return merge(join);
    }
    Ok(plan)
}

/// Whether a sort-merge join gives the same rows.
fn can_merge(join: &HashJoinExec) -> bool {
    !join.null_aware
        && !join.on().is_empty()
        && (join.null_equality() == NullEquality::NullEqualsNothing || *join.join_type() == JoinType::Inner)
}

fn merge(join: &HashJoinExec) -> Result<Arc<dyn ExecutionPlan>> {
    let options = vec![SortOptions::default(); join.on().len()];
    let sorted = |plan: &Arc<dyn ExecutionPlan>, left: bool| -> Arc<dyn ExecutionPlan> {
        let by = join.on().iter().zip(&options).map(|((l, r), options)| PhysicalSortExpr {
            expr: Arc::clone(if left { l } else { r }),
            options: *options,
        });
        match LexOrdering::new(by) {
            Some(by) => Arc::new(SortExec::new(by, Arc::clone(plan)).with_preserve_partitioning(true)),
            None => Arc::clone(plan),
        }
    };
    let (left, right) = (sorted(join.left(), true), sorted(join.right(), false));
    let merge = SortMergeJoinExec::try_new(
        left,
        right,
        join.on().to_vec(),
        join.filter().cloned(),
        *join.join_type(),
        options.clone(),
        join.null_equality(),
    )?;
    let merge: Arc<dyn ExecutionPlan> = Arc::new(merge);
    let Some(projection) = &join.projection else { return Ok(merge) };
    let schema = merge.schema();
    let columns = projection.iter().map(|&index| {
        let name = schema.field(index).name().clone();
        ProjectionExpr { expr: Arc::new(Column::new(&name, index)), alias: name }
    });
    Ok(Arc::new(ProjectionExec::try_new(columns.collect::<Vec<_>>(), merge)?))
}

/// The plan with joins that spill instead of those that cannot; none if there are none. For a stage that ran out of memory.
pub(crate) fn frugal(plan: &Arc<dyn ExecutionPlan>, limits: &Limits) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let frugal = Arc::clone(plan).transform_up(|node| {
        let Some(join) = downcast::<HashJoinExec>(&node).filter(|join| can_merge(join)) else {
            return Ok(Transformed::no(node));
        };
        if *join.partition_mode() == PartitionMode::Partitioned {
            return Ok(Transformed::yes(merge(join)?));
        }
        let before = node.output_partitioning().clone();
        let width = join.right().output_partitioning().partition_count().max(limits.slots);
        let (left, right): (Vec<_>, Vec<_>) = join.on().iter().cloned().unzip();
        let left = RepartitionExec::try_new(Arc::clone(join.left()), Partitioning::Hash(left, width))?;
        let right = RepartitionExec::try_new(Arc::clone(join.right()), Partitioning::Hash(right, width))?;
        let divided = join
            .builder()
            .with_partition_mode(PartitionMode::Partitioned)
            .with_new_children(vec![Arc::new(left), Arc::new(right)])?
            .recompute_properties()
            .build()?;
        let merged = merge(&divided)?;
        Ok(Transformed::yes(match before {
            // Somebody above may count on it.
            Partitioning::Hash(..) => Arc::new(RepartitionExec::try_new(merged, before)?),
            _ => merged,
        }))
    })?;
    Ok(frugal.transformed.then_some(frugal.data))
}

/// Reads small neighbouring partitions together, the same ones of every shuffle that the stage reads.
pub(crate) fn coalesce(plan: Arc<dyn ExecutionPlan>, limits: &Limits) -> Result<Arc<dyn ExecutionPlan>> {
    let Some(ranges) = groups(&plan, limits) else { return Ok(plan) };
    let regrouped = plan.transform_down(|node| {
        let Some(read) = downcast::<ShuffleReadExec>(&node).filter(|_| is_divided(&node)) else {
            return Ok(Transformed::no(node));
        };
        match read.regrouped(Arc::clone(&ranges)) {
            Some(read) => Ok(Transformed::yes(Arc::new(read) as Arc<dyn ExecutionPlan>)),
            None => Ok(Transformed::no(node)),
        }
    });
    Ok(regrouped?.data)
}

fn is_divided(leaf: &Arc<dyn ExecutionPlan>) -> bool {
    leaf.output_partitioning().partition_count() > 1
}

/// Which ranges become partitions; none if the partitions stay as they are.
fn groups(plan: &Arc<dyn ExecutionPlan>, limits: &Limits) -> Option<Arc<[(u32, u32)]>> {
    let mut leaves = leaves(plan);
    leaves.retain(is_divided);
    let width = leaves.first()?.output_partitioning().partition_count();
    if plan.output_partitioning().partition_count() != width {
        return None; // a union adds its branches up
    }
    let mut sizes = vec![0; width];
    for leaf in &leaves {
        let read = downcast::<ShuffleReadExec>(leaf)?;
        let (shuffle, ranges) = read.shuffle()?;
        if ranges.len() != width || shuffle.partitions() as usize != width {
            return None;
        }
        sizes.iter_mut().enumerate().for_each(|(partition, size)| *size += read.size(Some(partition)).1);
    }
    let total: u64 = sizes.iter().sum();
    let target = limits.partition.min(total / limits.slots.max(1) as u64).max(PARTITION_BYTES_MIN);
    let mut groups: Vec<(u32, u32)> = Vec::new();
    let mut held = 0;
    for (partition, size) in (0u32..).zip(sizes) {
        match groups.last_mut() {
            Some(last) if held + size <= target => {
                last.1 = partition + 1;
                held += size;
            }
            _ => {
                groups.push((partition, partition + 1));
                held = size;
            }
        }
    }
    (groups.len() < width).then(|| groups.into())
}
