//! How is the cluster reached, and may we do there what we must?

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, PostParams};
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config, Resource};
use tokio::time::{Instant, sleep};

use crate::answer::{REQUEST_WITHIN, chain, within};
use crate::names;
use crate::request::{RequestError, ask};
use crate::rights::{Part, Rule, joined};

/// The oldest minor version of Kubernetes 1 with all that is used.
const OLDEST_MINOR: u32 = 30;

/// How long an API server is asked for its version that does not answer, and how often.
const INSIST_FOR: Duration = Duration::from_secs(30);
const INSIST_AGAIN: Duration = Duration::from_secs(1);

/// How often something is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Once,
    UntilAnswered,
}

/// Which cluster is meant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    /// What follows `k8s://`, if anything does.
    pub url: Option<String>,
    /// The context of the kubeconfig; its current one if none.
    pub context: Option<String>,
    /// The namespace; that of the context or of the pod if none.
    pub namespace: Option<String>,
}

/// Why a cluster cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Nobody says where one is.
    #[error("find a cluster: this is no pod ({in_cluster}), and there is no kubeconfig to use; set KUBECONFIG")]
    NoCluster {
        /// Why it is no pod.
        in_cluster: InClusterError,
        /// Why there is no kubeconfig.
        #[source]
        kubeconfig: KubeconfigError,
    },
    /// The kubeconfig has no such context, or it cannot be used.
    #[error("use the context `{context}` of the kubeconfig, which has {known}")]
    Context {
        /// Which.
        context: String,
        /// Those that there are.
        known: String,
        /// Why not.
        source: KubeconfigError,
    },
    /// No context of the kubeconfig leads to this URL.
    #[error("find {url} in the kubeconfig: no context leads there; it has {known}")]
    UnknownUrl {
        /// Which.
        url: String,
        /// Those that there are.
        known: String,
    },
    /// The URL is none.
    #[error("read the cluster's URL `{url}`")]
    Url {
        /// What was given.
        url: String,
        /// Why not.
        source: http::uri::InvalidUri,
    },
    /// The credentials or certificates cannot be used.
    #[error("prepare to talk to the API server at {url}")]
    Client {
        /// Where.
        url: String,
        /// Why not.
        source: Box<kube::Error>,
    },
    /// It does not answer.
    #[error("reach the API server at {url}: {why}")]
    Unreachable {
        /// Where.
        url: String,
        /// Why not.
        why: String,
    },
    /// It answers with a refusal.
    #[error("talk to the API server at {url}: {why}; check the credentials of the kubeconfig")]
    Refused {
        /// Where.
        url: String,
        /// In its own words.
        why: String,
    },
    /// It is too old.
    #[error("use the cluster at {url}: it is Kubernetes {found}, and 1.{OLDEST_MINOR} is the oldest that works")]
    TooOld {
        /// Where.
        url: String,
        /// Its version.
        found: String,
    },
}

/// A cluster that can be reached, and a namespace of it. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    shared: Arc<Shared>,
}

struct Shared {
    /// How it was found, unless the client was given.
    access: Option<Access>,
    namespace: String,
    url: String,
    inside: bool,
    client: RwLock<Client>,
}

impl Cluster {
    /// Finds the cluster and asks for its version.
    ///
    /// # Errors
    /// There is none, it does not answer, it does not accept the credentials, or it is too old.
    pub async fn connect(access: &Access) -> Result<Self, AccessError> {
        let cluster = Self::found(access).await?;
        cluster.check_version(Asked::Once).await?;
        Ok(cluster)
    }

    /// The same for who has nobody to try again: an API server that does not answer is asked for half a minute.
    ///
    /// # Errors
    /// Those of [`Cluster::connect`].
    pub async fn insist(access: &Access) -> Result<Self, AccessError> {
        let cluster = Self::found(access).await?;
        cluster.check_version(Asked::UntilAnswered).await?;
        Ok(cluster)
    }

