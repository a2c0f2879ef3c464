//! How are objects named and labelled?
//!
//! The name of an executor's pod is made of what identifies it, so that a creation whose answer was lost is found again.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use model::ids::{AppId, Epoch, ExecutorId};
use sha2::{Digest, Sha256};

/// The label with the application.
pub const APP: &str = "vonk.dev/app";

/// The label with the role.
pub const ROLE: &str = "vonk.dev/role";

/// The label with the epoch.
pub const EPOCH: &str = "vonk.dev/epoch";

/// The label with the executor's number.
pub const EXECUTOR: &str = "vonk.dev/executor";

/// The label with the hash of the idempotency key under which a root was submitted.
pub const KEY: &str = "vonk.dev/key";

/// The annotation with what people call the application.
pub const NAME: &str = "vonk.dev/name";

/// The annotation of a root that has everything it needs.
pub const COMPLETE: &str = "vonk.dev/complete";

/// The label by which anybody finds what Vonk has made.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "vonk");

/// The labels that no setting and no template may touch.
pub const OWNED_LABELS: &[&str] = &[
    "app.kubernetes.io/name",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/component",
    "app.kubernetes.io/managed-by",
];

/// What begins the keys of our own labels and annotations.
pub const OWNED_PREFIX: &str = "vonk.dev/";

/// The container whose end is the pod's.
pub const CONTAINER: &str = "vonk";

/// The port on which executors listen.
pub const PORT: u16 = 7079;

/// What precedes the path of a program that is in the image.
pub const IN_IMAGE: &str = "local://";

/// The environment variables by which a pod tells its process what it is.
pub mod variables {
    /// What the process is to be: [`super::Role::word`].
    pub const ROLE: &str = "VONK_ROLE";

    /// The application.
    pub const APP: &str = "VONK_APP";

    /// Which driver of it, for an executor.
    pub const EPOCH: &str = "VONK_EPOCH";

    /// The executor's number.
    pub const EXECUTOR: &str = "VONK_EXECUTOR";

    /// The pod's uid.
    pub const POD_UID: &str = "VONK_POD_UID";

    /// The pod's name, for a driver: its host may be called otherwise.
    pub const POD_NAME: &str = "VONK_POD_NAME";

    /// The SHA-256 of the program; or [`super::IN_IMAGE`] and the path of one that the image has.
    pub const PROGRAM: &str = "VONK_PROGRAM";

    /// The files that go along with the program: what each is, its SHA-256, its name.
    pub const ATTACHED: &str = "VONK_ATTACHED";

    /// The URL of the store.
    pub const STORE: &str = "VONK_STORE";

    /// What the process logs.
    pub const LOG: &str = "VONK_LOG";

    /// The file with a driver's settings.
    pub const CONFIG: &str = "VONK_CONFIG";

    /// After so many milliseconds a driver ends by itself.
    pub const TIMEOUT: &str = "VONK_TIMEOUT_MS";
}

/// What a pod is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// It runs the user's program.
    Driver,
    /// It runs tasks.
    Executor,
}

impl Role {
    /// As in labels, keys and names.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Executor => "executor",
        }
    }
}

/// What begins the name of a root; its application's id follows, unless it was submitted with a key.
const ROOT_PREFIX: &str = "vonk-";

/// The root of an application: what owns everything else.
#[must_use]
pub fn root(app: AppId) -> String {
    format!("{ROOT_PREFIX}{app}")
}

/// The application that is meant by its id, bare or as its [`root`] is called; nothing if it is meant by another name.
#[must_use]
pub fn id_of(wanted: &str) -> Option<AppId> {
    wanted.strip_prefix(ROOT_PREFIX).unwrap_or(wanted).parse().ok()
}

/// The root of try `attempt` under an idempotency key: the same for whoever submits with the same key.
#[must_use]
pub fn keyed_root(namespace: &str, key: &str, attempt: u32) -> String {
    format!("vonk-k{}-{attempt}", key_hash(namespace, key))
}

/// Which try a root is under the idempotency key with this hash; nothing if it is none.
#[must_use]
pub fn attempt_of(root: &str, hash: &str) -> Option<u32> {
    root.strip_prefix("vonk-k")?.strip_prefix(hash)?.strip_prefix('-')?.parse().ok()
}

/// What stands for an idempotency key in names and labels.
#[must_use]
pub fn key_hash(namespace: &str, key: &str) -> String {
    let mut hash = Sha256::new();
    // With the length first, no two pairs give the same bytes.
    hash.update((namespace.len() as u64).to_be_bytes());
    hash.update(namespace);
    hash.update(key);
    let hash = hash.finalize();
    let first = hash.iter().take(16).fold(0, |number: u128, byte| (number << 8) | u128::from(*byte));
    AppId(first).to_string()
}

