//! How far a comparison is, for whoever waits for it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::TableName;
use crate::source::catalog::CatalogTable;

/// How far a comparison is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The table that is being read.
    pub table: &'a TableName,
    /// Tables that are done.
    pub tables_done: usize,
    /// All tables.
    pub tables: usize,
    /// Rows that were read of both.
    pub rows: u64,
    /// Rows of all tables: those of tables that are done, and what the leader's statistics say of the others.
    pub rows_estimate: u64,
}

/// Rows that were read of the table under way, on each side.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// On the leader.
    pub leader: AtomicU64,
    /// On the follower.
    pub follower: AtomicU64,
}

/// The way through the tables.
pub(super) struct Course<'a> {
    /// Tables with their estimated rows.
    pub tables: Vec<(TableName, u64)>,
    /// The one under way.
    pub at: usize,
    /// Rows of those before it.
    pub rows_before: u64,
    /// Whom it is told.
    pub told: &'a (dyn Fn(Progress<'_>) + Sync),
}

impl<'a> Course<'a> {
    /// At the first of these tables.
    pub(super) fn of(tables: &[CatalogTable], told: &'a (dyn Fn(Progress<'_>) + Sync)) -> Self {
        let estimated = tables.iter().map(|table| {
            let rows = table.rows_estimate.unwrap_or_default();
            (table.schema.table.clone(), rows)
        });
        Course {
            tables: estimated.collect(),
            at: 0,
            rows_before: 0,
            told,
        }
    }

    fn progress(&self, read: &Read) -> Option<Progress<'_>> {
        let (table, _) = self.tables.get(self.at)?;
        let left = self.tables.get(self.at..).unwrap_or_default();
        let left: u64 = left.iter().map(|(_, rows)| rows).sum();
        let of = |side: &AtomicU64| side.load(Ordering::Relaxed);
        Some(Progress {
            table,
            tables_done: self.at,
            tables: self.tables.len(),
            rows: self.rows_before + of(&read.leader).min(of(&read.follower)),
            rows_estimate: self.rows_before + left,
        })
    }

    /// More of the table under way was read.
    pub(super) fn tell(&self, read: &Read) {
        if let Some(progress) = self.progress(read) {
            (self.told)(progress);
        }
    }

    /// The table under way is done, and had so many rows.
    pub(super) fn next(&mut self, rows: u64) {
        self.rows_before += rows;
        self.at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_both_sides_have_read_counts() {
        let tables = ["a", "b"].map(|name| (TableName::new("public", name), 100));
        let mut course = Course {
            tables: tables.to_vec(),
            at: 0,
            rows_before: 0,
            told: &|_| {},
        };
        let read = |leader, follower| Read {
            leader: AtomicU64::new(leader),
            follower: AtomicU64::new(follower),
        };
        let of = |course: &Course<'_>, read: Read| {
            let progress = course.progress(&read).unwrap();
            let table = progress.table.name.clone();
            (
                table,
                progress.tables_done,
                progress.rows,
                progress.rows_estimate,
            )
        };
        assert_eq!(of(&course, read(60, 40)), ("a".to_owned(), 0, 40, 200));
        course.next(130);
        assert_eq!(of(&course, read(10, 20)), ("b".to_owned(), 1, 140, 230));
        course.next(100);
        assert_eq!(course.progress(&Read::default()), None);
    }
}
