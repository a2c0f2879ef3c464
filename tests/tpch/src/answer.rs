//! When are two answers the same?
//!
//! When they have the same columns with exactly the same types, and the same rows as often. Numbers with a fraction may
//! differ by what another order of additions changes.

use std::cmp::Ordering;
use std::fmt;
use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Float32Type, Float64Type, SchemaRef};
use datafusion::arrow::ipc::reader::FileReader;
use datafusion::arrow::ipc::writer::FileWriter;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};

/// By how much of their size floats may differ: sums are not associative, and other partitions are summed first.
const FLOAT_TOLERANCE: f64 = 1e-9;

/// By how much of their size numbers of two engines may differ: they round quotients to other digits.
const ENGINE_TOLERANCE: f64 = 1e-4;

/// How many rows a description of a difference shows.
const ROWS_SHOWN: usize = 5;

/// Whether the order of rows counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// It does: the query sorts by columns that leave no choice.
    Kept,
    /// It does not.
    Any,
}

/// The rows that a query gave, and what their columns are.
#[derive(Debug, Clone)]
pub struct Answer {
    columns: Vec<(String, DataType)>,
    rows: Vec<Vec<Cell>>,
}

#[derive(Debug, Clone)]
enum Cell {
    Null,
    Exact(String),
    Float(f64),
}

impl Answer {
    /// The answer that batches hold.
    ///
    /// # Errors
    /// A batch has columns of other types than the schema promises, or its values cannot be shown.
    pub fn new(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Self> {
        let columns: Vec<_> =
            schema.fields().iter().map(|field| (field.name().clone(), field.data_type().clone())).collect();
        let mut rows = Vec::with_capacity(batches.iter().map(RecordBatch::num_rows).sum());
        for batch in batches {
            let types: Vec<_> = batch.columns().iter().map(|column| column.data_type().clone()).collect();
            let promised = types.iter().eq(columns.iter().map(|(_, promised)| promised));
            ensure!(promised, "a batch has columns of types {types:?}, where {columns:?} were promised");
            let columns = batch.columns().iter().map(|column| cells(column.as_ref())).collect::<Result<Vec<_>>>()?;
            rows.extend((0..batch.num_rows()).map(|row| columns.iter().map(|column| column[row].clone()).collect()));
        }
        Ok(Self { columns, rows })
    }

    /// Reads what [`Self::write`] wrote.
    ///
    /// # Errors
    /// There is no such file.
    pub fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("read {}", path.display()))?;
        let reader = FileReader::try_new(file, None)?;
        let schema = reader.schema();
        Self::new(&schema, &reader.collect::<Result<Vec<_>, _>>()?)
    }

    /// Writes batches for [`Self::read`] in another process, as an Arrow file.
    ///
    /// # Errors
    /// A batch does not hold what the schema promises, or the file cannot be written.
    pub fn write(path: &Path, schema: &SchemaRef, batches: &[RecordBatch]) -> Result<()> {
        let mut writer = FileWriter::try_new(File::create(path)?, schema)?;
        for batch in batches {
            let batch = RecordBatch::try_new_with_options(
                SchemaRef::clone(schema),
                batch.columns().to_vec(),
                &datafusion::arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows())),
            );
            writer.write(&batch.context("a batch does not hold what its query promises")?)?;
        }
        writer.finish()?;
        Ok(())
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// What is different here from what is `wanted`; none if nothing is.
    #[must_use]
    pub fn difference(&self, wanted: &Self, order: Order) -> Option<String> {
        if self.columns != wanted.columns {
            return Some(format!("columns {:?}, wanted {:?}", self.columns, wanted.columns));
        }
        let (mut got, mut want): (Vec<_>, Vec<_>) = (self.rows.iter().collect(), wanted.rows.iter().collect());
        if order == Order::Any {
            got.sort_by(|a, b| compare(a, b));
            want.sort_by(|a, b| compare(a, b));
        }
        let at = (0..got.len().max(want.len())).find(|&row| match (got.get(row), want.get(row)) {
            (Some(got), Some(want)) => !got.iter().zip(want.iter()).all(|(got, want)| same(got, want)),
            _ => true,
        })?;
        let shown = |rows: &[&Vec<Cell>]| {
            rows.iter().skip(at).take(ROWS_SHOWN).map(|row| format!("\n    {}", Row(row))).collect::<String>()
        };
        let (rows, sorted) = (got.len(), if order == Order::Any { " of the sorted rows" } else { "" });
        Some(format!(
            "{rows} rows, wanted {}; from row {at}{sorted}:{}\n  wanted:{}",
            want.len(),
            shown(&got),
            shown(&want)
        ))
    }
}

