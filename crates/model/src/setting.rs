//! What is a configuration key?
//!
//! A crate lists its keys in a `const SETTINGS: &[Setting]` of its `config` module; `vonk::config` joins the lists, reads
//! the sources and refuses what no list has. `docs/configuration.md` is generated from them. A key that ends in `.*`
//! stands for every key that has something else there: `k8s.executor.labels.*` for `k8s.executor.labels.team`.

/// What values a key takes, and how they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number from `min` to `max`.
    Integer {
        /// The smallest.
        min: u64,
        /// The largest.
        max: u64,
    },
    /// A size: `512k`, `64m`, `4g`, `1t` (powers of 1,024), or bytes.
    Bytes,
    /// A time: `250ms`, `30s`, `10m`, `2h`.
    Duration,
    /// A number from 0 to 1.
    Fraction,
    /// Any text.
    Text,
    /// One of these words.
    OneOf(&'static [&'static str]),
}

/// One configuration key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Its name: lower case, dots between parts, underscores between words.
    pub key: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// Its value when nobody sets it, written as a user would; empty if it has none.
    pub default: &'static str,
    /// What it does, in one sentence.
    pub about: &'static str,
    /// Names of Spark's that mean the same.
    pub aliases: &'static [&'static str],
    /// Its value is never shown.
    pub secret: bool,
}

impl Setting {
    /// A key that has no alias and no secret.
    #[must_use]
    pub const fn new(key: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Self {
        Self { key, kind, default, about, aliases: &[], secret: false }
    }

    /// With names of Spark's.
    #[must_use]
    pub const fn aliases(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }
}

/// Values by key, of those keys that are not at their default. What driver and executors hand each other.
pub type Values = std::collections::BTreeMap<String, String>;

/// A value that its key does not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("set `{key}` to `{value}`: {want}")]
pub struct InvalidSetting {
    /// The key.
    pub key: String,
    /// The value that was given.
    pub value: String,
    /// What values it takes.
    pub want: String,
}

impl Setting {
    /// The key that `name` means if it is this setting's own name or one of Spark's for it; a `*` at the end of either
    /// stands for any text.
    #[must_use]
    pub fn key_of(&self, name: &str) -> Option<String> {
        let mut names = std::iter::once(self.key).chain(self.aliases.iter().copied());
        names.find_map(|known| match (prefix(self.key), prefix(known)) {
            (Some(key), Some(known)) => {
                name.strip_prefix(known).filter(|rest| !rest.is_empty()).map(|rest| format!("{key}{rest}"))
            }
            _ => (known == name).then(|| self.key.to_owned()),
        })
    }

