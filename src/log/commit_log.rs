//! The commit log `P.commits`: its entries and the pure rule by which every reader judges them.
//!
//! Which entries count is decided by [`judge`] and nowhere else. What follows from it for a source
//! stands in `takeover` and `confirm`, for copies of tables in `copies`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Error, NEW_PIPELINE, Result};
use crate::model::checkpoint::LogPlace;
use crate::model::{Epoch, Limits, Lsn, Offer, Oid, TableName, TableOffers};

/// One record of the commit log. JSON, tagged by `kind`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Entry {
    /// A source takes over; its own offset is the epoch.
    Epoch(EpochEntry),
    /// Transactions with `from <= commit LSN < to`; without offsets: a heartbeat.
    Batch(BatchEntry),
    /// A copy of tables begins; its own offset is the copy id.
    CopyBegin(CopyBegin),
    /// A copy is complete.
    CopyEnd(CopyEnd),
}

/// Take-over by a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochEntry {
    /// The log's end as its writer read it: void if a valid entry lies in `[after, own offset)`.
    pub after: i64,
    /// Token of the source's process.
    pub instance: String,
    /// The leader's system identifier.
    pub system_id: String,
    /// The leader's timeline.
    pub timeline: u32,
    /// The captured set.
    pub captured: Vec<Captured>,
    /// Tables of the captured set before that the leader has dropped, where no other one has their name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<TableName>,
}

/// A table of the captured set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captured {
    /// Schema and name.
    #[serde(flatten)]
    pub table: TableName,
    /// Its OID on the leader.
    pub relation: Oid,
    /// What the publication leaves of it.
    #[serde(flatten)]
    pub limits: Limits,
}

impl Captured {
    /// Whether it goes on from what the epoch before had under this name. Else that one has left:
    /// this is another table, or other rows or columns of it, and needs a copy.
    pub fn continues(&self, before: &Captured) -> bool {
        self.relation == before.relation && self.limits.keep_rows_of(&before.limits)
    }
}

/// What a batch entry says of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// No record of this entry lies beyond this offset (it may be too high).
    pub last: i64,
    /// Exactly so many records.
    pub count: u64,
}

impl Extent {
    /// Whether records of it are surely gone from a partition that now begins at offset `low`: they lie at
    /// different offsets, so the first one at `last - count + 1` or before.
    pub fn has_expired(&self, low: i64) -> bool {
        let Ok(count) = i64::try_from(self.count) else {
            return true;
        };
        count > 0 && low > self.last - count + 1
    }
}

/// Extents by topic and partition.
pub type Extents = BTreeMap<String, BTreeMap<i32, Extent>>;

/// The last commit that a batch covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastCommit {
    /// Its commit LSN.
    pub lsn: Lsn,
    /// Its transaction id.
    pub xid: u32,
    /// Its commit time, microseconds since 2000-01-01 UTC by the leader's clock.
    pub time_us: i64,
}

/// Where the leader's WAL ended at a moment of the leader's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// `pg_current_wal_flush_lsn()`.
    pub flush: Lsn,
    /// `clock_timestamp()`, microseconds since 2000-01-01 UTC.
    pub clock_us: i64,
}

/// Whole transactions that Kafka holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchEntry {
    /// Epoch of its source.
    pub epoch: Epoch,
    /// The previous entry's `to`.
    pub from: Lsn,
    /// Boundary that a follower has reached with it.
    pub to: Lsn,
    /// The last commit in it, if there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_commit: Option<LastCommit>,
    /// Leader transactions in it that changed captured tables.
    #[serde(default)]
    pub transactions: u64,
    /// Records in it.
    #[serde(default)]
    pub changes: u64,
    /// Bytes of their keys and values, before compression; 0 in entries of earlier versions.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub bytes: u64,
    /// Where its records lie.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        default,
        deserialize_with = "by_partition"
    )]
    pub offsets: Extents,
    /// The newest sample.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sample: Option<Sample>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde hands a reference
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Begin of a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyBegin {
    /// Epoch of its source.
    pub epoch: Epoch,
    /// Number of the copy in its epoch, from 1: a producer that repeats an entry repeats its number.
    /// 0 in entries of earlier versions.
    #[serde(default)]
    pub number: u64,
    /// Tables copied.
    pub tables: Vec<TableName>,
    /// `to` of the newest own entry sent before it: must be the log's `to`, else it is a repeat.
    /// None while the log has no boundary yet.
    pub at: Option<Lsn>,
    /// For each partition of the tables' topics and copy topics an offset below which nothing of
    /// what follows lies (the next offset to read is this one).
    #[serde(deserialize_with = "by_partition")]
    pub offsets: BTreeMap<String, BTreeMap<i32, i64>>,
    /// Indexes and constraints that the leader has on these tables beside their keys.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub indexes: Vec<TableOffers>,
}

