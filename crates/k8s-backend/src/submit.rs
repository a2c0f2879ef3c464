//! How does an application begin whose driver is a pod?
//!
//! A suspended Job first, which owns the rest; then its Secrets and its ConfigMap; then the patch that lets it begin.
//! Whoever dies in between leaves a Job that never runs, and that a sweep removes.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use model::ids::AppId;
use proto::tls::{self, Authority};
use tokio_util::sync::CancellationToken;

use crate::access::Cluster;
use crate::driver::{Standing, standing};
use crate::job::{self, DriverJob, TooMuchConfig};
use crate::names::{self, Role};
use crate::request::{Granted, RequestError, ask, insist};
use crate::root::TlsFiles;
use crate::sweep;
use model::exit;

/// Nobody tries a key so often: something is wrong with the key, not with the cluster.
const TRIES_MAX: u32 = 999;

/// An application to be submitted.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// The driver's Job. With a key, the try gives it its name.
    pub job: DriverJob,
    /// `vonk.toml` and templates, by file name.
    pub config: BTreeMap<String, String>,
    /// Whoever submits with the same key gets the same application.
    pub key: Option<String>,
}

/// An application that was submitted.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Submitted {
    /// Its id.
    pub app: AppIdText,
    /// Its Job.
    pub root: String,
    /// Which Job of that name.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// It was there already: somebody has submitted it with the same key.
    pub attached: bool,
}

/// An application's id as text.
pub type AppIdText = String;

/// Why an application was not submitted.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The cluster refuses, or does not answer.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// Its configuration is too large.
    #[error(transparent)]
    Config(#[from] TooMuchConfig),
    /// No certificates.
    #[error("make the certificates of driver and executors")]
    Certificates(#[from] tls::Error),
    /// The API server answered with an object that lacks what every object has.
    #[error("submit the application: the API server gave its Job no uid")]
    NoUid,
    /// A Job of that name is none of ours.
    #[error("submit the application: there is a Job {0} which Vonk has not made")]
    Stranger(String),
    /// Every try under this key has failed.
    #[error("submit the application: its idempotency key has failed {TRIES_MAX} times; use another one")]
    Tries,
    /// It was interrupted; what was made is removed.
    #[error("submit the application: interrupted")]
    Interrupted,
}

impl SubmitError {
    /// The code with which a command ends.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Request(error) => error.exit_code(),
            Self::Config(_) | Self::Stranger(_) | Self::Tries => exit::WRONG,
            Self::Certificates(_) | Self::NoUid => exit::FAILED,
            Self::Interrupted => exit::INTERRUPTED,
        }
    }
}

/// Looks whether somebody has submitted an application with this key which runs or has succeeded. Spares uploads; whoever
/// submits all the same is told the same by [`submit`].
///
/// # Errors
/// The API server refuses or does not answer.
pub async fn attached(cluster: &Cluster, key: &str) -> Result<Option<Submitted>, SubmitError> {
    match latest_try(cluster, key).await? {
        Some((_, job)) if serves(&job) => described(cluster, &job, true).map(Some),
        Some(_) | None => Ok(None),
    }
}

/// Whether the Job of one of a key's tries is there still: then it tells more than what was noted of it.
///
/// # Errors
/// The API server refuses or does not answer.
pub async fn is_remembered(cluster: &Cluster, key: &str) -> Result<bool, SubmitError> {
    Ok(latest_try(cluster, key).await?.is_some())
}

/// The latest try under a key whose Job is there, and which it is. Earlier ones may be gone: each goes an hour after its end.
async fn latest_try(cluster: &Cluster, key: &str) -> Result<Option<(u32, Job)>, RequestError> {
    let hash = names::key_hash(cluster.namespace(), key);
    let (jobs, tries): (Api<Job>, _) = (cluster.api(), ListParams::default().labels(&names::select_key(&hash)));
    let listed = ask("list the Jobs of the idempotency key", || jobs.list(&tries)).await?;
    Ok(latest(listed.items, &hash))
}

