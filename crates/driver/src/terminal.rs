//! What does a person see while a program runs?
//!
//! On a terminal: one live line per running stage, gone when its job ends. Elsewhere: a plain line when a stage starts and
//! ends. Everything goes to stderr; stdout belongs to the program.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use executor::printed::Printed;
use indicatif::{HumanBytes, HumanCount, HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use model::events::{AppEvent, Record};
use model::ids::StageId;
use model::{Timestamp, failure::LossCause};

use crate::observe::Observer;
use crate::status::{StageStatus, Status};

/// A job shorter than this shows no line: a flash on the screen tells nobody anything.
const QUIET: Duration = Duration::from_millis(400);

/// At most so many lines at once; the oldest stages are shown.
const LINES_MAX: usize = 8;

/// How a person is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Live lines on a terminal.
    Live,
    /// A plain line when a stage starts and ends.
    Plain,
    /// Only warnings and losses.
    Quiet,
}

impl Progress {
    /// Live where stderr is a terminal, else plain.
    #[must_use]
    pub fn detect() -> Self {
        if std::io::stderr().is_terminal() { Self::Live } else { Self::Plain }
    }
}

/// Shows an application on stderr. Clones show the same one.
#[derive(Clone)]
pub struct Terminal {
    shared: Arc<Mutex<Shared>>,
    lines: MultiProgress,
    /// The end of what is said here, for history.
    said: Option<Arc<Printed>>,
}

struct Shared {
    progress: Progress,
    status: Status,
    bars: BTreeMap<StageId, ProgressBar>,
    started: Option<Timestamp>,
    now: Timestamp,
    /// Somebody else writes on the screen.
    hidden: bool,
    /// The line about work that is no stage's.
    work: Option<ProgressBar>,
}

impl Terminal {
    /// A terminal that has heard nothing yet.
    #[must_use]
    pub fn new(progress: Progress) -> Self {
        let target = match progress {
            Progress::Live => ProgressDrawTarget::stderr_with_hz(10),
            Progress::Plain | Progress::Quiet => ProgressDrawTarget::hidden(),
        };
        let shared = Shared {
            progress,
            status: Status::default(),
            bars: BTreeMap::new(),
            started: None,
            now: Timestamp::default(),
            hidden: false,
            work: None,
        };
        Self { shared: Arc::new(Mutex::new(shared)), lines: MultiProgress::with_draw_target(target), said: None }
    }

    /// Keeps the end of what is said, live lines apart.
    #[must_use]
    pub fn keeping(self, said: Arc<Printed>) -> Self {
        Self { said: Some(said), ..self }
    }

    /// What hears the records for it.
    #[must_use]
    pub fn observer(&self) -> Box<dyn Observer> {
        Box::new(self.clone())
    }

    /// Writes a line, log lines too, without tearing the live lines.
    pub fn print(&self, text: &[u8]) {
        if let Some(said) = &self.said {
            // What cannot be kept is shown all the same.
            let _ = said.add(text);
        }
        self.lines.suspend(|| {
            // A closed stderr is no reason to end a program.
            let _ = std::io::stderr().lock().write_all(text);
        });
    }

    /// Takes the live lines off the screen.
    pub fn clear(&self) {
        let mut shared = self.lock();
        shared.started = None;
        for (_, bar) in std::mem::take(&mut shared.bars) {
            bar.finish_and_clear();
            self.lines.remove(&bar);
        }
    }

    /// Shows a live line about work that no stage does; none takes it off.
    pub fn working(&self, text: Option<String>) {
        let mut shared = self.lock();
        match text {
            Some(text) if shared.progress == Progress::Live && !shared.hidden => {
                let bar = shared.work.get_or_insert_with(|| {
                    let style = ProgressStyle::with_template("{msg}").expect("the template is a constant that parses");
                    self.lines.add(ProgressBar::new_spinner().with_style(style))
                });
                bar.set_message(text);
            }
            _ => {
                if let Some(bar) = shared.work.take() {
                    bar.finish_and_clear();
                    self.lines.remove(&bar);
                }
            }
        }
    }

