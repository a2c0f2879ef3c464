//! How is a program run: schedule, launch, collect, commit, show?
//!
//! [`Driver`] is what the rest of Vonk sees: it runs jobs, publishes what happens, and stops. Inside, one event loop owns
//! the scheduler and everything else that changes; links to executors, fetches of results and commits are tasks around it
//! that talk to it through its mailbox.

pub mod backend;
mod cleanup;
pub mod commit;
pub mod config;
pub mod driver;
pub mod error;
pub mod event_log;
mod event_loop;
pub mod executable;
mod jobs;
mod launch;
mod lease;
mod link;
pub mod observe;
mod outbox;
pub mod printed;
mod requests;
mod results;
pub mod standing;
pub mod status;
mod store;
pub mod terminal;
mod write;

pub use config::DriverConfig;
pub use driver::Driver;
pub use error::Error;
pub use executable::Executable;
pub use observe::Observer;
