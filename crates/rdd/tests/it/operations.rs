//! Laws of orders, joins, samples, numbers and files: each operation gives what a plain program computes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::Read;
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use rdd::{Compression, Direction, Error, Str, task};

use crate::runner::{context, context_with};

fn sorted<T: Ord>(mut rows: Vec<T>) -> Vec<T> {
    rows.sort();
    rows
}

/// Pairs of every kind of join, by two nested loops.
#[expect(clippy::type_complexity, reason = "four kinds of rows, each spelled once")]
fn joined(left: &[(u8, i16)], right: &[(u8, i8)]) -> [Vec<(u8, (Option<i16>, Option<i8>))>; 4] {
    let mut both = Vec::new();
    for (key, value) in left {
        both.extend(right.iter().filter(|(k, _)| k == key).map(|(_, other)| (*key, (Some(*value), Some(*other)))));
    }
    let only_left: Vec<_> = left.iter().filter(|(key, _)| !right.iter().any(|(k, _)| k == key)).collect();
    let only_right: Vec<_> = right.iter().filter(|(key, _)| !left.iter().any(|(k, _)| k == key)).collect();
    let with_left = [both.clone(), only_left.iter().map(|(k, v)| (*k, (Some(*v), None))).collect()].concat();
    let with_right = [both.clone(), only_right.iter().map(|(k, w)| (*k, (None, Some(*w)))).collect()].concat();
    let with_all = [with_left.clone(), only_right.iter().map(|(k, w)| (*k, (None, Some(*w)))).collect()].concat();
    [both, with_left, with_right, with_all].map(sorted)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn sorts_are_those_of_lists(
        rows in prop::collection::vec(("[a-c]{0,9}", any::<i16>()), 0..300),
        parts in 1u32..7,
        into in 1u32..9,
        memory in prop::sample::select(vec![0, u64::MAX]),
    ) {
        let (ctx, runner) = context_with(4, memory);
        let rdd = ctx.parallelize_into(rows.clone(), parts);
        let by_key = rdd.sort_by_key().unwrap();
        prop_assert!(by_key.partitions() <= parts);
        let keys: Vec<String> = by_key.keys().collect().unwrap();
        prop_assert_eq!(keys, sorted(rows.iter().map(|(key, _)| key.clone()).collect()));
        prop_assert_eq!(sorted(by_key.collect().unwrap()), sorted(rows.clone()));
        let down = rdd.sort_by_key_into(Direction::Descending, into).unwrap();
        if let [first, .., last] = &rows[..] {
            let among = rows.iter().filter(|row| (&first.0..=&last.0).contains(&&row.0)).count() as u64;
            for in_order in [&by_key, &down] {
                prop_assert_eq!(in_order.filter_by_range(first.0.clone(), last.0.clone()).count().unwrap(), among);
            }
        }
        prop_assert!(down.partitions() <= into);
        let keys: Vec<String> = down.keys().collect().unwrap();
        prop_assert_eq!(keys, sorted(rows.iter().map(|(key, _)| key.clone()).collect()).into_iter().rev().collect::<Vec<_>>());
        let by_number = rdd.sort_by(|(key, number)| (*number, key.clone())).unwrap().collect().unwrap();
        let mut expected = rows.clone();
        expected.sort_by_key(|(key, number)| (*number, key.clone()));
        prop_assert_eq!(by_number, expected.clone());
        let down = rdd.sort_by_into(|(_, number)| *number, Direction::Descending, into).unwrap().collect().unwrap();
        prop_assert!(down.is_sorted_by(|a, b| a.1 >= b.1));
        prop_assert_eq!(sorted(down), sorted(rows.clone()));
        let within = rdd.repartition_and_sort_within_partitions(into);
        let placed = within.glom().collect().unwrap();
        prop_assert!(placed.iter().all(|part| part.is_sorted_by(|a, b| a.0 <= b.0)));
        prop_assert_eq!(sorted(placed.concat()), sorted(rows.clone()));
        prop_assert_eq!(within.glom().collect().unwrap().concat().len(), rdd.partition_by(into).count().unwrap() as usize);
        prop_assert_eq!(rdd.take_ordered(5).unwrap(), sorted(rows.clone()).into_iter().take(5).collect::<Vec<_>>());
        prop_assert_eq!(rdd.top(5).unwrap(), sorted(rows.clone()).into_iter().rev().take(5).collect::<Vec<_>>());
        let top: Vec<i16> = rdd.top_by(7, |(_, number)| *number).unwrap().into_iter().map(|(_, number)| number).collect();
        let mut numbers = sorted(rows.iter().map(|(_, number)| *number).collect());
        numbers.reverse();
        numbers.truncate(7);
        prop_assert_eq!(top, numbers);
        prop_assert_eq!(rdd.take_ordered_by(1, |(_, number)| *number).unwrap().first().map(|row| row.1), rows.iter().map(|row| row.1).min());
        prop_assert_eq!(rdd.min().unwrap(), rows.iter().min().cloned());
        prop_assert_eq!(rdd.max().unwrap(), rows.iter().max().cloned());
        prop_assert_eq!(runner.memory.lent(), 0);
    }

    #[test]
    fn joins_are_those_of_nested_loops(
        left in prop::collection::vec((0u8..12, any::<i16>()), 0..60),
        right in prop::collection::vec((0u8..12, any::<i8>()), 0..60),
        parts in 1u32..5,
        memory in prop::sample::select(vec![0, u64::MAX]),
    ) {
        let (ctx, _) = context_with(4, memory);
        let a = ctx.parallelize_into(left.clone(), parts);
        let b = ctx.parallelize_into(right.clone(), 3);
        let [both, with_left, with_right, with_all] = joined(&left, &right);
        let inner = a.join(&b).map_values(|(v, w)| (Some(v), Some(w)));
        prop_assert_eq!(sorted(inner.collect().unwrap()), both.clone());
        prop_assert_eq!(sorted(a.left_outer_join(&b).map_values(|(v, w)| (Some(v), w)).collect().unwrap()), with_left);
        prop_assert_eq!(sorted(a.right_outer_join(&b).map_values(|(v, w)| (v, Some(w))).collect().unwrap()), with_right);
        prop_assert_eq!(sorted(a.full_outer_join(&b).collect().unwrap()), with_all);
        let placed = a.partition_by(4).join(&b.partition_by(4)).map_values(|(v, w)| (Some(v), Some(w)));
        prop_assert_eq!(sorted(placed.collect().unwrap()), both);

        let keys: BTreeSet<u8> = right.iter().map(|(key, _)| *key).collect();
        let rest: Vec<_> = left.iter().filter(|(key, _)| !keys.contains(key)).copied().collect();
        prop_assert_eq!(sorted(a.subtract_by_key(&b).collect().unwrap()), sorted(rest));
        let others: Vec<(u8, i16)> = left.iter().step_by(3).copied().collect();
        let c = ctx.parallelize_into(others.clone(), 2);
        let rest: Vec<_> = left.iter().filter(|row| !others.contains(row)).copied().collect();
        prop_assert_eq!(sorted(a.subtract(&c).collect().unwrap()), sorted(rest));
        let shared: BTreeSet<_> = others.iter().copied().collect();
        prop_assert_eq!(sorted(a.intersection(&c).collect().unwrap()), shared.into_iter().collect::<Vec<_>>());

        let mut counts: HashMap<u8, u64> = HashMap::new();
        left.iter().for_each(|(key, _)| *counts.entry(*key).or_default() += 1);
        prop_assert_eq!(a.count_by_key().unwrap(), counts.clone());
        prop_assert_eq!(a.keys().count_by_value().unwrap(), counts);
        prop_assert_eq!(a.values().collect().unwrap(), left.iter().map(|row| row.1).collect::<Vec<_>>());
        let some: Vec<i16> = left.iter().filter(|row| row.0 == 5).map(|row| row.1).collect();
        prop_assert_eq!(a.lookup(&5).unwrap(), some.clone());
        prop_assert_eq!(sorted(a.partition_by(4).lookup(&5).unwrap()), sorted(some));
        prop_assert_eq!(a.filter_by_range(3, 7).collect().unwrap(), left.iter().filter(|row| (3..=7).contains(&row.0)).copied().collect::<Vec<_>>());
        prop_assert_eq!(a.flat_map_values(|v| [v; 2]).collect().unwrap(), left.iter().flat_map(|&row| [row; 2]).collect::<Vec<_>>());
        let groups = a.group_by(|(key, _)| key % 3).map_values(|rows| rows.len() as u64).collect_as_map().unwrap();
        let mut expected: HashMap<u8, u64> = HashMap::new();
        left.iter().for_each(|(key, _)| *expected.entry(key % 3).or_default() += 1);
        prop_assert_eq!(groups, expected);
    }

    #[test]
    fn rows_are_numbered_and_brought_together(
        rows in prop::collection::vec(any::<i32>(), 0..120), others in prop::collection::vec(any::<u8>(), 0..30), parts in 1u32..6,
    ) {
        let (ctx, _) = context();
        let rdd = ctx.parallelize_into(rows.clone(), parts);
        let numbered: Vec<_> = rows.iter().copied().zip(0u64..).collect();
        prop_assert_eq!(rdd.zip_with_index().unwrap().collect().unwrap(), numbered);
        let ids: BTreeSet<u64> = rdd.zip_with_unique_id().values().collect().unwrap().into_iter().collect();
        prop_assert_eq!(ids.len(), rows.len());
        let twice = rdd.map(|x| i64::from(x) * 2);
        prop_assert_eq!(rdd.zip(&twice).collect().unwrap(), rows.iter().map(|&x| (x, i64::from(x) * 2)).collect::<Vec<_>>());
        let lengths = rdd.zip_partitions(&twice, |a, b| [a.count() + b.count()]).collect().unwrap();
        prop_assert_eq!(lengths.len(), parts as usize);
        prop_assert_eq!(lengths.iter().sum::<usize>(), 2 * rows.len());
        let all = ctx.parallelize_into(others.clone(), 2);
        let product = rdd.cartesian(&all);
        prop_assert_eq!(product.partitions(), parts * 2);
        let expected: Vec<_> = rows.iter().flat_map(|&a| others.iter().map(move |&b| (a, b))).collect();
        prop_assert_eq!(sorted(product.collect().unwrap()), sorted(expected));
        let local: Vec<i32> = rdd.to_local_iterator().map(Result::unwrap).collect();
        prop_assert_eq!(local, rows.clone());
        prop_assert_eq!(rdd.is_empty().unwrap(), rows.is_empty());
    }

    #[test]
    fn numbers_are_summed_up(rows in prop::collection::vec(-1_000i32..1_000, 1..200), parts in 1u32..40) {
        let (ctx, _) = context();
        let rdd = ctx.parallelize_into(rows.clone(), parts);
        prop_assert_eq!(rdd.sum().unwrap(), rows.iter().sum::<i32>());
        let mean = f64::from(rows.iter().sum::<i32>()) / rows.len() as f64;
        prop_assert!((rdd.mean().unwrap() - mean).abs() < 1e-6);
        let stats = rdd.stats().unwrap();
        prop_assert_eq!(stats.count(), rows.len() as u64);
        prop_assert_eq!((stats.min(), stats.max()), (f64::from(*rows.iter().min().unwrap()), f64::from(*rows.iter().max().unwrap())));
        prop_assert!((rdd.stdev().unwrap().powi(2) - rdd.variance().unwrap()).abs() < 1e-6);
        let (edges, counts) = rdd.histogram(7).unwrap();
        prop_assert_eq!(edges.len(), counts.len() + 1);
        prop_assert_eq!(counts.iter().sum::<u64>(), rows.len() as u64);
        let positive = rdd.histogram_between(&[0.0, 500.0, 2_000.0]).unwrap();
        prop_assert_eq!(positive[0], rows.iter().filter(|x| (0..500).contains(*x)).count() as u64);
        prop_assert_eq!(rdd.tree_reduce(|a, b| a.max(b), 3).unwrap(), rows.iter().copied().max());
        let all = rdd.tree_aggregate(Vec::new(), |mut list: Vec<i32>, x| { list.push(x); list }, |a, b| [a, b].concat(), 2).unwrap();
        prop_assert_eq!(sorted(all), sorted(rows));
    }

    #[test]
    fn a_split_loses_no_row(rows in prop::collection::vec(any::<u32>(), 0..300), seed: u64) {
        let (ctx, _) = context();
        let rdd = ctx.parallelize_into(rows.clone(), 3);
        let parts = rdd.random_split(&[1.0, 2.0, 1.0], seed);
        let split: Vec<u32> = parts.iter().flat_map(|part| part.collect().unwrap()).collect();
        prop_assert_eq!(sorted(split), sorted(rows.clone()));
        let sample = rdd.sample(false, 0.5, seed);
        prop_assert_eq!(sample.collect().unwrap(), sample.collect().unwrap());
        let taken = rdd.take_sample(false, 20, seed).unwrap();
        prop_assert_eq!(taken.len(), rows.len().min(20));
        let mut left = rows.clone();
        for row in taken {
            let at = left.iter().position(|&other| other == row);
            prop_assert!(at.is_some(), "each row is taken once at most");
            left.swap_remove(at.unwrap());
        }
        let often = rdd.take_sample(true, 50, seed).unwrap();
        prop_assert_eq!(often.len(), if rows.is_empty() { 0 } else { 50 });
        prop_assert!(often.iter().all(|row| rows.contains(row)));
    }
}

