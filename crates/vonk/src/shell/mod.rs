//! What is `vonk sql`?
//!
//! A shell for SQL: statements end with a semicolon, lines that begin with a backslash are commands. Results go to stdout,
//! everything else to stderr. `statements` says where statements end, `run` carries them out, `format` makes text of rows,
//! `output` takes it where it goes; `editor` and `complete` are for people who type.

mod commands;
mod complete;
mod editor;
mod format;
mod output;
mod run;
mod source;
mod statements;
mod threads;

use std::io::{self, BufReader, IsTerminal};
use std::path::PathBuf;

pub use format::Format;
use run::{SCREEN_ROWS, Settings, Shell, Stop};

use crate::config::Config;
use crate::context::CtrlC;
use crate::{Args, Context};

/// Flags of `vonk sql`.
#[derive(Debug, Clone, clap::Args)]
pub struct Sql {
    /// Run these statements; may be repeated
    #[arg(short = 'e', long = "execute", value_name = "SQL")]
    execute: Vec<String>,

    /// Run the statements and commands of a file; may be repeated
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    file: Vec<PathBuf>,

    /// How results look
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    format: Format,

    /// Do not name the columns
    #[arg(long)]
    no_header: bool,

    /// Do not tell rows and time after each result
    #[arg(short, long)]
    quiet: bool,

    /// What shows results that are taller than the screen: a program, or off
    #[arg(long, value_name = "PROGRAM", env = "PAGER", hide_env_values = true)]
    pager: Option<String>,

    #[command(flatten)]
    vonk: Args,
}

impl Sql {
    /// Runs the shell until everything is done or the person leaves.
    ///
    /// # Errors
    /// The application does not start; without a person, also the first statement or command that fails.
    pub fn run(self) -> Result<(), anyhow::Error> {
        let person = self.execute.is_empty() && self.file.is_empty() && io::stdin().is_terminal();
        let mut config = Config::load()?;
        self.vonk.apply(&mut config)?;
        let mut builder = Context::builder().args(&self.vonk);
        if crate::config::APP_NAME.value(config.values()).is_empty() {
            builder = builder.name("vonk sql");
        }
        if person {
            builder = builder.ctrl_c(CtrlC::LeftToProgram);
        }
        let ctx = builder.build()?;
        // Files are tables by their names in quotes.
        let session = ctx.session()?.clone().enable_url_table();
        // So that errors know their place in the statement.
        session.state_ref().write().config_mut().options_mut().sql_parser.collect_spans = true;
        let width = session.copied_config().target_partitions();
        let pager = match self.pager {
            Some(program) if ["off", ""].contains(&program.trim()) => None,
            Some(program) => Some(program),
            None => Some(output::PAGER.to_owned()),
        };
        let mut shell = Shell {
            ctx: &ctx,
            session,
            settings: Settings {
                format: self.format,
                header: !self.no_header,
                timing: !self.quiet,
                pager: pager.filter(|_| person),
                rows: person.then_some(SCREEN_ROWS),
            },
            output: output::Output::Stdout,
            config,
            interactive: person,
            threads: threads::Threads::new(width),
            depth: 0,
        };
        let done = if person {
            let master = crate::config::MASTER.value(shell.config.values());
            shell.say(&format!("vonk {} on {master}; \\? shows commands, Ctrl-D leaves", env!("CARGO_PKG_VERSION")));
            editor::interactive(&mut shell, crate::config::state_folder().map(|folder| folder.join("sql_history")))
        } else {
            shell.all(&self.file, &self.execute)
        };
        match done {
            // Who reads no more has seen enough.
            Ok(()) | Err(Stop::Quit | Stop::Unread | Stop::Interrupted) => Ok(()),
            Err(Stop::Failed(error)) => Err(error),
        }
    }
}

impl Shell<'_> {
    /// Runs files and statements, or stdin if there are none.
    fn all(&mut self, files: &[PathBuf], statements: &[String]) -> Result<(), Stop> {
        for file in files {
            self.file(file)?;
        }
        for statement in statements {
            self.script(statement.as_bytes(), None)?;
        }
        if files.is_empty() && statements.is_empty() {
            self.script(BufReader::new(io::stdin()), None)?;
        }
        Ok(())
    }
}
