//! How is a scenario written down, and how are the scheduler's answers?
//!
//! A script is statements apart by `;`; [`play`] gives a line per statement: what the scheduler asked for, or `-`.
//!
//! ```text
//! executor e1 slots=2                        it joins
//! job j1: map[2] -> reduce[1]                a chain of stages; `group=g`; `out[2]!` writes files; `use[2]@7` uses the
//!                                            cached dataset 7; a stage that an earlier job named writes the same shuffle
//! started map.0 · packed map.0 · done map.0 · done map.0 caches 7 · fail map.0: disk · fail reduce.0: missing map.1
//! lost e1: evicted (released, oom, abort, start) · draining e1 · drained e1 · holds e1: map.0
//! cancel j1 · cancel group g · differs map.0 · gone map.0 · release map · unpersist 7 · answered · refused: why
//! wait 30s (living executors are heard, unless silent) · silent e1 · slept 40s
//! ```
//! An attempt is `stage.partition#attempt`, in a repeated stage `#rSTAGE.attempt`; without `#` it is the last launched.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use model::failure::{LossCause, MapFault};
use model::graph::{JobShape, Output, Ranges, StageRead, StageShape};
use model::{
    AttemptId, ExecutorId, Failure, FailureKind, Generation, JobId, MapId, PartitionId, RddId, ShuffleId, StageId,
    Timestamp,
};
use scheduler::{Action, Config, Event, Scheduler};

/// Plays a script with the product's limits, and up to as many executors as it names.
pub(crate) fn play(script: &str) -> String {
    play_with(Config { min_executors: 0, max_executors: 9, ..Config::default() }, script)
}

/// Plays a script with limits of its own.
pub(crate) fn play_with(config: Config, script: &str) -> String {
    let mut stage = Stage {
        scheduler: Scheduler::new(config),
        now: Timestamp(0),
        names: BTreeMap::new(),
        shuffles: BTreeMap::new(),
        generations: BTreeMap::new(),
        launched: BTreeMap::new(),
        alive: BTreeSet::new(),
        silent: BTreeSet::new(),
        next_stage: 0,
    };
    let mut out = String::new();
    for statement in script.split(';').map(str::trim).filter(|statement| !statement.is_empty()) {
        let actions = stage.perform(statement);
        stage.scheduler.check_invariants();
        let line = stage.spell(&actions);
        writeln!(out, "{}", if line.is_empty() { "-" } else { &line }).expect("write to a string");
    }
    out
}

struct Stage {
    scheduler: Scheduler,
    now: Timestamp,
    names: BTreeMap<StageId, String>,
    shuffles: BTreeMap<String, (ShuffleId, u32)>,
    generations: BTreeMap<ShuffleId, Generation>,
    /// Every attempt that was launched, by task, and where.
    launched: BTreeMap<(String, u32), Vec<(AttemptId, ExecutorId)>>,
    alive: BTreeSet<ExecutorId>,
    silent: BTreeSet<ExecutorId>,
    next_stage: u32,
}

