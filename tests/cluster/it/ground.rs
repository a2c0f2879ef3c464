//! What does a test get of the cluster, and what must it have left when it ends?

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, TryStreamExt};
use k8s_backend::access::{Access, Cluster};
use k8s_backend::names;
use k8s_backend::sweep::{Sweep, sweep};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use model::AppId;
use model::events::{AppEvent, Record};
use model::failure::LossCause;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};
use vonk_cluster_tests::{NOTES, Notes};

use crate::running::{Ended, Place, Running, program, vonk};

/// Whatever is to happen does so within this time, unless a test knows better: pods start slowly where others build.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// What an application that has ended may leave in the cluster goes within this time.
const GONE_WITHIN: Duration = Duration::from_secs(30);

/// Who waits looks so often.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// What begins the names of our namespaces; the rest is an id, which says how old they are.
const PREFIX: &str = "vonk-it-";

/// A test that was killed has left its namespace, and what is in it takes room from the next.
const LEFT_OVER_MS: u64 = 15 * 60 * 1_000;

/// The Secret with the keys of the store: not an application's.
pub(crate) const STORE_KEYS: &str = "s3";

/// What a namespace is given by those who install Vonk.
const MANIFESTS: &str = include_str!("../../../deploy/vonk.yaml");

/// A namespace, and a folder of the store.
pub(crate) struct Ground {
    cluster: Cluster,
    s3: S3,
    pub(crate) notes: Notes,
    store: Arc<dyn ObjectStore>,
    root: Path,
    /// Who runs programs outside, if not the administrator.
    kubeconfig: Option<tempfile::NamedTempFile>,
}

/// An object that deploy/ brings.
pub(crate) fn manifest(kind: &str, name: &str) -> serde_json::Value {
    let all = MANIFESTS.split("\n---\n").filter(|text| text.contains("\nkind: "));
    let mut all = all.map(|text| serde_saphyr::from_str::<serde_json::Value>(text).unwrap());
    let found = all.find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.expect("deploy/vonk.yaml has it")
}

/// Where the S3 server is.
struct S3 {
    endpoint: String,
    bucket: String,
}

/// Runs a test in a namespace of its own with these labels, and sees that its applications have left nothing. Whatever the
/// test does, the namespace and the folder in the store are removed.
pub(crate) async fn in_namespace(labels: &[(&str, &str)], test: impl AsyncFnOnce(&mut Ground)) {
    let mut ground = Ground::new(labels).await;
    let tested = async {
        test(&mut ground).await;
        ground.nothing_is_left().await;
    };
    let ended = AssertUnwindSafe(tested).catch_unwind().await;
    if ended.is_err() {
        ground.show().await;
    }
    ground.remove().await;
    if let Err(panic) = ended {
        resume_unwind(panic);
    }
}

impl Ground {
    async fn new(labels: &[(&str, &str)]) -> Self {
        let namespace = format!("{PREFIX}{}", AppId::generate());
        let access = Access { namespace: Some(namespace.clone()), ..Access::default() };
        let cluster = Cluster::connect(&access).await.expect("KUBECONFIG leads to a cluster");
        remove_left_over(&cluster).await;
        let s3 = S3::read();
        let (store, root) = shuffle::store::open(&s3.url(&namespace, "app")).unwrap();
        let notes = Notes::open(&s3.url(&namespace, "notes")).unwrap();
        let labels: serde_json::Map<_, _> = labels.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
        let made_so: Namespace = made(json!({ "metadata": { "name": namespace, "labels": labels } }));
        Api::all(cluster.client()).create(&PostParams::default(), &made_so).await.unwrap();
        let ground = Self { cluster, s3, notes, store, root, kubeconfig: None };
        let key = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is set, as KUBECONFIG is"));
        let keys = json!({ "id": key("AWS_ACCESS_KEY_ID"), "key": key("AWS_SECRET_ACCESS_KEY") });
        ground.make::<Secret>(json!({ "metadata": { "name": STORE_KEYS }, "stringData": keys })).await;
        // Pods are refused until their account is there.
        let accounts: Api<ServiceAccount> = ground.api();
        ground.until("there is an account", async || accounts.get_opt("default").await.unwrap().is_some()).await;
        ground
    }

