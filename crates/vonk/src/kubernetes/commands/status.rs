//! How is an application?

use k8s_backend::applications::{self, Wall, ago, see};
use k8s_backend::request::RequestError;
use model::exit;
use serde::Serialize;

use super::connection::Connection;
use super::found::{Found, find};
use super::history::Past;
use super::output::{Format, json, line, table};
use super::told::{Told, told};

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
        let (cluster, root) = match find(&config, &self.app).await? {
            Found::There { cluster, root } => (cluster, *root),
            Found::Past(past) => return Ok(of_store(*past, self.output)),
            Found::Away { past, why } => {
                eprintln!("the cluster cannot be asked, and this is what the store knows: {why:#}");
                return Ok(of_store(*past, self.output));
            }
        };
        let app = root.app();
        let told = async {
            match app {
                Some(app) => told(&config, app).await,
                None => None,
            }
        };
        let seeing = async {
            let mut seeing = see(&cluster, root).await?;
            seeing.look_up_events(&cluster).await;
            Ok::<_, RequestError>(seeing)
        };
        let (seeing, told) = tokio::join!(seeing, told);
        if let Some(status) = seeing?.status(cluster.namespace(), Wall::now()) {
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

/// An application of which only the store is asked.
fn of_store(past: Past, output: Format) -> u8 {
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
    exit::DONE
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
