//! Which pages do other important pages point at?

use std::process::ExitCode;

use clap::Parser;
use vonk::StorageLevel;

/// Ranks pages by their links, as PageRank does.
#[derive(Debug, Parser)]
struct Args {
    /// A file of lines `FROM TO`: a link each
    #[arg(default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/data/links.txt"))]
    links: String,
    /// How often ranks flow along the links
    #[arg(long, default_value_t = 10)]
    iterations: u32,
    /// How many pages are printed, highest rank first
    #[arg(long, default_value_t = 10)]
    top: usize,
    #[command(flatten)]
    vonk: vonk::Args,
}

/// How much of a page's rank flows along its links; the rest comes to every page from nowhere.
const DAMPING: f64 = 0.85;

fn main() -> ExitCode {
    vonk::main(|| {
        let args = Args::parse();
        let ctx = vonk::Context::builder().name("page_rank").args(&args.vonk).build()?;
        let pairs = ctx.text_file(&args.links)?.flat_map(|line| {
            let mut words = line.split_whitespace();
            words.next().zip(words.next())
        });
        // Grouped once and kept: every iteration joins it with the ranks of the last.
        let links = pairs.distinct().group_by_key().persist(StorageLevel::Memory);
        let mut ranks = links.map_values(|_| 1.0).erase();
        for _ in 0..args.iterations {
            let flows = links.join(&ranks).values().flat_map(|(targets, rank)| {
                let share = rank / targets.len() as f64;
                targets.into_iter().map(move |target| (target, share))
            });
            ranks = flows.reduce_by_key(|a, b| a + b).map_values(|flow| 1.0 - DAMPING + DAMPING * flow).erase();
        }
        for (page, rank) in ranks.top_by(args.top, |(_, rank)| (rank * 1e9) as u64)? {
            println!("{rank:.4}\t{page}");
        }
        Ok(())
    })
}
