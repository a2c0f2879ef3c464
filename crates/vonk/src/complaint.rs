//! What is a person told about a query that failed?
//!
//! DataFusion's errors wrap each other and speak of their own parts; a person wants the innermost one in a sentence, the place
//! in the query, and the name that was probably meant.

use std::error::Error as StdError;

use model::runner::JobError;
use sql::datafusion::arrow::error::ArrowError;
use sql::datafusion::common::config::ConfigOptions;
use sql::datafusion::common::{Column, DataFusionError, Location, SchemaError, Span};
use sql::datafusion::parquet::errors::ParquetError;
use sql::datafusion::sql::sqlparser::parser::ParserError;

/// Endings of names that are files rather than tables.
const FILE_ENDINGS: &[&str] =
    &[".parquet", ".csv", ".tsv", ".json", ".ndjson", ".jsonl", ".arrow", ".avro", ".gz", ".zst"];

/// Names that could have been meant.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    pub(crate) tables: Vec<String>,
    pub(crate) functions: Vec<String>,
}

/// What is wrong with a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Complaint {
    /// What is wrong.
    pub(crate) sentence: String,
    /// Where in the text of the query.
    pub(crate) place: Option<Place>,
}

/// A place in the text of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// From here on.
    At(Location),
    /// Wherever this word stands.
    Word(String),
    /// Behind its last character.
    End,
}

impl Complaint {
    fn new(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), place: None }
    }

    fn at(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }
}

/// What a person is told about an error.
pub(crate) fn complaint(error: &DataFusionError, known: &Known) -> Complaint {
    match error {
        DataFusionError::Diagnostic(diagnostic, inner) => {
            let inner = complaint(inner, known);
            match diagnostic.span {
                Some(Span { start, .. }) => inner.at(Place::At(start)),
                None => inner,
            }
        }
        DataFusionError::Context(_, inner) => complaint(inner, known),
        DataFusionError::Shared(inner) => complaint(inner, known),
        DataFusionError::Collection(all) => match all.first() {
            Some(first) => complaint(first, known),
            None => Complaint::new("the query failed"),
        },
        DataFusionError::External(inner) => of_any(inner.as_ref(), known),
        DataFusionError::ArrowError(inner, _) => of_arrow(inner, known),
        DataFusionError::ParquetError(inner) => of_parquet(inner, known),
        DataFusionError::ObjectStore(inner) => of_store(inner),
        DataFusionError::IoError(inner) => of_io(inner, known),
        DataFusionError::SQL(inner, _) => of_parser(inner),
        DataFusionError::SchemaError(inner, _) => of_schema(inner),
        DataFusionError::Plan(text) | DataFusionError::Execution(text) => of_plan(text, known),
        DataFusionError::NotImplemented(text) => Complaint::new(format!("not supported: {}", plain(text))),
        DataFusionError::Internal(text) => Complaint::new(format!("a defect of the planner: {}", plain(text))),
        DataFusionError::ExecutionJoin(inner) => Complaint::new(panicked(&inner.to_string())),
        DataFusionError::Configuration(text) => of_setting(text),
        DataFusionError::ResourcesExhausted(text) | DataFusionError::Substrait(text) | DataFusionError::Ffi(text) => {
            Complaint::new(plain(text))
        }
    }
}

/// What tokio says of a task that panicked ends with what the panic said, between quotes.
fn panicked(text: &str) -> String {
    match text.split_once("with message \"") {
        Some((_, said)) => format!("a function of the query panicked: {}", said.trim_end_matches('"')),
        None => "a function of the query panicked".to_owned(),
    }
}

/// The job that did not succeed, if that is what an error is about: it has a report of its own.
pub(crate) fn job_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a JobError> {
    match error.downcast_ref::<JobError>() {
        Some(job) => Some(job),
        None => inside(error).and_then(job_error),
    }
}

/// What an error wraps, where its own `source` would miss it.
fn inside<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    match error.downcast_ref::<DataFusionError>() {
        Some(DataFusionError::Shared(inner)) => Some(inner.as_ref()),
        Some(DataFusionError::External(inner)) => Some(inner.as_ref()),
        Some(DataFusionError::Collection(all)) => all.first().map(|first| first as _),
        _ => match error.downcast_ref::<ArrowError>() {
            Some(ArrowError::ExternalError(inner)) => Some(inner.as_ref()),
            _ => error.source(),
        },
    }
}