impl CopyBegin {
    /// What the leader has on a table beside its key.
    pub fn offers(&self, table: &TableName) -> &[Offer] {
        let mut tables = self.indexes.iter();
        let found = tables.find(|offers| offers.table == *table);
        found.map_or(&[], |found| &found.offers)
    }
}

/// End of a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyEnd {
    /// Epoch of its source.
    pub epoch: Epoch,
    /// The copy's id.
    pub copy: i64,
    /// Its point: the rows are what transactions with commit LSN below it left.
    pub point: Lsn,
    /// Where its rows lie, by copy topic and partition.
    #[serde(deserialize_with = "by_partition")]
    pub rows: Extents,
}

/// Reads a map by topic and partition. JSON keys are strings; inside of a tagged enum serde has
/// buffered them and no longer turns them into numbers by itself.
fn by_partition<'de, D, T>(
    deserializer: D,
) -> std::result::Result<BTreeMap<String, BTreeMap<i32, T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let topics = BTreeMap::<String, BTreeMap<String, T>>::deserialize(deserializer)?;
    let numbered = |(partition, value): (String, T)| match partition.parse::<i32>() {
        Ok(number) => Ok((number, value)),
        Err(_not_a_number) => Err(serde::de::Error::custom(format!(
            "`{partition}` is not a partition's number"
        ))),
    };
    let mut all = BTreeMap::new();
    for (topic, partitions) in topics {
        let partitions = partitions.into_iter().map(numbered);
        all.insert(
            topic,
            partitions.collect::<std::result::Result<_, D::Error>>()?,
        );
    }
    Ok(all)
}

impl LogPlace {
    /// A reader that begins at offset `low`, the log's oldest entry.
    pub fn at_low_end(low: i64) -> Self {
        LogPlace {
            next_offset: low,
            epoch: None,
            to: None,
            last_valid: None,
            captured: Default::default(),
            fresh: true,
        }
    }

    /// The place of a reader that meets the entry at `offset` next. Where entries before it are
    /// missing the log was trimmed, for it has no other gaps: it is read anew from there.
    pub fn behind_trim(&mut self, offset: i64) {
        if offset > self.next_offset {
            *self = LogPlace::at_low_end(offset);
        }
    }

    /// Whether the entry at `offset` can be the last valid one before this place. Two logs of a pipeline
    /// begin alike, so offsets and epochs say little: what an entry says of boundaries counts too. A
    /// copy ends only when the log has reached its point.
    pub fn may_end_with(&self, offset: i64, entry: &Entry) -> bool {
        let epoch = match entry {
            Entry::Epoch(_) => u64::try_from(offset).ok().map(Epoch),
            Entry::Batch(batch) => Some(batch.epoch).filter(|_| self.to == Some(batch.to)),
            Entry::CopyBegin(begin) => Some(begin.epoch).filter(|_| self.to == begin.at),
            Entry::CopyEnd(end) => {
                let was_reached = self.to.is_none_or(|to| end.point <= to);
                Some(end.epoch).filter(|_| was_reached)
            }
        };
        self.last_valid == Some(offset) && epoch.is_some() && self.epoch == epoch
    }

    /// A second reader that begins behind the valid `copy_begin` at offset `copy`. `captured` is
    /// the captured set of the epoch it stands in.
    pub fn behind_copy_begin(copy: i64, begin: &CopyBegin, captured: BTreeSet<TableName>) -> Self {
        LogPlace {
            next_offset: copy + 1,
            epoch: Some(begin.epoch),
            to: begin.at,
            last_valid: Some(copy),
            captured,
            fresh: false,
        }
    }
}

