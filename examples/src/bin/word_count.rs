//! Which words does a text use, and how often?

use std::cmp::Reverse;
use std::io::{BufWriter, Write};
use std::process::ExitCode;

use clap::Parser;

/// Counts the words of text files.
///
/// Prints a line of count, tab and word for each, most frequent first, or saves all of them.
#[derive(Debug, Parser)]
struct Args {
    /// Files, folders or globs, on this machine or as URLs of any object store
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,
    /// Print only so many of the most frequent words
    #[arg(long, value_name = "N")]
    top: Option<usize>,
    /// Save the lines as text files in this folder, in no order, instead of printing them
    #[arg(long, value_name = "URL", conflicts_with = "top")]
    output: Option<String>,
    #[command(flatten)]
    vonk: vonk::Args,
}

fn main() -> ExitCode {
    vonk::main(|| {
        let args = Args::parse();
        let ctx = vonk::Context::builder().name("word_count").args(&args.vonk).build()?;
        let lines = ctx.text_file(&args.paths.join(","))?;
        let words = lines.flat_map(|line| line.split_whitespace());
        let counts = words.map(|word| (word, 1_u64)).reduce_by_key(|a, b| a + b);

        if let Some(output) = &args.output {
            counts.map(|(word, count)| format!("{count}\t{word}")).save_as_text_file(output)?;
            return Ok(());
        }
        // The most frequent first; words of equal count in the order of the alphabet.
        let ranked = counts.map(|(word, count)| (Reverse(count), word));
        let ranked = match args.top {
            Some(top) => ranked.take_ordered(top)?,
            None => {
                let mut all = ranked.collect()?;
                all.sort_unstable();
                all
            }
        };
        let mut out = BufWriter::new(std::io::stdout().lock());
        for (Reverse(count), word) in ranked {
            writeln!(out, "{count}\t{word}")?;
        }
        out.flush()?;
        Ok(())
    })
}
