//! What could the person be about to type?

use std::collections::BTreeSet;

use clap::ValueEnum;
use rustyline::completion::{FilenameCompleter, Pair};
use sql::datafusion::common::config::ConfigOptions;
use sql::datafusion::prelude::SessionContext;

use super::commands::COMMANDS;
use super::format::Format;
use super::run::{functions, name_of, table_names};
use crate::Context;

/// Columns are offered of so many tables at most: looking at each takes a moment.
const TABLES_LOOKED_AT: usize = 20;

/// Words of SQL that people type often, in order.
const KEYWORDS: &[&str] = &[
    "ALL",
    "ALTER",
    "ANALYZE",
    "AND",
    "ANTI",
    "ANY",
    "AS",
    "ASC",
    "BETWEEN",
    "BIGINT",
    "BOOLEAN",
    "BY",
    "CASE",
    "CAST",
    "COLUMNS",
    "COPY",
    "CREATE",
    "CROSS",
    "CURRENT_DATE",
    "CURRENT_TIMESTAMP",
    "DATABASE",
    "DATE",
    "DECIMAL",
    "DELETE",
    "DESC",
    "DESCRIBE",
    "DISTINCT",
    "DOUBLE",
    "DROP",
    "ELSE",
    "END",
    "EXCEPT",
    "EXISTS",
    "EXPLAIN",
    "EXTERNAL",
    "EXTRACT",
    "FALSE",
    "FILTER",
    "FIRST",
    "FOLLOWING",
    "FORMAT",
    "FROM",
    "FULL",
    "FUNCTIONS",
    "GROUP",
    "HAVING",
    "ILIKE",
    "IN",
    "INNER",
    "INSERT",
    "INT",
    "INTERSECT",
    "INTERVAL",
    "INTO",
    "IS",
    "JOIN",
    "LAST",
    "LATERAL",
    "LEFT",
    "LIKE",
    "LIMIT",
    "LOCATION",
    "NATURAL",
    "NOT",
    "NULL",
    "NULLS",
    "OFFSET",
    "ON",
    "OPTIONS",
    "OR",
    "ORDER",
    "OUTER",
    "OVER",
    "OVERWRITE",
    "PARTITION",
    "PARTITIONED",
    "PRECEDING",
    "PREPARE",
    "QUALIFY",
    "RANGE",
    "RECURSIVE",
    "REPLACE",
    "RIGHT",
    "ROLLUP",
    "ROW",
    "ROWS",
    "SCHEMA",
    "SELECT",
    "SEMI",
    "SET",
    "SHOW",
    "SMALLINT",
    "STORED",
    "TABLE",
    "TABLES",
    "TEMPORARY",
    "THEN",
    "TIMESTAMP",
    "TO",
    "TRUE",
    "UNBOUNDED",
    "UNION",
    "UNNEST",
    "USING",
    "VALUES",
    "VARCHAR",
    "VIEW",
    "WHEN",
    "WHERE",
    "WINDOW",
    "WITH",
    "WITHIN",
];

/// Whether a word is one that people know as SQL's.
pub(crate) fn is_keyword(word: &str) -> bool {
    KEYWORDS.binary_search(&word.to_ascii_uppercase().as_str()).is_ok()
}

/// Words after which a table is named.
const BEFORE_TABLES: &[&str] = &["FROM", "JOIN", "INTO", "TABLE", "VIEW", "DESCRIBE", "DESC", "UPDATE", "COPY"];

/// Names that a session knows.
pub(crate) struct Names<'a> {
    ctx: &'a Context,
    session: SessionContext,
    files: FilenameCompleter,
}

impl<'a> Names<'a> {
    pub(crate) fn new(ctx: &'a Context, session: SessionContext) -> Self {
        Self { ctx, session, files: FilenameCompleter::new() }
    }

    pub(crate) fn session(&self) -> &SessionContext {
        &self.session
    }

    /// Where the word at `pos` begins, and what it could become. `pending` are the lines before this one.
    pub(crate) fn complete(&self, pending: &str, line: &str, pos: usize) -> (usize, Vec<Pair>) {
        let before = &line[..pos];
        if pending.is_empty() && before.trim_start().starts_with('\\') {
            return self.command(line, before);
        }
        if in_string(before) {
            return self.files.complete_path(line, pos).unwrap_or((pos, Vec::new()));
        }
        let start = word_start(before);
        let word = &before[start..];
        let text = format!("{pending}{line}");
        (start, pairs(self.words(&text, &before[..start], pending, word)))
    }

