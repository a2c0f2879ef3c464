//! Laws and promises of the core operations.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use rdd::{Error, StorageLevel, task};

use crate::runner::{context, context_with};

fn sorted<T: Ord>(mut rows: Vec<T>) -> Vec<T> {
    rows.sort();
    rows
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn narrow_operations_are_those_of_iterators(rows in prop::collection::vec(any::<i32>(), 0..200), parts in 1u32..9) {
        let (ctx, _) = context();
        let rdd = ctx.parallelize_into(rows.clone(), parts);
        prop_assert_eq!(rdd.collect().unwrap(), rows.clone());
        prop_assert_eq!(rdd.count().unwrap(), rows.len() as u64);
        let chained = rdd.map(|x| i64::from(x) * 2).filter(|x| x % 3 == 0).flat_map(|x| [x, -x]);
        let plain: Vec<_> =
            rows.iter().map(|&x| i64::from(x) * 2).filter(|x| x % 3 == 0).flat_map(|x| [x, -x]).collect();
        prop_assert_eq!(chained.collect().unwrap(), plain.clone());
        prop_assert_eq!(chained.erase().map(|x| x).collect().unwrap(), plain.clone());
        prop_assert_eq!(chained.map_partitions(|rows| rows.map(|x| x + 1)).collect().unwrap(),
            plain.iter().map(|x| x + 1).collect::<Vec<_>>());
        prop_assert_eq!(chained.take(7).unwrap(), plain.iter().take(7).copied().collect::<Vec<_>>());
        prop_assert_eq!(chained.reduce(|a, b| a.max(b)).unwrap(), plain.iter().copied().max());
        prop_assert_eq!(rdd.aggregate((0i64, 0u32), |(sum, n), x| (sum + i64::from(x), n + 1), |a, b| (a.0 + b.0, a.1 + b.1)).unwrap(),
            (rows.iter().map(|&x| i64::from(x)).sum(), rows.len() as u32));
        prop_assert_eq!(rdd.glom().collect().unwrap().concat(), rows.clone());
        prop_assert_eq!(rdd.glom().count().unwrap(), u64::from(parts));
        let both = rdd.union(&ctx.parallelize_into(rows.clone(), 3));
        prop_assert_eq!(both.partitions(), parts + 3);
        prop_assert_eq!(both.collect().unwrap(), [rows.clone(), rows.clone()].concat());
        let many = ctx.union([&rdd, &rdd, &rdd]).coalesce(2);
        prop_assert_eq!(many.collect().unwrap(), [rows.clone(), rows.clone(), rows].concat());
    }

    #[test]
    fn a_range_is_a_range(start in any::<i64>(), count in 0i64..300_000, parts in 1u32..9) {
        let end = start.saturating_add(count);
        let (ctx, _) = context();
        let rdd = ctx.range_into(start..end, parts);
        prop_assert_eq!(rdd.count().unwrap(), (end - start) as u64);
        prop_assert_eq!(rdd.map(|x| x).filter(|x| x % 1_000 == 0).collect().unwrap(), (start..end).filter(|x| x % 1_000 == 0).collect::<Vec<_>>());
        prop_assert_eq!(rdd.take(3).unwrap(), (start..end).take(3).collect::<Vec<_>>());
    }

    #[test]
    fn operations_by_key_are_those_of_a_map(
        pairs in prop::collection::vec(("[a-e]{0,2}", any::<u32>()), 0..200),
        others in prop::collection::vec(("[a-e]{0,2}", any::<i8>()), 0..50),
        parts in 1u32..6,
        memory in prop::sample::select(vec![0, u64::MAX]),
    ) {
        let (ctx, runner) = context_with(4, memory);
        let rdd = ctx.parallelize_into(pairs.clone(), parts);
        let mut groups: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        pairs.iter().for_each(|(key, value)| groups.entry(key.clone()).or_default().push(*value));
        let sums: Vec<_> = groups.iter().map(|(k, v)| (k.clone(), v.iter().fold(0u32, |a, b| a.wrapping_add(*b)))).collect();
        let add = |a: u32, b: u32| a.wrapping_add(b);
        prop_assert_eq!(sorted(rdd.reduce_by_key(add).collect().unwrap()), sums.clone());
        prop_assert_eq!(sorted(rdd.fold_by_key(0, add).collect().unwrap()), sums.clone());
        prop_assert_eq!(sorted(rdd.partition_by(3).reduce_by_key_into(add, 3).collect().unwrap()), sums);
        let lists = groups.clone().into_iter().map(|(k, v)| (k, sorted(v))).collect::<Vec<_>>();
        let grouped = rdd.group_by_key_into(2).map(|(k, mut v)| { v.sort(); (k, v) });
        prop_assert_eq!(sorted(grouped.collect().unwrap()), lists);
        let counts = rdd.aggregate_by_key(0u64, |n, _| n + 1, |a, b| a + b);
        prop_assert_eq!(sorted(counts.collect().unwrap()), groups.iter().map(|(k, v)| (k.clone(), v.len() as u64)).collect::<Vec<_>>());
        let longest = rdd.combine_by_key(|v| (v, v), |(a, b), v| (a.min(v), b.max(v)), |a, b| (a.0.min(b.0), a.1.max(b.1)));
        prop_assert_eq!(sorted(longest.collect().unwrap()), groups.iter().map(|(k, v)| (k.clone(), (*v.iter().min().unwrap(), *v.iter().max().unwrap()))).collect::<Vec<_>>());
        prop_assert_eq!(sorted(rdd.distinct().collect().unwrap()), pairs.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>());
        prop_assert_eq!(sorted(rdd.repartition(5).collect().unwrap()), sorted(pairs.clone()));

        let other = ctx.parallelize_into(others.clone(), 2);
        let mut both: BTreeMap<String, (Vec<u32>, Vec<i8>)> = BTreeMap::new();
        pairs.iter().for_each(|(key, value)| both.entry(key.clone()).or_default().0.push(*value));
        others.iter().for_each(|(key, value)| both.entry(key.clone()).or_default().1.push(*value));
        let sort = |(k, (v, w)): (String, (Vec<u32>, Vec<i8>))| (k, (sorted(v), sorted(w)));
        let cogrouped: Vec<_> = rdd.cogroup(&other).collect().unwrap().into_iter().map(sort).collect();
        prop_assert_eq!(sorted(cogrouped), both.into_iter().map(sort).collect::<Vec<_>>());
        prop_assert_eq!(runner.memory.lent(), 0, "all memory is given back");
    }
}

