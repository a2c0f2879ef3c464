//! What is an image, as a file?
//!
//! A tar archive in the OCI image layout: blobs named by their hash, among them one layer. Equal contents make equal bytes.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// Where programs of an image are looked for.
const PATH: &str = "PATH=/usr/local/bin:/usr/bin:/bin";

/// What lies at a path of an image.
#[derive(Debug)]
pub(crate) struct Entry {
    path: PathBuf,
    mode: u32,
    what: What,
}

#[derive(Debug)]
enum What {
    File(Vec<u8>),
    Folder,
    Link(String),
}

impl Entry {
    pub(crate) fn program(path: impl AsRef<str>, content: Vec<u8>) -> Self {
        Self::new(path.as_ref(), 0o755, What::File(content))
    }

    pub(crate) fn file(path: impl AsRef<str>, content: Vec<u8>) -> Self {
        Self::new(path.as_ref(), 0o644, What::File(content))
    }

    pub(crate) fn folder(path: impl AsRef<str>, mode: u32) -> Self {
        Self::new(path.as_ref(), mode, What::Folder)
    }

    pub(crate) fn link(path: impl AsRef<str>, target: &str) -> Self {
        Self::new(path.as_ref(), 0o777, What::Link(target.to_owned()))
    }

    fn new(path: &str, mode: u32, what: What) -> Self {
        Self { path: PathBuf::from(path.trim_start_matches('/')), mode, what }
    }
}

/// An image of one layer.
#[derive(Debug)]
#[must_use]
pub(crate) struct Image {
    name: String,
    command: Vec<String>,
    user: String,
    entries: Vec<Entry>,
}

impl Image {
    /// An empty one that starts a command, as root unless told otherwise.
    pub(crate) fn new(name: &str, command: &[&str]) -> Self {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        Self { name: name.to_owned(), command, user: String::new(), entries: Vec::new() }
    }

    pub(crate) fn user(mut self, user: &str) -> Self {
        user.clone_into(&mut self.user);
        self
    }

    pub(crate) fn with(mut self, entry: Entry) -> Self {
        self.entries.push(entry);
        self
    }

    /// Writes the archive and gives the size of the compressed layer, in bytes.
    pub(crate) fn write(&self, archive: &Path) -> Result<u64> {
        let blobs = self.blobs()?;
        let file = fs::File::create(archive).with_context(|| format!("make {}", archive.display()))?;
        let mut tar = Builder::new(file);
        append(&mut tar, &Entry::file("oci-layout", json!({"imageLayoutVersion": "1.0.0"}).to_string().into_bytes()))?;
        append(&mut tar, &Entry::file("index.json", blobs.index.to_string().into_bytes()))?;
        for (hash, content) in blobs.contents {
            append(&mut tar, &Entry::file(format!("blobs/sha256/{hash}"), content))?;
        }
        tar.into_inner()?.sync_all().with_context(|| format!("write {}", archive.display()))?;
        Ok(blobs.layer_bytes)
    }

    fn blobs(&self) -> Result<Blobs> {
        let plain = self.layer()?;
        let mut layer = GzEncoder::new(Vec::new(), Compression::default());
        layer.write_all(&plain)?;
        let layer = layer.finish()?;
        let mut contents = BTreeMap::new();
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {"Entrypoint": self.command, "Env": [PATH], "User": self.user, "WorkingDir": "/tmp"},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hash(&plain))]},
        });
        let layer_bytes = u64::try_from(layer.len())?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media("manifest.v1+json"),
            "config": blob(&mut contents, &media("config.v1+json"), config.to_string().into_bytes()),
            "layers": [blob(&mut contents, &media("layer.v1.tar+gzip"), layer)],
        });
        let mut described = blob(&mut contents, &media("manifest.v1+json"), manifest.to_string().into_bytes());
        described["annotations"] =
            json!({"io.containerd.image.name": self.name, "org.opencontainers.image.ref.name": self.name});
        let index = json!({"schemaVersion": 2, "mediaType": media("index.v1+json"), "manifests": [described]});
        Ok(Blobs { index, contents, layer_bytes })
    }

    /// The files as a tar archive, each after the folders that it lies in.
    fn layer(&self) -> Result<Vec<u8>> {
        let mut folders = BTreeMap::new();
        for entry in &self.entries {
            let above = entry.path.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty());
            folders.extend(above.map(|path| (path.to_path_buf(), 0o755)));
        }
        for entry in self.entries.iter().filter(|entry| matches!(entry.what, What::Folder)) {
            folders.insert(entry.path.clone(), entry.mode);
        }
        let mut tar = Builder::new(Vec::new());
        for (path, mode) in folders {
            append(&mut tar, &Entry { path, mode, what: What::Folder })?;
        }
        for entry in self.entries.iter().filter(|entry| !matches!(entry.what, What::Folder)) {
            append(&mut tar, entry)?;
        }
        tar.into_inner().context("finish the layer")
    }
}

