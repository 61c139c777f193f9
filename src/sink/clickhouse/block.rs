//! The rows that one plan puts into a table. Pure.
//!
//! A row's version is the position of the last change of its plan, and every key that the plan touches has a row:
//! whoever applies the same changes again, in whatever batches, ends with the same newest versions. A row that is gone,
//! or was there in between only, is a row of its key with `_deleted`.

use std::collections::HashSet;

use super::fill::Filled;
use super::history;
use super::native::{self, Column};
use super::projection::{Projection, Source};
use super::row_binary::{self, Unheld};
use crate::error::{Error, Result};
use crate::model::{Cell, Lsn, NetChange, Op, Position, RowRef, Rows, TableName};

/// The version of a change: its commit LSN, one bit, its ordinal. Rows of a copy, which stand before every change at
/// their point, do not have the bit, and have their number in the copy.
pub(super) fn version(at: Position) -> u128 {
    u128::from(at.commit.0) << 64 | 1 << 63 | u128::from(at.ordinal)
}

/// The version of a row of a copy.
pub(super) fn copied(point: Lsn, number: u64) -> u128 {
    u128::from(point.0) << 64 | u128::from(number)
}

/// A row of a net change.
#[derive(Clone, Copy, Debug)]
pub(super) enum Written {
    /// As it is.
    Row(RowRef),
    /// That it is gone.
    Gone(RowRef),
}

/// A row of a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockRow {
    /// What the leader's columns have; none: nothing.
    pub row: Option<RowRef>,
    /// Its version.
    pub version: u128,
    /// Up to which change its values are.
    pub at: Position,
    /// What walferry's own columns say.
    pub says: Says,
}

/// What a row says by walferry's own columns.
#[derive(Clone, Copy, Debug)]
pub(super) enum Says {
    /// There is this row.
    There,
    /// The row of this key is gone; its other columns have nothing.
    Gone,
    /// What was done, and when it was committed, in ms since 1970.
    Done(Op, Option<i64>),
}

impl BlockRow {
    /// A row of a table that holds current rows.
    pub(super) fn there(row: RowRef, version: u128, at: Position) -> Self {
        BlockRow {
            row: Some(row),
            version,
            at,
            says: Says::There,
        }
    }

    /// A row of a net change whose last change is at `at`.
    pub(super) fn net(written: Written, at: Position) -> Self {
        let (row, says) = match written {
            Written::Row(row) => (row, Says::There),
            Written::Gone(row) => (row, Says::Gone),
        };
        BlockRow {
            says,
            ..BlockRow::there(row, version(at), at)
        }
    }
}

/// Rows of one table and schema version, as they are handed to the sink.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    /// How they are written.
    pub projection: &'a Projection,
    /// Their memory.
    pub rows: &'a Rows,
    /// Values of columns that they say nothing about.
    pub filled: Option<&'a Filled>,
}

impl<'a> Given<'a> {
    /// Rows of which no values were asked for.
    pub(super) fn new(projection: &'a Projection, rows: &'a Rows) -> Self {
        Given {
            projection,
            rows,
            filled: None,
        }
    }

    /// Whether a row has all values, of its own or by what was asked for.
    fn has_all_of(&self, row: RowRef) -> bool {
        let is_whole = || !self.rows.row(row).contains(&Cell::Absent);
        self.filled.is_some_and(|filled| filled.has(row)) || is_whole()
    }

    /// What is to be written of a net change: all but rows that lack values which were not asked for.
    ///
    /// # Errors
    /// Halt when a column cannot hold a value.
    pub(super) fn net(&self, net: &NetChange, at: Position) -> Result<Vec<Written>> {
        // A key that is left and taken by another row has that row's version only.
        let taken: HashSet<Vec<u8>> = match net.moves.is_empty() {
            true => HashSet::new(),
            false => {
                let finals = net.moves.iter().map(|(_, row)| row).chain(&net.inserts);
                let updates = net.updates.iter().flat_map(|group| &group.rows);
                let keys = finals.chain(updates).map(|row| self.key(*row, at));
                keys.collect::<Result<_>>()?
            }
        };
        let mut all = Vec::with_capacity(net.inserts.len());
        let left = net.moves.iter().map(|(old, _)| old);
        for gone in net.deletes.iter().chain(&net.vanished).chain(left) {
            if taken.is_empty() || !taken.contains(&self.key(*gone, at)?) {
                all.push(Written::Gone(*gone));
            }
        }
        let updates = net.updates.iter().flat_map(|group| &group.rows);
        let moved = net.moves.iter().map(|(_, row)| row);
        let rows = updates.chain(&net.same).chain(moved).chain(&net.inserts);
        let rows = rows.filter(|row| self.has_all_of(**row));
        all.extend(rows.map(|row| Written::Row(*row)));
        Ok(all)
    }

