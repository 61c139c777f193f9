//! Loading a join: rows of the copy, then the changes behind it up to the checkpoint's place.
//!
//! Blocking. Works ahead of what is durable: each part carries the join's state behind it, and is
//! void once the durable join is another one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::chunk::{ChunkBuilder, Decoders, Held, Slot};
use super::follow::Terms;
use super::partitions::{Cut, Partitions, Records};
use super::planned::{Planned, planned};
use super::pull::{EntryPull, Filled};
use super::take::{RowsState, Taken, offer_row, rows_state};
use crate::config::KafkaSettings;
use crate::error::{Class, Error, NEW_PIPELINE, Result};
use crate::log::commit_log::{BatchEntry, CopyEnd, Entry, Extent, Verdict, judge};
use crate::log::tail::{From, LogTail};
use crate::model::{Join, JoinRows, Skipped, Skips, TableChanges, TableName};
use crate::sink::Wants;

/// How long one look for rows lasts when none are here.
const ROWS_SLICE: Duration = Duration::from_millis(100);
/// How long rows that `copy_end` counts may stay away before the copy is given up.
const MISSING_AFTER: Duration = Duration::from_secs(30);

/// The commit log as the second reader reads it: [`CommitsReader`], and in tests entries in memory.
pub trait Entries {
    /// The entry at offset `from`, or the first one behind it; waits for it. Asked in log order.
    ///
    /// # Errors
    /// [`Cut::Lost`] when the log was trimmed beyond `from`.
    fn next(&mut self, from: i64, stop: &CancellationToken) -> Result<(i64, Entry), Cut>;
}

/// Reads `P.commits` from a blocking thread.
pub struct CommitsReader {
    handle: Handle,
    kafka: KafkaSettings,
    topic: String,
    tail: Option<LogTail>,
}

impl CommitsReader {
    /// Opened with the first entry asked for.
    pub fn new(handle: Handle, kafka: KafkaSettings, topic: String) -> Self {
        CommitsReader {
            handle,
            kafka,
            topic,
            tail: None,
        }
    }
}

impl Entries for CommitsReader {
    fn next(&mut self, from: i64, stop: &CancellationToken) -> Result<(i64, Entry), Cut> {
        let (tail, kafka, topic) = (&mut self.tail, &self.kafka, &self.topic);
        self.handle.block_on(async {
            let read = async {
                let tail = match tail {
                    Some(tail) => tail,
                    None => {
                        let opened = LogTail::open(kafka, topic, From::OffsetOrLow(from)).await?;
                        if opened.low() > from {
                            return Err(trimmed(topic, from, opened.low()));
                        }
                        tail.insert(opened)
                    }
                };
                Ok(tail.next().await?)
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => Err(Cut::Stopped),
                entry = read => entry,
            }
        })
    }
}

/// What the second reader needs is no longer in the log; the caller names the table.
fn trimmed(topic: &str, from: i64, low: i64) -> Cut {
    Cut::Lost {
        table: TableName::new("", ""),
        what: format!("{topic} was trimmed to offset {low}, and the copy needs it from {from} on"),
    }
}

/// What the loader is made of.
pub struct LoaderParts<R, E> {
    /// Where to go on.
    pub join: Join,
    /// The consumer of copy and table topics.
    pub records: R,
    /// The second reader's own view of the commit log.
    pub entries: E,
    /// Decoders of schema versions.
    pub decoders: Decoders,
    /// What the sink takes.
    pub terms: Terms,
    /// The form its store wants.
    pub wants: Wants,
    /// Budget of a chunk.
    pub batch_max_bytes: usize,
    /// Changes to be passed over.
    pub skips: Skips,
    /// Asks to stop.
    pub stop: CancellationToken,
}

/// What one step of the loader gives.
#[derive(Debug)]
pub struct Loaded {
    /// Rows of the copy.
    pub rows: Vec<TableChanges>,
    /// Changes behind the copy's point.
    pub planned: Option<Planned>,
    /// Changes passed over by order.
    pub skipped: Vec<Skipped>,
    /// The join behind this part.
    pub join: Join,
    /// The transaction of this part goes on with the next one: the join's state is not whole yet.
    pub more: bool,
}