    /// What was set of a key that ends in `.*`: what stands for the `*`, and the value.
    pub fn family<'a>(&self, values: &'a Values) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let prefix = prefix(self.key);
        let of = move |(key, value): (&'a String, &'a String)| Some((key.strip_prefix(prefix?)?, value.as_str()));
        values.iter().filter_map(of)
    }

    /// The text in force: what was set, else the default.
    #[must_use]
    pub fn value<'a>(&self, values: &'a Values) -> &'a str {
        values.get(self.key).map_or(self.default, String::as_str)
    }

    /// Checks a value against the key's kind.
    ///
    /// # Errors
    /// The value, and what the key takes.
    pub fn check(&self, value: &str) -> Result<(), InvalidSetting> {
        let fits = match self.kind {
            Kind::Bool => matches!(value, "true" | "false"),
            Kind::Integer { min, max } => value.parse().is_ok_and(|n: u64| (min..=max).contains(&n)),
            Kind::Bytes => parse_bytes(value).is_some(),
            Kind::Duration => parse_duration(value).is_some(),
            Kind::Fraction => value.parse().is_ok_and(|x: f64| (0.0..=1.0).contains(&x)),
            Kind::Text => true,
            Kind::OneOf(words) => words.contains(&value),
        };
        if fits || (value.is_empty() && self.default.is_empty()) {
            return Ok(());
        }
        let want = match self.kind {
            Kind::Bool => "want true or false".to_owned(),
            Kind::Integer { min, max: u64::MAX } => format!("want a whole number of at least {min}"),
            Kind::Integer { min, max } => format!("want a whole number from {min} to {max}"),
            Kind::Bytes => "want a size such as 512m or 4g".to_owned(),
            Kind::Duration => "want a time such as 250ms, 30s or 10m".to_owned(),
            Kind::Fraction => "want a number from 0 to 1".to_owned(),
            Kind::Text => "want text".to_owned(),
            Kind::OneOf(words) => format!("want one of {}", words.join(", ")),
        };
        Err(InvalidSetting { key: self.key.to_owned(), value: value.to_owned(), want })
    }

    fn parsed<T>(&self, values: &Values, parse: impl Fn(&str) -> Option<T>) -> Result<T, InvalidSetting> {
        let value = self.value(values);
        self.check(value)?;
        let invalid =
            || InvalidSetting { key: self.key.to_owned(), value: value.to_owned(), want: "want a value".into() };
        parse(value).ok_or_else(invalid)
    }

    /// The value of a [`Kind::Bool`].
    ///
    /// # Errors
    /// The value does not fit the kind. So for every getter.
    pub fn bool(&self, values: &Values) -> Result<bool, InvalidSetting> {
        self.parsed(values, |v| v.parse().ok())
    }

    /// The value of a [`Kind::Integer`].
    ///
    /// # Errors
    /// The value does not fit the kind.
    pub fn integer(&self, values: &Values) -> Result<u64, InvalidSetting> {
        self.parsed(values, |v| v.parse().ok())
    }

    /// The value of a [`Kind::Bytes`].
    ///
    /// # Errors
    /// The value does not fit the kind.
    pub fn bytes(&self, values: &Values) -> Result<u64, InvalidSetting> {
        self.parsed(values, parse_bytes)
    }

    /// The value of a [`Kind::Duration`].
    ///
    /// # Errors
    /// The value does not fit the kind.
    pub fn duration(&self, values: &Values) -> Result<std::time::Duration, InvalidSetting> {
        self.parsed(values, parse_duration)
    }

    /// The value of a [`Kind::Fraction`].
    ///
    /// # Errors
    /// The value does not fit the kind.
    pub fn fraction(&self, values: &Values) -> Result<f64, InvalidSetting> {
        self.parsed(values, |v| v.parse().ok())
    }
}

/// What comes before the `*` of a key that stands for many.
fn prefix(key: &'static str) -> Option<&'static str> {
    key.strip_suffix('*').filter(|prefix| prefix.ends_with('.'))
}

/// Reads a size: a whole number with `k`, `m`, `g` or `t` (powers of 1,024, also as `kb`, `kib`), or bytes.
#[must_use]
pub fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let shift = match text[digits..].trim() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Reads a time: a whole number with `ms`, `s`, `m` or `h`.
#[must_use]
pub fn parse_duration(text: &str) -> Option<std::time::Duration> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let ms = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(ms).map(std::time::Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn sizes_and_times_read_as_people_write_them() {
        assert_eq!(parse_bytes("512m"), Some(512 << 20));
        assert_eq!(parse_bytes("4 GiB"), Some(4 << 30));
        assert_eq!(parse_bytes("17"), Some(17));
        assert_eq!(parse_bytes("4x"), None);
        assert_eq!(parse_bytes("99999999999t"), None);
        assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_duration("10m"), Some(Duration::from_secs(600)));
        assert_eq!(parse_duration("10"), None, "a time without a unit says too little");
    }

    #[test]
    fn a_value_that_does_not_fit_says_what_does() {
        const MEMORY: Setting = Setting::new("executor.memory", Kind::Bytes, "4g", "Memory of an executor.");
        let values = Values::from([("executor.memory".to_owned(), "lots".to_owned())]);
        assert_eq!(MEMORY.bytes(&Values::new()), Ok(4 << 30));
        let error = MEMORY.bytes(&values).unwrap_err();
        assert_eq!(error.to_string(), "set `executor.memory` to `lots`: want a size such as 512m or 4g");
    }

    #[test]
    fn a_star_stands_for_any_text() {
        const LABELS: Setting = Setting::new("k8s.labels.*", Kind::Text, "", "Labels.").aliases(&["spark.label.*"]);
        assert_eq!(LABELS.key_of("k8s.labels.a.b/c"), Some("k8s.labels.a.b/c".to_owned()));
        assert_eq!(LABELS.key_of("spark.label.team"), Some("k8s.labels.team".to_owned()));
        assert_eq!(LABELS.key_of("k8s.labels."), None, "something must stand there");
        assert_eq!(LABELS.key_of("k8s.labels"), None);
        let values = Values::from([("k8s.labels.team", "x"), ("k8s.label", "y")].map(|(k, v)| (k.into(), v.into())));
        assert_eq!(LABELS.family(&values).collect::<Vec<_>>(), [("team", "x")]);
    }
}
