//! Do DataFrames keep their promises across processes: the right rows whoever dies, files once, errors that say what to do?

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use vonk::datafusion::arrow::array::AsArray;
use vonk::datafusion::arrow::datatypes::Int64Type;
use vonk::datafusion::arrow::ipc::reader::FileReader;
use vonk_tests::{Fault, Tokens};

use crate::harness::{IMPATIENT, Program, files_below};

const CLUSTER: &str = "local-cluster[2,1]";

fn frames(args: &[&str]) -> Program {
    Program::of(env!("CARGO_BIN_EXE_frames"), args).conf(IMPATIENT)
}

fn expected() -> String {
    let mut sums = [0_i64; 13];
    (0..40_000).for_each(|value| sums[value as usize % 13] += value);
    sums.iter().enumerate().map(|(key, sum)| format!("{key}\t{sum}\n")).collect()
}

#[test]
fn a_query_gives_the_same_rows_wherever_it_runs() {
    for (master, conf) in [
        ("local[2]", &[][..]),
        ("local[2]", &["sql.force_stages=true", "sql.partitions=5"]),
        (CLUSTER, &["sql.partitions=5"]),
        (CLUSTER, &["sql.adaptive=false"]),
    ] {
        assert_eq!(
            frames(&["sum"]).master(master).conf(conf).run().succeeded().stdout,
            expected(),
            "{master} {conf:?}"
        );
    }
}

#[test]
fn a_query_survives_executors_that_die() {
    for (at, fault) in
        [("map", Fault::Kill), ("reduce", Fault::Kill), ("reduce", Fault::KillAll), ("map", Fault::Abort)]
    {
        let tokens = || Tokens::default().with(at, fault, 1);
        let outcome = frames(&["sum"]).master(CLUSTER).faults(tokens()).run().succeeded();
        assert_eq!(outcome.stdout, expected(), "{at} {fault:?}");
        assert_eq!(outcome.tokens.fired(), 1, "the fault fired");
    }
    let control = frames(&["sum"]).master(CLUSTER).conf(&["task.max_executor_losses=1"]);
    let control = control.faults(Tokens::default().with("map", Fault::Kill, 1)).run();
    assert_ne!(control.code, Some(0), "without another try the query must fail: this test sees nothing");
    assert_eq!(control.tokens.fired(), 1, "the control's fault fired");
}

#[test]
fn persisted_rows_outlive_all_executors() {
    for how in [&["persist"][..], &["persist", "--cache"]] {
        // The second look at the rows computes nothing of what they were computed from.
        let tokens = Tokens::default().with("between", Fault::KillAll, 1);
        let outcome = frames(how).master(CLUSTER).faults(tokens).run().succeeded();
        assert_eq!(outcome.stdout, expected().repeat(2), "{how:?}");
        assert_eq!(outcome.tokens.fired(), 1);
    }
    for conf in [&[][..], &["sql.force_stages=true"]] {
        let outcome = frames(&["persist"]).master("local[2]").conf(conf).run().succeeded();
        assert_eq!(outcome.stdout, expected().repeat(2), "{conf:?}");
    }
}

#[test]
fn rows_go_from_queries_to_functions_and_back() {
    for master in ["local[2]", CLUSTER] {
        assert_eq!(frames(&["bridge"]).master(master).run().succeeded().stdout, expected(), "{master}");
    }
    // Whoever dies: a job of either kind can make the stages of the other again.
    for (at, fault) in [("map", Fault::Kill), ("between", Fault::KillAll), ("reduce", Fault::Kill)] {
        let tokens = Tokens::default().with(at, fault, 1);
        let outcome = frames(&["bridge"]).master(CLUSTER).faults(tokens).run().succeeded();
        assert_eq!(outcome.stdout, expected(), "{at} {fault:?}");
        assert_eq!(outcome.tokens.fired(), 1, "the fault fired");
    }
}

