//! What does a test need of a cluster?

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_backend::access::{Access, Cluster};
use k8s_backend::backend::{ExecutorSettings, PodBackend, PodConfig};
use k8s_backend::root::{App, ClientRoot, TlsFiles};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, ServiceAccount};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use model::backend::{ClusterBackend, ClusterEvent};
use model::failure::LossCause;
use model::ids::{AppId, Epoch, ExecutorId};
use model::setting::Values;
use serde_json::json;
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

/// Whatever is to happen does so within this time.
pub(crate) const SOON: Duration = Duration::from_secs(40);

/// An executor that answers everybody with what it was told, and ends when it is asked to.
pub(crate) const ECHO: &str = "trap 'exit 143' TERM; busybox nc -ll -p 7079 -e busybox cat & wait";

/// The part of an executor, played by a script that the environment brings.
const SCRIPT: &str = "#!/usr/local/bin/busybox sh\nexport PATH=/usr/local/bin\neval \"$STUB\"\n";

/// What begins the names of our namespaces; an id follows, which says how old they are.
const PREFIX: &str = "vonk-backend-test-";

/// The same where drivers are pods.
pub(crate) const OF_DRIVERS: &str = "vonk-test-";

/// A test that failed has left its namespace, and what is in it takes room from the next.
const LEFT_OVER_MS: u64 = 5 * 60 * 1_000;

/// A namespace with an application's root.
pub(crate) struct Ground {
    pub(crate) cluster: Cluster,
    pub(crate) app: App,
    pub(crate) root: ClientRoot,
}

pub(crate) async fn connect(namespace: &str) -> Cluster {
    let access = Access { namespace: Some(namespace.to_owned()), ..Access::default() };
    Cluster::connect(&access).await.expect("KUBECONFIG leads to a cluster")
}

pub(crate) async fn remove_left_over(cluster: &Cluster) {
    let namespaces: Api<Namespace> = Api::all(cluster.client());
    let now = AppId::generate().created_unix_ms();
    for namespace in namespaces.list(&ListParams::default()).await.unwrap() {
        let name = namespace.metadata.name.unwrap_or_default();
        let id = name.strip_prefix(PREFIX).or_else(|| name.strip_prefix(OF_DRIVERS));
        let app = id.and_then(|id| id.parse::<AppId>().ok());
        if app.is_some_and(|app| now.saturating_sub(app.created_unix_ms()) > LEFT_OVER_MS) {
            // Another test may be as quick.
            drop(namespaces.delete(&name, &DeleteParams::default()).await);
        }
    }
}

impl Ground {
    /// A new namespace with these labels; it is removed by [`Ground::leave`].
    pub(crate) async fn new(labels: &[(&str, &str)]) -> Self {
        let app = App { id: AppId::generate(), name: "a test".into() };
        let name = format!("{PREFIX}{}", app.id);
        let cluster = connect(&name).await;
        remove_left_over(&cluster).await;
        let labels: serde_json::Map<_, _> = labels.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
        let namespace: Namespace = made(json!({ "metadata": { "name": name, "labels": labels } }));
        Api::all(cluster.client()).create(&PostParams::default(), &namespace).await.unwrap();
        let script: ConfigMap = made(json!({ "metadata": { "name": "stub" }, "data": { "vonk-executor": SCRIPT } }));
        api(&cluster).create(&PostParams::default(), &script).await.unwrap();
        // Pods are refused until their account is there.
        let accounts: Api<ServiceAccount> = api(&cluster);
        until(async || accounts.get_opt("default").await.unwrap().is_some()).await;
        let files = TlsFiles { ca_pem: "ca".into(), cert_pem: "cert".into(), key_pem: "key".into() };
        let root = ClientRoot::create(&cluster, &app, &files).await.unwrap();
        Self { cluster, app, root }
    }

