//! What becomes of answers that are lost, late or refusals?

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;

use futures::FutureExt;
use k8s_backend::access::Cluster;
use k8s_backend::backend::PodBackend;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::{Client, Config};
use model::backend::ClusterBackend;
use model::failure::LossCause;
use serde_json::json;
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::between::Between;
use crate::cluster::{ECHO, Events, Ground, api, made, until};

/// So many requests are sent at once.
const AT_ONCE: u32 = 50;

/// Beyond those so many are sent in a second, at most, to an API server that refuses them.
const REFUSED_PER_SECOND: f64 = 10.0;

/// So many pods are wanted: more than are created at once.
const WANTED: u32 = 60;

fn behind(ground: &Ground, cluster: Cluster, settings: &[(&str, &str)]) -> (Arc<PodBackend>, Events) {
    let mut config = ground.config(ECHO, settings);
    config.cluster = cluster;
    let backend = PodBackend::new(config, Handle::current());
    let events = Events::of(&*backend);
    (backend, events)
}

async fn names(ground: &Ground) -> BTreeSet<String> {
    let pods = ground.pods().list(&ListParams::default()).await.unwrap().items;
    pods.into_iter().filter_map(|pod| pod.metadata.name).collect()
}

/// Ends the application, and sees that its pods go.
async fn end(ground: &Ground, backend: &PodBackend) {
    backend.stop().await;
    until(async || names(ground).await.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_whose_answer_is_lost_doubles_no_pod() {
    let ground = Ground::new(&[]).await;
    let (cluster, between) = Between::stand(&ground.cluster.client(), ground.cluster.namespace());
    let (backend, mut events) = behind(&ground, cluster, &[]);
    between.lose(2);
    backend.set_target(3);
    let mut executors = BTreeSet::new();
    for _ in 0..3 {
        executors.insert(events.reachable().await);
    }
    assert_eq!(between.to_lose(), 0, "answers were lost");
    assert_eq!(executors.len(), 3);
    assert_eq!(names(&ground).await.len(), 3);
    end(&ground, &backend).await;
    ground.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_while_no_watch_runs_is_learnt_afterwards() {
    let ground = Ground::new(&[]).await;
    let (cluster, between) = Between::stand(&ground.cluster.client(), ground.cluster.namespace());
    let (backend, mut events) = behind(&ground, cluster, &[]);
    backend.set_target(3);
    for _ in 0..3 {
        events.reachable().await;
    }
    let before = names(&ground).await;
    between.blind();
    let gone = before.first().unwrap();
    ground.pods().delete(gone, &DeleteParams::default().grace_period(0)).await.unwrap();
    between.see();
    let (cause, why) = events.lost().await;
    assert_eq!(cause, LossCause::Infrastructure, "{why}");
    events.reachable().await;
    let after = names(&ground).await;
    assert_eq!(after.len(), 3);
    assert_eq!(after.intersection(&before).count(), 2, "{before:?} became {after:?}");
    end(&ground, &backend).await;
    ground.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_with_one_seat_is_asked_ever_slower_and_makes_all_pods() {
    let ground = Ground::new(&[]).await;
    let user = ground.cluster.namespace().to_owned();
    let client = ground.cluster.client();
    let binding: RoleBinding = made(json!({
        "metadata": { "name": "all" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user }],
    }));
    api(&ground.cluster).create(&PostParams::default(), &binding).await.unwrap();
    // Without shares there is one seat all the same.
    let seats =
        json!({ "nominalConcurrencyShares": 0, "borrowingLimitPercent": 0, "limitResponse": { "type": "Reject" } });
    let level: PriorityLevelConfiguration =
        made(json!({ "metadata": { "name": user }, "spec": { "type": "Limited", "limited": seats } }));
    let subject = json!({ "kind": "User", "user": { "name": user } });
    let anything = json!({ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"] });
    let schema: FlowSchema = made(json!({
        "metadata": { "name": user },
        "spec": {
            "priorityLevelConfiguration": { "name": user },
            "matchingPrecedence": 2,
            "rules": [{ "subjects": [subject], "resourceRules": [anything] }],
        },
    }));
    let (levels, schemas) = (Api::all(client.clone()), Api::all(client));
    levels.create(&PostParams::default(), &level).await.unwrap();
    schemas.create(&PostParams::default(), &schema).await.unwrap();
    let asked = AssertUnwindSafe(asked_by(&ground, &user)).catch_unwind().await;
    // They are the whole cluster's, whatever came of it.
    schemas.delete(&user, &DeleteParams::default()).await.unwrap();
    levels.delete(&user, &DeleteParams::default()).await.unwrap();
    asked.unwrap_or_else(|panic| resume_unwind(panic));
    ground.leave().await;
}

/// Whoever has one seat wants many pods at once.
async fn asked_by(ground: &Ground, user: &str) {
    let mut config = Config::infer().await.unwrap();
    config.auth_info.impersonate = Some(user.to_owned());
    // As ours is: who is refused says so, and waits as long as it thinks right.
    config.default_retry = false;
    let (cluster, between) = Between::stand(&Client::try_from(config).unwrap(), ground.cluster.namespace());
    let pods: Api<Pod> = api(&cluster);
    // The API server reads new rules when it likes.
    until(async || {
        let all = ListParams::default();
        let many = (0..20).map(|_| pods.list_metadata(&all));
        futures::future::join_all(many).await.iter().any(Result::is_err)
    })
    .await;
    let refused_before = between.overloaded();
    let (backend, _events) = behind(ground, cluster, &[("k8s.executor.node_selector.vonk.dev/room", "nowhere")]);
    let began = Instant::now();
    backend.set_target(WANTED);
    until(async || names(ground).await.len() >= WANTED as usize).await;
    let took = began.elapsed();
    let refused = between.overloaded() - refused_before;
    assert!(refused > 0);
    assert!(
        f64::from(refused.saturating_sub(AT_ONCE)) <= REFUSED_PER_SECOND * took.as_secs_f64(),
        "{refused} in {took:?}"
    );
    assert_eq!(names(ground).await.len(), WANTED as usize);
    end(ground, &backend).await;
}
