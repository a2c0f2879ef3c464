//! What is kept for history?
//!
//! Every record, one JSON object a line, in numbered parts under `history/<app>/`. A store cannot append, so a part is
//! written when it is large or old enough; a killed driver loses at most the last [`PART_AGE`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use model::events::Record;
use model::{AppId, Epoch, keys};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::observe::Observer;

/// A part is written once it holds so many bytes.
const PART_BYTES: usize = 4 << 20;

/// A part is written once its first line is so old.
const PART_AGE: Duration = Duration::from_secs(10);

/// Turns of the event loop that may wait for the writer; later ones are dropped and counted in the log's last line.
const QUEUE: usize = 1_024;

/// Reads one line of a log of this version or an earlier one.
///
/// # Errors
/// A line that is no record: damaged, or of a newer version.
pub fn parse(line: &str) -> Result<Record, serde_json::Error> {
    serde_json::from_str(line)
}

/// Takes records from the event loop.
struct Feed {
    lines: mpsc::Sender<Vec<u8>>,
    dropped: Arc<AtomicU64>,
}

impl Observer for Feed {
    fn observe(&mut self, records: &[Record]) {
        let mut lines = Vec::new();
        for record in records {
            if serde_json::to_writer(&mut lines, record).is_ok() {
                lines.push(b'\n');
            }
        }
        if self.lines.try_send(lines).is_err() {
            self.dropped.fetch_add(records.len() as u64, Ordering::Relaxed);
        }
    }
}

/// Writes parts until the event loop is gone.
pub struct Writer {
    store: Arc<dyn ObjectStore>,
    root: Path,
    app: AppId,
    epoch: Epoch,
    lines: mpsc::Receiver<Vec<u8>>,
    dropped: Arc<AtomicU64>,
}

/// A log and what feeds it. The writer ends when the observer is dropped, after the last part is written.
#[must_use]
pub fn event_log(store: Arc<dyn ObjectStore>, root: Path, app: AppId, epoch: Epoch) -> (Box<dyn Observer>, Writer) {
    let (sender, lines) = mpsc::channel(QUEUE);
    let dropped = Arc::new(AtomicU64::new(0));
    let feed = Feed { lines: sender, dropped: Arc::clone(&dropped) };
    (Box::new(feed), Writer { store, root, app, epoch, lines, dropped })
}

impl Writer {
    /// Runs until the observer is dropped. A part that cannot be written is logged and lost: history never stops a job.
    ///
    /// # Cancellation
    /// What was not written yet is lost.
    pub async fn run(mut self) {
        let mut part = 0;
        let mut open = true;
        while open {
            let Some(mut buffer) = self.lines.recv().await else { break };
            let due = Instant::now() + PART_AGE;
            while open && buffer.len() < PART_BYTES {
                match timeout_at(due, self.lines.recv()).await {
                    Ok(Some(lines)) => buffer.extend_from_slice(&lines),
                    Ok(None) => open = false,
                    Err(_due) => break,
                }
            }
            self.write(part, buffer).await;
            part += 1;
        }
        match self.dropped.load(Ordering::Relaxed) {
            0 => {}
            dropped => tracing::warn!(dropped, "the event log lacks records: the store was too slow"),
        }
    }

    async fn write(&self, part: u32, lines: Vec<u8>) {
        let key = keys::event_log(self.app, self.epoch, part);
        let path = key.split('/').fold(self.root.clone(), |path, part| path.join(part));
        if let Err(error) = self.store.put(&path, Bytes::from(lines).into()).await {
            tracing::warn!(%path, error = &error as &dyn std::error::Error, "cannot write the event log");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::TryStreamExt;
    use model::Timestamp;
    use model::events::AppEvent;
    use object_store::memory::InMemory;

    #[tokio::test]
    async fn every_record_is_in_a_part_and_reads_back() {
        let store = Arc::new(InMemory::new());
        let (mut feed, writer) = event_log(store.clone(), Path::from("root"), AppId(1), Epoch(1));
        let records: Vec<Record> = (0..100)
            .map(|i| Record { at: Timestamp(i), event: AppEvent::Warning { text: format!("{i}\n\"") } })
            .collect();
        records.chunks(7).for_each(|turn| feed.observe(turn));
        drop(feed);
        writer.run().await;
        let mut read = Vec::new();
        let parts: Vec<_> = store.list(None).try_collect().await.unwrap();
        for part in parts {
            let bytes = store.get(&part.location).await.unwrap().bytes().await.unwrap();
            read.extend(std::str::from_utf8(&bytes).unwrap().lines().map(|line| parse(line).unwrap()));
        }
        assert_eq!(read, records);
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_is_written_while_the_application_runs() {
        let store = Arc::new(InMemory::new());
        let (mut feed, writer) = event_log(store.clone(), Path::default(), AppId(1), Epoch(1));
        let record = Record { at: Timestamp(1), event: AppEvent::Warning { text: "x".into() } };
        feed.observe(std::slice::from_ref(&record));
        let running = std::pin::pin!(writer.run());
        assert!(tokio::time::timeout(PART_AGE * 2, running).await.is_err(), "the writer goes on");
        let parts: Vec<_> = store.list(None).try_collect().await.unwrap();
        assert_eq!(parts.len(), 1);
    }
}
