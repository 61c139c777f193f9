//! `walferry verify`: whether a Postgres follower holds the rows of its leader, while both are live.
//!
//! No moment is the same on two servers, so nothing is compared at one. A look is three snapshots: of the
//! leader; of the follower, once it shows all that the leader's snapshot showed; of the leader again. A row
//! that the leader has in both its snapshots as the same version (`ctid`, `xmin`) was not touched in between,
//! and the follower must hold it. One that was touched is looked at again. `rounds` has the rule.
//!
//! Tables are read once, as sums of hashes by bucket of the key, computed in the databases; only where buckets
//! differ rows are looked at, by key. Reads only, takes no lock but those of reading, needs no slot. Tables are
//! read part by part (`scan`), so that it is known how far it is and can be done slowly (`pace`).

mod course;
mod pace;
pub mod periodic;
mod report;
mod rounds;
mod scan;
mod snapshot;
mod sql;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::config::{PostgresSettings, PostgresSinkSettings, SourceSettings};
use crate::error::{Error, Result};
use crate::model::{Lsn, Selection};
use crate::postgres::{classify, connect};
use crate::source::catalog::{self, CatalogTable};
use crate::source::published;

pub use course::Progress;
use course::{Course, Read};
pub use report::{Differences, Report, TableReport};
use rounds::{Candidates, Looked};
use scan::Scan;
use snapshot::{Place, Rows, Snapshot, Sum};
use sql::TableSql;

/// Rows a bucket should have.
const BUCKET_ROWS: u64 = 1_000;
/// Buckets of a table, at most.
const BUCKETS_MAX: u64 = 100_000;
/// Rows that differ after the first look and are looked at again, at most; a table with more is said to
/// differ in that many.
const CANDIDATES_MAX: usize = 100_000;
/// Rows in buckets that differ that are looked at one by one, at most.
const ROWS_MAX: u64 = 2_000_000;
/// Looks at rows that differ, at most.
const ROUNDS_MAX: u32 = 30;
/// Rows of the leader that are kept from one look, at most.
const SEEN_MAX: usize = 200_000;
/// Between two looks, so that a commit that is in the WAL becomes visible on the leader too.
const ROUND_EVERY: Duration = Duration::from_millis(250);

/// What is compared.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// The pipeline.
    pub pipeline: &'a str,
    /// The leader.
    pub source: &'a SourceSettings,
    /// The sink's name.
    pub sink: &'a str,
    /// Tables that the sink takes.
    pub selection: &'a Selection,
    /// The follower.
    pub follower: &'a PostgresSinkSettings,
    /// Tables to compare, of those.
    pub tables: &'a Selection,
    /// Longest wait for the follower to show what the leader has.
    pub patience: Duration,
    /// So many rows are read of each server a second at most; none: as fast as they can.
    pub max_rows_per_second: Option<NonZeroU64>,
}

/// Compares, table by table; `told` hears how far it is.
///
/// # Errors
/// Those of the two servers; transient when the follower does not show what the leader has within the time;
/// halt when it was ordered to stop at a position.
pub async fn run(pair: Pair<'_>, told: &(dyn Fn(Progress<'_>) + Sync)) -> Result<Report> {
    let name = |part: &str| format!("walferry verify {part}");
    let leader = open(&pair.source.postgres, &name("leader")).await;
    let leader = leader.map_err(|error| error.at("the leader"))?;
    let follower = open(&pair.follower.postgres, &name(pair.sink)).await;
    let follower = follower.map_err(|error| error.at(format!("follower {}", pair.sink)))?;
    hash_alike(&leader, &follower).await?;
    let published = published::tables(&leader, &pair.source.publication).await?;
    let mut tables: Vec<CatalogTable> = published
        .into_iter()
        .filter(|table| {
            let name = &table.schema.table;
            pair.selection.takes(name) && pair.tables.takes(name)
        })
        .collect();
    tables.sort_by(|a, b| a.schema.table.cmp(&b.schema.table));
    let estimated = tables.iter().map(|table| {
        let rows = table.rows_estimate.unwrap_or_default();
        (table.schema.table.clone(), rows)
    });
    let mut course = Course {
        tables: estimated.collect(),
        at: 0,
        rows_before: 0,
        told,
    };
    let between = Between {
        pair,
        leader,
        follower,
    };
    let mut reports = Vec::new();
    for table in &tables {
        course.tell(&Read::default());
        let report = between.table(table, &course).await?;
        course.next(report.rows);
        reports.push(report);
    }
    Ok(Report {
        sink: pair.sink.to_owned(),
        tables: reports,
        before_repair: Vec::new(),
    })
}

