//! Which names does a program need?
//!
//! [`main`] gives the process its role and reports errors, [`Context`] is an application, [`Rdd`] a dataset, and
//! [`Args`] the flags that every program has. Executors are processes of the same executable: that is how functions reach
//! them, and why the first line of a program's `main` is [`init`], or all of it is [`main()`].
//!
//! ```no_run
//! fn main() -> std::process::ExitCode {
//!     vonk::main(|| {
//!         let ctx = vonk::Context::builder().build()?;
//!         let words = ctx.text_file("README.md")?.flat_map(|line| line.split_whitespace());
//!         let counts = words.map(|word| (word, 1u64)).reduce_by_key(|a, b| a + b);
//!         for (word, count) in counts.top_by(10, |(_, count)| *count)? {
//!             println!("{count}\t{word}");
//!         }
//!         Ok(())
//!     })
//! }
//! ```

mod allocator;
mod args;
mod attached;
#[cfg(feature = "sql")]
mod bridge;
#[cfg(feature = "commands")]
mod cli;
#[cfg(feature = "sql")]
mod complaint;
pub mod config;
mod context;
mod ending;
#[cfg(feature = "sql")]
mod files;
#[cfg(feature = "sql")]
mod frames;
mod history;
mod init;
#[cfg(feature = "k8s")]
mod kubernetes;
mod master;
#[cfg(feature = "sql")]
mod queries;
mod report;
mod runners;
mod scratch;
#[cfg(feature = "sql")]
pub mod shell;
mod telemetry;

pub use args::Args;
pub use attached::{NotAttached, attached};
#[cfg(feature = "sql")]
pub use bridge::{FromBatches, ToDataFrame, ToRdd};
#[cfg(feature = "commands")]
pub use cli::command;
pub use context::{Builder, Context, CtrlC, StartError};
#[cfg(feature = "sql")]
pub use files::{Paths, Read};
#[cfg(feature = "sql")]
pub use frames::Write;
pub use init::{init, main};
pub use master::{Master, ParseMasterError};
pub use model::write::{WriteMode, WriteReport};
pub use rdd::*;
#[cfg(feature = "sql")]
pub use sql::{BrokenRows, datafusion};
