//! What can go wrong with a query, and which failure is it to the scheduler?
//!
//! A [`Failure`] that happens inside a plan travels through DataFusion's and Arrow's errors as their innermost cause.
//! [`failure`] finds it behind every wrapper that they have; what has no failure inside is classified by its own kind.

use std::error::Error as StdError;

use arrow::datatypes::{DataType, Schema};
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
    /// A row of a CSV file is broken.
    #[error(
        "read `{file}`, {place}: {what}; to read the file nevertheless, say what becomes of broken rows: set its option \
         `mode` to `drop` or `permissive`"
    )]
    BrokenRow {
        /// The file.
        file: String,
        /// Which line.
        place: String,
        /// What is wrong with it.
        what: String,
    },
    /// What is in a file is not what was expected.
    #[error("read `{file}`: {why}")]
    ReadFile {
        /// The file.
        file: String,
        /// What is wrong, and what to do.
        why: String,
    },
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
        let mut error: Box<dyn StdError + Send + Sync> = Box::new(error);
        // Who only passes another's error on has nothing to say.
        loop {
            error = match error.downcast::<DataFusionError>() {
                Ok(passed) => match *passed {
                    DataFusionError::External(inner) => inner,
                    other => return Self::Encode(Box::new(other)),
                },
                Err(own) => return Self::Encode(own),
            };
        }
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
    let failed = error.downcast_ref::<JobError>();
    matches!(failed, Some(JobError::Failed { failure, .. }) if failure.kind == FailureKind::TaskMemory)
}

/// The failure that an error is to the task in which it happened.
pub(crate) fn failure(what: &str, error: &DataFusionError) -> Failure {
    match classify(error) {
        Class::Failure(failure) => failure,
        Class::Kind(kind) => Failure::new(kind, what.to_owned()).caused_by(text(error)),
    }
}

/// Whether an error is about the query or what it reads, so that trying again gives it again.
pub(crate) fn is_of_data(error: &DataFusionError) -> bool {
    matches!(classify(error), Class::Kind(FailureKind::Query))
}

/// Whether an error says which file it is about.
pub(crate) fn names_a_file(error: &DataFusionError) -> bool {
    matches!(innermost(error).downcast_ref(), Some(Error::BrokenRow { .. } | Error::ReadFile { .. }))
        || innermost(error).is::<object_store::Error>()
}

/// Whether an error can be about what is in a file, and if so, whether the file may be damaged.
pub(crate) fn is_of_file(error: &DataFusionError) -> Option<bool> {
    let inner = innermost(error);
    if inner.is::<ParquetError>() || inner.is::<std::io::Error>() {
        return Some(true);
    }
    match (inner.downcast_ref(), inner.downcast_ref()) {
        (
            Some(
                ArrowError::ParseError(_)
                | ArrowError::CsvError(_)
                | ArrowError::JsonError(_)
                | ArrowError::AvroError(_)
                | ArrowError::IpcError(_)
                | ArrowError::ParquetError(_)
                | ArrowError::IoError(..)
                | ArrowError::SchemaError(_)
                | ArrowError::InvalidArgumentError(_),
            ),
            _,
        ) => Some(true),
        (Some(ArrowError::CastError(_)), _)
        | (_, Some(DataFusionError::Execution(_) | DataFusionError::Plan(_) | DataFusionError::SchemaError(..))) => {
            Some(false)
        }
        _ => None,
    }
}

/// Whether an error can come from a column that is of another type than was expected.
pub(crate) fn is_of_types(error: &DataFusionError) -> bool {
    let inner = innermost(error);
    matches!(inner.downcast_ref(), Some(ArrowError::CastError(_) | ArrowError::SchemaError(_)))
        || matches!(inner.downcast_ref(), Some(DataFusionError::Execution(_) | DataFusionError::Plan(_)))
}

/// The first column of a file that a table has as another type, as half a sentence.
pub(crate) fn other_type(file: &Schema, table: &Schema) -> Option<String> {
    table.fields().iter().find_map(|wanted| {
        let (_, found) = file.column_with_name(wanted.name())?;
        let (name, found, wanted) = (wanted.name(), found.data_type(), wanted.data_type());
        let view = |kind: &DataType| match kind {
            DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
            DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
            other => other.clone(),
        };
        (view(found) != view(wanted)).then(|| {
            format!("column `{name}` is {found} in this file, and {wanted} in the table; leave the file out, or write it again")
        })
    })
}

/// The error that others only pass on.
fn innermost(error: &DataFusionError) -> &(dyn StdError + 'static) {
    match error {
        DataFusionError::External(inner) => innermost_of(inner.as_ref()),
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => innermost(inner),
        DataFusionError::Shared(inner) => innermost(inner),
        DataFusionError::Collection(all) => all.first().map_or(error, innermost),
        DataFusionError::ArrowError(inner, _) => innermost_of(inner.as_ref()),
        DataFusionError::ParquetError(inner) => innermost_of(inner.as_ref()),
        DataFusionError::ObjectStore(inner) => inner.as_ref(),
        DataFusionError::IoError(inner) => innermost_of(inner),
        DataFusionError::SQL(..)
        | DataFusionError::ExecutionJoin(_)
        | DataFusionError::ResourcesExhausted(_)
        | DataFusionError::Internal(_)
        | DataFusionError::NotImplemented(_)
        | DataFusionError::Plan(_)
        | DataFusionError::Configuration(_)
        | DataFusionError::SchemaError(..)
        | DataFusionError::Execution(_)
        | DataFusionError::Substrait(_)
        | DataFusionError::Ffi(_) => error,
    }
}

fn innermost_of<'a>(error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    if let Some(inner) = error.downcast_ref::<DataFusionError>() {
        return innermost(inner);
    }
    match (error.downcast_ref(), error.downcast_ref()) {
        (Some(ArrowError::ExternalError(inner)), _) | (_, Some(ParquetError::External(inner))) => {
            innermost_of(inner.as_ref())
        }
        _ => match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => innermost_of(inner),
            None => error,
        },
    }
}

/// What a person reads: the innermost error's own words, without the invitation to report a bug to somebody else.
pub(crate) fn text(error: &DataFusionError) -> String {
    let inner = innermost(error);
    let text = match (inner.downcast_ref(), inner.downcast_ref(), inner.downcast_ref()) {
        (Some(DataFusionError::Plan(text) | DataFusionError::Execution(text)), ..)
        | (_, Some(ArrowError::CastError(text) | ArrowError::ParseError(text) | ArrowError::JsonError(text)), _)
        | (_, Some(ArrowError::InvalidArgumentError(text) | ArrowError::AvroError(text)), _)
        | (_, Some(ArrowError::ParquetError(text) | ArrowError::IpcError(text) | ArrowError::SchemaError(text)), _)
        | (.., Some(ParquetError::General(text) | ParquetError::EOF(text) | ParquetError::ArrowError(text))) => {
            text.clone()
        }
        (Some(inner), ..) => inner.strip_backtrace(),
        _ => inner.to_string(),
    };
    let text = text.split(DataFusionError::BACK_TRACE_SEP).next().unwrap_or_default();
    match text.find("\nThis issue was likely caused by a bug in DataFusion") {
        Some(end) => text[..end].to_owned(),
        None => text.to_owned(),
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
    match error.downcast_ref::<Error>() {
        Some(Error::BrokenRow { .. } | Error::ReadFile { .. }) => return Class::Kind(FailureKind::Query),
        Some(_) => return Class::Kind(FailureKind::Internal),
        None => {}
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
