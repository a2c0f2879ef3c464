//! How does another program process the rows of a partition?

use std::fmt::Display;
use std::io::{Seek, SeekFrom};
use std::process::Stdio;

use model::shuffle::ReadRange;
use model::{Failure, FailureKind};
use tokio::io::AsyncWriteExt;
use tokio::process::{ChildStdin, Command};

use crate::chain::{Chain, Label, Lineage};
use crate::codec::{BodyReader, BodyWriter, InputReader, InputWriter};
use crate::compute::Task;
use crate::dataset::Rdd;
use crate::error::Error;
use crate::text::{Lines, Str};

/// Lines gather to about so many bytes before the program gets them.
const PIPE_BYTES: usize = 64 << 10;

/// So much of what a failed program wrote to its standard error is repeated.
const STDERR_BYTES: usize = 2_000;

/// The lines that a program writes for the rows of each partition.
#[derive(Clone)]
pub struct Pipe<C> {
    parent: C,
    command: Vec<String>,
    label: Label,
}

impl<T: Display + 'static, C: Chain<Item = T>> Chain for Pipe<C> {
    type Item = Str;

    fn partitions(&self) -> u32 {
        self.parent.partitions()
    }

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        if self.command.is_empty() {
            return Err(Error::Invalid("pipe: no program is named".to_owned()));
        }
        self.parent.encode(body)?;
        body.value(&self.command)
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self { parent: C::decode(body)?, command: body.value()?, label: Label::remote("pipe") })
    }

    fn write_input(&self, partition: u32, input: &mut InputWriter) -> Result<(), Error> {
        self.parent.write_input(partition, input)
    }

    fn reads(&self, partition: u32, ranges: &mut Vec<ReadRange>) {
        self.parent.reads(partition, ranges);
    }

    fn lineage(&self, lineage: &mut Lineage) {
        lineage.operation(self.label, self.partitions());
        self.parent.lineage(lineage);
    }

    fn compute<'a>(
        &'a self,
        task: &'a Task,
        partition: u32,
        input: &mut InputReader,
    ) -> Result<impl Iterator<Item = Str> + use<'a, T, C>, Error> {
        let rows = self.parent.compute(task, partition, input)?;
        // What it writes goes to files at once: nobody waits for anybody, however much it is.
        let output = task.env.spill.create().map_err(Error::Spill)?;
        let errors = task.env.spill.create().map_err(Error::Spill)?;
        let duplicate = |file: &std::fs::File| file.try_clone().map(Stdio::from).map_err(Error::Spill);
        let (program, arguments) = self.command.split_first().ok_or(Error::CorruptBody("a pipe without a program"))?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(duplicate(&output)?).stderr(duplicate(&errors)?);
        let mut child = {
            let _entered = task.env.io.enter();
            command.kill_on_drop(true).spawn()
        }
        .map_err(|error| self.failed(partition, &error.to_string()))?;
        let mut stdin = child.stdin.take();
        let mut lines = String::new();
        for row in rows {
            use std::fmt::Write;
            writeln!(lines, "{row}").map_err(|_| self.failed(partition, "a row cannot be shown as text"))?;
            if lines.len() >= PIPE_BYTES {
                give(task, &mut stdin, &lines)?;
                lines.clear();
            }
        }
        give(task, &mut stdin, &lines)?;
        drop(stdin);
        task.check()?;
        let status = task.wait(child.wait())?.map_err(|error| self.failed(partition, &error.to_string()))?;
        if !status.success() {
            let said = start_of(errors).map_err(Error::Spill)?;
            return Err(self.failed(partition, &format!("{status}: {}", said.trim())));
        }
        let mut output = output;
        output.seek(SeekFrom::Start(0)).map_err(Error::Spill)?;
        let mut lines = Lines::new(output);
        Ok(std::iter::from_fn(move || {
            lines.next_line().unwrap_or_else(|error| {
                task.fail(Error::Spill(error));
                None
            })
        }))
    }
}

impl<C> Pipe<C> {
    fn failed(&self, partition: u32, why: &str) -> Error {
        let what = format!("pipe partition {partition} through `{}`", self.command.join(" "));
        let kind = FailureKind::UserCode { panicked: false, transient: false };
        Failure::new(kind, what).caused_by(why).into()
    }
}

/// Writes to a program that may have closed its input: what it leaves unread is not an error, as in a shell.
fn give(task: &Task, stdin: &mut Option<ChildStdin>, lines: &str) -> Result<(), Error> {
    if let Some(open) = stdin
        && task.wait(open.write_all(lines.as_bytes()))?.is_err()
    {
        *stdin = None;
    }
    Ok(())
}

fn start_of(mut file: std::fs::File) -> std::io::Result<String> {
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = vec![0; STDERR_BYTES];
    let read = crate::text::read_full(&mut file, &mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes[..read]).into_owned())
}

impl<T: Display + 'static, C: Chain<Item = T>> Rdd<T, C> {
    /// Starts a program for each partition, writes the rows to its standard input, a line each, and gives the lines of its
    /// standard output. `command` is the program and its arguments; no shell reads it. A program that fails, fails the job.
    ///
    /// # Examples
    /// ```no_run
    /// # fn example(ctx: &rdd::RddContext) -> Result<(), rdd::Error> {
    /// let long = ctx.range(0..100).pipe(["grep", "-x", ".."]);
    /// assert_eq!(long.count()?, 90);
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn pipe<S: Into<String>>(&self, command: impl IntoIterator<Item = S>) -> Rdd<Str, Pipe<C>> {
        let command = command.into_iter().map(Into::into).collect();
        Rdd::new(self.context(), Pipe { parent: self.chain().clone(), command, label: Label::here("pipe") })
    }
}
