//! How is a table of lines of text read?
//!
//! Each line of each file is a row of its one column. A file is decompressed if its name says so; others are read byte range
//! by byte range.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StringBuilder};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::catalog::Session;
use datafusion::common::config::CsvOptions;
use datafusion::common::parsers::CsvQuoteStyle;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{GetExt, Result, Statistics, plan_err};
use datafusion::datasource::file_format::csv::CsvFormat;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::file_format::{FileFormat, FileFormatFactory};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{
    CsvSource, FileOpenFuture, FileOpener, FileScanConfig, FileSinkConfig, FileSource,
};
use datafusion::datasource::projection::{ProjectionOpener, SplitProjection};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr::{LexOrdering, LexRequirement, PhysicalExpr};
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::proto::ExecutionPlanEncodeCtx;
use datafusion::physical_plan::{ExecutionPlan, apply_expression_roots};
use datafusion_proto::protobuf;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use memchr::memchr2;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};

use crate::csv::bytes_of;
use crate::error::Error;
use crate::named;

/// The column, as Spark calls it.
const VALUE: &str = "value";

/// So many rows are given at a time, unless the session says otherwise.
const BATCH_ROWS: usize = 8_192;

/// Lines that have so many bytes together are given, however few they are.
const BATCH_BYTES: usize = 8 << 20;

/// A longer line is an error: a batch with it might not be addressed by 32 bits.
const LINE_BYTES: usize = 1 << 30;

/// The ending that says how a file is compressed; empty if none does.
pub(crate) fn compression_of(file: &Path) -> &'static str {
    let name = file.as_ref();
    [".gz", ".bz2", ".xz", ".zst"].into_iter().find(|ending| name.ends_with(ending)).unwrap_or("")
}

fn compression(file: &ObjectMeta) -> Result<FileCompressionType> {
    compression_of(&file.location).trim_start_matches('.').parse()
}

/// Makes [`TextFiles`], which have no options.
#[derive(Debug, Default)]
pub(crate) struct TextFilesFactory;

impl GetExt for TextFilesFactory {
    fn get_ext(&self) -> String {
        "text".to_owned()
    }
}

impl FileFormatFactory for TextFilesFactory {
    fn create(&self, _: &dyn Session, options: &HashMap<String, String>) -> Result<Arc<dyn FileFormat>> {
        let option = options.keys().filter_map(|key| key.strip_prefix("format.")).min();
        match option {
            Some(option) => plan_err!("read or write text with option `{option}`: text has no options"),
            None => Ok(Arc::new(TextFiles)),
        }
    }

    fn default(&self) -> Arc<dyn FileFormat> {
        Arc::new(TextFiles)
    }
}

/// Files of lines.
#[derive(Debug)]
pub(crate) struct TextFiles;

#[async_trait]
impl FileFormat for TextFiles {
    fn get_ext(&self) -> String {
        "text".to_owned()
    }

    fn get_ext_with_compression(&self, compression: &FileCompressionType) -> Result<String> {
        Ok(format!("{}{}", self.get_ext(), compression.get_ext()))
    }

    fn compression_type(&self) -> Option<FileCompressionType> {
        None
    }

    async fn infer_schema(&self, _: &dyn Session, _: &Arc<dyn ObjectStore>, _: &[ObjectMeta]) -> Result<SchemaRef> {
        Ok(Arc::new(Schema::new(vec![Field::new(VALUE, DataType::Utf8, true)])))
    }

    async fn infer_stats(
        &self,
        _: &dyn Session,
        _: &Arc<dyn ObjectStore>,
        schema: SchemaRef,
        _: &ObjectMeta,
    ) -> Result<Statistics> {
        Ok(Statistics::new_unknown(&schema))
    }

    async fn create_physical_plan(&self, _: &dyn Session, config: FileScanConfig) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(DataSourceExec::from_data_source(config))
    }

    /// A line is a value that nothing is put around: what CSV is without a header, quotes and a second column.
    async fn create_writer_physical_plan(
        &self,
        input: Arc<dyn ExecutionPlan>,
        state: &dyn Session,
        config: FileSinkConfig,
        order: Option<LexRequirement>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let is_folder = |name: &String| config.table_partition_cols.iter().any(|(folder, _)| folder == name);
        let schema = input.schema();
        let columns: Fields = schema.fields().iter().filter(|field| !is_folder(field.name())).cloned().collect();
        one_of_text(&columns, "write")?;
        let lines = CsvOptions::default().with_has_header(false).with_quote_style(CsvQuoteStyle::Never);
        let lines = CsvFormat::default().with_options(lines);
        lines.create_writer_physical_plan(input, state, config, order).await
    }

    fn file_source(&self, table: TableSchema) -> Arc<dyn FileSource> {
        Arc::new(TextSource::new(table))
    }
}

