//! How do Arrow batches become the payload of blocks, and batches again?
//!
//! Rows travel as one IPC record batch message without schema: the schema is the shuffle's. Dictionary and run-end columns
//! travel as plain values, since a block's rows come from many batches with a dictionary each; the reader casts back.
//! The IPC writer ships whole buffers of views, so views are compacted first.

use std::sync::Arc;

use arrow::array::{Array, ArrayData, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array, make_array};
use arrow::buffer::Buffer;
use arrow::compute::{cast, concat, interleave, take};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, UnionFields};
use arrow::error::ArrowError;
use arrow::ipc::convert::try_schema_from_ipc_buffer;
use arrow::ipc::reader::read_record_batch;
use arrow::ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions, StreamEncoder, write_message};
use arrow::ipc::{self, CompressionType, MetadataVersion, root_as_message};
use bytes::Bytes;
use flatbuffers::FlatBufferBuilder;
use model::shuffle::Codec;

use crate::compress::{Compressor, make_room};
use crate::run::Stretch;

/// The message that names a schema in a [`ShuffleSpec`](model::shuffle::ShuffleSpec).
///
/// # Errors
/// The schema cannot be written.
pub fn schema_message(schema: &Schema) -> Result<Bytes, ArrowError> {
    let options = IpcWriteOptions::default();
    let mut tracker = DictionaryTracker::new(false);
    let encoded = IpcDataGenerator::default().schema_to_bytes_with_dictionary_tracker(schema, &mut tracker, &options);
    let mut out = Vec::new();
    write_message(&mut out, encoded, &options)?;
    Ok(out.into())
}

/// The schema of a shuffle, and the one its rows travel with.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    schema: SchemaRef,
    plain: SchemaRef,
}

impl Shape {
    pub(crate) fn parse(message: &[u8]) -> Result<Self, ArrowError> {
        let schema = try_schema_from_ipc_buffer(message)?;
        let plain = schema.fields().iter().map(plain_field).collect::<Fields>();
        Ok(Self { plain: Arc::new(Schema::new(plain)), schema: Arc::new(schema) })
    }

    /// Makes a batch of any writer's travel-ready: plain values, our schema.
    pub(crate) fn plain(&self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let same = batch.num_columns() == self.schema.fields().len();
        let columns = batch.columns().iter().zip(self.plain.fields());
        let columns: Result<Vec<_>, _> = columns.map(|(column, field)| convert(column, field.data_type())).collect();
        if !same {
            let (got, want) = (batch.num_columns(), self.schema.fields().len());
            return Err(ArrowError::SchemaError(format!("a batch of {got} columns came where {want} were announced")));
        }
        with_rows(&self.plain, columns?, batch.num_rows())
    }

    /// Gives rows that travelled the shuffle's own types. The keys of a dictionary may be too few for the rows of one
    /// block, which come from many batches: then the block comes apart.
    fn restore(&self, batch: RecordBatch, out: &mut Vec<RecordBatch>) -> Result<(), ArrowError> {
        if self.schema.fields() == self.plain.fields() {
            let (_, columns, rows) = batch.into_parts();
            out.push(with_rows(&self.schema, columns, rows)?);
            return Ok(());
        }
        let columns = batch.columns().iter().zip(self.schema.fields());
        match columns.map(|(column, field)| convert(column, field.data_type())).collect::<Result<Vec<_>, _>>() {
            Ok(columns) => out.push(with_rows(&self.schema, columns, batch.num_rows())?),
            Err(error) if batch.num_rows() < 2 => return Err(error),
            Err(_) => {
                let half = batch.num_rows() / 2;
                self.restore(batch.slice(0, half), out)?;
                self.restore(batch.slice(half, batch.num_rows() - half), out)?;
            }
        }
        Ok(())
    }

    /// Reads a block's payload: usually one batch.
    pub(crate) fn decode(&self, payload: Bytes) -> Result<Vec<RecordBatch>, ArrowError> {
        let bad = |what: &str| ArrowError::IpcError(what.to_owned());
        let prefix = payload.first_chunk::<8>().ok_or_else(|| bad("a message without a length"))?;
        let length = u32::from_le_bytes([prefix[4], prefix[5], prefix[6], prefix[7]]) as usize;
        if prefix[..4] != [0xff; 4] || payload.len() < 8 + length {
            return Err(bad("a message that is cut off"));
        }
        let message = root_as_message(&payload[8..8 + length]).map_err(|error| bad(&error.to_string()))?;
        let header = message.header_as_record_batch().ok_or_else(|| bad("a message that is no record batch"))?;
        let body = Buffer::from(payload.slice(8 + length..));
        let version = MetadataVersion::V5;
        let batch = read_record_batch(&body, header, Arc::clone(&self.plain), &Default::default(), None, &version)?;
        let mut out = Vec::with_capacity(1);
        self.restore(batch, &mut out)?;
        Ok(out)
    }
}