    /// Flags with which a program runs here, and these settings after them.
    pub(crate) fn flags(&self, settings: &[(&str, &str)]) -> Vec<String> {
        let store = self.store_url();
        let notes = format!("k8s.executor.env.{NOTES}");
        let (notes_url, image) = (self.notes_url(), image());
        let all = [
            ("k8s.namespace", self.namespace()),
            ("k8s.image", &image),
            ("store", &store),
            ("k8s.executor.secret_env.AWS_ACCESS_KEY_ID", "s3:id"),
            ("k8s.executor.secret_env.AWS_SECRET_ACCESS_KEY", "s3:key"),
            (&notes, &notes_url),
            ("executor.cores", "1"),
            ("executor.memory", "512m"),
            ("k8s.executor.disk", "256m"),
            ("progress", "plain"),
        ];
        let pairs = all.iter().chain(settings).map(|(key, value)| format!("--conf={key}={value}"));
        std::iter::once("--master=k8s://".to_owned()).chain(pairs).collect()
    }

    /// Starts the program outside of the cluster.
    pub(crate) fn start(&self, settings: &[(&str, &str)], job: &[&str]) -> Running {
        let mut words = self.flags(settings);
        words.extend(job.iter().map(|&word| word.to_owned()));
        Running::start(&program(), &words, &self.place())
    }

    /// Starts the program on this machine alone.
    pub(crate) fn start_here(&self, master: &str, job: &[&str]) -> Running {
        let words = std::iter::once(format!("--master={master}")).chain(job.iter().map(|&word| word.to_owned()));
        Running::start(&program(), &words.collect::<Vec<_>>(), &self.place())
    }

    /// Submits the program, whose driver is a pod of little size, with these flags.
    pub(crate) fn submit(&self, flags: &[&str], job: &[&str]) -> Running {
        let mut words = vec!["submit".to_owned(), "--deploy-mode=cluster".to_owned()];
        words.extend(self.flags_of_pods(&[]));
        words.extend(flags.iter().map(|&word| word.to_owned()));
        words.push(program().to_string_lossy().into_owned());
        words.extend(job.iter().map(|&word| word.to_owned()));
        Running::start(&vonk(), &words, &self.place())
    }

    /// Runs the program `vonk` with a command about applications of this namespace.
    pub(crate) fn vonk(&self, words: &[&str]) -> Running {
        let words = words.iter().copied().chain(["--namespace", self.namespace()]);
        Running::start(&vonk(), &words.map(str::to_owned).collect::<Vec<_>>(), &self.place())
    }

    /// The same, about what the store knows, too.
    pub(crate) fn ask(&self, words: &[&str]) -> Running {
        let store = format!("--conf=store={}", self.store_url());
        self.vonk(&[words, &[store.as_str()]].concat())
    }

    /// Kills an application, and sees that whoever started it hears so.
    pub(crate) async fn kill(&self, app: &str, running: Running) -> Ended {
        self.ask(&["kill", app]).ends().await.with_code(0);
        let ended = running.ends().await;
        ended.with_code(143);
        ended
    }

    /// Waits until the answer to a command has these words on stdout.
    pub(crate) async fn until_told(&self, words: &[&str], told: &str) {
        let answers = async || self.ask(words).ends().await.stdout.contains(told);
        self.until(&format!("vonk {} tells `{told}`", words.join(" ")), answers).await;
    }

    /// Flags of a driver pod of little size, and these settings after them.
    pub(crate) fn flags_of_pods(&self, settings: &[(&str, &str)]) -> Vec<String> {
        let (notes, notes_url) = (format!("k8s.driver.env.{NOTES}"), self.notes_url());
        let all = [
            ("k8s.driver.secret_env.AWS_ACCESS_KEY_ID", "s3:id"),
            ("k8s.driver.secret_env.AWS_SECRET_ACCESS_KEY", "s3:key"),
            (&notes, &notes_url),
            ("k8s.driver.cores", "100m"),
            ("k8s.driver.memory", "512m"),
            ("k8s.driver.disk", "256m"),
        ];
        self.flags(&[&all[..], settings].concat())
    }

    /// Runs the program `vonk` as pods have it, with these words before the flags of driver pods and those after them.
    pub(crate) fn stock(&self, before: &[&str], after: &[&str]) -> Running {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let words = [owned(before), self.flags_of_pods(&[]), owned(after)].concat();
        Running::start(&vonk(), &words, &self.place())
    }

