//! How is a table of CSV files read, and what may its files have wrong?
//!
//! As DataFusion reads it, byte range by byte range, with DataFusion's own reader as long as every row is sound. Where that
//! stops, [`Reader`] goes on from the same row. Options of ours are `mode` ([`BrokenRows`]) and `corrupt_record`, a column
//! with the text of each broken row.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use bytes::{Buf, Bytes};
use datafusion::arrow::csv::reader::Format;
use datafusion::catalog::Session;
use datafusion::common::config::CsvOptions;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, GetExt, Result, Statistics, internal_err, plan_err};
use datafusion::datasource::file_format::csv::{CsvFormat, CsvFormatFactory};
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::file_format::{FileFormat, FileFormatFactory};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{
    CsvSource, FileOpenFuture, FileOpener, FileScanConfig, FileScanConfigBuilder, FileSinkConfig, FileSource,
};
use datafusion::datasource::projection::{ProjectionOpener, SplitProjection};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr::{LexRequirement, PhysicalExpr};
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder, MetricCategory};
use datafusion::physical_plan::proto::ExecutionPlanEncodeCtx;
use datafusion::physical_plan::{DisplayFormatType, ExecutionPlan, apply_expression_roots};
use datafusion_datasource::boundary_stream::AlignedBoundaryStream;
use datafusion_proto::protobuf;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt};

use crate::broken::{Broken, BrokenRows, Layout, Reader, Tally};
use crate::error::{self, Error};
use crate::named;

/// The counters of rows that are broken.
pub(crate) const DROPPED: &str = "broken_rows_dropped";
pub(crate) const MENDED: &str = "broken_rows_mended";

/// Spark's name of the column with the text of broken rows.
const CORRUPT_RECORD: &str = "_corrupt_record";

/// How many rows a type is told from, as DataFusion does, and in how many bytes at most they are looked for.
const INFER_ROWS: usize = 1_000;
const INFER_BYTES: usize = 4 << 20;

/// So far into a file its lines are counted to say where a broken row stands; beyond that a byte is said.
const COUNT_LINES_BELOW: u64 = 1 << 30;

/// What a table says of broken rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Care {
    pub(crate) mode: BrokenRows,
    /// The column with their text.
    pub(crate) corrupt_record: Option<String>,
}

impl Care {
    /// Takes the options of ours, and Spark's names of others, out of a table's options.
    fn take(options: &mut HashMap<String, String>) -> Result<Self> {
        for (spark, name) in [("sep", "delimiter"), ("header", "has_header"), ("multiline", "newlines_in_values")] {
            if let Some(value) = options.remove(&format!("format.{spark}")) {
                options.insert(format!("format.{name}"), value);
            }
        }
        let mut care = Self::default();
        if let Some(mode) = options.remove("format.mode") {
            care.mode = match mode.to_lowercase().as_str() {
                "fail" | "failfast" => BrokenRows::Fail,
                "drop" | "dropmalformed" => BrokenRows::Drop,
                "permissive" => BrokenRows::Permissive,
                _ => {
                    return plan_err!(
                        "read CSV in mode `{mode}`: there is no such mode; want fail, drop or permissive"
                    );
                }
            };
        }
        let names = ["format.corrupt_record", "format.columnnameofcorruptrecord"];
        care.corrupt_record = names.into_iter().filter_map(|name| options.remove(name)).next_back();
        if care.corrupt_record.is_some() && care.mode != BrokenRows::Permissive {
            return plan_err!(
                "read CSV with a column of corrupt records: mode permissive alone has one, not {}",
                care.mode
            );
        }
        Ok(care)
    }

    /// The column of broken rows' text in a schema of files.
    fn column(&self, schema: &Schema) -> Result<Option<usize>> {
        let name = match (&self.corrupt_record, self.mode) {
            (Some(name), _) => name,
            (None, BrokenRows::Permissive) => CORRUPT_RECORD,
            (None, _) => return Ok(None),
        };
        match schema.column_with_name(name) {
            Some((column, field)) if matches!(field.data_type(), DataType::Utf8 | DataType::Utf8View) => {
                Ok(Some(column))
            }
            Some((_, field)) if self.corrupt_record.is_some() => {
                plan_err!(
                    "read CSV with column `{name}` of corrupt records: it must be text, not {}",
                    field.data_type()
                )
            }
            _ => Ok(None),
        }
    }
}

