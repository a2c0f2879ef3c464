//! What do the names of folders say about the rows of their files?
//!
//! A folder `day=2026-11-21` gives its rows a column, as in Hive. Its type follows from all the values that there are, and
//! Hive's name for a value that is missing is null.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion::catalog::Session;
use datafusion::common::cast::as_boolean_array;
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, DFSchema, Result, ScalarValue, Statistics, plan_err};
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::utils::conjunction;
use percent_encoding::percent_decode_str;

/// What a folder is called for rows without a value (Hive's name).
pub(crate) const NO_VALUE: &str = "__HIVE_DEFAULT_PARTITION__";

/// A column's name and the text of its value.
pub(crate) type Named = (String, Option<String>);

/// The columns that a file's folders give.
pub(crate) fn of(folders: &[&str]) -> Vec<Named> {
    let named = folders.iter().filter_map(|folder| folder.split_once('='));
    let plain = |text: &str| percent_decode_str(text).decode_utf8().map_or_else(|_| text.to_owned(), Into::into);
    named.map(|(name, value)| (plain(name), (value != NO_VALUE).then(|| plain(value)))).collect()
}

/// The narrowest type that all values have: whole numbers, numbers, dates, else text.
pub(crate) fn kind<'a>(values: impl Iterator<Item = &'a str>) -> DataType {
    let mut kinds = vec![DataType::Int64, DataType::Float64, DataType::Date32];
    let mut any = false;
    for value in values {
        any = true;
        kinds.retain(|kind| is_a(value, kind));
    }
    if any { kinds.into_iter().next().unwrap_or(DataType::Utf8) } else { DataType::Utf8 }
}

fn is_a(value: &str, kind: &DataType) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = value.strip_prefix('-').unwrap_or(value);
    match kind {
        DataType::Int64 => digits(number) && value.parse::<i64>().is_ok(),
        // What has more digits than a number keeps is a name.
        DataType::Float64 => match number.split_once('.') {
            Some((whole, part)) => digits(whole) && digits(part) && number.len() <= f64::DIGITS as usize + 1,
            None => is_a(value, &DataType::Int64) && number.len() <= f64::DIGITS as usize,
        },
        DataType::Date32 => {
            let bytes = value.as_bytes();
            bytes.len() == 10
                && bytes[4] == b'-'
                && bytes[7] == b'-'
                && ScalarValue::try_from_string(value.to_owned(), kind).is_ok()
        }
        _ => false,
    }
}

/// The values of a file for these columns; none if it lies in other folders.
pub(crate) fn values(folders: &[Named], columns: &[FieldRef]) -> Result<Option<Vec<ScalarValue>>> {
    let named = folders.iter().map(|(name, _)| name).take(columns.len());
    if !named.eq(columns.iter().map(|column| column.name())) {
        return Ok(None);
    }
    let value = |((name, text), column): (&Named, &FieldRef)| match text {
        None => ScalarValue::try_from(column.data_type()),
        Some(text) => match ScalarValue::try_from_string(text.clone(), column.data_type()) {
            Ok(value) => Ok(value),
            Err(_) => plan_err!("read folder `{name}={text}`: `{text}` is no {}", column.data_type()),
        },
    };
    folders.iter().zip(columns).map(value).collect::<Result<_>>().map(Some)
}

/// Which files can have rows that filters over these columns let pass.
pub(crate) fn select(
    session: &dyn Session,
    columns: &[FieldRef],
    files: &[Vec<ScalarValue>],
    filters: &[Expr],
) -> Result<BooleanArray> {
    let Some(filter) = conjunction(filters.iter().cloned()).filter(|_| !files.is_empty()) else {
        return Ok(BooleanArray::from(vec![true; files.len()]));
    };
    let schema = Arc::new(Schema::new(columns.to_vec()));
    let column = |column: usize| ScalarValue::iter_to_array(files.iter().map(|values| values[column].clone()));
    let arrays = (0..columns.len()).map(column).collect::<Result<Vec<ArrayRef>>>()?;
    let rows = RecordBatch::try_new(Arc::clone(&schema), arrays)?;
    let filter = session.create_physical_expr(filter, &DFSchema::try_from(schema)?)?;
    let passes = filter.evaluate(&rows)?.into_array(files.len())?;
    let passes = as_boolean_array(&passes)?;
    // What is null is not true.
    Ok((0..files.len()).map(|file| Some(passes.is_valid(file) && passes.value(file))).collect())
}

/// The statistics of a file with those of its columns from folders.
pub(crate) fn with_values(mut file: Statistics, values: &[ScalarValue]) -> Statistics {
    for value in values {
        let known = Precision::Exact(value.clone());
        file.column_statistics.push(match value.is_null() {
            true => ColumnStatistics { null_count: file.num_rows, ..ColumnStatistics::new_unknown() },
            false => ColumnStatistics {
                null_count: Precision::Exact(0),
                max_value: known.clone(),
                min_value: known,
                distinct_count: Precision::Exact(1),
                ..ColumnStatistics::new_unknown()
            },
        });
    }
    file
}

/// A column from folders: any of them may lack a value.
pub(crate) fn column(name: &str, kind: DataType) -> FieldRef {
    Arc::new(Field::new(name, kind, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_columns_type_is_the_narrowest_of_all_its_values() {
        let kind = |values: &[&str]| kind(values.iter().copied());
        assert_eq!(kind(&["1", "-20", "03"]), DataType::Int64);
        assert_eq!(kind(&["1", "2.5"]), DataType::Float64);
        assert_eq!(kind(&["2026-11-21", "2026-01-01"]), DataType::Date32);
        for text in [&["2026-11-21", "1"][..], &["x"], &[""], &["2026-13-01"], &["1e5"], &["nan"], &[]] {
            assert_eq!(kind(text), DataType::Utf8, "{text:?}");
        }
        assert_eq!(kind(&["12345678901234567890"]), DataType::Utf8, "a name of digits keeps all of them");
        assert_eq!(kind(&["1234567890123456789", "0.5"]), DataType::Utf8);
    }

    #[test]
    fn folders_name_columns_and_values_and_what_is_missing() {
        let folders = of(&["x", "y=1", "name=a%2Fb", "z=__HIVE_DEFAULT_PARTITION__"]);
        let named = |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
        assert_eq!(folders, [named("y", Some("1")), named("name", Some("a/b")), named("z", None)]);
        let columns = [("y", DataType::Int64), ("name", DataType::Utf8), ("z", DataType::Date32)];
        let columns = columns.map(|(name, kind)| column(name, kind));
        let wanted = vec![ScalarValue::from(1_i64), ScalarValue::from("a/b"), ScalarValue::Date32(None)];
        assert_eq!(values(&folders, &columns).unwrap(), Some(wanted));
        assert_eq!(values(&folders[1..], &columns).unwrap(), None);
        let error = values(&of(&["y=x"]), &columns[..1]).unwrap_err().to_string();
        assert!(error.contains("folder `y=x`: `x` is no Int64"), "{error}");
    }
}
