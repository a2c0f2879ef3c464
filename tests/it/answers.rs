//! How does a test ask queries, and compare the answers?

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vonk_tpch::{Answer, Order};

use crate::harness::{Outcome, Program};

/// All queries of one program together take no longer, on a machine that does other work too.
const HANGS_AFTER: Duration = Duration::from_secs(600);

/// Where tables are kept from one run of the tests to the next.
pub(crate) fn cache() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// Queries by their names, and the tables that they are asked over.
pub(crate) struct Questions {
    tables: PathBuf,
    texts: BTreeMap<String, String>,
}

/// What became of each query.
pub(crate) type Answers = BTreeMap<String, Result<Answer, Refusal>>;

/// Why a query has no answer.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    /// `query`, `memory`, `engine` or `hangs`.
    pub(crate) class: String,
    pub(crate) text: String,
}

impl Questions {
    pub(crate) fn new(tables: &Path, texts: impl IntoIterator<Item = (String, String)>) -> Self {
        Self { tables: tables.to_owned(), texts: texts.into_iter().collect() }
    }

    pub(crate) fn text(&self, name: &str) -> &str {
        &self.texts[name]
    }

    /// The answers of plain DataFusion.
    pub(crate) fn ask_datafusion(&self) -> Answers {
        self.ask(|program| program.args(&["--plain"]))
    }

    /// The answers of one program, started as the test says.
    pub(crate) fn ask(&self, start: impl FnOnce(Program) -> Program) -> Answers {
        self.ask_and_see(start).0
    }

    /// The answers of one program, and what else it did.
    pub(crate) fn ask_and_see(&self, start: impl FnOnce(Program) -> Program) -> (Answers, Outcome) {
        let folder = tempfile::tempdir().unwrap();
        let (queries, answers) = (folder.path().join("queries"), folder.path().join("answers"));
        fs::create_dir(&queries).unwrap();
        for (name, text) in &self.texts {
            fs::write(queries.join(name).with_extension("sql"), text).unwrap();
        }
        let paths = [&self.tables, &queries, &answers].map(|path| path.to_str().unwrap());
        let program = Program::of(env!("CARGO_BIN_EXE_queries"), &paths).hangs_after(HANGS_AFTER);
        let outcome = start(program).run().succeeded();
        eprint!("{}", outcome.stdout);
        let answer = |name: &String| {
            let file = answers.join(name);
            let answer = match fs::read_to_string(file.with_extension("error")) {
                Ok(text) => {
                    let (class, text) = text.split_once('\n').unwrap();
                    Err(Refusal { class: class.to_owned(), text: text.to_owned() })
                }
                Err(_) => Ok(Answer::read(&file.with_extension("arrow")).unwrap()),
            };
            (name.clone(), answer)
        };
        (self.texts.keys().map(answer).collect(), outcome)
    }
}

/// What is different about one answer; none if nothing is. Two errors of the same class are the same.
pub(crate) fn difference(
    got: &Result<Answer, Refusal>,
    wanted: &Result<Answer, Refusal>,
    order: Order,
) -> Option<String> {
    match (got, wanted) {
        (Ok(got), Ok(wanted)) => got.difference(wanted, order),
        (Err(got), Err(wanted)) if got.class == wanted.class => None,
        (Err(got), Err(wanted)) => Some(format!("{got:?}\n  wanted {wanted:?}")),
        (Err(got), Ok(wanted)) => Some(format!("{} error, wanted {} rows: {}", got.class, wanted.len(), got.text)),
        (Ok(got), Err(wanted)) => Some(format!("{} rows, wanted an error: {}", got.len(), wanted.text)),
    }
}

/// Every answer is what is wanted.
pub(crate) fn assert_same(questions: &Questions, got: &Answers, wanted: &Answers, order: Order) {
    let differences: Vec<_> = got
        .iter()
        .filter_map(|(name, got)| {
            let difference = difference(got, &wanted[name], order)?;
            Some(format!("{name}: {difference}\n{}\n", questions.text(name)))
        })
        .collect();
    assert!(differences.is_empty(), "{} of {} differ:\n{}", differences.len(), got.len(), differences.join("\n"));
}
