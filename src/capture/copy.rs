//! Copies: making them as they are needed, beside the stream.
//!
//! A copy that fails is given up and begun again under a new id; the stream does not notice. What
//! the stream has to know (the entries' order) goes through the publisher.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot, watch};

use crate::capture::CaptureContext;
use crate::capture::copy_choice::{AllFailures, BACK_OFF_MIN, Next, ReadFrom, group};
use crate::capture::copy_follower::Follower;
use crate::capture::copy_rows::{CopiedTable, RowWriter, SnapshotTable, read_all};
use crate::capture::copy_throttle::Throttle;
use crate::capture::copy_wishes::Wishes;
use crate::capture::outbox::Outbox;
use crate::capture::past::Rewrites;
use crate::capture::publisher::{Order, Published, extents};
use crate::capture::stream_loop::push_schema;
use crate::capture::tables::{CapturedTable, Labels};
use crate::error::{Error, Result};
use crate::killpoint::{self, Point};
use crate::log::commit_log::{CopyBegin, CopyEnd, Entry, Extent, Extents};
use crate::log::copies::CopyLedger;
use crate::log::producer::{EpochProducer, PartitionSlot};
use crate::log::progress::Pauses;
use crate::log::topics::Topics;
use crate::model::{Epoch, Lsn, Oid, TableName, TableOffers};
use crate::postgres::connect;
use crate::source::catalog::{self, CatalogTable};
use crate::source::copy::{Snapshot, table_bytes};
use crate::source::indexes;
use crate::status::{CopyProgress, LastError};

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
    /// System identifier and timeline of the epoch's leader.
    pub leader: (String, u32),
    /// Where tables' rows were rewritten: a copy's versions say it too.
    pub rewrites: Rewrites,
    /// Whether copies are paused.
    pub pauses: Pauses,
    /// Whether a copy is under way: a new epoch would void it.
    pub copying: watch::Sender<bool>,
}

/// What came of making one copy.
#[derive(Default)]
struct Ended {
    /// Tables copied, with the copy's id.
    copied: Vec<(TableName, i64)>,
    /// Tables that are no longer there.
    gone: Vec<TableName>,
    /// When to try again what could not be begun.
    again: Option<Instant>,
}

