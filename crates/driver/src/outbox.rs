//! What goes to one executor in one message, and in which order?
//!
//! The loop collects a turn's messages in a [`Batch`]; the link takes what has gathered since it last wrote. Launches that
//! follow each other travel together. How much can gather is bounded by the executor's slots, and an executor to which
//! nothing can be written is soon lost by its silence.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::messages::{LaunchTask, ToExecutor};
use tokio::sync::Notify;

/// Messages for one executor, in order.
#[derive(Default)]
pub(crate) struct Batch {
    messages: Vec<ToExecutor>,
}

impl Batch {
    /// Adds a message: to the last one, if both launch or both cancel.
    pub(crate) fn push(&mut self, message: ToExecutor) {
        match (self.messages.last_mut(), message) {
            (Some(ToExecutor::Launch(tasks)), ToExecutor::Launch(more)) => tasks.extend(more),
            (Some(ToExecutor::Cancel(attempts)), ToExecutor::Cancel(more)) => attempts.extend(more),
            (_, message) => self.messages.push(message),
        }
    }

    /// Adds a launch, to the last message if that is one.
    pub(crate) fn launch(&mut self, task: LaunchTask) {
        match self.messages.last_mut() {
            Some(ToExecutor::Launch(tasks)) => tasks.push(task),
            _ => self.messages.push(ToExecutor::Launch(vec![task])),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

#[derive(Default)]
struct Shared {
    batch: Mutex<Batch>,
    filled: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Batch> {
        self.batch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What waits for one connection to write it. A new connection has a new one: what an old one did not write is void.
#[derive(Clone, Default)]
pub(crate) struct Outbox {
    shared: Arc<Shared>,
}

impl Outbox {
    /// Adds a turn's messages; leaves the batch empty.
    pub(crate) fn put(&self, batch: &mut Batch) {
        {
            let mut gathered = self.shared.lock();
            if gathered.is_empty() {
                std::mem::swap(&mut *gathered, batch);
            } else {
                batch.messages.drain(..).for_each(|message| gathered.push(message));
            }
        }
        self.shared.filled.notify_one();
    }

    /// Waits for messages and takes all.
    ///
    /// # Cancellation
    /// A dropped future takes nothing.
    pub(crate) async fn take(&self) -> Vec<ToExecutor> {
        loop {
            {
                let mut gathered = self.shared.lock();
                if !gathered.is_empty() {
                    return std::mem::take(&mut gathered.messages);
                }
            }
            self.shared.filled.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use model::ids::{AttemptId, JobId, PartitionId, StageAttempt, StageId};
    use model::messages::Payload;

    use super::*;

    fn task(partition: u32) -> LaunchTask {
        let attempt = AttemptId {
            job: JobId(0),
            stage: StageId(0),
            stage_attempt: StageAttempt(0),
            partition: PartitionId(partition),
            attempt: 0,
        };
        let input = Payload::Inline(Bytes::new());
        LaunchTask { attempt, input, reads: Vec::new(), stage_has_pending: false }
    }

    fn shape(messages: &[ToExecutor]) -> Vec<String> {
        messages
            .iter()
            .map(|message| match message {
                ToExecutor::Launch(tasks) => format!("launch {}", tasks.len()),
                ToExecutor::Cancel(attempts) => format!("cancel {}", attempts.len()),
                other => format!("{other:?}"),
            })
            .collect()
    }

    #[tokio::test]
    async fn launches_travel_together_and_order_is_kept() {
        let outbox = Outbox::default();
        let mut turn = Batch::default();
        turn.launch(task(0));
        turn.launch(task(1));
        outbox.put(&mut turn);
        assert!(turn.is_empty());
        turn.launch(task(2));
        turn.push(ToExecutor::Cancel(vec![task(0).attempt]));
        turn.push(ToExecutor::Cancel(vec![task(1).attempt]));
        turn.launch(task(3));
        turn.push(ToExecutor::Acknowledge(7));
        outbox.put(&mut turn);
        assert_eq!(shape(&outbox.take().await), ["launch 3", "cancel 2", "launch 1", "Acknowledge(7)"]);
    }
}