    /// Takes the live lines off the screen until [`Terminal::show`]: results are written on it, or a pager has it.
    pub fn hide(&self) {
        let hidden = std::mem::replace(&mut self.lock().hidden, true);
        if !hidden {
            self.working(None);
            self.clear();
        }
    }

    /// Live lines may be shown again.
    pub fn show(&self) {
        self.lock().hidden = false;
    }

    /// One line about the whole application: `2 jobs, 3 stages, 214 tasks in 4.2 s; shuffled 1.1 GiB`.
    #[must_use]
    pub fn summary(&self, elapsed: Duration) -> String {
        summary(&self.lock().status, elapsed)
    }

    /// Whether any job has ended: otherwise there is nothing to sum up.
    #[must_use]
    pub fn ran_jobs(&self) -> bool {
        let shared = self.lock();
        shared.status.jobs_done + shared.status.jobs_failed > 0
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, text: &str) {
        self.print(format!("{text}\n").as_bytes());
    }

    fn hear(&self, record: &Record) {
        let mut shared = self.lock();
        let ended = match &record.event {
            AppEvent::StageFinished { stage, .. } => shared.status.stages.get(stage).cloned(),
            _ => None,
        };
        shared.status.apply(record);
        shared.now = record.at;
        let progress = shared.progress;
        if shared.started.is_none() && !shared.status.jobs.is_empty() {
            shared.started = Some(record.at);
        }
        drop(shared);
        match &record.event {
            AppEvent::JobFinished { .. } if self.lock().status.jobs.is_empty() => self.clear(),
            AppEvent::StageStarted { stage, name, tasks, attempt, .. } if progress == Progress::Plain => {
                let again = if attempt.0 > 0 { " again" } else { "" };
                tracing::info!("{stage} {name}: runs {tasks} tasks{again}");
            }
            AppEvent::StageFinished { stage, .. } if progress == Progress::Plain => {
                if let Some(status) = ended {
                    let took = record.at.since(status.started);
                    tracing::info!("{stage} {}: done in {:.1} s{}", status.name, took.as_secs_f64(), extras(&status));
                }
            }
            AppEvent::StageStopped { stage, why, .. } if progress == Progress::Plain => {
                tracing::info!("{stage} stopped: {why}");
            }
            AppEvent::Waiting { why } if !why.is_empty() => self.say(&format!("waiting: {why}")),
            AppEvent::ExecutorLost { executor, cause, why } if *cause != LossCause::Released => {
                self.say(&format!("lost {executor}: {why}"));
            }
            AppEvent::TaskFailed { attempt, failure, retried: true, .. } => {
                tracing::info!("task {attempt} failed and is tried again: {failure}");
            }
            AppEvent::OutputsLost { shuffle, maps, why } => {
                self.say(&format!("{maps} outputs of {shuffle} are made again: {why}"));
            }
            AppEvent::Warning { text } => self.say(&format!("warning: {text}")),
            _ => {}
        }
    }

    /// Brings the live lines up to date.
    fn draw(&self) {
        let mut shared = self.lock();
        let Shared { progress, status, bars, started, now, hidden, .. } = &mut *shared;
        if *hidden || *progress != Progress::Live || started.is_none_or(|s| now.since(s) < QUIET) {
            return;
        }
        bars.retain(|stage, bar| {
            let keep = status.stages.contains_key(stage);
            if !keep {
                bar.finish_and_clear();
                self.lines.remove(bar);
            }
            keep
        });
        for (id, stage) in status.stages.iter().take(LINES_MAX) {
            let bar = bars.entry(*id).or_insert_with(|| {
                let bar = self.lines.add(ProgressBar::new(u64::from(stage.tasks)));
                bar.set_style(style());
                bar.set_prefix(format!("{id} {}", stage.name));
                bar
            });
            bar.set_length(u64::from(stage.tasks));
            bar.set_position(u64::from(stage.done));
            bar.set_message(live(stage, now.since(stage.started)));
        }
    }
}

