//! Does a shuffle keep its promises over a whole store?

mod batches;
mod conformance;
mod damage;
mod memory;
mod records;
mod registry;
mod requests;
mod setup;
