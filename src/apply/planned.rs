//! Changes in the form that a store wants, with what is to be prepared for them and how many rows they are. Pure.

use std::sync::Arc;

use super::plan::plan;
use crate::error::Result;
use crate::model::batch::Step;
use crate::model::{Chunk, NetChange, Op, Position, TableChanges, TablePlan, TableSchema};
use crate::sink::{Wants, Work};
use crate::status::RowCounts;

/// A schema version that records need.
#[derive(Clone, Debug)]
pub struct NeededSchema {
    /// The version.
    pub schema: Arc<TableSchema>,
    /// The first of the records; `None`: it is needed for the table's shape only.
    pub first: Option<Position>,
}

impl NeededSchema {
    /// What these changes need.
    pub fn of(changes: &TableChanges) -> Self {
        NeededSchema {
            schema: changes.schema.clone(),
            first: changes.changes.first().map(|change| change.position),
        }
    }
}

/// A planned chunk.
#[derive(Debug)]
pub struct Planned {
    /// What the store is handed.
    pub work: Work,
    /// Schema versions in it, a table's in order.
    pub schemas: Vec<NeededSchema>,
    /// Records in it.
    pub changes: u64,
    /// Rows to be written, after netting.
    pub rows: RowCounts,
}

/// Puts changes into the form that the store wants.
///
/// # Errors
/// As [`plan`].
pub fn planned(wants: Wants, tables: Vec<TableChanges>) -> Result<Planned> {
    let schemas = tables.iter().map(NeededSchema::of).collect();
    let changes: usize = tables.iter().map(|table| table.changes.len()).sum();
    let changes = u64::try_from(changes).expect("a count of things in memory");
    let (work, rows) = match wants {
        Wants::Changes => {
            let mut rows = RowCounts::default();
            for change in tables.iter().flat_map(|table| &table.changes) {
                count(&mut rows, change.op);
            }
            (Work::Changes(Chunk { tables }), rows)
        }
        Wants::Net => {
            let plans = tables
                .into_iter()
                .map(plan)
                .collect::<Result<Vec<TablePlan>>>()?;
            let mut rows = RowCounts::default();
            for plan in &plans {
                rows += rows_of(plan);
            }
            (Work::Net(plans), rows)
        }
    };
    Ok(Planned {
        work,
        schemas,
        changes,
        rows,
    })
}

fn rows_of(plan: &TablePlan) -> RowCounts {
    let mut rows = RowCounts::default();
    for step in &plan.steps {
        match step {
            Step::Truncate => {}
            Step::Ordered(changes) => changes
                .iter()
                .for_each(|change| count(&mut rows, change.op)),
            Step::Net(NetChange {
                deletes,
                updates,
                moves,
                inserts,
                vanished: _,
                same: _,
                returned: _,
            }) => {
                let updated = updates.iter().map(|group| group.rows.len()).sum::<usize>();
                rows += RowCounts {
                    inserted: inserts.len() as u64,
                    updated: (updated + moves.len()) as u64,
                    deleted: deletes.len() as u64,
                };
            }
        }
    }
    rows
}

fn count(rows: &mut RowCounts, op: Op) {
    match op {
        Op::Read | Op::Insert => rows.inserted += 1,
        Op::Update => rows.updated += 1,
        Op::Delete => rows.deleted += 1,
        Op::Truncate => {}
    }
}
