//! What does wrong input do? One clear error, and nothing lost.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::harness::Program;

fn local(args: &[&str]) -> Program {
    Program::new(args).master("local[2]")
}

#[test]
fn a_wrong_master_key_or_flag_says_what_is_right() {
    Program::new(&["sum"])
        .master("lokal")
        .run()
        .failed(2, &["read master `lokal`: there is no such master; want local[N]"]);
    local(&["sum"]).conf(&["executor.memry=1g"]).run().failed(2, &["did you mean `executor.memory`?"]);
    local(&["sum"]).conf(&["executor.memory=lots"]).run().failed(2, &["want a size such as 512m or 4g"]);
    local(&["sum"]).conf(&["master"]).run().failed(2, &["want KEY=VALUE"]);
    local(&["sum"]).env("VONK_EXECUTOR_MEMRY", "1g").run().failed(2, &["did you mean `VONK_EXECUTOR_MEMORY`?"]);
    Program::new(&["sum"]).args(&["--mastre", "local"]).run().failed(2, &["--master"]);
    let program = Program::new(&["sum"]);
    fs::write(program.home().join("vonk.toml"), "[executor]\nmemry = \"1g\"").unwrap();
    program.run_leaving().failed(2, &["vonk.toml", "did you mean `executor.memory`?"]);
}

#[test]
fn a_path_that_cannot_be_read_is_named() {
    local(&["lines", "/no/such/file"]).run().failed(1, &["/no/such/file"]);
    local(&["lines", "/no/such/*.txt"]).run().failed(1, &["/no/such/*.txt", "no file matches"]);
}

#[test]
fn a_file_that_may_not_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret.txt");
    fs::write(&file, "nobody reads this\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
    let path = file.to_str().unwrap();
    let program = local(&["lines", path]);
    let program = match fs::read(&file) {
        // Who may do everything gives that up.
        Ok(_) => program.under(&["setpriv", "--inh-caps=-all", "--bounding-set=-all"]),
        Err(_) => program,
    };
    program.run().failed(1, &[path, "ermission denied"]);
}

#[test]
fn a_folder_in_a_folder_is_refused_and_a_pattern_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("sub")).unwrap();
    fs::write(folder.path().join("a.txt"), "1\n").unwrap();
    fs::write(folder.path().join("sub/b.txt"), "2\n3\n").unwrap();
    let path = folder.path().to_str().unwrap();
    local(&["lines", path]).run().failed(1, &[path, "/sub` is no file", "**/*"]);
    assert_eq!(local(&["lines", &format!("{path}/**/*")]).run().succeeded().stdout, "3\n");
}

/// The sentence of a system whose disk is full.
const FULL: &str = "No space left on device";

/// Disks that are too small for a program that needs some ten megabytes, and one that is not.
const SMALL: &str = "2m";
const LARGE: &str = "1g";

/// Fails on a small disk at once, with this code and saying this; the same program on a large one succeeds.
fn fills(program: impl Fn(&Path) -> Program, code: i32, says: &str) {
    let folder = tempfile::tempdir().unwrap();
    let outcome = program(folder.path()).disk(folder.path(), SMALL).run().failed(code, &[FULL, says]);
    assert!(outcome.took.as_secs() < 60, "{:?}", outcome.took);
    program(folder.path()).disk(folder.path(), LARGE).run().succeeded();
}

/// Enough rows to fill it.
const SUM: [&str; 5] = ["sum", "--rows", "3000000", "--keys", "1000000"];

#[test]
fn a_disk_that_fills_with_spilled_rows_is_named() {
    let store = tempfile::tempdir().unwrap();
    let spills = |folder: &Path| {
        let disk = format!("executor.disk={}", folder.display());
        // Tried again with the executor to itself, a task may have room.
        let program = local(&SUM).conf(&["executor.memory=64m", "task.max_failures=1", &disk]);
        // The store has room, and would lie on the same disk if nobody said where.
        program.store(&format!("file://{}", store.path().display()))
    };
    fills(spills, 1, "spill rows to the local disk");
}

