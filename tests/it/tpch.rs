//! Is every query of TPC-H answered as one process of DataFusion answers it, however it is run?
//!
//! All sort by columns that leave no choice, so the order of rows counts, too.

use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use vonk_tpch::{Order, QUERIES, Shape, tables};

use crate::answers::{Answers, Questions, assert_same, cache};
use crate::harness::Program;

/// Enough for several row groups and for tasks that have something to do, and little enough for every run of the tests.
const SCALE: f64 = 0.1;

/// With this every query is asked at another scale by the test that is ignored otherwise.
const SCALE_VARIABLE: &str = "VONK_TEST_TPCH_SCALE";

/// Plans are cut, with more partitions than two slots.
const STAGES: &[&str] = &["sql.force_stages=true", "sql.partitions=3"];

fn data(scale: f64, files: u32) -> PathBuf {
    // Tests run at once, and one of them writes.
    static WRITING: Mutex<()> = Mutex::new(());
    let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    tables(cache(), Shape { scale, files, rows_per_group: 100_000 }).unwrap()
}

fn questions(scale: f64, files: u32) -> Questions {
    Questions::new(&data(scale, files), QUERIES.iter().map(|query| (query.name(), query.text.to_owned())))
}

fn wanted() -> &'static Answers {
    static WANTED: OnceLock<Answers> = OnceLock::new();
    WANTED.get_or_init(|| {
        let wanted = questions(SCALE, 1).ask_datafusion();
        // q2 is the only one that may have no rows at so small a scale.
        assert!(wanted.iter().all(|(name, answer)| name == "q2" || !answer.as_ref().unwrap().is_empty()));
        wanted
    })
}

fn same(files: u32, start: impl FnOnce(Program) -> Program) {
    let questions = questions(SCALE, files);
    assert_same(&questions, &questions.ask(start), wanted(), Order::Kept);
}

#[test]
fn uncut() {
    same(1, |program| program.master("local[2]"));
}

#[test]
fn in_stages() {
    same(1, |program| program.master("local[2]").conf(STAGES));
}

#[test]
fn in_stages_that_do_not_adapt() {
    same(1, |program| program.master("local[2]").conf(STAGES).conf(&["sql.adaptive=false"]));
}

#[test]
fn over_processes_with_more_partitions_than_slots() {
    same(1, |program| program.master("local-cluster[3,1]").conf(&["sql.partitions=7"]));
}

#[test]
fn over_many_files() {
    same(16, |program| program.master("local[2]").conf(STAGES));
}

#[test]
fn with_little_memory() {
    same(1, |program| program.master("local-cluster[2,1,64m]").conf(&["sql.partitions=3"]));
}

/// Groups and sorted rows that are several times a task's memory.
#[test]
fn what_does_not_fit_into_memory_is_spilled() {
    let queries = [
        (
            "groups",
            "SELECT count(*), sum(n), max(n) FROM (SELECT l_partkey, l_suppkey, l_orderkey, count(*) AS n FROM lineitem \
             GROUP BY l_partkey, l_suppkey, l_orderkey)",
        ),
        (
            "sort",
            "SELECT * FROM (SELECT l_comment, row_number() OVER (ORDER BY l_comment, l_orderkey, l_linenumber) AS place \
             FROM lineitem) WHERE place % 5000 = 0",
        ),
    ];
    let questions = Questions::new(&data(SCALE, 1), queries.map(|(name, text)| (name.to_owned(), text.to_owned())));
    let wanted = questions.ask_datafusion();
    let (got, outcome) = questions
        .ask_and_see(|program| program.master("local-cluster[2,1,32m]").conf(&["sql.partitions=3", "progress=plain"]));
    assert_same(&questions, &got, &wanted, Order::Any);
    assert!(outcome.stderr.contains("; spilled "), "{}", outcome.stderr);
}

#[test]
#[ignore = "takes minutes and gigabytes: VONK_TEST_TPCH_SCALE=1 cargo test -p vonk-tests --release tpch -- --ignored"]
fn at_another_scale() {
    let scale = std::env::var(SCALE_VARIABLE).map_or(1.0, |scale| scale.parse().unwrap());
    let wanted = questions(scale, 1).ask_datafusion();
    let modes: [(&str, u32, &[&str]); 5] = [
        ("local[2]", 1, &[]),
        ("local[2]", 1, STAGES),
        ("local-cluster[3,1]", 1, &["sql.partitions=7"]),
        ("local-cluster[2,1]", 16, &["sql.adaptive=false"]),
        ("local-cluster[2,1,512m]", 16, &[]),
    ];
    for (master, files, conf) in modes {
        let questions = questions(scale, files);
        let got = questions.ask(|program| program.master(master).conf(conf));
        assert_same(&questions, &got, &wanted, Order::Kept);
    }
}
