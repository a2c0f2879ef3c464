//! How do rows look with a line for each value?

use std::io::Write;

use sql::datafusion::arrow::array::RecordBatch;
use unicode_width::UnicodeWidthStr;

use super::{Error, Layout, RowWriter, formatters, printable};

/// Writes `name: value` lines.
pub(super) struct Vertical<'a> {
    layout: Layout<'a>,
    rows: u64,
}

impl<'a> Vertical<'a> {
    pub(super) fn new(layout: Layout<'a>) -> Self {
        Self { layout, rows: 0 }
    }
}

impl RowWriter for Vertical<'_> {
    fn write(&mut self, batch: &RecordBatch, out: &mut dyn Write) -> Result<(), Error> {
        let schema = batch.schema();
        let names: Vec<String> = schema.fields().iter().map(|field| printable(field.name())).collect();
        let widest = names.iter().map(|name| name.width()).max().unwrap_or(0);
        let options = self.layout.values.clone();
        let formatters = formatters(batch, &options)?;
        for index in 0..batch.num_rows() {
            self.rows += 1;
            writeln!(out, "─ row {} ─", self.rows)?;
            for (name, column) in names.iter().zip(&formatters) {
                let value = printable(&column.value(index).try_to_string()?);
                if !self.layout.header {
                    writeln!(out, "{value}")?;
                    continue;
                }
                // Further lines of a value stand below its first.
                let value = value.replace('\n', &format!("\n{}", " ".repeat(widest + 2)));
                writeln!(out, "{name}:{}{value}", " ".repeat(widest - name.width() + 1))?;
            }
        }
        Ok(())
    }

    fn end(&mut self, _: &mut dyn Write) -> Result<(), Error> {
        Ok(())
    }
}
