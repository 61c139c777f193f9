//! A change as one line for people:
//! `12:00:01 public.orders update {"id":1,"state":"paid"}`.
//!
//! The time is that of printing, UTC. A key change shows the old key, an arrow, and the new row.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::model::{Change, Op, Rows, TableSchema};

/// Appends the line of a change. The delete half of a key change prints nothing: its insert half says it.
pub(super) fn write_change(schema: &TableSchema, rows: &Rows, change: &Change, out: &mut Vec<u8>) {
    let (word, row) = match (change.op, change.moved) {
        (Op::Delete, Some(_)) => return,
        (Op::Insert, Some(_)) => ("rekey", change.after),
        (Op::Insert, None) => ("insert", change.after),
        (Op::Update, _) => ("update", change.after),
        (Op::Delete, None) => ("delete", change.before),
        (Op::Read, _) => ("row", change.after),
        (Op::Truncate, _) => ("truncate", None),
    };
    let (hours, minutes, seconds) = time_of_day();
    // Writing to memory does not fail.
    let _ = write!(
        out,
        "{hours:02}:{minutes:02}:{seconds:02} {} {word}",
        schema.table
    );
    if let (Op::Insert, Some(old)) = (change.op, change.moved) {
        out.push(b' ');
        super::write_row(schema, rows, Some(old), out);
        out.extend_from_slice(b" ->");
    }
    if row.is_some() {
        out.push(b' ');
        super::write_row(schema, rows, row, out);
    }
    out.push(b'\n');
}

fn time_of_day() -> (u64, u64, u64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = now.unwrap_or_default().as_secs() % 86_400;
    (seconds / 3600, seconds / 60 % 60, seconds % 60)
}
