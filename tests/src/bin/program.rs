//! What do the tests run? A program of Vonk's that passes points where a test may let faults happen.
//!
//! Points: `map` (a map task's first row), `write` (its middle row: rows before it are on their way into the shuffle),
//! `reduce` (a reduce task has its rows), `result` (its last line is made), `said` (it has printed what it was to print),
//! `between` (in the driver, between two jobs that share a shuffle).

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use vonk::Context;
use vonk_tests::{note, point};

#[derive(Parser)]
struct Options {
    #[command(flatten)]
    vonk: vonk::Args,

    #[command(subcommand)]
    job: Job,
}

#[derive(Subcommand)]
enum Job {
    /// Sums rows by key; prints `key<TAB>sum` lines in order.
    Sum(Shape),
    /// The same twice over one shuffle, with the point `between` in the middle.
    Twice(Shape),
    /// The same, written as text.
    Save {
        #[command(flatten)]
        shape: Shape,
        /// Where to.
        destination: String,
    },
    /// Runs until it is stopped.
    Forever,
    /// Counts the lines of files.
    Lines {
        /// Which.
        path: String,
    },
    /// Panics at one row.
    PanicAt {
        /// Which.
        row: u64,
    },
    /// A task prints so many lines, by turns on stdout and stderr, passes the point `said`, and panics.
    Say {
        /// How many.
        lines: u32,
        /// It does not panic.
        #[arg(long)]
        well: bool,
    },
    /// Prints what is in a file that goes along, as the driver finds it and as a task does.
    Attached {
        /// Its name.
        name: String,
    },
    /// Collects so many rows of 1,000 bytes.
    Collect {
        /// How many.
        rows: u64,
    },
    /// Runs a job of so many empty tasks.
    Empty {
        /// How many.
        tasks: u32,
    },
    /// Counts with an accumulator in an action, then in a job that writes; prints what it holds after each.
    Accumulate(Shape),
    /// Sums a cached dataset so many times; prints every sum.
    Cached {
        #[command(flatten)]
        shape: Shape,
        /// How often.
        times: u32,
    },
}

#[derive(clap::Args, Clone)]
struct Shape {
    /// Rows.
    #[arg(long, default_value_t = 40_000)]
    rows: u64,
    /// Keys.
    #[arg(long, default_value_t = 1_000)]
    keys: u64,
    /// Partitions that write.
    #[arg(long, default_value_t = 8)]
    maps: u32,
    /// Partitions that read.
    #[arg(long, default_value_t = 4)]
    reduces: u32,
}

fn main() -> ExitCode {
    vonk::main(|| {
        let options = Options::parse();
        let ctx = Context::builder().args(&options.vonk).build()?;
        run(&ctx, options.job)?;
        ctx.stop();
        Ok(())
    })
}

/// Rows by key, through a shuffle that keeps every row: `group_by_key` combines nothing on the map side.
fn sums(ctx: &Context, shape: &Shape) -> Result<vonk::Rdd<String>, vonk::Error> {
    let Shape { rows, keys, maps, reduces } = *shape;
    let per_map = rows / u64::from(maps);
    let pairs = ctx.range_into(0..rows, maps).map_with((keys, per_map), |(keys, per_map), row| {
        if row % per_map == 0 {
            note("maps", &format!("{}", row / per_map));
            point("map");
        }
        if row % per_map == per_map / 2 {
            point("write");
        }
        (row % keys, row)
    });
    let lines = pairs.group_by_key_into(reduces).map_partitions(|groups| {
        point("reduce");
        let lines: Vec<String> =
            groups.map(|(key, rows)| format!("{key:08}\t{}\t{}", rows.len(), rows.iter().sum::<u64>())).collect();
        point("result");
        lines
    });
    Ok(lines.erase())
}

fn contents(name: &str) -> String {
    let path = vonk::attached(name).unwrap_or_else(|error| panic!("{error}"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn print_sorted(mut lines: Vec<String>) {
    lines.sort_unstable();
    lines.iter().for_each(|line| println!("{line}"));
}

fn run(ctx: &Context, job: Job) -> Result<(), vonk::Error> {
    match job {
        Job::Sum(shape) => print_sorted(sums(ctx, &shape)?.collect()?),
        Job::Attached { name } => {
            println!("the driver reads {}", contents(&name));
            let lines = ctx.range_into(0..1, 1).map_with(name, |name, _| format!("a task reads {}", contents(name)));
            print_sorted(lines.collect()?);
        }
        Job::Twice(shape) => {
            let sums = sums(ctx, &shape)?;
            print_sorted(sums.collect()?);
            point("between");
            print_sorted(sums.collect()?);
        }
        Job::Save { shape, destination } => {
            let report = sums(ctx, &shape)?.save_as_text_file(&destination)?;
            println!("{} rows", report.rows);
        }
        Job::Forever => {
            ctx.range_into(0..4, 4).foreach(|_| {
                note("forever", "runs");
                loop {
                    std::thread::park();
                }
            })?;
        }
        Job::Lines { path } => println!("{}", ctx.text_file(&path)?.count()?),
        Job::PanicAt { row } => {
            let sum = ctx.range_into(0..10_000, 4).map_with(row, |wrong, row| {
                assert!(row != *wrong, "row {row} is wrong");
                row
            });
            println!("{:?}", sum.reduce(|a, b| a + b)?);
        }
        Job::Say { lines, well } => {
            ctx.range_into(0..1, 1).foreach(vonk::task!(move [lines, well] |_row| {
                for line in 0..lines {
                    if line % 2 == 0 {
                        println!("line {line} of the task");
                    } else {
                        eprintln!("line {line} of the task");
                    }
                }
                point("said");
                assert!(well, "enough was said");
            }))?;
        }
        Job::Collect { rows } => {
            println!("{}", ctx.range_into(0..rows, 8).map(|row| vec![row as u8; 1_000]).collect()?.len());
        }
        Job::Empty { tasks } => {
            println!("{}", ctx.range_into(0..u64::from(tasks), tasks).filter(|_| false).count()?);
        }
        Job::Accumulate(shape) => {
            let seen = ctx.accumulator(0u64);
            let counter = seen.clone();
            ctx.range_into(0..shape.rows, shape.maps).foreach_partition(vonk::task!(move [counter] |rows| {
                let rows = rows.count() as u64;
                counter.add(rows);
                point("reduce");
            }))?;
            println!("{}", seen.value());
            let (counter, out) = (seen.clone(), std::env::temp_dir().join("accumulated"));
            let rows = ctx.range_into(0..shape.rows, shape.maps).map(vonk::task!(move [counter] |row| {
                counter.add(1);
                row
            }));
            rows.save_as_text_file(&out.display().to_string())?;
            println!("{}", seen.value());
            let _ = std::fs::remove_dir_all(out);
        }
        Job::Cached { shape, times } => {
            let cached = ctx
                .range_into(0..shape.rows, shape.maps)
                .map(|row| {
                    if row == 0 {
                        note("maps", "0");
                    }
                    row
                })
                .cache();
            for _ in 0..times {
                println!("{:?}", cached.reduce(|a, b| a + b)?);
                point("between");
            }
        }
    }
    Ok(())
}
