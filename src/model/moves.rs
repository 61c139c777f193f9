//! What the leader has done to whole tables between two epochs.

use super::TableName;

/// Tables that a follower had, and that have another name on the leader now, or are no more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    /// Old and new name (schema and name) of each.
    pub renamed: Vec<(TableName, TableName)>,
    /// Tables that the leader has dropped.
    pub dropped: Vec<TableName>,
}

impl Moves {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.renamed.is_empty() && self.dropped.is_empty()
    }
}
