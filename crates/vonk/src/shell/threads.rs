//! On which threads do queries run, and what if one does not stop?
//!
//! A query that is cancelled ends where it next waits for something. A join that compares every row with every other may
//! compute for hours before it does. Nobody can end its threads, but the next query must not wait for them: it gets others.

use std::io;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle, Runtime};

/// A cancelled query has this long to stop before its threads are left to it.
const STOPS_WITHIN: Duration = Duration::from_millis(500);

/// How often is looked whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// The threads of queries.
pub(crate) struct Threads {
    count: usize,
    runtime: Option<Runtime>,
}

impl Threads {
    /// So many, started when they are needed.
    pub(crate) fn new(count: usize) -> Self {
        Self { count: count.max(1), runtime: None }
    }

    /// Those for the next query.
    ///
    /// # Errors
    /// They cannot be started.
    pub(crate) fn handle(&mut self) -> io::Result<Handle> {
        if let Some(runtime) = &self.runtime {
            return Ok(runtime.handle().clone());
        }
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.worker_threads(self.count).thread_name("vonk-query").enable_all().build()?;
        Ok(self.runtime.insert(runtime).handle().clone())
    }

    /// Waits a little for a query that was dropped, and leaves it its threads if it goes on.
    pub(crate) fn settle(&mut self) {
        let Some(runtime) = &self.runtime else { return };
        let deadline = Instant::now() + STOPS_WITHIN;
        while runtime.metrics().num_alive_tasks() > 0 {
            if Instant::now() >= deadline {
                tracing::debug!("a cancelled query did not stop: the next one gets other threads");
                return self.leave();
            }
            std::thread::park_timeout(LOOK_EVERY);
        }
    }

    fn leave(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waits for nothing: the process ends without these threads.
            runtime.shutdown_background();
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_that_does_not_stop_keeps_no_other_from_running() {
        let mut threads = Threads::new(1);
        let (release, held) = std::sync::mpsc::channel::<()>();
        let (begun, begin) = std::sync::mpsc::channel();
        let stuck = threads.handle().unwrap().spawn(async move {
            begun.send(()).unwrap();
            let _ = held.recv();
        });
        begin.recv().unwrap();
        stuck.abort();
        threads.settle();
        let (sender, answer) = std::sync::mpsc::channel();
        threads.handle().unwrap().spawn(async move { sender.send(42) });
        assert_eq!(answer.recv_timeout(Duration::from_secs(30)), Ok(42));
        drop(release);
    }
}
