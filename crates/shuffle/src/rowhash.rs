//! What is the hash of an Arrow row?
//!
//! It depends on logical values alone: plain, dictionary, run-end and view arrays of the same values hash alike, a null
//! hashes alike whatever bytes lie under it, and floats hash by their bits. The seeds are fixed, so that executors of one
//! application, whatever machines they run on, agree.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, ArrayData, ArrayRef, AsArray, UnionArray, make_array};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{
    BinaryType, BinaryViewType, ByteArrayType, ByteViewType, DataType, LargeBinaryType, LargeUtf8Type, StringViewType,
    Utf8Type,
};
use arrow::error::ArrowError;
use xxhash_rust::xxh3::xxh3_64;

const ROW: u64 = 0x2D35_8DCC_AA6C_78A5;
const NULL: u64 = 0x8BB8_4B93_962E_ACC9;
const LIST: u64 = 0x4B33_A62E_D433_D4A3;
const STRUCT: u64 = 0x4D5A_2DA5_1DE1_AA47;
const FACTOR: u64 = 0xA076_1D64_78BD_642F;

/// The hash of every row of a batch with these columns.
///
/// # Errors
/// A column's type cannot be hashed.
pub fn hash_rows(columns: &[ArrayRef], rows: usize) -> Result<Vec<u64>, ArrowError> {
    let mut hashes = vec![ROW; rows];
    for column in columns {
        fold_column(&mut hashes, column.as_ref())?;
    }
    Ok(hashes)
}

/// Folds the values of a column into the hashes of its rows: the commonest kinds as they lie, others by way of a list.
fn fold_column(hashes: &mut [u64], array: &dyn Array) -> Result<(), ArrowError> {
    use DataType as T;
    if array.null_count() > 0 {
        fold_into(hashes, &values(array)?);
        return Ok(());
    }
    let each = |(hash, value): (&mut u64, u64)| *hash = fold(*hash, value);
    match array.data_type() {
        T::Utf8 => hashes.iter_mut().zip(hashed::<Utf8Type>(array)).for_each(each),
        T::Binary => hashes.iter_mut().zip(hashed::<BinaryType>(array)).for_each(each),
        other => match other.primitive_width() {
            Some(8) => hashes.iter_mut().zip(words(&array.to_data())).for_each(each),
            _ => fold_into(hashes, &values(array)?),
        },
    }
    Ok(())
}

#[inline]
fn fold(hash: u64, value: u64) -> u64 {
    let product = u128::from(hash.rotate_left(29) ^ value) * u128::from(FACTOR);
    (product as u64) ^ ((product >> 64) as u64)
}

fn fold_into(hashes: &mut [u64], values: &[u64]) {
    hashes.iter_mut().zip(values).for_each(|(hash, value)| *hash = fold(*hash, *value));
}

