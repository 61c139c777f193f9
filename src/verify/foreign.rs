//! A follower that is no Postgres server compared with its leader, at one and the same boundary.
//!
//! The sink is ordered to stand where it is, so that it cannot get beyond the point of the temporary slot that is made
//! then; and from there to go on to that point and stand. A store with snapshots opens one there and lets the sink
//! go; where there are none the sink stands while a table is read, and the order is renewed from time to time. It has
//! a time limit, so that a command that is killed holds nobody for long.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::boundary::{Exporter, Missed, by_class};
use super::course::{Course, Read};
use super::servers::{Server, not_in_time};
use super::snapshot;
use super::{
    Asked, NOT_IN_EFFECT, Progress, Report, TableReport, are_too_many, buckets, by_key,
    only_counted, taken, unequal,
};
use crate::apply::orders;
use crate::error::{Error, Result};
use crate::model::{Checkpoint, Hold, Lsn, TableName};
use crate::postgres::classify;
use crate::sink::compared::{Compared, Contents, Forms, Sum, Sums};
use crate::sink::{self, StoredCheckpoint};
use crate::source::catalog::CatalogTable;
use crate::source::copy::begin_with;
use crate::source::published;

/// How long the sink is held by one order.
const HELD_FOR: Duration = Duration::from_secs(60);
/// How often the order is renewed where the sink has to stand for longer.
const RENEW_EVERY: Duration = Duration::from_secs(20);
/// Longest wait for a slot while the sink stands.
const SLOT_MAX: Duration = Duration::from_secs(5);
/// Between two looks at what is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Between two attempts.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Compares, table by table.
pub(super) async fn run(asked: Asked<'_>, told: &(dyn Fn(Progress<'_>) + Sync)) -> Result<Report> {
    if asked.max_rows_per_second.is_some() {
        return Err(Error::halt(
            format!(
                "{}: a table of this store is compared as a whole, as fast as it goes",
                asked.sink.name
            ),
            "leave out --max-rows-per-second for this sink, and compare when the servers have little to do",
        ));
    }
    let leader = Server::open(&asked.source.postgres, "walferry verify leader").await;
    let leader = leader.map_err(|error| error.at("the leader"))?;
    let at_follower = |error: Error| error.at(format!("follower {}", asked.sink.name));
    let follower = sink::compared(asked.pipeline, asked.sink).await;
    let checkpoint = sink::checkpoint(asked.pipeline, asked.sink).await;
    let mut comparison = Comparison {
        asked,
        leader,
        follower: follower.map_err(at_follower)?,
        checkpoint: checkpoint.map_err(at_follower)?,
        hold: None,
    };
    let found = comparison.tables(told).await;
    let let_go = comparison.let_go().await;
    let tables = found?;
    let_go?;
    Ok(Report {
        sink: asked.sink.name.clone(),
        tables,
        before_repair: Vec::new(),
    })
}

struct Comparison<'a> {
    asked: Asked<'a>,
    leader: Server,
    follower: Box<dyn Compared>,
    checkpoint: Box<dyn StoredCheckpoint>,
    /// The order that the sink stands by.
    hold: Option<Hold>,
}

/// Where both servers are read.
struct Boundary {
    lsn: Lsn,
    in_effect: BTreeSet<TableName>,
    tables: Vec<CatalogTable>,
    /// Whether the follower has a snapshot of its own, and goes on.
    has_snapshot: bool,
}

