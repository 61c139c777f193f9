//! The partitions that one consumer reads: where it stands in each, and how many it keeps.
//!
//! Each assigned partition is part of every request for records, has its share of the read-ahead, and a
//! partition that is assigned waits for the request under way. So topics are read ahead of their
//! turn, those that were read lately stay assigned, and no others do: with a thousand tables all of
//! them would be asked for fifty times a second.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::take::{Taken, Taker};
use crate::error::{COPY_ANEW, Class, Error, NEW_PIPELINE, Result};
use crate::log::commit_log::Extent;
use crate::log::header::RecordHeader;
use crate::log::records::{Record, RecordReader};
use crate::model::{Cursors, TableName};

/// How long one blocking read lasts before the worker looks whether it is asked to stop.
const READ_SLICE: Duration = Duration::from_millis(100);
/// How long records that Kafka acknowledged may stay away before its watermarks are looked at.
const MISSING_AFTER: Duration = Duration::from_secs(20);
/// How long they may stay away at all before the session is begun again.
const GIVE_UP_AFTER: Duration = Duration::from_secs(120);

/// What records are read from: [`RecordReader`], and in tests partitions in memory.
pub trait Records {
    /// As [`RecordReader::assign`].
    fn assign(&mut self, topic: &str, partition: i32, offset: i64) -> Result<()>;
    /// As [`RecordReader::unassign`].
    fn unassign(&mut self, topic: &str, partition: i32) -> Result<()>;
    /// As [`RecordReader::next`].
    fn next<R>(
        &mut self,
        topic: &str,
        partition: i32,
        timeout: Duration,
        take: impl FnOnce(Record<'_>) -> R,
    ) -> Result<Option<R>>;
    /// As [`RecordReader::watermarks`].
    fn watermarks(&self, topic: &str, partition: i32) -> Result<(i64, i64)>;
    /// As [`RecordReader::lows`].
    fn lows(&self, partitions: &[(&str, i32)]) -> Result<Vec<i64>>;
    /// As [`RecordReader::introduce`].
    fn introduce(&mut self, topics: &[&str]);
}

impl Records for RecordReader {
    fn assign(&mut self, topic: &str, partition: i32, offset: i64) -> Result<()> {
        RecordReader::assign(self, topic, partition, offset)
    }
    fn unassign(&mut self, topic: &str, partition: i32) -> Result<()> {
        RecordReader::unassign(self, topic, partition)
    }
    fn next<R>(
        &mut self,
        topic: &str,
        partition: i32,
        timeout: Duration,
        take: impl FnOnce(Record<'_>) -> R,
    ) -> Result<Option<R>> {
        RecordReader::next(self, topic, partition, timeout, take)
    }
    fn watermarks(&self, topic: &str, partition: i32) -> Result<(i64, i64)> {
        RecordReader::watermarks(self, topic, partition)
    }
    fn lows(&self, partitions: &[(&str, i32)]) -> Result<Vec<i64>> {
        RecordReader::lows(self, partitions)
    }
    fn introduce(&mut self, topics: &[&str]) {
        RecordReader::introduce(self, topics.iter().copied());
    }
}

/// Why reading ended early.
#[derive(Debug)]
pub enum Cut {
    /// The worker is asked to stop.
    Stopped,
    /// Records are missing: the main reader halts; a join refuses its copy for this table.
    Lost {
        /// The table.
        table: TableName,
        /// Topic, partition, offsets, counts.
        what: String,
    },
    /// Anything else.
    Failed(Error),
}

impl From<Error> for Cut {
    fn from(error: Error) -> Self {
        Cut::Failed(error)
    }
}

impl Cut {
    /// As an error of the main reader; `None`: asked to stop.
    pub fn into_error(self) -> Option<Error> {
        match self {
            Cut::Stopped => None,
            Cut::Lost { what, .. } => Some(Error::halt(
                format!("{what}: retention has passed them, or the topic was made anew"),
                COPY_ANEW,
            )),
            Cut::Failed(error) => Some(error),
        }
    }
}

/// Partitions that stay assigned; more only while they are read.
const ASSIGNED_MAX: usize = 128;
/// Partitions of an entry that are assigned ahead of their turn.
pub const AHEAD: usize = 64;

/// One topic that is read.
#[derive(Debug, Default)]
struct Reading {
    /// Offset of the next record, by partition.
    next: BTreeMap<i32, i64>,
    /// When it was read last, counted in topics; none: it is being read.
    rests_since: Option<u64>,
}

/// Partitions of one consumer, and where it stands in each.
pub struct Partitions<R> {
    records: R,
    topics: BTreeMap<String, Reading>,
    assigned: usize,
    rested: u64,
    stop: CancellationToken,
}

impl<R: Records> Partitions<R> {
    /// Nothing is assigned yet.
    pub fn new(records: R, stop: CancellationToken) -> Self {
        Partitions {
            records,
            topics: BTreeMap::new(),
            assigned: 0,
            rested: 0,
            stop,
        }
    }

