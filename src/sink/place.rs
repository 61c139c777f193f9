//! Where in the leader's changes a follower's trouble is: table, records, key. For errors, so without other values.

use std::fmt;

use crate::error::{COPY_ANEW, Error};
use crate::model::batch::Step;
use crate::model::{Position, RowRef, Rows, TableName, TablePlan, TableSchema};

/// Longest text of a key in an error, in bytes.
const KEY_SHOWN_BYTES: usize = 100;

/// Table and records that were being written.
#[derive(Clone, Debug)]
pub(super) struct Place {
    table: TableName,
    records: Option<(Position, Position)>,
}

impl Place {
    /// The records of a plan.
    pub(super) fn of_plan(plan: &TablePlan) -> Self {
        let last = match only_row(plan) {
            Some(_one_change) => plan.first,
            None => plan.last,
        };
        Place::of_records(&plan.schema.table, plan.first, last)
    }

    /// Some records of a table.
    pub(super) fn of_records(table: &TableName, first: Position, last: Position) -> Self {
        Place {
            table: table.clone(),
            records: Some((first, last)),
        }
    }

    /// A table as a whole.
    pub(super) fn of_table(table: &TableName) -> Self {
        Place {
            table: table.clone(),
            records: None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "table {}", self.table)?;
        match self.records {
            Some((first, last)) if first == last => write!(f, ", the change at {first}"),
            Some((first, last)) => write!(f, ", records {first} to {last}"),
            None => Ok(()),
        }
    }
}

/// The row of a plan that is for one change of one row; the two records of a key change are one.
pub(super) fn only_row(plan: &TablePlan) -> Option<RowRef> {
    let [Step::Net(net)] = plan.steps.as_slice() else {
        return None;
    };
    let updates: &[RowRef] = match net.updates.as_slice() {
        [] => &[],
        [group] => &group.rows,
        [_, _, ..] => return None,
    };
    match (
        plan.changes,
        net.deletes.as_slice(),
        updates,
        net.moves.as_slice(),
        net.inserts.as_slice(),
    ) {
        (1, &[row], [], [], []) | (1, [], &[row], [], []) | (1, [], [], [], &[row]) => Some(row),
        (2, [], [], &[(from, _to)], []) => Some(from),
        _several_changes => None,
    }
}

/// The key of a plan's only row.
pub(super) fn only_key(plan: &TablePlan) -> Option<String> {
    let row = only_row(plan)?;
    Some(key_text(&plan.schema, &plan.rows, row))
}

/// `(names) = (values)` of a row's key, not too long.
pub(super) fn key_text(schema: &TableSchema, rows: &Rows, row: RowRef) -> String {
    let cells = rows.row(row);
    let names: Vec<&str> = schema
        .key
        .iter()
        .map(|&n| schema.columns[n].name.as_str())
        .collect();
    let texts: Vec<String> = schema
        .key
        .iter()
        .map(|&n| String::from_utf8_lossy(rows.text(cells[n]).unwrap_or_default()).into_owned())
        .collect();
    let mut text = format!("({}) = ({})", names.join(", "), texts.join(", "));
    if text.len() > KEY_SHOWN_BYTES {
        let whole = |&at: &usize| text.is_char_boundary(at);
        let end = (0..=KEY_SHOWN_BYTES).rev().find(whole).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// A follower that does not have the rows it should.
pub(super) fn diverged(place: &Place, what: &str) -> Error {
    Error::halt(
        format!("{place}: the follower has diverged from the leader: {what}"),
        format!(
            "find out who else writes to table {} on the follower; then make its rows there what they \
             were on the leader before these changes and restart walferry, or {COPY_ANEW}",
            place.table
        ),
    )
}
