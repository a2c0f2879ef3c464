//! Does the scheduler keep its rules?
#![deny(clippy::wildcard_enum_match_arm)]

mod nonsense;
mod scenarios;
mod script;
mod sim;
