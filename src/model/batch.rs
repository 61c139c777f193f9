//! What the sink worker hands to a store: changes of one chunk, table by table.

use std::sync::Arc;

use super::{Position, RowRef, Rows, TableSchema};

/// What happened to a row or table, with Debezium's letters in the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// `c`: inserted. `after` is whole, unless it is the second half of a MOVE.
    Insert,
    /// `u`: updated, key unchanged. `after` may have absent cells.
    Update,
    /// `d`: deleted. `before` has the key, or the whole row under REPLICA IDENTITY FULL.
    Delete,
    /// `r`: a row of a copy. `after` is whole.
    Read,
    /// `t`: the table was truncated.
    Truncate,
}

/// One change of one row, in the order of its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// What happened.
    pub op: Op,
    /// Where the record stands.
    pub position: Position,
    /// Old row: key cells set (all cells under FULL); `None` where there is none. For an update
    /// it is set only under REPLICA IDENTITY FULL.
    pub before: Option<RowRef>,
    /// New row; `None` for delete and truncate.
    pub after: Option<RowRef>,
    /// For the two halves of a MOVE (a key change): on the delete the new key, on the insert the
    /// old key, as a row with only key cells set.
    pub moved: Option<RowRef>,
}

/// All changes of one table in a chunk, in strictly increasing position, with the rows' memory.
#[derive(Clone, Debug)]
pub struct TableChanges {
    /// The schema version of all these changes.
    pub schema: Arc<TableSchema>,
    /// Memory of the rows.
    pub rows: Rows,
    /// The changes.
    pub changes: Vec<Change>,
    /// When each was committed by the leader's clock, milliseconds since 1970, as far as its record says; empty where
    /// the store does not ask for changes as they were.
    pub times_ms: Vec<Option<i64>>,
}

/// A part of a batch that fits into the memory budget. A table stands in it once a schema version,
/// versions in order. Chunks of one batch go into one follower transaction, in order.
#[derive(Clone, Debug, Default)]
pub struct Chunk {
    /// Changes by table.
    pub tables: Vec<TableChanges>,
}

/// Rows to update that have the same columns present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpdateGroup {
    /// Indexes of the columns to set (key columns not among them), ascending.
    pub columns: Vec<usize>,
    /// Rows with these columns and the key present.
    pub rows: Vec<RowRef>,
}

/// The net change of a table's keys between two barriers; no order is needed inside a list, but
/// lists are applied as: deletes, updates, moves, inserts.
///
/// `vanished`, `returned` and `same` are nothing to do for a store whose batches are transactions. One without writes those rows too:
/// a former attempt at fewer of these changes may have left other rows there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetChange {
    /// Rows (key cells set) that existed before and must go.
    pub deletes: Vec<RowRef>,
    /// Rows that existed before under the same key.
    pub updates: Vec<UpdateGroup>,
    /// Rows that existed before under another key: (row with the old key's cells, final row, which
    /// may have absent cells). Chains and cycles are resolved: old keys are those of the follower
    /// before this net change, final keys those after it; a final key may be another move's old key.
    pub moves: Vec<(RowRef, RowRef)>,
    /// Whole rows that did not exist before.
    pub inserts: Vec<RowRef>,
    /// Keys (key cells set) that rows had in between only: no row was there before, and none is now.
    pub vanished: Vec<RowRef>,
    /// Rows of `updates` and `same` that were under another key in between: what a former attempt has left under their
    /// key may be another row's.
    pub returned: Vec<RowRef>,
    /// Rows that were there before and have nothing to be set (all columns outside of the key absent, if there are
    /// any).
    pub same: Vec<RowRef>,
}

/// One step of a table's plan, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Empty the table.
    Truncate,
    /// Set-based net change (tables with a key).
    Net(NetChange),
    /// One by one in this order (tables without a key).
    Ordered(Vec<Change>),
}

/// What a store does for one table in one chunk.
#[derive(Clone, Debug)]
pub struct TablePlan {
    /// The schema version of the rows.
    pub schema: Arc<TableSchema>,
    /// Memory of the rows.
    pub rows: Rows,
    /// Steps in order.
    pub steps: Vec<Step>,
    /// Records that went into this plan (before netting).
    pub changes: u64,
    /// Position of the first record, for error messages.
    pub first: Position,
    /// Position of the last record, for error messages.
    pub last: Position,
}