#[test]
fn lost_rows_between_queries_and_functions_are_made_again() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().to_str().unwrap();
    let run = |more: &[&str]| {
        let program = frames(&["bridge", "--lose", folder]).master(CLUSTER).store(&format!("file://{folder}"));
        program.conf(&["shuffle.inline_task_max=0"]).conf(more).run()
    };
    // Each attempt of a stage finds some of what is lost, and all is lost.
    let outcome = run(&["stage.max_failures=50"]).succeeded();
    let (lost, sums) = outcome.stdout.split_once('\n').unwrap();
    assert_ne!(lost, "0 objects are lost");
    assert_eq!(sums, expected());
    let control = run(&["stage.max_failures=1"]);
    assert_ne!(control.code, Some(0), "without a second stage attempt the run must fail");
}

#[test]
fn a_function_that_panics_says_where() {
    let tokens = || Tokens::default().with("map", Fault::Panic, 1000);
    for (master, conf) in [(CLUSTER, &[][..]), ("local[2]", &["sql.force_stages=true"]), ("local[2]", &[])] {
        let outcome = frames(&["sum"]).master(master).conf(conf).faults(tokens()).run();
        let outcome = outcome.failed(1, &["error: ", "call function `at_map`", "panicked at tests/src/"]);
        assert!(!outcome.stderr.contains("thread '"), "it is said once: {}", outcome.stderr);
    }
}

#[test]
fn a_function_that_executors_cannot_know_is_named() {
    let outcome = frames(&["unknown"]).master(CLUSTER).run();
    outcome.failed(1, &["stage of the query: send function `only_here` to executors", "register_udf"]);
    frames(&["unknown"]).master("local[2]").run().succeeded();
}

/// The files that a reader sees, without the names of their write.
fn published(folder: &Path) -> BTreeSet<String> {
    let relative = |path: &Path| path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
    let files = files_below(folder).into_iter().map(|path| relative(&path));
    files.filter(|name| !name.starts_with('_')).collect()
}

#[test]
fn files_appear_once_whoever_dies() {
    for (at, fault) in [("reduce", Fault::Kill), ("reduce", Fault::KillAll)] {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("out");
        let tokens = Tokens::default().with(at, fault, 1);
        let program = frames(&["write", out.to_str().unwrap()]).master(CLUSTER);
        let outcome = program.faults(tokens).run().succeeded();
        assert_eq!((outcome.stdout.as_str(), outcome.tokens.fired()), ("13\n", 1));
        let folders: BTreeSet<_> =
            published(&out).iter().map(|name| name.split('/').next().unwrap().to_owned()).collect();
        assert_eq!(folders, (0..13).map(|key| format!("key={key}")).collect(), "a folder for each key");
        assert_eq!(published(&out).len(), 13, "a file for each key");
        assert!(!out.join("_vonk/stage").exists() || files_below(&out.join("_vonk/stage")).is_empty());
        assert!(out.join("_SUCCESS").exists());
    }
}

#[test]
fn modes_are_those_of_spark() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let to = out.to_str().unwrap();
    let write = |mode: &str| frames(&["write", to, "--format", "csv", "--mode", mode]).master("local[2]").run();
    assert_eq!(write("error").succeeded().stdout, "13\n");
    let first = published(&out);
    write("error").failed(1, &[to, "there is something already", "overwrite"]);
    assert_eq!(published(&out), first, "nothing was touched");
    assert_eq!(write("ignore").succeeded().stdout, "0\n");
    assert_eq!(published(&out), first);
    write("append").succeeded();
    assert!(published(&out).is_superset(&first) && published(&out).len() > first.len());
    write("overwrite").succeeded();
    assert!(published(&out).is_disjoint(&first));
    let lines: usize = files_below(&out)
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "csv"))
        .map(|path| fs::read_to_string(path).unwrap().lines().filter(|line| !line.starts_with("key")).count())
        .sum();
    assert_eq!(lines, 13);
}

#[test]
fn every_format_reads_back() {
    let home = tempfile::tempdir().unwrap();
    for format in ["json", "text"] {
        let out = home.path().join(format);
        frames(&["write", out.to_str().unwrap(), "--format", format]).master("local[2]").run().succeeded();
        let files = files_below(&out);
        let lines: usize = files
            .iter()
            .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("part-"))
            .map(|path| fs::read_to_string(path).unwrap().lines().count())
            .sum();
        assert_eq!(lines, if format == "json" { 13 } else { 40_000 }, "{format}");
    }
}

