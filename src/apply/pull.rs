//! Reading the records of one entry: from each partition what the entry counts, merged by position
//! within a table. Blocking; can be left and resumed when a chunk is full.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::chunk::{ChunkBuilder, Decoders, Held, Slot};
use super::take::{Taken, Taker};
use crate::error::{COPY_ANEW, Class, Error, NEW_PIPELINE, Result};
use crate::log::commit_log::{BatchEntry, Extent};
use crate::log::header::RecordHeader;
use crate::log::records::{Record, RecordReader};
use crate::model::{Cursors, Lsn, TableName};

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

/// Partitions of one consumer, and where it stands in each.
pub struct Partitions<R> {
    records: R,
    positions: Cursors,
    stop: CancellationToken,
}

impl<R: Records> Partitions<R> {
    /// Nothing is assigned yet.
    pub fn new(records: R, stop: CancellationToken) -> Self {
        Partitions {
            records,
            positions: Cursors::new(),
            stop,
        }
    }

    /// Makes the consumer stand at `cursor`, or at the oldest record if that is newer: whether
    /// anything is missing then is for counts to say. Where it stands.
    pub fn seek(&mut self, topic: &str, partition: i32, cursor: i64) -> Result<i64> {
        let known = self.positions.get(topic).and_then(|p| p.get(&partition));
        if known == Some(&cursor) {
            return Ok(cursor);
        }
        let (low, _high) = self.records.watermarks(topic, partition)?;
        let start = cursor.max(low);
        self.records.assign(topic, partition, start)?;
        self.stands_at(topic, partition, start);
        Ok(start)
    }

    /// Stands at all cursors at once: a partition that is added later waits for the fetch under way.
    pub fn seek_all(&mut self, cursors: &Cursors) -> Result<()> {
        for (topic, partitions) in cursors {
            for (&partition, &cursor) in partitions {
                self.seek(topic, partition, cursor)?;
            }
        }
        Ok(())
    }

    /// Moves the consumer to `offset`, wherever it stands.
    fn reseek(&mut self, topic: &str, partition: i32, offset: i64) -> Result<i64> {
        self.records.assign(topic, partition, offset)?;
        self.stands_at(topic, partition, offset);
        Ok(offset)
    }

    fn stands_at(&mut self, topic: &str, partition: i32, offset: i64) {
        match self.positions.get_mut(topic) {
            Some(partitions) => {
                partitions.insert(partition, offset);
            }
            None => {
                self.positions
                    .insert(topic.to_owned(), BTreeMap::from([(partition, offset)]));
            }
        }
    }

    /// Stops reading a topic.
    pub fn forget(&mut self, topic: &str) -> Result<()> {
        for (partition, _) in self.positions.remove(topic).unwrap_or_default() {
            self.records.unassign(topic, partition)?;
        }
        Ok(())
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
            self.stands_at(topic, partition, offset + 1);
        }
        Ok(got)
    }

    /// Low and high watermark.
    pub fn watermarks(&self, topic: &str, partition: i32) -> Result<(i64, i64)> {
        self.records.watermarks(topic, partition)
    }

    /// Whether the worker is asked to stop.
    pub fn stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Where the first record of an entry may lie when no cursor says so: looks back from the
    /// entry's `last`, further and further, until the count comes out.
    fn locate(&mut self, topic: &str, partition: i32, taker: &Taker) -> Result<i64, Cut> {
        let extent = taker.extent();
        let (low, _high) = self.records.watermarks(topic, partition)?;
        let count = i64::try_from(extent.count).unwrap_or(i64::MAX);
        let mut window = count;
        loop {
            let start = extent
                .last
                .saturating_add(1)
                .saturating_sub(window)
                .max(low);
            self.reseek(topic, partition, start)?;
            let mut trial = taker.restarted(start);
            while !trial.done() && !trial.lost() {
                self.offer(topic, partition, &mut trial, |_, _| Ok(()))?;
            }
            if trial.done() {
                return Ok(start);
            }
            if start == low {
                return Err(lost_records(topic, partition, &trial));
            }
            window = window.saturating_mul(4).max(64);
        }
    }

    /// Where an entry's first record may lie, read from a cursor on. Where retention has passed the
    /// cursor the entry is counted first: nothing of one that is no longer whole is handed on, for a
    /// part of it can contradict what the follower has before the count says why.
    fn start(
        &mut self,
        topic: &str,
        partition: i32,
        cursor: i64,
        taker: &Taker,
    ) -> Result<i64, Cut> {
        let start = self.seek(topic, partition, cursor)?;
        if start == cursor {
            return Ok(start);
        }
        let mut trial = taker.restarted(start);
        while !trial.done() {
            if trial.lost()
                || self.offer(topic, partition, &mut trial, |_, _| Ok(()))? == Taken::Lost
            {
                return Err(lost_records(topic, partition, &trial));
            }
        }
        Ok(self.reseek(topic, partition, start)?)
    }

    /// Offers the next record to the taker and hands it on when it is taken. Waits for it.
    fn offer(
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

struct PartitionPull {
    partition: i32,
    taker: Taker,
    head: Held,
}

struct TablePull {
    table: TableName,
    topic: String,
    slot: Slot,
    partitions: Vec<PartitionPull>,
}

/// Whether an entry is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// All its records are in the chunk, or passed over.
    Done,
    /// The chunk is full: hand it on, then go on with this entry.
    Full,
}

