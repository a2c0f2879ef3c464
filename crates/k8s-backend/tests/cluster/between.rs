//! What stands between an application and its API server, and spoils what they tell each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use k8s_backend::access::Cluster;
use kube::Client;
use kube::client::Body;
use tokio::sync::watch;
use tower::{BoxError, service_fn};

type Said = UnsyncBoxBody<Bytes, BoxError>;

/// Counts what passes, and spoils what it is told to.
#[derive(Default)]
pub(crate) struct Between {
    overloaded: AtomicU32,
    /// So many answers to creations of pods will be lost.
    to_lose: AtomicU32,
    /// No watch or list of pods passes.
    blind: watch::Sender<bool>,
}

impl Between {
    /// A cluster behind this, for what `client` may.
    pub(crate) fn stand(client: &Client, namespace: &str) -> (Cluster, Arc<Self>) {
        let between = Arc::new(Self::default());
        let (shared, client) = (Arc::clone(&between), client.clone());
        let service = service_fn(move |request| Arc::clone(&shared).pass(client.clone(), request));
        (Cluster::with_client(Client::new(service, namespace), namespace, false), between)
    }

    /// Loses the next answers to creations of pods: they are made, and nobody is told.
    pub(crate) fn lose(&self, answers: u32) {
        self.to_lose.store(answers, Ordering::SeqCst);
    }

    /// So many answers are still to be lost.
    pub(crate) fn to_lose(&self) -> u32 {
        self.to_lose.load(Ordering::SeqCst)
    }

    /// Ends watches of pods, and lets none begin.
    pub(crate) fn blind(&self) {
        self.blind.send_replace(true);
    }

    /// Lets watches begin again.
    pub(crate) fn see(&self) {
        self.blind.send_replace(false);
    }

    /// So many requests were answered with 429.
    pub(crate) fn overloaded(&self) -> u32 {
        self.overloaded.load(Ordering::SeqCst)
    }

    async fn pass(self: Arc<Self>, client: Client, request: Request<Body>) -> Result<Response<Said>, BoxError> {
        let of_pods = request.uri().path().ends_with("/pods");
        let creates = of_pods && request.method() == Method::POST;
        let looks = of_pods && request.method() == Method::GET;
        let watches = looks && request.uri().query().is_some_and(|query| query.contains("watch=true"));
        if looks {
            self.blind.subscribe().wait_for(|blind| !blind).await?;
        }
        let response = client.send(request).await?;
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            self.overloaded.fetch_add(1, Ordering::SeqCst);
        }
        let one_less = |left: u32| left.checked_sub(1);
        if creates && self.to_lose.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
            return Err("the connection broke before the answer".into());
        }
        Ok(response
            .map(|body| if watches { self.until_blind(body) } else { body.map_err(BoxError::from).boxed_unsync() }))
    }

    fn until_blind(&self, body: Body) -> Said {
        let mut blind = self.blind.subscribe();
        let is_blind = async move { blind.wait_for(|blind| *blind).await.map(drop) };
        let frames = body.into_data_stream().take_until(Box::pin(is_blind));
        StreamBody::new(frames.map_ok(Frame::data).map_err(BoxError::from)).boxed_unsync()
    }
}