#[test]
fn every_format_is_read_and_written_by_folders() {
    let home = tempfile::tempdir().unwrap();
    for format in ["csv", "json", "parquet"] {
        let out = home.path().join(format);
        let to = out.to_str().unwrap();
        frames(&["write", to, "--format", format, "--by-key"]).master(CLUSTER).run().succeeded();
        assert_eq!(published(&out).iter().filter(|name| name.starts_with("key=")).count(), 13, "{format}");
        let outcome = frames(&["read", to, "--format", format]).master(CLUSTER).run().succeeded();
        assert_eq!(outcome.stdout, expected(), "{format}");
    }
    let arrow = home.path().join("sums.arrow");
    frames(&["make-arrow", arrow.to_str().unwrap()]).master("local[2]").run().succeeded();
    for master in ["local[2]", CLUSTER] {
        let outcome = frames(&["read", arrow.to_str().unwrap(), "--format", "arrow"]).master(master).run();
        assert_eq!(outcome.succeeded().stdout, expected(), "{master}");
    }
}

#[test]
fn functions_of_every_kind_reach_executors() {
    // The sum of squares, and the greatest number of a row within its key.
    let squares: i64 = (0..40_000_i64).map(|value| value * value).sum();
    for (master, conf) in [("local[2]", &[][..]), (CLUSTER, &["sql.partitions=5"])] {
        let outcome = frames(&["functions"]).master(master).conf(conf).run().succeeded();
        assert_eq!(outcome.stdout, format!("{squares}\t3077\n"), "{master}");
    }
}

#[test]
fn a_write_whose_function_panics_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let tokens = Tokens::default().with("reduce", Fault::Panic, 1000);
    let outcome = frames(&["write", out.to_str().unwrap()]).master(CLUSTER).faults(tokens).run();
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    assert_eq!(published(&out), BTreeSet::new());
    assert!(files_below(&out.join("_vonk/stage")).is_empty());
}

/// A reader that does something else meanwhile has all results wait in the store; what it has let go of does not count.
#[test]
fn a_result_of_any_size_is_streamed_and_a_collected_one_is_limited() {
    let query = |text: &str, how: &[&str]| {
        let args = [&["query", "--wide"][..], how, &[text]].concat();
        frames(&args).master(CLUSTER).conf(&["driver.max_result_size=8m", "sql.partitions=4"])
    };
    for order in ["", " ORDER BY text DESC"] {
        let text = format!("SELECT key, text FROM wide{order}");
        let outcome = query(&text, &["--stream"]).run().succeeded();
        assert_eq!(outcome.stdout, "200000 rows, 19999900000\n", "{order}");
        assert_eq!(query(&text, &["--first"]).run_leaving().succeeded().stdout, "some rows\n", "{order}");
        // Executors end at once, and what a disk had of a result by then has no name that a store knows.
        query(&text, &[]).run_leaving().failed(1, &["driver.max_result_size", "collect results"]);
    }
}

#[test]
fn what_is_wrong_is_said_once_and_clearly() {
    let home = tempfile::tempdir().unwrap();
    let broken = home.path().join("broken.parquet");
    fs::write(&broken, b"PAR1 this is no parquet PAR1").unwrap();
    let (missing, broken) = (home.path().join("nothing.parquet"), broken.to_str().unwrap().to_owned());
    let ask = |text: &str| frames(&["query", text]).master(CLUSTER).run();
    ask("SELEC 1").failed(1, &["SELEC"]);
    ask("SELECT valu FROM numbers").failed(1, &["valu", "value"]);
    ask("SELECT * FROM nombers").failed(1, &["nombers"]);
    ask("SELECT sum(value / (value - value)) FROM numbers").failed(1, &["Divide by zero"]);
    ask(&format!("SELECT count(*) FROM '{}'", missing.display())).failed(1, &["nothing.parquet"]);
    ask(&format!("SELECT count(*) FROM '{broken}'")).failed(1, &["parquet"]);
}

