//! What is in a file of properties?
//!
//! Spark's form: a key and a value on each line, with blanks, `=` or `:` between.

use std::path::Path;

use anyhow::Context;

use super::Usage;

/// Keys and values, in order.
pub(crate) fn read(path: &Path) -> Result<Vec<(String, String)>, anyhow::Error> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()));
    let text = text.map_err(|error| error.context(Usage(format!("use --properties-file {}", path.display()))))?;
    Ok(parse(&text))
}

fn parse(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', '!']));
    let pair = |line: &str| {
        let key = line.find(|c: char| c.is_whitespace() || matches!(c, '=' | ':')).unwrap_or(line.len());
        let (key, rest) = line.split_at(key);
        let value = rest.trim_start();
        let value = value.strip_prefix(['=', ':']).unwrap_or(value);
        (key.to_owned(), value.trim().to_owned())
    };
    lines.map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_key_and_a_value() {
        let text = "# comment\n\nspark.executor.memory   4g\nk8s.image=r/vonk:9\nstore = s3://a/b?x=y\nkey: value with blanks\nalone\n";
        let pairs = parse(text);
        let shown: Vec<_> = pairs.iter().map(|(key, value)| format!("{key}|{value}")).collect();
        assert_eq!(
            shown,
            ["spark.executor.memory|4g", "k8s.image|r/vonk:9", "store|s3://a/b?x=y", "key|value with blanks", "alone|"]
        );
    }
}
