//! How does a query reach the stores that its tables lie in?
//!
//! Every store is opened when its URL is first seen. A table's URL names a bucket only; endpoint and region are those of the
//! application's own store if that is of the same kind, else those of the environment, as credentials always are.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::common::{DataFusionError, Result};
use datafusion::execution::object_store::ObjectStoreRegistry;
use model::JobRunner;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use url::Url;

use crate::visible::Visible;

/// Opens stores by URL, each once.
pub(crate) struct Stores {
    own: Option<Url>,
    /// Who knows of writes: where tables are listed.
    runner: Option<Arc<dyn JobRunner>>,
    open: Mutex<HashMap<String, Arc<dyn ObjectStore>>>,
}

impl Stores {
    /// `own` is the application's own store, or empty.
    pub(crate) fn new(own: &str) -> Self {
        Self { own: Url::parse(own).ok(), runner: None, open: Mutex::default() }
    }

    /// Stores whose lists wait for what was committed to be published.
    pub(crate) fn committed(self, runner: Arc<dyn JobRunner>) -> Self {
        Self { runner: Some(runner), ..self }
    }

    fn open(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        let mut root = url.clone();
        root.set_path("");
        let store: Arc<dyn ObjectStore> = if url.scheme() == "file" {
            Arc::new(LocalFileSystem::new())
        } else {
            root.set_query(self.own.as_ref().filter(|own| own.scheme() == url.scheme()).and_then(Url::query));
            shuffle::store::open(root.as_str()).map_err(|error| DataFusionError::External(Box::new(error)))?.0
        };
        let visible = Visible::new(store);
        Ok(Arc::new(match &self.runner {
            Some(runner) => {
                let runner = Arc::clone(runner);
                visible.committed(Arc::new(move |folder: &str| runner.settled(folder)), root)
            }
            None => visible,
        }))
    }
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_set().entries(open.keys()).finish()
    }
}

fn key(url: &Url) -> String {
    format!("{}://{}", url.scheme(), url.authority())
}

impl ObjectStoreRegistry for Stores {
    fn register_store(&self, url: &Url, store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(key(url), store)
    }

    fn get_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = open.get(&key(url)) {
            return Ok(Arc::clone(store));
        }
        let store = self.open(url)?;
        open.insert(key(url), Arc::clone(&store));
        Ok(store)
    }
}
