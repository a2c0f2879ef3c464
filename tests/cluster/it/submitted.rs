//! What becomes of an application whose driver is a pod?

use std::time::{Duration, Instant};

use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod, Secret};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{DeleteParams, ListParams, LogParams, PostParams, PropagationPolicy};

use crate::ground::{Ground, in_namespace, made, ours, until_within};
use crate::running::{Ended, Running, listening, processes_of_pod, sums};

/// What the driver leaves goes within this time.
const SOON_GONE: Duration = Duration::from_secs(30);

/// Executors whose tasks do not end have 30 s for it, and their nodes a little more to tell.
const DRAINED_WITHIN: Duration = Duration::from_secs(45);

/// A driver that heard SIGTERM ends, and its node tells, long before its 30 s are over.
const ENDED_WITHIN: Duration = Duration::from_secs(12);

/// Runs a test where drivers may be pods, and removes the Jobs that keep what became of them.
async fn where_drivers_are_pods(test: impl AsyncFnOnce(&mut Ground)) {
    in_namespace(&[("pod-security.kubernetes.io/enforce", "restricted")], async |ground| {
        ground.let_in("vonk-driver").await;
        test(ground).await;
        ground.remove_all::<Job>().await;
    })
    .await;
}

/// The application's id, and what its driver has printed.
fn printed(ended: &Ended) -> (&str, &str) {
    ended.stdout.split_once('\n').unwrap_or_else(|| panic!("no id: {ended:?}"))
}

/// Lines of rows that the driver has printed, without what it said.
fn rows(ended: &Ended) -> String {
    let rows = printed(ended).1.lines().filter(|line| line.contains('\t'));
    rows.map(|row| format!("{row}\n")).collect()
}

/// Whether the driver has printed this line.
fn has_printed(ended: &Ended, line: &str) -> bool {
    printed(ended).1.lines().any(|found| found == line)
}

/// The id of an application that was submitted.
async fn id(running: &Running) -> String {
    running.prints("").await.1
}

async fn delete_driver(ground: &Ground) {
    let name = ground.drivers().await.remove(0).metadata.name.unwrap();
    ground.api::<Pod>().delete(&name, &DeleteParams::default()).await.unwrap();
}

