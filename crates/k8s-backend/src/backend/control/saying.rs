//! What do people hear of what is waited for?

use std::time::Duration;

use model::Timestamp;
use model::backend::ClusterEvent;

use super::Control;
use super::pods::Record;
use crate::allocator::State;
use crate::why::{Hope, MENDS_WITHIN, Situation, Waiting, joined, sentences};

/// What is waited for is said again after so long.
const SAID_AGAIN: Duration = Duration::from_secs(30);

/// Sentences that change are said no more often than this: many pods come to wait one by one.
const SAID_APART: Duration = Duration::from_millis(700);

/// Rights to watch that are refused for so long are missing: an API server that has just begun refuses what it allows a moment
/// later.
const UNWATCHED_FOR: Duration = Duration::from_secs(3);

impl Control {
    /// Says what is waited for: when it changes, and now and then.
    pub(super) async fn say(&mut self, now: Timestamp) {
        let wanted = self.wanted();
        let waits = |record: &&Record| {
            record.pod.state == State::Pending && record.pod.released.is_none() && !record.pod.deleting
        };
        let pods: Vec<_> = self.records.values().filter(waits).collect();
        let waiting: Vec<_> = pods
            .iter()
            .filter_map(|record| Some(Waiting { seen: record.seen.as_ref()?, note: record.note.as_ref() }))
            .collect();
        let running = self.running();
        let situation = Situation {
            now,
            running,
            wanted,
            cores: self.pods.cores,
            memory: self.pods.memory,
            image: self.pods.of.image.clone(),
            quota: self.quota.clone().filter(|_| running < wanted),
            away_since: self.away_since,
            forward_max: self.forward_max.filter(|max| self.target > *max),
        };
        let sentences = sentences(&situation, &waiting);
        let worst = sentences.first().map_or(Hope::Waits, |sentence| sentence.hope);
        self.hardly_since = match worst {
            Hope::Waits => None,
            Hope::Hardly | Hope::None => self.hardly_since.or(Some(now)),
        };
        let mended = self.hardly_since.is_none_or(|since| now.since(since) < MENDS_WITHIN);
        let hopeless = worst == Hope::None || (worst == Hope::Hardly && !mended && !self.ever_ran);
        let unwatched = self.unwatched.as_ref().filter(|(_, since)| now.since(*since) >= UNWATCHED_FOR);
        let refused = match (&self.refused, unwatched) {
            (Some(why), _) if running < wanted => Some(format!("cannot create executors: {why}")),
            (_, Some((why, _))) if running < wanted => Some(format!("cannot watch executors: {why}")),
            _ => sentences.first().filter(|_| hopeless).map(|sentence| sentence.text.clone()),
        };
        if refused != self.said_refused {
            self.said_refused.clone_from(&refused);
            // An empty reason takes back what was said before.
            self.report(ClusterEvent::Refused { why: refused.unwrap_or_default() }).await;
        }
        let keys: Vec<String> = sentences.iter().map(|sentence| sentence.key.clone()).collect();
        let since = now.since(self.said_at);
        if (keys != self.said && (since >= SAID_APART || self.said.is_empty()))
            || (!keys.is_empty() && since >= SAID_AGAIN)
        {
            self.said = keys;
            self.said_at = now;
            self.report(ClusterEvent::Waiting { why: joined(&sentences) }).await;
        }
    }
}
