//! When does an executor say that it lives, when does it drain, and when does it end itself?
//!
//! A table of deadlines that is told the time. Whoever holds it acts.

use std::time::Duration;

use tokio::time::Instant;

/// The exit code of an executor that has not heard its driver for too long, or whose parent has gone.
pub const NO_DRIVER: i32 = 80;

/// The exit code of an executor that could not start: its birth is unreadable, or it cannot listen.
pub const CANNOT_START: i32 = 81;

/// An executor that has not heard its driver for this long ends itself, unless it was told otherwise (ARCHITECTURE.md,
/// "Driver and executor on the wire"): time enough to dial again after a lost link, too little for a closed laptop to
/// keep its executors.
pub const DRIVER_LOST_AFTER: Duration = Duration::from_secs(60);

/// The exit code of an executor that its system told to end: that of a process which SIGTERM has ended.
pub const TERMINATED: i32 = 143;

/// How often an executor says that it lives before its driver has told it: it says so to nobody yet.
const HEARTBEAT_UNTOLD: Duration = Duration::from_secs(5);

/// An executor that has drained waits so long for its last statuses to be acknowledged.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(5);

/// Why an executor ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Its driver told it to drain, and it has.
    Drained,
    /// Its system told it to end, and it has drained.
    Terminated,
    /// It has not heard its driver for too long.
    NoDriver,
    /// The driver has closed the channels of an executor in its own process.
    Closed,
    /// Its stdin has ended: its parent is gone.
    ParentGone,
}

impl End {
    /// The code with which the process ends.
    #[must_use]
    pub fn exit_code(self) -> i32 {
        match self {
            Self::Drained | Self::Closed => 0,
            Self::NoDriver | Self::ParentGone => NO_DRIVER,
            Self::Terminated => TERMINATED,
        }
    }
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Say that it lives.
    Heartbeat,
    /// End: no driver.
    NoDriver,
    /// Give up what still runs: the grace of the drain is over.
    GraceOver,
    /// End: nobody acknowledges the last statuses.
    DrainOver,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drain {
    /// Not asked for.
    No,
    /// What runs may run until then.
    Until(Instant),
    /// Nothing runs; acknowledgements are waited for until then.
    Idle(Instant),
}

/// The deadlines of one executor.
#[derive(Debug)]
pub(crate) struct Lifetime {
    lost_after: Option<Duration>,
    heard: Instant,
    heartbeat_interval: Duration,
    heartbeat: Instant,
    drain: Drain,
}

impl Lifetime {
    /// Begins now. Without `lost_after` it never ends for want of a driver: it lives in the driver's process.
    pub(crate) fn new(now: Instant, lost_after: Option<Duration>) -> Self {
        let heartbeat_interval = HEARTBEAT_UNTOLD;
        Self { lost_after, heard: now, heartbeat_interval, heartbeat: now + heartbeat_interval, drain: Drain::No }
    }

    /// The driver wants to hear that often that it lives.
    pub(crate) fn beat_every(&mut self, interval: Duration, now: Instant) {
        self.heartbeat_interval = interval;
        self.heartbeat = self.heartbeat.min(now + interval);
    }

    /// The driver knows how long it is to be waited for: who was born in a pod was not told. Who lives in the driver's process
    /// does not wait.
    pub(crate) fn lost_after(&mut self, after: Duration) {
        if let Some(known) = &mut self.lost_after {
            *known = after;
        }
    }

    /// The driver has said something.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// Drains from now on. A second order can only shorten the grace.
    pub(crate) fn drain(&mut self, now: Instant, grace: Duration) {
        let until = now + grace;
        self.drain = match self.drain {
            Drain::No => Drain::Until(until),
            Drain::Until(earlier) => Drain::Until(earlier.min(until)),
            Drain::Idle(earlier) => Drain::Idle(earlier),
        };
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.drain != Drain::No
    }

    /// Nothing runs any more.
    pub(crate) fn idle(&mut self, now: Instant) {
        if let Drain::Until(_) = self.drain {
            self.drain = Drain::Idle(now + ACKNOWLEDGED_WITHIN);
        }
    }

