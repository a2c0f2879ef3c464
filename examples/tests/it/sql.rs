//! Do the examples of DataFrames and SQL answer as they should?

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{MASTERS, printed, refused};

const SQL_TOUR: &str = env!("CARGO_BIN_EXE_sql_tour");
const PARQUET_ETL: &str = env!("CARGO_BIN_EXE_parquet_etl");
const UDF: &str = env!("CARGO_BIN_EXE_udf");

#[test]
fn every_example_explains_itself() {
    for program in [SQL_TOUR, PARQUET_ETL, UDF] {
        let help = printed(program, &["--help"]);
        assert!(help.contains("--master") && help.contains("--conf") && help.contains("Usage:"), "{help}");
    }
}

#[test]
fn sql_tour_prints_cities_and_countries() {
    let expected = "\
+-----------+--------+
| name      | people |
+-----------+--------+
| Amsterdam | 931000 |
| Antwerp   | 536000 |
| Utrecht   | 374000 |
+-----------+--------+
Netherlands: 1305000 people in 2 cities
Belgium: 536000 people in 1 cities
";
    for master in MASTERS {
        assert_eq!(printed(SQL_TOUR, &["--min-people", "300000", "--master", master]), expected, "{master}");
        let none = printed(SQL_TOUR, &["--min-people", "1000000", "--master", master]);
        assert!(none.starts_with("+") && !none.contains("people in"), "{none}");
    }
}

#[test]
fn udf_finds_anagrams() {
    for master in MASTERS {
        assert_eq!(printed(UDF, &["--master", master]), "below elbow\nenlist listen silent\n", "{master}");
        let words = ["stop", "pots", "été", "tops", "téé", "alone", "--master", master];
        assert_eq!(printed(UDF, &words), "pots stop tops\ntéé été\n", "{master}");
    }
}

/// What is in the table that the three months of orders become.
const MONTHS: &str = "\
+---------+--------+----------+
| month   | orders | amount   |
+---------+--------+----------+
| 2026-01 | 67     | 33474.40 |
| 2026-02 | 65     | 29170.96 |
| 2026-03 | 56     | 28102.79 |
+---------+--------+----------+
";

#[test]
fn parquet_etl_writes_a_folder_for_each_month_once() {
    for master in MASTERS {
        let folder = tempfile::tempdir().unwrap();
        let table = folder.path().join("clean");
        let output = table.to_str().unwrap();
        let expected = format!("188 of 200 orders are in {output}\n{MONTHS}");
        assert_eq!(printed(PARQUET_ETL, &["--output", output, "--master", master]), expected, "{master}");
        let first = files(&table);
        let months: BTreeSet<&str> =
            first.iter().map(|file| file.to_str().unwrap().split('/').next().unwrap()).collect();
        assert_eq!(Vec::from_iter(months), ["month=2026-01", "month=2026-02", "month=2026-03"]);

        let (code, said) = refused(PARQUET_ETL, &["--output", output, "--master", master]);
        assert!(code == 1 && said.contains("clean") && said.contains("there is something already"), "{code}: {said}");
        assert_eq!(files(&table), first, "what was there is untouched");

        let again = printed(PARQUET_ETL, &["--output", output, "--overwrite", "--master", master]);
        assert_eq!(again, expected, "{master}");
        assert!(files(&table).iter().all(|file| !first.contains(file)), "other files took their place");
    }
}

/// The table's files, relative to its folder.
fn files(table: &Path) -> Vec<PathBuf> {
    assert!(table.join("_SUCCESS").exists());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(table).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("_vonk") {
            found.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    found.sort();
    found.iter().map(|path| path.strip_prefix(table).unwrap().to_owned()).collect()
}

#[test]
fn what_cannot_run_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("clean");
    for master in MASTERS {
        let arguments = ["--orders", "/no-such-file.csv", "--output", output.to_str().unwrap(), "--master", master];
        let (code, said) = refused(PARQUET_ETL, &arguments);
        assert!(code == 1 && said.contains("no-such-file.csv"), "{master}: {code}: {said}");
        assert!(!output.exists(), "nothing was written");
    }
    let other = folder.path().join("orders.csv");
    std::fs::write(&other, "id,host,date,amount\n1,10.0.0.1,2026-01-01,3.00\n").unwrap();
    let arguments = ["--orders", other.to_str().unwrap(), "--output", output.to_str().unwrap(), "--master", "local[2]"];
    let (code, said) = refused(PARQUET_ETL, &arguments);
    assert!(code == 1 && said.contains("day") && !output.exists(), "{code}: {said}");
    let (code, said) = refused(PARQUET_ETL, &["--master", "local[2]"]);
    assert!(code == 2 && said.contains("--output"), "{code}: {said}");
}
