//! How does a process offer slots and run tasks?
//!
//! An executor is one actor that hears [`ToExecutor`](model::messages::ToExecutor) and says
//! [`FromExecutor`](model::messages::FromExecutor): over channels in the driver's own process, or behind mutually
//! authenticated gRPC in a process of its own. It knows neither what a body means (a [`BodyRunner`] does) nor why a task
//! is wanted.
//!
//! - `start`: how does a process become an executor of one application? [`start::in_process`], [`start::serve`]
//! - `link`: how does a driver reach it from another process?
//! - `service`, `outbox`: what may the driver ask, and what does it hear?
//! - `surroundings`: out of what is an executor made, once its driver has said hello?
//! - `lifetime`: when does it say that it lives, when does it drain, when does it end itself?
//! - `slots`, `compute_pool`: how many tasks now, and on which threads?
//! - `task`: how is an attempt decoded, run, contained, reported? [`BodyRunner`], [`TaskContext`], [`TaskProduct`]
//! - `printed`: what has it printed last?
//! - `store`: how do bodies, inputs and results travel through the object store?
//! - `memory`: who may use how much? [`WorkingPool`]
//! - `blocks`: what is cached? [`Blocks`]
//! - `spill`: what lies on the local disk? [`SpillDir`]
//! - `metrics`: what is counted?

pub mod blocks;
mod compute_pool;
pub mod config;
pub mod lifetime;
mod link;
pub mod memory;
mod metrics;
mod outbox;
pub mod printed;
mod service;
mod slots;
pub mod spill;
pub mod start;
mod store;
mod surroundings;
pub mod task;

pub use blocks::{Blocks, Level};
pub use config::ExecutorConfig;
pub use memory::WorkingPool;
pub use spill::{SpillDir, SpillFile};
pub use task::{BodyRunner, PreparedStage, TaskContext, TaskProduct};
