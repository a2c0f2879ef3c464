//! Does every backend of this crate keep what backends promise? (That of processes needs an executable; `tests/` has one.)

use std::sync::Arc;

use driver::backend::conformance;
use driver::backend::local::LocalBackend;
use model::backend::ClusterBackend;
use object_store::memory::InMemory;
use tokio::runtime::Handle;

use crate::program::{Program, executor_config};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_local_backend_keeps_every_promise() {
    let disk = tempfile::tempdir().unwrap();
    let new = || -> Arc<dyn ClusterBackend> {
        let config = executor_config(Arc::new(InMemory::new()), 1, disk.path().to_owned());
        LocalBackend::new(config, Arc::new(Program::sums()), Handle::current())
    };
    conformance::every_promise(new, 1).await;
}
