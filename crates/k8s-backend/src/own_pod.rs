//! When is the application of a driver over that is a pod?
//!
//! Its own pod tells: somebody deletes it, or its Job owns it no more. Without its root, whatever the driver makes is deleted as
//! soon as it is there.

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt, watcher};

use crate::access::Cluster;
use crate::pod::GRACE_SECONDS;
use crate::request::RequestError;

/// A watch is begun anew after so many seconds: a connection that died silently is noticed then.
const WATCH_SECONDS: u32 = 60;

/// A stream of events that has ended is begun anew after so long.
const AGAIN: Duration = Duration::from_secs(1);

/// Why an application is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Over {
    /// The driver's pod is being deleted: it is told to end, and need say nothing.
    Deleted {
        /// Its node has told it, and ended it, within this time; or its node is not well.
        within: Duration,
    },
    /// Somebody has removed the application of a driver that is no pod: it is told to end. In a sentence.
    Killed(String),
    /// Nothing owns what the driver makes any more. In a sentence.
    Removed(String),
}

/// The pod of a driver that was submitted.
#[derive(Clone)]
pub struct OwnPod {
    cluster: Cluster,
    name: String,
    uid: String,
    root: OwnerReference,
}

impl OwnPod {
    /// Finds the pod of this name; none if there is none, or no Job has made it.
    ///
    /// # Errors
    /// The API server refuses or does not answer.
    pub async fn find(cluster: &Cluster, name: &str) -> Result<Option<Self>, RequestError> {
        let Some(pod) = cluster.pod(name).await? else { return Ok(None) };
        let ObjectMeta { uid, owner_references, .. } = pod.metadata;
        let job = owner_references.unwrap_or_default().into_iter().find(|owner| owner.kind == "Job");
        Ok(job.zip(uid).map(|(job, uid)| {
            // The Job counts its own pods alone.
            let root = OwnerReference { controller: Some(false), block_owner_deletion: None, ..job };
            Self { cluster: cluster.clone(), name: name.to_owned(), uid, root }
        }))
    }

    /// The Job that has made it: what the driver makes goes with it.
    #[must_use]
    pub fn root(&self) -> &OwnerReference {
        &self.root
    }

    /// Resolves once the application is over, and never before.
    ///
    /// # Cancellation
    /// Nothing is watched any more.
    pub async fn over(self) -> Over {
        loop {
            if let Some(over) = self.watched().await {
                return over;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn watched(&self) -> Option<Over> {
        let this = Config::default().fields(&format!("metadata.name={}", self.name)).timeout(WATCH_SECONDS);
        let pods: Api<PartialObjectMeta<Pod>> = self.cluster.api();
        let mut events = std::pin::pin!(watcher(pods, this).default_backoff());
        let mut listed = false;
        while let Some(event) = events.next().await {
            let over = match event {
                Ok(Event::Init) => {
                    listed = false;
                    None
                }
                Ok(Event::InitApply(pod)) => {
                    listed = true;
                    self.judge(&pod.metadata)
                }
                Ok(Event::Apply(pod)) => self.judge(&pod.metadata),
                Ok(Event::InitDone) => (!listed).then_some(deleted(None)),
                Ok(Event::Delete(pod)) => Some(deleted(Some(&pod.metadata))),
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "watch the driver's own pod");
                    None
                }
            };
            if over.is_some() {
                return over;
            }
        }
        None
    }

    /// What a pod of this name, as it is now, says.
    fn judge(&self, pod: &ObjectMeta) -> Option<Over> {
        if pod.uid.as_ref() != Some(&self.uid) || pod.deletion_timestamp.is_some() {
            return Some(deleted(Some(pod)));
        }
        let owned = pod.owner_references.iter().flatten().any(|owner| owner.uid == self.root.uid);
        let why = || format!("application was removed: its Job {} is gone", self.root.name);
        (!owned).then(|| Over::Removed(why()))
    }
}

/// The pod is gone or goes, as it was seen last.
fn deleted(pod: Option<&ObjectMeta>) -> Over {
    let grace = pod.and_then(|pod| pod.deletion_grace_period_seconds).and_then(|seconds| u64::try_from(seconds).ok());
    Over::Deleted { within: Duration::from_secs(grace.unwrap_or(GRACE_SECONDS.into())) }
}

#[cfg(test)]
mod tests {
    use kube::Client;
    use serde_json::{Value, json};
    use tower::service_fn;