impl Comparison<'_> {
    async fn tables(&mut self, told: &(dyn Fn(Progress<'_>) + Sync)) -> Result<Vec<TableReport>> {
        let mut boundary = self.boundary().await?;
        let published = std::mem::take(&mut boundary.tables);
        let tables = taken(published, (self.asked.selection, self.asked.tables));
        let mut course = Course::of(&tables, told);
        let mut reports = Vec::new();
        for table in &tables {
            course.tell(&Read::default());
            let report = self.table(&boundary, table).await?;
            course.next(report.rows);
            reports.push(report);
        }
        Ok(reports)
    }

    async fn table(&mut self, boundary: &Boundary, table: &CatalogTable) -> Result<TableReport> {
        let name = &table.schema.table;
        let mut report = TableReport::of(name);
        if !boundary.in_effect.contains(name) {
            report.note = Some(NOT_IN_EFFECT.to_owned());
            return Ok(report);
        }
        let forms = match self.follower.forms(&table.schema).await? {
            Ok(forms) => forms,
            Err(note) => {
                report.note = Some(note);
                return Ok(report);
            }
        };
        report.boundary = Some(boundary.lsn);
        if !forms.left_out.is_empty() {
            let columns = forms.left_out.join(", ");
            report.note = Some(format!(
                "without the columns {columns}, which the store holds in a form of its own"
            ));
        }
        let buckets = buckets(table);
        let sql = LeaderSql::new(table, &forms);
        let ask = sql.sums(buckets);
        let (leader, follower) = (&self.leader.inside, self.follower.as_ref());
        let both = async {
            let follower = follower.sums(&forms, buckets);
            tokio::try_join!(sums(leader, &ask), follower)
        };
        let renewed = renewing(
            self.checkpoint.as_mut(),
            follower,
            &mut self.hold,
            boundary.has_snapshot,
        );
        let (here, there) = until_first(both, renewed).await?;
        report.rows = snapshot::rows(&here);
        let unequal = unequal(&here, &there);
        if are_too_many((&here, &there), &unequal) {
            only_counted(unequal.len(), buckets, &mut report);
        } else if !unequal.is_empty() {
            let ask = sql.contents(buckets);
            let both = async {
                let follower = follower.contents(&forms, buckets, &unequal);
                tokio::try_join!(contents(leader, (&ask, &unequal)), follower)
            };
            let renewed = renewing(
                self.checkpoint.as_mut(),
                follower,
                &mut self.hold,
                boundary.has_snapshot,
            );
            let (here, there) = until_first(both, renewed).await?;
            by_key(&here, &there, &mut report);
        }
        Ok(report)
    }

    /// Takes a boundary, within the patience.
    async fn boundary(&mut self) -> Result<Boundary> {
        let until = Instant::now() + self.asked.patience;
        loop {
            match self.attempt(until).await {
                Ok(boundary) => return Ok(boundary),
                Err(Missed::NotYet(_)) if Instant::now() < until => {
                    self.leader.end_snapshot().await?;
                    self.let_go().await?;
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
                Err(Missed::NotYet(error) | Missed::Failed(error)) => return Err(error),
            }
        }
    }

    async fn attempt(&mut self, until: Instant) -> Result<Boundary, Missed> {
        let exporter = Exporter::open(&self.asked.source.postgres, SLOT_MAX).await;
        let mut exporter = exporter.map_err(|error| error.at("the leader"))?;
        self.leader.old_writers_end(until).await?;
        self.come_near(&exporter, until).await?;
        let of = (exporter.leader.system_id.clone(), exporter.leader.timeline);
        self.order(None, &of).await?;
        let slot = exporter.slot().await?;
        let at = slot.consistent_point;
        self.order(Some(at), &of).await?;
        let stands = self.until_there(at, until).await?;
        let has_snapshot = self.follower.begin_snapshot().await?;
        let shown = self.follower.checkpoint().await?;
        if shown.boundary() != at {
            return Err(Missed::NotYet(not_in_time(
                &self.asked.sink.name,
                shown.boundary(),
                at,
            )));
        }
        let snapshot = slot.snapshot.as_ref();
        let snapshot = snapshot
            .ok_or_else(|| Error::transient("the leader exported no snapshot with the slot"))?;
        begin_with(&self.leader.inside, snapshot).await?;
        if has_snapshot {
            self.let_go().await?;
        }
        Ok(Boundary {
            lsn: at,
            in_effect: stands.in_effect,
            tables: published::tables(&self.leader.inside, &self.asked.source.publication).await?,
            has_snapshot,
        })
    }

    /// Waits until the follower shows what the leader has now: one that is far behind is not held for what it lacks.
    async fn come_near(&mut self, exporter: &Exporter, until: Instant) -> Result<(), Missed> {
        let now = self.leader.position().await?;
        loop {
            let known = self.follower.checkpoint().await?;
            let of = (exporter.leader.system_id.as_str(), exporter.leader.timeline);
            let may = orders::may_be_held(&known, false, of, &self.asked.sink.name);
            may.map_err(by_class)?;
            if known.applied >= now {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(Missed::Failed(not_in_time(
                    &self.asked.sink.name,
                    known.applied,
                    now,
                )));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Orders the sink to stand at `at`, or where it is.
    async fn order(&mut self, at: Option<Lsn>, of: &(String, u32)) -> Result<(), Missed> {
        let until_us = self.follower.clock_us().await? + HELD_FOR.as_micros() as i64;
        let lock = match self.hold {
            Some(hold) => hold.lock,
            None => (rand::random::<u32>() >> 1).cast_signed(),
        };
        let mut ordered = None;
        let revised = self.checkpoint.revise(Box::new(|known| {
            let known = known.ok_or_else(|| Error::transient("the checkpoint went away"))?;
            let mine = known.hold.is_none_or(|hold| {
                hold.lock == lock || hold.until_us < until_us - HELD_FOR.as_micros() as i64
            });
            orders::may_be_held(known, !mine, (&of.0, of.1), &self.asked.sink.name)?;
            let hold = Hold {
                at: at.unwrap_or(known.boundary()),
                until_us,
                lock,
            };
            ordered = Some(hold);
            orders::held(known, hold)
        }));
        revised.await.map_err(by_class)?;
        self.hold = ordered;
        Ok(())
    }

    async fn until_there(&mut self, at: Lsn, until: Instant) -> Result<Checkpoint, Missed> {
        loop {
            let known = self.follower.checkpoint().await?;
            if known.hold != self.hold {
                let what = format!(
                    "follower {} was given another order while it was to stand at {at}, or was too slow to come there",
                    self.asked.sink.name
                );
                return Err(Missed::NotYet(Error::transient(what)));
            }
            if known.boundary() == at {
                return Ok(known);
            }
            if Instant::now() >= until {
                return Err(Missed::NotYet(not_in_time(
                    &self.asked.sink.name,
                    known.applied,
                    at,
                )));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Lets the sink go on.
    async fn let_go(&mut self) -> Result<()> {
        let Some(hold) = self.hold.take() else {
            return Ok(());
        };
        let mut is_mine = false;
        let revised = self.checkpoint.revise(Box::new(|known| {
            let known = known.ok_or_else(|| Error::transient("the checkpoint went away"))?;
            is_mine = known.hold.is_some_and(|known| known.lock == hold.lock);
            match is_mine {
                true => Ok(orders::let_go(known)),
                false => Err(Error::transient(
                    "the sink stands for somebody else, or goes on already",
                )),
            }
        }));
        match revised.await {
            Err(error) if is_mine => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

/// Renews the order by which the sink stands, for ever; waits only where the follower has a snapshot.
async fn renewing(
    checkpoint: &mut dyn StoredCheckpoint,
    follower: &dyn Compared,
    hold: &mut Option<Hold>,
    has_snapshot: bool,
) -> Error {
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        let (Some(held), false) = (*hold, has_snapshot) else {
            continue;
        };
        let now_us = match follower.clock_us().await {
            Ok(now_us) => now_us,
            Err(error) => return error,
        };
        let renewed = Hold {
            until_us: now_us + HELD_FOR.as_micros() as i64,
            ..held
        };
        let revised = checkpoint.revise(Box::new(|known| {
            let known = known.ok_or_else(|| Error::transient("the checkpoint went away"))?;
            match known
                .hold
                .is_some_and(|known| known.lock == held.lock && known.at == held.at)
            {
                true => orders::held(known, renewed),
                false => Err(Error::transient(
                    "the follower was let go by somebody else while it was read; compare again",
                )),
            }
        }));
        match revised.await {
            Ok(_) => *hold = Some(renewed),
            Err(error) => return error,
        }
    }
}

/// What is read, unless the order that it needs cannot be kept up.
async fn until_first<T>(
    read: impl Future<Output = Result<T>>,
    renewed: impl Future<Output = Error>,
) -> Result<T> {
    tokio::select! {
        read = read => read,
        error = renewed => Err(error),
    }
}

/// What the leader is asked about one table.
struct LeaderSql {
    from: String,
    key: String,
    content: String,
    bucket: String,
}

impl LeaderSql {
    fn new(table: &CatalogTable, forms: &Forms) -> Self {
        let only = if table.partitioned { "" } else { "ONLY " };
        let filter = table.limits.row_filter.as_deref();
        let filter = filter.map_or_else(String::new, |filter| format!(" WHERE ({filter})"));
        let key = forms.key_on_leader();
        LeaderSql {
            from: format!("{only}{}{filter}", table.schema.table.quoted()),
            content: content(&forms.leader),
            bucket: number(&content(&key)),
            key: key.join(", "),
        }
    }

    fn bucket(&self, buckets: u64) -> String {
        format!(
            "((({}) % {buckets} + {buckets}) % {buckets})::int4",
            self.bucket
        )
    }

    fn sums(&self, buckets: u64) -> String {
        format!(
            "SELECT {} AS bucket, count(*), sum({})::text FROM {} GROUP BY 1",
            self.bucket(buckets),
            number(&self.content),
            self.from
        )
    }

    /// Of the buckets `$1`.
    fn contents(&self, buckets: u64) -> String {
        format!(
            "SELECT key, content FROM (SELECT ARRAY[{}] AS key, md5({}) AS content, {} AS bucket FROM {}) AS r \
             WHERE bucket = ANY($1::int4[])",
            self.key,
            self.content,
            self.bucket(buckets),
            self.from
        )
    }
}

fn content(columns: &[String]) -> String {
    let part =
        |column: &String| format!("coalesce(octet_length({column}) || ':' || {column}, 'N')");
    match columns {
        [] => "''".to_owned(),
        some => some.iter().map(part).collect::<Vec<_>>().join(" || "),
    }
}

/// The first 64 bits of a text's MD5, signed.
fn number(text: &str) -> String {
    format!("('x' || left(md5({text}), 16))::bit(64)::int8")
}

async fn sums(leader: &Client, ask: &str) -> Result<Sums> {
    let rows = leader.query(ask, &[]).await;
    let rows = rows.map_err(|error| classify(&error, "reading rows to compare"))?;
    let sums = rows.iter().map(|row| {
        let (rows, sum): (i64, &str) = (row.get(1), row.get(2));
        let hashes = sum.parse();
        let hashes = hashes.map_err(|_| Error::transient("a sum of hashes is no number"))?;
        let rows = rows.unsigned_abs();
        Ok((row.get(0), Sum { rows, hashes }))
    });
    sums.collect()
}

async fn contents(leader: &Client, (ask, of): (&str, &[i32])) -> Result<Contents> {
    let rows = leader.query(ask, &[&of]).await;
    let rows = rows.map_err(|error| classify(&error, "reading rows to compare"))?;
    Ok(snapshot::by_key(&rows))
}
