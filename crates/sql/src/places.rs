//! Which files does a table's location name?
//!
//! A file; a folder, and then all below it; or a pattern, which selects among what lies below the folder before it.

use std::path::{MAIN_SEPARATOR, Path as LocalPath};
use std::sync::Arc;

use datafusion::common::{DataFusionError, Result, plan_err};
use datafusion::datasource::listing::ListingTableUrl;
use futures::TryStreamExt;
use glob::{MatchOptions, Pattern};
use model::pattern::{expand, is_pattern};
use model::runner::JobError;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use url::Url;

use crate::error::wrap_job;

/// `*` stays in a folder, `**` does not.
const MATCHING: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };

/// A location.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    text: String,
    /// A file or folder: all of the location before its first pattern.
    url: ListingTableUrl,
    /// What lies below it must match one of these, if it is a pattern; a folder that does brings all below it.
    patterns: Vec<Pattern>,
}

impl Place {
    /// Reads a location: a path of this machine or a URL.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let wrong = |error: glob::PatternError| {
            DataFusionError::Plan(format!("read `{text}`: its pattern is malformed: {}", error.msg))
        };
        let (root, path) = match text.split_once("://") {
            Some((scheme, rest)) => {
                let start = rest.find('/').unwrap_or(rest.len());
                text.split_at(scheme.len() + 3 + start)
            }
            None => ("", text),
        };
        let there = root.is_empty() && LocalPath::new(path).exists();
        if there || !is_pattern(path) {
            let url = if root.is_empty() { local(path)? } else { ListingTableUrl::parse(text)? };
            return Ok(Self { text: text.to_owned(), url, patterns: Vec::new() });
        }
        let at = path.split('/').take_while(|segment| !is_pattern(segment)).map(|segment| segment.len() + 1).sum();
        let (folder, pattern) = path.split_at(at);
        let url = match root {
            "" if folder.is_empty() => local("./")?,
            "" => local(folder)?,
            root => ListingTableUrl::parse(format!("{root}{folder}"))?,
        };
        let patterns = expand(pattern.trim_end_matches('/'));
        let patterns = patterns.iter().map(|one| Pattern::new(one).map_err(wrong)).collect::<Result<_>>()?;
        Ok(Self { text: text.to_owned(), url, patterns })
    }

    /// What the person wrote.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The file, or the folder below which its files lie.
    pub(crate) fn url(&self) -> &ListingTableUrl {
        &self.url
    }

    /// Whether it is one folder, so that files can be added.
    pub(crate) fn is_folder(&self) -> bool {
        self.patterns.is_empty() && self.url.is_collection()
    }

    /// Whether it is one file, as far as its name tells.
    pub(crate) fn is_file(&self) -> bool {
        self.patterns.is_empty() && !self.url.is_collection()
    }

    /// The parts of a file's path below the place, without its own name.
    pub(crate) fn folders<'a>(&'a self, file: &'a ObjectMeta) -> Vec<&'a str> {
        let mut parts: Vec<&str> = self.url.strip_prefix(&file.location).into_iter().flatten().collect();
        parts.pop();
        parts
    }

    /// Its files that hold something, in the order of their names.
    pub(crate) async fn list(&self, store: &Arc<dyn ObjectStore>) -> Result<Vec<ObjectMeta>> {
        let prefix = self.url.prefix();
        if !self.url.is_collection() {
            match store.head(prefix).await {
                Ok(file) => return Ok(vec![file]),
                // A folder whose name was written without its slash.
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut files: Vec<ObjectMeta> = store.list(Some(prefix)).try_collect().await.map_err(unlisted)?;
        files.retain(|file| file.size > 0 && self.matches(file));
        files.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(files)
    }

    fn matches(&self, file: &ObjectMeta) -> bool {
        let Some(parts) = self.url.strip_prefix(&file.location) else { return false };
        let parts: Vec<&str> = parts.collect();
        let matched = |path: &str| self.patterns.iter().any(|pattern| pattern.matches_with(path, MATCHING));
        self.patterns.is_empty() || (1..=parts.len()).any(|depth| matched(&parts[..depth].join("/")))
    }

    /// That nothing is there.
    pub(crate) fn is_empty(&self) -> DataFusionError {
        let what =
            if self.patterns.is_empty() { "there is no such file, nor a folder with files" } else { "no file matches" };
        DataFusionError::Plan(format!("read `{}`: {what}", self.text))
    }
}

/// A list may have waited for a write in vain.
fn unlisted(error: object_store::Error) -> DataFusionError {
    match error {
        object_store::Error::Generic { store, source } => match source.downcast::<JobError>() {
            Ok(error) => wrap_job(*error),
            Err(source) => object_store::Error::Generic { store, source }.into(),
        },
        error => error.into(),
    }
}

/// A path of this machine, whatever characters it has.
fn local(path: &str) -> Result<ListingTableUrl> {
    let absolute = std::path::absolute(path).map_err(DataFusionError::IoError)?;
    let folder = path.ends_with(MAIN_SEPARATOR) || absolute.is_dir();
    let url = if folder { Url::from_directory_path(&absolute) } else { Url::from_file_path(&absolute) };
    // What is parsed has no `..` in it.
    match url.ok().and_then(|url| Url::parse(url.as_str()).ok()) {
        Some(url) => ListingTableUrl::try_new(url, None),
        None => plan_err!("read `{path}`: it is no path of this machine"),
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;
    use object_store::path::Path;

    use super::*;

    async fn names(store: &Arc<dyn ObjectStore>, place: &str) -> Vec<String> {
        let files = Place::parse(&format!("s3://bucket/{place}")).unwrap().list(store).await.unwrap();
        files.into_iter().map(|file| file.location.to_string()).collect()
    }

    #[tokio::test]
    async fn a_place_is_a_file_a_folder_or_a_pattern_of_either() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        for key in ["t/y=1/m=1/a", "t/y=1/m=2/b", "t/y=2/m=1/c", "t/part-0", "t/part-1", "t/other", "tt/x"] {
            store.put(&Path::from(key), "x".into()).await.unwrap();
        }
        for (place, wanted) in [
            ("t/part-0", &["t/part-0"][..]),
            ("t/y=1", &["t/y=1/m=1/a", "t/y=1/m=2/b"]),
            ("t/y=1/", &["t/y=1/m=1/a", "t/y=1/m=2/b"]),
            ("t/y=1/*/", &["t/y=1/m=1/a", "t/y=1/m=2/b"]),
            ("t/*/m=1/*", &["t/y=1/m=1/a", "t/y=2/m=1/c"]),
            ("t/y={1,2}/m=1", &["t/y=1/m=1/a", "t/y=2/m=1/c"]),
            ("t/part-*", &["t/part-0", "t/part-1"]),
            ("t/part-[^0]", &["t/part-1"]),
            ("t/**/?", &["t/y=1/m=1/a", "t/y=1/m=2/b", "t/y=2/m=1/c"]),
            ("t*/x", &["tt/x"]),
            ("t/none*", &[]),
        ] {
            assert_eq!(names(&store, place).await, wanted, "{place}");
        }
        let error = Place::parse("s3://bucket/t/***").unwrap_err().to_string();
        assert!(error.contains("s3://bucket/t/***"), "{error}");
    }

    #[test]
    fn paths_of_this_machine_are_absolute_and_straight() {
        let path = |text: &str| Place::parse(text).unwrap().url().prefix().to_string();
        assert_eq!(path("/a/b/../c.csv"), "a/c.csv");
        assert_eq!(path("/a/b/../c/*.csv"), "a/c");
        assert!(path("x y.csv").ends_with("/x y.csv"), "relative to here");
    }

    #[test]
    fn folders_below_a_place_are_those_before_the_files_name() {
        let file = |key: &str| ObjectMeta {
            location: Path::from(key),
            last_modified: std::time::SystemTime::UNIX_EPOCH.into(),
            size: 1,
            e_tag: None,
            version: None,
        };
        let folders = |place: &str, key: &str| -> Vec<String> {
            let (place, file) = (Place::parse(place).unwrap(), file(key));
            place.folders(&file).into_iter().map(str::to_owned).collect()
        };
        assert_eq!(folders("s3://b/t/", "t/y=1/m=2/a"), ["y=1", "m=2"]);
        assert_eq!(folders("s3://b/t/y=1/*/", "t/y=1/m=2/a"), ["m=2"]);
        assert_eq!(folders("s3://b/t/a", "t/a"), [""; 0]);
    }
}
