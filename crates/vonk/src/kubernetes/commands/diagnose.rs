//! What is wrong with an application?

use k8s_backend::applications::{Wall, find, see};
use k8s_backend::diagnose::{self, Finding, Severity};
use k8s_backend::exit;

use super::connection::{Connection, connect};
use super::output::{Format, json, line};

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
        let root = find(&cluster, &self.app).await?;
        let seeing = see(&cluster, root).await?;
        let gathered = diagnose::gather(&cluster, &seeing).await?;
        let findings = diagnose::findings(&seeing, &gathered, cluster.namespace(), Wall::now());
        match self.output {
            Format::Json => findings.iter().for_each(json),
            Format::Text => findings.iter().for_each(|finding| line(&text(finding))),
        }
        Ok(exit::DONE)
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