/// Makes [`CsvFiles`] from the options of a table.
#[derive(Debug, Default)]
pub(crate) struct CsvFilesFactory(CsvFormatFactory);

impl GetExt for CsvFilesFactory {
    fn get_ext(&self) -> String {
        self.0.get_ext()
    }
}

impl FileFormatFactory for CsvFilesFactory {
    fn create(&self, state: &dyn Session, options: &HashMap<String, String>) -> Result<Arc<dyn FileFormat>> {
        let mut options = options.clone();
        let care = Care::take(&mut options)?;
        let format = self.0.create(state, &options)?;
        let Some(csv) = (format.as_ref() as &dyn Any).downcast_ref::<CsvFormat>() else {
            return internal_err!("DataFusion's format of CSV is another");
        };
        Ok(Arc::new(CsvFiles { csv: CsvFormat::default().with_options(csv.options().clone()), care }))
    }

    fn default(&self) -> Arc<dyn FileFormat> {
        Arc::new(CsvFiles { csv: CsvFormat::default(), care: Care::default() })
    }
}

/// CSV files, as DataFusion knows them, with care for broken rows.
#[derive(Debug)]
pub(crate) struct CsvFiles {
    csv: CsvFormat,
    care: Care,
}

impl CsvFiles {
    fn has_header(&self, state: &dyn Session) -> bool {
        self.csv.options().has_header.unwrap_or_else(|| state.config_options().catalog.has_header)
    }

    /// The columns of files whose rows may be broken: those of each file's first row.
    async fn infer_with_care(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        objects: &[ObjectMeta],
    ) -> Result<Schema> {
        let options = self.csv.options();
        let mut format = Format::default()
            .with_header(self.has_header(state))
            .with_delimiter(options.delimiter)
            .with_quote(options.quote)
            .with_truncated_rows(true);
        if let Some(escape) = options.escape {
            format = format.with_escape(escape);
        }
        if let Some(comment) = options.comment {
            format = format.with_comment(comment);
        }
        let mut left = options.schema_infer_max_rec.unwrap_or(INFER_ROWS);
        let mut schemas = Vec::new();
        for object in objects {
            let beginning = self.beginning(store, object).await?;
            let (schema, rows) = format.infer_schema(beginning.reader(), Some(left))?;
            schemas.push(schema);
            left -= rows.min(left);
            if left == 0 {
                break;
            }
        }
        Ok(Schema::try_merge(schemas)?)
    }

    /// The lines at the beginning of a file, as UTF-8.
    async fn beginning(&self, store: &Arc<dyn ObjectStore>, object: &ObjectMeta) -> Result<Bytes> {
        let compression = FileCompressionType::from(self.csv.options().compression);
        let bytes = store.get(&object.location).await?.into_stream().map_err(DataFusionError::from);
        let mut bytes = compression.convert_stream(bytes.boxed())?;
        let mut beginning = Vec::new();
        let mut whole = true;
        while let Some(chunk) = bytes.try_next().await? {
            beginning.extend_from_slice(&chunk);
            if beginning.len() > INFER_BYTES {
                whole = false;
                break;
            }
        }
        let end = if whole { None } else { beginning.iter().rposition(|byte| *byte == b'\n') };
        beginning.truncate(end.unwrap_or(beginning.len()));
        Ok(String::from_utf8_lossy(&beginning).into_owned().into())
    }

    /// What is wrong with the first of some files whose columns could not be told.
    async fn first_wrong(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        objects: &[ObjectMeta],
    ) -> Option<Error> {
        let options = self.csv.options();
        let (header, compression) = (self.has_header(state), FileCompressionType::from(options.compression));
        for object in objects {
            let schema = self.infer_with_care(state, store, std::slice::from_ref(object)).await.ok()?;
            let fields = schema.fields().iter().map(|field| Field::new(field.name(), DataType::Utf8, true));
            let columns = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
            let layout = Layout {
                options,
                header,
                columns,
                looked_at: Vec::new(),
                mode: BrokenRows::Fail,
                keep_raw: false,
                batch_rows: INFER_ROWS,
            };
            let file = PartitionedFile::from(object.clone());
            let bytes = bytes_of(store, &file, compression, options.terminator).await.ok()?;
            let mut slow = Slow { reader: Reader::new(layout, 0), bytes, rest: Bytes::new(), ended: false };
            loop {
                match slow.next().await.ok()? {
                    None => break,
                    Some(Ok(_)) => {}
                    Some(Err(Broken { line, what })) => {
                        let line = line + 1;
                        return Some(Error::BrokenRow {
                            file: object.location.to_string(),
                            place: format!("line {line}"),
                            what,
                        });
                    }
                }
            }
        }
        None
    }
}