/// That files of text have one column, of text, if that is what a table is of.
pub(crate) fn check(format: &Arc<dyn FileFormat>, columns: &Schema) -> Result<()> {
    if (format.as_ref() as &dyn Any).is::<TextFiles>() { one_of_text(columns.fields(), "read") } else { Ok(()) }
}

fn one_of_text(columns: &Fields, what: &str) -> Result<()> {
    match &columns[..] {
        [line] if matches!(line.data_type(), DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8) => Ok(()),
        [line] => {
            plan_err!("{what} lines of text: column `{}` is {}, and must be text", line.name(), line.data_type())
        }
        columns => plan_err!("{what} lines of text: one column is wanted, there are {}", columns.len()),
    }
}

/// What a scan does of files of lines.
#[derive(Debug, Clone)]
pub(crate) struct TextSource {
    table: TableSchema,
    projection: SplitProjection,
    batch_rows: usize,
    metrics: ExecutionPlanMetricsSet,
}

impl TextSource {
    fn new(table: TableSchema) -> Self {
        let projection = SplitProjection::unprojected(&table);
        Self { table, projection, batch_rows: BATCH_ROWS, metrics: ExecutionPlanMetricsSet::new() }
    }

    /// The scan that travelled as one of CSV files.
    pub(crate) fn over(csv: &CsvSource) -> Self {
        let mut source = Self::new(csv.table_schema().clone());
        if let Some(projection) = csv.projection() {
            source.projection = SplitProjection::new(source.table.file_schema(), projection);
        }
        source
    }
}

impl FileSource for TextSource {
    fn create_file_opener(
        &self,
        store: Arc<dyn ObjectStore>,
        config: &FileScanConfig,
        _: usize,
    ) -> Result<Arc<dyn FileOpener>> {
        let columns = self.table.file_schema().fields();
        let wanted: Fields = self.projection.file_indices.iter().map(|&column| Arc::clone(&columns[column])).collect();
        let opener = Opener {
            store,
            url: config.object_store_url.to_string(),
            schema: Arc::new(Schema::new(wanted)),
            batch_rows: self.batch_rows,
        };
        ProjectionOpener::try_new(self.projection.clone(), Arc::new(opener), self.table.file_schema())
    }

    fn table_schema(&self) -> &TableSchema {
        &self.table
    }

    fn with_batch_size(&self, rows: usize) -> Arc<dyn FileSource> {
        Arc::new(Self { batch_rows: rows, ..self.clone() })
    }

    fn try_pushdown_projection(&self, projection: &ProjectionExprs) -> Result<Option<Arc<dyn FileSource>>> {
        let merged = self.projection.source.try_merge(projection)?;
        let projection = SplitProjection::new(self.table.file_schema(), &merged);
        Ok(Some(Arc::new(Self { projection, ..self.clone() })))
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        Some(&self.projection.source)
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        &self.metrics
    }

    fn file_type(&self) -> &str {
        "text"
    }

    /// Into byte ranges, where every file has them.
    fn repartitioned(
        &self,
        partitions: usize,
        min_bytes: usize,
        order: Option<LexOrdering>,
        config: &FileScanConfig,
    ) -> Result<Option<FileScanConfig>> {
        let mut files = config.file_groups.iter().flat_map(|group| group.iter());
        if files.any(|file| !compression_of(&file.object_meta.location).is_empty()) {
            return Ok(None);
        }
        // As CSV files, whose lines end at the same bytes.
        CsvSource::new(self.table.clone()).repartitioned(partitions, min_bytes, order, config)
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        apply_expression_roots(self.projection.source.iter(), f)
    }

    fn try_to_proto(
        &self,
        base: &FileScanConfig,
        context: &ExecutionPlanEncodeCtx<'_>,
    ) -> Result<Option<protobuf::PhysicalPlanNode>> {
        // A message of its own says that it is none of CSV files.
        CsvSource::new(self.table.clone()).with_csv_options(CsvOptions::default()).try_to_proto(base, context)
    }
}

