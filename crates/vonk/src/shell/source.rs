//! Where does a statement stand, and how is a place in it shown?

use sql::datafusion::common::Location;
use sql::datafusion::sql::sqlparser::dialect::Dialect;
use sql::datafusion::sql::sqlparser::tokenizer::Token;
use unicode_width::UnicodeWidthStr;

use super::statements::tokens;
use crate::complaint::{Complaint, Place};

/// So many columns of a line are shown; of a longer one, those around the place.
const SHOWN: usize = 100;

/// A statement and where it was found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) text: &'a str,
    /// The line on which it begins, from 1.
    pub(crate) line: usize,
    /// The file, if it is of one.
    pub(crate) origin: Option<&'a str>,
    /// Whether a person wrote it: places in the shell's own statements tell nobody anything.
    pub(crate) written: bool,
}

impl<'a> Source<'a> {
    /// A statement that the shell made.
    pub(crate) fn own(text: &'a str) -> Self {
        Self { text, line: 1, origin: None, written: false }
    }

    /// What is wrong, the line it is in, and a caret below the place.
    pub(crate) fn explain(&self, complaint: &Complaint, dialect: &dyn Dialect) -> String {
        let place = complaint.place.as_ref().filter(|_| self.written).and_then(|place| self.locate(place, dialect));
        let shown = place.and_then(|place| self.show(place));
        match shown {
            Some(shown) => format!("{}\n{shown}", complaint.sentence),
            None => complaint.sentence.clone(),
        }
    }

    fn locate(&self, place: &Place, dialect: &dyn Dialect) -> Option<Location> {
        match place {
            Place::At(location) => Some(*location),
            Place::End => {
                let last = self.text.lines().count();
                let column = self.text.lines().last()?.chars().count() + 1;
                Some(Location { line: last as u64, column: column as u64 })
            }
            Place::Word(name) => {
                let (tokens, _) = tokens(self.text, dialect);
                let mut same = tokens.iter().filter(|token| match &token.token {
                    Token::Word(word) => word.value.eq_ignore_ascii_case(name),
                    Token::SingleQuotedString(text) => text == name,
                    _ => false,
                });
                // Of several nobody knows which.
                let first = same.next()?;
                same.next().is_none().then(|| first.span.start.into())
            }
        }
    }

    /// The line of a place, with a caret below it.
    fn show(&self, place: Location) -> Option<String> {
        let index = usize::try_from(place.line).ok()?.checked_sub(1)?;
        let column = usize::try_from(place.column).ok()?.checked_sub(1)?;
        let line: Vec<char> = self.text.lines().nth(index)?.chars().map(|c| if c == '\t' { ' ' } else { c }).collect();
        let column = column.min(line.len());
        let from = if line.len() <= SHOWN { 0 } else { column.saturating_sub(SHOWN / 2).min(line.len() - SHOWN) };
        let to = line.len().min(from + SHOWN);
        let text = |from: usize, to: usize| line[from..to].iter().collect::<String>();
        let number = self.line + index;
        let name = self.origin.map_or_else(|| format!("line {number}: "), |file| format!("{file}:{number}: "));
        let (before, after) = (if from > 0 { "…" } else { "" }, if to < line.len() { "…" } else { "" });
        let indent = name.width() + before.width() + text(from, column).width();
        Some(format!("{name}{before}{}{after}\n{}^", text(from, to), " ".repeat(indent)))
    }
}

#[cfg(test)]
mod tests {
    use sql::datafusion::sql::sqlparser::dialect::GenericDialect;

    use super::*;

    fn shown(text: &str, line: usize, origin: Option<&str>, place: Place) -> String {
        let source = Source { text, line, origin, written: true };
        source.explain(&Complaint { sentence: "wrong".into(), place: Some(place) }, &GenericDialect {})
    }

    #[test]
    fn a_caret_stands_below_the_place() {
        let at = |line, column| Place::At(Location { line, column });
        assert_eq!(shown("SELECT x", 1, None, at(1, 8)), "wrong\nline 1: SELECT x\n               ^");
        assert_eq!(shown("SELECT\n\t'ü', x", 7, Some("a.sql"), at(2, 7)), "wrong\na.sql:8:  'ü', x\n               ^");
        assert_eq!(shown("SELECT 1 +", 1, None, Place::End), "wrong\nline 1: SELECT 1 +\n                  ^");
        // A place that does not exist is not shown.
        assert_eq!(shown("SELECT x", 1, None, at(9, 1)), "wrong");
    }

    #[test]
    fn a_word_is_found_where_it_stands_once() {
        let word = || Place::Word("nmae".into());
        assert_eq!(shown("SELECT 'nmae', NMAE", 1, None, Place::Word("x".into())), "wrong");
        assert_eq!(shown("SELECT a, Nmae", 1, None, word()), "wrong\nline 1: SELECT a, Nmae\n                  ^");
        assert_eq!(shown("SELECT nmae, nmae", 1, None, word()), "wrong");
    }

    #[test]
    fn of_a_long_line_the_part_around_the_place_is_shown() {
        let text = format!("SELECT {}bad{}", "1, ".repeat(200), ", 2".repeat(200));
        let shown = shown(&text, 1, None, Place::Word("bad".into()));
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[1].starts_with("line 1: …") && lines[1].ends_with('…') && lines[1].chars().count() < 120);
        let caret = lines[2].chars().count() - 1;
        assert_eq!(lines[1].chars().skip(caret).take(3).collect::<String>(), "bad");
    }
}
