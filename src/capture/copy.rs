//! Copies: which tables need one, and making one beside the stream.
//!
//! A copy that fails is given up and begun again under a new id; the stream does not notice. What
//! the stream has to know (the entries' order) goes through the publisher.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use crate::capture::CaptureContext;
use crate::capture::copy_rows::{CopiedTable, RowWriter, read_all};
use crate::capture::outbox::Outbox;
use crate::capture::publisher::{Order, Published, extents};
use crate::capture::stream_loop::push_schema;
use crate::capture::tables::{CapturedTable, Labels, limits_changed};
use crate::error::{Class, Error, Result};
use crate::log::commit_log::{CopyBegin, CopyEnd, Entry, Extent, Extents};
use crate::log::copies::CopyLedger;
use crate::log::producer::{EpochProducer, PartitionSlot};
use crate::log::progress::{Progress, ProgressReader};
use crate::log::topics::Topics;
use crate::model::{Epoch, Lsn, Oid, TableName};
use crate::postgres::connect;
use crate::source::catalog::{self, CatalogTable};
use crate::source::copy::{Snapshot, open_snapshot};
use crate::source::published;
use crate::status::{CopyProgress, LastError};

/// First wait after a copy that failed.
const BACK_OFF_MIN: Duration = Duration::from_secs(1);
/// Longest wait after a copy that failed.
const BACK_OFF_MAX: Duration = Duration::from_secs(60);

/// The maker of copies of one epoch.
pub struct Copier {
    /// The worker's context.
    pub context: CaptureContext,
    /// Names of topics.
    pub topics: Topics,
    /// The epoch's producer.
    pub producer: Arc<EpochProducer>,
    /// The epoch.
    pub epoch: Epoch,
    /// Names in records.
    pub labels: Labels,
    /// The captured set.
    pub tables: Vec<CatalogTable>,
    /// Orders for entries.
    pub orders: mpsc::Sender<Order>,
    /// How far entries are.
    pub published: watch::Receiver<Published>,
    /// Copies in the log.
    pub ledger: CopyLedger,
    /// Whether a copy is under way: a new epoch would void it.
    pub copying: watch::Sender<bool>,
}

/// Captured tables that need a copy: none in the log is good for them, or a sink asks for a newer
/// one. `made` are this epoch's copies by table: a wish for one above them that it cannot have seen
/// comes from another log and is passed over.
fn needed(
    captured: &[TableName],
    ledger: &CopyLedger,
    wishes: &BTreeMap<String, Progress>,
    made: &BTreeMap<TableName, i64>,
) -> Vec<TableName> {
    let wished = |table: &TableName| {
        wishes
            .values()
            .flat_map(|progress| &progress.wants)
            .filter(|want| want.table == *table)
            .any(|want| {
                !ledger.has(table, want.after)
                    && made.get(table).is_none_or(|&newest| newest == want.after)
            })
    };
    captured
        .iter()
        .filter(|table| !ledger.has(table, -1) || wished(table))
        .cloned()
        .collect()
}

/// Tables whose copy failed in this epoch. Each is then copied by itself, with a back-off of its own,
/// so that one sick table does not keep the others from their copy.
#[derive(Debug, Default)]
struct Failures(BTreeMap<TableName, Failure>);

#[derive(Clone, Copy, Debug)]
struct Failure {
    /// When it is tried again.
    due: Instant,
    /// How long it waited for that.
    back_off: Duration,
}

/// What the maker of copies does next.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// One copy of these tables.
    Copy(Vec<TableName>),
    /// Nothing until then, or until a sink asks for something.
    WaitUntil(Instant),
    /// Nothing until a sink asks for something.
    Wait,
}

impl Failures {
    /// What comes next of the tables that need a copy.
    fn next(&self, needed: &[TableName], now: Instant) -> Next {
        let together: Vec<TableName> = needed
            .iter()
            .filter(|table| !self.0.contains_key(*table))
            .cloned()
            .collect();
        if !together.is_empty() {
            return Next::Copy(together);
        }
        let first = needed
            .iter()
            .filter_map(|table| Some((self.0.get(table)?.due, table)))
            .min();
        match first {
            Some((due, table)) if due <= now => Next::Copy(vec![table.clone()]),
            Some((due, _)) => Next::WaitUntil(due),
            None => Next::Wait,
        }
    }

