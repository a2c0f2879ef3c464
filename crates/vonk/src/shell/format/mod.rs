//! How do rows become text?

mod markdown;
mod plan;
mod structured;
mod table;
mod vertical;

use std::io::{self, Write};

use sql::datafusion::arrow::array::RecordBatch;
use sql::datafusion::arrow::datatypes::{DataType, SchemaRef};
use sql::datafusion::arrow::error::ArrowError;
use sql::datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};

/// How results look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// Columns in a box, for people
    #[default]
    Table,
    /// A line per value, for rows wider than the screen
    Vertical,
    /// Values with commas between, as RFC 4180 has them
    Csv,
    /// Values with tabs between
    Tsv,
    /// One JSON array of objects
    Json,
    /// A JSON object per line
    Ndjson,
    /// A table of a Markdown page
    Markdown,
}

/// What a format leaves open.
#[derive(Debug, Clone)]
pub(crate) struct Layout<'a> {
    /// Whether columns are named.
    pub(crate) header: bool,
    /// How many columns of characters a row of a table may take; no limit where nobody looks at a screen.
    pub(crate) width: Option<usize>,
    /// How values are written.
    pub(crate) values: FormatOptions<'a>,
}

/// Why rows cannot be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// They cannot be made text.
    #[error("write a value as text")]
    Value(#[from] ArrowError),
    /// The text cannot be written.
    #[error("write results")]
    Write(#[from] io::Error),
}

/// Writes one result, batch by batch.
pub(crate) trait RowWriter {
    /// Writes the rows of a batch, or keeps them until enough are known.
    fn write(&mut self, batch: &RecordBatch, out: &mut dyn Write) -> Result<(), Error>;

    /// Writes what was kept and what ends the result.
    fn end(&mut self, out: &mut dyn Write) -> Result<(), Error>;
}

impl Format {
    /// What writes a result with these columns.
    pub(crate) fn writer<'a>(self, schema: &SchemaRef, layout: Layout<'a>) -> Box<dyn RowWriter + 'a> {
        let schema = SchemaRef::clone(schema);
        match self {
            Self::Table if plan::is_plan(&schema) => Box::new(plan::Plan::default()),
            Self::Table => Box::new(table::Table::new(schema, layout)),
            Self::Vertical => Box::new(vertical::Vertical::new(layout)),
            Self::Csv => Box::new(structured::Separated::new(schema, b',', layout)),
            Self::Tsv => Box::new(structured::Separated::new(schema, b'\t', layout)),
            Self::Json => Box::new(structured::Json::array()),
            Self::Ndjson => Box::new(structured::Json::lines()),
            Self::Markdown => Box::new(markdown::Markdown::new(schema, layout)),
        }
    }

    /// Whether people read it on a screen, and may want the first rows only.
    pub(crate) fn for_people(self) -> bool {
        matches!(self, Self::Table | Self::Vertical)
    }
}

/// What makes text of the columns of a batch.
fn formatters<'a>(
    batch: &'a RecordBatch,
    options: &'a FormatOptions<'a>,
) -> Result<Vec<ArrayFormatter<'a>>, ArrowError> {
    batch.columns().iter().map(|column| ArrayFormatter::try_new(column, options)).collect()
}

/// Text as a screen may show it: no control characters, which could do anything to a terminal.
fn printable(text: &str) -> String {
    if !text.contains(|c: char| c.is_control() && c != '\n') {
        return text.to_owned();
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => shown.push('\n'),
            '\t' => shown.push_str("    "),
            '\r' => {}
            c if c.is_control() => shown.push('\u{fffd}'),
            c => shown.push(c),
        }
    }
    shown
}