#[test]
fn what_a_function_captured_reaches_it() {
    let (ctx, _) = context();
    let (limit, names) = (3u64, vec!["zero".to_owned(), "one".to_owned(), "two".to_owned()]);
    let rdd = ctx.range(0u64..6);
    let small = rdd.filter(task!(move [limit] |x| *x < limit));
    let named = small.map(task!(move [&names] |x| names[x as usize].clone()));
    assert_eq!(named.collect().unwrap(), names);
    assert_eq!(
        rdd.map_with(10, |ten, x| x * ten).filter_with(20, |least, x| x > least).collect().unwrap(),
        [30, 40, 50]
    );
    assert_eq!(
        rdd.flat_map_with(vec![1, 2], |more, x| more.iter().map(move |m| m * x).collect::<Vec<_>>()).count().unwrap(),
        12
    );
    let pairs = rdd.map(|x| (x % 2, x));
    let sums = pairs.reduce_by_key(task!(move [limit] |a, b| a + b + limit));
    assert_eq!(sorted(sums.collect().unwrap()), [(0, 12), (1, 15)]);
}

#[test]
fn rows_that_lie_where_they_belong_are_not_moved_again() {
    let (ctx, runner) = context();
    let pairs = ctx.range(0u32..100).map(|x| (x % 10, x)).partition_by(3);
    assert_eq!(pairs.count().unwrap(), 100);
    let sums = pairs.filter(|(_, x)| x % 2 == 0).reduce_by_key(|a, b| a + b);
    let both = sums.cogroup(&pairs);
    assert_eq!(both.count().unwrap(), 10);
    assert_eq!(runner.last_stages().len(), 1, "{:?}", runner.last_stages());
    assert_eq!(runner.state().complete.len(), 1, "one shuffle for all of it");
}

