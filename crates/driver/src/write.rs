//! How does a job that writes come to its commit?
//!
//! The write begins, the job runs, the files of accepted tasks are entered and published; whatever goes wrong before the
//! entry gives the write up. It all happens in a task of its own, so that a caller who goes away stops it only while it
//! can be stopped.

use futures::StreamExt;
use model::Failure;
use model::graph::Job;
use model::ids::JobId;
use model::messages::AccumulatorUpdate;
use model::runner::{JobError, JobItem};
use model::write::{WriteReport, WriteTarget};
use object_store::path::Path;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::commit::{Abandoned, Commit, Started, Timing};
use crate::event_loop::Message;
use crate::lease::destination;
use crate::results::{Fetcher, Results};

/// Tasks whose accumulator updates the caller has not taken; with more, the job's end waits for the caller.
pub(crate) const UPDATES: usize = 64;

/// A write in hand.
pub(crate) struct Write {
    pub(crate) job: Job,
    pub(crate) target: WriteTarget,
    /// Where what accumulators received goes, once per accepted task.
    pub(crate) accumulated: mpsc::Sender<Vec<AccumulatorUpdate>>,
    pub(crate) fetcher: Fetcher,
    pub(crate) root: Path,
    pub(crate) mailbox: mpsc::Sender<Message>,
    /// Turns true when the application may write to the store.
    pub(crate) claimed: watch::Receiver<bool>,
}

impl Write {
    /// Runs to the end; `given_up` is heard until the entry is made.
    pub(crate) async fn run(self, given_up: CancellationToken) -> Result<WriteReport, JobError> {
        let (id, url, mailbox) = (self.job.id, self.target.destination.clone(), self.mailbox.clone());
        let (began, outcome) = self.commit(given_up).await;
        if began {
            show(id, url, &outcome, &mailbox).await;
        }
        outcome
    }

    /// Whether the job was begun, and how it ended.
    async fn commit(mut self, given_up: CancellationToken) -> (bool, Result<WriteReport, JobError>) {
        let name = self.job.name.clone();
        let failed =
            |failure: Failure| JobError::Failed { name: name.clone(), failure: Box::new(failure), earlier: Vec::new() };
        let cancelled =
            || JobError::Cancelled { name: name.clone(), why: "nobody waits for its write any more".to_owned() };
        let ended = || JobError::Ended { why: "the application has ended".to_owned() };
        let start = async {
            self.claimed.wait_for(|claimed| *claimed).await.map_err(|_| ended())?;
            let destination = destination(&self.target.destination).map_err(failed)?;
            let application = (self.fetcher.store.clone(), self.root.clone());
            let started = Commit::start(destination, application, &self.target, Timing::default()).await;
            started.map_err(|error| failed(error.into_failure()))
        };
        let started = tokio::select! {
            started = start => started,
            () = given_up.cancelled() => Err(cancelled()),
        };
        let commit = match started {
            Ok(Started::Writing(commit)) => commit,
            Ok(Started::Ignored) => return (false, Ok(WriteReport::default())),
            Err(error) => return (false, Err(error)),
        };
        let (staged, files) = oneshot::channel();
        let (mut items, accumulated) = (Results::new(self.job, Some(staged), self.fetcher), self.accumulated);
        let job = async move {
            while let Some(item) = items.next().await {
                if let JobItem::Accumulated(updates) = item? {
                    // Nobody listens if the write is being given up.
                    let _ = accumulated.send(updates).await;
                }
            }
            drop(accumulated);
            files.await.map_err(|_| ended())
        };
        let run = async {
            let staged = tokio::select! {
                staged = job => staged?,
                () = given_up.cancelled() => return Err(cancelled()),
            };
            commit.enter(staged).await.map_err(|error| failed(error.into_failure()))
        };
        let work = async {
            match run.await {
                Ok(entered) => entered.finish().await.map_err(|error| failed(error.into_failure())),
                Err(error) => abandon(&commit, error).await,
            }
        };
        let outcome = tokio::select! {
            outcome = work => outcome,
            never = commit.renew() => match never {},
        };
        (true, outcome)
    }
}

/// Gives a write up that was not entered, as far as anybody knows.
async fn abandon(commit: &Commit, error: JobError) -> Result<WriteReport, JobError> {
    match commit.abort().await {
        Ok(Abandoned::Undone) => Err(error),
        // The store had made the entry, and nobody heard.
        Ok(Abandoned::Committed(report)) => Ok(report),
        Err(abort) => {
            let abort = &abort as &dyn std::error::Error;
            tracing::warn!(error = abort, "cannot undo a write: it never appears, and a repair removes it");
            Err(error)
        }
    }
}

/// Has the end observed before the caller hears of it.
async fn show(
    job: JobId,
    destination: String,
    outcome: &Result<WriteReport, JobError>,
    mailbox: &mpsc::Sender<Message>,
) {
    let outcome = outcome.clone().map_err(|error| match &error {
        JobError::Failed { failure, .. } | JobError::Doomed { failure } => format!("{error}: {failure}"),
        JobError::Cancelled { .. } | JobError::Ended { .. } => error.to_string(),
    });
    let (shown, observed) = oneshot::channel();
    if mailbox.send(Message::WriteEnded { job, destination, outcome, shown }).await.is_ok() {
        // A loop that ends first shows nothing more.
        let _ = observed.await;
    }
}
