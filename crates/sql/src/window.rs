//! How do a window's words travel that DataFusion's encoding of plans leaves out?
//!
//! It loses `FILTER (WHERE …)`, `IGNORE NULLS`, and whether a function runs backwards, because an order that was there already
//! is the opposite of what was asked. In plans for executors such functions are therefore others, which know these words
//! themselves: [`Filtered`] has the condition as its last argument, and [`Told`] what its evaluator is to be told.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use datafusion::arrow::compute::{SortOptions, filter};
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::logical_expr::expr::{NullTreatment, WindowFunction};
use datafusion::logical_expr::function::{AccumulatorArgs, ExpressionArgs, PartitionEvaluatorArgs, WindowUDFFieldArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Expr, LimitEffect, LogicalPlan, PartitionEvaluator, ReversedUDAF,
    ReversedUDWF, SetMonotonicity, Signature, WindowFunctionDefinition, WindowUDF, WindowUDFImpl,
};
use datafusion::physical_expr::PhysicalExpr;

/// The plan with functions that keep all of a window's words, under the names that they had.
pub(crate) fn with_all_words(plan: &LogicalPlan) -> Result<LogicalPlan> {
    let kept = plan.clone().transform_up_with_subqueries(|node| {
        let LogicalPlan::Window(mut window) = node else { return Ok(Transformed::no(node)) };
        let mut changed = false;
        for expression in &mut window.window_expr {
            if let Some(other) = kept(expression) {
                *expression = other;
                changed = true;
            }
        }
        let node = LogicalPlan::Window(window);
        Ok(if changed { Transformed::yes(node) } else { Transformed::no(node) })
    });
    Ok(kept?.data)
}

/// The function of a window that keeps its words, if this one would lose any.
fn kept(expression: &Expr) -> Option<Expr> {
    let name = match expression {
        Expr::Alias(alias) => alias.name.clone(),
        other => other.schema_name().to_string(),
    };
    let Expr::WindowFunction(window) = expression.clone().unalias_nested().data else { return None };
    let WindowFunction { fun, mut params } = *window;
    let fun = match fun {
        WindowFunctionDefinition::AggregateUDF(function) => {
            params.args.push(*params.filter.take()?);
            WindowFunctionDefinition::AggregateUDF(Arc::new(Filtered::of(function)))
        }
        WindowFunctionDefinition::WindowUDF(function) => {
            let ignore_nulls = params.null_treatment == Some(NullTreatment::IgnoreNulls);
            if !ignore_nulls && !matches!(function.reverse_expr(), ReversedUDWF::Reversed(_)) {
                return None;
            }
            WindowFunctionDefinition::WindowUDF(Arc::new(Told { function, ignore_nulls, reversed: false }.into()))
        }
    };
    Some(Expr::from(WindowFunction { fun, params }).alias(name))
}

/// A function over a window of those rows only for which its last argument holds.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Filtered {
    function: Arc<AggregateUDF>,
    signature: Signature,
}

impl Filtered {
    /// The function over some of the rows.
    pub(crate) fn of(function: Arc<AggregateUDF>) -> AggregateUDF {
        // Arguments have been checked.
        let signature = Signature::variadic_any(function.signature().volatility);
        Self { function, signature }.into()
    }

    /// Over all rows.
    pub(crate) fn function(&self) -> &Arc<AggregateUDF> {
        &self.function
    }
}

/// All but the last.
fn own<T>(of: &[T]) -> &[T] {
    of.split_last().map_or(of, |(_, own)| own)
}

fn own_arguments<'a>(args: AccumulatorArgs<'a>) -> AccumulatorArgs<'a> {
    AccumulatorArgs { exprs: own(args.exprs), expr_fields: own(args.expr_fields), ..args }
}

impl AggregateUDFImpl for Filtered {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.function.return_type(own(arg_types))
    }

    fn return_field(&self, arg_fields: &[FieldRef]) -> Result<FieldRef> {
        self.function.return_field(own(arg_fields))
    }

    fn is_nullable(&self) -> bool {
        self.function.is_nullable()
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(FilteredAccumulator(self.function.accumulator(own_arguments(args))?)))
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(FilteredAccumulator(self.function.create_sliding_accumulator(own_arguments(args))?)))
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        match self.function.reverse_udf() {
            ReversedUDAF::Reversed(function) => ReversedUDAF::Reversed(Arc::new(Self::of(function))),
            other => other,
        }
    }

    fn default_value(&self, data_type: &DataType) -> Result<ScalarValue> {
        self.function.default_value(data_type)
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.function.inner().set_monotonicity(data_type)
    }
}

#[derive(Debug)]
struct FilteredAccumulator(Box<dyn Accumulator>);

/// The rows of all arguments for which the last holds.
fn filtered(values: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
    let Some((condition, own)) = values.split_last() else { return internal_err!("a condition is an argument") };
    let none;
    let holds = match condition.data_type() {
        DataType::Null => {
            none = BooleanArray::new_null(condition.len());
            &none
        }
        _ => condition.as_boolean(),
    };
    Ok(own.iter().map(|values| filter(values, holds)).collect::<std::result::Result<_, _>>()?)
}

impl Accumulator for FilteredAccumulator {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.0.update_batch(&filtered(values)?)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.0.retract_batch(&filtered(values)?)
    }

    fn supports_retract_batch(&self) -> bool {
        self.0.supports_retract_batch()
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.0.evaluate()
    }

    fn size(&self) -> usize {
        self.0.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.0.state()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.0.merge_batch(states)
    }
}

/// A window function that tells its evaluator what the plan would.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Told {
    pub(crate) function: Arc<WindowUDF>,
    pub(crate) ignore_nulls: bool,
    /// Rows come in the opposite of the order that was asked for.
    pub(crate) reversed: bool,
}

#[warn(clippy::missing_trait_methods)]
impl WindowUDFImpl for Told {
    fn partition_evaluator(&self, args: PartitionEvaluatorArgs<'_>) -> Result<Box<dyn PartitionEvaluator>> {
        self.function.partition_evaluator_factory(PartitionEvaluatorArgs::new(
            args.input_exprs(),
            args.input_fields(),
            self.reversed,
            self.ignore_nulls,
        ))
    }

    fn reverse_expr(&self) -> ReversedUDWF {
        match self.function.reverse_expr() {
            ReversedUDWF::Reversed(function) => {
                let reversed = Self { function, ignore_nulls: self.ignore_nulls, reversed: !self.reversed };
                ReversedUDWF::Reversed(Arc::new(reversed.into()))
            }
            other => other,
        }
    }

    fn name(&self) -> &str {
        self.function.name()
    }

    fn aliases(&self) -> &[String] {
        self.function.aliases()
    }

    fn signature(&self) -> &Signature {
        self.function.signature()
    }

    fn expressions(&self, args: ExpressionArgs<'_>) -> Vec<Arc<dyn PhysicalExpr>> {
        self.function.expressions(args)
    }

    fn simplify(&self) -> Option<datafusion::logical_expr::function::WindowFunctionSimplification> {
        self.function.simplify()
    }

    fn field(&self, args: WindowUDFFieldArgs<'_>) -> Result<FieldRef> {
        self.function.field(args)
    }

    fn sort_options(&self) -> Option<SortOptions> {
        self.function.sort_options()
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.function.coerce_types(arg_types)
    }

    fn documentation(&self) -> Option<&datafusion::logical_expr::Documentation> {
        self.function.documentation()
    }

    fn limit_effect(&self, args: &[Arc<dyn PhysicalExpr>]) -> LimitEffect {
        self.function.inner().limit_effect(args)
    }
}
