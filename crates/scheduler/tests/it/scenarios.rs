//! Is each rule kept, one by one?

use std::time::Duration;

use insta::assert_snapshot;
use scheduler::{Config, Growth};

use crate::script::{play, play_with};

/// The example of the house style: what is stored stays.
#[test]
fn an_executor_is_lost_and_only_what_ran_there_runs_again() {
    assert_snapshot!(play("executor e1 slots=2; job j1: map[2] -> reduce[1]; done map.0; lost e1: evicted; \
         executor e2 slots=2; done map.1; done reduce.0"), @r"
    request 0
    launch map.0#0 on e1, map.1#0 on e1; no more map to e1; request 2
    accept map.0#0; request 1
    remove e1: evicted; failed map.1#0: lost-infrastructure
    launch map.1#1 on e2
    accept map.1#1; launch reduce.0#0 on e2
    accept reduce.0#0; finish j1; request 0
    ");
}

/// R1, and other tasks' failures do not add up.
#[test]
fn r1_four_counted_failures_of_one_task_fail_the_job() {
    assert_snapshot!(play("executor e1; executor e2; executor e3; executor e4; executor e5; job j1: out[2]; \
         fail out.1: internal; fail out.0: internal; fail out.0: internal; fail out.0: internal; \
         fail out.0: internal"), @r"
    request 0
    -
    -
    -
    -
    launch out.0#0 on e1, out.1#0 on e2; request 2
    failed out.1#0: internal; launch out.1#1 on e3
    failed out.0#0: internal; launch out.0#1 on e2
    failed out.0#1: internal; launch out.0#2 on e4
    failed out.0#2: internal; launch out.0#3 on e5
    failed out.0#3: internal, the last; fail j1: internal: internal after 3; stop out; cancel out.1#1 on e3; request 1
    ");
}

/// R2.
#[test]
fn r2_four_attempts_of_a_stage_in_a_row_fail_the_job() {
    assert_snapshot!(play("executor e1; job j1: map[1] -> reduce[1]; done map.0; fail reduce.0: missing map.0; \
         done map.0; fail reduce.0: missing map.0; done map.0; fail reduce.0: missing map.0; \
         done map.0; fail reduce.0: missing map.0"), @r"
    request 0
    launch map.0#0 on e1; request 1
    accept map.0#0; launch reduce.0#0 on e1
    failed reduce.0#0: map-output-missing; drop map.0; stop reduce; launch map.0#r1.0 on e1
    accept map.0#r1.0 again; launch reduce.0#r1.0 on e1
    failed reduce.0#r1.0: map-output-missing; drop map.0; stop reduce; launch map.0#r2.0 on e1
    accept map.0#r2.0 again; launch reduce.0#r2.0 on e1
    failed reduce.0#r2.0: map-output-missing; drop map.0; stop reduce; launch map.0#r3.0 on e1
    accept map.0#r3.0 again; launch reduce.0#r3.0 on e1
    failed reduce.0#r3.0: map-output-missing; drop map.0; fail j1: map-output-missing: run stage s1: 4 attempts in a row failed: missing map.0 after 3; stop reduce; request 0
    ");
}

/// R3.
#[test]
fn r3_infrastructure_losses_have_their_own_limit() {
    let config = Config { max_executors: 9, infrastructure_losses: 3, min_executors: 0, ..Config::default() };
    assert_snapshot!(play_with(config, "executor e1; job j1: out[1]; lost e1: evicted; executor e2; lost e2: evicted; executor e3; \
         lost e3: evicted"), @r"
    request 0
    launch out.0#0 on e1; request 1
    remove e1: evicted; failed out.0#0: lost-infrastructure
    launch out.0#1 on e2
    remove e2: evicted; failed out.0#1: lost-infrastructure
    launch out.0#2 on e3
    remove e3: evicted; failed out.0#2: lost-infrastructure, the last; fail j1: lost-infrastructure: e3 is lost: evicted after 2; stop out; request 0
    ");
}

/// R3: what drains and ends in order does not count.
#[test]
fn r3_a_release_is_nobodys_failure() {
    let config = Config { max_executors: 9, infrastructure_losses: 1, min_executors: 0, ..Config::default() };
    assert_snapshot!(play_with(config, "executor e1; job j1: out[1]; lost e1: released; executor e2; done out.0"), @r"
    request 0
    launch out.0#0 on e1; request 1
    remove e1: released
    launch out.0#1 on e2
    accept out.0#1; finish j1; request 0
    ");
}

/// R4: both tasks may be to blame; the second crash has one culprit.
#[test]
fn r4_a_crash_gives_strikes_and_the_next_try_is_alone() {
    let config = Config { max_executors: 9, crashes: 9, min_executors: 0, ..Config::default() };
    assert_snapshot!(play_with(config, "executor e1 slots=2; executor e2 slots=2; job j1: out[5]; lost e1: abort; done out.2; \
         done out.4; lost e2: oom; executor e3 slots=2; done out.0; lost e3: abort; \
         executor e4 slots=2; lost e4: abort; executor e5 slots=2; lost e5: abort"), @r"
    request 0
    -
    launch out.0#0 on e1, out.1#0 on e2, out.2#0 on e1, out.3#0 on e2, out.4#0 on e1; request 5
    remove e1: abort; failed out.0#0: lost-program; failed out.2#0: lost-program
    -
    -
    remove e2: oom; it ran 0.1.0, 0.3.0; failed out.1#0: lost-memory; failed out.3#0: lost-memory
    launch out.0#1 on e3
    accept out.0#1; launch out.1#1 on e3; request 4
    remove e3: abort; failed out.1#1: lost-program
    launch out.1#2 on e4
    remove e4: abort; failed out.1#2: lost-program, the last; fail j1: lost-program: e4 is lost: abort after 2; stop out; request 0
    -
    remove e5: abort
    ");
}

/// R4.
#[test]
fn r4_a_task_out_of_memory_runs_alone() {
    assert_snapshot!(play("executor e1 slots=2; job j1: out[3]; fail out.0: memory; done out.2; done out.1; \
         fail out.0: memory; fail out.0: memory"), @r"
    request 0
    launch out.0#0 on e1, out.1#0 on e1, out.2#0 on e1; request 3
    failed out.0#0: task-memory
    accept out.2#0; request 2
    accept out.1#0; launch out.0#1 on e1; request 1
    failed out.0#1: task-memory; launch out.0#2 on e1
    failed out.0#2: task-memory, the last; fail j1: task-memory: memory after 2; stop out; request 0
    ");
}

/// R5.
#[test]
fn r5_a_query_is_never_tried_again() {
    assert_snapshot!(play("executor e1; job j1: out[2]; fail out.0: query"), @r"
    request 0
    launch out.0#0 on e1, out.1#0 on e1; request 2
    failed out.0#0: query, the last; fail j1: query: query; stop out; cancel out.1#0 on e1; request 1
    ");
}

/// R5: not on e1, although that is free.
#[test]
fn r5_user_code_is_tried_once_more_and_elsewhere() {
    assert_snapshot!(play("executor e1; executor e2; job j1: out[2]; fail out.0: panic; done out.1; fail out.0: panic"), @r"
    request 0
    -
    launch out.0#0 on e1, out.1#0 on e2; request 2
    failed out.0#0: user-panic; launch out.0#1 on e2
    accept out.1#0; request 1
    failed out.0#1: user-panic, the last; fail j1: user-panic: panic after 1; stop out; request 0
    ");
}

/// R5.
#[test]
fn r5_transient_user_code_is_tried_by_r1() {
    let config = Config { max_executors: 1, min_executors: 0, ..Config::default() };
    assert_snapshot!(play_with(config, "executor e1; job j1: out[1]; fail out.0: transient; fail out.0: transient; \
         fail out.0: transient; fail out.0: transient"), @r"
    request 0
    launch out.0#0 on e1; request 1
    failed out.0#0: user-code; launch out.0#1 on e1
    failed out.0#1: user-code; warn: tasks of stage s0 have failed on every executor: it goes on with those there are; launch out.0#2 on e1
    failed out.0#2: user-code; launch out.0#3 on e1
    failed out.0#3: user-code, the last; fail j1: user-code: transient after 3; stop out; request 0
    ");
}

#[test]
fn r6_the_first_accepted_attempt_wins() {
    assert_snapshot!(play("executor e1; job j1: out[2]; executor e2; done out.1#0; done out.1#1; done out.0"), @r"
    request 0
    launch out.0#0 on e1, out.1#0 on e1; request 2
    cancel out.1#0 on e1; launch out.1#1 on e2; request 3
    accept out.1#0; cancel out.1#1 on e2; request 2
    void out.1#1; request 1
    accept out.0#0; finish j1; request 0
    ");
}

/// R6.
#[test]
fn r6_a_status_is_heard_twice() {
    assert_snapshot!(play("executor e1; job j1: out[2]; done out.0; done out.0; done out.1; done out.1"), @r"
    request 0
    launch out.0#0 on e1, out.1#0 on e1; request 2
    accept out.0#0; request 1
    -
    accept out.1#0; finish j1; request 0
    -
    ");
}

/// R7: nothing more is sent to e1, and the third failure drains it.
#[test]
fn r7_two_failures_exclude_an_executor_from_a_stage() {
    assert_snapshot!(play("executor e1; executor e2; job j1: out[8]; fail out.0: disk; fail out.2: disk; \
         fail out.4: disk; drained e1"), @r"
    request 0
    -
    launch out.0#0 on e1, out.1#0 on e2, out.2#0 on e1, out.3#0 on e2; request 8
    failed out.0#0: disk; launch out.4#0 on e1
    failed out.2#0: disk
    failed out.4#0: disk; drain e1: 3 tasks failed there within 10 minutes; request 9
    request 8; release e1
    ");
}

/// R7: e1 is the only executor; another is asked for, none comes.
#[test]
fn r7_exclusion_everywhere_is_lifted_after_a_minute() {
    let config = Config { max_executors: 9, executor_exclusion: 9, min_executors: 0, ..Config::default() };
    assert_snapshot!(play_with(config, "executor e1; job j1: out[2]; fail out.0: disk; fail out.1: disk; wait 59s; wait 2s"), @r"
    request 0
    launch out.0#0 on e1, out.1#0 on e1; request 2
    failed out.0#0: disk; launch out.0#1 on e1
    failed out.1#0: disk
    -
    warn: tasks of stage s0 have failed on every executor: it goes on with those there are; launch out.1#1 on e1
    ");
}

/// R7.
#[test]
fn r7_exclusion_is_of_no_use_if_nobody_else_may_come() {
    let config = Config { max_executors: 1, executor_exclusion: 9, min_executors: 0, ..Config::default() };
    assert_snapshot!(play_with(config, "executor e1; job j1: out[2]; fail out.0: disk; fail out.1: disk"), @r"
    request 0
    launch out.0#0 on e1, out.1#0 on e1; request 1
    failed out.0#0: disk; launch out.0#1 on e1
    failed out.1#0: disk; warn: tasks of stage s0 have failed on every executor: it goes on with those there are; launch out.1#1 on e1
    ");
}

/// R8.
#[test]
fn r8_executors_that_cannot_start_fail_the_job() {
    assert_snapshot!(play("job j1: out[1]; lost e1: start; lost e2: start"), @r"
    request 1
    remove e1: start
    remove e2: start; fail j1: lost-start: no executor could start, 2 have tried: e2 is lost: start after 1; stop out; request 0
    ");
}

/// R8: tasks differ, so that none is to blame.
#[test]
fn r8_crashes_again_and_again_fail_the_job() {
    assert_snapshot!(play("executor e1; job j1: out[1]; lost e1: released; lost e2: start; lost e3: start; \
         lost e4: start"), @r"
    request 0
    launch out.0#0 on e1; request 1
    remove e1: released
    remove e2: start
    remove e3: start
    remove e4: start; fail j1: lost-start: executors crash again and again: 3 times within 10 minutes: e4 is lost: start after 2; stop out; request 0
    ");
}

/// R9.
#[test]
fn r9_no_executor_for_ten_minutes_fails_the_job() {
    assert_snapshot!(play("job j1: out[1]; wait 9m; wait 61s"), @r"
    request 1
    -
    fail j1: lost-infrastructure: there was no executor for 600 s; stop out; request 0
    ");
}

/// R9.
#[test]
fn r9_no_executor_for_a_minute_if_none_can_start() {
    assert_snapshot!(play("job j1: out[1]; refused: quota exceeded; wait 59s; wait 2s"), @r"
    request 1
    -
    -
    fail j1: lost-start: there was no executor for 60 s: quota exceeded; stop out; request 0
    ");
}

/// R9: the API server had just begun, and refused for a moment.
#[test]
fn r9_a_refusal_that_was_taken_back_is_forgotten() {
    assert_snapshot!(play("job j1: out[1]; refused: no right; refused: ; wait 9m; wait 61s"), @r"
    request 1
    -
    -
    -
    fail j1: lost-infrastructure: there was no executor for 600 s; stop out; request 0
    ");
}

/// R9: it is tried again each second at most.
#[test]
fn r9_a_store_that_never_answers_fails_the_job() {
    let config =
        Config { max_executors: 9, store_retry: Duration::from_secs(120), min_executors: 0, ..Config::default() };
    assert_snapshot!(play_with(config, "executor e1; job j1: out[1]; fail out.0: store; wait 120s; fail out.0: store; wait 9m"), @r"
    request 0
    launch out.0#0 on e1; request 1
    warn: the store is unavailable: tasks that need it are tried again for 10 min; failed out.0#0: store-unavailable
    launch out.0#1 on e1
    failed out.0#1: store-unavailable
    launch out.0#2 on e1; fail j1: store-unavailable: the store has answered no request for 600 s: store; stop out; cancel out.0#2 on e1
    ");
}

/// R9.
#[test]
fn r9_a_store_that_answers_in_time_is_forgiven() {
    assert_snapshot!(play("executor e1; job j1: out[1]; fail out.0: store; wait 1s; answered; wait 20m; done out.0"), @r"
    request 0
    launch out.0#0 on e1; request 1
    warn: the store is unavailable: tasks that need it are tried again for 10 min; failed out.0#0: store-unavailable
    launch out.0#1 on e1
    -
    -
    accept out.0#1; finish j1; request 0
    ");
}

/// R11: but silence counts from then on.
#[test]
fn r11_a_driver_that_slept_blames_nobody() {
    assert_snapshot!(play("executor e1; job j1: out[1]; slept 40s; silent e1; wait 24s; wait 2s"), @r"
    request 0
    launch out.0#0 on e1; request 1
    -
    -
    -
    remove e1: it has been silent for 25 s; failed out.0#0: lost-infrastructure
    ");
}

/// The loss is found by a deadline, and takes the same path.
#[test]
fn an_executor_is_silent_for_25_seconds() {
    assert_snapshot!(play("executor e1; executor e2; job j1: out[1]; silent e1; wait 24s; wait 2s; done out.0#0; \
         done out.0"), @r"
    request 0
    -
    launch out.0#0 on e1; request 1
    -
    -
    remove e1: it has been silent for 25 s; failed out.0#0: lost-infrastructure; launch out.0#1 on e2
    -
    accept out.0#1; finish j1; request 0
    ");
}

/// Non-determinism before any result has left: all maps run again.
#[test]
fn a_rerun_map_that_differs_raises_the_generation() {
    assert_snapshot!(play("executor e1 slots=2; job j1: map[2] -> reduce[2]; done map.0; done map.1; \
         fail reduce.0: missing map.0; done map.0; differs map.0; fail reduce.0: cancelled; fail reduce.1#0: cancelled; done map.0; done map.1; \
         done reduce.0; done reduce.1"), @r"
    request 0
    launch map.0#0 on e1, map.1#0 on e1; no more map to e1; request 2
    accept map.0#0; request 1
    accept map.1#0; launch reduce.0#0 on e1, reduce.1#0 on e1; request 2
    failed reduce.0#0: map-output-missing; drop map.0; stop reduce; launch map.0#r1.0 on e1
    accept map.0#r1.0 again; launch reduce.0#r1.0 on e1
    map is of generation 1; stop reduce; cancel reduce.0#r1.0 on e1; cancel reduce.1#0 on e1; launch map.0#r2.0 on e1, map.1#r2.0 on e1; no more map to e1; request 4
    request 3
    request 2
    accept map.0#r2.0 again; request 1
    accept map.1#r2.0 again; launch reduce.0#r2.0 on e1, reduce.1#r2.0 on e1; request 2
    accept reduce.0#r2.0; request 1
    accept reduce.1#r2.0; finish j1; request 0
    ");
}

/// Non-determinism when it is too late.
#[test]
fn a_generation_rises_after_results_have_left() {
    assert_snapshot!(play("executor e1 slots=2; job j1: map[1] -> reduce[2]; done map.0; done reduce.0; \
         fail reduce.1: missing map.0; done map.0; differs map.0"), @r"
    request 0
    launch map.0#0 on e1; request 1
    accept map.0#0; launch reduce.0#0 on e1, reduce.1#0 on e1; request 2
    accept reduce.0#0; request 1
    failed reduce.1#0: map-output-missing; drop map.0; stop reduce; launch map.0#r1.0 on e1
    accept map.0#r1.0 again; launch reduce.1#r1.0 on e1
    map is of generation 1; stop reduce; cancel reduce.1#r1.0 on e1; fail j1: not-deterministic: map 0 of shuffle 0 gave other rows when it ran again: rows made from the earlier ones have left already: sort, seed or checkpoint what is unstable
    ");
}

/// Staged files are forgotten, and made again.
#[test]
fn a_generation_rises_before_files_are_committed() {
    assert_snapshot!(play("executor e1 slots=2; job j1: map[1] -> save[2]!; done map.0; done save.0; \
         fail save.1: missing map.0; done map.0; differs map.0; fail save.1: cancelled; done map.0; \
         done save.0; done save.1"), @r"
    request 0
    launch map.0#0 on e1; request 1
    accept map.0#0; launch save.0#0 on e1, save.1#0 on e1; request 2
    accept save.0#0; request 1
    failed save.1#0: map-output-missing; drop map.0; stop save; launch map.0#r1.0 on e1
    accept map.0#r1.0 again; launch save.1#r1.0 on e1
    map is of generation 1; void all of save; stop save; cancel save.1#r1.0 on e1; launch map.0#r2.0 on e1; request 2
    request 1
    accept map.0#r2.0 again; launch save.0#r2.0 on e1, save.1#r2.0 on e1; request 2
    accept save.0#r2.0 again; request 1
    accept save.1#r2.0; finish j1; request 0
    ");
}

/// A shuffle made from rows that changed begins anew, too.
#[test]
fn other_rows_change_what_was_made_from_them() {
    assert_snapshot!(play("executor e1; job j1: a[1] -> b[2] -> c[1]; done a.0; done b.0; fail b.1: missing a.0; \
         done a.0; differs a.0; fail b.1: cancelled; done a.0; done b.0; done b.1; done c.0"), @r"
    request 0
    launch a.0#0 on e1; request 1
    accept a.0#0; launch b.0#0 on e1, b.1#0 on e1; no more b to e1; request 2
    accept b.0#0; request 1
    failed b.1#0: map-output-missing; drop a.0; stop b; launch a.0#r1.0 on e1
    accept a.0#r1.0 again; launch b.1#r1.0 on e1
    a is of generation 1; stop b; cancel b.1#r1.0 on e1; b is of generation 1; launch a.0#r2.0 on e1; request 2
    request 1
    accept a.0#r2.0 again; launch b.0#r2.0 on e1, b.1#r2.0 on e1; no more b to e1; request 2
    accept b.0#r2.0 again; request 1
    accept b.1#r2.0; launch c.0#0 on e1
    accept c.0#0; finish j1; request 0
    ");
}

/// Only what is missing; its accumulators were counted.
#[test]
fn a_lost_output_of_an_earlier_job_is_made_again() {
    assert_snapshot!(play("executor e1 slots=2; job j1: map[2] -> reduce[1]; done map.0; done map.1; done reduce.0; \
         gone map.1; job j2: map -> other[1]; done map.1; done other.0"), @r"
    request 0
    launch map.0#0 on e1, map.1#0 on e1; no more map to e1; request 2
    accept map.0#0; request 1
    accept map.1#0; launch reduce.0#0 on e1
    accept reduce.0#0; finish j1; request 0
    drop map.1
    launch map.1#r1.0 on e1; request 1
    accept map.1#r1.0 again; launch other.0#0 on e1
    accept other.0#0; finish j2; request 0
    ");
}

#[test]
fn a_lost_output_that_nobody_needs_stays_lost() {
    assert_snapshot!(play("executor e1 slots=2; job j1: a[1] -> b[1] -> c[1]; done a.0; done b.0; gone a.0; done c.0"), @r"
    request 0
    launch a.0#0 on e1; request 1
    accept a.0#0; launch b.0#0 on e1
    accept b.0#0; launch c.0#0 on e1
    drop a.0
    accept c.0#0; finish j1; request 0
    ");
}

#[test]
fn a_complete_shuffle_is_not_made_again() {
    assert_snapshot!(play("executor e1; job j1: map[1] -> reduce[1]; done map.0; done reduce.0; \
         job j2: map -> other[1]; done other.0; release map"), @r"
    request 0
    launch map.0#0 on e1; request 1
    accept map.0#0; launch reduce.0#0 on e1
    accept reduce.0#0; finish j1; request 0
    launch other.0#0 on e1; request 1
    accept other.0#0; finish j2; request 0
    delete map
    ");
}

/// The second goes on with what was accepted.
#[test]
fn two_jobs_share_a_shuffle_and_the_first_is_cancelled() {
    assert_snapshot!(play("executor e1 slots=2; job j1: map[3] -> reduce[1]; job j2: map -> other[1]; done map.0; \
         cancel j1; fail map.1#0: cancelled; fail map.2#0: cancelled; done map.1; done map.2; \
         done other.0"), @r"
    request 0
    launch map.0#0 on e1, map.1#0 on e1, map.2#0 on e1; no more map to e1; request 3
    -
    accept map.0#0; request 2
    fail j1: cancelled: asked; stop map; cancel map.1#0 on e1; cancel map.2#0 on e1; launch map.1#r1.0 on e1, map.2#r1.0 on e1; no more map to e1; request 4
    request 3
    request 2
    accept map.1#r1.0; request 1
    accept map.2#r1.0; launch other.0#0 on e1
    accept other.0#0; finish j2; request 0
    ");
}

/// FIFO.
#[test]
fn jobs_are_served_in_order() {
    assert_snapshot!(play("executor e1; job j1: a[3]; job j2: b[1]; done a.0; done a.1; done a.2; done b.0"), @r"
    request 0
    launch a.0#0 on e1, a.1#0 on e1; request 3
    request 4
    accept a.0#0; launch a.2#0 on e1; request 3
    accept a.1#0; launch b.0#0 on e1; request 2
    accept a.2#0; finish j1; request 1
    accept b.0#0; finish j2; request 0
    ");
}

#[test]
fn a_group_is_cancelled() {
    assert_snapshot!(play("executor e1 slots=2; job j1 group=g: a[1]; job j2: b[1]; cancel group g; done b.0; \
         done a.0"), @r"
    request 0
    launch a.0#0 on e1; request 1
    launch b.0#0 on e1; request 2
    fail j1: cancelled: asked; stop a; cancel a.0#0 on e1
    accept b.0#0; finish j2; request 1
    void a.0#0; request 0
    ");
}

/// Its executor is slower than one that joins.
#[test]
fn one_task_waits_behind_each_slot_and_is_taken_back() {
    assert_snapshot!(play("executor e1; job j1: out[2]; started out.0; executor e2; fail out.1#0: cancelled; \
         done out.1#1; done out.0"), @r"
    request 0
    launch out.0#0 on e1, out.1#0 on e1; request 2
    -
    cancel out.1#0 on e1; launch out.1#1 on e2; request 3
    request 2
    accept out.1#1; request 1
    accept out.0#0; finish j1; request 0
    ");
}

/// It still runs, and with its executor it is lost.
#[test]
fn a_map_that_handed_over_frees_its_slot() {
    assert_snapshot!(play("executor e1; job j1: map[4] -> reduce[1]; packed map.0; lost e1: evicted"), @r"
    request 0
    launch map.0#0 on e1, map.1#0 on e1; request 4
    launch map.2#0 on e1; request 3
    remove e1: evicted; failed map.0#0: lost-infrastructure; failed map.1#0: lost-infrastructure; request 4
    ");
}

/// Executors that were told that more would come are told that none will.
#[test]
fn no_more_maps_wait() {
    assert_snapshot!(play("executor e1; executor e2; job j1: map[4] -> reduce[1]; done map.0"), @r"
    request 0
    -
    launch map.0#0 on e1, map.1#0 on e2, map.2#0 on e1, map.3#0 on e2; no more map to e1 e2; request 4
    accept map.0#0; request 3
    ");
}

/// e2 is free, but e1 holds both partitions; then one is taken back from there.
#[test]
fn cached_partitions_are_waited_for_a_second() {
    assert_snapshot!(play("executor e1; job j1: use[2]@7; done use.0 caches 7; done use.1 caches 7; executor e2; \
         job j2: again[3]@7; done again.2; wait 500ms; wait 600ms; done again.1"), @r"
    request 0
    launch use.0#0 on e1, use.1#0 on e1; request 2
    accept use.0#0; request 1
    accept use.1#0; finish j1; request 0
    -
    launch again.0#0 on e1, again.2#0 on e2, again.1#0 on e1; request 3
    accept again.2#0; request 2
    -
    cancel again.1#0 on e1; launch again.1#1 on e2; request 3
    accept again.1#1; request 2
    ");
}

#[test]
fn holders_of_cached_partitions_that_stay_busy_are_not_waited_for() {
    assert_snapshot!(play("executor e1; job j1: use[3]@7; done use.0 caches 7; done use.1 caches 7; \
         done use.2 caches 7; job j2: again[3]@7; executor e2; wait 500ms; wait 600ms"), @r"
    request 0
    launch use.0#0 on e1, use.1#0 on e1; request 3
    accept use.0#0; launch use.2#0 on e1; request 2
    accept use.1#0; request 1
    accept use.2#0; finish j1; request 0
    launch again.0#0 on e1, again.1#0 on e1; request 3
    -
    -
    launch again.2#0 on e2
    ");
}

#[test]
fn a_dataset_that_is_not_wanted_is_not_waited_for() {
    assert_snapshot!(play("executor e1; job j1: use[3]@7; done use.0 caches 7; done use.1 caches 7; \
         done use.2 caches 7; unpersist 7; executor e2; job j2: again[2]@7"), @r"
    request 0
    launch use.0#0 on e1, use.1#0 on e1; request 3
    accept use.0#0; launch use.2#0 on e1; request 2
    accept use.1#0; request 1
    accept use.2#0; finish j1; request 0
    -
    -
    launch again.0#0 on e1, again.1#0 on e2; request 2
    ");
}

/// min 1, max 3, two slots each; idle ones are let go after a minute.
#[test]
fn executors_follow_the_demand() {
    let config = Config { min_executors: 1, max_executors: 3, slots_per_executor: 2, ..Config::default() };
    assert_snapshot!(play_with(config, "begin; executor e1 slots=2; job j1: out[5]; executor e2 slots=2; executor e3 slots=2; \
         done out.0; done out.1; done out.2; done out.3; done out.4; wait 61s; drained e3; \
         lost e3: released"), @r"
    request 1
    -
    launch out.0#0 on e1, out.1#0 on e1, out.2#0 on e1, out.3#0 on e1; request 3
    launch out.4#0 on e2; cancel out.3#0 on e1; launch out.3#1 on e2
    cancel out.2#0 on e1; launch out.2#1 on e3
    accept out.0#0
    accept out.1#0
    accept out.2#1; request 2
    accept out.3#1
    accept out.4#0; finish j1; request 1
    drain e2: it is not needed; drain e3: it is not needed; request 3
    request 2; release e3
    remove e3: released
    ");
}

/// Half a second after tasks wait: 4 more, then 8 more, then what is needed; those of the start are there before any job.
#[test]
fn executors_come_in_growing_steps() {
    let growth = Some(Growth::default());
    let config = Config { min_executors: 0, initial_executors: 2, max_executors: 20, growth, ..Config::default() };
    assert_snapshot!(play_with(config, "begin; job j1: out[18]; wait 500ms; wait 1s; wait 1s; wait 1s; cancel j1; job j2: again[3]"), @r"
    request 2
    -
    request 6
    request 14
    request 18
    -
    fail j1: cancelled: asked; stop out; request 0
    request 1
    ");
}

/// One that holds cached partitions is kept for ten minutes.
#[test]
fn what_is_cached_keeps_an_executor_longer() {
    let config = Config { min_executors: 0, max_executors: 1, ..Config::default() };
    assert_snapshot!(play_with(config, "begin; executor e1; job j1: out[1]@7; done out.0 caches 7; wait 61s; wait 540s"), @r"
    request 0
    -
    launch out.0#0 on e1; request 1
    accept out.0#0; finish j1; request 0
    -
    drain e1: it is not needed; request 1
    ");
}

#[test]
fn an_executor_that_drains_gets_nothing_more() {
    assert_snapshot!(play("executor e1; executor e2; job j1: out[5]; draining e1; done out.0; drained e1; \
         lost e1: released"), @r"
    request 0
    -
    launch out.0#0 on e1, out.1#0 on e2, out.2#0 on e1, out.3#0 on e2; request 5
    drain e1: spot notice; cancel out.2#0 on e1; request 7
    accept out.0#0; request 6
    request 5; release e1
    remove e1: released; request 4
    ");
}

/// What was never delivered runs elsewhere or again; what nobody wants is stopped.
#[test]
fn a_link_is_made_again() {
    assert_snapshot!(play("executor e1 slots=2; job j1: out[3]; holds e1: out.0; executor e2 slots=2; done out.0"), @r"
    request 0
    launch out.0#0 on e1, out.1#0 on e1, out.2#0 on e1; request 3
    launch out.1#1 on e1, out.2#1 on e1
    cancel out.2#1 on e1; launch out.2#2 on e2; request 4
    accept out.0#0; request 3
    ");
}

/// Its incarnation is lost; what it says is void, and it is removed again.
#[test]
fn a_zombie_changes_nothing() {
    assert_snapshot!(play("executor e1; job j1: out[1]; lost e1: evicted; done out.0; executor e1; executor e2; \
         done out.0"), @r"
    request 0
    launch out.0#0 on e1; request 1
    remove e1: evicted; failed out.0#0: lost-infrastructure
    -
    remove e1: it was given up before it joined
    launch out.0#1 on e2
    accept out.0#1; finish j1; request 0
    ");
}

#[test]
fn a_stage_without_partitions_is_done_at_once() {
    assert_snapshot!(play("executor e1; job j1: map[0] -> reduce[1]; done reduce.0; job j2: nothing[0]"), @r"
    request 0
    launch reduce.0#0 on e1; request 1
    accept reduce.0#0; finish j1; request 0
    finish j2
    ");
}

/// A cancellation that nobody asked for counts as a loss to the infrastructure.
#[test]
fn somebody_else_ends_an_attempt() {
    let config = Config { max_executors: 9, infrastructure_losses: 2, min_executors: 0, ..Config::default() };
    assert_snapshot!(play_with(config, "executor e1; job j1: out[1]; fail out.0: cancelled; fail out.0: cancelled"), @r"
    request 0
    launch out.0#0 on e1; request 1
    failed out.0#0: lost-infrastructure; launch out.0#1 on e1
    failed out.0#1: lost-infrastructure, the last; fail j1: lost-infrastructure: cancelled after 1; stop out; request 0
    ");
}

#[test]
fn denied_by_the_store() {
    assert_snapshot!(play("executor e1; job j1: out[2]; fail out.0: denied"), @r"
    request 0
    launch out.0#0 on e1, out.1#0 on e1; request 2
    failed out.0#0: store-denied, the last; fail j1: store-denied: denied; stop out; cancel out.1#0 on e1; request 1
    ");
}
