//! Which of the program's functions was it, when one panics?
//!
//! [`guarded`] makes a function that is another, whose panics are errors that say its name: they unwind neither through the
//! engine nor, where a plan runs whole, through the program that asked.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::{ExprSchema, Result, ScalarValue};
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::preimage::PreimageResult;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::udf_eq::UdfEq;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ExpressionPlacement, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, StructFieldMapping,
};
use model::panic::contain;

use crate::error::wrap;

/// Calls a function of the program's; a panic becomes an error that says which function it was, where it happened, and what it
/// said.
pub(crate) fn guard<T>(name: &str, call: impl FnOnce() -> Result<T>) -> Result<T> {
    contain(call, || format!("call function `{name}`")).map_err(wrap).flatten()
}

/// The same function, whose panics are errors that name it.
#[must_use]
pub fn guarded(function: &ScalarUDF) -> ScalarUDF {
    ScalarUDF::new_from_shared_impl(Arc::new(Guarded(Arc::clone(function.inner()).into())))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Guarded(UdfEq<Arc<dyn ScalarUDFImpl>>);

// A function that a later version adds must be passed on too, or it would be another.
#[warn(clippy::missing_trait_methods)]
impl ScalarUDFImpl for Guarded {
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        guard(self.0.name(), || self.0.invoke_with_args(args))
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn aliases(&self) -> &[String] {
        self.0.aliases()
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        #[expect(deprecated, reason = "passed on")]
        self.0.display_name(args)
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.0.schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.0.return_type(arg_types)
    }

    fn with_updated_config(&self, config: &ConfigOptions) -> Option<ScalarUDF> {
        self.0.with_updated_config(config).map(|function| guarded(&function))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.0.return_field_from_args(args)
    }

    fn is_nullable(&self, args: &[Expr], schema: &dyn ExprSchema) -> bool {
        #[expect(deprecated, reason = "passed on")]
        self.0.is_nullable(args, schema)
    }

    fn is_strict(&self) -> bool {
        self.0.is_strict()
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        self.0.simplify(args, info)
    }

    fn preimage(&self, args: &[Expr], literal: &Expr, info: &SimplifyContext) -> Result<PreimageResult> {
        self.0.preimage(args, literal, info)
    }

    fn short_circuits(&self) -> bool {
        self.0.short_circuits()
    }

    fn conditional_arguments<'a>(&self, args: &'a [Expr]) -> Option<(Vec<&'a Expr>, Vec<&'a Expr>)> {
        self.0.conditional_arguments(args)
    }

    fn evaluate_bounds(&self, input: &[&Interval]) -> Result<Interval> {
        self.0.evaluate_bounds(input)
    }

    fn propagate_constraints(&self, interval: &Interval, inputs: &[&Interval]) -> Result<Option<Vec<Interval>>> {
        self.0.propagate_constraints(interval, inputs)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.0.output_ordering(inputs)
    }

    fn preserves_lex_ordering(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.0.preserves_lex_ordering(inputs)
    }

    fn strictly_order_preserving(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.0.strictly_order_preserving(inputs)
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.0.coerce_types(arg_types)
    }

    fn struct_field_mapping(&self, literal_args: &[Option<ScalarValue>]) -> Option<StructFieldMapping> {
        self.0.struct_field_mapping(literal_args)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.0.documentation()
    }

    fn placement(&self, args: &[ExpressionPlacement]) -> ExpressionPlacement {
        self.0.placement(args)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::{Volatility, create_udf};
    use datafusion::prelude::SessionContext;
    use model::FailureKind;

    use super::*;
    use crate::error::failure;

    #[tokio::test]
    async fn a_panic_names_its_function_and_all_else_is_as_it_was() {
        let picky = |arguments: &[ColumnarValue]| match &arguments[0] {
            ColumnarValue::Scalar(ScalarValue::Int64(Some(13))) => panic!("13 is not for me"),
            other => Ok(other.clone()),
        };
        let kind = DataType::Int64;
        let function = create_udf("picky", vec![kind.clone()], kind, Volatility::Volatile, Arc::new(picky));
        let session = SessionContext::new();
        session.register_udf(guarded(&function));
        assert_eq!(session.sql("SELECT picky(1)").await.unwrap().collect().await.unwrap()[0].num_rows(), 1);
        assert_eq!(guarded(&function), guarded(&function));
        let error = session.sql("SELECT picky(13)").await.unwrap().collect().await.unwrap_err();
        let failure = failure("ask", &error);
        assert_eq!(failure.kind, FailureKind::UserCode { panicked: true, transient: false });
        assert_eq!(failure.message, "call function `picky`");
        let [cause] = &failure.chain[..] else { panic!("{failure}") };
        assert!(
            cause.starts_with(&format!("panicked at {}:", file!())) && cause.ends_with(": 13 is not for me"),
            "{cause}"
        );
    }
}
