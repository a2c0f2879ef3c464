//! Does everything cross the wire as it is, and is everything else refused?

#![expect(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

mod convert;
mod dice;