struct RowPartition {
    table: TableName,
    topic: String,
    partition: i32,
    now: JoinRows,
    slot: Slot,
    held: Held,
    empty_since: Option<Instant>,
}

impl RowPartition {
    fn place(&self) -> (&str, i32) {
        (&self.topic, self.partition)
    }
}

/// Which topics the consumer is assigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reads {
    Nothing,
    Copy,
    Changes,
}

/// Loads one join.
pub struct Loader<R, E> {
    join: Join,
    source: Partitions<R>,
    entries: E,
    decoders: Decoders,
    builder: ChunkBuilder,
    rows: Vec<RowPartition>,
    topics: BTreeMap<String, TableName>,
    reads: Reads,
    /// An entry read from the log and not yet wanted.
    ahead: Option<(i64, Entry)>,
    pull: Option<EntryPull>,
    wants: Wants,
    skips: Skips,
    stop: CancellationToken,
}

impl<R: Records, E: Entries> Loader<R, E> {
    /// Goes on where the durable join is.
    pub fn new(parts: LoaderParts<R, E>) -> Self {
        let mut builder = ChunkBuilder::new(parts.batch_max_bytes);
        if parts.wants == Wants::Changes {
            builder.keep_times();
        }
        let mut rows = Vec::new();
        for table in &parts.join.tables {
            let topic = parts.terms.topics.copy(table);
            let slot = builder.slot(table);
            for (&partition, &now) in parts.join.rows.get(&topic).into_iter().flatten() {
                rows.push(RowPartition {
                    table: table.clone(),
                    topic: topic.clone(),
                    partition,
                    now,
                    slot,
                    held: Held::default(),
                    empty_since: None,
                });
            }
        }
        let tables = parts.join.tables.iter();
        Loader {
            topics: tables
                .map(|t| (parts.terms.topics.table(t), t.clone()))
                .collect(),
            source: Partitions::new(parts.records, parts.stop.clone()),
            entries: parts.entries,
            join: parts.join,
            decoders: parts.decoders,
            builder,
            rows,
            reads: Reads::Nothing,
            ahead: None,
            pull: None,
            wants: parts.wants,
            skips: parts.skips,
            stop: parts.stop,
        }
    }

    /// The next part: rows while the copy is not complete, then changes of entries below `limit`,
    /// the checkpoint's place in the log. Waits a little when rows of a running copy are not here yet.
    pub fn step(&mut self, end: Option<&CopyEnd>, limit: i64) -> Result<Loaded, Cut> {
        let more = if self.join.complete {
            self.read_changes()?;
            self.catch_up(limit)?
        } else {
            self.read_copy()?;
            self.load_rows(end)?;
            false
        };
        let tables = self.builder.take();
        let (rows, changes) = tables.into_iter().partition(|table| {
            table
                .changes
                .iter()
                .all(|change| change.op == crate::model::Op::Read)
        });
        let changes: Vec<TableChanges> = changes;
        let planned = if changes.is_empty() {
            None
        } else {
            Some(planned(self.wants, changes)?)
        };
        Ok(Loaded {
            rows,
            planned,
            skipped: self.builder.take_skipped(),
            join: self.join.clone(),
            more,
        })
    }

    fn read_copy(&mut self) -> Result<()> {
        if self.reads == Reads::Nothing {
            self.reads = Reads::Copy;
            let places: Vec<_> = self.rows.iter().map(RowPartition::place).collect();
            self.source
                .introduce(self.rows.iter().map(|rows| &rows.topic));
            let lows = self.source.lows(&places)?;
            for (rows, low) in self.rows.iter_mut().zip(lows) {
                let start = rows.now.next_offset.max(low);
                self.source.stand(&rows.topic, rows.partition, start)?;
                rows.now.next_offset = start;
            }
        }
        Ok(())
    }

