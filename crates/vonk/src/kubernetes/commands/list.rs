//! Which applications are there?

use std::time::Duration;

use k8s_backend::applications::{self, Application, Mode, Wall, ago};
use k8s_backend::names;
use model::exit;
use serde::Serialize;

use super::connection::{Connection, connect};
use super::output::{Format, json, line, table};
use super::told::Told;
use super::{history, store};

/// Flags of `vonk list`.
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Those too of which only the store knows: of the last 30 days, and the 100 youngest at most
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
        let known = roots.iter().filter_map(|root| root.application(cluster.namespace(), now));
        let mut found: Vec<Row> = known.map(|application| Row { application, told: None }).collect();
        let mut older = 0;
        if self.all {
            let store = store::open(&config)?;
            let youngest = history::all(&store, cluster.namespace()).await?;
            older = youngest.older;
            for past in youngest.found {
                let application = past.application(now);
                let told = past.told.map(Told::new);
                match found.iter_mut().find(|row| row.application.app == application.app) {
                    Some(row) => row.told = told,
                    None => found.push(Row { application, told }),
                }
            }
        }
        match self.output {
            Format::Json => found.iter().for_each(json),
            Format::Text if found.is_empty() => {
                eprintln!("no applications in the namespace {}", cluster.namespace());
            }
            Format::Text => line(&text(&found, self.all)),
        }
        if let Some(rest) = rest(older, cluster.namespace()) {
            eprintln!("{rest}");
        }
        Ok(exit::DONE)
    }
}

/// An application, and what its driver told.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    application: Application,
    #[serde(skip_serializing_if = "Option::is_none")]
    told: Option<Told>,
}

/// What is said of those that are not listed.
fn rest(older: usize, namespace: &str) -> Option<String> {
    (older > 0)
        .then(|| format!("… and {older} older ones, of {namespace} or other namespaces: `vonk status ID` finds each"))
}

fn text(found: &[Row], all: bool) -> String {
    let row = |Row { application, told }: &Row| {
        let mode = match application.mode {
            Mode::Cluster => "cluster",
            Mode::Client => "client",
        };
        let age = ago(Duration::from_secs(application.age_seconds));
        let mut cells =
            vec![application.app.clone(), application.name.clone(), mode.to_owned(), application.state.clone(), age];
        if all {
            cells.push(told.as_ref().map(Told::brief).unwrap_or_default());
        }
        cells
    };
    let headings = ["APPLICATION", "NAME", "MODE", "STATE", "AGE", "ITS DRIVER SAID"];
    let headings = &headings[..if all { 6 } else { 5 }];
    table(headings, &found.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_a_list_is_cut_is_said() {
        assert_eq!(rest(0, "team-a"), None);
        let said = "… and 7 older ones, of team-a or other namespaces: `vonk status ID` finds each";
        assert_eq!(rest(7, "team-a").as_deref(), Some(said));
    }
}
