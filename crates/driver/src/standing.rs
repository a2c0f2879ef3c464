//! How is an application, as its driver tells the store?
//!
//! One object, `history/<app>/status.json`, written anew every ten seconds and soon after what people ask about has changed.
//! It stays after the end, as history does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use model::events::{AppEvent, Record};
use model::{AppId, Epoch, ExecutorId, Timestamp, keys};
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::observe::Observer;
use crate::status::Status;
use crate::store::under;

/// It is written so often, whatever happens: whoever reads it can tell a driver that lives from one that is gone.
pub const EVERY: Duration = Duration::from_secs(10);

/// It is not written more often.
const APART: Duration = Duration::from_secs(1);

/// The store may take so long for it; what is not written then is written next time.
const WITHIN: Duration = Duration::from_secs(4);

/// So many stages are named, the first ones.
const STAGES: usize = 50;

/// So many jobs are named, the first ones.
const JOBS: usize = 50;

/// What a driver tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The application.
    pub app: AppId,
    /// Which driver of it.
    pub epoch: Epoch,
    /// What people call it.
    pub name: String,
    /// Where its executors are.
    pub master: String,
    /// Its driver runs where its executors do, for somebody who has submitted it.
    #[serde(default)]
    pub submitted: bool,
    /// The namespace of its cluster: in another one, somebody else may call an application so. Nothing if it has none, or if
    /// an older driver told it.
    #[serde(default)]
    pub namespace: Option<String>,
    /// What owns everything of it there.
    #[serde(default)]
    pub root: Option<String>,
    /// When the driver began, in milliseconds since 1970.
    pub began_unix_ms: u64,
    /// When this was written.
    pub written_unix_ms: u64,
    /// Executors that are there.
    pub executors: Vec<ExecutorLine>,
    /// How many were lost.
    pub executors_lost: u32,
    /// Why executors are awaited, if they are.
    pub waiting: Option<String>,
    /// Since when that was not changed.
    pub waiting_since_unix_ms: Option<u64>,
    /// How far its tasks have come.
    pub tasks: Tasks,
    /// How far its jobs have come.
    pub jobs: Jobs,
    /// Stages that run.
    pub stages: Vec<StageLine>,
    /// How it ended, if it has.
    pub end: Option<End>,
}

/// An executor that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutorLine {
    /// Which, as in `e3`.
    pub executor: String,
    /// Where.
    pub place: String,
}

/// Tasks, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tasks {
    /// Attempts that run.
    pub running: u64,
    /// Of stages that run, and neither running nor done.
    pub waiting: u64,
    /// Accepted.
    pub done: u64,
    /// Attempts that failed.
    pub failed: u64,
}

/// Jobs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Jobs {
    /// Names of those that run.
    pub running: Vec<String>,
    /// How many ended well.
    pub done: u32,
    /// How many failed or were cancelled.
    pub failed: u32,
}

/// A stage that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageLine {
    /// Which.
    pub stage: String,
    /// Its name.
    pub name: String,
    /// Tasks to run.
    pub tasks: u32,
    /// Tasks accepted.
    pub done: u32,
    /// Attempts that run.
    pub running: u32,
    /// Attempts that failed.
    pub failed: u32,
}

/// The end of an application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// When.
    pub unix_ms: u64,
    /// Why it did not succeed, if so and if that is known.
    pub error: Option<String>,
    /// With which code the program ended, once that is known.
    pub exit_code: Option<i32>,
}

impl Standing {
    /// In a word: `running`, `waiting` for executors, `succeeded`, `failed`, or `ended` if nobody has told how.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match (&self.end, &self.waiting) {
            (None, None) => "running",
            (None, Some(_)) => "waiting",
            (Some(End { exit_code: Some(0), .. }), _) => "succeeded",
            (Some(End { exit_code: None, error: None, .. }), _) => "ended",
            (Some(_), _) => "failed",
        }
    }

    /// How old this is.
    #[must_use]
    pub fn age(&self) -> Duration {
        Duration::from_millis(unix_ms().saturating_sub(self.written_unix_ms))
    }

    /// Whether a driver that lived would have written a newer one: three times over.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.end.is_none() && self.age() > 3 * EVERY
    }
}