    use super::*;

    fn own_pod() -> OwnPod {
        let nobody = service_fn(|_: http::Request<kube::client::Body>| async {
            Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("nobody is asked"))
        });
        let root: OwnerReference =
            made(json!({ "apiVersion": "batch/v1", "kind": "Job", "name": "vonk-a", "uid": "j" }));
        let cluster = Cluster::with_client(Client::new(nobody, "test"), "test", true);
        OwnPod { cluster, name: "vonk-a-xyz".into(), uid: "p".into(), root }
    }

    fn made<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    /// One answer that was none, and a driver ended with 78: no Job had made its pod.
    fn deleted_within(seconds: u64) -> Over {
        Over::Deleted { within: Duration::from_secs(seconds) }
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_stumbles_is_asked_again() {
        let asked = std::sync::atomic::AtomicUsize::new(0);
        let asked = std::sync::Arc::new(asked);
        let (counted, forbids) = (std::sync::Arc::clone(&asked), std::sync::atomic::AtomicBool::new(false));
        let forbids = std::sync::Arc::new(forbids);
        let forbidden = std::sync::Arc::clone(&forbids);
        let service = service_fn(move |request: http::Request<kube::client::Body>| {
            let asked = counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let forbidden = forbidden.load(std::sync::atomic::Ordering::Relaxed);
            async move {
                assert!(request.uri().path().ends_with("/pods/vonk-a-xyz"), "{}", request.uri());
                let failure =
                    |code: u16| (code, json!({ "kind": "Status", "status": "Failure", "code": code, "message": "no" }));
                let (code, body) = match asked {
                    _ if forbidden => failure(403),
                    0 | 1 => failure(503),
                    _ => (
                        200,
                        json!({ "metadata": { "name": "vonk-a-xyz", "uid": "p", "ownerReferences": [
                        { "apiVersion": "batch/v1", "kind": "Job", "name": "vonk-a", "uid": "j", "controller": true },
                    ] } }),
                    ),
                };
                let body = kube::client::Body::from(body.to_string().into_bytes());
                Ok::<_, std::io::Error>(http::Response::builder().status(code).body(body).unwrap())
            }
        });
        let cluster = Cluster::with_client(Client::new(service, "test"), "test", true);
        let found = OwnPod::find(&cluster, "vonk-a-xyz").await.unwrap().unwrap();
        assert_eq!((found.root().name.as_str(), found.root().controller), ("vonk-a", Some(false)));
        forbids.store(true, std::sync::atomic::Ordering::Relaxed);
        let error = OwnPod::find(&cluster, "vonk-a-xyz").await.err().unwrap();
        assert_eq!(error.exit_code(), model::exit::REFUSED);
    }

    #[tokio::test]
    async fn a_pod_says_when_its_application_is_over() {
        let judge = |change: Value| {
            let mut pod = json!({ "uid": "p", "ownerReferences": [
                { "apiVersion": "batch/v1", "kind": "Job", "name": "vonk-a", "uid": "j", "controller": true },
            ] });
            pod.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            own_pod().judge(&made(pod))
        };
        assert_eq!(judge(json!({})), None);
        assert_eq!(judge(json!({ "deletionTimestamp": "2026-01-01T00:00:00Z" })), Some(deleted_within(30)));
        let longer = json!({ "deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 90 });
        assert_eq!(judge(longer), Some(deleted_within(90)));
        assert_eq!(judge(json!({ "uid": "of another" })), Some(deleted_within(30)));
        let removed = Over::Removed("application was removed: its Job vonk-a is gone".into());
        assert_eq!(judge(json!({ "ownerReferences": [] })), Some(removed));
    }
}
