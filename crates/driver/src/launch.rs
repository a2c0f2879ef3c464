//! How does a task reach its executor?
//!
//! Its read plans are made of what the registry holds at that moment. What is too large for a message goes through the
//! store first; until it is there, the launch is held. Between threads of one process nothing is too large.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use model::ids::{AttemptId, ExecutorId, StageAttempt, StageId};
use model::messages::{LaunchTask, Payload, StageBody, ToExecutor};
use model::shuffle::ReadPlan;
use model::{Failure, FailureKind, keys};
use scheduler::Event;
use shuffle::Missing;

use crate::event_loop::{EventLoop, Message};

/// What is larger goes through the store.
const INLINE_MAX: usize = 1 << 20;

/// A launch in hand.
pub(crate) struct Held {
    pub(crate) attempt: AttemptId,
    pub(crate) executor: ExecutorId,
    pub(crate) stage_has_pending: bool,
    /// Its input, if that went through the store.
    pub(crate) input: Option<Payload>,
}

/// What goes into the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upload {
    /// A stage's body, for all attempts.
    Body(StageId),
    /// The input of a launch.
    Input(AttemptId),
}

impl EventLoop {
    /// Sends a task, or holds it while something is uploaded; a launch that cannot be is a failed attempt.
    pub(crate) fn launch(&mut self, held: Held) {
        let (attempt, executor) = (held.attempt, held.executor);
        if let Err(failure) = self.try_launch(held) {
            self.came_of_it(Event::TaskFailed { attempt, executor, failure: failure.during(attempt, executor) });
        }
    }

    fn try_launch(&mut self, held: Held) -> Result<(), Failure> {
        let (attempt, executor) = (held.attempt, held.executor);
        let gone = || Failure::new(FailureKind::Internal, format!("launch task {attempt}: its stage is not known"));
        let reads = self.plan(attempt)?;
        let stage_attempt = (attempt.stage, attempt.stage_attempt);
        let Some(remote) = self.address(executor) else {
            return Ok(()); // lost in this very turn, and the scheduler is about to hear of it
        };
        let (needs_body, in_process) = (!remote.bodies.contains(&stage_attempt), remote.in_process);
        if needs_body && !in_process && self.hold_for_body(attempt.stage) {
            self.held.insert(attempt, held);
            return Ok(());
        }
        let stage = self.jobs.stage(attempt.stage).ok_or_else(gone)?;
        let input = match held.input.clone() {
            Some(stored) => stored,
            None => {
                let inputs = AssertUnwindSafe(&stage.stage.inputs);
                let bytes =
                    catch_unwind(|| inputs.input(attempt.partition)).map_err(|_panic| input_panicked(attempt))?;
                if !in_process && bytes.len() > INLINE_MAX {
                    let parts = &self.parts;
                    let key = keys::input(parts.app, parts.epoch, attempt.stage, attempt.partition);
                    self.held.insert(attempt, held);
                    self.upload(Upload::Input(attempt), key, bytes);
                    return Ok(());
                }
                Payload::Inline(bytes)
            }
        };
        let body = match needs_body {
            true => Some(self.body(attempt.stage, attempt.stage_attempt).ok_or_else(gone)?),
            false => None,
        };
        let task = LaunchTask { attempt, input, reads, stage_has_pending: held.stage_has_pending };
        if let Some(remote) = self.address(executor) {
            if let Some(body) = body {
                remote.bodies.insert(stage_attempt);
                remote.turn.push(ToExecutor::Body(Box::new(body)));
            }
            remote.turn.launch(task);
        }
        self.launched(attempt, executor);
        Ok(())
    }

    /// What the task reads, by the registry as it is now.
    fn plan(&self, attempt: AttemptId) -> Result<Vec<ReadPlan>, Failure> {
        let Some(stage) = self.jobs.stage(attempt.stage) else { return Ok(Vec::new()) };
        let reads = &stage.stage.shape.reads;
        if reads.is_empty() {
            return Ok(Vec::new());
        }
        let ranges = reads.iter().flat_map(|read| read.of(attempt.partition));
        ranges.map(|range| self.registry.plan(range).map_err(|missing| missing_maps(&missing))).collect()
    }

