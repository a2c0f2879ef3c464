//! Which files go along with a program, and where are they?
//!
//! Every process of an application has them in a folder of its own: pods fetch them from the store, a process of this machine
//! has links to them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::RwLock;

use model::setting::Values;

use crate::config::{ARCHIVES, FILES};

/// The folder with this process's files, once it is known.
static FOLDER: RwLock<Option<PathBuf>> = RwLock::new(None);

/// With these two bytes begins what gzip has packed.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Where a file is that goes along with the program (`vonk submit --files`, key `app.files`); of an archive (`--archives`,
/// `app.archives`), the folder with what was in it. In the program and in functions that run in tasks alike.
///
/// # Errors
/// No file of that name goes along.
///
/// # Examples
/// ```no_run
/// let ctx = vonk::Context::builder().conf("app.files", "conf/stops.txt").build()?;
/// let stops = std::fs::read_to_string(vonk::attached("stops.txt")?)?;
/// println!("{} words are left out", stops.lines().count());
/// ctx.stop();
/// # Ok::<(), anyhow::Error>(())
/// ```
pub fn attached(name: &str) -> Result<PathBuf, NotAttached> {
    // A panic while the lock is held leaves either path whole.
    let folder = FOLDER.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    let path = folder.as_deref().filter(|_| is_name(name)).map(|folder| folder.join(name));
    path.filter(|path| path.exists()).ok_or_else(|| NotAttached(name.to_owned()))
}

/// A file that does not go along with the program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "find `{0}` among the files that go along with the program: name it with --files, --archives, app.files or app.archives"
)]
pub struct NotAttached(String);

/// Why files cannot go along.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is no file of this machine.
    #[error("attach `{0}`: want a file of this machine; what is in a store is read where it lies")]
    Elsewhere(String),
    /// It cannot be read.
    #[error("attach `{}`", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It has no name, or one that is none.
    #[error("attach `{0}`: want a name without slashes, as in PATH#NAME")]
    Name(String),
    /// Two have the same name.
    #[error("attach two files called `{0}`: give one another name, as in PATH#NAME")]
    Twice(String),
    /// It cannot be put where programs look for it.
    #[error("put `{name}` where the program finds it")]
    Place {
        /// Which.
        name: String,
        /// Why not.
        source: io::Error,
    },
    /// It is no archive.
    #[error("unpack `{name}`: want a tar, plain or packed by gzip")]
    Unpack {
        /// Which.
        name: String,
        /// Why not.
        source: io::Error,
    },
}

/// A file that goes along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attached {
    /// What the program calls it.
    pub(crate) name: String,
    /// Where it is, here.
    pub(crate) path: PathBuf,
    /// It is unpacked into a folder of its name.
    pub(crate) archive: bool,
}

/// All that the settings name. They are there.
///
/// # Errors
/// One is no file, or two have the same name.
pub(crate) fn listed(values: &Values) -> Result<Vec<Attached>, Error> {
    let of = |text: &'static str, archive| (text, archive);
    let keys = [of(FILES.key, false), of(ARCHIVES.key, true)];
    let mut all = Vec::new();
    let mut names = BTreeSet::new();
    for (key, archive) in keys {
        let listed = values.get(key).map(String::as_str).unwrap_or_default();
        for entry in listed.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let attached = entry_of(entry, archive)?;
            if !names.insert(attached.name.clone()) {
                return Err(Error::Twice(attached.name));
            }
            all.push(attached);
        }
    }
    Ok(all)
}

fn entry_of(entry: &str, archive: bool) -> Result<Attached, Error> {
    let (path, name) = match entry.rsplit_once('#') {
        Some((path, name)) => (path, Some(name)),
        None => (entry, None),
    };
    let path = match path.strip_prefix("file://") {
        Some(path) => PathBuf::from(path),
        None if path.contains("://") => return Err(Error::Elsewhere(path.to_owned())),
        None => PathBuf::from(path),
    };
    let own = path.file_name().and_then(|name| name.to_str());
    let name = name.or(own).filter(|name| is_name(name)).ok_or_else(|| Error::Name(entry.to_owned()))?.to_owned();
    let unreadable = |source| Error::Read { path: path.clone(), source };
    let found = fs::metadata(&path).map_err(unreadable)?;
    if !found.is_file() {
        return Err(unreadable(io::Error::other("it is no file; a folder goes along as an archive, made by tar")));
    }
    Ok(Attached { name, path, archive })
}

/// Whether a file of a folder can be called so, and listed between commas.
pub(crate) fn is_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', ',', '#'])
}

