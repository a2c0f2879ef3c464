//! How do a program's values become DataFrames, and DataFrames values and files?

use model::write::WriteMode;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_arrow::schema::{SchemaLike, TracingOptions};
use sql::Mode;
use sql::datafusion::arrow::array::{AsArray, RecordBatch};
use sql::datafusion::arrow::datatypes::{FieldRef, UInt64Type};
use sql::datafusion::common::{DataFusionError, Result};
use sql::datafusion::config::CsvOptions;
use sql::datafusion::dataframe::{DataFrame, DataFrameWriteOptions};

use crate::Context;
use crate::queries::other;

impl Context {
    /// A DataFrame of batches that are in memory. They travel to executors with the tasks that read them.
    ///
    /// # Errors
    /// The batches are of different schemas.
    pub fn create_dataframe(&self, batches: impl IntoIterator<Item = RecordBatch>) -> Result<DataFrame> {
        self.session().map_err(other)?.read_batches(batches)
    }

    /// A DataFrame of values, a column for each field. Types that serde shows as structs, tuples of named parts or maps of
    /// fixed keys become columns; what may be missing is an `Option`.
    ///
    /// # Errors
    /// The type has no fields, or its values do not agree about them.
    ///
    /// # Examples
    /// ```no_run
    /// # let ctx = vonk::Context::builder().build()?;
    /// #[derive(serde::Serialize, serde::Deserialize)]
    /// struct City { name: String, people: u64 }
    /// let cities = ctx.dataframe_of(&[City { name: "Ghent".into(), people: 270_000 }])?;
    /// ctx.session()?.register_table("cities", cities.into_view())?;
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn dataframe_of<T: Serialize + DeserializeOwned>(&self, values: &[T]) -> Result<DataFrame> {
        let fields = Vec::<FieldRef>::from_type::<T>(TracingOptions::default())
            .or_else(|_| Vec::<FieldRef>::from_samples(values, TracingOptions::default()))
            .map_err(other)?;
        let batch = serde_arrow::to_record_batch(&fields, &values).map_err(other)?;
        self.create_dataframe([batch])
    }

    /// Collects a DataFrame as values: a field for each column of the same name.
    ///
    /// # Errors
    /// The query fails, or a column is not what the field is.
    pub async fn collect_as<T: DeserializeOwned>(&self, frame: DataFrame) -> Result<Vec<T>> {
        let mut values = Vec::new();
        for batch in frame.collect().await? {
            values.extend(serde_arrow::from_record_batch::<Vec<T>>(&batch).map_err(other)?);
        }
        Ok(values)
    }

    /// Computes a DataFrame now, and gives one that reads what was computed: for rows that several queries use. They lie in
    /// the application's store, or in memory with local masters, until the last DataFrame over them is dropped.
    ///
    /// # Errors
    /// The query fails.
    pub async fn persist(&self, frame: DataFrame) -> Result<DataFrame> {
        sql::persist(self.session().map_err(other)?, frame).await
    }

    /// Says that a DataFrame is small enough to be sent to every executor by joins, however large it turns out to be. Others
    /// are when they were measured to be at most `sql.broadcast_max`. In SQL it is `SELECT /*+ BROADCAST(table) */ …`.
    ///
    /// # Examples
    /// ```no_run
    /// # let ctx = vonk::Context::builder().build()?;
    /// # ctx.block_on(async {
    /// let (sales, cities) = (ctx.table("sales").await?, ctx.broadcast_hint(ctx.table("cities").await?));
    /// let joined = sales.join(cities, vonk::datafusion::common::JoinType::Inner, &["city"], &["name"], None)?;
    /// # Ok::<(), vonk::datafusion::common::DataFusionError>(()) })??;
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    #[must_use]
    pub fn broadcast_hint(&self, frame: DataFrame) -> DataFrame {
        sql::broadcast(frame)
    }

