//! How far back a follower can be rebuilt from Kafka: `walferry history`, and where a rebuild begins.
//!
//! A copy of a table is its base backup, the table's topic the archive of changes behind it. Both expire.
//! What is said here follows from the commit log and from watermarks: which records are surely gone. That
//! the others are all there is decided by counting when they are read, which is what sinks do; so a copy that
//! is called usable here can still turn out not to be, and one that is called gone is gone.
//!
//! The log is read once, entry by entry (`survey`), and takes no more memory the longer it is (`milestones`).

mod milestones;
mod survey;

use std::collections::{BTreeMap, BTreeSet};

use crate::config::KafkaSettings;
use crate::error::Result;
use crate::log::held::{End, watermarks_of};
use crate::log::tail::{From, LogTail};
use crate::log::topics::Topics;
use crate::model::{Lsn, TableName};

use milestones::Milestones;
pub use survey::Survey;

/// A boundary, and since when the leader had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boundary {
    /// An LSN between two transactions.
    pub lsn: Lsn,
    /// A time by the leader's clock, microseconds since 2000-01-01 UTC: the log had reached the boundary by
    /// then. None where the log does not tell.
    pub time_us: Option<i64>,
}

/// Why a copy can no longer be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gone {
    /// Rows of its own are no longer in this partition.
    Rows {
        /// The copy topic.
        topic: String,
        /// The partition.
        partition: i32,
    },
    /// Changes behind its point are no longer in this partition.
    Changes {
        /// The table's topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// From here on they are whole again.
        up_to: Boundary,
    },
}

/// A complete copy of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyInfo {
    /// Its id: offset of its `copy_begin` in the commit log.
    pub copy: i64,
    /// Its point: the rows are what all transactions with a commit LSN below it left.
    pub point: Boundary,
    /// The first boundary to which a follower can be rebuilt with it: tables come into effect between two
    /// entries of the log, so it is the end of the entry that the point lies in.
    pub from: Boundary,
    /// Records of the table's rows; a row that is too large for one is several.
    pub rows: u64,
    /// None: it is usable, with all changes from its point to the log's end.
    pub gone: Option<Gone>,
}

/// What the log and Kafka have of one captured table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableHistory {
    /// The table.
    pub table: TableName,
    /// Its complete copies that the log knows; the oldest first.
    pub copies: Vec<CopyInfo>,
    /// The copy under way, if there is one.
    pub running: Option<i64>,
    /// From here on Kafka may have all of its changes; before, some are gone. None while the log has no
    /// boundary.
    pub changes_from: Option<Boundary>,
}

impl TableHistory {
    /// Its usable copies; the oldest first.
    pub fn usable(&self) -> impl DoubleEndedIterator<Item = &CopyInfo> {
        self.copies.iter().filter(|copy| copy.gone.is_none())
    }
}

/// Transactions and changes between two boundaries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Leader transactions.
    pub transactions: u64,
    /// Records of changes.
    pub changes: u64,
}

/// What Kafka has of a pipeline.
#[derive(Clone, Debug)]
pub struct History {
    /// The captured tables, by name.
    pub tables: BTreeMap<TableName, TableHistory>,
    latest: Option<Boundary>,
    milestones: Milestones,
}

impl History {
    /// Reads the commit log from its low end to its end as it is now.
    ///
    /// # Errors
    /// Transient for Kafka's; halt when the log is not there, has a hole, or holds what is no entry.
    pub async fn read(kafka: &KafkaSettings, topics: &Topics) -> Result<History> {
        // What expires while the log is read is not seen; entries that come meanwhile are not read.
        let lows = watermarks_of(kafka, topics, End::Low).await?;
        let mut tail = LogTail::open(kafka, &topics.commits(), From::Low).await?;
        let mut survey = Survey::at_low_end(tail.low(), &lows);
        while let Some((offset, entry)) = tail.next_there().await? {
            survey.see(offset, &entry)?;
        }
        // Not before: what the entries name must lie below.
        let highs = watermarks_of(kafka, topics, End::High).await?;
        Ok(survey.finish(topics, &highs))
    }

    /// The earliest boundary to which all of these tables can be rebuilt. None: one of them has no usable
    /// copy, or there are none.
    pub fn earliest(&self, tables: &BTreeSet<TableName>) -> Option<Boundary> {
        let mut earliest: Option<Boundary> = None;
        for table in tables {
            let copies = self.tables.get(table)?.usable().map(|copy| copy.from);
            let first = copies.min_by_key(|from| from.lsn)?;
            if earliest.is_none_or(|so_far| so_far.lsn < first.lsn) {
                earliest = Some(first);
            }
        }
        earliest
    }

    /// The log's end: the latest boundary to which anything can be rebuilt now. None: the log has none yet.
    pub fn latest(&self) -> Option<Boundary> {
        self.latest
    }

    /// What lies between a boundary and the log's end; about, for logs of more than
    /// some 65,000 entries.
    pub fn work_since(&self, from: Lsn) -> Work {
        self.milestones.since(from)
    }
}
