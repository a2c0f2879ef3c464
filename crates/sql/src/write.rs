//! How does a task write its rows into files?
//!
//! Into staged files below the destination, of which the driver publishes those of the accepted attempts, all at once and
//! exactly once. Columns that rows are partitioned by become folders, as in Hive.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use datafusion::arrow::array::{Array, RecordBatch, UInt32Array};
use datafusion::arrow::compute::take_record_batch;
use datafusion::arrow::csv;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::ipc::CompressionType;
use datafusion::arrow::ipc::writer::{FileWriter, IpcWriteOptions};
use datafusion::arrow::json::LineDelimitedWriter;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::config::TableParquetOptions;
use datafusion::common::file_options::csv_writer::CsvWriterOptions;
use datafusion::common::file_options::json_writer::JsonWriterOptions;
use datafusion::common::file_options::parquet_writer::ParquetWriterOptions;
use datafusion::common::parsers::CompressionTypeVariant;
use datafusion::common::{DataFusionError, Result, internal_err, not_impl_err};
use datafusion::datasource::file_format::csv::CsvSink;
use datafusion::datasource::file_format::json::JsonSink;
use datafusion::datasource::file_format::parquet::ParquetSink;
use datafusion::datasource::physical_plan::{FileSink, FileSinkConfig};
use datafusion::datasource::sink::{DataSink, DataSinkExec};
use datafusion::logical_expr::dml::InsertOp;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::physical_plan::ExecutionPlan;
use flate2::write::GzEncoder;
use model::write::{StagedFile, WriteId, published_name, staged_name};
use object_store::ObjectStore;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use percent_encoding::{AsciiSet, CONTROLS, PercentEncode, utf8_percent_encode};
use shuffle::rowhash::hash_rows;
use tokio::io::AsyncWriteExt;

use crate::arrow_files::ArrowSink;
use crate::partitions::NO_VALUE;
use crate::read::downcast;
use crate::task::{Batches, TaskEnv};

/// A file is closed and another begun at this size: a copy of a file is then one request on every store.
const FILE_BYTES: u64 = 1 << 30;

/// Encoded rows gather to so many bytes before they are sent.
const CHUNK_BYTES: usize = 4 << 20;

/// A row group is closed at this size, though it could have more rows: what is not closed is in memory.
const ROW_GROUP_BYTES: usize = 64 << 20;

/// So many files are open at a time in one task; beyond that the largest is closed, and another begun when it is wanted.
const FILES_OPEN: usize = 64;

/// A format with its options.
#[derive(Clone)]
enum Format {
    Parquet(Box<TableParquetOptions>),
    Csv(CsvWriterOptions),
    Json(JsonWriterOptions),
    Arrow,
}

/// What a sink writes, and how.
pub(crate) struct Files<'a> {
    pub(crate) config: &'a FileSinkConfig,
    format: Format,
}

/// What a plan's root writes.
///
/// # Errors
/// It writes something other than Parquet, CSV, JSON or Arrow files.
pub(crate) fn files(root: &DataSinkExec) -> Result<Files<'_>> {
    let sink: &dyn DataSink = root.sink();
    if let Some(sink) = sink.downcast_ref::<ParquetSink>() {
        let format = Format::Parquet(Box::new(sink.parquet_options().clone()));
        return Ok(Files { config: sink.config(), format });
    }
    if let Some(sink) = sink.downcast_ref::<CsvSink>() {
        return Ok(Files { config: sink.config(), format: Format::Csv(sink.writer_options().clone()) });
    }
    if let Some(sink) = sink.downcast_ref::<JsonSink>() {
        return Ok(Files { config: sink.config(), format: Format::Json(sink.writer_options().clone()) });
    }
    if let Some(ArrowSink(config)) = sink.downcast_ref() {
        return Ok(Files { config, format: Format::Arrow });
    }
    not_impl_err!("files are written as Parquet, CSV, JSON or Arrow")
}