    /// A folder of the store for a test's own data, as SQL names it.
    pub(crate) fn data_url(&self) -> String {
        format!("s3://{}/{}/data", self.s3.bucket, self.namespace())
    }

    /// The id of the only application of this namespace whose driver is outside.
    pub(crate) async fn app(&self) -> String {
        let name = self.root().await.metadata.name.expect("it has a name");
        name.strip_prefix("vonk-").expect("a root is called so").to_owned()
    }

    fn place(&self) -> Place<'_> {
        Place { notes: self.notes_url(), kubeconfig: self.kubeconfig.as_ref().map(|k| k.path()) }
    }

    /// Makes a Role of these rules for a user, as whom programs outside run from now on.
    pub(crate) async fn let_only(&mut self, user: &str, rules: &[serde_json::Value]) {
        let api = "rbac.authorization.k8s.io";
        self.make::<Role>(json!({ "metadata": { "name": user }, "rules": rules })).await;
        let binding = json!({
            "metadata": { "name": user },
            "roleRef": { "apiGroup": api, "kind": "Role", "name": user },
            "subjects": [{ "apiGroup": api, "kind": "User", "name": user }],
        });
        self.make::<RoleBinding>(binding).await;
        self.act_as(user);
    }

    /// Makes a Role of those that deploy/ brings, and an account of its name that has it.
    pub(crate) async fn let_in(&self, role: &str) {
        let rules = manifest("Role", role)["rules"].clone();
        self.make::<Role>(json!({ "metadata": { "name": role }, "rules": rules })).await;
        self.make::<ServiceAccount>(json!({ "metadata": { "name": role } })).await;
        let account = json!({ "kind": "ServiceAccount", "name": role, "namespace": self.namespace() });
        let to = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role });
        let binding = json!({ "metadata": { "name": role }, "roleRef": to, "subjects": [account] });
        self.make::<RoleBinding>(binding).await;
    }

    /// From now on, programs outside run as this user.
    pub(crate) fn act_as(&mut self, user: &str) {
        let path = std::env::var("KUBECONFIG").expect("it is set");
        let text = std::fs::read_to_string(&path).unwrap();
        let mut config = serde_saphyr::from_str::<serde_json::Value>(&text).unwrap();
        for known in config["users"].as_array_mut().unwrap() {
            known["user"]["as"] = json!(user);
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), config.to_string()).unwrap();
        self.kubeconfig = Some(file);
    }

    pub(crate) fn namespace(&self) -> &str {
        self.cluster.namespace()
    }

    /// Where applications of this namespace keep what they shuffle.
    pub(crate) fn store_url(&self) -> String {
        self.s3.url(self.namespace(), "app")
    }

    pub(crate) fn notes_url(&self) -> String {
        self.s3.url(self.namespace(), "notes")
    }

    /// Objects of a kind in the namespace.
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.cluster.client(), self.namespace())
    }

    /// Objects of the whole cluster.
    pub(crate) fn api_of_all<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = ()>,
    {
        Api::all(self.cluster.client())
    }

    /// Makes an object of the namespace from its JSON.
    pub(crate) async fn make<K>(&self, value: serde_json::Value)
    where
        K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::Serialize
            + serde::de::DeserializeOwned,
    {
        self.api::<K>().create(&PostParams::default(), &made(value)).await.unwrap();
    }

    /// Removes our objects of a kind, and what they own.
    pub(crate) async fn remove_all<K>(&self)
    where
        K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        self.api::<K>().delete_collection(&DeleteParams::background(), &ours()).await.unwrap();
    }

    /// Waits until it holds.
    pub(crate) async fn until(&self, what: &str, holds: impl AsyncFnMut() -> bool) {
        until_within(SOON, what, holds).await;
    }

    /// Waits for so many notes of this name, and gives when each was left.
    pub(crate) async fn noted(&self, name: &str, so_many: usize) -> Vec<u64> {
        self.until(&format!("{so_many} notes `{name}`"), async || self.notes.of(name).await.unwrap().len() >= so_many)
            .await;
        self.notes.of(name).await.unwrap()
    }

    /// Executors' pods.
    pub(crate) async fn executors(&self) -> Vec<Pod> {
        self.pods_of("executor").await
    }

    /// Drivers' pods.
    pub(crate) async fn drivers(&self) -> Vec<Pod> {
        self.pods_of("driver").await
    }

    async fn pods_of(&self, role: &str) -> Vec<Pod> {
        let ours = ListParams::default().labels(&format!("{}={role}", names::ROLE));
        self.api::<Pod>().list(&ours).await.unwrap().items
    }

    /// Names of executors' pods, in order.
    pub(crate) async fn executor_names(&self) -> Vec<String> {
        let mut all: Vec<String> = self.executors().await.into_iter().filter_map(|pod| pod.metadata.name).collect();
        all.sort();
        all
    }

    /// The root of the one application that runs.
    pub(crate) async fn root(&self) -> Lease {
        let (leases, mut found) = (self.api::<Lease>(), None);
        let is_there = async || {
            found = leases.list(&ours()).await.unwrap().items.pop();
            found.is_some()
        };
        self.until("there is a root", is_there).await;
        found.expect("it was waited for")
    }

    /// Waits until a driver has done what comes before pods: its root is there, and its program, which may take a while.
    pub(crate) async fn asks_for_pods(&self) {
        self.root().await;
        self.until("the program is in the store", async || self.has_programs().await).await;
    }

    /// What history has of the applications that ended.
    pub(crate) async fn records(&self) -> Vec<Record> {
        let history = self.root.clone().join(model::keys::HISTORY);
        let mut listed: Vec<_> = self.store.list(Some(&history)).try_collect().await.unwrap();
        listed.sort_by(|a, b| a.location.cmp(&b.location));
        let mut records = Vec::new();
        for object in listed {
            let bytes = self.store.get(&object.location).await.unwrap().bytes().await.unwrap();
            let lines = std::str::from_utf8(&bytes).unwrap().lines();
            records.extend(lines.filter_map(|line| driver::event_log::parse(line).ok()));
        }
        records
    }

    /// What history has under this name: the end of a log, or a status.
    pub(crate) async fn kept(&self, name: &str) -> Option<String> {
        let history = self.root.clone().join(model::keys::HISTORY);
        let listed: Vec<_> = self.store.list(Some(&history)).try_collect().await.unwrap();
        let found = listed.into_iter().find(|object| object.location.filename() == Some(name))?;
        let bytes = self.store.get(&found.location).await.unwrap().bytes().await.unwrap();
        Some(String::from_utf8(bytes.to_vec()).unwrap())
    }

    /// Why executors were lost, as history has it; without those that were released.
    pub(crate) async fn losses(&self) -> Vec<(LossCause, String)> {
        let losses = self.records().await.into_iter().filter_map(|record| match record.event {
            AppEvent::ExecutorLost { cause, why, .. } if cause != LossCause::Released => Some((cause, why)),
            _ => None,
        });
        losses.collect()
    }

    /// Objects in the store that applications should have removed: all but history and programs.
    pub(crate) async fn left_in_store(&self) -> Vec<String> {
        let under = format!("{}/", self.root);
        let objects = self.store.list(Some(&self.root)).map_ok(|object| object.location.to_string());
        let keys: Vec<String> = objects.try_collect().await.unwrap();
        let keys = keys.iter().filter_map(|key| key.strip_prefix(&under));
        let kept = [model::keys::HISTORY, model::keys::PROGRAMS];
        keys.filter(|key| !kept.iter().any(|kept| key.starts_with(kept))).map(str::to_owned).collect()
    }

    /// Whether programs have gone into the store.
    pub(crate) async fn has_programs(&self) -> bool {
        let programs = self.root.clone().join(model::keys::PROGRAMS);
        !self.store.list(Some(&programs)).try_collect::<Vec<_>>().await.unwrap().is_empty()
    }

    /// Objects of ours in the namespace.
    pub(crate) async fn left_in_cluster(&self) -> Vec<String> {
        async fn names<K>(api: Api<K>) -> Vec<String>
        where
            K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
        {
            let kind = K::kind(&()).into_owned();
            let listed = api.list(&ours()).await.unwrap().items.into_iter();
            listed.map(|object| format!("{kind} {}", object.meta().name.clone().unwrap_or_default())).collect()
        }
        let mut left = names(self.api::<Pod>()).await;
        left.extend(names(self.api::<Lease>()).await);
        left.extend(names(self.api::<Secret>()).await);
        left.extend(names(self.api::<ConfigMap>()).await);
        left.extend(names(self.api::<Job>()).await);
        left
    }

    /// Sees that applications have left nothing, soon after they ended.
    pub(crate) async fn nothing_is_left(&self) {
        let gone = async || self.left_in_cluster().await.is_empty() && self.left_in_store().await.is_empty();
        let began = Instant::now();
        while !gone().await {
            if began.elapsed() > GONE_WITHIN {
                let (cluster, store) = (self.left_in_cluster().await, self.left_in_store().await);
                panic!("left in the cluster: {cluster:#?}; in the store: {store:#?}");
            }
            sleep(LOOK_AGAIN_AFTER).await;
        }
    }

    /// Removes the roots of applications that have just died, as a sweep does after half an hour.
    pub(crate) async fn sweep(&self) -> usize {
        let all = Sweep { older_than: Duration::ZERO, most: usize::MAX, jobs: true };
        sweep(&self.cluster, all).await.unwrap().len()
    }

    /// The next driver removes what tasks that outlived theirs may have stored.
    pub(crate) async fn next_driver_sweeps(&self) {
        self.start(&[("store.sweep_after", "1s")], &["sum"]).ends().await.with_code(0);
    }

    /// For whoever reads of a test that failed.
    async fn show(&self) {
        for pod in self.api::<Pod>().list(&ListParams::default()).await.into_iter().flatten() {
            eprintln!("{}: {}", pod.metadata.name.unwrap_or_default(), json!(pod.status));
        }
        eprintln!("left: {:?} {:?}", self.left_in_cluster().await, self.left_in_store().await);
    }

    async fn remove(self) {
        let folder = Path::from(self.namespace());
        let objects = self.store.list(Some(&folder)).map_ok(|object| object.location);
        for object in objects.try_collect::<Vec<_>>().await.unwrap_or_default() {
            // Another part of the test may still write; what is left lies in a folder of its own.
            let _ = self.store.delete(&object).await;
        }
        let namespaces: Api<Namespace> = self.api_of_all();
        namespaces.delete(self.namespace(), &DeleteParams::default()).await.unwrap();
    }
}

