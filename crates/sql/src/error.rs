//! What can go wrong with a query, and which failure is it to the scheduler?
//!
//! A [`Failure`] that happens inside a plan travels through DataFusion's and Arrow's errors as their innermost cause.
//! [`failure`] finds it behind every wrapper that they have; what has no failure inside is classified by its own kind.

use std::error::Error as StdError;

use arrow::error::ArrowError;
use datafusion::common::DataFusionError;
use datafusion::parquet::errors::ParquetError;
use model::runner::JobError;
use model::{Failure, FailureKind};

/// Why a query did not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// DataFusion's code for plans refuses one.
    #[error("encode a stage of the query")]
    Encode(#[source] Box<dyn StdError + Send + Sync>),
    /// Bytes that another process sent are no stage of a query.
    #[error("decode a stage of the query")]
    Decode(#[source] Box<dyn StdError + Send + Sync>),
    /// A node that no rule knows how to distribute.
    #[error("distribute the query: do not know how the partitions of `{node}` depend on those below it")]
    Route {
        /// The node.
        node: String,
    },
    /// The query's session cannot be made.
    #[error("make a session for queries")]
    Session(#[source] Box<DataFusionError>),
    /// A function that executors cannot know.
    #[error(
        "send function `{name}` to executors: it was registered with the session only; register it with the context's \
         register_udf, register_udaf or register_udwf, which executors can repeat"
    )]
    UnknownFunction {
        /// Its name.
        name: String,
    },
}

impl Error {
    pub(crate) fn encode(error: impl StdError + Send + Sync + 'static) -> Self {
        Self::Encode(Box::new(error))
    }

    pub(crate) fn decode(error: impl StdError + Send + Sync + 'static) -> Self {
        Self::Decode(Box::new(error))
    }
}

impl From<Error> for DataFusionError {
    fn from(error: Error) -> Self {
        Self::External(Box::new(error))
    }
}

/// A failure as DataFusion passes it on.
pub(crate) fn wrap(failure: Failure) -> DataFusionError {
    DataFusionError::External(Box::new(failure))
}

