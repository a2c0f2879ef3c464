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

/// Where files are written, for those who know no session: a table's URL, with endpoint and region if it names none.
pub(crate) fn located(own: &str, destination: &str) -> String {
    match (Url::parse(own).ok(), Url::parse(destination)) {
        (own @ Some(_), Ok(mut url)) if url.query().is_none() => {
            let endpoint = endpoint(own.as_ref(), &url).map(str::to_owned);
            url.set_query(endpoint.as_deref());
            url.into()
        }
        _ => destination.to_owned(),
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
        let own = "s3://bucket/vonk?endpoint=http://minio:9000&region=x";
        let there = located(own, "s3://other/a/b/");
        assert_eq!(there, "s3://other/a/b/?endpoint=http://minio:9000&region=x");
        assert_eq!(located(own, "s3://other/a?region=y"), "s3://other/a?region=y");
        assert_eq!(located(own, "file:///a/b c/"), "file:///a/b c/");
        assert_eq!(located("", "s3://other/a"), "s3://other/a");
    }
}
