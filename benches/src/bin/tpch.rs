//! How fast are the queries of TPC-H here, and elsewhere?
//!
//! Every engine reads the same Parquet files with two threads, and is asked all queries one after the other, several times,
//! in one process that has started; the best time of each query counts. Its answers must be those of plain DataFusion.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum};
use vonk::Context;
use vonk::datafusion::prelude::{SessionConfig, SessionContext};
use vonk_benches::chart::{Bar, bars};
use vonk_benches::measure::{Mark, Report, head, memory, run};
use vonk_tpch::{Answer, Order, QUERIES, Query, Shape, register, tables};

/// How many threads, slots or partitions every engine has.
const CORES: usize = 2;

/// What executors have unless told otherwise; only such runs are drawn.
const USUAL_MEMORY: &str = "3g";

/// As large as what other writers make by default.
const ROWS_PER_GROUP: usize = 1 << 20;

/// Measures the queries of TPC-H against DataFusion in one process, and against other engines.
#[derive(Debug, Parser)]
struct Args {
    /// How much data: 1 for about a gigabyte of text
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Other engines; besides DataFusion, which is always measured, they are Python packages in a virtual environment
    #[arg(long, value_delimiter = ',')]
    against: Vec<Peer>,
    /// Only these queries
    #[arg(long, value_delimiter = ',')]
    queries: Vec<u32>,
    /// How often each query is asked; the best time counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Memory of one executor of the local cluster
    #[arg(long, default_value = USUAL_MEMORY)]
    executor_memory: String,
    /// Where data is kept between runs
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Leave Vonk out
    #[arg(long)]
    peers_only: bool,
    #[command(subcommand)]
    child: Option<Child>,
}

/// What the program starts itself for.
#[derive(Debug, clap::Subcommand)]
enum Child {
    /// Asks the queries here.
    #[command(hide = true)]
    Ask(Ask),
}

#[derive(Debug, clap::Args)]
struct Ask {
    #[command(flatten)]
    vonk: vonk::Args,
    /// By DataFusion alone
    #[arg(long)]
    plain: bool,
    tables: PathBuf,
    queries: PathBuf,
    answers: PathBuf,
    rounds: usize,
}

/// An engine to compare with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Peer {
    Datafusion,
    Duckdb,
    Spark,
    Sail,
}

/// Seconds of every round, by query.
type Seconds = BTreeMap<String, Vec<f64>>;

/// An engine, as it is started.
struct Engine {
    name: String,
    ours: bool,
    command: Command,
}

/// What an engine needed.
struct Measured {
    name: String,
    ours: bool,
    seconds: Seconds,
    /// The most memory that one of its executors had, in bytes, if it has some.
    peak: Option<u64>,
}

impl Measured {
    fn best(&self, query: &str) -> f64 {
        self.seconds.get(query).into_iter().flatten().copied().fold(f64::INFINITY, f64::min)
    }

    fn total(&self) -> f64 {
        self.seconds.keys().map(|query| self.best(query)).sum()
    }
}

fn main() -> ExitCode {
    vonk::main(|| {
        let args = Args::parse();
        match &args.child {
            Some(Child::Ask(ask)) => Ok(answer(ask)?),
            None => Ok(compare(&args)?),
        }
    })
}

/// Asks every query and prints how long each took.
fn answer(ask: &Ask) -> Result<()> {
    let seconds = if ask.plain {
        let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(CORES).enable_all().build()?;
        let config = SessionConfig::new().with_target_partitions(CORES);
        threads.block_on(ask_all(ask, &SessionContext::new_with_config(config)))?
    } else {
        let ctx = Context::builder().args(&ask.vonk).build()?;
        let seconds = ctx.block_on(ask_all(ask, ctx.session()?))??;
        if let Some(most) = executors()?.iter().filter_map(|&executor| memory(executor, "VmHWM").ok()).max() {
            println!("PEAK {most}");
        }
        ctx.stop();
        seconds
    };
    println!("RESULT {}", serde_json::to_string(&seconds)?);
    Ok(())
}

/// The processes that this one has started.
fn executors() -> Result<Vec<u32>> {
    let processes = fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let parent = format!("PPid:\t{}", std::process::id());
    let ours = |process: &u32| {
        fs::read_to_string(format!("/proc/{process}/status"))
            .is_ok_and(|status| status.lines().any(|line| line == parent))
    };
    Ok(processes.filter(ours).collect())
}

