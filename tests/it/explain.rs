//! What do EXPLAIN and EXPLAIN ANALYZE tell of a query's stages?

use vonk_tpch::QUERIES;

use crate::harness::Program;
use crate::switches::data;

const STAGES: &[&str] = &["sql.force_stages=true", "sql.partitions=3"];

/// The lines of the plan, without the frame around them. The program has what else it is given.
fn told(text: &str, given: &[&str], conf: &[&str]) -> Vec<String> {
    let args = [&["query", text], given].concat();
    let program = Program::of(env!("CARGO_BIN_EXE_frames"), &args).master("local[2]").conf(STAGES).conf(conf);
    let stdout = program.run().succeeded().stdout;
    let cells = stdout.lines().filter_map(|line| line.strip_suffix('|')?.rsplit_once("| ").map(|(_, cell)| cell));
    cells.map(|cell| cell.trim_end().to_owned()).filter(|cell| !cell.is_empty() && cell != "plan").collect()
}

const SUMS: &str = "SELECT value % 13 AS key, sum(value) AS sum FROM numbers GROUP BY value % 13";

#[test]
fn stages_and_exchanges_are_shown_in_the_order_in_which_they_run() {
    let lines = told(&format!("EXPLAIN {SUMS} ORDER BY key LIMIT 5"), &[], &[]);
    assert_eq!(
        nodes(&lines),
        [
            "SortPreservingMergeExec",
            "  stage 2, to the driver",
            "    ProjectionExec",
            "      SortExec",
            "        AggregateExec",
            "          stage 1, by hash of numbers.value % Int64(13)@0 into 3 partitions",
            "            AggregateExec",
            "              DataSourceExec",
        ],
        "{lines:#?}"
    );
}

/// What stands in front of the first colon: nodes without what they say of themselves.
fn nodes(lines: &[String]) -> Vec<&str> {
    let begins = lines.iter().map(|line| line.split(':').next().unwrap());
    begins.skip_while(|line| !line.starts_with("SortPreservingMergeExec") && !line.starts_with("stage ")).collect()
}

/// A plan of three tables: which joins and exchanges there are, and where the driver comes in.
#[test]
fn the_third_query_of_tpch_keeps_its_stages() {
    let q3 = QUERIES.iter().find(|query| query.number == 3).unwrap();
    let lines = told(&format!("EXPLAIN {}", q3.text), &["--tables", data().to_str().unwrap()], &[]);
    assert_eq!(
        nodes(&lines),
        [
            "SortPreservingMergeExec",
            "  stage 4, to the driver",
            "    ProjectionExec",
            "      SortExec",
            "        AggregateExec",
            "          stage 3, by hash of l_orderkey@0, o_orderdate@1, o_shippriority@2 into 3 partitions",
            "            AggregateExec",
            "              HashJoinExec",
            "                stage 2, into 1 partition",
            "                  HashJoinExec",
            "                    stage 1, into 1 partition",
            "                      FilterExec",
            "                        DataSourceExec",
            "                    FilterExec",
            "                      DataSourceExec",
            "                FilterExec",
            "                  DataSourceExec",
        ],
        "{lines:#?}"
    );
    assert_eq!(lines.iter().filter(|line| line.contains("HashJoinExec: mode=CollectLeft")).count(), 2, "{lines:#?}");
}

/// What was measured of a query whose counts are known.
#[test]
fn rows_bytes_and_requests_of_every_stage_are_told() {
    let text = "EXPLAIN ANALYZE SELECT n_regionkey, count(*) FROM nation GROUP BY n_regionkey";
    let lines = told(text, &["--tables", data().to_str().unwrap()], &["shuffle.inline_task_max=0"]);
    let starts = |with: &str| lines.iter().find(|line| line.starts_with(with)).unwrap_or_else(|| panic!("{lines:#?}"));
    assert!(starts("stage 1: ").contains(" of task time; "), "{lines:#?}");
    let read = starts("  read 25 rows, ");
    assert!(read.ends_with(" requests from tables") && !read.contains(", 0 B"), "{lines:#?}");
    assert!(!read.contains(" in 0 requests"), "{lines:#?}");
    let wrote = starts("  wrote ");
    assert!(wrote.ends_with(" requests to a shuffle") && !wrote.contains(" in 0 requests"), "{lines:#?}");
    assert!(starts("stage 2: ").contains("; 5 rows, "), "{lines:#?}");
    let read =
        lines.iter().find(|line| line.ends_with(" requests from shuffles")).unwrap_or_else(|| panic!("{lines:#?}"));
    assert!(!read.contains(" in 0 requests"), "{lines:#?}");
    assert!(!lines.iter().any(|line| line.contains("spilled")), "{lines:#?}");
}

/// What these group by has so few values that their exchanges are parts of messages.
#[test]
fn queries_of_few_groups_exchange_without_a_request() {
    for number in [1, 6] {
        let query = QUERIES.iter().find(|query| query.number == number).unwrap();
        let text = format!("EXPLAIN ANALYZE {}", query.text);
        let lines = told(&text, &["--tables", data().to_str().unwrap()], &[]);
        let ending = |with: &str| lines.iter().filter(|line| line.ends_with(with)).count();
        let exchanges = ending(" requests to a shuffle");
        assert!(number != 1 || exchanges > 0, "{lines:#?}");
        assert_eq!(ending(" in 0 requests to a shuffle"), exchanges, "{lines:#?}");
        assert_eq!(ending(" in 0 requests from shuffles"), ending(" requests from shuffles"), "{lines:#?}");
    }
}

#[test]
fn what_was_spilled_is_told() {
    let text = "EXPLAIN ANALYZE SELECT count(*) AS rows, sum(place * 2) AS places
        FROM (SELECT row_number() OVER (ORDER BY text DESC, key) AS place FROM wide) AS w";
    let lines = told(text, &["--wide"], &["executor.memory=64m"]);
    assert!(lines.iter().any(|line| line.starts_with("  spilled ")), "{lines:#?}");
}
