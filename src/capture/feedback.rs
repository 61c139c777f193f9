//! When the leader is told how far we are: pure.
//!
//! Unchanged answers are rate-limited: a walsender in shutdown asks again as soon as it is
//! answered, and answering each time keeps both busy for ever.

use std::time::{Duration, Instant};

use crate::source::stream::Feedback;

/// Least time between two reports that say something new.
const CHANGED_INTERVAL: Duration = Duration::from_millis(20);
/// Least time between two answers that say nothing new.
const UNCHANGED_INTERVAL: Duration = Duration::from_millis(250);
/// Longest time without a report.
const SILENCE_MAX: Duration = Duration::from_secs(2);

/// What was reported, and when.
#[derive(Clone, Debug)]
pub struct FeedbackClock {
    last: Feedback,
    last_at: Instant,
    asked: bool,
    silence_max: Duration,
}

impl FeedbackClock {
    /// Nothing has been reported; `timeout` is the session's `wal_sender_timeout`.
    pub fn new(timeout: Duration, now: Instant) -> Self {
        FeedbackClock {
            last: Feedback::default(),
            last_at: now,
            asked: true,
            silence_max: (timeout / 5).min(SILENCE_MAX),
        }
    }

    /// The leader asked for an answer.
    pub fn asked(&mut self) {
        self.asked = true;
    }

    /// `wanted`, but in no position behind what was reported before.
    pub fn forward(&self, wanted: Feedback) -> Feedback {
        Feedback {
            write: wanted.write.max(self.last.write),
            flush: wanted.flush.max(self.last.flush),
            apply: wanted.apply.max(self.last.apply),
        }
    }

    /// When `wanted` is to be reported, unless something changes before.
    pub fn due_at(&self, wanted: Feedback) -> Instant {
        let wanted = self.forward(wanted);
        let confirms = wanted.flush != self.last.flush || wanted.apply != self.last.apply;
        let wait = if confirms || (self.asked && wanted != self.last) {
            CHANGED_INTERVAL
        } else if self.asked {
            UNCHANGED_INTERVAL
        } else {
            self.silence_max
        };
        self.last_at + wait
    }

    /// Notes a report.
    pub fn reported(&mut self, feedback: Feedback, now: Instant) {
        debug_assert_eq!(self.forward(feedback), feedback, "feedback moves forward");
        self.last = feedback;
        self.last_at = now;
        self.asked = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Lsn;

    fn at(write: u64, flush: u64) -> Feedback {
        Feedback {
            write: Lsn(write),
            flush: Lsn(flush),
            apply: Lsn(flush),
        }
    }

    #[test]
    fn reports_are_as_rare_as_they_may_be_and_never_step_back() {
        let now = Instant::now();
        let mut clock = FeedbackClock::new(Duration::from_secs(10), now);
        clock.reported(at(100, 50), now);
        assert_eq!(clock.forward(at(90, 40)), at(100, 50));
        assert_eq!(clock.due_at(at(100, 50)), now + SILENCE_MAX);
        assert_eq!(
            clock.due_at(at(200, 50)),
            now + SILENCE_MAX,
            "received alone is not urgent"
        );
        assert_eq!(clock.due_at(at(200, 60)), now + CHANGED_INTERVAL);
        clock.asked();
        assert_eq!(clock.due_at(at(100, 50)), now + UNCHANGED_INTERVAL);
        assert_eq!(clock.due_at(at(200, 50)), now + CHANGED_INTERVAL);
    }

    #[test]
    fn a_short_time_out_is_met() {
        let now = Instant::now();
        let mut clock = FeedbackClock::new(Duration::from_secs(1), now);
        clock.reported(at(1, 1), now);
        assert_eq!(clock.due_at(at(1, 1)), now + Duration::from_millis(200));
    }
}
