//! Which files, and which pieces of them, are a partition's?
//!
//! The driver lists the files that a program names and packs them into groups of about the same size, in the order of
//! their names, so that the same files always make the same partitions.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use futures::TryStreamExt;
use glob::{MatchOptions, Pattern};
use model::pattern::{expand, is_pattern};
use model::{Failure, FailureKind, write};
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use url::Url;

/// What can go wrong with files that are read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// There is nothing under this name.
    #[error("read `{0}`: there is no such file or folder")]
    NoSuchPath(String),
    /// A pattern matches nothing.
    #[error("read `{0}`: no file matches")]
    NoMatch(String),
    /// A folder lies where files were wanted.
    #[error(
        "read `{within}`: `{folder}` is no file; to read what lies in folders within it, name them or use a pattern such as \
         `{within}/**/*`"
    )]
    FolderWithin {
        /// What was to be read.
        within: String,
        /// The folder in it.
        folder: String,
    },
    /// No path was given.
    #[error("read files: `{0}` names none")]
    NoPath(String),
    /// A pattern that is none.
    #[error("read `{pattern}`: its pattern is malformed")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// Where and why.
        source: glob::PatternError,
    },
    /// A file name that is not text.
    #[error("read `{0}`: its name is not UTF-8")]
    NameNotText(String),
    /// A file or folder cannot be read.
    #[error("read `{path}`")]
    Read {
        /// It.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A compressed file is not what its name says, or damaged.
    #[error("read `{path}`: decompress it as {compression}")]
    Corrupt {
        /// The file.
        path: String,
        /// What its name says.
        compression: Compression,
        /// What the decoder found.
        source: io::Error,
    },
    /// A URL names no store.
    #[error("read `{url}`")]
    NoStore {
        /// The URL.
        url: String,
        /// Why.
        source: Box<shuffle::Error>,
    },
    /// A store did not answer as it should.
    #[error("read `{path}`")]
    Store {
        /// The object or folder.
        path: String,
        /// Why.
        source: object_store::Error,
    },
}

impl Error {
    /// The failure of the task or job that met it. Input that is missing or damaged stays so: nobody tries again.
    #[must_use]
    pub(crate) fn into_failure(self) -> Failure {
        let kind = match &self {
            Self::NoSuchPath(_)
            | Self::NoMatch(_)
            | Self::NoPath(_)
            | Self::FolderWithin { .. }
            | Self::Pattern { .. }
            | Self::NameNotText(_)
            | Self::Read { .. }
            | Self::Corrupt { .. }
            | Self::NoStore { .. }
            | Self::Store { source: object_store::Error::NotFound { .. }, .. } => FailureKind::Query,
            Self::Store {
                source: object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. },
                ..
            } => FailureKind::StoreDenied,
            Self::Store { .. } => FailureKind::StoreUnavailable,
        };
        Failure::from_error(kind, &self)
    }
}

/// How a file is compressed, by the end of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compression {
    /// Not at all.
    None,
    /// `.gz`
    Gzip,
    /// `.bz2`
    Bzip2,
    /// `.zst`
    Zstd,
}

impl Compression {
    /// That of a file of this name.
    #[must_use]
    pub fn of(name: &str) -> Self {
        match name.rsplit_once('.').map(|(_, end)| end) {
            Some("gz" | "gzip") => Self::Gzip,
            Some("bz2") => Self::Bzip2,
            Some("zst" | "zstd") => Self::Zstd,
            _ => Self::None,
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "plain bytes",
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Zstd => "zstd",
        })
    }
}

/// Where a file is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Location {
    /// At this absolute path.
    Local(String),
    /// In an object store: the URL of its root, and the key.
    Object { root: String, key: String },
}

/// As a person would name it.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => f.write_str(path),
            Self::Object { root, key } => write!(f, "{}/{key}", root.split('?').next().unwrap_or_default()),
        }
    }
}

/// A file that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct File {
    pub(crate) location: Location,
    pub(crate) bytes: u64,
}

