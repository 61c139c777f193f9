//! How far a follower's tables are on their way into effect. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::follow::Terms;
use super::join::{choice_limit, rows_loaded};
use crate::log::copies::CopyLedger;
use crate::model::{Checkpoint, TableName};
use crate::status::RebuildProgress;

/// How far these tables are, of which some may be in effect by now. A copy that is still running counts
/// with the rows that are loaded of it; a table without a copy with nothing. `changes`: those of the log up to
/// where the follower goes.
pub fn progress(
    tables: &BTreeSet<TableName>,
    checkpoint: &Checkpoint,
    (ledger, changes): (&CopyLedger, u64),
    terms: &Terms,
) -> RebuildProgress {
    let mut sum = RebuildProgress::default();
    // Changes are read once a copy, for all its tables.
    let mut of_copies: BTreeMap<i64, (u64, u64)> = BTreeMap::new();
    for table in tables {
        let mut joins = checkpoint.joins.iter();
        let join = joins.find(|join| join.tables.contains(table));
        let in_effect = checkpoint.in_effect.contains(table);
        let refused = checkpoint.refused.get(&table.quoted());
        let copy = match join {
            Some(join) => ledger.get(join.copy).map(|copy| (join.copy, copy)),
            None => ledger.choose(table, refused, choice_limit(checkpoint)),
        };
        let Some((id, copy)) = copy else {
            continue;
        };
        let loaded = join.map_or(0, |join| rows_loaded(terms, join, table));
        let rows = copy.rows(&terms.topics.copy(table)).unwrap_or(loaded);
        sum.total += rows;
        sum.done += if in_effect { rows } else { loaded };
        let behind = changes.saturating_sub(copy.changes_before);
        let passed = match (in_effect, join) {
            (true, _) => behind,
            (false, Some(join)) => join.changes.min(behind),
            (false, None) => 0,
        };
        let of_copy = of_copies.entry(id).or_insert((passed, behind));
        of_copy.0 = of_copy.0.min(passed);
    }
    for (passed, behind) in of_copies.into_values() {
        sum.done += passed;
        sum.total += behind;
    }
    sum
}