async fn ask_all(ask: &Ask, session: &SessionContext) -> Result<Seconds> {
    register(session, &ask.tables).await?;
    let mut texts = BTreeMap::new();
    for entry in fs::read_dir(&ask.queries)? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        texts.insert(name, fs::read_to_string(&path)?);
    }
    let mut seconds = Seconds::new();
    for _ in 0..ask.rounds {
        for (name, text) in &texts {
            let began = Instant::now();
            let rows = session.sql(text).await?;
            let schema = rows.schema().as_arrow().clone().into();
            let batches = rows.collect().await.with_context(|| format!("ask {name}"))?;
            seconds.entry(name.clone()).or_default().push(began.elapsed().as_secs_f64());
            Answer::write(&ask.answers.join(name).with_extension("arrow"), &schema, &batches)?;
        }
    }
    Ok(seconds)
}

fn compare(args: &Args) -> Result<()> {
    let cache = match std::env::var_os("VONK_CACHE") {
        Some(cache) => PathBuf::from(cache),
        None => {
            Path::new(&std::env::var_os("HOME").context("find a cache folder: HOME is not set")?).join(".cache/vonk")
        }
    };
    let folder = args.folder.clone().unwrap_or_else(|| cache.join("bench"));
    fs::create_dir_all(&folder)?;
    let files = if args.scale > 1.0 { 4 } else { 1 };
    let data = tables(&folder, Shape { scale: args.scale, files, rows_per_group: ROWS_PER_GROUP })?;
    let work = tempfile::tempdir()?;
    let texts = work.path().join("queries");
    fs::create_dir(&texts)?;
    let wanted: Vec<&Query> =
        QUERIES.iter().filter(|query| args.queries.is_empty() || args.queries.contains(&query.number)).collect();
    ensure!(!wanted.is_empty(), "there is no such query");
    for query in &wanted {
        fs::write(texts.join(query.name()).with_extension("sql"), query.text)?;
    }

    let mut measured: Vec<Measured> = Vec::new();
    let answers_of = |name: &str| work.path().join(name.replace(['[', ']', ' ', ','], "-"));
    let mut expected = None;
    for Engine { name, ours, mut command } in engines(args, &cache)? {
        let answers = answers_of(&name);
        fs::create_dir(&answers)?;
        command.args([&data, &texts, &answers]).arg(args.rounds.to_string());
        let output = match run(&mut command) {
            Ok(run) => run.stdout,
            Err(error) if ours || measured.is_empty() => return Err(error),
            // What others cannot do is told, and the rest is measured.
            Err(error) => {
                eprintln!("{name}: not measured: {error:#}");
                continue;
            }
        };
        let line = output.lines().find_map(|line| line.strip_prefix("RESULT "));
        let seconds = serde_json::from_str(line.with_context(|| format!("{name} reported nothing: {output}"))?)?;
        let peak = output.lines().find_map(|line| line.strip_prefix("PEAK ")?.parse().ok());
        let one = Measured { name, ours, seconds, peak };
        eprintln!("{}: {:.2} s", one.name, one.total());
        let expected = expected.get_or_insert_with(|| answers.clone());
        check(&one, &wanted, expected, &answers);
        measured.push(one);
    }
    table(&wanted, &measured);
    let small = if args.peers_only { Vec::new() } else { small(&data, work.path())? };
    keep(args, &wanted, &measured, &small)
}

