//! What does the store know of applications that are gone?
//!
//! Their event logs, what their drivers told last, the ends of what they printed, and which of them was submitted with which idempotency key.

use driver::standing::{self, Standing};
use futures::StreamExt;
use futures::stream;
use k8s_backend::applications::{Application, Mode, Wall};
use k8s_backend::names::id_of;
use model::events::AppEvent;
use model::exit;
use model::failure::LossCause;
use model::{AppId, Epoch, keys};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use super::store::{Store, StoreError};

/// So many applications are listed, the youngest of a namespace.
const MOST: usize = 100;

/// So many are looked at for it, the youngest of the store: it may be that of many namespaces.
const LOOKED_AT: usize = 1_000;

/// So many failed tasks are shown.
const FAILED: usize = 5;

/// They are looked for in so many parts of the event log, the last ones.
const PARTS: usize = 4;

/// Requests under way at a time.
const AT_ONCE: usize = 8;

/// An application of which only history is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Past {
    /// Its id.
    pub(crate) app: String,
    /// What people called it.
    pub(crate) name: String,
    /// Where its executors were.
    pub(crate) master: String,
    /// When it began, in milliseconds since 1970.
    pub(crate) began_unix_ms: u64,
    /// Why it did not succeed, if it has ended in order and did not.
    pub(crate) end: Option<Option<String>>,
    /// What its driver told of it last.
    pub(crate) told: Option<Standing>,
}

impl Past {
    /// One that has left no events.
    fn of(told: Standing) -> Self {
        Self {
            app: told.app.to_string(),
            name: told.name.clone(),
            master: told.master.clone(),
            began_unix_ms: told.began_unix_ms,
            end: told.end.as_ref().map(|end| end.error.clone()),
            told: Some(told),
        }
    }

    /// As one line of a list.
    pub(crate) fn application(&self, now: Wall) -> Application {
        let of_told = |field: fn(&Standing) -> &Option<String>| {
            self.told.as_ref().and_then(|told| field(told).clone()).unwrap_or_default()
        };
        let began =
            i64::try_from(self.began_unix_ms).ok().and_then(|ms| Wall::from_millisecond(ms).ok()).unwrap_or(now);
        Application {
            app: self.app.clone(),
            name: self.name.clone(),
            mode: if self.told.as_ref().is_some_and(|told| told.submitted) { Mode::Cluster } else { Mode::Client },
            state: self.state().to_owned(),
            root: of_told(|told| &told.root),
            namespace: of_told(|told| &told.namespace),
            created: began.to_string(),
            age_seconds: u64::try_from(now.duration_since(began).as_secs()).unwrap_or(0),
        }
    }

    /// Its id, if it is one.
    pub(crate) fn id(&self) -> Option<AppId> {
        self.app.parse().ok()
    }

    /// Why it did not succeed, if so and if that is known.
    pub(crate) fn error(&self) -> Option<&str> {
        let told = self.told.as_ref().and_then(|told| told.end.as_ref()?.error.as_deref());
        told.or(self.end.as_ref().and_then(Option::as_deref))
    }

    /// How far it has come, in a word.
    pub(crate) fn state(&self) -> &'static str {
        match &self.told {
            // Who says nothing any more does not run.
            Some(told) if told.is_stale() => return "lost",
            // Its driver has not said how; its events may.
            Some(told) if told.word() != "ended" => return told.word(),
            _ => {}
        }
        match &self.end {
            Some(None) => "succeeded",
            Some(Some(_)) => "failed",
            None => "lost",
        }
    }

    /// With which code it ended.
    pub(crate) fn code(&self) -> u8 {
        let known = self.told.as_ref().and_then(|told| told.end.as_ref()?.exit_code);
        if let Some(code) = known {
            return u8::try_from(code).unwrap_or(exit::FAILED);
        }
        match &self.end {
            Some(None) => exit::DONE,
            Some(Some(_)) => exit::FAILED,
            None => exit::LOST,
        }
    }
}

/// Applications that have left a history.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Youngest {
    /// The youngest of the namespace, the youngest first.
    pub(crate) found: Vec<Past>,
    /// How many older ones there are, of whatever namespace.
    pub(crate) older: usize,
}

