//! How is `LATERAL VIEW explode(…)` planned?
//!
//! DataFusion's parser knows it and its planner does not. [`rewrite`] makes each one a relation around what stands before it,
//! in the form of an `UNPIVOT` under a name that no statement can spell, and [`LateralViews`] plans that: the generator's
//! columns beside those that there were, unnested.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Column, NullHandling, Result, UnnestOptions, plan_datafusion_err, plan_err};
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlanBuilder, ScalarUDF, lit};
use datafusion::sql::sqlparser::ast;

/// The mark of a relation of ours.
const MARK: &str = "\0lateral view";

/// Names of the generated columns before they have their own.
const MADE: &str = "\0made";

/// Rewrites the lateral views of a statement or a query.
pub(crate) fn rewrite(statement: &mut impl ast::VisitMut) {
    let ControlFlow::Continue(()) = statement.visit(&mut Rewriter);
}

struct Rewriter;

impl ast::VisitorMut for Rewriter {
    type Break = std::convert::Infallible;

    fn post_visit_select(&mut self, select: &mut ast::Select) -> ControlFlow<Self::Break> {
        select.projection.iter_mut().for_each(exploded);
        if select.lateral_views.is_empty() || select.from.is_empty() {
            return ControlFlow::Continue(());
        }
        let mut tables = std::mem::take(&mut select.from).into_iter();
        let Some(mut first) = tables.next() else { return ControlFlow::Continue(()) };
        first.joins.extend(tables.map(|table| ast::Join {
            relation: nested(table),
            global: false,
            join_operator: ast::JoinOperator::CrossJoin(ast::JoinConstraint::None),
        }));
        let mut relation = nested(first);
        for view in select.lateral_views.drain(..) {
            let alias = ast::TableAlias {
                explicit: true,
                name: ast::Ident::new(""),
                columns: view
                    .lateral_col_alias
                    .into_iter()
                    .map(|name| ast::TableAliasColumnDef { name, data_type: None })
                    .collect(),
                at: None,
            };
            relation = ast::TableFactor::Unpivot {
                table: Box::new(relation),
                value: view.lateral_view,
                name: ast::Ident::new(MARK),
                columns: vec![ast::ExprWithAlias { expr: name_of(view.lateral_view_name), alias: None }],
                null_inclusion: view.outer.then_some(ast::NullInclusion::IncludeNulls),
                alias: Some(alias),
            };
        }
        select.from = vec![ast::TableWithJoins { relation, joins: Vec::new() }];
        ControlFlow::Continue(())
    }
}

fn nested(table: ast::TableWithJoins) -> ast::TableFactor {
    if table.joins.is_empty() {
        return table.relation;
    }
    ast::TableFactor::NestedJoin { table_with_joins: Box::new(table), alias: None }
}

fn name_of(view: ast::ObjectName) -> ast::Expr {
    ast::Expr::CompoundIdentifier(view.0.into_iter().filter_map(|part| part.as_ident().cloned()).collect())
}

/// `explode(list)` as a column of its own: DataFusion's `unnest`, which leaves out the same rows, and Spark's name.
fn exploded(item: &mut ast::SelectItem) {
    let is_explode = |expr: &ast::Expr| matches!(expr, ast::Expr::Function(f) if called(f) == "explode");
    let rename = |expr: &mut ast::Expr| {
        if let ast::Expr::Function(function) = expr {
            function.name = ast::ObjectName::from(vec![ast::Ident::new("unnest")]);
        }
    };
    match item {
        ast::SelectItem::UnnamedExpr(expr) if is_explode(expr) => {
            rename(expr);
            *item = ast::SelectItem::ExprWithAlias { expr: expr.clone(), alias: ast::Ident::new("col") };
        }
        ast::SelectItem::ExprWithAlias { expr, .. } if is_explode(expr) => rename(expr),
        _ => {}
    }
}

fn called(function: &ast::Function) -> String {
    function.name.to_string().to_lowercase()
}

/// Plans lateral views.
#[derive(Debug)]
pub(crate) struct LateralViews;

