//! Lag of followers, from samples of the leader and applied boundaries.
//!
//! The source puts (leader's flush LSN, leader's clock) into the commit log about once a second.
//! [`LagTracker`] keeps them and answers, for an applied boundary, how far behind it is. It is pure:
//! the time is handed in. Progress is by LSN only; clocks serve to print seconds, and the leader's
//! clock is known through its samples, so this host's clock may be wrong. [`run_feed`] tails the
//! commit log for it.
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

/// Samples kept. At one a second this is over an hour in full resolution; beyond, the older half is thinned.
const SAMPLES_MAX: usize = 4096;

/// Samples over which the smallest difference of clocks is taken: about two minutes.
const OFFSETS_MAX: usize = 120;

/// A newest sample older than this says nothing about the leader now.
const FRESH_MAX_US: i64 = 3_000_000;

/// Samples further apart than this are not neighbours: nobody looked in between. Sampler and heartbeats
/// beat once a second each, so that up to two seconds are usual.
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

    /// The log is going to be read from an older place again: until [`LagTracker::caught_up`] the
    /// newest sample known is not the newest there is.
    pub fn behind(&mut self) {
        self.samples.clear();
        self.waiting.begin();
        self.caught_up = false;
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
                .filter(|_| self.caught_up)
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

    /// The lag of a sink as its view stands. While it copies it promises nothing, so nothing is known.
    pub fn sink_lag(&self, view: &SinkView, now_us: i64) -> Lag {
        match view.applied {
            None => Lag::default(),
            Some(_) if view.copying => Lag::default(),
            Some(applied) => {
                let lag = self.lag(applied, view.commit_time_us, now_us);
                let from = view.log_offset.filter(|_| self.caught_up);
                let stale = lag.staleness_seconds;
                let headroom = self.retention_seconds.zip(stale);
                Lag {
                    waiting: from.and_then(|offset| self.waiting.from(offset)),
                    retention_headroom_seconds: headroom
                        .map(|(kept, stale)| (kept - stale).max(0.0)),
                    ..lag
                }
            }
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
mod tests {
    use super::*;

    const S: i64 = 1_000_000;

    fn sample(flush: u64, at_s: i64) -> Sample {
        Sample {
            flush: Lsn(flush),
            clock_us: at_s * S,
        }
    }

    /// A tracker that has read the log and then got these (flush, leader's second) as they came,
    /// each `delay_us` after it was taken, on a host whose clock is `skew_us` ahead of the leader's.
    fn live(samples: &[(u64, i64)], skew_us: i64, delay_us: i64) -> LagTracker {
        let mut tracker = LagTracker::new();
        tracker.caught_up();
        for (flush, at_s) in samples {
            tracker.take(sample(*flush, *at_s), at_s * S + skew_us + delay_us);
        }
        tracker
    }

    #[test]
    fn an_idle_leader_with_everything_applied_is_zero_behind() {
        let tracker = live(&[(100, 10), (100, 11), (100, 12)], 0, 0);
        let lag = tracker.lag(Lsn(100), None, 12 * S + S / 2);
        assert_eq!(lag.bytes, Some(0));
        assert_eq!(lag.seconds, Some(0.0));
        assert_eq!(lag.staleness_seconds, Some(0.5));
    }

    #[test]
    fn a_busy_leader_is_measured_from_the_first_sample_above_the_boundary() {
        let tracker = live(&[(100, 10), (200, 11), (300, 12), (400, 13)], 0, 0);
        let lag = tracker.lag(Lsn(250), None, 14 * S);
        assert_eq!(lag.bytes, Some(150));
        assert_eq!(lag.seconds, Some(2.0), "sample 300 was taken at 12");
        assert_eq!(
            lag.staleness_seconds,
            Some(3.0),
            "sample 200 was taken at 11"
        );
    }

    #[test]
    fn a_paused_follower_falls_behind_second_by_second() {
        let mut tracker = live(&[(100, 10)], 0, 0);
        for at in 11..600 {
            tracker.take(sample(100 * at as u64, at), at * S);
            let lag = tracker.lag(Lsn(100), None, at * S);
            assert_eq!(lag.bytes, Some(100 * at as u64 - 100));
            assert_eq!(lag.seconds, Some((at - 11) as f64));
            assert_eq!(lag.staleness_seconds, Some((at - 10) as f64));
        }
    }

    #[test]
    fn a_dead_source_makes_zero_unknown_and_staleness_grow() {
        let tracker = live(&[(100, 10)], 0, 0);
        let just_fresh = tracker.lag(Lsn(100), None, 13 * S - 1);
        assert_eq!((just_fresh.bytes, just_fresh.seconds), (Some(0), Some(0.0)));
        for (now_s, staleness) in [(13, 3.0), (20, 10.0), (4000, 3990.0)] {
            let lag = tracker.lag(Lsn(100), None, now_s * S);
            assert_eq!((lag.bytes, lag.seconds), (None, None));
            assert_eq!(lag.staleness_seconds, Some(staleness));
        }
    }

    #[test]
    fn what_is_known_to_be_missing_stays_known_when_the_source_dies() {
        let tracker = live(&[(100, 10), (200, 11)], 0, 0);
        let lag = tracker.lag(Lsn(100), None, 100 * S);
        assert_eq!(lag.bytes, None, "how much the leader has by now is unknown");
        assert_eq!(lag.seconds, Some(89.0), "it had more at 11");
        assert_eq!(lag.staleness_seconds, Some(90.0));
    }

    #[test]
    fn a_wrong_clock_on_this_host_changes_nothing() {
        for skew in [-3600 * S, -S, 0, 5 * S, 86_400 * S] {
            let tracker = live(&[(100, 10), (200, 11), (300, 12)], skew, 0);
            let lag = tracker.lag(Lsn(200), None, 13 * S + skew);
            assert_eq!(lag.bytes, Some(100), "{skew}");
            assert_eq!(lag.seconds, Some(1.0), "{skew}");
            assert_eq!(lag.staleness_seconds, Some(2.0), "{skew}");
        }
    }

    #[test]
    fn samples_that_come_in_a_burst_after_a_pause_do_not_move_the_clock() {
        let mut tracker = live(&[(100, 10), (200, 11)], 0, 0);
        // Kafka was away; what was sampled from 12 to 40 comes at 41, all at once.
        for at in 12..=40 {
            tracker.take(sample(100 * at as u64, at), 41 * S);
        }
        let lag = tracker.lag(Lsn(1200), None, 41 * S);
        assert_eq!(lag.seconds, Some(28.0), "sample 1300 was taken at 13");
        assert_eq!(lag.bytes, Some(2800));
    }

    #[test]
    fn old_samples_read_from_the_log_are_not_taken_for_fresh_ones() {
        let mut tracker = LagTracker::new();
        tracker.behind();
        tracker.take_old(sample(100, 10));
        tracker.take_old(sample(200, 11));
        let reading = tracker.lag(Lsn(200), None, 1000 * S);
        assert_eq!((reading.bytes, reading.seconds), (None, None));
        assert_eq!(reading.staleness_seconds, Some(989.0));
        tracker.caught_up();
        let source_dead = tracker.lag(Lsn(200), None, 1000 * S);
        assert_eq!((source_dead.bytes, source_dead.seconds), (None, None));
        tracker.take(sample(300, 1000), 1000 * S);
        let live = tracker.lag(Lsn(100), None, 1001 * S);
        assert_eq!(live.bytes, Some(200));
        assert_eq!(live.seconds, Some(990.0), "the leader had more at 11");
    }

    #[test]
    fn a_follower_behind_every_sample_has_the_staleness_of_its_last_commit() {
        let tracker = live(&[(500, 100)], 0, 0);
        assert_eq!(tracker.lag(Lsn(100), None, 100 * S).staleness_seconds, None);
        let lag = tracker.lag(Lsn(100), Some(40 * S), 100 * S);
        assert_eq!(lag.staleness_seconds, Some(60.0));
    }

    #[test]
    fn memory_is_bounded_and_thinning_only_enlarges_lag() {
        let mut tracker = LagTracker::new();
        tracker.caught_up();
        let days = 3 * 86_400;
        for at in 1..=days {
            tracker.take(sample(10 * at as u64, at), at * S);
            assert!(tracker.samples.len() <= SAMPLES_MAX);
        }
        for applied_s in [1, 1000, 86_400, days - 10, days] {
            let lag = tracker.lag(Lsn(10 * applied_s as u64), Some(0), days * S);
            let exact = (days - applied_s) as f64;
            let seconds = lag.seconds.unwrap();
            assert!(
                seconds >= (exact - 1.0).max(0.0),
                "{applied_s}: {seconds} {exact}"
            );
            assert!(lag.staleness_seconds.unwrap() >= exact, "{applied_s}");
        }
    }

    #[test]
    fn a_copying_sink_promises_nothing() {
        let tracker = live(&[(100, 10)], 0, 0);
        let mut view = SinkView {
            applied: Some(Lsn(100)),
            state: crate::status::State::Retrying,
            copying: true,
            ..SinkView::default()
        };
        assert_eq!(tracker.sink_lag(&view, 10 * S), Lag::default());
        view.copying = false;
        assert_eq!(tracker.sink_lag(&view, 10 * S).bytes, Some(0));
    }

    #[test]
    fn behind_every_sample_the_last_applied_commit_is_the_bound_or_seconds_are_absent() {
        let tracker = live(&[(500, 100), (600, 101)], 0, 0);
        let unknown = tracker.lag(Lsn(100), None, 102 * S);
        assert_eq!((unknown.bytes, unknown.seconds), (Some(500), None));
        assert_eq!(unknown.staleness_seconds, None);
        let bound = tracker.lag(Lsn(100), Some(10 * S), 102 * S);
        assert_eq!(bound.seconds, Some(92.0), "it had no more at 10");
        assert_eq!(bound.staleness_seconds, Some(92.0));
        let caught_up = tracker.lag(Lsn(600), Some(10 * S), 102 * S);
        assert_eq!(caught_up.seconds, Some(0.0));
    }

    #[test]
    fn an_hour_without_a_source_is_not_forgotten_when_it_is_back() {
        // The leader was written all the time; nobody sampled it from 11 to 3611.
        let mut tracker = live(&[(100, 10), (200, 11)], 0, 0);
        for at in 3611..3620 {
            tracker.take(sample(9000 + at as u64, at), at * S);
        }
        let before = tracker.lag(Lsn(200), None, 3620 * S);
        assert_eq!(before.seconds, Some(3609.0), "perhaps since 11, not 3611");
        assert_eq!(before.staleness_seconds, Some(3609.0));
        // In the gap the commits that are applied say more.
        let within = tracker.lag(Lsn(5000), Some(1800 * S), 3620 * S);
        assert_eq!(within.seconds, Some(1820.0));
        let behind_it = tracker.lag(Lsn(9000 + 3611), Some(3600 * S), 3620 * S);
        assert_eq!(
            behind_it.seconds,
            Some(8.0),
            "the samples are neighbours again"
        );
    }

    #[test]
    fn a_transaction_that_keeps_entries_from_being_written_counts_from_its_beginning() {
        // No entry from 11 to 611; the one after it brings the newest sample only.
        let tracker = live(&[(100, 10), (100, 11), (9000, 611)], 0, 0);
        let lag = tracker.lag(Lsn(100), Some(5 * S), 612 * S);
        assert_eq!(lag.seconds, Some(601.0));
        // An idle leader in the same time has a sample of the same LSN at the end of it.
        let idle = live(&[(100, 10), (100, 610), (9000, 611)], 0, 0);
        assert_eq!(idle.lag(Lsn(100), Some(5 * S), 612 * S).seconds, Some(1.0));
    }

    #[test]
    fn a_commit_time_beyond_the_first_sample_above_does_not_lower_the_lag() {
        // The leader's clock was set back in between.
        let tracker = live(&[(500, 100)], 0, 0);
        let lag = tracker.lag(Lsn(100), Some(150 * S), 102 * S);
        assert_eq!((lag.seconds, lag.staleness_seconds), (Some(2.0), Some(2.0)));
    }

    proptest::proptest! {
        /// A leader that writes at all times or not, sampled now and then, a follower somewhere:
        /// whatever is missing, seconds are never lower than the truth by more than samples lie apart.
        #[test]
        fn seconds_are_never_lower_than_the_truth(
            written in proptest::collection::vec(0u64..3, 2..200),
            gaps in proptest::collection::vec(1usize..12, 1..200),
            (applied_at, commit_ago) in (0usize..200, proptest::option::of(0usize..40)),
        ) {
            // flush[s]: the leader's flush LSN at second s.
            let flush: Vec<u64> = written
                .iter()
                .scan(100, |lsn, more| { *lsn += more; Some(*lsn) })
                .collect();
            let end = flush.len() - 1;
            let mut tracker = LagTracker::new();
            tracker.caught_up();
            let mut at = gaps[0] - 1;
            for gap in gaps.iter().cycle() {
                if at > end { break; }
                tracker.take(sample(flush[at], at as i64), at as i64 * S);
                at += gap;
            }
            let applied_at = applied_at.min(end);
            let applied = flush[applied_at];
            let commit = commit_ago.map(|ago| applied_at.saturating_sub(ago) as i64 * S);
            let lag = tracker.lag(Lsn(applied), commit, end as i64 * S);
            let truth = flush.iter().position(|lsn| *lsn > applied).map_or(0, |since| end - since);
            if let Some(seconds) = lag.seconds {
                proptest::prop_assert!(seconds + 3.0 >= truth as f64, "{} {} {:?}", seconds, truth, flush);
                let staleness = lag.staleness_seconds.unwrap_or(f64::MAX);
                proptest::prop_assert!(seconds <= staleness);
                proptest::prop_assert!(staleness >= truth as f64);
            }
        }
    }
}