/// What goes into the next copy.
struct Chosen {
    /// As many of the tables wanted as go into one copy.
    tables: Vec<CatalogTable>,
    /// What they have beside their keys.
    indexes: Vec<TableOffers>,
    /// Those wanted that were dropped (or dropped and made anew) since the epoch began.
    gone: Vec<TableName>,
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
        let wishes = Wishes::open(&self.context, &self.topics, &self.producer).await?;
        self.pauses = wishes.pauses();
        let (context, pauses) = (self.context.clone(), self.pauses.clone());
        tokio::select! {
            never = show_pauses(&context, &pauses) => never,
            made = self.make(wishes) => made,
        }
    }

    async fn make(mut self, mut wishes: Wishes) -> Result<()> {
        let mut captured: Vec<TableName> = self
            .tables
            .iter()
            .map(|table| table.schema.table.clone())
            .collect();
        let mut made = BTreeMap::new();
        let mut failures = AllFailures::default();
        loop {
            let wished = wishes.now(&captured, &mut self.ledger, &made).await;
            let (from, next) = match self.pauses.now() {
                // Going on is a change of what is wished for.
                true => (ReadFrom::Leader, Next::Wait),
                false => failures.next(&wished.tables, Instant::now()),
            };
            let due = match next {
                Next::Copy(tables) => {
                    self.copying.send_replace(true);
                    let ended = self.copy_some(&tables, &from, &mut failures).await;
                    self.copying.send_replace(false);
                    made.extend(ended.copied);
                    // What is gone stays so; the next epoch's captured set will say it.
                    captured.retain(|table| !ended.gone.contains(table));
                    match ended.again {
                        Some(due) => Some(due),
                        None => continue,
                    }
                }
                Next::WaitUntil(due) => Some(due),
                Next::Wait => None,
            };
            tokio::select! {
                () = wishes.changed() => {}
                () = reached(due.into_iter().chain(wished.look_at).min()) => {}
            }
        }
    }

    /// Makes one copy: of as many of these tables as go into one.
    async fn copy_some(
        &mut self,
        wanted: &[TableName],
        from: &ReadFrom,
        failures: &mut AllFailures,
    ) -> Ended {
        let mut ended = Ended::default();
        let (tables, indexes) = match self.choose(wanted).await {
            Ok(chosen) => {
                ended.gone = chosen.gone;
                (chosen.tables, chosen.indexes)
            }
            Err(error) => {
                self.said(&error.at(named(wanted)));
                ended.again = Some(Instant::now() + BACK_OFF_MIN);
                return ended;
            }
        };
        if tables.is_empty() {
            return ended;
        }
        let names: Vec<TableName> = tables.iter().map(|t| t.schema.table.clone()).collect();
        let failures = failures.of(from);
        match self.copy((&tables, indexes), &names, from).await {
            Ok(copy) => {
                failures.copied(&names);
                ended.copied = names.into_iter().map(|table| (table, copy)).collect();
            }
            Err(error) => {
                failures.failed(&names, error.class(), Instant::now());
                let place = match from {
                    ReadFrom::Leader => named(&names),
                    ReadFrom::Follower(_) => format!("{} from {from}", named(&names)),
                };
                self.said(&error.at(place));
            }
        }
        ended
    }

    /// A failed copy does not stop the stream, but it is said.
    fn said(&self, error: &Error) {
        tracing::warn!(%error, "the copy failed and will be begun again");
        self.context
            .status
            .update(|view| view.last_error = Some(LastError::now(error)));
    }

    /// Makes one copy; its id.
    async fn copy(
        &mut self,
        (tables, indexes): (&[CatalogTable], Vec<TableOffers>),
        names: &[TableName],
        from: &ReadFrom,
    ) -> Result<i64> {
        let follower = match from {
            ReadFrom::Leader => None,
            ReadFrom::Follower(sink) => {
                let follower = Follower::of(&self.context, sink)?;
                follower.look(names).await?;
                Some(follower)
            }
        };
        // Entries of a log without any boundary could not be told from repeats.
        self.reached(Lsn::ZERO).await?;
        let copy = self.begin(tables, indexes).await?;
        let begun_us = self.context.samples.borrow().map(|sample| sample.clock_us);
        killpoint::pass(Point::CopyBegun);
        let (snapshot, read) = match &follower {
            None => self.of_leader(copy, tables).await?,
            Some(follower) => self.of_follower(follower, tables).await?,
        };
        let point = snapshot.point;
        tracing::info!(copy, %point, tables = names.len(), %from, "copying tables");
        let rows = self.rows(copy, snapshot, (read, tables)).await?;
        killpoint::pass(Point::CopyRowsAcked);
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
        killpoint::pass(Point::CopyEnded);
        if let Some(begun_us) = begun_us {
            self.ledger.sampled(begun_us);
        }
        self.note(copy, names, point, rows);
        tracing::info!(copy, %point, tables = names.len(), "tables copied");
        Ok(copy)
    }

    async fn choose(&self, wanted: &[TableName]) -> Result<Chosen> {
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
        let found: BTreeSet<Oid> = now.iter().map(|table| table.schema.relation).collect();
        let (there, gone): (Vec<&CatalogTable>, Vec<&CatalogTable>) = asked
            .into_iter()
            .partition(|table| found.contains(&table.schema.relation));
        // Without sizes (a table is locked) all go into one copy, and one by one if that fails.
        let sizes = table_bytes(&client, &now).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the tables' sizes are not known: they are copied together");
            HashMap::new()
        });
        let sized = there.iter().map(|table| {
            let bytes = sizes.get(&table.schema.relation).copied().unwrap_or(0);
            (bytes, table.schema.table.clone())
        });
        let max_bytes = self.context.source.copy_group_max_bytes as u64;
        let group = group(sized.collect(), max_bytes);
        self.show(&there, &group);
        let chosen = there
            .into_iter()
            .filter(|table| group.contains(&table.schema.table));
        let tables: Vec<CatalogTable> = chosen.cloned().collect();
        let gone = gone.into_iter().map(|table| table.schema.table.clone());
        Ok(Chosen {
            indexes: indexes::offers(&client, &tables).await?,
            tables,
            gone: gone.collect(),
        })
    }

    async fn begin(&self, tables: &[CatalogTable], indexes: Vec<TableOffers>) -> Result<i64> {
        let mut changes = Vec::new();
        let mut rows: BTreeMap<String, BTreeMap<i32, i64>> = BTreeMap::new();
        let mut places = Vec::new();
        for table in tables {
            let name = &table.schema.table;
            changes.extend(slots(
                &self.producer,
                &self.topics.table(name),
                table.schema.partitions,
            ));
            let (topic, partitions) = (self.topics.copy(name), table.schema.partitions);
            let partitions = i32::try_from(partitions).unwrap_or(i32::MAX);
            places.extend((0..partitions).map(|partition| (topic.clone(), partition)));
        }
        // Nothing of this copy is sent before its id is known.
        for (slot, bound) in self.producer.high_watermarks(places).await? {
            let (topic, partition) = self.producer.partition_of(slot);
            rows.entry(topic).or_default().insert(partition, bound);
        }
        let (begun, begin) = oneshot::channel();
        self.order(Order::CopyBegin {
            tables: tables.iter().map(|t| t.schema.table.clone()).collect(),
            changes,
            rows,
            indexes,
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
        (at_point, tables): (Vec<SnapshotTable>, &[CatalogTable]),
    ) -> Result<Extents> {
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
            throttle: Throttle::new(
                self.context.source.copy_max_bytes_per_second,
                self.pauses.clone(),
            ),
        });
        let at_point = Arc::new(at_point);
        let read = read_all(snapshot, Arc::clone(&at_point), &writer).await;
        // Also of a copy that failed: the producer forgets a batch only here, and has room for few.
        let acked = self.producer.acked(batch).await?;
        read?;
        let mut rows = extents(&self.producer, &acked, None).await?;
        for table in at_point.iter() {
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

    /// Schema versions of the copy's rows are in the log before the first row is.
    async fn publish_schemas(&self, tables: &[SnapshotTable]) -> Result<()> {
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

    /// Shows all tables that wait for their copy, and those of the next one from the beginning.
    fn show(&self, waiting: &[&CatalogTable], next: &[TableName]) {
        self.context.status.update(|view| {
            if view.copies.iter().all(|copy| copy.done) {
                view.copies.clear();
            }
            let next: Vec<String> = next.iter().map(TableName::to_string).collect();
            view.copies.retain(|copy| !next.contains(&copy.table));
            for table in waiting {
                let name = table.schema.table.to_string();
                if !view.copies.iter().any(|copy| copy.table == name) {
                    view.copies.push(CopyProgress {
                        table: name,
                        rows: 0,
                        rows_estimate: table.rows_estimate,
                        done: false,
                    });
                }
            }
        });
    }

    /// Notes the finished copy as a reader of the log would.
    fn note(&mut self, copy: i64, tables: &[TableName], point: Lsn, rows: Extents) {
        let begin = CopyBegin {
            epoch: self.epoch,
            number: 0,
            tables: tables.to_vec(),
            at: None,
            offsets: BTreeMap::new(),
            indexes: Vec::new(),
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

/// Says when copies are paused and when they go on.
async fn show_pauses(context: &CaptureContext, pauses: &Pauses) -> Result<()> {
    let mut paused = pauses.now();
    context.status.update(|view| view.copies_paused = paused);
    loop {
        if paused {
            tracing::warn!(
                "copies are paused until walferry copy --resume; one that was begun keeps its snapshot"
            );
        }
        pauses.until(!paused).await;
        paused = !paused;
        context.status.update(|view| view.copies_paused = paused);
        if !paused {
            tracing::info!("copies go on");
        }
    }
}

/// Waits until then; for ever when there is no such moment.
async fn reached(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
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
