//! What are the figures of RDD programs, scheduler, shuffle and start-up?

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

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

const PARTS: &[Part] = &[
    ("pi", pi),
    ("word_count", word_count),
    ("sort", sort),
    ("tasks", tasks),
    ("events", events),
    ("start", start),
    ("size", size),
    ("encode", encode),
    ("shuffle", shuffle),
];

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

/// The number under this name in a line of JSON that a program printed.
fn number(stdout: &str, name: &str) -> Result<f64> {
    let json: serde_json::Value = serde_json::from_str(stdout.trim()).with_context(|| format!("read {stdout}"))?;
    json[name].as_f64().with_context(|| format!("find {name} in {stdout}"))
}

fn tasks(bench: &mut Bench) -> Result<()> {
    const TASKS: &str = "100000";
    let per_second = |bench: &Bench, master: &str| -> Result<Vec<f64>> {
        let mut command = bench.program("tasks");
        command.args(["--tasks", TASKS, "--master", master]);
        (0..bench.rounds).map(|_| number(&run(&mut command)?.stdout, "tasks_per_second")).collect()
    };
    for (master, spark_master, least) in
        [("local[2]", "local[2]", 50_000.0), ("local-cluster[2,1]", "local-cluster[2,1,2048]", 5_000.0)]
    {
        let runs = per_second(bench, master)?;
        let what = format!("{TASKS} empty tasks, {master}");
        bench.report.add(&what, median(&runs), "tasks/s", Some(Mark::AtLeast(least)), &[(master, &runs)]);
        let spark = bench.spark("tasks.scala", spark_master, &[("TASKS", TASKS)], |_| Ok(()))?;
        if !spark.is_empty() {
            let what = format!("{TASKS} empty tasks, Spark {spark_master}");
            bench.report.add(&what, 100_000.0 / best(&spark), "tasks/s", None, &[("spark", &spark)]);
        }
    }
    Ok(())
}

fn events(bench: &mut Bench) -> Result<()> {
    let outputs: Vec<String> =
        (0..bench.rounds).map(|_| Ok(run(&mut bench.program("events"))?.stdout)).collect::<Result<_>>()?;
    let of = |name| outputs.iter().map(|output| number(output, name)).collect::<Result<Vec<f64>>>();
    let (speed, memory) = (of("events_per_second")?, of("bytes_per_task")?);
    let what = "scheduler, 1,000 executors, 100,000 tasks";
    bench.report.add(what, median(&speed), "events/s", Some(Mark::AtLeast(500_000.0)), &[("events", &speed)]);
    bench.report.add(what, median(&memory), "bytes/task", Some(Mark::AtMost(500.0)), &[("events", &memory)]);
    Ok(())
}

/// From the start of a process to its first task, and what an executor holds that has nothing to do.
fn start(bench: &mut Bench) -> Result<()> {
    for (master, most) in [("local[2]", 30.0), ("local-cluster[2,1]", 500.0)] {
        let mut command = bench.program("first_task");
        command.args(["--master", master]);
        let mut milliseconds = Vec::new();
        for _ in 0..3 * bench.rounds {
            let began = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as f64;
            let ran: f64 = run(&mut command)?.stdout.trim().parse()?;
            milliseconds.push((ran - began) / 1e6);
        }
        let what = format!("start of the process to its first task, {master}");
        bench.report.add(&what, median(&milliseconds), "ms", Some(Mark::AtMost(most)), &[(master, &milliseconds)]);
    }
    let mut idle = bench.program("idle");
    let idle = run(idle.args(["--master", "local-cluster[2,1]"]))?.stdout;
    let megabytes = idle.lines().map(|line| Ok(line.parse::<f64>()? / 1e6)).collect::<Result<Vec<f64>>>()?;
    let most = megabytes.iter().copied().fold(0.0, f64::max);
    bench.report.add("idle executor, resident", most, "MB", Some(Mark::AtMost(30.0)), &[("executors", &megabytes)]);
    Ok(())
}

/// What travels to every machine: the program, without its symbols.
fn size(bench: &mut Bench) -> Result<()> {
    let stripped = bench.data.join("word_count.stripped");
    run(Command::new("strip").arg("-o").arg(&stripped).arg(bench.programs.join("word_count")))?;
    let megabytes = std::fs::metadata(&stripped)?.len() as f64 / 1e6;
    bench.report.add("word_count, release, stripped", megabytes, "MB", Some(Mark::AtMost(30.0)), &[]);
    Ok(())
}