async fn no_executor_is_left(ground: &Ground) {
    until_within(SOON_GONE, "no executor is left", async || ground.executors().await.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_in_the_cluster_sums_and_leaves_its_job_alone() {
    where_drivers_are_pods(async |ground| {
        let ended = ground.submit(&["--num-executors=2"], &["sum"]).ends().await;
        ended.with_code(0);
        assert_eq!(rows(&ended), sums(40_000, 100));
        assert_eq!(ground.notes.of("map").await.unwrap().len(), 4);
        no_executor_is_left(ground).await;
        assert_eq!(ground.left_in_store().await, [""; 0]);
        let diagnosed = ground.vonk(&["diagnose", printed(&ended).0]).ends().await;
        diagnosed.with_code(0);
        assert!(diagnosed.stdout.starts_with("note: it has succeeded: nothing is wrong\n"), "{diagnosed:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_was_deleted_ends_its_application() {
    where_drivers_are_pods(async |ground| {
        let running = ground.submit(&[], &["wait", "1"]);
        ground.noted("runs", 1).await;
        delete_driver(ground).await;
        let ended = running.ends().await;
        ended.with_code(69);
        ended.said("driver pod was deleted");
        no_executor_is_left(ground).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_may_begin_anew_does_and_its_second_epoch_succeeds() {
    where_drivers_are_pods(async |ground| {
        let running = ground.submit(&["--driver-restarts=1"], &["wait", "1"]);
        ground.noted("runs", 1).await;
        delete_driver(ground).await;
        ground.noted("runs", 2).await;
        let epoch = |pod: &Pod| pod.metadata.labels.as_ref()?.get("vonk.dev/epoch").cloned();
        let epochs: Vec<_> = ground.executors().await.iter().map(epoch).collect();
        assert_eq!(epochs, [Some("2".to_owned())], "those of the first are gone");
        ground.notes.open_gate("go").await.unwrap();
        let ended = running.ends().await;
        ended.with_code(0);
        assert!(has_printed(&ended, "0"), "{ended:?}");
        no_executor_is_left(ground).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_longer_than_its_timeout_ends_itself() {
    where_drivers_are_pods(async |ground| {
        let running = ground.submit(&["--timeout=8s"], &["wait", "1"]);
        ground.noted("runs", 1).await;
        let ended = running.ends().await;
        ended.with_code(124);
        ended.said("ran longer than --timeout");
        assert!(printed(&ended).1.contains("it ran longer than --timeout: stopping"), "{ended:?}");
        no_executor_is_left(ground).await;
        assert_eq!(ground.left_in_store().await, [""; 0], "it had the time to tidy up");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_is_killed_before_it_has_an_application() {
    where_drivers_are_pods(async |ground| {
        let running = ground.submit(&[], &["--late", "wait", "1"]);
        ground.noted("begun", 1).await;
        ground.vonk(&["kill", &id(&running).await]).ends().await.with_code(0);
        let killed = Instant::now();
        running.ends().await.with_code(143);
        until_within(SOON_GONE, "its pod is gone", async || ground.drivers().await.is_empty()).await;
        assert!(killed.elapsed() < ENDED_WITHIN, "{:?}", killed.elapsed());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_ends_all_and_at_once_if_it_is_to() {
    where_drivers_are_pods(async |ground| {
        for (how, within) in [(&["kill"][..], DRAINED_WITHIN), (&["kill", "--now"], Duration::from_secs(5))] {
            let before = ground.notes.of("runs").await.unwrap().len();
            let running = ground.submit(&["--num-executors=2"], &["wait", "2"]);
            ground.noted("runs", before + 2).await;
            let app = id(&running).await;
            ground.vonk(&[how, &[&app]].concat()).ends().await.with_code(0);
            let none = async || ground.drivers().await.is_empty() && ground.executors().await.is_empty();
            until_within(within, "no pod is left", none).await;
            running.ends().await.with_code(143);
        }
        // The second had no time to tidy up: the next application does.
        let sweep = ["--conf=store.sweep_after=1s"];
        ground.submit(&sweep, &["sum"]).ends().await.with_code(0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_whose_job_is_gone_stops_making_executors() {
    where_drivers_are_pods(async |ground| {
        let running = ground.submit(&["--num-executors=2"], &["wait", "2"]);
        ground.noted("runs", 2).await;
        let root = format!("vonk-{}", id(&running).await);
        // Its pods stay, and nothing owns them: whatever is made in the name of the Job is collected.
        let orphan = DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..Default::default() };
        ground.api::<Job>().delete(&root, &orphan).await.unwrap();
        let name = ground.drivers().await.remove(0).metadata.name.unwrap();
        let pods = ground.api::<Pod>();
        let removed = format!("application was removed: its Job {root} is gone");
        let log = async || pods.logs(&name, &LogParams::default()).await.unwrap();
        ground.until("the driver says so", async || log().await.contains(&removed)).await;
        for executor in ground.executor_names().await {
            pods.delete(&executor, &DeleteParams::default().grace_period(0)).await.unwrap();
        }
        let ended = async || {
            let phase = pods.get(&name).await.unwrap().status.and_then(|status| status.phase);
            phase.as_deref() == Some("Failed")
        };
        ground.until("the driver ends", ended).await;
        let said = log().await;
        running.ends().await.with_code(143);
        no_executor_is_left(ground).await;
        ground.remove_all::<Pod>().await;
        ground.remove_all::<Secret>().await;
        ground.remove_all::<ConfigMap>().await;
        assert!(!said.contains("lost e3"), "none is made in vain: {said}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_is_heard_in_every_phase_of_a_submission() {
    where_drivers_are_pods(async |ground| {
        let jobs = ground.api::<Job>();
        let some = async || !jobs.list(&Default::default()).await.unwrap().items.is_empty();
        for phase in ["uploaded", "made", "submitted"] {
            let running = ground.submit(&[], &["wait", "1"]);
            match phase {
                "uploaded" => ground.until("its program is in the store", async || ground.has_programs().await).await,
                "made" => ground.until("its Job is there", some).await,
                _ => drop(id(&running).await),
            }
            running.signal("INT");
            running.ends_within(DRAINED_WITHIN).await.with_code(130);
            ground.until(&format!("its Job is gone: {phase}"), async || !some().await).await;
            until_within(SOON_GONE, "its pod is gone", async || ground.drivers().await.is_empty()).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_one_application_until_it_has_failed() {
    where_drivers_are_pods(async |ground| {
        let key = ["--idempotency-key=nightly"];
        let (one, other) = (ground.submit(&key, &["fail"]), ground.submit(&key, &["fail"]));
        let (one, other) = tokio::join!(one.ends(), other.ends());
        one.with_code(1);
        other.with_code(1);
        assert_eq!(printed(&one).0, printed(&other).0, "one id");
        let again = ground.submit(&key, &["print"]).ends().await;
        again.with_code(0);
        assert_ne!(printed(&again).0, printed(&one).0, "it has failed");
        assert!(has_printed(&again, "a driver says 0"), "{again:?}");
        let late = ground.submit(&key, &["fail"]).ends().await;
        late.with_code(0);
        late.said("attached: it was submitted before");
        assert_eq!(printed(&late), printed(&again), "whoever comes later hears the same");
        // As the cluster does an hour after the end.
        let jobs = ground.api::<Job>();
        let finished = DeleteParams::background();
        jobs.delete_collection(&finished, &ours()).await.unwrap();
        ground.until("its Job is gone", async || jobs.list(&ours()).await.unwrap().items.is_empty()).await;
        let after = ground.submit(&key, &["fail"]).ends().await;
        after.with_code(0);
        assert_eq!(printed(&after).0, printed(&again).0, "history answers");
        assert!(jobs.list(&ours()).await.unwrap().items.is_empty(), "nothing was made");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_back_detaches_by_a_signal() {
    where_drivers_are_pods(async |ground| {
        let key = ["--idempotency-key=nightly"];
        let running = ground.submit(&key, &["wait", "1"]);
        ground.noted("runs", 1).await;
        let app = id(&running).await;
        running.signal("INT");
        let left = running.ends().await;
        left.with_code(130);
        left.said("the application goes on");
        let back = ground.submit(&key, &["wait", "1"]);
        assert_eq!(id(&back).await, app);
        ground.notes.open_gate("go").await.unwrap();
        let ended = back.ends().await;
        ended.with_code(0);
        assert!(has_printed(&ended, "0"), "{ended:?}");
        assert_eq!(ground.notes.of("runs").await.unwrap().len(), 1, "nothing ran twice");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_of_the_image_runs_as_it_is() {
    where_drivers_are_pods(async |ground| {
        let words = ["submit", "--deploy-mode=cluster"];
        let ended = ground.stock(&words, &["local:///usr/local/bin/vonk", "preflight"]).ends().await;
        ended.with_code(0);
        assert!(printed(&ended).1.contains("as vonk-driver"), "{ended:?}");
        assert!(!ground.has_programs().await, "nothing is sent");
        let ended = ground.stock(&words, &["local:///usr/local/bin/nothing"]).ends().await;
        ended.with_code(78);
        ended.said("could not execute its program");
    })
    .await;
}

/// Whoever is killed between two objects leaves a Job that never runs, or one that runs as if nothing had happened.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_submitter_leaves_no_driver_that_lacks_something() {
    where_drivers_are_pods(async |ground| {
        let jobs = ground.api::<Job>();
        let all = async || jobs.list(&ListParams::default()).await.unwrap().items;
        for moment in ["the program is sent", "there is a Job", "there is a Secret"] {
            let running = ground.submit(&[], &["print"]);
            let comes = async || match moment {
                "the program is sent" => ground.has_programs().await,
                "there is a Job" => !all().await.is_empty(),
                _ => ground.api::<Secret>().get_opt(&files_of(&all().await)).await.unwrap().is_some(),
            };
            ground.until(moment, comes).await;
            running.signal("KILL");
            running.ends().await;
            for job in all().await {
                let suspended = job.spec.as_ref().is_some_and(|spec| spec.suspend == Some(true));
                if suspended {
                    assert_eq!(ground.drivers().await.len(), 0, "{moment}: what is half made does not run");
                    continue;
                }
                let name = job.metadata.name.unwrap();
                let ended = async || {
                    let conditions = jobs.get(&name).await.unwrap().status.and_then(|status| status.conditions);
                    conditions.unwrap_or_default().iter().any(|condition| condition.type_ == "Complete")
                };
                ground.until(&format!("{moment}: what is complete ends well"), ended).await;
            }
            // As gc does with what is half made after ten minutes: everything else belongs to the Job.
            ground.remove_all::<Job>().await;
            ground.nothing_is_left().await;
        }
    })
    .await;
}

/// The Secret that the only Job's driver has.
fn files_of(jobs: &[Job]) -> String {
    let name = jobs.first().and_then(|job| job.metadata.name.clone()).unwrap_or_default();
    format!("{name}-driver")
}

#[tokio::test(flavor = "multi_thread")]
async fn executors_that_run_finish_the_job_of_a_driver_without_rights() {
    where_drivers_are_pods(async |ground| {
        let running = ground.submit(&["--num-executors=2"], &["sum", "--hold"]);
        ground.noted("reduce", 2).await;
        ground.api::<RoleBinding>().delete("vonk-driver", &DeleteParams::default()).await.unwrap();
        let reviews = ground.api_of_all::<SubjectAccessReview>();
        let may = async || {
            let asked = serde_json::json!({ "spec": {
                "user": format!("system:serviceaccount:{}:vonk-driver", ground.namespace()),
                "resourceAttributes": { "namespace": ground.namespace(), "verb": "create", "resource": "pods" },
            } });
            let review: SubjectAccessReview = made(asked);
            let answer = reviews.create(&PostParams::default(), &review).await.unwrap();
            answer.status.is_some_and(|status| status.allowed)
        };
        ground.until("the driver may make no pods", async || !may().await).await;
        ground.notes.open_gate("reduce").await.unwrap();
        let ended = running.ends().await;
        ended.with_code(0);
        assert_eq!(rows(&ended), sums(40_000, 100));
        assert_eq!(ground.notes.of("reduce").await.unwrap().len(), 2, "no task ran again");
        assert_eq!(ground.losses().await, []);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keys_of_the_store_and_of_links_are_in_secrets_alone() {
    where_drivers_are_pods(async |ground| {
        let key = std::env::var("AWS_SECRET_ACCESS_KEY").unwrap();
        let running = ground.submit(&["--num-executors=1", "--conf=log=debug"], &["wait", "1"]);
        ground.noted("runs", 1).await;
        let app = id(&running).await;
        let all = ListParams::default();
        let pods = ground.api::<Pod>();
        let mut texts = vec![
            serde_json::to_string(&pods.list(&all).await.unwrap().items).unwrap(),
            serde_json::to_string(&ground.api::<Job>().list(&all).await.unwrap().items).unwrap(),
            serde_json::to_string(&ground.api::<ConfigMap>().list(&ours()).await.unwrap().items).unwrap(),
            serde_json::to_string(&ground.api::<Event>().list(&all).await.unwrap().items).unwrap(),
        ];
        assert!(texts.iter().all(|text| text.len() > 2), "there are some of each");
        for pod in ground.drivers().await.into_iter().chain(ground.executors().await) {
            texts.push(pods.logs(&pod.metadata.name.unwrap(), &LogParams::default()).await.unwrap());
        }
        for pod in ground.drivers().await.into_iter().chain(ground.executors().await) {
            let ports: &[u16] = if pod.metadata.labels.unwrap()["vonk.dev/role"] == "driver" { &[] } else { &[7079] };
            for process in processes_of_pod(&pod.metadata.uid.unwrap()) {
                let told = |file: &str| std::fs::read(format!("/proc/{process}/{file}")).unwrap();
                let (words, environment) = (told("cmdline"), told("environ"));
                assert!(!String::from_utf8_lossy(&words).contains(&key), "keys of the store come by the environment");
                texts.push(String::from_utf8_lossy(&environment).replace(&key, ""));
                texts.push(String::from_utf8_lossy(&words).into_owned());
                assert_eq!(listening(process), ports, "ports that are open");
            }
        }
        texts.push(ground.ask(&["diagnose", &app]).ends().await.stdout);
        ground.notes.open_gate("go").await.unwrap();
        let ended = running.ends().await;
        ended.with_code(0);
        texts.extend([ended.stdout.clone(), ended.stderr.clone()]);
        for name in ["status.json", "00000001-driver.log", "00000001-e1.log"] {
            // Who printed nothing has no log.
            texts.extend(ground.kept(name).await);
        }
        for text in texts {
            assert!(!text.contains(&key) && !text.contains("PRIVATE KEY"), "{text}");
        }
    })
    .await;
}
