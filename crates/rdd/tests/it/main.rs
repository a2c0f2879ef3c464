//! Do datasets compute what plain iterators compute, over the real shuffle?

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod core;
mod operations;
mod refused;
mod runner;
