//! Writes the commit log's entries, one after the other: waits for a batch's records, writes its
//! entry, waits for that, and finds out whether it is valid.
//!
//! One entry is under way at a time; meanwhile the next batches' records are, so this costs
//! nothing: batches grow with what waits. All that depends on the order of entries (a copy's `at`
//! and lower bounds) is known here and nowhere else.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};

use crate::capture::CaptureContext;
use crate::capture::batches::Closed;
use crate::capture::own_log::OwnLog;
use crate::capture::takeover::append;
use crate::error::{Error, Result};
use crate::killpoint::{self, Point};
use crate::log::commit_log::{BatchEntry, CopyBegin, CopyEnd, Entry, Extent, Extents, Sample};
use crate::log::confirm::{Confirmations, Decision};
use crate::log::producer::{Acked, BatchId, EpochProducer, PartitionSlot};
use crate::log::topics::Topics;
use crate::model::clock::unix_us;
use crate::model::{Epoch, Lsn, TableName, TableOffers};
use crate::source::sample::LeaderSample;
use crate::trace;

/// What is to become an entry. Entries are written in the order of orders.
#[derive(Debug)]
pub enum Order {
    /// Transactions; `batch` is none for a heartbeat.
    Batch {
        /// What it covers.
        closed: Closed,
        /// Its records.
        batch: Option<BatchId>,
        /// When it was closed.
        at: Instant,
    },
    /// A copy begins.
    CopyBegin {
        /// Its tables.
        tables: Vec<TableName>,
        /// The tables' topics' partitions.
        changes: Vec<PartitionSlot>,
        /// Lower bounds in the copy topics.
        rows: BTreeMap<String, BTreeMap<i32, i64>>,
        /// What the tables have beside their keys.
        indexes: Vec<TableOffers>,
        /// Gets the copy id, once the entry is known to be valid.
        begun: oneshot::Sender<i64>,
    },
    /// A copy is complete.
    CopyEnd {
        /// Its id.
        copy: i64,
        /// Its point.
        point: Lsn,
        /// Where its rows lie.
        rows: Extents,
        /// Told once the entry is known to be valid.
        ended: oneshot::Sender<()>,
    },
}

/// How far the log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Batch orders that are done.
    pub done: u64,
    /// `to` of the newest own entry (or where the epoch resumed).
    pub to: Option<Lsn>,
    /// Boundary that may be confirmed to the slot.
    pub confirmed: Option<Lsn>,
}

/// The writer of entries.
pub struct Publisher {
    /// The worker's context.
    pub context: CaptureContext,
    /// Names of topics.
    pub topics: Topics,
    /// The epoch's producer.
    pub producer: Arc<EpochProducer>,
    /// What is known of the log.
    pub confirmations: Confirmations,
    /// Watermarks of the captured tables' partitions, read before this epoch's first record: below
    /// them lies nothing of this epoch. Raised to what acknowledgements name.
    pub lower_bounds: HashMap<PartitionSlot, i64>,
    /// Copies begun in this epoch.
    pub copies_begun: u64,
    /// The newest sample.
    pub samples: watch::Receiver<Option<LeaderSample>>,
    /// Told after each entry.
    pub published: watch::Sender<Published>,
}

impl Publisher {
    /// Writes entries until there are no more orders.
    ///
    /// # Errors
    /// The epoch is over: the producer failed, or another source has taken over.
    pub async fn run(mut self, mut orders: mpsc::Receiver<Order>) -> Result<()> {
        while let Some(order) = orders.recv().await {
            match order {
                Order::Batch { closed, batch, at } => self.batch(closed, batch, at).await?,
                Order::CopyBegin {
                    tables,
                    changes,
                    rows,
                    indexes,
                    begun,
                } => {
                    let copy = self.copy_begin(tables, &changes, (rows, indexes)).await?;
                    // The copy may have been given up meanwhile.
                    let _ = begun.send(copy);
                }
                Order::CopyEnd {
                    copy,
                    point,
                    rows,
                    ended,
                } => {
                    let epoch = self.confirmations.epoch();
                    self.write(Entry::CopyEnd(CopyEnd {
                        epoch,
                        copy,
                        point,
                        rows,
                    }))
                    .await?;
                    let _ = ended.send(());
                }
            }
        }
        Ok(())
    }