/// What was told of an application; nothing if it has told nothing.
///
/// # Errors
/// The store refuses or does not answer.
pub async fn read(store: &dyn ObjectStore, root: &Path, app: AppId) -> Result<Option<Standing>, Error> {
    match store.get(&under(root, &keys::status(app))).await {
        // One that cannot be read is of another version.
        Ok(found) => Ok(serde_json::from_slice(&found.bytes().await?).ok()),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Adds with which code the program has ended, and why if it says so, unless a driver of a later epoch than this has told
/// how it is. Of an application that has told nothing, nothing is told. Gives up after a few seconds.
pub async fn note_end(
    store: &dyn ObjectStore,
    root: &Path,
    (app, epoch): (AppId, Option<Epoch>),
    exit_code: i32,
    error: Option<String>,
) {
    let is_ours = |told: &Standing| epoch.is_none_or(|epoch| told.epoch <= epoch);
    note(store, root, app, (exit_code, error), is_ours).await;
}

/// The same for others than the driver, who know it only from outside: what the driver's pod has told stays.
pub async fn note_end_if_unknown(
    store: &dyn ObjectStore,
    root: &Path,
    app: AppId,
    exit_code: i32,
    error: Option<String>,
) {
    let is_news = |told: &Standing| told.end.as_ref().is_none_or(|end| end.exit_code.is_none());
    note(store, root, app, (exit_code, error), is_news).await;
}

async fn note(
    store: &dyn ObjectStore,
    root: &Path,
    app: AppId,
    (exit_code, error): (i32, Option<String>),
    is_news: impl Fn(&Standing) -> bool,
) {
    let noted = async {
        let Some(mut standing) = read(store, root, app).await? else { return Ok(()) };
        if !is_news(&standing) {
            return Ok(());
        }
        let now = unix_ms();
        let before = standing.end.take();
        standing.end = Some(End {
            unix_ms: before.as_ref().map_or(now, |end| end.unix_ms),
            error: error.or_else(|| before.and_then(|end| end.error)),
            exit_code: Some(exit_code),
        });
        standing.written_unix_ms = now;
        write(store, root, &standing).await
    };
    match timeout(WITHIN, noted).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot tell the store how the application ended");
        }
        Err(_elapsed) => tracing::warn!("cannot tell the store how the application ended: it is too slow"),
    }
}

async fn write(store: &dyn ObjectStore, root: &Path, standing: &Standing) -> Result<(), Error> {
    let json =
        serde_json::to_vec(standing).map_err(|error| Error::Generic { store: "status", source: error.into() })?;
    store.put(&under(root, &keys::status(standing.app)), json.into()).await.map(drop)
}

/// What is known, and whether it is news.
#[derive(Default)]
struct Known {
    status: Status,
    /// How many tasks each executor runs at a time.
    slots: BTreeMap<ExecutorId, u32>,
    waiting_since: Timestamp,
    began_unix_ms: u64,
    end: Option<(Timestamp, Option<String>)>,
}

/// Takes records from the event loop.
struct Feed {
    known: Arc<Mutex<Known>>,
    news: watch::Sender<()>,
    ended: CancellationToken,
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

impl Observer for Feed {
    fn observe(&mut self, records: &[Record]) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut news = false;
        for record in records {
            match &record.event {
                AppEvent::ApplicationStarted { unix_ms, .. } => known.began_unix_ms = *unix_ms,
                AppEvent::Waiting { .. } if known.status.waiting.is_none() => known.waiting_since = record.at,
                AppEvent::ExecutorJoined { executor, slots, .. } => drop(known.slots.insert(*executor, *slots)),
                AppEvent::ExecutorLost { executor, .. } => drop(known.slots.remove(executor)),
                AppEvent::ApplicationEnded { error } => known.end = Some((record.at, error.clone())),
                _ => {}
            }
            news |= !matches!(
                record.event,
                AppEvent::TaskLaunched { .. } | AppEvent::TaskFinished { .. } | AppEvent::TaskFailed { .. }
            );
            known.status.apply(record);
        }
        let ended = known.end.is_some();
        drop(known);
        if news {
            self.news.send_replace(());
        }
        if ended {
            self.ended.cancel();
        }
    }
}

