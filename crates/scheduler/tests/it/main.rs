//! Does the scheduler keep its rules?
#![deny(clippy::wildcard_enum_match_arm)]

mod scenarios;
mod script;
mod sim;
