//! What is the program `vonk` of the image that these tests give to nodes? All commands but those about SQL.

fn main() -> std::process::ExitCode {
    vonk::main(vonk::command)
}
