//! What crosses the wire between driver and executor, at which version, and how do both prove who they are?
//!
//! The values are `model`'s ([`model::messages`]); [`convert`] carries them through the generated messages. Sizes and
//! lists are bounded there and by [`MESSAGE_MAX`], which both ends give to gRPC.

pub mod convert;
pub mod tls;
pub mod version;

/// The messages and the service, as prost and tonic made them of `proto/executor.proto`. Only [`convert`] looks inside.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::allow_attributes_without_reason,
    clippy::large_enum_variant,
    reason = "generated: `cargo xtask gen` writes it, and the .proto file has the words"
)]
pub mod generated {
    include!("generated/vonk.executor.v1.rs");
}

pub use convert::MESSAGE_MAX;
pub use generated::{executor_client, executor_server};