/// The same write, of rows that go in the place of those that are there.
///
/// # Errors
/// It writes something other than Parquet, CSV, JSON or Arrow files.
pub(crate) fn replacing(plan: Arc<dyn ExecutionPlan>, op: InsertOp) -> Result<Arc<dyn ExecutionPlan>> {
    let Some(root) = downcast::<DataSinkExec>(&plan) else { return internal_err!("a write has no sink") };
    let files = files(root)?;
    let config = FileSinkConfig { insert_op: op, ..files.config.clone() };
    let sink: Arc<dyn DataSink> = match files.format {
        Format::Parquet(options) => Arc::new(ParquetSink::new(config, *options)),
        Format::Csv(options) => Arc::new(CsvSink::new(config, options)),
        Format::Json(options) => Arc::new(JsonSink::new(config, options)),
        Format::Arrow => Arc::new(ArrowSink(config)),
    };
    Ok(Arc::new(DataSinkExec::new(Arc::clone(root.input()), sink, root.sort_order().clone())))
}

/// Stages the rows of a task.
pub(crate) fn stage(
    files: &Files<'_>,
    write: WriteId,
    destination: &str,
    batches: &mut Batches<'_>,
    env: &TaskEnv,
) -> Result<Vec<StagedFile>> {
    let (store, root) =
        shuffle::store::open(destination).map_err(|error| DataFusionError::External(Box::new(error)))?;
    let mut writer = Writer { files, write, store, root, env, open: HashMap::new(), next: 0, done: Vec::new() };
    let folders: Vec<usize> = files
        .config
        .table_partition_cols
        .iter()
        .map(|(name, _)| batches.schema().index_of(name))
        .collect::<std::result::Result<_, _>>()?;
    if folders.is_empty() {
        // A partition without rows gives one empty file, as in Spark: its schema can be read.
        let schema = batches.schema();
        writer.open("", &schema)?;
        while let Some(batch) = batches.next()? {
            writer.write("", &batch)?;
        }
    } else {
        let keep = files.config.keep_partition_by_columns;
        let columns: Vec<usize> =
            (0..batches.schema().fields().len()).filter(|column| keep || !folders.contains(column)).collect();
        while let Some(batch) = batches.next()? {
            for (folder, rows) in by_folder(&batch, &folders)? {
                let rows = take_record_batch(&batch, &UInt32Array::from(rows))?.project(&columns)?;
                writer.write(&folder, &rows)?;
            }
        }
    }
    writer.finish()
}

/// Rows by the folder that they go into.
fn by_folder(batch: &RecordBatch, columns: &[usize]) -> Result<Vec<(String, Vec<u32>)>> {
    let options = FormatOptions::default();
    let names: Vec<_> = columns.iter().map(|&column| batch.schema_ref().field(column).name().clone()).collect();
    let values = columns
        .iter()
        .map(|&column| ArrayFormatter::try_new(batch.column(column).as_ref(), &options))
        .collect::<std::result::Result<Vec<_>, _>>()?;
    let mut found: HashMap<String, usize> = HashMap::new();
    let mut folders: Vec<(String, Vec<u32>)> = Vec::new();
    for row in 0..batch.num_rows() {
        let mut folder = String::new();
        for ((name, value), &column) in names.iter().zip(&values).zip(columns) {
            folder.extend(encode(name));
            folder.push('=');
            match batch.column(column).is_null(row) {
                true => folder.push_str(NO_VALUE),
                false => folder.extend(encode(&value.value(row).to_string())),
            }
            folder.push('/');
        }
        let at = *found.entry(folder).or_insert_with_key(|folder| {
            folders.push((folder.clone(), Vec::new()));
            folders.len() - 1
        });
        folders[at].1.push(u32::try_from(row).unwrap_or(u32::MAX));
    }
    Ok(folders)
}

/// What has a meaning in keys or URLs, as Hive has it.
const ESCAPED: &AsciiSet = &CONTROLS
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'\'')
    .add(b'*')
    .add(b'/')
    .add(b':')
    .add(b'=')
    .add(b'?')
    .add(b'\\')
    .add(b'{')
    .add(b'}')
    .add(b'[')
    .add(b']')
    .add(b'^');

/// A name or value as part of a folder's name. What is not ASCII is escaped too.
fn encode(value: &str) -> PercentEncode<'_> {
    utf8_percent_encode(value, ESCAPED)
}

