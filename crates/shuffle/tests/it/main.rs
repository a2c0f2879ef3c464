//! Does a shuffle keep its promises over a whole store?

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod batches;
mod conformance;
mod damage;
mod faults;
mod memory;
mod records;
mod registry;
mod requests;
mod setup;
mod speed;
