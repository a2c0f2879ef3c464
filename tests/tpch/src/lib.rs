//! Which tables and queries does TPC-H have, and when are two answers the same?
//!
//! For tests and benches alike: [`tables`](tables()) writes the eight tables as Parquet files, [`QUERIES`] are the texts of the
//! 22 queries with the substitution parameters that the specification validates with, and [`Answer`] compares results.

mod answer;
mod queries;
mod tables;

pub use answer::{Answer, Order};
pub use queries::{QUERIES, Query};
pub use tables::{Shape, TABLES, register, tables};