/// How long the smallest of queries takes, all told: its name, milliseconds of each time, and the mark.
fn small(data: &Path, work: &Path) -> Result<Vec<(&'static str, Vec<f64>, f64)>> {
    const TIMES: usize = 11;
    const TEXT: &str = "SELECT 1";
    let (texts, answers) = (work.join("small"), work.join("small-answers"));
    for folder in [&texts, &answers] {
        fs::create_dir(folder)?;
    }
    fs::write(texts.join("one.sql"), TEXT)?;
    let program = std::env::current_exe()?;
    let mut ask = Command::new(&program);
    ask.args(["ask", "--master", "local[2]"]).args([data, &texts, &answers]).arg(TIMES.to_string());
    let said = run(&mut ask)?.stdout;
    let line = said.lines().find_map(|line| line.strip_prefix("RESULT ")).context("nothing was reported")?;
    let seconds: Seconds = serde_json::from_str(line)?;
    let running = seconds.into_values().flatten().map(|seconds| seconds * 1_000.0).collect();
    let shell = program.with_file_name("vonk");
    let mut from_start = Vec::new();
    for _ in 0..TIMES {
        let began = Instant::now();
        run(Command::new(&shell).args(["sql", "-e", TEXT]))?;
        from_start.push(began.elapsed().as_secs_f64() * 1_000.0);
    }
    Ok(vec![("SELECT 1, in a session", running, 5.0), ("SELECT 1, from the start of the process", from_start, 60.0)])
}

/// Bytes of a size as `--executor-memory` takes it.
fn bytes(size: &str) -> Option<f64> {
    let unit = size.find(|c: char| !c.is_ascii_digit())?;
    let factor = match size[unit..].to_ascii_lowercase().as_str() {
        "m" | "mb" => 1_048_576.0,
        "g" | "gb" => 1_073_741_824.0,
        _ => return None,
    };
    size[..unit].parse::<f64>().ok().map(|number| number * factor)
}

fn median(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Who is measured, plain DataFusion first.
fn engines(args: &Args, cache: &Path) -> Result<Vec<Engine>> {
    let program = std::env::current_exe()?;
    let here = |name: &str, ours: bool, arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.arg("ask").args(arguments);
        Engine { name: name.to_owned(), ours, command }
    };
    let mut engines = vec![here("DataFusion", false, &["--plain"])];
    if !args.peers_only {
        let cluster = format!("local-cluster[{CORES},1,{}]", args.executor_memory);
        let stages = ["--master", "local[2]", "--conf", "sql.force_stages=true"];
        engines.push(here("Vonk local[2]", true, &["--master", "local[2]"]));
        engines.push(here("Vonk local[2], stages", true, &stages));
        engines.push(here("Vonk local-cluster[2,1]", true, &["--master", &cluster]));
    }
    let python = cache.join("peers/bin/python");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/tpch.py");
    let mut peer = |name: &str, engine: &str, package: &str| {
        let there = Command::new(&python).args(["-c", &format!("import pyarrow, {package}")]).output();
        if !there.is_ok_and(|output| output.status.success()) {
            let environment = cache.join("peers");
            eprintln!("{name}: not run (needs pyarrow, pandas and {package} in {})", environment.display());
            return;
        }
        let mut command = Command::new(&python);
        command.arg(&script).arg(engine).env("SPARK_LOCAL_IP", "127.0.0.1").env("PYSPARK_PYTHON", &python);
        engines.push(Engine { name: name.to_owned(), ours: false, command });
    };
    for against in &args.against {
        match against {
            Peer::Datafusion => {}
            Peer::Duckdb => peer("DuckDB", "duckdb", "duckdb"),
            Peer::Spark => peer("Spark local[2]", "spark", "pyspark"),
            Peer::Sail => {
                peer("Sail local", "sail", "pysail");
                peer("Sail local-cluster", "sail-cluster", "pysail");
            }
        }
    }
    Ok(engines)
}

/// Says where answers differ. Those of other engines have other types, and other digits behind the point.
fn check(measured: &Measured, queries: &[&Query], expected: &Path, answers: &Path) {
    for name in queries.iter().map(|query| query.name()) {
        let read = |folder: &Path| Answer::read(&folder.join(&name).with_extension("arrow"));
        let difference = match (read(answers), read(expected)) {
            (Ok(got), Ok(wanted)) if measured.ours => got.difference(&wanted, Order::Kept),
            (Ok(got), Ok(wanted)) => got.difference_in_meaning(&wanted),
            (Err(error), _) | (_, Err(error)) => Some(format!("{error:#}")),
        };
        if let Some(difference) = difference {
            eprintln!("{} answers {name} otherwise: {difference}", measured.name);
        }
    }
}

