//! Which configuration keys exist, and which source wins?
//!
//! Later wins: defaults, `vonk.toml`, `VONK_*` environment, `--conf k=v`, the program. A key that nobody knows is an
//! error that names the nearest one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use model::setting::{InvalidSetting, Kind, Setting, Values};

/// The keys of the facade itself.
pub const SETTINGS: &[Setting] = &[APP_NAME, FILES, ARCHIVES, MASTER, STORE, EVENT_LOG, PROGRESS, LOG];

/// The application's name.
pub const APP_NAME: Setting =
    Setting::new("app.name", Kind::Text, "", "What people call the application; the program's file name if empty.")
        .aliases(&["spark.app.name"]);

/// Files that go along.
pub const FILES: Setting = Setting::new(
    "app.files",
    Kind::Text,
    "",
    "Files that go along to driver and executors, with commas between; PATH#NAME gives one another name. vonk::attached finds them.",
)
.aliases(&["spark.files"]);

/// Archives that go along.
pub const ARCHIVES: Setting = Setting::new(
    "app.archives",
    Kind::Text,
    "",
    "As app.files, of tar archives, plain or packed by gzip, which are unpacked into folders of their names.",
)
.aliases(&["spark.archives"]);

/// Where executors are.
pub const MASTER: Setting = Setting::new(
    "master",
    Kind::Text,
    "local[*]",
    "Where executors are: local[N], local[*], local-cluster[EXECUTORS,CORES,MEMORY], k8s://[URL].",
)
.aliases(&["spark.master"]);

/// The root of the store.
pub const STORE: Setting = Setting::new(
    "store",
    Kind::Text,
    "",
    "URL of the folder for shuffles, results and history: file://, s3://, gs://, az://, memory:// (local mode only); a folder of yours under the system's temporary one if empty.",
);

/// Whether records are kept.
pub const EVENT_LOG: Setting = Setting::new(
    "event_log.enabled",
    Kind::OneOf(&["auto", "true", "false"]),
    "auto",
    "Whether every event is kept under history/ in the store; auto is yes unless the master is local.",
)
.aliases(&["spark.eventLog.enabled"]);

/// What is shown while a program runs.
pub const PROGRESS: Setting = Setting::new(
    "progress",
    Kind::OneOf(&["auto", "live", "plain", "quiet"]),
    "auto",
    "What stderr shows while jobs run: live lines, plain lines or only warnings; auto is live on a terminal.",
)
.aliases(&["spark.ui.showConsoleProgress"]);

/// The log level.
pub const LOG: Setting = Setting::new(
    "log",
    Kind::Text,
    "",
    "Log filter: error, warn, info, debug, trace, or target=level,…; info for Vonk and warn for the rest if empty.",
);

/// What the image of pods can run.
#[cfg(feature = "k8s")]
pub(crate) const IMAGE_GLIBC: Setting = Setting::new(
    "k8s.image_glibc",
    Kind::Text,
    "2.36",
    "The version of glibc in k8s.image: a program that needs a newer one is refused before anything is made.",
);

/// The machines that the image of pods is for.
#[cfg(feature = "k8s")]
pub(crate) const IMAGE_ARCH: Setting = Setting::new(
    "k8s.image_arch",
    Kind::Text,
    "amd64,arm64",
    "The machines that k8s.image is for: a program for another one is refused before anything is made.",
);

/// The keys of the facade about pods.
#[cfg(feature = "k8s")]
const K8S_SETTINGS: &[Setting] = &[IMAGE_ARCH, IMAGE_GLIBC];

/// Every key of every crate, sorted by name.
#[must_use]
pub fn settings() -> Vec<&'static Setting> {
    let mut all: Vec<&'static Setting> = [
        SETTINGS,
        rdd::config::SETTINGS,
        shuffle::config::SETTINGS,
        executor::config::SETTINGS,
        driver::config::SETTINGS,
        #[cfg(feature = "k8s")]
        k8s_backend::config::SETTINGS,
        #[cfg(feature = "sql")]
        sql::config::SETTINGS,
        #[cfg(feature = "k8s")]
        K8S_SETTINGS,
    ]
    .into_iter()
    .flatten()
    .collect();
    all.sort_by_key(|s| s.key);
    all
}

/// A part of Vonk that a program may be built without, and what its keys and Spark's names for them begin with. One that does
/// not end with a dot is whole.
struct Part {
    feature: &'static str,
    keys: &'static [&'static str],
}

#[cfg(any(test, not(feature = "sql")))]
const SQL: Part = Part { feature: "sql", keys: &["sql.", "spark.sql."] };

