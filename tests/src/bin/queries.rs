//! Which answers do queries give, here or by plain DataFusion?
//!
//! Runs every `.sql` file of a folder over the tables of another, one after the other, and writes each answer beside the
//! others as an Arrow file, or what went wrong as an `.error` file: its class in the first line, then its text.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use vonk::Context;
use vonk::datafusion::prelude::SessionContext;
use vonk_tests::class;
use vonk_tpch::{Answer, register};

#[derive(Parser)]
struct Options {
    #[command(flatten)]
    vonk: vonk::Args,

    /// Run them by DataFusion alone
    #[arg(long)]
    plain: bool,

    /// A query that takes more seconds hangs
    #[arg(long, default_value_t = 60)]
    deadline: u64,

    /// The folder of tables, each a folder of Parquet files
    tables: PathBuf,

    /// The folder of queries; in each file statements before the last one, which end with `;`, prepare it
    queries: PathBuf,

    /// The folder of answers
    answers: PathBuf,
}

fn main() -> ExitCode {
    vonk::main(|| {
        let options = Options::parse();
        if options.plain {
            let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            threads.block_on(run(&options, &SessionContext::new()))?;
        } else {
            let ctx = Context::builder().args(&options.vonk).build()?;
            ctx.block_on(run(&options, ctx.session()?))??;
            ctx.stop();
        }
        Ok(())
    })
}

async fn run(options: &Options, session: &SessionContext) -> Result<()> {
    register(session, &options.tables).await?;
    std::fs::create_dir_all(&options.answers)?;
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&options.queries)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    for file in files {
        let text = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let answer = options.answers.join(file.file_stem().unwrap_or_default()).with_extension("arrow");
        let began = Instant::now();
        let asked = ask(session, &text, &answer);
        let class = match tokio::time::timeout(Duration::from_secs(options.deadline), asked).await {
            Ok(Ok(())) => "",
            Ok(Err(error)) => {
                let class = class(&error);
                std::fs::write(answer.with_extension("error"), format!("{class}\n{error:?}"))?;
                class
            }
            Err(_) => {
                std::fs::write(answer.with_extension("error"), "hangs\n")?;
                "hangs"
            }
        };
        println!("{}\t{:.3}\t{class}", file.file_stem().unwrap_or_default().display(), began.elapsed().as_secs_f64());
    }
    Ok(())
}

async fn ask(session: &SessionContext, text: &str, answer: &Path) -> Result<()> {
    let mut statements = text.split(";\n").map(str::trim).filter(|statement| !statement.is_empty()).peekable();
    while let Some(statement) = statements.next() {
        let rows = session.sql(statement).await?;
        let schema = rows.schema().as_arrow().clone().into();
        let batches = rows.collect().await?;
        if statements.peek().is_none() {
            Answer::write(answer, &schema, &batches)?;
        }
    }
    Ok(())
}
