//! An independent reader of the topics: rebuilds every table from Kafka alone, knowing only what
//! `docs/event-format.md` says. It uses none of walferry's readers and decoders.

mod log;
mod records;
mod table;

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};
use tokio_postgres::Client;

use self::log::{Batch, Copy, Log};
use self::records::{Partition, Record, whole};
use self::table::{Row, Table, print};
use crate::ending::difference;
use crate::load::{BRANCHES, NAMES, OPENING_BALANCE};
use crate::lsn;
use crate::transaction::ACCOUNTS;
use crate::world::World;

/// Rebuilds all tables and compares them with the leader's; returns what it read, in words.
pub async fn compare(world: &World) -> anyhow::Result<String> {
    let (brokers, pipeline) = (
        world.kafka.bootstrap.clone(),
        world.workers.pipeline.clone(),
    );
    let leader = world.leader.client().await?;
    let confirmed = confirmed(&leader).await?;
    let rebuilding = tokio::task::spawn_blocking(move || rebuild(&brokers, &pipeline));
    let rebuilt = rebuilding.await??;
    let to = rebuilt.to;
    ensure!(
        confirmed <= to,
        "the slot is confirmed up to {confirmed:X}, the log ends at {to:X}"
    );
    for name in NAMES {
        let on_leader = leader_rows(&leader, name).await?;
        for tables in &rebuilt.tables {
            if let Some(difference) = difference(&on_leader, &tables[name].rows()) {
                bail!("table {name}: {difference}");
            }
        }
    }
    Ok(rebuilt.said)
}

/// What the slot no longer keeps.
async fn confirmed(leader: &Client) -> anyhow::Result<u64> {
    let query = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE NOT temporary";
    let row = leader.query_one(query, &[]).await?;
    lsn::parse(row.get(0)).map_err(anyhow::Error::msg)
}

async fn leader_rows(client: &Client, name: &str) -> anyhow::Result<Vec<String>> {
    let statement = client.prepare(&format!("SELECT * FROM {name}")).await?;
    let names: Vec<String> = statement
        .columns()
        .iter()
        .map(|c| c.name().to_owned())
        .collect();
    let texts: Vec<String> = names.iter().map(|n| format!("{n}::text")).collect();
    let rows = client
        .query(&format!("SELECT {} FROM {name}", texts.join(", ")), &[])
        .await?;
    let row = |row: &tokio_postgres::Row| -> Row {
        names
            .iter()
            .enumerate()
            .map(|(n, name)| (name.clone(), row.get(n)))
            .collect()
    };
    let mut rows: Vec<String> = rows.iter().map(|r| print(&row(r))).collect();
    rows.sort();
    Ok(rows)
}

/// What Kafka says.
struct Rebuilt {
    /// All tables: from the oldest copies, and from the newest.
    tables: Vec<BTreeMap<&'static str, Table>>,
    /// Where the log ends.
    to: u64,
    said: String,
}

fn rebuild(brokers: &str, pipeline: &str) -> anyhow::Result<Rebuilt> {
    let log = read_log(brokers, pipeline)?;
    let from_oldest = replay(brokers, pipeline, &log, false).context("from the oldest copies")?;
    let mut said = format!(
        "{} entries ({} epochs, {} void, {} repeats), {} batches, {} copies, {} changes, {} leftovers passed over",
        log.entries,
        log.epochs,
        log.void,
        log.repeats,
        log.batches.len(),
        log.copies.len(),
        from_oldest.changes,
        from_oldest.leftovers()
    );
    let mut tables = vec![from_oldest.tables];
    if log.copies.len() > 1 {
        let from_newest =
            replay(brokers, pipeline, &log, true).context("from the newest copies")?;
        tables.push(from_newest.tables);
        said += "; again from the newest copies";
    }
    let to = log.to.unwrap_or(0);
    Ok(Rebuilt { tables, to, said })
}

fn replay(brokers: &str, pipeline: &str, log: &Log, newest: bool) -> anyhow::Result<Reader> {
    let mut reader = Reader {
        brokers: brokers.to_owned(),
        pipeline: pipeline.to_owned(),
        partitions: BTreeMap::new(),
        tables: BTreeMap::new(),
        points: BTreeMap::new(),
        changes: 0,
    };
    for name in NAMES {
        let mut copies = log.copies.iter().filter(|copy| copy.tables.contains(name));
        let copy = if newest {
            copies.next_back()
        } else {
            copies.next()
        };
        let copy = copy.with_context(|| format!("no complete copy of {name}"))?;
        reader.load(name, copy)?;
    }
    for batch in &log.batches {
        let (from, to, epoch) = (batch.from, batch.to, batch.epoch);
        let at = || format!("batch {from:X} to {to:X} of epoch {epoch}");
        reader.take(batch).with_context(at)?;
    }
    Ok(reader)
}