    /// Says how a DataFrame is written as files.
    ///
    /// # Examples
    /// ```no_run
    /// # let ctx = vonk::Context::builder().build()?;
    /// # ctx.block_on(async {
    /// let frame = ctx.read_csv("raw/").await?;
    /// let rows = ctx.write(frame).mode(vonk::WriteMode::Overwrite).partition_by(["day"]).parquet("clean/").await?;
    /// # Ok::<(), vonk::datafusion::common::DataFusionError>(()) })??;
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn write(&self, frame: DataFrame) -> Write {
        Write { frame, mode: WriteMode::default(), partition_by: Vec::new() }
    }
}

/// How a DataFrame is written: made by [`Context::write`]. Files appear in a folder exactly once and all at once, with
/// `_SUCCESS` last, whatever fails.
#[must_use = "nothing is written before a format is named"]
pub struct Write {
    frame: DataFrame,
    mode: WriteMode,
    partition_by: Vec<String>,
}

impl Write {
    /// What happens to what is there already. By default the write fails.
    pub fn mode(self, mode: WriteMode) -> Self {
        Self { mode, ..self }
    }

    /// Columns whose values become folders, `day=2026-11-21/`, and are left out of the files.
    pub fn partition_by<I: IntoIterator<Item: Into<String>>>(self, columns: I) -> Self {
        Self { partition_by: columns.into_iter().map(Into::into).collect(), ..self }
    }

    fn prepared(self) -> (DataFrame, DataFrameWriteOptions) {
        let (mut state, plan) = self.frame.into_parts();
        state.config_mut().set_extension(std::sync::Arc::new(Mode(self.mode)));
        (DataFrame::new(state, plan), DataFrameWriteOptions::new().with_partition_by(self.partition_by))
    }

    /// Writes Parquet files into a folder. Gives how many rows were written.
    ///
    /// # Errors
    /// The query fails, the destination exists, or it cannot be written. Nothing of it is to be seen then.
    pub async fn parquet(self, destination: &str) -> Result<u64> {
        let (frame, options) = self.prepared();
        count(frame.write_parquet(&folder(destination), options, None).await?)
    }

    /// Writes CSV files with a header line into a folder. Gives how many rows were written.
    ///
    /// # Errors
    /// As [`Write::parquet`].
    pub async fn csv(self, destination: &str) -> Result<u64> {
        let (frame, options) = self.prepared();
        count(frame.write_csv(&folder(destination), options, None).await?)
    }

    /// Writes files with a JSON object on each line into a folder. Gives how many rows were written.
    ///
    /// # Errors
    /// As [`Write::parquet`].
    pub async fn json(self, destination: &str) -> Result<u64> {
        let (frame, options) = self.prepared();
        count(frame.write_json(&folder(destination), options, None).await?)
    }

    /// Writes the only column, which must be text, as lines into files of a folder. Gives how many rows were written.
    ///
    /// # Errors
    /// As [`Write::parquet`], and if there are other columns.
    pub async fn text(self, destination: &str) -> Result<u64> {
        let columns = self.frame.schema().fields().len() - self.partition_by.len();
        if columns != 1 {
            return Err(DataFusionError::Plan(format!(
                "write lines of text: one column is wanted, there are {columns}"
            )));
        }
        let (frame, options) = self.prepared();
        let lines = CsvOptions::default()
            .with_has_header(false)
            .with_quote_style(sql::datafusion::common::parsers::CsvQuoteStyle::Never);
        count(frame.write_csv(&folder(destination), options, Some(lines)).await?)
    }
}

/// A write's destination is always a folder, whatever its name looks like.
fn folder(destination: &str) -> String {
    if destination.ends_with('/') { destination.to_owned() } else { format!("{destination}/") }
}

fn count(batches: Vec<RecordBatch>) -> Result<u64> {
    let counts = batches.iter().filter_map(|batch| batch.column(0).as_primitive_opt::<UInt64Type>());
    Ok(counts.flat_map(|counts| counts.values().iter().copied()).sum())
}