#[test]
fn a_task_that_would_spill_more_than_it_may_fails_before_it_does() {
    let set = |most: &str| {
        let most = format!("executor.disk_max={most}");
        local(&SUM).conf(&["executor.memory=64m", "task.max_failures=1", &most])
    };
    set("2m").run().failed(1, &["spill rows to the local disk", "of the 2 MiB that may be spilled are taken"]);
    set("1g").run().succeeded();
}

#[test]
fn a_disk_that_fills_with_the_store_is_named() {
    let stores = |folder: &Path| {
        let program = Program::new(&SUM).master("local-cluster[2,1]").conf(&["shuffle.inline_task_max=0"]);
        program.store(&format!("file://{}", folder.display()))
    };
    fills(stores, 78, "the store refuses");
}

#[test]
fn a_disk_that_fills_with_output_is_named() {
    for master in ["local[2]", "local-cluster[2,1]"] {
        let saves = |folder: &Path| {
            let out = folder.join("out");
            Program::new(&["save", out.to_str().unwrap(), "--rows", "400000", "--keys", "200000"]).master(master)
        };
        fills(saves, 78, "write `");
    }
}

#[test]
fn a_corrupt_gz_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.gz");
    fs::write(&file, b"\x1f\x8b\x08\x00this is no deflate stream").unwrap();
    local(&["lines", file.to_str().unwrap()]).run().failed(1, &[file.to_str().unwrap()]);
}

#[test]
fn text_that_is_not_utf8_is_replaced_and_counted_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("latin1.txt");
    fs::write(&file, b"caf\xe9\nplain\n\xff\xfe\n".repeat(100)).unwrap();
    let outcome = local(&["lines", file.to_str().unwrap()]).run().succeeded();
    assert_eq!(outcome.stdout, "300\n");
    assert_eq!(outcome.stderr.matches("UTF-8").count(), 1, "{}", outcome.stderr);
}

#[test]
fn an_output_folder_that_exists_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let save = || local(&["save", out.to_str().unwrap()]).run();
    save().succeeded();
    let before = crate::harness::files_below(&out);
    save().failed(1, &[out.to_str().unwrap(), "there is something already"]);
    assert_eq!(crate::harness::files_below(&out), before);
}

#[test]
fn a_panic_names_message_place_and_partition() {
    for master in ["local[2]", "local-cluster[2,1]"] {
        let outcome = Program::new(&["panic-at", "7777"]).master(master).run();
        outcome.failed(1, &["row 7777 is wrong", "program.rs:", ".3.", "reduce at "]);
    }
}

#[test]
fn a_result_over_the_limit_names_the_limit() {
    for master in ["local[2]", "local-cluster[2,1]"] {
        let outcome = Program::new(&["collect", "20000"]).master(master).conf(&["driver.max_result_size=10m"]).run();
        outcome.failed(1, &["driver.max_result_size"]);
        let fits = Program::new(&["collect", "20000"]).master(master).conf(&["driver.max_result_size=64m"]).run();
        assert_eq!(fits.succeeded().stdout, "20000\n");
    }
}

#[test]
fn a_store_without_rights_bucket_or_sense_is_named() {
    let sum = |url: &str| Program::new(&["sum"]).master("local-cluster[2,1]").store(url).run();
    sum("ftp://x/y").failed(2, &["open the store", "`ftp` is none of s3, gs, az, file, memory"]);
    sum("memory:///x").failed(2, &["its executors are other processes"]);
    sum("/just/a/path").failed(2, &["open the store", "/just/a/path"]);
    let file = tempfile::NamedTempFile::new().unwrap();
    sum(&format!("file://{}/below/a/file", file.path().display())).failed(69, &["/below/a/file"]);
}

#[test]
fn an_executor_that_cannot_start_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let file = folder.path().join("file");
    fs::write(&file, b"").unwrap();
    let disk = format!("executor.disk={}", file.display());
    Program::new(&["sum"]).master("local-cluster[2,1]").conf(&[&disk]).run().failed(1, &[file.to_str().unwrap()]);
}
