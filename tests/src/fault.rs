//! Whose fault is it that a query failed?

use model::{Failure, FailureKind};
use vonk::datafusion::common::DataFusionError;

/// Whose fault it is: the query's (it or its data are wrong), the machine's, or the engine's.
pub fn class(error: &anyhow::Error) -> &'static str {
    if let Some(failure) = error.chain().find_map(failure_in) {
        return match failure.kind {
            FailureKind::Query | FailureKind::UserCode { panicked: false, .. } => "query",
            FailureKind::TaskMemory => "memory",
            _ => "engine",
        };
    }
    match error.chain().find_map(|cause| cause.downcast_ref()).map(DataFusionError::find_root) {
        None | Some(DataFusionError::Internal(_)) => "engine",
        Some(DataFusionError::ResourcesExhausted(_)) => "memory",
        Some(_) => "query",
    }
}

/// A cause may be the failure or, as the source of a job's error, the box that holds it.
fn failure_in<'a>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a Failure> {
    cause.downcast_ref::<Failure>().or_else(|| cause.downcast_ref::<Box<Failure>>().map(Box::as_ref))
}
