//! A table on one server, read part by part, no faster than is allowed. All parts are of one snapshot.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use super::pace::{Blocks, Pace, Parts, part_rows};
use super::snapshot::{Snapshot, add, rows};
use super::sql::SideSql;
use crate::error::Result;
use crate::sink::compared::{Contents, Sums};

/// A table in a snapshot.
pub(super) struct Scan<'a> {
    snapshot: Snapshot<'a>,
    sql: &'a SideSql,
    buckets: u64,
    rate: Option<NonZeroU64>,
    /// The parts that were read, with their rows.
    read: Vec<(Blocks, u64)>,
}

impl<'a> Scan<'a> {
    /// Nothing is read yet.
    pub(super) fn new(
        snapshot: Snapshot<'a>,
        sql: &'a SideSql,
        buckets: u64,
        rate: Option<NonZeroU64>,
    ) -> Self {
        Scan {
            snapshot,
            sql,
            buckets,
            rate,
            read: Vec::new(),
        }
    }

    /// Sums of the buckets; `told` hears how many rows each part had.
    pub(super) async fn sums(&mut self, told: &(dyn Fn(u64) + Sync)) -> Result<Sums> {
        let mut sums = Sums::new();
        let (blocks, relations) = self.snapshot.size(self.sql).await?;
        let mut parts = Parts::new(blocks, relations, part_rows(self.rate, self.buckets));
        let mut pace = Pace::new(self.rate);
        while let Some(part) = parts.next() {
            let begun = pace.turn().await;
            let found = self.snapshot.sums(self.sql, self.buckets, part).await?;
            let rows = rows(&found);
            add(&mut sums, found);
            pace.read(rows, begun);
            parts.read(part, rows);
            self.read.push((part, rows));
            told(rows);
        }
        Ok(sums)
    }

    /// Rows of some buckets, by key, once the sums were read.
    pub(super) async fn rows_of(&self, of: &[i32]) -> Result<Contents> {
        let mut found = Contents::new();
        let mut pace = Pace::new(self.rate);
        for (part, rows) in &self.read {
            let begun = pace.turn().await;
            let of = (self.buckets, of);
            found.extend(self.snapshot.rows_of(self.sql, of, *part).await?);
            pace.read(*rows, begun);
        }
        Ok(found)
    }

    /// How often each row of some buckets is there, by its content, once the sums were read.
    pub(super) async fn counts(&self, of: &[i32]) -> Result<BTreeMap<String, i64>> {
        let mut counts = BTreeMap::new();
        let mut pace = Pace::new(self.rate);
        for (part, rows) in &self.read {
            let begun = pace.turn().await;
            let of = (self.buckets, of);
            for (content, more) in self.snapshot.counts(self.sql, of, *part).await? {
                *counts.entry(content).or_insert(0) += more;
            }
            pace.read(*rows, begun);
        }
        Ok(counts)
    }
}
