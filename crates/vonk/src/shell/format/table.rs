//! How do rows look in a box?
//!
//! Widths are those of the first rows, which are kept until there are enough; all others go out as they come.

use std::io::Write;

use sql::datafusion::arrow::array::RecordBatch;
use sql::datafusion::arrow::datatypes::SchemaRef;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::{Error, Layout, RowWriter, formatters, printable, to_the_right};

/// So many rows decide how wide columns are.
const MEASURED_ROWS: usize = 1_000;

/// So much text is kept for that, at most.
const MEASURED_BYTES: usize = 4 << 20;

/// No column is cut to less than this to make a row fit the screen.
const COLUMN_MIN: usize = 8;

/// Cells of the rows, in order.
type Row = Vec<String>;

/// Writes a box.
pub(super) struct Table<'a> {
    schema: SchemaRef,
    layout: Layout<'a>,
    right: Vec<bool>,
    kept: Vec<Row>,
    kept_bytes: usize,
    /// Once the first rows are out.
    widths: Option<Vec<usize>>,
}

impl<'a> Table<'a> {
    pub(super) fn new(schema: SchemaRef, layout: Layout<'a>) -> Self {
        let right = schema.fields().iter().map(|field| to_the_right(field.data_type())).collect();
        Self { schema, layout, right, kept: Vec::new(), kept_bytes: 0, widths: None }
    }

    /// Writes the head and the rows that were kept.
    fn begin(&mut self, out: &mut dyn Write) -> Result<&[usize], Error> {
        let names: Row = self.schema.fields().iter().map(|field| printable(field.name())).collect();
        let mut widths: Vec<usize> = match self.layout.header {
            true => names.iter().map(|name| width(name)).collect(),
            false => vec![0; names.len()],
        };
        for row in &self.kept {
            for (widest, cell) in widths.iter_mut().zip(row) {
                *widest = width(cell).max(*widest);
            }
        }
        if let Some(screen) = self.layout.width {
            narrow(&mut widths, screen);
        }
        line(out, &widths, ["┌", "┬", "┐"])?;
        if self.layout.header {
            write_row(out, &names, &widths, &vec![false; names.len()], self.layout.width.is_some())?;
            line(out, &widths, ["├", "┼", "┤"])?;
        }
        for row in std::mem::take(&mut self.kept) {
            write_row(out, &row, &widths, &self.right, self.layout.width.is_some())?;
        }
        Ok(self.widths.insert(widths))
    }
}

impl RowWriter for Table<'_> {
    fn write(&mut self, batch: &RecordBatch, out: &mut dyn Write) -> Result<(), Error> {
        let options = self.layout.values.clone();
        let formatters = formatters(batch, &options)?;
        for index in 0..batch.num_rows() {
            let row: Row = formatters
                .iter()
                .map(|column| column.value(index).try_to_string().map(|text| printable(&text)))
                .collect::<Result<_, _>>()?;
            if let Some(widths) = &self.widths {
                write_row(out, &row, widths, &self.right, self.layout.width.is_some())?;
                continue;
            }
            self.kept_bytes += row.iter().map(String::len).sum::<usize>();
            self.kept.push(row);
            if self.kept.len() >= MEASURED_ROWS || self.kept_bytes >= MEASURED_BYTES {
                self.begin(out)?;
            }
        }
        Ok(())
    }

    fn end(&mut self, out: &mut dyn Write) -> Result<(), Error> {
        if self.widths.is_none() {
            self.begin(out)?;
        }
        line(out, self.widths.as_deref().unwrap_or_default(), ["└", "┴", "┘"])
    }
}

/// The width of the widest line of a cell.
fn width(cell: &str) -> usize {
    cell.lines().map(UnicodeWidthStr::width).max().unwrap_or(0)
}

/// Takes from the widest columns until a row fits, as far as columns stay readable.
fn narrow(widths: &mut [usize], screen: usize) {
    // Two borders and two spaces per column, and the last border.
    let frame = 3 * widths.len() + 1;
    let mut excess = (widths.iter().sum::<usize>() + frame).saturating_sub(screen);
    while excess > 0 {
        let Some(widest) = widths.iter_mut().max() else { return };
        if *widest <= COLUMN_MIN {
            return;
        }
        *widest -= 1;
        excess -= 1;
    }
}

fn line(out: &mut dyn Write, widths: &[usize], [left, middle, right]: [&str; 3]) -> Result<(), Error> {
    for (index, width) in widths.iter().enumerate() {
        write!(out, "{}{}", if index == 0 { left } else { middle }, "─".repeat(width + 2))?;
    }
    writeln!(out, "{right}")?;
    Ok(())
}

fn write_row(out: &mut dyn Write, row: &[String], widths: &[usize], right: &[bool], cut: bool) -> Result<(), Error> {
    let height = row.iter().map(|cell| cell.lines().count()).max().unwrap_or(1).max(1);
    let mut cells: Vec<_> = row.iter().map(|cell| cell.lines()).collect();
    for _ in 0..height {
        for ((cell, &wide), right) in cells.iter_mut().zip(widths).zip(right) {
            let text = cell.next().unwrap_or_default();
            let text = if cut { fitted(text, wide) } else { text.to_owned() };
            let space = " ".repeat(wide.saturating_sub(text.width()));
            match right {
                true => write!(out, "│ {space}{text} ")?,
                false => write!(out, "│ {text}{space} ")?,
            }
        }
        writeln!(out, "│")?;
    }
    Ok(())
}

/// A text that is no wider than its column.
fn fitted(text: &str, wide: usize) -> String {
    if text.width() <= wide {
        return text.to_owned();
    }
    let mut used = 0;
    let mut fitted: String = text
        .chars()
        .take_while(|c| {
            used += c.width().unwrap_or(0);
            used < wide
        })
        .collect();
    fitted.push('…');
    fitted
}