/// Tells the store until the event loop is gone.
pub struct Teller {
    store: Arc<dyn ObjectStore>,
    root: Path,
    who: Who,
    owner: Option<Owner>,
    known: Arc<Mutex<Known>>,
    news: watch::Receiver<()>,
    ended: CancellationToken,
    /// Which later driver has told how it is.
    later: watch::Sender<Option<Epoch>>,
}

/// Whose standing it is.
#[derive(Debug, Clone)]
pub struct Who {
    /// The application.
    pub app: AppId,
    /// Which driver of it.
    pub epoch: Epoch,
    /// What people call it.
    pub name: String,
    /// Where its executors are.
    pub master: String,
    /// Its driver runs where its executors do, for somebody who has submitted it.
    pub submitted: bool,
}

/// What owns everything of an application in its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Where.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What hears the event loop, and what tells the store. The latter ends when the former is dropped, after it has told the end.
#[must_use]
pub fn standing(store: Arc<dyn ObjectStore>, root: Path, who: Who) -> (Box<dyn Observer>, Teller) {
    let known = Arc::<Mutex<Known>>::default();
    let ((sender, news), ended) = (watch::channel(()), CancellationToken::new());
    let feed = Feed { known: Arc::clone(&known), news: sender, ended: ended.clone() };
    (Box::new(feed), Teller { store, root, who, owner: None, known, news, ended, later: watch::Sender::default() })
}

impl Teller {
    /// Tells, too, what owns the application: that is known later than who it is.
    #[must_use]
    pub fn owned_by(self, owner: Option<Owner>) -> Self {
        Self { owner, ..self }
    }

    /// Resolves with the epoch of a driver that has taken this one's place, as it tells itself; never, if none has. Only of a
    /// driver that was submitted there can be another: a node that is taken for lost may run on.
    pub fn superseded(&self) -> impl Future<Output = Epoch> + Send + use<> {
        let mut later = self.later.subscribe();
        async move {
            let epoch = later.wait_for(Option::is_some).await.ok().and_then(|epoch| *epoch);
            match epoch {
                Some(epoch) => epoch,
                None => std::future::pending().await,
            }
        }
    }

    /// Tells once, unless a later driver has told: then gives its epoch.
    async fn tell(&self) -> Result<Option<Epoch>, Error> {
        if self.who.submitted
            && let Some(told) = read(&*self.store, &self.root, self.who.app).await?
            && told.epoch > self.who.epoch
        {
            return Ok(Some(told.epoch));
        }
        write(&*self.store, &self.root, &self.standing()).await.map(|()| None)
    }

    /// Runs until the observer is dropped, or a later driver tells. What cannot be written is logged, and written next time.
    ///
    /// # Cancellation
    /// What is in the store stays as it is.
    pub async fn run(mut self) {
        let mut told = true;
        loop {
            if let Ok(Err(_closed)) = timeout(EVERY, self.news.changed()).await {
                return;
            }
            let why = match timeout(WITHIN, self.tell()).await {
                Ok(Ok(None)) => None,
                Ok(Ok(later)) => {
                    self.later.send_replace(later);
                    return;
                }
                Ok(Err(error)) => Some(error.to_string()),
                Err(_elapsed) => Some("it is too slow".to_owned()),
            };
            // Once in a row: that the store is away is said elsewhere, too.
            if let Some(why) = why.as_ref().filter(|_| told) {
                tracing::warn!(why, "cannot tell the store how the application is");
            }
            told = why.is_none();
            tokio::select! {
                () = sleep(APART) => {}
                () = self.ended.cancelled() => {}
            }
        }
    }

