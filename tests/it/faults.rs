//! What happens when executors, tasks or the driver die?
//!
//! Every test compares rows with a fault-free run and asserts that its fault fired; every fault has a control that
//! switches off what saves the run, and must fail.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use vonk_tests::{CGROUP, Fault, Tokens, children_of, signal};

use crate::harness::{IMPATIENT, LONG_SILENCE, Outcome, Program, eventually, files_below};

/// Where a fault may happen inside a job.
const POINTS: [&str; 4] = ["map", "write", "reduce", "result"];

fn tokens(at: &str, fault: Fault, times: u32) -> Tokens {
    Tokens::default().with(at, fault, times)
}

fn sum() -> Program {
    Program::new(&["sum"]).master("local-cluster[2,1]").conf(IMPATIENT)
}

fn expected() -> String {
    Program::new(&["sum"]).master("local[1]").run().succeeded().stdout
}

/// With the fault, the same rows; with what saves it switched off, a failure.
fn survives(faults: impl Fn() -> Tokens, off: &str) -> Outcome {
    let outcome = sum().faults(faults()).run().succeeded();
    assert_eq!(outcome.stdout, expected());
    let control = sum().conf(&[off]).faults(faults()).run();
    assert_ne!(control.code, Some(0), "with {off} the run must fail: this test sees nothing");
    assert!(control.tokens.fired() > 0, "the control's fault fired");
    outcome
}

#[test]
fn one_executor_killed() {
    for at in POINTS {
        let outcome = survives(|| tokens(at, Fault::Kill, 1), "task.max_executor_losses=1");
        assert!(outcome.stderr.contains("1 lost executor"), "{at}: {}", outcome.stderr);
    }
}

#[test]
fn all_executors_killed() {
    for at in POINTS {
        survives(|| tokens(at, Fault::KillAll, 1), "task.max_executor_losses=1");
    }
}

#[test]
fn executors_killed_between_stages_cost_no_map() {
    let outcome = Program::new(&["twice"])
        .master("local-cluster[2,1]")
        .conf(IMPATIENT)
        .faults(tokens("between", Fault::KillAll, 1))
        .run()
        .succeeded();
    assert_eq!(outcome.stdout, expected().repeat(2));
    // On a busy machine one that was taken back may have run nevertheless; all eight would run again.
    let maps = outcome.tokens.notes("maps").len();
    assert!((8..12).contains(&maps), "no map ran again: {maps}");
}

#[test]
fn an_executor_that_hangs_is_replaced_and_fenced() {
    for at in ["write", "result"] {
        survives(|| tokens(at, Fault::Pause(LONG_SILENCE), 1), "task.max_executor_losses=1");
    }
}

/// Deadlines that pass while the driver sleeps are nobody's fault.
#[test]
fn a_driver_that_slept_blames_nobody() {
    for at in ["map", "result"] {
        // Executors wait for it: a minute, as ever.
        let conf = [&IMPATIENT[..3], &["task.max_executor_losses=1"]].concat();
        let program = Program::new(&["sum"]).master("local-cluster[2,1]").conf(&conf);
        let outcome = program.faults(tokens(at, Fault::PauseDriver(LONG_SILENCE), 1)).run().succeeded();
        assert_eq!(outcome.stdout, expected(), "{at}");
        assert!(outcome.took.as_secs() >= u64::from(LONG_SILENCE), "it slept");
        assert!(!outcome.stderr.contains("lost executor"), "{at}: {}", outcome.stderr);
    }
}

/// Executors that their driver forsook end; a driver that wakes gets others.
#[test]
fn a_driver_that_slept_too_long_gets_new_executors() {
    let outcome = sum().faults(tokens("map", Fault::PauseDriver(LONG_SILENCE), 1)).run().succeeded();
    assert_eq!(outcome.stdout, expected());
}

/// A lease that another driver holds, or that was swept: the application ends and says so, and touches nothing of theirs.
#[test]
fn a_driver_that_has_lost_its_lease_stops_and_says_why() {
    for taken in [true, false] {
        let home = tempfile::tempdir().unwrap();
        let store = format!("file://{}", home.path().display());
        let program = Program::new(&["forever"]).master("local-cluster[2,1]").conf(IMPATIENT).store(&store);
        let mut running = program.conf(&["store.sweep_after=12s"]).leaves().start();
        eventually("tasks run", || running.tokens().notes("forever").len() == 2);
        let lease = files_below(&home.path().join("shuffle/v1/_lease")).pop().expect("a lease was taken");
        let executors = running.executors();
        // Again and again: a renewal that had looked just before puts the driver's own there once more.
        eventually("the driver has seen it and ended", || {
            let done = if taken { fs::write(&lease, "another driver") } else { fs::remove_file(&lease) };
            assert!(done.is_ok() || !taken, "{done:?}");
            running.child.try_wait().unwrap().is_some()
        });
        let says = if taken { "another driver holds it" } else { "it was swept" };
        let outcome = running.wait();
        let outcome = outcome.failed(69, &["the application has lost its place in the store", says]);
        assert!(outcome.took < Duration::from_secs(60), "{:?}", outcome.took);
        assert!(executors.iter().all(|pid| !fs::exists(format!("/proc/{pid}")).unwrap()), "executors are gone");
        assert_eq!(taken, lease.exists(), "what is another's stays");
    }
}

#[test]
fn a_panic_is_tried_again_once() {
    for at in ["map", "reduce"] {
        survives(|| tokens(at, Fault::Panic, 1), "task.max_failures=1");
        sum().faults(tokens(at, Fault::Panic, 16)).run().failed(1, &["the test wants a panic", "lib.rs:"]);
    }
}

