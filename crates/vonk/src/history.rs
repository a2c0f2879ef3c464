//! What does an application leave for those who ask later?
//!
//! Its events, how it is, and the end of what it said, all under `history/` in the store, unless its master is local. In a
//! pod, whoever stays with the program keeps what it prints and tells how it ended, since that one outlives it; elsewhere
//! the program does: what Vonk says goes past its terminal, and the end of the program is the end of [`main`](crate::main()).

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use driver::Observer;
use driver::printed;
use driver::standing::{self, Owner, Who};
use executor::printed::{OF_DRIVER, Printed};
use futures::FutureExt;
use futures::future::BoxFuture;
use model::backend::KeepPrinted;
use object_store::path::Path;
use object_store::{ObjectStore, PutMode};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// Whoever ends waits so long until the end of what was said is kept.
const KEPT_WITHIN: Duration = Duration::from_millis(1_500);

/// The end of the program waits so long for the store.
const NOTED_WITHIN: Duration = Duration::from_secs(5);

/// The application that was started last.
static LAST: Mutex<Option<Arc<Said>>> = Mutex::new(None);

/// What an application is to leave.
pub(crate) struct History {
    /// Keeps what executors printed.
    pub(crate) keep: KeepPrinted,
    /// Hear what happens.
    pub(crate) observers: Vec<Box<dyn Observer>>,
    events: driver::event_log::Writer,
    standing: standing::Teller,
    said: Option<Arc<Said>>,
}

/// What is told at the end of the program.
pub(crate) struct Said {
    who: Who,
    store_url: String,
    /// The end of what was said, unless somebody else keeps it.
    printed: Option<Arc<Printed>>,
}

/// What writes it.
pub(crate) struct Writers {
    tasks: tokio::sync::Mutex<Vec<JoinHandle<()>>>,
    store: Arc<dyn ObjectStore>,
    root: Path,
    said: Option<Arc<Said>>,
}

impl History {
    /// Of this application. Who has a `lasting` store is told what becomes of the program after the application's end.
    pub(crate) fn new(store: &Arc<dyn ObjectStore>, root: &Path, store_url: &str, who: Who, lasting: bool) -> Self {
        let (heard, events) = driver::event_log::event_log(Arc::clone(store), root.clone(), who.app, who.epoch);
        let (told, standing) = standing::standing(Arc::clone(store), root.clone(), who.clone());
        let keep = printed::keeper(Arc::clone(store), root.clone(), who.app, who.epoch);
        let said = lasting.then(|| {
            // Without memory for it, nothing is kept of what is said.
            let printed = if somebody_stays() { None } else { Printed::new(OF_DRIVER).ok().map(Arc::new) };
            Arc::new(Said { who, store_url: store_url.to_owned(), printed })
        });
        Self { keep, observers: vec![heard, told], events, standing, said }
    }

    /// Where what is said is to be kept.
    pub(crate) fn printed(&self) -> Option<Arc<Printed>> {
        self.said.as_ref()?.printed.clone()
    }

    /// Resolves with a sentence once another driver has taken this one's place.
    pub(crate) fn superseded(&self) -> BoxFuture<'static, String> {
        let superseded = self.standing.superseded();
        superseded.map(|epoch| format!("another driver has taken this one's place, of epoch {epoch}")).boxed()
    }

    /// Begins to write, also what owns the application in its cluster.
    pub(crate) fn begin(self, io: &Handle, store: Arc<dyn ObjectStore>, root: Path, owner: Option<Owner>) -> Writers {
        let Self { events, standing, said, .. } = self;
        let standing = standing.owned_by(owner);
        LAST.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&said);
        let tasks = tokio::sync::Mutex::new(vec![io.spawn(events.run()), io.spawn(standing.run())]);
        Writers { tasks, store, root, said }
    }
}

impl Writers {
    /// Waits until all is written that was heard. The driver has ended.
    pub(crate) async fn finish(&self) {
        for task in self.tasks.lock().await.drain(..) {
            if let Err(error) = task.await {
                tracing::warn!(%error, "the application's history was not finished");
            }
        }
    }

    /// Keeps what was said.
    pub(crate) async fn keep_said(&self) {
        let Some(said) = &self.said else { return };
        let kept = said.keep(&*self.store, &self.root);
        if tokio::time::timeout(KEPT_WITHIN, kept).await.is_err() {
            tracing::debug!("what was said is not kept: the store is too slow");
        }
    }
}

impl Said {
    async fn keep(&self, store: &dyn ObjectStore, root: &Path) {
        let Some(Ok(kept)) = self.printed.as_ref().map(|printed| printed.kept()) else { return };
        let who = (self.who.app, self.who.epoch);
        printed::keep(store, root, who, "driver", kept, PutMode::Overwrite).await;
    }
}

/// Whether somebody stays with this process who keeps what it prints.
fn somebody_stays() -> bool {
    #[cfg(feature = "k8s")]
    return crate::kubernetes::pod::printed().is_some();
    #[cfg(not(feature = "k8s"))]
    false
}

/// The program has ended: its last application is told the code and, if it failed, why. Does nothing without one.
pub(crate) fn note_end(code: u8, report: Option<String>) {
    let Some(said) = LAST.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
    let (done, noted) = std::sync::mpsc::sync_channel(1);
    // On a thread of its own, since the caller may be inside a runtime; with a store of its own, since the runtime that had
    // the connections of the other has ended.
    let note = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        if let (Ok(runtime), Ok((store, root))) = (runtime, shuffle::store::open(&said.store_url)) {
            runtime.block_on(async {
                let error = report.as_deref().map(in_a_line);
                let who = (said.who.app, Some(said.who.epoch));
                standing::note_end(&*store, &root, who, i32::from(code), error).await;
                if let (Some(report), Some(printed)) = (report, &said.printed) {
                    let _ = printed.add(format!("{report}\n").as_bytes());
                    said.keep(&*store, &root).await;
                }
            });
        }
        // Whoever waits may have given up.
        let _ = done.send(());
    };
    if thread::Builder::new().name("end".into()).spawn(note).is_ok() {
        let _ = noted.recv_timeout(NOTED_WITHIN);
    }
}

/// The error with its causes, on one line: the last of them is the sentence that the terminal said.
fn in_a_line(report: &str) -> String {
    let mut lines = report.lines();
    let first = lines.next().unwrap_or_default();
    let causes = lines.map_while(|line| line.strip_prefix("  because: "));
    std::iter::once(first.strip_prefix("error: ").unwrap_or(first)).chain(causes).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_with_its_causes_and_without_what_to_do() {
        let report = "error: run job `sum`\n  because: no executor can start\n  because: cannot pull image a\nhelp: b\n  because: c";
        assert_eq!(in_a_line(report), "run job `sum`: no executor can start: cannot pull image a");
        assert_eq!(in_a_line("terminated"), "terminated");
    }
}
