//! Do the examples print what they should, in one process and across processes?

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[cfg(feature = "sql")]
mod sql;

use std::path::Path;
use std::process::{Command, Output};

const MASTERS: [&str; 2] = ["local[2]", "local-cluster[2,1]"];

/// Runs an example in its own folder, so that nothing but the arguments configures it.
fn run(program: &str, arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("VONK_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).current_dir(folder.path()).output().unwrap()
}

/// What an example prints to stdout, if it succeeds.
#[track_caller]
fn printed(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {}\n{stderr}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// What an example says when it does not succeed, and its exit code.
#[track_caller]
fn refused(program: &str, arguments: &[&str]) -> (i32, String) {
    let output = run(program, arguments);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "stdout is for results");
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

const PI: &str = env!("CARGO_BIN_EXE_pi");
const WORD_COUNT: &str = env!("CARGO_BIN_EXE_word_count");
const PAGE_RANK: &str = env!("CARGO_BIN_EXE_page_rank");
const K_MEANS: &str = env!("CARGO_BIN_EXE_k_means");
const LOGISTIC_REGRESSION: &str = env!("CARGO_BIN_EXE_logistic_regression");
const LOG_ANALYSIS: &str = env!("CARGO_BIN_EXE_log_analysis");

#[test]
fn every_example_explains_itself() {
    for program in [PI, WORD_COUNT, PAGE_RANK, K_MEANS, LOGISTIC_REGRESSION, LOG_ANALYSIS] {
        let help = printed(program, &["--help"]);
        assert!(help.contains("--master") && help.contains("--conf") && help.contains("Usage:"), "{help}");
    }
}

#[test]
fn pi_is_the_same_whatever_computes_it() {
    let expected = printed(PI, &["--samples", "1000000", "--partitions", "1", "--master", "local[1]"]);
    assert!(expected.starts_with("Pi is roughly 3.14"), "{expected}");
    for master in MASTERS {
        let other = printed(PI, &["--samples", "1000000", "--partitions", "7", "--master", master]);
        assert_eq!(other, expected, "{master}");
    }
}

#[test]
fn word_count_counts_words() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.txt"), "to be or not to be\n\n  that is\tthe question").unwrap();
    std::fs::write(folder.path().join("b.txt"), "to sleep\r\nno more\n").unwrap();
    let path = folder.path().to_str().unwrap();
    for master in MASTERS {
        let all = printed(WORD_COUNT, &[path, "--master", master]);
        assert_eq!(all, "3\tto\n2\tbe\n1\tis\n1\tmore\n1\tno\n1\tnot\n1\tor\n1\tquestion\n1\tsleep\n1\tthat\n1\tthe\n");
        let top = printed(WORD_COUNT, &[path, "--top", "2", "--master", master]);
        assert_eq!(top, "3\tto\n2\tbe\n");
        let named = printed(WORD_COUNT, &[&format!("{path}/b.txt"), &format!("{path}/b.txt"), "--master", master]);
        assert_eq!(named, "2\tmore\n2\tno\n2\tsleep\n2\tto\n", "a file that is named twice is read twice");
    }
}

#[test]
fn word_count_saves_all_lines_once() {
    for master in MASTERS {
        let folder = tempfile::tempdir().unwrap();
        let (input, output) = (folder.path().join("in.txt"), folder.path().join("out"));
        let text: String = (0..1_000).map(|n| format!("w{} w{n}\n", n % 10)).collect();
        std::fs::write(&input, text).unwrap();
        let arguments = [input.to_str().unwrap(), "--output", output.to_str().unwrap(), "--master", master];
        assert_eq!(printed(WORD_COUNT, &arguments), "");
        assert_eq!(saved(&output), expected_counts(), "{master}");
        let (code, said) = refused(WORD_COUNT, &arguments);
        assert!(code == 1 && said.contains("out"), "{code}: {said}");
        assert_eq!(saved(&output), expected_counts(), "what was there is untouched");
    }
}

fn expected_counts() -> Vec<String> {
    let mut lines: Vec<String> =
        (0..1_000).map(|n| if n < 10 { format!("101\tw{n}") } else { format!("1\tw{n}") }).collect();
    lines.sort_unstable();
    lines
}

/// The lines of all published files of a folder, sorted.
fn saved(folder: &Path) -> Vec<String> {
    assert!(folder.join("_SUCCESS").exists());
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("part-") {
            lines.extend(std::fs::read_to_string(path).unwrap().lines().map(str::to_owned));
        }
    }
    lines.sort_unstable();
    lines
}

#[test]
fn page_rank_finds_the_page_that_all_point_at() {
    for master in MASTERS {
        let printed = printed(PAGE_RANK, &["--top", "5", "--master", master]);
        let expected = "4.8604\tindex.html\n2.0000\tnews.html\n1.9498\tarchive.html\n1.9493\tglossary.html\n1.8683\tcontact.html\n";
        assert_eq!(printed, expected, "{master}");
    }
}

#[test]
fn k_means_finds_the_centres() {
    for master in MASTERS {
        let printed = printed(K_MEANS, &["-k", "4", "--master", master]);
        let centres: Vec<Vec<f64>> =
            printed.lines().map(|line| line.split(' ').map(|x| x.parse().unwrap()).collect()).collect();
        for (centre, true_centre) in centres.iter().zip([[0.0, 0.0], [1.0, 8.0], [8.0, 9.0], [9.0, 1.0]]) {
            let off = centre.iter().zip(true_centre).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(off < 0.3, "{master}: {printed}");
        }
        assert_eq!(centres.len(), 4, "{master}: {printed}");
    }
}

#[test]
fn logistic_regression_divides_the_points() {
    for master in MASTERS {
        let printed = printed(LOGISTIC_REGRESSION, &["--master", master]);
        let (percent, _) = printed.lines().nth(1).unwrap().split_once(" % of 600 points").unwrap();
        assert!(percent.parse::<f64>().unwrap() > 90.0, "{master}: {printed}");
    }
}

#[test]
fn log_analysis_joins_and_counts() {
    let expected = "failed\tof\tpath\n18\t117\t/api/orders\n17\t296\t/\n15\t157\t/items/1\n9 lines are no requests\n\n\
        bytes\tcustomer\n5719930\tcustomer-01\n3493601\tcustomer-02\n2895556\tcustomer-04\n\n\
        bytes\tcountry\n8411173\tNL\n7535836\tFR\n6945882\tDE\n";
    for master in MASTERS {
        assert_eq!(printed(LOG_ANALYSIS, &["--top", "3", "--master", master]), expected, "{master}");
    }
}

#[test]
fn what_cannot_run_says_why() {
    for (arguments, code, words) in [
        (["--master", "lokal[2]"], 2, "no such master"),
        (["--conf", "mastr=local"], 2, "did you mean `master`"),
        (["--master", "local[2]"], 1, "no-such-file"),
    ] {
        let (found, said) = refused(WORD_COUNT, &[&["/no-such-file"], &arguments[..]].concat());
        assert!(found == code && said.contains(words), "{arguments:?}: {found}: {said}");
    }
    let (code, said) = refused(PI, &["--sample", "3"]);
    assert!(code == 2 && said.contains("--samples"), "{said}");
}
