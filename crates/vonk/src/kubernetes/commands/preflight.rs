//! Would an application run here?

use k8s_backend::job::DriverJob;
use k8s_backend::names;
use k8s_backend::preflight::{Check, Outcome, Plan, checks};
use k8s_backend::rights::Part;
use model::AppId;
use model::exit;

use super::cluster_mode::{app_pods, executor_pods};
use super::connection::{Connection, connect};
use super::output::{Format, json, line};
use super::store;
use super::submit::DeployMode;
use crate::config::Config;

/// Flags of `vonk preflight`.
#[derive(Debug, clap::Args)]
pub(crate) struct Preflight {
    /// What is to run: drivers here, or drivers that are pods. In a pod, what its driver needs unless given
    #[arg(long, value_enum)]
    deploy_mode: Option<DeployMode>,

    /// How many executors are to fit into quotas
    #[arg(long, value_name = "N", default_value_t = 1)]
    num_executors: u64,

    /// How the answer looks; JSON has one check on each line
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,

    #[command(flatten)]
    connection: Connection,
}

impl Preflight {
    pub(crate) async fn run(self) -> Result<u8, anyhow::Error> {
        let config = self.connection.config()?;
        let cluster = connect(&config).await?;
        let part = match self.deploy_mode {
            Some(DeployMode::Client) => Part::Client,
            Some(DeployMode::Cluster) => Part::Submitter,
            None if cluster.is_inside() => Part::Driver,
            None => Part::Client,
        };
        let mut all = checks(&cluster, &self.plan(&config, part)?).await?;
        all.extend(match store::shared_url(&config).and_then(|_| store::open(&config)) {
            Ok(store) => store.checks().await,
            Err(error) => vec![Check::new("store", Outcome::Failed, format!("{:#}", anyhow::Error::new(error)))],
        });
        match self.output {
            Format::Json => all.iter().for_each(json),
            Format::Text => {
                line(&format!("namespace {} of {}, as {}", cluster.namespace(), cluster.url(), part.role()));
                all.iter().for_each(|check| line(&text(check)));
            }
        }
        Ok(if all.iter().any(|check| check.outcome == Outcome::Failed) { exit::REFUSED } else { exit::DONE })
    }

    fn plan(&self, config: &Config, part: Part) -> Result<Plan, anyhow::Error> {
        let app = AppId::generate();
        // That there is no store is said by the store's own check.
        let of = app_pods(config, app, "preflight", store::shared_url(config).unwrap_or_default());
        let job = match part {
            Part::Submitter => Some(DriverJob::read(of.clone(), config.values(), Vec::new())?),
            Part::Driver | Part::Client => None,
        };
        let executors = executor_pods(config, of, &names::root(app))?;
        Ok(Plan { part, job, executors, count: self.num_executors })
    }
}

fn text(check: &Check) -> String {
    let word = match check.outcome {
        Outcome::Passed => "ok     ",
        Outcome::Warning => "warning",
        Outcome::Failed => "FAILED ",
        Outcome::Skipped => "skipped",
    };
    let mend = check.mend.as_ref().map(|mend| format!("\n---\n{}\n---", mend.trim_end())).unwrap_or_default();
    format!("{word}  {}: {}{mend}", check.what, check.says)
}
