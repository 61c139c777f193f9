//! The last hour of every sink's lag, and since when each part is in its state: what a look at one
//! moment does not show. Noted once a second by the server.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::lag::Lag;
use crate::status::State;

/// How often it is looked.
pub(super) const LOOK_EVERY: std::time::Duration = std::time::Duration::from_secs(1);
/// Looks that make one point.
const LOOKS_A_POINT: u32 = 10;
/// Points kept: an hour.
const POINTS_MAX: usize = 360;

/// What was noted.
#[derive(Clone, Debug, Default)]
pub(super) struct History(Arc<Mutex<Noted>>);

#[derive(Debug, Default)]
struct Noted {
    looks: u32,
    parts: BTreeMap<String, (State, u64)>,
    sinks: BTreeMap<String, SinkNotes>,
}

#[derive(Debug, Default)]
struct SinkNotes {
    /// The largest of the point that is being made.
    seconds: Option<f64>,
    bytes: Option<u64>,
    points: VecDeque<(Option<f64>, Option<u64>)>,
}

/// `/v1/history`.
#[derive(Debug, Serialize)]
pub(super) struct HistoryReport {
    /// Seconds from one value to the next.
    pub every_seconds: u32,
    /// Sinks of this process, by name.
    pub sinks: Vec<SinkHistory>,
}

/// A sink in `/v1/history`: for each 10 seconds the largest value; null when it was not known at all.
#[derive(Debug, Serialize)]
pub(super) struct SinkHistory {
    /// Its name.
    pub name: String,
    /// Lag, seconds; the newest last.
    pub lag_seconds: Vec<Option<f64>>,
    /// Lag, bytes; the newest last.
    pub lag_bytes: Vec<Option<u64>>,
}

impl History {
    fn lock(&self) -> MutexGuard<'_, Noted> {
        // Numbers for the eye only: what a panic left is shown.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how things are at this second since 1970.
    pub(super) fn note<'a>(
        &self,
        parts: impl Iterator<Item = (&'a str, State)>,
        sinks: impl Iterator<Item = (&'a str, Lag)>,
        unix_seconds: u64,
    ) {
        let mut noted = self.lock();
        for (name, state) in parts {
            match noted.parts.get_mut(name) {
                Some((known, _)) if *known == state => {}
                Some(part) => *part = (state, unix_seconds),
                None => {
                    noted.parts.insert(name.to_owned(), (state, unix_seconds));
                }
            }
        }
        noted.looks += 1;
        let sinks: Vec<(&str, Lag)> = sinks.collect();
        // A reload may have removed some.
        noted
            .sinks
            .retain(|name, _| sinks.iter().any(|(sink, _)| sink == name));
        let is_point = noted.looks.is_multiple_of(LOOKS_A_POINT);
        for (name, lag) in sinks {
            let sink = noted.sinks.entry(name.to_owned()).or_default();
            sink.seconds = sink.seconds.into_iter().chain(lag.seconds).reduce(f64::max);
            sink.bytes = sink.bytes.max(lag.bytes);
            if is_point {
                if sink.points.len() == POINTS_MAX {
                    sink.points.pop_front();
                }
                let point = (sink.seconds.take(), sink.bytes.take());
                sink.points.push_back(point);
            }
        }
    }

    /// Since when a part is in this state, if that was noted.
    pub(super) fn since(&self, part: &str, state: State) -> Option<u64> {
        let noted = self.lock();
        let (known, since) = noted.parts.get(part)?;
        (*known == state).then_some(*since)
    }

    /// All of it.
    pub(super) fn report(&self) -> HistoryReport {
        let noted = self.lock();
        let sinks = noted.sinks.iter().map(|(name, sink)| SinkHistory {
            name: name.clone(),
            lag_seconds: sink.points.iter().map(|point| point.0).collect(),
            lag_bytes: sink.points.iter().map(|point| point.1).collect(),
        });
        HistoryReport {
            every_seconds: LOOKS_A_POINT * LOOK_EVERY.as_secs() as u32,
            sinks: sinks.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lag(seconds: Option<f64>) -> Lag {
        Lag {
            seconds,
            bytes: seconds.map(|s| s as u64 * 100),
            ..Lag::default()
        }
    }

    #[test]
    fn a_point_is_the_largest_of_ten_looks_and_the_oldest_go() {
        let history = History::default();
        for second in 0..10 * POINTS_MAX as u64 + 30 {
            let seconds = (second != 0).then_some((second % 10) as f64);
            history.note([].into_iter(), [("a", lag(seconds))].into_iter(), second);
        }
        for second in 0..10 {
            history.note([].into_iter(), [("a", lag(None))].into_iter(), second);
        }
        let report = history.report();
        assert_eq!((report.every_seconds, report.sinks.len()), (10, 1));
        let sink = &report.sinks[0];
        assert_eq!(sink.lag_seconds.len(), POINTS_MAX);
        assert_eq!(sink.lag_seconds[POINTS_MAX - 1], None, "nothing was known");
        assert_eq!(sink.lag_seconds[POINTS_MAX - 2], Some(9.0));
        assert_eq!(sink.lag_bytes[0], Some(900));
    }

    #[test]
    fn a_state_is_known_since_it_was_first_seen() {
        let history = History::default();
        let states = [State::Starting, State::Streaming, State::Streaming];
        for (second, state) in (100..).zip(states) {
            history.note([("a", state)].into_iter(), [].into_iter(), second);
        }
        assert_eq!(history.since("a", State::Streaming), Some(101));
        assert_eq!(history.since("a", State::Halted), None, "not seen yet");
        assert_eq!(history.since("b", State::Halted), None);
    }
}
