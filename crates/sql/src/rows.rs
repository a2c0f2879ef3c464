//! How do batches become bytes outside of a shuffle: results, and rows that come with a task?
//!
//! As an Arrow IPC stream with its schema; an empty list of batches is no bytes at all.

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::{StreamDecoder, StreamReader};
use arrow::ipc::writer::StreamWriter;
use bytes::{Buf, Bytes};

/// Writes batches one after the other.
pub(crate) struct Encoder {
    writer: Option<StreamWriter<Vec<u8>>>,
}

impl Encoder {
    pub(crate) fn new() -> Self {
        Self { writer: None }
    }

    pub(crate) fn push(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(StreamWriter::try_new(Vec::new(), batch.schema_ref())?),
        };
        writer.write(&compact(batch)?)
    }

    /// How many bytes there are so far.
    pub(crate) fn bytes(&self) -> usize {
        self.writer.as_ref().map_or(0, |writer| writer.get_ref().len())
    }

    pub(crate) fn finish(self) -> Result<Bytes, ArrowError> {
        self.writer.map_or(Ok(Bytes::new()), |writer| Ok(writer.into_inner()?.into()))
    }
}

/// View columns share buffers with rows that are not here; IPC would write those too.
fn compact(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::DataType;
    let columns = batch
        .columns()
        .iter()
        .map(|column| match column.data_type() {
            DataType::Utf8View => std::sync::Arc::new(column.as_string_view().gc()) as _,
            DataType::BinaryView => std::sync::Arc::new(column.as_binary_view().gc()) as _,
            _ => std::sync::Arc::clone(column),
        })
        .collect();
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), columns, &options)
}

/// Encodes batches of one schema.
pub(crate) fn encode(batches: &[RecordBatch]) -> Result<Bytes, ArrowError> {
    let mut encoder = Encoder::new();
    batches.iter().try_for_each(|batch| encoder.push(batch))?;
    encoder.finish()
}

/// Decodes what [`encode`] made.
pub(crate) fn decode(bytes: Bytes) -> Result<Vec<RecordBatch>, ArrowError> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    StreamReader::try_new(bytes.reader(), None)?.collect()
}

/// Rows with the schema that the query promises: executors may call columns otherwise, or forget metadata.
fn promised(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(SchemaRef::clone(schema), batch.columns().to_vec(), &options)
}

/// Decodes a result that is here, with the schema that the query promises.
pub(crate) fn decode_as(bytes: Bytes, schema: &SchemaRef) -> Result<Vec<RecordBatch>, ArrowError> {
    decode(bytes)?.iter().map(|batch| promised(batch, schema)).collect()
}

/// Decodes a result piece by piece, with the schema that the query promises.
pub(crate) struct Decoder {
    schema: SchemaRef,
    decoder: StreamDecoder,
    piece: Buffer,
}

impl Decoder {
    pub(crate) fn new(schema: SchemaRef) -> Self {
        Self { schema, decoder: StreamDecoder::new(), piece: Buffer::default() }
    }

    /// Adds bytes, when [`Self::next`] has used all.
    pub(crate) fn push(&mut self, piece: Bytes) {
        self.piece = Buffer::from(piece);
    }

    /// A batch, if enough bytes are here.
    pub(crate) fn next(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        let Some(batch) = self.decoder.decode(&mut self.piece)? else { return Ok(None) };
        promised(&batch, &self.schema).map(Some)
    }

    /// That no batch was cut off.
    pub(crate) fn finish(mut self) -> Result<(), ArrowError> {
        self.decoder.finish()
    }
}
