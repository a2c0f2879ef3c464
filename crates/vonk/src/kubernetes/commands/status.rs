//! How is an application?

use k8s_backend::applications::{self, FindError, Wall, ago, find, see};
use model::exit;
use serde::Serialize;

use super::connection::{Connection, connect};
use super::output::{Format, json, line, table};
use super::told::{Told, told};
use super::{history, store};

/// Flags of `vonk status`.
#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    /// Its id, its name, or the name of its root
    pub(crate) app: String,

    /// How the answer looks
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,

    #[command(flatten)]
    pub(crate) connection: Connection,
}

impl Status {
    pub(crate) async fn run(self) -> Result<u8, anyhow::Error> {
        let config = self.connection.config()?;
        let cluster = connect(&config).await?;
        let now = Wall::now();
        let root = match find(&cluster, &self.app).await {
            Ok(root) => root,
            Err(unknown @ FindError::Unknown { .. }) => return past(&config, &self.app, self.output, unknown).await,
            Err(error) => return Err(error.into()),
        };
        let app = root.app();
        let told = async {
            match app {
                Some(app) => told(&config, app).await,
                None => None,
            }
        };
        let (seeing, told) = tokio::join!(see(&cluster, root), told);
        if let Some(status) = seeing?.status(cluster.namespace(), now) {
            match self.output {
                Format::Json => json(&Whole { status, told }),
                Format::Text => {
                    line(&text(&status));
                    told.iter().for_each(|told| line(&told.text(&status.waits)));
                }
            }
        }
        Ok(exit::DONE)
    }
}

/// What the cluster knows, and what the driver told.
#[derive(Debug, Serialize)]
struct Whole<T> {
    #[serde(flatten)]
    status: T,
    told: Option<Told>,
}

/// An application of which only the store knows.
async fn past(
    config: &crate::config::Config,
    app: &str,
    output: Format,
    unknown: FindError,
) -> Result<u8, anyhow::Error> {
    let found = match store::open(config) {
        Ok(store) => history::find(&store, app).await?,
        // Without a store the cluster's answer is the last one.
        Err(_) => None,
    };
    let Some(past) = found else { return Err(unknown.into()) };
    let application = past.application(Wall::now());
    let told = past.told.map(Told::new);
    match output {
        Format::Json => json(&Whole { status: application, told }),
        Format::Text => {
            let age = ago(std::time::Duration::from_secs(application.age_seconds));
            line(&format!("{}  {}  {}  began {age} ago", application.app, application.name, application.state));
            told.iter().for_each(|told| line(&told.text(&[])));
        }
    }
    Ok(exit::DONE)
}

fn text(status: &applications::Status) -> String {
    let application = &status.application;
    let age = ago(std::time::Duration::from_secs(application.age_seconds));
    let mut text = format!("{}  {}  {}, {age}", application.app, application.name, application.state);
    if let Some(end) = status.end.as_ref().filter(|end| end.code != exit::DONE) {
        text.push_str(&format!("\nexit code {}: {}", end.code, end.why));
    }
    for wait in &status.waits {
        text.push_str(&format!("\n{wait}"));
    }
    if !status.pods.is_empty() {
        let row =
            |pod: &applications::PodLine| vec![pod.who.clone(), pod.state.clone(), pod.node.clone(), pod.pod.clone()];
        let rows: Vec<_> = status.pods.iter().map(row).collect();
        text.push_str(&format!("\n{}", table(&["WHO", "STATE", "NODE", "POD"], &rows)));
    }
    text
}