impl RelationPlanner for LateralViews {
    fn plan_relation(
        &self,
        relation: ast::TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        match relation {
            ast::TableFactor::Unpivot { table, value, name, columns, null_inclusion, alias } if name.value == MARK => {
                let view = match columns.into_iter().next().map(|column| column.expr) {
                    Some(ast::Expr::CompoundIdentifier(mut parts)) if parts.len() == 1 => {
                        context.normalize_ident(parts.remove(0))
                    }
                    _ => return plan_err!("plan a lateral view: its name is one word"),
                };
                let names = alias.into_iter().flat_map(|alias| alias.columns);
                let names = names.map(|column| context.normalize_ident(column.name)).collect();
                let outer = null_inclusion.is_some();
                let plan = context.plan(*table)?;
                let plan = View { name: view, columns: names, outer }.over(plan, value, context)?;
                Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, None))))
            }
            other => Ok(RelationPlanning::Original(Box::new(other))),
        }
    }
}

/// A lateral view.
struct View {
    name: String,
    columns: Vec<String>,
    outer: bool,
}

impl View {
    fn over(
        self,
        plan: datafusion::logical_expr::LogicalPlan,
        generator: ast::Expr,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<datafusion::logical_expr::LogicalPlan> {
        let ast::Expr::Function(function) = generator else {
            return plan_err!("plan lateral view `{}`: it wants a generator, such as explode(…)", self.name);
        };
        let called = called(&function);
        let (with_place, outer) = match called.as_str() {
            "explode" => (false, self.outer),
            "explode_outer" => (false, true),
            "posexplode" => (true, self.outer),
            "posexplode_outer" => (true, true),
            _ => {
                return plan_err!(
                    "plan lateral view `{}`: `{called}` is no generator that is known; want explode, posexplode, explode_outer \
                     or posexplode_outer",
                    self.name
                );
            }
        };
        let Some(list) = argument(function.args) else {
            return plan_err!("plan lateral view `{}`: {called} takes one value", self.name);
        };
        let list = context.sql_to_expr(list, plan.schema())?;
        let kind = list.get_type(plan.schema())?;
        let call = |name: &str, arguments: Vec<Expr>| -> Result<Expr> {
            let function: Option<Arc<ScalarUDF>> = context.context_provider().get_function_meta(name);
            let function =
                function.ok_or_else(|| plan_datafusion_err!("plan a lateral view: there is no function {name}"))?;
            Ok(function.call(arguments))
        };
        let mut made: Vec<(&str, Expr)> = Vec::new();
        match kind {
            DataType::Map(..) => {
                let keys = call("map_keys", vec![list.clone()])?;
                if with_place {
                    made.push(("pos", call("range", vec![lit(0_i64), call("cardinality", vec![list.clone()])?])?));
                }
                made.push(("key", keys));
                made.push(("value", call("map_values", vec![list])?));
            }
            DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) | DataType::ListView(_) => {
                if with_place {
                    made.push(("pos", call("range", vec![lit(0_i64), call("array_length", vec![list.clone()])?])?));
                }
                made.push(("col", list));
            }
            other => {
                return plan_err!("plan lateral view `{}`: {called} wants an array or a map, not {other}", self.name);
            }
        }
        let names: Vec<String> = match self.columns.len() {
            0 => made.iter().map(|(name, _)| (*name).to_owned()).collect(),
            count if count == made.len() => self.columns,
            count => {
                return plan_err!(
                    "plan lateral view `{}`: {called} gives {} columns, not {count}",
                    self.name,
                    made.len()
                );
            }
        };
        let before: Vec<Column> = plan.schema().columns();
        let unnested: Vec<Column> =
            (0..made.len()).map(|column| Column::from_name(format!("{MADE} {column}"))).collect();
        let lists = made.into_iter().zip(&unnested).map(|((_, list), column)| list.alias(column.name.clone()));
        let all = before.iter().cloned().map(Expr::Column).chain(lists).collect::<Vec<_>>();
        let nulls = if outer { NullHandling::PreserveAndExpandEmpty } else { NullHandling::Drop };
        let options = UnnestOptions { null_handling: nulls, ..UnnestOptions::default() };
        let view = self.name.as_str();
        let named = unnested.iter().zip(names);
        let named = named.map(|(column, name)| Expr::Column(column.clone()).alias_qualified(Some(view), name));
        let all_named = before.iter().cloned().map(Expr::Column).chain(named).collect::<Vec<_>>();
        LogicalPlanBuilder::from(plan)
            .project(all)?
            .unnest_columns_with_options(unnested, options)?
            .project(all_named)?
            .build()
    }
}

/// A function's only argument.
fn argument(arguments: ast::FunctionArguments) -> Option<ast::Expr> {
    let ast::FunctionArguments::List(mut list) = arguments else { return None };
    match (list.args.pop(), list.args.is_empty()) {
        (Some(ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(expr))), true) => Some(expr),
        _ => None,
    }
}