struct Writer<'a> {
    files: &'a Files<'a>,
    write: WriteId,
    store: Arc<dyn ObjectStore>,
    root: Path,
    env: &'a TaskEnv,
    open: HashMap<String, File>,
    next: u32,
    done: Vec<StagedFile>,
}

/// A file being written.
struct File {
    number: u32,
    folder: String,
    path: Path,
    encoder: Encoder,
    unsent: Unsent,
    upload: BufWriter,
    rows: u64,
    bytes: u64,
    fingerprint: u64,
}

impl Writer<'_> {
    fn open(&mut self, folder: &str, schema: &SchemaRef) -> Result<()> {
        if self.open.len() >= FILES_OPEN
            && let Some(largest) = self.open.values().max_by_key(|file| file.rows).map(|file| file.folder.clone())
        {
            self.close(&largest)?;
        }
        let name = staged_name(self.write, &self.env.attempt, self.next);
        let path = name.split('/').fold(self.root.clone(), |path, segment| path.join(segment));
        let unsent = Unsent::default();
        let file = File {
            number: self.next,
            folder: folder.to_owned(),
            upload: BufWriter::new(Arc::clone(&self.store), path.clone()),
            path,
            encoder: Encoder::new(&self.files.format, schema, unsent.clone())?,
            unsent,
            rows: 0,
            bytes: 0,
            fingerprint: 0,
        };
        self.next += 1;
        self.open.insert(folder.to_owned(), file);
        Ok(())
    }

    fn write(&mut self, folder: &str, batch: &RecordBatch) -> Result<()> {
        if !self.open.contains_key(folder) {
            self.open(folder, &batch.schema())?;
        }
        let Some(file) = self.open.get_mut(folder) else { return Ok(()) };
        file.rows += batch.num_rows() as u64;
        file.fingerprint =
            hash_rows(batch.columns(), batch.num_rows())?.into_iter().fold(file.fingerprint, u64::wrapping_add);
        file.encoder.write(batch)?;
        file.send(self.env, CHUNK_BYTES)?;
        if file.bytes >= FILE_BYTES {
            self.close(folder)?;
        }
        Ok(())
    }

    fn close(&mut self, folder: &str) -> Result<()> {
        let Some(file) = self.open.remove(folder) else { return Ok(()) };
        let File { number, folder, path, encoder, unsent, mut upload, rows, mut bytes, fingerprint } = file;
        encoder.finish()?;
        let last = std::mem::take(&mut *unsent.lock());
        bytes += last.len() as u64;
        let closed = async {
            upload.write_all(&last).await?;
            upload.shutdown().await
        };
        self.env.io.block_on(closed).map_err(|error| unwritten(&path, error))?;
        let extension = self.files.format.extension();
        self.done.push(StagedFile {
            staged: staged_name(self.write, &self.env.attempt, number),
            published: published_name(self.write, &folder, self.env.attempt.partition, number, &extension),
            bytes,
            rows,
            fingerprint,
        });
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<StagedFile>> {
        let mut folders: Vec<String> = self.open.keys().cloned().collect();
        folders.sort_unstable();
        folders.iter().try_for_each(|folder| self.close(folder))?;
        Ok(self.done)
    }
}

impl File {
    /// Sends what is encoded, if it is more than so many bytes.
    fn send(&mut self, env: &TaskEnv, beyond: usize) -> Result<()> {
        if self.unsent.lock().len() <= beyond {
            return Ok(());
        }
        let ready = std::mem::take(&mut *self.unsent.lock());
        env.io.block_on(self.upload.write_all(&ready)).map_err(|error| unwritten(&self.path, error))?;
        self.bytes += ready.len() as u64;
        Ok(())
    }
}

fn unwritten(path: &Path, error: std::io::Error) -> DataFusionError {
    DataFusionError::IoError(error).context(format!("write `{path}`"))
}

/// Bytes of a file that have not been sent yet.
#[derive(Clone, Default)]
struct Unsent(Arc<Mutex<Vec<u8>>>);