/// Shows the best seconds of every query and engine.
fn table(queries: &[&Query], measured: &[Measured]) {
    let names: String = measured.iter().map(|one| format!(" {:>23} |", one.name)).collect();
    println!("| query |{names}\n|-------|{}", format!("{}:|", "-".repeat(24)).repeat(measured.len()));
    for query in queries {
        let row: String = measured.iter().map(|one| format!(" {:>23.3} |", one.best(&query.name()))).collect();
        println!("| {:<5} |{row}", query.name());
    }
    let totals: String = measured.iter().map(|one| format!(" {:>23.3} |", one.total())).collect();
    println!("| total |{totals}\n");
}

/// Keeps figures and marks, and draws the totals if they are those of all queries.
fn keep(args: &Args, queries: &[&Query], measured: &[Measured], small: &[(&str, Vec<f64>, f64)]) -> Result<()> {
    let scale = args.scale;
    let mut report = Report::new();
    head();
    for one in measured {
        let runs: Vec<(&str, &[f64])> = one.seconds.iter().map(|(query, runs)| (query.as_str(), &runs[..])).collect();
        report.add(&format!("TPC-H SF{scale}, {}", one.name), one.total(), "s", None, &runs);
    }
    let total = |name: &str| measured.iter().find(|one| one.name == name).map(Measured::total);
    let marks = [
        ("Vonk local[2]", "DataFusion", Mark::AtMost(1.05)),
        ("Vonk local[2], stages", "DataFusion", Mark::AtMost(1.25)),
        ("Vonk local-cluster[2,1]", "DataFusion", Mark::AtMost(if scale > 1.0 { 1.5 } else { 1.35 })),
        ("Vonk local-cluster[2,1]", "Sail local-cluster", Mark::AtMost(1.0)),
        ("Spark local[2]", "Vonk local[2]", Mark::AtLeast(7.0)),
        ("Spark local[2]", "Vonk local-cluster[2,1]", Mark::AtLeast(5.5)),
        ("DuckDB", "Vonk local[2]", Mark::AtLeast(0.0)),
    ];
    for (one, other, mark) in marks {
        if let (Some(seconds), Some(than)) = (total(one), total(other)) {
            let mark = (mark != Mark::AtLeast(0.0)).then_some(mark);
            report.add(&format!("TPC-H SF{scale}, {one}"), seconds / than, &format!("× {other}"), mark, &[]);
        }
    }
    let q6 = |name: &str| measured.iter().find(|one| one.name == name).map(|one| one.best("q6"));
    for name in ["Vonk local[2]", "Vonk local-cluster[2,1]"] {
        if let (Some(ours), Some(plain)) = (q6(name), q6("DataFusion"))
            && ours.is_finite()
        {
            let more = (ours - plain) * 1_000.0;
            report.add(&format!("q6, {name}"), more, "ms more than DataFusion", Some(Mark::AtMost(30.0)), &[]);
        }
    }
    for (what, times, most) in small {
        report.add(what, median(times), "ms", Some(Mark::AtMost(*most)), &[("ms", times)]);
    }
    if let Some(peak) = measured.iter().find_map(|one| one.peak) {
        let what = format!("most memory of an executor that may have {}", args.executor_memory);
        let most = bytes(&args.executor_memory).map(|bytes| Mark::AtMost(bytes / 1_048_576.0));
        report.add(&what, peak as f64 / 1_048_576.0, "MiB", most, &[]);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let all = queries.len() == QUERIES.len();
    let usual = all && args.executor_memory == USUAL_MEMORY;
    let which = match (all, usual) {
        (_, true) => String::new(),
        (true, false) => format!("-{}", args.executor_memory),
        (false, false) => "-some".to_owned(),
    };
    let kept = root.join("results").join(format!("tpch-sf{scale}{which}.json"));
    report.keep(&kept)?;
    eprintln!("kept as {}; {} of {} figures missed their mark", kept.display(), report.missed(), report.figures.len());
    if usual {
        let mut totals: Vec<Bar> =
            measured.iter().map(|one| Bar { name: one.name.clone(), value: one.total(), ours: one.ours }).collect();
        totals.sort_by(|a, b| a.value.total_cmp(&b.value));
        let title = format!("TPC-H at scale {scale}: all 22 queries, two cores, best of {}", args.rounds);
        let picture = root.join(format!("../docs/tpch-sf{scale}.svg"));
        fs::write(&picture, bars(&title, "s", &totals)).with_context(|| format!("write {}", picture.display()))?;
    }
    Ok(())
}
