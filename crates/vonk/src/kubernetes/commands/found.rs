//! Which application is meant, and what is left of it?

use k8s_backend::access::Cluster;
use k8s_backend::applications::{self, FindError, Root};
use k8s_backend::config::NAMESPACE;
use model::exit;

use super::connection::connect;
use super::history::{self, Past};
use super::store::{self, Store, StoreError};
use super::{Usage, code_of};
use crate::config::Config;

/// What to do where no store is named.
pub(crate) const NAME_A_STORE: &str = "set --conf store=s3://bucket/prefix, or VONK_STORE";

/// An application.
pub(crate) enum Found {
    /// Its root is in the cluster.
    There {
        /// The cluster.
        cluster: Cluster,
        /// The root.
        root: Box<Root>,
    },
    /// Its root is gone: only the store knows of it.
    Past(Box<Past>),
    /// The cluster does not answer, and the store knows of it.
    Away {
        /// What the store knows.
        past: Box<Past>,
        /// Why the cluster does not answer.
        why: anyhow::Error,
    },
}

/// Finds the application with this id, name, or name of its root: in the cluster, and else in the store.
///
/// # Errors
/// There is none or many, or nobody answers.
pub(crate) async fn find(config: &Config, wanted: &str) -> Result<Found, anyhow::Error> {
    let of_cluster = async {
        let cluster = connect(config).await?;
        let root = Box::new(applications::find(&cluster, wanted).await?);
        Ok::<_, anyhow::Error>(Found::There { cluster, root })
    };
    match of_cluster.await {
        Err(unfound) => in_store(store::open(config), wanted, NAMESPACE.value(config.values()), unfound).await,
        found => found,
    }
}

/// Finds in the store what the cluster does not have, or does not tell. Without an answer, `namespace` is the one that was
/// named, if one was.
async fn in_store(
    store: Result<Store, StoreError>,
    wanted: &str,
    namespace: &str,
    unfound: anyhow::Error,
) -> Result<Found, anyhow::Error> {
    match (unfound.downcast_ref::<FindError>(), store) {
        (Some(FindError::Unknown { namespace, .. }), Ok(store)) => {
            match history::find(&store, wanted, Some(namespace)).await {
                Ok(Some(past)) => Ok(Found::Past(Box::new(past))),
                Ok(None) => Err(Usage(format!("{unfound}, and neither has the history in the store")).into()),
                Err(error) => Err(anyhow::Error::new(error).context(unfound.to_string())),
            }
        }
        (Some(FindError::Unknown { .. }), Err(StoreError::Unset)) => Err(Usage(format!(
            "{unfound}, and no `store` is configured, so only applications with a root in the cluster are known; {NAME_A_STORE}"
        ))
        .into()),
        (Some(FindError::Unknown { .. }), Err(error)) => {
            Err(anyhow::Error::new(error).context(unfound.to_string()))
        }
        (_, Ok(store)) if code_of(&unfound) == exit::LOST => {
            let found = match namespace {
                // Somebody else may call theirs so, in another namespace.
                "" => history::find_id(&store, wanted).await,
                namespace => history::find(&store, wanted, Some(namespace)).await,
            };
            match found {
                Ok(Some(past)) => Ok(Found::Away { past: Box::new(past), why: unfound }),
                Ok(None) | Err(_) => Err(unfound),
            }
        }
        _ => Err(unfound),
    }
}

#[cfg(test)]
mod tests {
    use k8s_backend::request::RequestError;
    use model::{AppId, keys};

    use super::super::history::tests::{store, told};
    use super::*;

    fn unknown(wanted: &str) -> anyhow::Error {
        FindError::Unknown { wanted: wanted.to_owned(), namespace: "team-a".to_owned() }.into()
    }

    fn away() -> anyhow::Error {
        FindError::from(RequestError::Unreachable { doing: "list Jobs".into(), why: "no answer".into() }).into()
    }

    async fn with_two() -> Store {
        let store = store();
        told(&store, AppId(7), "nightly", "team-a", &format!("vonk-{}", AppId(7))).await;
        told(&store, AppId(8), "nightly", "team-b", "vonk-kx-1").await;
        store
    }

    fn app(found: Result<Found, anyhow::Error>) -> String {
        match found {
            Ok(Found::Past(past)) => past.app.clone(),
            Ok(Found::Away { past, why }) => format!("{} although {why}", past.app),
            Ok(Found::There { .. }) => panic!("nobody was asked"),
            Err(error) => format!("{}: {error:#}", code_of(&error)),
        }
    }

    #[tokio::test]
    async fn what_the_cluster_does_not_have_is_found_in_the_store_by_any_of_its_names() {
        let (seven, eight) = (AppId(7).to_string(), AppId(8).to_string());
        let found = async |wanted: &str| app(in_store(Ok(with_two().await), wanted, "", unknown(wanted)).await);
        assert_eq!(found("nightly").await, seven, "the younger one is another namespace's");
        assert_eq!(found(&seven).await, seven);
        assert_eq!(found(&format!("vonk-{seven}")).await, seven);
        assert_eq!(found(&eight).await, eight, "an id is one everywhere");
        assert_eq!(
            found("vonk-kx-1").await,
            "2: find the application `vonk-kx-1`: the namespace team-a has none of that id or name, and neither has the history in the store"
        );
    }

    #[tokio::test]
    async fn that_there_is_no_store_to_look_into_is_said() {
        let found = app(in_store(Err(StoreError::Unset), "nightly", "", unknown("nightly")).await);
        let wanted = "2: find the application `nightly`: the namespace team-a has none of that id or name, and no `store` is configured, so only applications with a root in the cluster are known";
        assert_eq!(found, format!("{wanted}; {NAME_A_STORE}"));
        assert_eq!(
            app(in_store(Err(StoreError::Unset), "nightly", "", away()).await),
            "69: list Jobs: the API server does not answer: no answer"
        );
    }

    #[tokio::test]
    async fn the_store_is_asked_while_the_cluster_does_not_answer() {
        let found =
            async |wanted: &str, namespace: &str| app(in_store(Ok(with_two().await), wanted, namespace, away()).await);
        let why = "list Jobs: the API server does not answer: no answer";
        assert_eq!(found("nightly", "team-a").await, format!("{} although {why}", AppId(7)));
        assert_eq!(found("nightly", "").await, format!("69: {why}"), "it may be anybody's");
        assert_eq!(found(&AppId(8).to_string(), "").await, format!("{} although {why}", AppId(8)));
        assert_eq!(found("weekly", "").await, format!("69: {why}"));
        let many = FindError::Many { wanted: "nightly".into(), found: Vec::new() };
        assert!(app(in_store(Ok(with_two().await), "nightly", "", many.into()).await).starts_with("2: "));
    }

    #[tokio::test]
    async fn what_was_told_without_a_namespace_is_anybodys() {
        let store = store();
        told(&store, AppId(7), "nightly", "team-b", "vonk-a").await;
        let older = store.read(&keys::status(AppId(7))).await.unwrap().unwrap();
        let mut older: serde_json::Value = serde_json::from_slice(&older).unwrap();
        let fields = older.as_object_mut().unwrap();
        assert!(fields.remove("namespace").is_some() && fields.remove("root").is_some());
        store.write(&keys::status(AppId(7)), older.to_string().into_bytes()).await.unwrap();
        assert_eq!(app(in_store(Ok(store), "nightly", "", unknown("nightly")).await), AppId(7).to_string());
    }
}