/// The build side of a hash join must be in memory: where it is not let in, the stage runs again with a join that spills.
#[test]
fn joins_and_sorts_larger_than_memory_spill() {
    let joined = "SELECT count(*) AS rows, sum(length(a.text) + length(b.text)) AS length
        FROM wide AS a JOIN wide AS b ON a.key = b.key AND a.text = b.text";
    let sorted = "SELECT count(*) AS rows, sum(place * 2) AS places
        FROM (SELECT row_number() OVER (ORDER BY text DESC, key) AS place FROM wide) AS w";
    let limited = "SELECT count(*) AS rows, sum(length(text)) AS length
        FROM (SELECT text FROM wide ORDER BY text DESC, key LIMIT 150000) AS w";
    for (text, numbers) in
        [(joined, ["200000", "48000000"]), (sorted, ["200000", "40000200000"]), (limited, ["150000", "18000000"])]
    {
        let program = frames(&["query", "--wide", text]).master("local-cluster[2,1,48m]");
        let outcome = program.conf(&["sql.broadcast_max=1m"]).run().succeeded();
        assert!(numbers.iter().all(|number| outcome.stdout.contains(number)), "{}", outcome.stdout);
    }
}

/// The last stage of a write is tried again like any other, and none of the files of its first job are left.
#[test]
fn a_join_larger_than_memory_is_written() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("joined");
    let text = format!(
        "EXPLAIN ANALYZE COPY (SELECT a.key, b.text FROM wide AS a JOIN wide AS b ON a.key = b.key AND a.text = b.text)
         TO '{}/' STORED AS PARQUET",
        out.display()
    );
    let program = frames(&["query", "--wide", &text]).master("local-cluster[1,1,48m]");
    let stdout = program.conf(&["sql.adaptive=false", "sql.partitions=1"]).run().succeeded().stdout;
    assert!(stdout.contains("SortMergeJoin") && stdout.contains("200000 rows"), "{stdout}");
    assert!(out.join("_SUCCESS").exists());
    assert!(!out.join("_vonk/stage").exists() || files_below(&out.join("_vonk/stage")).is_empty());
}

#[test]
fn a_write_is_explained_without_writing_and_analyzed_by_committing() {
    for (master, conf) in [("local[2]", &[][..]), (CLUSTER, &["sql.partitions=3"])] {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("out");
        let copy = format!("COPY (SELECT value, value % 13 AS key FROM numbers) TO '{}/' STORED AS CSV", out.display());
        let ask = |text: &str| frames(&["query", text]).master(master).conf(conf).run().succeeded().stdout;
        let planned = ask(&format!("EXPLAIN {copy}"));
        assert!(planned.contains("into files: 8 tasks"), "{planned}");
        assert!(!out.exists(), "only explained");
        let measured = ask(&format!("EXPLAIN ANALYZE {copy}"));
        assert!(measured.contains("stage 1: 8 tasks") && measured.contains("; 40000 rows, "), "{measured}");
        assert!(out.join("_SUCCESS").exists());
        assert_eq!(published(&out).len(), 8, "{master}");
        // Existing files are not in the way of more.
        ask(&format!("EXPLAIN ANALYZE {copy}"));
        assert_eq!(published(&out).len(), 16, "{master}");
    }
}

#[test]
fn arrow_files_are_committed_and_read_back() {
    for master in ["local[2]", CLUSTER] {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("out");
        let rows = "SELECT sum(value) AS sum, min(value) % 2 AS odd FROM numbers";
        let copy = format!("COPY ({rows}) TO '{}/' STORED AS ARROW PARTITIONED BY (odd)", out.display());
        frames(&["query", &copy]).master(master).run().succeeded();
        assert!(out.join("_SUCCESS").exists());
        let files = published(&out);
        let [file] = &Vec::from_iter(&files)[..] else { panic!("{files:?}") };
        assert!(file.starts_with("odd=0/part-") && file.ends_with(".arrow"), "{file}");
        let mut read = FileReader::try_new(fs::File::open(out.join(file)).unwrap(), None).unwrap();
        let batch = read.next().unwrap().unwrap();
        assert_eq!(batch.column(0).as_primitive::<Int64Type>().values(), &[799_980_000]);
    }
}

