//! How are a file's bytes brought to the thread that computes on them?
//!
//! Local files are read where they are needed: a copy from the page cache is as fast as memory. Objects are read in
//! pieces, one of which is under way while the one before is used.

use std::fs;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use bytes::{Buf, Bytes};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::files::{Compression, Error, File, Location, Split, open_store};
use crate::text::{Lines, Str};

/// How much of an object one request asks for: large enough that bandwidth, not latency, is what it takes.
const OBJECT_PIECE_BYTES: u64 = 8 << 20;

/// How much is asked for behind the end of a split, where the rest of one line is wanted.
const OBJECT_TAIL_BYTES: u64 = 64 << 10;

/// How many compressed bytes a decoder is given at a time.
const DECODER_BYTES: usize = 256 << 10;

/// The lines of several pieces of files, one after the other.
pub(crate) struct TextReader {
    splits: std::vec::IntoIter<Split>,
    current: Option<(File, Lines<Box<dyn Read + Send>>)>,
    io: Handle,
    bytes: u64,
    replaced: u64,
    first_replaced: Option<String>,
}

impl TextReader {
    pub(crate) fn new(splits: Vec<Split>, io: Handle) -> Self {
        Self { splits: splits.into_iter(), current: None, io, bytes: 0, replaced: 0, first_replaced: None }
    }

    /// The next line. After an error there is none.
    #[inline]
    pub(crate) fn next_line(&mut self) -> Result<Option<Str>, Error> {
        if let Some((_, lines)) = &mut self.current
            && let Some(line) = lines.next_in_piece()
        {
            return Ok(Some(line));
        }
        self.next_line_beyond()
    }

    /// Where a piece of a file ends, or a file.
    #[cold]
    fn next_line_beyond(&mut self) -> Result<Option<Str>, Error> {
        loop {
            if let Some((file, lines)) = &mut self.current {
                match lines.next_line() {
                    Ok(Some(line)) => return Ok(Some(line)),
                    Ok(None) => self.close(),
                    Err(source) => {
                        let error = read_error(file, source);
                        self.splits = Vec::new().into_iter();
                        self.current = None;
                        return Err(error);
                    }
                }
            }
            let Some(split) = self.splits.next() else { return Ok(None) };
            let from = Lines::<Box<dyn Read + Send>>::first_byte(split.start);
            let input = open(&split.file, from, split.end, &self.io)?;
            self.current = Some((split.file, Lines::of_split(input, split.start, split.end)));
        }
    }

    fn close(&mut self) {
        if let Some((file, lines)) = self.current.take() {
            self.bytes += lines.position();
            self.replaced += lines.replaced();
            if lines.replaced() > 0 && self.first_replaced.is_none() {
                self.first_replaced = Some(file.location.to_string());
            }
        }
    }

    /// How many bytes of text have been read.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What a person should hear of bytes that were not UTF-8.
    pub(crate) fn warning(&self) -> Option<String> {
        let file = self.first_replaced.as_deref()?;
        Some(replaced_warning(file, self.replaced))
    }
}

/// What a person should hear of a file whose bytes were not all UTF-8.
pub(crate) fn replaced_warning(file: &str, replaced: u64) -> String {
    format!("text that is not UTF-8: {replaced} sequences of bytes replaced by U+FFFD, first in `{file}`")
}

/// All bytes of a file, decompressed if its name says so and it is wanted.
pub(crate) fn read_whole(file: &File, decompress: bool, io: &Handle) -> Result<Vec<u8>, Error> {
    let plain = File { location: file.location.clone(), bytes: file.bytes };
    let mut content = Vec::with_capacity(usize::try_from(file.bytes).unwrap_or(0));
    let mut input = if decompress { open(file, 0, file.bytes, io)? } else { open_plain(&plain, 0, file.bytes, io)? };
    input.read_to_end(&mut content).map_err(|source| read_error(file, source))?;
    Ok(content)
}

