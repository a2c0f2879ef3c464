//! Is what must not be in the sources absent from them?
//!
//! Each rule is one search that ARCHITECTURE.md or CONTRIBUTING.md states as a fact. Unit tests at the end of a file (from
//! `#[cfg(test)]` on) and files of tests are not searched: they may name what they test.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::workspace::{files, root};

/// A text that may stand only in some files.
struct Rule {
    /// Which folder is searched.
    within: &'static str,
    /// What must not be there.
    texts: &'static [&'static str],
    /// Files in which it may, relative to the root; a folder stands for all below it.
    but_in: &'static [&'static str],
    /// Why.
    because: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        within: "crates/scheduler/src",
        texts: &[
            "Instant::",
            "SystemTime",
            "HashMap",
            "HashSet",
            "async fn",
            "mpsc",
            "rand::",
            "std::fs",
            "std::net",
            "thread::",
        ],
        but_in: &[
            "crates/scheduler/src/simulator",
            "crates/scheduler/src/simulator.rs",
            "crates/scheduler/src/testing",
        ],
        because: "the scheduler is a pure state machine: no clock, I/O, async, channel, randomness, hash map",
    },
    Rule {
        within: "crates/driver/src",
        texts: &["kube", "Kube", "k8s"],
        but_in: &[],
        because: "the driver knows clusters only as `ClusterBackend`",
    },
    Rule {
        within: "crates",
        texts: &["kube::", "k8s_openapi"],
        but_in: &["crates/k8s-backend"],
        because: "only k8s-backend speaks to Kubernetes",
    },
    Rule {
        within: "crates/k8s-backend/src",
        texts: &["kube::", "tokio", "async fn", "Instant::", "SystemTime", "std::fs", "std::net"],
        but_in: &[
            "crates/k8s-backend/src/access.rs",
            "crates/k8s-backend/src/answer.rs",
            "crates/k8s-backend/src/applications.rs",
            "crates/k8s-backend/src/backend.rs",
            "crates/k8s-backend/src/backend",
            "crates/k8s-backend/src/diagnose.rs",
            "crates/k8s-backend/src/follow.rs",
            "crates/k8s-backend/src/forward.rs",
            "crates/k8s-backend/src/log.rs",
            "crates/k8s-backend/src/own_pod.rs",
            "crates/k8s-backend/src/preflight.rs",
            "crates/k8s-backend/src/request.rs",
            "crates/k8s-backend/src/root.rs",
            "crates/k8s-backend/src/submit.rs",
            "crates/k8s-backend/src/sweep.rs",
            "crates/k8s-backend/src/watcher.rs",
        ],
        because: "what goes into a manifest and what an answer means are pure functions",
    },
    Rule {
        within: "crates",
        texts: &["bincode::"],
        but_in: &["crates/rdd/src/codec.rs"],
        because: "only rdd/src/codec.rs names bincode, so that another format is one file's change",
    },
    Rule {
        within: "crates",
        texts: &["\"apps/", "\"shuffle/v1", "\"history/", "\"programs/"],
        but_in: &["crates/model/src/keys.rs"],
        because: "only model/src/keys.rs spells an object key",
    },
    Rule {
        within: "crates",
        texts: &["datafusion"],
        but_in: &["crates/sql/src", "crates/vonk/src"],
        because: "only sql plans with DataFusion, and only vonk hands it on to programs",
    },
    Rule {
        within: "crates",
        texts: &["env::var", "env::vars"],
        but_in: &[
            "crates/vonk/src/config.rs",
            "crates/vonk/src/init.rs",
            "crates/vonk/src/main.rs",
            "crates/vonk/src/kubernetes/pod.rs",
        ],
        because: "only vonk/src/{config,init,main,kubernetes/pod}.rs read the environment",
    },
    Rule {
        within: "crates/shuffle/src",
        texts: &[".list(", ".list_with_delimiter(", ".list_with_offset("],
        but_in: &[
            "crates/shuffle/src/sweep.rs",
            "crates/shuffle/src/store.rs",
            "crates/shuffle/src/testing",
            "crates/shuffle/src/conformance.rs",
            "crates/shuffle/src/lease.rs",
        ],
        because: "a shuffle reads what its plan names: nobody lists, probes or guesses",
    },
    Rule {
        within: "crates",
        texts: &["todo!(", "unimplemented!(", "dbg!("],
        but_in: &[],
        because: "what is not there is an error with a message, or not there",
    },
    Rule { within: "crates", texts: &["#[ignore]"], but_in: &[], because: "an ignored test says what it needs" },
    Rule {
        within: "crates",
        texts: &["panic = \"abort\"", " println!("],
        but_in: &["crates/driver/src/terminal.rs", "crates/executor/src/start.rs", "crates/vonk/src/main.rs"],
        because: "stdout belongs to the user's results",
    },
];

/// Words that name nothing, as file names.
const EMPTY_NAMES: &[&str] = &["utils.rs", "util.rs", "common.rs", "helpers.rs", "helper.rs", "manager.rs", "misc.rs"];

/// Checks every rule and names every breach.
pub(crate) fn check() -> Result<()> {
    let mut breaches = Vec::new();
    for rule in RULES {
        for path in files(rule.within, ".rs")? {
            let shown = shown(&path);
            if rule.but_in.iter().any(|allowed| Path::new(shown).starts_with(allowed)) || is_test(shown) {
                continue;
            }
            for (number, line) in product_lines(&read(&path)?) {
                if let Some(text) = rule.texts.iter().find(|text| line.contains(**text)) {
                    breaches.push(format!("{shown}:{number}: `{text}`: {}", rule.because));
                }
            }
        }
    }
    for folder in ["crates", "examples", "benches", "tests", "xtask"] {
        for path in files(folder, ".rs")? {
            let shown = shown(&path);
            let generated = shown.contains("/generated/") || shown.contains("/ui/") || shown.contains("/trybuild/");
            if !generated && !read(&path)?.starts_with("//!") {
                breaches.push(format!("{shown}:1: a file opens with `//!` and the one question it answers"));
            }
            if EMPTY_NAMES.iter().any(|name| path.ends_with(name)) {
                breaches.push(format!("{shown}: name the subject"));
            }
        }
    }
    if !breaches.is_empty() {
        bail!("the sources break rules:\n  {}", breaches.join("\n  "));
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

fn shown(path: &Path) -> &str {
    path.strip_prefix(root()).unwrap_or(path).to_str().unwrap_or("a path that is not UTF-8")
}

fn is_test(path: &str) -> bool {
    path.contains("/tests/")
        || path.contains("/benches/")
        || path.contains("/generated/")
        || path.ends_with("/tests.rs")
}

/// Lines of code with their numbers: no comments, nothing after the unit tests begin.
fn product_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    let product = numbered.take_while(|(_, line)| !line.starts_with("#[cfg(test)]") && !line.starts_with("mod tests"));
    product.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

#[cfg(test)]
mod tests {
    use super::product_lines;

    #[test]
    fn comments_and_unit_tests_are_not_product() {
        let text = "//! env::var\nlet a = 1;\n  // b\nlet c = 2;\n#[cfg(test)]\nmod tests { env::var }\n";
        let lines: Vec<_> = product_lines(text).collect();
        assert_eq!(lines, [(2, "let a = 1;"), (4, "let c = 2;")]);
    }
}
