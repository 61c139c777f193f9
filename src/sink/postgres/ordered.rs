//! Tables without a key: one change after the other, each delete and update on exactly one of
//! possibly several equal rows. Rows are found by their whole old content.

use std::sync::Arc;

use super::apply::{Failed, Scope, Work, execute, insert, truncate};
use super::params::{Param, Refs};
use super::statements::{Match, Shape};
use super::tables::Table;
use crate::model::{Cell, Change, Op, RowRef};

/// Sends changes in their order; runs of inserts go together.
pub(super) async fn apply_ordered<'a>(
    work: &mut Work<'a>,
    scope: Scope<'a>,
    changes: &'a [Change],
) -> Result<(), Failed<'a>> {
    let mut inserts: Vec<RowRef> = Vec::new();
    for change in changes {
        if let (Op::Insert | Op::Read, Some(row)) = (change.op, change.after) {
            inserts.push(row);
            continue;
        }
        insert_run(work, scope, &mut inserts).await?;
        match change.op {
            Op::Insert | Op::Read => {
                unreachable!("an insert has a new row: {}", change.position)
            }
            Op::Truncate => truncate(work, scope).await?,
            Op::Delete => delete_one(work, scope, old_row(change)).await?,
            Op::Update => {
                let new = change
                    .after
                    .unwrap_or_else(|| panic!("an update has a new row: {}", change.position));
                update_one(work, scope, old_row(change), new).await?;
            }
        }
    }
    insert_run(work, scope, &mut inserts).await
}

/// Without a key the replica identity is FULL, or no update and no delete can be published.
fn old_row(change: &Change) -> RowRef {
    change
        .before
        .unwrap_or_else(|| panic!("a table without a key has old rows: {}", change.position))
}

async fn insert_run<'a>(
    work: &mut Work<'a>,
    scope: Scope<'a>,
    inserts: &mut Vec<RowRef>,
) -> Result<(), Failed<'a>> {
    let run: Arc<[RowRef]> = inserts.drain(..).collect();
    insert(work, scope, Refs::Gathered(run)).await
}

async fn delete_one<'a>(
    work: &mut Work<'a>,
    scope: Scope<'a>,
    old: RowRef,
) -> Result<(), Failed<'a>> {
    let found = find(scope.table, scope.plan.rows.row(old));
    let params = cells(scope, old, &found.columns);
    let label = scope.label("deleting one row without a key", None);
    execute(work, label, scope.table, Shape::DeleteOne(found), params, 1).await
}

async fn update_one<'a>(
    work: &mut Work<'a>,
    scope: Scope<'a>,
    old: RowRef,
    new: RowRef,
) -> Result<(), Failed<'a>> {
    let set = present(scope.table, scope.plan.rows.row(new));
    let found = find(scope.table, scope.plan.rows.row(old));
    let mut params = cells(scope, old, &found.columns);
    params.extend(cells(scope, new, &set));
    if set.is_empty() {
        return Ok(());
    }
    let label = scope.label("updating one row without a key", None);
    let shape = Shape::UpdateOne(found, set);
    execute(work, label, scope.table, shape, params, 1).await
}

/// Columns that are known here and are the leader's on the follower too.
fn present(table: &Table, cells: &[Cell]) -> Vec<usize> {
    let written = table.written.iter().copied();
    written
        .filter(|&column| cells[column] != Cell::Absent)
        .collect()
}

fn find(table: &Table, cells: &[Cell]) -> Match {
    let has_value = |&column: &usize| matches!(cells[column], Cell::Text { .. });
    Match {
        columns: present(table, cells),
        indexed: table.indexed.filter(has_value),
    }
}

fn cells<'a>(scope: Scope<'a>, row: RowRef, columns: &[usize]) -> Vec<Param<'a>> {
    let rows = &scope.plan.rows;
    let cells = rows.row(row);
    let one = |&column: &usize| Param::Cell {
        rows,
        cell: cells[column],
    };
    columns.iter().map(one).collect()
}
