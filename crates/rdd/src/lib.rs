//! How does a typed lazy dataset over Rust functions become stages, and run?
//!
//! - `dataset`, `chain`: what is an [`Rdd`], to its user and to who computes it?
//! - `context`, `collection`: how does a program begin, and where do first partitions come from?
//! - `narrow`, `gather`, `wide`: which operations stay in a partition, which take whole partitions together, which need a
//!   shuffle?
//! - `aggregate`: how do values of one key become one?
//! - `actions`: which calls start a job?
//! - `stages`: where is lineage cut?
//! - `function`, `codec`: how does an executor find the driver's function, and how does a value become bytes?
//! - `compute`: how is a partition computed?
//! - `shared`: how do broadcasts go out and accumulators come back?
//! - `persist`: what does caching promise?
//! - `source`, `files`, `reading`, `text`, `shared_str`: which files are a partition's, and how do their bytes become lines?
//! - `external`, `sort_key`: what if groups or an order exceed memory?
//! - `order`, `range_partitioner`: which operations put rows in order, and between which keys are partitions cut?
//! - `sampling`, `stats`, `distinct_sketch`: which rows does a sample take, and how are numbers summed up?
//! - `config`, `error`: what can be set, what can go wrong?

mod actions;
pub mod aggregate;
pub mod chain;
pub mod codec;
mod collection;
pub mod compute;
pub mod config;
mod context;
mod dataset;
mod distinct_sketch;
mod error;
mod external;
mod files;
mod first;
pub mod function;
pub mod gather;
pub mod narrow;
mod numbers;
pub mod order;
pub mod pairs;
pub mod persist;
pub mod pipe;
mod range_partitioner;
mod reading;
pub mod sample;
mod sampling;
mod save;
mod shared;
mod shared_str;
mod sort_key;
pub mod source;
pub mod stages;
mod stats;
pub mod text;
mod tree;
pub mod wide;
pub mod zip;

pub use chain::{Chain, Partitioning};
pub use codec::Data;
pub use context::RddContext;
pub use dataset::{Erased, Rdd};
pub use error::Error;
pub use files::Compression;
pub use function::Function;
pub use numbers::Number;
pub use order::Direction;
pub use persist::StorageLevel;
pub use save::Save;
pub use shared::{Accumulator, Broadcast};
pub use stats::StatCounter;
pub use text::Str;
