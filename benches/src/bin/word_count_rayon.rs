//! What does counting words cost, written by hand with rayon?
//!
//! Memory-maps the files, counts slices in a hash map per file with an owned key per distinct word, merges the maps.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Parser;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use rayon::prelude::*;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Counts = HashMap<Box<[u8]>, u64, FixedState>;

/// Counts words as `examples/src/bin/word_count.rs` does, without Vonk.
#[derive(Debug, Parser)]
struct Args {
    /// Files, or folders of files.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// How many of the most frequent words are printed.
    #[arg(long, default_value_t = 10)]
    top: usize,
    /// How many threads count.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() -> Result<()> {
    let args = Args::parse();
    rayon::ThreadPoolBuilder::new().num_threads(args.threads).build_global()?;
    let mut files = Vec::new();
    for path in args.paths {
        if path.is_dir() { files.extend(vonk_benches::data::files(&path)?) } else { files.push(path) }
    }
    let counts = files.par_iter().map(|path| count(path)).try_reduce(Counts::default, |a, b| Ok(merge(a, b)))?;

    let mut top: Vec<(u64, &[u8])> = counts.iter().map(|(word, count)| (*count, &**word)).collect();
    let order = |a: &(u64, &[u8]), b: &(u64, &[u8])| b.0.cmp(&a.0).then(a.1.cmp(b.1));
    let wanted = args.top.min(top.len());
    if wanted > 0 && wanted < top.len() {
        top.select_nth_unstable_by(wanted - 1, order);
    }
    top.truncate(wanted);
    top.sort_unstable_by(order);
    let mut out = BufWriter::new(std::io::stdout().lock());
    for (count, word) in top {
        writeln!(out, "{count}\t{}", String::from_utf8_lossy(word))?;
    }
    out.flush()?;
    eprintln!("{} words, {} distinct", counts.values().sum::<u64>(), counts.len());
    Ok(())
}

#[expect(
    unsafe_code,
    reason = "a mapping is only sound while nobody changes the file, and the benchmark owns its files"
)]
fn count(path: &Path) -> Result<Counts> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mapped = unsafe { memmap2::Mmap::map(&file) }.with_context(|| format!("map {}", path.display()))?;
    let mut counts = Counts::default();
    for word in mapped.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()) {
        match counts.get_mut(word) {
            Some(count) => *count += 1,
            None => {
                counts.insert(word.into(), 1);
            }
        }
    }
    Ok(counts)
}

fn merge(a: Counts, b: Counts) -> Counts {
    let (mut into, from) = if a.len() >= b.len() { (a, b) } else { (b, a) };
    for (word, count) in from {
        *into.entry(word).or_default() += count;
    }
    into
}
