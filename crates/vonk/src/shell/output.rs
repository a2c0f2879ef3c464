//! Where do results go?
//!
//! To stdout, a file, or a pager where the result is taller than the screen. Nothing else goes there.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

/// Lines at the bottom of the screen that are the shell's: row count and prompt.
const LINES_KEPT: usize = 3;

/// The pager where nobody has named one.
pub(crate) const PAGER: &str = "if command -v less >/dev/null; then exec less; else exec cat; fi";

/// How `less` is asked to behave where nobody has said: colours, no wrapping, and the text stays on the screen.
const LESS: &str = "export LESS=\"${LESS-FRSX}\"; ";

/// Why results cannot go somewhere else.
#[derive(Debug, thiserror::Error)]
#[error("write results to {}", path.display())]
pub(crate) struct OpenError {
    path: PathBuf,
    source: io::Error,
}

/// Where results go from now on.
pub(crate) enum Output {
    /// To whoever started the shell.
    Stdout,
    /// Into a file that results are added to until there is another.
    File(BufWriter<File>),
}

impl Output {
    /// A file, empty at first.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn file(path: &Path) -> Result<Self, OpenError> {
        let file = File::create(path).map_err(|source| OpenError { path: path.to_owned(), source })?;
        Ok(Self::File(BufWriter::new(file)))
    }

    /// Whether a person sees it at once.
    pub(crate) fn is_screen(&self) -> bool {
        matches!(self, Self::Stdout) && io::stdout().is_terminal()
    }

    /// What takes one result. With `pager`, what does not fit on the screen goes to it.
    pub(crate) fn begin(&mut self, pager: Option<&str>) -> Sink<'_> {
        let screen = self.is_screen();
        match self {
            Self::File(file) => Sink::File(file),
            Self::Stdout => match (pager, size()) {
                (Some(pager), Some((_, height))) if screen => Sink::Screen(Screen {
                    pager: pager.to_owned(),
                    kept: Vec::new(),
                    lines: 0,
                    height: height.saturating_sub(LINES_KEPT),
                    child: None,
                }),
                _ => Sink::Stdout(BufWriter::new(io::stdout())),
            },
        }
    }
}

/// Columns and lines of the screen that stdout is.
pub(crate) fn size() -> Option<(usize, usize)> {
    terminal_size::terminal_size_of(io::stdout()).map(|(width, height)| (width.0.into(), height.0.into()))
}

/// Takes one result.
pub(crate) enum Sink<'a> {
    Stdout(BufWriter<io::Stdout>),
    File(&'a mut BufWriter<File>),
    Screen(Screen),
}

/// Keeps lines until they fill the screen, and then starts the pager.
pub(crate) struct Screen {
    pager: String,
    kept: Vec<u8>,
    lines: usize,
    height: usize,
    child: Option<(Child, ChildStdin)>,
}

impl Sink<'_> {
    /// Whether a pager has it.
    pub(crate) fn is_read(&self) -> bool {
        matches!(self, Self::Screen(Screen { child: Some(_), .. }))
    }

    /// Sends out what is kept, and waits for the person at the pager.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn finish(self) -> io::Result<()> {
        match self {
            Self::Stdout(mut out) => out.flush(),
            Self::File(out) => out.flush(),
            Self::Screen(mut screen) => match screen.child.take() {
                None => {
                    let mut out = io::stdout().lock();
                    out.write_all(&screen.kept)?;
                    out.flush()
                }
                Some((mut child, input)) => {
                    drop(input);
                    child.wait().map(drop)
                }
            },
        }
    }
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(out) => out.write(bytes),
            Self::File(out) => out.write(bytes),
            Self::Screen(screen) => screen.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(out) => out.flush(),
            Self::File(out) => out.flush(),
            Self::Screen(Screen { child: Some((_, input)), .. }) => input.flush(),
            // What may yet fit on the screen waits.
            Self::Screen(Screen { child: None, .. }) => Ok(()),
        }
    }
}

impl Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some((_, input)) = &mut self.child {
            return input.write(bytes);
        }
        self.lines += bytes.iter().filter(|byte| **byte == b'\n').count();
        self.kept.extend_from_slice(bytes);
        if self.lines > self.height {
            let mut command = Command::new("sh");
            command.arg("-c").arg(format!("{LESS}{}", self.pager)).stdin(Stdio::piped());
            let mut child = command.spawn()?;
            let mut input = child.stdin.take().ok_or_else(|| io::Error::other("the pager takes no input"))?;
            let kept = std::mem::take(&mut self.kept);
            let written = input.write_all(&kept);
            self.child = Some((child, input));
            written?;
        }
        Ok(bytes.len())
    }
}

impl Drop for Screen {
    /// A pager whose result was left half way is waited for all the same: it has the terminal.
    fn drop(&mut self) {
        if let Some((mut child, input)) = self.child.take() {
            drop(input);
            let _ = child.wait();
        }
    }
}
