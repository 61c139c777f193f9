//! Changes that somebody has ordered to be passed over.

use std::collections::BTreeSet;

use super::{Position, TableName};

/// Positions of the changes ordered to be passed over and not met yet.
pub type Skips = BTreeSet<Position>;

/// A change that was met and passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The position that was ordered.
    pub position: Position,
    /// The table that lacks the change from now on.
    pub table: TableName,
}
