//! What is wrong with an application?

use k8s_backend::applications::{FindError, Wall, find, see};
use k8s_backend::diagnose::{self, Finding, Severity};
use model::{AppId, exit};

use super::connection::{Connection, connect};
use super::output::{Format, json, line};
use super::store::Store;
use super::{history, store};
use crate::config::Config;

/// Flags of `vonk diagnose`.
#[derive(Debug, clap::Args)]
pub(crate) struct Diagnose {
    /// Its id, its name, or the name of its root
    app: String,

    /// How the answer looks; JSON has one finding on each line
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,

    #[command(flatten)]
    connection: Connection,
}

impl Diagnose {
    pub(crate) async fn run(self) -> Result<u8, anyhow::Error> {
        let config = self.connection.config()?;
        let cluster = connect(&config).await?;
        let findings = match find(&cluster, &self.app).await {
            Ok(root) => {
                let app = root.app();
                let seeing = see(&cluster, root).await?;
                let gathered = diagnose::gather(&cluster, &seeing).await?;
                let mut findings = diagnose::findings(&seeing, &gathered, cluster.namespace(), Wall::now());
                if let (Some(app), Ok(store)) = (app, store::open(&config)) {
                    findings.extend(of_tasks(&store, app).await);
                }
                findings.sort_by_key(|finding| finding.severity);
                findings
            }
            Err(unknown @ FindError::Unknown { .. }) => past(&config, &self.app, unknown).await?,
            Err(error) => return Err(error.into()),
        };
        match self.output {
            Format::Json => findings.iter().for_each(json),
            Format::Text => findings.iter().for_each(|finding| line(&text(finding))),
        }
        Ok(exit::DONE)
    }
}

/// What is known of an application of which only the store knows.
async fn past(config: &Config, wanted: &str, unknown: FindError) -> Result<Vec<Finding>, anyhow::Error> {
    let Ok(store) = store::open(config) else { return Err(unknown.into()) };
    let Some(past) = history::find(&store, wanted).await? else { return Err(unknown.into()) };
    let (state, error) = (past.state(), past.error());
    let severity = if past.code() == exit::DONE && state != "lost" { Severity::Note } else { Severity::Fatal };
    let why = error.map(|error| format!(": {error}")).unwrap_or_default();
    let mut findings = vec![Finding {
        severity,
        says: format!("its pods are gone, and history has it as {state}{why}"),
        lines: Vec::new(),
    }];
    if let Ok(app) = past.app.parse() {
        findings.extend(of_tasks(&store, app).await);
    }
    findings.sort_by_key(|finding| finding.severity);
    Ok(findings)
}

/// Tasks that have failed, with what their executors had printed last.
async fn of_tasks(store: &Store, app: AppId) -> Vec<Finding> {
    match history::failed(store, app).await {
        Ok(failed) => failed
            .into_iter()
            .map(|failed| Finding {
                severity: if failed.retried { Severity::Warning } else { Severity::Fatal },
                says: failed.says,
                lines: failed.last_lines,
            })
            .collect(),
        Err(error) => {
            let says = format!("not looked at: failed tasks: {:#}", anyhow::Error::new(error));
            vec![Finding { severity: Severity::Note, says, lines: Vec::new() }]
        }
    }
}

fn text(finding: &Finding) -> String {
    let word = match finding.severity {
        Severity::Fatal => "fatal",
        Severity::Warning => "warning",
        Severity::Note => "note",
    };
    let lines: String = finding.lines.iter().map(|line| format!("\n    {line}")).collect();
    format!("{word}: {}{lines}", finding.says)
}
