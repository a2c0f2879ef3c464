//! How is a program measured, and what is kept of it?

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

/// One run of one program.
#[derive(Debug, Clone)]
pub struct Run {
    /// From start to end of the process.
    pub seconds: f64,
    /// What it printed to stdout.
    pub stdout: String,
}

/// Runs a program to its end.
///
/// # Errors
/// It does not start, or does not succeed: its stderr is in the error.
pub fn run(command: &mut Command) -> Result<Run> {
    let shown = format!("{command:?}");
    let began = Instant::now();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start {shown}"))?;
    let seconds = began.elapsed().as_secs_f64();
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{shown}: {}\n{stderr}", output.status);
    Ok(Run { seconds, stdout: String::from_utf8_lossy(&output.stdout).into_owned() })
}

/// Bytes that the system counts of a process's memory under a name of `/proc/PID/status`, such as `VmHWM`, the most that was
/// resident so far.
///
/// # Errors
/// There is no such process, or no such name.
pub fn memory(process: u32, name: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib: u64 = line.with_context(|| format!("read {name}"))?.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}

/// The middle one, or the mean of the two in the middle.
///
/// # Panics
/// There is none.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[half] } else { (sorted[half - 1] + sorted[half]) / 2.0 }
}

/// Whether a figure may not be below or above its mark.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// At least.
    AtLeast(f64),
    /// At most.
    AtMost(f64),
}

impl Mark {
    fn met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }
}

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// What was measured.
    pub what: String,
    /// The figure.
    pub value: f64,
    /// Its unit, or what it is a ratio of.
    pub unit: String,
    /// What it should be.
    pub mark: Option<Mark>,
    /// Every run it comes from, by program, in seconds unless the unit says otherwise.
    pub runs: BTreeMap<String, Vec<f64>>,
}

/// What a run of a suite leaves.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The commit, with `-dirty` if files were changed.
    pub commit: String,
    /// When, in seconds since 1970.
    pub unix_seconds: u64,
    /// Processor and number of cores.
    pub machine: String,
    /// The table.
    pub figures: Vec<Figure>,
}

impl Report {
    /// An empty one about this machine and checkout.
    #[must_use]
    pub fn new() -> Self {
        let git = Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"]).output();
        let commit = git.map(|git| String::from_utf8_lossy(&git.stdout).trim().to_owned()).unwrap_or_default();
        let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self {
            commit,
            unix_seconds: since_1970.map(|time| time.as_secs()).unwrap_or_default(),
            machine: machine(),
            figures: Vec::new(),
        }
    }

    /// Adds a figure and shows it.
    pub fn add(&mut self, what: &str, value: f64, unit: &str, mark: Option<Mark>, runs: &[(&str, &[f64])]) {
        let runs = runs.iter().map(|(name, runs)| ((*name).to_owned(), runs.to_vec())).collect();
        let figure = Figure { what: what.to_owned(), value, unit: unit.to_owned(), mark, runs };
        println!("{}", line(&figure));
        self.figures.push(figure);
    }

    /// How many figures are not what they should be.
    #[must_use]
    pub fn missed(&self) -> usize {
        self.figures.iter().filter(|figure| figure.mark.is_some_and(|mark| !mark.met(figure.value))).count()
    }

    /// Keeps it as JSON.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn keep(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self)?;
        std::fs::write(path, json + "\n").with_context(|| format!("write {}", path.display()))
    }
}

impl Default for Report {
    fn default() -> Self {
        Self::new()
    }
}

/// The head of the table.
pub fn head() {
    println!("| {:<58} | {:>12} {:<22} | {:>12} |     |", "what", "value", "unit", "mark");
    println!("|{}|{}|{}|-----|", "-".repeat(60), "-".repeat(37), "-".repeat(14));
}

fn line(figure: &Figure) -> String {
    let (mark, met) = match figure.mark {
        None => (String::new(), ""),
        Some(mark) => {
            let text = match mark {
                Mark::AtLeast(least) => format!("≥ {}", number(least)),
                Mark::AtMost(most) => format!("≤ {}", number(most)),
            };
            (text, if mark.met(figure.value) { "met" } else { "NO" })
        }
    };
    format!("| {:<58} | {:>12} {:<22} | {mark:>12} | {met:<3} |", figure.what, number(figure.value), figure.unit)
}

fn number(value: f64) -> String {
    if value >= 1000.0 || value == value.trunc() { format!("{value:.0}") } else { format!("{value:.3}") }
}

fn machine() -> String {
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processor.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown processor");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{}, {cores} cores", model.trim_start_matches([' ', '\t', ':']))
}

#[cfg(test)]
mod tests {
    use super::{Mark, median};

    #[test]
    fn the_median_is_in_the_middle() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < f64::EPSILON);
    }

    #[test]
    fn marks_have_a_direction() {
        assert!(Mark::AtLeast(0.95).met(0.96) && !Mark::AtLeast(0.95).met(0.94));
        assert!(Mark::AtMost(1.3).met(1.3) && !Mark::AtMost(1.3).met(1.4));
    }
}
