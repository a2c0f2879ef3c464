//! What do the tests run for DataFrames? Queries whose functions pass points where a test may let faults happen.
//!
//! Points: `map` (a task of the first stage has rows), `reduce` (one of the second has), `between` (in the driver, between two
//! queries over persisted rows).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use clap::{Parser, Subcommand};
use futures::TryStreamExt;
use vonk::datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use vonk::datafusion::arrow::datatypes::{DataType, Int64Type};
use vonk::datafusion::arrow::ipc::writer::FileWriter;
use vonk::datafusion::common::{DataFusionError, ScalarValue};
use vonk::datafusion::dataframe::DataFrame;
use vonk::datafusion::datasource::MemTable;
use vonk::datafusion::logical_expr::{
    Accumulator, AggregateUDF, ColumnarValue, PartitionEvaluator, ScalarUDF, Volatility, WindowUDF, create_udaf,
    create_udf, create_udwf,
};
use vonk::{Context, ToDataFrame, ToRdd, WriteMode};
use vonk_tests::point;

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
    Sum,
    /// The same over rows that are persisted, twice.
    Persist {
        /// By DataFusion's own name for it.
        #[arg(long)]
        cache: bool,
    },
    /// Writes the sums as files, a folder for each key; prints how many rows were written.
    Write {
        /// Where to.
        destination: String,
        /// error, append, overwrite or ignore
        #[arg(long, default_value = "error")]
        mode: String,
        /// parquet, csv, json or text
        #[arg(long, default_value = "parquet")]
        format: String,
        /// In a folder for each key, whatever the format.
        #[arg(long)]
        by_key: bool,
    },
    /// Sums the rows of files by key.
    Read {
        /// Where they are.
        path: String,
        /// parquet, csv, json or arrow
        #[arg(long)]
        format: String,
    },
    /// Writes the sums as one Arrow file.
    MakeArrow {
        /// Where to.
        path: PathBuf,
    },
    /// Calls aggregate and window functions of its own.
    Functions,
    /// The sums again, through functions: a query becomes a dataset, that a DataFrame, and that is asked.
    Bridge {
        /// Deletes all objects of shuffles below this folder, before the last query reads them.
        #[arg(long)]
        lose: Option<PathBuf>,
    },
    /// Calls a function that executors cannot know.
    Unknown,
    /// Runs a statement and prints its rows.
    Query {
        /// The statement.
        text: String,
        /// With a table of 24 MB: `wide`, of the numbers below 200,000 and a text of 120 bytes for each.
        #[arg(long)]
        wide: bool,
        /// With the tables of TPC-H that lie in this folder.
        #[arg(long)]
        tables: Option<PathBuf>,
        /// Reads two columns as a stream, and runs another query when it has some rows; prints rows and the sum of the first.
        #[arg(long)]
        stream: bool,
        /// Drops the stream when it has some rows.
        #[arg(long)]
        first: bool,
    },
}

const ROWS: i64 = 40_000;
const PARTITIONS: i64 = 8;
const KEYS: i64 = 13;

/// A row of what is printed.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Sum {
    key: i64,
    sum: i64,
}

/// The value itself, past a point.
fn passes(name: &'static str) -> ScalarUDF {
    let pass = move |arguments: &[ColumnarValue]| {
        point(name);
        Ok(arguments[0].clone())
    };
    create_udf(&format!("at_{name}"), vec![DataType::Int64], DataType::Int64, Volatility::Volatile, Arc::new(pass))
}

fn main() -> ExitCode {
    vonk::main(|| {
        let options = Options::parse();
        let ctx = Context::builder().args(&options.vonk).build()?;
        ctx.register_udf(|| passes("map"))?;
        ctx.register_udf(|| passes("reduce"))?;
        ctx.session()?.register_table("numbers", Arc::new(numbers()?))?;
        if let Job::Query { wide: true, .. } = options.job {
            ctx.session()?.register_table("wide", Arc::new(wide()?))?;
        }
        if let Job::Query { tables: Some(folder), .. } = &options.job {
            ctx.block_on(vonk_tpch::register(ctx.session()?, folder))??;
        }
        ctx.block_on(run(&ctx, options.job))??;
        ctx.stop();
        Ok(())
    })
}

