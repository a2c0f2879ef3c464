//! Does it all work? Real programs, in one process and over executor processes, under faults and wrong input.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod answers;
mod explain;
mod faults;
mod files;
mod frames;
mod harness;
mod history;
mod input;
mod random_queries;
mod shell;
mod sqllogic;
mod store_faults;
mod switches;
mod tpch;
mod works;