    async fn found(access: &Access) -> Result<Self, AccessError> {
        let Found { config, inside } = find(access).await?;
        let url = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let namespace = access.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = client(config, &url)?;
        let shared = Shared { access: Some(access.clone()), namespace, url, inside, client: RwLock::new(client) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// With a client that is already there: for tests, and for those who have one.
    #[must_use]
    pub fn with_client(client: Client, namespace: &str, inside: bool) -> Self {
        let shared = Shared {
            access: None,
            namespace: namespace.to_owned(),
            url: "the given client".to_owned(),
            inside,
            client: RwLock::new(client),
        };
        Self { shared: Arc::new(shared) }
    }

    async fn check_version(&self, asked: Asked) -> Result<(), AccessError> {
        let url = || self.shared.url.clone();
        let client = self.client();
        let until = Instant::now() + INSIST_FOR;
        let version = loop {
            let answer = match within(client.apiserver_version()).await {
                Ok(version) => break version,
                Err(answer) => answer,
            };
            match answer.code {
                401 | 403 => return Err(AccessError::Refused { url: url(), why: answer.message }),
                _ if asked == Asked::Once || Instant::now() + INSIST_AGAIN > until => {
                    return Err(AccessError::Unreachable { url: url(), why: answer.message });
                }
                _ => sleep(INSIST_AGAIN).await,
            }
        };
        // Some distributions write `34+`.
        let minor: String = version.minor.chars().take_while(char::is_ascii_digit).collect();
        match minor.parse::<u32>() {
            Ok(minor) if version.major == "1" && minor < OLDEST_MINOR => {
                Err(AccessError::TooOld { url: url(), found: version.git_version })
            }
            _ => Ok(()),
        }
    }

    /// The namespace of all objects.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.shared.namespace
    }

    /// The API server's URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.shared.url
    }

    /// Whether this process is a pod of the cluster, and so reaches other pods at their addresses.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        self.shared.inside
    }

    /// The client.
    #[must_use]
    pub fn client(&self) -> Client {
        self.shared.client.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Objects of a kind in the namespace.
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client(), &self.shared.namespace)
    }

    /// Reads credentials once more: somebody may have renewed them.
    ///
    /// # Errors
    /// They cannot be read.
    pub async fn reload(&self) -> Result<(), AccessError> {
        let Some(access) = &self.shared.access else { return Ok(()) };
        let Found { config, .. } = find(access).await?;
        let client = client(config, &self.shared.url)?;
        *self.shared.client.write().unwrap_or_else(PoisonError::into_inner) = client;
        Ok(())
    }

    /// The pod that this process runs in, if it is one of this namespace: what it makes goes with it.
    ///
    /// # Errors
    /// The API server refuses or does not answer.
    pub async fn own_pod(&self) -> Result<Option<OwnerReference>, RequestError> {
        if !self.shared.inside {
            return Ok(None);
        }
        // A pod's host name is its own name, unless it says otherwise or uses its node's network; then there is no such pod.
        let Ok(name) = tokio::fs::read_to_string("/proc/sys/kernel/hostname").await else { return Ok(None) };
        Ok(self.pod(name.trim()).await?.and_then(|pod| names::owner("v1", "Pod", &pod.metadata)))
    }

    /// A pod of this namespace.
    pub(crate) async fn pod(&self, name: &str) -> Result<Option<Pod>, RequestError> {
        let pods: Api<Pod> = self.api();
        ask("look for the pod of this process", || pods.get_opt(name)).await
    }

    /// What a part of Vonk may not do in this namespace, and must.
    ///
    /// # Errors
    /// The API server does not say.
    pub async fn missing(&self, part: Part) -> Result<Vec<Rule>, AccessError> {
        let mut missing = Vec::new();
        for rule in part.rules().iter().flat_map(Rule::each) {
            if !self.may(&rule).await? {
                missing.push(rule);
            }
        }
        Ok(joined(missing))
    }

    /// Whether this may be done in this namespace: the first verb to the first resource of a rule.
    ///
    /// # Errors
    /// The API server does not say.
    pub async fn may(&self, rule: &Rule) -> Result<bool, AccessError> {
        let reviews: Api<SelfSubjectAccessReview> = Api::all(self.client());
        let review = review(rule, self.namespace());
        let answered = within(reviews.create(&PostParams::default(), &review)).await;
        let answer = answered
            .map_err(|answer| AccessError::Unreachable { url: self.shared.url.clone(), why: answer.message })?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }
}

fn review(rule: &Rule, namespace: &str) -> SelfSubjectAccessReview {
    let (resource, subresource) = match rule.resources[0].split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (rule.resources[0], None),
    };
    let attributes = ResourceAttributes {
        namespace: Some(namespace.to_owned()),
        group: Some(rule.group.to_owned()),
        resource: Some(resource.to_owned()),
        subresource,
        verb: Some(rule.verbs[0].to_owned()),
        ..ResourceAttributes::default()
    };
    let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), non_resource_attributes: None };
    SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() }
}