/// The youngest applications of a namespace that have left a history.
///
/// # Errors
/// The store refuses or does not answer.
pub(crate) async fn all(store: &Store, namespace: &str) -> Result<Youngest, StoreError> {
    let apps = applications(store).await?;
    let (mut found, mut older) = (Vec::new(), apps.len());
    let look = async |app| match told(store, app).await? {
        Some(told) if !is_of(&told, namespace) => Ok(None),
        told => with_events(store, app, told).await,
    };
    let mut looked = std::pin::pin!(stream::iter(apps).take(LOOKED_AT).map(look).buffered(AT_ONCE));
    while found.len() < MOST
        && let Some(past) = looked.next().await
    {
        found.extend(past?);
        older -= 1;
    }
    Ok(Youngest { found, older })
}

/// Finds one by its id, bare or as its root is called, wherever it was; or the youngest of a namespace, if one is given, with this
/// name or this name of its root.
///
/// # Errors
/// The store refuses or does not answer.
pub(crate) async fn find(store: &Store, wanted: &str, namespace: Option<&str>) -> Result<Option<Past>, StoreError> {
    if id_of(wanted).is_some() {
        return find_id(store, wanted).await;
    }
    let look = async |app| -> Result<Option<Past>, StoreError> {
        let told = told(store, app).await?;
        if let Some(told) = &told {
            let called_so = told.name == wanted || told.root.as_deref() == Some(wanted);
            if !called_so || namespace.is_some_and(|namespace| !is_of(told, namespace)) {
                return Ok(None);
            }
        }
        let told_so = told.is_some();
        let past = with_events(store, app, told).await?;
        Ok(past.filter(|past| told_so || past.name == wanted))
    };
    let apps = stream::iter(applications(store).await?).take(LOOKED_AT);
    let mut looked = std::pin::pin!(apps.map(look).buffered(AT_ONCE));
    while let Some(past) = looked.next().await {
        if let Some(past) = past? {
            return Ok(Some(past));
        }
    }
    Ok(None)
}

/// The same by its id alone, which is one everywhere.
///
/// # Errors
/// The store refuses or does not answer.
pub(crate) async fn find_id(store: &Store, wanted: &str) -> Result<Option<Past>, StoreError> {
    match id_of(wanted) {
        Some(app) => past(store, app).await,
        None => Ok(None),
    }
}

/// Whether an application may be one of the namespace: older drivers did not tell theirs.
fn is_of(told: &Standing, namespace: &str) -> bool {
    told.namespace.as_deref().is_none_or(|of| of == namespace)
}

/// Everyone that has left a history, the youngest first.
async fn applications(store: &Store) -> Result<Vec<AppId>, StoreError> {
    let folder = store.below(keys::HISTORY);
    let failed = |source| StoreError::Request { step: "list", key: keys::HISTORY.to_owned(), source };
    let listed = store.objects.list_with_delimiter(Some(&folder)).await.map_err(failed)?;
    let mut apps: Vec<AppId> = listed.common_prefixes.iter().filter_map(|path| path.filename()?.parse().ok()).collect();
    apps.sort_unstable_by_key(|app| std::cmp::Reverse(*app));
    Ok(apps)
}

/// What a driver told of its application last.
///
/// # Errors
/// The store refuses or does not answer.
pub(crate) async fn told(store: &Store, app: AppId) -> Result<Option<Standing>, StoreError> {
    let failed = |source| StoreError::Request { step: "read", key: keys::status(app), source };
    standing::read(&*store.objects, &store.root, app).await.map_err(failed)
}

/// What the event log of an application says of it as a whole, and what its driver told last.
pub(crate) async fn past(store: &Store, app: AppId) -> Result<Option<Past>, StoreError> {
    with_events(store, app, told(store, app).await?).await
}

async fn with_events(store: &Store, app: AppId, told: Option<Standing>) -> Result<Option<Past>, StoreError> {
    let mut parts = list(store, &keys::history(app)).await?;
    parts.retain(|path| path.filename().is_some_and(|name| name.starts_with("events-")));
    parts.sort();
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return Ok(told.map(Past::of)) };
    let text = async |path: &Path| -> Result<String, StoreError> {
        let failed = |source| StoreError::Request { step: "read", key: path.to_string(), source };
        let found = store.objects.get(path).await.map_err(failed)?;
        Ok(String::from_utf8_lossy(&found.bytes().await.map_err(failed)?).into_owned())
    };
    let first_text = text(first).await?;
    let last_text = if first == last { first_text.clone() } else { text(last).await? };
    let past = read(app, &first_text, &last_text).map(|past| Past { told: told.clone(), ..past });
    Ok(past.or_else(|| told.map(Past::of)))
}

