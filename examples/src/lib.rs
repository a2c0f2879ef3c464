//! What is the smallest real program for each of the things that people do with an RDD?
//!
//! The programs are in `src/bin`, their data in `data`, and each runs as a test. They depend on `vonk` only, as a program
//! outside this repository would.

pub mod darts;
