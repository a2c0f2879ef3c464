//! Does every row of a batch arrive, whatever its types?

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryViewBuilder, BooleanArray, Decimal128Array, DictionaryArray, FixedSizeBinaryArray,
    FixedSizeListArray, Float64Array, Int32Builder, Int64Array, ListArray, MapBuilder, NullArray, RecordBatch,
    RecordBatchOptions, StringArray, StringBuilder, StringViewArray, StructArray, TimestampMicrosecondArray,
    UInt8Array, UnionArray,
};
use arrow::buffer::ScalarBuffer;
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field, Int8Type, Int32Type, Schema, SchemaRef, UnionFields};
use model::shuffle::{Codec, RowKind, ShuffleSpec};
use object_store::memory::InMemory;
use proptest::prelude::*;
use shuffle::rowhash::hash_rows;
use shuffle::{Budget, Error, schema_message};

use crate::setup::{World, budget, spec};

/// A column of every type, from one list of numbers.
fn columns(numbers: &[Option<i64>]) -> Vec<(&'static str, ArrayRef)> {
    let text = |n: &Option<i64>| n.map(|n| format!("{n} and {}", "more ".repeat((n.unsigned_abs() % 9) as usize)));
    let texts: Vec<Option<String>> = numbers.iter().map(text).collect();
    let ints: ArrayRef = Arc::new(Int64Array::from(numbers.to_vec()));
    let strings: ArrayRef = Arc::new(StringArray::from(texts.clone()));
    let lists = ListArray::from_iter_primitive::<Int32Type, _, _>(
        numbers
            .iter()
            .map(|n| n.map(|n| (0..n.rem_euclid(4)).map(|i| (i != 2).then_some(i as i32)).collect::<Vec<_>>())),
    );
    let mut views = BinaryViewBuilder::new();
    texts.iter().for_each(|text| views.append_option(text.as_ref().map(String::as_bytes)));
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    for n in numbers {
        (0..n.unwrap_or(0).rem_euclid(3)).for_each(|i| {
            map.keys().append_value(format!("k{i}"));
            map.values().append_value(i as i32);
        });
        map.append(n.is_some()).unwrap();
    }
    let short: Vec<Option<String>> = numbers.iter().map(|n| n.map(|n| (n % 5).to_string())).collect();
    let dictionary: DictionaryArray<Int8Type> = short.iter().map(Option::as_deref).collect();
    let dictionary: ArrayRef = Arc::new(dictionary);
    let run_type = DataType::RunEndEncoded(
        Arc::new(Field::new("run_ends", DataType::Int32, false)),
        Arc::new(Field::new("values", DataType::Int64, true)),
    );
    let runs = cast(&ints, &run_type).unwrap();
    let view_strings: ArrayRef = Arc::new(texts.iter().map(Option::as_deref).collect::<StringViewArray>());
    let fields = vec![
        (Arc::new(Field::new("a", ints.data_type().clone(), true)), Arc::clone(&ints)),
        (Arc::new(Field::new("v", view_strings.data_type().clone(), true)), Arc::clone(&view_strings)),
        (Arc::new(Field::new("d", dictionary.data_type().clone(), true)), Arc::clone(&dictionary)),
    ];
    let nested = StructArray::from(fields);
    let (mut of_dictionary, mut offsets) = (Vec::new(), vec![0i32]);
    for n in numbers {
        of_dictionary.extend((0..n.unwrap_or(0).rem_euclid(3)).map(|i| Some(format!("w{i}"))));
        offsets.push(of_dictionary.len() as i32);
    }
    let words: DictionaryArray<Int8Type> = of_dictionary.iter().map(Option::as_deref).collect();
    let list_of_dictionary = ListArray::new(
        Arc::new(Field::new("item", words.data_type().clone(), true)),
        arrow::buffer::OffsetBuffer::new(offsets.into()),
        Arc::new(words),
        None,
    );
    let pairs: Int64Array = numbers.iter().flat_map(|n| [*n, Some(1)]).collect();
    let fixed = FixedSizeListArray::new(Arc::new(Field::new("item", DataType::Int64, true)), 2, Arc::new(pairs), None);
    let bytes = numbers.iter().map(|n| n.map(i64::to_be_bytes));
    let types: ScalarBuffer<i8> = numbers.iter().map(|n| n.unwrap_or(0).rem_euclid(2) as i8).collect();
    let union_fields =
        UnionFields::try_new([0, 1], [Field::new("i", DataType::Int64, true), Field::new("s", DataType::Utf8, true)])
            .unwrap();
    let union = UnionArray::try_new(union_fields, types, None, vec![Arc::clone(&ints), Arc::clone(&strings)]).unwrap();
    vec![
        ("int", Arc::clone(&ints)),
        ("byte", Arc::new(numbers.iter().map(|n| n.map(|n| n as u8)).collect::<UInt8Array>())),
        ("float", Arc::new(numbers.iter().map(|n| n.map(|n| n as f64 / 3.0)).collect::<Float64Array>())),
        ("bool", Arc::new(numbers.iter().map(|n| n.map(|n| n % 2 == 0)).collect::<BooleanArray>())),
        ("time", Arc::new(TimestampMicrosecondArray::from(numbers.to_vec()).with_timezone("UTC"))),
        ("decimal", Arc::new(numbers.iter().map(|n| n.map(i128::from)).collect::<Decimal128Array>())),
        ("null", Arc::new(NullArray::new(numbers.len()))),
        ("utf8", Arc::clone(&strings)),
        ("large", cast(&strings, &DataType::LargeUtf8).unwrap()),
        ("view", view_strings),
        ("binview", Arc::new(views.finish())),
        ("fixed", Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(bytes, 8).unwrap())),
        ("list", Arc::new(lists)),
        ("fixedlist", Arc::new(fixed)),
        ("map", Arc::new(map.finish())),
        ("struct", Arc::new(nested)),
        ("dictionary", dictionary),
        ("listdict", Arc::new(list_of_dictionary)),
        ("runs", runs),
        ("union", Arc::new(union)),
    ]
}

