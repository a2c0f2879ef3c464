//! What do tests put in the place of an object store?

pub mod chaos_store;
pub mod conformance;
pub mod sim_store;