    /// Topics that are going to be read; as [`RecordReader::introduce`].
    pub fn introduce<'a>(&mut self, topics: impl IntoIterator<Item = &'a String>) {
        let topics: Vec<&str> = topics.into_iter().map(String::as_str).collect();
        self.records.introduce(&topics);
    }

    /// Makes the consumer stand at `cursor`, or at the oldest record if that is newer: whether
    /// anything is missing then is for counts to say. Where it stands.
    pub fn seek(&mut self, topic: &str, partition: i32, cursor: i64) -> Result<i64> {
        if self.next_offset(topic, partition) == Some(cursor) {
            return Ok(cursor);
        }
        let (low, _high) = self.records.watermarks(topic, partition)?;
        let start = cursor.max(low);
        self.stand(topic, partition, start)?;
        Ok(start)
    }

    /// Stands at all cursors at once, as far as that many may stay: a partition that is assigned later waits
    /// for the request under way. As [`Partitions::seek`].
    pub fn seek_all(&mut self, cursors: &Cursors) -> Result<()> {
        let partitions = cursors
            .iter()
            .flat_map(|(topic, at)| at.iter().map(move |(&p, &cursor)| (topic, p, cursor)));
        let names: Vec<(&str, i32)> = partitions
            .clone()
            .map(|(t, p, _)| (t.as_str(), p))
            .collect();
        let lows = self.records.lows(&names)?;
        for ((topic, partition, cursor), low) in partitions.zip(lows).take(ASSIGNED_MAX) {
            self.stand(topic, partition, cursor.max(low))?;
        }
        for topic in cursors.keys() {
            self.rest(topic)?;
        }
        Ok(())
    }

    /// Makes the consumer stand at `offset`, which must be in the partition; it is being read until
    /// [`Partitions::rest`].
    pub fn stand(&mut self, topic: &str, partition: i32, offset: i64) -> Result<()> {
        if self.next_offset(topic, partition) != Some(offset) {
            self.records.assign(topic, partition, offset)?;
        }
        let reading = match self.topics.get_mut(topic) {
            Some(reading) => reading,
            None => self.topics.entry(topic.to_owned()).or_default(),
        };
        reading.rests_since = None;
        if reading.next.insert(partition, offset).is_none() {
            self.assigned += 1;
        }
        Ok(())
    }

    /// Nothing more of a topic is needed by now. Where too many are assigned, the ones that have rested
    /// longest are not any more.
    pub fn rest(&mut self, topic: &str) -> Result<()> {
        self.rested += 1;
        if let Some(reading) = self.topics.get_mut(topic) {
            reading.rests_since = Some(self.rested);
        }
        while self.assigned > ASSIGNED_MAX {
            let resting = self.topics.iter();
            let longest = resting
                .filter_map(|(topic, reading)| Some((reading.rests_since?, topic)))
                .min();
            let Some(longest) = longest.map(|(_since, topic)| topic.clone()) else {
                break;
            };
            self.forget(&longest)?;
        }
        Ok(())
    }

