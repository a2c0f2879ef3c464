//! Does a driver run programs, whatever happens to its executors?

mod backends;
mod faults;
mod jobs;
mod links;
mod program;
mod writes;
