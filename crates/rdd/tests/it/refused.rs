//! Which functions are refused when a program is built, and what does the compiler say?
//!
//! The refusal comes when code is generated, later than `cargo check` looks. Each case is compiled by rustc against the
//! library that this test was built with: a second build of all dependencies for it would take minutes.

use std::path::PathBuf;
use std::process::Command;

/// Builds a program whose `main` has this body; gives what the compiler said if it refused.
fn build(body: &str) -> Result<(), String> {
    let exe = std::env::current_exe().unwrap();
    let deps = exe.parent().unwrap();
    let library = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with("librdd-") && name.ends_with(".rlib")
    };
    let built = std::fs::read_dir(deps).unwrap().map(|entry| entry.unwrap().path()).filter(library);
    let newest = built.max_by_key(|path| path.metadata().unwrap().modified().unwrap()).unwrap();

    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("case.rs");
    let text = format!(
        "#![allow(unused)]\nuse rdd::*;\nfn case(ctx: &RddContext) {{ {body} }}\nfn main() {{ std::hint::black_box(case as fn(&RddContext)); }}"
    );
    std::fs::write(&program, text).unwrap();
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let ran = Command::new(rustc)
        .args(["--edition=2024", "--crate-type=bin", "--emit=obj", "-Awarnings", "-o"])
        .arg(folder.path().join("case.o"))
        .arg("--extern")
        .arg(format!("rdd={}", newest.display()))
        .arg("-L")
        .arg(format!("dependency={}", deps.display()))
        .arg(&program)
        .output()
        .unwrap();
    if ran.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&ran.stderr).into_owned()) }
}

#[track_caller]
fn assert_refused(body: &str, because: &str) {
    let said = build(body).expect_err("this should not build");
    assert!(said.contains(because), "{said}");
}

/// What the refusal of a capturing closure names.
const WAYS_OUT: &str = "`task!(move [a, &b] |x| ..)`, or hand them over with `map_with(env, |env, x| ..)`";

#[test]
fn what_travels_is_built() {
    let body = "
        let (limit, names) = (3u64, vec![String::new()]);
        let rdd = ctx.range(0u64..10);
        rdd.map(|x| x + 1).filter(|x| x % 2 == 0).map(u64::count_ones);
        rdd.filter(task!(move [limit] |x| *x < limit)).map(task!(move [&names] |x| names[x as usize].clone()));
        rdd.map_with((limit, names), |(limit, names), x| x * limit + names.len() as u64).count();
    ";
    assert_eq!(build(body), Ok(()));
}

#[test]
fn a_closure_that_captures_is_refused_wherever_it_is_passed() {
    for call in [
        "rdd.map(move |x| x + n);",
        "rdd.filter(move |x| *x < n);",
        "rdd.flat_map(move |x| [x, n]);",
        "rdd.key_by(move |x| x % n);",
        "rdd.map_partitions(move |rows| rows.map(move |x| x + n));",
        "rdd.map(|x| (x, x)).reduce_by_key(move |a, b| a + b + n);",
        "let _ = rdd.reduce(move |a, b| a + b + n);",
        "let _ = rdd.foreach(move |x| println!(\"{}\", x + n));",
    ] {
        assert_refused(&format!("let n = 3u64; let rdd = ctx.range(0u64..10); {call}"), WAYS_OUT);
    }
}

#[test]
fn a_function_pointer_is_refused() {
    assert_refused("let f: fn(u64) -> u64 = |x| x + 1; ctx.range(0u64..10).map(f);", WAYS_OUT);
}

#[test]
fn an_environment_beside_captures_is_refused() {
    assert_refused(
        "let n = 3u64; ctx.range(0u64..10).map_with(1u64, move |one, x| x + one + n);",
        "the function of `map_with` uses its environment and captures nothing",
    );
    assert_refused(
        "let n = 3u64; ctx.accumulator_with(0u64, move |a, b| *a += b + n);",
        "the function that merges an accumulator captures nothing",
    );
}

#[test]
fn a_task_uses_only_what_it_names() {
    assert_refused(
        "let (a, b) = (1u64, 2u64); let f = task!(move [a] |x: u64| a + b + x); ctx.range(0u64..10).map(f).count();",
        "error",
    );
    assert_refused("task!(|x: u64| x);", "a task is written `task!(move [a, &b] |x| ..)`");
}

#[test]
fn what_cannot_be_encoded_is_refused() {
    assert_refused("struct Opaque; let rdd = ctx.range(0u64..10).map(|_| Opaque).collect();", "Serialize");
    assert_refused(
        "#[derive(Clone)] struct Opaque; let o = Opaque; ctx.range(0u64..10).map(task!(move [&o] |x| x));",
        "Serialize",
    );
}
