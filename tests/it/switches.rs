//! Which switches have to be off where the partitions of a plan run in many processes?
//!
//! Each test asks a query twice in stages of three partitions: as sessions are, which must be right, and with a switch as
//! plain DataFusion has it. Where the switch is all that protects the query, its answer is then wrong, an error, or never
//! comes. Where the cut into stages protects it too, it stays right; a test says by what, and fails when that is gone.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use vonk_tpch::{Order, Shape, tables};

use crate::answers::{Questions, cache, difference};

/// After so many seconds no answer will come; the right one takes less than one.
const HANGS_AFTER: &str = "10";

/// Several files and row groups, so that every scan has several partitions.
pub(crate) fn data() -> PathBuf {
    static WRITING: Mutex<()> = Mutex::new(());
    let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    tables(cache(), Shape { scale: 0.01, files: 4, rows_per_group: 5_000 }).unwrap()
}

/// What is wrong with the answer to a query with a switch turned on, if anything is. With it off the answer is right.
fn difference_with(switch: &str, query: &str) -> Option<String> {
    let ask = |text: &str| {
        let questions = Questions::new(&data(), [("asked".to_owned(), text.to_owned())]);
        let wanted = questions.ask_datafusion();
        let stages = ["sql.force_stages=true", "sql.partitions=3", "sql.adaptive=false"];
        let got = questions.ask(|program| program.args(&["--deadline", HANGS_AFTER]).master("local[3]").conf(&stages));
        difference(&got["asked"], &wanted["asked"], Order::Any)
    };
    assert_eq!(ask(query), None, "with the switch as sessions have it");
    ask(&format!("SET {switch};\n{query}"))
}

#[test]
fn a_scalar_subquery_would_be_computed_in_another_process() {
    let wrong = difference_with(
        "datafusion.optimizer.enable_physical_uncorrelated_scalar_subquery = true",
        "SELECT l_shipmode, count(*) FROM lineitem WHERE l_quantity > (SELECT avg(l_quantity) FROM lineitem) \
         GROUP BY l_shipmode",
    );
    assert!(wrong.is_some());
}

#[test]
fn an_interleaved_union_would_need_partitions_that_other_processes_have() {
    let wrong = difference_with(
        "datafusion.optimizer.prefer_existing_union = false",
        "SELECT key, count(*) FROM (\
         SELECT o_custkey AS key, count(*) AS n FROM orders GROUP BY o_custkey UNION ALL \
         SELECT c_custkey AS key, count(*) AS n FROM customer GROUP BY c_custkey) GROUP BY key",
    );
    assert!(wrong.is_some());
}

/// More branches than slots: the join's filter is complete when every branch has begun to read.
#[test]
fn a_filter_would_wait_for_partitions_that_other_tasks_have() {
    let wrong = difference_with(
        "datafusion.optimizer.enable_dynamic_filter_pushdown = true",
        "SELECT n_name, count(*) FROM nation JOIN \
         (SELECT s_nationkey AS key FROM supplier UNION ALL SELECT c_nationkey AS key FROM customer UNION ALL \
         SELECT s_nationkey + 1 AS key FROM supplier UNION ALL SELECT c_nationkey + 1 AS key FROM customer) \
         ON n_nationkey = key WHERE n_regionkey = 1 GROUP BY n_name",
    );
    assert!(wrong.is_some_and(|wrong| wrong.starts_with("hangs")));
}

/// Tasks bring their own files, so there are no others to take.
#[test]
fn stolen_files_are_also_impossible() {
    let query = "SELECT count(*), sum(l_quantity) FROM lineitem";
    assert_eq!(difference_with("datafusion.execution.enable_file_stream_work_stealing = true", query), None);
}

/// Rows dealt out otherwise when a task runs again are noticed by the sums of its output, and all who read it run again.
#[test]
fn rows_dealt_out_in_turn_are_right_while_nothing_runs_again() {
    let query = "SELECT r_name, count(*) FROM region, nation WHERE r_regionkey = n_regionkey GROUP BY r_name";
    assert_eq!(difference_with("datafusion.optimizer.enable_round_robin_repartition = true", query), None);
}
