//! Do DataFusion's own scripts of queries answer alike when their plans are cut into stages?
//!
//! Some ten thousand queries that people who know the engine found worth asking. What they should answer is what plain
//! DataFusion answers; where that refuses, so must we, for the same reason: a wrong query, memory, or a defect.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use vonk_tests::sqllogic::{Record, records};

use crate::harness::Program;

/// All scripts take no longer.
const HANGS_AFTER: Duration = Duration::from_secs(1_500);

/// Scripts that ask what is not the same by intention, or what is known not to work.
const EXCLUDED: &[(&str, &str)] = &[
    ("explain", "plans are others"),
    ("information_schema", "there are more functions and other settings"),
    ("copy.slt", "columns from folders have the type of their values, and a destination is a folder"),
    ("listing_table_partitions.slt", "columns from folders have the type of their values"),
    ("create_external_table.slt", "what folders say is not compared with what the table says"),
    ("input_file_name.slt", "a destination is a folder, so that files have other names"),
    ("file_row_index.slt", "DataFusion's code for plans loses the function's column"),
    ("parquet_metadata_functions.slt", "DataFusion's code for plans loses the function's column"),
    ("float16.slt", "DataFusion's code for plans has no literals of 16 bits"),
    ("in_list.slt", "DataFusion's code for plans has no literals of 16 bits"),
    ("regexp/regexp_like.slt", "Arrow's IPC has no dictionaries of dictionaries"),
    ("functions.slt", "Arrow's IPC has no dictionaries of dictionaries"),
    ("json.slt", "a table may have a place where nothing is yet"),
    ("parquet.slt", "folders in a folder are read whatever `listing_table_ignore_subdirectory` says"),
];

/// Records that are known to differ, by their lines: errors of ours, or of the way plans travel. What is mended here leaves the list.
const KNOWN: &[(&str, &[u64], &str)] = &[
    ("ddl.slt", &[490, 501, 507, 847], "folders and files are found by rules of ours"),
    ("group_by.slt", &[4575, 4584], "folders named by timestamps read as NULL"),
    (
        "insert_to_external.slt",
        &[185, 192, 608, 620, 649, 660, 674],
        "files and folders are named otherwise, and an external table is not ordered",
    ),
    ("grouping.slt", &[218], "`GROUPING SETS (())` alone is refused"),
    ("schema_evolution_nested.slt", &[105], "columns of several files may have nulls, whatever the first says"),
    ("limit.slt", &[558], "a folder where a file is expected"),
    ("subquery.slt", &[2124], "a subquery that stands for a value does not do so in a join's condition"),
    ("subquery.slt", &[2508, 2561, 2580], "a switch of sessions in stages is set back to what is right in one process"),
];

/// What executors are known not to run. What follows in the script builds on it.
const UNKNOWN_TO_EXECUTORS: &[&str] = &[
    "do not know how to run `PartitionedTopKExec`",
    "do not know how to run `RecursiveQueryExec`",
    "do not know how to run `PiecewiseMergeJoinExec`",
];

/// Words of queries whose answers are not determined by their text.
const UNDETERMINED: &[&str] =
    &["EXPLAIN", "RANDOM(", "UUID(", "NOW(", "CURRENT_", "SHOW ", "INFORMATION_SCHEMA", "TABLESAMPLE"];

fn folder() -> PathBuf {
    std::env::var_os("VONK_TEST_SQLLOGIC").map(PathBuf::from).expect("VONK_TEST_SQLLOGIC says where the scripts are")
}

fn names(folder: &Path) -> Vec<String> {
    let files = crate::harness::files_below(folder).into_iter();
    let files = files.filter(|file| file.extension().is_some_and(|kind| kind == "slt"));
    let names = files.map(|file| file.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
    names.filter(|name| EXCLUDED.iter().all(|(begins, _)| !name.starts_with(begins))).collect()
}

type Outcomes = BTreeMap<(String, u64), Value>;

fn ask(scripts: &Path, names: &[String], start: impl FnOnce(Program) -> Program) -> Outcomes {
    let home = tempfile::tempdir().unwrap();
    let (list, outcomes) = (home.path().join("names"), home.path().join("outcomes"));
    fs::write(&list, names.join("\n")).unwrap();
    fs::create_dir(&outcomes).unwrap();
    let paths = [scripts, &list, &outcomes].map(|path| path.to_str().unwrap());
    let program = Program::of(env!("CARGO_BIN_EXE_scripts"), &paths).hangs_after(HANGS_AFTER);
    start(program.conf(&["progress=quiet", "log=error"])).run().succeeded();
    let told = |name: &String| {
        let text = fs::read_to_string(outcomes.join(name.replace('/', "-"))).unwrap();
        let told: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        told.into_iter().map(move |told| ((name.clone(), told["line"].as_u64().unwrap()), told)).collect::<Vec<_>>()
    };
    names.iter().flat_map(told).collect()
}

fn is_determined(text: &str) -> bool {
    let text = text.to_uppercase();
    UNDETERMINED.iter().all(|word| !text.contains(word))
}

/// What is wrong with an outcome, if anything is.
fn difference(got: &Value, wanted: &Value) -> Option<String> {
    match (&got["rows"], &wanted["rows"]) {
        (Value::Null, Value::Null) if got["class"] == wanted["class"] => None,
        (Value::Array(got), Value::Array(wanted)) if got == wanted => None,
        _ => Some(format!("got    {}\nwanted {}", short(got), short(wanted))),
    }
}

fn short(outcome: &Value) -> String {
    outcome.to_string().chars().take(600).collect()
}

fn compare(names: &[String], start: impl FnOnce(Program) -> Program) {
    let scripts = folder();
    let wanted = ask(&scripts, names, |program| program.master("local[1]").args(&["--plain"]));
    let got = ask(&scripts, names, start);
    let mut texts: BTreeMap<(String, u64), String> = BTreeMap::new();
    for name in names {
        for Record { line, text } in records(&fs::read_to_string(scripts.join(name)).unwrap()) {
            texts.insert((name.clone(), line as u64), text);
        }
    }
    let answered = wanted.values().filter(|outcome| outcome["rows"].is_array()).count();
    let mut given_up: BTreeMap<&str, u64> = BTreeMap::new();
    for ((name, line), outcome) in got.iter().rev() {
        let error = outcome["error"].as_str().unwrap_or_default();
        if UNKNOWN_TO_EXECUTORS.iter().any(|known| error.contains(known)) {
            given_up.insert(name, *line);
        }
    }
    let is_built_on = |(name, line): &(String, u64)| given_up.get(name.as_str()).is_some_and(|from| line >= from);
    let is_known = |(name, line): &(String, u64)| KNOWN.iter().any(|(of, lines, _)| of == name && lines.contains(line));
    let compared =
        wanted.iter().filter(|(place, _)| is_determined(&texts[*place]) && !is_built_on(place) && !is_known(place));
    let compared: Vec<_> = compared.collect();
    let differences: Vec<String> = compared
        .iter()
        .filter_map(|(place, wanted)| {
            let difference = difference(&got[place], wanted)?;
            Some(format!("{}:{}\n{}\n{difference}\n", place.0, place.1, texts[place]))
        })
        .collect();
    eprintln!(
        "{} records, {answered} of them with an answer; {} compared, {} differ",
        wanted.len(),
        compared.len(),
        differences.len()
    );
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
}

#[test]
#[ignore = "needs DataFusion's scripts: cargo xtask test brings them"]
fn scripts_answer_alike_in_stages() {
    let names = names(&folder());
    compare(&names, |program| program.master("local[2]").conf(&["sql.force_stages=true", "sql.partitions=3"]));
}
