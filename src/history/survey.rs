//! What entries and watermarks say together. Pure: fed the commit log in order.
//!
//! The records of an entry in a partition are `count`, at different offsets up to `last`; so the first one lies
//! at `last - count + 1` or before. They are surely incomplete once the low watermark is beyond that, or when the
//! partition ends before `last`. Before an entry that is incomplete nothing of the partition counts, whatever
//! may be left of it.

use std::collections::BTreeMap;

use super::milestones::Milestones;
use super::{Boundary, CopyInfo, Gone, History, TableHistory, Work};
use crate::error::Result;
use crate::log::commit_log::{BatchEntry, CopyEnd, Entry, Verdict, judge};
use crate::log::copies::CopyLedger;
use crate::log::held::{Watermarks, watermark};
use crate::log::topics::Topics;
use crate::model::checkpoint::LogPlace;
use crate::model::{Lsn, TableName};

/// An entry that has records in a partition.
#[derive(Clone, Copy, Debug)]
struct Names {
    offset: i64,
    to: Lsn,
    last: i64,
}

/// What the log says of one partition.
#[derive(Clone, Copy, Debug)]
struct Partition {
    /// The newest entry with records here.
    newest: Names,
    /// The last one of them that is surely incomplete.
    incomplete: Option<Names>,
}

/// The commit log as far as it was seen.
pub struct Survey<'a> {
    lows: &'a Watermarks,
    place: LogPlace,
    ledger: CopyLedger,
    partitions: BTreeMap<String, BTreeMap<i32, Partition>>,
    milestones: Milestones,
    begins: Option<Lsn>,
    /// The latest time at which the leader is known to have had no more than the log.
    time_us: Option<i64>,
}

impl<'a> Survey<'a> {
    /// Before the oldest entry that is left of the log, at offset `low`. `lows`: low watermarks of the table and
    /// copy topics.
    pub fn at_low_end(low: i64, lows: &'a Watermarks) -> Self {
        Survey {
            lows,
            place: LogPlace::at_low_end(low),
            ledger: CopyLedger::at_low_end(low),
            partitions: BTreeMap::new(),
            milestones: Milestones::default(),
            begins: None,
            time_us: None,
        }
    }

    /// Takes the next entry.
    ///
    /// # Errors
    /// Halt at a hole in the log.
    pub fn see(&mut self, offset: i64, entry: &Entry) -> Result<()> {
        if offset > self.place.next_offset {
            // Trimmed while it is read, for it has no other gaps.
            *self = Survey::at_low_end(offset, self.lows);
        }
        let verdict = judge(&mut self.place, offset, entry)?;
        if let Entry::Batch(batch) = entry {
            match verdict {
                Verdict::Valid => self.batch(offset, batch),
                // On an idle leader only samples go on.
                Verdict::Repeat => self.time(batch),
                Verdict::Void => {}
            }
        }
        if verdict == Verdict::Valid {
            self.ledger.valid(offset, entry);
        }
        Ok(())
    }

    fn batch(&mut self, offset: i64, batch: &BatchEntry) {
        self.begins.get_or_insert(batch.from);
        self.time(batch);
        let covers = Work {
            transactions: batch.transactions,
            changes: batch.changes,
        };
        self.milestones.pass(batch.to, self.time_us, covers);
        for (topic, extents) in &batch.offsets {
            for (&partition, extent) in extents.iter().filter(|(_, extent)| extent.count > 0) {
                let low = watermark(self.lows, topic, partition);
                let names = Names {
                    offset,
                    to: batch.to,
                    last: extent.last,
                };
                self.note(topic, partition, names, extent.has_expired(low));
            }
        }
    }

    /// Commits of the batch, and a sample that is not beyond the log: what the leader had at these times is
    /// in the log.
    fn time(&mut self, batch: &BatchEntry) {
        let commit_us = batch.last_commit.map(|commit| commit.time_us);
        let whole = batch.sample.filter(|sample| {
            let to = self.place.to;
            to.is_some_and(|to| sample.flush <= to)
        });
        let sample_us = whole.map(|sample| sample.clock_us);
        self.time_us = self.time_us.max(commit_us).max(sample_us);
    }