/// What one core makes of rows on their way into a shuffle: hashes, lz4, checksums.
fn encode(bench: &mut Bench) -> Result<()> {
    let outputs: Vec<String> =
        (0..bench.rounds).map(|_| Ok(run(&mut bench.program("encode"))?.stdout)).collect::<Result<_>>()?;
    for (what, name) in [
        ("encode records of 100 bytes, one core", "records_of_100_bytes"),
        ("encode records of 15 bytes, one core", "records_of_15_bytes"),
        ("encode Arrow batches, one core", "batches"),
    ] {
        let speeds = outputs.iter().map(|output| number(output, name)).collect::<Result<Vec<f64>>>()?;
        bench.report.add(what, median(&speeds), "MB/s", Some(Mark::AtLeast(400.0)), &[("encode", &speeds)]);
    }
    Ok(())
}

const MAPS: f64 = 16.0;
/// So many that a partition's rows in one object are less than the 8 MiB that are asked for at a time: the formula of
/// docs/shuffle.md then gives one GET per object and partition, whatever the objects' lengths.
const PARTITIONS: f64 = 64.0;

fn shuffle(bench: &mut Bench) -> Result<()> {
    for master in ["local[2]", "local-cluster[2,1]"] {
        let mut command = bench.program("exchange");
        command.args(["--maps", &MAPS.to_string(), "--partitions", &PARTITIONS.to_string(), "--master", master]);
        let runs = (0..bench.rounds)
            .map(|_| number(&run(&mut command)?.stdout, "mb_per_second"))
            .collect::<Result<Vec<f64>>>()?;
        let what = format!("shuffle of 800 MB, {master}");
        bench.report.add(&what, median(&runs), "MB/s", None, &[(master, &runs)]);
    }
    let (Ok(endpoint), Ok(log)) = (std::env::var("VONK_TEST_S3_URL"), std::env::var("VONK_BENCH_S3_LOG")) else {
        eprintln!(
            "requests of a shuffle: not run (start this with `cargo xtask bench core`, which starts an S3 server)"
        );
        return Ok(());
    };
    let (endpoint, bucket) = endpoint.rsplit_once('/').context("find the bucket in VONK_TEST_S3_URL")?;
    let store = format!("store=s3://{bucket}/bench?endpoint={endpoint}&region=us-east-1");
    let requests = |arguments: &[&str]| -> Result<Requests> {
        let before = std::fs::read_to_string(&log)?.len();
        let master = ["--master", "local-cluster[2,1]", "--conf", &store];
        run(bench.program("exchange").args(arguments).args(master).env("VONK_EVENT_LOG_ENABLED", "false"))?;
        Ok(Requests::read(&std::fs::read_to_string(&log)?[before..]))
    };
    let large = requests(&["--maps", &MAPS.to_string(), "--partitions", &PARTITIONS.to_string()])?;
    let small = requests(&["--maps", "64", "--partitions", "64", "--rows", "1000"])?;
    let ratio = large.made() / large.by_formula();
    bench.report.add("requests of a shuffle of 800 MB over S3", large.made(), "requests", None, &[]);
    bench.report.add("the same", ratio, "of the formula", Some(Mark::AtMost(1.02)), &[]);
    bench.report.add("the same, LIST and HEAD", large.lists, "requests", Some(Mark::AtMost(0.0)), &[]);
    bench.report.add("maps of ≤ 128 KiB over S3", small.made(), "requests", Some(Mark::AtMost(0.0)), &[]);
    Ok(())
}

/// What the S3 server's log says of the objects of shuffles.
#[derive(Debug, Default)]
struct Requests {
    /// PUTs, and what starts and completes an upload in parts, by object.
    written: BTreeMap<String, f64>,
    /// GETs, by object.
    read: BTreeMap<String, f64>,
    /// LISTs and HEADs.
    lists: f64,
}

impl Requests {
    /// A line is owner, bucket, two of time, address, requester, id, operation, key, …
    fn read(log: &str) -> Self {
        let mut requests = Self::default();
        for line in log.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let [operation, key] = [7, 8].map(|index| fields.get(index).copied().unwrap_or_default());
            if !key.contains("/shuffle/v1/") || key.contains("/_lease/") {
                continue;
            }
            match operation {
                "s3_GetObject" => *requests.read.entry(key.to_owned()).or_default() += 1.0,
                "s3_HeadObject" => requests.lists += 1.0,
                "s3_DeleteObject" | "s3_DeleteObjects" => {}
                _ => *requests.written.entry(key.to_owned()).or_default() += 1.0,
            }
        }
        requests
    }

    fn made(&self) -> f64 {
        self.written.values().chain(self.read.values()).fold(0.0, |sum, requests| sum + requests)
    }

    /// N_put + N_get of docs/shuffle.md. How many parts an upload has is the writer's; everything else follows.
    fn by_formula(&self) -> f64 {
        self.written.values().fold(0.0, |sum, requests| sum + requests) + self.written.len() as f64 * PARTITIONS
    }
}
