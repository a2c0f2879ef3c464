//! How does an executable get into pods, by its content?
//!
//! It lies in the store under its SHA-256, compressed, for every application that runs it. Before that it is looked at: pods
//! run it only if the image suits it.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use k8s_backend::config::IMAGE;
use model::keys;
use model::setting::{InvalidSetting, Values};
use object::elf::{EM_AARCH64, EM_X86_64, FileHeader64};
use object::read::elf::FileHeader;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use sha2::{Digest, Sha256};

use crate::config::{IMAGE_ARCH, IMAGE_GLIBC};

/// A program that was last used so long ago is written again, so that it is not swept as one that nobody uses.
const USED_AGAIN_AFTER: Duration = Duration::from_secs(7 * 86_400);

/// Fast, and half of the size already.
const LEVEL: i32 = 1;

/// What is wrong with a program, or with its way.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("read the program `{path}`")]
    Read {
        /// Where it is.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Pods could not run it.
    #[error("send `{path}` to pods: {problem}")]
    Unfit {
        /// Where it is.
        path: PathBuf,
        /// Why not, and what to do.
        problem: String,
    },
    /// The store fails.
    #[error("{what} `{key}`")]
    Store {
        /// What was tried.
        what: &'static str,
        /// The object.
        key: Path,
        /// Why not.
        source: object_store::Error,
    },
    /// What the store gave is not what was sent.
    #[error("fetch {hash}: what the store holds has the hash {found}")]
    Hash {
        /// What was wanted.
        hash: String,
        /// What came.
        found: String,
    },
    /// It cannot be unpacked here.
    #[error("unpack to `{path}`")]
    Unpack {
        /// Where to.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Error {
    /// Whether the store refuses whoever asks: trying again finds the same.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Store { source, .. } if denied(source))
    }
}

/// Whether a store refuses whoever asks.
pub(crate) fn denied(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. })
}

/// What an executable needs of the machine that runs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Needs {
    /// As Kubernetes calls it: `amd64`, `arm64`.
    pub(crate) architecture: &'static str,
    /// The oldest glibc that has all it calls; none if it links none dynamically.
    pub(crate) glibc: Option<(u32, u32)>,
}

/// Looks into an executable.
///
/// # Errors
/// It cannot be read, or is none of Linux on a machine that pods may have.
pub(crate) fn needs(path: &FilePath) -> Result<Needs, Error> {
    let bytes = fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    needs_of(&bytes).map_err(|problem| Error::Unfit { path: path.to_owned(), problem })
}

fn needs_of(bytes: &[u8]) -> Result<Needs, String> {
    let no_elf = |error: object::Error| format!("it is no 64-bit executable of Linux ({error})");
    let header = FileHeader64::<object::Endianness>::parse(bytes).map_err(no_elf)?;
    let endian = header.endian().map_err(no_elf)?;
    let architecture = match header.e_machine(endian) {
        EM_X86_64 => "amd64",
        EM_AARCH64 => "arm64",
        other => return Err(format!("it is for machine {other} of ELF; images are for amd64 and arm64")),
    };
    let sections = header.sections(endian, bytes).map_err(no_elf)?;
    let mut glibc = None;
    if let Some((needed, link)) = sections.gnu_verneed(endian, bytes).map_err(no_elf)? {
        let strings = sections.strings(endian, bytes, link).map_err(no_elf)?;
        let mut libraries = needed;
        while let Some((_, mut versions)) = libraries.next().map_err(no_elf)? {
            while let Some(version) = versions.next().map_err(no_elf)? {
                let name = version.name(endian, strings).map_err(no_elf)?;
                glibc = glibc.max(parse_glibc(name));
            }
        }
    }
    Ok(Needs { architecture, glibc })
}

/// `GLIBC_2.34` is (2, 34).
fn parse_glibc(version: &[u8]) -> Option<(u32, u32)> {
    let mut numbers = std::str::from_utf8(version).ok()?.strip_prefix("GLIBC_")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// What an image has for programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    name: String,
    glibc: (u32, u32),
    /// As Kubernetes calls them.
    architectures: Vec<String>,
}

