//! Lag of followers, from samples of the leader and applied boundaries.
//!
//! The source samples (leader's flush LSN, leader's clock) twice a second, and each entry of the commit
//! log has the newest sample; on an idle leader there is an entry a second. [`LagTracker`] keeps them
//! and answers, for an applied boundary, how far behind it is. It is pure: the time is handed in.
//! Progress is by LSN only; clocks serve to print seconds, and the leader's clock is known through its
//! samples, so this host's clock may be wrong. [`run_feed`] tails the commit log for it.
//!
//! What is not known is absent, or an upper bound. Samples are missing while the source is down, cannot
//! ask the leader, or writes no entries because a large transaction is under way; the first one after
//! such a gap does not say since when the leader has had more. Nothing here is used to decide what is
//! applied or confirmed.

mod feed;
mod waiting;

use std::collections::VecDeque;
use std::time::{Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::log::commit_log::Sample;
use crate::model::Lsn;
use crate::model::clock::{POSTGRES_EPOCH_US, unix_us};
use crate::status::SinkView;

pub use feed::{LagFeed, SharedTracker, run_feed};
pub use waiting::{Waiting, WaitingTracker};

/// Samples kept. At two a second this is over an hour in full resolution; beyond, the older half is thinned.
const SAMPLES_MAX: usize = 8192;

/// Samples over which the smallest difference of clocks is taken: about two minutes.
const OFFSETS_MAX: usize = 240;

/// A newest sample older than this says nothing about the leader now.
const FRESH_MAX_US: i64 = 3_000_000;

/// Samples further apart than this are not neighbours: nobody looked in between. On an idle leader they
/// come with heartbeats, one a second, so that up to one and a half are usual.
const GAP_MAX_US: i64 = 3_000_000;

/// How far behind a follower is; what is not known is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lag {
    /// WAL bytes between the applied boundary and the leader's newest sampled flush LSN.
    pub bytes: Option<u64>,
    /// Seconds since the leader first had more than is applied, to within the samples' distance; an upper
    /// bound where samples are missing; 0 when it has no more.
    pub seconds: Option<f64>,
    /// Upper bound: seconds since the newest moment whose state is known to be fully applied.
    pub staleness_seconds: Option<f64>,
    /// What waits in Kafka.
    #[serde(default)]
    pub waiting: Option<Waiting>,
    /// Lower bound: seconds until Kafka may expire what the sink still needs.
    #[serde(default)]
    pub retention_headroom_seconds: Option<f64>,
}

/// This host's time in microseconds since 2000-01-01 UTC: set once from the system's clock, monotonic from there.
#[derive(Clone, Copy, Debug)]
pub struct HostClock {
    started: Instant,
    started_us: i64,
}

impl HostClock {
    /// Starts the clock.
    pub fn start() -> Self {
        HostClock {
            started: Instant::now(),
            started_us: unix_us(SystemTime::now()) - POSTGRES_EPOCH_US,
        }
    }

    /// Now.
    pub fn now_us(&self) -> i64 {
        self.started_us + micros(self.started.elapsed())
    }
}