    /// Stops reading a topic.
    pub fn forget(&mut self, topic: &str) -> Result<()> {
        let Some(reading) = self.topics.remove(topic) else {
            return Ok(());
        };
        self.assigned -= reading.next.len();
        for partition in reading.next.into_keys() {
            self.records.unassign(topic, partition)?;
        }
        Ok(())
    }

    /// Offset of the record that comes next, if the partition is assigned.
    pub fn next_offset(&self, topic: &str, partition: i32) -> Option<i64> {
        self.topics.get(topic)?.next.get(&partition).copied()
    }

    /// The next record, if one comes within one slice of time.
    pub fn poll<T>(
        &mut self,
        topic: &str,
        partition: i32,
        timeout: Duration,
        take: impl FnOnce(Record<'_>) -> T,
    ) -> Result<Option<(i64, T)>> {
        let got = self.records.next(topic, partition, timeout, |record| {
            (record.offset, take(record))
        })?;
        if let Some((offset, _)) = &got {
            let reading = self.topics.get_mut(topic);
            let next = reading.and_then(|reading| reading.next.get_mut(&partition));
            *next.expect("assigned, or there would be no record") = offset + 1;
        }
        Ok(got)
    }

    /// Low and high watermark.
    pub fn watermarks(&self, topic: &str, partition: i32) -> Result<(i64, i64)> {
        self.records.watermarks(topic, partition)
    }

    /// Low watermarks, asked all at once.
    pub fn lows(&self, partitions: &[(&str, i32)]) -> Result<Vec<i64>> {
        self.records.lows(partitions)
    }

    /// Whether the worker is asked to stop.
    pub fn stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Where the first record of an entry may lie, read from a cursor on; `low`: the low watermark.
    /// Where retention has passed the cursor the entry is counted first: nothing of one that is no longer whole
    /// is handed on, for a part of it can contradict what the follower has before the count says why.
    pub fn start(
        &mut self,
        place: (&str, i32),
        (cursor, low): (i64, i64),
        taker: &Taker,
    ) -> Result<i64, Cut> {
        if low <= cursor {
            return Ok(cursor);
        }
        match self.count(place, low, taker)? {
            Counted::Whole => Ok(low),
            Counted::Less(trial) => Err(lost_records(place.0, place.1, &trial)),
        }
    }

    /// Where the first record of an entry may lie when no cursor says so; `low`: the low watermark. Looks
    /// back from the entry's `last`, further and further, until the count comes out.
    pub fn locate(&mut self, place: (&str, i32), low: i64, taker: &Taker) -> Result<i64, Cut> {
        let extent = taker.extent();
        let count = i64::try_from(extent.count).unwrap_or(i64::MAX);
        if low == 0 && extent.last + 1 == count {
            // The partition's first entry, and nothing has been taken away: it has every offset.
            return Ok(low);
        }
        let mut window = count;
        loop {
            let start = extent
                .last
                .saturating_add(1)
                .saturating_sub(window)
                .max(low);
            match self.count(place, start, taker)? {
                Counted::Whole => return Ok(start),
                Counted::Less(trial) if start == low => {
                    return Err(lost_records(place.0, place.1, &trial));
                }
                Counted::Less(_trial) => window = window.saturating_mul(4).max(64),
            }
        }
    }

    /// Whether the entry's records all lie at and behind `start`.
    fn count(
        &mut self,
        (topic, partition): (&str, i32),
        start: i64,
        taker: &Taker,
    ) -> Result<Counted, Cut> {
        self.stand(topic, partition, start)?;
        let mut trial = taker.restarted(start);
        let whole = loop {
            if trial.done() {
                break true;
            }
            if trial.lost()
                || self.offer(topic, partition, &mut trial, |_, _| Ok(()))? == Taken::Lost
            {
                break false;
            }
        };
        self.rest(topic)?;
        Ok(if whole {
            Counted::Whole
        } else {
            Counted::Less(trial)
        })
    }

    /// Offers the next record to the taker and hands it on when it is taken. Waits for it.
    pub fn offer(
        &mut self,
        topic: &str,
        partition: i32,
        taker: &mut Taker,
        take: impl FnOnce(&RecordHeader, &Record<'_>) -> Result<()>,
    ) -> Result<Taken, Cut> {
        let next_offset = taker.next_offset();
        self.wait_for(topic, partition, next_offset, taker.extent(), |record| {
            let Some(header) = record.header else {
                return Err(foreign(topic, partition, record.offset));
            };
            let taken = taker.offer(record.offset, &header);
            if taken == Taken::Take {
                take(&header, &record)?;
            }
            Ok(taken)
        })?
        .map_err(Cut::Failed)
    }

    fn wait_for<T>(
        &mut self,
        topic: &str,
        partition: i32,
        next_offset: i64,
        extent: Extent,
        take: impl FnOnce(Record<'_>) -> T,
    ) -> Result<T, Cut> {
        let mut take = Some(take);
        let mut waiting: Option<Instant> = None;
        loop {
            if self.stopped() {
                return Err(Cut::Stopped);
            }
            let polled = self.poll(topic, partition, READ_SLICE, |record| {
                let take = take
                    .take()
                    .expect("called once, for the record that is returned");
                take(record)
            });
            match polled {
                Ok(Some((_offset, taken))) => return Ok(taken),
                Ok(None) => {}
                Err(error) if error.class() == Class::Halt => {
                    let (low, high) = self.watermarks(topic, partition)?;
                    let gone = low > next_offset || high < next_offset;
                    return Err(if gone {
                        missing(topic, partition, next_offset, extent)
                    } else {
                        Cut::Failed(error)
                    });
                }
                Err(error) => return Err(Cut::Failed(error)),
            }
            let waited = waiting.get_or_insert_with(Instant::now).elapsed();
            if waited >= MISSING_AFTER && self.watermarks(topic, partition)?.1 <= extent.last {
                return Err(missing(topic, partition, next_offset, extent));
            }
            if waited >= GIVE_UP_AFTER {
                return Err(Cut::Failed(Error::transient(format!(
                    "topic {topic} partition {partition}: no record at offset {next_offset} came within {} s",
                    GIVE_UP_AFTER.as_secs()
                ))));
            }
        }
    }
}

/// Whether an entry's records are where they were looked for.
enum Counted {
    Whole,
    Less(Taker),
}

/// Lost, with the table still to be named by the caller.
fn missing(topic: &str, partition: i32, next_offset: i64, extent: Extent) -> Cut {
    Cut::Lost {
        table: TableName::new("", ""),
        what: format!(
            "topic {topic} partition {partition}: no record at offset {next_offset}, though an entry of the commit log names {} records up to offset {}",
            extent.count, extent.last
        ),
    }
}

fn foreign(topic: &str, partition: i32, offset: i64) -> Error {
    Error::halt(
        format!(
            "topic {topic} partition {partition} offset {offset}: a record without walferry's header"
        ),
        format!("stop what else writes to this topic; then {NEW_PIPELINE}"),
    )
}

/// Fewer records found than the entry counts; the table is still to be named by the caller.
pub fn lost_records(topic: &str, partition: i32, taker: &Taker) -> Cut {
    let extent = taker.extent();
    Cut::Lost {
        table: TableName::new("", ""),
        what: format!(
            "topic {topic} partition {partition}: {} of {} records up to offset {} found, at offset {} now: records are missing",
            taker.taken(),
            extent.count,
            extent.last,
            taker.next_offset()
        ),
    }
}

#[cfg(test)]
#[path = "partitions_tests.rs"]
mod tests;