struct Found {
    config: Config,
    inside: bool,
}

/// A kubeconfig goes before a pod's own account: whoever puts one there means it.
async fn find(access: &Access) -> Result<Found, AccessError> {
    let kubeconfig = match Kubeconfig::read() {
        Ok(kubeconfig) => kubeconfig,
        Err(kubeconfig) => {
            let config = Config::incluster().map_err(|in_cluster| AccessError::NoCluster { in_cluster, kubeconfig })?;
            return Ok(Found { config, inside: true });
        }
    };
    let context = match (&access.context, &access.url) {
        (None, Some(url)) => Some(context_of(&kubeconfig, url)?),
        (context, _) => context.clone(),
    };
    let known = contexts(&kubeconfig);
    let named = context.clone().or_else(|| kubeconfig.current_context.clone()).unwrap_or_default();
    let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
    let mut config = config.map_err(|source| AccessError::Context { context: named, known, source })?;
    if let (Some(url), Some(_)) = (&access.url, &access.context) {
        // Both are given: the context says who we are, the URL says where.
        let url = with_scheme(url);
        config.cluster_url = url.parse().map_err(|source| AccessError::Url { url, source })?;
    }
    Ok(Found { config, inside: false })
}

fn client(mut config: Config, url: &str) -> Result<Client, AccessError> {
    // Whoever asks knows what may be asked again, and when; two that repeat would multiply.
    config.default_retry = false;
    config.connect_timeout = Some(REQUEST_WITHIN / 2);
    Client::try_from(config).map_err(|source| AccessError::Client { url: url.to_owned(), source: Box::new(source) })
}

fn with_scheme(url: &str) -> String {
    let url = url.trim_end_matches('/');
    if url.contains("://") { url.to_owned() } else { format!("https://{url}") }
}

/// The context that leads to a URL: the current one if it does.
fn context_of(kubeconfig: &Kubeconfig, url: &str) -> Result<String, AccessError> {
    let url = with_scheme(url);
    let leads_there = |context: &&kube::config::NamedContext| {
        let cluster = context.context.as_ref().map(|context| context.cluster.as_str());
        let named = kubeconfig.clusters.iter().find(|named| Some(named.name.as_str()) == cluster);
        let server = named.and_then(|named| named.cluster.as_ref()?.server.as_deref());
        server.is_some_and(|server| server.trim_end_matches('/') == url)
    };
    let mut found: Vec<&str> = kubeconfig.contexts.iter().filter(leads_there).map(|c| c.name.as_str()).collect();
    found.sort_by_key(|name| Some(*name) != kubeconfig.current_context.as_deref());
    match found.first() {
        Some(name) => Ok((*name).to_owned()),
        None => Err(AccessError::UnknownUrl { url, known: contexts(kubeconfig) }),
    }
}

fn contexts(kubeconfig: &Kubeconfig) -> String {
    let names: Vec<_> = kubeconfig.contexts.iter().map(|context| format!("`{}`", context.name)).collect();
    if names.is_empty() { "no context".to_owned() } else { names.join(", ") }
}

impl AccessError {
    /// The error and its causes on one line.
    #[must_use]
    pub fn sentence(&self) -> String {
        chain(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest;

    fn kubeconfig() -> Kubeconfig {
        manifest::yaml(
            "
            current-context: b
            clusters:
            - {name: one, cluster: {server: 'https://one:6443/'}}
            - {name: two, cluster: {server: 'https://two'}}
            contexts:
            - {name: a, context: {cluster: one}}
            - {name: b, context: {cluster: one}}
            - {name: c, context: {cluster: two}}
            users: []",
        )
        .unwrap()
    }

    #[test]
    fn a_url_finds_its_context() {
        assert_eq!(context_of(&kubeconfig(), "https://one:6443").unwrap(), "b", "the current one");
        assert_eq!(context_of(&kubeconfig(), "two/").unwrap(), "c");
        let error = context_of(&kubeconfig(), "https://three").unwrap_err().to_string();
        assert_eq!(error, "find https://three in the kubeconfig: no context leads there; it has `a`, `b`, `c`");
    }
}