/// Whether values of a type stand at the right of their column.
fn to_the_right(kind: &DataType) -> bool {
    kind.is_numeric()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clap::ValueEnum;
    use sql::datafusion::arrow::array::{Float64Array, Int64Array, ListArray, StringArray};
    use sql::datafusion::arrow::datatypes::{Field, Int32Type, Schema};

    use super::*;

    fn batch(ids: &[i64], names: &[Option<&str>]) -> RecordBatch {
        let schema =
            Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("name", DataType::Utf8, true)]);
        let columns: Vec<sql::datafusion::arrow::array::ArrayRef> =
            vec![Arc::new(Int64Array::from(ids.to_vec())), Arc::new(StringArray::from(names.to_vec()))];
        RecordBatch::try_new(Arc::new(schema), columns).unwrap()
    }

    fn layout(header: bool, width: Option<usize>) -> Layout<'static> {
        Layout { header, width, values: FormatOptions::new().with_null("NULL") }
    }

    fn shown(format: Format, layout: Layout<'_>, batches: &[RecordBatch]) -> String {
        let mut out = Vec::new();
        let mut writer = format.writer(&batches[0].schema(), layout);
        for batch in batches {
            writer.write(batch, &mut out).unwrap();
        }
        writer.end(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn two() -> Vec<RecordBatch> {
        vec![batch(&[1], &[Some("a,\"b\"")]), batch(&[20], &[None])]
    }

    #[test]
    fn a_table_has_a_box_and_numbers_at_the_right() {
        let want = "\
┌────┬───────┐
│ id │ name  │
├────┼───────┤
│  1 │ a,\"b\" │
│ 20 │ NULL  │
└────┴───────┘
";
        assert_eq!(shown(Format::Table, layout(true, None), &two()), want);
        let want = "┌────┬───────┐\n│  1 │ a,\"b\" │\n│ 20 │ NULL  │\n└────┴───────┘\n";
        assert_eq!(shown(Format::Table, layout(false, None), &two()), want);
        let want = "┌────┬──────┐\n│ id │ name │\n├────┼──────┤\n└────┴──────┘\n";
        assert_eq!(shown(Format::Table, layout(true, None), &[batch(&[], &[])]), want);
    }

    #[test]
    fn a_table_measures_characters_keeps_lines_and_hides_control_characters() {
        let rows = batch(&[1, 2], &[Some("日本\nx"), Some("\u{1b}[2J\tä")]);
        let want = "\
┌────┬───────────┐
│ id │ name      │
├────┼───────────┤
│  1 │ 日本      │
│    │ x         │
│  2 │ \u{fffd}[2J    ä │
└────┴───────────┘
";
        let got = shown(Format::Table, layout(true, None), &[rows]);
        assert_eq!(got, want);
    }

    #[test]
    fn a_table_is_cut_to_the_width_of_a_screen_only() {
        let rows = [batch(&[1], &[Some("abcdefghijklmnopqrstuvwxyz")])];
        let want = "\
┌────┬────────────┐
│ id │ name       │
├────┼────────────┤
│  1 │ abcdefghi… │
└────┴────────────┘
";
        assert_eq!(shown(Format::Table, layout(true, Some(19)), &rows), want);
        assert!(shown(Format::Table, layout(true, None), &rows).contains("xyz"));
    }

    #[test]
    fn a_long_table_goes_out_while_it_comes() {
        let ids: Vec<i64> = (0..3000).collect();
        let names: Vec<Option<&str>> = ids.iter().map(|_| Some("x")).collect();
        let rows = batch(&ids, &names);
        let mut out = Vec::new();
        let mut writer = Format::Table.writer(&rows.schema(), layout(true, None));
        writer.write(&rows, &mut out).unwrap();
        assert!(String::from_utf8(out.clone()).unwrap().contains("│ 2000 │"), "nothing of it went out");
        // A later value that is wider than its column is whole all the same.
        writer.write(&batch(&[1_000_000], &[Some("wider")]), &mut out).unwrap();
        writer.end(&mut out).unwrap();
        assert!(String::from_utf8(out).unwrap().contains("│ 1000000 │ wider │"));
    }

    #[test]
    fn vertical_has_a_line_for_each_value() {
        let want = "─ row 1 ─\nid:   1\nname: a,\"b\"\n─ row 2 ─\nid:   20\nname: NULL\n";
        assert_eq!(shown(Format::Vertical, layout(true, None), &two()), want);
    }

    #[test]
    fn separated_values_are_quoted_and_null_is_nothing() {
        assert_eq!(shown(Format::Csv, layout(true, None), &two()), "id,name\n1,\"a,\"\"b\"\"\"\n20,\n");
        assert_eq!(shown(Format::Csv, layout(false, None), &two()), "1,\"a,\"\"b\"\"\"\n20,\n");
        assert_eq!(shown(Format::Tsv, layout(true, None), &two()), "id\tname\n1\t\"a,\"\"b\"\"\"\n20\t\n");
        // No batch at all is no reason to lose the header.
        let mut out = Vec::new();
        Format::Csv.writer(&two()[0].schema(), layout(true, None)).end(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "id,name\n");
    }

    #[test]
    fn lists_are_text_in_separated_values() {
        let list = ListArray::from_iter_primitive::<Int32Type, _, _>([Some([Some(1), None])]);
        let schema =
            Schema::new(vec![Field::new("l", sql::datafusion::arrow::array::Array::data_type(&list).clone(), true)]);
        let rows = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(list)]).unwrap();
        assert_eq!(shown(Format::Csv, layout(true, None), &[rows]), "l\n\"[1, NULL]\"\n");
    }

    #[test]
    fn json_is_one_array_or_a_line_each() {
        let want = "[{\"id\":1,\"name\":\"a,\\\"b\\\"\"},\n {\"id\":20,\"name\":null}]\n";
        assert_eq!(shown(Format::Json, layout(true, None), &two()), want);
        assert_eq!(shown(Format::Json, layout(true, None), &[batch(&[], &[])]), "[]\n");
        let want = "{\"id\":1,\"name\":\"a,\\\"b\\\"\"}\n{\"id\":20,\"name\":null}\n";
        assert_eq!(shown(Format::Ndjson, layout(true, None), &two()), want);
    }

    #[test]
    fn a_plan_is_whole_however_narrow_the_screen() {
        let schema = Schema::new(["plan_type", "plan"].map(|name| Field::new(name, DataType::Utf8, true)).to_vec());
        let column = |texts: [&str; 2]| Arc::new(StringArray::from(texts.to_vec()));
        let columns: Vec<sql::datafusion::arrow::array::ArrayRef> =
            vec![column(["logical_plan", "physical_plan"]), column(["Sort\n  Scan: a, b, c", "SortExec\n"])];
        let rows = RecordBatch::try_new(Arc::new(schema), columns).unwrap();
        let want = "logical_plan\n  Sort\n    Scan: a, b, c\nphysical_plan\n  SortExec\n";
        assert_eq!(shown(Format::Table, layout(true, Some(12)), &[rows]), want);
    }

    #[test]
    fn markdown_escapes_what_would_end_a_cell() {
        let rows = [batch(&[1, 2], &[Some("a|b"), Some("c\nd")])];
        let want = "| id | name |\n|---:|---|\n| 1 | a\\|b |\n| 2 | c<br>d |\n";
        assert_eq!(shown(Format::Markdown, layout(true, None), &rows), want);
    }

    #[test]
    fn a_value_that_cannot_be_written_is_an_error_of_no_format() {
        let schema = Schema::new(vec![Field::new("f", DataType::Float64, true)]);
        let rows =
            RecordBatch::try_new(Arc::new(schema), vec![Arc::new(Float64Array::from(vec![f64::NAN, 0.1]))]).unwrap();
        for format in Format::value_variants() {
            assert!(!shown(*format, layout(true, None), std::slice::from_ref(&rows)).is_empty());
        }
    }
}