#[test]
fn a_sample_by_key_keeps_each_fraction() {
    let (ctx, _) = context();
    let rdd = ctx.range_into(0..30_000u32, 4).map(|n| (n % 3, n));
    let fractions = HashMap::from([(0, 0.1), (1, 0.5)]);
    for with_replacement in [false, true] {
        let counts = rdd.sample_by_key(with_replacement, fractions.clone(), 9).count_by_key().unwrap();
        assert!((900..1_100).contains(&counts[&0]), "{counts:?}");
        assert!((4_700..5_300).contains(&counts[&1]), "{counts:?}");
        assert!(!counts.contains_key(&2));
    }
}

#[test]
fn captured_keys_order_and_partition() {
    let (ctx, _) = context();
    let modulus = 17u32;
    let rdd = ctx.range_into(0..1_000u32, 5);
    let ranked = rdd.sort_by(task!(move [modulus] |n: &u32| n % modulus)).unwrap().collect().unwrap();
    assert!(ranked.is_sorted_by_key(|n| n % 17));
    assert_eq!(rdd.top_by(1, task!(move [modulus] |n: &u32| (n % modulus, *n))).unwrap(), [999 / 17 * 17 - 1]);
}

#[test]
fn partitions_of_a_sort_are_about_equal_and_in_order() {
    let (ctx, _) = context();
    let rdd = ctx.range_into(0..40_000u64, 4).map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40, n));
    let parts = rdd.sort_by_key_into(Direction::Ascending, 8).unwrap().glom().collect().unwrap();
    assert_eq!(parts.len(), 8);
    let sizes: Vec<usize> = parts.iter().map(Vec::len).collect();
    assert!(sizes.iter().all(|n| (2_000..9_500).contains(n)), "{sizes:?}");
    assert!(parts.concat().is_sorted_by_key(|(key, _)| *key));
}

