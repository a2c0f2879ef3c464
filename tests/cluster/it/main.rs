//! Does Vonk work on a real cluster, also when it is treated badly?
//!
//! `cargo xtask cluster test` brings what these tests need; those that take longer than half a minute are run by
//! `--all`. Each asserts that its fault happened, that the rows are right and that nothing is left.
//!
//! - `ground`: what does a test get of the cluster, and what must it have left when it ends?
//! - `running`: how is a program that runs outside of the cluster watched?
//! - `works`: does it work, wherever the driver is and whatever pods must look like?
//! - `room`: what happens when there is no room?
//! - `refused`: what happens when the cluster refuses?
//! - `losses`: what happens when executors are lost?
//! - `endings`: what does a driver leave that ends in an unusual way?
//! - `submitted`: what becomes of an application whose driver is a pod?
//! - `outages`: what happens while the API server does not answer, or somebody takes what others need?
//! - `sentences`: is everywhere told the same?
//! - `history`: what is left for those who ask later?
//! - `marks`: how fast is it?

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod endings;
mod ground;
mod history;
mod installed;
mod losses;
mod marks;
mod outages;
mod refused;
mod room;
mod running;
mod sentences;
mod submitted;
mod works;
