//! Does an executor do what its driver asks, in the same process and behind gRPC, and does it end when it should?

#![expect(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

mod bench;
mod fake;
mod link;
mod service;
