//! What does Spark need for the same work?
//!
//! Spark is measured without what it needs to start: its scripts take the time from a running session to the answer.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::measure::run;

/// Where `pip install pyspark` put Spark.
#[derive(Debug)]
pub struct Spark {
    python: PathBuf,
    home: PathBuf,
}

/// What a script reports.
#[derive(Debug, Deserialize)]
pub struct SparkRun {
    /// From a running session to the answer.
    pub seconds: f64,
    /// The answer, in a form that can be compared.
    pub answer: String,
}

impl Spark {
    /// The Spark of a virtual environment (`python -m venv FOLDER && FOLDER/bin/pip install pyspark==4.1.1`), if it and
    /// Java are there.
    #[must_use]
    pub fn find(environment: &Path) -> Option<Self> {
        Command::new("java").arg("-version").output().ok()?.status.success().then_some(())?;
        let python = environment.join("bin/python");
        let found = Command::new(&python).args(["-c", "import pyspark; print(pyspark.__path__[0])"]).output().ok()?;
        let home = PathBuf::from(String::from_utf8(found.stdout).ok()?.trim());
        found.status.success().then_some(Self { python, home })
    }

    /// Runs a script of `benches/spark`.
    ///
    /// # Errors
    /// It fails, or reports nothing.
    pub fn run(&self, script: &str, master: &str, variables: &[(&str, &str)]) -> Result<SparkRun> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("spark").join(script);
        let scala = script.ends_with(".scala");
        let mut command = Command::new(self.home.join(if scala { "bin/spark-shell" } else { "bin/spark-submit" }));
        command.args([
            "--master",
            master,
            "--driver-memory",
            "8g",
            "--conf",
            "spark.ui.enabled=false",
            "--conf",
            "spark.ui.showConsoleProgress=false",
        ]);
        if scala {
            command.arg("-i");
        }
        command
            .arg(path)
            .env("SPARK_HOME", &self.home)
            .env("PYSPARK_PYTHON", &self.python)
            .env("PYSPARK_DRIVER_PYTHON", &self.python)
            .env("SPARK_LOCAL_IP", "127.0.0.1")
            .envs(variables.iter().copied());
        let output = run(&mut command)?.stdout;
        let line = output.lines().find_map(|line| line.split_once("RESULT ")).map(|(_, json)| json);
        serde_json::from_str(line.with_context(|| format!("{script} reported nothing: {output}"))?)
            .with_context(|| format!("read what {script} reported"))
    }
}
