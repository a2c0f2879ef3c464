//! What owns an application's objects when its driver is no Job, and shows that the driver lives?
//!
//! A Lease. The driver renews it; who finds it long expired may delete it, and everything that it owns goes with it.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Secret;
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use model::ids::AppId;
use proto::tls::Identity;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::Cluster;
use crate::answer::within;
use crate::job;
use crate::names::{self, Role};
use crate::own_pod::Over;
use crate::refusal::{Request, Verdict, judge};
use crate::request::RequestError;
use crate::sweep::{BESIDE, STALE_AFTER, Sweep, sweep};

/// How often a driver says that it lives.
pub const RENEWED_EVERY: Duration = Duration::from_secs(15);

/// How long a driver that does not say so may live all the same.
pub const LASTS: Duration = Duration::from_secs(60);

/// How long one object is tried to be made while the API server is away.
const MADE_WITHIN: Duration = Duration::from_secs(30);

/// How long the removal may take: whatever is left is swept later.
const REMOVED_WITHIN: Duration = Duration::from_secs(10);

/// The wait between two tries.
const AGAIN: Duration = Duration::from_millis(500);

/// An application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    /// Its id.
    pub id: AppId,
    /// What people call it.
    pub name: String,
}

/// What an executor proves with who it is: files of a Secret.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// `ca.pem`: whom it trusts.
    pub ca_pem: String,
    /// `cert.pem`: its certificate.
    pub cert_pem: String,
    /// `key.pem`: its key.
    pub key_pem: String,
}

/// Never shows the key.
impl std::fmt::Debug for TlsFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsFiles")
            .field("cert_pem", &self.cert_pem)
            .field("key_pem", &"redacted")
            .finish_non_exhaustive()
    }
}

impl From<Identity> for TlsFiles {
    fn from(identity: Identity) -> Self {
        Self { ca_pem: identity.ca_pem, cert_pem: identity.cert_pem, key_pem: identity.key_pem }
    }
}

impl TlsFiles {
    /// By file name.
    #[must_use]
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let files = [("ca.pem", &self.ca_pem), ("cert.pem", &self.cert_pem), ("key.pem", &self.key_pem)];
        files.into_iter().map(|(name, text)| (name.to_owned(), text.clone().into_bytes())).collect()
    }
}

/// Why a root could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RootError {
    /// The cluster refuses; trying again finds the same.
    #[error("create {what}: {why}")]
    Refused {
        /// What.
        what: String,
        /// In its own words, and what to do.
        why: String,
    },
    /// The API server was away for too long.
    #[error("create {what}: the API server does not answer: {why}")]
    Unreachable {
        /// What.
        what: String,
        /// What it did instead.
        why: String,
    },
}

impl RootError {
    fn of_lease(error: RequestError) -> Self {
        let what = "the application's Lease".to_owned();
        match error {
            RequestError::Refused { doing, why } | RequestError::NoRoom { doing, why } => {
                Self::Refused { what, why: format!("{doing}: {why}") }
            }
            RequestError::Unreachable { doing, why } => Self::Unreachable { what, why: format!("{doing}: {why}") },
        }
    }
}

/// The root of an application in client mode. It is renewed until it is removed or dropped.
pub struct ClientRoot {
    cluster: Cluster,
    owner: OwnerReference,
    lost: watch::Receiver<Option<Over>>,
    stop: CancellationToken,
    renewer: TaskTracker,
}