/// What only the driver can compute is written like all else.
#[test]
fn rows_that_executors_cannot_make_are_written() {
    for master in ["local[2]", CLUSTER] {
        let home = tempfile::tempdir().unwrap();
        for (name, query, rows) in [
            (
                "counted",
                "WITH RECURSIVE n AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM n WHERE x < 1000) SELECT * FROM n",
                "1000",
            ),
            (
                "series",
                "SELECT s.value, n.value AS n FROM generate_series(1, 30) AS s JOIN numbers AS n ON s.value = n.value",
                "30",
            ),
            ("above", "SELECT value FROM numbers WHERE value >= (SELECT max(value) FROM numbers)", "1"),
            ("tables", "SELECT table_name FROM information_schema.tables WHERE table_name = 'numbers'", "1"),
        ] {
            let out = home.path().join(name);
            let text = format!("COPY ({query}) TO '{}/' STORED AS CSV", out.display());
            let stdout = frames(&["query", &text]).master(master).run().succeeded().stdout;
            assert!(stdout.contains(&format!("| {rows} ")), "{master} {name}: {stdout}");
            assert!(out.join("_SUCCESS").exists(), "{master} {name}");
        }
    }
}

/// A hint beats the sizes that were measured, on whichever side the table stands.
#[test]
fn a_hint_broadcasts_what_is_large() {
    let join = "count(*) AS rows FROM wide AS a JOIN wide AS b ON a.key = b.key AND a.text = b.text";
    let ask = |hint: &str| {
        let text = format!("EXPLAIN ANALYZE SELECT {hint} {join}");
        frames(&["query", "--wide", &text])
            .master("local-cluster[2,1]")
            .conf(&["sql.broadcast_max=1k"])
            .run()
            .succeeded()
    };
    let stdout = ask("").stdout;
    assert!(stdout.contains("mode=Partitioned") && !stdout.contains("mode=CollectLeft"), "{stdout}");
    for table in ["a", "b"] {
        let stdout = ask(&format!("/*+ BROADCAST({table}) */")).stdout;
        assert!(stdout.contains("mode=CollectLeft") && !stdout.contains("mode=Partitioned"), "{stdout}");
    }
    let text = format!("SELECT /*+ BROADCAST(b) */ {join}");
    let outcome = frames(&["query", "--wide", &text]).master("local-cluster[2,1]").run().succeeded();
    assert!(outcome.stdout.contains("200000"), "{}", outcome.stdout);
}

#[test]
fn a_result_larger_than_memory_is_refused_with_advice() {
    let text = "SELECT key, repeat(text, 20) FROM wide";
    let outcome = frames(&["query", "--wide", text]).master("local-cluster[2,1,48m]").run();
    outcome.failed(1, &["does not fit into its memory", "LIMIT"]);
}

/// Sorted rows are written by several tasks, each a range of the order.
#[test]
fn rows_are_written_in_order_by_many_tasks() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("sorted");
    let text = format!(
        "COPY (SELECT text, key FROM wide ORDER BY key % 1000 DESC, text, key) TO '{}/' STORED AS CSV",
        out.display()
    );
    let program = frames(&["query", "--wide", &text]).master("local-cluster[2,1]").conf(&["sql.partitions=8"]);
    program.run().succeeded();
    let files = files_below(&out);
    let mut parts: Vec<_> = files.iter().filter(|path| path.extension().is_some_and(|e| e == "csv")).collect();
    parts.sort();
    assert_eq!(parts.len(), 8, "{parts:?}");
    let mut rows = Vec::new();
    for part in parts {
        let before = rows.len();
        rows.extend(fs::read_to_string(part).unwrap().lines().skip(1).map(|line| {
            let (text, key) = line.rsplit_once(',').unwrap();
            let key: i64 = key.parse().unwrap();
            (std::cmp::Reverse(key % 1000), text.to_owned(), key)
        }));
        assert!((10_000..60_000).contains(&(rows.len() - before)), "{} of {}", rows.len() - before, part.display());
    }
    assert_eq!(rows.len(), 200_000);
    assert!(rows.is_sorted());
}
