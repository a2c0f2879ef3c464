//! How do files become datasets?

use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use model::runner::JobError;
use model::shuffle::ReadRange;
use model::{Failure, FailureKind};

use crate::chain::{Chain, Label, Lineage};
use crate::codec::{BodyReader, BodyWriter, Data, InputReader, InputWriter};
use crate::compute::Task;
use crate::context::RddContext;
use crate::dataset::Rdd;
use crate::error::Error;
use crate::files::{self, File, SPLIT_BYTES, Split, list, pack_lines, pack_whole};
use crate::reading::{TextReader, read_whole, replaced_warning};
use crate::text::{Str, repair};

/// Lines between two looks at whether the task is to stop.
const LINES_PER_LOOK: u32 = 1 << 14;

/// The lines of text files.
#[derive(Clone)]
pub struct TextFiles {
    partitions: Arc<[Vec<Split>]>,
    label: Label,
}

impl Chain for TextFiles {
    type Item = Str;

    fn partitions(&self) -> u32 {
        self.partitions.len() as u32
    }

    fn encode(&self, _: &mut BodyWriter) -> Result<(), Error> {
        Ok(())
    }

    fn decode(_: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self { partitions: Arc::new([]), label: Label::remote("text_file") })
    }

    fn write_input(&self, partition: u32, input: &mut InputWriter) -> Result<(), Error> {
        input.value(&self.partitions[partition as usize])
    }

    fn reads(&self, _: u32, _: &mut Vec<ReadRange>) {}

    fn lineage(&self, lineage: &mut Lineage) {
        lineage.operation(self.label, self.partitions());
    }

    fn compute<'a>(
        &'a self,
        task: &'a Task,
        _: u32,
        input: &mut InputReader,
    ) -> Result<impl Iterator<Item = Str> + use<'a>, Error> {
        let reader = TextReader::new(input.value()?, task.env.io.clone());
        Ok(Lines { task, reader, lines: 0, until_look: LINES_PER_LOOK })
    }
}

/// Lines, until the end, an error, or the end of the task. What was read is counted when it is dropped.
struct Lines<'a> {
    task: &'a Task,
    reader: TextReader,
    lines: u64,
    until_look: u32,
}

impl Iterator for Lines<'_> {
    type Item = Str;

    #[inline]
    fn next(&mut self) -> Option<Str> {
        self.until_look -= 1;
        if self.until_look == 0 {
            self.until_look = LINES_PER_LOOK;
            self.lines += u64::from(LINES_PER_LOOK);
            if self.task.ended() {
                return None;
            }
        }
        self.reader.next_line().unwrap_or_else(|error| {
            self.task.fail(error.into_failure());
            None
        })
    }
}

impl Drop for Lines<'_> {
    fn drop(&mut self) {
        let lines = self.lines + u64::from(LINES_PER_LOOK - self.until_look);
        self.task.count(|metrics| {
            metrics.input_rows += lines;
            metrics.input_bytes += self.reader.bytes();
        });
        if let Some(warning) = self.reader.warning() {
            self.task.warn(warning);
        }
    }
}

/// What a file holds, as one value.
pub trait Content: Data {
    /// The operation that gives it.
    const OPERATION: &'static str;

    /// Whether a file that is compressed is decompressed.
    const DECOMPRESSED: bool;

    /// The value of a file's bytes, and how many of their sequences were replaced.
    fn of(bytes: Vec<u8>) -> (Self, u64);
}

impl Content for Str {
    const OPERATION: &'static str = "whole_text_files";
    const DECOMPRESSED: bool = true;

    fn of(bytes: Vec<u8>) -> (Self, u64) {
        match String::from_utf8(bytes) {
            Ok(text) => (text.into(), 0),
            Err(error) => {
                let (text, replaced) = repair(error.as_bytes());
                (text.into(), replaced)
            }
        }
    }
}

impl Content for Bytes {
    const OPERATION: &'static str = "binary_files";
    const DECOMPRESSED: bool = false;

    fn of(bytes: Vec<u8>) -> (Self, u64) {
        (bytes.into(), 0)
    }
}

/// Files, each as one row: its name and its content.
pub struct WholeFiles<T> {
    partitions: Arc<[Vec<File>]>,
    label: Label,
    content: PhantomData<fn() -> T>,
}

impl<T> Clone for WholeFiles<T> {
    fn clone(&self) -> Self {
        Self { partitions: Arc::clone(&self.partitions), label: self.label, content: PhantomData }
    }
}

impl<T: Content> Chain for WholeFiles<T> {
    type Item = (Str, T);

    fn partitions(&self) -> u32 {
        self.partitions.len() as u32
    }

    fn encode(&self, _: &mut BodyWriter) -> Result<(), Error> {
        Ok(())
    }