#[test]
fn a_task_that_ends_its_process_is_tried_alone_and_named() {
    for fault in [Fault::Abort, Fault::Exit, Fault::Overflow] {
        for at in ["map", "reduce"] {
            let outcome = sum().faults(tokens(at, fault, 1)).run().succeeded();
            assert_eq!(outcome.stdout, expected(), "{fault:?} at {at}");
        }
        let control = sum().faults(tokens("map", fault, 64)).run();
        control.failed(1, &["error: run job `collect at "]);
    }
}

/// A memory cgroup of 300 MiB; gone when dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    /// `None` where this process may not make one.
    fn make() -> Option<Self> {
        let (base, limit) = match fs::exists("/sys/fs/cgroup/memory") {
            Ok(true) => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => ("/sys/fs/cgroup", "memory.max"),
        };
        let path = PathBuf::from(base).join(format!("vonk-test-{}", std::process::id()));
        fs::create_dir(&path).ok()?;
        let cgroup = Self(path);
        fs::write(cgroup.0.join(limit), (300u32 << 20).to_string()).ok()?;
        Some(cgroup)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let folder = &self.0;
        eventually("the cgroup is empty", || fs::remove_dir(folder).is_ok() || !folder.exists());
    }
}

#[test]
fn a_task_killed_for_its_memory_is_tried_alone_and_named() {
    let cgroup = Cgroup::make().expect("make a memory cgroup: run the tests as root, or delegate one");
    let run = |times| sum().env(CGROUP, &cgroup.0).faults(tokens("map", Fault::Allocate, times)).run();
    assert_eq!(run(1).succeeded().stdout, expected());
    run(64).failed(1, &["memory"]);
}

#[test]
fn files_appear_exactly_once_whatever_dies() {
    for (at, fault) in [
        ("map", Fault::Kill),
        ("reduce", Fault::Kill),
        ("result", Fault::KillAll),
        ("result", Fault::Pause(LONG_SILENCE)),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let outcome = Program::new(&["save", out.to_str().unwrap()])
            .master("local-cluster[2,1]")
            .conf(IMPATIENT)
            .faults(tokens(at, fault, 1))
            .run()
            .succeeded();
        assert_eq!(outcome.stdout, "1000 rows\n");
        assert_eq!(published(&out), expected(), "{fault:?} at {at}");
        assert!(files_below(&out.join("_vonk/stage")).is_empty(), "staged files are gone");
    }
}

/// The lines of all published files, sorted.
fn published(out: &std::path::Path) -> String {
    let parts =
        files_below(out).into_iter().filter(|p| !p.strip_prefix(out).unwrap().to_str().unwrap().starts_with('_'));
    let text: String = parts.map(|p| fs::read_to_string(p).unwrap()).collect();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[test]
fn executors_of_a_killed_driver_end_themselves() {
    let running = Program::new(&["forever"]).master("local-cluster[2,1]").conf(IMPATIENT).leaves().start();
    eventually("both executors run tasks", || running.tokens().notes("forever").len() == 2);
    let executors = running.executors();
    assert_eq!(executors.len(), 2);
    signal("KILL", running.pid());
    eventually("executors are gone", || executors.iter().all(|pid| !fs::exists(format!("/proc/{pid}")).unwrap()));
    let outcome = running.wait();
    assert_eq!(outcome.code, None, "killed by a signal");
}

#[test]
fn a_driver_killed_in_a_job_leaves_what_a_later_one_sweeps() {
    let home = tempfile::tempdir().unwrap();
    let store = format!("file://{}", home.path().display());
    let conf = [IMPATIENT, &["shuffle.inline_task_max=0"]].concat();
    let run = |tokens: Tokens, leaves: bool, more: &[&str]| {
        let program = Program::new(&["sum"]).master("local-cluster[2,1]").conf(&conf).conf(more).store(&store);
        let program = program.faults(tokens);
        if leaves { program.leaves().run() } else { program.run() }
    };
    let killed = run(tokens("reduce", Fault::KillDriver, 1), true, &[]);
    assert_eq!((killed.code, killed.tokens.fired()), (None, 1));
    let left = |what: &str| files_below(home.path()).iter().filter(|p| p.to_str().unwrap().contains(what)).count();
    assert!(left("/shuffle/v1/") > 1, "a lease and objects are left");
    run(Tokens::default(), false, &[]).succeeded();
    assert!(left("/shuffle/v1/") > 1, "the lease has not expired: the killed driver might only sleep");
    // The lease expires a second after its last renewal, and executors of the killed driver may write until they notice.
    eventually("everything but history is gone", || {
        run(Tokens::default(), false, &["store.sweep_after=1s"]).succeeded();
        left("/shuffle/v1/") + left("/apps/") == 0
    });
}

#[test]
fn ctrl_c_stops_everything_and_says_so() {
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        for master in ["local[2]", "local-cluster[2,1]"] {
            let running = Program::new(&["forever"]).master(master).conf(IMPATIENT).start();
            eventually("tasks run", || running.tokens().notes("forever").len() >= 2);
            let executors = children_of(running.pid());
            signal(name, running.pid());
            let outcome = running.wait().failed(code, &["stopping"]);
            assert!(outcome.took < Duration::from_secs(60));
            assert!(executors.iter().all(|pid| !fs::exists(format!("/proc/{pid}")).unwrap()), "executors are gone");
        }
    }
}