    /// What executors are started with, besides these settings.
    pub(crate) fn config(&self, script: &str, settings: &[(&str, &str)]) -> PodConfig {
        let image = std::env::var("VONK_TEST_IMAGE").unwrap_or_else(|_| "localhost/busybox:1".to_owned());
        let volume = "[{name: stub, mountPath: /usr/local/bin/vonk-executor, subPath: vonk-executor, \
                      configMap: {name: stub, defaultMode: 0o555}}]";
        let base = [
            ("k8s.image", image.as_str()),
            ("executor.cores", "1"),
            ("k8s.executor.disk", "64m"),
            ("k8s.executor.env.STUB", script),
            ("k8s.executor.volumes", volume),
        ];
        let mut values: Values = base.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        values.extend(settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let mut executors = ExecutorSettings::read(&values).unwrap();
        let spec = executors.pods.pod.spec.as_mut().unwrap();
        spec.security_context = Some(made(json!({ "runAsUser": 65532 })));
        PodConfig {
            keep: None,
            cluster: self.cluster.clone(),
            app: self.app.id,
            epoch: Epoch(1),
            name: self.app.name.clone(),
            owner: self.root.owner().clone(),
            program: None,
            attached: String::new(),
            architecture: None,
            store: "s3://nowhere".into(),
            log: None,
            memory: 64 << 20,
            executors,
        }
    }

    pub(crate) fn backend(&self, script: &str, settings: &[(&str, &str)]) -> (Arc<PodBackend>, Events) {
        let backend = PodBackend::new(self.config(script, settings), Handle::current());
        let events = Events::of(&*backend);
        (backend, events)
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        api(&self.cluster)
    }

    /// Removes the root, sees that all goes with it, and removes the namespace.
    pub(crate) async fn leave(self) {
        self.root.remove().await;
        let (pods, secrets, leases) = (self.pods(), api::<Secret>(&self.cluster), api::<Lease>(&self.cluster));
        let ours = ListParams::default().labels("app.kubernetes.io/managed-by=vonk");
        until(async || {
            let left = pods.list(&ours).await.unwrap().items.len()
                + secrets.list(&ours).await.unwrap().items.len()
                + leases.list(&ours).await.unwrap().items.len();
            left == 0
        })
        .await;
        let namespaces: Api<Namespace> = Api::all(self.cluster.client());
        namespaces.delete(self.cluster.namespace(), &DeleteParams::default()).await.unwrap();
    }
}

/// Objects of a kind in the namespace.
pub(crate) fn api<K>(cluster: &Cluster) -> Api<K>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
{
    Api::namespaced(cluster.client(), cluster.namespace())
}

/// An object from its JSON.
pub(crate) fn made<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// Waits for a condition.
pub(crate) async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(SOON, waiting).await.expect("it comes to be in time");
}

/// What a backend reports.
pub(crate) struct Events(Pin<Box<dyn Stream<Item = ClusterEvent> + Send>>);

impl Events {
    pub(crate) fn of(backend: &dyn ClusterBackend) -> Self {
        Self(backend.events())
    }

    /// The next event of interest.
    pub(crate) async fn find<T>(&mut self, wanted: impl FnMut(&ClusterEvent) -> Option<T>) -> T {
        self.find_within(SOON, wanted).await
    }

    async fn find_within<T>(&mut self, within: Duration, mut wanted: impl FnMut(&ClusterEvent) -> Option<T>) -> T {
        let mut seen = Vec::new();
        let found = timeout(within, async {
            loop {
                let event = self.0.next().await.expect("events go on");
                if let Some(found) = wanted(&event) {
                    return found;
                }
                seen.push(event);
            }
        });
        match found.await {
            Ok(found) => found,
            Err(_) => panic!("in time, and not only {seen:#?}"),
        }
    }

    pub(crate) async fn reachable(&mut self) -> ExecutorId {
        self.find(|event| match event {
            ClusterEvent::Reachable { executor, place } => {
                assert!(place.starts_with("node"), "{place}");
                Some(*executor)
            }
            ClusterEvent::Lost { why, .. } | ClusterEvent::Refused { why } if !why.is_empty() => {
                panic!("an executor runs, and not: {why}")
            }
            _ => None,
        })
        .await
    }

    pub(crate) async fn lost(&mut self) -> (LossCause, String) {
        self.lost_within(SOON).await
    }

    pub(crate) async fn lost_within(&mut self, within: Duration) -> (LossCause, String) {
        self.find_within(within, |event| match event {
            ClusterEvent::Lost { cause, why, .. } => Some((*cause, why.clone())),
            _ => None,
        })
        .await
    }

    pub(crate) async fn waiting(&mut self, words: &str) -> String {
        self.find(|event| match event {
            ClusterEvent::Waiting { why } if why.contains(words) => Some(why.clone()),
            _ => None,
        })
        .await
    }

    pub(crate) async fn refused(&mut self) -> String {
        self.find_within(SOON * 2, |event| match event {
            ClusterEvent::Refused { why } if !why.is_empty() => Some(why.clone()),
            _ => None,
        })
        .await
    }
}
