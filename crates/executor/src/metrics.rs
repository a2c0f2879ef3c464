//! What is counted on an executor?

use std::time::Duration;

use model::messages::{TaskOutcome, TaskSuccess};
use model::{Failure, FailureKind};

/// What has happened on this executor since it began. Said when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Totals {
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    pub(crate) cancelled: u64,
}

impl Totals {
    pub(crate) fn count(&mut self, outcome: &TaskOutcome) {
        match outcome {
            TaskOutcome::Succeeded(_) => self.succeeded += 1,
            TaskOutcome::Failed(failure) if is_cancelled(failure) => self.cancelled += 1,
            TaskOutcome::Failed(_) => self.failed += 1,
        }
    }
}

fn is_cancelled(failure: &Failure) -> bool {
    matches!(failure.kind, FailureKind::Cancelled)
}

/// Fills in what the executor knows better than the body: its own clock, and what shuffle and results report.
pub(crate) fn complete(success: &mut TaskSuccess, took: Duration) {
    let metrics = &mut success.metrics;
    metrics.run_micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    metrics.shuffle_read_rows = success.reads.iter().flat_map(|read| &read.rows).sum();
    metrics.shuffle_read_bytes = success.reads.iter().map(|read| read.bytes).sum();
    metrics.shuffle_read_requests = success.reads.iter().map(|read| read.requests).sum();
    metrics.shuffle_read_retries = success.reads.iter().map(|read| read.retries).sum();
    if let Some(output) = &success.map_output {
        metrics.shuffle_write_rows = output.rows;
        metrics.shuffle_write_bytes = output.stored_bytes;
    }
    if let Some(result) = &success.result {
        metrics.output_bytes = metrics.output_bytes.max(result.length());
    }
}
