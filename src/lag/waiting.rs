//! How much of the log lies before a sink: entries with records, their records and bytes.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Places kept. Beyond, every second one of the older half is dropped.
const PLACES_MAX: usize = 4096;

/// What waits in Kafka for a sink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Entries with records.
    pub entries: u64,
    /// Records of changes.
    pub changes: u64,
    /// Bytes of their keys and values, before compression.
    pub bytes: u64,
}

impl Waiting {
    fn plus(self, other: Waiting) -> Self {
        Waiting {
            entries: self.entries + other.entries,
            changes: self.changes + other.changes,
            bytes: self.bytes + other.bytes,
        }
    }

    fn minus(self, other: Waiting) -> Self {
        Waiting {
            entries: self.entries - other.entries,
            changes: self.changes - other.changes,
            bytes: self.bytes - other.bytes,
        }
    }
}

/// Sums over the log, from where it was first read.
#[derive(Debug, Default)]
pub struct WaitingTracker {
    /// (offset, sum of everything below it), in rising order; only behind entries with records.
    places: VecDeque<(i64, Waiting)>,
    /// Where reading began.
    begun: Option<i64>,
    total: Waiting,
}

impl WaitingTracker {
    /// The log is going to be read anew.
    pub fn begin(&mut self) {
        *self = WaitingTracker::default();
    }

    /// Takes the next valid entry; `of`: what is in it.
    pub fn take(&mut self, offset: i64, of: Waiting) {
        self.begun.get_or_insert(offset);
        if of == Waiting::default() {
            return;
        }
        self.total = self.total.plus(of);
        self.places.push_back((offset + 1, self.total));
        if self.places.len() > PLACES_MAX {
            self.thin_older_half();
        }
    }

    /// What lies at or beyond an offset. `None` where the log was not read. Where places were dropped it
    /// comes out larger than it is, never smaller.
    pub fn from(&self, offset: i64) -> Option<Waiting> {
        self.begun.filter(|begun| *begun <= offset)?;
        let behind = self.places.partition_point(|(place, _)| *place <= offset);
        let below = behind
            .checked_sub(1)
            .map_or(Waiting::default(), |at| self.places[at].1);
        Some(self.total.minus(below))
    }

    fn thin_older_half(&mut self) {
        let half = self.places.len() / 2;
        let newer = self.places.split_off(half);
        let older = std::mem::take(&mut self.places);
        self.places = older.into_iter().step_by(2).chain(newer).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(changes: u64) -> Waiting {
        Waiting {
            entries: 1,
            changes,
            bytes: 10 * changes,
        }
    }

    #[test]
    fn what_lies_beyond_an_offset_is_counted_and_heartbeats_are_not() {
        let mut tracker = WaitingTracker::default();
        assert_eq!(tracker.from(0), None);
        for (offset, changes) in [(10, 5), (11, 0), (12, 7)] {
            let of = if changes == 0 {
                Waiting::default()
            } else {
                one(changes)
            };
            tracker.take(offset, of);
        }
        assert_eq!(tracker.from(9), None, "not read from there");
        let changes = |offset| tracker.from(offset).map(|waiting| waiting.changes);
        assert_eq!(
            [10, 11, 12, 13].map(changes),
            [Some(12), Some(7), Some(7), Some(0)]
        );
        assert_eq!(tracker.from(11), Some(one(7)));
    }

    #[test]
    fn memory_is_bounded_and_what_waits_comes_out_too_large_at_worst() {
        let mut tracker = WaitingTracker::default();
        let end = 100_000;
        for offset in 0..end {
            tracker.take(offset, one(1));
            assert!(tracker.places.len() <= PLACES_MAX);
        }
        for offset in [0, 1, 1000, end / 2, end - 10, end] {
            let found = tracker.from(offset).unwrap().changes;
            let exact = u64::try_from(end - offset).unwrap();
            assert!(found >= exact, "{offset}: {found} < {exact}");
        }
        assert_eq!(tracker.from(end).unwrap(), Waiting::default());
        assert_eq!(tracker.from(end - 10).unwrap().entries, 10);
    }
}
