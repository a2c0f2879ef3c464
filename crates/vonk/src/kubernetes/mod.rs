//! How do programs, executors and commands meet a cluster of Kubernetes?

pub(crate) mod commands;