impl File {
    pub(crate) fn compression(&self) -> Compression {
        match &self.location {
            Location::Local(name) | Location::Object { key: name, .. } => Compression::of(name),
        }
    }

    /// What opening it costs, as bytes that could be read in that time.
    fn open_cost(&self) -> u64 {
        match self.location {
            Location::Local(_) => LOCAL_OPEN_COST_BYTES,
            Location::Object { .. } => STORE_OPEN_COST_BYTES,
        }
    }
}

/// A piece of a file: the lines that begin in `[start, end)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Split {
    pub(crate) file: File,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// About 10 µs at 2 GB/s.
const LOCAL_OPEN_COST_BYTES: u64 = 16 << 10;

/// A round trip of 20 ms at 50 MB/s.
const STORE_OPEN_COST_BYTES: u64 = 1 << 20;

/// A partition of files is about this large: a second of work or less, so that slots end together and a lost task costs
/// little, yet thousands of times what starting it costs.
pub(crate) const SPLIT_BYTES: u64 = 32 << 20;

/// The last piece of a file may be so much larger than the others, rather than leave a crumb. Hadoop's number.
const SPLIT_SLOP: f64 = 1.1;

/// Packs files into partitions of about `split_bytes`, at least `min_partitions` of them if there are bytes enough. Long
/// files are cut, unless they are compressed: none of the compressions can be entered in the middle.
pub(crate) fn pack_lines(files: Vec<File>, min_partitions: u32, split_bytes: u64) -> Vec<Vec<Split>> {
    let goal = goal(&files, min_partitions, split_bytes);
    let mut packer = Packer::new(goal);
    for file in files.into_iter().filter(|file| file.bytes > 0) {
        let (bytes, mut start) = (file.bytes, 0);
        if file.compression() != Compression::None {
            packer.add(Split { file, start, end: u64::MAX }, bytes);
            continue;
        }
        while (bytes - start) as f64 > goal as f64 * SPLIT_SLOP {
            packer.add(Split { file: file.clone(), start, end: start + goal }, goal);
            start += goal;
        }
        packer.add(Split { file, start, end: bytes }, bytes - start);
    }
    packer.finish()
}

/// The same for files that are not cut.
pub(crate) fn pack_whole(files: Vec<File>, min_partitions: u32, split_bytes: u64) -> Vec<Vec<File>> {
    let mut packer = Packer::new(goal(&files, min_partitions, split_bytes));
    for file in files {
        let cost = file.bytes + file.open_cost();
        packer.add(file, cost);
    }
    packer.finish()
}

fn goal(files: &[File], min_partitions: u32, split_bytes: u64) -> u64 {
    let total: u64 = files.iter().map(|file| file.bytes + file.open_cost()).sum();
    split_bytes.min(total.div_ceil(u64::from(min_partitions.max(1)))).max(1)
}

/// Fills groups in order.
struct Packer<T> {
    goal: u64,
    groups: Vec<Vec<T>>,
    filled: u64,
}

impl<T> Packer<T> {
    fn new(goal: u64) -> Self {
        Self { goal, groups: Vec::new(), filled: u64::MAX }
    }

    fn add(&mut self, item: T, cost: u64) {
        let filled = self.filled.saturating_add(cost);
        match self.groups.last_mut() {
            Some(group) if filled <= self.goal => {
                group.push(item);
                self.filled = filled;
            }
            _ => {
                self.groups.push(vec![item]);
                self.filled = cost;
            }
        }
    }

    fn finish(self) -> Vec<Vec<T>> {
        self.groups
    }
}