#[test]
fn a_range_of_keys_is_sought_where_it_lies() {
    let (ctx, runner) = context();
    let rdd = ctx.range_into(0..8_000u32, 4).map(|n| (n.wrapping_mul(2_654_435_761) >> 8, n)).cache();
    for direction in [Direction::Ascending, Direction::Descending] {
        let sorted = rdd.sort_by_key_into(direction, 8).unwrap().map_values(|n| n + 1);
        let all = sorted.collect().unwrap();
        let (lower, upper) = (all[3_000].0.min(all[3_100].0), all[3_000].0.max(all[3_100].0));
        let some = sorted.filter_by_range(lower, upper);
        assert!((1..=3).contains(&some.partitions()), "{} of 8 partitions", some.partitions());
        assert_eq!(some.collect().unwrap(), all[3_000..=3_100]);
        let tasks = runner.state().ran.last().unwrap().1.last().unwrap().1;
        assert_eq!(tasks, some.partitions(), "the others are not computed");
        assert!(some.map_values(|n| n - 1).partitioning().is_none(), "its partitions have other numbers");
        assert_eq!(sorted.filter_by_range(0, u32::MAX).partitioning(), sorted.partitioning());
        assert_eq!(sorted.filter_by_range(7, 3).count().unwrap(), 0);
    }
}