/// `; did you mean …?` if there is such a name, else nothing.
pub(crate) fn or_rather(nearest: Option<&str>) -> String {
    nearest.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

/// The name that was probably meant, as it is to be written: capitals need quotes, and who forgot them meant that one.
fn meant<'a>(name: &str, names: impl Iterator<Item = &'a str> + Clone) -> Option<String> {
    let same = names.clone().find(|other| other.eq_ignore_ascii_case(name)).map(str::to_owned);
    let found = same.or_else(|| crate::config::nearest(name, names))?;
    Some(if found.to_lowercase() == found { found } else { format!("\"{found}\"") })
}

fn of_any(error: &(dyn StdError + 'static), known: &Known) -> Complaint {
    if let Some(inner) = error.downcast_ref::<DataFusionError>() {
        return complaint(inner, known);
    }
    if let Some(inner) = error.downcast_ref::<ArrowError>() {
        return of_arrow(inner, known);
    }
    if let Some(inner) = error.downcast_ref::<ParquetError>() {
        return of_parquet(inner, known);
    }
    if let Some(inner) = error.downcast_ref::<object_store::Error>() {
        return of_store(inner);
    }
    if let Some(inner) = error.downcast_ref::<std::io::Error>() {
        return of_io(inner, known);
    }
    let mut sentence = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        // Many errors say their cause themselves.
        if !sentence.contains(&text) {
            sentence = format!("{sentence}: {text}");
        }
        source = cause.source();
    }
    Complaint::new(plain(&sentence))
}

fn of_arrow(error: &ArrowError, known: &Known) -> Complaint {
    match error {
        ArrowError::ExternalError(inner) => of_any(inner.as_ref(), known),
        ArrowError::IoError(_, inner) => of_io(inner, known),
        ArrowError::DivideByZero => Complaint::new("division by zero"),
        ArrowError::ArithmeticOverflow(text) => Complaint::new(format!("arithmetic overflow: {}", plain(text))),
        ArrowError::CastError(text) | ArrowError::ComputeError(text) => Complaint::new(plain(text)),
        ArrowError::CsvError(text) => Complaint::new(format!("broken CSV: {}", plain(text))),
        ArrowError::JsonError(text) => Complaint::new(format!("broken JSON: {}", plain(text))),
        ArrowError::ParseError(text) | ArrowError::SchemaError(text) | ArrowError::InvalidArgumentError(text) => {
            Complaint::new(plain(text))
        }
        other => Complaint::new(plain(&other.to_string())),
    }
}

fn of_parquet(error: &ParquetError, known: &Known) -> Complaint {
    match error {
        ParquetError::External(inner) => of_any(inner.as_ref(), known),
        ParquetError::General(text) | ParquetError::EOF(text) => {
            Complaint::new(format!("broken Parquet: {}", plain(text)))
        }
        other => Complaint::new(plain(&other.to_string())),
    }
}

fn of_store(error: &object_store::Error) -> Complaint {
    match error {
        object_store::Error::NotFound { path, .. } => Complaint::new(format!("there is no file {}", rooted(path))),
        object_store::Error::PermissionDenied { path, .. } | object_store::Error::Unauthenticated { path, .. } => {
            Complaint::new(format!("no permission to use {}", rooted(path)))
        }
        object_store::Error::Generic { source, .. } => of_any(source.as_ref(), &Known::default()),
        other => Complaint::new(plain(&other.to_string())),
    }
}

/// Local stores speak of paths without their first slash, but not always.
fn rooted(path: &str) -> String {
    match std::path::Path::new(path).is_relative()
        && std::path::Path::new(&format!("/{path}")).parent().is_some_and(std::path::Path::exists)
    {
        true => format!("/{path}"),
        false => path.to_owned(),
    }
}

fn of_io(error: &std::io::Error, known: &Known) -> Complaint {
    match error.get_ref() {
        Some(inner) => of_any(inner, known),
        None => Complaint::new(plain(&error.to_string())),
    }
}

fn of_schema(error: &SchemaError) -> Complaint {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let meant = meant(&field.name, valid_fields.iter().map(Column::name));
            let within = field.relation.as_ref().map(|table| format!(" in `{}`", table.table())).unwrap_or_default();
            let sentence = format!("there is no column `{}`{within}{}", field.name, or_rather(meant.as_deref()));
            Complaint::new(sentence).at(Place::Word(field.name.clone()))
        }
        SchemaError::AmbiguousReference { field } => {
            let name = &field.name;
            Complaint::new(format!("column `{name}` is in more than one table: write which, as in `table.{name}`"))
                .at(Place::Word(name.clone()))
        }
        SchemaError::DuplicateQualifiedField { .. } | SchemaError::DuplicateUnqualifiedField { .. } => {
            Complaint::new(plain(&error.to_string()))
        }
    }
}