impl Stage {
    fn perform(&mut self, statement: &str) -> Vec<Action> {
        let (verb, rest) = statement.split_once(' ').unwrap_or((statement, ""));
        let (subject, object) = rest.split_once(": ").unwrap_or((rest, ""));
        let event = match verb {
            "executor" => {
                let (id, slots) = rest.split_once(" slots=").unwrap_or((rest, "1"));
                self.alive.insert(executor(id));
                Event::ExecutorJoined { executor: executor(id), slots: slots.parse().expect("slots") }
            }
            "job" => self.job(subject, object),
            "started" | "packed" | "done" | "fail" => {
                let (task, cached) = subject.split_once(" caches ").map_or((subject, None), |(t, c)| (t, Some(c)));
                let (attempt, executor) = self.attempt(task);
                match verb {
                    "started" => Event::TaskStarted { attempt, executor },
                    "packed" => Event::TaskHandedOver { attempt, executor },
                    "done" => {
                        let block = |rdd: &str| (RddId(rdd.parse().expect("a dataset")), attempt.partition);
                        Event::TaskSucceeded { attempt, executor, cached: cached.map(block).into_iter().collect() }
                    }
                    _ => Event::TaskFailed { attempt, executor, failure: Failure::new(self.kind(object), object) },
                }
            }
            "lost" => {
                self.alive.remove(&executor(subject));
                Event::ExecutorLost { executor: executor(subject), cause: cause(object), why: object.to_owned() }
            }
            "draining" => Event::ExecutorDraining { executor: executor(subject), why: "spot notice".to_owned() },
            "drained" => Event::ExecutorDrained { executor: executor(subject) },
            "holds" => {
                let holding = object.split(' ').filter(|t| !t.is_empty()).map(|task| self.attempt(task).0).collect();
                Event::LinkRestored { executor: executor(subject), holding }
            }
            "cancel" => match rest.strip_prefix("group ") {
                Some(group) => Event::GroupCancelled { group: Some(group.to_owned()), why: "asked".to_owned() },
                None => Event::JobCancelled { job: JobId(number(rest)), why: "asked".to_owned() },
            },
            "differs" | "gone" => {
                let (name, partition) = rest.split_once('.').expect("stage.partition");
                let (shuffle, map) = (self.shuffles[name].0, MapId(partition.parse().expect("a partition")));
                let generation = self.generations.get(&shuffle).copied().unwrap_or_default();
                match verb {
                    "differs" => Event::OutputDiffered { shuffle, generation, map },
                    _ => Event::OutputsLost { shuffle, generation, maps: vec![map], why: "no such object".to_owned() },
                }
            }
            "release" => Event::ShuffleReleased { shuffle: self.shuffles[rest].0 },
            "unpersist" => Event::RddUnpersisted { rdd: RddId(rest.parse().expect("a dataset")) },
            "answered" => Event::StoreAnswered,
            "refused:" => Event::ClusterRefused { why: rest.to_owned() },
            "wait" => return self.wait(duration(rest)),
            "silent" => {
                self.silent.insert(executor(rest));
                return Vec::new();
            }
            "slept" => {
                self.now = self.now + duration(rest);
                Event::Slept { gap: duration(rest) }
            }
            "begin" => Event::ApplicationStarted,
            other => panic!("a script cannot say {other}"),
        };
        self.tell(event)
    }

    fn tell(&mut self, event: Event) -> Vec<Action> {
        let actions = self.scheduler.handle(self.now, event);
        for action in &actions {
            if let Action::LaunchTask { attempt, executor, .. } = action {
                let task = (self.names[&attempt.stage].clone(), attempt.partition.0);
                self.launched.entry(task).or_default().push((*attempt, *executor));
            } else if let Action::RaiseGeneration { shuffle, generation } = action {
                self.generations.insert(*shuffle, *generation);
            } else if let Action::RemoveExecutor { executor, .. } = action {
                self.alive.remove(executor);
            }
        }
        actions
    }

    /// Lets time pass, second by second: heartbeats first, then timers.
    fn wait(&mut self, time: Duration) -> Vec<Action> {
        let end = self.now + time;
        let mut actions = Vec::new();
        while self.now < end {
            self.now = (self.now + Duration::from_millis(500)).min(end);
            for executor in self.alive.difference(&self.silent).copied().collect::<Vec<_>>() {
                actions.extend(self.tell(Event::HeartbeatHeard { executor }));
            }
            if self.scheduler.next_deadline().is_some_and(|at| at <= self.now) {
                actions.extend(self.tell(Event::DeadlinePassed));
            }
        }
        actions
    }

