//! Which applications are there?

use std::time::Duration;

use k8s_backend::applications::{self, Application, Mode, Wall, ago};
use k8s_backend::{exit, names};

use super::connection::{Connection, connect};
use super::output::{Format, json, line, table};
use super::{history, store};

/// Flags of `vonk list`.
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Those too of which only the store knows: of the last 30 days
    #[arg(short, long)]
    all: bool,

    /// How the answer looks; JSON has one application on each line
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,

    #[command(flatten)]
    connection: Connection,
}

impl List {
    pub(crate) async fn run(self) -> Result<u8, anyhow::Error> {
        let config = self.connection.config()?;
        let cluster = connect(&config).await?;
        let now = Wall::now();
        let roots = applications::roots(&cluster, &names::select_all()).await?;
        let mut found: Vec<Application> =
            roots.iter().filter_map(|root| root.application(cluster.namespace(), now)).collect();
        if self.all {
            let store = store::open(&config)?;
            for past in history::all(&store).await? {
                if found.iter().all(|known| known.app != past.app) {
                    found.push(past.application(now));
                }
            }
        }
        match self.output {
            Format::Json => found.iter().for_each(json),
            Format::Text if found.is_empty() => {
                eprintln!("no applications in the namespace {}", cluster.namespace());
            }
            Format::Text => line(&text(&found)),
        }
        Ok(exit::DONE)
    }
}

fn text(found: &[Application]) -> String {
    let row = |application: &Application| {
        let mode = match application.mode {
            Mode::Cluster => "cluster",
            Mode::Client => "client",
        };
        let age = ago(Duration::from_secs(application.age_seconds));
        vec![application.app.clone(), application.name.clone(), mode.to_owned(), application.state.clone(), age]
    };
    table(&["APPLICATION", "NAME", "MODE", "STATE", "AGE"], &found.iter().map(row).collect::<Vec<_>>())
}
