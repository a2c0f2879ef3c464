//! Has a subquery that stands for a value at most one row?
//!
//! In one process DataFusion counts its rows when it computes the value. In stages the subquery is one side of a join, where rows
//! too many would make others: there an aggregate takes the value, and refuses a second one.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, UInt64Type};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, Result, ScalarValue, exec_err, internal_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Expr, LogicalPlan, LogicalPlanBuilder, Signature, Subquery, Volatility,
};
use datafusion::optimizer::AnalyzerRule;

/// Refuses subqueries of several rows that stand for a value.
#[derive(Debug)]
pub(crate) struct SingleValues;

impl AnalyzerRule for SingleValues {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        with_single_values(plan)
    }

    fn name(&self) -> &'static str {
        "single_values"
    }
}

/// The plan, whose subqueries that stand for a value have one row, and stand where they can become joins.
pub(crate) fn with_single_values(plan: LogicalPlan) -> Result<LogicalPlan> {
    let single = plan.transform_down_with_subqueries(|node| {
        node.map_expressions(|expression| {
            expression.transform_up(|expression| match expression {
                // One that belongs to each row of another query has an aggregate already, or is refused.
                Expr::ScalarSubquery(of) if of.outer_ref_columns.is_empty() && !has_one_row(&of.subquery) => {
                    Ok(Transformed::yes(Expr::ScalarSubquery(single(of)?)))
                }
                other => Ok(Transformed::no(other)),
            })
        })
    });
    let mut next = 0;
    Ok(single?.data.transform_up_with_subqueries(|node| moved(node, &mut next))?.data)
}

/// A sort, aggregate or window whose values of subqueries are columns of what is below it: DataFusion makes joins of those that
/// stand in projections and filters only.
fn moved(node: LogicalPlan, next: &mut usize) -> Result<Transformed<LogicalPlan>> {
    if !matches!(node, LogicalPlan::Sort(_) | LogicalPlan::Aggregate(_) | LogicalPlan::Window(_)) {
        return Ok(Transformed::no(node));
    }
    let mut values = Vec::new();
    let mut expressions = Vec::new();
    for expression in node.expressions() {
        let name = expression.schema_name().to_string();
        let without = expression.transform_up(|expression| match expression {
            Expr::ScalarSubquery(of) if of.outer_ref_columns.is_empty() => {
                *next += 1;
                let column = format!("__single_value_{next}");
                values.push(Expr::ScalarSubquery(of).alias(&column));
                Ok(Transformed::yes(Expr::Column(Column::from_name(column))))
            }
            other => Ok(Transformed::no(other)),
        })?;
        // Whoever is above knows it by the name that it had.
        let named = without.transformed && !matches!(node, LogicalPlan::Sort(_));
        expressions.push(if named { without.data.alias(name) } else { without.data });
    }
    if values.is_empty() {
        return Ok(Transformed::no(node));
    }
    let Some(input) = node.inputs().first().map(|input| (*input).clone()) else { return Ok(Transformed::no(node)) };
    let below = LogicalPlanBuilder::from(input.clone()).project(columns(&input).into_iter().chain(values))?.build()?;
    let wanted = columns(&node);
    let changed = node.with_new_exprs(expressions, vec![below])?;
    let plan = if matches!(changed, LogicalPlan::Aggregate(_)) {
        changed
    } else {
        LogicalPlanBuilder::from(changed).project(wanted)?.build()?
    };
    Ok(Transformed::yes(plan))
}

fn columns(plan: &LogicalPlan) -> Vec<Expr> {
    plan.schema().columns().into_iter().map(Expr::Column).collect()
}

fn has_one_row(plan: &LogicalPlan) -> bool {
    plan.max_rows().is_some_and(|rows| rows <= 1)
}

fn single(of: Subquery) -> Result<Subquery> {
    let (qualifier, field) = of.subquery.schema().qualified_field(0);
    let (qualifier, name) = (qualifier.cloned(), field.name().clone());
    let value = Expr::Column(Column::new(qualifier.clone(), &name));
    let taken = AggregateUDF::from(SingleValue::new()).call(vec![value]);
    let plan = LogicalPlanBuilder::from(Arc::clone(&of.subquery)).aggregate(Vec::<Expr>::new(), vec![taken.clone()])?;
    let taken = Expr::Column(Column::from_name(taken.schema_name().to_string()));
    let plan = plan.project(vec![taken.alias_qualified(qualifier, name)])?.build()?;
    Ok(Subquery { subquery: Arc::new(plan), ..of })
}