    fn job(&mut self, header: &str, chain: &str) -> Event {
        let (id, group) = header.split_once(" group=").map_or((header, None), |(id, g)| (id, Some(g.to_owned())));
        let mut stages: Vec<StageShape> = Vec::new();
        let words: Vec<&str> = chain.split(" -> ").collect();
        for (at, word) in words.iter().enumerate() {
            let (name, size) = word.split_once('[').unwrap_or((word, ""));
            let (size, marks) = size.split_once(']').unwrap_or((size, ""));
            let partitions = size.parse().unwrap_or_else(|_| self.shuffles[name].1);
            let stage = StageId(self.next_stage);
            self.next_stage += 1;
            self.names.insert(stage, name.to_owned());
            let reads = stages.last().map(|before| match before.output {
                Output::Shuffle { shuffle, .. } => {
                    let lists: Arc<[_]> = (0..partitions).map(|p| vec![(p, p + 1)]).collect();
                    StageRead { shuffle, ranges: Ranges::Listed(lists) }
                }
                Output::Result | Output::Write => panic!("only the last stage gives results"),
            });
            let output = if at + 1 < words.len() {
                let next = ShuffleId(self.shuffles.len() as u32);
                let shuffle = self.shuffles.entry(name.to_owned()).or_insert((next, partitions)).0;
                Output::Shuffle { shuffle, partitions: 1 }
            } else if marks.contains('!') {
                Output::Write
            } else {
                Output::Result
            };
            let cached = marks.split_once('@').map(|(_, rdd)| RddId(rdd.parse().expect("a dataset")));
            let cached = cached.into_iter().collect();
            stages.push(StageShape { id: stage, partitions, reads: reads.into_iter().collect(), output, cached });
        }
        let wanted = (0..stages[stages.len() - 1].partitions).map(PartitionId).collect();
        Event::JobSubmitted { job: JobId(number(id)), group, shape: JobShape { stages, wanted } }
    }

    fn attempt(&self, text: &str) -> (AttemptId, ExecutorId) {
        let (task, which) = text.split_once('#').map_or((text, None), |(task, which)| (task, Some(which)));
        let (name, partition) = task.split_once('.').expect("stage.partition");
        let attempts = &self.launched[&(name.to_owned(), partition.parse().expect("a partition"))];
        let wanted =
            |(attempt, _): &&(AttemptId, ExecutorId)| which.is_none_or(|which| spell_attempt(*attempt) == which);
        *attempts.iter().rev().find(wanted).expect("it was launched")
    }

    fn kind(&self, text: &str) -> FailureKind {
        match text.split_once(' ').unwrap_or((text, "")) {
            ("query", _) => FailureKind::Query,
            ("panic", _) => FailureKind::UserCode { panicked: true, transient: false },
            ("transient", _) => FailureKind::UserCode { panicked: false, transient: true },
            ("memory", _) => FailureKind::TaskMemory,
            ("disk", _) => FailureKind::Disk,
            ("store", _) => FailureKind::StoreUnavailable,
            ("denied", _) => FailureKind::StoreDenied,
            ("internal", _) => FailureKind::Internal,
            ("cancelled", _) => FailureKind::Cancelled,
            ("missing", map) => {
                let (name, partition) = map.split_once('.').expect("stage.partition");
                let shuffle = self.shuffles[name].0;
                let generation = self.generations.get(&shuffle).copied().unwrap_or_default();
                let maps = vec![MapId(partition.parse().expect("a partition"))];
                FailureKind::MapOutput { shuffle, generation, maps, fault: MapFault::Missing, object: None }
            }
            (other, _) => panic!("a script knows no failure {other}"),
        }
    }

    fn name(&self, attempt: AttemptId) -> String {
        format!("{}.{}#{}", self.names[&attempt.stage], attempt.partition, spell_attempt(attempt))
    }

    fn shuffle(&self, shuffle: ShuffleId) -> &str {
        self.shuffles.iter().find(|(_, (id, _))| *id == shuffle).map_or("?", |(name, _)| name)
    }

