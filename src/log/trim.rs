//! How far the commit log may be trimmed. Pure: fed every judged entry in log order.
//!
//! The log is cut only at a valid epoch entry, which then counts as valid for whoever begins there.
//! Nobody may need what lies before it: no sink (its progress says from where on it reads), no
//! reader that begins anew (a valid batch behind the epoch entry gives it the log's `to`), and no
//! copy whose rows retention has not taken yet (all before the cut is older than the retention).
//! Ages are differences of samples, so of one clock: the leader's.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::log::commit_log::{Entry, Verdict};
use crate::log::progress::Progress;

/// Valid epoch entries of the log, each with what tells its age.
#[derive(Clone, Debug, Default)]
pub struct TrimPoints {
    points: VecDeque<TrimPoint>,
    /// The leader's clock at the newest sample, microseconds since 2000-01-01 UTC.
    newest_us: Option<i64>,
}

#[derive(Clone, Copy, Debug)]
struct TrimPoint {
    /// Offset of the epoch entry.
    offset: i64,
    /// The leader's clock at the first sample of a valid batch behind it: what lies before is older.
    /// None: no such batch, so a reader that begins here would not know where the log's end is.
    older_than_us: Option<i64>,
}

/// How far the log may be trimmed now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrimTo {
    /// Offset of the epoch entry that becomes the oldest; none: there is nothing to trim.
    pub offset: Option<i64>,
    /// The sink, and the offset that it still needs, without which more would be trimmed.
    pub held_by: Option<(String, i64)>,
}

impl TrimPoints {
    /// Notes the next entry and what it was judged to be.
    pub fn judged(&mut self, offset: i64, entry: &Entry, verdict: Verdict) {
        match (entry, verdict) {
            (Entry::Epoch(_), Verdict::Valid) => self.points.push_back(TrimPoint {
                offset,
                older_than_us: None,
            }),
            (Entry::Batch(batch), Verdict::Valid | Verdict::Repeat) => {
                let Some(sample) = batch.sample else { return };
                self.newest_us = self.newest_us.max(Some(sample.clock_us));
                if verdict == Verdict::Valid
                    && let Some(point) = self.points.back_mut()
                {
                    point.older_than_us.get_or_insert(sample.clock_us);
                }
            }
            (Entry::CopyBegin(_) | Entry::CopyEnd(_), _)
            | (Entry::Epoch(_), Verdict::Repeat | Verdict::Void)
            | (Entry::Batch(_), Verdict::Void) => {}
        }
    }

    /// The newest epoch entry at which the log may be trimmed, with records kept for `retention`
    /// and sinks that stand where `sinks` says.
    pub fn trim_to(&self, retention: Duration, sinks: &BTreeMap<String, Progress>) -> TrimTo {
        let furthest_back = sinks
            .values()
            .min_by_key(|progress| progress.log_offset)
            .map(|progress| (progress.sink.clone(), progress.log_offset));
        let retention_us = i64::try_from(retention.as_micros()).unwrap_or(i64::MAX);
        let old = || {
            self.points.iter().filter(move |point| {
                let age_us = self.newest_us.zip(point.older_than_us);
                age_us.is_some_and(|(now, then)| now.saturating_sub(then) >= retention_us)
            })
        };
        let is_free = |point: &&TrimPoint| {
            furthest_back
                .as_ref()
                .is_none_or(|(_, at)| *at >= point.offset)
        };
        // The log begins with the oldest, or has nothing that counts before it.
        let oldest = self.points.front().map(|point| point.offset);
        let newest = |points: &mut dyn Iterator<Item = &TrimPoint>| {
            points
                .map(|point| point.offset)
                .max()
                .filter(|to| Some(*to) != oldest)
        };
        let offset = newest(&mut old().filter(is_free));
        let wished = newest(&mut old());
        TrimTo {
            offset,
            held_by: furthest_back.filter(|_| wished > offset),
        }
    }

    /// Forgets what lay before the cut at this offset.
    pub fn cut(&mut self, offset: i64) {
        self.points.retain(|point| point.offset >= offset);
    }
}

#[cfg(test)]
#[path = "trim_tests.rs"]
mod tests;
