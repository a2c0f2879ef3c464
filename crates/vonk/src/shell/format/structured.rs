//! How do rows look to other programs?

use std::io::Write;
use std::sync::Arc;

use sql::datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use sql::datafusion::arrow::csv;
use sql::datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use sql::datafusion::arrow::error::ArrowError;
use sql::datafusion::arrow::json;
use sql::datafusion::arrow::util::display::ArrayFormatter;

use super::{Error, Layout, RowWriter};

/// Writes values with a separator between.
pub(super) struct Separated<'a> {
    schema: SchemaRef,
    separator: u8,
    layout: Layout<'a>,
    begun: bool,
}

impl<'a> Separated<'a> {
    pub(super) fn new(schema: SchemaRef, separator: u8, layout: Layout<'a>) -> Self {
        Self { schema, separator, layout, begun: false }
    }
}

impl RowWriter for Separated<'_> {
    fn write(&mut self, batch: &RecordBatch, out: &mut dyn Write) -> Result<(), Error> {
        let header = self.layout.header && !std::mem::replace(&mut self.begun, true);
        let mut text = Vec::new();
        let builder = csv::WriterBuilder::new().with_header(header).with_delimiter(self.separator);
        builder.build(&mut text).write(&without_nesting(batch, &self.layout)?)?;
        out.write_all(&text)?;
        Ok(())
    }

    fn end(&mut self, out: &mut dyn Write) -> Result<(), Error> {
        if self.begun {
            return Ok(());
        }
        self.write(&RecordBatch::new_empty(Arc::clone(&self.schema)), out)
    }
}

/// Lists, structs and maps as their text: separated values know no others.
fn without_nesting(batch: &RecordBatch, layout: &Layout<'_>) -> Result<RecordBatch, ArrowError> {
    let schema = batch.schema();
    if !schema.fields().iter().any(|field| field.data_type().is_nested()) {
        return Ok(batch.clone());
    }
    let mut fields = Vec::new();
    let mut columns: Vec<ArrayRef> = Vec::new();
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        if !field.data_type().is_nested() {
            fields.push(Arc::clone(field));
            columns.push(Arc::clone(column));
            continue;
        }
        let formatter = ArrayFormatter::try_new(column, &layout.values)?;
        let text = |row: usize| match column.is_null(row) {
            true => Ok(None),
            false => formatter.value(row).try_to_string().map(Some),
        };
        columns.push(Arc::new((0..column.len()).map(text).collect::<Result<StringArray, _>>()?));
        fields.push(Arc::new(Field::new(field.name(), DataType::Utf8, true)));
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

/// Writes an object per row.
pub(super) struct Json {
    /// What stands before the first object, between two, and after the last.
    frame: [&'static str; 3],
    begun: bool,
}

impl Json {
    pub(super) fn array() -> Self {
        Self { frame: ["[", ",\n ", "]\n"], begun: false }
    }

    pub(super) fn lines() -> Self {
        Self { frame: ["", "\n", "\n"], begun: false }
    }
}

impl RowWriter for Json {
    fn write(&mut self, batch: &RecordBatch, out: &mut dyn Write) -> Result<(), Error> {
        let mut text = Vec::new();
        let builder = json::WriterBuilder::new().with_explicit_nulls(true);
        let mut writer = builder.build::<_, json::writer::LineDelimited>(&mut text);
        writer.write(batch)?;
        writer.finish()?;
        drop(writer);
        // A string has no line break in JSON, so a line is an object.
        for object in text.split(|byte| *byte == b'\n').filter(|object| !object.is_empty()) {
            let [before, between, _] = self.frame;
            let separator = if std::mem::replace(&mut self.begun, true) { between } else { before };
            out.write_all(separator.as_bytes())?;
            out.write_all(object)?;
        }
        Ok(())
    }

    fn end(&mut self, out: &mut dyn Write) -> Result<(), Error> {
        let [before, _, after] = self.frame;
        if !self.begun {
            // No line at all is right for no object.
            if before.is_empty() {
                return Ok(());
            }
            out.write_all(before.as_bytes())?;
        }
        out.write_all(after.as_bytes())?;
        Ok(())
    }
}