    fn body(&self, id: StageId, stage_attempt: StageAttempt) -> Option<StageBody> {
        let running = self.jobs.stage(id)?;
        let stage = &running.stage;
        let spec = |shuffle| self.shuffles.get(&shuffle).cloned();
        let inline = || Payload::Inline(stage.body.bytes.clone());
        Some(StageBody {
            stage: id,
            stage_attempt,
            name: running.name.clone(),
            kind: stage.body.kind,
            body: running.stored.clone().unwrap_or_else(inline),
            writes: match stage.shape.output {
                model::graph::Output::Shuffle { shuffle, .. } => Some(spec(shuffle)?),
                model::graph::Output::Result | model::graph::Output::Write => None,
            },
            reads: stage.shape.reads.iter().map(|read| spec(read.shuffle)).collect::<Option<_>>()?,
        })
    }

    /// Whether a launch of this stage must wait for its body's upload, which begins if nobody has begun it.
    fn hold_for_body(&mut self, id: StageId) -> bool {
        let (app, epoch) = (self.parts.app, self.parts.epoch);
        let Some(stage) = self.jobs.stage_mut(id) else { return false };
        if stage.stage.body.bytes.len() <= INLINE_MAX || stage.stored.is_some() {
            return false;
        }
        if !std::mem::replace(&mut stage.uploading, true) {
            // Every attempt of a stage has the same body.
            let (key, bytes) = (keys::body(app, epoch, id, StageAttempt(0)), stage.stage.body.bytes.clone());
            self.upload(Upload::Body(id), key, bytes);
        }
        true
    }

    fn upload(&self, upload: Upload, key: String, bytes: Bytes) {
        let (store, root, mailbox) =
            (self.parts.store.clone(), self.parts.root.clone(), self.parts.dialer.mailbox.clone());
        let put = async move {
            let stored = crate::store::put(store, root, key, bytes).await;
            // A loop that has ended wants no answer.
            let _ = mailbox.send(Message::Uploaded { upload, stored }).await;
        };
        self.parts.tasks.spawn_on(put, &self.parts.io);
    }

    /// An upload has ended: what waited for it is launched, or has failed.
    pub(crate) fn on_uploaded(&mut self, upload: Upload, stored: Result<Payload, Failure>) {
        if stored.is_ok() {
            self.tell(Event::StoreAnswered);
        }
        let waiting: Vec<AttemptId> = match upload {
            Upload::Input(attempt) => self.held.contains_key(&attempt).then_some(attempt).into_iter().collect(),
            Upload::Body(id) => {
                if let Some(stage) = self.jobs.stage_mut(id) {
                    stage.uploading = false;
                    stage.stored = stored.clone().ok();
                }
                self.held.keys().filter(|attempt| attempt.stage == id).copied().collect()
            }
        };
        for attempt in waiting {
            let Some(mut held) = self.held.remove(&attempt) else { continue };
            match (&stored, upload) {
                (Ok(payload), Upload::Input(_)) => {
                    held.input = Some(payload.clone());
                    self.launch(held);
                }
                (Ok(_), Upload::Body(_)) => self.launch(held),
                (Err(failure), _) => {
                    let (attempt, executor) = (held.attempt, held.executor);
                    let failure = failure.clone().during(attempt, executor);
                    self.came_of_it(Event::TaskFailed { attempt, executor, failure });
                }
            }
        }
        self.tell_outcomes();
    }
}

fn input_panicked(attempt: AttemptId) -> Failure {
    let kind = FailureKind::UserCode { panicked: true, transient: false };
    Failure::new(kind, format!("make the input of task {attempt}: the program panicked"))
}

fn missing_maps(missing: &Missing) -> Failure {
    let kind = FailureKind::MapOutput {
        shuffle: missing.shuffle,
        generation: missing.generation,
        maps: missing.maps.clone(),
        fault: model::failure::MapFault::Missing,
        object: None,
    };
    Failure::from_error(kind, missing)
}
