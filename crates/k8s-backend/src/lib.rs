//! How do executors and drivers become pods of Kubernetes?
//!
//! What goes into a manifest, which pods come and go, and what Kubernetes' answers mean are pure functions. What talks to
//! the API server is at the end of the list, and thin.

pub mod access;
pub mod allocator;
mod answer;
pub mod applications;
pub mod backend;
pub mod cause;
pub mod config;
pub mod diagnose;
pub mod driver;
pub mod follow;
mod forward;
pub mod job;
pub mod log;
pub mod manifest;
pub mod names;
pub mod own_pod;
pub mod pace;
pub mod pod;
pub mod preflight;
pub mod quantity;
pub mod refusal;
pub mod request;
pub mod rights;
pub mod root;
pub mod seen;
pub mod settings;
pub mod starts;
pub mod submit;
pub mod sweep;
pub mod template;
mod watcher;
pub mod why;

pub use answer::chain;
