//! Rows of a table that keeps every change.
//!
//! Columns of the leader hold the new row, of a delete what is known of the old one (its key). What a change says
//! nothing about stands in `_absent` by name, and its column holds NULL, or the type's zero. A change of a key is two
//! rows, a `d` of the old key and a `c` of the new one.

use super::block::Block;
use super::projection::Source;
use super::row_binary;
use crate::error::Result;
use crate::model::{Cell, Change, Op, RowRef};

impl<'a> Block<'a> {
    /// One change.
    ///
    /// # Errors
    /// Halt when a column cannot hold a value.
    pub(super) fn change(
        &mut self,
        change: &Change,
        version: u128,
        time_ms: Option<i64>,
    ) -> Result<()> {
        let letter = match change.op {
            Op::Insert => b"c",
            Op::Update => b"u",
            Op::Delete => b"d",
            Op::Read => b"r",
            Op::Truncate => b"t",
        };
        let row = change.after.or(change.before);
        let absent = match row {
            Some(row) => {
                self.leaders(row, change.position)?;
                self.absent_in(row)
            }
            None => {
                self.no_row();
                Vec::new()
            }
        };
        row_binary::string(letter, &mut self.data);
        self.data.extend_from_slice(&version.to_le_bytes());
        match time_ms {
            Some(time_ms) => {
                self.data.push(0);
                self.data.extend_from_slice(&(time_ms * 1000).to_le_bytes());
            }
            None => self.data.push(1),
        }
        row_binary::varint(absent.len(), &mut self.data);
        for name in absent {
            row_binary::string(name.as_bytes(), &mut self.data);
        }
        Ok(())
    }

    /// Names of the leader's columns that a row says nothing about.
    fn absent_in(&self, row: RowRef) -> Vec<&'a str> {
        let cells = self.rows.row(row);
        let absent = self.columns().filter(|(_, source)| match source {
            Source::Column(column) => cells[*column] == Cell::Absent,
            Source::Constant(_) => false,
        });
        absent.map(|(target, _)| target.name.as_str()).collect()
    }

    /// The leader's columns where there is no row.
    fn no_row(&mut self) {
        for (target, _) in self.columns() {
            row_binary::nothing(&target.of, &mut self.data);
        }
    }
}