fn read_log(brokers: &str, pipeline: &str) -> anyhow::Result<Log> {
    let topic = format!("{pipeline}.commits");
    let mut partition = Partition::open(brokers, &topic, 0)?;
    let end = partition.end(&topic, 0)?;
    let mut log = Log::default();
    loop {
        let (offset, entry) = partition.plain()?;
        log.take(offset, &entry)?;
        if i64::try_from(offset)? + 1 >= end {
            return Ok(log);
        }
    }
}

struct Reader {
    brokers: String,
    pipeline: String,
    partitions: log::ByPartition<Partition>,
    tables: BTreeMap<&'static str, Table>,
    /// Points of the copies that the tables began with.
    points: BTreeMap<&'static str, u64>,
    changes: u64,
}

impl Reader {
    fn leftovers(&self) -> u64 {
        self.partitions.values().map(|p| p.leftovers).sum()
    }

    /// Begins a table with its copy.
    fn load(&mut self, name: &'static str, copy: &Copy) -> anyhow::Result<()> {
        let topic = format!("{}.copy.public.{name}", self.pipeline);
        let mut table = Table::default();
        for ((of, partition), extent) in copy.rows.iter().filter(|((of, _), _)| *of == topic) {
            let mut rows = Partition::open(&self.brokers, of, *partition)?;
            for record in whole(rows.of_copy(copy, *extent)?)? {
                table
                    .copied(&record)
                    .with_context(|| format!("copy of {name}"))?;
            }
        }
        self.tables.insert(name, table);
        self.points.insert(name, copy.point);
        Ok(())
    }

    /// Takes a batch and looks at what must hold at every boundary.
    fn take(&mut self, batch: &Batch) -> anyhow::Result<()> {
        let mut by_table: BTreeMap<&'static str, Vec<Record>> = BTreeMap::new();
        for ((topic, partition), extent) in &batch.extents {
            let prefix = format!("{}.public.", self.pipeline);
            let of = |name: &&&'static str| topic.strip_prefix(&prefix) == Some(**name);
            let name = NAMES
                .iter()
                .find(of)
                .with_context(|| format!("unknown topic {topic}"))?;
            let key = (topic.clone(), *partition);
            if !self.partitions.contains_key(&key) {
                let opened = Partition::open(&self.brokers, topic, *partition)?;
                self.partitions.insert(key.clone(), opened);
            }
            let reader = self.partitions.get_mut(&key).context("opened above")?;
            by_table
                .entry(name)
                .or_default()
                .extend(whole(reader.of_batch(batch, *extent)?)?);
        }
        for (name, mut records) in by_table {
            records.sort_by_key(|record| record.position);
            self.changes += records.len() as u64;
            let (table, point) = (
                self.tables.get_mut(name).context("loaded")?,
                self.points[name],
            );
            for record in records.iter().filter(|r| r.position.0 >= point) {
                let at = || {
                    format!(
                        "table {name}, position {:X?}, offset {}",
                        record.position, record.offset
                    )
                };
                table.change(record).with_context(at)?;
            }
            ensure!(table.is_at_rest(), "table {name}: half of a key change");
        }
        if batch.from >= self.points.values().copied().max().unwrap_or(0) {
            self.check_sums()?;
        }
        Ok(())
    }

    fn check_sums(&self) -> anyhow::Result<()> {
        let accounts = self.tables["accounts"].sums("balance", "branch")?;
        let branches = self.tables["branches"].sums("balance", "id")?;
        ensure!(
            accounts == branches,
            "a torn boundary: {accounts:?} in accounts, {branches:?} in branches"
        );
        let (sum, should) = (
            accounts.values().sum::<i64>(),
            i64::from(ACCOUNTS) * OPENING_BALANCE,
        );
        ensure!(
            sum == should && accounts.len() as i64 == BRANCHES,
            "the sum of balances is {sum}, not {should}"
        );
        Ok(())
    }
}
