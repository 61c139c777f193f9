//! `walferry verify`: whether a follower holds the rows of its leader, while both are live.
//!
//! Both are compared at one and the same boundary (`boundary`), so what differs there is wrong, however often rows
//! change. Tables are read once, as sums of hashes by bucket of the key, computed in the databases; only where
//! buckets differ rows are looked at, by key. Tables are read part by part (`scan`), so that it is known how far it
//! is and can be done slowly (`pace`).
//!
//! Changes no row of a table; takes no lock on tables but those of reading.

mod boundary;
mod course;
mod foreign;
mod pace;
pub mod periodic;
mod report;
mod scan;
mod servers;
mod snapshot;
mod sql;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::config::{PostgresSinkSettings, SinkSettings, SourceSettings, StoreSettings};
use crate::error::{Error, Result};
use crate::model::{Selection, TableName};
use crate::sink::compared::{Contents, Sums};
use crate::source::catalog::CatalogTable;
use crate::source::published;

use boundary::{Boundary, Taker};
pub use course::Progress;
use course::{Course, Read};
pub use report::{Differences, Report, TableReport};
use scan::Scan;
use servers::Servers;
use sql::TableSql;

/// Rows a bucket should have.
const BUCKET_ROWS: u64 = 1_000;
/// Buckets of a table, at most.
const BUCKETS_MAX: u64 = 100_000;
/// Rows in buckets that differ that are looked at one by one, at most.
const ROWS_MAX: u64 = 2_000_000;
/// What is said of a table that the follower does not have yet.
const NOT_IN_EFFECT: &str = "its copy has not come into effect on this follower yet";
/// Boundaries that are taken for a table that is altered or truncated again and again.
const BOUNDARIES_MAX: usize = 3;

/// What is to be compared.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The pipeline.
    pub pipeline: &'a str,
    /// The leader.
    pub source: &'a SourceSettings,
    /// The sink of the follower.
    pub sink: &'a SinkSettings,
    /// Tables that the sink takes.
    pub selection: &'a Selection,
    /// Tables to compare, of those.
    pub tables: &'a Selection,
    /// Longest wait for a boundary: for the follower to show what the leader has, and for the leader's open
    /// transactions that have written.
    pub patience: Duration,
    /// So many rows are read of each server a second at most; none: as fast as they can.
    pub max_rows_per_second: Option<NonZeroU64>,
}

/// Compares a follower with its leader, table by table; `told` hears how far it is.
///
/// # Errors
/// Those of the two servers; transient when there is no boundary within the time; halt when the follower was ordered
/// to stop at a position, or only shows the stream.
pub async fn run(asked: Asked<'_>, told: &(dyn Fn(Progress<'_>) + Sync)) -> Result<Report> {
    match &asked.sink.store {
        StoreSettings::Postgres(follower) => {
            let pair = Pair {
                pipeline: asked.pipeline,
                source: asked.source,
                sink: &asked.sink.name,
                selection: asked.selection,
                follower,
                tables: asked.tables,
                patience: asked.patience,
                max_rows_per_second: asked.max_rows_per_second,
            };
            alike(pair, told).await
        }
        StoreSettings::ClickHouse(_) | StoreSettings::MySql(_) | StoreSettings::Stdout(_) => {
            foreign::run(asked, told).await
        }
    }
}

/// A leader and a Postgres follower.
#[derive(Clone, Copy, Debug)]
struct Pair<'a> {
    /// The pipeline.
    pipeline: &'a str,
    /// The leader.
    source: &'a SourceSettings,
    /// The sink's name.
    sink: &'a str,
    /// Tables that the sink takes.
    selection: &'a Selection,
    /// The follower.
    follower: &'a PostgresSinkSettings,
    /// Tables to compare, of those.
    tables: &'a Selection,
    /// Longest wait for a boundary: for the follower to show what the leader has, and for the leader's open
    /// transactions that have written.
    patience: Duration,
    /// So many rows are read of each server a second at most; none: as fast as they can.
    max_rows_per_second: Option<NonZeroU64>,
}