impl Answer {
    /// What is different from another engine's answer, in rows of the same order: columns may have names and types of its
    /// own, and quotients other digits.
    #[must_use]
    pub fn difference_in_meaning(&self, wanted: &Self) -> Option<String> {
        let alike = |(got, want): (&Cell, &Cell)| match (got.number(), want.number()) {
            (Some(got), Some(want)) => (got - want).abs() <= ENGINE_TOLERANCE * got.abs().max(want.abs()).max(1.0),
            _ => same(got, want),
        };
        let rows = (self.len(), wanted.len());
        if rows.0 != rows.1 {
            return Some(format!("{} rows, wanted {}", rows.0, rows.1));
        }
        let (at, (got, want)) = self
            .rows
            .iter()
            .zip(&wanted.rows)
            .enumerate()
            .find(|(_, (got, want))| got.len() != want.len() || !got.iter().zip(want.iter()).all(alike))?;
        Some(format!("row {at}: {}\n  wanted: {}", Row(got), Row(want)))
    }
}

fn cells(column: &dyn Array) -> Result<Vec<Cell>> {
    let floats: Option<Vec<Option<f64>>> = match column.data_type() {
        DataType::Float64 => Some(column.as_primitive::<Float64Type>().iter().collect()),
        DataType::Float32 => Some(column.as_primitive::<Float32Type>().iter().map(|x| x.map(f64::from)).collect()),
        _ => None,
    };
    if let Some(floats) = floats {
        return Ok(floats.into_iter().map(|value| value.map_or(Cell::Null, Cell::Float)).collect());
    }
    let options = FormatOptions::new().with_null("NULL");
    let format = ArrayFormatter::try_new(column, &options)?;
    (0..column.len())
        .map(
            |row| {
                if column.is_null(row) { Ok(Cell::Null) } else { Ok(Cell::Exact(format.value(row).try_to_string()?)) }
            },
        )
        .collect()
}

/// Rows that are the same come to lie at the same place: floats, which may differ a little, decide last.
fn compare(a: &[Cell], b: &[Cell]) -> Ordering {
    let floats = || {
        let pairs = a.iter().zip(b).filter_map(|pair| match pair {
            (Cell::Float(a), Cell::Float(b)) => Some(a.total_cmp(b)),
            _ => None,
        });
        pairs.fold(Ordering::Equal, Ordering::then)
    };
    a.iter().map(Cell::exactly).cmp(b.iter().map(Cell::exactly)).then_with(floats)
}

impl Cell {
    fn number(&self) -> Option<f64> {
        match self {
            Self::Null => None,
            Self::Exact(text) => text.parse().ok(),
            Self::Float(value) => Some(*value),
        }
    }

    fn exactly(&self) -> Option<&str> {
        match self {
            Self::Null => None,
            Self::Exact(text) => Some(text),
            Self::Float(_) => Some(""),
        }
    }
}

fn same(a: &Cell, b: &Cell) -> bool {
    match (a, b) {
        (Cell::Null, Cell::Null) => true,
        (Cell::Exact(a), Cell::Exact(b)) => a == b,
        (Cell::Float(a), Cell::Float(b)) => {
            a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= FLOAT_TOLERANCE * a.abs().max(b.abs())
        }
        _ => false,
    }
}

struct Row<'a>(&'a [Cell]);

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, cell) in self.0.iter().enumerate() {
            let before = if i == 0 { "" } else { " | " };
            match cell {
                Cell::Null => write!(f, "{before}NULL"),
                Cell::Exact(text) => write!(f, "{before}{text}"),
                Cell::Float(value) => write!(f, "{before}{value:?}"),
            }?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{ArrayRef, Float64Array, Int32Array, Int64Array};

    use super::*;

    fn answer(columns: Vec<(&str, ArrayRef)>) -> Answer {
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        Answer::new(&batch.schema(), &[batch]).unwrap()
    }

    fn numbers(numbers: &[Option<i64>]) -> Answer {
        answer(vec![("n", Arc::new(Int64Array::from(numbers.to_vec())))])
    }

    #[test]
    fn rows_are_counted_and_their_order_matters_where_it_should() {
        let (a, b) = (numbers(&[Some(1), Some(2), None]), numbers(&[None, Some(2), Some(1)]));
        assert_eq!(a.difference(&b, Order::Any), None);
        assert!(a.difference(&b, Order::Kept).is_some());
        assert!(a.difference(&numbers(&[Some(1), Some(2)]), Order::Any).is_some());
        let (twice, other) = (numbers(&[Some(1), Some(1), Some(2)]), numbers(&[Some(1), Some(2), Some(2)]));
        assert!(twice.difference(&other, Order::Any).is_some());
    }

    #[test]
    fn types_are_exact_and_floats_nearly() {
        let int = answer(vec![("n", Arc::new(Int32Array::from(vec![1])))]);
        assert!(int.difference(&numbers(&[Some(1)]), Order::Any).is_some());
        let float = |x: f64| answer(vec![("x", Arc::new(Float64Array::from(vec![x])))]);
        assert_eq!(float(1.0).difference(&float(1.0 + 1e-12), Order::Any), None);
        assert!(float(1.0).difference(&float(1.0 + 1e-6), Order::Any).is_some());
        assert_eq!(float(f64::NAN).difference(&float(f64::NAN), Order::Any), None);
    }
}
