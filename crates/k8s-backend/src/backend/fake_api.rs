//! What would an API server answer, and what if it did not?
//!
//! Keeps pods in memory, tells watchers of every change, and breaks where a test says so.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kube::Client;
use kube::client::Body;
use model::backend::KeepPrinted;
use model::ids::ExecutorId;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tower::service_fn;

use crate::access::Cluster;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// What becomes of the next creation instead of what it asks for.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// It is done, and nobody is told.
    AnswerLost,
    /// It is refused.
    Refused { code: u16, reason: &'static str, message: &'static str, retry_after: u32 },
}

#[derive(Default)]
struct State {
    pods: BTreeMap<String, Value>,
    version: u64,
    /// What watchers were told, and at which version.
    history: Vec<(u64, Bytes)>,
    watchers: Vec<mpsc::UnboundedSender<Bytes>>,
    creations: VecDeque<Fault>,
    away: bool,
    hangs: bool,
    forbids: bool,
    requests: Vec<String>,
    logs: BTreeMap<String, String>,
    logs_hang: bool,
    kept: Vec<(ExecutorId, String)>,
}

/// An API server.
#[derive(Clone, Default)]
pub(super) struct FakeApi(Arc<Mutex<State>>);

impl FakeApi {
    pub(super) fn cluster(&self) -> Cluster {
        let api = self.clone();
        let service = service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        Cluster::with_client(Client::new(service, "test"), "test", false)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// What creations come to, one after the other.
    pub(super) fn fail_creations(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state().creations.extend(faults);
    }

    /// From now on, nothing is answered and no watch lasts; or all is well again.
    pub(super) fn away(&self, away: bool) {
        let mut state = self.state();
        state.away = away;
        state.watchers.clear();
    }

    /// From now on, nothing is answered, and nobody hears why; or all is well again.
    pub(super) fn hang(&self, hangs: bool) {
        self.state().hangs = hangs;
    }

    /// From now on, nobody may look at pods, and no watch lasts; or all is well again.
    pub(super) fn forbid(&self, forbids: bool) {
        let mut state = self.state();
        state.forbids = forbids;
        state.watchers.clear();
    }

    /// How often something was asked whose method and path contain these words.
    pub(super) fn asked(&self, words: &str) -> usize {
        self.state().requests.iter().filter(|request| request.contains(words)).count()
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.state().pods.keys().cloned().collect()
    }

    pub(super) fn put(&self, pod: Value) {
        self.state().put("ADDED", pod);
    }

    /// The pod's container runs.
    pub(super) fn run(&self, name: &str) {
        self.status(name, json!({ "running": {} }));
    }

    /// The pod's container ends.
    pub(super) fn end(&self, name: &str, exit_code: i32) {
        self.status(
            name,
            json!({ "terminated": { "exitCode": exit_code, "reason": "Error", "message": "said by the kubelet" } }),
        );
    }

    /// The pod's container prints.
    pub(super) fn print(&self, name: &str, text: &str) {
        self.state().logs.insert(name.to_owned(), text.to_owned());
    }

    /// From now on, nobody answers who is asked for a log.
    pub(super) fn logs_hang(&self) {
        self.state().logs_hang = true;
    }

    /// Remembers what is to be kept.
    pub(super) fn keeper(&self) -> KeepPrinted {
        let api = self.clone();
        Arc::new(move |executor, printed| {
            api.state().kept.push((executor, String::from_utf8(printed).unwrap()));
            std::future::ready(()).boxed()
        })
    }

    pub(super) fn kept(&self) -> Vec<(ExecutorId, String)> {
        self.state().kept.clone()
    }

    /// The pod goes.
    pub(super) fn vanish(&self, name: &str) {
        let mut state = self.state();
        let pod = state.pods.remove(name).unwrap();
        state.version += 1;
        state.tell("DELETED", &pod);
    }

    /// The pod waits for an image.
    pub(super) fn wait(&self, name: &str, reason: &str, message: &str) {
        self.status(name, json!({ "waiting": { "reason": reason, "message": message } }));
    }

    fn status(&self, name: &str, container: Value) {
        let mut state = self.state();
        let mut pod = state.pods[name].clone();
        pod["spec"]["nodeName"] = json!("node-a");
        let phase = if container.get("running").is_some() { "Running" } else { "Pending" };
        let container = json!({ "name": "vonk", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "state": container });
        pod["status"] = json!({ "phase": phase, "podIP": "10.0.0.1", "containerStatuses": [container] });
        state.put("MODIFIED", pod);
    }

    /// Somebody deletes the pod.
    pub(super) fn delete(&self, name: &str) {
        let mut state = self.state();
        let Some(pod) = state.pods.remove(name) else { return };
        state.version += 1;
        state.tell("DELETED", &pod);
    }

    /// The pod goes, and watchers hear nothing but that they have missed something.
    pub(super) fn vanish_unseen(&self, name: &str) {
        let mut state = self.state();
        state.pods.remove(name);
        state.version += 1;
        state.tell("ERROR", &json!({ "kind": "Status", "code": 410, "reason": "Expired", "message": "too old" }));
        state.history.clear();
        state.watchers.clear();
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let path = parts.uri.path().to_owned();
        let is_log = path.ends_with("/log");
        if self.state().hangs || (is_log && self.state().logs_hang) {
            std::future::pending::<()>().await;
        }
        let mut state = self.state();
        state.requests.push(format!("{} {path}?{query}", parts.method));
        if state.away {
            return status(503, "ServiceUnavailable", "away", 0);
        }
        if state.forbids && parts.method == Method::GET {
            return status(403, "Forbidden", "you may not look", 0);
        }
        let name = path.split("/pods/").nth(1).map(str::to_owned);
        match (parts.method, name) {
            _ if path.ends_with("/events") => list("EventList", &[], 1),
            (Method::POST, _) => state.create(&serde_json::from_slice(&body).unwrap_or_default()),
            (Method::GET, Some(name)) if is_log => match state.logs.get(name.trim_end_matches("/log")) {
                Some(text) => Response::new(Full::new(Bytes::from(text.clone())).boxed_unsync()),
                None => status(404, "NotFound", "no log", 0),
            },
            (Method::GET, Some(name)) => match state.pods.get(&name) {
                Some(pod) => object(pod),
                None => status(404, "NotFound", "no such pod", 0),
            },
            (Method::GET, None) if query.contains("watch=true") => {
                let (sender, receiver) = mpsc::unbounded_channel();
                let from = query.split('&').find_map(|part| part.strip_prefix("resourceVersion="));
                let from: u64 = from.and_then(|version| version.parse().ok()).unwrap_or_default();
                for (_, line) in state.history.iter().filter(|(version, _)| *version > from) {
                    drop(sender.send(line.clone()));
                }
                state.watchers.push(sender);
                let frames = UnboundedReceiverStream::new(receiver).map(|line| Ok(http_body::Frame::data(line)));
                Response::new(StreamBody::new(frames).boxed_unsync())
            }
            (Method::GET, None) => {
                let pods: Vec<Value> = state.pods.values().cloned().collect();
                list("PodList", &pods, state.version)
            }
            (Method::DELETE, Some(name)) => match state.pods.remove(&name) {
                Some(pod) => {
                    state.version += 1;
                    state.tell("DELETED", &pod);
                    object(&pod)
                }
                None => status(404, "NotFound", "no such pod", 0),
            },
            (Method::DELETE, None) => {
                for pod in std::mem::take(&mut state.pods).values() {
                    state.version += 1;
                    state.tell("DELETED", pod);
                }
                list("PodList", &[], state.version)
            }
            _ => status(405, "MethodNotAllowed", "what?", 0),
        }
    }
}

impl State {
    fn create(&mut self, pod: &Value) -> Answer {
        let fault = self.creations.pop_front();
        if let Some(Fault::Refused { code, reason, message, retry_after }) = fault {
            return status(code, reason, message, retry_after);
        }
        let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if self.pods.contains_key(&name) {
            return status(409, "AlreadyExists", "it is there", 0);
        }
        self.put("ADDED", pod.clone());
        match fault {
            Some(Fault::AnswerLost) => status(500, "InternalError", "the answer is lost", 0),
            _ => object(&self.pods[&name]),
        }
    }