    /// What follows a backslash.
    fn command(&self, line: &str, before: &str) -> (usize, Vec<Pair>) {
        let begin = before.len() - before.trim_start().len();
        let Some((word, argument)) = before[begin..].split_once(' ') else {
            let words: BTreeSet<&str> = COMMANDS.iter().filter_map(|(usage, _)| usage.split(' ').next()).collect();
            let fitting = words.into_iter().filter(|word| word.starts_with(&before[begin..]));
            return (begin, pairs(fitting.map(ToOwned::to_owned)));
        };
        let start = before.len() - argument.trim_start().len();
        let fits = |name: &String| begins(name, argument.trim_start());
        match word {
            "\\i" | "\\o" => self.files.complete_path(line, before.len()).unwrap_or((start, Vec::new())),
            "\\d" => (start, pairs(table_names(&self.session).into_iter().filter(fits))),
            "\\format" => (start, pairs(Format::value_variants().iter().map(|f| name_of(*f)).filter(fits))),
            "\\timing" => (start, pairs(["off", "on"].map(str::to_owned).into_iter().filter(fits))),
            "\\set" => {
                let names = ["format", "header", "pager", "rows", "timing"].map(str::to_owned);
                (start, pairs(names.into_iter().filter(fits)))
            }
            "\\conf" => {
                let keys = crate::config::settings().into_iter().map(|setting| setting.key.to_owned());
                (start, pairs(keys.filter(fits)))
            }
            _ => (start, Vec::new()),
        }
    }

    /// Words of a statement. `before` is what stands before the word on its line.
    fn words(&self, text: &str, before: &str, pending: &str, word: &str) -> Vec<String> {
        let statement = format!("{pending}{before}").to_ascii_uppercase();
        let statement = statement.rsplit(';').next().unwrap_or_default();
        let last = statement.split_whitespace().next_back().unwrap_or_default();
        if matches!(statement.trim(), "SET" | "SHOW" | "RESET") && word.contains('.') {
            let options = ConfigOptions::default().entries().into_iter().map(|entry| entry.key);
            return options.filter(|key| begins(key, word)).collect();
        }
        let tables = table_names(&self.session);
        if BEFORE_TABLES.contains(&last) {
            return tables.into_iter().filter(|name| begins(name, word)).collect();
        }
        if let Some((table, _)) = word.rsplit_once('.') {
            let of = if tables.iter().any(|known| known == table) { None } else { aliased(text, table, &tables) };
            let columns = self.columns(of.unwrap_or(table)).into_iter().map(|column| format!("{table}.{column}"));
            return columns.chain(tables).filter(|name| begins(name, word)).collect();
        }
        let named: BTreeSet<&str> = text.split(|c: char| !in_word(c)).collect();
        let mentioned: Vec<&String> = tables.iter().filter(|table| named.contains(table.as_str())).collect();
        let looked_at = if mentioned.is_empty() { tables.iter().collect() } else { mentioned };
        let mut found: BTreeSet<String> =
            looked_at.into_iter().take(TABLES_LOOKED_AT).flat_map(|table| self.columns(table)).collect();
        found.extend(tables);
        found.retain(|name| begins(name, word));
        let mut found: Vec<String> = found.into_iter().collect();
        if word.is_empty() {
            return found;
        }
        // Keywords are written as the person writes.
        let small = word.chars().any(char::is_lowercase);
        let keywords = KEYWORDS.iter().filter(|keyword| begins(keyword, word));
        found.extend(keywords.map(|keyword| if small { keyword.to_ascii_lowercase() } else { (*keyword).to_owned() }));
        let functions = functions(&self.session).into_iter().filter(|name| begins(name, word));
        found.extend(functions.map(|name| format!("{name}(")));
        found
    }

    /// The columns of a table, if there is one of this name.
    fn columns(&self, table: &str) -> Vec<String> {
        if !self.session.table_exist(table).unwrap_or(false) {
            return Vec::new();
        }
        match self.ctx.block_on(self.session.table_provider(table)) {
            Ok(Ok(provider)) => provider.schema().fields().iter().map(|field| quoted(field.name())).collect(),
            _ => Vec::new(),
        }
    }
}

