//! On which data is measured?
//!
//! Text is what lies on a developer's machine: the sources and documents of crates, Go modules, Python and Rust, gathered
//! in the order of their paths until there is enough. Nothing is repeated. Records are as `gensort` makes them: 100 bytes
//! of which the first 10 are the key, here from a generator with a fixed seed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// What the text adds up to.
pub const TEXT_BYTES: u64 = 832_000_000;

/// Into how many files the text is gathered, so that a program of two threads or slots has something to balance.
const TEXT_FILES: u64 = 16;

/// Names of files that hold text a person wrote or reads.
const TEXT_SUFFIXES: &[&str] =
    &["rs", "go", "py", "md", "html", "toml", "c", "h", "txt", "js", "json", "java", "proto"];

/// Where such files lie, in the order in which they are taken; below `HOME` unless absolute.
const TEXT_ROOTS: &[&str] = &[
    ".cargo/registry/src",
    "go/pkg/mod",
    "/usr/local/go",
    ".pyenv/versions",
    ".rustup/toolchains",
    "/usr/share",
    "/usr/lib",
];

/// A file above this is generated data, not text.
const TEXT_FILE_MAX: u64 = 4 << 20;

/// Length of a record.
pub const RECORD_BYTES: usize = 100;

/// Length of its key, at its start.
pub const KEY_BYTES: usize = 10;

/// Into how many files the records are split.
const RECORD_FILES: usize = 8;

/// Gathers the text into `folder` unless that was done before, and gives the files.
///
/// # Errors
/// A file cannot be read or written, or the machine has too little text.
pub fn text(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.exists() {
        let partial = folder.with_extension("partial");
        fs::remove_dir_all(&partial).or_else(not_there)?;
        fs::create_dir_all(&partial)?;
        gather(&partial)?;
        fs::rename(&partial, folder)?;
    }
    files(folder)
}

/// Makes `bytes` of records in `folder` unless that was done before, and gives the files.
///
/// # Errors
/// A file cannot be written.
pub fn records(folder: &Path, bytes: u64) -> Result<Vec<PathBuf>> {
    if !folder.exists() {
        let partial = folder.with_extension("partial");
        fs::remove_dir_all(&partial).or_else(not_there)?;
        fs::create_dir_all(&partial)?;
        let mut random = Random(0);
        for file in 0..RECORD_FILES {
            let mut out = BufWriter::with_capacity(1 << 20, File::create(partial.join(format!("records-{file:02}")))?);
            for number in 0..bytes / (RECORD_BYTES * RECORD_FILES) as u64 {
                out.write_all(&record(&mut random, number))?;
            }
            out.flush()?;
        }
        fs::rename(&partial, folder)?;
    }
    files(folder)
}

/// A key of printable bytes, the record's number, filler, and a line end, so that it is a line of text too.
fn record(random: &mut Random, number: u64) -> [u8; RECORD_BYTES] {
    let mut record = [b'.'; RECORD_BYTES];
    for half in record[..KEY_BYTES].chunks_mut(5) {
        let bits = random.next();
        for (index, byte) in half.iter_mut().enumerate() {
            // 95 printable characters from 12 bits each: as good as uniform for a sort.
            *byte = b' ' + ((((bits >> (12 * index)) & 0xfff) * 95) >> 12) as u8;
        }
    }
    record[KEY_BYTES] = b' ';
    record[KEY_BYTES + 1..KEY_BYTES + 21].copy_from_slice(format!("{number:020}").as_bytes());
    record[RECORD_BYTES - 1] = b'\n';
    record
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// White space that programs do not agree on: to some a word ends at it, to others not.
fn is_foreign_space(c: char) -> bool {
    c.is_whitespace() && !c.is_ascii_whitespace()
}

/// Copies texts into files of equal size. Only UTF-8: programs must not differ in what they make of other bytes.
fn gather(folder: &Path) -> Result<()> {
    let home = std::env::var_os("HOME").context("find text: HOME is not set")?;
    let mut written = 0;
    let mut file = 0;
    let mut out = create(folder, file)?;
    // Toolchains and package versions share files; each content is taken once.
    let mut seen = BTreeSet::new();
    for root in TEXT_ROOTS {
        let root = Path::new(&home).join(root);
        for path in texts_below(&root)? {
            let Ok(text) = fs::read_to_string(&path) else { continue };
            if text.is_empty() || text.contains(is_foreign_space) || !seen.insert(hash(text.as_bytes())) {
                continue;
            }
            out.write_all(text.as_bytes())?;
            written += text.len() as u64;
            if !text.ends_with('\n') {
                out.write_all(b"\n")?;
                written += 1;
            }
            if written >= TEXT_BYTES {
                return out.flush().context("write the text");
            }
            if written >= (file + 1) * TEXT_BYTES / TEXT_FILES {
                file += 1;
                out.flush()?;
                out = create(folder, file)?;
            }
        }
    }
    ensure!(written >= TEXT_BYTES, "this machine has {written} bytes of text, {TEXT_BYTES} are wanted");
    Ok(())
}

fn create(folder: &Path, file: u64) -> Result<BufWriter<File>> {
    Ok(BufWriter::with_capacity(1 << 20, File::create(folder.join(format!("text-{file:02}.txt")))?))
}

/// Files of text below a folder, in the order of their paths.
fn texts_below(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let entry = entry?;
            let kind = entry.file_type()?;
            let path = entry.path();
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file()
                && path.extension().is_some_and(|suffix| TEXT_SUFFIXES.iter().any(|text| suffix == *text))
                && entry.metadata()?.len() <= TEXT_FILE_MAX
            {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn hash(bytes: &[u8]) -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let mut hasher = foldhash::quality::FixedState::default().build_hasher();
    hasher.write(bytes);
    hasher.finish()
}

/// The files of a folder of data, sorted.
///
/// # Errors
/// The folder cannot be listed.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

fn not_there(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_a_printable_line_of_its_length() {
        let mut random = Random(0);
        let (first, second) = (record(&mut random, 0), record(&mut random, 1));
        assert!(first[..RECORD_BYTES - 1].iter().all(|byte| (b' '..0x7f).contains(byte)));
        assert_eq!(first[RECORD_BYTES - 1], b'\n');
        assert_ne!(first[..KEY_BYTES], second[..KEY_BYTES]);
    }
}
