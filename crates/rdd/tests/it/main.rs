//! Do datasets compute what plain iterators compute, over the real shuffle?

mod core;
mod operations;
mod refused;
mod runner;
