//! Where the replay of a range of transactions begins, and whether Kafka still has all of it.
//!
//! A range begins and ends at boundaries, which may lie inside of entries: what is read of an entry is counted
//! as a whole, and only the transactions inside of the range are handed on. Records that have expired are
//! looked for before anything is shown; whether all are there is for the counts to say.

use std::collections::{BTreeMap, BTreeSet};

use super::follow::{Standing, Terms, is_beyond};
use crate::config::KafkaSettings;
use crate::error::{Error, Result};
use crate::log::commit_log::{BatchEntry, Entry};
use crate::log::copies::CopyLedger;
use crate::log::held::{End, Watermarks, watermark, watermarks_of};
use crate::log::tail::{From, LogTail};
use crate::model::checkpoint::LogPlace;
use crate::model::{Checkpoint, Lsn, TableName};

/// Transactions with `from <= commit LSN < to`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// None: from where the log begins.
    pub from: Option<Lsn>,
    /// None: up to where the log ends now.
    pub to: Option<Lsn>,
}

/// Reads the log to its end as it is now. A checkpoint for a store without a memory of its own, from which a
/// session shows exactly the range; none when there is nothing in it.
///
/// # Errors
/// Halt when the log does not reach so far, in either direction, when records of the range have expired, or
/// when no table is taken; else those of Kafka.
pub async fn beginning(
    kafka: &KafkaSettings,
    terms: &Terms,
    range: Range,
) -> Result<Option<Checkpoint>> {
    // What expires while the log is read is found by the counts.
    let lows = watermarks_of(kafka, &terms.topics, End::Low).await?;
    let mut tail = LogTail::open(kafka, &terms.topics.commits(), From::Low).await?;
    let mut scout = Scout::at_low_end(tail.low(), range, terms, &lows);
    while let Some((offset, entry)) = tail.next_there().await? {
        scout.see(offset, &entry)?;
    }
    scout.finish()
}

/// Records of the range that are not there any more.
#[derive(Clone, Debug)]
struct Expired {
    table: TableName,
    topic: String,
    partition: i32,
    /// From the end of their entry on it may be whole.
    up_to: Lsn,
}

/// The commit log as far as it was seen.
struct Scout<'a> {
    range: Range,
    terms: &'a Terms,
    lows: &'a Watermarks,
    is_trimmed: bool,
    /// Where the range begins, or on the way there.
    start: Standing,
    start_stays: bool,
    /// At the log's end.
    end: Standing,
    topics: BTreeMap<String, TableName>,
    taken: BTreeSet<TableName>,
    begins: Option<Lsn>,
    expired: Option<Expired>,
}

impl<'a> Scout<'a> {
    fn at_low_end(low: i64, range: Range, terms: &'a Terms, lows: &'a Watermarks) -> Self {
        let nothing = Checkpoint::beginning(0, LogPlace::at_low_end(low));
        let end = Standing::at(&nothing, CopyLedger::new());
        let start = Standing {
            target: Some(range.from.unwrap_or(Lsn::ZERO)),
            ..end.clone()
        };
        Scout {
            range,
            terms,
            lows,
            is_trimmed: low > 0,
            start,
            start_stays: false,
            end,
            topics: BTreeMap::new(),
            taken: BTreeSet::new(),
            begins: None,
            expired: None,
        }
    }

    fn see(&mut self, offset: i64, entry: &Entry) -> Result<()> {
        if !self.start_stays {
            self.start_stays = !self.start.step_to_target(offset, entry, self.terms)?;
        }
        let before = self.end.place.last_valid;
        self.end.step(offset, entry, self.terms)?;
        if self.end.place.last_valid == before {
            return Ok(());
        }
        match entry {
            Entry::Batch(batch) => {
                self.begins.get_or_insert(batch.from);
                self.look_for(batch);
            }
            Entry::Epoch(_) => {
                self.topics = self.end.topics(self.terms);
                self.taken.extend(self.topics.values().cloned());
            }
            Entry::CopyBegin(_) | Entry::CopyEnd(_) => {}
        }
        Ok(())
    }

    /// Notes what has expired of an entry in the range.
    fn look_for(&mut self, batch: &BatchEntry) {
        let Range { from, to } = self.range;
        let is_inside =
            from.is_none_or(|from| batch.to > from) && to.is_none_or(|to| batch.from < to);
        let topics = batch.offsets.iter().filter(|_| is_inside);
        for (topic, extents) in topics {
            let Some(table) = self.topics.get(topic) else {
                continue;
            };
            let gone = extents.iter().find(|(partition, extent)| {
                extent.has_expired(watermark(self.lows, topic, **partition))
            });
            if let Some((partition, _)) = gone {
                self.expired = Some(Expired {
                    table: table.clone(),
                    topic: topic.clone(),
                    partition: *partition,
                    up_to: batch.to,
                });
            }
        }
    }

    fn finish(self) -> Result<Option<Checkpoint>> {
        let Some(ends) = self.end.place.to else {
            return Ok(None);
        };
        let Range { from, to } = self.range;
        if self.taken.is_empty() {
            return Err(Error::halt(
                "no captured table is called so",
                "walferry history shows all that are captured",
            ));
        }
        if let Some(beyond) = [from, to].into_iter().flatten().find(|lsn| *lsn > ends) {
            return Err(is_beyond(ends, beyond));
        }
        let to = to.unwrap_or(ends);
        self.is_there(to)?;
        let place = self.start.place;
        let reached = place.to.or(self.begins).unwrap_or(Lsn::ZERO);
        // Inside of the entry that comes next.
        let split = from.filter(|from| *from > reached);
        let first = split.unwrap_or(reached);
        if first >= to {
            return Ok(None);
        }
        Ok(Some(Checkpoint {
            applied: first,
            in_effect: self.start.in_effect,
            system_id: self.start.system_id,
            timeline: self.start.timeline,
            target: Some(to),
            split,
            ..Checkpoint::beginning(0, place)
        }))
    }

    /// Whether nothing of the range is known to be gone.
    fn is_there(&self, to: Lsn) -> Result<()> {
        if let Some(from) = self.range.from.filter(|from| *from > to) {
            return Err(Error::halt(
                format!("the range ends at {to}, before it begins, at {from}"),
                "name a position to begin at that is before its end",
            ));
        }
        let cut = self.begins.filter(|_| self.is_trimmed);
        if let Some((from, begins)) = self
            .range
            .from
            .zip(cut)
            .filter(|(from, begins)| from < begins)
        {
            return Err(Error::halt(
                format!(
                    "the commit log begins at {begins}, and {from} is before: what was there has been trimmed"
                ),
                format!("begin there: --from-lsn {begins}"),
            ));
        }
        let Some(expired) = &self.expired else {
            return Ok(());
        };
        let Expired {
            table,
            topic,
            partition,
            up_to,
        } = expired;
        let remedy = if *up_to < to {
            format!("begin behind them: --from-lsn {up_to}")
        } else {
            format!("name a range behind {up_to}, or leave {table} out with --tables")
        };
        Err(Error::halt(
            format!(
                "retention has removed changes of {table} from topic {topic} partition {partition}: not all up to \
                 {up_to} are there"
            ),
            remedy,
        ))
    }
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