    /// Notes a copy that failed. Where it was of several tables, which of them it was is not known.
    fn failed(&mut self, tables: &[TableName], class: Class, now: Instant) {
        for table in tables {
            let back_off = match (self.0.get(table), class) {
                _ if tables.len() > 1 => BACK_OFF_MIN,
                (_, Class::Halt | Class::Fenced) => BACK_OFF_MAX,
                (Some(before), Class::Transient) => (before.back_off * 2).min(BACK_OFF_MAX),
                (None, Class::Transient) => BACK_OFF_MIN,
            };
            let failure = Failure {
                due: now + back_off,
                back_off,
            };
            self.0.insert(table.clone(), failure);
        }
    }

    /// Notes tables that were copied.
    fn copied(&mut self, tables: &[TableName]) {
        for table in tables {
            self.0.remove(table);
        }
    }
}

/// The tables of a copy, for an error: by name, unless they are many.
fn named(tables: &[TableName]) -> String {
    match tables {
        [table] => format!("copying table {table}"),
        [first, ..] => format!("copying {} tables, {first} among them", tables.len()),
        [] => "copying no tables".to_owned(),
    }
}

impl Copier {
    /// Makes copies as they are needed, for as long as the epoch lasts.
    ///
    /// # Errors
    /// Only when sinks' wishes cannot be read.
    pub async fn run(mut self) -> Result<()> {
        if !self.context.source.copy {
            return std::future::pending().await;
        }
        let mut progress =
            ProgressReader::open(&self.context.kafka, &self.topics.progress()).await?;
        let mut captured: Vec<TableName> = self
            .tables
            .iter()
            .map(|table| table.schema.table.clone())
            .collect();
        let mut made = BTreeMap::new();
        let mut failures = Failures::default();
        loop {
            let needed = needed(&captured, &self.ledger, &progress.newest(), &made);
            let tables = match failures.next(&needed, Instant::now()) {
                Next::Copy(tables) => tables,
                Next::WaitUntil(due) => {
                    tokio::select! {
                        () = progress.changed() => {}
                        () = tokio::time::sleep_until(due.into()) => {}
                    }
                    continue;
                }
                Next::Wait => {
                    progress.changed().await;
                    continue;
                }
            };
            self.copying.send_replace(true);
            let copied = self.copy(&tables).await;
            self.copying.send_replace(false);
            match copied {
                Ok(copied) => {
                    let mut there = Vec::new();
                    if let Some((id, copied)) = copied {
                        made.extend(copied.iter().map(|table| (table.clone(), id)));
                        there = copied;
                    }
                    failures.copied(&tables);
                    // What is gone stays so; the next epoch's captured set will say it.
                    captured.retain(|table| there.contains(table) || !tables.contains(table));
                }
                Err(error) => {
                    failures.failed(&tables, error.class(), Instant::now());
                    self.said(&error.at(named(&tables)));
                }
            }
        }
    }

    /// A failed copy does not stop the stream, but it is said.
    fn said(&self, error: &Error) {
        tracing::warn!(%error, "the copy failed and will be begun again");
        self.context
            .status
            .update(|view| view.last_error = Some(LastError::now(error)));
    }

    /// Makes one copy of the tables that are still there; its id and tables.
    async fn copy(&mut self, wanted: &[TableName]) -> Result<Option<(i64, Vec<TableName>)>> {
        let tables = self.still_there(wanted).await?;
        if tables.is_empty() {
            return Ok(None);
        }
        let names: Vec<TableName> = tables.iter().map(|t| t.schema.table.clone()).collect();
        self.show(&tables);
        // Entries of a log without any boundary could not be told from repeats.
        self.reached(Lsn::ZERO).await?;
        let copy = self.begin(&tables).await?;
        let source = &self.context.source;
        let snapshot = open_snapshot(
            &source.postgres,
            &format!("walferry_{}_copy", self.context.pipeline),
            &format!("walferry_copy_{:08x}_{copy}", rand::random::<u32>()),
            source.copy_readers,
        )
        .await?;
        let point = snapshot.point;
        tracing::info!(copy, %point, tables = names.len(), "copying tables");
        let rows = self.rows(copy, snapshot, &tables).await?;
        self.reached(point).await?;
        let (ended, end) = oneshot::channel();
        self.order(Order::CopyEnd {
            copy,
            point,
            rows: rows.clone(),
            ended,
        })
        .await?;
        end.await.map_err(|_| epoch_over())?;
        self.note(copy, &names, point, rows);
        tracing::info!(copy, %point, tables = names.len(), "tables copied");
        Ok(Some((copy, names)))
    }