fn latest(jobs: Vec<Job>, hash: &str) -> Option<(u32, Job)> {
    let attempt = |job: &Job| names::attempt_of(job.metadata.name.as_deref()?, hash);
    jobs.into_iter().filter_map(|job| Some((attempt(&job)?, job))).max_by_key(|(attempt, _)| *attempt)
}

/// Makes an application, or attaches to the one that has its key. It begins at once, or when its queue lets it.
///
/// # Errors
/// The cluster refuses or does not answer, or `stop` was cancelled; what was made is removed again.
///
/// # Cancellation
/// Leaves a Job that never runs, and that a sweep removes.
pub async fn submit(
    cluster: &Cluster,
    submission: Submission,
    stop: &CancellationToken,
) -> Result<Submitted, SubmitError> {
    // Boxed: it holds every object that it makes while it waits.
    Box::pin(submitted(cluster, submission, stop)).await
}

async fn submitted(
    cluster: &Cluster,
    mut submission: Submission,
    stop: &CancellationToken,
) -> Result<Submitted, SubmitError> {
    let jobs: Api<Job> = cluster.api();
    let mut attempt = 1;
    if let Some(key) = &submission.key
        && let Some((latest, job)) = latest_try(cluster, key).await?
    {
        if serves(&job) {
            return described(cluster, &job, true);
        }
        if half_made_long_ago(&job) {
            // Its submitter may only have slept: it must not complete it beside the next one.
            delete(cluster, &job).await?;
        }
        attempt = latest + 1;
    }
    let job = loop {
        if attempt > TRIES_MAX {
            return Err(SubmitError::Tries);
        }
        if let Some(key) = &submission.key {
            submission.job.pod.root = names::keyed_root(cluster.namespace(), key, attempt);
        }
        if stop.is_cancelled() {
            return Err(SubmitError::Interrupted);
        }
        let wanted = wanted(&submission, cluster.namespace());
        let created = insist("create the application's Job", crate::refusal::Request::Create, || {
            let (jobs, wanted) = (jobs.clone(), wanted.clone());
            async move { jobs.create(&PostParams::default(), &wanted).await }
        });
        if let Granted::Yes(job) = created.await? {
            break job;
        }
        // Somebody was quicker, or the answer to our own request was lost.
        let Some(job) = job_of(cluster, &submission.job.pod.root).await? else { continue };
        match app_of(&job) {
            Some(app) if app == submission.job.pod.of.app => break job,
            Some(_) if submission.key.is_some() => {}
            _ => return Err(SubmitError::Stranger(submission.job.pod.root)),
        }
        if serves(&job) {
            return described(cluster, &job, true);
        }
        if half_made_long_ago(&job) {
            delete(cluster, &job).await?;
            continue;
        }
        attempt += 1;
    };
    // Boxed: it holds four objects while it waits.
    match Box::pin(complete(cluster, &submission, &job, stop)).await {
        Ok(()) => described(cluster, &job, false),
        Err(error) => {
            // Whatever fails here is swept later.
            let _ = delete(cluster, &job).await;
            Err(error)
        }
    }
}

/// The Job; with a key, it is found by it.
fn wanted(submission: &Submission, namespace: &str) -> Job {
    let mut job = submission.job.job();
    if let Some(key) = &submission.key {
        let labels = job.metadata.labels.get_or_insert_default();
        labels.insert(names::KEY.to_owned(), names::key_hash(namespace, key));
    }
    job
}

