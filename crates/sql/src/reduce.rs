//! Which rows need not be exchanged, because no join above will want them?
//!
//! A join whose left side has been measured and is small knows which keys can have a match. Where it cannot broadcast that side,
//! its right side's rows are looked up in it before they are divided: a semi join, pushed down to where its keys come from.
//! The same holds, before anything has run, of a small table of which a filter takes some rows and that every task reads.

use std::any::Any;
use std::sync::Arc;

use datafusion::common::stats::Precision;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{JoinSide, JoinType, NullEquality, Result};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{
    ExecutionPlan, ExecutionPlanProperties, StatisticsContext, replace_children_if_necessary,
};
use model::shuffle::PartitionSize;

use crate::adapt::Limits;
use crate::cut;
use crate::planner::leaves;
use crate::read::{ShuffleReadExec, downcast};

/// The right side has to have so many times the rows of the left one, as far as anybody knows: looking rows up costs, too.
const ROWS_FACTOR: u64 = 4;

/// Whether a join that divides both sides may have fewer rows of its right side to divide.
pub(crate) fn may_reduce(join: &HashJoinExec) -> bool {
    *join.partition_mode() == PartitionMode::Partitioned && ignores_others(join)
}

/// Whether rows of the right side that match none of the left make no difference.
fn ignores_others(join: &HashJoinExec) -> bool {
    !join.null_aware
        && matches!(
            join.join_type(),
            JoinType::Inner
                | JoinType::Left
                | JoinType::LeftSemi
                | JoinType::LeftAnti
                | JoinType::LeftMark
                | JoinType::RightSemi
        )
}

/// Whether a plan that is still to run may turn out to give few rows: groups, or rows of a join, of which a filter takes some.
pub(crate) fn may_be_small(plan: &Arc<dyn ExecutionPlan>) -> bool {
    if downcast::<ProjectionExec>(plan).is_some() {
        return may_be_small(plan.children()[0]);
    }
    downcast::<FilterExec>(plan).filter(|filter| filter.fetch().is_none()).is_some_and(|filter| {
        let mut below = filter.input();
        while downcast::<ProjectionExec>(below).is_some() {
            below = below.children()[0];
        }
        downcast::<AggregateExec>(below).is_some() || downcast::<HashJoinExec>(below).is_some()
    })
}

/// The join with fewer rows to exchange on its right side, if its left side has been measured and is small enough.
pub(crate) fn reduced(join: &HashJoinExec, limits: &Limits) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let Some(left) = downcast::<ShuffleReadExec>(join.left()).filter(|_| may_reduce(join)) else { return Ok(None) };
    let PartitionSize { rows, raw_bytes, .. } = left.size(None);
    let (Some((shuffle, _)), Some(whole)) = (left.shuffle(), left.whole()) else { return Ok(None) };
    let id = shuffle.id();
    let done = leaves(join.right()).iter().any(|leaf| {
        downcast::<ShuffleReadExec>(leaf).and_then(|read| Some(read.shuffle()?.0.id() == id)) == Some(true)
    });
    if done || raw_bytes > limits.broadcast || !pays(rows, join.right())? {
        return Ok(None);
    }
    looked_up(join, Arc::new(whole), false)
}

/// The plan with the rows only that a small table, of which a filter takes some rows, has a match for. Joins are looked at from
/// the top: what reduces a small table makes it reduce others.
pub(crate) fn by_filters(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let reduced = plan.transform_down(|node| {
        let Some(join) = downcast::<HashJoinExec>(&node) else { return Ok(Transformed::no(node)) };
        let left = join.left();
        let reduces = *join.partition_mode() == PartitionMode::CollectLeft
            && ignores_others(join)
            && !exchanges(left)
            && left.output_partitioning().partition_count() == 1
            && filters(left);
        if reduces
            && let Some(&left_rows) = rows(left)?.get_value()
            && pays(left_rows as u64, join.right())?
            && let Some(reduced) = looked_up(join, Arc::clone(left), true)?
        {
            return Ok(Transformed::yes(reduced));
        }
        Ok(Transformed::no(node))
    });
    Ok(reduced?.data)
}

