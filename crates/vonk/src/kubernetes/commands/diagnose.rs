//! What is wrong with an application?

use std::time::Duration;

use k8s_backend::access::Cluster;
use k8s_backend::applications::{Root, Wall, ago, see};
use k8s_backend::diagnose::{self, Finding, Severity};
use model::{AppId, exit};

use super::connection::Connection;
use super::found::{Found, find};
use super::history::Past;
use super::output::{Format, json, line};
use super::store::Store;
use super::told::Told;
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
        let findings = match find(&config, &self.app).await? {
            Found::There { cluster, root } => {
                let app = root.app();
                match of_cluster(&config, &cluster, *root).await {
                    Err(error) if super::code_of(&error) == exit::LOST => match (app, store::open(&config)) {
                        (Some(app), Ok(store)) => away(&store, app, &error).await,
                        _ => return Err(error),
                    },
                    findings => findings?,
                }
            }
            Found::Past(past) => gone(&store::open(&config)?, &past).await,
            Found::Away { past, why } => match past.id() {
                Some(app) => away(&store::open(&config)?, app, &why).await,
                None => return Err(why),
            },
        };
        match self.output {
            Format::Json => findings.iter().for_each(json),
            Format::Text => findings.iter().for_each(|finding| line(&text(finding))),
        }
        Ok(exit::DONE)
    }
}

async fn of_cluster(config: &Config, cluster: &Cluster, root: Root) -> Result<Vec<Finding>, anyhow::Error> {
    let app = root.app();
    let seeing = see(cluster, root).await?;
    let gathered = diagnose::gather(cluster, &seeing).await?;
    let now = Wall::now();
    let runs = seeing.state(now) == "running";
    let told = match (app, store::open(config)) {
        (Some(app), Ok(store)) => of_store(&store, app, runs).await,
        _ => Vec::new(),
    };
    Ok(diagnose::findings(&seeing, &gathered, told, cluster.namespace(), now))
}

/// What the store knows while the API server, or something on the way to it, is away.
async fn away(store: &Store, app: AppId, why: &anyhow::Error) -> Vec<Finding> {
    let says = format!("the cluster cannot be asked, and this is what the store knows: {why:#}");
    let mut findings = vec![Finding::new(Severity::Fatal, says)];
    findings.extend(of_store(store, app, true).await);
    findings.sort_by_key(|finding| finding.severity);
    findings
}

/// What is known of an application of which only the store knows.
async fn gone(store: &Store, past: &Past) -> Vec<Finding> {
    let (state, error) = (past.state(), past.error());
    let severity = if past.code() == exit::DONE && state != "lost" { Severity::Note } else { Severity::Fatal };
    let why = error.map(|error| format!(": {error}")).unwrap_or_default();
    let says = format!("its pods are gone, and history has it as {state}{why}");
    let mut findings = vec![Finding::new(severity, says)];
    if let Some(app) = past.id() {
        findings.extend(of_events(store, app).await);
    }
    findings.sort_by_key(|finding| finding.severity);
    findings
}

/// What the driver has told the store, and what its event log has.
async fn of_store(store: &Store, app: AppId, runs: bool) -> Vec<Finding> {
    let told = match history::told(store, app).await {
        Ok(standing) => standing.map(Told::new).map(|told| of_told(&told, runs)).unwrap_or_default(),
        Err(error) => vec![unseen("what its driver told", error)],
    };
    told.into_iter().chain(of_events(store, app).await).collect()
}

