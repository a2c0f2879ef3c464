//! What is left of an application for those who ask later: what it printed, how it went, why it failed?

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use vonk_tests::{Fault, Tokens, signal};

use crate::harness::{Outcome, Program, eventually, files_below};

/// Lines that the task prints: more than a failure shows.
const LINES: usize = 120;

fn say(more: &[&str]) -> Program {
    let lines = LINES.to_string();
    let words = [&["say", lines.as_str()], more].concat();
    Program::new(&words).master("local-cluster[1,1]")
}

/// The only file of history with this name.
fn kept(outcome: &Outcome, name: &str) -> Option<String> {
    let all = files_below(outcome.home.path());
    let found: Vec<&PathBuf> = all.iter().filter(|path| path.ends_with(name)).collect();
    assert!(found.len() <= 1, "{found:?}");
    found.first().map(|path| fs::read_to_string(path).unwrap())
}

fn status(outcome: &Outcome) -> Value {
    serde_json::from_str(&kept(outcome, "status.json").expect("its driver told how it was")).unwrap()
}

fn line(number: usize) -> String {
    format!("line {number} of the task")
}

/// Whether the last line of one stream is there: which of two streams is heard last is chance.
fn has_last(lines: &[&str]) -> bool {
    [LINES - 1, LINES - 2].into_iter().any(|last| lines.iter().any(|shown| shown.trim() == line(last)))
}

/// Lines in the order of each stream.
fn in_order(text: &str) -> bool {
    let wanted = |even: bool| (0..LINES).filter(move |n| n.is_multiple_of(2) == even).map(line);
    [true, false].into_iter().all(|even| {
        let mut lines = text.lines();
        wanted(even).all(|wanted| lines.any(|line| line.ends_with(&wanted)))
    })
}

#[test]
fn a_failed_task_says_what_its_executor_printed_last() {
    let outcome = say(&[]).run().failed(1, &["enough was said", "what e1 printed last:"]);
    // The second try was elsewhere, or there once more: what was printed first is not in it.
    let (_, shown) = outcome.stderr.split_once("what e1 printed last:\n").unwrap();
    let shown: Vec<&str> = shown.lines().take_while(|line| line.starts_with("  ")).collect();
    assert_eq!(shown.len(), 50, "{shown:#?}");
    assert!(has_last(&shown), "{shown:#?}");

    let parts =
        files_below(outcome.home.path()).into_iter().filter(|path| path.extension().is_some_and(|e| e == "jsonl"));
    let events: String = parts.map(|path| fs::read_to_string(path).unwrap()).collect();
    let failed: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let failed: Vec<&Value> = failed.iter().filter(|event| event["event"] == "task_failed").collect();
    assert_eq!(failed.len(), 2, "both tries: {failed:#?}");
    for event in failed {
        let lines = event["failure"]["last_lines"].as_array().unwrap();
        let lines: Vec<&str> = lines.iter().filter_map(Value::as_str).collect();
        assert!(lines.len() == 50 && has_last(&lines), "{lines:#?}");
    }
    assert!(in_order(&kept(&outcome, "00000001-e1.log").unwrap()));
    let said = kept(&outcome, "00000001-driver.log").unwrap();
    assert!(said.contains("e1: line 0 of the task") && said.contains("\nerror: run job"), "{said}");
    let end = &status(&outcome)["end"];
    assert!(end["exit_code"] == 1 && end["error"].as_str().unwrap().starts_with("run job"), "{end}");
}

#[test]
fn what_was_printed_just_before_a_crash_is_kept_and_told() {
    for fault in [Fault::Abort, Fault::Kill, Fault::Overflow, Fault::Exit] {
        let crash = matches!(fault, Fault::Abort | Fault::Overflow | Fault::Exit);
        let program = say(&["--well"]).conf(&["task.max_executor_losses=1"]);
        let outcome = program.faults(Tokens::default().with("said", fault, if crash { 3 } else { 1 })).run();
        let outcome = outcome.failed(if crash { 1 } else { 69 }, &["printed last:"]);
        let (_, shown) = outcome.stderr.split_once("printed last:\n").unwrap();
        let shown: Vec<&str> = shown.lines().take_while(|line| line.starts_with("  ")).collect();
        assert!(has_last(&shown), "{fault:?}: {shown:#?}");
        let log = kept(&outcome, "00000001-e1.log").unwrap();
        assert!(in_order(&log), "{fault:?}: {log}");
        if let Fault::Overflow = fault {
            let said = |text: &str| text.contains("overflowed its stack");
            assert!(
                said(&log) && shown.iter().any(|line| said(line)),
                "what the runtime says while it dies: {shown:#?}"
            );
        }
    }
}

#[test]
fn an_application_that_ended_well_leaves_its_logs_and_how_it_was() {
    let outcome = say(&["--well"]).run().succeeded();
    assert!(!outcome.stderr.contains("printed last"), "{}", outcome.stderr);
    assert!(in_order(&kept(&outcome, "00000001-e1.log").unwrap()));
    let said = kept(&outcome, "00000001-driver.log").unwrap();
    assert!(said.contains("1 job, 1 stage, 1 task"), "{said}");
    let status = status(&outcome);
    assert_eq!((&status["end"]["exit_code"], &status["end"]["error"]), (&Value::from(0), &Value::Null));
    assert_eq!((&status["tasks"]["done"], &status["jobs"]["done"]), (&Value::from(1), &Value::from(1)));
}

#[test]
fn a_program_that_is_told_to_end_says_so_to_history() {
    let program = Program::new(&["forever"]).master("local-cluster[2,1]");
    let running = program.start();
    eventually("tasks run", || running.tokens().notes("forever").len() == 2);
    let home = running.home().to_owned();
    let told = || {
        let path = files_below(&home).into_iter().find(|path| path.ends_with("status.json"))?;
        serde_json::from_slice::<Value>(&fs::read(path).ok()?).ok()
    };
    eventually("its driver tells that it runs", || {
        told().is_some_and(|told| told["tasks"]["running"] == 2 && told["executors"].as_array().unwrap().len() == 2)
    });
    signal("TERM", running.pid());
    let outcome = running.wait();
    assert_eq!(outcome.code, Some(143), "{}", outcome.stderr);
    assert!(outcome.took < Duration::from_secs(60), "{:?}", outcome.took);
    assert_eq!(status(&outcome)["end"]["error"], "terminated");
    assert!(kept(&outcome, "00000001-driver.log").unwrap().contains("terminated: stopping"));
}

#[test]
fn who_wants_no_history_has_none() {
    let outcome = say(&["--well"]).conf(&["event_log.enabled=false"]).run().succeeded();
    assert_eq!(kept(&outcome, "status.json"), None);
    assert_eq!(kept(&outcome, "00000001-e1.log"), None);
    let local = Program::new(&["say", "3", "--well"]).master("local[1]").run().succeeded();
    assert_eq!(files_below(local.home.path()), Vec::<PathBuf>::new());
}
