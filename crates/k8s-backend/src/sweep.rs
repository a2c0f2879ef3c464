//! What does nobody want any more?
//!
//! Leases of drivers that are long gone, and Jobs whose submitter never finished making them. What they own goes with them.

use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Preconditions, PropagationPolicy};

use crate::access::Cluster;
use crate::answer::within;
use crate::names;
use crate::refusal::{Request, Verdict, judge};

/// A driver that has not renewed its Lease for so long is gone, even if its clock and ours differ by minutes.
pub const STALE_AFTER: Duration = Duration::from_secs(30 * 60);

/// A Job that is not complete after so long never will be.
pub const HALF_MADE_AFTER: Duration = Duration::from_secs(10 * 60);

/// A driver or submitter that cleans up beside its work deletes so many.
pub const BESIDE: usize = 20;

/// A sweep that could not be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{step}: {why}")]
pub struct SweepError {
    /// What failed.
    pub step: &'static str,
    /// In the API server's words.
    pub why: String,
}

/// What is swept, and how much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sweep {
    /// Leases that were renewed within this time stay.
    pub older_than: Duration,
    /// So many are deleted at most.
    pub most: usize,
    /// Jobs too: a driver in client mode has no right to see them.
    pub jobs: bool,
}

/// Deletes what nobody wants, and returns the names.
///
/// # Errors
/// The API server does not say what there is. A deletion that fails is no error: it is tried by the next sweep.
pub async fn sweep(cluster: &Cluster, sweep: Sweep) -> Result<Vec<String>, SweepError> {
    let now = Timestamp::now();
    let everything = ListParams::default().labels(&names::select_all());
    let leases: Api<Lease> = cluster.api();
    let listed = within(leases.list(&everything)).await;
    let listed = listed.map_err(|answer| SweepError { step: "list Leases", why: answer.message })?;
    let stale = listed.items.into_iter().filter(|lease| is_stale(lease, now, sweep.older_than));
    let mut swept = Vec::new();
    for lease in stale.take(sweep.most) {
        swept.extend(delete(&leases, &lease).await);
    }
    if sweep.jobs {
        let jobs: Api<Job> = cluster.api();
        let listed = within(jobs.list(&everything)).await;
        let listed = listed.map_err(|answer| SweepError { step: "list Jobs", why: answer.message })?;
        let half_made = listed.items.into_iter().filter(|job| is_half_made(job, now));
        for job in half_made.take(sweep.most.saturating_sub(swept.len())) {
            swept.extend(delete(&jobs, &job).await);
        }
    }
    Ok(swept)
}

/// Whether a Lease's driver has not been heard for so long. One that says nothing of time is nobody's to judge.
fn is_stale(lease: &Lease, now: Timestamp, older_than: Duration) -> bool {
    let renewed = lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref());
    lease.metadata.name.as_ref().is_some_and(|name| name.starts_with("vonk-"))
        && renewed.is_some_and(|renewed| age(renewed.0, now) >= older_than)
}

/// Whether a Job waits for what its submitter never made. One that a queue holds back is complete.
fn is_half_made(job: &Job, now: Timestamp) -> bool {
    let suspended = job.spec.as_ref().is_some_and(|spec| spec.suspend == Some(true));
    let complete = job.annotations().contains_key(names::COMPLETE);
    let created = job.metadata.creation_timestamp.as_ref();
    suspended && !complete && created.is_some_and(|created| age(created.0, now) >= HALF_MADE_AFTER)
}

fn age(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or_default()
}

/// Deletes exactly the object that was judged: if it has changed since, somebody lives.
async fn delete<K>(objects: &Api<K>, object: &K) -> Option<String>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let name = object.meta().name.clone()?;
    let preconditions =
        Preconditions { uid: object.meta().uid.clone(), resource_version: object.meta().resource_version.clone() };
    let params = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Background),
        preconditions: Some(preconditions),
        ..DeleteParams::default()
    };
    let Err(answer) = within(objects.delete(&name, &params)).await else { return Some(name) };
    if judge(Request::Delete, &answer) != Verdict::Gone {
        tracing::info!(name, why = answer.message, "left for the next sweep");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest;

    const NOW: &str = "2026-01-01T12:00:00Z";

    fn now() -> Timestamp {
        NOW.parse().unwrap()
    }

    #[test]
    fn a_lease_is_stale_only_when_it_says_so() {
        let lease =
            |name: &str, spec: &str| manifest::read(&format!("{{metadata: {{name: {name}}}, spec: {spec}}}")).unwrap();
        let stale = |lease: &Lease| is_stale(lease, now(), STALE_AFTER);
        assert!(stale(&lease("vonk-a", "{renewTime: '2026-01-01T11:30:00.000000Z'}")));
        assert!(!stale(&lease("vonk-a", "{renewTime: '2026-01-01T11:30:01.000000Z'}")));
        assert!(!stale(&lease("vonk-a", "{renewTime: '2026-01-01T12:10:00.000000Z'}")), "its clock is ahead of ours");
        assert!(!stale(&lease("vonk-a", "{}")));
        assert!(!stale(&lease("leader", "{renewTime: '2020-01-01T00:00:00.000000Z'}")));
    }

    #[test]
    fn a_job_is_half_made_only_while_it_waits_for_its_submitter() {
        let job = |made: &str, suspend: bool, annotations: &str| -> Job {
            let text = format!(
                "{{metadata: {{name: vonk-a, creationTimestamp: '{made}', annotations: {annotations}}}, spec: {{suspend: {suspend}, template: {{}}}}}}"
            );
            manifest::read(&text).unwrap()
        };
        let half_made = |job: &Job| is_half_made(job, now());
        assert!(half_made(&job("2026-01-01T11:50:00Z", true, "{}")));
        assert!(!half_made(&job("2026-01-01T11:51:00Z", true, "{}")));
        assert!(!half_made(&job("2026-01-01T11:00:00Z", false, "{}")));
        assert!(!half_made(&job("2026-01-01T11:00:00Z", true, "{vonk.dev/complete: 'true'}")), "a queue holds it");
    }
}