#[async_trait]
impl FileFormat for CsvFiles {
    fn get_ext(&self) -> String {
        self.csv.get_ext()
    }

    fn get_ext_with_compression(&self, compression: &FileCompressionType) -> Result<String> {
        self.csv.get_ext_with_compression(compression)
    }

    fn compression_type(&self) -> Option<FileCompressionType> {
        self.csv.compression_type()
    }

    async fn infer_schema(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        objects: &[ObjectMeta],
    ) -> Result<SchemaRef> {
        if self.care.mode == BrokenRows::Fail {
            return match self.csv.infer_schema(state, store, objects).await {
                Err(error) if error::is_of_data(&error) => match self.first_wrong(state, store, objects).await {
                    Some(wrong) => Err(wrong.into()),
                    None => Err(error),
                },
                other => other,
            };
        }
        let mut schema = self.infer_with_care(state, store, objects).await?;
        if let Some(name) = &self.care.corrupt_record
            && schema.column_with_name(name).is_none()
        {
            let corrupt = Field::new(name, DataType::Utf8, true);
            schema = Schema::try_merge([schema, Schema::new(vec![corrupt])])?;
        }
        Ok(Arc::new(schema))
    }

    async fn infer_stats(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        schema: SchemaRef,
        object: &ObjectMeta,
    ) -> Result<Statistics> {
        self.csv.infer_stats(state, store, schema, object).await
    }

    async fn create_physical_plan(
        &self,
        state: &dyn Session,
        config: FileScanConfig,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let catalog = &state.config_options().catalog;
        let mut options = self.csv.options().clone();
        options.has_header = options.has_header.or(Some(catalog.has_header));
        options.newlines_in_values = options.newlines_in_values.or(Some(catalog.newlines_in_values));
        let Some(source) = config.file_source().downcast_ref::<CsvFilesSource>() else {
            return internal_err!("a scan of CSV files has another source");
        };
        let source = Arc::new(CsvFilesSource { options, ..source.clone() });
        let compression = FileCompressionType::from(self.csv.options().compression);
        let config = FileScanConfigBuilder::from(config).with_file_compression_type(compression).with_source(source);
        Ok(DataSourceExec::from_data_source(config.build()))
    }

    async fn create_writer_physical_plan(
        &self,
        input: Arc<dyn ExecutionPlan>,
        state: &dyn Session,
        config: FileSinkConfig,
        order: Option<LexRequirement>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.csv.create_writer_physical_plan(input, state, config, order).await
    }

    fn file_source(&self, table: TableSchema) -> Arc<dyn FileSource> {
        let options = self.csv.options().clone();
        // A column that cannot be one was refused when the table was made.
        let corrupt = self.care.column(table.file_schema()).ok().flatten();
        Arc::new(CsvFilesSource::new(table, options, self.care.mode, corrupt))
    }
}

/// The columns of files in a format that may put nulls anywhere; a column that cannot be that of broken rows is an error.
pub(crate) fn relaxed(format: &Arc<dyn FileFormat>, columns: SchemaRef) -> Result<SchemaRef> {
    let Some(csv) = (format.as_ref() as &dyn Any).downcast_ref::<CsvFiles>() else { return Ok(columns) };
    csv.care.column(&columns)?;
    if csv.care.mode != BrokenRows::Permissive {
        return Ok(columns);
    }
    let fields = columns.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
    Ok(Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), columns.metadata().clone())))
}

/// What a scan does of CSV files.
#[derive(Debug, Clone)]
pub(crate) struct CsvFilesSource {
    table: TableSchema,
    options: CsvOptions,
    mode: BrokenRows,
    /// The column of the files' schema that is the text of broken rows.
    corrupt: Option<usize>,
    projection: SplitProjection,
    batch_rows: usize,
    metrics: ExecutionPlanMetricsSet,
}

/// How executors hear of what DataFusion's encoding of a scan leaves out.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct CsvMessage {
    #[prost(uint32, tag = "1")]
    mode: u32,
    #[prost(uint32, optional, tag = "2")]
    corrupt: Option<u32>,
    #[prost(uint32, optional, tag = "3")]
    terminator: Option<u32>,
}

