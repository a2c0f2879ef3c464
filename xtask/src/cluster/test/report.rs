//! What came of all tests on a cluster, for those who read docs/reports?

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::workspace::{command, output, root};

const FILE: &str = "docs/reports/kubernetes-tests.md";

/// What runs of tests have come to so far.
pub(super) struct Report {
    began: Instant,
    revision: String,
    cases: Vec<(String, String)>,
}

impl Report {
    /// Begins, at the commit that is checked out.
    pub(super) fn begin() -> Result<Self> {
        let said = output(command("git").args(["describe", "--always", "--dirty=, with changes"]))?;
        Ok(Self { began: Instant::now(), revision: String::from_utf8(said)?.trim().to_owned(), cases: Vec::new() })
    }

    /// Runs tests, shows what they print, and notes what came of each.
    pub(super) fn run(&mut self, tests: &mut Command) -> Result<()> {
        let mut child = tests.stdout(Stdio::piped()).spawn().context("run the tests")?;
        let stdout = child.stdout.take().context("read what the tests print")?;
        for line in BufReader::new(stdout).lines() {
            let line = line.context("read what the tests print")?;
            writeln!(std::io::stdout(), "{line}")?;
            self.cases.extend(case(&line));
        }
        let status = child.wait().context("wait for the tests")?;
        if !status.success() {
            bail!("some tests failed: {status}");
        }
        Ok(())
    }

    /// Puts it where it is read.
    pub(super) fn write(mut self) -> Result<()> {
        self.cases.sort();
        let passed = self.cases.iter().filter(|(_, result)| result == "ok").count();
        let mut text = format!(
            "# Kubernetes: tests on a real cluster\n\nWritten by `cargo xtask cluster test --all` at {}, on [a cluster of one machine]\
             (../local-cluster.md) with three nodes: {passed} of {} passed, in {} minutes.\n\n| test | result |\n|---|---|\n",
            self.revision,
            self.cases.len(),
            self.began.elapsed().as_secs().div_ceil(60),
        );
        for (name, result) in &self.cases {
            writeln!(text, "| {} | {result} |", name.replace("::", ": ").replace('_', " "))?;
        }
        fs::write(root().join(FILE), text).with_context(|| format!("write {FILE}"))
    }
}

/// The name of a test that has ended, and how.
fn case(line: &str) -> Option<(String, String)> {
    let (name, result) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let name = name.split_once(" - ").map_or(name, |(name, _)| name);
    matches!(result, "ok" | "FAILED").then(|| (name.to_owned(), result.to_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::case;

    #[test]
    fn a_case_is_a_test_that_has_ended() {
        let said = |line| case(line).map(|(name, result)| format!("{name} {result}"));
        assert_eq!(said("test works::a_driver_sums ... ok").as_deref(), Some("works::a_driver_sums ok"));
        assert_eq!(said("test room::a_quota ... FAILED").as_deref(), Some("room::a_quota failed"));
        assert_eq!(said("test result: ok. 3 passed; 0 failed"), None);
        assert_eq!(said("test marks::x ... ignored, measures"), None);
    }
}
