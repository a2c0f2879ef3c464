//! What has an executor printed that could not keep it itself?
//!
//! With a pod goes its log. So the log of one that has ended badly is read before its pod is deleted, and before its loss is
//! told: the failures of its tasks say what was printed last.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::LogParams;
use model::failure::{LossCause, last_lines};
use model::ids::ExecutorId;
use tokio::time::timeout;

use super::Control;
use super::answers::Answered;
use crate::answer::within;
use crate::cause;
use crate::names;
use crate::seen::{Container, Seen};

/// A pod is asked for its log so long: what becomes of its tasks waits for the answer, which only says more about it.
const WITHIN: Duration = Duration::from_secs(1);

/// So many lines are asked for, of which the last [`BYTES`] are kept.
const LINES: i64 = 10_000;

/// As much is kept as an executor keeps itself.
const BYTES: usize = 1 << 20;

/// Exit codes of those that have kept their logs themselves: done, and drained.
const HAD_TIME: [i32; 2] = [0, 143];

impl Control {
    /// Tells of the loss of an executor; first reads its log, if it may say more.
    pub(super) async fn read_then_lose(&mut self, n: u64, ended: cause::Ended) {
        let Some(record) = self.records.get_mut(&n) else { return };
        match record.seen.as_ref().filter(|seen| ended.cause != LossCause::Released && !had_time(seen)) {
            None => self.lose(n, ended.cause, ended.why, Vec::new()).await,
            Some(seen) => {
                let (name, said) = (seen.name.clone(), last_words(Some(seen)));
                record.reading = Some(ended);
                let api = self.api();
                self.requests.spawn(async move { Answered::Read { n, printed: read(&api, &name, said).await } });
            }
        }
    }

    /// The log was read, or there is none.
    pub(super) async fn was_read(&mut self, n: u64, printed: &str) {
        self.keep_printed(n, printed);
        if let Some(ended) = self.records.get_mut(&n).and_then(|record| record.reading.take()) {
            self.lose(n, ended.cause, ended.why, last_lines(printed.as_bytes())).await;
        }
    }

    /// The pod is gone, whose log is being read: nobody waits any longer.
    pub(super) async fn read_no_more(&mut self, n: u64) {
        let Some(record) = self.records.get_mut(&n) else { return };
        if let Some(ended) = record.reading.take() {
            let said = last_words(record.seen.as_ref());
            self.lose(n, ended.cause, ended.why, last_lines(said.as_bytes())).await;
        }
    }

    /// Whether its log is being read: its pod must stay so long.
    pub(super) fn is_read(&self, n: u64) -> bool {
        self.records.get(&n).is_some_and(|record| record.reading.is_some())
    }

    pub(super) fn keep_printed(&mut self, n: u64, printed: &str) {
        if let Some(keep) = self.keep.clone().filter(|_| !printed.is_empty()) {
            let begin = printed.len().saturating_sub(BYTES);
            let kept = printed.as_bytes()[begin..].to_vec();
            self.requests.spawn(async move {
                keep(ExecutorId(n), kept).await;
                Answered::Kept
            });
        }
    }
}

/// Whether the container has ended as those do that keep their logs themselves.
fn had_time(seen: &Seen) -> bool {
    matches!(&seen.container, Container::Terminated { exit_code, .. } if HAD_TIME.contains(exit_code))
}

/// The end of what a container has printed, as the kubelet puts it into a pod's status: a few lines.
fn last_words(seen: Option<&Seen>) -> String {
    match seen.map(|seen| &seen.container) {
        Some(Container::Terminated { message, .. }) => message.clone(),
        Some(Container::Waiting | Container::Running) | None => String::new(),
    }
}

/// The log of a pod, or its last words if there is none.
async fn read(api: &Api<Pod>, name: &str, last_words: String) -> String {
    let params =
        LogParams { container: Some(names::CONTAINER.to_owned()), tail_lines: Some(LINES), ..LogParams::default() };
    match timeout(WITHIN, within(api.logs(name, &params))).await {
        Ok(Ok(printed)) if !printed.is_empty() => printed,
        _ => last_words,
    }
}