fn micros(time: std::time::Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

/// The samples of one leader.
#[derive(Debug, Default)]
pub struct LagTracker {
    /// In the order of the log: flush never falls.
    samples: VecDeque<Sample>,
    /// Host's receive time minus sample's clock of recent live samples: transport delay plus the
    /// difference of the clocks. The smallest has the least delay in it.
    offsets_us: VecDeque<i64>,
    /// Whether the log has been read to its end since the last [`LagTracker::behind`].
    caught_up: bool,
    /// What lies in the log.
    waiting: WaitingTracker,
    /// The shortest time that a table's topic keeps records, seconds; none: for ever, or not known.
    retention_seconds: Option<f64>,
}

impl LagTracker {
    /// Nothing known.
    pub fn new() -> Self {
        LagTracker::default()
    }

    /// The log cannot be read, or is going to be read from an older place again: until
    /// [`LagTracker::caught_up`] the newest sample known is not the newest there is. What the samples
    /// say of the past stays true.
    pub fn behind(&mut self) {
        self.caught_up = false;
    }

    /// The next entry is from an older place than the last one.
    pub fn begin_anew(&mut self) {
        self.samples.clear();
        self.waiting.begin();
    }

    /// Takes what is in the next valid entry.
    pub fn take_entry(&mut self, offset: i64, of: Waiting) {
        self.waiting.take(offset, of);
    }

    /// How long tables' topics keep records at least, seconds; none: for ever, or not known.
    pub fn keeps(&mut self, retention_seconds: Option<f64>) {
        self.retention_seconds = retention_seconds;
    }

    /// The log has been read to its end.
    pub fn caught_up(&mut self) {
        self.caught_up = true;
    }

    /// Takes a sample that lay in the log already: its time of arrival says nothing.
    pub fn take_old(&mut self, sample: Sample) {
        self.keep(sample);
    }

    /// Takes a sample that has just come, at this host's time.
    pub fn take(&mut self, sample: Sample, received_us: i64) {
        // Several entries may carry the same sample; only its first arrival is about delay.
        if self.samples.back().is_some_and(|last| *last == sample) {
            return;
        }
        self.offsets_us.push_back(received_us - sample.clock_us);
        if self.offsets_us.len() > OFFSETS_MAX {
            self.offsets_us.pop_front();
        }
        self.keep(sample);
    }

    fn keep(&mut self, sample: Sample) {
        if self
            .samples
            .back()
            .is_some_and(|last| last.flush > sample.flush)
        {
            // Not the same WAL any more; comparing across the two would lie.
            self.samples.clear();
        }
        // Of a run of equal LSNs the first says since when, the last until when: more is not needed.
        let count = self.samples.len();
        let run = count >= 2
            && self.samples[count - 1].flush == sample.flush
            && self.samples[count - 2].flush == sample.flush;
        if run {
            self.samples[count - 1] = sample;
            return;
        }
        self.samples.push_back(sample);
        if self.samples.len() > SAMPLES_MAX {
            self.thin_older_half();
        }
    }

    /// Merges pairs of the older half into (later LSN, earlier time): lag can only come out larger.
    fn thin_older_half(&mut self) {
        let half = self.samples.len() / 2 / 2 * 2;
        let newer = self.samples.split_off(half);
        let older = std::mem::take(&mut self.samples);
        let mut pairs = older.into_iter();
        while let (Some(first), Some(second)) = (pairs.next(), pairs.next()) {
            self.samples.push_back(Sample {
                flush: second.flush,
                clock_us: first.clock_us,
            });
        }
        self.samples.extend(newer);
    }

    /// The leader's clock at this host's time `now_us`, when live samples have come.
    fn leader_now_us(&self, now_us: i64) -> Option<i64> {
        self.offsets_us.iter().min().map(|offset| now_us - offset)
    }

    /// The leader's newest known flush LSN, if the sample is fresh.
    pub fn newest_fresh(&self, now_us: i64) -> Option<Lsn> {
        let leader_now_us = self.leader_now_us(now_us)?;
        let newest = self.samples.back()?;
        let fresh = self.caught_up && leader_now_us - newest.clock_us < FRESH_MAX_US;
        fresh.then_some(newest.flush)
    }

    /// The lag of a follower with this applied boundary at this host's time. `commit_time_us` is the
    /// leader's clock at the last applied commit, taken before the commit was in the WAL: at that moment
    /// the leader had no more than is applied now.
    pub fn lag(&self, applied: Lsn, commit_time_us: Option<i64>, now_us: i64) -> Lag {
        let newest = self.newest_fresh(now_us);
        let leader_now_us = self.leader_now_us(now_us);
        let above = self.samples.partition_point(|s| s.flush <= applied);
        let first = self.samples.get(above);
        let below_us = above.checked_sub(1).map(|at| self.samples[at].clock_us);
        // Where the leader's clock was set back, a commit may seem later than what came after it.
        let had_no_more_us = match first {
            Some(first) => below_us
                .max(commit_time_us)
                .map(|at| at.min(first.clock_us)),
            None => below_us.or(commit_time_us),
        };
        let seconds = match (first, leader_now_us) {
            (Some(first), Some(leader)) => behind_since(first.clock_us, below_us, had_no_more_us)
                .map(|since| seconds_between(since, leader)),
            (Some(_), None) => None,
            (None, _) => newest.map(|_| 0.0),
        };
        // Without a live sample the best guess of the leader's clock is this host's.
        let leader_us = leader_now_us.unwrap_or(now_us);
        Lag {
            bytes: newest.map(|flush| flush.bytes_since(applied)),
            seconds,
            staleness_seconds: had_no_more_us.map(|at| seconds_between(at, leader_us)),
            ..Lag::default()
        }
    }

    /// The lag of a sink as its view stands. While it lacks tables it promises nothing, so nothing is
    /// known: not even while it does not copy, as its follower or its source cannot be reached.
    pub fn sink_lag(&self, view: &SinkView, now_us: i64) -> Lag {
        let Some(applied) = view.applied.filter(|_| !view.copying) else {
            return Lag::default();
        };
        let lag = self.lag(applied, view.commit_time_us, now_us);
        let from = view.log_offset.filter(|_| self.caught_up);
        let headroom = self.retention_seconds.zip(lag.staleness_seconds);
        Lag {
            waiting: from.and_then(|offset| self.waiting.from(offset)),
            retention_headroom_seconds: headroom.map(|(kept, stale)| (kept - stale).max(0.0)),
            ..lag
        }
    }
}

/// Since when the leader has had more than is applied: the first sample that has more, if the one
/// before it (`below_us`) is its neighbour; else the newest moment at which it is known to have had no
/// more, which is no later than the truth; `None` when no such moment is known.
fn behind_since(first_us: i64, below_us: Option<i64>, had_no_more_us: Option<i64>) -> Option<i64> {
    match below_us {
        Some(below) if first_us - below <= GAP_MAX_US => Some(first_us),
        Some(_) | None => had_no_more_us,
    }
}

fn seconds_between(from_us: i64, to_us: i64) -> f64 {
    to_us.saturating_sub(from_us).max(0) as f64 / 1e6
}

#[cfg(test)]
mod tests;