/// Compares two Postgres servers.
async fn alike(pair: Pair<'_>, told: &(dyn Fn(Progress<'_>) + Sync)) -> Result<Report> {
    let servers = Servers::open(pair).await?;
    let published = published::tables(&servers.leader.outside, &pair.source.publication).await?;
    let tables = taken(published, (pair.selection, pair.tables));
    let mut course = Course::of(&tables, told);
    let mut comparison = Comparison {
        pair,
        servers: &servers,
        taker: Taker::open(pair, &servers).await?,
        boundary: None,
    };
    let mut reports = Vec::new();
    for table in &tables {
        course.tell(&Read::default());
        let report = comparison.table(&table.schema.table, &course).await?;
        course.next(report.rows);
        reports.push(report);
    }
    Ok(Report {
        sink: pair.sink.to_owned(),
        tables: reports,
        before_repair: Vec::new(),
    })
}

struct Comparison<'a> {
    pair: Pair<'a>,
    servers: &'a Servers,
    taker: Taker<'a>,
    /// The newest one.
    boundary: Option<Boundary<'a>>,
}

impl<'a> Comparison<'a> {
    async fn table(&mut self, name: &TableName, course: &Course<'_>) -> Result<TableReport> {
        let not_compared = |note: &str| TableReport {
            note: Some(note.to_owned()),
            ..TableReport::of(name)
        };
        let not_in_effect = || not_compared(NOT_IN_EFFECT);
        for _ in 0..BOUNDARIES_MAX {
            if self.boundary.is_none() && !self.taker.in_effect().await?.contains(name) {
                return Ok(not_in_effect());
            }
            let boundary = match self.boundary.take().filter(Boundary::is_fresh) {
                Some(fresh) => fresh,
                None => self.taker.take().await?,
            };
            let boundary = self.boundary.insert(boundary);
            if !boundary.in_effect.contains(name) {
                return Ok(not_in_effect());
            }
            let mut tables = boundary.tables.iter();
            let Some(table) = tables.find(|table| table.schema.table == *name) else {
                return Ok(not_compared("it left the publication meanwhile"));
            };
            let sql = match TableSql::of(table, boundary.follower.0).await? {
                Ok(sql) => sql,
                Err(note) => return Ok(not_compared(&note)),
            };
            if self.servers.lock(name, &sql).await? {
                let rate = self.pair.max_rows_per_second;
                let report = compare(boundary, (table, &sql), rate, course).await?;
                self.servers.unlock().await?;
                return Ok(report);
            }
            self.boundary = None;
        }
        Err(Error::transient(format!(
            "table {name} was altered, truncated or rewritten each time that it was to be read"
        )))
    }
}

async fn compare(
    boundary: &Boundary<'_>,
    (table, sql): (&CatalogTable, &TableSql),
    rate: Option<NonZeroU64>,
    course: &Course<'_>,
) -> Result<TableReport> {
    let mut report = TableReport {
        boundary: Some(boundary.lsn),
        ..TableReport::of(&table.schema.table)
    };
    let buckets = buckets(table);
    let mut leader = Scan::new(boundary.leader, &sql.leader, buckets, rate);
    let mut follower = Scan::new(boundary.follower, &sql.follower, buckets, rate);
    let (here, there) = sums(&mut leader, &mut follower, course).await?;
    report.rows = snapshot::rows(&here);
    let unequal = unequal(&here, &there);
    if unequal.is_empty() {
        return Ok(report);
    }
    if are_too_many((&here, &there), &unequal) {
        only_counted(unequal.len(), buckets, &mut report);
    } else if table.schema.has_key() {
        let (here, there) = tokio::try_join!(leader.rows_of(&unequal), follower.rows_of(&unequal))?;
        by_key(&here, &there, &mut report);
    } else {
        let (here, there) = tokio::try_join!(leader.counts(&unequal), follower.counts(&unequal))?;
        by_content(&here, &there, &mut report);
    }
    Ok(report)
}

/// Tables to compare, by name: `selections` all take them.
fn taken(
    mut published: Vec<CatalogTable>,
    selections: (&Selection, &Selection),
) -> Vec<CatalogTable> {
    published.retain(|table| {
        let name = &table.schema.table;
        selections.0.takes(name) && selections.1.takes(name)
    });
    published.sort_by(|a, b| a.schema.table.cmp(&b.schema.table));
    published
}

/// Buckets that a table is compared in.
fn buckets(table: &CatalogTable) -> u64 {
    let rows = table.rows_estimate.unwrap_or_default();
    (rows / BUCKET_ROWS).clamp(1, BUCKETS_MAX)
}