impl Image {
    /// As configured.
    ///
    /// # Errors
    /// A setting cannot be understood.
    pub(crate) fn read(values: &Values) -> Result<Self, InvalidSetting> {
        let text = IMAGE_GLIBC.value(values);
        let version = text.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        let glibc = version.ok_or_else(|| InvalidSetting {
            key: IMAGE_GLIBC.key.to_owned(),
            value: text.to_owned(),
            want: "want a version such as 2.36".to_owned(),
        })?;
        let text = IMAGE_ARCH.value(values);
        let architectures: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
        if !architectures.iter().all(|name| ["amd64", "arm64"].contains(&name.as_str())) {
            return Err(InvalidSetting {
                key: IMAGE_ARCH.key.to_owned(),
                value: text.to_owned(),
                want: "want amd64, arm64, or both with a comma between them".to_owned(),
            });
        }
        Ok(Self { name: IMAGE.value(values).to_owned(), glibc, architectures })
    }

    /// The machine that pods of the image's own programs must have; none if any will do.
    pub(crate) fn only_for(&self) -> Option<&str> {
        match &self.architectures[..] {
            [only] => Some(only),
            _ => None,
        }
    }

    /// Whether it runs a program of this path.
    ///
    /// # Errors
    /// It does not: what to do.
    pub(crate) fn suits(&self, path: &FilePath, needs: &Needs) -> Result<(), Error> {
        let unfit = |problem| Err(Error::Unfit { path: path.to_owned(), problem });
        let (image, has) = (&self.name, self.glibc);
        if !self.architectures.iter().any(|architecture| architecture == needs.architecture) {
            return unfit(format!(
                "it is for {}, and image `{image}` is for {}; build it for the nodes, or set k8s.image to an image for \
                 {0} and k8s.image_arch to what it is for",
                needs.architecture,
                self.architectures.join(" and ")
            ));
        }
        match needs.glibc {
            Some(needed) if needed > has => unfit(format!(
                "it needs glibc {}.{}, and image `{image}` has {}.{}; build it on an older system, or set k8s.image to one \
                 with a newer glibc and k8s.image_glibc to its version",
                needed.0, needed.1, has.0, has.1
            )),
            _ => Ok(()),
        }
    }
}

/// Brings a program into the store, unless it is there and was used lately.
///
/// # Errors
/// It cannot be read, or the store fails.
pub(crate) async fn upload(
    store: &Arc<dyn ObjectStore>,
    root: &Path,
    path: &FilePath,
    hash: &str,
) -> Result<(), Error> {
    let key = key(root, hash);
    match store.head(&key).await {
        Ok(found) => {
            let age = Utc::now().signed_duration_since(found.last_modified).to_std().unwrap_or_default();
            if age < USED_AGAIN_AFTER {
                return Ok(());
            }
        }
        Err(object_store::Error::NotFound { .. }) => {}
        Err(source) => return Err(Error::Store { what: "look for", key, source }),
    }
    let from = path.to_owned();
    let packed = tokio::task::spawn_blocking(move || zstd::stream::encode_all(File::open(from)?, LEVEL)).await;
    let packed = packed.map_err(io::Error::other).flatten();
    let packed = packed.map_err(|source| Error::Read { path: path.to_owned(), source })?;
    tracing::info!(path = %path.display(), hash, bytes = packed.len(), "upload");
    let put = store.put(&key, PutPayload::from(packed)).await;
    put.map(drop).map_err(|source| Error::Store { what: "upload", key, source })
}

/// Fetches a program into a folder, and gives the path of the executable.
///
/// # Errors
/// The store has no such program, or another under its name; the folder cannot be written.
pub(crate) async fn fetch(
    store: &Arc<dyn ObjectStore>,
    root: &Path,
    hash: &str,
    folder: &FilePath,
) -> Result<PathBuf, Error> {
    let path = folder.join("program");
    fetch_to(store, root, hash, &path).await?;
    Ok(path)
}

/// Fetches what was uploaded under a hash, to this path.
///
/// # Errors
/// The store has nothing of that hash, or something else; the path cannot be written.
pub(crate) async fn fetch_to(
    store: &Arc<dyn ObjectStore>,
    root: &Path,
    hash: &str,
    path: &FilePath,
) -> Result<(), Error> {
    let key = key(root, hash);
    let failed = |source| Error::Store { what: "fetch", key: key.clone(), source };
    let packed = store.get(&key).await.map_err(failed)?.bytes().await.map_err(failed)?;
    let unpacked = unpack(&packed, path).map_err(|source| Error::Unpack { path: path.to_owned(), source })?;
    if unpacked != hash {
        return Err(Error::Hash { hash: hash.to_owned(), found: unpacked });
    }
    Ok(())
}

