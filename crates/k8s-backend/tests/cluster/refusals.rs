//! Does the cluster say what `refusal` and `why` expect it to?

use k8s_backend::access::Cluster;
use k8s_backend::backend::PodBackend;
use k8s_backend::rights::Part;
use k8s_openapi::api::core::v1::ResourceQuota;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{DeleteParams, PostParams};
use model::backend::ClusterBackend;
use serde_json::json;
use tokio::runtime::Handle;
use tokio::time::{Duration, Instant};

use crate::cluster::{ECHO, Events, Ground, api, made};

async fn quota(ground: &Ground, hard: serde_json::Value) {
    let quota: ResourceQuota = made(json!({ "metadata": { "name": "q" }, "spec": { "hard": hard } }));
    api(&ground.cluster).create(&PostParams::default(), &quota).await.unwrap();
    // It counts once its controller has looked.
    let quotas = api::<ResourceQuota>(&ground.cluster);
    crate::cluster::until(async || quotas.get("q").await.unwrap().status.is_some_and(|status| status.used.is_some()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_is_full_is_lived_with() {
    let ground = Ground::new(&[]).await;
    quota(&ground, json!({ "pods": "1" })).await;
    let (backend, mut events) = ground.backend(ECHO, &[]);
    backend.set_target(10);
    let why = events.waiting("running with 1 of 10 executors").await;
    assert_eq!(why, "running with 1 of 10 executors: exceeded quota: q, used: pods=1, limited: pods=1");
    backend.set_target(2);
    api::<ResourceQuota>(&ground.cluster).delete("q", &DeleteParams::default()).await.unwrap();
    events.reachable().await;
    backend.stop().await;
    ground.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_wants_limits_names_the_setting() {
    let ground = Ground::new(&[]).await;
    quota(&ground, json!({ "limits.cpu": "8" })).await;
    let asked = Instant::now();
    let (backend, mut events) = ground.backend(ECHO, &[]);
    backend.set_target(1);
    let why = events.refused().await;
    assert!(why.ends_with("set k8s.executor.cpu_limit") && why.contains("must specify limits.cpu"), "{why}");
    assert!(asked.elapsed() < Duration::from_secs(10));
    backend.stop().await;
    let (backend, mut events) = ground.backend(ECHO, &[("k8s.executor.cpu_limit", "1")]);
    backend.set_target(1);
    events.reachable().await;
    backend.stop().await;
    ground.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_room_is_said_in_the_schedulers_words() {
    let ground = Ground::new(&[]).await;
    let (backend, mut events) = ground.backend(ECHO, &[("executor.cores", "64")]);
    let asked = Instant::now();
    backend.set_target(3);
    let why = events.waiting("waiting for room: 3 executors").await;
    assert!(why.starts_with("waiting for room: 3 executors of 64 cpu, 64 MiB: 0/"), "{why}");
    assert!(why.ends_with("Insufficient cpu"), "{why}");
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    backend.set_target(0);
    events.waiting("").await;
    backend.stop().await;
    ground.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_and_secrets_that_are_not_there_are_named_and_then_refused() {
    let ground = Ground::new(&[]).await;
    let cases: [(&[(&str, &str)], &str); 3] = [
        (&[("k8s.image", "localhost/nothing:9")], "cannot pull image localhost/nothing:9 on node"),
        (&[("k8s.executor.secret_env.PASSWORD", "db:password")], "cannot start e1: secret \"db\" not found"),
        (&[("k8s.executor.secrets.db", "/db")], "cannot start e1: secret \"db\" not found"),
    ];
    for (settings, words) in cases {
        let asked = Instant::now();
        let (backend, mut events) = ground.backend(ECHO, settings);
        backend.set_target(1);
        let why = events.waiting(words).await;
        assert!(asked.elapsed() < Duration::from_secs(15), "{why}: {:?}", asked.elapsed());
        let why = events.refused().await;
        assert!(why.contains(words), "{why}");
        assert!(asked.elapsed() < Duration::from_secs(80), "{why}: {:?}", asked.elapsed());
        backend.stop().await;
    }
    let (backend, mut events) = ground.backend(ECHO, &[("k8s.image", "localhost/Nothing:9")]);
    backend.set_target(1);
    let why = events.refused().await;
    assert!(why.starts_with("cannot use image localhost/Nothing:9: ") && why.contains("lowercase"), "{why}");
    backend.stop().await;
    ground.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_refuses_in_its_own_words() {
    let ground = Ground::new(&[("pod-security.kubernetes.io/enforce", "restricted")]).await;
    let volume = "[{name: host, mountPath: /host, hostPath: {path: /}}]";
    let mut config = ground.config(ECHO, &[]);
    config.executors.pods = ground.config(ECHO, &[("k8s.executor.volumes", volume)]).executors.pods;
    let backend = PodBackend::new(config, Handle::current());
    let mut events = Events::of(&*backend);
    backend.set_target(1);
    let why = events.refused().await;
    assert!(why.contains("violates PodSecurity \"restricted:latest\"") && why.contains("template"), "{why}");
    backend.stop().await;
    ground.leave().await;
}

/// Somebody with a Role, or with none.
async fn somebody(ground: &Ground, part: Option<Part>) -> Cluster {
    let mut config = kube::Config::infer().await.unwrap();
    let name = "somebody";
    if let Some(part) = part {
        let rules: Vec<_> = part
            .rules()
            .iter()
            .map(|rule| json!({ "apiGroups": [rule.group], "resources": rule.resources, "verbs": rule.verbs }))
            .collect();
        let role: Role = made(json!({ "metadata": { "name": name }, "rules": rules }));
        api(&ground.cluster).create(&PostParams::default(), &role).await.unwrap();
        let binding: RoleBinding = made(json!({
            "metadata": { "name": name },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name }],
        }));
        api(&ground.cluster).create(&PostParams::default(), &binding).await.unwrap();
    }
    config.auth_info.impersonate = Some(name.to_owned());
    config.default_retry = false;
    let client = kube::Client::try_from(config).unwrap();
    Cluster::with_client(client, ground.cluster.namespace(), false)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_is_printed_as_a_rule() {
    let ground = Ground::new(&[]).await;
    let nobody = somebody(&ground, None).await;
    assert_eq!(nobody.missing(Part::Client).await.unwrap().len(), 6, "every resource that is needed");
    let mut config = ground.config(ECHO, &[]);
    config.cluster = nobody;
    let backend = PodBackend::new(config, Handle::current());
    let mut events = Events::of(&*backend);
    backend.set_target(1);
    let why = events
        .find(|event| match event {
            model::backend::ClusterEvent::Refused { why } if why.contains("verbs: [list]") => Some(why.clone()),
            _ => None,
        })
        .await;
    assert!(why.ends_with("add this rule to the Role: {apiGroups: [\"\"], resources: [pods], verbs: [list]}"), "{why}");
    backend.stop().await;
    ground.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rights_of_a_client_are_enough() {
    let ground = Ground::new(&[]).await;
    let client = somebody(&ground, Some(Part::Client)).await;
    assert_eq!(client.missing(Part::Client).await.unwrap(), []);
    assert!(!client.missing(Part::Submitter).await.unwrap().is_empty());
    let mut config = ground.config(ECHO, &[]);
    config.cluster = client;
    let backend = PodBackend::new(config, Handle::current());
    let mut events = Events::of(&*backend);
    backend.set_target(1);
    let executor = events.reachable().await;
    assert!(backend.dial(executor).await.is_ok());
    backend.stop().await;
    ground.leave().await;
}