/// All files that `paths` names: files, folders with the files in them, patterns (`*`, `?`, `[a-z]`, `{a,b}`, `**`) of both,
/// several of these between commas; each a path of this machine or a URL. Names that begin with `_` or `.` are skipped
/// unless they are named themselves. A folder in a folder is an error, as in Spark: whoever wants all that is below says
/// so by `**`. Adds to `logs` the URLs of folders that keep a log of what was written to them.
pub(crate) fn list(paths: &str, io: &Handle, logs: &mut BTreeSet<String>) -> Result<Vec<File>, Error> {
    let mut files = Vec::new();
    let entries = split_list(paths);
    if entries.is_empty() {
        return Err(Error::NoPath(paths.to_owned()));
    }
    for entry in entries {
        let mut found = match entry.split_once("://") {
            Some(("file", path)) => list_local(path, logs)?,
            Some((scheme, rest)) => list_store(scheme, rest, entry, io, logs)?,
            None => list_local(entry, logs)?,
        };
        found.sort_by(|a, b| a.location.cmp(&b.location));
        found.dedup();
        files.append(&mut found);
    }
    Ok(files)
}

/// Splits at commas, but not at those within braces.
fn split_list(paths: &str) -> Vec<&str> {
    let mut depth = 0u32;
    let entries = paths.split(|c| {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    });
    entries.map(str::trim).filter(|entry| !entry.is_empty()).collect()
}

const MATCHING: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

fn malformed(pattern: &str) -> impl Fn(glob::PatternError) -> Error + '_ {
    move |source| Error::Pattern { pattern: pattern.to_owned(), source }
}

fn is_hidden(name: &str) -> bool {
    name.starts_with(['_', '.'])
}

/// Notes the folder that a file lies in, or the one above those that its values name, if writes are kept in it.
fn note_log(folder: &Path, logs: &mut BTreeSet<String>) {
    let names_value = |folder: &&Path| folder.file_name().is_some_and(|name| name.to_string_lossy().contains('='));
    let Some(table) = folder.ancestors().find(|folder| !names_value(folder)) else { return };
    if table.join(write::LOG).is_dir()
        && let Ok(url) = Url::from_directory_path(table)
    {
        logs.insert(url.into());
    }
}