/// Writes batches as payloads; keeps what compression needs from one to the next.
///
/// Arrow's writer lays a message out without copying the batch's buffers. Each is then compressed straight into one room,
/// and the message says where it went.
pub(crate) struct Encoder {
    codec: Codec,
    stream: StreamEncoder,
    compressor: Compressor,
    builder: FlatBufferBuilder<'static>,
    body: Vec<u8>,
}

/// The message of a batch, in pieces that follow each other.
pub(crate) enum Message<'a> {
    Laid(Vec<Buffer>),
    Compressed { head: Vec<u8>, body: &'a [u8] },
}

impl Message<'_> {
    pub(crate) fn length(&self) -> usize {
        match self {
            Self::Laid(pieces) => pieces.iter().map(Buffer::len).sum(),
            Self::Compressed { head, body } => head.len() + body.len(),
        }
    }

    pub(crate) fn append_to(&self, out: &mut Vec<u8>) {
        match self {
            Self::Laid(pieces) => pieces.iter().for_each(|piece| out.extend_from_slice(piece)),
            Self::Compressed { head, body } => {
                out.extend_from_slice(head);
                out.extend_from_slice(body);
            }
        }
    }
}

/// What buffers of a message are aligned to.
const ALIGNMENT: usize = 8;

impl Encoder {
    pub(crate) fn new(shape: &Shape, codec: Codec) -> Result<Self, ArrowError> {
        let options = IpcWriteOptions::try_new(ALIGNMENT, false, MetadataVersion::V5)?;
        let mut stream = StreamEncoder::try_new_with_options(&shape.plain, options)?;
        // The first message brings the schema, which the shuffle has already.
        stream.encode(&RecordBatch::new_empty(Arc::clone(&shape.plain)))?;
        let (compressor, builder) = (Compressor::default(), FlatBufferBuilder::new());
        Ok(Self { codec, stream, compressor, builder, body: Vec::new() })
    }

    /// The message of a plain batch.
    pub(crate) fn encode(&mut self, batch: &RecordBatch) -> Result<Message<'_>, ArrowError> {
        let columns =
            batch.columns().iter().map(|column| compact(column.to_data()).map(make_array)).collect::<Result<_, _>>()?;
        let batch = with_rows(&batch.schema(), columns, batch.num_rows())?;
        let pieces = self.stream.encode(&batch)?;
        match self.codec {
            Codec::None => Ok(Message::Laid(pieces)),
            codec => self.compress(codec, &pieces),
        }
    }

    /// The same message with each buffer compressed.
    fn compress(&mut self, codec: Codec, pieces: &[Buffer]) -> Result<Message<'_>, ArrowError> {
        let bad = || ArrowError::IpcError("a message was laid out otherwise than it says".to_owned());
        let [prefix, metadata, ..] = pieces else { return Err(bad()) };
        let length = prefix.get(4..8).and_then(|length| length.try_into().ok()).map(u32::from_le_bytes);
        let before = prefix.len() + length.ok_or_else(bad)? as usize;
        let laid = root_as_message(metadata).ok().and_then(|message| message.header_as_record_batch());
        let laid = laid.ok_or_else(bad)?;
        let mut begin = 0;
        let mut placed = pieces.iter().map(|piece| {
            begin += piece.len();
            (begin - piece.len(), piece)
        });

        let mut end = 0;
        let mut buffers = Vec::new();
        for buffer in laid.buffers().ok_or_else(bad)? {
            let (start, length) = (before + buffer.offset() as usize, buffer.length() as usize);
            let at = end;
            if length > 0 {
                // Prefix, metadata and the zeros between buffers are passed over.
                let found = placed.find(|(begin, piece)| *begin == start && piece.len() == length);
                end = self.compressor.put_ipc_buffer(codec, found.ok_or_else(bad)?.1, &mut self.body, at);
            }
            buffers.push(ipc::Buffer::new(at as i64, (end - at) as i64));
            let aligned = end.next_multiple_of(ALIGNMENT);
            make_room(&mut self.body, aligned);
            self.body[end..aligned].fill(0);
            end = aligned;
        }
        let method = if codec == Codec::Zstd { CompressionType::ZSTD } else { CompressionType::LZ4_FRAME };
        let head = head(&mut self.builder, &laid, &buffers, method, end);
        Ok(Message::Compressed { head, body: &self.body[..end] })
    }
}