#[test]
fn a_join_of_datasets_that_lie_alike_moves_nothing() {
    let (ctx, runner) = context();
    let a = ctx.parallelize((0..50u32).map(|n| (n % 7, n))).reduce_by_key_into(|a, b| a + b, 4);
    let b = ctx.parallelize((0..50u32).map(|n| (n % 5, n))).reduce_by_key_into(|a, b| a + b, 4);
    let joined = a.map_values(|n| n + 1).join(&b.filter(|(key, _)| *key > 0));
    assert_eq!(joined.count().unwrap(), 4);
    assert_eq!(runner.last_stages().len(), 3, "one stage for each side's reduction, none for the join");
}

#[test]
fn distinct_rows_are_counted_about_right() {
    let (ctx, _) = context();
    let rdd = ctx.range_into(0..100_000u64, 7).map(|n| n % 20_000);
    let estimate = rdd.count_approx_distinct(0.02).unwrap();
    assert!((18_500..21_500).contains(&estimate), "{estimate}");
}

#[test]
fn what_makes_no_sense_is_said() {
    let (ctx, _) = context();
    let few = ctx.parallelize_into([1, 2, 3], 2);
    let other = ctx.parallelize_into([1, 2], 2);
    let error = few.zip(&other).collect().unwrap_err();
    assert!(error.to_string().contains("zip") || format!("{error:?}").contains("more rows"), "{error:?}");
    assert!(matches!(few.zip(&ctx.parallelize_into([1, 2, 3], 3)).collect(), Err(Error::Invalid(_))));
    assert!(matches!(few.histogram(0), Err(Error::Invalid(_))));
    assert!(matches!(few.histogram_between(&[2.0, 1.0]), Err(Error::Invalid(_))));
    assert!(matches!(ctx.empty::<f64>().histogram(3), Err(Error::Invalid(_))));
    assert!(matches!(few.tree_reduce(|a, _| a, 0), Err(Error::Invalid(_))));
    assert!(matches!(ctx.text_file("/nowhere/at/all"), Err(Error::Failure(_))));
}