/// Selects the roots of every try under the idempotency key with this hash.
#[must_use]
pub fn select_key(hash: &str) -> String {
    format!("{KEY}={hash}")
}

/// The Secret with the files of a role, beside the root of that name.
#[must_use]
pub fn files(root: &str, role: Role) -> String {
    format!("{root}-{}", role.word())
}

/// An executor's pod.
#[must_use]
pub fn executor(app: AppId, epoch: Epoch, n: u64) -> String {
    format!("vonk-{app}-e{}-{n}", epoch.0)
}

/// Labels of something that belongs to an application.
#[must_use]
pub fn labels(app: AppId, role: Role) -> BTreeMap<String, String> {
    let labels = [
        ("app.kubernetes.io/name", "vonk".to_owned()),
        ("app.kubernetes.io/instance", app.to_string()),
        ("app.kubernetes.io/component", role.word().to_owned()),
        (MANAGED_BY.0, MANAGED_BY.1.to_owned()),
        (APP, app.to_string()),
        (ROLE, role.word().to_owned()),
    ];
    labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Selects everything that Vonk has made.
#[must_use]
pub fn select_all() -> String {
    format!("{}={}", MANAGED_BY.0, MANAGED_BY.1)
}

/// Selects an application's executors of every epoch.
#[must_use]
pub fn select_executors(app: AppId) -> String {
    format!("{APP}={app},{ROLE}={}", Role::Executor.word())
}

/// Epoch and number of an executor's pod; nothing if it is no executor of this application.
#[must_use]
pub fn executor_of(pod: &Pod, app: AppId) -> Option<(Epoch, ExecutorId)> {
    let labels = pod.metadata.labels.as_ref()?;
    let is = |key: &str, value: &str| labels.get(key).is_some_and(|label| label == value);
    if !is(APP, &app.to_string()) || !is(ROLE, Role::Executor.word()) {
        return None;
    }
    Some((Epoch(labels.get(EPOCH)?.parse().ok()?), ExecutorId(labels.get(EXECUTOR)?.parse().ok()?)))
}

/// How an object says that a root owns it: it goes with the root, and nobody counts or blocks.
#[must_use]
pub fn owner(api_version: &str, kind: &str, root: &ObjectMeta) -> Option<OwnerReference> {
    Some(OwnerReference {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        name: root.name.clone()?,
        uid: root.uid.clone()?,
        controller: Some(false),
        block_owner_deletion: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const APP_ID: AppId = AppId(0x0190_0000_0000_7000_8000_0000_0000_0001);

    #[test]
    fn names_fit_where_kubernetes_wants_63_characters() {
        assert_eq!(root(APP_ID), "vonk-01j0000000e008000000000001");
        assert_eq!(executor(APP_ID, Epoch(1), 7), "vonk-01j0000000e008000000000001-e1-7");
        assert!(executor(APP_ID, Epoch(9_999), u64::from(u32::MAX)).len() <= 63);
        assert!(files(&keyed_root("default", "nightly", 99), Role::Executor).len() <= 63);
    }

    #[test]
    fn a_key_means_the_same_root_to_all_and_another_in_another_namespace() {
        let name = keyed_root("default", "nightly", 1);
        assert_eq!(name, keyed_root("default", "nightly", 1));
        assert!(name.starts_with("vonk-k") && name.ends_with("-1"), "{name}");
        assert_ne!(name, keyed_root("defaultn", "ightly", 1));
        assert_ne!(name, keyed_root("default", "weekly", 1));
        let hash = key_hash("default", "nightly");
        assert_eq!(attempt_of(&keyed_root("default", "nightly", 12), &hash), Some(12));
        assert_eq!(attempt_of(&keyed_root("default", "weekly", 12), &hash), None);
        assert_eq!(attempt_of(&format!("{name}-driver"), &hash), None);
    }

    #[test]
    fn a_pod_of_another_application_is_nobody() {
        let mut labels = labels(APP_ID, Role::Executor);
        labels.insert(EPOCH.into(), "2".into());
        labels.insert(EXECUTOR.into(), "7".into());
        let mut pod = Pod { metadata: ObjectMeta { labels: Some(labels), ..Default::default() }, ..Default::default() };
        assert_eq!(executor_of(&pod, APP_ID), Some((Epoch(2), ExecutorId(7))));
        assert_eq!(executor_of(&pod, AppId(1)), None);
        pod.metadata.labels.as_mut().and_then(|labels| labels.insert(EXECUTOR.into(), "x".into()));
        assert_eq!(executor_of(&pod, APP_ID), None);
    }
}
