//! What happens when the cluster refuses?

use std::time::Duration;

use k8s_backend::rights::Part;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use serde_json::json;

use crate::ground::in_namespace;

/// What can be repaired from outside is waited for so long, and a little.
const SOON_GIVEN_UP: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_is_printed_as_a_rule() {
    in_namespace(&[], async |ground| {
        let user = "somebody";
        let rules = Part::Client.rules().into_iter().map(|rule| {
            let verbs: Vec<&str> = match rule.resources[..] == ["pods"] {
                true => rule.verbs.into_iter().filter(|verb| *verb != "create").collect(),
                false => rule.verbs,
            };
            json!({ "apiGroups": [rule.group], "resources": rule.resources, "verbs": verbs })
        });
        let rules: Vec<_> = rules.collect();
        ground.make::<Role>(json!({ "metadata": { "name": user }, "rules": rules })).await;
        let api = "rbac.authorization.k8s.io";
        let binding = json!({
            "metadata": { "name": user },
            "roleRef": { "apiGroup": api, "kind": "Role", "name": user },
            "subjects": [{ "apiGroup": api, "kind": "User", "name": user }],
        });
        ground.make::<RoleBinding>(binding).await;
        ground.act_as(user);
        let running = ground.start(&[], &["sum"]);
        ground.asks_for_pods().await;
        let asked = std::time::Instant::now();
        let ended = running.ends().await;
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        ended.with_code(78);
        ended.said("{apiGroups: [\"\"], resources: [pods], verbs: [create]}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: an image may still come for a minute"]
async fn an_image_that_is_nowhere_is_named() {
    in_namespace(&[], async |ground| {
        let running = ground.start(&[("k8s.image", "localhost/nothing:9")], &["sum"]);
        let began = running.began;
        running.says("cannot pull image localhost/nothing:9 on node").await;
        let ended = running.ends_within(SOON_GIVEN_UP).await;
        ended.with_code(78);
        ended.said("cannot pull image localhost/nothing:9 on node");
        assert!(began.elapsed() > Duration::from_secs(55), "{:?}", began.elapsed());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: a Secret may still come for a minute"]
async fn a_secret_that_is_nowhere_is_named() {
    in_namespace(&[], async |ground| {
        let running = ground.start(&[("k8s.executor.secret_env.PASSWORD", "db:password")], &["sum"]);
        running.says("secret \"db\" not found").await;
        let ended = running.ends_within(SOON_GIVEN_UP).await;
        ended.with_code(78);
        ended.said("secret \"db\" not found");
    })
    .await;
}