#[test]
fn a_shuffle_is_made_once_and_released_with_its_last_reader() {
    let (ctx, runner) = context();
    let counts = ctx.range(0u32..100).map(|x| (x % 10, 1u32)).reduce_by_key(|a, b| a + b);
    let doubled = counts.map(|(k, n)| (k, n * 2));
    assert_eq!(counts.count().unwrap(), 10);
    assert_eq!(runner.last_stages().len(), 2);
    drop(counts);
    assert_eq!(sorted(doubled.collect().unwrap())[0], (0, 20));
    assert_eq!(runner.last_stages().len(), 1, "the shuffle is complete");
    assert!(runner.state().released.is_empty());
    drop(doubled);
    assert_eq!(runner.state().released.len(), 1);
}

#[test]
fn one_shuffle_may_be_read_at_several_places_of_a_stage() {
    let (ctx, _) = context();
    let counts = ctx.range(0u32..100).map(|x| (x % 10, 1u32)).reduce_by_key(|a, b| a + b);
    let with_itself = counts.cogroup(&counts.map(|(k, n)| (k, n)));
    assert!(with_itself.collect().unwrap().iter().all(|(_, (a, b))| (&a[..], &b[..]) == (&[10][..], &[10][..])));
    let twice = counts.union(&counts).coalesce(3);
    assert_eq!(twice.count().unwrap(), 20);
}

#[test]
fn take_asks_for_no_more_partitions_than_it_needs() {
    let (ctx, runner) = context();
    let rdd = ctx.range_into(0u32..100, 100);
    assert_eq!(rdd.take(6).unwrap(), [0, 1, 2, 3, 4, 5]);
    let tasks: Vec<u32> = runner.state().ran.iter().map(|(_, stages)| stages[0].1).collect();
    assert_eq!(tasks, [1, 4, 16]);
    assert_eq!(rdd.first().unwrap(), Some(0));
    assert_eq!(ctx.empty::<u32>().first().unwrap(), None);
    assert!(ctx.empty::<u32>().collect().unwrap().is_empty());
    assert_eq!(ctx.empty::<u32>().reduce(|a, b| a + b).unwrap(), None);
}

#[test]
fn accumulators_count_each_accepted_task_once() {
    let (ctx, runner) = context();
    runner.fail_first.store(3, Ordering::SeqCst);
    let (seen, largest) = (ctx.accumulator(0u64), ctx.accumulator_with(0u32, |a, b| *a = b.max(*a)));
    let each = task!(move [&seen, &largest] |x: u32| {
        seen.add(1);
        largest.add(x);
    });
    ctx.range_into(0u32..1_000, 7).foreach(each).unwrap();
    assert_eq!((seen.value(), largest.value()), (1_000, 999));
    seen.add(5);
    assert_eq!(seen.value(), 1_005, "the driver may add too");
}

#[test]
fn accumulators_count_in_a_job_that_writes() {
    let (ctx, runner) = context();
    runner.fail_first.store(3, Ordering::SeqCst);
    let folder = tempfile::tempdir().unwrap();
    let seen = ctx.accumulator(0u64);
    let rows = ctx.range_into(0u32..1_000, 7).map(task!(move [&seen] |x: u32| {
        seen.add(1);
        x
    }));
    let report = rows.save_as_text_file(folder.path().join("out").to_str().unwrap()).unwrap();
    assert_eq!((report.rows, seen.value()), (1_000, 1_000));
}

#[test]
fn broadcasts_arrive_small_and_large_and_go_with_their_last_handle() {
    let (ctx, runner) = context();
    for length in [10, 3 << 20] {
        let table = ctx.broadcast((0..length).map(|x| (x % 251) as u8).collect::<Vec<u8>>());
        let sum = ctx.range(0u64..10).map(task!(move [&table] |x| u64::from(table.value()[x as usize])));
        assert_eq!(sum.reduce(|a, b| a + b).unwrap(), Some(45));
        // As in an executor, which has only the bytes.
        let forgotten = runner.state().forgotten.len();
        rdd::compute::forget_broadcast(model::BroadcastId(u32::from(length > 10)));
        assert_eq!(sum.reduce(|a, b| a + b).unwrap(), Some(45));
        drop(sum);
        drop(table);
        assert_eq!(runner.state().forgotten.len(), forgotten + 1);
    }
}

