//! How fast is Vonk, against whom, and how is it measured?
//!
//! Peers are programs that somebody would write by hand with rayon, for one task and one machine, and Spark's RDDs. They do
//! the same work on the same files as the programs of `examples/`, and their answers are compared before their times are.

pub mod chart;
#[path = "../../examples/src/darts.rs"]
pub mod darts;
pub mod data;
pub mod measure;
pub mod spark;