fn of_plan(text: &str, known: &Known) -> Complaint {
    // DROP says it otherwise than SELECT.
    let missing = |before: &str, after: &str| text.strip_prefix(before)?.split_once(after).map(|(name, _)| name);
    if let Some(name) = missing("table '", "' not found").or_else(|| missing("Table '", "' doesn't exist")) {
        // The session's own catalog and schema are what nobody wrote.
        let name = name.strip_prefix("datafusion.public.").unwrap_or(name);
        let lower = name.to_ascii_lowercase();
        if name.contains('/') || FILE_ENDINGS.iter().any(|ending| lower.ends_with(ending)) {
            let path = std::path::absolute(name).map_or_else(|_| name.to_owned(), |path| path.display().to_string());
            let path = if name.contains("://") { name.to_owned() } else { path };
            return Complaint::new(format!("there is no table or file {path}")).at(Place::Word(name.to_owned()));
        }
        let meant = meant(name, known.tables.iter().map(String::as_str));
        let sentence = format!("there is no table `{name}`{}", or_rather(meant.as_deref()));
        return Complaint::new(sentence).at(Place::Word(name.to_owned()));
    }
    if let Some((name, rest)) = text.strip_prefix("Invalid function '").and_then(|rest| rest.split_once('\'')) {
        let meant =
            rest.split_once("Did you mean '").and_then(|(_, rest)| rest.split_once('\'')).map(|(meant, _)| meant);
        let names = known.functions.iter().map(String::as_str).chain(meant);
        let nearest = crate::config::nearest(name, names);
        let sentence = format!("there is no function `{name}`{}", or_rather(nearest.as_deref()));
        return Complaint::new(sentence).at(Place::Word(name.to_owned()));
    }
    Complaint::new(plain(text))
}

fn of_setting(text: &str) -> Complaint {
    let Some((name, _)) = text.strip_prefix("Config value \"").and_then(|rest| rest.split_once("\" not found")) else {
        return Complaint::new(plain(text));
    };
    // Of the setting's name, the error has the last part only.
    let keys = ConfigOptions::default().entries().into_iter().map(|entry| entry.key).collect::<Vec<_>>();
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let parts: Vec<String> = keys.iter().map(|key| last(key)).collect();
    let nearest = crate::config::nearest(name, parts.iter().map(String::as_str));
    let nearest = nearest.and_then(|part| keys.iter().find(|key| last(key) == part));
    Complaint::new(format!("there is no setting `{name}`{}", or_rather(nearest.map(String::as_str))))
}

fn of_parser(error: &ParserError) -> Complaint {
    let text = match error {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => text.as_str(),
        ParserError::RecursionLimitExceeded => return Complaint::new("the statement is nested too deeply"),
    };
    let (text, place) = match text.rsplit_once(" at Line: ") {
        Some((before, place)) => (before, location(place)),
        None => (text, None),
    };
    let text = text.replace("Expected: ", "expected ").replace("found: ", "found ");
    let (text, place) = match text.contains("found EOF") {
        true => (text.replace("found EOF", "found its end"), Some(Place::End)),
        false => (text, place.map(Place::At)),
    };
    Complaint { sentence: format!("cannot read the statement: {}", plain(&text)), place }
}

/// `1, Column: 8`
fn location(text: &str) -> Option<Location> {
    let (line, column) = text.split_once(", Column: ")?;
    Some(Location { line: line.trim().parse().ok()?, column: column.trim().parse().ok()? })
}

