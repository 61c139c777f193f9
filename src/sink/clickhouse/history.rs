//! Rows of a table that keeps every change.
//!
//! Columns of the leader hold the new row, of a delete what is known of the old one (its key). What a change says
//! nothing about stands in `_absent` by name, and its column holds NULL, or the type's zero. A change of a key is two
//! rows, a `d` of the old key and a `c` of the new one.

use super::block::{BlockRow, Says};
use super::native::Column;
use super::projection::{Projection, Source};
use crate::model::{Cell, Change, Op, RowRef, Rows};

impl BlockRow {
    /// A change, and when it was committed, in ms since 1970.
    pub(super) fn change(change: &Change, version: u128, time_ms: Option<i64>) -> Self {
        BlockRow {
            row: change.after.or(change.before),
            version,
            at: change.position,
            says: Says::Done(change.op, time_ms),
        }
    }
}

/// Names of the leader's columns that a row says nothing about.
pub(super) fn absent<'a>(
    projection: &'a Projection,
    rows: &Rows,
    row: Option<RowRef>,
) -> Vec<&'a str> {
    let Some(row) = row else {
        return Vec::new();
    };
    let cells = rows.row(row);
    let columns = projection.table.columns.iter().zip(&projection.sources);
    let absent = columns.filter(|(_, source)| match source {
        Source::Column(column) => cells[*column] == Cell::Absent,
        Source::Constant(_) => false,
    });
    absent.map(|(target, _)| target.name.as_str()).collect()
}

/// Adds to walferry's own columns.
pub(super) fn says(
    own: &mut [Column],
    (op, version, time_ms): (Op, u128, Option<i64>),
    absent: &[&str],
) {
    let [of_op, of_version, of_time, of_absent] = own else {
        panic!("the table has {} columns of walferry's own", own.len())
    };
    of_op.string(match op {
        Op::Insert => b"c",
        Op::Update => b"u",
        Op::Delete => b"d",
        Op::Read => b"r",
        Op::Truncate => b"t",
    });
    of_version.plain(&version.to_le_bytes());
    of_time.optional(time_ms.map(|time_ms| time_ms * 1000));
    let names = of_absent.array(absent.len() as u64);
    for name in absent {
        names.string(name.as_bytes());
    }
}