    /// Launches that follow each other are one phrase; what is only shown to people about stages is left out.
    fn spell(&self, actions: &[Action]) -> String {
        let mut phrases: Vec<String> = Vec::new();
        let mut launching = false;
        for action in actions {
            let phrase = match action {
                Action::LaunchTask { attempt, executor, .. } => {
                    let task = format!("{} on {executor}", self.name(*attempt));
                    if launching {
                        let last = phrases.last_mut().expect("a launch came before");
                        write!(last, ", {task}").expect("write to a string");
                        continue;
                    }
                    launching = true;
                    phrases.push(format!("launch {task}"));
                    continue;
                }
                Action::CancelTask { attempt, executor } => format!("cancel {} on {executor}", self.name(*attempt)),
                Action::AcceptResult { attempt, first, .. } => {
                    format!("accept {}{}", self.name(*attempt), if *first { "" } else { " again" })
                }
                Action::VoidResult { attempt, .. } => format!("void {}", self.name(*attempt)),
                Action::VoidStage { stage } => format!("void all of {}", self.names[stage]),
                Action::ReportFailure { attempt, failure, retried, .. } => {
                    let retried = if *retried { "" } else { ", the last" };
                    format!("failed {}: {}{retried}", self.name(*attempt), failure.kind.code())
                }
                Action::StageStarted { .. } | Action::StageFinished { .. } => continue,
                Action::StageStopped { stage, .. } => format!("stop {}", self.names[stage]),
                Action::NoMoreMaps { shuffle, executors, .. } => {
                    let executors: Vec<String> = executors.iter().map(ToString::to_string).collect();
                    format!("no more {} to {}", self.shuffle(*shuffle), executors.join(" "))
                }
                Action::DropOutputs { shuffle, maps, .. } => {
                    let maps: Vec<String> =
                        maps.iter().map(|m| format!("{}.{}", self.shuffle(*shuffle), m.0)).collect();
                    format!("drop {}", maps.join(" "))
                }
                Action::RaiseGeneration { shuffle, generation } => {
                    format!("{} is of {generation}", self.shuffle(*shuffle))
                }
                Action::DropShuffle { shuffle } => format!("delete {}", self.shuffle(*shuffle)),
                Action::FinishJob { job } => format!("finish {job}"),
                Action::FailJob { job, failure, earlier } => {
                    let earlier = if earlier.is_empty() { String::new() } else { format!(" after {}", earlier.len()) };
                    format!("fail {job}: {}: {failure}{earlier}", failure.kind.code())
                }
                Action::RequestExecutors { count } => format!("request {count}"),
                Action::DrainExecutor { executor, why } => format!("drain {executor}: {why}"),
                Action::ReleaseExecutor { executor } => format!("release {executor}"),
                Action::RemoveExecutor { executor, why, .. } => format!("remove {executor}: {why}"),
                Action::Warn { text } => format!("warn: {text}"),
            };
            launching = false;
            phrases.push(phrase);
        }
        phrases.join("; ")
    }
}

fn spell_attempt(attempt: AttemptId) -> String {
    match attempt.stage_attempt.0 {
        0 => attempt.attempt.to_string(),
        repeat => format!("r{repeat}.{}", attempt.attempt),
    }
}

fn number(id: &str) -> u32 {
    id[1..].parse().expect("a letter and a number")
}

fn executor(id: &str) -> ExecutorId {
    ExecutorId(u64::from(number(id)))
}

fn cause(word: &str) -> LossCause {
    match word {
        "released" => LossCause::Released,
        "evicted" => LossCause::Infrastructure,
        "oom" => LossCause::Memory,
        "abort" => LossCause::Program,
        "start" => LossCause::Start,
        other => panic!("a script knows no cause {other}"),
    }
}

fn duration(text: &str) -> Duration {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_alphabetic()).expect("a unit"));
    let number: u64 = number.parse().expect("a number");
    match unit {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(60 * number),
        other => panic!("a script knows no unit {other}"),
    }
}
