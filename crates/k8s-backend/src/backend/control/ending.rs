//! What is done when all is over?

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use tokio::time::{sleep, timeout};

use super::Control;
use super::answers::Answered;
use crate::answer::within;
use crate::names;
use crate::refusal::{Request, Verdict, judge};

/// How long pods may take to end when all is over: nothing they do is wanted any more.
const STOP_GRACE_SECONDS: u32 = 2;

/// How long the end of all is waited for. What is left then goes with the root.
const STOPPED_WITHIN: Duration = Duration::from_secs(10);

/// Whether they have ended is looked at so often.
const STOP_LOOKS_EVERY: Duration = Duration::from_millis(400);

impl Control {
    /// Deletes every executor. What cannot be goes with the root.
    pub(super) async fn end(mut self) {
        self.shared.addresses().clear();
        let api = self.api();
        let app = self.pods.of.app;
        let ended = timeout(STOPPED_WITHIN, async move {
            // A creation that is under way would come after the deletion, and a log would go with its pod.
            while let Some(answered) = self.requests.join_next().await {
                if let Ok(Answered::Read { n, printed }) = answered {
                    self.keep_printed(n, &printed);
                }
            }
            delete_all(&api, &names::select_executors(app)).await;
        });
        if ended.await.is_err() {
            tracing::debug!("some executors are still ending");
        }
    }
}

/// Deletes pods, and waits until they are gone.
async fn delete_all(api: &Api<Pod>, selector: &str) {
    let pods = ListParams::default().labels(selector);
    let params = DeleteParams { grace_period_seconds: Some(STOP_GRACE_SECONDS), ..DeleteParams::default() };
    while let Err(answer) = within(api.delete_collection(&params, &pods)).await {
        if matches!(judge(Request::Delete, &answer), Verdict::Stop { .. }) {
            return tracing::warn!(why = answer.message, "delete executors: they end with the root");
        }
        tracing::debug!(why = answer.message, "delete executors");
        sleep(STOP_LOOKS_EVERY).await;
    }
    while !within(api.list_metadata(&pods)).await.is_ok_and(|left| left.items.is_empty()) {
        sleep(STOP_LOOKS_EVERY).await;
    }
}
