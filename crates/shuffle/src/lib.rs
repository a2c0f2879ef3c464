//! How do rows get from one stage to the next through an `ObjectStore`?
//!
//! Map tasks write rows into immutable objects, the driver's [`Registry`] keeps the only table of what exists, and reduce
//! tasks read exactly what a [`ReadPlan`](model::shuffle::ReadPlan) of that table names. Requests are what a store
//! charges for in time and money, so outputs of several maps share an object and small ones travel in messages; no
//! response is trusted, so every block carries its checksum, its writer's tag and its count of rows.
//!
//! - `runtime`, `credit`: what do the tasks of one process share? [`ShuffleRuntime`], [`Budget`]
//! - `writer`, `run`, `packer`, `upload`: how is a map task's output published, all or none? [`Member`], [`HandedOver`]
//! - `reader`, `fetch`: how is a range of partitions read, and what is blamed if some is missing? [`Reader`], [`Block`]
//! - `registry`: what exists, and do a status and a report add up? [`Registry`]
//! - `format`, `arrow_rows`, `compress`, `rowhash`, `ledger`: what are an object's bytes, and how are its rows proven?
//! - `partitioner`: which partition is a row's?
//! - `store`: how is a store opened, and when is a request tried again?
//! - `sweep`: when may objects go?

mod arrow_rows;
mod compress;
pub mod config;
mod credit;
pub mod error;
mod fetch;
pub mod format;
pub mod ledger;
mod packer;
pub mod partitioner;
mod reader;
pub mod registry;
pub mod rowhash;
mod run;
mod runtime;
pub mod store;
pub mod sweep;
#[cfg(feature = "testing")]
pub mod testing;
mod upload;
mod writer;

pub use arrow_rows::schema_message;
pub use config::Budget;
pub use error::Error;
pub use reader::{Block, Reader, Records};
pub use registry::{Accepted, Missing, Registry};
pub use runtime::ShuffleRuntime;
pub use writer::{Announced, HandedOver, Member};
