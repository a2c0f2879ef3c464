//! What are the figures of RDD programs, scheduler, shuffle and start-up?

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use vonk_benches::data;
use vonk_benches::measure::{Mark, Report, Run, head, median, run};
use vonk_benches::spark::Spark;

/// Measures RDD programs, scheduler, shuffle and start-up, against hand-written programs and Spark.
#[derive(Debug, Parser)]
struct Args {
    /// Measure only these
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// How often each program runs; the median counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Where data is kept between runs
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Leave Spark out
    #[arg(long)]
    no_spark: bool,
}

/// Everything that a measurement needs.
struct Bench {
    report: Report,
    rounds: usize,
    programs: PathBuf,
    data: PathBuf,
    spark: Option<Spark>,
}

/// The name of a measurement, and the measurement.
type Part = (&'static str, fn(&mut Bench) -> Result<()>);

const PARTS: &[Part] = &[("pi", pi), ("word_count", word_count), ("sort", sort)];

const SAMPLES: &str = "1000000000";
const RECORDS_BYTES: u64 = 1_000_000_000;

fn main() -> Result<()> {
    let args = Args::parse();
    let cache = match std::env::var_os("VONK_CACHE") {
        Some(cache) => PathBuf::from(cache),
        None => {
            Path::new(&std::env::var_os("HOME").context("find a cache folder: HOME is not set")?).join(".cache/vonk")
        }
    };
    let spark = if args.no_spark { None } else { Spark::find(&cache.join("pyspark")) };
    if spark.is_none() {
        eprintln!("Spark: not run (needs Java, and pyspark in {})", cache.join("pyspark").display());
    }
    let mut bench = Bench {
        report: Report::new(),
        rounds: args.rounds,
        programs: std::env::current_exe()?.parent().context("a program lies in a folder")?.to_owned(),
        data: args.folder.unwrap_or_else(|| cache.join("bench")),
        spark,
    };
    std::fs::create_dir_all(&bench.data)?;
    head();
    for (name, part) in PARTS {
        if args.only.is_empty() || args.only.iter().any(|only| only == name) {
            part(&mut bench).with_context(|| format!("measure {name}"))?;
        }
    }
    let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
    let kept = results.join(if args.only.is_empty() {
        "core.json".to_owned()
    } else {
        format!("core-{}.json", args.only.join("-"))
    });
    bench.report.keep(&kept)?;
    eprintln!(
        "kept as {}; {} of {} figures missed their mark",
        kept.display(),
        bench.report.missed(),
        bench.report.figures.len()
    );
    Ok(())
}

impl Bench {
    fn program(&self, name: &str) -> Command {
        Command::new(self.programs.join(name))
    }

    /// Runs every variant in turn, round after round, so that whatever else the machine does meets all of them. Every
    /// answer must equal the first variant's.
    fn compare(&self, variants: &mut [(&str, Command)]) -> Result<Vec<Vec<f64>>> {
        let mut seconds = vec![Vec::new(); variants.len()];
        let mut answer: Option<Run> = None;
        for _ in 0..self.rounds {
            for (index, (name, command)) in variants.iter_mut().enumerate() {
                let run = run(command)?;
                let expected = answer.get_or_insert_with(|| run.clone());
                ensure!(
                    run.stdout == expected.stdout,
                    "{name} answers otherwise:\n{}\n{}",
                    run.stdout,
                    expected.stdout
                );
                seconds[index].push(run.seconds);
            }
        }
        Ok(seconds)
    }

    /// Spark's times, if it is there; its answer goes to `check`.
    fn spark(
        &self,
        script: &str,
        master: &str,
        variables: &[(&str, &str)],
        check: impl Fn(&str) -> Result<()>,
    ) -> Result<Vec<f64>> {
        let Some(spark) = &self.spark else { return Ok(Vec::new()) };
        // Twice is enough for what is ten times slower; the better one counts.
        (0..self.rounds.min(2))
            .map(|_| {
                let run = spark.run(script, master, variables)?;
                check(&run.answer)?;
                Ok(run.seconds)
            })
            .collect()
    }
}

fn best(runs: &[f64]) -> f64 {
    runs.iter().copied().fold(f64::INFINITY, f64::min)
}

fn pi(bench: &mut Bench) -> Result<()> {
    let mut by_hand = bench.program("pi_rayon");
    by_hand.args(["--samples", SAMPLES]);
    let mut vonk = bench.program("pi");
    vonk.args(["--samples", SAMPLES, "--master", "local[2]"]);
    let runs = bench.compare(&mut [("by hand", by_hand), ("vonk", vonk)])?;
    let (by_hand, vonk) = (median(&runs[0]), median(&runs[1]));
    let all: &[(&str, &[f64])] = &[("by hand", &runs[0]), ("vonk local[2]", &runs[1])];
    bench.report.add("pi, 10^9 samples, by hand", by_hand, "s", None, all);
    bench.report.add("pi, 10^9 samples, local[2]", vonk, "s", None, all);
    bench.report.add("pi, local[2]", by_hand / vonk, "of speed by hand", Some(Mark::AtLeast(0.95)), all);
    let close = |answer: &str| {
        let pi: f64 = answer.parse()?;
        ensure!((pi - std::f64::consts::PI).abs() < 0.001, "Pi is not {pi}");
        Ok(())
    };
    let scala = bench.spark("pi.scala", "local[2]", &[("SAMPLES", SAMPLES)], close)?;
    if !scala.is_empty() {
        bench.report.add(
            "pi, Spark, Scala RDD",
            best(&scala) / vonk,
            "× the time of local[2]",
            None,
            &[("spark", &scala)],
        );
    }
    // Python throws a tenth of the darts; its time is multiplied.
    let tenth: Vec<f64> = bench.spark("pi.py", "local[2]", &[("SAMPLES", "100000000")], close)?;
    if !tenth.is_empty() {
        let python: Vec<f64> = tenth.iter().map(|seconds| seconds * 10.0).collect();
        bench.report.add(
            "pi, Spark, Python RDD (10 × 10^8)",
            best(&python) / vonk,
            "× the time of local[2]",
            None,
            &[("spark", &python)],
        );
    }
    Ok(())
}

fn word_count(bench: &mut Bench) -> Result<()> {
    let folder = bench.data.join("text");
    data::text(&folder)?;
    let by_hand = {
        let mut command = bench.program("word_count_rayon");
        command.arg(&folder);
        command
    };
    let vonk = |master: &str| {
        let mut command = bench.program("word_count");
        command.arg(&folder).args(["--top", "10", "--master", master]);
        command
    };
    let masters = ["local[2]", "local-cluster[2,1]", "local-cluster[2,1,256m]"];
    let mut variants = vec![("by hand", by_hand)];
    variants.extend(masters.map(|master| (master, vonk(master))));
    let runs = bench.compare(&mut variants)?;
    let by_hand = median(&runs[0]);
    bench.report.add("word count, 832 MB, by hand", by_hand, "s", None, &[("by hand", &runs[0])]);
    for (index, (master, most)) in masters.iter().zip([1.3, 1.7, 3.0]).enumerate() {
        let seconds = median(&runs[index + 1]);
        let all: &[(&str, &[f64])] = &[("by hand", &runs[0]), (master, &runs[index + 1])];
        bench.report.add(
            &format!("word count, {master}"),
            seconds / by_hand,
            "× the time by hand",
            Some(Mark::AtMost(most)),
            all,
        );
    }
    let vonk = median(&runs[1]);
    let mut command = bench.program("word_count_rayon");
    let expected = run(command.arg(&folder))?.stdout;
    let expected: Vec<&str> = expected.lines().filter_map(|line| line.split('\t').next()).collect();
    let same = |answer: &str| {
        ensure!(answer.split(' ').eq(expected.iter().copied()), "Spark counts {answer}, by hand {expected:?}");
        Ok(())
    };
    let folder = folder.display().to_string();
    for (what, script, master) in [
        ("word count, Spark local[2], Scala RDD", "word_count.scala", "local[2]"),
        ("word count, Spark local-cluster[2,1], Scala RDD", "word_count.scala", "local-cluster[2,1,4096]"),
        ("word count, Spark local[2], Python RDD", "word_count.py", "local[2]"),
    ] {
        let spark = bench.spark(script, master, &[("FOLDER", &folder)], same)?;
        if !spark.is_empty() {
            bench.report.add(what, best(&spark) / vonk, "× the time of local[2]", None, &[("spark", &spark)]);
        }
    }
    Ok(())
}

fn sort(bench: &mut Bench) -> Result<()> {
    let folder = bench.data.join("records");
    data::records(&folder, RECORDS_BYTES)?;
    let mut by_hand = bench.program("sort_rayon");
    by_hand.arg(&folder);
    let mut vonk = bench.program("sort");
    vonk.arg(&folder).args(["--master", "local[2]"]);
    let runs = bench.compare(&mut [("by hand", by_hand), ("vonk", vonk)])?;
    let all: &[(&str, &[f64])] = &[("by hand", &runs[0]), ("vonk local[2]", &runs[1])];
    let (by_hand, vonk) = (median(&runs[0]), median(&runs[1]));
    let speed = RECORDS_BYTES as f64 / 1e6 / vonk;
    bench.report.add("sort, 1 GB of records, by hand", by_hand, "s", None, all);
    bench.report.add("sort, local[2]", speed, "MB/s", Some(Mark::AtLeast(150.0)), all);
    bench.report.add("sort, local[2]", vonk / by_hand, "× the time by hand", None, all);
    Ok(())
}