/// What stands before a body: of the batch that was laid out, with the buffers it has now.
fn head(
    builder: &mut FlatBufferBuilder<'static>,
    laid: &ipc::RecordBatch<'_>,
    buffers: &[ipc::Buffer],
    codec: CompressionType,
    body: usize,
) -> Vec<u8> {
    builder.reset();
    let mut compression = ipc::BodyCompressionBuilder::new(builder);
    compression.add_method(ipc::BodyCompressionMethod::BUFFER);
    compression.add_codec(codec);
    let compression = compression.finish();
    let buffers = builder.create_vector(buffers);
    let nodes = laid.nodes().map(|nodes| builder.create_vector_from_iter(nodes.iter()));
    let counts = laid.variadicBufferCounts().map(|counts| builder.create_vector_from_iter(counts.iter()));
    let mut batch = ipc::RecordBatchBuilder::new(builder);
    batch.add_length(laid.length());
    nodes.into_iter().for_each(|nodes| batch.add_nodes(nodes));
    batch.add_buffers(buffers);
    batch.add_compression(compression);
    counts.into_iter().for_each(|counts| batch.add_variadicBufferCounts(counts));
    let batch = batch.finish().as_union_value();
    let mut message = ipc::MessageBuilder::new(builder);
    message.add_version(MetadataVersion::V5);
    message.add_header_type(ipc::MessageHeader::RecordBatch);
    message.add_bodyLength(body as i64);
    message.add_header(batch);
    let message = message.finish();
    builder.finish(message, None);

    let metadata = builder.finished_data();
    let padded = metadata.len().next_multiple_of(ALIGNMENT);
    let mut head = Vec::with_capacity(8 + padded);
    head.extend_from_slice(&[0xff; 4]);
    head.extend_from_slice(&(padded as u32).to_le_bytes());
    head.extend_from_slice(metadata);
    head.resize(8 + padded, 0);
    head
}

/// Below so many rows a stretch, rows are gathered one by one: joining slivers costs more.
const LONG_STRETCH: usize = 8;

/// The rows of a batch in another order, in buffers that hold nothing else.
pub(crate) fn reorder(batch: &RecordBatch, order: Vec<u32>) -> Result<RecordBatch, ArrowError> {
    let (rows, order) = (order.len(), UInt32Array::from(order));
    let column = |column: &ArrayRef| compact(take(column.as_ref(), &order, None)?.to_data()).map(make_array);
    let columns = batch.columns().iter().map(column).collect::<Result<_, _>>()?;
    with_rows(&batch.schema(), columns, rows)
}

/// The rows of these stretches, in this order.
pub(crate) fn gather(batches: &[RecordBatch], stretches: &[Stretch]) -> Result<RecordBatch, ArrowError> {
    let schema = batches[0].schema();
    let rows = stretches.iter().map(|stretch| stretch.rows as usize).sum();
    let column = |i: usize| {
        if let [Stretch { batch, start, rows }] = stretches {
            return Ok(batches[*batch as usize].column(i).slice(*start as usize, *rows as usize));
        }
        if rows >= stretches.len() * LONG_STRETCH {
            let slice = |stretch: &Stretch| {
                batches[stretch.batch as usize].column(i).slice(stretch.start as usize, stretch.rows as usize)
            };
            let slices: Vec<ArrayRef> = stretches.iter().map(slice).collect();
            concat(&slices.iter().map(AsRef::as_ref).collect::<Vec<&dyn Array>>())
        } else {
            let columns: Vec<&dyn Array> = batches.iter().map(|batch| batch.column(i).as_ref()).collect();
            let places = stretches.iter().flat_map(|stretch| {
                (stretch.start..stretch.start + stretch.rows).map(|row| (stretch.batch as usize, row as usize))
            });
            interleave(&columns, &places.collect::<Vec<_>>())
        }
    };
    let columns = (0..schema.fields().len()).map(column).collect::<Result<_, _>>()?;
    with_rows(&schema, columns, rows)
}

/// Bytes of a batch in memory, counting of shared buffers only what its rows use.
pub(crate) fn memory(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(|column| data_memory(&column.to_data())).sum()
}

fn data_memory(data: &ArrayData) -> usize {
    let long = match data.data_type() {
        // The high half of a view's first word is not its length; 12 bytes and fewer lie in the view itself.
        DataType::Utf8View | DataType::BinaryView => {
            let views = &data.buffer::<u128>(0)[..data.len()];
            views.iter().map(|view| *view as u32 as usize).filter(|length| *length > 12).sum()
        }
        _ => 0,
    };
    let children: usize = data.child_data().iter().map(data_memory).sum();
    let own = if data.child_data().is_empty() { data.get_slice_memory_size().unwrap_or(0) } else { data.len() * 8 };
    own + long + children
}