async fn complete(
    cluster: &Cluster,
    submission: &Submission,
    job: &Job,
    stop: &CancellationToken,
) -> Result<(), SubmitError> {
    let app = submission.job.pod.of.app;
    let owner = names::owner("batch/v1", "Job", &job.metadata).ok_or(SubmitError::NoUid)?;
    let owned = Owned::new(app, &owner, submission.config.clone())?;
    let secrets: Api<Secret> = cluster.api();
    let config_maps: Api<ConfigMap> = cluster.api();
    tokio::try_join!(
        made(&secrets, "create the Secret with the driver's certificate", &owned.driver),
        made(&secrets, "create the Secret with the executors' certificate", &owned.executor),
        made(&config_maps, "create the ConfigMap with the configuration", &owned.config),
    )?;
    if stop.is_cancelled() {
        return Err(SubmitError::Interrupted);
    }
    let jobs: Api<Job> = cluster.api();
    let patch = submission.job.begin();
    let begun = insist("let the application's Job begin", crate::refusal::Request::Create, || {
        let (jobs, patch, name) = (jobs.clone(), Patch::Merge(patch.clone()), owner.name.clone());
        async move { jobs.patch(&name, &PatchParams::default(), &patch).await }
    });
    begun.await?;
    if stop.is_cancelled() {
        return Err(SubmitError::Interrupted);
    }
    Ok(())
}

/// What a Job needs besides itself.
struct Owned {
    driver: Secret,
    executor: Secret,
    config: ConfigMap,
}

impl Owned {
    /// The authority is forgotten at the end: nobody can join later.
    fn new(app: AppId, owner: &OwnerReference, config: BTreeMap<String, String>) -> Result<Self, SubmitError> {
        let authority = Authority::new(app)?;
        let files = |role| authority.issue(role).map(|identity| TlsFiles::from(identity).files());
        Ok(Self {
            driver: job::secret(app, Role::Driver, owner, &files(tls::Role::Driver)?),
            executor: job::secret(app, Role::Executor, owner, &files(tls::Role::Executor)?),
            config: job::config_map(app, owner, config)?,
        })
    }
}

/// Creates what the Job owns. Its name is the Job's, so that it can only be there after an answer was lost.
async fn made<K>(objects: &Api<K>, doing: &str, object: &K) -> Result<(), SubmitError>
where
    K: Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned + kube::Resource<DynamicType = ()>,
{
    let created = insist(doing, crate::refusal::Request::Create, || {
        let (objects, object) = (objects.clone(), object.clone());
        async move { objects.create(&PostParams::default(), &object).await }
    });
    match created.await? {
        Granted::Yes(_) | Granted::Exists { lost_answer: true } => Ok(()),
        Granted::Exists { lost_answer: false } | Granted::Gone => {
            let name = object.meta().name.clone().unwrap_or_default();
            let why = format!("{name} is there already, and somebody else has made it");
            Err(RequestError::Refused { doing: doing.to_owned(), why }.into())
        }
    }
}

/// Asks the API server what it would say to a submission, and makes nothing.
///
/// # Errors
/// What it would say.
pub async fn try_out(cluster: &Cluster, submission: &Submission) -> Result<(), SubmitError> {
    Box::pin(tried_out(cluster, submission)).await
}

async fn tried_out(cluster: &Cluster, submission: &Submission) -> Result<(), SubmitError> {
    let dry = PostParams { dry_run: true, field_manager: None };
    let (jobs, secrets, config_maps): (Api<Job>, Api<Secret>, Api<ConfigMap>) =
        (cluster.api(), cluster.api(), cluster.api());
    let job = submission.job.job();
    let owner = OwnerReference {
        api_version: "batch/v1".to_owned(),
        kind: "Job".to_owned(),
        name: submission.job.pod.root.clone(),
        // Nobody looks it up before an object is really made.
        uid: "00000000-0000-0000-0000-000000000000".to_owned(),
        ..OwnerReference::default()
    };
    let app = submission.job.pod.of.app;
    let secret = job::secret(app, Role::Driver, &owner, &BTreeMap::new());
    let config = job::config_map(app, &owner, submission.config.clone())?;
    let create = crate::refusal::Request::Create;
    insist("try to create the application's Job", create, || jobs.create(&dry, &job)).await?;
    insist("try to create the Secret with the driver's certificate", create, || secrets.create(&dry, &secret)).await?;
    insist("try to create the ConfigMap with the configuration", create, || config_maps.create(&dry, &config)).await?;
    Ok(())
}

