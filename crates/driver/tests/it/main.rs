//! Does a driver run programs, whatever happens to its executors?

#![expect(clippy::unwrap_used, reason = "what fails in a helper fails its test")]

mod backends;
mod faults;
mod jobs;
mod links;
mod program;
mod remote;
mod writes;
