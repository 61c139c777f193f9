//! What a reader of the commit log knows of copies: which tables have a complete or running one.
//!
//! Used by the source (does a table need a copy?) and by sinks (which copy to load?). Fed every
//! valid entry in log order; never void ones.

use std::collections::{BTreeMap, BTreeSet};

use crate::log::commit_log::{Captured, CopyBegin, CopyEnd, Entry, EpochEntry};
use crate::model::{Epoch, Lsn, TableName};

/// A copy that is complete or may become so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownCopy {
    /// Its first entry.
    pub begin: CopyBegin,
    /// Its last entry; none: it is running.
    pub end: Option<CopyEnd>,
    /// Tables for which it is still good: those of `begin` that no later entry took out.
    pub tables: BTreeSet<TableName>,
    /// The captured set of the epoch it was begun in: what a second reader starts with.
    pub captured: BTreeSet<TableName>,
    /// Changes of valid entries before it, from where its ledger began.
    pub changes_before: u64,
    /// The leader's clock when it was begun, to within the distance of samples; none: the log has told
    /// of none yet. Microseconds since 2000-01-01 UTC.
    pub begun_us: Option<i64>,
}

impl KnownCopy {
    /// Records that it has of a copy topic; none while it is running.
    pub fn rows(&self, topic: &str) -> Option<u64> {
        let end = self.end.as_ref()?;
        let extents = end.rows.get(topic).into_iter().flatten();
        Some(extents.map(|(_, extent)| extent.count).sum())
    }
}

/// Copies by id (offset of `copy_begin`).
#[derive(Clone, Debug, Default)]
pub struct CopyLedger {
    captured: BTreeMap<TableName, Captured>,
    copies: BTreeMap<i64, KnownCopy>,
    /// The newest copy begun, by epoch and number in it.
    newest: Option<(Epoch, u64)>,
    /// Whether the log's first entries were trimmed, and with them perhaps copies.
    is_trimmed: bool,
    /// Tables captured where a trimmed log begins: they have had their first copy.
    had_copies: BTreeSet<TableName>,
    /// Changes of valid entries so far.
    changes: u64,
    /// The leader's clock at the newest sample.
    clock_us: Option<i64>,
}

impl CopyLedger {
    /// A ledger before the log's first entry.
    pub fn new() -> Self {
        CopyLedger::default()
    }

    /// A ledger before the oldest entry that is left of the log, at offset `low`.
    pub fn at_low_end(low: i64) -> Self {
        CopyLedger {
            is_trimmed: low > 0,
            ..CopyLedger::default()
        }
    }

    /// Notes a valid entry. Returns the tables that left with it: those that the captured set lost,
    /// or has now under another OID or with other rows or columns. They are no longer in effect
    /// anywhere and need a copy when they return.
    pub fn valid(&mut self, offset: i64, entry: &Entry) -> BTreeSet<TableName> {
        match entry {
            Entry::Epoch(epoch) => return self.new_epoch(&epoch.captured),
            Entry::Batch(batch) => self.passed(batch.changes),
            Entry::CopyBegin(begin) => self.begin(offset, begin),
            Entry::CopyEnd(end) => {
                if let Some(copy) = self.copies.get_mut(&end.copy) {
                    copy.end.get_or_insert_with(|| end.clone());
                }
            }
        }
        BTreeSet::new()
    }

    /// Counts changes of valid entries that it is not shown.
    pub fn passed(&mut self, changes: u64) {
        self.changes += changes;
    }

    /// Changes of valid entries so far.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The current epoch's captured set by name; empty before the first epoch entry.
    pub fn captured(&self) -> &BTreeMap<TableName, Captured> {
        &self.captured
    }

    /// Copies that are good for a table, complete or running, with their ids; the oldest first.
    pub fn copies_of(&self, table: &TableName) -> impl Iterator<Item = (i64, &KnownCopy)> {
        let copies = self.copies.iter().map(|(id, copy)| (*id, copy));
        copies.filter(move |(_, copy)| copy.tables.contains(table))
    }

    /// The copy with this id, if it is good for some table.
    pub fn get(&self, copy: i64) -> Option<&KnownCopy> {
        self.copies.get(&copy)
    }

    /// What to load a table from: the newest complete copy that is not refused, else the running
    /// one; for a follower that is to stop at the boundary `target` one that is complete and not beyond
    /// it. `None`: a copy must be asked for.
    pub fn choose(
        &self,
        table: &TableName,
        refused: Option<&BTreeSet<i64>>,
        target: Option<Lsn>,
    ) -> Option<(i64, &KnownCopy)> {
        let not_beyond = |copy: &KnownCopy| match (target, &copy.end) {
            (None, _) => true,
            (Some(target), Some(end)) => end.point <= target,
            (Some(_), None) => false,
        };
        let usable = || {
            self.copies.iter().rev().filter(|(id, copy)| {
                copy.tables.contains(table)
                    && !refused.is_some_and(|refused| refused.contains(id))
                    && not_beyond(copy)
            })
        };
        usable()
            .find(|(_, copy)| copy.end.is_some())
            .or_else(|| usable().next())
            .map(|(id, copy)| (*id, copy))
    }