fn numbers() -> Result<MemTable> {
    let partition = |p: i64| -> Result<Vec<RecordBatch>> {
        let values = Int64Array::from_iter_values((0..ROWS).filter(|value| value % PARTITIONS == p));
        Ok(vec![RecordBatch::try_from_iter([("value", Arc::new(values) as ArrayRef)])?])
    };
    let partitions = (0..PARTITIONS).map(partition).collect::<Result<Vec<_>>>()?;
    Ok(MemTable::try_new(partitions[0][0].schema(), partitions)?)
}

fn wide() -> Result<MemTable> {
    let partition = |p: i64| -> Result<Vec<RecordBatch>> {
        let keys = (0..200_000_i64).filter(|key| key % PARTITIONS == p);
        let texts = StringArray::from_iter_values(keys.clone().map(|key| format!("{key:0120}")));
        let keys = Int64Array::from_iter_values(keys);
        Ok(vec![RecordBatch::try_from_iter([
            ("key", Arc::new(keys) as ArrayRef),
            ("text", Arc::new(texts) as ArrayRef),
        ])?])
    };
    let partitions = (0..PARTITIONS).map(partition).collect::<Result<Vec<_>>>()?;
    Ok(MemTable::try_new(partitions[0][0].schema(), partitions)?)
}

/// The sum of the squares of numbers.
fn squares() -> AggregateUDF {
    #[derive(Debug)]
    struct Squares(i64);
    impl Accumulator for Squares {
        fn update_batch(&mut self, values: &[ArrayRef]) -> Result<(), DataFusionError> {
            self.0 += values[0].as_primitive::<Int64Type>().iter().flatten().map(|value| value * value).sum::<i64>();
            Ok(())
        }
        fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<(), DataFusionError> {
            self.0 += states[0].as_primitive::<Int64Type>().iter().flatten().sum::<i64>();
            Ok(())
        }
        fn state(&mut self) -> Result<Vec<ScalarValue>, DataFusionError> {
            Ok(vec![self.0.into()])
        }
        fn evaluate(&mut self) -> Result<ScalarValue, DataFusionError> {
            Ok(self.0.into())
        }
        fn size(&self) -> usize {
            size_of_val(self)
        }
    }
    create_udaf(
        "squares",
        vec![DataType::Int64],
        Arc::new(DataType::Int64),
        Volatility::Immutable,
        Arc::new(|_| Ok(Box::new(Squares(0)))),
        Arc::new(vec![DataType::Int64]),
    )
}

/// The place of a row within its partition, from 1.
fn place() -> WindowUDF {
    #[derive(Debug)]
    struct Place;
    impl PartitionEvaluator for Place {
        fn evaluate_all(&mut self, _: &[ArrayRef], rows: usize) -> Result<ArrayRef, DataFusionError> {
            Ok(Arc::new((1..=i64::try_from(rows).unwrap_or(i64::MAX)).collect::<Int64Array>()))
        }
    }
    create_udwf(
        "place",
        DataType::Int64,
        Arc::new(DataType::Int64),
        Volatility::Immutable,
        Arc::new(|| Ok(Box::new(Place))),
    )
}

const SUMS: &str = "SELECT key, at_reduce(sum(value)) AS sum
    FROM (SELECT value % 13 AS key, at_map(value) AS value FROM numbers) AS n GROUP BY key";