    fn decode(_: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self { partitions: Arc::new([]), label: Label::remote(T::OPERATION), content: PhantomData })
    }

    fn write_input(&self, partition: u32, input: &mut InputWriter) -> Result<(), Error> {
        input.value(&self.partitions[partition as usize])
    }

    fn reads(&self, _: u32, _: &mut Vec<ReadRange>) {}

    fn lineage(&self, lineage: &mut Lineage) {
        lineage.operation(self.label, self.partitions());
    }

    fn compute<'a>(
        &'a self,
        task: &'a Task,
        _: u32,
        input: &mut InputReader,
    ) -> Result<impl Iterator<Item = (Str, T)> + use<'a, T>, Error> {
        let files: Vec<File> = input.value()?;
        Ok(files.into_iter().map_while(move |file| {
            if task.ended() {
                return None;
            }
            let bytes = read_whole(&file, T::DECOMPRESSED, &task.env.io)
                .map_err(|error| task.fail(error.into_failure()))
                .ok()?;
            task.count(|metrics| {
                metrics.input_rows += 1;
                metrics.input_bytes += bytes.len() as u64;
            });
            let name = file.location.to_string();
            let (content, replaced) = T::of(bytes);
            if replaced > 0 {
                task.warn(replaced_warning(&name, replaced));
            }
            Some((Str::from(name), content))
        }))
    }
}

fn refused(error: files::Error) -> Error {
    error.into_failure().into()
}

/// Files that are written so fast that no list finds the same writes before and after it were listed so often.
const LISTS: usize = 10;

impl RddContext {
    /// The files that `paths` names: all of a write's, or none.
    fn committed(&self, paths: &str) -> Result<Vec<File>, Error> {
        let mut before = None;
        for _ in 0..LISTS {
            let mut logs = BTreeSet::new();
            let files = list(paths, self.io(), &mut logs).map_err(refused);
            let settled = |log: String| Ok((self.io().block_on(self.runner().settled(&log))?, log));
            let now = logs.into_iter().map(settled).collect::<Result<Vec<_>, JobError>>()?;
            if now.is_empty() || before.as_ref() == Some(&now) {
                return files;
            }
            before = Some(now);
        }
        let busy = format!("read `{paths}`: others write there all the time");
        Err(Failure::new(FailureKind::Commit, busy).into())
    }

    /// The lines of text files, without their ends (`\n`, `\r\n` or `\r`).
    ///
    /// `paths` names a file, a folder (then the files in it), a pattern (`*`, `?`, `[a-z]`, `{a,b}`, `**`), or several of
    /// these between commas; each is a path of this machine or a URL of any object store. A folder within a folder is
    /// refused, as in Spark: the pattern `folder/**/*` reads all that is below. Files and folders whose name begins with
    /// `_` or `.` are skipped unless they are named themselves. Files that end in `.gz`, `.bz2` or `.zst` are decompressed.
    /// Bytes that are not UTF-8 become U+FFFD, and a warning counts them.
    ///
    /// Long files are cut into partitions of about 32 MiB, at line ends, and small ones share a partition; so the same
    /// files make the same partitions. A compressed file is never cut.
    ///
    /// # Errors
    /// When there is no such file, no file matches, or a folder cannot be listed. A file that cannot be read or is damaged
    /// fails the job that reads it.
    ///
    /// # Examples
    /// ```no_run
    /// # fn example(ctx: &rdd::RddContext) -> Result<(), rdd::Error> {
    /// let words = ctx.text_file("/var/log/*.log,s3://logs/2026/")?.flat_map(|line| line.split_whitespace());
    /// println!("{} words", words.count()?);
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn text_file(&self, paths: &str) -> Result<Rdd<Str, TextFiles>, Error> {
        self.text_files_labelled(paths, self.default_parallelism(), Label::here("text_file"))
    }

    /// The lines of text files, in so many partitions at least, if there are bytes enough. See
    /// [`text_file`](Self::text_file).
    ///
    /// # Errors
    /// As `text_file`.
    #[track_caller]
    pub fn text_file_into(&self, paths: &str, min_partitions: u32) -> Result<Rdd<Str, TextFiles>, Error> {
        self.text_files_labelled(paths, min_partitions, Label::here("text_file"))
    }

    fn text_files_labelled(
        &self,
        paths: &str,
        min_partitions: u32,
        label: Label,
    ) -> Result<Rdd<Str, TextFiles>, Error> {
        let files = self.committed(paths)?;
        let partitions = pack_lines(files, min_partitions, SPLIT_BYTES).into();
        Ok(Rdd::new(self, TextFiles { partitions, label }))
    }

    /// Files as rows: the name of each and its whole text. For many small files; each must fit into memory. `paths` is
    /// read as [`text_file`](Self::text_file) does.
    ///
    /// # Errors
    /// As `text_file`.
    #[track_caller]
    pub fn whole_text_files(&self, paths: &str) -> Result<Rdd<(Str, Str), WholeFiles<Str>>, Error> {
        self.whole_files(paths, Label::here(Str::OPERATION))
    }

    /// Files as rows: the name of each and its bytes as they are, compressed or not. Each must fit into memory. `paths` is
    /// read as [`text_file`](Self::text_file) does.
    ///
    /// # Errors
    /// As `text_file`.
    #[track_caller]
    pub fn binary_files(&self, paths: &str) -> Result<Rdd<(Str, Bytes), WholeFiles<Bytes>>, Error> {
        self.whole_files(paths, Label::here(Bytes::OPERATION))
    }

    fn whole_files<T: Content>(&self, paths: &str, label: Label) -> Result<Rdd<(Str, T), WholeFiles<T>>, Error> {
        let files = self.committed(paths)?;
        let partitions = pack_whole(files, self.default_parallelism(), SPLIT_BYTES).into();
        Ok(Rdd::new(self, WholeFiles { partitions, label, content: PhantomData }))
    }
}
