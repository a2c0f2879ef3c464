//! How do files become DataFrames?

use sql::datafusion::arrow::datatypes::Schema;
use sql::datafusion::common::Result;
use sql::datafusion::dataframe::DataFrame;

use crate::Context;
use crate::queries::other;

impl Context {
    /// Parquet files. Each path is one of this machine or a URL of any store: a file; a folder, and then all files below it;
    /// or a pattern, which selects among what lies below the folder before it (`*`, `?`, `[a-z]`, `{a,b}`, `**`). Folders
    /// `name=value` below that give columns.
    ///
    /// # Errors
    /// Nothing is there, or it is no Parquet. Columns are those of the first file, unless [`Read::option`] `merge_schema` is
    /// `true`; then also where files do not agree about them.
    ///
    /// # Examples
    /// ```no_run
    /// # let ctx = vonk::Context::builder().build()?;
    /// # ctx.block_on(async {
    /// let one = ctx.read_parquet("s3://bucket/trips/").await?;
    /// let some = ctx.read_parquet(["s3://bucket/trips/year=2024/*/", "s3://bucket/trips/year=202{5,6}/"]).await?;
    /// # Ok::<(), vonk::datafusion::common::DataFusionError>(()) })??;
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub async fn read_parquet(&self, paths: impl Paths) -> Result<DataFrame> {
        self.read().parquet(paths).await
    }

    /// CSV files with a header line, at [such paths](Self::read_parquet). Files whose names end in `.gz`, `.bz2`, `.xz` or
    /// `.zst` are decompressed.
    ///
    /// # Errors
    /// Nothing is there, its columns cannot be told, or a row is broken: [`Read::broken_rows`] says what else may become of
    /// such rows.
    pub async fn read_csv(&self, paths: impl Paths) -> Result<DataFrame> {
        self.read().csv(paths).await
    }

    /// Files with a JSON object on each line, at [such paths](Self::read_parquet).
    ///
    /// # Errors
    /// Nothing is there, or it is no JSON.
    pub async fn read_json(&self, paths: impl Paths) -> Result<DataFrame> {
        self.read().json(paths).await
    }

    /// Lines of text files, whatever their names, at [such paths](Self::read_parquet): a row for each, with one column `value`.
    /// Files whose names end in `.gz`, `.bz2`, `.xz` or `.zst` are decompressed. Bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// Nothing is there.
    pub async fn read_text(&self, paths: impl Paths) -> Result<DataFrame> {
        self.read().text(paths).await
    }

    /// Arrow IPC files, at [such paths](Self::read_parquet).
    ///
    /// # Errors
    /// Nothing is there, or it is no Arrow file.
    pub async fn read_arrow(&self, paths: impl Paths) -> Result<DataFrame> {
        self.read().arrow(paths).await
    }

    /// Avro files, at [such paths](Self::read_parquet).
    ///
    /// # Errors
    /// Nothing is there, or it is no Avro.
    pub async fn read_avro(&self, paths: impl Paths) -> Result<DataFrame> {
        self.read().avro(paths).await
    }

    /// Says how files are read.
    ///
    /// # Examples
    /// ```no_run
    /// use vonk::BrokenRows;
    ///
    /// # let ctx = vonk::Context::builder().build()?;
    /// # ctx.block_on(async {
    /// let rows = ctx.read().option("delimiter", ";").broken_rows(BrokenRows::Drop).csv("raw/*.csv").await?;
    /// # Ok::<(), vonk::datafusion::common::DataFusionError>(()) })??;
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn read(&self) -> Read<'_> {
        Read { ctx: self, files: sql::Files::default() }
    }
}

/// Paths of files: one, or several.
pub trait Paths {
    /// Each of them.
    fn into_paths(self) -> Vec<String>;
}

impl Paths for &str {
    fn into_paths(self) -> Vec<String> {
        vec![self.to_owned()]
    }
}

impl Paths for &String {
    fn into_paths(self) -> Vec<String> {
        vec![self.clone()]
    }
}

impl Paths for String {
    fn into_paths(self) -> Vec<String> {
        vec![self]
    }
}

impl<P: Into<String>> Paths for Vec<P> {
    fn into_paths(self) -> Vec<String> {
        self.into_iter().map(Into::into).collect()
    }
}

impl<P: Into<String>, const N: usize> Paths for [P; N] {
    fn into_paths(self) -> Vec<String> {
        self.into_iter().map(Into::into).collect()
    }
}

impl<P: Clone + Into<String>> Paths for &[P] {
    fn into_paths(self) -> Vec<String> {
        self.iter().cloned().map(Into::into).collect()
    }
}

/// How files are read: made by [`Context::read`].
#[must_use = "nothing is read before a format is named"]
pub struct Read<'a> {
    ctx: &'a Context,
    files: sql::Files,
}

impl Read<'_> {
    /// Sets an option of the format, by the name that it has in `CREATE EXTERNAL TABLE … OPTIONS (…)`: `has_header`,
    /// `delimiter`, `quote`, `escape`, `comment`, `newlines_in_values`, `schema_infer_max_rec`, `compression`, `merge_schema`.
    pub fn option(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.files.options.insert(name.into(), value.into());
        self
    }

    /// The columns, which are told from the files otherwise.
    pub fn schema(mut self, schema: Schema) -> Self {
        self.files.schema = Some(schema.into());
        self
    }

    /// What becomes of rows of CSV files that are broken. By default the query fails, and says where the first stands.
    pub fn broken_rows(self, mode: sql::BrokenRows) -> Self {
        self.option("mode", mode.to_string())
    }

    /// Adds a column with the text of each broken row of CSV files; null for the others. For [`BrokenRows::Permissive`].
    ///
    /// [`BrokenRows::Permissive`]: sql::BrokenRows::Permissive
    pub fn corrupt_record(self, column: impl Into<String>) -> Self {
        self.option("corrupt_record", column)
    }

    /// Reads Parquet files.
    ///
    /// # Errors
    /// As [`Context::read_parquet`].
    pub async fn parquet(self, paths: impl Paths) -> Result<DataFrame> {
        self.files("parquet", paths.into_paths()).await
    }

    /// Reads CSV files.
    ///
    /// # Errors
    /// As [`Context::read_csv`].
    pub async fn csv(self, paths: impl Paths) -> Result<DataFrame> {
        self.files("csv", paths.into_paths()).await
    }

    /// Reads files with a JSON object on each line.
    ///
    /// # Errors
    /// As [`Context::read_json`].
    pub async fn json(self, paths: impl Paths) -> Result<DataFrame> {
        self.files("json", paths.into_paths()).await
    }

    /// Reads lines of text files.
    ///
    /// # Errors
    /// As [`Context::read_text`].
    pub async fn text(self, paths: impl Paths) -> Result<DataFrame> {
        self.files("text", paths.into_paths()).await
    }

    /// Reads Arrow IPC files.
    ///
    /// # Errors
    /// As [`Context::read_arrow`].
    pub async fn arrow(self, paths: impl Paths) -> Result<DataFrame> {
        self.files("arrow", paths.into_paths()).await
    }

    /// Reads Avro files.
    ///
    /// # Errors
    /// As [`Context::read_avro`].
    pub async fn avro(self, paths: impl Paths) -> Result<DataFrame> {
        self.files("avro", paths.into_paths()).await
    }

    async fn files(mut self, format: &str, places: Vec<String>) -> Result<DataFrame> {
        self.files.format = format.to_owned();
        self.files.places = places;
        sql::read_files(self.ctx.session().map_err(other)?, self.files).await
    }
}
