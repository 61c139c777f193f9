//! What a follower durably knows of itself. It lives in the follower and is the only truth about
//! what the follower has.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Epoch, Lsn, Selection, TableName};

/// Next offset to read, by topic and partition.
pub type Cursors = BTreeMap<String, BTreeMap<i32, i64>>;

/// A reader's place in the commit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPlace {
    /// Offset of the next entry to read.
    pub next_offset: i64,
    /// Current epoch; none before the first valid entry.
    pub epoch: Option<Epoch>,
    /// The log's `to` after the last valid entry; none before the first.
    pub to: Option<Lsn>,
    /// Offset of the last valid entry.
    pub last_valid: Option<i64>,
    /// Tables of the current epoch's captured set.
    pub captured: BTreeSet<TableName>,
    /// Whether the reader began at the log's low end and has not yet seen an entry.
    pub fresh: bool,
}

/// A follower's checkpoint: written in the same follower transaction as the rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Grows by one at every durable step: the fence against a second worker and against an own
    /// COMMIT of unknown outcome.
    pub version: i64,
    /// Boundary up to which the tables in effect show the leader.
    pub applied: Lsn,
    /// Leader's clock at the last applied commit, microseconds since 2000-01-01 UTC.
    pub commit_time_us: Option<i64>,
    /// Main reader's place in the commit log.
    pub log: LogPlace,
    /// Main reader's cursors: partitions of the tables in effect.
    pub cursors: Cursors,
    /// Tables in effect.
    pub in_effect: BTreeSet<TableName>,
    /// Joins under way: copies being loaded.
    pub joins: Vec<Join>,
    /// Copy ids that were tried and found unusable, by table.
    pub refused: BTreeMap<String, BTreeSet<i64>>,
    /// The leader's system identifier, from the epoch entry.
    pub system_id: Option<String>,
    /// The leader's timeline, from the epoch entry.
    pub timeline: Option<u32>,
    /// Id of the Kafka cluster the log is in.
    pub cluster_id: Option<String>,
}

impl Checkpoint {
    /// Captured tables that the sink takes and that are not in effect.
    pub fn lacking(&self, selection: &Selection) -> BTreeSet<TableName> {
        self.lacks(selection).cloned().collect()
    }

    /// Whether every captured table that the sink takes is in effect. Until then the follower promises nothing.
    pub fn is_complete(&self, selection: &Selection) -> bool {
        self.log.epoch.is_some() && self.lacks(selection).next().is_none()
    }

    fn lacks<'a>(&'a self, selection: &'a Selection) -> impl Iterator<Item = &'a TableName> {
        let captured = self.log.captured.iter();
        // Asked at every commit: matching patterns is the dearer of the two.
        captured.filter(|table| !self.in_effect.contains(table) && selection.takes(table))
    }
}

/// Tables of one copy on their way into effect. One row set, one second reader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// The copy: offset of its `copy_begin` entry.
    pub copy: i64,
    /// Tables of the copy that this join brings in.
    pub tables: BTreeSet<TableName>,
    /// The copy's point, known from `copy_end`.
    pub point: Option<Lsn>,
    /// Progress of the rows, by copy topic and partition.
    pub rows: BTreeMap<String, BTreeMap<i32, JoinRows>>,
    /// Whether all rows are loaded (counts came out at `copy_end`).
    pub complete: bool,
    /// The second reader's place in the commit log.
    pub log: LogPlace,
    /// The second reader's cursors in the tables' topics.
    pub cursors: Cursors,
}

/// How far the rows of one partition of a copy topic are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRows {
    /// Next offset to read.
    pub next_offset: i64,
    /// Last sequence number taken; -1 for none.
    pub sequence: i64,
    /// Rows (records) taken.
    pub count: u64,
}
