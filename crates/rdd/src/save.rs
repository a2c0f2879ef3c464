//! How do rows become text files?
//!
//! Tasks stage files below the destination, and the driver publishes those of the accepted attempts, all at once and
//! exactly once, whatever dies in between.

use std::fmt::Display;
use std::io::Write;
use std::sync::Arc;

use flate2::write::GzEncoder;
use model::graph::Output;
use model::write::{StagedFile, WriteId, WriteMode, WriteReport, WriteTarget, published_name, staged_name};
use model::{Failure, FailureKind, PartitionId};
use object_store::ObjectStore;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use xxhash_rust::xxh3::xxh3_64;

use crate::chain::{Chain, Label};
use crate::codec::{BodyReader, BodyWriter};
use crate::compute::Task;
use crate::dataset::Rdd;
use crate::error::Error;
use crate::files::Compression;
use crate::shared::{join, store_failure};
use crate::stages::{Action, cut};

/// A file is closed and another begun at this size: a copy of a file is then one request on every store.
const FILE_BYTES: u64 = 1 << 30;

/// Text gathers to so many bytes before it is compressed or sent.
const CHUNK_BYTES: usize = 256 << 10;

/// How a dataset is saved as text. Made by [`Rdd::save`].
#[derive(Clone)]
#[must_use = "nothing is written before `text`"]
pub struct Save<T, C> {
    rdd: Rdd<T, C>,
    mode: WriteMode,
    compression: Compression,
}

impl<T: Display + 'static, C: Chain<Item = T>> Save<T, C> {
    /// What happens to what is there already. By default the write fails.
    pub fn mode(self, mode: WriteMode) -> Self {
        Self { mode, ..self }
    }

    /// How files are compressed: not at all by default.
    pub fn compression(self, compression: Compression) -> Self {
        Self { compression, ..self }
    }

    /// Writes the rows, a line each, as files in the folder `destination`: a path of this machine or a URL of any object
    /// store. They appear exactly once and all at once, with `_SUCCESS` last.
    ///
    /// # Errors
    /// When the job does not succeed, the destination exists ([`WriteMode::ErrorIfExists`]), or it cannot be written.
    #[track_caller]
    pub fn text(self, destination: &str) -> Result<WriteReport, Error> {
        self.write(destination, Label::here("save_as_text_file"))
    }

    fn write(self, destination: &str, label: Label) -> Result<WriteReport, Error> {
        if matches!(self.compression, Compression::Bzip2) {
            return Err(Error::Invalid(format!("{label}: files are written as gzip, zstd or plain text")));
        }
        let context = self.rdd.context();
        let destination = url_of(destination)?;
        let partitions = self.rdd.partitions();
        // The write is named in the stage's body, so its job must be known before it.
        let job = context.runner().ids().job();
        let write = WriteId { app: context.runner().app(), epoch: context.runner().epoch(), job };
        let action = SaveText { destination: destination.clone(), write, compression: self.compression };
        let stages = cut(context, self.rdd.chain().clone(), action, label, Output::Write)?;
        let job = context.job_with_id(job, label, stages, (0..partitions).map(PartitionId).collect());
        let target = WriteTarget { destination, mode: self.mode, write };
        context.write(job, target)
    }
}

/// The URL of a folder that may be given as a path of this machine.
pub(crate) fn url_of(destination: &str) -> Result<String, Error> {
    if destination.contains("://") {
        return Ok(destination.to_owned());
    }
    let path = std::path::absolute(destination).ok();
    let url = path.and_then(|path| url::Url::from_file_path(path).ok());
    url.map(String::from).ok_or_else(|| Error::Invalid(format!("write to `{destination}`: it is no path and no URL")))
}

/// Writes lines into staged files.
#[derive(Clone, Serialize, Deserialize)]
struct SaveText {
    destination: String,
    write: WriteId,
    compression: Compression,
}

impl<T: Display + 'static> Action<T> for SaveText {
    type Output = ();

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        body.value(self)
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        body.value()
    }

    fn run<I: Iterator<Item = T>>(&self, task: &Task, _: u32, mut rows: I) -> Result<(), Error> {
        let (store, root) = shuffle::store::open(&self.destination)?;
        let mut number = 0;
        let mut next = rows.next();
        // A partition without rows gives one empty file, as in Spark.
        loop {
            let mut file = StageFile::create(self, task, &store, &root, number)?;
            while let Some(row) = next.take() {
                file.line(&row)?;
                next = rows.next();
                if file.bytes >= FILE_BYTES {
                    break;
                }
            }
            // Looked for before the file is complete: rows that ended early are not a file.
            task.check()?;
            task.stage_file(file.finish()?);
            number += 1;
            if next.is_none() {
                return Ok(());
            }
        }
    }
}

