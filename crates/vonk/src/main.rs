//! What does the program `vonk` do? What [`vonk::command`] says.

use std::process::ExitCode;

fn main() -> ExitCode {
    vonk::main(vonk::command)
}