impl CsvFilesSource {
    fn new(table: TableSchema, options: CsvOptions, mode: BrokenRows, corrupt: Option<usize>) -> Self {
        let projection = SplitProjection::unprojected(&table);
        let metrics = ExecutionPlanMetricsSet::new();
        Self { table, options, mode, corrupt, projection, batch_rows: INFER_ROWS, metrics }
    }

    /// The same scan as one of DataFusion's, which fails at the first broken row and says less of it.
    pub(crate) fn over(csv: &CsvSource) -> Result<Self> {
        let options = CsvOptions {
            has_header: Some(csv.has_header()),
            delimiter: csv.delimiter(),
            quote: csv.quote(),
            terminator: csv.terminator(),
            escape: csv.escape(),
            comment: csv.comment(),
            newlines_in_values: Some(csv.newlines_in_values()),
            truncated_rows: Some(csv.truncate_rows()),
            ..CsvOptions::default()
        };
        let mut source = Self::new(csv.table_schema().clone(), options, BrokenRows::Fail, None);
        source.metrics = csv.metrics().clone();
        if let Some(projection) = csv.projection() {
            source.projection = SplitProjection::new(source.table.file_schema(), projection);
        }
        Ok(source)
    }

    pub(crate) fn message(&self) -> CsvMessage {
        let mode = match self.mode {
            BrokenRows::Fail => 0,
            BrokenRows::Drop => 1,
            BrokenRows::Permissive => 2,
        };
        let corrupt = self.corrupt.and_then(|column| u32::try_from(column).ok());
        CsvMessage { mode, corrupt, terminator: self.options.terminator.map(u32::from) }
    }

    /// The scan that a message was made of, of which DataFusion has decoded the rest.
    pub(crate) fn decode(csv: &CsvSource, message: CsvMessage) -> Result<Self> {
        let mode = match message.mode {
            0 => BrokenRows::Fail,
            1 => BrokenRows::Drop,
            2 => BrokenRows::Permissive,
            other => return internal_err!("broken rows have no mode {other}"),
        };
        let mut source = Self::over(csv)?;
        source.mode = mode;
        source.corrupt = message.corrupt.map(|column| column as usize);
        source.options.terminator = message.terminator.and_then(|byte| u8::try_from(byte).ok());
        Ok(source)
    }

    /// The columns that the files have.
    fn columns(&self) -> SchemaRef {
        let schema = self.table.file_schema();
        let fields = schema.fields().iter().enumerate().filter(|(column, _)| Some(*column) != self.corrupt);
        // Where nulls stand for what is missing, no column can refuse them.
        let nullable = self.mode == BrokenRows::Permissive;
        let fields = fields.map(|(_, field)| field.as_ref().clone().with_nullable(nullable || field.is_nullable()));
        Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), schema.metadata().clone()))
    }

    fn scan(&self) -> Scan {
        let columns = self.columns();
        let wanted = &self.projection.file_indices;
        // Of all columns of a table, those of the files.
        let own = |column: usize| column - usize::from(self.corrupt.is_some_and(|corrupt| corrupt < column));
        let with_text = self.corrupt.is_some_and(|corrupt| wanted.contains(&corrupt));
        // Which rows are broken must not depend on the columns that a query wants.
        let looked_at: Vec<usize> = if self.mode == BrokenRows::Drop || with_text {
            (0..columns.fields().len()).collect()
        } else {
            wanted.iter().filter(|column| Some(**column) != self.corrupt).map(|column| own(*column)).collect()
        };
        let place = |column: usize| looked_at.iter().position(|looked_at| *looked_at == own(column));
        let given = wanted.iter().map(|column| if Some(*column) == self.corrupt { None } else { place(*column) });
        let given = given.collect();
        let fields: Vec<_> =
            wanted.iter().map(|column| Arc::clone(&self.table.file_schema().fields()[*column])).collect();
        let schema = Arc::new(Schema::new_with_metadata(fields, self.table.file_schema().metadata().clone()));
        Scan {
            options: self.options.clone(),
            mode: self.mode,
            columns,
            looked_at,
            given,
            schema,
            keep_raw: with_text,
            batch_rows: self.batch_rows,
        }
    }
}