impl ClientRoot {
    /// Makes the Lease and the Secret with the executors' files, and renews the Lease from then on, on this runtime. Beside, what
    /// dead drivers have left in the namespace is swept.
    ///
    /// # Errors
    /// The cluster refuses, or is away. What was made is removed again.
    ///
    /// # Cancellation
    /// A Lease that was made already is swept later.
    pub async fn create(cluster: &Cluster, app: &App, files: &TlsFiles) -> Result<Self, RootError> {
        let leases: Api<Lease> = cluster.api();
        let own_pod = cluster.own_pod().await.map_err(RootError::of_lease)?;
        let lease = made(&leases, "the application's Lease", &lease(app, own_pod)).await?;
        let owner = names::owner("coordination.k8s.io/v1", "Lease", &lease.metadata).ok_or(RootError::Refused {
            what: "the application's Lease".to_owned(),
            why: "the API server gave it no uid".to_owned(),
        })?;
        let (say_lost, lost) = watch::channel(None);
        let (stop, renewer) = (CancellationToken::new(), TaskTracker::new());
        let root = Self { cluster: cluster.clone(), owner, lost, stop, renewer };
        let secrets: Api<Secret> = cluster.api();
        let secret = job::secret(app.id, Role::Executor, &root.owner, &files.files());
        if let Err(error) = made(&secrets, "the Secret with the executors' certificate", &secret).await {
            root.remove().await;
            return Err(error);
        }
        let renewer = Renewer { cluster: cluster.clone(), owner: root.owner.clone(), say_lost };
        let (stop, cluster) = (root.stop.clone(), cluster.clone());
        root.renewer.spawn(async move {
            let beside = async {
                let tidy = Sweep { older_than: STALE_AFTER, most: BESIDE, jobs: false };
                if let Err(error) = sweep(&cluster, tidy).await {
                    tracing::debug!(error = &error as &dyn std::error::Error, "sweep");
                }
            };
            tokio::select! {
                _ = async { tokio::join!(renewer.run(), beside) } => {}
                () = stop.cancelled() => {}
            }
        });
        Ok(root)
    }

    /// How executors say that it owns them.
    #[must_use]
    pub fn owner(&self) -> &OwnerReference {
        &self.owner
    }

    /// Resolves once somebody has removed the root, and never while it is there: the application is over.
    pub fn lost(&self) -> impl Future<Output = Over> + Send + use<> {
        let mut lost = self.lost.clone();
        async move {
            let why = match lost.wait_for(Option::is_some).await {
                Ok(why) => why.clone(),
                // It is no longer renewed because it was removed by us.
                Err(_) => None,
            };
            match why {
                Some(why) => why,
                None => std::future::pending().await,
            }
        }
    }

    /// Deletes the root; Kubernetes then deletes what it owns. What fails is swept later.
    pub async fn remove(&self) {
        self.stop.cancel();
        self.renewer.close();
        self.renewer.wait().await;
        let uid = Some(self.owner.uid.clone());
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            preconditions: Some(Preconditions { uid, resource_version: None }),
            ..DeleteParams::default()
        };
        let until = Instant::now() + REMOVED_WITHIN;
        loop {
            let leases: Api<Lease> = self.cluster.api();
            let Ok(deleted) = timeout_at(until, within(leases.delete(&self.owner.name, &params))).await else {
                return tracing::warn!(
                    root = self.owner.name,
                    "remove the application's Lease: no answer; it is swept later"
                );
            };
            let Err(answer) = deleted else { return };
            match judge(Request::Delete, &answer) {
                // Another of the same name is not ours.
                Verdict::Gone | Verdict::Conflict | Verdict::Exists => return,
                Verdict::Overloaded { .. } | Verdict::Away | Verdict::Quota { .. }
                    if Instant::now() + AGAIN < until =>
                {
                    sleep(AGAIN).await;
                }
                _ => {
                    return tracing::warn!(
                        root = self.owner.name,
                        why = answer.message,
                        "remove the application's Lease: it is swept later"
                    );
                }
            }
        }
    }
}