#[test]
fn a_persisted_dataset_is_computed_once_until_it_is_unpersisted() {
    let (ctx, runner) = context();
    for level in [StorageLevel::Memory, StorageLevel::MemoryAndDisk, StorageLevel::ObjectStore] {
        let computed = ctx.accumulator(0u32);
        let counted = ctx.range(0u32..100).map(task!(move [&computed] |x| {
            computed.add(1);
            x
        }));
        let kept = counted.persist(level);
        let again = kept.filter(|x| x % 2 == 0);
        assert_eq!(
            (again.count().unwrap(), kept.count().unwrap(), again.union(&kept).count().unwrap()),
            (50, 100, 150)
        );
        assert_eq!(computed.value(), 100);
        kept.unpersist();
        assert!(runner.blocks.0.lock().unwrap().is_empty());
        assert_eq!((kept.count().unwrap(), computed.value()), (100, 200));
    }
}

#[test]
fn rows_that_do_not_fit_are_given_and_not_kept() {
    let (ctx, runner) = context_with(2, 0);
    let kept = ctx.range(0u32..10).map(|x| vec![x as u8; 400_000]).cache();
    assert_eq!(kept.map(|row| u32::from(row[0])).collect().unwrap(), (0..10).collect::<Vec<_>>());
    assert!(runner.blocks.0.lock().unwrap().is_empty());
}

#[test]
fn a_checkpoint_has_no_ancestors() {
    let folder = tempfile::tempdir().unwrap();
    let (ctx, runner) = context();
    let sums = ctx.range(0u32..100).map(|x| (x % 10, x)).reduce_by_key(|a, b| a + b);
    assert!(matches!(sums.checkpoint(), Err(Error::Invalid(why)) if why.contains("set_checkpoint_dir")));
    ctx.set_checkpoint_dir(folder.path().to_str().unwrap());
    let saved = sums.checkpoint().unwrap();
    let expected = sorted(sums.collect().unwrap());
    assert_eq!(saved.partitioning(), sums.partitioning());
    drop(sums);
    assert_eq!(runner.state().released.len(), 1);
    assert_eq!(sorted(saved.collect().unwrap()), expected);
    assert_eq!(sorted(saved.reduce_by_key(|a, b| a + b).collect().unwrap()), expected);
    assert_eq!(runner.last_stages().len(), 1);
}

#[test]
fn little_memory_spills_and_changes_nothing() {
    let (ctx, runner) = context_with(2, 0);
    let words = ctx.range_into(0u64..300_000, 3).map(|x| (format!("word {}", x * 7_919 % 100_000), 1u32));
    let counts = words.reduce_by_key(|a, b| a + b);
    assert_eq!(counts.filter(|(_, n)| *n == 3).count().unwrap(), 100_000);
    assert!(runner.state().spills > 0);
}

#[test]
fn a_panic_fails_the_job_with_its_message() {
    let (ctx, _) = context();
    let failed = ctx.range(0u32..10).map(|x| if x == 7 { panic!("no sevens") } else { x }).collect();
    let error = failed.unwrap_err();
    assert!(error.to_string().contains("run job `collect at "), "{error}");
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("no sevens"));
}

#[test]
fn lineage_reads_like_the_program() {
    let (ctx, _) = context();
    let counts = ctx.range_into(0u32..10, 2).map(|x| (x, 1u32)).reduce_by_key_into(|a, b| a + b, 3);
    let kept = counts.filter(|_| true).cache().union(&counts);
    let text = kept.to_debug_string().replace(file!(), "here");
    let shape: Vec<&str> = text.lines().map(|line| line.split(" at ").next().unwrap()).collect();
    assert_eq!(
        shape,
        [
            "(6) union",
            " +-persisted: memory",
            " +-(3) filter",
            " +-(3) reduce_by_key",
            " | +-(2) reduce_by_key",
            " | +-(2) map",
            " | +-(2) range",
            " +-(3) reduce_by_key",
            " | +-(2) reduce_by_key",
            " | +-(2) map",
            " | +-(2) range",
        ],
        "{text}"
    );
}

#[test]
fn a_job_runs_from_inside_a_runtime() {
    let (ctx, _) = context();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert_eq!(runtime.block_on(async { ctx.range(0u32..10).count().unwrap() }), 10);
}