impl FileSource for CsvFilesSource {
    fn create_file_opener(
        &self,
        store: Arc<dyn ObjectStore>,
        config: &FileScanConfig,
        partition: usize,
    ) -> Result<Arc<dyn FileOpener>> {
        let scan = self.scan();
        let fast = CsvSource::new(Arc::clone(&scan.columns)).with_csv_options(self.options.clone());
        let looked_at = ProjectionExprs::from_indices(&scan.looked_at, &scan.columns);
        let fast = fast.try_pushdown_projection(&looked_at)?.unwrap_or_else(|| fast.clone().into());
        let fast = fast.with_batch_size(self.batch_rows).create_file_opener(Arc::clone(&store), config, partition)?;
        let count =
            |name| MetricBuilder::new(&self.metrics).with_category(MetricCategory::Rows).counter(name, partition);
        let opener = Opener {
            scan: Arc::new(scan),
            fast,
            store,
            url: config.object_store_url.to_string(),
            compression: config.file_compression_type,
            dropped: count(DROPPED),
            mended: count(MENDED),
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
        "csv"
    }

    fn supports_repartitioning(&self) -> bool {
        !self.options.newlines_in_values.unwrap_or(false)
    }

    fn fmt_extra(&self, kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if kind == DisplayFormatType::TreeRender {
            return Ok(());
        }
        write!(f, ", has_header={}", self.options.has_header.unwrap_or(true))?;
        if self.mode != BrokenRows::Fail {
            write!(f, ", mode={}", self.mode)?;
        }
        Ok(())
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
        // What this leaves out is a message of its own.
        CsvSource::new(self.table.clone()).with_csv_options(self.options.clone()).try_to_proto(base, context)
    }
}

/// What is read of every file of a scan.
#[derive(Debug)]
struct Scan {
    options: CsvOptions,
    mode: BrokenRows,
    columns: SchemaRef,
    /// The columns whose values are looked at.
    looked_at: Vec<usize>,
    /// What is given: a column of those, or the text of broken rows.
    given: Vec<Option<usize>>,
    schema: SchemaRef,
    keep_raw: bool,
    batch_rows: usize,
}

impl Scan {
    /// What is given of a batch of the columns that were looked at.
    fn give(&self, rows: &RecordBatch, raw: Option<&ArrayRef>) -> Result<RecordBatch> {
        let columns = self.given.iter().zip(self.schema.fields()).map(|(column, field)| match (column, raw) {
            (Some(column), _) => Ok(Arc::clone(rows.column(*column))),
            (None, Some(raw)) => Ok(datafusion::arrow::compute::cast(raw, field.data_type())?),
            (None, None) => Ok(new_null_array(field.data_type(), rows.num_rows())),
        });
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let fields = self.schema.fields().iter().zip(&self.given).map(|(field, _)| {
            // A table's column may promise to have no nulls; its files need not know.
            field.as_ref().clone().with_nullable(self.mode == BrokenRows::Permissive || field.is_nullable())
        });
        let schema = Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), self.schema.metadata().clone()));
        Ok(RecordBatch::try_new_with_options(schema, columns.collect::<Result<_>>()?, &options)?)
    }

    fn reader(&self, header: bool, skip: u64) -> Reader {
        let layout = Layout {
            options: &self.options,
            header,
            columns: Arc::clone(&self.columns),
            looked_at: self.looked_at.clone(),
            mode: self.mode,
            keep_raw: self.keep_raw,
            batch_rows: self.batch_rows,
        };
        Reader::new(layout, skip)
    }
}

/// Opens files for a scan.
struct Opener {
    scan: Arc<Scan>,
    fast: Arc<dyn FileOpener>,
    store: Arc<dyn ObjectStore>,
    url: String,
    compression: FileCompressionType,
    dropped: Count,
    mended: Count,
}

impl FileOpener for Opener {
    fn open(&self, file: PartitionedFile) -> Result<FileOpenFuture> {
        let fast = self.fast.open(file.clone())?;
        let file = OpenFile {
            scan: Arc::clone(&self.scan),
            store: Arc::clone(&self.store),
            name: named::name(&self.url, &file.object_meta.location),
            file,
            compression: self.compression,
            dropped: self.dropped.clone(),
            mended: self.mended.clone(),
        };
        Ok(Box::pin(async move {
            let stage = match fast.await {
                Ok(batches) => Stage::Fast { batches, given: 0 },
                Err(error) if error::is_of_data(&error) => file.slow(0).await?,
                Err(error) => return Err(error),
            };
            Ok(futures::stream::try_unfold((file, stage), |(file, stage)| file.next(stage)).boxed())
        }))
    }
}

