//! Which of the program's functions of groups was it, when one panics?

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray};
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams, WindowFunctionParams};
use datafusion::logical_expr::function::{AccumulatorArgs, AggregateFunctionSimplification, StateFieldsArgs};
use datafusion::logical_expr::udf_eq::UdfEq;
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, Expr, GroupsAccumulator, Operator,
    ReversedUDAF, SetMonotonicity, Signature, StatisticsArgs,
};

use crate::guard::guard;

/// The same function of groups, whose panics are errors that name it.
#[must_use]
pub fn guarded_aggregate(function: &AggregateUDF) -> AggregateUDF {
    AggregateUDF::new_from_shared_impl(Arc::new(Guarded(Arc::clone(function.inner()).into())))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Guarded(UdfEq<Arc<dyn AggregateUDFImpl>>);

impl Guarded {
    fn accumulates(&self, make: impl FnOnce() -> Result<Box<dyn Accumulator>>) -> Result<Box<dyn Accumulator>> {
        let function = self.0.name().to_owned();
        let inner = guard(&function, make)?;
        Ok(Box::new(GuardedAccumulator { function, inner }))
    }
}

// A function that a later version adds must be passed on too, or it would be another.
#[warn(clippy::missing_trait_methods)]
impl AggregateUDFImpl for Guarded {
    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        self.accumulates(|| self.0.accumulator(args))
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        self.accumulates(|| self.0.create_sliding_accumulator(args))
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        let function = self.0.name().to_owned();
        let inner = guard(&function, || self.0.create_groups_accumulator(args))?;
        Ok(Box::new(GuardedGroups { function, inner }))
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        self.0.groups_accumulator_supported(args)
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn aliases(&self) -> &[String] {
        self.0.aliases()
    }

    fn schema_name(&self, params: &AggregateFunctionParams) -> Result<String> {
        self.0.schema_name(params)
    }

    fn human_display(&self, params: &AggregateFunctionParams) -> Result<String> {
        self.0.human_display(params)
    }

    fn window_function_schema_name(&self, params: &WindowFunctionParams) -> Result<String> {
        self.0.window_function_schema_name(params)
    }

    fn display_name(&self, params: &AggregateFunctionParams) -> Result<String> {
        self.0.display_name(params)
    }

    fn window_function_display_name(&self, params: &WindowFunctionParams) -> Result<String> {
        self.0.window_function_display_name(params)
    }

    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.0.return_type(arg_types)
    }

    fn return_field(&self, arg_fields: &[FieldRef]) -> Result<FieldRef> {
        self.0.return_field(arg_fields)
    }

    fn is_nullable(&self) -> bool {
        self.0.is_nullable()
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        self.0.state_fields(args)
    }

    fn with_beneficial_ordering(
        self: Arc<Self>,
        beneficial_ordering: bool,
    ) -> Result<Option<Arc<dyn AggregateUDFImpl>>> {
        let changed = Arc::clone(&*self.0).with_beneficial_ordering(beneficial_ordering)?;
        Ok(changed.map(|inner| Arc::new(Self(inner.into())) as Arc<dyn AggregateUDFImpl>))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.0.order_sensitivity()
    }

    fn simplify(&self) -> Option<AggregateFunctionSimplification> {
        self.0.simplify()
    }

    fn simplify_expr_op_literal(
        &self,
        function: &AggregateFunction,
        arg: &Expr,
        op: Operator,
        lit: &Expr,
        arg_is_left: bool,
    ) -> Result<Option<Expr>> {
        self.0.simplify_expr_op_literal(function, arg, op, lit, arg_is_left)
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        match self.0.reverse_expr() {
            ReversedUDAF::Reversed(function) => ReversedUDAF::Reversed(Arc::new(guarded_aggregate(&function))),
            other => other,
        }
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.0.coerce_types(arg_types)
    }

    fn is_descending(&self) -> Option<bool> {
        self.0.is_descending()
    }

    fn value_from_stats(&self, statistics: &StatisticsArgs<'_>) -> Option<ScalarValue> {
        self.0.value_from_stats(statistics)
    }

    fn default_value(&self, data_type: &DataType) -> Result<ScalarValue> {
        self.0.default_value(data_type)
    }

    fn supports_null_handling_clause(&self) -> bool {
        self.0.supports_null_handling_clause()
    }

    fn supports_within_group_clause(&self) -> bool {
        self.0.supports_within_group_clause()
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.0.documentation()
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.0.set_monotonicity(data_type)
    }
}

#[derive(Debug)]
struct GuardedAccumulator {
    function: String,
    inner: Box<dyn Accumulator>,
}

#[warn(clippy::missing_trait_methods)]
impl Accumulator for GuardedAccumulator {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        guard(&self.function, || self.inner.update_batch(values))
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        guard(&self.function, || self.inner.evaluate())
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        guard(&self.function, || self.inner.state())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        guard(&self.function, || self.inner.merge_batch(states))
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        guard(&self.function, || self.inner.retract_batch(values))
    }

    fn supports_retract_batch(&self) -> bool {
        self.inner.supports_retract_batch()
    }
}

struct GuardedGroups {
    function: String,
    inner: Box<dyn GroupsAccumulator>,
}

impl fmt::Debug for GuardedGroups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardedGroups").field("function", &self.function).finish_non_exhaustive()
    }
}

#[warn(clippy::missing_trait_methods)]
impl GroupsAccumulator for GuardedGroups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        filter: Option<&BooleanArray>,
        groups: usize,
    ) -> Result<()> {
        guard(&self.function, || self.inner.update_batch(values, group_indices, filter, groups))
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        guard(&self.function, || self.inner.evaluate(emit_to))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        guard(&self.function, || self.inner.state(emit_to))
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], groups: usize) -> Result<()> {
        guard(&self.function, || self.inner.merge_batch(values, group_indices, groups))
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        guard(&self.function, || self.inner.convert_to_state(values, filter))
    }

    fn size(&self) -> usize {
        self.inner.size()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::{Volatility, create_udaf};
    use datafusion::prelude::SessionContext;

    use super::*;

    #[derive(Debug)]
    struct Picky;

    impl Accumulator for Picky {
        fn update_batch(&mut self, _: &[ArrayRef]) -> Result<()> {
            panic!("no rows for me")
        }

        fn evaluate(&mut self) -> Result<ScalarValue> {
            Ok(ScalarValue::Int64(None))
        }

        fn size(&self) -> usize {
            0
        }

        fn state(&mut self) -> Result<Vec<ScalarValue>> {
            Ok(vec![ScalarValue::Int64(None)])
        }

        fn merge_batch(&mut self, _: &[ArrayRef]) -> Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_panic_names_the_function_of_groups() {
        let kind = DataType::Int64;
        let function = create_udaf(
            "picky",
            vec![kind.clone()],
            Arc::new(kind.clone()),
            Volatility::Immutable,
            Arc::new(|_| Ok(Box::new(Picky))),
            Arc::new(vec![kind]),
        );
        let session = SessionContext::new();
        session.register_udaf(guarded_aggregate(&function));
        for over in ["", " OVER ()"] {
            let asked = session.sql(&format!("SELECT picky(x){over} FROM (VALUES (1), (2)) AS t(x)")).await.unwrap();
            let error = crate::error::failure("ask", &asked.collect().await.unwrap_err());
            assert_eq!(error.message, "call function `picky`");
            assert!(error.chain[0].ends_with(": no rows for me"), "{error}");
        }
    }
}