    fn note(&mut self, topic: &str, partition: i32, names: Names, is_incomplete: bool) {
        if !self.partitions.contains_key(topic) {
            self.partitions.insert(topic.to_owned(), BTreeMap::new());
        }
        let of_topic = self.partitions.get_mut(topic).expect("made above");
        let known = of_topic.entry(partition).or_insert(Partition {
            newest: names,
            incomplete: None,
        });
        known.newest = names;
        if is_incomplete {
            known.incomplete = Some(names);
        }
    }

    /// What it comes to. `highs`: high watermarks of the table and copy topics, asked after the log was read.
    pub fn finish(self, topics: &Topics, highs: &Watermarks) -> History {
        let tables = self.ledger.captured().keys();
        let tables = tables
            .map(|table| (table.clone(), self.table(table, topics, highs)))
            .collect();
        let latest = self.place.to.map(|lsn| Boundary {
            lsn,
            time_us: self.time_us,
        });
        History {
            tables,
            latest,
            milestones: self.milestones,
        }
    }

    fn table(&self, table: &TableName, topics: &Topics, highs: &Watermarks) -> TableHistory {
        let incomplete = self.incomplete(&topics.table(table), highs);
        let last = incomplete.iter().max_by_key(|(_, names)| names.offset);
        let from = last.map(|(_, names)| names.to).or(self.begins);
        let mut known = TableHistory {
            table: table.clone(),
            copies: Vec::new(),
            running: None,
            changes_from: from.map(|lsn| self.milestones.reached(lsn)),
        };
        for (id, copy) in self.ledger.copies_of(table) {
            match &copy.end {
                Some(end) => {
                    let of = (&topics.copy(table), &topics.table(table));
                    let info = self.copy(id, end, of, &incomplete, highs);
                    known.copies.push(info);
                }
                None => known.running = Some(id),
            }
        }
        known
    }

    /// The last incomplete entry of each partition that has one.
    fn incomplete(&self, topic: &str, highs: &Watermarks) -> Vec<(i32, Names)> {
        let partitions = self.partitions.get(topic).into_iter().flatten();
        let last = partitions.filter_map(|(&partition, known)| {
            let high = watermark(highs, topic, partition);
            let is_short = known.newest.last >= high;
            let names = Some(known.newest).filter(|_| is_short).or(known.incomplete);
            Some((partition, names?))
        });
        last.collect()
    }

    fn copy(
        &self,
        id: i64,
        end: &CopyEnd,
        (copies, changes): (&String, &String),
        incomplete: &[(i32, Names)],
        highs: &Watermarks,
    ) -> CopyInfo {
        let extents = || end.rows.get(copies).into_iter().flatten();
        let lacks_rows = extents().find(|(partition, extent)| {
            let low = watermark(self.lows, copies, **partition);
            let high = watermark(highs, copies, **partition);
            extent.has_expired(low) || (extent.count > 0 && extent.last >= high)
        });
        let needed = |(_, names): &&(i32, Names)| names.offset > id && names.to > end.point;
        let lacks_changes = incomplete.iter().filter(needed);
        let gone =
            match lacks_rows {
                Some((&partition, _)) => Some(Gone::Rows {
                    topic: copies.clone(),
                    partition,
                }),
                None => lacks_changes.max_by_key(|(_, names)| names.offset).map(
                    |&(partition, names)| Gone::Changes {
                        topic: changes.clone(),
                        partition,
                        up_to: self.milestones.reached(names.to),
                    },
                ),
            };
        CopyInfo {
            copy: id,
            point: self.milestones.reached(end.point),
            from: self.milestones.next(end.point),
            rows: extents().map(|(_, extent)| extent.count).sum(),
            gone,
        }
    }
}

#[cfg(test)]
#[path = "survey_tests.rs"]
mod tests;