    fn put(&mut self, kind: &str, mut pod: Value) {
        self.version += 1;
        let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        pod["metadata"]["uid"] = json!(format!("uid of {name}"));
        pod["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.tell(kind, &pod);
        self.pods.insert(name, pod);
    }

    fn tell(&mut self, kind: &str, object: &Value) {
        let line = Bytes::from(format!("{}\n", json!({ "type": kind, "object": object })));
        self.history.push((self.version, line.clone()));
        self.watchers.retain(|watcher| watcher.send(line.clone()).is_ok());
    }
}

fn object(value: &Value) -> Answer {
    Response::new(Full::new(Bytes::from(value.to_string())).boxed_unsync())
}

fn list(kind: &str, items: &[Value], version: u64) -> Answer {
    let metadata = json!({ "resourceVersion": version.to_string() });
    object(&json!({ "apiVersion": "v1", "kind": kind, "metadata": metadata, "items": items }))
}

fn status(code: u16, reason: &str, message: &str, retry_after: u32) -> Answer {
    let details = json!({ "retryAfterSeconds": retry_after });
    let mut answer = object(&json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure",
        "code": code, "reason": reason, "message": message, "details": details,
    }));
    *answer.status_mut() = http::StatusCode::from_u16(code).unwrap();
    answer
}