impl S3 {
    /// What `cargo xtask cluster up` prints: `http://10.99.0.1:7070/vonk-test`.
    fn read() -> Self {
        let url = std::env::var("VONK_TEST_S3_URL").expect("VONK_TEST_S3_URL is set, as KUBECONFIG is");
        let (endpoint, bucket) = url.rsplit_once('/').expect("a bucket follows the endpoint");
        Self { endpoint: endpoint.to_owned(), bucket: bucket.to_owned() }
    }

    fn url(&self, namespace: &str, folder: &str) -> String {
        let Self { endpoint, bucket } = self;
        format!("s3://{bucket}/{namespace}/{folder}?endpoint={endpoint}&region=us-east-1")
    }
}

/// The image that nodes have.
pub(crate) fn image() -> String {
    std::env::var("VONK_TEST_IMAGE").unwrap_or_else(|_| "localhost/vonk-it:dev".to_owned())
}

/// Waits until it holds.
pub(crate) async fn until_within(within: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            sleep(LOOK_AGAIN_AFTER).await;
        }
    };
    assert!(timeout(within, waiting).await.is_ok(), "within {within:?}: {what}");
}

/// An object from its JSON.
pub(crate) fn made<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// What Vonk has made.
pub(crate) fn ours() -> ListParams {
    ListParams::default().labels(&names::select_all())
}

async fn remove_left_over(cluster: &Cluster) {
    let namespaces: Api<Namespace> = Api::all(cluster.client());
    let now = AppId::generate().created_unix_ms();
    for namespace in namespaces.list(&ListParams::default()).await.unwrap() {
        let name = namespace.metadata.name.unwrap_or_default();
        let app = name.strip_prefix(PREFIX).and_then(|id| id.parse::<AppId>().ok());
        if app.is_some_and(|app| now.saturating_sub(app.created_unix_ms()) > LEFT_OVER_MS) {
            // Another test may be as quick.
            drop(namespaces.delete(&name, &DeleteParams::default()).await);
        }
    }
}