/// The value of the only row, null if there is none.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct SingleValue {
    signature: Signature,
}

impl SingleValue {
    pub(crate) fn new() -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for SingleValue {
    fn name(&self) -> &'static str {
        "single_value"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        match arg_types {
            [only] => Ok(only.clone()),
            _ => internal_err!("a single value has one argument"),
        }
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(Single { value: ScalarValue::try_from(args.return_type())?, rows: 0 }))
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let value = args.return_field.as_ref().clone().with_name(format!("{}[value]", args.name)).with_nullable(true);
        let rows = Field::new(format!("{}[rows]", args.name), DataType::UInt64, false);
        Ok(vec![Arc::new(value), Arc::new(rows)])
    }
}

#[derive(Debug)]
struct Single {
    value: ScalarValue,
    rows: u64,
}

impl Single {
    fn take(&mut self, values: &ArrayRef, row: usize) -> Result<()> {
        if self.rows > 0 {
            return exec_err!("Scalar subquery returned more than one row");
        }
        self.value = ScalarValue::try_from_array(values, row)?;
        self.rows = 1;
        Ok(())
    }
}

impl Accumulator for Single {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let [values] = values else { return internal_err!("a single value has one argument") };
        (0..values.len()).try_for_each(|row| self.take(values, row))
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let [values, rows] = states else { return internal_err!("a single value has two states") };
        let rows = rows.as_primitive::<UInt64Type>();
        (0..values.len()).filter(|&at| rows.value(at) > 0).try_for_each(|at| self.take(values, at))
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.value.clone(), ScalarValue::UInt64(Some(self.rows))])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(self.value.clone())
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.value.size()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::SessionStateBuilder;
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::*;

    #[tokio::test]
    async fn a_value_is_of_one_row_or_none() {
        let mut config = SessionConfig::new().with_target_partitions(2);
        config.options_mut().optimizer.enable_physical_uncorrelated_scalar_subquery = false;
        let state = SessionStateBuilder::new_with_default_features()
            .with_config(config)
            .with_analyzer_rule(Arc::new(SingleValues))
            .build();
        let session = SessionContext::new_with_state(state);
        session.sql("CREATE TABLE t AS VALUES ('a', 1), ('b', 2), ('c', NULL)").await.unwrap();
        let ask = async |of: &str| {
            let text = format!("SELECT count(*) FROM t WHERE column1 = ({of})");
            let rows = session.sql(&text).await?.collect().await?;
            Ok::<_, datafusion::common::DataFusionError>(ScalarValue::try_from_array(rows[0].column(0), 0)?.to_string())
        };
        assert_eq!(ask("SELECT column1 FROM t WHERE column2 = 2").await.unwrap(), "1");
        assert_eq!(ask("SELECT column1 FROM t WHERE column2 = 7").await.unwrap(), "0");
        assert_eq!(ask("SELECT max(column1) FROM t").await.unwrap(), "1");
        // Wherever they stand.
        let all = session.sql(
            "SELECT sum(column2 + (SELECT max(column2) FROM t)) AS a, count(*) OVER (ORDER BY (SELECT 1)) AS b,
             (SELECT 42) AS k FROM t GROUP BY k ORDER BY a + (SELECT count(*) FROM t)",
        );
        let rows = all.await.unwrap().collect().await.unwrap();
        let row: Vec<_> =
            rows[0].columns().iter().map(|c| ScalarValue::try_from_array(c, 0).unwrap().to_string()).collect();
        assert_eq!(row, ["7", "1", "42"]);
        for of in ["SELECT column1 FROM t", "SELECT column1 FROM t WHERE column2 < 3", "SELECT 'a' FROM t"] {
            assert!(ask(of).await.unwrap_err().to_string().contains("more than one row"), "{of}");
        }
    }
}
