//! The net change of a table's changes (stands in until the planner is merged).

use crate::error::Result;
use crate::model::{TableChanges, TablePlan};

/// Plans the changes of one table.
pub fn plan(changes: TableChanges) -> Result<TablePlan> {
    let _ = changes;
    todo!()
}