/// A reader of a file from `from` on, to its end; what lies before `until` is wanted for sure.
fn open(file: &File, from: u64, until: u64, io: &Handle) -> Result<Box<dyn Read + Send>, Error> {
    let plain = |from| open_plain(file, from, until.min(file.bytes), io);
    let buffered = |from| plain(from).map(|input| BufReader::with_capacity(DECODER_BYTES, input));
    Ok(match file.compression() {
        Compression::None => plain(from)?,
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(buffered(from)?)),
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(buffered(from)?)),
        Compression::Zstd => {
            Box::new(zstd::Decoder::with_buffer(buffered(from)?).map_err(|source| read_error(file, source))?)
        }
    })
}

fn open_plain(file: &File, from: u64, until: u64, io: &Handle) -> Result<Box<dyn Read + Send>, Error> {
    match &file.location {
        Location::Local(path) => {
            let read = |source| read_error(file, source);
            let mut input = fs::File::open(path).map_err(read)?;
            if from > 0 {
                input.seek(SeekFrom::Start(from)).map_err(read)?;
            }
            Ok(Box::new(input))
        }
        Location::Object { root, key } => {
            let pieces = Pieces {
                store: open_store(root)?,
                path: Path::from(key.as_str()),
                io: io.clone(),
                next: from,
                until,
                length: file.bytes,
                under_way: JoinSet::new(),
                current: Bytes::new(),
            };
            Ok(Box::new(pieces))
        }
    }
}

/// Says what a failed read means: a store that failed, a file that cannot be read, bytes that are damaged.
fn read_error(file: &File, source: io::Error) -> Error {
    let path = file.location.to_string();
    let of_store = source.get_ref().is_some_and(|inner| inner.is::<object_store::Error>());
    if of_store {
        let inner = source.into_inner().and_then(|inner| inner.downcast::<object_store::Error>().ok());
        return match inner {
            Some(source) => Error::Store { path, source: *source },
            None => Error::Read { path, source: io::Error::other("the object store failed") },
        };
    }
    match file.compression() {
        compression @ (Compression::Gzip | Compression::Bzip2 | Compression::Zstd)
            if source.raw_os_error().is_none() =>
        {
            Error::Corrupt { path, compression, source }
        }
        _ => Error::Read { path, source },
    }
}

/// An object, read in ranges, one ahead.
struct Pieces {
    store: std::sync::Arc<dyn object_store::ObjectStore>,
    path: Path,
    io: Handle,
    next: u64,
    until: u64,
    length: u64,
    /// The piece that was asked for; at most one. Dropping it cancels the request.
    under_way: JoinSet<object_store::Result<Bytes>>,
    current: Bytes,
}

impl Pieces {
    fn ask(&mut self) {
        let size =
            if self.next < self.until { OBJECT_PIECE_BYTES.min(self.until - self.next) } else { OBJECT_TAIL_BYTES };
        let range = self.next..(self.next + size).min(self.length);
        if range.is_empty() {
            return;
        }
        self.next = range.end;
        let (store, path) = (self.store.clone(), self.path.clone());
        self.under_way.spawn_on(async move { store.get_range(&path, range).await }, &self.io);
    }