/// One number per value of an array.
fn values(array: &dyn Array) -> Result<Vec<u64>, ArrowError> {
    use DataType as T;
    let mut values = match array.data_type() {
        T::Null => return Ok(vec![NULL; array.len()]),
        T::Boolean => array.as_boolean().values().iter().map(u64::from).collect(),
        T::Utf8 => offset_bytes::<Utf8Type>(array),
        T::LargeUtf8 => offset_bytes::<LargeUtf8Type>(array),
        T::Binary => offset_bytes::<BinaryType>(array),
        T::LargeBinary => offset_bytes::<LargeBinaryType>(array),
        T::Utf8View => view_bytes::<StringViewType>(array),
        T::BinaryView => view_bytes::<BinaryViewType>(array),
        T::FixedSizeBinary(_) => {
            let array = array.as_fixed_size_binary();
            (0..array.len()).map(|i| xxh3_64(array.value(i))).collect()
        }
        T::Struct(_) => {
            let array = array.as_struct();
            let mut hashes = vec![STRUCT; array.len()];
            for column in array.columns() {
                fold_into(&mut hashes, &self::values(column.as_ref())?);
            }
            hashes
        }
        T::List(_) => {
            let array = array.as_list::<i32>();
            let child = self::values(array.values().as_ref())?;
            array.value_offsets().windows(2).map(|ends| list(&child, ends[0] as usize, ends[1] as usize)).collect()
        }
        T::LargeList(_) => {
            let array = array.as_list::<i64>();
            let child = self::values(array.values().as_ref())?;
            array.value_offsets().windows(2).map(|ends| list(&child, ends[0] as usize, ends[1] as usize)).collect()
        }
        T::Map(..) => {
            let array = array.as_map();
            let child = self::values(array.entries())?;
            array.value_offsets().windows(2).map(|ends| list(&child, ends[0] as usize, ends[1] as usize)).collect()
        }
        T::ListView(_) => {
            let array = array.as_list_view::<i32>();
            let child = self::values(array.values().as_ref())?;
            let starts = array.value_offsets().iter().zip(array.value_sizes());
            starts.map(|(start, size)| view(&child, i64::from(*start), i64::from(*size))).collect()
        }
        T::LargeListView(_) => {
            let array = array.as_list_view::<i64>();
            let child = self::values(array.values().as_ref())?;
            let starts = array.value_offsets().iter().zip(array.value_sizes());
            starts.map(|(start, size)| view(&child, *start, *size)).collect()
        }
        T::FixedSizeList(_, size) => {
            let array = array.as_fixed_size_list();
            let (child, size) = (self::values(array.values().as_ref())?, *size as usize);
            (0..array.len()).map(|i| list(&child, i * size, (i + 1) * size)).collect()
        }
        T::Dictionary(..) => {
            let array = array.as_any_dictionary();
            let distinct = self::values(array.values().as_ref())?;
            if distinct.is_empty() {
                return Ok(vec![NULL; array.len()]);
            }
            array.normalized_keys().into_iter().map(|key| distinct[key]).collect()
        }
        T::RunEndEncoded(_, field) => {
            return self::values(cast(&make_array(array.to_data()), field.data_type())?.as_ref());
        }
        T::Union(..) => {
            let array = array.as_any().downcast_ref::<UnionArray>().expect("its type says that it is one");
            let used: BTreeSet<i8> = array.type_ids().iter().copied().collect();
            let child = |type_id: i8| Ok((type_id, self::values(array.child(type_id).as_ref())?));
            let children = used.into_iter().map(child).collect::<Result<BTreeMap<_, _>, ArrowError>>()?;
            let hash = |(i, type_id)| fold(u64::from(type_id as u8), children[&type_id][array.value_offset(i)]);
            array.type_ids().iter().copied().enumerate().map(hash).collect()
        }
        other => match other.primitive_width() {
            Some(width) => fixed(&array.to_data(), width),
            None => return Err(ArrowError::NotYetImplemented(format!("hash rows of type {other}"))),
        },
    };
    if let Some(nulls) = array.nulls() {
        forget_nulls(&mut values, nulls);
    }
    Ok(values)
}

fn forget_nulls(values: &mut [u64], nulls: &NullBuffer) {
    if nulls.null_count() > 0 {
        values.iter_mut().zip(nulls).filter(|(_, valid)| !valid).for_each(|(value, _)| *value = NULL);
    }
}

fn list(child: &[u64], start: usize, end: usize) -> u64 {
    let hash = child[start..end].iter().fold(LIST, |hash, value| fold(hash, *value));
    fold(hash, (end - start) as u64)
}

fn view(child: &[u64], start: i64, size: i64) -> u64 {
    list(child, start as usize, (start + size) as usize)
}

fn offset_bytes<T: ByteArrayType>(array: &dyn Array) -> Vec<u64> {
    hashed::<T>(array).collect()
}

fn hashed<T: ByteArrayType>(array: &dyn Array) -> impl Iterator<Item = u64> {
    let array = array.as_bytes::<T>();
    (0..array.len()).map(|i| xxh3_64(array.value(i).as_ref()))
}

fn view_bytes<T: ByteViewType>(array: &dyn Array) -> Vec<u64> {
    let array = array.as_byte_view::<T>();
    (0..array.len()).map(|i| xxh3_64(array.value(i).as_ref())).collect()
}

/// The bytes of numbers of this width.
fn bytes(data: &ArrayData, width: usize) -> &[u8] {
    &data.buffers()[0].as_slice()[data.offset() * width..(data.offset() + data.len()) * width]
}