    fn read_changes(&mut self) -> Result<()> {
        if self.reads != Reads::Changes {
            self.reads = Reads::Changes;
            // Not before: rows of a copy share a position.
            self.builder.skip(std::mem::take(&mut self.skips));
            for rows in std::mem::take(&mut self.rows) {
                self.source.forget(&rows.topic)?;
            }
            self.source.introduce(self.topics.keys());
            self.source.seek_all(&self.join.cursors)?;
        }
        Ok(())
    }

    fn load_rows(&mut self, end: Option<&CopyEnd>) -> Result<(), Cut> {
        let mut open = 0;
        let mut first_open = None;
        for index in 0..self.rows.len() {
            match self.load_partition(index, end, Duration::ZERO)? {
                RowsState::Complete => {}
                RowsState::More => {
                    open += 1;
                    first_open.get_or_insert(index);
                }
                RowsState::Lost => return Err(self.rows_lost(index, end)),
            }
            if self.builder.is_full() {
                return Ok(());
            }
        }
        match (first_open, end) {
            (Some(index), _running_or_not) if self.builder.is_empty() => {
                if self.load_partition(index, end, ROWS_SLICE)? == RowsState::Lost {
                    return Err(self.rows_lost(index, end));
                }
            }
            (None, Some(end)) if open == 0 => {
                self.join.complete = true;
                self.join.point = Some(end.point);
            }
            (Some(_) | None, Some(_) | None) => {}
        }
        Ok(())
    }

    /// Loads what is here of one partition.
    fn load_partition(
        &mut self,
        index: usize,
        end: Option<&CopyEnd>,
        timeout: Duration,
    ) -> Result<RowsState, Cut> {
        let rows = &mut self.rows[index];
        let (topic, partition, copy) = (&rows.topic, rows.partition, self.join.copy);
        let extent = end.map(|end| extent_of(end, topic, partition));
        let extent = extent.as_ref().map(Option::as_ref);
        let state = |now: &JoinRows| rows_state(now, extent);
        if state(&rows.now) == RowsState::More {
            rows.now.next_offset = self.source.seek(topic, partition, rows.now.next_offset)?;
        }
        while state(&rows.now) == RowsState::More && !self.builder.is_full() {
            if self.stop.is_cancelled() {
                return Err(Cut::Stopped);
            }
            let (now, held) = (&mut rows.now, &mut rows.held);
            let polled = self.source.poll(topic, partition, timeout, |record| {
                let header = record
                    .header
                    .ok_or_else(|| foreign(topic, partition, record.offset))?;
                let taken = offer_row(copy, now, record.offset, record.copy.as_ref());
                if taken == Taken::Take {
                    held.absorb(&header, &record)?;
                }
                Ok::<_, Error>(())
            });
            match polled {
                Ok(Some((_offset, taken))) => taken?,
                Ok(None) => {
                    let since = rows.empty_since.get_or_insert_with(Instant::now);
                    let missing = extent
                        .flatten()
                        .is_some_and(|e| e.last >= rows.now.next_offset);
                    let late = missing && since.elapsed() >= MISSING_AFTER;
                    return Ok(if late {
                        RowsState::Lost
                    } else {
                        RowsState::More
                    });
                }
                Err(error) if error.class() == Class::Halt => {
                    // Retention has passed below the reader: for the counts to judge.
                    let (low, _high) = self.source.watermarks(topic, partition)?;
                    if low <= rows.now.next_offset {
                        return Err(Cut::Failed(error));
                    }
                    rows.now.next_offset = self.source.seek(topic, partition, low)?;
                }
                Err(error) => return Err(Cut::Failed(error)),
            }
            rows.empty_since = None;
            if rows.held.whole().is_some() {
                self.builder
                    .append(rows.slot, &rows.held, &mut self.decoders)
                    .map_err(|error| {
                        error.at(format_args!("copy {copy} of table {}", rows.table))
                    })?;
                rows.held.clear();
            }
            if !rows.held.in_pieces() {
                let places = self.join.rows.entry(topic.clone()).or_default();
                places.insert(partition, rows.now);
            }
        }
        Ok(state(&rows.now))
    }

