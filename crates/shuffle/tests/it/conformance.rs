//! Do the stores that Vonk runs on, and those its tests put in their place, keep what every store must?

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use shuffle::testing::conformance::{self, conformance};
use shuffle::testing::{Chaos, ChaosStore, Fault, Rule, SimStore, Verb};

fn root() -> Path {
    Path::from("conformance")
}

#[tokio::test]
async fn memory() {
    conformance(Arc::new(InMemory::new()), &root()).await;
}

#[tokio::test]
async fn local_files() {
    let folder = tempfile::tempdir().unwrap();
    conformance(Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap()), &root()).await;
}

#[tokio::test]
async fn chaos_without_rules() {
    let folder = tempfile::tempdir().unwrap();
    let inner: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap());
    let store = ChaosStore::new(inner, Chaos::default());
    conformance(Arc::new(store.clone()), &root()).await;
    assert!(store.count() > 1_000, "the suite went through the wrapper");
}

#[tokio::test(start_paused = true)]
async fn simulation_without_faults() {
    conformance(Arc::new(SimStore::quiet()), &root()).await;
    conformance(Arc::new(SimStore::s3(1)), &root()).await;
}

/// `VONK_TEST_S3_URL` is the server's URL and a bucket, as in `http://127.0.0.1:7070/vonk`; credentials are those of
/// the environment (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`).
#[tokio::test]
#[ignore = "needs an S3 server: cargo xtask test s3"]
async fn s3() {
    let url = std::env::var("VONK_TEST_S3_URL").expect("VONK_TEST_S3_URL names the server");
    let (endpoint, bucket) = url.trim_end_matches('/').rsplit_once('/').expect("the URL ends with a bucket");
    let store = AmazonS3Builder::from_env()
        .with_endpoint(endpoint)
        .with_bucket_name(bucket)
        .with_region("us-east-1")
        .with_allow_http(true)
        .build()
        .unwrap();
    conformance(Arc::new(store), &Path::from(format!("conformance-{}", std::process::id()))).await;
}

/// The suite sees what it is there for: each of these stores breaks one promise.
#[tokio::test]
async fn a_store_that_breaks_a_promise_is_found() {
    let broken = |verb, fault| -> Arc<dyn ObjectStore> {
        let rule = Rule::new(verb, "*", fault).nth(2).always();
        Arc::new(ChaosStore::new(Arc::new(InMemory::new()), Chaos::new([rule])))
    };
    let fails = async |check: &str, store: Arc<dyn ObjectStore>| {
        let name = check.to_owned();
        let mut checks = tokio::task::JoinSet::new();
        checks.spawn(async move {
            let store = store.as_ref();
            match name.as_str() {
                "put-get" => conformance::what_is_put_is_got(store, root()).await,
                "create" => conformance::of_many_creates_one_wins(store, root()).await,
                "range" => conformance::a_range_is_exact(store, root()).await,
                "missing" => conformance::what_is_missing_is_not_found(store, root()).await,
                other => eprintln!("no check is called {other}"),
            }
        });
        let ended = checks.join_next().await.expect("one check");
        assert!(ended.is_err_and(|error| error.is_panic()), "{check} did not see it");
    };
    fails("put-get", broken(Verb::Put, Fault::FlipBit)).await;
    fails("create", broken(Verb::Create, Fault::CreateOverwrites)).await;
    fails("range", broken(Verb::Get, Fault::ShortBody)).await;
    fails("missing", broken(Verb::Head, Fault::Status(500))).await;
}
