//! How does the answer to EXPLAIN look?
//!
//! Its lines are long, and half of one says nothing: they stand below their plan's name, whole, without a box.

use std::io::Write;

use sql::datafusion::arrow::array::RecordBatch;
use sql::datafusion::arrow::datatypes::Schema;
use sql::datafusion::arrow::util::display::FormatOptions;

use super::{Error, RowWriter, formatters, printable};

/// Whether columns are those of EXPLAIN.
pub(super) fn is_plan(schema: &Schema) -> bool {
    schema.fields().iter().map(|field| field.name().as_str()).eq(["plan_type", "plan"])
}

/// Writes plans.
#[derive(Default)]
pub(super) struct Plan {
    options: FormatOptions<'static>,
}

impl RowWriter for Plan {
    fn write(&mut self, batch: &RecordBatch, out: &mut dyn Write) -> Result<(), Error> {
        let columns = formatters(batch, &self.options)?;
        for row in 0..batch.num_rows() {
            for (index, column) in columns.iter().enumerate() {
                let text = printable(&column.value(row).try_to_string()?);
                for line in text.lines() {
                    writeln!(out, "{}{line}", if index == 0 { "" } else { "  " })?;
                }
            }
        }
        Ok(())
    }

    fn end(&mut self, _: &mut dyn Write) -> Result<(), Error> {
        Ok(())
    }
}
