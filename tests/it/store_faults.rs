//! What happens when the store fails, loses, or lies?

use shuffle::testing::{Chaos, Fault, Rule, Verb};

use crate::harness::{IMPATIENT, Outcome, Program};

/// Everything goes through the store, in blocks.
const STORED: &[&str] = &["shuffle.inline_task_max=0", "shuffle.store_deadline=20s"];

/// The first object of every executor: what an executor makes in its place has another number.
const FIRST_OBJECT: &str = "*shuffle/v1/*-00000000.vonk";

fn expected() -> String {
    Program::new(&["sum"]).master("local[1]").run().succeeded().stdout
}

/// Runs the program over a store in which these rules act, with processes that share one budget.
fn run(rules: &[Rule], more: &[&str]) -> (Outcome, Chaos) {
    let folder = tempfile::tempdir().unwrap();
    let chaos = Chaos::new(rules.iter().cloned()).with_budget_in(&folder.path().join("budget")).unwrap();
    let file = folder.path().join("chaos.json");
    std::fs::write(&file, chaos.to_json()).unwrap();
    let url = format!("chaos:{},file://{}", file.display(), folder.path().join("store").display());
    let program = Program::new(&["sum"]).master("local-cluster[2,1]").conf(IMPATIENT).conf(STORED).conf(more);
    let outcome = program.store(&url).run();
    if let Err(unspent) = chaos.check_spent() {
        panic!("{unspent}; stderr:\n{}", outcome.stderr);
    }
    (outcome, chaos)
}

fn survives(rules: &[Rule]) -> Outcome {
    let (outcome, _) = run(rules, &[]);
    let outcome = outcome.succeeded();
    assert_eq!(outcome.stdout, expected(), "{rules:?}");
    outcome
}

#[test]
fn a_store_that_answers_500_or_503_for_a_while_is_waited_for() {
    for status in [500, 503] {
        survives(&[
            Rule::new(Verb::Put, "*shuffle/v1/*.vonk", Fault::Status(status)).times(3),
            Rule::new(Verb::Get, "*shuffle/v1/*.vonk", Fault::Status(status)).times(3),
        ]);
    }
    let always = Rule::new(Verb::Get, "*shuffle/v1/*.vonk", Fault::Status(503)).always();
    let (outcome, _) = run(&[always], &["shuffle.store_deadline=1s", "driver.no_store_timeout=3s"]);
    outcome.failed(69, &["store"]);
}

#[test]
fn a_lost_reply_changes_nothing() {
    survives(&[Rule::new(Verb::Put, "*shuffle/v1/*.vonk", Fault::LostReply).times(2)]);
}

#[test]
fn a_bit_flipped_on_the_way_is_read_again() {
    survives(&[Rule::new(Verb::Get, "*shuffle/v1/*.vonk", Fault::FlipBit).times(2)]);
}

#[test]
fn a_body_cut_short_is_read_again() {
    survives(&[Rule::new(Verb::Get, "*shuffle/v1/*.vonk", Fault::ShortBody).times(2)]);
}

#[test]
fn a_bit_flipped_at_rest_makes_the_maps_run_again() {
    let rule = [Rule::new(Verb::Put, "*shuffle/v1/*.vonk", Fault::FlipBit)];
    let outcome = survives(&rule);
    assert!(outcome.tokens.notes("maps").len() > 8, "maps ran again");
    let (control, _) = run(&rule, &["stage.max_failures=1"]);
    assert_ne!(control.code, Some(0), "without a second stage attempt the run must fail");
}

#[test]
fn an_object_that_is_lost_is_made_again() {
    let rule = [Rule::new(Verb::Get, FIRST_OBJECT, Fault::Missing).always()];
    let outcome = survives(&rule);
    assert!(outcome.tokens.notes("maps").len() > 8, "maps ran again");
    let (control, _) = run(&rule, &["stage.max_failures=1"]);
    assert_ne!(control.code, Some(0), "without a second stage attempt the run must fail");
}

#[test]
fn a_store_that_refuses_is_named_at_once() {
    let always = Rule::new(Verb::Put, "*shuffle/v1/*.vonk", Fault::Status(403)).always();
    let (outcome, _) = run(&[always], &[]);
    assert!(outcome.took.as_secs() < 30, "{:?}", outcome.took);
    outcome.failed(78, &["store"]);
}