/// A task that has failed, or an executor that was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failed {
    /// In one sentence.
    pub(crate) says: String,
    /// What its executor had printed last.
    pub(crate) last_lines: Vec<String>,
    /// Whether it was tried again.
    pub(crate) retried: bool,
}

/// The last executors that were lost and tasks that have failed, the latest first, as the last of the event log has them.
///
/// # Errors
/// The store refuses or does not answer.
pub(crate) async fn failed(store: &Store, app: AppId) -> Result<Vec<Failed>, StoreError> {
    let mut parts = list(store, &keys::history(app)).await?;
    parts.retain(|path| path.filename().is_some_and(|name| name.starts_with("events-")));
    parts.sort();
    let (mut lost, mut failed) = (Vec::new(), Vec::new());
    for path in parts.iter().rev().take(PARTS) {
        let error = |source| StoreError::Request { step: "read", key: path.to_string(), source };
        let bytes = store.objects.get(path).await.map_err(error)?.bytes().await.map_err(error)?;
        let text = String::from_utf8_lossy(&bytes);
        for record in text.lines().rev().filter_map(|line| driver::event_log::parse(line).ok()) {
            match record.event {
                AppEvent::TaskFailed { attempt, executor, failure, retried } if failed.len() < FAILED => {
                    let says = format!("task {attempt} failed on {executor}: {failure}");
                    failed.push(Failed { says, last_lines: failure.last_lines, retried });
                }
                AppEvent::ExecutorLost { cause, why, .. } if cause != LossCause::Released && lost.len() < FAILED => {
                    lost.push(Failed { says: why, last_lines: Vec::new(), retried: true });
                }
                _ => {}
            }
        }
        if failed.len() == FAILED && lost.len() == FAILED {
            break;
        }
    }
    lost.extend(failed);
    Ok(lost)
}

fn read(app: AppId, first: &str, last: &str) -> Option<Past> {
    let record = |line: &str| driver::event_log::parse(line).ok().map(|record| record.event);
    let AppEvent::ApplicationStarted { name, master, unix_ms, .. } = record(first.lines().next()?)? else {
        return None;
    };
    let end = match last.lines().rfind(|line| !line.is_empty()).and_then(record) {
        Some(AppEvent::ApplicationEnded { error }) => Some(error),
        _ => None,
    };
    Some(Past { app: app.to_string(), name, master, began_unix_ms: unix_ms, end, told: None })
}

/// The end of a log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Of this epoch, the latest.
    pub(crate) epoch: Epoch,
    /// What was printed.
    pub(crate) printed: Vec<u8>,
}

/// The end of what `who` has printed, in its latest epoch: `driver`, or an executor as in `e3`.
///
/// # Errors
/// The store refuses or does not answer.
pub(crate) async fn log(store: &Store, app: AppId, who: &str) -> Result<Option<Kept>, StoreError> {
    let epochs = list(store, &keys::logs(app)).await?;
    let epochs = epochs.iter().filter_map(|path| keys::parse_log(path.filename()?)).filter(|(_, of)| *of == who);
    let Some(epoch) = epochs.map(|(epoch, _)| epoch).max() else { return Ok(None) };
    let printed = store.read(&keys::log(app, epoch, who)).await?;
    Ok(printed.map(|printed| Kept { epoch, printed }))
}

/// Of whom there are logs: of the driver, and of executors in order.
///
/// # Errors
/// The store refuses or does not answer.
pub(crate) async fn logs(store: &Store, app: AppId) -> Result<Vec<String>, StoreError> {
    let paths = list(store, &keys::logs(app)).await?;
    let who = paths.iter().filter_map(|path| Some(keys::parse_log(path.filename()?)?.1.to_owned()));
    let number = |who: &String| who.strip_prefix('e').and_then(|n| n.parse::<u64>().ok());
    let mut who: Vec<_> = who.collect();
    who.sort_by_key(number);
    who.dedup();
    Ok(who)
}

async fn list(store: &Store, folder: &str) -> Result<Vec<Path>, StoreError> {
    let path = store.below(folder);
    let mut listed = store.objects.list(Some(&path));
    let mut paths = Vec::new();
    while let Some(meta) = listed.next().await {
        let failed = |source| StoreError::Request { step: "list", key: folder.to_owned(), source };
        paths.push(meta.map_err(failed)?.location);
    }
    Ok(paths)
}

