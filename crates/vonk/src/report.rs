//! What is a person told when a program fails?

use model::exit::{FAILED, LOST, NO_ROOM, REFUSED, WRONG};
use model::failure::{Failure, FailureKind, LossCause};
use model::runner::JobError;

/// The error and its causes, a line each, and what to do about it, if anything is known.
pub(crate) fn report(error: &anyhow::Error) -> String {
    let mut lines = Vec::new();
    for cause in error.chain() {
        let query = query_error(cause);
        // A failure's own `Display` joins its chain into one line; here every cause has a line.
        let (text, chain) = match (&query, failure_in(cause)) {
            (Query::Wraps, _) => continue,
            (Query::Says(sentence), _) => (sentence.clone(), Vec::new()),
            (Query::No, Some(failure)) => (located(failure), failure.chain.clone()),
            (Query::No, None) => (cause.to_string(), Vec::new()),
        };
        lines.push(if lines.is_empty() { format!("error: {text}") } else { format!("  because: {text}") });
        lines.extend(chain.iter().map(|cause| format!("  because: {cause}")));
        if matches!(query, Query::Says(_)) {
            break;
        }
    }
    if let Some(failure) = error.chain().find_map(failure_in).filter(|failure| !failure.last_lines.is_empty()) {
        let who = failure.executor.map_or_else(|| "the executor".to_owned(), |executor| executor.to_string());
        lines.push(format!("what {who} printed last:"));
        lines.extend(failure.last_lines.iter().map(|line| format!("  {line}")));
    }
    if let Some(JobError::Failed { earlier, failure, .. }) = find(error) {
        let mut earlier: Vec<String> = earlier.iter().filter(|e| *e != failure.as_ref()).map(located).collect();
        earlier.dedup();
        if !earlier.is_empty() {
            lines.push("earlier failures, oldest first:".to_owned());
            lines.extend(earlier.iter().map(|text| format!("  {text}")));
        }
    }
    if let Some(advice) = kind(error).and_then(advice) {
        lines.push(format!("help: {advice}"));
    }
    lines.join("\n")
}

/// What a cause is to those who read of a query.
#[cfg_attr(not(feature = "sql"), expect(dead_code, reason = "there are no queries"))]
enum Query {
    /// No error of a query.
    No,
    /// It wraps a job's error, which follows.
    Wraps,
    /// All there is to say: what it wraps is in the sentence.
    Says(String),
}

#[cfg(feature = "sql")]
fn query_error(cause: &(dyn std::error::Error + 'static)) -> Query {
    use sql::datafusion::arrow::error::ArrowError;
    use sql::datafusion::common::DataFusionError;

    let query = cause.downcast_ref::<DataFusionError>();
    match query {
        _ if query.is_none() && !cause.is::<ArrowError>() => Query::No,
        _ if crate::complaint::job_error(cause).is_some() => Query::Wraps,
        Some(error) => Query::Says(crate::complaint::complaint(error, &crate::complaint::Known::default()).sentence),
        None => Query::No,
    }
}

#[cfg(not(feature = "sql"))]
fn query_error(_: &(dyn std::error::Error + 'static)) -> Query {
    Query::No
}

fn located(failure: &Failure) -> String {
    match (failure.attempt, failure.executor) {
        (Some(attempt), Some(executor)) => format!("task {attempt} on {executor}: {}", failure.message),
        _ => failure.message.clone(),
    }
}

/// A cause may be the failure or, as the source of a job's error, the box that holds it.
fn failure_in<'a>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a Failure> {
    cause.downcast_ref::<Failure>().or_else(|| cause.downcast_ref::<Box<Failure>>().map(Box::as_ref))
}

fn find(error: &anyhow::Error) -> Option<&JobError> {
    error.chain().find_map(|cause| cause.downcast_ref::<JobError>())
}

fn kind(error: &anyhow::Error) -> Option<&FailureKind> {
    error.chain().find_map(failure_in).map(|failure| &failure.kind)
}

/// What a person can do, where the message itself does not say it.
fn advice(kind: &FailureKind) -> Option<&'static str> {
    Some(match kind {
        FailureKind::TaskMemory | FailureKind::Lost(LossCause::Memory) => {
            "give executors more memory (executor.memory) or split the data into more partitions"
        }
        FailureKind::Lost(LossCause::Program) => {
            "the task's own code ended its process; run it in local[1] under a debugger, or look at the lines above"
        }
        FailureKind::Disk => {
            "free space on the spill volume, raise executor.disk_max (k8s.executor.disk of pods), or set executor.disk to another folder"
        }
        FailureKind::StoreUnavailable => "check that the object store can be reached, then run the program again",
        FailureKind::StoreDenied => {
            "check the store's URL, its free space and the rights of the credentials in the environment"
        }
        FailureKind::NotDeterministic => {
            "a stage gave other rows when it ran again: sort or seed what it does, or checkpoint its result"
        }
        FailureKind::LedgerMismatch | FailureKind::Internal => {
            "this is a defect of Vonk: please report it with the event log of the application"
        }
        FailureKind::Lost(LossCause::Infrastructure | LossCause::Start | LossCause::Released)
        | FailureKind::Query
        | FailureKind::UserCode { .. }
        | FailureKind::MapOutput { .. }
        | FailureKind::Limit
        | FailureKind::Commit
        | FailureKind::Cancelled
        | FailureKind::Stale => return None,
    })
}