/// A text without what names DataFusion's parts, as a verb phrase without its full stop.
fn plain(text: &str) -> String {
    const PREFIXES: &[&str] = &[
        "Error during planning: ",
        "Execution error: ",
        "External error: ",
        "Arrow error: ",
        "Parser error: ",
        "Schema error: ",
        "SQL error: ",
        "Object Store error: ",
        "Internal error: ",
        "Cast error: ",
        "Compute error: ",
        "Invalid argument error: ",
    ];
    let mut text = text.trim();
    while let Some(rest) = PREFIXES.iter().find_map(|prefix| text.strip_prefix(prefix)) {
        text = rest.trim();
    }
    // What follows invites to report a bug, or is a backtrace.
    let text = text.split("\nThis issue was likely caused by").next().unwrap_or(text);
    let text = text.split("\n\nbacktrace: ").next().unwrap_or(text);
    // Some show a piece of the parsed statement as Rust has it.
    let text = match text.contains(": Span(") {
        true => text.split(" {").next().and_then(|before| before.rsplit_once(' ')).map_or(text, |(before, _)| before),
        false => text,
    };
    let text = text.trim().trim_end_matches('.');
    let mut letters = text.chars();
    match (letters.next(), letters.next()) {
        (Some(first), Some(second)) if first.is_uppercase() && second.is_lowercase() => {
            let rest = &text[first.len_utf8()..];
            first.to_lowercase().collect::<String>() + rest
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn said(error: DataFusionError) -> String {
        let tables = ["orders", "lineitem", "PARTS"].map(str::to_owned).to_vec();
        let functions = ["cot", "count"].map(str::to_owned).to_vec();
        complaint(&error, &Known { tables, functions }).sentence
    }

    #[test]
    fn wrappers_say_nothing() {
        let inner = || DataFusionError::ArrowError(Box::new(ArrowError::DivideByZero), None);
        assert_eq!(said(inner()), "division by zero");
        assert_eq!(said(inner().context("type_coercion")), "division by zero");
        assert_eq!(said(DataFusionError::Shared(Arc::new(inner()))), "division by zero");
        let external = DataFusionError::External(Box::new(DataFusionError::Collection(vec![inner()])));
        assert_eq!(said(external), "division by zero");
    }

    #[test]
    fn the_name_that_was_meant_is_told() {
        let plan = |text: &str| said(DataFusionError::Plan(text.to_owned()));
        assert_eq!(
            plan("table 'datafusion.public.ordrs' not found"),
            "there is no table `ordrs`; did you mean `orders`?"
        );
        assert_eq!(
            plan("table 'datafusion.public.parts' not found"),
            "there is no table `parts`; did you mean `\"PARTS\"`?"
        );
        assert_eq!(plan("table 'datafusion.public.xyz' not found"), "there is no table `xyz`");
        assert_eq!(plan("table 'datafusion.public./a/b.csv' not found"), "there is no table or file /a/b.csv");
        assert_eq!(
            plan("Invalid function 'coutn'.\nDid you mean 'cot'?"),
            "there is no function `coutn`; did you mean `count`?"
        );
        assert_eq!(plan("Invalid function 'qwertz'.\nDid you mean 'ascii'?"), "there is no function `qwertz`");
    }

    #[test]
    fn what_is_of_rust_or_of_datafusion_is_left_out() {
        let shown = "Substring without for/from is not valid Substring { expr: Value(ValueWithSpan { span: Span(Location(1,15)..) }) }";
        assert_eq!(said(DataFusionError::Plan(shown.into())), "substring without for/from is not valid");
        let setting = "Config value \"batch_siz\" not found on ExecutionOptions";
        assert_eq!(
            said(DataFusionError::Configuration(setting.into())),
            "there is no setting `batch_siz`; did you mean `datafusion.execution.batch_size`?"
        );
        let dropped = "Table 'order' doesn't exist.";
        assert_eq!(
            said(DataFusionError::Execution(dropped.into())),
            "there is no table `order`; did you mean `orders`?"
        );
    }

    #[test]
    fn the_parser_tells_where() {
        let error = ParserError::ParserError("Expected: an expression, found: FROM at Line: 2, Column: 8".into());
        let complaint = complaint(&DataFusionError::SQL(Box::new(error), None), &Known::default());
        assert_eq!(complaint.sentence, "cannot read the statement: expected an expression, found FROM");
        assert_eq!(complaint.place, Some(Place::At(Location { line: 2, column: 8 })));
        let error = ParserError::ParserError("Expected: an expression, found: EOF".into());
        let complaint = super::complaint(&DataFusionError::SQL(Box::new(error), None), &Known::default());
        assert_eq!(complaint.sentence, "cannot read the statement: expected an expression, found its end");
        assert_eq!(complaint.place, Some(Place::End));
    }

    #[test]
    fn nobody_is_asked_to_report_a_bug_to_somebody_else() {
        let text = said(DataFusionError::Internal("Assertion failed.".into()));
        assert_eq!(text, "a defect of the planner: assertion failed");
    }

    #[test]
    fn a_job_is_found_behind_wrappers() {
        let job = || JobError::Ended { why: "x".into() };
        let external = DataFusionError::External(Box::new(job()));
        let error = DataFusionError::Shared(Arc::new(external.context("while reading")));
        assert_eq!(job_error(&error), Some(&job()));
        assert_eq!(job_error(&DataFusionError::Plan("x".into())), None);
    }
}
