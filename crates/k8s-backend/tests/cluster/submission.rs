//! Does an application whose driver is a pod begin, go on and end as it should?

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_backend::access::Cluster;
use k8s_backend::applications::{Wall, find, remove, roots, see};
use k8s_backend::config::DRIVER;
use k8s_backend::diagnose::{Severity, findings, gather};
use k8s_backend::driver::End;
use k8s_backend::follow::{Followed, Heard, follow};
use k8s_backend::job::{DriverJob, KEEP};
use k8s_backend::names;
use k8s_backend::pod::{AppPods, DriverPod, ExecutorPods};
use k8s_backend::preflight::{Outcome, Plan, checks, nobody};
use k8s_backend::rights::{Part, Rule};
use k8s_backend::settings::PodSettings;
use k8s_backend::submit::{Submission, SubmitError, Submitted, end, submit, try_out};
use k8s_backend::sweep::{STALE_AFTER, Sweep, sweep};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ResourceQuota, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{Api, DeleteParams, EvictParams, ListParams, PostParams};
use model::exit;
use model::ids::{AppId, Epoch};
use model::setting::Values;
use serde_json::json;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::cluster::{OF_DRIVERS, SOON, api, connect, made, remove_left_over, until};

/// The part of the driver, played by a script that is its first argument.
const SCRIPT: &str = "#!/usr/local/bin/busybox sh\nexport PATH=/usr/local/bin\neval \"$1\"\n";

/// A namespace in which drivers may run.
struct Place {
    cluster: Cluster,
}

impl Place {
    async fn new() -> Self {
        let name = format!("{OF_DRIVERS}{}", AppId::generate());
        let cluster = connect(&name).await;
        remove_left_over(&cluster).await;
        let labels = json!({ "pod-security.kubernetes.io/enforce": "restricted" });
        let namespace: Namespace = made(json!({ "metadata": { "name": name, "labels": labels } }));
        Api::all(cluster.client()).create(&PostParams::default(), &namespace).await.unwrap();
        let script: ConfigMap = made(json!({ "metadata": { "name": "stub" }, "data": { "vonk-driver": SCRIPT } }));
        api(&cluster).create(&PostParams::default(), &script).await.unwrap();
        let account: ServiceAccount = made(json!({ "metadata": { "name": "vonk-driver" } }));
        api(&cluster).create(&PostParams::default(), &account).await.unwrap();
        Self { cluster }
    }

