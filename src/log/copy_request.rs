//! Requests for copies by `walferry copy`: records of `P.progress` beside those of sinks. Pure.
//!
//! A request says up to which entry of the log its writer had read, so only copies that began behind it
//! fulfil it; one that was running already began before and does not. It is fulfilled once: the
//! source removes it when each of its tables has such a copy or is not captured any more. It holds
//! nothing: the log is trimmed as if it were not there, as a copy that was trimmed away fulfils no wish.
//! A request of a command that was killed stays and is fulfilled all the same.
//!
//! A request may name a sink: then the copies made for it are read from that sink's follower, and the leader
//! is spared. Whatever copy is made meanwhile fulfils it too.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::log::commit_log::{CopyEnd, Entry};
use crate::log::copies::CopyLedger;
use crate::log::progress::Want;
use crate::log::topics::Topics;
use crate::model::{Lsn, TableName};

/// How keys of requests begin: with what no sink's name has.
const KEY_PREFIX: &str = "copy:";

/// The key of the record that pauses copies, for as long as it stands; no sink's name has a colon.
pub const PAUSE_KEY: &str = "pause:copies";

/// Tables of which new copies are asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopyRequest {
    /// The tables, each with the last offset of the log that was there before the request.
    pub wants: Vec<Want>,
    /// The sink from whose follower the rows are to be read; none: from the leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// What a source makes of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Standing {
    /// These tables still need a copy.
    Open(Vec<TableName>),
    /// Each table was copied, or is not captured any more.
    Fulfilled,
    /// It names entries that the log does not have: it was made for a log that is gone.
    OfAnotherLog,
}

/// The key of a request's record; `token` is one that no other command has.
pub fn key(token: &str) -> String {
    format!("{KEY_PREFIX}{token}")
}

/// Whether a record of `P.progress` with this key is a request.
pub fn is_key(key: &str) -> bool {
    key.starts_with(KEY_PREFIX)
}

impl CopyRequest {
    /// Asks for copies of these tables that begin behind the log's end as it was read (`log_end` is the
    /// next offset).
    pub fn behind(log_end: i64, tables: impl IntoIterator<Item = TableName>) -> Self {
        let after = log_end - 1;
        let wants = tables.into_iter().map(|table| Want { table, after });
        CopyRequest {
            wants: wants.collect(),
            from: None,
        }
    }

    /// The same with rows from the follower of this sink; none: from the leader.
    #[must_use]
    pub fn read_from(self, sink: Option<String>) -> Self {
        CopyRequest { from: sink, ..self }
    }

    /// What is left of it for a source with this captured set, which knows these copies and whose log
    /// ends at `log_end` now or later.
    pub fn standing(&self, captured: &[TableName], ledger: &CopyLedger, log_end: i64) -> Standing {
        if self.wants.iter().any(|want| want.after >= log_end) {
            return Standing::OfAnotherLog;
        }
        let open = self
            .wants
            .iter()
            .filter(|want| captured.contains(&want.table) && !ledger.has(&want.table, want.after));
        let open: Vec<TableName> = open.map(|want| want.table.clone()).collect();
        if open.is_empty() {
            Standing::Fulfilled
        } else {
            Standing::Open(open)
        }
    }
}

/// What the log has told of copies that are waited for.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// A copy of some of the tables begins.
    Begun {
        /// Its id.
        copy: i64,
        /// The tables.
        tables: Vec<TableName>,
    },
    /// A table is copied.
    Copied {
        /// The copy's id.
        copy: i64,
        /// The table.
        table: TableName,
        /// What the leader held at this LSN.
        point: Lsn,
        /// Its rows.
        rows: u64,
    },
    /// The copy that was running is void: its source has ended its epoch, and the next one begins it again.
    Void,
    /// A table is not captured any more.
    Left(TableName),
}

/// Waits for the copies of a request; fed every valid entry in log order.
#[derive(Debug)]
pub struct Awaited {
    topics: Topics,
    after: i64,
    waiting: BTreeSet<TableName>,
    ledger: CopyLedger,
    running: bool,
}

impl Awaited {
    /// Waits for copies of these tables that begin behind `log_end`, the end of the log that `ledger`
    /// was fed.
    pub fn behind(
        log_end: i64,
        tables: impl IntoIterator<Item = TableName>,
        ledger: CopyLedger,
        topics: Topics,
    ) -> Self {
        Awaited {
            topics,
            after: log_end - 1,
            waiting: tables.into_iter().collect(),
            ledger,
            running: false,
        }
    }

    /// Tables that are still waited for.
    pub fn waiting(&self) -> &BTreeSet<TableName> {
        &self.waiting
    }

    /// Notes the next valid entry; what it tells of these tables.
    pub fn valid(&mut self, offset: i64, entry: &Entry) -> Vec<Step> {
        self.ledger.valid(offset, entry);
        match entry {
            Entry::Batch(_) => Vec::new(),
            Entry::Epoch(_) => self.new_epoch(),
            Entry::CopyBegin(begin) => {
                // A repeat of a copy_begin is in the log, but no copy.
                let tables: Vec<TableName> = match self.ledger.get(offset) {
                    Some(_) => begin
                        .tables
                        .iter()
                        .filter(|t| self.waiting.contains(t))
                        .cloned()
                        .collect(),
                    None => Vec::new(),
                };
                if tables.is_empty() {
                    return Vec::new();
                }
                self.running = true;
                vec![Step::Begun {
                    copy: offset,
                    tables,
                }]
            }
            Entry::CopyEnd(end) => self.ended(end),
        }
    }

    fn new_epoch(&mut self) -> Vec<Step> {
        let captured = self.ledger.captured();
        let left: Vec<TableName> = self
            .waiting
            .iter()
            .filter(|table| !captured.contains_key(*table))
            .cloned()
            .collect();
        self.waiting.retain(|table| captured.contains_key(table));
        let void = std::mem::take(&mut self.running).then_some(Step::Void);
        void.into_iter()
            .chain(left.into_iter().map(Step::Left))
            .collect()
    }

    fn ended(&mut self, end: &CopyEnd) -> Vec<Step> {
        let Some(known) = self.ledger.get(end.copy).filter(|_| end.copy > self.after) else {
            return Vec::new();
        };
        let copied: Vec<TableName> = known.tables.intersection(&self.waiting).cloned().collect();
        self.running = false;
        let rows_of = |table: &TableName| known.rows(&self.topics.copy(table)).unwrap_or(0);
        let steps: Vec<Step> = copied
            .iter()
            .map(|table| Step::Copied {
                copy: end.copy,
                table: table.clone(),
                point: end.point,
                rows: rows_of(table),
            })
            .collect();
        for table in &copied {
            self.waiting.remove(table);
        }
        steps
    }
}

#[cfg(test)]
#[path = "copy_request_tests.rs"]
mod tests;