    /// The bytes of a row's key.
    pub(super) fn key(&self, row: RowRef, at: Position) -> Result<Vec<u8>> {
        let mut key = Vec::new();
        let cells = self.rows.row(row);
        for &index in &self.projection.key {
            let target = &self.projection.table.columns[index];
            let cell = match &self.projection.sources[index] {
                Source::Column(column) => cells[*column],
                Source::Constant(_) => unreachable!("a column of the key is the version's"),
            };
            row_binary::value(&target.of, self.rows.text(cell), &mut key)
                .map_err(|why| unheld(&self.projection.table.name, &target.name, at, why))?;
        }
        Ok(key)
    }
}

/// Given rows, column by column.
pub(super) struct Block<'a> {
    given: Given<'a>,
    /// The table's columns, and walferry's own behind them.
    columns: Vec<Column>,
    count: usize,
}

impl<'a> Block<'a> {
    /// Without a row.
    pub(super) fn new(given: Given<'a>) -> Self {
        let columns = given.projection.table.heads.iter();
        Block {
            given,
            columns: columns.map(|_| Column::default()).collect(),
            count: 0,
        }
    }

    /// How many rows such a block has in about so many bytes.
    pub(super) fn rows_in(&self, bytes: usize) -> usize {
        let size = self.columns.iter().map(Column::size_bytes).sum();
        rows_in(bytes, (self.count, size))
    }

    /// Moves the rows behind what is there, as Native has them.
    pub(super) fn take(&mut self, out: &mut Vec<u8>) {
        native::begin(self.columns.len(), self.count, out);
        let heads = &self.given.projection.table.heads;
        for (head, column) in heads.iter().zip(&mut self.columns) {
            out.extend_from_slice(head);
            column.take(out);
        }
        self.count = 0;
    }

    /// Writes rows.
    ///
    /// # Errors
    /// Halt when a column cannot hold a value.
    pub(super) fn write(&mut self, written: &[BlockRow]) -> Result<()> {
        let Given {
            projection,
            rows,
            filled,
        } = self.given;
        let table = &projection.table;
        let (of_leader, own) = self.columns.split_at_mut(table.columns.len());
        let targets = table.columns.iter().zip(&projection.sources);
        for ((n, (target, source)), out) in targets.enumerate().zip(of_leader) {
            let is_of_key = projection.key.contains(&n);
            for one in written {
                let has_values = is_of_key || !matches!(one.says, Says::Gone);
                let Some(row) = one.row.filter(|_| has_values) else {
                    out.nothing(&target.of);
                    continue;
                };
                let column = match source {
                    Source::Column(column) => *column,
                    Source::Constant(bytes) => {
                        out.value(&target.of, bytes);
                        continue;
                    }
                };
                match (rows.row(row)[column], filled) {
                    // What a row says nothing about is what the follower has, or nothing.
                    (Cell::Absent, Some(filled)) => out.value(&target.of, filled.bytes(row, n)),
                    (Cell::Absent, None) => out.nothing(&target.of),
                    (cell, _) => out
                        .text(&target.of, rows.text(cell))
                        .map_err(|why| unheld(&table.name, &target.name, one.at, why))?,
                }
            }
        }
        for one in written {
            match one.says {
                Says::There => says(own, one.version, false),
                Says::Gone => says(own, one.version, true),
                Says::Done(op, time_ms) => {
                    let absent = history::absent(projection, rows, one.row);
                    history::says(own, (op, one.version, time_ms), &absent);
                }
            }
        }
        self.count += written.len();
        Ok(())
    }
}

/// How many rows have about so many bytes, if as many as these have `size`; one at least.
pub(super) fn rows_in(bytes: usize, (rows, size): (usize, usize)) -> usize {
    let mean_bytes = size.checked_div(rows).unwrap_or(0).max(1);
    (bytes / mean_bytes).max(1)
}

/// Adds to walferry's own columns of a table that holds current rows.
fn says(own: &mut [Column], version: u128, is_deleted: bool) {
    let [of_version, of_deleted] = own else {
        panic!("the table has {} columns of walferry's own", own.len())
    };
    of_version.plain(&version.to_le_bytes());
    of_deleted.plain(&[u8::from(is_deleted)]);
}

#[cold]
fn unheld(table: &TableName, column: &str, at: Position, why: Unheld) -> Error {
    Error::halt(
        format!("table {table} column {column}: a value at or before {at} {why}"),
        format!(
            "hold the column as the leader's text, with [columns] \"{table}.{column}\" = \"String\" in the sink's \
             settings (the table is copied anew then), or correct the value on the leader and have the table \
             copied anew with walferry resync"
        ),
    )
}