impl Drop for ClientRoot {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn lease(app: &App, own_pod: Option<OwnerReference>) -> Lease {
    let now = MicroTime(Timestamp::now());
    Lease {
        metadata: ObjectMeta {
            name: Some(names::root(app.id)),
            labels: Some(names::labels(app.id, Role::Driver)),
            annotations: (!app.name.is_empty()).then(|| BTreeMap::from([(names::NAME.to_owned(), app.name.clone())])),
            owner_references: own_pod.map(|pod| vec![pod]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(names::root(app.id)),
            lease_duration_seconds: i32::try_from(LASTS.as_secs()).ok(),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    }
}

/// Creates an object, again while the API server is away. Its name is ours alone: if it is there after an answer was lost,
/// we have made it.
async fn made<K>(objects: &Api<K>, what: &str, object: &K) -> Result<K, RootError>
where
    K: Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned + kube::Resource<DynamicType = ()>,
{
    let until = Instant::now() + MADE_WITHIN;
    let mut lost_answer = false;
    let name = object.meta().name.clone().unwrap_or_default();
    loop {
        let answer = match within(objects.create(&PostParams::default(), object)).await {
            Ok(made) => return Ok(made),
            Err(answer) => answer,
        };
        let refused = |why| RootError::Refused { what: what.to_owned(), why };
        match judge(Request::Create, &answer) {
            Verdict::Exists if lost_answer => match within(objects.get(&name)).await {
                Ok(made) => return Ok(made),
                Err(answer) => tracing::debug!(why = answer.message, "look for what was made"),
            },
            Verdict::Exists => return Err(refused(answer.message)),
            Verdict::Stop { why } | Verdict::Quota { why } | Verdict::Unauthorized { why } => return Err(refused(why)),
            Verdict::Away => lost_answer = true,
            Verdict::Gone | Verdict::Conflict | Verdict::Overloaded { .. } => {}
        }
        if Instant::now() + AGAIN > until {
            return Err(RootError::Unreachable { what: what.to_owned(), why: answer.message });
        }
        sleep(answer.retry_after.unwrap_or(AGAIN).min(MADE_WITHIN / 6)).await;
    }
}

struct Renewer {
    cluster: Cluster,
    owner: OwnerReference,
    say_lost: watch::Sender<Option<Over>>,
}

impl Renewer {
    /// Renews until the root is gone. The first renewal also says that all is there.
    async fn run(self) {
        let mut due = interval(RENEWED_EVERY);
        // Time asleep is not made up for.
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // By the clock on the wall: the other one stands still while a machine sleeps.
        let mut renewed_at = Timestamp::now();
        loop {
            due.tick().await;
            // With credentials as they are now.
            let leases: Api<Lease> = self.cluster.api();
            let patch = json!({
                // With its uid, the patch makes or changes no other's.
                "metadata": { "uid": self.owner.uid, "annotations": { names::COMPLETE: "true" } },
                "spec": { "renewTime": MicroTime(Timestamp::now()) },
            });
            let renewed = within(leases.patch(&self.owner.name, &PatchParams::default(), &Patch::Merge(patch))).await;
            let now = Timestamp::now();
            let Err(answer) = renewed else {
                renewed_at = now;
                continue;
            };
            match answer.code {
                404 | 409 => {
                    self.say_lost.send_replace(Some(over(renewed_at, now)));
                    return std::future::pending().await;
                }
                401 => {
                    tracing::warn!(root = self.owner.name, why = answer.message, "renew the application's Lease");
                    if let Err(error) = self.cluster.reload().await {
                        tracing::warn!(why = error.sentence(), "read the credentials again");
                    }
                }
                _ => tracing::warn!(root = self.owner.name, why = answer.message, "renew the application's Lease"),
            }
        }
    }
}

/// Why the Lease is gone that was last renewed then: only one that had run out is anybody's to sweep.
fn over(renewed_at: Timestamp, now: Timestamp) -> Over {
    let unrenewed = Duration::try_from(now.duration_since(renewed_at)).unwrap_or_default();
    match unrenewed > LASTS {
        true => Over::Removed("application was removed while its driver slept: its Lease is gone".to_owned()),
        false => Over::Killed("application was removed: its Lease is gone".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever had killed it read that its driver had slept.
    #[test]
    fn only_a_driver_that_slept_was_swept() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        assert!(matches!(over(at(0), at(15)), Over::Killed(why) if !why.contains("slept")));
        assert!(matches!(over(at(0), at(61)), Over::Removed(why) if why.contains("slept")));
        assert!(matches!(over(at(9), at(0)), Over::Killed(_)), "its clock was set back");
    }

    #[test]
    fn a_lease_says_whose_it_is_and_how_long_it_lasts() {
        let app = App { id: AppId(7), name: "nightly".into() };
        let lease = lease(&app, None);
        assert_eq!(lease.metadata.name, Some(names::root(app.id)));
        assert_eq!(lease.metadata.owner_references, None);
        let spec = lease.spec.unwrap();
        assert_eq!(spec.lease_duration_seconds, Some(60));
        assert!(spec.renew_time.is_some() && spec.renew_time == spec.acquire_time);
    }

    #[test]
    fn a_key_is_never_shown() {
        let files = TlsFiles { ca_pem: "ca".into(), cert_pem: "cert".into(), key_pem: "planted".into() };
        assert!(!format!("{files:?}").contains("planted"));
        assert_eq!(files.files().keys().collect::<Vec<_>>(), ["ca.pem", "cert.pem", "key.pem"]);
    }
}