#[cfg(any(test, not(feature = "k8s")))]
const K8S: Part = Part {
    feature: "k8s",
    keys: &[
        "k8s.",
        "executor.cores",
        "spark.kubernetes.",
        "spark.executorEnv.",
        "spark.executor.cores",
        "spark.driver.cores",
        "spark.driver.memory",
    ],
};

/// The parts that this program was built without. Other programs read the same files, so that their keys say nothing here.
const ABSENT: &[Part] = &[
    #[cfg(not(feature = "sql"))]
    SQL,
    #[cfg(not(feature = "k8s"))]
    K8S,
];

impl Part {
    fn has(&self, key: &str) -> bool {
        self.keys.iter().any(|known| key == *known || known.ends_with('.') && key.starts_with(known))
    }

    fn has_variable(&self, name: &str) -> bool {
        let variables = self.keys.iter().map(|known| (variable(known), known.ends_with('.')));
        variables.into_iter().any(|(known, open)| name == known || open && name.starts_with(&known))
    }
}

/// Environment variables that are no configuration keys: the engine's own, and those of tests and tools, which begin so.
const RESERVED: &[&str] = &[
    "VONK_ROLE",
    "VONK_APP",
    "VONK_EPOCH",
    "VONK_EXECUTOR",
    "VONK_POD_NAME",
    "VONK_POD_UID",
    "VONK_PROGRAM",
    "VONK_FETCHED",
    "VONK_TIMEOUT_MS",
    "VONK_ATTACHED",
    "VONK_PRINTED",
    "VONK_CONFIG",
    "VONK_CACHE",
    "VONK_TEST_",
    "VONK_SIM_",
    "VONK_BENCH_",
];

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody knows the key.
    #[error("set `{key}` ({origin}): there is no such key{}", nearest.as_ref().map(|n| format!("; did you mean `{n}`?")).unwrap_or_default())]
    Unknown {
        /// The key.
        key: String,
        /// Who set it.
        origin: String,
        /// The key that is spelled most like it.
        nearest: Option<String>,
    },
    /// The key is of a part that is not in the program.
    #[error("set `{key}` ({origin}): this program was built without feature `{feature}`")]
    Absent {
        /// The key.
        key: String,
        /// Who set it.
        origin: String,
        /// The feature of the crate `vonk`.
        feature: &'static str,
    },
    /// The key does not take the value.
    #[error("read configuration ({origin})")]
    Invalid {
        /// Who set it.
        origin: String,
        /// What is wrong.
        source: InvalidSetting,
    },
    /// `--conf` without `=`.
    #[error("read `--conf {0}`: want KEY=VALUE")]
    NoValue(String),
    /// The file cannot be read.
    #[error("read configuration file {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no TOML.
    #[error("read configuration file {}", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<toml::de::Error>,
    },
    /// The file holds something that is no value of a key.
    #[error("read configuration file {}: `{key}` is a list or a date, no value of a key", path.display())]
    TomlValue {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
}

/// Values of keys, and who set each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    values: Values,
    origins: BTreeMap<String, String>,
}

