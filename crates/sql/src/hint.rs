//! Which tables does somebody want broadcast, whatever their size?
//!
//! A hint is a node of the logical plan, and of the physical one until the stage below it has been cut off: then the shuffle
//! of that stage knows. Joins heed it where each partition of the other side can be joined alone; elsewhere it does nothing.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchemaRef, Result, Statistics, internal_err};
use datafusion::dataframe::DataFrame;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNode, UserDefinedLogicalNodeCore};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::execution_plan::CardinalityEffect;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::filter_pushdown::{
    ChildPushdownResult, FilterDescription, FilterPushdownPhase, FilterPushdownPropagation,
};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, StatisticsArgs};
use datafusion::physical_planner::{ExtensionPlanner, PhysicalPlanner};
use datafusion::sql::sqlparser::dialect::Dialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer, Whitespace};

use crate::read::downcast;

/// What Spark calls it.
const WORDS: [&str; 3] = ["broadcast", "broadcastjoin", "mapjoin"];

/// The DataFrame, which joins send to every executor where they can, however large it is.
#[must_use]
pub fn broadcast(frame: DataFrame) -> DataFrame {
    let (state, plan) = frame.into_parts();
    DataFrame::new(state, hinted_plan(plan))
}

fn hinted_plan(input: LogicalPlan) -> LogicalPlan {
    LogicalPlan::Extension(Extension { node: Arc::new(Hint { input }) })
}

/// The tables that a statement's hints name: `/*+ BROADCAST(a, b) */`.
pub(crate) fn named(text: &str, dialect: &dyn Dialect) -> Vec<String> {
    let Ok(tokens) = Tokenizer::new(dialect, text).tokenize() else { return Vec::new() };
    let hints = tokens.iter().filter_map(|token| match token {
        Token::Whitespace(Whitespace::MultiLineComment(comment)) => comment.strip_prefix('+'),
        _ => None,
    });
    hints.flat_map(tables).collect()
}

/// The tables of the hints in one comment.
fn tables(hints: &str) -> Vec<String> {
    let hints = hints.split(')').filter_map(|hint| hint.split_once('('));
    let wanted = hints.filter(|(word, _)| {
        let word = word.trim_matches(|c: char| c == ',' || c.is_whitespace());
        WORDS.iter().any(|known| known.eq_ignore_ascii_case(word))
    });
    let name = |name: &str| name.trim().trim_matches(['`', '"']).to_owned();
    wanted.flat_map(|(_, tables)| tables.split(',').map(name)).filter(|name| !name.is_empty()).collect()
}

/// The plan, with a hint above every table of these names or aliases.
pub(crate) fn mark(plan: LogicalPlan, names: &[String]) -> Result<LogicalPlan> {
    if names.is_empty() {
        return Ok(plan);
    }
    let named = |name: &str| names.iter().any(|wanted| wanted.eq_ignore_ascii_case(name));
    let marked = plan.transform_down_with_subqueries(|node| {
        let hinted = match &node {
            LogicalPlan::SubqueryAlias(alias) => named(alias.alias.table()),
            LogicalPlan::TableScan(scan) => named(scan.table_name.table()),
            _ => false,
        };
        Ok(if hinted {
            Transformed::new(hinted_plan(node), true, TreeNodeRecursion::Jump)
        } else {
            Transformed::no(node)
        })
    });
    Ok(marked?.data)
}

/// The hint in a logical plan.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Hint {
    input: LogicalPlan,
}

impl PartialOrd for Hint {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.input.partial_cmp(&other.input)
    }
}

impl UserDefinedLogicalNodeCore for Hint {
    fn name(&self) -> &'static str {
        "BroadcastHint"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    // Rows pass as they are: what can be asked of them above can be asked below.
    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        HashSet::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BroadcastHint")
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        match inputs.pop() {
            Some(input) => Ok(Self { input }),
            None => internal_err!("a hint stands above one plan"),
        }
    }

    fn necessary_children_exprs(&self, columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some(vec![columns.to_vec()])
    }

    fn supports_limit_pushdown(&self) -> bool {
        true
    }
}

/// Makes physical hints of logical ones.
#[derive(Debug)]
pub(crate) struct Hints;

