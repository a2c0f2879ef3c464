//! How does an application run on Kubernetes?
//!
//! - `program`: how does an executable get into pods, by its content?
//! - `sent`: how do files that go along with it?
//! - `pod`: what does a process in a pod do before it is an executor or a driver?
//! - `parent`: who stays with a program in its pod until its end, and keeps what it printed?
//! - `commands`: what does a person type about applications?
//! - `start`: how does a driver get its executors as pods?

pub(crate) mod commands;
pub(crate) mod parent;
pub(crate) mod pod;
pub(crate) mod program;
pub(crate) mod sent;
pub(crate) mod start;
