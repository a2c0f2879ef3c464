//! How does a process offer slots and run tasks?
//!
//! An executor is one actor that hears [`ToExecutor`](model::messages::ToExecutor) and says
//! [`FromExecutor`](model::messages::FromExecutor): over channels in the driver's own process, or behind mutually
//! authenticated gRPC in a process of its own. It knows neither what a body means (a [`BodyRunner`] does) nor why a task
//! is wanted.
//!
//! - `start`: how does a process become an executor of one application? [`start::in_process`], [`start::serve`]
//! - `link`: how does a driver reach it from another process?
//! - `service`: what may the driver ask, and what does it hear?
//! - `lifetime`: when does it drain, and when does it end itself?
//! - `slots`: how many tasks now, and which wait?
//! - `task`: how is an attempt decoded, run, contained, reported? [`BodyRunner`], [`TaskContext`], [`TaskProduct`]
//! - `compute_pool`: on which threads?
//! - `fetch`: how do bodies and inputs come from the store, and results go there?
//! - `memory`: who may use how much? [`WorkingPool`]
//! - `blocks`: what is cached? [`Blocks`]
//! - `spill`: what lies on the local disk? [`SpillDir`]

pub mod blocks;
pub mod config;
pub mod lifetime;
pub mod memory;
pub mod spill;
pub mod start;
pub mod task;

pub use blocks::{Blocks, Level};
pub use config::ExecutorConfig;
pub use memory::WorkingPool;
pub use spill::{SpillDir, SpillFile};
pub use task::{BodyRunner, PreparedStage, TaskContext, TaskProduct};
