//! Does everything cross the wire as it is, and is everything else refused?

mod convert;
mod dice;
