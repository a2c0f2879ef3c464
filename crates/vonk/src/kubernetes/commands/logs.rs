//! What has a driver or an executor printed?

use k8s_backend::access::Cluster;
use k8s_backend::applications::{FindError, find, see};
use k8s_backend::follow::Heard;
use k8s_backend::log::{self, Which};
use model::exit;
use model::ids::ExecutorId;
use tokio::sync::mpsc;

use super::connection::{Connection, connect};
use super::output::bytes;
use super::{Usage, history, store};
use crate::config::Config;

/// Lines on their way to the terminal.
const LINES: usize = 256;

/// Flags of `vonk logs`.
#[derive(Debug, clap::Args)]
pub(crate) struct Logs {
    /// Its id, its name, or the name of its root
    app: String,

    /// Of this executor, as in e3 or 3, instead of the driver
    #[arg(short, long, value_name = "EXECUTOR")]
    executor: Option<String>,

    /// Go on until it ends
    #[arg(short, long)]
    follow: bool,

    /// So many lines from the end
    #[arg(long, value_name = "LINES")]
    tail: Option<i64>,

    #[command(flatten)]
    connection: Connection,
}

impl Logs {
    pub(crate) async fn run(self) -> Result<u8, anyhow::Error> {
        let executor = self.executor.as_deref().map(number).transpose()?;
        let config = self.connection.config()?;
        let cluster = connect(&config).await?;
        let (app, pod) = match find(&cluster, &self.app).await {
            Ok(root) => {
                let app = root.app();
                let seeing = see(&cluster, root).await?;
                (app, seeing.pod(executor).and_then(|pod| pod.metadata.name.clone()))
            }
            Err(unknown @ FindError::Unknown { .. }) => (Some(self.app.parse().map_err(|_| unknown)?), None),
            Err(error) => return Err(error.into()),
        };
        if let Some(pod) = pod {
            return self.of_pod(&cluster, &pod).await;
        }
        let who = executor.map_or_else(|| "driver".to_owned(), |executor| executor.to_string());
        of_store(&config, app, &self.app, &who).await
    }

    async fn of_pod(&self, cluster: &Cluster, pod: &str) -> Result<u8, anyhow::Error> {
        let (send, mut lines) = mpsc::channel::<Heard>(LINES);
        let which = Which { follow: self.follow, tail: self.tail };
        let reading = async move { log::read(cluster, pod, which, &send).await };
        let printing = async {
            while let Some(heard) = lines.recv().await {
                match heard {
                    Heard::Line(line) => bytes(&line),
                    Heard::Said(text) => eprintln!("{text}"),
                }
            }
        };
        let (read, ()) = tokio::join!(reading, printing);
        match read {
            Ok(()) => Ok(exit::DONE),
            Err(answer) => Err(anyhow::anyhow!("{}", answer.message).context(format!("read the log of {pod}"))),
        }
    }
}

/// What of a log was put into the store at its end.
async fn of_store(config: &Config, app: Option<model::AppId>, wanted: &str, who: &str) -> Result<u8, anyhow::Error> {
    let missing = || Usage(format!("find the log of {who} of `{wanted}`: its pod is gone, and the store has none"));
    let Some(app) = app else { return Err(missing().into()) };
    let store = store::open(config)?;
    let log = history::log(&store, app, who).await?.ok_or_else(missing)?;
    bytes(&log);
    Ok(exit::DONE)
}

fn number(text: &str) -> Result<ExecutorId, Usage> {
    let digits = text.strip_prefix('e').unwrap_or(text);
    digits.parse().map(ExecutorId).map_err(|_| Usage(format!("read --executor {text}: want a number, as in e3 or 3")))
}