#[test]
fn rows_go_through_a_program() {
    let (ctx, _) = context();
    let rdd = ctx.range_into(0..100u32, 3);
    let lines: Vec<Str> = rdd.pipe(["grep", "-x", ".."]).collect().unwrap();
    assert_eq!(
        lines,
        (10..100).map(|n| n.to_string()).collect::<Vec<_>>().iter().map(String::as_str).collect::<Vec<_>>()
    );
    let error = format!("{:?}", rdd.pipe(["sh", "-c", "echo no luck >&2; exit 3"]).collect().unwrap_err());
    assert!(error.contains("no luck"), "{error}");
    let early = rdd.pipe(["head", "-n", "1"]).collect().unwrap();
    assert_eq!(early.len(), 3, "a program that stops reading is no error");
    assert!(rdd.pipe(["/no/such/program"]).collect().is_err());
    assert!(matches!(rdd.pipe(Vec::<String>::new()).collect(), Err(Error::Invalid(_))));
}

#[test]
fn files_are_read_as_lines_texts_and_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("a.txt"), "one two\nthree\r\n").unwrap();
    fs::write(path("b.txt"), b"f\xffur").unwrap();
    fs::write(path("_hidden"), "no").unwrap();
    let (ctx, runner) = context();
    let lines = ctx.text_file(folder.path().to_str().unwrap()).unwrap();
    assert_eq!(lines.collect().unwrap(), ["one two", "three", "f\u{fffd}ur"]);
    let warnings = std::mem::take(&mut runner.state().warnings);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let words = lines.flat_map(|line| line.split_whitespace()).map(|word| (word, 1u64)).reduce_by_key(|a, b| a + b);
    assert_eq!(words.collect_as_map().unwrap().len(), 4);
    let texts = ctx.whole_text_files(&path("*.txt")).unwrap().collect().unwrap();
    assert_eq!(
        texts.iter().map(|(name, text)| (name.rsplit('/').next().unwrap(), text.as_str())).collect::<Vec<_>>(),
        [("a.txt", "one two\nthree\r\n"), ("b.txt", "f\u{fffd}ur")]
    );
    let bytes = ctx.binary_files(&path("b.txt")).unwrap().values().collect().unwrap();
    assert_eq!(bytes[0], &b"f\xffur"[..]);
    fs::remove_file(path("b.txt")).unwrap();
    let gone = format!("{:?}", lines.count().unwrap_err());
    assert!(gone.contains("b.txt") && gone.contains("Query"), "{gone}");
}

