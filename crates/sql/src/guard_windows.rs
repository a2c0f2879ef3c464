//! Which of the program's window functions was it, when one panics?

use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::function::{
    ExpressionArgs, PartitionEvaluatorArgs, WindowFunctionSimplification, WindowUDFFieldArgs,
};
use datafusion::logical_expr::udf_eq::UdfEq;
use datafusion::logical_expr::window_state::WindowAggState;
use datafusion::logical_expr::{
    Documentation, LimitEffect, PartitionEvaluator, ReversedUDWF, Signature, WindowUDF, WindowUDFImpl,
};
use datafusion::physical_expr::PhysicalExpr;

use crate::guard::guard;

/// The same window function, whose panics are errors that name it.
#[must_use]
pub fn guarded_window(function: &WindowUDF) -> WindowUDF {
    WindowUDF::new_from_shared_impl(Arc::new(Guarded(Arc::clone(function.inner()).into())))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Guarded(UdfEq<Arc<dyn WindowUDFImpl>>);

// A function that a later version adds must be passed on too, or it would be another.
#[warn(clippy::missing_trait_methods)]
impl WindowUDFImpl for Guarded {
    fn partition_evaluator(&self, args: PartitionEvaluatorArgs<'_>) -> Result<Box<dyn PartitionEvaluator>> {
        let function = self.0.name().to_owned();
        let inner = guard(&function, || self.0.partition_evaluator(args))?;
        Ok(Box::new(GuardedEvaluator { function, inner }))
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn aliases(&self) -> &[String] {
        self.0.aliases()
    }

    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn expressions(&self, args: ExpressionArgs<'_>) -> Vec<Arc<dyn PhysicalExpr>> {
        self.0.expressions(args)
    }

    fn simplify(&self) -> Option<WindowFunctionSimplification> {
        self.0.simplify()
    }

    fn field(&self, args: WindowUDFFieldArgs<'_>) -> Result<FieldRef> {
        self.0.field(args)
    }

    fn sort_options(&self) -> Option<SortOptions> {
        self.0.sort_options()
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.0.coerce_types(arg_types)
    }

    fn reverse_expr(&self) -> ReversedUDWF {
        match self.0.reverse_expr() {
            ReversedUDWF::Reversed(function) => ReversedUDWF::Reversed(Arc::new(guarded_window(&function))),
            other => other,
        }
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.0.documentation()
    }

    fn limit_effect(&self, args: &[Arc<dyn PhysicalExpr>]) -> LimitEffect {
        self.0.limit_effect(args)
    }
}

#[derive(Debug)]
struct GuardedEvaluator {
    function: String,
    inner: Box<dyn PartitionEvaluator>,
}

#[warn(clippy::missing_trait_methods)]
impl PartitionEvaluator for GuardedEvaluator {
    fn memoize(&mut self, state: &mut WindowAggState) -> Result<()> {
        guard(&self.function, || self.inner.memoize(state))
    }

    fn get_range(&self, row: usize, rows: usize) -> Result<Range<usize>> {
        guard(&self.function, || self.inner.get_range(row, rows))
    }

    fn is_causal(&self) -> bool {
        self.inner.is_causal()
    }

    fn evaluate_all(&mut self, values: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
        guard(&self.function, || self.inner.evaluate_all(values, rows))
    }

    fn evaluate(&mut self, values: &[ArrayRef], range: &Range<usize>) -> Result<ScalarValue> {
        guard(&self.function, || self.inner.evaluate(values, range))
    }

    fn evaluate_all_with_rank(&self, rows: usize, ranks: &[Range<usize>]) -> Result<ArrayRef> {
        guard(&self.function, || self.inner.evaluate_all_with_rank(rows, ranks))
    }

    fn supports_bounded_execution(&self) -> bool {
        self.inner.supports_bounded_execution()
    }

    fn uses_window_frame(&self) -> bool {
        self.inner.uses_window_frame()
    }

    fn include_rank(&self) -> bool {
        self.inner.include_rank()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::{Volatility, create_udwf};
    use datafusion::prelude::SessionContext;

    use super::*;

    #[derive(Debug)]
    struct Picky;

    impl PartitionEvaluator for Picky {
        fn evaluate_all(&mut self, _: &[ArrayRef], _: usize) -> Result<ArrayRef> {
            panic!("no rows for me")
        }
    }

    #[tokio::test]
    async fn a_panic_names_the_window_function() {
        let kind = DataType::Int64;
        let make = || Ok(Box::new(Picky) as Box<dyn PartitionEvaluator>);
        let function = create_udwf("picky", kind.clone(), Arc::new(kind), Volatility::Immutable, Arc::new(make));
        let session = SessionContext::new();
        session.register_udwf(guarded_window(&function));
        let asked = session.sql("SELECT picky(x) OVER () FROM (VALUES (1), (2)) AS t(x)").await.unwrap();
        let error = crate::error::failure("ask", &asked.collect().await.unwrap_err());
        assert_eq!(error.message, "call function `picky`");
        assert!(error.chain[0].ends_with(": no rows for me"), "{error}");
    }
}
