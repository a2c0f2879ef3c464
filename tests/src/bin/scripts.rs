//! What do scripts of queries answer, here or by plain DataFusion?
//!
//! Runs files of sqllogictest, each in a session and a folder of its own, and writes what became of every record as a line of
//! JSON: the line where it stands and its rows as text, sorted, or the class of its error.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use futures::FutureExt;
use serde_json::json;
use vonk::Context;
use vonk::datafusion::arrow::array::RecordBatch;
use vonk::datafusion::arrow::datatypes::DataType;
use vonk::datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use vonk::datafusion::execution::SessionStateBuilder;
use vonk::datafusion::prelude::{SessionConfig, SessionContext};
use vonk_tests::sqllogic::{Record, records};

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

    /// The folder of scripts
    scripts: PathBuf,

    /// A file with the scripts' names, one in each line
    names: PathBuf,

    /// Where to write what became of each, in a file of the script's name with dashes for slashes
    outcomes: PathBuf,
}

fn main() -> ExitCode {
    vonk::main(|| {
        let options = Options::parse();
        let home = std::env::current_dir()?;
        for name in std::fs::read_to_string(&options.names)?.lines() {
            let text = std::fs::read_to_string(options.scripts.join(name)).with_context(|| format!("read {name}"))?;
            // Scripts write below `test_files/scratch`, and read what lies elsewhere in DataFusion's checkout.
            let folder = home.join(name.replace('/', "-"));
            let inside = folder.join("datafusion/sqllogictest");
            std::fs::create_dir_all(inside.join("test_files/scratch"))?;
            std::env::set_current_dir(&inside)?;
            let told = outcomes(&options, &records(&text));
            std::env::set_current_dir(&home)?;
            std::fs::remove_dir_all(&folder)?;
            let file = options.outcomes.join(name.replace('/', "-"));
            std::fs::write(&file, told?.join("\n")).with_context(|| format!("write {}", file.display()))?;
        }
        Ok(())
    })
}

/// The outcome of every record, in a session of its own.
fn outcomes(options: &Options, records: &[Record]) -> Result<Vec<String>> {
    let ctx = Context::builder().args(&options.vonk).build()?;
    let plain = if options.plain { Some(alone(ctx.session()?)) } else { None };
    let told = ctx.block_on(async {
        let mut told = Vec::new();
        for Record { line, text } in records {
            if let Err(error) = make_room(text) {
                eprintln!("line {line}: {error}");
            }
            let asked = std::panic::AssertUnwindSafe(ask(&ctx, plain.as_ref(), text)).catch_unwind();
            let outcome = match tokio::time::timeout(Duration::from_secs(options.deadline), asked).await {
                Ok(Ok(Ok(rows))) => json!({ "line": line, "rows": rows }),
                Ok(Ok(Err(error))) => {
                    json!({ "line": line, "class": vonk_tests::class(&error), "error": format!("{error:#}") })
                }
                Ok(Err(_)) => json!({ "line": line, "class": "panic" }),
                Err(_) => json!({ "line": line, "class": "hangs" }),
            };
            told.push(outcome.to_string());
        }
        told
    })?;
    ctx.stop();
    Ok(told)
}

/// Files of DataFusion's checkout are not here: a table of told columns finds an empty folder, which is no error.
fn make_room(text: &str) -> std::io::Result<()> {
    // Of the same length as the text itself.
    let upper = text.to_ascii_uppercase();
    let told = upper.split_once("STORED AS").is_some_and(|(head, _)| head.contains('('));
    let place = upper.find("LOCATION '").and_then(|at| text[at..].split('\'').nth(1));
    match place {
        Some(place) if told && !place.contains("://") && !std::path::Path::new(place).exists() => {
            std::fs::create_dir_all(place)
        }
        _ => Ok(()),
    }
}

/// DataFusion with the same functions, and nothing else of ours.
fn alone(session: &SessionContext) -> SessionContext {
    let state = session.state();
    let mut config = SessionConfig::new().with_target_partitions(4).with_information_schema(true);
    config.options_mut().sql_parser.dialect = state.config().options().sql_parser.dialect;
    // By its own name last: an alias of another must not take it.
    let scalar = state.scalar_functions().iter().partition::<Vec<_>, _>(|(name, function)| *name != function.name());
    let aggregate =
        state.aggregate_functions().iter().partition::<Vec<_>, _>(|(name, function)| *name != function.name());
    let window = state.window_functions().iter().partition::<Vec<_>, _>(|(name, function)| *name != function.name());
    let alone = SessionStateBuilder::new_with_default_features()
        .with_config(config)
        .with_scalar_functions(scalar.0.into_iter().chain(scalar.1).map(|(_, function)| function.clone()).collect())
        .with_aggregate_functions(
            aggregate.0.into_iter().chain(aggregate.1).map(|(_, function)| function.clone()).collect(),
        )
        .with_window_functions(window.0.into_iter().chain(window.1).map(|(_, function)| function.clone()).collect());
    SessionContext::new_with_state(alone.build())
}

async fn ask(ctx: &Context, plain: Option<&SessionContext>, text: &str) -> Result<Vec<String>> {
    let frame = match plain {
        Some(plain) => plain.sql(text).await?,
        None => ctx.sql(text).await?,
    };
    let kinds: Vec<DataType> = frame.schema().fields().iter().map(|field| field.data_type().clone()).collect();
    let mut rows = vec![format!("{kinds:?}")];
    for batch in frame.collect().await? {
        rows.extend(shown(&batch)?);
    }
    rows[1..].sort();
    Ok(rows)
}

/// Rows as text. Sums of floating point numbers depend on the order of rows, and so do their last digits.
fn shown(batch: &RecordBatch) -> Result<Vec<String>> {
    let options = FormatOptions::default().with_null("NULL");
    let columns = batch.columns().iter().map(|column| Ok(ArrayFormatter::try_new(column.as_ref(), &options)?));
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let row = |row: usize| {
        let cells = columns.iter().zip(batch.columns()).map(|(cells, column)| match column.data_type() {
            DataType::Float16 | DataType::Float32 | DataType::Float64 => {
                let text = cells.value(row).to_string();
                text.parse::<f64>().map_or(text, |number| format!("{number:.4e}"))
            }
            _ => cells.value(row).to_string(),
        });
        cells.collect::<Vec<_>>().join(" | ")
    };
    Ok((0..batch.num_rows()).map(row).collect())
}