/// A file, or a range of one, that is being read.
struct OpenFile {
    scan: Arc<Scan>,
    store: Arc<dyn ObjectStore>,
    file: PartitionedFile,
    name: String,
    compression: FileCompressionType,
    dropped: Count,
    mended: Count,
}

enum Stage {
    /// Every row was sound so far.
    Fast { batches: BoxStream<'static, Result<RecordBatch>>, given: u64 },
    /// There is a broken row.
    Slow(Box<Slow>),
}

impl OpenFile {
    async fn next(self, mut stage: Stage) -> Result<Option<(RecordBatch, (Self, Stage))>> {
        loop {
            match &mut stage {
                Stage::Fast { batches, given } => match batches.next().await {
                    None => return Ok(None),
                    Some(Ok(rows)) => {
                        *given += rows.num_rows() as u64;
                        let rows = self.scan.give(&rows, None)?;
                        return Ok(Some((rows, (self, stage))));
                    }
                    Some(Err(error)) if error::is_of_data(&error) => stage = self.slow(*given).await?,
                    Some(Err(error)) => return Err(error),
                },
                Stage::Slow(slow) => match slow.next().await? {
                    None => {
                        self.tell(slow.reader.tally().clone()).await;
                        return Ok(None);
                    }
                    Some(Ok(batch)) => {
                        let rows = self.scan.give(&batch.rows, Some(&batch.raw))?;
                        return Ok(Some((rows, (self, stage))));
                    }
                    Some(Err(Broken { line, what })) => {
                        let place = self.place(line).await;
                        return Err(Error::BrokenRow { file: self.name.clone(), place, what }.into());
                    }
                },
            }
        }
    }

    async fn slow(&self, skip: u64) -> Result<Stage> {
        let begins = self.file.range.as_ref().is_none_or(|range| range.start == 0);
        let header = begins && self.scan.options.has_header.unwrap_or(true);
        let bytes = bytes_of(&self.store, &self.file, self.compression, self.scan.options.terminator).await?;
        let reader = self.scan.reader(header, skip);
        Ok(Stage::Slow(Box::new(Slow { reader, bytes, rest: Bytes::new(), ended: false })))
    }

    /// Counts what was broken, and says it once for each file or range of one.
    async fn tell(&self, tally: Tally) {
        self.dropped.add(usize::try_from(tally.dropped).unwrap_or(usize::MAX));
        self.mended.add(usize::try_from(tally.mended).unwrap_or(usize::MAX));
        if let Some(Broken { line, what }) = tally.first {
            let (file, place) = (&self.name, self.place(line).await);
            let (rows, done) = match tally.dropped {
                0 => (tally.mended, "read with nulls"),
                dropped => (dropped, "left out"),
            };
            tracing::warn!(%file, rows, first = %place, "broken rows of a CSV file were {done}: {what}");
        }
    }

    /// Where a row is, in words: lines are counted from the file's beginning if that is not too far.
    async fn place(&self, line: u64) -> String {
        let start = self.file.range.as_ref().map_or(0, |range| u64::try_from(range.start).unwrap_or(0));
        if start == 0 {
            return format!("line {}", line + 1);
        }
        let after = format!("line {} after byte {start}", line + 1);
        if start > COUNT_LINES_BELOW {
            return after;
        }
        match self.lines_before(start - 1).await {
            // The range begins behind the line that ends there.
            Ok(lines) => format!("line {}", lines + 1 + line + 1),
            Err(_) => after,
        }
    }

