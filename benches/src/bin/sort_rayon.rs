//! What does sorting records cost, written by hand with rayon?

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use rayon::prelude::*;
use vonk_benches::data::{KEY_BYTES, RECORD_BYTES, files};

type Record = [u8; RECORD_BYTES];

/// Reads records of 100 bytes, sorts them by their first 10, checks the order, writes nothing.
#[derive(Debug, Parser)]
struct Args {
    /// The folder of records.
    folder: PathBuf,
    /// How many threads sort.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() -> Result<()> {
    let args = Args::parse();
    rayon::ThreadPoolBuilder::new().num_threads(args.threads).build_global()?;
    let began = Instant::now();
    let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("read {}", path.display()));
    let parts = files(&args.folder)?.par_iter().map(read).collect::<Result<Vec<_>>>()?;
    let (records, rest): (Vec<&[Record]>, Vec<&[u8]>) = parts.iter().map(|part| part.as_chunks()).unzip();
    ensure!(rest.iter().all(|rest| rest.is_empty()), "a file ends within a record");
    let mut records: Vec<&Record> = records.into_iter().flatten().collect();
    // Keys lie beside each other as numbers, so that comparing two does not fetch their records.
    let key = |record: &&Record| -> (u64, u16) {
        let (head, tail) =
            (record[..8].try_into().expect("8 bytes"), record[8..KEY_BYTES].try_into().expect("2 bytes"));
        (u64::from_be_bytes(head), u16::from_be_bytes(tail))
    };
    let mut keyed: Vec<((u64, u16), &Record)> = records.par_drain(..).map(|record| (key(&record), record)).collect();
    keyed.par_sort_unstable_by_key(|(key, _)| *key);
    ensure!(keyed.par_windows(2).all(|pair| pair[0].1[..KEY_BYTES] <= pair[1].1[..KEY_BYTES]), "the order is wrong");
    println!("{} records in order", keyed.len());
    eprintln!("{:.3} s", began.elapsed().as_secs_f64());
    Ok(())
}