/// Numbers of eight bytes by their bits.
fn words(data: &ArrayData) -> impl Iterator<Item = u64> {
    bytes(data, 8).as_chunks().0.iter().map(|chunk| u64::from_le_bytes(*chunk))
}

/// Numbers by their bits, whatever they mean.
fn fixed(data: &ArrayData, width: usize) -> Vec<u64> {
    let bytes = bytes(data, width);
    match width {
        1 => bytes.iter().map(|byte| u64::from(*byte)).collect(),
        2 => bytes.as_chunks().0.iter().map(|chunk| u64::from(u16::from_le_bytes(*chunk))).collect(),
        4 => bytes.as_chunks().0.iter().map(|chunk| u64::from(u32::from_le_bytes(*chunk))).collect(),
        8 => words(data).collect(),
        _ => {
            let hash =
                |value: &[u8]| value.as_chunks().0.iter().fold(ROW, |hash, word| fold(hash, u64::from_le_bytes(*word)));
            bytes.chunks_exact(width).map(hash).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        Float64Array, Int32Array, Int64Array, ListArray, StringArray, StringViewArray, StructArray, new_null_array,
    };
    use arrow::datatypes::{Field, Int32Type};

    use super::*;

    fn columns() -> Vec<ArrayRef> {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(-1), Some(1)]));
        let floats: ArrayRef = Arc::new(Float64Array::from(vec![0.0, -0.0, f64::NAN, 1.5]));
        let words: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), Some(""), None, Some("a")]));
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>(vec![
            Some(vec![Some(1), None]),
            Some(vec![]),
            None,
            Some(vec![Some(1)]),
        ]);
        let field = Arc::new(Field::new("x", DataType::Int64, true));
        let nested = StructArray::from(vec![(field, Arc::clone(&numbers))]);
        vec![numbers, floats, words, Arc::new(lists), Arc::new(nested)]
    }

    #[test]
    fn hashes_never_change() {
        let hashes = hash_rows(&columns(), 4).unwrap();
        let lines: Vec<String> = hashes.iter().map(|hash| format!("{hash:016x}")).collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        aaf0380b7bc7f871
        9c80592bd8617534
        414f7b5e9d140a82
        4d616b4a634f40e6
        ");
    }

    #[test]
    fn representation_does_not_matter() {
        let plain: ArrayRef = Arc::new(StringArray::from(vec![Some("x"), None, Some("yy"), Some("x"), Some("x")]));
        let want = values(plain.as_ref()).unwrap();
        for other in [
            DataType::Utf8View,
            DataType::LargeUtf8,
            DataType::Binary,
            DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8)),
            DataType::RunEndEncoded(
                Arc::new(Field::new("run_ends", DataType::Int32, false)),
                Arc::new(Field::new("values", DataType::Utf8, true)),
            ),
        ] {
            let array = cast(&plain, &other).unwrap();
            assert_eq!(values(array.as_ref()).unwrap(), want, "{other}");
            assert_eq!(values(array.slice(1, 3).as_ref()).unwrap(), want[1..4], "{other}, sliced");
        }
        let views = StringViewArray::from_iter(plain.as_string::<i32>().iter());
        assert_eq!(values(&views).unwrap(), want);
    }

    #[test]
    fn only_what_is_valid_counts() {
        let under = Int32Array::new(vec![7, 8].into(), Some(NullBuffer::from(vec![false, true])));
        let other = Int32Array::new(vec![9, 8].into(), Some(NullBuffer::from(vec![false, true])));
        assert_eq!(values(&under).unwrap(), values(&other).unwrap());
        assert_eq!(values(new_null_array(&DataType::Int32, 1).as_ref()).unwrap(), vec![NULL]);
    }

    #[test]
    fn order_of_columns_and_elements_matters() {
        let a: ArrayRef = Arc::new(Int32Array::from(vec![1]));
        let b: ArrayRef = Arc::new(Int32Array::from(vec![2]));
        let one = hash_rows(&[Arc::clone(&a), Arc::clone(&b)], 1).unwrap();
        assert_ne!(one, hash_rows(&[b, a], 1).unwrap());
        assert_ne!(list(&[1, 2], 0, 2), list(&[2, 1], 0, 2));
    }
}