    async fn batch(
        &mut self,
        closed: Closed,
        batch: Option<BatchId>,
        closed_at: Instant,
    ) -> Result<()> {
        let acked = match batch {
            Some(batch) => self.producer.acked(batch).await?,
            None => BTreeMap::new(),
        };
        if batch.is_some() {
            killpoint::pass(Point::BatchAcked);
        }
        let offsets = self.extents(&acked).await?;
        for (&slot, acked) in &acked {
            raise(&mut self.lower_bounds, slot, acked);
        }
        let sample = *self.samples.borrow();
        let entry = batch_entry(self.confirmations.epoch(), &closed, offsets, sample);
        let (changes, transactions) = (entry.changes, entry.transactions);
        let last_commit = entry.last_commit.filter(|_| changes > 0);
        // From here on the entry may count, so copies begin behind it.
        self.published
            .send_modify(|published| published.to = Some(closed.to));
        let confirmed = self.write(Entry::Batch(entry)).await?;
        self.published.send_modify(|published| {
            published.done += 1;
            published.confirmed = confirmed.or(published.confirmed);
        });
        let took = closed_at.elapsed().as_secs_f64();
        let durable = self.context.leader_clock.now_us().zip(last_commit);
        self.context.status.update(|view| {
            if changes > 0 {
                view.times.publish.observe(took);
            }
            if let Some((now, commit)) = durable {
                view.times
                    .durable
                    .observe((now - commit.time_us) as f64 / 1e6);
            }
            view.entry_at_us = Some(unix_us(SystemTime::now()));
            view.published = confirmed.or(view.published);
            view.transactions += transactions;
            view.changes += changes;
            view.bytes += closed.bytes as u64;
        });
        if let Some((done_us, commit)) = durable {
            self.context.traces.published(trace::Batch {
                part: &self.context.source.name,
                commit: commit.lsn,
                commit_us: commit.time_us,
                done_us,
                changes,
            });
        }
        Ok(())
    }

    /// Where acknowledged records lie, those of the schemas topic aside.
    async fn extents(&self, acked: &BTreeMap<PartitionSlot, Acked>) -> Result<Extents> {
        extents(&self.producer, acked, Some(&self.topics.schemas())).await
    }

    async fn copy_begin(
        &mut self,
        tables: Vec<TableName>,
        changes: &[PartitionSlot],
        (rows, indexes): (BTreeMap<String, BTreeMap<i32, i64>>, Vec<TableOffers>),
    ) -> Result<i64> {
        self.copies_begun += 1;
        let mut offsets = rows;
        for &slot in changes {
            let bound = self.lower_bounds.get(&slot).copied().unwrap_or(0);
            let (topic, partition) = self.producer.partition_of(slot);
            offsets.entry(topic).or_default().insert(partition, bound);
        }
        let begin = CopyBegin {
            epoch: self.confirmations.epoch(),
            number: self.copies_begun,
            tables,
            at: self.published.borrow().to,
            offsets,
            indexes,
        };
        self.write(Entry::CopyBegin(begin.clone())).await?;
        let begun = self.confirmations.take_begun();
        begun
            .iter()
            .find(|(_, found)| *found == begin)
            .map(|(offset, _)| *offset)
            .ok_or_else(|| {
                Error::transient("a copy_begin entry was acknowledged but is not valid in the log")
            })
    }