/// What is noted of a submission with an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Submitted {
    /// The application.
    app: String,
}

/// Notes which application was submitted as that root.
///
/// # Errors
/// The store refuses or does not answer.
pub(crate) async fn note(store: &Store, root: &str, app: &str) -> Result<(), StoreError> {
    let note = serde_json::to_vec(&Submitted { app: app.to_owned() }).unwrap_or_default();
    store.write(&keys::submitted(root), note).await
}

/// The application that was submitted as that root, when the root itself is long gone.
///
/// # Errors
/// The store refuses or does not answer.
pub(crate) async fn submitted(store: &Store, root: &str) -> Result<Option<Past>, StoreError> {
    let Some(note) = store.read(&keys::submitted(root)).await? else { return Ok(None) };
    let Ok(Submitted { app }) = serde_json::from_slice(&note) else { return Ok(None) };
    match app.parse() {
        Ok(app) => past(store, app).await,
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::super::told::tests::standing;
    use super::*;

    const APP: AppId = AppId(7);

    fn started(name: &str) -> String {
        format!(
            r#"{{"at":0,"event":"application_started","version":1,"vonk":"0.1.0","app":"{APP}","epoch":1,"name":"{name}","master":"k8s://","unix_ms":1700000000000}}"#
        )
    }

    pub(in super::super) fn store() -> Store {
        Store { objects: Arc::new(object_store::memory::InMemory::new()), root: Path::from("v") }
    }

    /// Has a driver tell of an application of this name, namespace and root.
    pub(in super::super) async fn told(store: &Store, app: AppId, name: &str, namespace: &str, root: &str) {
        let (namespace, root) = (Some(namespace.to_owned()), Some(root.to_owned()));
        let standing = Standing { app, name: name.to_owned(), namespace, root, ..standing() };
        store.write(&keys::status(app), serde_json::to_vec(&standing).unwrap()).await.unwrap();
    }

    /// Two namespaces that share a store were listed as one, and a name was another's.
    #[tokio::test]
    async fn each_namespace_has_its_own_history() {
        let store = store();
        for n in 0..MOST as u128 + 5 {
            told(&store, AppId(2 * n), "nightly", "team-a", "vonk-a").await;
            told(&store, AppId(2 * n + 1), "nightly", "team-b", "vonk-b").await;
        }
        let youngest = all(&store, "team-a").await.unwrap();
        assert_eq!((youngest.found.len(), youngest.older), (MOST, 10), "five of each");
        let row = youngest.found[0].application(Wall::now());
        assert_eq!((row.app, row.namespace.as_str()), (AppId(208).to_string(), "team-a"));
        assert_eq!(row.root, "vonk-a");
        let found = async |namespace| find(&store, "nightly", namespace).await.unwrap().map(|past| past.app);
        assert_eq!(found(Some("team-a")).await, Some(AppId(208).to_string()));
        assert_eq!(found(None).await, Some(AppId(209).to_string()));
        assert_eq!(found(Some("team-c")).await, None);
        assert_eq!(all(&store, "team-c").await.unwrap(), Youngest { found: Vec::new(), older: 0 });
    }

    #[tokio::test]
    async fn an_event_log_says_how_it_ended() {
        let store = store();
        let part = |part| keys::event_log(APP, Epoch(1), part);
        store.write(&part(0), format!("{}\n", started("nightly")).into_bytes()).await.unwrap();
        assert_eq!(past(&store, APP).await.unwrap().unwrap().state(), "lost");
        let end = "{\"at\":9,\"event\":\"application_ended\",\"error\":null}\n";
        store.write(&part(1), end.into()).await.unwrap();
        let found = find(&store, "nightly", None).await.unwrap().unwrap();
        assert_eq!((found.app.as_str(), found.state(), found.code()), (APP.to_string().as_str(), "succeeded", 0));
        assert_eq!(find(&store, "weekly", None).await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_the_driver_told_last_wins_over_its_events() {
        let store = store();
        store.write(&keys::event_log(APP, Epoch(1), 0), started("a").into_bytes()).await.unwrap();
        let end = "{\"at\":9,\"event\":\"application_ended\",\"error\":null}\n";
        store.write(&keys::event_log(APP, Epoch(1), 1), end.into()).await.unwrap();
        let standing = r#"{"app":"APP","epoch":1,"name":"a","master":"k8s://","began_unix_ms":1,"written_unix_ms":2,"executors":[],
            "executors_lost":0,"waiting":null,"waiting_since_unix_ms":null,"tasks":{"running":0,"waiting":0,"done":3,"failed":0},
            "jobs":{"running":[],"done":1,"failed":0},"stages":[],"end":END}"#.replace("APP", &APP.to_string());
        let mut seen = Vec::new();
        for end in
            ["null", r#"{"unix_ms":2,"error":null,"exit_code":null}"#, r#"{"unix_ms":2,"error":"no","exit_code":3}"#]
        {
            store.write(&keys::status(APP), standing.replace("END", end).into_bytes()).await.unwrap();
            let past = past(&store, APP).await.unwrap().unwrap();
            assert_eq!(past.application(Wall::now()).mode, Mode::Client, "nobody has submitted it");
            seen.push((past.state(), past.code()));
        }
        assert_eq!(seen, [("lost", 0), ("succeeded", 0), ("failed", 3)], "events, events, its driver");
    }

    #[tokio::test]
    async fn failed_tasks_are_told_with_what_their_executors_printed() {
        let store = store();
        let failed = |partition: u32| {
            format!(
                r#"{{"at":1,"event":"task_failed","attempt":{{"job":0,"stage":1,"stage_attempt":0,"partition":{partition},"attempt":0}},"executor":2,"failure":{{"kind":"Disk","message":"spill","chain":["no space"],"attempt":null,"executor":2,"last_lines":["one","two"]}},"retried":true}}"#
            )
        };
        store.write(&keys::event_log(APP, Epoch(1), 0), started("a").into_bytes()).await.unwrap();
        for part in 1..4 {
            let lines: Vec<String> = (0..3).map(|i| failed(part * 10 + i)).collect();
            store.write(&keys::event_log(APP, Epoch(1), part), lines.join("\n").into_bytes()).await.unwrap();
        }
        let told = super::failed(&store, APP).await.unwrap();
        assert_eq!(told.len(), FAILED);
        let lost = |cause: &str, why: &str| {
            format!(r#"{{"at":2,"event":"executor_lost","executor":2,"cause":"{cause}","why":"{why}"}}"#)
        };
        let lines = [lost("Memory", "e2 exceeded its memory limit"), lost("Released", "e3 was let go")];
        store.write(&keys::event_log(APP, Epoch(1), 4), lines.join("\n").into_bytes()).await.unwrap();
        let lost = super::failed(&store, APP).await.unwrap();
        assert_eq!((lost[0].says.as_str(), lost.len()), ("e2 exceeded its memory limit", 1 + FAILED));
        assert_eq!(told[0].says, "task 1.32.0 failed on e2: spill: no space");
        assert_eq!((told[0].last_lines.len(), told[3].says.contains("1.22.0")), (2, true));
    }

    #[tokio::test]
    async fn a_key_is_remembered_longer_than_its_root() {
        let store = store();
        assert_eq!(submitted(&store, "vonk-kx-1").await.unwrap(), None);
        note(&store, "vonk-kx-1", &APP.to_string()).await.unwrap();
        assert_eq!(submitted(&store, "vonk-kx-1").await.unwrap(), None, "it has left no history");
        store.write(&keys::event_log(APP, Epoch(1), 0), started("a").into_bytes()).await.unwrap();
        assert_eq!(submitted(&store, "vonk-kx-1").await.unwrap().map(|past| past.code()), Some(exit::LOST));
    }

    #[tokio::test]
    async fn the_latest_epochs_log_is_meant() {
        let store = store();
        for (epoch, text) in [(1, "old"), (2, "new"), (10, "newest")] {
            store.write(&keys::log(APP, Epoch(epoch), "driver"), text.into()).await.unwrap();
        }
        let kept = Kept { epoch: Epoch(10), printed: b"newest".to_vec() };
        assert_eq!(log(&store, APP, "driver").await.unwrap(), Some(kept));
        assert_eq!(log(&store, APP, "e3").await.unwrap(), None);
        for who in ["e10", "e9"] {
            store.write(&keys::log(APP, Epoch(1), who), b"old".to_vec()).await.unwrap();
        }
        assert_eq!(logs(&store, APP).await.unwrap(), ["driver", "e9", "e10"]);
    }
}