/// Why a job did not succeed, as DataFusion passes it on.
pub(crate) fn wrap_job(error: JobError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// Whether a job ended because memory was refused to something that cannot spill.
pub(crate) fn wants_memory(error: &DataFusionError) -> bool {
    let DataFusionError::External(error) = error else { return false };
    matches!(error.downcast_ref::<JobError>(), Some(error) if job_wants_memory(error))
}

/// The same of a job's own error.
pub(crate) fn job_wants_memory(error: &JobError) -> bool {
    matches!(error, JobError::Failed { failure, .. } if failure.kind == FailureKind::TaskMemory)
}

/// The failure that an error is to the task in which it happened.
pub(crate) fn failure(what: &str, error: &DataFusionError) -> Failure {
    match classify(error) {
        Class::Failure(failure) => failure,
        Class::Kind(kind) => Failure::new(kind, what.to_owned()).caused_by(text(error)),
    }
}

/// What a person reads: DataFusion's own text, without the invitation to report a bug to somebody else.
fn text(error: &DataFusionError) -> String {
    let text = error.strip_backtrace();
    match text.find("\nThis issue was likely caused by a bug in DataFusion") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

enum Class {
    Failure(Failure),
    Kind(FailureKind),
}

fn classify(error: &DataFusionError) -> Class {
    match error {
        DataFusionError::External(inner) => classify_any(inner.as_ref()),
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => classify(inner),
        DataFusionError::Shared(inner) => classify(inner),
        DataFusionError::Collection(all) => all.first().map_or(Class::Kind(FailureKind::Internal), classify),
        DataFusionError::ArrowError(inner, _) => classify_arrow(inner),
        DataFusionError::ParquetError(inner) => classify_parquet(inner),
        DataFusionError::ObjectStore(inner) => Class::Kind(store(inner)),
        DataFusionError::IoError(inner) => classify_io(inner),
        DataFusionError::ExecutionJoin(inner) => {
            Class::Kind(FailureKind::UserCode { panicked: inner.is_panic(), transient: false })
        }
        DataFusionError::ResourcesExhausted(_) => Class::Kind(FailureKind::TaskMemory),
        DataFusionError::Internal(_) => Class::Kind(FailureKind::Internal),
        DataFusionError::SQL(..)
        | DataFusionError::NotImplemented(_)
        | DataFusionError::Plan(_)
        | DataFusionError::Configuration(_)
        | DataFusionError::SchemaError(..)
        | DataFusionError::Execution(_)
        | DataFusionError::Substrait(_)
        | DataFusionError::Ffi(_) => Class::Kind(FailureKind::Query),
    }
}

fn classify_any(error: &(dyn StdError + 'static)) -> Class {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return Class::Failure(failure.clone());
    }
    if let Some(error) = error.downcast_ref::<DataFusionError>() {
        return classify(error);
    }
    if let Some(error) = error.downcast_ref::<ArrowError>() {
        return classify_arrow(error);
    }
    if let Some(error) = error.downcast_ref::<ParquetError>() {
        return classify_parquet(error);
    }
    if let Some(error) = error.downcast_ref::<object_store::Error>() {
        return Class::Kind(store(error));
    }
    if let Some(error) = error.downcast_ref::<std::io::Error>() {
        return classify_io(error);
    }
    if error.downcast_ref::<Error>().is_some() {
        return Class::Kind(FailureKind::Internal);
    }
    match error.source() {
        Some(source) => classify_any(source),
        None => Class::Kind(FailureKind::Query),
    }
}

fn classify_arrow(error: &ArrowError) -> Class {
    match error {
        ArrowError::ExternalError(inner) => classify_any(inner.as_ref()),
        ArrowError::IoError(_, inner) => classify_io(inner),
        ArrowError::MemoryError(_) => Class::Kind(FailureKind::TaskMemory),
        _ => Class::Kind(FailureKind::Query),
    }
}

fn classify_parquet(error: &ParquetError) -> Class {
    match error {
        ParquetError::External(inner) => classify_any(inner.as_ref()),
        _ => Class::Kind(FailureKind::Query),
    }
}

fn classify_io(error: &std::io::Error) -> Class {
    if let Some(inner) = error.get_ref() {
        return classify_any(inner);
    }
    Class::Kind(match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof => {
            FailureKind::Query
        }
        std::io::ErrorKind::PermissionDenied => FailureKind::StoreDenied,
        _ => FailureKind::Disk,
    })
}

fn store(error: &object_store::Error) -> FailureKind {
    match error {
        object_store::Error::NotFound { .. }
        | object_store::Error::InvalidPath { .. }
        | object_store::Error::NotSupported { .. }
        | object_store::Error::NotImplemented { .. } => FailureKind::Query,
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
            FailureKind::StoreDenied
        }
        _ => FailureKind::StoreUnavailable,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn inner() -> Failure {
        Failure::new(FailureKind::StoreDenied, "read object x").caused_by("403")
    }

    #[test]
    fn a_failure_is_found_behind_every_wrapper() {
        let wrapped = [
            wrap(inner()),
            wrap(inner()).context("while scanning"),
            DataFusionError::Shared(Arc::new(wrap(inner()))),
            DataFusionError::Collection(vec![wrap(inner())]),
            DataFusionError::ArrowError(Box::new(ArrowError::ExternalError(Box::new(wrap(inner())))), None),
            DataFusionError::ParquetError(Box::new(ParquetError::External(Box::new(ArrowError::ExternalError(
                Box::new(inner()),
            ))))),
            DataFusionError::IoError(std::io::Error::other(wrap(inner()))),
            DataFusionError::External(Box::new(DataFusionError::Shared(Arc::new(wrap(inner()).context("again"))))),
        ];
        for error in wrapped {
            assert_eq!(failure("run", &error), inner(), "{error:?}");
        }
    }

    #[test]
    fn what_has_no_failure_inside_is_classified_by_its_kind() {
        let kind = |error: DataFusionError| failure("run", &error).kind;
        assert_eq!(kind(DataFusionError::Execution("x".into())), FailureKind::Query);
        assert_eq!(kind(DataFusionError::ResourcesExhausted("x".into())), FailureKind::TaskMemory);
        assert_eq!(kind(ArrowError::DivideByZero.into()), FailureKind::Query);
        let missing = object_store::Error::NotFound { path: "x".into(), source: "gone".into() };
        assert_eq!(kind(DataFusionError::ObjectStore(Box::new(missing))), FailureKind::Query);
        assert_eq!(kind(DataFusionError::Internal("x".into())), FailureKind::Internal);
    }
}