    fn submission(&self, script: &str, settings: &[(&str, &str)]) -> Submission {
        let image = std::env::var("VONK_TEST_IMAGE").unwrap_or_else(|_| "localhost/busybox:1".to_owned());
        let volume = "[{name: stub, mountPath: /usr/local/bin/vonk-driver, subPath: vonk-driver, \
                      configMap: {name: stub, defaultMode: 0o555}}]";
        let mut values = Values::from([("k8s.driver.volumes".to_owned(), volume.to_owned())]);
        values.extend(settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let mut settings = PodSettings::read(&DRIVER, &values).unwrap();
        let spec = settings.pod.spec.as_mut().unwrap();
        spec.security_context = Some(made(json!({ "runAsUser": 65532 })));
        let app = AppId::generate();
        let of = AppPods {
            app,
            name: "a test".into(),
            image,
            program: None,
            attached: String::new(),
            architecture: None,
            store: "s3://nowhere".into(),
            log: None,
        };
        let pod = DriverPod {
            of,
            root: names::root(app),
            cores: Quantity("100m".into()),
            memory: 64 << 20,
            disk: 64 << 20,
            template: None,
            settings,
            args: vec![script.to_owned()],
            timeout: None,
        };
        let job = DriverJob { pod, restarts: 0, queue: None, keep: KEEP };
        Submission { job, config: BTreeMap::from([("vonk.toml".into(), "log = \"info\"\n".into())]), key: None }
    }

    async fn submit(&self, submission: Submission) -> Submitted {
        submit(&self.cluster, submission, &CancellationToken::new()).await.unwrap()
    }

    fn followed(&self, submitted: &Submitted) -> Followed {
        Followed {
            cluster: self.cluster.clone(),
            app: submitted.app.parse().unwrap(),
            root: submitted.root.clone(),
            room_within: Duration::from_secs(600),
        }
    }

    /// How it ended, what the driver has printed, and what was said.
    async fn follow(&self, submitted: &Submitted) -> (End, String, Vec<String>) {
        self.follow_and(submitted, Duration::from_secs(600)).await
    }

    async fn follow_and(&self, submitted: &Submitted, room_within: Duration) -> (End, String, Vec<String>) {
        let (mut printed, mut said) = (Vec::new(), Vec::new());
        let followed = Followed { room_within, ..self.followed(submitted) };
        let mut heard = |heard| match heard {
            Heard::Line(line) => printed.extend(line),
            Heard::Said(text) => said.push(text),
        };
        let end = timeout(SOON * 3, follow(&followed, &mut heard)).await.expect("it ends in time");
        (end, String::from_utf8(printed).unwrap(), said)
    }

    async fn running(&self, submitted: &Submitted) -> Pod {
        let pods: Api<Pod> = api(&self.cluster);
        let ours = ListParams::default().labels(&format!("{}={}", names::APP, submitted.app));
        let running = async || pods.list(&ours).await.unwrap().items.pop();
        let runs = |pod: &Pod| pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"));
        until(async || running().await.is_some_and(|pod| runs(&pod))).await;
        running().await.unwrap()
    }

    /// Sees that what was made goes with its root, and removes the namespace.
    async fn leave(self) {
        let (jobs, pods, secrets) =
            (api::<Job>(&self.cluster), api::<Pod>(&self.cluster), api::<Secret>(&self.cluster));
        let ours = ListParams::default().labels("app.kubernetes.io/managed-by=vonk");
        jobs.delete_collection(&DeleteParams::background(), &ours).await.unwrap();
        until(async || {
            pods.list(&ours).await.unwrap().items.is_empty() && secrets.list(&ours).await.unwrap().items.is_empty()
        })
        .await;
        let namespaces: Api<Namespace> = Api::all(self.cluster.client());
        namespaces.delete(self.cluster.namespace(), &DeleteParams::default()).await.unwrap();
    }
}

#[tokio::test]
async fn what_a_driver_prints_arrives_and_its_exit_code_too() {
    let place = Place::new().await;
    let script =
        "busybox seq 1 5000; busybox sleep 2; busybox ls /vonk/tls /vonk/config; busybox sleep 1; echo last; exit 3";
    let submitted = place.submit(place.submission(script, &[])).await;
    let (end, printed, said) = place.follow(&submitted).await;
    assert_eq!(end.code, 3, "{end:?}");
    let lines: Vec<_> = printed.lines().collect();
    let numbers: Vec<_> = (1..=5000).map(|number| number.to_string()).collect();
    assert_eq!(lines[..5000], numbers);
    let files = ["ca.pem", "cert.pem", "key.pem", "vonk.toml"];
    assert!(files.iter().all(|file| lines.contains(file)), "{:?}", &lines[5000..]);
    assert_eq!(lines.last(), Some(&"last"));
    assert!(said.iter().any(|text| text.contains("runs on node")), "{said:?}");

    let done = place.submit(place.submission("exit 0", &[])).await;
    assert_eq!(place.follow(&done).await.0, End::new(exit::DONE, ""));
    // Whoever comes later hears the same, whichever of Job and pods it sees first.
    for _ in 0..5 {
        let again = place.follow(&submitted).await;
        assert!(again.0.code == 3 && again.1 == printed, "{:?} after {} bytes", again.0, again.1.len());
    }
    place.leave().await;
}

#[tokio::test]
async fn a_key_is_one_application_until_it_has_failed() {
    let place = Place::new().await;
    let keyed = |script: &str| Submission { key: Some("nightly".into()), ..place.submission(script, &[]) };
    let (one, other) =
        tokio::join!(place.submit(keyed("busybox sleep 3; exit 1")), place.submit(keyed("busybox sleep 3; exit 1")));
    assert_eq!((&one.app, &one.root), (&other.app, &other.root));
    assert_ne!(one.attached, other.attached, "one of the two made it");
    let (first, second) = tokio::join!(place.follow(&one), place.follow(&other));
    assert_eq!((first.0.code, second.0.code), (1, 1));
    let third = place.submit(keyed("echo again")).await;
    assert!(!third.attached && third.root.ends_with("-2"), "{third:?}");
    assert_eq!(place.follow(&third).await.0.code, exit::DONE);
    let fourth = place.submit(keyed("exit 1")).await;
    assert!(fourth.attached && fourth.app == third.app, "it has succeeded: {fourth:?}");
    place.leave().await;
}

#[tokio::test]
async fn a_second_try_is_found_though_the_first_is_gone() {
    let place = Place::new().await;
    let keyed = |script: &str| Submission { key: Some("nightly".into()), ..place.submission(script, &[]) };
    let first = place.submit(keyed("exit 1")).await;
    assert_eq!(place.follow(&first).await.0.code, 1);
    let second = place.submit(keyed("busybox sleep 600")).await;
    assert!(!second.attached && second.root.ends_with("-2"), "{second:?}");
    let jobs: Api<Job> = api(&place.cluster);
    let gone = async |root: &str| until(async || jobs.get_opt(root).await.unwrap().is_none()).await;
    // As happens an hour after its end.
    jobs.delete(&first.root, &DeleteParams::background()).await.unwrap();
    gone(&first.root).await;
    let third = place.submit(keyed("exit 1")).await;
    assert!(third.attached && third.app == second.app, "{third:?}");
    end(&place.cluster, &third).await.unwrap();
    gone(&second.root).await;
    place.leave().await;
}

#[tokio::test]
async fn whoever_may_not_watch_reads_which_rule_is_missing() {
    let place = Place::new().await;
    let mut few = Part::Submitter.rules();
    few[0].verbs.retain(|verb| *verb != "watch");
    let user = Place { cluster: as_user(&place, &few).await };
    until(async || user.cluster.missing(Part::Submitter).await.unwrap().len() == 1).await;
    let submitted = user.submit(place.submission("busybox sleep 600", &[])).await;
    let (end, ..) = user.follow(&submitted).await;
    assert_eq!(end.code, exit::REFUSED, "{end:?}");
    let rule = "add this rule to the Role: {apiGroups: [batch], resources: [jobs], verbs: [watch]}";
    assert!(end.why.ends_with(rule), "{end:?}");
    place.leave().await;
}

#[tokio::test]
async fn every_way_to_lose_a_driver_has_its_code() {
    let place = Place::new().await;
    let sleeps = "trap 'echo bye; exit 143' TERM; busybox sleep 600 & wait";
    // Deleted.
    let submitted = place.submit(place.submission(sleeps, &[])).await;
    let pod = place.running(&submitted).await;
    let pods: Api<Pod> = api(&place.cluster);
    let name = pod.metadata.name.unwrap();
    let (followed, _) = tokio::join!(place.follow(&submitted), async {
        pods.delete(&name, &DeleteParams::default()).await.unwrap();
    });
    assert_eq!(followed.0, End::new(exit::LOST, "driver pod was deleted"));
    // Evicted.
    let submitted = place.submit(place.submission(sleeps, &[])).await;
    let name = place.running(&submitted).await.metadata.name.unwrap();
    let (followed, _) = tokio::join!(place.follow(&submitted), async {
        pods.evict(&name, &EvictParams::default()).await.unwrap();
    });
    assert_eq!(followed.0.code, exit::LOST);
    assert!(followed.0.why.contains("EvictionByEvictionAPI"), "{:?}", followed.0);
    // Out of memory.
    let submitted = place.submit(place.submission("busybox tail /dev/zero", &[])).await;
    let (end, ..) = place.follow(&submitted).await;
    assert_eq!(end, End::new(exit::FAILED, "the driver exceeded its memory limit of 64 MiB: raise --driver-memory"));
    // Killed, and its last words are heard.
    let submitted = place.submit(place.submission(sleeps, &[])).await;
    place.running(&submitted).await;
    let ((end, printed, _), _) = tokio::join!(place.follow(&submitted), async {
        let root = find(&place.cluster, &submitted.app).await.unwrap();
        remove(&place.cluster, &root).await.unwrap();
    });
    assert_eq!((end.code, printed.as_str()), (exit::KILLED, "bye\n"), "{end:?}");
    place.leave().await;
}

#[tokio::test]
async fn a_driver_longer_than_its_timeout_is_ended() {
    let place = Place::new().await;
    let mut submission = place.submission("busybox sleep 600", &[]);
    // Kubernetes gives it a minute more; this test has not got it.
    submission.job.pod.timeout = Some(Duration::ZERO);
    let submitted = place.submit(submission).await;
    let jobs: Api<Job> = api(&place.cluster);
    place.running(&submitted).await;
    let soon = json!({ "spec": { "activeDeadlineSeconds": 1 } });
    jobs.patch(&submitted.root, &Default::default(), &kube::api::Patch::Merge(soon)).await.unwrap();
    let (end, ..) = place.follow(&submitted).await;
    assert_eq!(end.code, exit::TIMED_OUT, "{end:?}");
    place.leave().await;
}

#[tokio::test]
async fn a_driver_that_cannot_start_says_why_and_is_removed() {
    let place = Place::new().await;
    let nothing_left = async |submitted: &Submitted| find(&place.cluster, &submitted.app).await.is_err();
    // No room.
    let mut huge = place.submission("exit 0", &[]);
    huge.job.pod.cores = Quantity("64".into());
    let submitted = place.submit(huge).await;
    let (end, _, said) = place.follow_and(&submitted, Duration::from_secs(8)).await;
    assert_eq!(end.code, exit::NO_ROOM, "{end:?}");
    assert!(said.iter().any(|text| text.starts_with("waiting for room: the driver of 64 cpu, 64 MiB: 0/")), "{said:?}");
    assert!(nothing_left(&submitted).await);
    // No such image, and no time to wait for one.
    let mut wrong = place.submission("exit 0", &[]);
    wrong.job.pod.of.image = "localhost/vonk:NO:SUCH".into();
    let submitted = place.submit(wrong).await;
    let (end, ..) = place.follow(&submitted).await;
    assert_eq!(end.code, exit::REFUSED, "{end:?}");
    assert!(end.why.contains("cannot use image localhost/vonk:NO:SUCH"), "{end:?}");
    // A quota that wants a limit.
    let quota: ResourceQuota = made(json!({ "metadata": { "name": "q" }, "spec": { "hard": { "limits.cpu": "1" } } }));
    api(&place.cluster).create(&PostParams::default(), &quota).await.unwrap();
    let submitted = place.submit(place.submission("exit 0", &[])).await;
    let (end, ..) = place.follow(&submitted).await;
    assert_eq!(end.code, exit::REFUSED, "{end:?}");
    assert!(end.why.contains("must specify limits.cpu") && end.why.contains("k8s.driver.cpu_limit"), "{end:?}");
    // As the sentence says.
    let submitted = place.submit(place.submission("exit 0", &[("k8s.driver.cpu_limit", "500m")])).await;
    assert_eq!(place.follow(&submitted).await.0.code, exit::DONE);
    place.leave().await;
}

/// The same cluster for a user who has these rules and nothing else.
async fn as_user(place: &Place, rules: &[Rule]) -> Cluster {
    let rules: Vec<_> = rules
        .iter()
        .map(|rule| json!({ "apiGroups": [rule.group], "resources": rule.resources, "verbs": rule.verbs }))
        .collect();
    let role: Role = made(json!({ "metadata": { "name": "ada" }, "rules": rules }));
    let roles: Api<Role> = api(&place.cluster);
    let _ = roles.delete("ada", &DeleteParams::default()).await;
    roles.create(&PostParams::default(), &role).await.unwrap();
    let binding: RoleBinding = made(json!({
        "metadata": { "name": "ada" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "ada" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ada" }],
    }));
    let _ = api::<RoleBinding>(&place.cluster).create(&PostParams::default(), &binding).await;
    let mut config = kube::Config::infer().await.unwrap();
    config.auth_info.impersonate = Some("ada".into());
    Cluster::with_client(kube::Client::try_from(config).unwrap(), place.cluster.namespace(), false)
}

#[tokio::test]
async fn a_submitter_needs_its_role_and_no_more() {
    let place = Place::new().await;
    let all = Part::Submitter.rules();
    let mut few = all.clone();
    few[0].verbs.retain(|verb| *verb != "patch");
    let plan = |submission: &Submission| Plan {
        part: Part::Submitter,
        job: Some(submission.job.clone()),
        executors: ExecutorPods {
            of: submission.job.pod.of.clone(),
            epoch: Epoch(1),
            owner: nobody(&submission.job.pod.root),
            cores: 1,
            memory: 64 << 20,
            disk: 64 << 20,
            tls_secret: "none".into(),
            template: None,
            settings: PodSettings::default(),
        },
        count: 1,
    };
    let submission = place.submission("echo hello", &[]);
    // Rights are known to the API server a moment after they were granted.
    let cluster = as_user(&place, &few).await;
    let missing = async || checks(&cluster, &plan(&submission)).await.unwrap();
    let expected = format!("- {} # missing: patch jobs\n", all[0]);
    until(async || missing().await[0].mend.as_deref().is_some_and(|mend| mend.contains(&expected))).await;
    let mend = missing().await[0].mend.clone().unwrap();
    assert!(mend.ends_with("- {apiGroup: rbac.authorization.k8s.io, kind: User, name: ada}\n"), "{mend}");
    let cluster = as_user(&place, &all).await;
    until(async || cluster.missing(Part::Submitter).await.unwrap().is_empty()).await;
    let checked = checks(&cluster, &plan(&submission)).await.unwrap();
    assert!(checked.iter().all(|check| check.outcome != Outcome::Failed), "{checked:#?}");
    // Everything that commands do, with these rights alone.
    let user = Place { cluster: cluster.clone() };
    let submitted = user.submit(submission).await;
    let (end, printed, _) = user.follow(&submitted).await;
    assert_eq!((end.code, printed.as_str()), (exit::DONE, "hello\n"), "{end:?}");
    let failed = user.submit(place.submission("echo wrong; exit 101", &[])).await;
    assert_eq!(user.follow(&failed).await.0.code, exit::FAILED);
    assert_eq!(roots(&cluster, &names::select_all()).await.unwrap().len(), 2);
    let seeing = see(&cluster, find(&cluster, &failed.app).await.unwrap()).await.unwrap();
    let gathered = gather(&cluster, &seeing).await.unwrap();
    assert_eq!(gathered.unseen, Vec::<String>::new());
    let found = findings(&seeing, &gathered, Vec::new(), cluster.namespace(), Wall::now());
    assert_eq!(found[0].severity, Severity::Fatal);
    assert!(found[0].says.contains("the program panicked") && found[0].lines == ["wrong"], "{found:#?}");
    remove(&cluster, &seeing.root).await.unwrap();
    until(async || find(&cluster, &failed.app).await.is_err()).await;
    sweep(&cluster, Sweep { older_than: STALE_AFTER, most: 20, jobs: true }).await.unwrap();
    place.leave().await;
}

#[tokio::test]
async fn a_lost_driver_begins_anew_if_it_may() {
    let place = Place::new().await;
    let mut submission = place.submission("trap 'exit 143' TERM; echo begun; busybox sleep 600 & wait", &[]);
    submission.job.restarts = 1;
    let submitted = place.submit(submission).await;
    let pods: Api<Pod> = api(&place.cluster);
    let name = place.running(&submitted).await.metadata.name.unwrap();
    let (followed, _) = tokio::join!(place.follow(&submitted), async {
        pods.delete(&name, &DeleteParams::default()).await.unwrap();
        until(async || pods.get_opt(&name).await.unwrap().is_none()).await;
        let second = place.running(&submitted).await.metadata.name.unwrap();
        assert_ne!(second, name);
        pods.delete(&second, &DeleteParams::default()).await.unwrap();
    });
    let (end, printed, _) = followed;
    assert_eq!((end.code, printed.as_str()), (exit::LOST, "begun\nbegun\n"), "{end:?}");
    place.leave().await;
}

#[tokio::test]
async fn whoever_is_interrupted_leaves_nothing_and_a_trial_makes_nothing() {
    let place = Place::new().await;
    let jobs: Api<Job> = api(&place.cluster);
    let submission = place.submission("exit 0", &[]);
    try_out(&place.cluster, &submission).await.unwrap();
    let mut refused = submission.clone();
    refused.job.pod.cores = Quantity("-1".into());
    let error = try_out(&place.cluster, &refused).await.unwrap_err();
    assert_eq!(error.exit_code(), exit::REFUSED);
    let stop = CancellationToken::new();
    stop.cancel();
    assert!(matches!(submit(&place.cluster, submission, &stop).await, Err(SubmitError::Interrupted)));
    assert!(jobs.list(&ListParams::default()).await.unwrap().items.is_empty());
    // In a status everything of a running one is there.
    let submitted = place.submit(place.submission("busybox sleep 600", &[])).await;
    place.running(&submitted).await;
    let root = find(&place.cluster, "a test").await.unwrap();
    let seeing = see(&place.cluster, root).await.unwrap();
    let status = seeing.status(place.cluster.namespace(), Wall::now()).unwrap();
    assert_eq!(status.pods.len(), 1, "{status:?}");
    assert_eq!((status.pods[0].who.as_str(), status.pods[0].state.as_str()), ("driver", "running"));
    place.leave().await;
}