fn with_rows(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch, ArrowError> {
    RecordBatch::try_new_with_options(
        Arc::clone(schema),
        columns,
        &RecordBatchOptions::new().with_row_count(Some(rows)),
    )
}

/// The type that values of a type travel as.
fn plain_type(data_type: &DataType) -> DataType {
    use DataType as T;
    match data_type {
        T::Dictionary(_, values) => plain_type(values),
        T::RunEndEncoded(_, values) => plain_type(values.data_type()),
        T::List(field) => T::List(plain_field(field)),
        T::LargeList(field) => T::LargeList(plain_field(field)),
        T::ListView(field) => T::ListView(plain_field(field)),
        T::LargeListView(field) => T::LargeListView(plain_field(field)),
        T::FixedSizeList(field, size) => T::FixedSizeList(plain_field(field), *size),
        T::Map(field, sorted) => T::Map(plain_field(field), *sorted),
        T::Struct(fields) => T::Struct(fields.iter().map(plain_field).collect()),
        T::Union(fields, mode) => {
            T::Union(fields.iter().map(|(id, field)| (id, plain_field(field))).collect::<UnionFields>(), *mode)
        }
        other => other.clone(),
    }
}

fn plain_field(field: &FieldRef) -> FieldRef {
    match field.data_type() {
        DataType::RunEndEncoded(_, values) => {
            // Nulls of a run-end column lie in its values, whatever the field says.
            let nullable = field.is_nullable() || values.is_nullable();
            Arc::new(Field::new(field.name(), plain_type(field.data_type()), nullable))
        }
        data_type if plain_type(data_type) == *data_type => Arc::clone(field),
        data_type => Arc::new(Field::new(field.name(), plain_type(data_type), field.is_nullable())),
    }
}

/// Changes representation, never a value.
fn convert(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    use DataType as T;
    let from = array.data_type();
    if from == to {
        return Ok(Arc::clone(array));
    }
    match (from, to) {
        (T::Dictionary(..), T::Dictionary(..)) => cast(array, to),
        (T::Dictionary(..), _) => {
            let dictionary = array.as_any_dictionary();
            convert(&take(dictionary.values().as_ref(), dictionary.keys(), None)?, to)
        }
        (T::RunEndEncoded(_, values), _) => convert(&cast(array, values.data_type())?, to),
        (_, T::RunEndEncoded(_, values)) => cast(&convert(array, values.data_type())?, to),
        (_, T::Dictionary(_, values)) => cast(&convert(array, values)?, to),
        _ if same_nesting(from, to) => convert_children(array, to),
        _ => Err(ArrowError::SchemaError(format!("a column of {from} came where {to} was announced"))),
    }
}

fn same_nesting(from: &DataType, to: &DataType) -> bool {
    from.is_nested() && std::mem::discriminant(from) == std::mem::discriminant(to)
}

fn convert_children(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    use DataType as T;
    let types: Vec<DataType> = match to {
        T::List(field)
        | T::LargeList(field)
        | T::ListView(field)
        | T::LargeListView(field)
        | T::FixedSizeList(field, _)
        | T::Map(field, _) => vec![field.data_type().clone()],
        T::Struct(fields) => fields.iter().map(|field| field.data_type().clone()).collect(),
        T::Union(fields, _) => fields.iter().map(|(_, field)| field.data_type().clone()).collect(),
        _ => Vec::new(),
    };
    let data = array.to_data();
    if types.len() != data.child_data().len() {
        let from = array.data_type();
        return Err(ArrowError::SchemaError(format!("a column of {from} came where {to} was announced")));
    }
    let child =
        |(data, to): (&ArrayData, &DataType)| convert(&make_array(data.clone()), to).map(|child| child.to_data());
    let children = data.child_data().iter().zip(&types).map(child).collect::<Result<Vec<_>, _>>()?;
    Ok(make_array(data.into_builder().data_type(to.clone()).child_data(children).build()?))
}

/// Gives views buffers that hold nothing but their own bytes.
fn compact(data: ArrayData) -> Result<ArrayData, ArrowError> {
    match data.data_type() {
        DataType::Utf8View => Ok(make_array(data).as_string_view().gc().to_data()),
        DataType::BinaryView => Ok(make_array(data).as_binary_view().gc().to_data()),
        _ if data.child_data().is_empty() => Ok(data),
        data_type if !holds_views(data_type) => Ok(data),
        _ => {
            let children = data.child_data().iter().cloned().map(compact).collect::<Result<Vec<_>, _>>()?;
            data.into_builder().child_data(children).build()
        }
    }
}

fn holds_views(data_type: &DataType) -> bool {
    use DataType as T;
    match data_type {
        T::Utf8View | T::BinaryView => true,
        T::List(field)
        | T::LargeList(field)
        | T::ListView(field)
        | T::LargeListView(field)
        | T::FixedSizeList(field, _)
        | T::Map(field, _) => holds_views(field.data_type()),
        T::Struct(fields) => fields.iter().any(|field| holds_views(field.data_type())),
        T::Union(fields, _) => fields.iter().any(|(_, field)| holds_views(field.data_type())),
        _ => false,
    }
}