/// What only a driver knows: why it waits for executors, as it says on its terminal, and with what it ended.
fn of_told(told: &Told, runs: bool) -> Vec<Finding> {
    let Told { standing, age_seconds } = told;
    let age = ago(Duration::from_secs(*age_seconds));
    if let Some(end) = &standing.end {
        let error = end.error.as_ref().filter(|_| end.exit_code != Some(i32::from(exit::DONE)));
        return error
            .map(|error| Finding::new(Severity::Fatal, format!("its driver said: {error}")))
            .into_iter()
            .collect();
    }
    let mut findings = Vec::new();
    if runs && standing.is_stale() {
        let says =
            format!("its driver has told the store nothing for {age}: it is dead, asleep, or cut off from the store");
        findings.push(Finding::new(Severity::Fatal, says));
    }
    if let Some(why) = &standing.waiting {
        let severity = if standing.executors.is_empty() { Severity::Fatal } else { Severity::Warning };
        let since = standing.waiting_since_unix_ms.unwrap_or(standing.written_unix_ms);
        let waited = ago(Duration::from_millis(standing.written_unix_ms.saturating_sub(since)));
        findings.push(Finding::new(severity, format!("{why} (for {waited}, its driver said {age} ago)")));
    }
    findings
}

/// Executors that were lost, and tasks that have failed with what their executors had printed last.
async fn of_events(store: &Store, app: AppId) -> Vec<Finding> {
    match history::failed(store, app).await {
        Ok(failed) => failed
            .into_iter()
            .map(|failed| Finding {
                severity: if failed.retried { Severity::Warning } else { Severity::Fatal },
                says: failed.says,
                lines: failed.last_lines,
            })
            .collect(),
        Err(error) => vec![unseen("lost executors and failed tasks", error)],
    }
}

fn unseen(what: &str, error: store::StoreError) -> Finding {
    Finding::new(Severity::Note, format!("not looked at: {what}: {:#}", anyhow::Error::new(error)))
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

#[cfg(test)]
mod tests {
    use driver::standing::End;

    use super::super::told::tests::standing;
    use super::*;

    #[tokio::test]
    async fn what_is_gone_or_away_is_told_by_the_store() {
        let (store, app) = (super::super::history::tests::store(), AppId(7));
        super::super::history::tests::told(&store, app, "nightly", "team-a", "vonk-a").await;
        let past = history::find(&store, "nightly", Some("team-a")).await.unwrap().unwrap();
        let findings = gone(&store, &past).await;
        assert_eq!(
            findings.iter().map(text).collect::<Vec<_>>(),
            ["fatal: its pods are gone, and history has it as lost"]
        );
        let findings = away(&store, app, &anyhow::anyhow!("no answer")).await;
        let says = "fatal: the cluster cannot be asked, and this is what the store knows: no answer";
        assert_eq!((text(&findings[0]).as_str(), findings.len()), (says, 3), "nothing was told for long, and it waits");
    }

    fn said(told: &Told) -> Vec<String> {
        of_told(told, false).iter().map(text).collect()
    }

    #[test]
    fn why_a_driver_waits_is_said_as_on_its_terminal() {
        let quota = "running with 1 of 10 executors: exceeded quota: q, used: pods=2, limited: pods=2";
        let waits = driver::standing::Standing { waiting: Some(quota.into()), ..standing() };
        let mut told = Told { age_seconds: 4, standing: waits };
        assert_eq!(said(&told), [format!("warning: {quota} (for 40 s, its driver said 4 s ago)")]);
        told.standing.executors.clear();
        assert_eq!(said(&told), [format!("fatal: {quota} (for 40 s, its driver said 4 s ago)")], "nothing runs");
        told.standing.waiting = None;
        assert_eq!(said(&told), [""; 0]);
    }

    #[test]
    fn a_driver_that_should_have_said_more_is_no_good_sign() {
        let told = Told { age_seconds: 300, standing: standing() };
        let findings = of_told(&told, true);
        assert!(findings[0].says.starts_with("its driver has told the store nothing for 5 min: it is dead"));
        assert_eq!(of_told(&told, false).len(), 1, "its root says that it has ended");
    }

    #[test]
    fn with_what_it_ended_is_said_once_it_is_over() {
        let end = End { unix_ms: 1, error: Some("no Role: add this rule".into()), exit_code: Some(78) };
        let mut told = Told { age_seconds: 4, standing: driver::standing::Standing { end: Some(end), ..standing() } };
        assert_eq!(said(&told), ["fatal: its driver said: no Role: add this rule"]);
        told.standing.end = Some(End { unix_ms: 1, error: None, exit_code: Some(0) });
        assert_eq!(said(&told), [""; 0]);
    }
}
