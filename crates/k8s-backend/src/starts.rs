//! Where could executors not start, and how soon is another tried?

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model::Timestamp;

/// A node on which as many starts failed within [`AVOIDED_FOR`] is avoided for that time.
const BAD: usize = 2;

/// How long a node is avoided.
pub const AVOIDED_FOR: Duration = Duration::from_secs(30 * 60);

/// Starts that fail one after the other wait so long, doubled each time.
const DELAY_MIN: Duration = Duration::from_secs(1);

/// The longest wait.
const DELAY_MAX: Duration = Duration::from_secs(30);

/// Starts that failed.
#[derive(Debug, Clone, Default)]
pub struct Starts {
    in_a_row: u32,
    by_node: BTreeMap<String, Vec<Timestamp>>,
}

impl Starts {
    /// An executor has come to run.
    pub fn succeeded(&mut self) {
        self.in_a_row = 0;
    }

    /// An executor did not start. Returns how long to wait before another is created.
    pub fn failed(&mut self, now: Timestamp, node: Option<&str>) -> Duration {
        if let Some(node) = node {
            self.by_node.entry(node.to_owned()).or_default().push(now);
        }
        let delay = DELAY_MIN.saturating_mul(1 << self.in_a_row.min(16)).min(DELAY_MAX);
        self.in_a_row += 1;
        delay
    }

    /// The nodes to avoid.
    pub fn avoid(&mut self, now: Timestamp) -> BTreeSet<String> {
        for failures in self.by_node.values_mut() {
            failures.retain(|&at| now.since(at) < AVOIDED_FOR);
        }
        self.by_node.retain(|_, failures| !failures.is_empty());
        self.by_node.iter().filter(|(_, failures)| failures.len() >= BAD).map(|(node, _)| node.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_with_two_bad_starts_is_avoided_for_a_while() {
        let mut starts = Starts::default();
        let at = |s: u64| Timestamp::from_millis(s * 1_000);
        assert_eq!(starts.failed(at(0), Some("a")), Duration::from_secs(1));
        assert_eq!(starts.failed(at(1), Some("b")), Duration::from_secs(2));
        assert_eq!(starts.avoid(at(2)), BTreeSet::new());
        assert_eq!(starts.failed(at(2), Some("a")), Duration::from_secs(4));
        assert_eq!(starts.avoid(at(3)), BTreeSet::from(["a".to_owned()]));
        assert_eq!(starts.avoid(at(1_801)), BTreeSet::new(), "one of the two is long ago");
        assert_eq!((0..10).map(|_| starts.failed(at(3), None)).max(), Some(Duration::from_secs(30)));
        assert_eq!(starts.failed(at(3), None), Duration::from_secs(30));
        starts.succeeded();
        assert_eq!(starts.failed(at(3), None), Duration::from_secs(1));
    }
}
