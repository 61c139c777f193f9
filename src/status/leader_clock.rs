//! What the leader's clock says now, as well as this process knows it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A source that has not asked the leader for so long is no longer believed before the log's samples.
const ASKED_MAX: Duration = Duration::from_secs(60);

/// The leader's clock, shared by all parts of a process. A source asks the leader, to within half a
/// round trip. Sinks that run without it know it from the samples in the log, and then it is behind by the
/// least time that a sample needs through Kafka.
#[derive(Debug, Default)]
pub struct LeaderClock(Mutex<Known>);

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    asked: Option<Reading>,
    heard: Option<Reading>,
}

/// The clock at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Microseconds since 2000-01-01 UTC.
    pub us: i64,
    /// When, here.
    pub at: Instant,
}

impl Reading {
    /// What the clock says at another moment.
    fn now_us(self, now: Instant) -> i64 {
        let passed = now.saturating_duration_since(self.at);
        self.us + i64::try_from(passed.as_micros()).unwrap_or(i64::MAX)
    }
}

impl LeaderClock {
    /// The leader was asked.
    pub fn asked(&self, reading: Reading) {
        self.with(|known| known.asked = Some(reading));
    }

    /// A sample came through the log.
    pub fn heard(&self, reading: Reading) {
        self.with(|known| known.heard = Some(reading));
    }

    /// Microseconds since 2000-01-01 UTC on the leader; `None` while nothing is known.
    pub fn now_us(&self) -> Option<i64> {
        let now = Instant::now();
        let known = self.with(|known| *known);
        let asked = known
            .asked
            .filter(|reading| now.saturating_duration_since(reading.at) < ASKED_MAX);
        asked.or(known.heard).map(|reading| reading.now_us(now))
    }

    fn with<T>(&self, change: impl FnOnce(&mut Known) -> T) -> T {
        // Readings are plain numbers: a panic elsewhere leaves none half-done.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asked_the_leader_knows_better_than_who_heard_of_it() {
        let clock = LeaderClock::default();
        assert_eq!(clock.now_us(), None);
        let at = Instant::now();
        clock.heard(Reading { us: 1_000_000, at });
        assert!(clock.now_us().is_some_and(|us| us < 500_000_000));
        clock.asked(Reading {
            us: 900_000_000,
            at,
        });
        assert!(clock.now_us().is_some_and(|us| us >= 900_000_000));
        // That was too long ago.
        let old = at
            .checked_sub(ASKED_MAX)
            .expect("the machine runs longer than a minute");
        clock.asked(Reading {
            us: 900_000_000,
            at: old,
        });
        assert!(clock.now_us().is_some_and(|us| us < 500_000_000));
    }
}