impl Observer for Terminal {
    fn observe(&mut self, records: &[Record]) {
        records.iter().for_each(|record| self.hear(record));
        self.draw();
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix:32!} [{bar:24.cyan/blue}] {pos}/{len} {msg}")
        .expect("the template is a constant that parses")
        .progress_chars("=> ")
}

/// What stands behind the bar: running, failed, rate, bytes shuffled.
fn live(stage: &StageStatus, elapsed: Duration) -> String {
    let rate = f64::from(stage.done) / elapsed.as_secs_f64().max(0.001);
    let rate = if rate >= 100.0 { format!("{}/s", HumanCount(rate as u64)) } else { format!("{rate:.1}/s") };
    let failed = if stage.failed > 0 { format!(", {} failed", stage.failed) } else { String::new() };
    format!("{} running{failed}, {rate}{}", stage.running, extras(stage))
}

fn extras(stage: &StageStatus) -> String {
    match stage.shuffled_bytes() {
        0 => String::new(),
        bytes => format!(", shuffled {}", HumanBytes(bytes)),
    }
}

fn summary(status: &Status, elapsed: Duration) -> String {
    let count = |n: u64, what: &str| format!("{} {what}{}", HumanCount(n), if n == 1 { "" } else { "s" });
    let took = if elapsed < Duration::from_secs(60) {
        format!("{:.1} s", elapsed.as_secs_f64())
    } else {
        HumanDuration(elapsed).to_string()
    };
    let mut text = format!(
        "{}, {}, {} in {took}",
        count(u64::from(status.jobs_done + status.jobs_failed), "job"),
        count(u64::from(status.stages_done), "stage"),
        count(status.tasks_done, "task"),
    );
    let shuffled = status.metrics.shuffle_write_bytes;
    let (dropped, mended) = (status.metrics.broken_rows_dropped, status.metrics.broken_rows_mended);
    for (shown, part) in [
        (status.jobs_failed > 0, format!("; {}", count(u64::from(status.jobs_failed), "failed job"))),
        (shuffled > 0, format!("; shuffled {}", HumanBytes(shuffled))),
        (status.metrics.spilled_bytes > 0, format!("; spilled {}", HumanBytes(status.metrics.spilled_bytes))),
        (dropped > 0, format!("; {} left out", count(dropped, "broken row"))),
        (mended > 0, format!("; {} read with nulls", count(mended, "broken row"))),
        (status.tasks_failed > 0, format!("; {}", count(status.tasks_failed, "failed attempt"))),
        (status.executors_lost > 0, format!("; {}", count(u64::from(status.executors_lost), "lost executor"))),
    ] {
        if shown {
            text.push_str(&part);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::metrics::TaskMetrics;

    #[test]
    fn the_summary_names_only_what_there_was() {
        let mut status = Status { jobs_done: 1, stages_done: 2, tasks_done: 1_214, ..Status::default() };
        assert_eq!(summary(&status, Duration::from_millis(4_210)), "1 job, 2 stages, 1,214 tasks in 4.2 s");
        status.metrics = TaskMetrics { shuffle_write_bytes: 3 << 20, ..TaskMetrics::default() };
        status.tasks_failed = 1;
        assert_eq!(
            summary(&status, Duration::from_millis(4_210)),
            "1 job, 2 stages, 1,214 tasks in 4.2 s; shuffled 3.00 MiB; 1 failed attempt"
        );
        (status.tasks_failed, status.metrics) = (0, TaskMetrics { broken_rows_dropped: 3, ..TaskMetrics::default() });
        status.metrics.broken_rows_mended = 1;
        assert_eq!(
            summary(&status, Duration::from_millis(4_210)),
            "1 job, 2 stages, 1,214 tasks in 4.2 s; 3 broken rows left out; 1 broken row read with nulls"
        );
    }
}
