//! Reading records of table and copy topics, partition by partition, on one consumer.
//!
//! Blocking: used from the sink's reader thread. The per-partition queues of librdkafka are the
//! read-ahead buffer; their size is bounded by a budget over all partitions.

use std::time::Duration;

use crate::config::KafkaSettings;
use crate::error::Result;
use crate::log::header::{CopyHeader, PartHeader, RecordHeader};

/// One record, borrowed from librdkafka's buffer.
#[derive(Debug)]
pub struct Record<'a> {
    /// Its offset.
    pub offset: i64,
    /// The `walferry` header; a record without one was not written by walferry: a reader halts.
    pub header: Option<RecordHeader>,
    /// The `walferry.copy` header, on copy rows.
    pub copy: Option<CopyHeader>,
    /// The `walferry.part` header, on pieces.
    pub part: Option<PartHeader>,
    /// Debezium's `__debezium.newkey` header, on the delete of a MOVE.
    pub new_key: Option<&'a [u8]>,
    /// Debezium's `__debezium.oldkey` header, on the insert of a MOVE.
    pub old_key: Option<&'a [u8]>,
    /// Key bytes.
    pub key: Option<&'a [u8]>,
    /// Value bytes; none: a tombstone.
    pub value: Option<&'a [u8]>,
}

/// Reads records of assigned partitions.
pub struct RecordReader {}

impl RecordReader {
    /// Makes the consumer; nothing is assigned. `budget_bytes` bounds what is fetched ahead, over all partitions.
    pub fn open(kafka: &KafkaSettings, budget_bytes: usize) -> Result<Self> {
        let _ = (kafka, budget_bytes);
        todo!()
    }

    /// Begins to read a partition at an offset, or moves it there.
    pub fn assign(&mut self, topic: &str, partition: i32, offset: i64) -> Result<()> {
        let _ = (topic, partition, offset);
        todo!()
    }

    /// Stops reading a partition.
    pub fn unassign(&mut self, topic: &str, partition: i32) -> Result<()> {
        let _ = (topic, partition);
        todo!()
    }

    /// Hands the next record of a partition to `take`; `None` when none came in time.
    ///
    /// # Errors
    /// Transient for Kafka's own; halt when the topic is gone or the wanted offset is below the
    /// low watermark or beyond the end (retention passed, topic recreated).
    pub fn next<R>(
        &mut self,
        topic: &str,
        partition: i32,
        timeout: Duration,
        take: impl FnOnce(Record<'_>) -> R,
    ) -> Result<Option<R>> {
        let _ = (topic, partition, timeout, take);
        todo!()
    }

    /// Low and high watermark, asked from the broker.
    pub fn watermarks(&self, topic: &str, partition: i32) -> Result<(i64, i64)> {
        let _ = (topic, partition);
        todo!()
    }
}
