//! What do the tests run? A program of Vonk's that tells its test where it is, and waits where a test wants it to.
//!
//! Notes: `begun` (there is no application yet), `map` and `reduce` (a task of the stage has begun), `runs` (a task waits), `hogs` (a task is about to allocate).
//! Gates: `begin`, `reduce`, `go`, `again`, which the tests open.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use vonk::Context;
use vonk_cluster_tests::{meet, note, pass};

#[derive(Parser)]
struct Options {
    #[command(flatten)]
    vonk: vonk::Args,

    /// Waits for the gate `begin` before there is an application.
    #[arg(long)]
    late: bool,

    #[command(subcommand)]
    job: Job,
}

#[derive(Subcommand)]
enum Job {
    /// Sums rows by key; prints `key<TAB>rows<TAB>sum` lines in order.
    Sum {
        #[command(flatten)]
        shape: Shape,
        /// Reduce tasks wait for the gate `reduce`.
        #[arg(long)]
        hold: bool,
        /// The same once more over the same shuffle, after the gate `again`.
        #[arg(long)]
        twice: bool,
    },
    /// Tasks wait for the gate `go`; prints the sum of their numbers.
    Wait {
        /// How many.
        tasks: u32,
    },
    /// Two tasks, begun together, hold so many bytes each for a second; prints the sum of their numbers.
    Hog {
        /// In mebibytes.
        mebibytes: usize,
    },
    /// Counts how many of so many points of a square lie in the circle; prints `pi is roughly …`.
    Pi {
        /// How many.
        points: u64,
    },
    /// Prints what is in a file that goes along, as the driver finds it and as a task does.
    Attached {
        /// Its name.
        name: String,
    },
    /// Panics in a task.
    Fail,
    /// Prints a line on stdout, and one from a task on stderr.
    Print,
    /// Does something twice, and prints how many milliseconds the second time took.
    Time {
        /// What.
        what: Timed,
        /// So many samples, or lines of ten words.
        size: u64,
    },
    /// Nothing at all, and leaves with this code.
    Exit {
        /// Which.
        code: i32,
    },
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Timed {
    /// Throws darts: computing alone.
    Pi,
    /// Counts words: a shuffle of many small rows.
    Words,
}

#[derive(clap::Args, Clone)]
struct Shape {
    /// Rows.
    #[arg(long, default_value_t = 40_000)]
    rows: u64,
    /// Keys.
    #[arg(long, default_value_t = 100)]
    keys: u64,
    /// Partitions that write.
    #[arg(long, default_value_t = 4)]
    maps: u32,
    /// Partitions that read.
    #[arg(long, default_value_t = 2)]
    reduces: u32,
}

fn main() -> ExitCode {
    vonk::main(|| {
        let options = Options::parse();
        if options.late {
            note("begun");
            pass("begin");
        }
        let ctx = Context::builder().args(&options.vonk).build()?;
        run(&ctx, options.job)?;
        ctx.stop();
        Ok(())
    })
}

fn run(ctx: &Context, job: Job) -> Result<(), vonk::Error> {
    match job {
        Job::Sum { shape, hold, twice } => {
            let sums = sums(ctx, &shape, hold);
            print_sorted(sums.collect()?);
            if twice {
                pass("again");
                print_sorted(sums.collect()?);
            }
        }
        Job::Wait { tasks } => {
            let numbers = ctx.range_into(0..u64::from(tasks), tasks).map(|number| {
                eprintln!("a task waits");
                note("runs");
                pass("go");
                number
            });
            println!("{}", numbers.sum()?);
        }
        Job::Hog { mebibytes } => {
            let numbers = ctx.range_into(0..2, 2).map_with(mebibytes, |mebibytes, number| {
                note("hogs");
                meet("hogs", 2);
                let held = vec![1u8; *mebibytes << 20];
                std::thread::park_timeout(std::time::Duration::from_secs(1));
                number + u64::from(std::hint::black_box(&held)[held.len() / 2])
            });
            println!("{}", numbers.sum()?);
        }
        Job::Pi { points } => {
            let inside = ctx.range_into(0..points, 4).filter(|point| is_in_circle(*point)).count()?;
            println!("pi is roughly {:.2}", 4.0 * inside as f64 / points as f64);
        }
        Job::Attached { name } => {
            println!("the driver reads {}", contents(&name));
            let lines = ctx.range_into(0..1, 1).map_with(name, |name, _| format!("a task reads {}", contents(name)));
            lines.collect()?.iter().for_each(|line| println!("{line}"));
        }
        Job::Fail => {
            ctx.range_into(0..2, 2).foreach(|number| assert!(number != 1, "row {number} is wrong"))?;
        }
        Job::Print => {
            let lines = ctx.range_into(0..1, 1).map(|number| {
                eprintln!("a task says {number}");
                format!("a driver says {number}")
            });
            lines.collect()?.iter().for_each(|line| println!("{line}"));
        }
        Job::Time { what, size } => {
            time(ctx, what, size)?; // whoever starts is not measured
            let began = std::time::Instant::now();
            let result = time(ctx, what, size)?;
            println!("{} ms, {result}", began.elapsed().as_millis());
        }
        Job::Exit { code } => std::process::exit(code),
    }
    Ok(())
}

/// Points of a grid whose sides no power of two divides: as even as chance, and the same every time.
fn is_in_circle(point: u64) -> bool {
    let side = |step: f64| (point as f64 * step).fract();
    let (x, y) = (side(0.754_877_666_246_693), side(0.569_840_290_998_053));
    x * x + y * y < 1.0
}

fn contents(name: &str) -> String {
    let path = vonk::attached(name).unwrap_or_else(|error| panic!("{error}"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Rows by key, through a shuffle that keeps every row: `group_by_key` combines nothing on the map side.
fn sums(ctx: &Context, shape: &Shape, hold: bool) -> vonk::Rdd<String> {
    let Shape { rows, keys, maps, reduces } = *shape;
    let per_map = rows / u64::from(maps);
    let pairs = ctx.range_into(0..rows, maps).map_with((keys, per_map), |(keys, per_map), row| {
        if row % per_map == 0 {
            note("map");
        }
        (row % keys, row)
    });
    let lines = pairs.group_by_key_into(reduces).map_partitions(vonk::task!(move [hold] |groups| {
        note("reduce");
        if hold {
            pass("reduce");
        }
        let lines = groups.map(|(key, rows)| format!("{key:04}\t{}\t{}", rows.len(), rows.iter().sum::<u64>()));
        lines.collect::<Vec<String>>()
    }));
    lines.erase()
}

/// Partitions of what is timed: two waves for two slots.
const TIMED_PARTITIONS: u32 = 4;

/// Words of which texts that are counted are made.
const VOCABULARY: u64 = 100_000;

fn time(ctx: &Context, what: Timed, size: u64) -> Result<u64, vonk::Error> {
    let numbers = ctx.range_into(0..size, TIMED_PARTITIONS);
    match what {
        Timed::Pi => {
            let inside = numbers.filter(|number| {
                let dart = mixed(*number);
                let (x, y) = ((dart >> 32) as f64, (dart & 0xffff_ffff) as f64);
                x * x + y * y < 2.0_f64.powi(64)
            });
            inside.count()
        }
        Timed::Words => {
            let words = numbers.flat_map(|line| (0..10).map(move |word| mixed(line * 10 + word) % VOCABULARY));
            words.map(|word| (format!("word{word}"), 1_u64)).reduce_by_key(|a, b| a + b).count()
        }
    }
}

/// A number's bits, mixed (the finalizer of SplitMix64).
fn mixed(number: u64) -> u64 {
    let mut bits = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

fn print_sorted(mut lines: Vec<String>) {
    lines.sort_unstable();
    lines.iter().for_each(|line| println!("{line}"));
}