/// Puts files where this process finds them: into a folder below this one, as links.
///
/// # Errors
/// The folder cannot be written, or an archive is none.
pub(crate) fn place(attached: &[Attached], below: &Path) -> Result<(), Error> {
    let folder = below.join("files");
    for Attached { name, path, archive } in attached {
        let failed = |source| Error::Place { name: name.clone(), source };
        fs::create_dir_all(&folder).map_err(failed)?;
        let to = folder.join(name);
        // What another context of this process has left.
        let _ = fs::remove_file(&to).or_else(|_| fs::remove_dir_all(&to));
        match archive {
            true => unpack(name, path, &to)?,
            false => std::path::absolute(path).and_then(|path| symlink(path, &to)).map_err(failed)?,
        }
    }
    found_in(&folder);
    Ok(())
}

/// Where this process finds files from now on.
pub(crate) fn found_in(folder: &Path) {
    *FOLDER.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(folder.to_owned());
}

/// Where this process finds files.
pub(crate) fn folder() -> Option<PathBuf> {
    FOLDER.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
}

/// Unpacks an archive into a folder, which it makes.
///
/// # Errors
/// It is none, or the folder cannot be written.
pub(crate) fn unpack(name: &str, archive: &Path, to: &Path) -> Result<(), Error> {
    let unpacked = || {
        let mut file = File::open(archive)?;
        let mut first = Vec::new();
        file.by_ref().take(2).read_to_end(&mut first)?;
        file.rewind()?;
        fs::create_dir_all(to)?;
        // Paths that lead out of the folder are passed over.
        match first == GZIP {
            true => tar::Archive::new(flate2::read::MultiGzDecoder::new(BufReader::new(file))).unpack(to),
            false => tar::Archive::new(BufReader::new(file)).unpack(to),
        }
    };
    unpacked().map_err(|source| Error::Unpack { name: name.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(files: &str, archives: &str) -> Values {
        Values::from([(FILES.key.to_owned(), files.to_owned()), (ARCHIVES.key.to_owned(), archives.to_owned())])
    }

    fn packed(path: &Path) {
        let file = flate2::write::GzEncoder::new(File::create(path).unwrap(), flate2::Compression::fast());
        let mut archive = tar::Builder::new(file);
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        header.set_mode(0o644);
        archive.append_data(&mut header, "deep/in.txt", &b"inner"[..]).unwrap();
        archive.into_inner().unwrap().finish().unwrap();
    }

    #[test]
    fn files_are_found_by_their_names_and_archives_are_unpacked() {
        let here = tempfile::tempdir().unwrap();
        let at = |name: &str| here.path().join(name);
        fs::write(at("a.txt"), "outer").unwrap();
        packed(&at("b.tar.gz"));
        let (a, b) = (at("a.txt"), at("b.tar.gz"));
        let listed = listed(&values(&format!("{}, {}#other", a.display(), a.display()), &format!("{}#b", b.display())));
        let listed = listed.unwrap();
        place(&listed, here.path()).unwrap();
        // Twice, as two contexts of one process do.
        place(&listed, here.path()).unwrap();
        let read = |path: PathBuf| fs::read_to_string(path).unwrap();
        assert_eq!(read(attached("a.txt").unwrap()), "outer");
        assert_eq!(read(attached("other").unwrap()), "outer");
        assert_eq!(read(attached("b").unwrap().join("deep/in.txt")), "inner");
        for missing in ["c", "../files/a.txt", ""] {
            assert_eq!(attached(missing), Err(NotAttached(missing.to_owned())));
        }
    }

    #[test]
    fn what_cannot_go_along_is_refused_with_advice() {
        let here = tempfile::tempdir().unwrap();
        let file = here.path().join("a");
        fs::write(&file, "no archive, but long enough".repeat(40)).unwrap();
        let a = file.display().to_string();
        let refused = |files: &str| listed(&values(files, "")).unwrap_err().to_string();
        assert_eq!(refused(&format!("{a},{a}")), "attach two files called `a`: give one another name, as in PATH#NAME");
        assert!(refused("s3://b/a").contains("what is in a store is read where it lies"));
        assert!(refused(&format!("{a}#x/y")).contains("want a name without slashes"));
        assert!(refused(&here.path().display().to_string()).starts_with("attach `"));
        assert!(refused("/nowhere").starts_with("attach `/nowhere`"));
        let refused = unpack("a", &file, &here.path().join("b")).unwrap_err().to_string();
        assert_eq!(refused, "unpack `a`: want a tar, plain or packed by gzip");
    }
}