    /// When something is due next.
    pub(crate) fn next_deadline(&self) -> Instant {
        let lost = self.lost_after.map(|after| self.heard + after);
        let drain = match self.drain {
            Drain::No => None,
            Drain::Until(at) | Drain::Idle(at) => Some(at),
        };
        [lost, drain].into_iter().flatten().fold(self.heartbeat, Instant::min)
    }

    /// What is due now, if anything.
    pub(crate) fn due(&mut self, now: Instant) -> Option<Due> {
        if self.lost_after.is_some_and(|after| now >= self.heard + after) {
            return Some(Due::NoDriver);
        }
        match self.drain {
            Drain::Until(at) if now >= at => return Some(Due::GraceOver),
            Drain::Idle(at) if now >= at => return Some(Due::DrainOver),
            Drain::No | Drain::Until(_) | Drain::Idle(_) => {}
        }
        if now >= self.heartbeat {
            // After a sleep of the machine one heartbeat is enough.
            self.heartbeat = now + self.heartbeat_interval;
            return Some(Due::Heartbeat);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_executor_without_a_driver_ends_after_its_minute_and_not_before() {
        let begun = Instant::now();
        let mut life = Lifetime::new(begun, Some(s(60)));
        assert_eq!(life.next_deadline(), begun + s(5));
        assert_eq!(life.due(begun + s(5)), Some(Due::Heartbeat));
        assert_eq!(life.due(begun + s(5)), None);
        life.heard(begun + s(30));
        assert_eq!(life.due(begun + s(60)), Some(Due::Heartbeat));
        assert_eq!(life.next_deadline(), begun + s(65));
        assert_eq!(life.due(begun + s(90)), Some(Due::NoDriver));
    }

    #[test]
    fn the_driver_says_how_long_it_is_waited_for() {
        let begun = Instant::now();
        let mut life = Lifetime::new(begun, Some(s(60)));
        life.lost_after(s(120));
        assert_eq!(life.due(begun + s(119)), Some(Due::Heartbeat));
        assert_eq!(life.due(begun + s(120)), Some(Due::NoDriver));
        let mut within = Lifetime::new(begun, None);
        within.lost_after(s(1));
        assert_eq!(within.due(begun + s(9)), Some(Due::Heartbeat));
        assert_eq!(within.due(begun + s(9)), None);
    }

    #[test]
    fn the_driver_says_how_often_it_wants_to_hear() {
        let begun = Instant::now();
        let mut life = Lifetime::new(begun, None);
        life.beat_every(s(1), begun);
        assert_eq!(life.next_deadline(), begun + s(1));
        assert_eq!(life.due(begun + s(1)), Some(Due::Heartbeat));
        assert_eq!(life.next_deadline(), begun + s(2));
    }

    #[test]
    fn an_executor_in_its_drivers_process_never_misses_it() {
        let begun = Instant::now();
        let mut life = Lifetime::new(begun, None);
        assert_eq!(life.due(begun + s(100_000)), Some(Due::Heartbeat));
        assert_eq!(life.due(begun + s(100_000)), None);
    }

    #[test]
    fn a_drain_ends_by_its_grace_and_a_second_order_only_shortens_it() {
        let begun = Instant::now();
        let mut life = Lifetime::new(begun, None);
        life.drain(begun, s(30));
        life.drain(begun, s(2));
        life.drain(begun, s(40));
        assert_eq!(life.next_deadline(), begun + s(2));
        assert_eq!(life.due(begun + s(2)), Some(Due::GraceOver));
        life.idle(begun + s(2));
        life.drain(begun, s(1));
        assert_eq!(life.due(begun + s(3)), None);
        assert_eq!(life.due(begun + s(7)), Some(Due::DrainOver));
    }

    #[test]
    fn exit_codes_tell_a_missing_driver_from_an_orderly_end() {
        assert_eq!([End::Drained, End::Closed].map(End::exit_code), [0, 0]);
        assert_eq!([End::NoDriver, End::ParentGone].map(End::exit_code), [80, 80]);
        assert_eq!(End::Terminated.exit_code(), 143);
    }
}
