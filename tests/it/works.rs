//! Do programs give the same rows whatever their master?

use std::fs;

use crate::harness::{Program, files_below};

const MASTERS: [&str; 4] = ["local[1]", "local[2]", "local-cluster[2,1]", "local-cluster[3,2,512m]"];

#[test]
fn every_master_gives_the_same_rows() {
    let expected = Program::new(&["sum"]).master(MASTERS[0]).run().succeeded().stdout;
    assert_eq!(expected.lines().count(), 1_000);
    assert_eq!(expected.lines().next(), Some("00000000\t40\t780000"));
    for master in &MASTERS[1..] {
        let got = Program::new(&["sum"]).master(master).run().succeeded();
        assert_eq!(got.stdout, expected, "{master}");
    }
}

#[test]
fn a_shuffle_that_does_not_fit_into_messages_goes_through_the_store() {
    let shape = ["sum", "--rows", "2000000", "--keys", "50000"];
    let expected = Program::new(&shape).master("local[2]").run().succeeded().stdout;
    for conf in [&[][..], &["shuffle.codec=lz4"], &["shuffle.codec=zstd", "executor.memory=256m"]] {
        let got = Program::new(&shape).master("local-cluster[2,1]").conf(conf).run().succeeded();
        assert_eq!(got.stdout, expected, "{conf:?}");
    }
}

#[test]
fn a_second_job_uses_the_shuffle_of_the_first() {
    for master in ["local[2]", "local-cluster[2,1]"] {
        let outcome = Program::new(&["twice"]).master(master).run().succeeded();
        let (first, second) = outcome.stdout.split_at(outcome.stdout.len() / 2);
        assert_eq!(first, second);
        // A task that is taken back from a busy executor may have begun there: more than once, but not all twice.
        let maps = outcome.tokens.notes("maps").len();
        assert!((8..16).contains(&maps), "{master}: {maps} maps ran, of 8");
    }
}

#[test]
fn a_cached_dataset_is_computed_once() {
    for master in ["local[2]", "local-cluster[2,1]"] {
        let outcome = Program::new(&["cached", "3"]).master(master).run().succeeded();
        assert_eq!(outcome.stdout, "Some(799980000)\n".repeat(3));
        assert_eq!(outcome.tokens.notes("maps").len(), 1, "{master}");
    }
}

#[test]
fn an_accumulator_counts_every_row_once() {
    for master in ["local[2]", "local-cluster[2,1]"] {
        let outcome = Program::new(&["accumulate"]).master(master).run().succeeded();
        assert_eq!(outcome.stdout, "40000\n80000\n", "{master}");
    }
}

#[test]
fn files_go_along_with_any_master() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.txt");
    fs::write(&file, "along").unwrap();
    let files = format!("app.files={},{}#b", file.display(), file.display());
    for master in ["local[2]", "local-cluster[2,1]"] {
        for name in ["a.txt", "b"] {
            let outcome = Program::new(&["attached", name]).master(master).conf(&[&files]).run().succeeded();
            assert_eq!(outcome.stdout, "the driver reads along\na task reads along\n", "{master}");
        }
    }
    let missing = Program::new(&["sum"]).conf(&["app.files=/nowhere/at/all"]).run();
    missing.failed(2, &["attach `/nowhere/at/all`"]);
}

#[test]
fn a_driver_ends_when_its_time_is_over() {
    for master in ["local[2]", "local-cluster[2,1]"] {
        let outcome = Program::new(&["forever"]).master(master).env("VONK_TIMEOUT_MS", "2000").run();
        outcome.failed(124, &["it ran longer than --timeout: stopping"]);
    }
}

#[test]
fn text_is_written_all_at_once_and_reads_back() {
    for master in ["local[2]", "local-cluster[2,1]"] {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let outcome = Program::new(&["save", out.to_str().unwrap()]).master(master).run().succeeded();
        assert_eq!(outcome.stdout, "1000 rows\n");
        assert!(out.join("_SUCCESS").exists());
        let parts: Vec<_> = files_below(&out).into_iter().filter(|p| !p.to_str().unwrap().contains("/_")).collect();
        assert_eq!(parts.len(), 4, "{parts:?}");
        let mut lines: Vec<String> = parts
            .iter()
            .flat_map(|p| fs::read_to_string(p).unwrap().lines().map(str::to_owned).collect::<Vec<_>>())
            .collect();
        lines.sort_unstable();
        let expected = Program::new(&["sum"]).master("local[2]").run().succeeded().stdout;
        assert_eq!(lines.join("\n") + "\n", expected);
        let count = Program::new(&["lines", out.to_str().unwrap()]).master(master).run().succeeded();
        assert_eq!(count.stdout, "1000\n");
    }
}

#[test]
fn stdout_holds_results_alone() {
    let outcome = Program::new(&["cached", "1"]).master("local-cluster[2,1]").run().succeeded();
    assert_eq!(outcome.stdout, "Some(799980000)\n");
    assert!(outcome.stderr.contains("1 job, 1 stage, 8 tasks in "), "{}", outcome.stderr);
    let quiet = Program::new(&["cached", "1"]).master("local[2]").conf(&["progress=quiet", "log=error"]).run();
    assert_eq!(quiet.succeeded().stderr, "");
}

#[test]
fn the_event_log_of_a_local_cluster_tells_the_whole_story() {
    let outcome = Program::new(&["sum"]).master("local-cluster[2,1]").run().succeeded();
    let logs: Vec<_> =
        files_below(outcome.home.path()).into_iter().filter(|p| p.extension().is_some_and(|e| e == "jsonl")).collect();
    let text: String = logs.iter().map(|p| fs::read_to_string(p).unwrap()).collect();
    let events: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let named = |name: &str| events.iter().filter(|e| e["event"] == name).count();
    assert_eq!(events[0]["event"], "application_started");
    assert_eq!(events.last().unwrap()["event"], "application_ended");
    assert_eq!((named("job_started"), named("job_finished"), named("task_finished")), (1, 1, 12));
    assert_eq!((named("stage_started"), named("stage_finished")), (2, 2));
    assert!(named("executor_joined") >= 1);
}