/// The records of one entry while they are read.
pub struct EntryPull {
    tables: Vec<TablePull>,
    /// Only records at or beyond this commit LSN are wanted; the others are only counted.
    apply_from: Lsn,
    leftovers: u64,
}

impl EntryPull {
    /// Begins to read the records of an entry. `tables`: topics to be read and their tables.
    pub fn new<R: Records>(
        batch: &BatchEntry,
        tables: &BTreeMap<String, TableName>,
        apply_from: Lsn,
        cursors: &Cursors,
        (source, builder): (&mut Partitions<R>, &mut ChunkBuilder),
    ) -> Result<Self, Cut> {
        let mut pulls = Vec::new();
        for (topic, extents) in &batch.offsets {
            let Some(table) = tables.get(topic) else {
                continue;
            };
            let mut partitions = Vec::with_capacity(extents.len());
            for (&partition, &extent) in extents.iter().filter(|(_, extent)| extent.count > 0) {
                let cursor = cursors.get(topic).and_then(|p| p.get(&partition));
                let taker = Taker::new(batch.epoch, (batch.from, batch.to), extent, 0);
                let start = match cursor {
                    Some(&cursor) => source
                        .start(topic, partition, cursor, &taker)
                        .map_err(|cut| of_table(cut, table))?,
                    None => {
                        let found = source.locate(topic, partition, &taker);
                        let start = found.map_err(|cut| of_table(cut, table))?;
                        source.reseek(topic, partition, start)?
                    }
                };
                partitions.push(PartitionPull {
                    partition,
                    taker: taker.restarted(start),
                    head: Held::default(),
                });
            }
            pulls.push(TablePull {
                slot: builder.slot(table),
                table: table.clone(),
                topic: topic.clone(),
                partitions,
            });
        }
        Ok(EntryPull {
            tables: pulls,
            apply_from,
            leftovers: 0,
        })
    }

    /// Reads on until the entry is done or the chunk is full. Moves the cursors of tables done.
    pub fn fill<R: Records>(
        &mut self,
        source: &mut Partitions<R>,
        builder: &mut ChunkBuilder,
        decoders: &mut Decoders,
        cursors: &mut Cursors,
    ) -> Result<Filled, Cut> {
        while let Some(table) = self.tables.last_mut() {
            let filled = table
                .fill(source, builder, decoders, self.apply_from)
                .map_err(|cut| of_table(cut, &table.table))?;
            if filled == Filled::Full {
                return Ok(Filled::Full);
            }
            let table = self.tables.pop().expect("the last one, looked at above");
            let places = cursors.entry(table.topic).or_default();
            for partition in table.partitions {
                self.leftovers += partition.taker.skipped();
                places.insert(partition.partition, partition.taker.next_offset());
            }
        }
        Ok(Filled::Done)
    }

    /// Records passed over in the tables done.
    pub fn leftovers(&self) -> u64 {
        self.leftovers
    }
}

impl TablePull {
    fn fill<R: Records>(
        &mut self,
        source: &mut Partitions<R>,
        builder: &mut ChunkBuilder,
        decoders: &mut Decoders,
        apply_from: Lsn,
    ) -> Result<Filled, Cut> {
        loop {
            for partition in &mut self.partitions {
                partition.refill(source, &self.topic)?;
            }
            let heads = self.partitions.iter_mut().filter_map(|partition| {
                let position = partition.head.whole()?.position;
                Some((position, partition))
            });
            let Some((position, first)) = heads.min_by_key(|(position, _)| *position) else {
                return Ok(Filled::Done);
            };
            if position.commit >= apply_from {
                builder
                    .append(self.slot, &first.head, decoders)
                    .map_err(|error| error.at(&self.table))?;
            }
            first.head.clear();
            if builder.is_full() {
                return Ok(Filled::Full);
            }
        }
    }
}

impl PartitionPull {
    /// Reads until a whole record is at hand, or the entry has none left here.
    fn refill<R: Records>(&mut self, source: &mut Partitions<R>, topic: &str) -> Result<(), Cut> {
        while self.head.whole().is_none() && !self.taker.done() {
            let (partition, head) = (self.partition, &mut self.head);
            let lost = self.taker.lost()
                || source.offer(topic, partition, &mut self.taker, |header, record| {
                    head.absorb(header, record)
                })? == Taken::Lost;
            if lost {
                return Err(lost_records(topic, partition, &self.taker));
            }
        }
        if self.head.in_pieces() {
            return Err(lost_records(topic, self.partition, &self.taker));
        }
        Ok(())
    }
}

fn lost_records(topic: &str, partition: i32, taker: &Taker) -> Cut {
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

fn of_table(cut: Cut, table: &TableName) -> Cut {
    match cut {
        Cut::Lost { what, .. } => Cut::Lost {
            table: table.clone(),
            what: format!("table {table}: {what}"),
        },
        Cut::Stopped => Cut::Stopped,
        Cut::Failed(error) => Cut::Failed(error),
    }
}

#[cfg(test)]
#[path = "pull_tests.rs"]
mod tests;