    /// The next piece; empty at the end.
    fn piece(&mut self) -> io::Result<Bytes> {
        if self.under_way.is_empty() {
            self.ask();
        }
        let Some(piece) = self.io.block_on(self.under_way.join_next()) else { return Ok(Bytes::new()) };
        // Beyond the end one piece is nearly always enough: nothing is asked ahead there.
        if self.next < self.until {
            self.ask();
        }
        piece.map_err(io::Error::other)?.map_err(io::Error::other)
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.current.is_empty() {
            self.current = self.piece()?;
        }
        let size = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..size]);
        Ok(size)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::Write;
    use std::path::Path as FilePath;

    use object_store::{ObjectStore, memory::InMemory};

    use super::*;
    use crate::files::{self, pack_lines};

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap()
    }

    fn text(name: &FilePath, min_partitions: u32) -> Result<Vec<String>, Error> {
        let runtime = runtime();
        let files = files::list(name.to_str().unwrap(), runtime.handle(), &mut BTreeSet::new())?;
        let mut lines = Vec::new();
        for group in pack_lines(files, min_partitions, 1 << 20) {
            let mut reader = TextReader::new(group, runtime.handle().clone());
            while let Some(line) = reader.next_line()? {
                lines.push(String::from(line));
            }
        }
        Ok(lines)
    }

    fn sample() -> Vec<String> {
        (0..20_000).map(|n| format!("line {n} {}", "x".repeat(n % 90))).collect()
    }

    #[test]
    fn every_compression_reads_back_and_damage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let plain = sample().join("\n").into_bytes();
        let (front, back) = plain.split_at(plain.len() / 2);
        let gz = |bytes: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        let mut bz = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bz.write_all(&plain).unwrap();
        let contents = [
            ("a.txt", plain.clone()),
            ("a.gz", [gz(front), gz(back)].concat()),
            ("a.bz2", bz.finish().unwrap()),
            ("a.zst", zstd::encode_all(&plain[..], 1).unwrap()),
        ];
        for (name, bytes) in contents {
            let path = folder.path().join(name);
            fs::write(&path, &bytes).unwrap();
            assert!(text(&path, 7).unwrap() == sample(), "{name}");
            if name != "a.txt" {
                fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
                assert!(matches!(text(&path, 7), Err(Error::Corrupt { .. })), "{name} cut short");
                let failure = text(&path, 7).unwrap_err().into_failure();
                assert_eq!(failure.kind, model::FailureKind::Query);
                assert!(failure.message.contains(name), "{failure}");
                fs::write(&path, "this is not compressed at all").unwrap();
                assert!(matches!(text(&path, 7), Err(Error::Corrupt { .. })), "{name} is text");
            }
        }
    }

    #[test]
    fn splits_of_one_file_give_each_line_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        fs::write(&path, sample().join("\r\n")).unwrap();
        for partitions in [1, 2, 3, 50] {
            assert!(text(&path, partitions).unwrap() == sample(), "{partitions} partitions");
        }
    }

    #[test]
    fn replaced_bytes_are_told_once() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), b"x\xffy\n").unwrap();
        fs::write(folder.path().join("b"), b"\xfe\xfe\n").unwrap();
        let runtime = runtime();
        let files = files::list(folder.path().to_str().unwrap(), runtime.handle(), &mut BTreeSet::new()).unwrap();
        let splits = pack_lines(files, 1, 1 << 20).concat();
        let mut reader = TextReader::new(splits, runtime.handle().clone());
        while reader.next_line().unwrap().is_some() {}
        let warning = reader.warning().unwrap();
        assert!(warning.contains("3 sequences") && warning.ends_with("/a`"), "{warning}");
        assert_eq!(reader.bytes(), 7);
    }

    #[test]
    fn an_object_is_read_in_pieces_from_anywhere() {
        let runtime = runtime();
        let store = std::sync::Arc::new(InMemory::new());
        let bytes: Vec<u8> = (0..20_000_000u32).map(|n| (n >> 8) as u8).collect();
        runtime.block_on(store.put(&Path::from("k"), bytes.clone().into())).unwrap();
        for (from, until) in [(0, 20_000_000), (9_000_001, 18_000_000), (0, 10)] {
            let mut pieces = Pieces {
                store: store.clone(),
                path: Path::from("k"),
                io: runtime.handle().clone(),
                next: from,
                until,
                length: bytes.len() as u64,
                under_way: JoinSet::new(),
                current: Bytes::new(),
            };
            let mut read = Vec::new();
            pieces.read_to_end(&mut read).unwrap();
            assert!(read == bytes[from as usize..], "from {from}");
        }
        let file = File { location: Location::Object { root: "memory://".into(), key: "none".into() }, bytes: 3 };
        let missing = io::Error::other(runtime.block_on(store.get(&Path::from("none"))).unwrap_err());
        assert_eq!(read_error(&file, missing).into_failure().kind, model::FailureKind::Query);
        assert!(runtime.block_on(store.head(&Path::from("k"))).is_ok());
        let _: &dyn ObjectStore = &*store;
    }
}
