//! How fast may pods be created?

use std::time::Duration;

use model::Timestamp;

/// Creations under way at a time.
const IN_FLIGHT: u32 = 50;

/// Requests in a second, over time.
const PER_SECOND: f64 = 50.0;

/// Requests at once, after a pause.
const BURST: f64 = 100.0;

/// What is refused for good is tried so often all the same: somebody may have changed the cluster.
const STOPPED: Duration = Duration::from_secs(60);

/// What is refused for the first time is tried once more so soon.
const DOUBTED: Duration = Duration::from_secs(2);

/// Waits that double from one failure to the next, and begin anew after a success.
#[derive(Debug, Clone, Copy)]
struct Delays {
    min: Duration,
    max: Duration,
    failures: u32,
}

impl Delays {
    const fn new(min_ms: u64, max_ms: u64) -> Self {
        Self { min: Duration::from_millis(min_ms), max: Duration::from_millis(max_ms), failures: 0 }
    }

    fn next(&mut self) -> Duration {
        let delay = self.min.saturating_mul(1 << self.failures.min(16)).min(self.max);
        self.failures += 1;
        delay
    }
}

/// Bounds what is asked of the API server, by how it answers. Is told the time.
#[derive(Debug, Clone)]
pub struct Pace {
    window: u32,
    in_flight: u32,
    tokens: f64,
    filled: Timestamp,
    hold: Timestamp,
    /// One creation at a time: the last one was refused.
    probing: bool,
    quota: Delays,
    away: Delays,
    conflict: Delays,
}

impl Pace {
    /// At full speed.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self {
            window: IN_FLIGHT,
            in_flight: 0,
            tokens: BURST,
            filled: now,
            hold: now,
            probing: false,
            quota: Delays::new(5_000, 60_000),
            away: Delays::new(500, 30_000),
            conflict: Delays::new(100, 500),
        }
    }

    /// How many creations may be sent now.
    pub fn budget(&mut self, now: Timestamp) -> u32 {
        self.fill(now);
        if now < self.hold {
            return 0;
        }
        let window = if self.probing { 1 } else { self.window };
        // A rounded float of at most BURST.
        window.saturating_sub(self.in_flight).min(self.tokens.floor() as u32)
    }

    /// A creation was sent.
    pub fn sent(&mut self, now: Timestamp) {
        self.in_flight += 1;
        self.asked(now);
    }

    /// Something else was asked.
    pub fn asked(&mut self, now: Timestamp) {
        self.fill(now);
        self.tokens = (self.tokens - 1.0).max(0.0);
    }

    /// A creation succeeded.
    pub fn succeeded(&mut self) {
        self.ended();
        self.window = (self.window + 1).min(IN_FLIGHT);
        self.probing = false;
        (self.quota.failures, self.away.failures, self.conflict.failures) = (0, 0, 0);
    }

    /// A quota is full.
    pub fn quota(&mut self, now: Timestamp) {
        self.ended();
        self.hold_once(now, |pace| pace.quota.next());
        self.probing = true;
    }

    /// Creations are refused for good.
    pub fn stopped(&mut self, now: Timestamp) {
        self.ended();
        self.hold_once(now, |_| STOPPED);
        self.probing = true;
    }

    /// A creation was refused that may be allowed in a moment.
    pub fn doubted(&mut self, now: Timestamp) {
        self.ended();
        self.hold_once(now, |_| DOUBTED);
        self.probing = true;
    }

    /// There are too many requests.
    pub fn overloaded(&mut self, now: Timestamp, retry_after: Option<Duration>) {
        self.ended();
        if now >= self.hold {
            // Once for all requests that met the same overload.
            self.window = (self.window / 2).max(1);
        }
        self.hold_once(now, |pace| retry_after.unwrap_or_else(|| pace.away.next()));
    }

    /// There was no answer.
    pub fn away(&mut self, now: Timestamp) {
        self.ended();
        self.hold_once(now, |pace| pace.away.next());
    }

    /// Somebody was quicker.
    pub fn conflict(&mut self, now: Timestamp) {
        self.ended();
        self.hold_once(now, |pace| pace.conflict.next());
    }

    /// The answer said nothing about what may follow.
    pub fn ended(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Nothing is created before then.
    pub fn hold_until(&mut self, until: Timestamp) {
        self.hold = self.hold.max(until);
    }

    /// Answers that arrive while nothing is sent belong to requests of before: they say nothing new.
    fn hold_once(&mut self, now: Timestamp, delay: impl FnOnce(&mut Self) -> Duration) {
        if now >= self.hold {
            self.hold = now + delay(self);
        }
    }

    fn fill(&mut self, now: Timestamp) {
        let passed = now.since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * PER_SECOND).min(BURST);
        self.filled = self.filled.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    /// When something may be sent again, to the tenth of a second.
    fn again(pace: &mut Pace, from: u64) -> u64 {
        (from..from + 100_000).step_by(100).find(|&ms| pace.budget(at(ms)) > 0).unwrap()
    }

    #[test]
    fn so_many_at_once_and_so_many_in_a_second() {
        let mut pace = Pace::new(at(0));
        let mut sent = 0;
        for ms in (0..2_000).step_by(10) {
            for _ in 0..pace.budget(at(ms)) {
                pace.sent(at(ms));
                pace.succeeded();
                sent += 1;
            }
        }
        assert!((195..=201).contains(&sent), "a burst of 100, then 50 each second: {sent}");
        let mut pace = Pace::new(at(0));
        (0..50).for_each(|_| pace.sent(at(0)));
        assert_eq!(pace.budget(at(5_000)), 0, "50 are under way");
        pace.succeeded();
        assert_eq!(pace.budget(at(5_000)), 1);
    }

    #[test]
    fn a_quota_is_tried_ever_more_rarely_by_one() {
        let mut pace = Pace::new(at(0));
        let mut now = 0;
        let mut waits = Vec::new();
        for _ in 0..6 {
            pace.sent(at(now));
            pace.quota(at(now));
            let next = again(&mut pace, now);
            assert_eq!(pace.budget(at(next)), 1);
            waits.push((next - now) / 1_000);
            now = next;
        }
        assert_eq!(waits, [5, 10, 20, 40, 60, 60]);
        pace.sent(at(now));
        pace.succeeded();
        assert_eq!(pace.budget(at(now)), 50, "there was room: at full speed again");
    }

    #[test]
    fn many_answers_about_one_overload_count_once() {
        let mut pace = Pace::new(at(0));
        (0..40).for_each(|_| pace.sent(at(0)));
        (0..40).for_each(|_| pace.overloaded(at(10), Some(Duration::from_secs(3))));
        assert_eq!(again(&mut pace, 10), 3_010);
        assert_eq!(pace.budget(at(3_010)), 25);
        let mut pace = Pace::new(at(0));
        (0..40).for_each(|_| pace.sent(at(0)));
        (0..40).for_each(|_| pace.away(at(0)));
        assert_eq!(again(&mut pace, 0), 500);
    }

    #[test]
    fn what_is_refused_is_tried_each_minute() {
        let mut pace = Pace::new(at(0));
        pace.sent(at(0));
        pace.stopped(at(0));
        assert_eq!(again(&mut pace, 0), 60_000);
        assert_eq!(pace.budget(at(60_000)), 1);
    }
}
