//! Where do logs go?

use std::io;

use driver::terminal::Terminal;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// What is logged unless `VONK_LOG` says otherwise: Vonk's own from info on, libraries' from warn on.
const DEFAULT_FILTER: &str = "warn,vonk=info,driver=info,executor=info,scheduler=info,shuffle=info,rdd=info";

/// Sends log lines to stderr, past the live lines of `terminal`. Does nothing if the program has a subscriber already.
///
/// `filter` is the setting `log`; a filter that cannot be read is reported and the default used.
pub(crate) fn init(filter: &str, terminal: Option<&Terminal>) {
    let filter = if filter.is_empty() { DEFAULT_FILTER } else { filter };
    let (filter, problem) = match EnvFilter::try_new(filter) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(DEFAULT_FILTER), Some(error)),
    };
    let stderr_is_terminal = io::IsTerminal::is_terminal(&io::stderr());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_ansi(stderr_is_terminal);
    // A program that has set its own subscriber keeps it.
    let _ = match terminal {
        Some(terminal) => builder.with_writer(Past(terminal.clone())).try_init(),
        None => builder.with_writer(io::stderr).try_init(),
    };
    if let Some(error) = problem {
        tracing::warn!("cannot read the log filter: {error}");
    }
}

/// Writes each line while the live lines are off the screen.
#[derive(Clone)]
struct Past(Terminal);

impl io::Write for Past {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.print(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Past {
    type Writer = Self;

    fn make_writer(&'a self) -> Self::Writer {
        self.clone()
    }
}
