//! Which statements does a file of sqllogictest have?
//!
//! Its expected answers are not looked at: another engine gives the right ones.

/// A statement or query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The line of the file where its text begins, from 1.
    pub line: usize,
    /// Its text.
    pub text: String,
}

/// The records of a file that are meant for DataFusion.
#[must_use]
pub fn records(file: &str) -> Vec<Record> {
    let mut records = Vec::new();
    let mut lines = file.lines().enumerate().peekable();
    let mut skip = false;
    while let Some((_, line)) = lines.next() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["halt", ..] => break,
            ["skipif", engine, ..] => skip |= engine.eq_ignore_ascii_case("datafusion"),
            ["onlyif", engine, ..] => skip |= !engine.eq_ignore_ascii_case("datafusion"),
            ["statement" | "query", ..] => {
                let (mut text, mut begins) = (Vec::new(), None);
                while let Some((at, line)) = lines.next_if(|(_, line)| !line.trim().is_empty() && *line != "----") {
                    begins.get_or_insert(at + 1);
                    text.push(line);
                }
                // What is expected is of no interest.
                while lines.next_if(|(_, line)| !line.trim().is_empty()).is_some() {}
                if let (Some(line), false) = (begins, skip) {
                    records.push(Record { line, text: text.join("\n") });
                }
                skip = false;
            }
            _ => {}
        }
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_statements_and_queries_without_their_answers() {
        let file = "# comment\nstatement ok\nCREATE TABLE t AS\nSELECT 1\n\nquery I rowsort\nSELECT * FROM t\n----\n1\n\n\
                    skipif DataFusion\nquery I\nSELECT 2\n----\n2\n\nstatement error no table\nSELECT * FROM u\n\nhalt\n\n\
                    statement ok\nSELECT 3\n";
        let found = records(file);
        let found: Vec<_> = found.iter().map(|record| (record.line, record.text.as_str())).collect();
        assert_eq!(found, [(3, "CREATE TABLE t AS\nSELECT 1"), (7, "SELECT * FROM t"), (18, "SELECT * FROM u")]);
    }
}
