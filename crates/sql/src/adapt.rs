//! What is decided only when rows have been measured?
//!
//! After each stage the rest of the plan is looked at again: what has turned out to have no rows leaves the plan, with all that
//! could only have come of it (`empty`); a join whose left side has turned out small broadcasts it, and the
//! exchange of its right side never runs, or runs with the rows only that can have a match (`reduce`); one that was to
//! broadcast what has turned out large divides both sides; the smaller of two measured sides is hashed; one whose left side does not
//! fit a task's memory sorts and merges instead; partitions that have turned out small are read together.

use std::sync::Arc;

use datafusion::arrow::compute::SortOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{JoinType, NullEquality, Result};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{Distribution, LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::joins::{HashJoinExec, HashJoinExecBuilder, PartitionMode, SortMergeJoinExec};
use datafusion::physical_plan::limit::LocalLimitExec;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, Partitioning, replace_children_if_necessary};

use crate::empty;
use crate::planner::leaves;
use crate::read::{ShuffleReadExec, downcast};
use crate::reduce;
use crate::route::each_partition_alone;

/// By how much rows grow when a join hashes them: the table beside the rows as they were before compression.
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

/// Chooses anew what depends on what has been measured.
pub(crate) fn measured(plan: Arc<dyn ExecutionPlan>, limits: &Limits) -> Result<Arc<dyn ExecutionPlan>> {
    choose(empty::dropped(plan)?, false, limits)
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
    let Some(left) = downcast::<ShuffleReadExec>(join.left()) else { return Ok(plan) };
    if *join.partition_mode() != PartitionMode::Partitioned {
        let fits = left.size(None).raw_bytes <= limits.broadcast || left.is_hinted();
        return if fits || !can_divide(join) {
            Ok(plan)
        } else {
            as_divided(join, divided(join, limits)?.build_exec()?)
        };
    }
    if may_broadcast(join)
        && !held
        && (left.size(None).raw_bytes <= limits.broadcast || left.is_hinted())
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
    if let Some(right) = downcast::<ShuffleReadExec>(join.right())
        && right.size(None).raw_bytes < left.size(None).raw_bytes
        && !join.null_aware
    {
        return choose(join.swap_inputs(PartitionMode::Partitioned)?, held, limits); // the left side is what is hashed
    }
    let partitions = join.left().output_partitioning().partition_count();
    let largest = (0..partitions).map(|partition| left.size(Some(partition)).raw_bytes).max().unwrap_or(0);
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

/// Whether a join gives the same rows when both of its sides are divided by its keys.
fn can_divide(join: &HashJoinExec) -> bool {
    !join.null_aware && !join.on().is_empty()
}

/// A join that was to collect its left side, with both sides divided.
fn divided(join: &HashJoinExec, limits: &Limits) -> Result<HashJoinExecBuilder> {
    let width = join.right().output_partitioning().partition_count().max(limits.slots);
    let (left, right): (Vec<_>, Vec<_>) = join.on().iter().cloned().unzip();
    let left = RepartitionExec::try_new(Arc::clone(join.left()), Partitioning::Hash(left, width))?;
    let right = RepartitionExec::try_new(Arc::clone(join.right()), Partitioning::Hash(right, width))?;
    let divided = join
        .builder()
        .with_partition_mode(PartitionMode::Partitioned)
        .with_new_children(vec![Arc::new(left), Arc::new(right)])?;
    Ok(divided.recompute_properties())
}

/// The rows of a join that has been divided, as they were before where somebody above may count on it.
fn as_divided(before: &HashJoinExec, after: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let before = &before.properties().partitioning;
    Ok(match before {
        Partitioning::Hash(..) => Arc::new(RepartitionExec::try_new(after, before.clone())?),
        _ => after,
    })
}

/// The plan with joins and limited sorts that spill instead of those that cannot; none if there are none. For a stage that ran out
/// of memory.
pub(crate) fn frugal(plan: &Arc<dyn ExecutionPlan>, limits: &Limits) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let frugal = Arc::clone(plan).transform_up(|node| {
        if let Some((sort, fetch)) = downcast::<SortExec>(&node).and_then(|sort| Some((sort, sort.fetch()?))) {
            // With a limit all rows that are still wanted are held; without one they are spilled, and merged.
            let all = SortExec::new(sort.expr().clone(), Arc::clone(sort.input()))
                .with_preserve_partitioning(sort.preserve_partitioning());
            return Ok(Transformed::yes(Arc::new(LocalLimitExec::new(Arc::new(all), fetch))));
        }
        let Some(join) = downcast::<HashJoinExec>(&node).filter(|join| can_merge(join)) else {
            return Ok(Transformed::no(node));
        };
        if *join.partition_mode() == PartitionMode::Partitioned {
            return Ok(Transformed::yes(merge(join)?));
        }
        Ok(Transformed::yes(as_divided(join, merge(&divided(join, limits)?.build()?)?)?))
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
        sizes.iter_mut().enumerate().for_each(|(partition, size)| *size += read.size(Some(partition)).bytes);
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
    use datafusion::physical_expr::expressions::is_not_null;
    use datafusion::physical_plan::filter::FilterExec;
    use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
    use model::graph::{Origin, Stage};
    use model::ids::ShuffleId;
    use model::shuffle::PartitionSize;
    use model::{Failure, JobRunner};

    use super::*;
    use crate::read::EqualColumns;
    use crate::stage::Shuffle;

    const LIMITS: Limits = Limits { broadcast: 1_000, build: 1_000_000, partition: 128 << 20, slots: 2 };

    /// Nobody asks who made the rows.
    struct Somebody;

    impl Origin for Somebody {
        fn shuffle(&self) -> ShuffleId {
            ShuffleId(1)
        }

        fn partitions(&self) -> u32 {
            2
        }

        fn stages(&self, _: &dyn JobRunner, _: &mut BTreeSet<ShuffleId>, _: &mut Vec<Stage>) -> Result<(), Failure> {
            Ok(())
        }
    }

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new("key", DataType::Int64, true)]))
    }

    fn key() -> Arc<dyn datafusion::physical_expr::PhysicalExpr> {
        Arc::new(Column::new("key", 0))
    }

    /// A side that has run: so many rows, and bytes before compression, in each of two partitions.
    fn measured_side(rows: u64, raw_bytes: u64) -> Arc<dyn ExecutionPlan> {
        let size = PartitionSize { rows, bytes: raw_bytes / 100, raw_bytes };
        let shuffle = Arc::new(Shuffle::of_functions(Arc::new(Somebody), vec![size; 2]));
        let partitioning = Partitioning::Hash(vec![key()], 2);
        Arc::new(ShuffleReadExec::partitioned(shuffle, schema(), &EqualColumns::default(), partitioning).unwrap())
    }

    /// A side that is still to be divided: a hundred rows.
    fn other_side() -> Arc<dyn ExecutionPlan> {
        let rows = Arc::new(PlaceholderRowExec::new(schema()).with_partitions(100));
        Arc::new(RepartitionExec::try_new(rows, Partitioning::Hash(vec![key()], 2)).unwrap())
    }

    fn join(
        left: Arc<dyn ExecutionPlan>,
        right: Arc<dyn ExecutionPlan>,
        kind: JoinType,
        mode: PartitionMode,
    ) -> Arc<dyn ExecutionPlan> {
        let (on, equality) = (vec![(key(), key())], NullEquality::NullEqualsNothing);
        Arc::new(HashJoinExec::try_new(left, right, on, None, &kind, None, mode, equality, false).unwrap())
    }

    /// A plan's nodes without `Exec`; joins by their mode, shuffles with their rows.
    fn shape(plan: &Arc<dyn ExecutionPlan>) -> String {
        let name = match (downcast::<HashJoinExec>(plan), downcast::<ShuffleReadExec>(plan)) {
            (Some(join), _) => format!("{:?}", join.partition_mode()),
            (_, Some(read)) => read.size(None).rows.to_string(),
            _ => plan.name().trim_end_matches("Exec").to_owned(),
        };
        let children: Vec<_> = plan.children().into_iter().map(shape).collect();
        if children.is_empty() { name } else { format!("{name}({})", children.join(", ")) }
    }

    fn becomes(plan: Arc<dyn ExecutionPlan>) -> String {
        shape(&measured(plan, &LIMITS).unwrap())
    }

    const PARTITIONED: PartitionMode = PartitionMode::Partitioned;

    #[test]
    fn a_side_that_is_small_before_compression_is_broadcast() {
        let with_left =
            |raw_bytes| becomes(join(measured_side(5, raw_bytes), other_side(), JoinType::Inner, PARTITIONED));
        assert_eq!(with_left(500), "CollectLeft(10, PlaceholderRow)");
        assert_eq!(with_left(501), "Partitioned(10, Repartition(PlaceholderRow))");
    }

    #[test]
    fn what_was_to_be_broadcast_and_is_large_is_divided() {
        let with_left = |raw_bytes| {
            let left = measured_side(5, raw_bytes);
            let left: Arc<dyn ExecutionPlan> = Arc::new(downcast::<ShuffleReadExec>(&left).unwrap().whole().unwrap());
            let right = Arc::new(PlaceholderRowExec::new(schema()).with_partitions(2));
            becomes(join(left, right, JoinType::Inner, PartitionMode::CollectLeft))
        };
        assert_eq!(with_left(500), "CollectLeft(10, PlaceholderRow)");
        assert_eq!(with_left(501), "Partitioned(Repartition(10), Repartition(PlaceholderRow))");
    }

    #[test]
    fn what_no_join_wants_is_not_exchanged() {
        let reduced = becomes(join(measured_side(5, 500), other_side(), JoinType::Left, PARTITIONED));
        assert_eq!(reduced, "Partitioned(10, Repartition(CollectLeft(Projection(10), PlaceholderRow)))");
    }

    #[test]
    fn the_smaller_of_two_sides_is_hashed() {
        let sides =
            |left, right| becomes(join(measured_side(9, left), measured_side(3, right), JoinType::Left, PARTITIONED));
        assert_eq!(sides(4_000, 3_999), "Projection(Partitioned(6, 18))");
        assert_eq!(sides(4_000, 4_000), "Partitioned(18, 6)");
    }

    #[test]
    fn what_does_not_fit_into_memory_is_sorted_and_merged() {
        let left = |raw_bytes| {
            becomes(join(measured_side(9, raw_bytes), measured_side(9, 9 << 20), JoinType::Inner, PARTITIONED))
        };
        assert_eq!(left(500_000), "Partitioned(18, 18)");
        assert_eq!(left(500_001), "SortMergeJoin(Sort(18), Sort(18))");
    }

    #[test]
    fn what_has_no_rows_is_dropped_with_all_that_needs_them() {
        let with = |left: u64, right: Arc<dyn ExecutionPlan>, kind| {
            becomes(join(measured_side(left, 0), right, kind, PARTITIONED))
        };
        for kind in [JoinType::Inner, JoinType::Left, JoinType::LeftSemi, JoinType::RightSemi, JoinType::LeftAnti] {
            assert_eq!(with(0, other_side(), kind), "Empty", "{kind}");
        }
        assert!(with(0, other_side(), JoinType::Full).contains("PlaceholderRow"));
        assert!(with(0, other_side(), JoinType::RightAnti).contains("PlaceholderRow"));
        assert_eq!(with(7, measured_side(0, 0), JoinType::RightAnti), "Empty");
        assert!(with(7, measured_side(0, 0), JoinType::LeftAnti).contains("14"));
        let above = join(
            join(measured_side(0, 0), other_side(), JoinType::Inner, PARTITIONED),
            other_side(),
            JoinType::Inner,
            PARTITIONED,
        );
        assert_eq!(becomes(above), "Empty");
    }

    #[test]
    fn a_small_table_with_a_filter_reduces_what_is_exchanged_before_anything_has_run() {
        let table: Arc<dyn ExecutionPlan> = Arc::new(PlaceholderRowExec::new(schema()));
        let some: Arc<dyn ExecutionPlan> =
            Arc::new(FilterExec::try_new(is_not_null(key()).unwrap(), Arc::clone(&table)).unwrap());
        let above = |left: &Arc<dyn ExecutionPlan>, kind| {
            let divided = join(other_side(), other_side(), JoinType::Inner, PARTITIONED);
            shape(&reduce::by_filters(join(Arc::clone(left), divided, kind, PartitionMode::CollectLeft)).unwrap())
        };
        let looked_up = "Repartition(CollectLeft(Projection(Filter(PlaceholderRow)), PlaceholderRow))";
        let reduced = format!("CollectLeft(Filter(PlaceholderRow), Partitioned({looked_up}, {looked_up}))");
        assert_eq!(above(&some, JoinType::Inner), reduced);
        assert!(!above(&table, JoinType::Inner).contains("Projection"), "all of its rows may have a match");
        assert!(!above(&some, JoinType::RightAnti).contains("Projection"), "rows without a match are wanted");
    }

    #[test]
    fn what_was_refused_memory_spills() {
        let frugal = |plan| frugal(&plan, &LIMITS).unwrap().map(|plan| shape(&plan));
        let refused = join(measured_side(9, 1), other_side(), JoinType::Inner, PARTITIONED);
        assert_eq!(frugal(refused).unwrap(), "SortMergeJoin(Sort(18), Sort(Repartition(PlaceholderRow)))");
        let by = LexOrdering::new([PhysicalSortExpr { expr: key(), options: SortOptions::default() }]).unwrap();
        let sorted = |fetch| {
            let sort = SortExec::new(by.clone(), measured_side(9, 1)).with_preserve_partitioning(true);
            frugal(Arc::new(sort.with_fetch(fetch)))
        };
        assert_eq!(sorted(Some(7)).unwrap(), "LocalLimit(Sort(18))");
        assert_eq!(sorted(None), None);
    }

    #[test]
    fn small_partitions_are_read_together() {
        let plan = join(measured_side(9, 100), measured_side(9, 100), JoinType::Inner, PARTITIONED);
        assert_eq!(plan.output_partitioning().partition_count(), 2);
        assert_eq!(coalesce(plan, &LIMITS).unwrap().output_partitioning().partition_count(), 1);
        let large = join(measured_side(9, 400 << 20), measured_side(9, 400 << 20), JoinType::Inner, PARTITIONED);
        assert_eq!(coalesce(large, &LIMITS).unwrap().output_partitioning().partition_count(), 2);
    }
}