    /// Leaves out tables that were dropped (or dropped and made anew) since the epoch began.
    async fn still_there(&self, wanted: &[TableName]) -> Result<Vec<CatalogTable>> {
        let name = format!("walferry_{}_catalog", self.context.pipeline);
        let client = connect(&self.context.source.postgres, &name).await?;
        catalog::prepare_session(&client).await?;
        let asked: Vec<&CatalogTable> = self
            .tables
            .iter()
            .filter(|table| wanted.contains(&table.schema.table))
            .collect();
        let oids: Vec<Oid> = asked.iter().map(|table| table.schema.relation).collect();
        let now = catalog::describe(&client, &oids).await?;
        let there: BTreeSet<Oid> = now.iter().map(|table| table.schema.relation).collect();
        Ok(asked
            .into_iter()
            .filter(|table| there.contains(&table.schema.relation))
            .cloned()
            .collect())
    }

    async fn begin(&self, tables: &[CatalogTable]) -> Result<i64> {
        let mut changes = Vec::new();
        let mut rows: BTreeMap<String, BTreeMap<i32, i64>> = BTreeMap::new();
        for table in tables {
            let name = &table.schema.table;
            changes.extend(slots(
                &self.producer,
                &self.topics.table(name),
                table.schema.partitions,
            ));
            let topic = self.topics.copy(name);
            for slot in slots(&self.producer, &topic, table.schema.partitions) {
                // Nothing of this copy is sent before its id is known.
                let bound = self.producer.high_watermark(slot).await?;
                let (topic, partition) = self.producer.partition_of(slot);
                rows.entry(topic).or_default().insert(partition, bound);
            }
        }
        let (begun, begin) = oneshot::channel();
        self.order(Order::CopyBegin {
            tables: tables.iter().map(|t| t.schema.table.clone()).collect(),
            changes,
            rows,
            begun,
        })
        .await?;
        begin.await.map_err(|_| epoch_over())
    }

    /// Reads all rows into the copy topics; where they lie, once all are acknowledged.
    async fn rows(
        &self,
        copy: i64,
        snapshot: Snapshot,
        tables: &[CatalogTable],
    ) -> Result<Extents> {
        let oids: Vec<Oid> = tables.iter().map(|table| table.schema.relation).collect();
        let mut at_point = snapshot.lock(&oids).await?;
        self.check_limits(&snapshot, tables).await?;
        for (then, now) in at_point.iter_mut().zip(tables) {
            // Topics, and what a named publication limits, belong to the captured set.
            then.schema.table = now.schema.table.clone();
            then.schema.partitions = now.schema.partitions;
            then.limit(now.limits.clone());
        }
        self.publish_schemas(&at_point).await?;
        let batch = self.producer.open_batch();
        let copied: Vec<CopiedTable> = at_point
            .iter()
            .map(|table| {
                let topic = self.topics.copy(&table.schema.table);
                let made =
                    CapturedTable::new(table.schema.clone(), &self.labels, &self.producer, &topic);
                CopiedTable::new(made)
            })
            .collect();
        let writer = Arc::new(RowWriter {
            context: self.context.clone(),
            producer: self.producer.clone(),
            epoch: self.epoch,
            copy,
            point: snapshot.point,
            batch,
            tables: copied,
        });
        let read = read_all(snapshot, &at_point, &writer).await;
        // Also of a copy that failed: the producer forgets a batch only here, and has room for few.
        let acked = self.producer.acked(batch).await?;
        read?;
        let mut rows = extents(&self.producer, &acked, None).await?;
        for table in &at_point {
            let partitions = rows
                .entry(self.topics.copy(&table.schema.table))
                .or_default();
            for partition in 0..i32::try_from(table.schema.partitions).unwrap_or(i32::MAX) {
                partitions
                    .entry(partition)
                    .or_insert(Extent { last: -1, count: 0 });
            }
        }
        self.context.status.update(|view| {
            for copy in &mut view.copies {
                copy.done |= tables
                    .iter()
                    .any(|t| t.schema.table.to_string() == copy.table);
            }
        });
        Ok(rows)
    }

