//! How do executors and drivers become pods of Kubernetes?
//!
//! What goes into a manifest, which pods come and go, and what Kubernetes' answers mean are pure functions. What talks to
//! the API server is at the end of the list, and thin.

pub mod allocator;
pub mod cause;
pub mod config;
pub mod job;
pub mod manifest;
pub mod names;
pub mod pace;
pub mod pod;
pub mod refusal;
pub mod rights;
pub mod seen;
pub mod settings;
pub mod starts;
pub mod template;
pub mod why;
