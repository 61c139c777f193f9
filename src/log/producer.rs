//! The producer of one epoch: idempotent, `acks=all`, `message.timeout.ms=0`. The first delivery
//! error or fatal error ends the epoch: every method then fails.
//!
//! Acknowledgements are counted, not stored: a batch knows how many records are under way and, a
//! partition, the last acknowledged offset and the count.

use std::collections::BTreeMap;

use crate::config::KafkaSettings;
use crate::error::Result;

/// A topic partition of this producer's, by a small number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionSlot(pub u32);

/// A set of records acknowledged together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BatchId(pub u64);

/// A header of a record.
pub type Header<'a> = (&'static str, &'a [u8]);

/// Whether a record was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It will be delivered, or the epoch ends.
    Taken,
    /// The queue is full: wait for [`EpochProducer::room`], then send it again.
    Full,
}

/// Acknowledgement of one partition's records of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acked {
    /// Offset of the last record, `None` where Kafka acknowledged it without one (a retry answered as duplicate).
    pub last: Option<i64>,
    /// The largest offset that any acknowledgement of this batch named in this partition.
    pub largest_named: Option<i64>,
    /// Records acknowledged.
    pub count: u64,
}

/// The producer of one epoch. Shared by the stream, the copy readers and the commit log.
pub struct EpochProducer {}

impl EpochProducer {
    /// Makes the producer; connects lazily.
    pub fn open(kafka: &KafkaSettings, queue_max_bytes: usize) -> Result<Self> {
        let _ = (kafka, queue_max_bytes);
        todo!()
    }

    /// The number of a topic's partition; the same for the same arguments.
    pub fn partition_slot(&self, topic: &str, partition: i32) -> PartitionSlot {
        let _ = (topic, partition);
        todo!()
    }

    /// Topic and partition of a slot.
    pub fn partition_of(&self, slot: PartitionSlot) -> (String, i32) {
        let _ = slot;
        todo!()
    }

    /// A new, open batch.
    pub fn open_batch(&self) -> BatchId {
        todo!()
    }

    /// Sends one record as part of an open batch. Never blocks. Payloads are copied.
    ///
    /// # Errors
    /// The epoch is over; or halt when the record is larger than the broker takes.
    pub fn send(
        &self,
        batch: BatchId,
        slot: PartitionSlot,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header<'_>],
    ) -> Result<Sent> {
        let _ = (batch, slot, key, value, headers);
        todo!()
    }

    /// Waits until there is room in the queue again.
    ///
    /// # Errors
    /// The epoch is over.
    pub async fn room(&self) -> Result<()> {
        todo!()
    }

    /// Bytes of keys and values sent and not yet acknowledged.
    pub fn unacknowledged_bytes(&self) -> usize {
        todo!()
    }

    /// Waits until every record of the batch is acknowledged (nothing more may be sent to it), and
    /// forgets the batch.
    ///
    /// # Errors
    /// The epoch is over.
    pub async fn acked(&self, batch: BatchId) -> Result<BTreeMap<PartitionSlot, Acked>> {
        let _ = batch;
        todo!()
    }

    /// The high watermark of a partition, asked from the broker now.
    pub async fn high_watermark(&self, slot: PartitionSlot) -> Result<i64> {
        let _ = slot;
        todo!()
    }

    /// Waits until the epoch is over through an error of the producer; for `select!`.
    pub async fn failed(&self) -> crate::error::Error {
        todo!()
    }
}