fn batch(numbers: &[Option<i64>], choose: &[bool]) -> RecordBatch {
    let columns = columns(numbers).into_iter().zip(choose).filter(|(_, chosen)| **chosen).map(|(column, _)| column);
    let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) =
        columns.map(|(name, array)| (Field::new(name, array.data_type().clone(), true), array)).unzip();
    let rows = RecordBatchOptions::new().with_row_count(Some(numbers.len()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &rows).unwrap()
}

fn spec_of(schema: &SchemaRef, maps: u32, partitions: u32) -> ShuffleSpec {
    let kind = RowKind::Arrow { schema: schema_message(schema).unwrap() };
    ShuffleSpec { kind, ..spec(maps, partitions) }
}

/// What a row is, whatever its representation; row hashes see every value.
fn fingerprints(batch: &RecordBatch) -> Vec<u64> {
    hash_rows(batch.columns(), batch.num_rows()).unwrap()
}

fn round_trip(spec: ShuffleSpec, budget: Budget, maps: &[Vec<(RecordBatch, Vec<u32>)>]) {
    let mut world = World::new(Arc::new(InMemory::new()), spec, budget);
    let partitions = world.spec.partitions;
    let mut want = vec![Vec::new(); partitions as usize];
    let handed_over = maps.iter().enumerate().map(|(map, batches)| {
        let mut member = world.member(map as u32);
        for (batch, to) in batches {
            member.write_batch(batch, to).unwrap();
            to.iter().zip(fingerprints(batch)).for_each(|(to, row)| want[*to as usize].push(row));
        }
        member.finish().unwrap()
    });
    let handed_over = handed_over.collect();
    for output in world.stored(handed_over).unwrap() {
        world.accept(output);
    }
    for partition in 0..partitions {
        let (blocks, _) = world.read(partition, partition + 1).unwrap();
        let mut got = Vec::new();
        for block in &blocks {
            if let Some((batch, _)) = maps.iter().flatten().next() {
                assert_eq!(block.batch().schema(), batch.schema());
            }
            assert_eq!(block.rows(), block.batch().num_rows());
            got.extend(fingerprints(&block.batch()));
        }
        got.sort_unstable();
        want[partition as usize].sort_unstable();
        assert_eq!(got, want[partition as usize], "partition {partition}");
    }
    assert_eq!(world.runtime.memory_used(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn random_batches_of_all_types_survive(
        maps in prop::collection::vec(
            prop::collection::vec(prop::collection::vec((any::<Option<i16>>(), 0u32..3), 1..40), 1..4), 1..3),
        choose in prop::collection::vec(any::<bool>(), 20),
        slice in any::<bool>(),
        tiny in any::<bool>(),
        codec in prop_oneof![Just(Codec::None), Just(Codec::Lz4), Just(Codec::Zstd)],
        inline_max in prop_oneof![Just(0u32), Just(1 << 20)],
    ) {
        let make = |rows: &Vec<(Option<i16>, u32)>| {
            let numbers: Vec<Option<i64>> = rows.iter().map(|(n, _)| n.map(i64::from)).collect();
            let to: Vec<u32> = rows.iter().map(|(_, to)| *to).collect();
            let batch = batch(&numbers, &choose);
            if slice && rows.len() > 1 {
                (batch.slice(1, rows.len() - 1), to[1..].to_vec())
            } else {
                (batch, to)
            }
        };
        let maps: Vec<Vec<_>> = maps.iter().map(|batches| batches.iter().map(make).collect()).collect();
        let spec = ShuffleSpec { codec, inline_max, ..spec_of(&maps[0][0].0.schema(), maps.len() as u32, 3) };
        let tiny_budget =
            Budget { raw_bytes: 8 << 10, encoded_bytes: 16 << 10, object_target: 8 << 10, read_piece: 999, ..budget() };
        round_trip(spec, if tiny { tiny_budget } else { budget() }, &maps);
    }
}

#[test]
fn values_come_back_as_they_were() {
    let numbers: Vec<Option<i64>> = (0..200).map(|n| (n % 7 != 0).then_some(n)).collect();
    let whole = batch(&numbers, &[true; 20]);
    let mut world = World::new(Arc::new(InMemory::new()), spec_of(&whole.schema(), 1, 1), budget());
    let mut member = world.member(0);
    member.write_batch(&whole, &[0; 200]).unwrap();
    let output = world.stored(vec![member.finish().unwrap()]).unwrap().remove(0);
    world.accept(output);
    let batches: Vec<RecordBatch> = world.read(0, 1).unwrap().0.iter().map(|block| block.batch()).collect();
    let got = concat_batches(&whole.schema(), &batches).unwrap();
    for (index, column) in whole.columns().iter().enumerate() {
        let name = whole.schema().field(index).name().clone();
        if matches!(column.data_type(), DataType::RunEndEncoded(..)) {
            let plain = |array: &ArrayRef| cast(array, &DataType::Int64).unwrap();
            assert_eq!(&plain(got.column(index)), &plain(column), "{name}");
        } else {
            assert_eq!(got.column(index), column, "{name}");
        }
    }
}

#[test]
fn rows_without_columns_are_still_rows() {
    let empty = batch(&[None; 10], &[]);
    round_trip(spec_of(&empty.schema(), 1, 2), budget(), &[vec![(empty, vec![0, 1, 1, 0, 1, 1, 1, 1, 1, 1])]]);
}

#[test]
fn a_block_may_have_more_words_than_a_dictionary_has_keys() {
    let words = |batch: i32| (0..100).map(move |i| format!("word {batch} {i}")).collect::<Vec<_>>();
    let batches: Vec<(RecordBatch, Vec<u32>)> = (0..5)
        .map(|n| {
            let words = words(n);
            let column: DictionaryArray<Int8Type> = words.iter().map(|word| Some(word.as_str())).collect();
            (RecordBatch::try_from_iter([("word", Arc::new(column) as ArrayRef)]).unwrap(), vec![0; 100])
        })
        .collect();
    let schema = Schema::new(vec![Field::new("word", batches[0].0.column(0).data_type().clone(), true)]);
    let schema = Arc::new(schema);
    let batches = batches
        .into_iter()
        .map(|(batch, to)| (RecordBatch::try_new(Arc::clone(&schema), batch.columns().to_vec()).unwrap(), to))
        .collect();
    round_trip(spec_of(&schema, 1, 1), budget(), &[batches]);
}

#[test]
fn a_view_ships_only_its_own_bytes() {
    let long = "x".repeat(1_000);
    let all: StringViewArray = (0..1_000).map(|i| Some(format!("{i} {long}"))).collect();
    let one = RecordBatch::try_from_iter_with_nullable([("v", Arc::new(all) as ArrayRef, true)]).unwrap().slice(5, 1);
    let world = World::new(Arc::new(InMemory::new()), spec_of(&one.schema(), 1, 1), budget());
    let mut member = world.member(0);
    member.write_batch(&one, &[0]).unwrap();
    let output = world.stored(vec![member.finish().unwrap()]).unwrap().remove(0);
    assert!(output.stored_bytes < 2_500, "{}", output.stored_bytes);
}

#[test]
fn a_batch_of_another_schema_is_refused() {
    let announced = batch(&[Some(1)], &[true, true]);
    let world = World::new(Arc::new(InMemory::new()), spec_of(&announced.schema(), 1, 1), budget());
    let mut member = world.member(0);
    for other in [batch(&[Some(1)], &[true]), batch(&[Some(1)], &[true, false, true])] {
        assert!(matches!(member.write_batch(&other, &[0]), Err(Error::Encode { .. })));
    }
    assert!(matches!(member.write_batch(&announced, &[0, 0]), Err(Error::Misuse { .. })));
    assert!(matches!(member.write_batch(&announced, &[1]), Err(Error::Misuse { .. })));
    member.write_batch(&announced, &[0]).unwrap();
}
