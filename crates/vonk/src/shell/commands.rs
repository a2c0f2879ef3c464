//! Which commands does the shell have beside SQL?

use std::path::PathBuf;
use std::str::FromStr;

use clap::ValueEnum;

use super::format::Format;

/// A line that begins with a backslash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// Which tables are there?
    Tables,
    /// Which columns has a table? As it was written, to be read as SQL reads names.
    Describe(String),
    /// Whether rows and time are told after each result; the other of both if not said.
    Timing(Option<bool>),
    /// Where results go: the screen if not said.
    Output(Option<PathBuf>),
    /// Runs a file.
    Include(PathBuf),
    /// How results look; says it if not said.
    Format(Option<Format>),
    /// Shows or changes one of the shell's own settings.
    Set(Option<(String, Option<String>)>),
    /// Which configuration is in force? Only keys that contain this, if said.
    Conf(Option<String>),
    /// Which commands are there?
    Help,
    /// Leaves.
    Quit,
}

/// Every command: how it is written, and what it does. `\?` shows them, Tab completes them.
pub(crate) const COMMANDS: &[(&str, &str)] = &[
    ("\\d", "show tables and views"),
    ("\\d TABLE", "show the columns of a table"),
    ("\\dt", "show tables and views"),
    ("\\format [FORMAT]", "table, vertical, csv, tsv, json, ndjson or markdown"),
    ("\\i FILE", "run the statements and commands of a file"),
    ("\\o [FILE]", "write results to a file; without a name, to the screen again"),
    ("\\timing [on|off]", "tell rows and time after each result, or do not"),
    ("\\set [NAME [VALUE]]", "show or change what the shell does: format, header, pager, rows, timing"),
    ("\\conf [WORDS]", "show the configuration of the engine"),
    ("\\?", "show this list"),
    ("\\q", "leave; Ctrl-D does the same"),
];

/// Why a line is no command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// Nobody knows the word.
    #[error("there is no command `{word}`{} (`\\?` shows all)", crate::complaint::or_rather(.nearest.as_deref()))]
    Unknown {
        /// What was written.
        word: String,
        /// The command that is spelled most like it.
        nearest: Option<String>,
    },
    /// It lacks what it needs.
    #[error("`{0}` needs a file's name")]
    NoFile(String),
    /// It does not take this.
    #[error("`{word}` does not take `{given}`: want {wanted}")]
    Invalid {
        /// The command.
        word: String,
        /// What was written.
        given: String,
        /// What it takes.
        wanted: String,
    },
}

impl FromStr for Command {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self, Error> {
        // Who ends a command like a statement means the command.
        let line = line.trim().trim_end_matches(';').trim_end();
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        let given = (!rest.is_empty()).then_some(rest);
        let file = |given: &str| PathBuf::from(unquoted(given));
        Ok(match word {
            "\\d" => given.map_or(Self::Tables, |table| Self::Describe(table.to_owned())),
            "\\dt" => Self::Tables,
            "\\timing" => Self::Timing(given.map(|given| switch(word, given)).transpose()?),
            "\\o" => Self::Output(given.map(file)),
            "\\i" => Self::Include(given.map(file).ok_or_else(|| Error::NoFile(word.to_owned()))?),
            "\\format" => Self::Format(given.map(|given| format(word, given)).transpose()?),
            "\\set" => Self::Set(given.map(|given| match given.split_once(char::is_whitespace) {
                Some((name, value)) => (name.to_owned(), Some(value.trim().to_owned())),
                None => (given.to_owned(), None),
            })),
            "\\conf" => Self::Conf(given.map(ToOwned::to_owned)),
            "\\?" | "\\h" | "\\help" => Self::Help,
            "\\q" | "\\quit" => Self::Quit,
            _ => {
                // All begin with the backslash: it makes none more alike.
                let words = COMMANDS.iter().filter_map(|(usage, _)| usage.split(' ').next()?.strip_prefix('\\'));
                let nearest = crate::config::nearest(word.trim_start_matches('\\'), words);
                let nearest = nearest.map(|name| format!("\\{name}"));
                return Err(Error::Unknown { word: word.to_owned(), nearest });
            }
        })
    }
}

/// The words of other shells that leave or ask for help, where they are all of a line.
pub(crate) fn plain_word(line: &str) -> Option<Command> {
    match line.trim().trim_end_matches(';').trim_end().to_ascii_lowercase().as_str() {
        "exit" | "quit" => Some(Command::Quit),
        "help" => Some(Command::Help),
        _ => None,
    }
}

/// `on` or `off`.
pub(crate) fn switch(word: &str, given: &str) -> Result<bool, Error> {
    match given.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" => Ok(true),
        "off" | "false" | "no" => Ok(false),
        _ => Err(invalid(word, given, "on or off")),
    }
}

/// The name of a format.
pub(crate) fn format(word: &str, given: &str) -> Result<Format, Error> {
    let names = || Format::value_variants().iter().filter_map(|f| Some(f.to_possible_value()?.get_name().to_owned()));
    Format::from_str(given, true).map_err(|_| invalid(word, given, &names().collect::<Vec<_>>().join(", ")))
}

pub(crate) fn invalid(word: &str, given: &str, wanted: &str) -> Error {
    Error::Invalid { word: word.to_owned(), given: given.to_owned(), wanted: wanted.to_owned() }
}

/// A name without the quotes around it.
fn unquoted(name: &str) -> &str {
    let inner = |quote| name.strip_prefix(quote)?.strip_suffix(quote);
    inner('\'').or_else(|| inner('"')).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read() {
        let read = |line: &str| line.parse::<Command>().unwrap();
        assert_eq!(read("\\d"), Command::Tables);
        assert_eq!(read("\\dt;"), Command::Tables);
        assert_eq!(read("\\d  Orders "), Command::Describe("Orders".into()));
        assert_eq!(read("\\timing"), Command::Timing(None));
        assert_eq!(read("\\timing off"), Command::Timing(Some(false)));
        assert_eq!(read("\\i 'a b.sql'"), Command::Include("a b.sql".into()));
        assert_eq!(read("\\o"), Command::Output(None));
        assert_eq!(read("\\format MARKDOWN"), Command::Format(Some(Format::Markdown)));
        assert_eq!(read("\\set rows 10"), Command::Set(Some(("rows".into(), Some("10".into())))));
        assert_eq!(plain_word(" EXIT; "), Some(Command::Quit));
        assert_eq!(plain_word("exit now"), None);
    }

    #[test]
    fn a_wrong_command_says_what_would_be_right() {
        let said = |line: &str| line.parse::<Command>().unwrap_err().to_string();
        assert_eq!(said("\\timimg"), "there is no command `\\timimg`; did you mean `\\timing`? (`\\?` shows all)");
        assert_eq!(said("\\i"), "`\\i` needs a file's name");
        assert_eq!(said("\\timing 3"), "`\\timing` does not take `3`: want on or off");
        assert_eq!(
            said("\\format xml"),
            "`\\format` does not take `xml`: want table, vertical, csv, tsv, json, ndjson, markdown"
        );
    }

    #[test]
    fn every_command_of_the_list_is_one() {
        for (usage, _) in COMMANDS {
            let word = usage.split(' ').next().unwrap();
            assert!(!matches!(word.parse::<Command>(), Err(Error::Unknown { .. })), "{word}");
        }
    }
}