fn list_local(entry: &str, logs: &mut BTreeSet<String>) -> Result<Vec<File>, Error> {
    let read = |source| Error::Read { path: entry.to_owned(), source };
    let absolute = std::path::absolute(entry).map_err(read)?;
    let mut files = Vec::new();
    match fs::metadata(&absolute) {
        Ok(meta) => {
            if meta.is_dir() {
                note_log(&absolute, logs);
            }
            add_local(&absolute, &meta, &mut files)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && is_pattern(entry) => {
            let mut matched = false;
            for pattern in expand(text_of(&absolute)?) {
                let named = pattern.split('/').take_while(|segment| !is_pattern(segment)).count();
                for path in glob::glob_with(&pattern, MATCHING).map_err(malformed(entry))? {
                    let path = path.map_err(|error| Error::Read {
                        path: error.path().display().to_string(),
                        source: error.into(),
                    })?;
                    if text_of(&path)?.split('/').skip(named).any(is_hidden) {
                        continue;
                    }
                    let meta = fs::metadata(&path)
                        .map_err(|source| Error::Read { path: path.display().to_string(), source })?;
                    if meta.is_dir() && is_deep(&pattern) {
                        continue; // Its files match themselves.
                    }
                    matched = true;
                    note_log(if meta.is_dir() { &path } else { path.parent().unwrap_or(&path) }, logs);
                    add_local(&path, &meta, &mut files)?;
                }
            }
            if !matched {
                return Err(Error::NoMatch(entry.to_owned()));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Error::NoSuchPath(entry.to_owned())),
        Err(error) => return Err(read(error)),
    }
    Ok(files)
}

fn text_of(path: &Path) -> Result<&str, Error> {
    path.to_str().ok_or_else(|| Error::NameNotText(path.display().to_string()))
}

/// Whether a pattern reaches into folders of any depth.
fn is_deep(pattern: &str) -> bool {
    pattern.split('/').any(|segment| segment == "**")
}

/// Adds a file, or the files in a folder.
fn add_local(path: &Path, meta: &fs::Metadata, files: &mut Vec<File>) -> Result<(), Error> {
    let read = |source| Error::Read { path: path.display().to_string(), source };
    if !meta.is_dir() {
        files.push(File { location: Location::Local(text_of(path)?.to_owned()), bytes: meta.len() });
        return Ok(());
    }
    let within = path;
    for entry in fs::read_dir(path).map_err(read)? {
        let path = entry.map_err(read)?.path();
        if path.file_name().and_then(|name| name.to_str()).is_some_and(is_hidden) {
            continue;
        }
        let meta = fs::metadata(&path).map_err(|source| Error::Read { path: path.display().to_string(), source })?;
        if meta.is_dir() {
            let (within, folder) = (within.display().to_string(), path.display().to_string());
            return Err(Error::FolderWithin { within, folder });
        }
        files.push(File { location: Location::Local(text_of(&path)?.to_owned()), bytes: meta.len() });
    }
    Ok(())
}

/// Lists a URL. Within it `?` begins the store's options, as in `s3://bucket/logs/*.gz?region=eu-west-1`.
fn list_store(
    scheme: &str,
    rest: &str,
    entry: &str,
    io: &Handle,
    logs: &mut BTreeSet<String>,
) -> Result<Vec<File>, Error> {
    let (rest, query) = rest.split_once('?').map_or((rest, String::new()), |(rest, query)| (rest, format!("?{query}")));
    let (authority, key) = rest.split_once('/').unwrap_or((rest, ""));
    let root = format!("{scheme}://{authority}{query}");
    let store = open_store(&root)?;
    let found = |key: &object_store::path::Path, bytes| File {
        location: Location::Object { root: root.clone(), key: key.to_string() },
        bytes,
    };
    let failed = |source| Error::Store { path: entry.to_owned(), source };
    let mut listed = |prefix: &str| {
        let prefix = object_store::path::Path::from(prefix);
        let all = io.block_on(store.list(Some(&prefix)).try_collect::<Vec<_>>()).map_err(failed)?;
        for meta in &all {
            if let Some((table, _)) = meta.location.as_ref().split_once(&format!("{}/", write::LOG)) {
                logs.insert(format!("{scheme}://{authority}/{table}{query}"));
            }
        }
        Ok((prefix, all))
    };
    if !is_pattern(key) {
        let path = object_store::path::Path::from(key);
        match io.block_on(store.head(&path)) {
            Ok(meta) => return Ok(vec![found(&meta.location, meta.size)]),
            Err(object_store::Error::NotFound { .. }) => {}
            // A store of files answers so for a folder.
            Err(_) if scheme == "memory" || key.is_empty() => {}
            Err(source) => return Err(failed(source)),
        }
        let (prefix, all) = listed(key)?;
        if all.is_empty() {
            return Err(Error::NoSuchPath(entry.to_owned()));
        }
        let mut files = Vec::new();
        for meta in all {
            let Some(below) = meta.location.prefix_match(&prefix) else { continue };
            let below: Vec<_> = below.collect();
            if below.iter().any(|part| is_hidden(part.as_ref())) {
                continue;
            }
            if let [folder, _, ..] = &below[..] {
                let within = entry.trim_end_matches('/').to_owned();
                return Err(Error::FolderWithin { folder: format!("{within}/{}", folder.as_ref()), within });
            }
            files.push(found(&meta.location, meta.size));
        }
        return Ok(files);
    }
    let mut files = Vec::new();
    for pattern in expand(key) {
        let compiled = Pattern::new(&pattern).map_err(malformed(entry))?;
        // All before the first segment with a wildcard narrows what is listed.
        let literal: Vec<&str> = pattern.split('/').take_while(|segment| !is_pattern(segment)).collect();
        let literal =
            if literal.len() == pattern.split('/').count() { &literal[..literal.len() - 1] } else { &literal[..] };
        let depth = pattern.split('/').count();
        for meta in listed(&literal.join("/"))?.1 {
            let key = meta.location.as_ref();
            if key.split('/').skip(literal.len()).any(is_hidden) {
                continue;
            }
            // What lies in a folder that matches belongs to it.
            let folder = key.match_indices('/').nth(depth - 1).map(|(at, _)| &key[..at]);
            let folder = folder.filter(|folder| !is_deep(&pattern) && compiled.matches_with(folder, MATCHING));
            if let Some(folder) = folder
                && let Some((deeper, _)) = key[folder.len() + 1..].split_once('/')
            {
                let within = format!("{scheme}://{authority}/{folder}");
                return Err(Error::FolderWithin { folder: format!("{within}/{deeper}"), within });
            }
            if folder.is_some() || compiled.matches_with(key, MATCHING) {
                files.push(found(&meta.location, meta.size));
            }
        }
    }
    if files.is_empty() { Err(Error::NoMatch(entry.to_owned())) } else { Ok(files) }
}

/// As many stores as one process keeps open at a time: each has its own connections and credentials.
const MAX_OPEN_STORES: usize = 64;

/// Opens the root of a store, once per process.
pub(crate) fn open_store(root: &str) -> Result<Arc<dyn ObjectStore>, Error> {
    static OPEN: OnceLock<Mutex<BTreeMap<String, Arc<dyn ObjectStore>>>> = OnceLock::new();
    let mut open = OPEN.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(store) = open.get(root) {
        return Ok(store.clone());
    }
    let (store, _) = shuffle::store::open(root)
        .map_err(|source| Error::NoStore { url: root.to_owned(), source: Box::new(source) })?;
    if open.len() >= MAX_OPEN_STORES {
        open.clear();
    }
    open.insert(root.to_owned(), store.clone());
    Ok(store)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(name: &str, bytes: u64) -> File {
        File { location: Location::Local(name.to_owned()), bytes }
    }

    fn listed(paths: &str, below: &Path) -> Result<Vec<String>, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let names = |files: Vec<File>| {
            let below = below.to_str().unwrap();
            files.iter().map(|f| f.location.to_string().replace(below, "").trim_start_matches('/').to_owned()).collect()
        };
        list(paths, runtime.handle(), &mut BTreeSet::new()).map(names)
    }

    #[test]
    fn files_folders_patterns_and_lists_name_files() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for name in ["b.txt", "a.txt", "c.log", "_SUCCESS", ".hidden", "sub/d.txt", "sub/_x/e.txt", "other/f.txt"] {
            fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            fs::write(root.join(name), name).unwrap();
        }
        let at = |path: &str| root.join(path).to_str().unwrap().to_owned();
        let names = |paths: &str| listed(paths, root).unwrap();
        assert_eq!(names(&at("a.txt")), ["a.txt"]);
        assert_eq!(names(&at("_SUCCESS")), ["_SUCCESS"], "named itself");
        assert_eq!(names(&at("sub")), ["sub/d.txt"], "hidden folders do not count");
        assert_eq!(names(&at("**/*")), ["a.txt", "b.txt", "c.log", "other/f.txt", "sub/d.txt"]);
        assert_eq!(names(&at("**/*.txt")), ["a.txt", "b.txt", "other/f.txt", "sub/d.txt"]);
        let refused = listed(&at(""), root).unwrap_err();
        assert!(
            matches!(&refused, Error::FolderWithin { folder, .. } if folder.ends_with("sub") || folder.ends_with("other"))
        );
        assert!(refused.to_string().contains("is no file"), "{refused}");
        assert_eq!(names(&at("*.txt")), ["a.txt", "b.txt"]);
        assert_eq!(names(&at("[^a].{txt,log}")), ["b.txt", "c.log"]);
        assert_eq!(names(&at("*")), ["a.txt", "b.txt", "c.log", "other/f.txt", "sub/d.txt"]);
        assert_eq!(names(&at("{sub,other}/*")), ["other/f.txt", "sub/d.txt"]);
        assert_eq!(names(&format!("file://{},{}", at("c.log"), at("a.txt"))), ["c.log", "a.txt"]);
        assert!(matches!(listed(&at("none"), root), Err(Error::NoSuchPath(path)) if path.ends_with("none")));
        assert!(matches!(listed(&at("*.pdf"), root), Err(Error::NoMatch(path)) if path.ends_with("*.pdf")));
        assert!(matches!(listed(&at("x[.txt"), root), Err(Error::Pattern { .. })));
        assert!(matches!(listed(" , ", root), Err(Error::NoPath(_))));
        assert_eq!(listed(&at("none"), root).unwrap_err().into_failure().kind, FailureKind::Query);
    }

    #[test]
    fn folders_of_stores_are_read_as_those_of_disks() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let store = open_store("memory://folders").unwrap();
        for name in ["in/a.txt", "in/_x/b.txt", "deep/c.txt", "deep/sub/d.txt", "deep/sub/sub/e.txt"] {
            runtime.block_on(store.put(&name.into(), name.into())).unwrap();
        }
        let names = |path: &str| {
            let files = list(&format!("memory://folders/{path}"), runtime.handle(), &mut BTreeSet::new());
            files.map(|files| files.into_iter().map(|file| file.location.to_string()).collect::<Vec<_>>())
        };
        let at = |names: &[&str]| names.iter().map(|name| format!("memory://folders/{name}")).collect::<Vec<_>>();
        assert_eq!(names("in").unwrap(), at(&["in/a.txt"]));
        assert_eq!(names("*n").unwrap(), at(&["in/a.txt"]));
        assert_eq!(names("deep/*.txt").unwrap(), at(&["deep/c.txt"]));
        assert_eq!(names("deep/**/*").unwrap(), at(&["deep/c.txt", "deep/sub/d.txt", "deep/sub/sub/e.txt"]));
        for nested in ["deep", "deep/*", "d{eep}"] {
            assert!(matches!(names(nested), Err(Error::FolderWithin { .. })), "{nested}");
        }
    }

    #[test]
    fn names_tell_compressions() {
        let of = |name| Compression::of(name);
        assert_eq!(
            [of("a.gz"), of("b.tar.bz2"), of("c.zst")],
            [Compression::Gzip, Compression::Bzip2, Compression::Zstd]
        );
        assert_eq!([of("a.txt"), of("gz"), of("a.gz.txt")], [Compression::None; 3]);
    }

    #[test]
    fn compressed_files_are_not_cut_and_empty_ones_are_nobodys() {
        let splits = pack_lines(vec![file("a.gz", 100 << 20), file("b", 0), file("c", 10)], 2, SPLIT_BYTES);
        assert_eq!(splits.len(), 2);
        assert_eq!((splits[0][0].start, splits[0][0].end), (0, u64::MAX));
        assert_eq!(splits[1], [Split { file: file("c", 10), start: 0, end: 10 }]);
        assert_eq!(pack_lines(vec![], 2, SPLIT_BYTES), [[]; 0]);
    }

    #[test]
    fn commas_within_braces_part_no_paths() {
        assert_eq!(split_list("x,{a,b}/c, y"), ["x", "{a,b}/c", "y"]);
    }

    proptest! {
        #[test]
        fn packing_covers_every_byte_once_in_order(
            sizes in prop::collection::vec(0u64..2_000, 0..40), min_partitions in 1u32..9, split_bytes in 1u64..3_000,
        ) {
            let files: Vec<File> = sizes.iter().enumerate().map(|(n, &bytes)| file(&format!("{n:03}"), bytes)).collect();
            let groups = pack_lines(files.clone(), min_partitions, split_bytes);
            prop_assert!(groups.iter().all(|group| !group.is_empty()));
            let mut splits = groups.into_iter().flatten();
            for file in files.iter().filter(|file| file.bytes > 0) {
                let mut at = 0;
                while at < file.bytes {
                    let split = splits.next().unwrap();
                    prop_assert_eq!((&split.file, split.start), (file, at));
                    prop_assert!(split.end > at);
                    at = split.end;
                }
                prop_assert_eq!(at, file.bytes);
            }
            prop_assert!(splits.next().is_none());
            let whole: Vec<File> = pack_whole(files.clone(), min_partitions, split_bytes).concat();
            prop_assert_eq!(whole, files);
        }
    }
}
