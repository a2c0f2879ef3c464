//! Which inputs does one partition of a fragment need?
//!
//! In an executor every leaf of a fragment has one partition, filled by the task. [`Route`] follows a partition of the whole
//! plan down to the leaves: which partition of each leaf it needs, and which partition of the executor's plan that is.

use std::sync::Arc;

use datafusion::common::JoinType;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PartitionMode};
use datafusion::physical_plan::union::UnionExec;

use crate::error::Error;
use crate::read::downcast;

/// How partitions of a plan depend on those of its leaves.
#[derive(Debug)]
pub(crate) enum Route {
    /// Leaf number so much; the same partition of it.
    Leaf(u32),
    /// Nothing below depends on who runs it.
    Nothing,
    /// The same partition of every child.
    Each(Vec<Route>),
    /// All of `once`, which has one partition, beside the same partition of `with`.
    Beside { once: Box<Route>, with: Box<Route> },
    /// One child after the other; with each, how many partitions it has.
    Union(Vec<(usize, Route)>),
}

impl Route {
    /// The route of a plan whose leaves have been given numbers, from left to right, beginning with `next`.
    pub(crate) fn of(plan: &Arc<dyn ExecutionPlan>, next: &mut u32) -> Result<Self, Error> {
        let children = plan.children();
        let partitions = |plan: &Arc<dyn ExecutionPlan>| plan.properties().partitioning.partition_count();
        let own = partitions(plan);
        if children.is_empty() {
            *next += 1;
            return Ok(if is_input(plan) { Self::Leaf(*next - 1) } else { Self::Nothing });
        }
        if downcast::<UnionExec>(plan).is_some() {
            let routes = children.iter().map(|child| Ok((partitions(child), Self::of(child, next)?)));
            return Ok(Self::Union(routes.collect::<Result<_, Error>>()?));
        }
        if let ([once, with], true) = (&children[..], gathers_left(plan))
            && partitions(once) == 1
            && partitions(with) == own
        {
            let once = Box::new(Self::of(once, next)?);
            return Ok(Self::Beside { once, with: Box::new(Self::of(with, next)?) });
        }
        if children.iter().all(|child| partitions(child) == own) {
            let routes = children.iter().map(|child| Self::of(child, next));
            return Ok(Self::Each(routes.collect::<Result<_, Error>>()?));
        }
        Err(Error::Route { node: plan.name().to_owned() })
    }

    /// Notes which partition of which leaf partition `p` needs; which partition of the executor's plan it is.
    pub(crate) fn follow(&self, p: usize, leaves: &mut Vec<(u32, usize)>) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Leaf(leaf) => {
                leaves.push((*leaf, p));
                0
            }
            Self::Each(children) => children.iter().fold(0, |_, child| child.follow(p, leaves)),
            Self::Beside { once, with } => {
                once.follow(0, leaves);
                with.follow(p, leaves)
            }
            Self::Union(children) => {
                let (mut first, mut at) = (0, 0);
                for (partitions, child) in children {
                    if p < first + partitions {
                        return at + child.follow(p - first, leaves);
                    }
                    first += partitions;
                    at += child.width(*partitions);
                }
                at
            }
        }
    }

    /// How many partitions a plan has in an executor, if it has so many altogether.
    fn width(&self, partitions: usize) -> usize {
        match self {
            Self::Leaf(_) | Self::Nothing => 1,
            Self::Each(children) => children.first().map_or(partitions, |child| child.width(partitions)),
            Self::Beside { with, .. } => with.width(partitions),
            Self::Union(children) => children.iter().map(|(partitions, child)| child.width(*partitions)).sum(),
        }
    }
}

/// Whether what a leaf gives comes with the task.
pub(crate) fn is_input(leaf: &Arc<dyn ExecutionPlan>) -> bool {
    downcast::<crate::read::ShuffleReadExec>(leaf).is_some() || crate::scan::content(leaf).is_some()
}

/// Whether a join collects its left side, of one partition, for every partition of the right.
pub(crate) fn gathers_left(plan: &Arc<dyn ExecutionPlan>) -> bool {
    downcast::<HashJoinExec>(plan).is_some_and(|join| *join.partition_mode() == PartitionMode::CollectLeft)
        || downcast::<NestedLoopJoinExec>(plan).is_some()
        || downcast::<CrossJoinExec>(plan).is_some()
}

/// Whether a join that collects its left side is right for each partition of the right side alone.
pub(crate) fn each_partition_alone(join: JoinType) -> bool {
    matches!(join, JoinType::Inner | JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark)
}
