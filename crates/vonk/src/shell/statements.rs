//! Where does a statement end?

use std::ops::Range;

use sql::datafusion::sql::sqlparser::dialect::Dialect;
use sql::datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

/// What stands in a text, as places in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    /// A statement, without its semicolon.
    Statement(Range<usize>),
    /// A line that begins with a backslash where a statement could begin.
    Command(Range<usize>),
}

/// A text cut into its pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cut {
    /// What is complete, in order.
    pub(crate) pieces: Vec<Piece>,
    /// What follows the last complete piece: a statement without its semicolon, or nothing but space and comments.
    pub(crate) rest: Range<usize>,
    /// Whether the rest is the beginning of a statement.
    pub(crate) unfinished: bool,
}

/// Cuts a text at its semicolons, but not at those in strings, quoted names and comments.
pub(crate) fn cut(text: &str, dialect: &dyn Dialect) -> Cut {
    let mut pieces = Vec::new();
    let mut base = 0;
    'after_command: loop {
        let (tokens, broken) = tokens(&text[base..], dialect);
        let mut places = Places::new(&text[base..]);
        let mut begin = None;
        let mut done = base;
        for token in &tokens {
            match token.token {
                Token::Whitespace(_) | Token::EOF => {}
                Token::SemiColon => {
                    let end = base + places.of(token.span.start);
                    if let Some(begin) = begin.take() {
                        pieces.push(Piece::Statement(begin..text[..end].trim_end().len()));
                    }
                    done = end + 1;
                }
                Token::Backslash if begin.is_none() => {
                    let from = base + places.of(token.span.start);
                    let end = text[from..].find('\n').map_or(text.len(), |n| from + n);
                    pieces.push(Piece::Command(from..end));
                    base = text.len().min(end + 1);
                    continue 'after_command;
                }
                _ => {
                    begin.get_or_insert(base + places.of(token.span.start));
                }
            }
        }
        let unfinished = begin.is_some() || broken;
        return Cut { pieces, rest: begin.unwrap_or(done)..text.len(), unfinished };
    }
}

/// The tokens of a text as far as they can be told, and whether the last one lacks its end.
pub(crate) fn tokens(text: &str, dialect: &dyn Dialect) -> (Vec<TokenWithSpan>, bool) {
    let mut tokens = Vec::new();
    let read = Tokenizer::new(dialect, text).with_unescape(false).tokenize_with_location_into_buf(&mut tokens);
    (tokens, read.is_err())
}

/// Turns lines and columns, in ascending order, into places in a text.
pub(crate) struct Places<'a> {
    text: &'a str,
    at: usize,
    location: Location,
}

impl<'a> Places<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0, location: Location { line: 1, column: 1 } }
    }

    /// The place of a location that is not before the last one asked for.
    pub(crate) fn of(&mut self, location: Location) -> usize {
        for c in self.text[self.at..].chars() {
            if (self.location.line, self.location.column) >= (location.line, location.column) {
                break;
            }
            self.at += c.len_utf8();
            if c == '\n' {
                self.location = Location { line: self.location.line + 1, column: 1 };
            } else {
                self.location.column += 1;
            }
        }
        self.at
    }
}

#[cfg(test)]
mod tests {
    use sql::datafusion::sql::sqlparser::dialect::GenericDialect;

    use super::*;

    /// The pieces of a text: statements as they are, commands in angle brackets, the rest in square ones.
    fn shown(text: &str) -> String {
        let cut = cut(text, &GenericDialect {});
        let mut all: Vec<String> = cut
            .pieces
            .iter()
            .map(|piece| match piece {
                Piece::Statement(at) => text[at.clone()].to_owned(),
                Piece::Command(at) => format!("<{}>", &text[at.clone()]),
            })
            .collect();
        if cut.unfinished {
            all.push(format!("[{}]", &text[cut.rest]));
        }
        all.join(" | ")
    }

    #[test]
    fn semicolons_part_statements() {
        assert_eq!(shown("SELECT 1; SELECT 2 ;\nSELECT 3"), "SELECT 1 | SELECT 2 | [SELECT 3]");
        assert_eq!(shown(";; SELECT 1;;"), "SELECT 1");
        assert_eq!(shown(" \n-- nothing\n/* at all */ "), "");
    }

    #[test]
    fn semicolons_in_strings_names_and_comments_part_nothing() {
        assert_eq!(shown("SELECT ';', 'it''s;'; SELECT 2;"), "SELECT ';', 'it''s;' | SELECT 2");
        assert_eq!(shown("SELECT \"a;b\" -- c;d\n, 1;"), "SELECT \"a;b\" -- c;d\n, 1");
        assert_eq!(shown("/* ; */ SELECT /* ;\n; */ 1;"), "SELECT /* ;\n; */ 1");
        assert_eq!(shown("SELECT 'ä;ö', 'ü' ; SELECT 'é'"), "SELECT 'ä;ö', 'ü' | [SELECT 'é']");
    }

    #[test]
    fn what_lacks_its_end_waits_for_it() {
        assert_eq!(shown("SELECT 1; SELECT 'a;\n"), "SELECT 1 | [SELECT 'a;\n]");
        assert_eq!(shown("SELECT 1; /* a;"), "SELECT 1 | [ /* a;]");
        assert_eq!(shown("'"), "[']");
    }

    #[test]
    fn a_line_with_a_backslash_is_a_command_only_where_a_statement_could_begin() {
        assert_eq!(shown("\\d it's\nSELECT 1;\n\\q"), "<\\d it's> | SELECT 1 | <\\q>");
        assert_eq!(shown("-- a\n  \\timing off\n"), "<\\timing off>");
        assert_eq!(shown("SELECT 1\n\\d\n;"), "SELECT 1\n\\d");
        assert_eq!(shown("SELECT '\n\\d\n';"), "SELECT '\n\\d\n'");
    }
}