    /// Ids of all copies that are good for a table, complete or running.
    pub fn of(&self, table: &TableName) -> BTreeSet<i64> {
        let copies = self.copies.iter();
        let good = copies.filter(|(_, copy)| copy.tables.contains(table));
        good.map(|(id, _)| *id).collect()
    }

    /// Whether a complete or running copy of the table with an id above `after` (-1: any) is there.
    pub fn has(&self, table: &TableName, after: i64) -> bool {
        self.copies
            .range(after + 1..)
            .any(|(_, copy)| copy.tables.contains(table))
    }

    /// The newest complete copy of the table.
    pub fn newest_complete(&self, table: &TableName) -> Option<&KnownCopy> {
        let mut newest_first = self.copies.values().rev();
        newest_first.find(|copy| copy.end.is_some() && copy.tables.contains(table))
    }

    /// Notes what the leader's clock was at this place of the log.
    pub fn sampled(&mut self, clock_us: i64) {
        self.clock_us = self.clock_us.max(Some(clock_us));
        // Where nothing was sampled before it the next sample tells.
        for copy in self.copies.values_mut() {
            copy.begun_us.get_or_insert(clock_us);
        }
    }

    /// Whether the table has not been copied since it was captured: a source then makes its first
    /// copy unasked. Later ones are made when a sink wants them.
    pub fn lacks_first(&self, table: &TableName) -> bool {
        !self.had_copies.contains(table) && !self.has(table, -1)
    }

    /// Forgets copies whose begin entry was trimmed: the log now begins at `low`. A sink that reads it
    /// from there does not see them, so its wish for any copy is not fulfilled by them.
    pub fn cut(&mut self, low: i64) {
        let kept = self.copies.split_off(&low);
        let gone = std::mem::replace(&mut self.copies, kept);
        for copy in gone.into_values() {
            self.had_copies.extend(copy.tables);
        }
    }

    /// Tables that have another name from this epoch entry on, which is the next valid entry: old and new one.
    pub fn renamed(&self, epoch: &EpochEntry) -> Vec<(TableName, TableName)> {
        let relation = |now: &Captured| {
            let before = self.captured.values();
            let mut same = before.filter(|before| now.continues(before));
            same.next().map(|before| before.table.clone())
        };
        let others = epoch.captured.iter().filter(|now| {
            let same_name = self.captured.get(&now.table);
            same_name.is_none_or(|before| before.relation != now.relation)
        });
        others
            .filter_map(|now| Some((relation(now)?, now.table.clone())))
            .collect()
    }

    fn new_epoch(&mut self, captured: &[Captured]) -> BTreeSet<TableName> {
        let captured: BTreeMap<TableName, Captured> = captured
            .iter()
            .map(|c| (c.table.clone(), c.clone()))
            .collect();
        // A log that was trimmed elsewhere than at an epoch entry names tables before more of them
        // is known: then only the name counts.
        let stays = |table: &TableName, before: Option<&Captured>| match captured.get(table) {
            Some(now) => before.is_none_or(|before| now.continues(before)),
            None => false,
        };
        if self.is_trimmed && self.captured.is_empty() && self.copies.is_empty() {
            self.had_copies = captured.keys().cloned().collect();
        }
        let before = &self.captured;
        self.had_copies
            .retain(|table| stays(table, before.get(table)));
        for copy in self.copies.values_mut() {
            copy.tables.retain(|table| stays(table, before.get(table)));
        }
        self.copies
            .retain(|_, copy| copy.end.is_some() && !copy.tables.is_empty());
        let left = before
            .iter()
            .filter(|(table, before)| !stays(table, Some(before)))
            .map(|(table, _)| table.clone())
            .collect();
        self.captured = captured;
        left
    }

    fn begin(&mut self, offset: i64, begin: &CopyBegin) {
        // A repeat with no batch in between has the log's `to` as its `at`, too. Its source goes on
        // under the first one's id.
        let known = self.newest.filter(|(epoch, _)| *epoch == begin.epoch);
        if begin.number > 0 {
            if known.is_some_and(|(_, newest)| begin.number <= newest) {
                return;
            }
            self.newest = Some((begin.epoch, begin.number));
        }
        for copy in self.copies.values_mut().filter(|copy| copy.end.is_none()) {
            copy.tables.retain(|table| !begin.tables.contains(table));
        }
        self.copies.retain(|_, copy| !copy.tables.is_empty());
        let copy = KnownCopy {
            begin: begin.clone(),
            end: None,
            tables: begin.tables.iter().cloned().collect(),
            captured: self.captured.keys().cloned().collect(),
            changes_before: self.changes,
            begun_us: self.clock_us,
        };
        self.copies.insert(offset, copy);
    }
}

#[cfg(test)]
#[path = "copies_tests.rs"]
mod tests;
