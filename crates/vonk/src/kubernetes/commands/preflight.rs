//! Would an application run here?

use std::time::Duration;

use k8s_backend::access::Cluster;
use k8s_backend::applications::{FindError, find, remove};
use k8s_backend::driver::End;
use k8s_backend::follow::{Followed, Heard, follow};
use k8s_backend::job::DriverJob;
use k8s_backend::names;
use k8s_backend::preflight::{Check, Outcome, Plan, checks};
use k8s_backend::rights::Part;
use k8s_backend::submit::{Submission, submit};
use model::AppId;
use model::exit;
use tokio_util::sync::CancellationToken;

use super::cluster_mode::{app_pods, executor_pods};
use super::connection::{Connection, connect};
use super::output::{Format, bytes, json, line};
use super::signals::Signals;
use super::submit::DeployMode;
use super::{Usage, shipped, store};
use crate::config::Config;

/// What people call an application that only looks.
const NAME: &str = "preflight";

/// A pod that looks takes no longer once it runs: each request gives up long before.
const POD_WITHIN: Duration = Duration::from_secs(120);

/// Flags of `vonk preflight`.
#[derive(Debug, clap::Args)]
pub(crate) struct Preflight {
    /// What is to run: drivers here, or drivers that are pods. In a pod, what its driver needs unless given
    #[arg(long, value_enum)]
    deploy_mode: Option<DeployMode>,

    /// How many executors are to fit into quotas
    #[arg(long, value_name = "N", default_value_t = 1)]
    num_executors: u64,

    /// Look from a pod, too, as a driver there would: one with a driver's account and settings, which is removed again
    #[arg(long)]
    pod: bool,

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
        let part = self.part(cluster.is_inside())?;
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
        match (all.iter().any(|check| check.outcome == Outcome::Failed), self.pod) {
            (false, false) => Ok(exit::DONE),
            (false, true) => Box::pin(self.in_pod(&cluster, &config)).await,
            (true, pod) => {
                if pod {
                    self.say(&Check::new("pod", Outcome::Skipped, "none is made before the rest is mended"));
                }
                Ok(exit::REFUSED)
            }
        }
    }

    /// Who would ask for what.
    fn part(&self, inside: bool) -> Result<Part, Usage> {
        Ok(match (self.deploy_mode, self.pod) {
            (Some(DeployMode::Client), true) => {
                return Err(Usage("use --pod with --deploy-mode client: drivers are pods in mode cluster".to_owned()));
            }
            (Some(DeployMode::Cluster), _) | (None, true) => Part::Submitter,
            (Some(DeployMode::Client), false) => Part::Client,
            (None, false) if inside => Part::Driver,
            (None, false) => Part::Client,
        })
    }

    /// Submits this command as a driver, passes on what it prints, and removes it. Gives its exit code.
    async fn in_pod(&self, cluster: &Cluster, config: &Config) -> Result<u8, anyhow::Error> {
        let mut signals = Signals::new()?;
        let app = AppId::generate();
        // Without a program the image's own serves, which has this command.
        let of = app_pods(config, app, NAME, store::shared_url(config)?);
        let mut job = DriverJob::read(of, config.values(), self.args_in_pod())?;
        (job.restarts, job.pod.timeout) = (0, Some(POD_WITHIN));
        let root = job.pod.root.clone();
        let files = shipped::files(config, cluster.namespace(), NAME)?;
        let submission = Submission { job, config: files, key: None };
        let room_within = driver::config::NO_EXECUTOR_TIMEOUT.duration(config.values())?;
        let followed = Followed { cluster: cluster.clone(), app, root, room_within };
        let stop = CancellationToken::new();
        let mut heard = |heard| match heard {
            Heard::Line(line) => bytes(&line),
            Heard::Said(text) => eprintln!("{text}"),
        };
        let looking = async {
            submit(cluster, submission, &stop).await?;
            Ok::<End, anyhow::Error>(follow(&followed, &mut heard).await)
        };
        let end = tokio::select! {
            end = looking => end,
            received = signals.next() => Ok(End::unheard(received.code, received.word)),
        };
        match find(cluster, &app.to_string()).await {
            Ok(root) => remove(cluster, &root).await?,
            Err(FindError::Unknown { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let End { code, why, .. } = end?;
        if code != exit::DONE {
            self.say(&Check::new("pod", Outcome::Failed, why));
        }
        Ok(code)
    }

    fn args_in_pod(&self) -> Vec<String> {
        let count = self.num_executors.to_string();
        let words = ["preflight", "--num-executors", &count];
        let json = ["--output", "json"].into_iter().filter(|_| self.output == Format::Json);
        words.into_iter().chain(json).map(str::to_owned).collect()
    }

    fn say(&self, check: &Check) {
        match self.output {
            Format::Json => json(check),
            Format::Text => line(&text(check)),
        }
    }

    fn plan(&self, config: &Config, part: Part) -> Result<Plan, anyhow::Error> {
        let app = AppId::generate();
        // That there is no store is said by the store's own check.
        let of = app_pods(config, app, NAME, store::shared_url(config).unwrap_or_default());
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        preflight: Preflight,
    }

    fn parse(words: &[&str]) -> Preflight {
        Cli::try_parse_from(std::iter::once("vonk").chain(words.iter().copied())).unwrap().preflight
    }

    #[test]
    fn who_asks_depends_on_where_the_driver_is() {
        let part = |words: &[&str], inside| parse(words).part(inside);
        assert_eq!(part(&[], false), Ok(Part::Client));
        assert_eq!(part(&[], true), Ok(Part::Driver));
        assert_eq!(part(&["--pod"], false), Ok(Part::Submitter));
        assert_eq!(part(&["--deploy-mode", "cluster"], true), Ok(Part::Submitter));
        assert!(part(&["--pod", "--deploy-mode", "client"], false).is_err());
    }

    #[test]
    fn a_pod_looks_for_as_many_executors() {
        assert_eq!(parse(&["--pod"]).args_in_pod(), ["preflight", "--num-executors", "1"]);
        let json = parse(&["--num-executors", "7", "-o", "json"]).args_in_pod();
        assert_eq!(json, ["preflight", "--num-executors", "7", "--output", "json"]);
    }
}
