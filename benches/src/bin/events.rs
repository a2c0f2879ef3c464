//! How many events does the scheduler handle in a second, and how much memory does a task cost it?

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use model::graph::{JobShape, Output, Ranges, StageRead, StageShape};
use model::time::Timestamp;
use model::{AttemptId, ExecutorId, JobId, PartitionId, ShuffleId, StageId};
use scheduler::{Action, Config, Event, Scheduler};

/// Plays a job of two stages to the scheduler, with executors that answer at once.
#[derive(Debug, Parser)]
struct Args {
    /// How many executors there are
    #[arg(long, default_value_t = 1_000)]
    executors: u32,
    /// Slots of each
    #[arg(long, default_value_t = 4)]
    slots: u32,
    /// How many tasks the job has: half of them maps, half of them reduces
    #[arg(long, default_value_t = 100_000)]
    tasks: u32,
}

/// A scheduler, and what it is told.
struct Play {
    scheduler: Scheduler,
    now: Timestamp,
    running: VecDeque<(AttemptId, ExecutorId)>,
    events: u64,
    inside: Duration,
    done: bool,
}

impl Play {
    /// Tells it an event, and remembers what it launches.
    fn tell(&mut self, event: Event) {
        self.now = self.now + Duration::from_micros(1);
        let began = Instant::now();
        let actions = self.scheduler.handle(self.now, event);
        self.inside += began.elapsed();
        self.events += 1;
        for action in actions {
            match action {
                Action::LaunchTask { attempt, executor, .. } => self.running.push_back((attempt, executor)),
                Action::FinishJob { .. } => self.done = true,
                _ => {}
            }
        }
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let config = Config {
        min_executors: args.executors,
        max_executors: args.executors,
        slots_per_executor: args.slots,
        ..Config::default()
    };
    let mut play = Play {
        scheduler: Scheduler::new(config),
        now: Timestamp::default(),
        running: VecDeque::new(),
        events: 0,
        inside: Duration::ZERO,
        done: false,
    };
    play.tell(Event::ApplicationStarted);
    for executor in 0..args.executors {
        play.tell(Event::ExecutorJoined { executor: ExecutorId(u64::from(executor)), slots: args.slots });
    }

    let half = args.tasks / 2;
    let shuffle = ShuffleId(0);
    let maps = StageShape {
        id: StageId(0),
        partitions: half,
        reads: Vec::new(),
        output: Output::Shuffle { shuffle, partitions: half },
        cached: Vec::new(),
    };
    let reduces = StageShape {
        id: StageId(1),
        partitions: half,
        reads: vec![StageRead { shuffle, ranges: Ranges::Same }],
        output: Output::Result,
        cached: Vec::new(),
    };
    let shape = JobShape { stages: vec![maps, reduces], wanted: (0..half).map(PartitionId).collect() };
    let before = resident_bytes()?;
    play.tell(Event::JobSubmitted { job: JobId(0), group: None, shape });
    let mut most = resident_bytes()?;
    while let Some((attempt, executor)) = play.running.pop_front() {
        play.tell(Event::TaskStarted { attempt, executor });
        if play.events.is_multiple_of(8) {
            play.tell(Event::HeartbeatHeard { executor });
        }
        play.tell(Event::TaskSucceeded { attempt, executor, cached: Vec::new() });
        if play.events % 4_096 < 2 {
            most = most.max(resident_bytes()?);
        }
    }
    ensure!(play.done, "the job did not end: {} events", play.events);
    println!(
        r#"{{"events_per_second": {:.0}, "bytes_per_task": {:.0}, "events": {}}}"#,
        play.events as f64 / play.inside.as_secs_f64(),
        most.saturating_sub(before) as f64 / f64::from(args.tasks),
        play.events
    );
    Ok(())
}

fn resident_bytes() -> Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm.split_whitespace().nth(1).context("read /proc/self/statm")?.parse()?;
    Ok(pages * 4096)
}