/// What would be created, as YAML; keys are made when it is.
///
/// # Errors
/// The configuration is too large.
pub fn manifests(submission: &Submission) -> Result<String, SubmitError> {
    let root = &submission.job.pod.root;
    let owner = OwnerReference {
        api_version: "batch/v1".to_owned(),
        kind: "Job".to_owned(),
        name: root.clone(),
        controller: Some(false),
        ..OwnerReference::default()
    };
    let config = job::config_map(submission.job.pod.of.app, &owner, submission.config.clone())?;
    let secrets = [Role::Driver, Role::Executor].map(|role| names::files(root, role)).join(" and ");
    Ok(format!(
        "# {root} owns the ConfigMap, and the Secrets {secrets} with keys that are made when it is submitted.\n---\n{}---\n{}",
        crate::manifest::document(&submission.job.job()),
        crate::manifest::document(&config),
    ))
}

/// Whether a Job of the same key is the answer to a submission: it will run, runs, or has succeeded.
fn serves(job: &Job) -> bool {
    match standing(job) {
        Standing::HalfMade => !half_made_long_ago(job),
        Standing::Queued | Standing::Starting | Standing::Running | Standing::Succeeded => true,
        Standing::Ending | Standing::Failed => false,
    }
}

fn half_made_long_ago(job: &Job) -> bool {
    let now = k8s_openapi::jiff::Timestamp::now();
    let old = |created: k8s_openapi::jiff::Timestamp| {
        std::time::Duration::try_from(now.duration_since(created)).unwrap_or_default() >= sweep::HALF_MADE_AFTER
    };
    standing(job) == Standing::HalfMade && job.metadata.creation_timestamp.as_ref().is_some_and(|time| old(time.0))
}

/// The application of a Job; nothing if it is a stranger's.
#[must_use]
pub(crate) fn app_of(job: &Job) -> Option<AppId> {
    job.metadata.labels.as_ref()?.get(names::APP)?.parse().ok()
}

fn described(cluster: &Cluster, job: &Job, attached: bool) -> Result<Submitted, SubmitError> {
    let (root, uid) = (job.metadata.name.clone().unwrap_or_default(), job.metadata.uid.clone().unwrap_or_default());
    let namespace = cluster.namespace().to_owned();
    match app_of(job) {
        Some(app) => Ok(Submitted { app: app.to_string(), root, uid, namespace, attached }),
        None => Err(SubmitError::Stranger(root)),
    }
}

async fn job_of(cluster: &Cluster, name: &str) -> Result<Option<Job>, RequestError> {
    let jobs: Api<Job> = cluster.api();
    crate::request::ask("look for the application's Job", || jobs.get_opt(name)).await
}

async fn delete(cluster: &Cluster, job: &Job) -> Result<(), RequestError> {
    remove_job(cluster, job.metadata.name.as_deref().unwrap_or_default(), job.metadata.uid.clone()).await
}

/// Ends an application that was submitted: its Job goes, and what that owns. Its driver has 30 s for its last words.
///
/// # Errors
/// The API server refuses or does not answer. That it is gone already is no error.
pub async fn end(cluster: &Cluster, submitted: &Submitted) -> Result<(), RequestError> {
    remove_job(cluster, &submitted.root, Some(submitted.uid.clone())).await
}

