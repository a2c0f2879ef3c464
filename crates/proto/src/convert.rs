//! How does a `model` value cross the wire, and which messages are refused?

use model::messages::{FromExecutor, ToExecutor};

use crate::generated as wire;

/// The largest message that either end accepts: stage bodies, and tasks and statuses with shuffle plans or indexes.
pub const MESSAGE_MAX: usize = 64 << 20;

/// A message that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A part that must be there is not.
    #[error("read {message}: no {field}")]
    Missing {
        /// The message.
        message: &'static str,
        /// The part.
        field: &'static str,
    },
}

/// A message as gRPC carries it.
///
/// # Errors
/// It is larger than it may be.
pub fn to_executor(_message: ToExecutor) -> Result<wire::ToExecutor, Error> {
    Err(Error::Missing { message: "message", field: "conversion" })
}

/// A message as gRPC carries it.
///
/// # Errors
/// It is larger than it may be.
pub fn from_executor(_message: FromExecutor) -> Result<wire::FromExecutor, Error> {
    Err(Error::Missing { message: "message", field: "conversion" })
}

impl TryFrom<wire::ToExecutor> for ToExecutor {
    type Error = Error;

    fn try_from(_message: wire::ToExecutor) -> Result<Self, Error> {
        Err(Error::Missing { message: "message", field: "conversion" })
    }
}

impl TryFrom<wire::FromExecutor> for FromExecutor {
    type Error = Error;

    fn try_from(_message: wire::FromExecutor) -> Result<Self, Error> {
        Err(Error::Missing { message: "message", field: "conversion" })
    }
}
