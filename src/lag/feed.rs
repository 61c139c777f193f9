//! Feeds the tracker from the commit log: one reader a process, apart from the sinks' own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::{HostClock, LagTracker, Waiting};
use crate::config::KafkaSettings;
use crate::error::Result;
use crate::log::commit_log::{BatchEntry, Entry, Sample, Verdict, judge};
use crate::log::tail::{From, LogTail};
use crate::log::topics::{TopicAdmin, Topics};
use crate::model::checkpoint::LogPlace;
use crate::status::{LeaderClock, ProcessStatus, Reading};

/// Longest wait before the log is opened again.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// How often it is looked whether a sink turned out to be further back than the feed began.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How often topics are asked for how long they keep records.
const RETENTION_EVERY: Duration = Duration::from_secs(600);
/// The same when they did not answer, or may not.
const RETENTION_RETRY: Duration = Duration::from_secs(60);

/// Entries that are read before a sink's place: a sample that the sink has passed says since when the
/// leader has more.
const LOOK_BACK: i64 = 512;

/// A tracker with one writer and any number of readers.
#[derive(Clone, Debug, Default)]
pub struct SharedTracker(Arc<Mutex<LagTracker>>);

impl SharedTracker {
    /// The tracker. Held for the moment of one question or one sample.
    pub fn lock(&self) -> MutexGuard<'_, LagTracker> {
        // Samples are plain numbers: a panic elsewhere leaves none half-done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the feed works with.
pub struct LagFeed {
    /// Kafka's settings.
    pub kafka: KafkaSettings,
    /// Names of topics.
    pub topics: Topics,
    /// Has the sinks whose lag is asked for: the feed begins shortly before the furthest back of them.
    pub status: ProcessStatus,
    /// What is fed.
    pub tracker: SharedTracker,
    /// What the leader's clock says, for all parts of the process.
    pub leader_clock: Arc<LeaderClock>,
    /// This host's clock, the same that readers of the tracker use.
    pub clock: HostClock,
    /// Asks it to return.
    pub stop: CancellationToken,
}

/// Reads the commit log until asked to stop; opens it again after errors, which mean unknown lag only.
pub async fn run_feed(feed: LagFeed) {
    tokio::select! {
        () = feed.stop.cancelled() => {}
        () = feed.ask_retention() => {}
        () = feed.keep_following() => {}
    }
}

impl LagFeed {
    /// Asks topics for how long they keep records, now and then; not knowing it is said by an absent metric.
    async fn ask_retention(&self) {
        loop {
            let kept = match TopicAdmin::open(&self.kafka) {
                Ok(admin) => admin.shortest_retention(&self.topics).await,
                Err(error) => Err(error),
            };
            let wait = match kept {
                // The source is about to make them.
                Ok(None) => RETRY_MAX,
                Ok(Some(kept)) => {
                    let seconds = kept.map(|kept| kept.as_secs_f64());
                    self.tracker.lock().keeps(seconds);
                    RETENTION_EVERY
                }
                Err(error) => {
                    tracing::debug!(error = %error.what(), "retention of topics is not known");
                    RETENTION_RETRY
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    async fn keep_following(&self) {
        let mut wait = Duration::from_millis(500);
        let mut said: Option<String> = None;
        loop {
            let Err(error) = self.follow(&mut wait).await else {
                continue;
            };
            let what = error.what();
            if said.as_ref() != Some(&what) {
                tracing::warn!(error = %what, "lag is unknown until the commit log can be read again");
                said = Some(what);
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RETRY_MAX);
        }
    }

    /// Opens the log and follows it; returns when a sink turns out to stand before its beginning.
    async fn follow(&self, wait: &mut Duration) -> Result<()> {
        self.tracker.lock().behind();
        // The log's end now: what lies below it has come before we looked.
        let commits = self.topics.commits();
        let mut probe = LogTail::open(&self.kafka, &commits, From::End).await?;
        let (low, (_, high)) = (probe.low(), probe.read_to_end().await?);
        drop(probe);
        let wanted = self.furthest_back(low).map_or(high, |back| back.min(high));
        let begin = wanted.saturating_sub(LOOK_BACK).max(low);
        let from = From::Offset(begin);
        let mut tail = LogTail::open(&self.kafka, &commits, from).await?;
        *wait = Duration::from_millis(500);
        let mut place = LogPlace::at_low_end(begin);
        if begin >= high {
            let mut tracker = self.tracker.lock();
            tracker.begin_anew();
            tracker.caught_up();
        }
        let mut first = true;
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            let (offset, entry) = tokio::select! {
                next = tail.next() => next?,
                _ = look.tick() => {
                    if self.furthest_back(low).is_some_and(|back| back < wanted) {
                        return Ok(());
                    }
                    continue;
                }
            };
            if std::mem::take(&mut first) {
                self.tracker.lock().begin_anew();
            }
            self.take(&mut place, offset, &entry, offset < high);
            if offset + 1 >= high {
                self.tracker.lock().caught_up();
            }
        }
    }

    fn take(&self, place: &mut LogPlace, offset: i64, entry: &Entry, old: bool) {
        let Some((of, sample)) = brings(place, offset, entry) else {
            return;
        };
        let mut tracker = self.tracker.lock();
        tracker.take_entry(offset, of);
        match sample {
            None => {}
            Some(sample) if old => tracker.take_old(sample),
            Some(sample) => {
                let now_us = self.clock.now_us();
                tracker.take(sample, now_us);
                if let Some(us) = tracker.leader_now_us(now_us) {
                    let at = Instant::now();
                    self.leader_clock.heard(Reading { us, at });
                }
            }
        }
    }

    /// The smallest commit-log offset among the sinks that know theirs and whose place is still in
    /// the log: trimming halts its sink, and lag of the others goes on.
    fn furthest_back(&self, low: i64) -> Option<i64> {
        let parts = self.status.parts();
        let offsets = parts.sinks.iter().filter_map(|s| s.view.get().log_offset);
        offsets.filter(|offset| *offset >= low).min()
    }
}

/// What the entry brings, if it is a batch of the current source: what waits with it, and its sample.
/// A repeat brings its sample only, which is how an idle source goes on sampling: its records are those
/// of an entry before it.
fn brings(place: &mut LogPlace, offset: i64, entry: &Entry) -> Option<(Waiting, Option<Sample>)> {
    let Entry::Batch(batch) = entry else {
        // What an epoch or a copy says moves the place only; a hole is met again by the next batch.
        let _verdict = judge(place, offset, entry);
        return None;
    };
    let before = place.clone();
    let verdict = match judge(place, offset, entry) {
        Ok(Verdict::Void) if began_without_its_epoch(&before, batch) => None,
        Ok(verdict) => Some(verdict),
        // A hole halts the sinks; the sample is still the leader's. Judge on from here.
        Err(_hole) => None,
    };
    let verdict = match verdict {
        Some(verdict) => verdict,
        None => {
            *place = LogPlace::at_low_end(offset);
            judge(place, offset, entry).ok()?
        }
    };
    let of = match verdict {
        Verdict::Valid => Waiting {
            entries: u64::from(batch.changes > 0),
            changes: batch.changes,
            bytes: batch.bytes,
        },
        Verdict::Repeat => Waiting::default(),
        Verdict::Void => return None,
    };
    Some((of, batch.sample))
}

/// The feed may begin between an epoch entry and the batches of that epoch, on an entry of an
/// older source. A source writes batches only after its own epoch entry proved valid, so a higher
/// epoch is the newer one.
fn began_without_its_epoch(place: &LogPlace, batch: &BatchEntry) -> bool {
    place.epoch.is_none_or(|known| known < batch.epoch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Epoch, Lsn};

    fn batch(epoch: u64, (from, to): (u64, u64), changes: u64, clock_us: i64) -> Entry {
        Entry::Batch(BatchEntry {
            epoch: Epoch(epoch),
            from: Lsn(from),
            to: Lsn(to),
            last_commit: None,
            transactions: changes.min(1),
            changes,
            bytes: 10 * changes,
            offsets: Default::default(),
            sample: Some(Sample {
                flush: Lsn(to),
                clock_us,
            }),
        })
    }

    /// Changes that each entry adds to what waits, and the clock of its sample.
    fn brought(entries: &[Entry]) -> Vec<Option<(u64, i64)>> {
        let mut place = LogPlace::at_low_end(0);
        let each = (0..).zip(entries).map(|(offset, entry)| {
            let (of, sample) = brings(&mut place, offset, entry)?;
            assert_eq!((of.entries, of.bytes), (of.changes.min(1), 10 * of.changes));
            Some((of.changes, sample?.clock_us))
        });
        each.collect()
    }

    #[test]
    fn a_repeated_entry_brings_its_sample_and_does_not_wait_twice() {
        let log = [
            batch(7, (10, 20), 3, 1),
            batch(7, (20, 30), 5, 2),
            // The producer sent it twice.
            batch(7, (20, 30), 5, 3),
            // An idle source.
            batch(7, (30, 30), 0, 4),
            batch(7, (30, 40), 2, 5),
        ];
        let wanted = [(3, 1), (5, 2), (0, 3), (0, 4), (2, 5)].map(Some);
        assert_eq!(brought(&log), wanted);
    }

    #[test]
    fn entries_of_an_older_source_bring_nothing_and_those_behind_a_hole_do() {
        let log = [
            batch(7, (10, 20), 3, 1),
            batch(6, (20, 30), 5, 2),
            batch(7, (40, 50), 4, 3),
            // The feed has not seen the epoch entry of this one.
            batch(8, (50, 60), 1, 4),
        ];
        let wanted = [Some((3, 1)), None, Some((4, 3)), Some((1, 4))];
        assert_eq!(brought(&log), wanted);
    }
}
