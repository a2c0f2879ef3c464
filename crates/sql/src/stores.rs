//! How does a query reach the stores that its tables lie in?
//!
//! Every store is opened when its URL is first seen. A table's URL names a bucket only; endpoint and region are those of the
//! application's own store if that is of the same kind, else those of the environment, as credentials always are.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::common::{DataFusionError, Result};
use datafusion::execution::config::SessionConfig;
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
    pub(crate) fn new(own: &OwnStore) -> Self {
        Self { own: Url::parse(&own.0).ok(), runner: None, open: Mutex::default() }
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
            root.set_query(endpoint(self.own.as_ref(), url));
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

/// What the URL of the application's own store says of endpoint and region, for another one of the same kind.
fn endpoint<'a>(own: Option<&'a Url>, url: &Url) -> Option<&'a str> {
    own.filter(|own| own.scheme() == url.scheme()).and_then(Url::query)
}

/// The URL of the application's own store, as an extension of a session's configuration.
#[derive(Debug, Clone, Default)]
pub(crate) struct OwnStore(pub(crate) String);

impl OwnStore {
    /// That of a session; empty if there is none.
    pub(crate) fn of(config: &SessionConfig) -> Arc<Self> {
        config.get_extension().unwrap_or_default()
    }

    /// Where files are written, for those who know no session: a table's URL, with endpoint and region if it names none.
    pub(crate) fn located(&self, destination: &str) -> String {
        match (Url::parse(&self.0).ok(), Url::parse(destination)) {
            (own @ Some(_), Ok(mut url)) if url.query().is_none() => {
                url.set_query(endpoint(own.as_ref(), &url.clone()));
                url.into()
            }
            _ => destination.to_owned(),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes to an S3-compatible server went to Amazon's.
    #[test]
    fn what_is_written_goes_where_the_applications_store_is() {
        let own = OwnStore("s3://bucket/vonk?endpoint=http://minio:9000&region=x".into());
        assert_eq!(own.located("s3://other/a/b/"), "s3://other/a/b/?endpoint=http://minio:9000&region=x");
        assert_eq!(own.located("s3://other/a?region=y"), "s3://other/a?region=y");
        assert_eq!(own.located("file:///a/b/"), "file:///a/b/");
        assert_eq!(OwnStore::default().located("s3://other/a"), "s3://other/a");
    }
}