struct Blobs {
    index: Value,
    contents: BTreeMap<String, Vec<u8>>,
    layer_bytes: u64,
}

/// Puts a blob in its place and describes it.
fn blob(contents: &mut BTreeMap<String, Vec<u8>>, media: &str, content: Vec<u8>) -> Value {
    let hash = hash(&content);
    let described = json!({"mediaType": media, "digest": format!("sha256:{hash}"), "size": content.len()});
    contents.insert(hash, content);
    described
}

/// Everything is root's and of no time, so that equal files make an equal archive.
fn append(tar: &mut Builder<impl Write>, entry: &Entry) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_mode(entry.mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    let named = || format!("pack {}", entry.path.display());
    match &entry.what {
        What::File(content) => {
            header.set_size(u64::try_from(content.len())?);
            tar.append_data(&mut header, &entry.path, content.as_slice()).with_context(named)
        }
        What::Folder => {
            header.set_entry_type(EntryType::Directory);
            header.set_size(0);
            tar.append_data(&mut header, entry.path.join(""), std::io::empty()).with_context(named)
        }
        What::Link(target) => {
            header.set_entry_type(EntryType::Symlink);
            header.set_size(0);
            tar.append_link(&mut header, &entry.path, target).with_context(named)
        }
    }
}

fn media(what: &str) -> String {
    format!("application/vnd.oci.image.{what}")
}

fn hash(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// This machine's, whose programs and libraries are packed.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;

    use flate2::read::GzDecoder;
    use serde_json::Value;

    use super::{Entry, Image, hash};

    fn image() -> Image {
        let image = Image::new("localhost/a:1", &["a"]).user("65532:65532");
        let image = image.with(Entry::folder("tmp", 0o1777)).with(Entry::program("usr/bin/a", b"program".to_vec()));
        image.with(Entry::link("usr/bin/b", "a")).with(Entry::file("/etc/c", b"text".to_vec()))
    }

    /// Paths of an archive with what they hold.
    fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(archive).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            files.insert(entry.path().unwrap().display().to_string(), content);
        }
        files
    }

    #[test]
    fn from_the_index_every_blob_is_found_under_its_hash() {
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("image.tar");
        let layer_bytes = image().write(&archive).unwrap();
        let files = files(&std::fs::read(&archive).unwrap());
        let follow = |described: &Value| {
            let digest = described["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
            let blob = &files[&format!("blobs/sha256/{digest}")];
            assert_eq!(hash(blob), digest);
            assert_eq!(described["size"], blob.len());
            blob.clone()
        };
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "localhost/a:1");
        let manifest: Value = serde_json::from_slice(&follow(&index["manifests"][0])).unwrap();
        let config: Value = serde_json::from_slice(&follow(&manifest["config"])).unwrap();
        assert_eq!(config["config"]["User"], "65532:65532");
        let layer = follow(&manifest["layers"][0]);
        assert_eq!(u64::try_from(layer.len()).unwrap(), layer_bytes);
        let mut plain = Vec::new();
        GzDecoder::new(layer.as_slice()).read_to_end(&mut plain).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", hash(&plain)));
    }

    #[test]
    fn a_layer_has_each_folder_before_what_is_in_it() {
        let layer = image().layer().unwrap();
        let mut archive = tar::Archive::new(layer.as_slice());
        let shown = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.uid().unwrap(), header.mtime().unwrap()), (0, 0));
            let link = entry.link_name().unwrap().map(|target| format!(" -> {}", target.display())).unwrap_or_default();
            format!("{:o} {}{link}", header.mode().unwrap(), entry.path().unwrap().display())
        });
        let shown: Vec<String> = shown.collect();
        let expected = "755 etc/, 1777 tmp/, 755 usr/, 755 usr/bin/, 755 usr/bin/a, 777 usr/bin/b -> a, 644 etc/c";
        assert_eq!(shown.join(", "), expected);
    }

    #[test]
    fn equal_contents_make_equal_images() {
        assert_eq!(image().blobs().unwrap().index, image().blobs().unwrap().index);
    }
}