    async fn lines_before(&self, end: u64) -> object_store::Result<u64> {
        let newline = self.scan.options.terminator.unwrap_or(b'\n');
        let options = GetOptions { range: Some(GetRange::Bounded(0..end)), ..GetOptions::default() };
        if end == 0 {
            return Ok(0);
        }
        let bytes = self.store.get_opts(&self.file.object_meta.location, options).await?.into_stream();
        bytes.try_fold(0, async |lines, bytes| Ok(lines + bytes.iter().filter(|b| **b == newline).count() as u64)).await
    }
}

type ByteStream = BoxStream<'static, Result<Bytes>>;

/// The bytes of a file or of the lines that begin in a range of it, decompressed.
pub(crate) async fn bytes_of(
    store: &Arc<dyn ObjectStore>,
    file: &PartitionedFile,
    compression: FileCompressionType,
    terminator: Option<u8>,
) -> Result<ByteStream> {
    let location: Path = file.object_meta.location.clone();
    let bytes = match &file.range {
        None => store.get(&location).await?.into_stream().map_err(DataFusionError::from).boxed(),
        Some(range) => {
            let (start, end) = (u64::try_from(range.start).unwrap_or(0), u64::try_from(range.end).unwrap_or(0));
            let (size, newline) = (file.object_meta.size, terminator.unwrap_or(b'\n'));
            let lines = AlignedBoundaryStream::new(Arc::clone(store), location, start, end, size, newline).await?;
            lines.map_err(DataFusionError::from).boxed()
        }
    };
    compression.convert_stream(bytes)
}

/// A [`Reader`] and the bytes that it has not seen.
struct Slow {
    reader: Reader,
    bytes: ByteStream,
    rest: Bytes,
    ended: bool,
}

impl Slow {
    async fn next(&mut self) -> Result<Option<std::result::Result<crate::broken::Batch, Broken>>> {
        loop {
            if self.rest.is_empty() && !self.ended {
                match self.bytes.try_next().await? {
                    Some(bytes) => self.rest = bytes,
                    None => self.ended = true,
                }
                if self.rest.is_empty() && !self.ended {
                    continue;
                }
            }
            let (read, batch) = self.reader.read(&self.rest)?;
            self.rest.advance(read);
            if batch.is_some() || self.ended {
                return Ok(batch);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use datafusion::common::assert_batches_eq;
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::*;

    /// A session that cuts the smallest files into so many ranges.
    fn session(partitions: usize) -> SessionContext {
        let mut config = SessionConfig::new().with_target_partitions(partitions).with_batch_size(3);
        config = config.with_repartition_file_min_size(0);
        let session = SessionContext::new_with_config(config);
        session
            .state_ref()
            .write()
            .register_file_format(Arc::new(<CsvFilesFactory as Default>::default()), true)
            .unwrap();
        session
    }

    /// A file, `t` over it, and what a query gives.
    async fn ask(csv: &[u8], columns: &str, options: &str, query: &str, partitions: usize) -> Result<Vec<RecordBatch>> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("t.csv");
        std::fs::write(&file, csv).unwrap();
        let session = session(partitions);
        let table = format!("CREATE EXTERNAL TABLE t {columns} STORED AS CSV LOCATION '{}' {options}", file.display());
        session.sql(&table).await?;
        session.sql(query).await?.collect().await
    }

    const COLUMNS: &str = "(id BIGINT, name TEXT, born DATE)";

    const BROKEN: &[u8] = b"id,name,born\n\
        1,Ada,1815-12-10\n\
        2,Grace\n\
        3,Alan,1912-06-23,Turing\n\
        four,Kurt,1906-04-28\n\
        \n\
        5,\"a \"\"b\"\" c\",never\r\n\
        6,caf\xe9,2000-01-01\n\
        7,Emmy,1882-03-23";

    #[tokio::test]
    async fn broken_rows_are_left_out_however_the_file_is_cut() {
        let wanted = [
            "+----+------+------------+",
            "| id | name | born       |",
            "+----+------+------------+",
            "| 1  | Ada  | 1815-12-10 |",
            "| 7  | Emmy | 1882-03-23 |",
            "+----+------+------------+",
        ];
        for partitions in [1, 2, 3, 7, 20] {
            let options = "OPTIONS ('mode' 'drop')";
            let rows = ask(BROKEN, COLUMNS, options, "SELECT * FROM t ORDER BY id", partitions).await.unwrap();
            assert_batches_eq!(wanted, &rows);
            // Which rows are broken does not depend on the columns that are wanted.
            for query in ["SELECT count(*) AS n FROM t", "SELECT count(name) AS n FROM t"] {
                let rows = ask(BROKEN, COLUMNS, options, query, partitions).await.unwrap();
                assert_batches_eq!(["+---+", "| n |", "+---+", "| 2 |", "+---+"], &rows);
            }
        }
    }

    #[tokio::test]
    async fn broken_rows_are_mended_and_their_text_is_kept() {
        let columns = "(id BIGINT, name TEXT, born DATE, _corrupt_record TEXT)";
        let wanted = [
            "+----+---------+------------+--------------------------+",
            "| id | name    | born       | _corrupt_record          |",
            "+----+---------+------------+--------------------------+",
            "| 1  | Ada     | 1815-12-10 |                          |",
            "| 2  | Grace   |            | 2,Grace                  |",
            "| 3  | Alan    | 1912-06-23 | 3,Alan,1912-06-23,Turing |",
            "| 5  | a \"b\" c |            | 5,\"a \"\"b\"\" c\",never      |",
            "| 6  |         | 2000-01-01 | 6,caf\u{fffd},2000-01-01        |",
            "| 7  | Emmy    | 1882-03-23 |                          |",
            "|    | Kurt    | 1906-04-28 | four,Kurt,1906-04-28     |",
            "+----+---------+------------+--------------------------+",
        ];
        for partitions in [1, 2, 5, 20] {
            let rows = ask(BROKEN, columns, "OPTIONS ('mode' 'permissive')", "SELECT * FROM t ORDER BY id", partitions);
            assert_batches_eq!(wanted, &rows.await.unwrap());
        }
        let options = "OPTIONS ('mode' 'PERMISSIVE', 'columnNameOfCorruptRecord' 'bad')";
        let rows = ask(BROKEN, "", options, "SELECT id, name FROM t WHERE bad LIKE '2%'", 1).await.unwrap();
        assert_batches_eq!(
            ["+----+-------+", "| id | name  |", "+----+-------+", "| 2  | Grace |", "+----+-------+"],
            &rows
        );
    }

    #[tokio::test]
    async fn the_first_broken_row_is_told_with_its_line() {
        for (csv, wanted) in [
            ("a,b\n1,2\n3\n", "line 3: it has 1 column, not 2;"),
            ("a,b\n1,2\n\n\n3,4,5\n", "line 5: it has 3 columns, not 2;"),
            ("a,b\n1,\"x\ny\"\nz,2\n", "line 4: column `a` is `z`, which is no Int64;"),
            ("a,b\r\n1,2\r\n,2\r\n", "line 3: column `a` has no value, and must have one;"),
        ] {
            let error = ask(csv.as_bytes(), "(a BIGINT NOT NULL, b TEXT)", "", "SELECT * FROM t", 1).await.unwrap_err();
            let error = error::text(&error);
            assert!(error.contains("t.csv`, ") && error.contains(wanted), "{csv:?}: {error}");
        }
        let mut long = "a,b\n".to_owned();
        (0..1_000).for_each(|n| writeln!(long, "{n},{n}").unwrap());
        long.push_str("1,2,3\n");
        for partitions in [1, 4, 9] {
            let error =
                ask(long.as_bytes(), "(a BIGINT, b BIGINT)", "", "SELECT * FROM t", partitions).await.unwrap_err();
            assert!(error::text(&error).contains("line 1002: it has 3 columns, not 2"), "{partitions}: {error}");
        }
        // Where columns are told from the rows.
        let error = ask(b"a,b\n1,2\n3\n", "", "", "SELECT * FROM t", 1).await.unwrap_err();
        assert!(error::text(&error).contains("line 3: it has 1 column, not 2"), "{error}");
    }

    #[tokio::test]
    async fn options_that_make_no_sense_are_refused() {
        for (options, wanted) in [
            ("OPTIONS ('mode' 'perhaps')", "there is no such mode; want fail, drop or permissive"),
            ("OPTIONS ('corrupt_record' 'bad')", "mode permissive alone has one, not fail"),
        ] {
            let error = ask(BROKEN, "", options, "SELECT 1", 1).await.unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }

    /// Both readers agree about sound rows, wherever the first broken one is.
    #[tokio::test]
    async fn rows_before_and_after_a_broken_one_are_the_same() {
        for at in 0..20 {
            let mut csv = "a,b\n".to_owned();
            for n in 0..20 {
                csv.push_str(&if n == at { "x,\n".to_owned() } else { format!("{n},\"{n}, or \"\"{n}\"\"\"\n") });
            }
            let query = "SELECT count(*) AS n, sum(a) AS a, sum(length(b)) AS b FROM t";
            let rows = ask(csv.as_bytes(), "(a INT, b TEXT)", "OPTIONS ('mode' 'drop')", query, 3).await.unwrap();
            let length: usize = (0..20).filter(|n| *n != at).map(|n| 9 + 2 * usize::from(n >= 10)).sum();
            let row = format!("| 19 | {:<3} | {length:<3} |", 190 - at);
            let wanted = ["+----+-----+-----+", "| n  | a   | b   |", "+----+-----+-----+", &row, "+----+-----+-----+"];
            assert_batches_eq!(wanted, &rows);
        }
    }
}