#[test]
fn long_files_are_cut_and_every_line_is_one_partitions() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.txt");
    let lines: Vec<String> = (0..30_000).map(|n| format!("{n} {}", "é".repeat(n % 40))).collect();
    fs::write(&path, lines.join("\n")).unwrap();
    let (ctx, _) = context();
    for partitions in [1, 3, 16] {
        let rdd = ctx.text_file_into(path.to_str().unwrap(), partitions).unwrap();
        assert_eq!(rdd.partitions(), partitions);
        assert!(rdd.collect().unwrap() == lines.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

#[test]
fn rows_are_saved_as_staged_files() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let (ctx, runner) = context();
    runner.fail_first.store(1, Ordering::SeqCst);
    let rdd = ctx.range_into(0..1_000u32, 3);
    let report = rdd.save_as_text_file(out.to_str().unwrap()).unwrap();
    assert_eq!((report.files, report.rows), (3, 1_000));
    let texts = |compression: &str| -> BTreeMap<String, Vec<u8>> {
        let mut texts = BTreeMap::new();
        let mut folders = vec![out.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                if entry.is_dir() {
                    folders.push(entry);
                } else {
                    texts.insert(format!("{compression}{}", entry.display()), fs::read(&entry).unwrap());
                }
            }
        }
        texts
    };
    let staged = texts("");
    assert_eq!(staged.len(), 3 + 1, "an attempt that was thrown away staged a file of its own");
    assert!(staged.keys().all(|name| name.contains("/_vonk/stage/")), "{:?}", staged.keys());
    let all: BTreeSet<&str> = staged.values().flat_map(|text| std::str::from_utf8(text).unwrap().lines()).collect();
    assert_eq!(all.len(), 1_000);

    fs::remove_dir_all(&out).unwrap();
    rdd.save().compression(Compression::Gzip).text(out.to_str().unwrap()).unwrap();
    let mut text = String::new();
    for bytes in texts("").values() {
        flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
    }
    assert_eq!(text.lines().count(), 1_000);
    assert!(matches!(rdd.save().compression(Compression::Bzip2).text("/nowhere"), Err(Error::Invalid(_))));
}