/// Opens files for a scan.
struct Opener {
    store: Arc<dyn ObjectStore>,
    url: String,
    /// The column, or none.
    schema: SchemaRef,
    batch_rows: usize,
}

impl FileOpener for Opener {
    fn open(&self, file: PartitionedFile) -> Result<FileOpenFuture> {
        let compression = compression(&file.object_meta)?;
        let store = Arc::clone(&self.store);
        let lines = Lines {
            file: named::name(&self.url, &file.object_meta.location),
            schema: Arc::clone(&self.schema),
            batch_rows: self.batch_rows,
            begun: Vec::new(),
            after_return: false,
            rows: 0,
            values: StringBuilder::new(),
        };
        Ok(Box::pin(async move {
            let bytes = bytes_of(&store, &file, compression, None).await?;
            Ok(futures::stream::try_unfold((lines, bytes, Bytes::new()), next).boxed())
        }))
    }
}

/// The next batch of a file whose bytes come one chunk after the other.
async fn next(
    (mut lines, mut bytes, mut chunk): (Lines, BoxStream<'static, Result<Bytes>>, Bytes),
) -> Result<Option<(RecordBatch, (Lines, BoxStream<'static, Result<Bytes>>, Bytes))>> {
    loop {
        if chunk.is_empty() {
            match bytes.try_next().await? {
                Some(more) => chunk = more,
                None => {
                    lines.end();
                    let batch = lines.take()?;
                    return Ok(batch.map(|batch| (batch, (lines, bytes, chunk))));
                }
            }
        }
        lines.read(&mut chunk)?;
        if lines.full()
            && let Some(batch) = lines.take()?
        {
            return Ok(Some((batch, (lines, bytes, chunk))));
        }
    }
}

/// Cuts bytes at `\n`, `\r\n` and `\r`.
struct Lines {
    file: String,
    schema: SchemaRef,
    batch_rows: usize,
    /// The beginning of a line whose end has not been seen.
    begun: Vec<u8>,
    /// The last line ended with `\r`, and a `\n` would belong to it.
    after_return: bool,
    rows: usize,
    values: StringBuilder,
}

impl Lines {
    fn full(&self) -> bool {
        self.rows >= self.batch_rows || self.values.values_slice().len() >= BATCH_BYTES
    }

    /// Takes lines from the front of a chunk, until there are enough.
    fn read(&mut self, chunk: &mut Bytes) -> Result<()> {
        while !chunk.is_empty() && !self.full() {
            if std::mem::take(&mut self.after_return) && chunk[0] == b'\n' {
                *chunk = chunk.slice(1..);
                continue;
            }
            let Some(end) = memchr2(b'\n', b'\r', chunk) else {
                self.begun.extend_from_slice(chunk);
                chunk.clear();
                break;
            };
            self.after_return = chunk[end] == b'\r';
            if self.begun.is_empty() {
                self.push(&chunk[..end]);
            } else {
                self.begun.extend_from_slice(&chunk[..end]);
                self.end();
            }
            *chunk = chunk.slice(end + 1..);
        }
        if self.begun.len() > LINE_BYTES {
            let why = format!("a line has more than {LINE_BYTES} bytes");
            return Err(Error::ReadFile { file: self.file.clone(), why }.into());
        }
        Ok(())
    }

    /// The line that has begun ends here.
    fn end(&mut self) {
        if !self.begun.is_empty() {
            let line = std::mem::take(&mut self.begun);
            self.push(&line);
        }
    }

    fn push(&mut self, line: &[u8]) {
        self.rows += 1;
        if !self.schema.fields().is_empty() {
            self.values.append_value(String::from_utf8_lossy(line));
        }
    }

    fn take(&mut self) -> Result<Option<RecordBatch>> {
        let rows = std::mem::take(&mut self.rows);
        let lines = self.values.finish();
        let columns = match self.schema.fields().first() {
            Some(line) => vec![datafusion::arrow::compute::cast(&(Arc::new(lines) as ArrayRef), line.data_type())?],
            None => Vec::new(),
        };
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        Ok((rows > 0).then_some(batch))
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").field("schema", &self.schema).finish_non_exhaustive()
    }
}
