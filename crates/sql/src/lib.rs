//! How does a DataFusion plan become stages, and run?
//!
//! [`session`] makes the `SessionContext` that programs use: its plans are DataFusion's own until [`cut`](mod@cut) parts them
//! at their exchanges. Each part becomes a stage (`stage`), travels as a body (`fragment`), and runs in executors (`task`).
//! After every stage the rest is planned anew (`adapt`).

mod adapt;
mod arrow_files;
mod broken;
mod cancel;
pub mod config;
mod csv;
mod cut;
mod dialect;
mod empty;
mod error;
mod explain;
mod fragment;
mod functions;
mod guard;
mod guard_groups;
mod guard_windows;
mod here;
mod hint;
mod lateral;
mod leaves;
mod memory;
mod name;
mod named;
mod order;
mod partitions;
mod persist;
mod places;
mod planner;
mod query;
mod read;
mod reduce;
mod requests;
mod results;
mod route;
mod rows;
mod scan;
mod session;
mod single;
mod sink;
mod spill;
mod stage;
mod stores;
mod tables;
mod task;
mod text;
mod visible;
mod window;
mod write;

pub use broken::BrokenRows;
pub use datafusion;
pub use dialect::plan;
pub use error::Error;
pub use functions::{Carrier, Function, FunctionKind, NoFunctions};
pub use guard::guarded;
pub use guard_groups::guarded_aggregate;
pub use guard_windows::guarded_window;
pub use hint::broadcast;
pub use persist::{persist, read_shuffle, shuffled};
pub use session::{SessionParts, session};
pub use sink::Mode;
pub use spill::SpillSpace;
pub use tables::{Files, read_files};
pub use task::{Prepared, Product, TaskEnv, prepare};