impl Config {
    /// Reads `vonk.toml` (or the file that `VONK_CONFIG` names) and the environment.
    ///
    /// # Errors
    /// The file cannot be read, a key is unknown, a value does not fit.
    pub fn load() -> Result<Self, Error> {
        let mut config = Self::default();
        match std::env::var_os("VONK_CONFIG") {
            Some(path) => config.file(Path::new(&path))?,
            None if Path::new("vonk.toml").exists() => config.file(Path::new("vonk.toml"))?,
            None => {}
        }
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())));
        config.environment(environment)?;
        Ok(config)
    }

    fn file(&mut self, path: &Path) -> Result<(), Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
        let table: toml::Table =
            toml::from_str(&text).map_err(|source| Error::Toml { path: path.to_owned(), source: Box::new(source) })?;
        self.table(path, "", &table)
    }

    fn table(&mut self, path: &Path, prefix: &str, table: &toml::Table) -> Result<(), Error> {
        for (name, value) in table {
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            let text = match value {
                toml::Value::Table(inner) => {
                    self.table(path, &key, inner)?;
                    continue;
                }
                toml::Value::String(text) => text.clone(),
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Float(number) => number.to_string(),
                toml::Value::Boolean(flag) => flag.to_string(),
                toml::Value::Array(_) | toml::Value::Datetime(_) => {
                    return Err(Error::TomlValue { path: path.to_owned(), key });
                }
            };
            match self.set(&key, &text, &path.display().to_string()) {
                Ok(()) | Err(Error::Absent { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn environment(&mut self, variables: impl Iterator<Item = (String, String)>) -> Result<(), Error> {
        // The name of a variable keeps neither case nor dots: no `*` can be found in one.
        let settings = settings().into_iter().filter(|s| !s.key.ends_with('*'));
        let names: BTreeMap<String, &str> = settings.map(|s| (variable(s.key), s.key)).collect();
        for (name, value) in variables {
            let reserved = |&r: &&str| name == r || r.ends_with('_') && name.starts_with(r);
            if !name.starts_with("VONK_") || RESERVED.iter().any(reserved) {
                continue;
            }
            match names.get(&name) {
                Some(key) => self.set(key, &value, &name)?,
                None if ABSENT.iter().any(|part| part.has_variable(&name)) => {}
                None => {
                    let nearest = nearest(&name, names.keys().map(String::as_str));
                    return Err(Error::Unknown { key: name, origin: "environment".into(), nearest });
                }
            }
        }
        Ok(())
    }

    /// Sets `KEY=VALUE`, as given to `--conf`.
    ///
    /// # Errors
    /// No `=`, an unknown key or one of a part that the program was built without, a value that does not fit.
    pub fn assign(&mut self, pair: &str) -> Result<(), Error> {
        let (key, value) = pair.split_once('=').ok_or_else(|| Error::NoValue(pair.to_owned()))?;
        self.set(key.trim(), value.trim(), "--conf")
    }

    /// Sets a key, by its name or one of Spark's that means the same.
    ///
    /// # Errors
    /// An unknown key or one of a part that the program was built without, a value that does not fit.
    pub fn set(&mut self, key: &str, value: &str, origin: &str) -> Result<(), Error> {
        let all = settings();
        let found = all.iter().find_map(|setting| Some((setting, setting.key_of(key)?)));
        let Some((setting, key)) = found else {
            if let Some(Part { feature, .. }) = ABSENT.iter().find(|part| part.has(key)) {
                return Err(Error::Absent { key: key.to_owned(), origin: origin.to_owned(), feature });
            }
            let names = all.iter().flat_map(|s| std::iter::once(s.key).chain(s.aliases.iter().copied()));
            let unknown =
                Error::Unknown { key: key.to_owned(), origin: origin.to_owned(), nearest: nearest(key, names) };
            return Err(unknown);
        };
        setting.check(value).map_err(|source| Error::Invalid { origin: origin.to_owned(), source })?;
        self.values.insert(key.clone(), value.to_owned());
        self.origins.insert(key, origin.to_owned());
        Ok(())
    }

    /// The values that are not at their default.
    #[must_use]
    pub fn values(&self) -> &Values {
        &self.values
    }
}

/// Where what is worth keeping between two runs lies, if the environment says where: `$XDG_STATE_HOME/vonk`, which is
/// `~/.local/state/vonk` unless set.
#[cfg(feature = "sql")]
pub(crate) fn state_folder() -> Option<PathBuf> {
    // The rules of XDG: a relative path is to be ignored.
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")))?;
    Some(state.join("vonk"))
}

/// The environment variable of a key: `executor.memory` is `VONK_EXECUTOR_MEMORY`.
#[must_use]
pub fn variable(key: &str) -> String {
    format!("VONK_{}", key.replace('.', "_").to_ascii_uppercase())
}

/// The name that is spelled most like `given`, if any is like it at all.
pub(crate) fn nearest<'a>(given: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let alike =
        |name: &str| strsim::normalized_damerau_levenshtein(given, name).max(strsim::jaro_winkler(given, name) - 0.25);
    names
        .map(|name| (alike(name), name))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(score, _)| *score >= 0.55)
        .map(|(_, name)| name.to_owned())
}

/// `docs/configuration.md`: every key with its type, default, Spark's names and meaning.
#[must_use]
pub fn reference() -> String {
    let mut page = String::from(
        "# Configuration\n\n<!-- Generated by `cargo xtask gen`; do not edit. -->\n\n\
         Later wins: defaults, `vonk.toml` (or the file that `VONK_CONFIG` names), `VONK_*` environment, `--conf KEY=VALUE`,\n\
         the program. In `vonk.toml`, `executor.memory` is `memory` in the table `[executor]`; in the environment it is\n\
         `VONK_EXECUTOR_MEMORY`. Sizes are written `512m` or `4g`, times `250ms`, `30s` or `10m`. A key that does not exist\n\
         is an error that names the nearest one. A program that was built without the feature `sql` or `k8s` passes over the\n\
         keys of that part in files and the environment, and refuses them elsewhere.\n\n| key | value | default | meaning |\n|---|---|---|---|\n",
    );
    for setting in settings() {
        let kind = match setting.kind {
            Kind::Bool => "true, false".to_owned(),
            Kind::Integer { min, max: u64::MAX } => format!("number ≥ {min}"),
            Kind::Integer { min, max } => format!("number, {min} to {max}"),
            Kind::Bytes => "size".to_owned(),
            Kind::Duration => "time".to_owned(),
            Kind::Fraction => "0 to 1".to_owned(),
            Kind::Text => "text".to_owned(),
            Kind::OneOf(words) => words.join(", "),
        };
        let default = if setting.default.is_empty() { String::new() } else { format!("`{}`", setting.default) };
        let aliases = match setting.aliases {
            [] => String::new(),
            names => format!(" Also {}.", names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")),
        };
        page.push_str(&format!("| `{}` | {kind} | {default} | {}{aliases} |\n", setting.key, setting.about));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `cargo xtask gen` sets the variable, and the page is written. Only a build that has every key knows the page.
    #[cfg(feature = "sql")]
    #[test]
    fn the_page_of_keys_is_current() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
        if std::env::var_os("VONK_TEST_WRITE_PAGE").is_some() {
            std::fs::write(page, reference()).unwrap();
        }
        let present = std::fs::read_to_string(page).unwrap_or_default();
        assert!(present == reference(), "docs/configuration.md is stale: run `cargo xtask gen` and commit it");
    }

    #[test]
    fn keys_are_unique_and_their_defaults_fit() {
        let all = settings();
        let mut names: Vec<&str> =
            all.iter().flat_map(|s| std::iter::once(s.key).chain(s.aliases.iter().copied())).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count, "a name stands twice");
        for setting in all {
            setting.check(setting.default).unwrap();
            assert!(setting.about.ends_with('.'), "{}: one sentence", setting.key);
        }
    }

    #[test]
    fn the_later_source_wins_and_sparks_names_are_known() {
        let mut config = Config::default();
        config.environment([("VONK_MASTER".to_owned(), "local[3]".to_owned())].into_iter()).unwrap();
        assert_eq!(MASTER.value(config.values()), "local[3]");
        config.assign("spark.master=local[4]").unwrap();
        assert_eq!(MASTER.value(config.values()), "local[4]");
    }

    #[test]
    fn a_wrong_key_names_the_nearest() {
        let error = Config::default().assign("mastr=local").unwrap_err().to_string();
        assert_eq!(error, "set `mastr` (--conf): there is no such key; did you mean `master`?");
        let error = Config::default().assign("master").unwrap_err().to_string();
        assert_eq!(error, "read `--conf master`: want KEY=VALUE");
        let variables = [("VONK_MASTRE".to_owned(), "x".to_owned())].into_iter();
        let error = Config::default().environment(variables).unwrap_err().to_string();
        assert!(error.contains("did you mean `VONK_MASTER`?"), "{error}");
        Config::default().environment([("VONK_TEST_S3_URL".to_owned(), "x".to_owned())].into_iter()).unwrap();
    }

    /// Of a part that is there, every key is known to be its own; of one that is not, files and environment may speak.
    #[test]
    fn keys_of_parts_that_are_absent_are_passed_over_in_what_is_shared() {
        #[cfg(feature = "sql")]
        for setting in sql::config::SETTINGS {
            assert!(std::iter::once(&setting.key).chain(setting.aliases).all(|key| SQL.has(key)), "{}", setting.key);
        }
        #[cfg(feature = "k8s")]
        for setting in k8s_backend::config::SETTINGS.iter().chain(K8S_SETTINGS) {
            assert!(std::iter::once(&setting.key).chain(setting.aliases).all(|key| K8S.has(key)), "{}", setting.key);
        }
        assert!(SQL.has_variable("VONK_SQL_PARTITIONS") && K8S.has_variable("VONK_EXECUTOR_CORES"));
        assert!(!K8S.has("executor.memory") && !K8S.has_variable("VONK_EXECUTOR_CORES_MAX"));
        for part in ABSENT {
            let key = format!("{}.anything", part.feature);
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), format!("master = \"local[2]\"\n[{}]\nanything = 1\n", part.feature)).unwrap();
            let mut config = Config::default();
            config.file(file.path()).unwrap();
            config.environment([(variable(&key), "1".to_owned())].into_iter()).unwrap();
            assert_eq!((config.values().len(), MASTER.value(config.values())), (1, "local[2]"));
            let error = config.assign(&format!("{key}=1")).unwrap_err().to_string();
            let feature = part.feature;
            assert_eq!(error, format!("set `{key}` (--conf): this program was built without feature `{feature}`"));
        }
    }

    #[test]
    fn a_file_is_read_table_by_table() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "master = \"local[2]\"\n[event_log]\nenabled = true\n").unwrap();
        let mut config = Config::default();
        config.file(file.path()).unwrap();
        assert_eq!(MASTER.value(config.values()), "local[2]");
        assert_eq!(EVENT_LOG.value(config.values()), "true");
        std::fs::write(file.path(), "master = [1]").unwrap();
        assert!(config.file(file.path()).unwrap_err().to_string().contains("`master` is a list"));
    }
}
