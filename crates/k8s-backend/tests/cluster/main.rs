//! Does it hold on a real cluster?
//!
//! Needs KUBECONFIG and an image with busybox in /usr/local/bin (`VONK_TEST_IMAGE`, by default `localhost/busybox:1`). Each
//! test has a namespace of its own, in which scripts play the executor.

#![expect(clippy::unwrap_used, reason = "what every test needs is no test by itself")]

mod answers;
mod between;
mod cluster;
mod executors;
mod marks;
mod refusals;
mod root;
mod submission;
