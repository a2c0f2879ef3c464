//! What do tests put in the place of an object store?

pub mod chaos_store;
pub mod conformance;
mod intercept;
pub mod sim_store;

pub use chaos_store::{Chaos, ChaosStore, Rule, Unspent};
pub use conformance::conformance;
pub use intercept::{Fault, Verb};
pub use sim_store::{Latency, Meter, Prices, SimStore};

/// What a URL `chaos:FILE,URL` puts in front of the store that its second part names: how processes of a program are
/// given rules. `FILE` holds [`Chaos::to_json`].
///
/// # Panics
/// When the file is not there, or is no such text: the test is wrong.
#[must_use]
pub fn chaos_url(url: &str) -> Option<(Chaos, &str)> {
    let (file, inner) = url.strip_prefix("chaos:")?.split_once(',')?;
    let text = std::fs::read_to_string(file).expect("the file of rules is there");
    Some((Chaos::from_json(&text).expect("the file holds rules"), inner))
}