    /// The rows are limited as the epoch says, changes from the point on as the catalog said at the
    /// point: both must be the same.
    async fn check_limits(&self, snapshot: &Snapshot, tables: &[CatalogTable]) -> Result<()> {
        let source = &self.context.source;
        let Some(session) = snapshot
            .readers
            .first()
            .filter(|_| !source.manage_publication)
        else {
            return Ok(());
        };
        let oids: Vec<Oid> = tables.iter().map(|table| table.schema.relation).collect();
        let then = published::memberships(session, &source.publication, &oids).await?;
        let other = tables
            .iter()
            .find(|table| then.get(&table.schema.relation) != table.limits.membership.as_ref());
        match other {
            None => Ok(()),
            Some(table) => Err(limits_changed(&table.schema.table)),
        }
    }

    /// Schema versions of the copy's rows are in the log before the first row is.
    async fn publish_schemas(&self, tables: &[CatalogTable]) -> Result<()> {
        let slot = self.producer.partition_slot(&self.topics.schemas(), 0);
        let mut out = Outbox::default();
        for table in tables {
            push_schema(&table.schema, slot, &mut out)?;
        }
        let batch = self.producer.open_batch();
        while !out.flush(&self.producer, batch)? {
            self.producer.room().await?;
        }
        self.producer.acked(batch).await?;
        Ok(())
    }

    async fn order(&self, order: Order) -> Result<()> {
        self.orders.send(order).await.map_err(|_| epoch_over())
    }

    /// Waits until an own entry with this boundary, or one above, has been sent.
    async fn reached(&mut self, boundary: Lsn) -> Result<()> {
        self.published
            .wait_for(|published| published.to.is_some_and(|to| to >= boundary))
            .await
            .map(|_| ())
            .map_err(|_| epoch_over())
    }

    fn show(&self, tables: &[CatalogTable]) {
        let copies = tables.iter().map(|table| CopyProgress {
            table: table.schema.table.to_string(),
            rows: 0,
            rows_estimate: table.rows_estimate,
            done: false,
        });
        self.context
            .status
            .update(|view| view.copies = copies.collect());
    }

    /// Notes the finished copy as a reader of the log would.
    fn note(&mut self, copy: i64, tables: &[TableName], point: Lsn, rows: Extents) {
        let begin = CopyBegin {
            epoch: self.epoch,
            tables: tables.to_vec(),
            at: None,
            offsets: BTreeMap::new(),
        };
        let end = CopyEnd {
            epoch: self.epoch,
            copy,
            point,
            rows,
        };
        self.ledger.valid(copy, &Entry::CopyBegin(begin));
        self.ledger.valid(copy + 1, &Entry::CopyEnd(end));
    }
}

fn epoch_over() -> Error {
    Error::transient("the epoch is over")
}