async fn run(ctx: &Context, job: Job) -> Result<()> {
    match job {
        Job::Sum => print(ctx.sql(SUMS).await?).await,
        Job::Persist { cache } => {
            let sums = ctx.sql(SUMS).await?;
            let sums = if cache { sums.cache().await? } else { ctx.persist(sums).await? };
            print(sums.clone()).await?;
            point("between");
            print(sums).await
        }
        Job::Write { destination, mode, format, by_key } => {
            let sums = match format.as_str() {
                "text" => ctx.sql("SELECT concat(value % 13, ' ', value) AS line FROM numbers").await?,
                _ => ctx.sql(SUMS).await?,
            };
            let mode = match mode.as_str() {
                "append" => WriteMode::Append,
                "overwrite" => WriteMode::Overwrite,
                "ignore" => WriteMode::Ignore,
                _ => WriteMode::ErrorIfExists,
            };
            let mut write = ctx.write(sums).mode(mode);
            if by_key {
                write = write.partition_by(["key"]);
            }
            let written = match format.as_str() {
                "csv" => write.csv(&destination).await?,
                "json" => write.json(&destination).await?,
                "text" => write.text(&destination).await?,
                _ => write.partition_by(["key"]).parquet(&destination).await?,
            };
            println!("{written}");
            Ok(())
        }
        Job::Bridge { lose } => {
            let keys = ctx.sql("SELECT value % 13 AS key, value FROM numbers").await?.rdd::<(i64, i64)>(ctx).await?;
            let sums = keys.reduce_by_key(|a, b| a + b);
            let sums = sums.map(|(key, sum)| {
                point("map");
                Sum { key, sum }
            });
            let sums = sums.to_df(ctx)?;
            point("between");
            if let Some(folder) = lose {
                println!("{} objects are lost", delete_objects(&folder)?);
            }
            ctx.session()?.register_table("sums", sums.into_view())?;
            print(ctx.sql("SELECT key, at_reduce(sum(sum)) AS sum FROM sums GROUP BY key").await?).await
        }
        Job::Unknown => {
            let name = "only_here";
            let own = create_udf(
                name,
                vec![DataType::Int64],
                DataType::Int64,
                Volatility::Volatile,
                Arc::new(|arguments: &[ColumnarValue]| Ok::<_, DataFusionError>(arguments[0].clone())),
            );
            ctx.session()?.register_udf(own);
            let frame = ctx.sql("SELECT sum(only_here(value)) AS key, count(*) AS sum FROM numbers").await?;
            print(frame).await
        }
        Job::Read { path, format } => {
            let rows = match format.as_str() {
                "csv" => ctx.read_csv(path).await?,
                "json" => ctx.read_json(path).await?,
                "arrow" => ctx.read_arrow(path).await?,
                _ => ctx.read_parquet(path).await?,
            };
            ctx.session()?.register_table("rows", rows.into_view())?;
            print(ctx.sql("SELECT key, sum(sum) AS sum FROM rows GROUP BY key").await?).await
        }
        Job::MakeArrow { path } => {
            let sums = ctx.sql(SUMS).await?.collect().await?;
            let mut writer = FileWriter::try_new(fs::File::create(path)?, sums[0].schema_ref())?;
            sums.iter().try_for_each(|batch| writer.write(batch))?;
            writer.finish()?;
            Ok(())
        }
        Job::Functions => {
            ctx.register_udaf(squares)?;
            ctx.register_udwf(place)?;
            let numbered = "SELECT squares(value) AS key, max(placed) AS sum
                FROM (SELECT value, place(value) OVER (PARTITION BY value % 13 ORDER BY value) AS placed FROM numbers)";
            print(ctx.sql(numbered).await?).await
        }
        Job::Query { text, stream: true, .. } => {
            let mut rows = ctx.sql(&text).await?.execute_stream().await?;
            let (mut count, mut sum) = (0, 0);
            while let Some(batch) = rows.try_next().await? {
                if count == 0 {
                    ctx.sql(SUMS).await?.collect().await?;
                }
                count += batch.num_rows();
                sum += batch.column(0).as_primitive::<Int64Type>().values().iter().sum::<i64>();
            }
            println!("{count} rows, {sum}");
            Ok(())
        }
        Job::Query { text, first: true, .. } => {
            let mut rows = ctx.sql(&text).await?.execute_stream().await?;
            if rows.try_next().await?.is_some_and(|batch| batch.num_rows() > 0) {
                println!("some rows");
            }
            Ok(())
        }
        Job::Query { text, .. } => {
            println!("{}", ctx.sql(&text).await?.to_string().await?);
            Ok(())
        }
    }
}

/// Deletes what shuffles have written below a folder.
fn delete_objects(folder: &Path) -> Result<usize> {
    let mut deleted = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            deleted += delete_objects(&path)?;
        } else if path.extension().is_some_and(|extension| extension == "vonk") {
            fs::remove_file(path)?;
            deleted += 1;
        }
    }
    Ok(deleted)
}

/// Prints two columns of numbers, in order.
async fn print(frame: DataFrame) -> Result<()> {
    let mut rows = Vec::new();
    for batch in frame.collect().await? {
        let (keys, sums) = (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_primitive::<Int64Type>());
        rows.extend(keys.values().iter().zip(sums.values()).map(|(key, sum)| (*key, *sum)));
    }
    rows.sort_unstable();
    debug_assert!(rows.len() <= usize::try_from(KEYS)?);
    rows.iter().for_each(|(key, sum)| println!("{key}\t{sum}"));
    Ok(())
}