/// The table that a statement gives another name: `orders AS o`, `orders o`.
fn aliased<'a>(text: &str, alias: &str, tables: &'a [String]) -> Option<&'a str> {
    let lower = text.to_ascii_lowercase();
    let named_so = |table: &str| {
        lower.match_indices(table).any(|(at, _)| {
            let (before, after) = (&lower[..at], &lower[at + table.len()..]);
            let mut words = after.split_whitespace();
            let word = words.next().filter(|_| after.starts_with(char::is_whitespace));
            let word = if word == Some("as") { words.next() } else { word };
            let named = word.and_then(|word| word.split(|c: char| !in_word(c)).next());
            !before.ends_with(in_word) && named.is_some_and(|named| named.eq_ignore_ascii_case(alias))
        })
    };
    tables.iter().map(String::as_str).find(|table| named_so(table))
}

/// A name as SQL reads it: in quotes if it would be another without.
fn quoted(name: &str) -> String {
    let bare = name.chars().all(|c| in_word(c) && c != '.' && !c.is_uppercase()) && !name.starts_with(char::is_numeric);
    if bare { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

fn begins(name: &str, word: &str) -> bool {
    name.get(..word.len()).is_some_and(|head| head.eq_ignore_ascii_case(word))
}

fn in_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '.'
}

fn word_start(before: &str) -> usize {
    before.char_indices().rev().take_while(|(_, c)| in_word(*c)).last().map_or(before.len(), |(at, _)| at)
}

/// Whether a line ends within single quotes.
fn in_string(before: &str) -> bool {
    before.matches('\'').count() % 2 == 1
}

fn pairs(words: impl IntoIterator<Item = String>) -> Vec<Pair> {
    words.into_iter().map(|word| Pair { display: word.clone(), replacement: word }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_names(check: impl FnOnce(&Names<'_>)) {
        let ctx = Context::builder().master("local[1]").conf("progress", "quiet").build().unwrap();
        let session = ctx.session().unwrap().clone();
        let made = "CREATE TABLE orders AS VALUES (1, 'a')";
        ctx.block_on(async {
            session.sql(made).await?.collect().await?;
            session.sql("CREATE VIEW sizes AS SELECT 1 AS small, 2 AS \"Large One\"").await?.collect().await
        })
        .unwrap()
        .unwrap();
        check(&Names::new(&ctx, session));
    }

    fn offered(names: &Names<'_>, line: &str) -> Vec<String> {
        names.complete("", line, line.len()).1.into_iter().map(|pair| pair.replacement).collect()
    }

    #[test]
    fn keywords_are_in_order() {
        assert!(KEYWORDS.is_sorted() && is_keyword("select") && !is_keyword("name"));
    }

    #[test]
    fn words_are_offered_where_they_fit() {
        with_names(|names| {
            assert_eq!(offered(names, "SELECT * FROM o"), ["orders"]);
            assert_eq!(offered(names, "SELECT * FROM "), ["orders", "sizes"]);
            assert_eq!(offered(names, "sele"), ["select"]);
            assert_eq!(offered(names, "SELE"), ["SELECT"]);
            assert_eq!(offered(names, "SELECT sizes."), ["sizes.small", "sizes.\"Large One\""]);
            for line in ["SELECT * FROM sizes s WHERE s.s", "SELECT * FROM orders, sizes AS s, x WHERE s.s"] {
                assert_eq!(offered(names, line), ["s.small"], "{line}");
            }
            assert_eq!(offered(names, "SELECT * FROM sizes, s WHERE s.s"), [""; 0]);
            assert!(offered(names, "SELECT small FROM sizes WHERE sm").contains(&"small".to_owned()));
            assert!(offered(names, "SELECT coun").contains(&"count(".to_owned()));
            assert!(
                offered(names, "SET datafusion.execution.batch")
                    .contains(&"datafusion.execution.batch_size".to_owned())
            );
            assert_eq!(names.complete("SELECT *\nFROM ", "siz", 3).0, 0);
        });
    }

    #[test]
    fn commands_and_files_are_offered() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("first.csv"), "").unwrap();
        let path = |name: &str| format!("{}/{name}", folder.path().display());
        with_names(|names| {
            assert_eq!(offered(names, "\\ti"), ["\\timing"]);
            assert_eq!(offered(names, "\\d or"), ["orders"]);
            assert_eq!(offered(names, "\\format ma"), ["markdown"]);
            assert_eq!(offered(names, &format!("SELECT * FROM '{}", path("fir"))), [path("first.csv")]);
            assert_eq!(offered(names, &format!("\\i {}", path("fir"))), [path("first.csv")]);
        });
    }
}
