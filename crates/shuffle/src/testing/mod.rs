//! What do tests put in the place of an object store?

pub mod chaos_store;
pub mod conformance;
mod intercept;
pub mod sim_store;

pub use chaos_store::{Chaos, ChaosStore, Rule, Unspent};
pub use conformance::conformance;
pub use intercept::{Fault, Verb};
pub use sim_store::{Latency, Meter, Prices, SimStore};
