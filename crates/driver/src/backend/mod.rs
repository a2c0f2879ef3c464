//! Which clusters can this machine be by itself?

pub mod conformance;
pub mod local;
pub mod processes;