fn slots(producer: &EpochProducer, topic: &str, partitions: u32) -> Vec<PartitionSlot> {
    let partitions = i32::try_from(partitions).unwrap_or(i32::MAX);
    (0..partitions)
        .map(|partition| producer.partition_slot(topic, partition))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::commit_log::{Captured, EpochEntry};
    use crate::log::progress::Want;
    use crate::model::Limits;

    fn table(name: &str) -> TableName {
        TableName::new("public", name)
    }

    fn ledger(complete: &[(&str, i64)]) -> CopyLedger {
        let mut ledger = CopyLedger::new();
        let captured = ["a", "b"].map(|name| Captured {
            table: table(name),
            relation: Oid(1),
            limits: Limits::default(),
        });
        let epoch = EpochEntry {
            after: 0,
            instance: "i".into(),
            system_id: "s".into(),
            timeline: 1,
            captured: captured.to_vec(),
        };
        ledger.valid(0, &Entry::Epoch(epoch));
        for &(name, id) in complete {
            let begin = CopyBegin {
                epoch: Epoch(0),
                tables: vec![table(name)],
                at: None,
                offsets: BTreeMap::new(),
            };
            let end = CopyEnd {
                epoch: Epoch(0),
                copy: id,
                point: Lsn(1),
                rows: Extents::new(),
            };
            ledger.valid(id, &Entry::CopyBegin(begin));
            ledger.valid(id + 1, &Entry::CopyEnd(end));
        }
        ledger
    }

    fn wishes(name: &str, after: i64) -> BTreeMap<String, Progress> {
        let progress = Progress {
            sink: "s".into(),
            applied: Lsn(0),
            log_offset: 0,
            wants: vec![Want {
                table: table(name),
                after,
            }],
        };
        BTreeMap::from([("s".into(), progress)])
    }

    #[test]
    fn tables_without_a_copy_and_tables_asked_for_are_copied() {
        let captured = [table("a"), table("b")];
        let none = BTreeMap::new();
        let made = BTreeMap::new();
        let need =
            |ledger: &CopyLedger,
             wishes: &BTreeMap<String, Progress>,
             made: &BTreeMap<TableName, i64>| needed(&captured, ledger, wishes, made);
        assert_eq!(need(&ledger(&[]), &none, &made), captured.to_vec());
        let all = ledger(&[("a", 10), ("b", 20)]);
        assert!(need(&all, &none, &made).is_empty());
        assert_eq!(need(&ledger(&[("a", 10)]), &none, &made), vec![table("b")]);
        assert!(
            need(&all, &wishes("a", -1), &made).is_empty(),
            "there is one"
        );
        assert_eq!(need(&all, &wishes("a", 10), &made), vec![table("a")]);
        assert!(need(&all, &wishes("gone", 10), &made).is_empty());
        let made = BTreeMap::from([(table("a"), 10)]);
        assert_eq!(need(&all, &wishes("a", 10), &made), vec![table("a")]);
        assert!(
            need(&all, &wishes("a", 99), &made).is_empty(),
            "a wish that no copy can fulfil is no endless loop"
        );
    }

    #[test]
    fn after_a_failed_copy_its_tables_are_copied_one_by_one_and_a_sick_one_blocks_nobody() {
        let (a, b, c) = (table("a"), table("b"), table("c"));
        let mut needed = vec![a.clone(), b.clone()];
        let mut failures = Failures::default();
        let mut now = Instant::now();
        assert_eq!(failures.next(&[], now), Next::Wait);
        assert_eq!(failures.next(&needed, now), Next::Copy(needed.clone()));
        failures.failed(&needed, Class::Halt, now);
        let due = now + BACK_OFF_MIN;
        assert_eq!(failures.next(&needed, now), Next::WaitUntil(due));
        needed.push(c.clone());
        let fresh = Next::Copy(vec![c.clone()]);
        assert_eq!(failures.next(&needed, now), fresh, "has not failed");
        needed.pop();

        now = due;
        assert_eq!(failures.next(&needed, now), Next::Copy(vec![a.clone()]));
        failures.failed(std::slice::from_ref(&a), Class::Transient, now);
        assert_eq!(failures.next(&needed, now), Next::Copy(vec![b.clone()]));
        failures.copied(std::slice::from_ref(&b));
        needed.pop();
        let mut waits = Vec::new();
        while waits.len() < 8 {
            let Next::WaitUntil(due) = failures.next(&needed, now) else {
                panic!("no back-off");
            };
            waits.push((due - now).as_secs());
            now = due;
            assert_eq!(failures.next(&needed, now), Next::Copy(vec![a.clone()]));
            failures.failed(&needed, Class::Transient, now);
        }
        assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60, 60]);
        failures.copied(&needed);
        assert_eq!(failures.next(&needed, now), Next::Copy(needed.clone()));
    }
}
