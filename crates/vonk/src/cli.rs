//! Which command was meant?

use clap::{Parser, Subcommand};

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
    Sql(crate::shell::Sql),
}

/// All of the program `vonk`: reads the command line and does what it says.
///
/// # Errors
/// The command fails. A command line that cannot be read ends the process with exit code 2.
pub fn command() -> Result<(), anyhow::Error> {
    match Cli::parse().command {
        Command::Sql(sql) => sql.run(),
    }
}
