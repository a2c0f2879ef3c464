//! What does it take to plan a query over a table of many files?
//!
//! Time until the plan is there, and the most memory that the driver has had until then: its own, and with the pages of its
//! program that it has seen, which all processes of the program share and the system takes back when it needs them. The files
//! are made by another process, whose memory is not measured.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use vonk_benches::measure::{Mark, Report, head, memory, run};

/// How often a driver's memory is looked at: what it has for a shorter time is not seen.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Measures the planning of a query over a table of many Parquet files, by a driver of executors and in one process.
#[derive(Debug, Parser)]
struct Args {
    /// How many files
    #[arg(long, default_value_t = 10_000)]
    files: usize,
    /// How many columns each has
    #[arg(long, default_value_t = 10)]
    columns: usize,
    #[command(subcommand)]
    child: Option<Child>,
}

/// What the program starts itself for.
#[derive(Debug, clap::Subcommand)]
enum Child {
    /// Makes one file.
    #[command(hide = true)]
    Make { folder: PathBuf },
    /// Plans a query over all, and prints seconds and bytes.
    #[command(hide = true)]
    Plan {
        #[command(flatten)]
        vonk: vonk::Args,
        folder: PathBuf,
    },
}

fn main() -> ExitCode {
    vonk::main(|| {
        let args = Args::parse();
        match &args.child {
            None => measure(&args),
            Some(Child::Make { folder }) => make(folder.to_str().context("read the folder's name")?, args.columns),
            Some(Child::Plan { vonk, folder }) => plan(vonk, &folder.display().to_string()),
        }
    })
}

fn measure(args: &Args) -> Result<()> {
    let (home, program) = (tempfile::tempdir()?, std::env::current_exe()?);
    let (made, many) = (home.path().join("made"), home.path().join("many"));
    run(Command::new(&program).args(["--columns", &args.columns.to_string(), "make"]).arg(&made))?;
    fs::create_dir(&many)?;
    let files = fs::read_dir(&made)?.filter_map(|file| Some(file.ok()?.path()));
    let file = files.into_iter().find(|file| file.extension().is_some_and(|kind| kind == "parquet"));
    let file = file.context("find the file that was made")?;
    for number in 0..args.files {
        fs::copy(&file, many.join(format!("part-{number:06}.parquet")))?;
    }
    head();
    let mut report = Report::new();
    for (name, master) in [("driver", "local-cluster[2,1,512m]"), ("one process", "local[2]")] {
        let mut command = Command::new(&program);
        let planned = run(command.args(["plan", "--master", master]).arg(&many))?.stdout;
        let mut figures = planned.split_whitespace().map(str::parse::<f64>);
        let mut next = || anyhow::Ok(figures.next().context("read what was measured")??);
        let (seconds, own, resident) = (next()?, next()? / 1e6, next()? / 1e6);
        let what = format!("plan over {} files, {name}", args.files);
        // The marks are those of drivers, whose executors read the files.
        let mark = |most| (name == "driver" && args.files == 10_000).then_some(Mark::AtMost(most));
        report.add(&what, seconds, "s", mark(1.0), &[]);
        report.add(&what, own, "MB", mark(100.0), &[]);
        report.add(&format!("{what}, with its code"), resident, "MB", None, &[]);
    }
    Ok(())
}

fn make(folder: &str, columns: usize) -> Result<()> {
    let ctx = vonk::Context::builder().name("many_files").master("local[1]").build()?;
    let columns: Vec<String> = (0..columns).map(|column| format!("value * {column} AS column_{column}")).collect();
    let query = format!("SELECT {} FROM range(0, 1000)", columns.join(", "));
    ctx.block_on(async {
        let rows = ctx.sql(&query).await?;
        ctx.write(rows).parquet(folder).await
    })??;
    Ok(())
}

fn plan(args: &vonk::Args, folder: &str) -> Result<()> {
    let ctx = vonk::Context::builder().name("many_files").args(args).build()?;
    let most = Arc::new(AtomicU64::new(0));
    let watched = Arc::clone(&most);
    // It ends with the process.
    thread::spawn(move || {
        while let Ok(own) = memory(std::process::id(), "RssAnon") {
            watched.fetch_max(own, Ordering::Relaxed);
            #[expect(clippy::disallowed_methods, reason = "nobody tells when memory is most")]
            thread::sleep(LOOK_EVERY);
        }
    });
    let seconds = ctx.block_on(async {
        ctx.sql("SELECT 1").await?.collect().await?;
        let began = Instant::now();
        let rows = ctx.read_parquet(format!("{folder}/")).await?;
        ctx.session()?.register_table("many", rows.into_view())?;
        let query = "SELECT column_1, sum(column_2) FROM many WHERE column_3 > 10 GROUP BY column_1";
        let planned = ctx.sql(query).await?.create_physical_plan().await?;
        let seconds = began.elapsed().as_secs_f64();
        drop(planned);
        anyhow::Ok(seconds)
    })??;
    println!("{seconds} {} {}", most.load(Ordering::Relaxed), memory(std::process::id(), "VmHWM")?);
    Ok(())
}
