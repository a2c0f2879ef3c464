//! What is a configuration key?
//!
//! A crate lists its keys in a `const SETTINGS: &[Setting]` of its `config` module; `vonk::config` joins the lists, reads
//! the sources and refuses what no list has. `docs/configuration.md` is generated from them.

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