/// What compresses text on its way out.
enum Encoder {
    Plain(Vec<u8>),
    Gzip(GzEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Encoder {
    fn new(compression: Compression) -> std::io::Result<Self> {
        Ok(match compression {
            Compression::None | Compression::Bzip2 => Self::Plain(Vec::new()),
            Compression::Gzip => Self::Gzip(GzEncoder::new(Vec::new(), flate2::Compression::default())),
            Compression::Zstd => {
                Self::Zstd(zstd::stream::write::Encoder::new(Vec::new(), zstd::DEFAULT_COMPRESSION_LEVEL)?)
            }
        })
    }

    fn write(&mut self, text: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Plain(out) => Write::write_all(out, text),
            Self::Gzip(out) => Write::write_all(out, text),
            Self::Zstd(out) => Write::write_all(out, text),
        }
    }

    /// What is ready to be sent.
    fn ready(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Plain(out) => out,
            Self::Gzip(out) => out.get_mut(),
            Self::Zstd(out) => out.get_mut(),
        }
    }

    fn finish(self) -> std::io::Result<Vec<u8>> {
        match self {
            Self::Plain(out) => Ok(out),
            Self::Gzip(out) => out.finish(),
            Self::Zstd(out) => out.finish(),
        }
    }
}

/// A file that a task stages. Dropped before it is finished, it leaves nothing that anybody reads.
struct StageFile<'a> {
    save: &'a SaveText,
    task: &'a Task,
    path: Path,
    number: u32,
    upload: BufWriter,
    encoder: Encoder,
    text: Vec<u8>,
    rows: u64,
    bytes: u64,
    fingerprint: u64,
}

impl<'a> StageFile<'a> {
    fn create(
        save: &'a SaveText,
        task: &'a Task,
        store: &Arc<dyn ObjectStore>,
        root: &Path,
        number: u32,
    ) -> Result<Self, Error> {
        let path = join(root, &staged_name(save.write, &task.env.attempt, number));
        let upload = BufWriter::new(Arc::clone(store), path.clone());
        let encoder = Encoder::new(save.compression).map_err(|error| unwritten(&path, &error))?;
        Ok(Self { save, task, path, number, upload, encoder, text: Vec::new(), rows: 0, bytes: 0, fingerprint: 0 })
    }

    fn line(&mut self, row: &impl Display) -> Result<(), Error> {
        let start = self.text.len();
        writeln!(self.text, "{row}").map_err(|error| unwritten(&self.path, &error))?;
        self.rows += 1;
        self.fingerprint = self.fingerprint.wrapping_add(xxh3_64(&self.text[start..self.text.len() - 1]));
        if self.text.len() >= CHUNK_BYTES { self.send() } else { Ok(()) }
    }

    fn send(&mut self) -> Result<(), Error> {
        let Self { task, path, upload, encoder, text, bytes, .. } = self;
        encoder.write(text).map_err(|error| unwritten(path, &error))?;
        text.clear();
        let ready = encoder.ready();
        task.wait(upload.write_all(ready))?.map_err(|error| unwritten(path, &error))?;
        *bytes += ready.len() as u64;
        ready.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<StagedFile, Error> {
        self.send()?;
        let Self { save, task, path, number, mut upload, encoder, rows, mut bytes, fingerprint, .. } = self;
        let last = encoder.finish().map_err(|error| unwritten(&path, &error))?;
        bytes += last.len() as u64;
        let closed = async {
            upload.write_all(&last).await?;
            upload.shutdown().await
        };
        task.wait(closed)?.map_err(|error| unwritten(&path, &error))?;
        task.count(|metrics| {
            metrics.output_rows += rows;
            metrics.output_bytes += bytes;
        });
        let extension = match save.compression {
            Compression::None | Compression::Bzip2 => "",
            Compression::Gzip => "gz",
            Compression::Zstd => "zst",
        };
        Ok(StagedFile {
            staged: staged_name(save.write, &task.env.attempt, number),
            published: published_name(save.write, "", task.partition(), number, extension),
            bytes,
            rows,
            fingerprint,
        })
    }
}

/// What it means that a file could not be written.
fn unwritten(path: &Path, error: &std::io::Error) -> Error {
    let what = format!("write `{path}`");
    match error.get_ref().and_then(|inner| inner.downcast_ref::<object_store::Error>()) {
        Some(store) => store_failure(what, store).into(),
        None => Failure::new(FailureKind::StoreUnavailable, what).caused_by(error.to_string()).into(),
    }
}

impl<T: Display + 'static, C: Chain<Item = T>> Rdd<T, C> {
    /// Writes the rows, a line each, as text files in the folder `destination`, which must not exist: a path of this
    /// machine or a URL of any object store. They appear exactly once and all at once.
    ///
    /// # Errors
    /// When the job does not succeed, the destination exists, or it cannot be written.
    ///
    /// # Examples
    /// ```no_run
    /// # fn example(ctx: &rdd::RddContext) -> Result<(), rdd::Error> {
    /// ctx.range(0..1_000).save_as_text_file("s3://results/numbers")?;
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn save_as_text_file(&self, destination: &str) -> Result<WriteReport, Error> {
        self.save().write(destination, Label::here("save_as_text_file"))
    }

    /// Writes the rows with choices: another mode, compressed files.
    ///
    /// # Examples
    /// ```no_run
    /// # fn example(ctx: &rdd::RddContext) -> Result<(), rdd::Error> {
    /// use rdd::Compression;
    /// ctx.range(0..1_000).save().compression(Compression::Gzip).text("s3://results/numbers")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn save(&self) -> Save<T, C> {
        Save { rdd: self.clone(), mode: WriteMode::ErrorIfExists, compression: Compression::None }
    }
}
