//! How does a person type statements?

use std::borrow::Cow;
use std::fs;
use std::io::{self, IsTerminal};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustyline::completion::{Completer, Pair};
use rustyline::config::Behavior;
use rustyline::error::ReadlineError;
use rustyline::highlight::{CmdKind, Highlighter};
use rustyline::hint::{Hinter, HistoryHinter};
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{CompletionType, Config, Editor, Helper};
use sql::datafusion::sql::sqlparser::dialect::Dialect;
use sql::datafusion::sql::sqlparser::tokenizer::{Token, Whitespace};
use tokio::signal::unix::{SignalKind, signal};

use super::commands::plain_word;
use super::complete::{Names, is_keyword};
use super::run::{Shell, Stop, dialect};
use super::statements::{Places, cut, tokens};

/// Entries that are kept from one shell to the next.
const HISTORY_MAX: usize = 10_000;

const PROMPT: &str = "vonk> ";
const PROMPT_MORE: &str = "   -> ";

const BOLD: &str = "\x1b[1m";
const GREEN: &str = "\x1b[32m";
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// Reads statements and commands from the terminal until the person leaves.
pub(crate) fn interactive(shell: &mut Shell<'_>, history: Option<PathBuf>) -> Result<(), Stop> {
    // From here on a Ctrl-C while nothing runs ends nothing.
    let _heard = shell.ctx.block_on(async { signal(SignalKind::interrupt()) })??;
    let mut editor = Editor::<Assistant<'_>, FileHistory>::with_config(config()?)?;
    editor.set_helper(Some(Assistant { names: Names::new(shell.ctx, shell.session.clone()), pending: String::new() }));
    let history = history.filter(|path| prepare(path, shell));
    if let Some(path) = &history {
        // There is none before the first time.
        let _ = editor.load_history(path);
    }
    let mut pending = String::new();
    let mut entry = String::new();
    loop {
        if let Some(helper) = editor.helper_mut() {
            helper.pending.clone_from(&pending);
        }
        let line = match editor.readline(if pending.is_empty() { PROMPT } else { PROMPT_MORE }) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                pending.clear();
                entry.clear();
                continue;
            }
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        entry.push_str(&line);
        let word = if pending.is_empty() { plain_word(&line) } else { None };
        pending.push_str(&line);
        pending.push('\n');
        let unfinished = word.is_none() && cut(&pending, &*dialect(&shell.session)).unfinished;
        if unfinished {
            entry.push('\n');
        } else {
            remember(&mut editor, entry.trim_end(), history.as_deref());
            entry.clear();
        }
        let text = std::mem::take(&mut pending);
        let done = match word {
            Some(command) => shell.command(command).map(|()| text.len()),
            None => shell.pieces(&text, 1, None, false),
        };
        match done {
            Ok(rest) if unfinished => text[rest..].clone_into(&mut pending),
            Ok(_) | Err(Stop::Unread) => {}
            Err(Stop::Quit) => return Ok(()),
            Err(Stop::Interrupted) => shell.say("cancelled"),
            Err(Stop::Failed(error)) => shell.say(&crate::report::report(&error)),
        }
        if pending.is_empty() {
            entry.clear();
        }
    }
}

fn config() -> rustyline::Result<Config> {
    // With results going elsewhere, what is typed stands on the terminal all the same.
    let behavior = if io::stdout().is_terminal() { Behavior::Stdio } else { Behavior::PreferTerm };
    let builder = Config::builder().max_history_size(HISTORY_MAX)?.history_ignore_dups(true)?;
    let builder = builder.history_ignore_space(true).completion_type(CompletionType::List).behavior(behavior);
    Ok(builder.build())
}

/// Makes the folder of the history; without it there is none, which is no reason not to work.
fn prepare(path: &Path, shell: &Shell<'_>) -> bool {
    let Some(folder) = path.parent() else { return false };
    match fs::DirBuilder::new().recursive(true).mode(0o700).create(folder) {
        Ok(()) => true,
        Err(error) => {
            shell.say(&format!("warning: no history is kept: make folder {}: {error}", folder.display()));
            false
        }
    }
}

fn remember(editor: &mut Editor<Assistant<'_>, FileHistory>, entry: &str, history: Option<&Path>) {
    if entry.trim().is_empty() || !matches!(editor.add_history_entry(entry), Ok(true)) {
        return;
    }
    if let Some(path) = history
        && let Err(error) = editor.append_history(path)
    {
        tracing::debug!(%error, "the history was not written");
    }
}

/// Helps while a line is typed.
struct Assistant<'a> {
    names: Names<'a>,
    /// The lines before this one, of the same statement.
    pending: String,
}

impl Helper for Assistant<'_> {}

impl Validator for Assistant<'_> {}

impl Completer for Assistant<'_> {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, _: &rustyline::Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        Ok(self.names.complete(&self.pending, line, pos))
    }
}

impl Hinter for Assistant<'_> {
    type Hint = String;

    fn hint(&self, line: &str, pos: usize, ctx: &rustyline::Context<'_>) -> Option<String> {
        HistoryHinter::new().hint(line, pos, ctx).filter(|hint| !hint.contains('\n'))
    }
}

impl Highlighter for Assistant<'_> {
    fn highlight<'l>(&self, line: &'l str, _: usize) -> Cow<'l, str> {
        match self.pending.is_empty() && line.trim_start().starts_with('\\') {
            true => Cow::Borrowed(line),
            false => Cow::Owned(coloured(line, &*dialect(self.names.session()))),
        }
    }

    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        Cow::Owned(format!("{DIM}{hint}{PLAIN}"))
    }

    fn highlight_char(&self, _: &str, _: usize, kind: CmdKind) -> bool {
        kind != CmdKind::MoveCursor
    }
}

/// A line with its keywords, strings and comments set off.
fn coloured(line: &str, dialect: &dyn Dialect) -> String {
    let (tokens, _) = tokens(line, dialect);
    let mut places = Places::new(line);
    let mut coloured = String::with_capacity(line.len() * 2);
    let mut done = 0;
    for token in &tokens {
        let colour = match &token.token {
            Token::Word(word) if word.quote_style.is_none() && is_keyword(&word.value) => BOLD,
            Token::SingleQuotedString(_) => GREEN,
            Token::Whitespace(Whitespace::SingleLineComment { .. } | Whitespace::MultiLineComment(_)) => DIM,
            _ => continue,
        };
        let from = places.of(token.span.start);
        let to = places.of(token.span.end);
        coloured.push_str(&line[done..from]);
        coloured.push_str(colour);
        coloured.push_str(&line[from..to]);
        coloured.push_str(PLAIN);
        done = to;
    }
    coloured.push_str(&line[done..]);
    coloured
}

#[cfg(test)]
mod tests {
    use sql::datafusion::sql::sqlparser::dialect::GenericDialect;

    use super::*;

    #[test]
    fn colours_change_no_character() {
        for line in ["SELECT 'ä' FROM t -- x", "SELECT 'open", "\\d", "", "日本 from 'x'"] {
            let coloured = coloured(line, &GenericDialect {});
            let bare = [BOLD, GREEN, DIM, PLAIN].iter().fold(coloured.clone(), |text, code| text.replace(code, ""));
            assert_eq!(bare, line);
        }
        assert_eq!(
            coloured("select 'a' -- b", &GenericDialect {}),
            format!("{BOLD}select{PLAIN} {GREEN}'a'{PLAIN} {DIM}-- b{PLAIN}")
        );
    }
}
