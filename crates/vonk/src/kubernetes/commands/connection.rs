//! Which cluster is meant, and with which settings?

use k8s_backend::access::{Access, Cluster};
use k8s_backend::config as keys;

use super::Usage;
use crate::config::{Config, MASTER};

/// What precedes the URL of a cluster in a master.
const SCHEME: &str = "k8s://";

/// Flags of every command that talks to a cluster.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(id = "vonk::Connection")]
pub(crate) struct Connection {
    /// The cluster: k8s://[URL]; without a URL that of the kubeconfig's context, or the one this pod is in
    #[arg(long, value_name = "MASTER", help_heading = "Cluster")]
    pub(crate) master: Option<String>,

    /// The namespace; that of the kubeconfig's context or of this pod if not given
    #[arg(short, long, value_name = "NAMESPACE", help_heading = "Cluster")]
    pub(crate) namespace: Option<String>,

    /// The context of the kubeconfig; its current one if not given
    #[arg(long, value_name = "CONTEXT", help_heading = "Cluster")]
    pub(crate) context: Option<String>,

    /// Set a configuration key; may be repeated (docs/configuration.md lists them)
    #[arg(short, long = "conf", value_name = "KEY=VALUE", help_heading = "Cluster")]
    pub(crate) conf: Vec<String>,
}

impl Connection {
    /// What file, environment and these flags say.
    ///
    /// # Errors
    /// An unknown key or a value that does not fit.
    pub(crate) fn config(&self) -> Result<Config, crate::config::Error> {
        let mut config = Config::load()?;
        self.apply(&mut config)?;
        Ok(config)
    }

    /// Adds these flags to what file and environment said.
    ///
    /// # Errors
    /// An unknown key or a value that does not fit.
    pub(crate) fn apply(&self, config: &mut Config) -> Result<(), crate::config::Error> {
        self.conf.iter().try_for_each(|pair| config.assign(pair))?;
        let flags = [
            (MASTER.key, &self.master, "--master"),
            (keys::NAMESPACE.key, &self.namespace, "--namespace"),
            (keys::CONTEXT.key, &self.context, "--context"),
        ];
        flags.into_iter().try_for_each(|(key, value, flag)| match value {
            Some(value) => config.set(key, value, flag),
            None => Ok(()),
        })
    }
}

/// What follows `k8s://` in the master; nothing if the master is no cluster of Kubernetes.
pub(crate) fn url_of(config: &Config) -> Option<&str> {
    MASTER.value(config.values()).strip_prefix(SCHEME)
}

/// Finds the cluster.
///
/// # Errors
/// There is none, it does not answer, or it does not accept the credentials.
pub(crate) async fn connect(config: &Config) -> Result<Cluster, anyhow::Error> {
    crate::telemetry::init(crate::config::LOG.value(config.values()), None);
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let values = config.values();
    let access = Access {
        // A master that is none of Kubernetes' is that of other programs: these commands are about nothing else.
        url: url_of(config).and_then(some),
        context: some(keys::CONTEXT.value(values)),
        namespace: some(keys::NAMESPACE.value(values)),
    };
    Ok(Cluster::connect(&access).await?)
}

/// Refuses a master that is no cluster of Kubernetes.
///
/// # Errors
/// It is none.
pub(crate) fn want_kubernetes(config: &Config) -> Result<(), Usage> {
    match url_of(config) {
        Some(_) => Ok(()),
        None => {
            let master = MASTER.value(config.values());
            Err(Usage(format!("run the driver as a pod with master `{master}`: want --master k8s://[URL]")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_conf_and_a_master_has_a_url_or_none() {
        let connection = Connection {
            master: Some("k8s://https://one:6443".into()),
            namespace: Some("b".into()),
            conf: vec!["k8s.namespace=a".into(), "spark.kubernetes.context=c".into()],
            ..Connection::default()
        };
        let mut config = Config::default();
        connection.apply(&mut config).unwrap();
        assert_eq!(url_of(&config), Some("https://one:6443"));
        assert_eq!(keys::NAMESPACE.value(config.values()), "b");
        assert_eq!(keys::CONTEXT.value(config.values()), "c");
        assert!(want_kubernetes(&config).is_ok());
        let error = want_kubernetes(&Config::default()).unwrap_err().to_string();
        assert_eq!(error, "run the driver as a pod with master `local[*]`: want --master k8s://[URL]");
    }
}
