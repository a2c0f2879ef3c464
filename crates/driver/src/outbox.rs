//! What goes to one executor in one message, and in which order?
//!
//! The loop collects a turn's messages in a [`Batch`]; the link takes what has gathered since it last wrote. Launches that
//! follow each other travel together, up to [`LAUNCH_BYTES`]. How much can gather is bounded by the executor's slots, and
//! a link that does not write is cut by its missing heartbeats.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::messages::{LaunchTask, Payload, ToExecutor};
use model::shuffle::{ReadPlan, SourceBytes};
use tokio::sync::Notify;

/// Launches above so many bytes together go out as several messages.
const LAUNCH_BYTES: usize = 4 << 20;

/// What a task costs in a message besides its input and plans.
const TASK_BYTES: usize = 64;

/// What a source, or a member of one, costs in a message.
const SOURCE_BYTES: usize = 48;

/// Messages for one executor, in order.
#[derive(Default)]
pub(crate) struct Batch {
    messages: Vec<ToExecutor>,
    /// Bytes of the launch at the end, if there is one.
    launch_bytes: usize,
}

impl Batch {
    /// Adds a launch, to the last message if that is one and has room.
    pub(crate) fn launch(&mut self, task: LaunchTask) {
        let bytes = size_of_task(&task);
        match self.messages.last_mut() {
            Some(ToExecutor::Launch(tasks)) if self.launch_bytes + bytes <= LAUNCH_BYTES => {
                self.launch_bytes += bytes;
                tasks.push(task);
            }
            _ => {
                self.launch_bytes = bytes;
                self.messages.push(ToExecutor::Launch(vec![task]));
            }
        }
    }

    /// Adds a message.
    pub(crate) fn push(&mut self, message: ToExecutor) {
        match (self.messages.last_mut(), message) {
            (Some(ToExecutor::Cancel(attempts)), ToExecutor::Cancel(more)) => attempts.extend(more),
            (_, message) => self.messages.push(message),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

fn size_of_task(task: &LaunchTask) -> usize {
    let input = match &task.input {
        Payload::Inline(bytes) => bytes.len(),
        Payload::Stored { key, .. } => key.len(),
    };
    TASK_BYTES + input + task.reads.iter().map(size_of_plan).sum::<usize>()
}

fn size_of_plan(plan: &ReadPlan) -> usize {
    let partitions = (plan.range.end - plan.range.start) as usize;
    let source = |source: &model::shuffle::ReadSource| {
        let bytes = match &source.bytes {
            SourceBytes::Inline(bytes) => bytes.len(),
            SourceBytes::Object { .. } => 0,
        };
        SOURCE_BYTES + bytes + source.members.len() * (SOURCE_BYTES + 2 * size_of::<u64>() * partitions)
    };
    plan.sources.iter().map(source).sum()
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
                for message in batch.messages.drain(..) {
                    match message {
                        ToExecutor::Launch(tasks) => tasks.into_iter().for_each(|task| gathered.launch(task)),
                        other => gathered.push(other),
                    }
                }
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

    use super::*;

    fn task(partition: u32, input: usize) -> LaunchTask {
        let attempt = AttemptId {
            job: JobId(0),
            stage: StageId(0),
            stage_attempt: StageAttempt(0),
            partition: PartitionId(partition),
            attempt: 0,
        };
        let input = Payload::Inline(Bytes::from(vec![0; input]));
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
        turn.launch(task(0, 0));
        turn.launch(task(1, 0));
        outbox.put(&mut turn);
        assert!(turn.is_empty());
        turn.launch(task(2, 0));
        turn.push(ToExecutor::Cancel(vec![task(0, 0).attempt]));
        turn.push(ToExecutor::Cancel(vec![task(1, 0).attempt]));
        turn.launch(task(3, 0));
        turn.push(ToExecutor::Acknowledge(7));
        outbox.put(&mut turn);
        assert_eq!(shape(&outbox.take().await), ["launch 3", "cancel 2", "launch 1", "Acknowledge(7)"]);
    }

    #[tokio::test]
    async fn large_launches_travel_apart() {
        let outbox = Outbox::default();
        let mut turn = Batch::default();
        (0..5).for_each(|p| turn.launch(task(p, 2 << 20)));
        outbox.put(&mut turn);
        assert_eq!(shape(&outbox.take().await), ["launch 1"; 5]);
    }
}