/// Whether a plan takes some of the rows that there are.
fn filters(plan: &Arc<dyn ExecutionPlan>) -> bool {
    downcast::<FilterExec>(plan).is_some() || plan.children().into_iter().any(filters)
}

/// The join with those rows only on its right side whose keys are among these, below its exchanges; none if there are none.
fn looked_up(
    join: &HashJoinExec,
    among: Arc<dyn ExecutionPlan>,
    in_collected: bool,
) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let keys: Option<Vec<usize>> = join.on().iter().map(|(_, right)| column(right)).collect();
    let Some(keys) = keys else { return Ok(None) };
    let wanted = join
        .on()
        .iter()
        .enumerate()
        .map(|(index, (left, _))| ProjectionExpr { expr: Arc::clone(left), alias: format!("key{index}") });
    let wanted = ProjectionExec::try_new(wanted.collect::<Vec<_>>(), among)?;
    let lookup = Lookup { wanted: Arc::new(wanted), null_equality: join.null_equality(), in_collected };
    let Some(right) = lookup.push(join.right(), &keys, false)? else { return Ok(None) };
    Ok(Some(
        join.builder().with_new_children(vec![Arc::clone(join.left()), right])?.recompute_properties().build_exec()?,
    ))
}

fn pays(left_rows: u64, right: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    Ok(rows(right)?.get_value().is_none_or(|&right| left_rows.saturating_mul(ROWS_FACTOR) <= right as u64))
}

/// As far as anybody knows.
fn rows(plan: &Arc<dyn ExecutionPlan>) -> Result<Precision<usize>> {
    Ok(StatisticsContext::new().compute(plan.as_ref(), &Default::default())?.num_rows)
}

fn column(expression: &Arc<dyn PhysicalExpr>) -> Option<usize> {
    Some((expression.as_ref() as &dyn Any).downcast_ref::<Column>()?.index())
}

/// The keys that rows are looked up in.
struct Lookup {
    wanted: Arc<dyn ExecutionPlan>,
    null_equality: NullEquality,
    /// Also where rows are collected by every task, which is no exchange.
    in_collected: bool,
}

impl Lookup {
    /// The rows of a plan whose columns `keys` are among those wanted.
    fn above(&self, plan: &Arc<dyn ExecutionPlan>, keys: &[usize]) -> Result<Arc<dyn ExecutionPlan>> {
        let named = |plan: &Arc<dyn ExecutionPlan>, index: usize| -> Arc<dyn PhysicalExpr> {
            Arc::new(Column::new(plan.schema().field(index).name(), index))
        };
        let on = keys.iter().enumerate().map(|(place, &key)| (named(&self.wanted, place), named(plan, key))).collect();
        Ok(Arc::new(HashJoinExec::try_new(
            Arc::clone(&self.wanted),
            Arc::clone(plan),
            on,
            None,
            &JoinType::RightSemi,
            None,
            PartitionMode::CollectLeft,
            self.null_equality,
            false,
        )?))
    }