/// The code with which the process ends.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    // A transparent variant stands for its inner error in the chain, so the outer type is asked, too.
    use crate::context::StartError as Error;
    let configuration = error.chain().any(|cause| {
        cause.is::<crate::config::Error>()
            || cause.is::<crate::master::ParseMasterError>()
            || cause.is::<model::setting::InvalidSetting>()
            || matches!(
                cause.downcast_ref(),
                Some(
                    Error::Config(_)
                        | Error::Master(_)
                        | Error::Setting(_)
                        | Error::Store(_)
                        | Error::MemoryStore(_)
                        | Error::Attached(_)
                        | Error::NoSharedStore(_)
                )
            )
    });
    if configuration {
        return WRONG;
    }
    #[cfg(feature = "k8s")]
    if let Some(code) = error.chain().find_map(crate::kubernetes::start::exit_code) {
        return code;
    }
    let Some(failure) = error.chain().find_map(failure_in) else { return FAILED };
    match failure.kind {
        FailureKind::Lost(LossCause::Start) => REFUSED,
        // No task had it: there was no executor for too long.
        FailureKind::Lost(LossCause::Infrastructure) if failure.attempt.is_none() => NO_ROOM,
        FailureKind::StoreDenied => REFUSED,
        // What is stale is the driver's own: it has lost its place in the store.
        FailureKind::StoreUnavailable | FailureKind::Stale | FailureKind::Lost(LossCause::Infrastructure) => LOST,
        _ => FAILED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "sql")]
    #[test]
    fn a_query_that_failed_is_reported_in_a_sentence() {
        use sql::datafusion::arrow::error::ArrowError;
        use sql::datafusion::common::DataFusionError;

        let error = DataFusionError::ArrowError(Box::new(ArrowError::DivideByZero), None).context("type_coercion");
        assert_eq!(report(&anyhow::Error::new(error)), "error: division by zero");
        let failure = Failure::new(FailureKind::Disk, "spill");
        let job = JobError::Failed { name: "query".into(), failure: Box::new(failure), earlier: Vec::new() };
        let error = DataFusionError::External(Box::new(job)).context("while reading");
        let said = report(&anyhow::Error::new(error));
        assert!(said.starts_with("error: run job `query`\n  because: spill\nhelp: "), "{said}");
    }

    #[test]
    fn a_report_shows_what_the_executor_printed_last() {
        let kind = FailureKind::UserCode { panicked: true, transient: false };
        let mut failure = Failure::new(kind, "compute partition 3").caused_by("panicked: bad row");
        failure.executor = Some(model::ExecutorId(2));
        failure.last_lines = vec!["reading a.csv".to_owned(), "row 17 is odd".to_owned()];
        let error = JobError::Failed { name: "count".into(), failure: Box::new(failure), earlier: Vec::new() };
        assert_eq!(
            report(&anyhow::Error::new(error)),
            "error: run job `count`\n  because: compute partition 3\n  because: panicked: bad row\n\
             what e2 printed last:\n  reading a.csv\n  row 17 is odd"
        );
    }

    #[test]
    fn a_report_names_every_cause_and_what_to_do() {
        let failure = Failure::new(FailureKind::TaskMemory, "sort partition 3").caused_by("the pool refused 64 MiB");
        let error = JobError::Failed {
            name: "collect at main.rs:3".into(),
            failure: Box::new(failure),
            earlier: vec![Failure::new(FailureKind::Disk, "spill")],
        };
        assert_eq!(
            report(&anyhow::Error::new(error)),
            "error: run job `collect at main.rs:3`\n  because: sort partition 3\n  because: the pool refused 64 MiB\n\
             earlier failures, oldest first:\n  spill\n\
             help: give executors more memory (executor.memory) or split the data into more partitions"
        );
    }
}