    /// Appends an entry and finds out what may be confirmed now.
    async fn write(&mut self, entry: Entry) -> Result<Option<Lsn>> {
        let commits = self.producer.log_slot(&self.topics.commits());
        self.confirmations.sent(entry.clone());
        let parent = match &entry {
            Entry::Batch(batch) => batch.last_commit,
            Entry::Epoch(_) | Entry::CopyBegin(_) | Entry::CopyEnd(_) => None,
        };
        let parent = parent.and_then(|commit| self.context.traces.traceparent(commit.lsn));
        let offset = append(&self.producer, commits, &entry, parent.as_deref()).await?;
        killpoint::pass(Point::EntryAcked);
        let mut decision = self.confirmations.acked(offset)?;
        loop {
            match decision {
                Decision::Confirm(to) => return Ok(to),
                Decision::Superseded => {
                    return Err(Error::transient(
                        "another source has taken over; beginning again behind it",
                    ));
                }
                Decision::ReadGap { from, to: _ } => {
                    let kafka = &self.context.kafka;
                    let entries = OwnLog::read_from(kafka, &self.topics.commits(), from).await?;
                    decision = self.confirmations.read(&entries)?;
                }
            }
        }
    }
}

/// Extents of acknowledged records by topic and partition, one topic left out.
///
/// # Errors
/// As [`EpochProducer::high_watermark`].
pub async fn extents(
    producer: &EpochProducer,
    acked: &BTreeMap<PartitionSlot, Acked>,
    without: Option<&str>,
) -> Result<Extents> {
    let mut extents = Extents::new();
    for (&slot, acked) in acked {
        let (topic, partition) = producer.partition_of(slot);
        if acked.count == 0 || without == Some(&topic) {
            continue;
        }
        let last = match acked.last {
            Some(last) => last,
            // Read after the acknowledgement, so the record lies below it.
            None => producer.high_watermark(slot).await? - 1,
        };
        extents.entry(topic).or_default().insert(
            partition,
            Extent {
                last,
                count: acked.count,
            },
        );
    }
    Ok(extents)
}

/// Only offsets that an acknowledgement named count: an extent's `last` may be too high.
fn raise(bounds: &mut HashMap<PartitionSlot, i64>, slot: PartitionSlot, acked: &Acked) {
    if let Some(named) = acked.largest_named {
        let bound = bounds.entry(slot).or_insert(0);
        *bound = (*bound).max(named + 1);
    }
}

fn batch_entry(
    epoch: Epoch,
    closed: &Closed,
    offsets: Extents,
    sample: Option<LeaderSample>,
) -> BatchEntry {
    BatchEntry {
        epoch,
        from: closed.from,
        to: closed.to,
        last_commit: closed.last_commit,
        transactions: closed.transactions,
        changes: offsets
            .values()
            .flat_map(BTreeMap::values)
            .map(|extent| extent.count)
            .sum(),
        bytes: closed.bytes as u64,
        offsets,
        sample: sample.map(|sample| Sample {
            flush: sample.flush,
            clock_us: sample.clock_us,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_bounds_follow_named_offsets_only() {
        let mut bounds = HashMap::from([(PartitionSlot(1), 40)]);
        let acked = |last, largest_named| Acked {
            last,
            largest_named,
            count: 3,
        };
        raise(&mut bounds, PartitionSlot(1), &acked(None, None));
        assert_eq!(bounds[&PartitionSlot(1)], 40);
        raise(&mut bounds, PartitionSlot(1), &acked(None, Some(50)));
        raise(&mut bounds, PartitionSlot(1), &acked(Some(45), Some(45)));
        assert_eq!(bounds[&PartitionSlot(1)], 51);
    }

    #[test]
    fn an_entry_counts_its_records() {
        let closed = Closed {
            from: Lsn(1),
            to: Lsn(9),
            last_commit: None,
            transactions: 2,
            bytes: 10,
        };
        let extent = |count| Extent { last: 100, count };
        let offsets = Extents::from([
            ("a".into(), BTreeMap::from([(0, extent(3)), (1, extent(4))])),
            ("b".into(), BTreeMap::from([(0, extent(5))])),
        ]);
        assert_eq!(batch_entry(Epoch(3), &closed, offsets, None).changes, 12);
    }
}