/// Unpacks an executable, and gives its hash.
fn unpack(packed: &[u8], path: &FilePath) -> io::Result<String> {
    struct Hashed<W> {
        to: W,
        hasher: Sha256,
    }
    impl<W: Write> Write for Hashed<W> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let written = self.to.write(bytes)?;
            self.hasher.update(&bytes[..written]);
            Ok(written)
        }

        fn flush(&mut self) -> io::Result<()> {
            self.to.flush()
        }
    }
    let file = File::create(path)?;
    file.set_permissions(Permissions::from_mode(0o755))?;
    let mut hashed = Hashed { to: file, hasher: Sha256::new() };
    zstd::stream::copy_decode(packed, &mut hashed)?;
    Ok(hashed.hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn key(root: &Path, hash: &str) -> Path {
    Path::from_iter(root.parts().chain(Path::from(keys::program(hash)).parts()))
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    #[test]
    fn this_executable_is_understood() {
        let needs = needs(&std::env::current_exe().unwrap()).unwrap();
        assert_eq!(needs.architecture, if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" });
        let glibc = needs.glibc.expect("a Rust program of this target links glibc");
        assert!(glibc >= (2, 17), "{glibc:?}");
        let image = |settings: &[(&str, String)]| {
            Image::read(&settings.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()).unwrap()
        };
        let suits = |image: Image| image.suits(FilePath::new("p"), &needs).map_err(|error| error.to_string());
        let same = ("k8s.image_glibc", format!("{}.{}", glibc.0, glibc.1));
        assert_eq!(suits(image(std::slice::from_ref(&same))), Ok(()));
        let refused = suits(image(&[("k8s.image_glibc", "2.2".into())])).unwrap_err();
        assert!(refused.contains("it needs glibc") && refused.contains("k8s.image_glibc"), "{refused}");
        let other = if needs.architecture == "amd64" { "arm64" } else { "amd64" };
        let refused = suits(image(&[same, ("k8s.image_arch", other.into())])).unwrap_err();
        assert!(refused.contains(&format!("is for {other}; build it for the nodes")), "{refused}");
        let wrong = [("k8s.image_arch".to_owned(), "x86_64".to_owned())].into_iter().collect();
        assert!(Image::read(&wrong).unwrap_err().to_string().contains("want amd64"));
    }

    #[test]
    fn what_no_pod_could_run_is_refused() {
        let script = needs_of(b"#!/bin/sh\necho no executable, only a script that is long enough for a header\n");
        assert!(script.unwrap_err().contains("no 64-bit executable"));
        let mut alien = fs::read(std::env::current_exe().unwrap()).unwrap();
        alien[18..20].copy_from_slice(&243_u16.to_le_bytes());
        assert!(needs_of(&alien).unwrap_err().contains("machine 243"));
    }

    #[tokio::test]
    async fn a_program_comes_back_as_it_went_and_another_is_refused() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let (root, folder) = (Path::from("root"), tempfile::tempdir().unwrap());
        let sent = folder.path().join("sent");
        fs::write(&sent, "abc").unwrap();
        let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        upload(&store, &root, &sent, hash).await.unwrap();
        let fetched = fetch(&store, &root, hash, folder.path()).await.unwrap();
        assert_eq!(fs::read(&fetched).unwrap(), b"abc");
        assert_eq!(fs::metadata(&fetched).unwrap().permissions().mode() & 0o777, 0o755);

        // What is there is not sent again, and what is not what its name says is not run.
        fs::write(&sent, "abd").unwrap();
        upload(&store, &root, &sent, hash).await.unwrap();
        assert_eq!(fs::read(fetch(&store, &root, hash, folder.path()).await.unwrap()).unwrap(), b"abc");
        let other = "0".repeat(64);
        upload(&store, &root, &sent, &other).await.unwrap();
        let refused = fetch(&store, &root, &other, folder.path()).await.unwrap_err();
        assert!(matches!(refused, Error::Hash { .. }), "{refused}");
        let missing = fetch(&store, &root, &"1".repeat(64), folder.path()).await.unwrap_err();
        assert!(matches!(missing, Error::Store { .. }), "{missing}");
    }
}