async fn remove_job(cluster: &Cluster, name: &str, uid: Option<String>) -> Result<(), RequestError> {
    let jobs: Api<Job> = cluster.api();
    let params = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Background),
        preconditions: Some(Preconditions { uid, resource_version: None }),
        ..DeleteParams::default()
    };
    insist("remove the application's Job", crate::refusal::Request::Delete, || jobs.delete(name, &params)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::tests::job;
    use crate::job::KEEP;
    use crate::pod::tests::driver_pod;

    pub(crate) fn submission() -> Submission {
        let job = DriverJob { pod: driver_pod(), restarts: 0, queue: None, keep: KEEP };
        Submission { job, config: BTreeMap::from([("vonk.toml".into(), "log = \"debug\"\n".into())]), key: None }
    }

    #[test]
    fn whoever_comes_later_attaches_to_what_runs_or_has_succeeded() {
        for (status, expected) in [
            ("{active: 1}", true),
            ("{active: 1, ready: 1}", true),
            ("{conditions: [{type: Complete, status: 'True'}]}", true),
            ("{conditions: [{type: Failed, status: 'True', reason: x}]}", false),
        ] {
            assert_eq!(serves(&job(status)), expected, "{status}");
        }
        let mut half = job("{}");
        half.metadata.annotations = None;
        half.metadata.creation_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::now()));
        assert!(serves(&half), "its submitter may still be busy");
        half.metadata.creation_timestamp =
            Some("2020-01-01T00:00:00Z".parse().map(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time).unwrap());
        assert!(!serves(&half) && half_made_long_ago(&half));
    }

    /// Its first try had failed and its Job was gone: whoever came then ran a first try beside the second.
    #[test]
    fn the_latest_try_counts_though_earlier_ones_are_gone() {
        let submission = Submission { key: Some("nightly".into()), ..submission() };
        let hash = names::key_hash("a", "nightly");
        let tried = |attempt: u32, status: &str| {
            let mut made = wanted(&submission, "a");
            made.metadata.name = Some(names::keyed_root("a", "nightly", attempt));
            (made.metadata.annotations, made.status) = (job(status).metadata.annotations, job(status).status);
            made.spec.as_mut().unwrap().suspend = Some(false);
            made
        };
        let label = |job: &Job| job.metadata.labels.as_ref().and_then(|labels| labels.get(names::KEY).cloned());
        assert_eq!(label(&tried(1, "{}")), Some(hash.clone()));
        let failed = "{conditions: [{type: Failed, status: 'True', reason: x}]}";
        let found = |jobs: Vec<Job>| latest(jobs, &hash).map(|(attempt, job)| (attempt, serves(&job)));
        assert_eq!(found(vec![]), None);
        assert_eq!(found(vec![tried(2, "{active: 1}")]), Some((2, true)), "the first one is gone");
        assert_eq!(found(vec![tried(10, failed), tried(9, failed)]), Some((10, false)), "the next one is the eleventh");
        let mut stranger = tried(11, "{active: 1}");
        stranger.metadata.name = Some("nightly".into());
        assert_eq!(found(vec![stranger]), None);
    }

    #[test]
    fn a_dry_run_shows_no_key() {
        let text = manifests(&submission()).unwrap();
        assert!(text.contains("kind: Job") && text.contains("kind: ConfigMap") && text.contains("log = "), "{text}");
        assert!(!text.contains("PRIVATE") && !text.contains("kind: Secret\n"), "{text}");
    }

    #[test]
    fn what_a_job_owns_is_named_as_its_pods_mount_it() {
        let submission = submission();
        let owner = OwnerReference { name: submission.job.pod.root.clone(), ..OwnerReference::default() };
        let owned = Owned::new(submission.job.pod.of.app, &owner, submission.config.clone()).unwrap();
        let spec = submission.job.pod.pod().spec.unwrap();
        let mounted: Vec<_> =
            spec.volumes.unwrap().into_iter().filter_map(|volume| volume.secret?.secret_name).collect();
        assert_eq!(mounted, [owned.driver.metadata.name.unwrap()]);
        assert_ne!(owned.driver.data, owned.executor.data);
    }
}