    fn rows_lost(&self, index: usize, end: Option<&CopyEnd>) -> Cut {
        let rows = &self.rows[index];
        let count = end
            .and_then(|end| extent_of(end, &rows.topic, rows.partition))
            .map_or(0, |extent| extent.count);
        Cut::Lost {
            table: rows.table.clone(),
            what: format!(
                "copy {}: {} of {count} rows of table {} found in topic {} partition {}",
                self.join.copy, rows.now.count, rows.table, rows.topic, rows.partition
            ),
        }
    }

    /// Reads changes up to `limit` or until the chunk is full; whether that is inside of an entry.
    fn catch_up(&mut self, limit: i64) -> Result<bool, Cut> {
        if self.pull.is_some() {
            // The transaction ends with an entry that needed a second chunk. One that went on to the next could be
            // cut in the middle again and again, and would last until the end of the log: nothing durable, and
            // row upon row that nobody may clear away.
            return Ok(self.fill()? == Filled::Full);
        }
        while self.join.log.next_offset < limit && !self.builder.is_full() {
            let (offset, entry) = self.next_entry()?;
            if offset >= limit {
                self.ahead = Some((offset, entry));
                self.join.log.next_offset = limit;
                break;
            }
            let verdict = judge(&mut self.join.log, offset, &entry)?;
            match entry {
                Entry::Batch(batch) if verdict == Verdict::Valid => {
                    self.join.changes += batch.changes;
                    if self.read_records(&batch)? == Filled::Full && self.pull.is_some() {
                        return Ok(true);
                    }
                }
                // What epochs and later copies mean for this copy is judged by the ledger.
                Entry::Batch(_) | Entry::Epoch(_) | Entry::CopyBegin(_) | Entry::CopyEnd(_) => {}
            }
        }
        Ok(false)
    }

    fn read_records(&mut self, batch: &BatchEntry) -> Result<Filled, Cut> {
        let point = self
            .join
            .point
            .expect("a complete join has its copy's point");
        if batch.to <= point {
            return Ok(Filled::Done);
        }
        let pull = EntryPull::new(
            batch,
            &self.topics,
            point..batch.to,
            &self.join.cursors,
            (&mut self.source, &mut self.builder),
        )?;
        self.pull = Some(pull);
        self.fill()
    }

    fn fill(&mut self) -> Result<Filled, Cut> {
        let Some(mut pull) = self.pull.take() else {
            return Ok(Filled::Done);
        };
        let filled = pull.fill(
            &mut self.source,
            &mut self.builder,
            &mut self.decoders,
            &mut self.join.cursors,
        )?;
        if filled == Filled::Full {
            self.pull = Some(pull);
        }
        Ok(filled)
    }

    fn next_entry(&mut self) -> Result<(i64, Entry), Cut> {
        if let Some(ahead) = self.ahead.take() {
            return Ok(ahead);
        }
        let next = self.entries.next(self.join.log.next_offset, &self.stop);
        next.map_err(|cut| match cut {
            // All tables of the join are without it; they are given up one after the other.
            Cut::Lost { what, .. } => Cut::Lost {
                table: self.join.tables.first().expect("a join has tables").clone(),
                what,
            },
            Cut::Stopped | Cut::Failed(_) => cut,
        })
    }
}

fn extent_of(end: &CopyEnd, topic: &str, partition: i32) -> Option<Extent> {
    end.rows.get(topic)?.get(&partition).copied()
}

fn foreign(topic: &str, partition: i32, offset: i64) -> Error {
    Error::halt(
        format!(
            "topic {topic} partition {partition} offset {offset}: a record without walferry's header"
        ),
        format!("stop what else writes to this topic; then {NEW_PIPELINE}"),
    )
}

#[cfg(test)]
#[path = "join_load_tests.rs"]
mod tests;
