//! Does it hold on a real cluster?
//!
//! Needs KUBECONFIG and an image with busybox in /usr/local/bin (`VONK_TEST_IMAGE`, by default `localhost/busybox:1`). Each
//! test has a namespace of its own, in which scripts play the executor.

mod cluster;
mod executors;
mod refusals;
mod root;
mod submission;
