//! What does wrong input do? One clear error, and nothing lost.

use std::fs;
use std::os::unix::fs::PermissionsExt;

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
    sum(&format!("file://{}/below/a/file", file.path().display())).failed(1, &["/below/a/file"]);
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
