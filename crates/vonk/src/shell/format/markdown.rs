//! How do rows look as a table of a Markdown page?

use std::io::Write;

use sql::datafusion::arrow::array::RecordBatch;
use sql::datafusion::arrow::datatypes::SchemaRef;

use super::{Error, Layout, RowWriter, formatters, printable, to_the_right};

/// Writes a line per row; the page's reader makes it a table.
pub(super) struct Markdown<'a> {
    schema: SchemaRef,
    layout: Layout<'a>,
    begun: bool,
}

impl<'a> Markdown<'a> {
    pub(super) fn new(schema: SchemaRef, layout: Layout<'a>) -> Self {
        Self { schema, layout, begun: false }
    }

    /// Markdown knows no table without a head: without names its cells are empty.
    fn begin(&mut self, out: &mut dyn Write) -> Result<(), Error> {
        if std::mem::replace(&mut self.begun, true) {
            return Ok(());
        }
        let fields = self.schema.fields();
        write!(out, "|")?;
        for field in fields {
            write!(out, " {} |", if self.layout.header { cell(field.name()) } else { String::new() })?;
        }
        write!(out, "\n|")?;
        for field in fields {
            write!(out, "{}|", if to_the_right(field.data_type()) { "---:" } else { "---" })?;
        }
        writeln!(out)?;
        Ok(())
    }
}

impl RowWriter for Markdown<'_> {
    fn write(&mut self, batch: &RecordBatch, out: &mut dyn Write) -> Result<(), Error> {
        self.begin(out)?;
        let options = self.layout.values.clone();
        let formatters = formatters(batch, &options)?;
        for index in 0..batch.num_rows() {
            write!(out, "|")?;
            for column in &formatters {
                write!(out, " {} |", cell(&column.value(index).try_to_string()?))?;
            }
            writeln!(out)?;
        }
        Ok(())
    }

    fn end(&mut self, out: &mut dyn Write) -> Result<(), Error> {
        self.begin(out)
    }
}

/// A text that ends neither its cell nor its row.
fn cell(text: &str) -> String {
    printable(text).replace('\\', "\\\\").replace('|', "\\|").replace('\n', "<br>")
}
