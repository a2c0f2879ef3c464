//! Which command was meant?

use std::io;
use std::path::PathBuf;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};

/// A distributed data engine: RDD programs, DataFrames and SQL.
#[derive(Parser)]
#[command(name = "vonk", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run SQL: a shell for people, or statements of files, of the command line, of stdin
    ///
    /// Without -e and -f, statements come from stdin: from a person if it is a terminal. Everything runs in one session, first
    /// files, then statements, and stops at the first error.
    #[cfg(feature = "sql")]
    Sql(crate::shell::Sql),
    #[cfg(feature = "k8s")]
    #[command(flatten)]
    Kubernetes(crate::kubernetes::commands::Command),
    /// Print what a shell needs to complete commands and flags
    ///
    /// For bash: source <(vonk completions bash)
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write a manual page for each command
    #[command(hide = true)]
    Man {
        /// The folder in which they are written
        folder: PathBuf,
    },
}

/// All of the program `vonk`: reads the command line and does what it says.
///
/// # Errors
/// The command fails. A command line that cannot be read ends the process with exit code 2, and a command about Kubernetes
/// with the code of its answer.
pub fn command() -> Result<(), anyhow::Error> {
    match Cli::parse().command {
        #[cfg(feature = "sql")]
        Command::Sql(sql) => sql.run(),
        #[cfg(feature = "k8s")]
        Command::Kubernetes(command) => kubernetes(command),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "vonk", &mut io::stdout());
            Ok(())
        }
        Command::Man { folder } => {
            std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
            clap_mangen::generate_to(Cli::command(), &folder)
                .with_context(|| format!("write manual pages to {}", folder.display()))
        }
    }
}

/// The code of a command is its answer, and there are more of them than success and failure.
#[cfg(feature = "k8s")]
fn kubernetes(command: crate::kubernetes::commands::Command) -> Result<(), anyhow::Error> {
    let code = match command.run() {
        Ok(model::exit::DONE) => return Ok(()),
        Ok(code) => code,
        Err(error) => {
            eprintln!("{}", crate::report::report(&error));
            crate::kubernetes::commands::code_of(&error)
        }
    };
    std::process::exit(i32::from(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_well_formed() {
        Cli::command().debug_assert();
    }
}
