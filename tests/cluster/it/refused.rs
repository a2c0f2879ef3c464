//! What happens when the cluster refuses?

use std::time::Duration;

use k8s_backend::rights::{Part, Rule};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::ground::{Ground, in_namespace, until_within};

/// What can be repaired from outside is waited for so long, and a little.
const SOON_GIVEN_UP: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_is_printed_as_a_rule() {
    in_namespace(&[], async |ground| {
        let rules = Part::Client.rules().into_iter().map(|rule| {
            let verbs: Vec<&str> = match rule.resources[..] == ["pods"] {
                true => rule.verbs.into_iter().filter(|verb| *verb != "create").collect(),
                false => rule.verbs,
            };
            json!({ "apiGroups": [rule.group], "resources": rule.resources, "verbs": verbs })
        });
        ground.let_only("somebody", &rules.collect::<Vec<_>>()).await;
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

fn json_of(rule: &Rule) -> serde_json::Value {
    json!({ "apiGroups": [rule.group], "resources": rule.resources, "verbs": rule.verbs })
}

/// Runs the checks of a submitter until they say so of its rights, which take a moment, and end with this code.
async fn checked(ground: &Ground, code: i32, rights: &str) -> String {
    let mut said = String::new();
    let ends_so = async || {
        let ended = ground.ask(&["preflight", "--deploy-mode", "cluster"]).ends().await;
        said = ended.stdout;
        ended.code == Some(code) && said.contains(rights)
    };
    until_within(Duration::from_secs(30), &format!("preflight ends with {code}, `{rights}`"), ends_so).await;
    said
}

/// Applies what was printed, as an administrator does with kubectl.
async fn apply(ground: &Ground, said: &str) {
    for text in said.split("\n---\n").filter(|text| text.starts_with("apiVersion: ")) {
        let object = serde_saphyr::from_str::<serde_json::Value>(text).unwrap();
        match object["kind"].as_str() {
            Some("Role") => apply_one::<Role>(ground, &object).await,
            Some("RoleBinding") => apply_one::<RoleBinding>(ground, &object).await,
            Some("ServiceAccount") => apply_one::<ServiceAccount>(ground, &object).await,
            other => panic!("{other:?} was printed: {text}"),
        }
    }
}

async fn apply_one<K>(ground: &Ground, object: &serde_json::Value)
where
    K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let name = object["metadata"]["name"].as_str().unwrap();
    assert_eq!(object["metadata"]["namespace"], ground.namespace());
    let forced = PatchParams::apply("an-administrator").force();
    ground.api::<K>().patch(name, &forced, &Patch::Apply(object)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: a user for every rule"]
async fn every_rule_that_a_submitter_lacks_is_printed_and_none_is_printed_in_vain() {
    in_namespace(&[], async |ground| {
        let has_all = "ok       rights: all of vonk-submitter";
        // An administrator lacks the account alone, which is of no use without its rights.
        let said = checked(ground, 78, has_all).await;
        assert!(said.contains("FAILED   driver's account: there is no vonk-driver"), "{said}");
        apply(ground, &said).await;
        checked(ground, 0, has_all).await;
        let rules = Part::Submitter.rules();
        ground.let_only("all", &rules.iter().map(json_of).collect::<Vec<_>>()).await;
        checked(ground, 0, has_all).await;
        for (n, missing) in rules.iter().enumerate() {
            let rest: Vec<_> = rules.iter().filter(|rule| *rule != missing).map(json_of).collect();
            ground.let_only(&format!("without-{n}"), &rest).await;
            let count = missing.each().count();
            let said = checked(ground, 78, &format!("rights: {count} of vonk-submitter are missing")).await;
            assert!(said.contains(&format!("- {missing} # missing\n")), "{missing}: {said}");
            assert_eq!(said.matches("# missing").count(), 1, "{said}");
            apply(ground, &said).await;
            checked(ground, 0, has_all).await;
        }
        // Whoever was bound before still is, and who is bound to nothing is helped as well.
        ground.act_as("without-0");
        checked(ground, 0, has_all).await;
        ground.act_as("nobody");
        let said = checked(ground, 78, "of vonk-submitter are missing").await;
        assert_eq!(said.matches("} # missing\n").count(), rules.len(), "{said}");
        apply(ground, &said).await;
        checked(ground, 0, has_all).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_looks_as_a_driver_does_and_is_removed() {
    in_namespace(&[("pod-security.kubernetes.io/enforce", "restricted")], async |ground| {
        ground.let_in("vonk-driver").await;
        let ended = ground.stock(&["preflight", "--pod"], &[]).ends().await;
        ended.with_code(0);
        for words in ["as vonk-submitter\n", "as vonk-driver\n", "ok       executor: would be created\n"] {
            assert!(ended.stdout.contains(words), "no `{words}`: {ended:?}");
        }
        assert_eq!(ended.stdout.matches("ok       store: delete").count(), 2, "here and there: {ended:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_refuses_a_pod_is_named_with_what_to_set() {
    in_namespace(&[], async |ground| {
        ground.let_in("vonk-driver").await;
        let wrong = json!({ "metadata": { "name": "wrong" }, "stringData": { "key": "nothing" } });
        ground.make::<Secret>(wrong).await;
        let settings = ["--conf=k8s.driver.secret_env.AWS_SECRET_ACCESS_KEY=wrong:key"];
        let ended = ground.submit(&settings, &["sum"]).ends().await;
        ended.with_code(78);
        ended.said("the store refuses the driver pod");
        ended.said("set k8s.driver.secret_env.*");
        ground.remove_all::<Job>().await;
    })
    .await;
}
