//! What may be asked of the event loop without waiting?
//!
//! Users cancel, drop and release from any thread, also where nobody may block. So requests are noted here and taken by
//! the loop at its next turn, in order. Their number is bounded by what they are about: a request ends a job, a shuffle, a
//! dataset or a broadcast that exists, starts a job whose caller waits, or is a warning, of which [`WARNINGS`] are held.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::graph::Job;
use model::ids::{BroadcastId, JobId, RddId, ShuffleId};
use model::runner::JobError;
use model::write::StagedFile;
use tokio::sync::{Notify, oneshot};

use crate::results::Producer;

/// Warnings that wait for the loop's next turn; more say nothing new.
const WARNINGS: usize = 64;

/// Hears of the files that a job has staged.
pub(crate) type Staged = oneshot::Sender<Vec<StagedFile>>;

/// Something asked of the loop.
pub(crate) enum Request {
    /// Run a job.
    /// If it writes, `staged` hears of the files of accepted tasks once all are.
    Run { job: Box<Job>, results: Producer, staged: Option<Staged> },
    /// Nobody wants a job's results any more.
    CancelJob { job: JobId, why: String },
    /// Cancel the jobs of a group, or all.
    CancelGroup { group: Option<String>, why: String },
    /// No lineage can ask for the shuffle any more.
    ReleaseShuffle(ShuffleId),
    /// A persisted dataset is not wanted any more.
    Unpersist(RddId),
    /// A broadcast variable is not wanted any more.
    ForgetBroadcast(BroadcastId),
    /// Nobody reads these objects, which are named by keys below the store's root.
    Delete(Vec<String>),
    /// Tell a person something.
    Warn(String),
    /// The driver's own requests to the store get answers.
    StoreAnswered,
}

#[derive(Default)]
struct State {
    requests: Vec<Request>,
    warnings: usize,
    /// Why nothing can be asked any more.
    closed: Option<JobError>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    filled: Notify,
}

/// Where requests are put and taken. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Requests {
    shared: Arc<Shared>,
}

impl Requests {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a request. Once the driver has stopped, there is nobody to ask.
    pub(crate) fn put(&self, request: Request) -> Result<(), JobError> {
        {
            let mut state = self.lock();
            if let Some(why) = &state.closed {
                return Err(why.clone());
            }
            if let Request::Warn(_) = request {
                if state.warnings == WARNINGS {
                    return Ok(());
                }
                state.warnings += 1;
            }
            state.requests.push(request);
        }
        self.shared.filled.notify_one();
        Ok(())
    }

    /// Takes everything that was noted.
    pub(crate) fn take(&self) -> Vec<Request> {
        let mut state = self.lock();
        state.warnings = 0;
        std::mem::take(&mut state.requests)
    }

    /// Waits until something is noted. May return early.
    pub(crate) async fn filled(&self) {
        self.shared.filled.notified().await;
    }

    /// Refuses requests from now on. The first reason stays.
    pub(crate) fn close(&self, why: JobError) {
        self.lock().closed.get_or_insert(why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_come_in_order_and_none_after_the_end() {
        let requests = Requests::default();
        requests.put(Request::Unpersist(RddId(1))).unwrap();
        requests.put(Request::ReleaseShuffle(ShuffleId(2))).unwrap();
        requests.filled().await;
        let taken = requests.take();
        assert!(matches!(taken[..], [Request::Unpersist(RddId(1)), Request::ReleaseShuffle(ShuffleId(2))]));
        let ended = |why: &str| JobError::Ended { why: why.into() };
        requests.close(ended("it was stopped"));
        requests.close(ended("again"));
        let refused = requests.put(Request::StoreAnswered).unwrap_err();
        assert_eq!(refused, ended("it was stopped"));
    }

    #[test]
    fn a_flood_of_warnings_is_cut() {
        let requests = Requests::default();
        (0..10_000).for_each(|i| requests.put(Request::Warn(i.to_string())).unwrap());
        assert_eq!(requests.take().len(), WARNINGS);
    }
}