/// What an entry means to a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It counts.
    Valid,
    /// A producer's repeat of what is already known: skipped.
    Repeat,
    /// Of a source that is not current: changes nothing, cursors included.
    Void,
}

/// Judges the entry at `offset` and moves `place` past it.
///
/// - An epoch entry is void if a valid entry lies in `[after, offset)`: its writer resumes where
///   the log ended when it looked, and somebody wrote on. Else it is valid, and `offset` is the epoch.
/// - Any other entry is void unless its epoch is current.
/// - A batch entry is a repeat if it ends at or before the log's `to`, and must else begin there. A
///   log without a boundary accepts any beginning.
/// - A `copy_begin` whose `at` is not the log's `to` is a repeat.
/// - The first entry of a log that was trimmed counts as valid: trimming ends at a valid one.
///
/// # Errors
/// Halt when a batch entry of the current epoch does not begin at the log's `to`: a hole. `place`
/// is then as it was.
///
/// # Panics
/// When `offset` is before the place: a bug of the reader.
pub fn judge(place: &mut LogPlace, offset: i64, entry: &Entry) -> Result<Verdict> {
    assert!(
        offset >= place.next_offset,
        "entry at offset {offset} judged by a reader at {}",
        place.next_offset
    );
    let epoch = match entry {
        Entry::Epoch(_) => None,
        Entry::Batch(batch) => Some(batch.epoch),
        Entry::CopyBegin(begin) => Some(begin.epoch),
        Entry::CopyEnd(end) => Some(end.epoch),
    };
    let current = if place.fresh { epoch } else { place.epoch };
    let verdict = match entry {
        Entry::Epoch(epoch) => judge_epoch(place, epoch),
        _of_an_epoch if epoch != current => Verdict::Void,
        Entry::Batch(batch) => judge_batch(place, offset, batch)?,
        Entry::CopyBegin(begin) => judge_copy_begin(place, begin),
        Entry::CopyEnd(_) => Verdict::Valid,
    };
    place.next_offset = offset + 1;
    if verdict != Verdict::Valid {
        return Ok(verdict);
    }
    match entry {
        Entry::Epoch(epoch) => {
            let own = u64::try_from(offset).expect("Kafka's offsets are not negative");
            place.epoch = Some(Epoch(own));
            place.captured = epoch.captured.iter().map(|c| c.table.clone()).collect();
        }
        Entry::Batch(batch) => place.to = Some(batch.to),
        // The log's first boundary may come from a copy that begins before anything is streamed.
        Entry::CopyBegin(begin) => place.to = place.to.or(begin.at),
        Entry::CopyEnd(_) => {}
    }
    if place.fresh {
        place.epoch = place.epoch.or(epoch);
        place.fresh = false;
    }
    place.last_valid = Some(offset);
    Ok(Verdict::Valid)
}

fn judge_epoch(place: &LogPlace, entry: &EpochEntry) -> Verdict {
    match place.last_valid {
        Some(last) if last >= entry.after => Verdict::Void,
        Some(_) | None => Verdict::Valid,
    }
}

fn judge_batch(place: &LogPlace, offset: i64, batch: &BatchEntry) -> Result<Verdict> {
    match place.to {
        Some(to) if batch.to <= to => Ok(Verdict::Repeat),
        Some(to) if batch.from == to => Ok(Verdict::Valid),
        None if batch.from <= batch.to => Ok(Verdict::Valid),
        Some(_) | None => Err(hole(place, offset, batch)),
    }
}

fn judge_copy_begin(place: &LogPlace, begin: &CopyBegin) -> Verdict {
    if place.to.is_none() || begin.at == place.to {
        Verdict::Valid
    } else {
        Verdict::Repeat
    }
}

fn hole(place: &LogPlace, offset: i64, batch: &BatchEntry) -> Error {
    let reached = place
        .to
        .map_or_else(|| "no boundary".to_owned(), |to| to.to_string());
    Error::halt(
        format!(
            "hole in the commit log, for entries that Kafka had acknowledged are gone or were changed: the entry at offset {offset} of epoch {} covers {} to {}, but \
             the valid log before it ends at {reached}",
            batch.epoch, batch.from, batch.to
        ),
        NEW_PIPELINE,
    )
}

#[cfg(test)]
#[path = "commit_log_tests.rs"]
mod tests;
