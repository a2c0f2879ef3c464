//! How is a program run: schedule, launch, collect, commit, show?
//!
//! [`Driver`] is what the rest of Vonk sees: it runs jobs, publishes what happens, and stops. Inside, one event loop owns
//! the scheduler and everything else that changes; links to executors, fetches of results and commits are tasks around it
//! that talk to it through its mailbox.

pub mod backend;
pub mod commit;
pub mod config;
pub mod driver;
pub mod error;
pub mod event_log;
pub mod executable;
pub mod observe;
pub mod status;
pub mod terminal;

pub use config::DriverConfig;
pub use driver::Driver;
pub use error::Error;
pub use observe::Observer;
