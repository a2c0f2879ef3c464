//! Given what has happened, what should be done next?
//!
//! [`Scheduler`] is a pure state machine: the driver's event loop tells it every [`Event`] and the time, and performs
//! every [`Action`] it answers with. It has no clock, no I/O, no threads and no randomness, so the same events give the
//! same actions: a bug report is a list of events.
//!
//! ```
//! use model::Timestamp;
//! use scheduler::{Config, Event, Scheduler};
//!
//! let mut scheduler = Scheduler::new(Config::default());
//! let actions = scheduler.handle(Timestamp(0), Event::ApplicationStarted);
//! assert_eq!(actions, [scheduler::Action::RequestExecutors { count: 1 }]);
//! ```
#![deny(clippy::wildcard_enum_match_arm)]

mod action;
mod attempts;
mod config;
mod deadlines;
mod demand;
mod event;
mod executors;
mod invariants;
mod job;
mod outputs;
mod partitions;
mod placement;
mod scheduler;
mod stage;

pub use action::Action;
#[doc(hidden)]
pub use config::Sabotage;
pub use config::{Config, Growth};
pub use event::Event;
pub use scheduler::Scheduler;
