//! Does what the manifests install work?

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, LogParams};
use serde_json::json;

use crate::ground::{STORE_KEYS, image, in_namespace, manifest};

#[tokio::test(flavor = "multi_thread")]
async fn the_cronjob_sweeps_with_its_own_role_where_pods_are_restricted() {
    in_namespace(&[("pod-security.kubernetes.io/enforce", "restricted")], async |ground| {
        ground.let_in("vonk-gc").await;
        // As `kubectl create job --from=cronjob/vonk-gc` does.
        let mut spec = manifest("CronJob", "vonk-gc")["spec"]["jobTemplate"]["spec"].clone();
        let container = &mut spec["template"]["spec"]["containers"][0];
        container["image"] = json!(image());
        let key = |name: &str, key: &str| {
            json!({ "name": name, "valueFrom": { "secretKeyRef": { "name": STORE_KEYS, "key": key } } })
        };
        let store = json!({ "name": "VONK_STORE", "value": ground.store_url() });
        container["env"] = json!([store, key("AWS_ACCESS_KEY_ID", "id"), key("AWS_SECRET_ACCESS_KEY", "key")]);
        ground.make::<Job>(json!({ "metadata": { "name": "gc-now" }, "spec": spec })).await;
        let jobs = ground.api::<Job>();
        let ended = async || {
            let status = jobs.get("gc-now").await.unwrap().status.unwrap_or_default();
            status.succeeded.or(status.failed).is_some_and(|pods| pods > 0)
        };
        ground.until("it has swept", ended).await;
        let pods = ground.api::<Pod>();
        let of_job = ListParams::default().labels("job-name=gc-now");
        let pod = pods.list(&of_job).await.unwrap().items.remove(0).metadata.name.unwrap();
        let log = pods.logs(&pod, &LogParams::default()).await.unwrap();
        let status = jobs.get("gc-now").await.unwrap().status.unwrap();
        assert_eq!(status.succeeded, Some(1), "{log}");
    })
    .await;
}
