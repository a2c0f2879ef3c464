//! What does the program `vonk` do? All of it, as `crates/vonk/src/main.rs` has it, where tests find it.

fn main() -> std::process::ExitCode {
    vonk::main(vonk::command)
}