    fn standing(&self) -> Standing {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let status = &known.status;
        let at = |time: Timestamp| {
            let since = time.since(Timestamp::default()).as_millis();
            known.began_unix_ms + u64::try_from(since).unwrap_or_default()
        };
        // Executors are sent a task more than they run, so that none waits for the driver.
        let sent = status.stages.values().map(|stage| u64::from(stage.running)).sum::<u64>();
        let slots = known.slots.values().map(|slots| u64::from(*slots)).sum();
        let running = sent.min(slots);
        let left = status.stages.values().map(|stage| u64::from(stage.tasks.saturating_sub(stage.done))).sum::<u64>();
        let Who { app, epoch, name, master, submitted } = self.who.clone();
        let (namespace, root) = self.owner.clone().map(|owner| (owner.namespace, owner.name)).unzip();
        Standing {
            app,
            epoch,
            name,
            master,
            submitted,
            namespace,
            root,
            began_unix_ms: known.began_unix_ms,
            written_unix_ms: unix_ms(),
            executors: status
                .executors
                .iter()
                .map(|(executor, place)| ExecutorLine { executor: executor.to_string(), place: place.clone() })
                .collect(),
            executors_lost: status.executors_lost,
            waiting: status.waiting.clone(),
            waiting_since_unix_ms: status.waiting.as_ref().map(|_| at(known.waiting_since)),
            tasks: Tasks {
                running,
                waiting: left.saturating_sub(running),
                done: status.tasks_done,
                failed: status.tasks_failed,
            },
            jobs: Jobs {
                running: status.jobs.values().take(JOBS).cloned().collect(),
                done: status.jobs_done,
                failed: status.jobs_failed,
            },
            stages: status
                .stages
                .iter()
                .take(STAGES)
                .map(|(id, stage)| StageLine {
                    stage: id.to_string(),
                    name: stage.name.clone(),
                    tasks: stage.tasks,
                    done: stage.done,
                    running: stage.running.min(u32::try_from(slots).unwrap_or(u32::MAX)),
                    failed: stage.failed,
                })
                .collect(),
            end: known.end.as_ref().map(|(time, error)| End {
                unix_ms: at(*time),
                error: error.clone(),
                exit_code: None,
            }),
        }
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use model::ids::{JobId, StageAttempt, StageId};
    use model::{AttemptId, PartitionId};
    use object_store::memory::InMemory;

    use super::*;

    const APP: AppId = AppId(7);

    fn who() -> Who {
        Who { app: APP, epoch: Epoch(1), name: "nightly".into(), master: "k8s://".into(), submitted: true }
    }

    fn at(ms: u64, event: AppEvent) -> Record {
        Record { at: Timestamp::from_millis(ms), event }
    }

    fn begun() -> Vec<Record> {
        let (job, stage, attempt) = (JobId(0), StageId(0), StageAttempt(0));
        let task =
            |partition| AttemptId { job, stage, stage_attempt: attempt, partition: PartitionId(partition), attempt: 0 };
        let executor = ExecutorId(1);
        vec![
            at(
                0,
                AppEvent::ApplicationStarted {
                    version: 1,
                    vonk: "0".into(),
                    app: APP,
                    epoch: Epoch(1),
                    name: "nightly".into(),
                    master: "k8s://".into(),
                    unix_ms: 1_000,
                },
            ),
            at(1, AppEvent::ExecutorJoined { executor, place: "node-a".into(), slots: 1 }),
            at(2, AppEvent::JobStarted { job, name: "count".into(), stages: vec![stage] }),
            at(2, AppEvent::StageStarted { job, stage, attempt, name: "count".into(), tasks: 4 }),
            at(3, AppEvent::TaskLaunched { attempt: task(0), executor }),
            at(4, AppEvent::TaskFinished { attempt: task(0), executor, metrics: Default::default() }),
            at(5, AppEvent::TaskLaunched { attempt: task(1), executor }),
            at(5, AppEvent::TaskLaunched { attempt: task(2), executor }),
            at(6, AppEvent::Waiting { why: "quota".into() }),
        ]
    }

    #[tokio::test(start_paused = true)]
    async fn a_driver_whose_place_is_taken_hears_of_it_and_tells_no_more() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let root = Path::from("root");
        let teller = |epoch| standing(Arc::clone(&store), root.clone(), Who { epoch: Epoch(epoch), ..who() });
        let (mut first, tells) = teller(1);
        first.observe(&begun());
        let (superseded, mut tells) = (tells.superseded(), Box::pin(tells.run()));
        assert!(timeout(Duration::from_secs(2), &mut tells).await.is_err());
        let (mut second, also_tells) = teller(2);
        second.observe(&begun());
        assert!(timeout(Duration::from_secs(2), also_tells.run()).await.is_err());
        timeout(EVERY * 2, tells).await.expect("it hears of it");
        assert_eq!(superseded.await, Epoch(2));
        note_end(&*store, &root, (APP, Some(Epoch(1))), 69, None).await;
        let told = read(&*store, &root, APP).await.unwrap().unwrap();
        assert_eq!((told.epoch, told.end), (Epoch(2), None), "the second's is its own");
        note_end(&*store, &root, (APP, Some(Epoch(2))), 0, None).await;
        note_end_if_unknown(&*store, &root, APP, 69, None).await;
        assert_eq!(read(&*store, &root, APP).await.unwrap().unwrap().end.unwrap().exit_code, Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_driver_tells_how_it_goes_and_how_it_ended() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let root = Path::from("root");
        let (mut feed, teller) = standing(Arc::clone(&store), root.clone(), who());
        let teller = teller.owned_by(Some(Owner { namespace: "team-a".into(), name: "vonk-a".into() }));
        assert_eq!(read(&*store, &root, APP).await.unwrap(), None);
        feed.observe(&begun());
        let mut telling = std::pin::pin!(teller.run());
        assert!(timeout(Duration::from_millis(500), &mut telling).await.is_err());
        let told = read(&*store, &root, APP).await.unwrap().unwrap();
        assert_eq!(
            (told.word(), told.waiting.as_deref(), told.waiting_since_unix_ms),
            ("waiting", Some("quota"), Some(1_006))
        );
        feed.observe(&[at(6_500, AppEvent::Waiting { why: "room".into() })]);
        assert!(timeout(Duration::from_secs(2), &mut telling).await.is_err());
        let told = read(&*store, &root, APP).await.unwrap().unwrap();
        assert_eq!(
            (told.waiting.as_deref(), told.waiting_since_unix_ms),
            (Some("room"), Some(1_006)),
            "it still waits"
        );
        assert_eq!(told.tasks, Tasks { running: 1, waiting: 2, done: 1, failed: 0 });
        assert_eq!((told.executors[0].place.as_str(), told.stages[0].done, told.jobs.running.len()), ("node-a", 1, 1));

        // What is no news is told every ten seconds all the same; what is, soon.
        feed.observe(&[at(7_000, AppEvent::Waiting { why: String::new() })]);
        assert!(timeout(Duration::from_secs(2), &mut telling).await.is_err());
        assert_eq!(read(&*store, &root, APP).await.unwrap().unwrap().word(), "running");

        feed.observe(&[at(9_000, AppEvent::ApplicationEnded { error: None })]);
        drop(feed);
        timeout(Duration::from_secs(2), telling).await.unwrap();
        let told = read(&*store, &root, APP).await.unwrap().unwrap();
        assert_eq!((told.word(), told.end.unwrap().unix_ms), ("ended", 10_000));
        assert_eq!((told.namespace.as_deref(), told.root.as_deref()), (Some("team-a"), Some("vonk-a")));
        note_end(&*store, &root, (APP, Some(Epoch(1))), 3, Some("no".into())).await;
        let told = read(&*store, &root, APP).await.unwrap().unwrap();
        assert_eq!(
            (told.word(), told.end.unwrap()),
            ("failed", End { unix_ms: 10_000, error: Some("no".into()), exit_code: Some(3) })
        );
        note_end(&*store, &root, (AppId(8), None), 0, None).await;
        assert_eq!(read(&*store, &root, AppId(8)).await.unwrap(), None, "who has told nothing has begun nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_told_every_ten_seconds_though_nothing_happens() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let root = Path::default();
        let (mut feed, teller) = standing(Arc::clone(&store), root.clone(), who());
        let mut telling = std::pin::pin!(teller.run());
        feed.observe(&begun());
        assert!(timeout(APART, &mut telling).await.is_err());
        store.delete(&under(&root, &keys::status(APP))).await.unwrap();
        assert!(timeout(EVERY + APART, &mut telling).await.is_err());
        assert!(read(&*store, &root, APP).await.unwrap().is_some());
        drop(feed);
        timeout(Duration::from_secs(2), telling).await.unwrap();
    }
}