#[async_trait]
impl ExtensionPlanner for Hints {
    async fn plan_extension(
        &self,
        _: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _: &[&LogicalPlan],
        inputs: &[Arc<dyn ExecutionPlan>],
        _: &dyn Session,
        _: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        Ok(match inputs {
            [input] if node.name() == "BroadcastHint" => Some(Arc::new(HintExec { input: Arc::clone(input) })),
            _ => None,
        })
    }
}

/// Whether a hint asks for this plan's rows to be broadcast. Nodes that give rows one by one leave it as it is.
pub(crate) fn hinted(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let mut at = plan;
    loop {
        if downcast::<HintExec>(at).is_some() {
            return true;
        }
        let passes = downcast::<RepartitionExec>(at).is_some()
            || downcast::<CoalescePartitionsExec>(at).is_some()
            || downcast::<ProjectionExec>(at).is_some()
            || downcast::<FilterExec>(at).is_some();
        match at.children()[..] {
            [below] if passes => at = below,
            _ => return false,
        }
    }
}

/// The plan without hints: nobody who runs one has a use for them.
pub(crate) fn without(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let without = plan.transform_up(|node| match downcast::<HintExec>(&node) {
        Some(hint) => Ok(Transformed::yes(Arc::clone(&hint.input))),
        None => Ok(Transformed::no(node)),
    });
    Ok(without?.data)
}

/// The hint in a physical plan.
#[derive(Debug)]
pub(crate) struct HintExec {
    input: Arc<dyn ExecutionPlan>,
}

impl DisplayAs for HintExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BroadcastHint")
    }
}

impl ExecutionPlan for HintExec {
    fn name(&self) -> &'static str {
        "BroadcastHint"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match children.pop() {
            Some(input) => Ok(Arc::new(Self { input })),
            None => internal_err!("a hint stands above one plan"),
        }
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.input.execute(partition, context)
    }

    fn statistics_from_inputs(&self, inputs: &[Arc<Statistics>], _: &StatisticsArgs) -> Result<Arc<Statistics>> {
        match inputs {
            [input] => Ok(Arc::clone(input)),
            _ => internal_err!("a hint stands above one plan"),
        }
    }

    fn supports_limit_pushdown(&self) -> bool {
        true
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }

    fn try_swapping_with_projection(&self, projection: &ProjectionExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let below = ProjectionExec::try_new(projection.expr().to_vec(), Arc::clone(&self.input))?;
        Ok(Some(Arc::new(Self { input: Arc::new(below) })))
    }

    fn gather_filters_for_pushdown(
        &self,
        _: FilterPushdownPhase,
        parent_filters: Vec<Arc<dyn PhysicalExpr>>,
        _: &ConfigOptions,
    ) -> Result<FilterDescription> {
        FilterDescription::from_children(parent_filters, &self.children())
    }

    fn handle_child_pushdown_result(
        &self,
        _: FilterPushdownPhase,
        result: ChildPushdownResult,
        _: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        Ok(FilterPushdownPropagation::if_all(result))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;
    use datafusion::sql::sqlparser::dialect::GenericDialect;

    use super::*;

    #[test]
    fn hints_name_tables() {
        let named = |text| named(text, &GenericDialect);
        assert_eq!(named("SELECT /*+ BROADCAST(a, `b`) */ * FROM a, b"), ["a", "b"]);
        assert_eq!(named("SELECT /*+ MERGE(x), MapJoin(y) */ 1; SELECT /*+broadcastjoin (z)*/ 2"), ["y", "z"]);
        assert!(named("SELECT '/*+ BROADCAST(a) */', 1 /* + BROADCAST(b) */ -- /*+ BROADCAST(c) */").is_empty());
        assert!(named("SELECT /*+ BROADCAST */ 'open").is_empty());
    }

    #[tokio::test]
    async fn a_hint_stands_above_its_table_only() {
        let session = SessionContext::new();
        session.sql("CREATE VIEW t AS SELECT 1 AS k").await.unwrap();
        let plan = session.sql("SELECT * FROM t AS x JOIN t AS y ON x.k = y.k").await.unwrap().into_unoptimized_plan();
        let text = mark(plan, &["Y".to_owned()]).unwrap().display_indent().to_string();
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        let hints: Vec<_> = lines.iter().filter(|line| **line == "BroadcastHint").collect();
        assert_eq!(hints.len(), 1, "{text}");
        let at = lines.iter().position(|line| *line == "BroadcastHint").unwrap();
        assert_eq!(lines[at + 1], "SubqueryAlias: y", "{text}");
    }
}
