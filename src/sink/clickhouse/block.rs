//! The rows that one plan puts into a table, as RowBinary. Pure.
//!
//! A row's version is the position of the last change of its plan, and every key that the plan touches has a row:
//! whoever applies the same changes again, in whatever batches, ends with the same newest versions. A row that is gone,
//! or was there in between only, is a row of its key with `_deleted`.

use std::collections::HashSet;

use super::fill::{Filled, Lacking};
use super::projection::{Projection, Source};
use super::row_binary::{self, Unheld};
use crate::error::{Error, Result};
use crate::model::{Cell, Lsn, NetChange, Position, RowRef, Rows, TableName};

/// The version of a change: its commit LSN, one bit, its ordinal. Rows of a copy, which stand before every change at
/// their point, do not have the bit, and have their number in the copy.
pub(super) fn version(at: Position) -> u128 {
    u128::from(at.commit.0) << 64 | 1 << 63 | u128::from(at.ordinal)
}

/// The version of a row of a copy.
pub(super) fn copied(point: Lsn, number: u64) -> u128 {
    u128::from(point.0) << 64 | u128::from(number)
}

/// Writes rows of one table and schema version.
pub(super) struct Block<'a> {
    projection: &'a Projection,
    /// Memory of the rows.
    pub(super) rows: &'a Rows,
    filled: Option<&'a Filled>,
    /// The data.
    pub data: Vec<u8>,
}

impl<'a> Block<'a> {
    /// Without a row. `filled`: values of columns that rows say nothing about.
    pub(super) fn new(
        projection: &'a Projection,
        rows: &'a Rows,
        filled: Option<&'a Filled>,
    ) -> Self {
        Block {
            projection,
            rows,
            filled,
            data: Vec::new(),
        }
    }

    /// Rows that lacked values.
    ///
    /// # Errors
    /// Halt when a column cannot hold a value.
    pub(super) fn filled(&mut self, rows: &[Lacking], at: Position) -> Result<()> {
        for (_, row) in rows {
            if self.filled.is_some_and(|filled| filled.has(*row)) {
                self.row(*row, version(at), at)?;
            }
        }
        Ok(())
    }

    /// All rows of a net change that lack nothing, or whose values were asked for.
    ///
    /// # Errors
    /// Halt when a column cannot hold a value.
    pub(super) fn net(&mut self, net: &NetChange, at: Position) -> Result<()> {
        let version = version(at);
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
        let left = net.moves.iter().map(|(old, _)| old);
        for gone in net.deletes.iter().chain(&net.vanished).chain(left) {
            if taken.is_empty() || !taken.contains(&self.key(*gone, at)?) {
                self.gone(*gone, version, at)?;
            }
        }
        let updates = net.updates.iter().flat_map(|group| &group.rows);
        let moved = net.moves.iter().map(|(_, row)| row);
        for row in updates.chain(&net.same).chain(moved).chain(&net.inserts) {
            let is_whole = !self.rows.row(*row).contains(&Cell::Absent);
            if is_whole || self.filled.is_some_and(|filled| filled.has(*row)) {
                self.row(*row, version, at)?;
            }
        }
        Ok(())
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

    /// A row of a table that holds current rows.
    pub(super) fn row(&mut self, row: RowRef, version: u128, at: Position) -> Result<()> {
        self.leaders(row, at)?;
        self.data.extend_from_slice(&version.to_le_bytes());
        self.data.push(0);
        Ok(())
    }

    /// That the row of a key is gone.
    fn gone(&mut self, row: RowRef, version: u128, at: Position) -> Result<()> {
        let cells = self.rows.row(row);
        for (n, (target, source)) in self.columns().enumerate() {
            let of_key = self.projection.key.contains(&n);
            match source {
                Source::Column(column) if of_key => {
                    let text = self.rows.text(cells[*column]);
                    row_binary::value(&target.of, text, &mut self.data).map_err(|why| {
                        unheld(&self.projection.table.name, &target.name, at, why)
                    })?;
                }
                Source::Column(_) | Source::Constant(_) => {
                    row_binary::nothing(&target.of, &mut self.data);
                }
            }
        }
        self.data.extend_from_slice(&version.to_le_bytes());
        self.data.push(1);
        Ok(())
    }

    /// The table's columns, with where their values come from.
    pub(super) fn columns(
        &self,
    ) -> impl Iterator<Item = (&'a super::projection::Target, &'a Source)> + use<'a> {
        let projection = self.projection;
        projection.table.columns.iter().zip(&projection.sources)
    }

    /// The leader's columns of a row. What it says nothing about is what the follower has, or nothing.
    pub(super) fn leaders(&mut self, row: RowRef, at: Position) -> Result<()> {
        let cells = self.rows.row(row);
        for (n, (target, source)) in self.columns().enumerate() {
            let cell = match source {
                Source::Constant(bytes) => {
                    self.data.extend_from_slice(bytes);
                    continue;
                }
                Source::Column(column) => cells[*column],
            };
            if cell == Cell::Absent {
                match self.filled {
                    Some(filled) => self.data.extend_from_slice(filled.bytes(row, n)),
                    None => row_binary::nothing(&target.of, &mut self.data),
                }
                continue;
            }
            row_binary::value(&target.of, self.rows.text(cell), &mut self.data)
                .map_err(|why| unheld(&self.projection.table.name, &target.name, at, why))?;
        }
        Ok(())
    }
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