    /// Looks rows up as far down as their keys are known, below exchanges only; none if there is no exchange. `exchanged`:
    /// there is one above.
    fn push(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        keys: &[usize],
        exchanged: bool,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let here = || if exchanged { self.above(plan, keys).map(Some) } else { Ok(None) };
        if plan.fetch().is_some() {
            return here(); // other rows would take the place of those that are dropped
        }
        let only_child = |below: Vec<usize>, exchanged| {
            let pushed = self.push(plan.children()[0], &below, exchanged)?;
            pushed.map(|input| replace_children_if_necessary(Arc::clone(plan), vec![input])).transpose()
        };
        if downcast::<RepartitionExec>(plan).is_some() {
            return only_child(keys.to_vec(), true);
        }
        if let Some(projection) = downcast::<ProjectionExec>(plan) {
            return match keys.iter().map(|&key| column(&projection.expr()[key].expr)).collect() {
                Some(below) => only_child(below, exchanged),
                None => here(),
            };
        }
        if let Some(filter) = downcast::<FilterExec>(plan).filter(|_| !exchanged) {
            let below = keys.iter().map(|&key| filter.projection().as_ref().map_or(key, |columns| columns[key]));
            return only_child(below.collect(), exchanged);
        }
        if let Some(groups) = downcast::<AggregateExec>(plan) {
            let by = groups.group_expr();
            let below = keys.iter().map(|&key| column(&by.expr().get(key)?.0));
            return match below.collect() {
                Some(below) if by.is_single() => only_child(below, exchanged),
                _ => here(),
            };
        }
        match downcast::<HashJoinExec>(plan) {
            Some(join) => match self.push_into(join, keys, exchanged)? {
                Some(join) => Ok(Some(join)),
                None => here(),
            },
            None => here(),
        }
    }

    /// Into the side of a join that the keys come from and, where both sides have the same keys, into the other.
    fn push_into(
        &self,
        join: &HashJoinExec,
        keys: &[usize],
        exchanged: bool,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let sides: Option<Vec<_>> = keys.iter().map(|&key| side(join, key)).collect();
        let Some(sides) = sides else { return Ok(None) };
        let Some(&(from, _)) = sides.first().filter(|(from, _)| sides.iter().all(|(side, _)| side == from)) else {
            return Ok(None);
        };
        if !may_lose(*join.join_type(), from) {
            return Ok(None);
        }
        let keys: Vec<usize> = sides.into_iter().map(|(_, key)| key).collect();
        let equal = keys.iter().map(|&key| {
            let pair = join
                .on()
                .iter()
                .find(|(left, right)| column(if from == JoinSide::Left { left } else { right }) == Some(key));
            pair.and_then(|(left, right)| column(if from == JoinSide::Left { right } else { left }))
        });
        let equal: Option<Vec<usize>> = equal.collect();
        let (own, other) = match from {
            JoinSide::Left => (join.left(), join.right()),
            _ => (join.right(), join.left()),
        };
        let collected = from == JoinSide::Left && *join.partition_mode() == PartitionMode::CollectLeft;
        let own_pushed = self.push(own, &keys, exchanged || self.in_collected && collected)?;
        let other_pushed = match equal {
            Some(keys) if *join.join_type() == JoinType::Inner => self.push(other, &keys, false)?,
            _ => None,
        };
        if own_pushed.is_none() && other_pushed.is_none() {
            return Ok(None);
        }
        let own = own_pushed.unwrap_or_else(|| Arc::clone(own));
        let other = other_pushed.unwrap_or_else(|| Arc::clone(other));
        let children = if from == JoinSide::Left { vec![own, other] } else { vec![other, own] };
        Ok(Some(join.builder().with_new_children(children)?.recompute_properties().build_exec()?))
    }
}

/// From which side of a join a column of its rows comes, and which column that is there.
fn side(join: &HashJoinExec, column: usize) -> Option<(JoinSide, usize)> {
    let column = join.projection.as_ref().map_or(column, |columns| columns[column]);
    let (left, right) = (join.left().schema().fields().len(), join.right().schema().fields().len());
    match join.join_type() {
        JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => {
            (column < right).then_some((JoinSide::Right, column))
        }
        _ if column < left => Some((JoinSide::Left, column)),
        JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => None,
        _ => Some((JoinSide::Right, column - left)),
    }
}

/// Whether a join without some rows of a side is the join without the rows that came of them.
fn may_lose(join: JoinType, side: JoinSide) -> bool {
    match join {
        JoinType::Inner => true,
        JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => side == JoinSide::Left,
        JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => side == JoinSide::Right,
        JoinType::Full => false,
    }
}

/// Whether a plan has an exchange that has not run.
pub(crate) fn exchanges(plan: &Arc<dyn ExecutionPlan>) -> bool {
    cut::exchange(plan).is_some() || plan.children().into_iter().any(exchanges)
}