impl Unsent {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Unsent {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Text on its way through a compressor, which ends its stream when it is dropped.
type Text = Box<dyn Write + Send>;

fn compressed(out: Unsent, compression: CompressionTypeVariant) -> Result<Text> {
    Ok(match compression {
        CompressionTypeVariant::UNCOMPRESSED => Box::new(out),
        CompressionTypeVariant::GZIP => Box::new(GzEncoder::new(out, flate2::Compression::default())),
        CompressionTypeVariant::ZSTD => {
            Box::new(zstd::stream::write::Encoder::new(out, zstd::DEFAULT_COMPRESSION_LEVEL)?.auto_finish())
        }
        other => return not_impl_err!("text files are compressed with gzip or zstd, not {other}"),
    })
}

/// What turns batches into a file's bytes.
enum Encoder {
    Parquet(Box<ArrowWriter<Unsent>>),
    Csv(Box<csv::Writer<Text>>),
    Lines(Text),
    Json(LineDelimitedWriter<Text>),
    Arrow(Box<FileWriter<Unsent>>),
}

impl Encoder {
    fn new(format: &Format, schema: &SchemaRef, out: Unsent) -> Result<Self> {
        Ok(match format {
            Format::Parquet(options) => {
                let mut options = options.as_ref().clone();
                // The writer adds the Arrow schema itself.
                options.global.skip_arrow_metadata = true;
                let properties = ParquetWriterOptions::try_from(&options)?.writer_options().clone();
                Self::Parquet(Box::new(ArrowWriter::try_new(out, Arc::clone(schema), Some(properties))?))
            }
            // Lines of text, which stay what they are: CSV would put quotes around an empty one.
            Format::Csv(options) if is_lines(options, schema) => Self::Lines(compressed(out, options.compression)?),
            Format::Csv(options) => {
                Self::Csv(Box::new(options.writer_options.clone().build(compressed(out, options.compression)?)))
            }
            Format::Json(options) => Self::Json(LineDelimitedWriter::new(compressed(out, options.compression)?)),
            Format::Arrow => {
                let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME))?;
                Self::Arrow(Box::new(FileWriter::try_new_with_options(out, schema, options)?))
            }
        })
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        match self {
            Self::Parquet(writer) => {
                writer.write(batch)?;
                if writer.in_progress_size() >= ROW_GROUP_BYTES {
                    writer.flush()?;
                }
            }
            Self::Csv(writer) => writer.write(batch)?,
            Self::Lines(writer) => {
                let options = FormatOptions::default();
                let lines = ArrayFormatter::try_new(batch.column(0).as_ref(), &options)?;
                (0..batch.num_rows()).try_for_each(|row| writeln!(writer, "{}", lines.value(row)))?;
            }
            Self::Json(writer) => writer.write(batch)?,
            Self::Arrow(writer) => writer.write(batch)?,
        }
        Ok(())
    }

    fn finish(self) -> Result<()> {
        match self {
            Self::Parquet(writer) => drop(writer.close()?),
            Self::Csv(writer) => drop(writer.into_inner()),
            Self::Lines(mut writer) => writer.flush()?,
            Self::Json(mut writer) => writer.finish()?,
            Self::Arrow(mut writer) => writer.finish()?,
        }
        Ok(())
    }
}

/// Whether values of one column are to be lines.
fn is_lines(options: &CsvWriterOptions, schema: &SchemaRef) -> bool {
    let builder = &options.writer_options;
    !builder.header() && matches!(builder.quote_style(), csv::QuoteStyle::Never) && schema.fields().len() == 1
}

impl Format {
    fn extension(&self) -> String {
        let text = |name: &str, compression: CompressionTypeVariant| match compression {
            CompressionTypeVariant::GZIP => format!("{name}.gz"),
            CompressionTypeVariant::ZSTD => format!("{name}.zst"),
            _ => name.to_owned(),
        };
        match self {
            Self::Parquet(_) => "parquet".to_owned(),
            Self::Csv(options) => text("csv", options.compression),
            Self::Json(options) => text("json", options.compression),
            Self::Arrow => "arrow".to_owned(),
        }
    }
}
