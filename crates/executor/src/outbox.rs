//! What does the driver hear, and what was it not heard to have heard?
//!
//! Statuses are kept until they are acknowledged, and said again on every new stream; the rest is about the present and is
//! said anew. Nothing queues but what attempts are, so a driver that does not read costs no memory beyond its own tasks.

use std::collections::VecDeque;

use model::AttemptId;
use model::messages::{ExecutorHeartbeat, FromExecutor, TaskOutcome, TaskStatus, ToExecutor};
use model::shuffle::MapRows;
use shuffle::Announced;
use tokio::sync::mpsc;

/// Messages from the driver that may wait here; beyond them the driver waits.
pub(crate) const INCOMING: usize = 256;

/// Messages to the driver that may wait for it; beyond them statuses gather here and travel together.
pub(crate) const OUTGOING: usize = 64;

/// Statuses in one message, so that none of a burst waits for all of it.
const STATUSES_PER_MESSAGE: usize = 4_096;

/// One stream with a driver.
pub(crate) struct Connection {
    pub(crate) incoming: mpsc::Receiver<ToExecutor>,
    pub(crate) outgoing: mpsc::Sender<FromExecutor>,
}

/// What is said to the driver.
#[derive(Default)]
pub(crate) struct Outbox {
    link: Option<Link>,
    /// Ended and not acknowledged, in the order of their numbers, without gaps.
    ended: VecDeque<TaskStatus>,
    last_number: u64,
}

/// What was said on a stream, and what is still to be said.
struct Link {
    connection: Connection,
    announced: Announced,
    started: Vec<AttemptId>,
    handed_over: Vec<AttemptId>,
    /// Statuses up to this number were said on this stream.
    said: u64,
    heartbeat: Option<ExecutorHeartbeat>,
    drained: bool,
}

impl Link {
    fn wants_to_speak(&self, last_number: u64) -> bool {
        self.said < last_number
            || self.heartbeat.is_some()
            || self.drained
            || !self.started.is_empty()
            || !self.handed_over.is_empty()
    }
}

impl Outbox {
    /// Speaks on a new stream from now on, whose driver knows what is held and nothing else.
    pub(crate) fn attach(&mut self, connection: Connection, started: Vec<AttemptId>, handed_over: Vec<AttemptId>) {
        self.link = Some(Link {
            connection,
            announced: Announced::default(),
            started,
            handed_over,
            said: self.ended.front().map_or(self.last_number, |status| status.number - 1),
            heartbeat: None,
            drained: false,
        });
    }

    /// The stream has ended.
    pub(crate) fn detach(&mut self) {
        self.link = None;
    }

    pub(crate) fn is_attached(&self) -> bool {
        self.link.is_some()
    }

    /// The two ends of the stream, to wait for.
    pub(crate) fn ends(&mut self) -> Option<(&mut mpsc::Receiver<ToExecutor>, &mpsc::Sender<FromExecutor>)> {
        self.link.as_mut().map(|link| (&mut link.connection.incoming, &link.connection.outgoing))
    }

    /// Attempts whose end is not acknowledged.
    pub(crate) fn unheard(&self) -> impl ExactSizeIterator<Item = AttemptId> {
        self.ended.iter().map(|status| status.attempt)
    }

    pub(crate) fn started(&mut self, attempt: AttemptId) {
        if let Some(link) = &mut self.link {
            link.started.push(attempt);
        }
    }

    pub(crate) fn handed_over(&mut self, attempt: AttemptId) {
        if let Some(link) = &mut self.link {
            link.handed_over.push(attempt);
        }
    }

    pub(crate) fn ended(&mut self, attempt: AttemptId, outcome: TaskOutcome) {
        self.last_number += 1;
        self.ended.push_back(TaskStatus { number: self.last_number, attempt, outcome });
    }

    pub(crate) fn heartbeat(&mut self, heartbeat: ExecutorHeartbeat) {
        if let Some(link) = &mut self.link {
            link.heartbeat = Some(heartbeat);
        }
    }

    pub(crate) fn drained(&mut self) {
        if let Some(link) = &mut self.link {
            link.drained = true;
        }
    }

    /// Statuses up to this number have been heard.
    pub(crate) fn acknowledge(&mut self, number: u64) {
        while self.ended.front().is_some_and(|status| status.number <= number) {
            self.ended.pop_front();
        }
    }

    /// Whether something is to be said and there is a stream.
    pub(crate) fn wants_to_speak(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.wants_to_speak(self.last_number))
    }

    /// Says what is to be said, as long as there is room. `is_held` tells of an attempt whether it has not ended: who has
    /// ended already need not be said to have begun.
    pub(crate) fn speak(&mut self, is_held: impl Fn(AttemptId) -> bool) {
        while let Some(link) = &mut self.link
            && link.wants_to_speak(self.last_number)
        {
            let outgoing = link.connection.outgoing.clone();
            let room = match outgoing.try_reserve() {
                Ok(room) => room,
                Err(mpsc::error::TrySendError::Full(())) => return,
                // Nobody listens. Nothing is lost: its own end of the stream tells the service.
                Err(mpsc::error::TrySendError::Closed(())) => return self.fall_silent(),
            };
            if let Some(message) = next_message(link, &self.ended, self.last_number, &is_held) {
                room.send(message);
            }
        }
    }

    /// Keeps everything for the next stream and has nothing to say on this one.
    fn fall_silent(&mut self) {
        if let Some(link) = &mut self.link {
            link.started.clear();
            link.handed_over.clear();
            link.said = u64::MAX;
            link.heartbeat = None;
            link.drained = false;
        }
    }
}

fn next_message(
    link: &mut Link,
    ended: &VecDeque<TaskStatus>,
    last_number: u64,
    is_held: impl Fn(AttemptId) -> bool,
) -> Option<FromExecutor> {
    link.started.retain(|attempt| is_held(*attempt));
    if !link.started.is_empty() {
        return Some(FromExecutor::Started(std::mem::take(&mut link.started)));
    }
    link.handed_over.retain(|attempt| is_held(*attempt));
    if !link.handed_over.is_empty() {
        return Some(FromExecutor::HandedOver(std::mem::take(&mut link.handed_over)));
    }
    if link.said < last_number {
        let first = ended.front().map_or(last_number, |status| status.number);
        let skip = usize::try_from((link.said + 1).saturating_sub(first)).unwrap_or(usize::MAX);
        let unsaid = ended.iter().skip(skip).take(STATUSES_PER_MESSAGE);
        let statuses: Vec<_> = unsaid.map(|status| announce(&mut link.announced, status.clone())).collect();
        link.said = statuses.last().map_or(last_number, |status| status.number);
        return (!statuses.is_empty()).then_some(FromExecutor::Status(statuses));
    }
    if let Some(heartbeat) = link.heartbeat.take() {
        return Some(FromExecutor::Heartbeat(heartbeat));
    }
    std::mem::take(&mut link.drained).then_some(FromExecutor::Drained)
}

/// A status as it is said on a stream: objects that the stream has named already are not named again.
fn announce(announced: &mut Announced, mut status: TaskStatus) -> TaskStatus {
    if let TaskOutcome::Succeeded(success) = &mut status.outcome
        && let Some(output) = success.map_output.take()
    {
        let output = announced.strip(output);
        if let MapRows::Stored { new_objects, .. } = &output.location {
            success.metrics.shuffle_write_requests = new_objects.iter().map(|object| u64::from(object.requests)).sum();
        }
        success.map_output = Some(output);
    }
    status
}
