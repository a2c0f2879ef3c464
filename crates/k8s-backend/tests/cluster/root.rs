//! Does a root own what it should, and does its loss end the application?

use std::time::Duration;

use k8s_backend::own_pod::Over;
use k8s_backend::sweep::{Sweep, sweep};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Secret;
use kube::api::DeleteParams;
use model::backend::ClusterBackend;
use tokio::time::timeout;

use crate::cluster::{ECHO, Ground, SOON, api, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_root_takes_all_with_it_and_its_driver_hears_of_it() {
    let ground = Ground::new(&[]).await;
    let (backend, mut events) = ground.backend(ECHO, &[]);
    backend.set_target(1);
    events.reachable().await;
    let (leases, secrets) = (api::<Lease>(&ground.cluster), api::<Secret>(&ground.cluster));
    let name = ground.root.owner().name.clone();
    let secret = format!("{name}-executor");
    until(async || {
        let lease = leases.get(&name).await.unwrap();
        lease.metadata.annotations.is_some_and(|all| all.contains_key("vonk.dev/complete"))
    })
    .await;
    assert!(timeout(Duration::from_millis(200), ground.root.lost()).await.is_err(), "it is there");
    // A sweep leaves the living alone, and takes what has not been renewed for longer than nothing.
    let living = Sweep { older_than: Duration::from_secs(60), most: 20, jobs: true };
    assert_eq!(sweep(&ground.cluster, living).await.unwrap(), Vec::<String>::new());
    leases.delete(&name, &DeleteParams::background()).await.unwrap();
    until(async || secrets.get_opt(&secret).await.unwrap().is_none()).await;
    until(async || {
        ground
            .pods()
            .list(&Default::default())
            .await
            .unwrap()
            .items
            .iter()
            .all(|pod| pod.metadata.deletion_timestamp.is_some())
    })
    .await;
    let over = timeout(SOON, ground.root.lost()).await.expect("the next renewal finds out");
    assert_eq!(over, Over::Killed("application was removed: its Lease is gone".into()));
    backend.stop().await;
    ground.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stale_is_swept() {
    let ground = Ground::new(&[]).await;
    let name = ground.root.owner().name.clone();
    let stale = Sweep { older_than: Duration::ZERO, most: 20, jobs: true };
    // A renewal between look and deletion saves it: the deletion is of what was judged.
    until(async || sweep(&ground.cluster, stale).await.unwrap() == [name.clone()]).await;
    ground.leave().await;
}