/// Whether the rows of buckets that differ are too many to be looked at one by one.
fn are_too_many((here, there): (&Sums, &Sums), unequal: &[i32]) -> bool {
    rows_in(here, unequal) + rows_in(there, unequal) > ROWS_MAX
}

/// Notes how many buckets differ.
fn only_counted(unequal: usize, buckets: u64, report: &mut TableReport) {
    report.note = Some(format!(
        "{unequal} of {buckets} parts differ, too many to be looked at row by row; counted as one row each"
    ));
    report.different.count = unequal as u64;
}

/// Sums of a table's buckets on both sides, read at the same time.
async fn sums(
    leader: &mut Scan<'_>,
    follower: &mut Scan<'_>,
    course: &Course<'_>,
) -> Result<(Sums, Sums)> {
    let read = Read::default();
    let tell = |side: &AtomicU64, rows| {
        side.fetch_add(rows, Ordering::Relaxed);
        course.tell(&read);
    };
    let (here, there) = (
        |rows| tell(&read.leader, rows),
        |rows| tell(&read.follower, rows),
    );
    tokio::try_join!(leader.sums(&here), follower.sums(&there))
}

/// Buckets that are not the same on both sides.
fn unequal(here: &Sums, there: &Sums) -> Vec<i32> {
    let all: BTreeSet<i32> = here.keys().chain(there.keys()).copied().collect();
    let all = all.into_iter();
    all.filter(|bucket| here.get(bucket) != there.get(bucket))
        .collect()
}

fn rows_in(sums: &Sums, buckets: &[i32]) -> u64 {
    let sums = buckets.iter().filter_map(|bucket| sums.get(bucket));
    sums.map(|sum| sum.rows).sum()
}

/// Notes the keys whose rows are not the same on both sides.
fn by_key(here: &Contents, there: &Contents, report: &mut TableReport) {
    let keys: BTreeSet<&Vec<String>> = here.keys().chain(there.keys()).collect();
    for key in keys {
        let kind = match (here.get(key), there.get(key)) {
            (Some(here), Some(there)) if here == there => continue,
            (Some(_), Some(_)) => &mut report.different,
            (Some(_), None) => &mut report.missing,
            (None, _) => &mut report.extra,
        };
        kind.add(key.clone());
    }
}

/// Notes how many rows that nothing tells apart but their content are not on both sides.
fn by_content(
    here: &BTreeMap<String, i64>,
    there: &BTreeMap<String, i64>,
    report: &mut TableReport,
) {
    let all: BTreeSet<&String> = here.keys().chain(there.keys()).collect();
    for content in all {
        let count = |of: &BTreeMap<String, i64>| of.get(content).copied().unwrap_or(0);
        let more = count(here) - count(there);
        report.missing.count += more.max(0).unsigned_abs();
        report.extra.count += (-more).max(0).unsigned_abs();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_with_a_key_are_missing_extra_or_different() {
        let rows = |rows: &[(&str, &str)]| -> Contents {
            let rows = rows.iter();
            rows.map(|(key, content)| (vec![(*key).to_owned()], (*content).to_owned()))
                .collect()
        };
        let here = rows(&[("same", "x"), ("changed", "x"), ("missing", "y")]);
        let there = rows(&[("same", "x"), ("changed", "z"), ("extra", "w")]);
        let mut report = TableReport::of(&TableName::new("public", "t"));
        by_key(&here, &there, &mut report);
        let keys = [&report.missing, &report.extra, &report.different].map(|of| of.keys.concat());
        assert_eq!(keys, [["missing"], ["extra"], ["changed"]]);
        assert_eq!(report.differing(), 3);
    }

    #[test]
    fn rows_without_a_key_are_counted_by_what_is_in_them() {
        let counts = |counts: &[(&str, i64)]| -> BTreeMap<String, i64> {
            let counts = counts.iter();
            counts
                .map(|(content, count)| ((*content).to_owned(), *count))
                .collect()
        };
        let here = counts(&[("same", 3), ("fewer", 5), ("none", 1)]);
        let there = counts(&[("same", 3), ("fewer", 2), ("other", 7)]);
        let mut report = TableReport::of(&TableName::new("public", "t"));
        by_content(&here, &there, &mut report);
        assert_eq!((report.missing.count, report.extra.count), (4, 7));
    }
}