/// The hash is the same in all versions of Postgres up to now, which nobody has promised.
async fn hash_alike(leader: &Client, follower: &Client) -> Result<()> {
    let probe = async |client: &Client| -> Result<i64> {
        let row = client.query_one(sql::PROBE, &[]).await;
        let row = row.map_err(|error| classify(&error, "hashing a text"))?;
        Ok(row.get(0))
    };
    if probe(leader).await? == probe(follower).await? {
        return Ok(());
    }
    Err(Error::halt(
        "leader and follower do not compute hashtextextended() alike, so their rows cannot be compared",
        "report the versions and machines of both; a table can be compared by COPY and diff meanwhile",
    ))
}

async fn open(settings: &PostgresSettings, name: &str) -> Result<Client> {
    let client = connect(settings, name).await?;
    catalog::prepare_session(&client).await?;
    // Hashing a large table takes as long as it takes.
    let lifted = "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0";
    let lifted = client.batch_execute(lifted).await;
    lifted.map_err(|error| classify(&error, "setting up the session"))?;
    Ok(client)
}

struct Between<'a> {
    pair: Pair<'a>,
    leader: Client,
    follower: Client,
}

impl Between<'_> {
    async fn table(&self, table: &CatalogTable, course: &Course<'_>) -> Result<TableReport> {
        let mut report = TableReport::of(&table.schema.table);
        let sql = match TableSql::of(table, &self.follower).await? {
            Ok(sql) => sql,
            Err(note) => {
                report.note = Some(note);
                return Ok(report);
            }
        };
        let rows = table.rows_estimate.unwrap_or_default();
        let buckets = (rows / BUCKET_ROWS).clamp(1, BUCKETS_MAX);
        let (leader, follower) = self.look().await?;
        if !follower.in_effect.contains(&table.schema.table) {
            report.note = Some("its copy has not come into effect on this follower yet".to_owned());
            return Ok(report);
        }
        let rate = self.pair.max_rows_per_second;
        let mut leader = Scan::new(leader, &sql.leader, buckets, rate);
        let mut follower = Scan::new(follower, &sql.follower, buckets, rate);
        let (here, there) = sums(&mut leader, &mut follower, course).await?;
        report.compared = true;
        report.rows = snapshot::rows(&here);
        let unequal = unequal(&here, &there);
        if unequal.is_empty() {
            return Ok(report);
        }
        if rows_in(&here, &unequal) + rows_in(&there, &unequal) > ROWS_MAX {
            report.note = Some(format!(
                "{} of {buckets} parts differ, too many to be looked at row by row; counted as one row each",
                unequal.len()
            ));
            report.different.count = unequal.len() as u64;
            return Ok(report);
        }
        if !table.schema.has_key() {
            drop((leader, follower));
            self.without_key(&sql, &mut report).await?;
            return Ok(report);
        }
        let (here, there) = tokio::try_join!(leader.rows_of(&unequal), follower.rows_of(&unequal))?;
        drop((leader, follower));
        let differing = differing(&here, &there);
        if differing.len() > CANDIDATES_MAX {
            report.note = Some(format!(
                "more than {CANDIDATES_MAX} rows differ; those were not looked at one by one"
            ));
            report.different.count = differing.len() as u64;
            return Ok(report);
        }
        self.decide(&sql, differing, &mut report).await?;
        Ok(report)
    }

    /// A snapshot of the leader, and one of the follower that shows at least as much.
    async fn look(&self) -> Result<(Snapshot<'_>, Snapshot<'_>)> {
        let leader = Snapshot::of_leader(&self.leader).await?;
        let follower = self.follower_from(leader.lsn).await?;
        Ok((leader, follower))
    }

    async fn follower_from(&self, lsn: Lsn) -> Result<Snapshot<'_>> {
        let place = Place {
            pipeline: self.pair.pipeline,
            sink: self.pair.sink,
        };
        let until = Instant::now() + self.pair.patience;
        loop {
            let snapshot = Snapshot::of_follower(&self.follower, place).await?;
            if snapshot.lsn >= lsn {
                return Ok(snapshot);
            }
            let shows = snapshot.lsn;
            snapshot.end().await?;
            if Instant::now() >= until {
                let seconds = self.pair.patience.as_secs();
                return Err(Error::transient(format!(
                    "follower {} shows {shows}, and did not come to {lsn} within {seconds} s: \
                     walferry status tells how its sink is",
                    self.pair.sink
                )));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Looks at rows again until it is known of each whether it differs.
    async fn decide(
        &self,
        sql: &TableSql,
        differing: BTreeSet<Vec<String>>,
        report: &mut TableReport,
    ) -> Result<()> {
        let mut candidates = Candidates::new(differing);
        for _ in 0..ROUNDS_MAX {
            let open: Vec<&Vec<String>> = candidates.open().collect();
            if open.is_empty() {
                break;
            }
            tokio::time::sleep(ROUND_EVERY).await;
            let leader = Snapshot::of_leader(&self.leader).await?;
            let before = leader.rows_with(&sql.leader, &open).await?;
            let from = leader.lsn;
            leader.end().await?;
            let (there, meanwhile) = self.follower_rows(sql, from, &open).await?;
            let leader = Snapshot::of_leader(&self.leader).await?;
            let after = leader.rows_with(&sql.leader, &open).await?;
            leader.end().await?;
            let leader: Vec<Rows> = [before]
                .into_iter()
                .chain(meanwhile)
                .chain([after])
                .collect();
            candidates.round(&leader, &there);
        }
        for (key, looked) in candidates.decided() {
            match looked {
                Looked::Missing => report.missing.add(key),
                Looked::Extra => report.extra.add(key),
                Looked::Different => report.different.add(key),
                Looked::Undecided => report.undecided += 1,
            }
        }
        Ok(())
    }

    /// The follower's rows once it shows all before `from`, and the leader's again and again meanwhile, so
    /// that the follower is not taken to be wrong where a row changes all the time.
    async fn follower_rows(
        &self,
        sql: &TableSql,
        from: Lsn,
        keys: &[&Vec<String>],
    ) -> Result<(Rows, Vec<Rows>)> {
        let follower = async {
            let follower = self.follower_from(from).await?;
            let rows = follower.rows_with(&sql.follower, keys).await?;
            follower.end().await?;
            Ok::<_, Error>(rows)
        };
        tokio::pin!(follower);
        let mut meanwhile = Vec::new();
        loop {
            tokio::select! {
                biased;
                rows = &mut follower => return Ok((rows?, meanwhile)),
                rows = snapshot::rows_now(&self.leader, &sql.leader, keys),
                    if meanwhile.len() * keys.len() < SEEN_MAX => meanwhile.push(rows?),
            }
        }
    }

    /// Rows that nothing tells apart are counted by their content, at one look after the other until nothing
    /// was touched meanwhile.
    async fn without_key(&self, sql: &TableSql, report: &mut TableReport) -> Result<()> {
        let (mut last, mut same) = (None, 0);
        for _ in 0..ROUNDS_MAX {
            let (leader, follower) = self.look().await?;
            let rate = self.pair.max_rows_per_second;
            let leader = Scan::new(leader, &sql.leader, 1, rate);
            let follower = Scan::new(follower, &sql.follower, 1, rate);
            let (here, there) = tokio::try_join!(leader.counts(), follower.counts())?;
            leader.end().await?;
            follower.end().await?;
            let (mut missing, mut extra) = (0, 0);
            let all: BTreeSet<&String> = here.keys().chain(there.keys()).collect();
            for content in all {
                let count = |of: &BTreeMap<String, i64>| of.get(content).copied().unwrap_or(0);
                let more = count(&here) - count(&there);
                missing += more.max(0).unsigned_abs();
                extra += (-more).max(0).unsigned_abs();
            }
            if (missing, extra) == (0, 0) {
                return Ok(());
            }
            same = if last == Some((missing, extra)) {
                same + 1
            } else {
                1
            };
            last = Some((missing, extra));
            if same == rounds::LOOKS {
                (report.missing.count, report.extra.count) = (missing, extra);
                return Ok(());
            }
            tokio::time::sleep(ROUND_EVERY).await;
        }
        report.undecided = last.map_or(0, |(missing, extra)| missing + extra);
        Ok(())
    }
}

/// Sums of a table's buckets on both sides, read at the same time.
async fn sums(
    leader: &mut Scan<'_>,
    follower: &mut Scan<'_>,
    course: &Course<'_>,
) -> Result<(BTreeMap<i32, Sum>, BTreeMap<i32, Sum>)> {
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
fn unequal(here: &BTreeMap<i32, Sum>, there: &BTreeMap<i32, Sum>) -> Vec<i32> {
    let all: BTreeSet<i32> = here.keys().chain(there.keys()).copied().collect();
    let all = all.into_iter();
    all.filter(|bucket| here.get(bucket) != there.get(bucket))
        .collect()
}

fn rows_in(sums: &BTreeMap<i32, Sum>, buckets: &[i32]) -> u64 {
    let sums = buckets.iter().filter_map(|bucket| sums.get(bucket));
    sums.map(|sum| sum.rows).sum()
}

/// Keys whose rows are not the same on both sides.
fn differing(here: &Rows, there: &Rows) -> BTreeSet<Vec<String>> {
    let content = |rows: &Rows, key: &Vec<String>| rows.get(key).map(|row| row.content.clone());
    let keys: BTreeSet<&Vec<String>> = here.keys().chain(there.keys()).collect();
    let keys = keys.into_iter();
    keys.filter(|key| content(here, key) != content(there, key))
        .cloned()
        .collect()
}
