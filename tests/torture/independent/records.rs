//! Records of one partition, taken by counts and positions as `docs/event-format.md` says.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::log::{Batch, Copy, Extent};

/// Longest wait for a record that must be there.
const RECORD_MAX: Duration = Duration::from_secs(120);

/// A record with its headers taken apart.
#[derive(Clone, Debug, Default)]
pub struct Record {
    pub offset: i64,
    pub epoch: u64,
    /// Commit LSN and ordinal.
    pub position: (u64, u32),
    /// Copy id and sequence number, on rows of copies.
    pub copy: Option<(u64, u64)>,
    /// Index and number of pieces.
    pub part: Option<(u32, u32)>,
    pub new_key: Option<Vec<u8>>,
    pub old_key: Option<Vec<u8>>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
}

/// A consumer of one partition.
pub struct Partition {
    consumer: BaseConsumer,
    name: String,
    /// The record that was read and belongs to none so far.
    next: Option<Record>,
    /// Records passed over.
    pub leftovers: u64,
}

impl Partition {
    /// Stands at the oldest record.
    pub fn open(brokers: &str, topic: &str, partition: i32) -> anyhow::Result<Self> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", "independent")
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "error")
            .set("fetch.message.max.bytes", "4194304")
            .set("queued.max.messages.kbytes", "16384")
            .set("check.crcs", "true")
            .create()?;
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
        consumer.assign(&assignment)?;
        Ok(Partition {
            consumer,
            name: format!("{topic} {partition}"),
            next: None,
            leftovers: 0,
        })
    }

    /// The end of the partition.
    pub fn end(&self, topic: &str, partition: i32) -> anyhow::Result<i64> {
        let (_, end) = self
            .consumer
            .fetch_watermarks(topic, partition, RECORD_MAX)?;
        Ok(end)
    }

    fn read(&mut self) -> anyhow::Result<Record> {
        if let Some(record) = self.next.take() {
            return Ok(record);
        }
        let deadline = Instant::now() + RECORD_MAX;
        while Instant::now() < deadline {
            match self.consumer.poll(Duration::from_secs(1)) {
                Some(Ok(message)) => return record(&message).with_context(|| self.name.clone()),
                Some(Err(error)) => eprintln!("independent reader, {}: {error}", self.name),
                None => {}
            }
        }
        bail!("{}: no record comes", self.name)
    }

    /// Key and value of the next record, headers unread: for the commit log itself.
    pub fn plain(&mut self) -> anyhow::Result<(u64, Vec<u8>)> {
        let deadline = Instant::now() + RECORD_MAX;
        while Instant::now() < deadline {
            if let Some(Ok(message)) = self.consumer.poll(Duration::from_secs(1)) {
                let value = message.payload().context("an entry without a value")?;
                return Ok((u64::try_from(message.offset())?, value.to_vec()));
            }
        }
        bail!("{}: no entry comes", self.name)
    }

    /// The records of a batch in this partition.
    pub fn of_batch(&mut self, batch: &Batch, extent: Extent) -> anyhow::Result<Vec<Record>> {
        let mut before = None;
        self.take(extent, |record| {
            let inside = (batch.from..batch.to).contains(&record.position.0);
            let fits = record.epoch == batch.epoch && inside && before < Some(record.position);
            if fits {
                before = Some(record.position);
            }
            fits
        })
    }

    /// The rows of a copy in this partition.
    pub fn of_copy(&mut self, copy: &Copy, extent: Extent) -> anyhow::Result<Vec<Record>> {
        let mut before = None;
        self.take(extent, |record| {
            let (id, sequence) = record.copy.unwrap_or_default();
            let fits = record.epoch == copy.epoch && id == copy.id && before < Some(sequence);
            if fits {
                before = Some(sequence);
            }
            fits
        })
    }

    fn take(
        &mut self,
        extent: Extent,
        mut fits: impl FnMut(&Record) -> bool,
    ) -> anyhow::Result<Vec<Record>> {
        let mut taken = Vec::new();
        while (taken.len() as u64) < extent.count {
            let record = self.read()?;
            ensure!(
                record.offset <= extent.last,
                "{}: {} of {} records up to offset {}: acknowledged records are lost",
                self.name,
                taken.len(),
                extent.count,
                extent.last
            );
            if fits(&record) {
                taken.push(record);
            } else {
                self.leftovers += 1;
            }
        }
        Ok(taken)
    }
}

fn record(message: &BorrowedMessage<'_>) -> anyhow::Result<Record> {
    let mut record = Record {
        offset: message.offset(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        ..Record::default()
    };
    let mut has_position = false;
    for header in message
        .headers()
        .context("a record without headers")?
        .iter()
    {
        let bytes = header.value.unwrap_or_default();
        match header.key {
            "walferry" => {
                record.epoch = u64::from_be_bytes(part(bytes, 0)?);
                record.position = (
                    u64::from_be_bytes(part(bytes, 8)?),
                    u32::from_be_bytes(part(bytes, 16)?),
                );
                has_position = true;
            }
            "walferry.copy" => {
                record.copy = Some((
                    u64::from_be_bytes(part(bytes, 0)?),
                    u64::from_be_bytes(part(bytes, 8)?),
                ))
            }
            "walferry.part" => {
                record.part = Some((
                    u32::from_be_bytes(part(bytes, 0)?),
                    u32::from_be_bytes(part(bytes, 4)?),
                ))
            }
            "__debezium.newkey" => record.new_key = Some(bytes.to_vec()),
            "__debezium.oldkey" => record.old_key = Some(bytes.to_vec()),
            other => bail!("unknown header {other}"),
        }
    }
    ensure!(has_position, "offset {}: no walferry header", record.offset);
    Ok(record)
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> anyhow::Result<[u8; N]> {
    let part = bytes
        .get(at..at + N)
        .context("a header that is too short")?;
    Ok(part.try_into()?)
}

/// Puts the pieces of large values together; a value in one piece stays as it is. The pieces of a
/// value are consecutive among the records taken of a partition.
pub fn whole(records: Vec<Record>) -> anyhow::Result<Vec<Record>> {
    let mut out: Vec<Record> = Vec::with_capacity(records.len());
    let mut missing = 0;
    for record in records {
        match record.part {
            None => {
                ensure!(
                    missing == 0,
                    "pieces are missing before offset {}",
                    record.offset
                );
                out.push(record);
            }
            Some((0, pieces)) => {
                ensure!(
                    missing == 0,
                    "pieces are missing before offset {}",
                    record.offset
                );
                missing = pieces - 1;
                out.push(record);
            }
            Some((index, pieces)) => {
                ensure!(
                    missing > 0 && pieces - missing == index,
                    "piece {index} of {pieces} out of turn at {}",
                    record.offset
                );
                missing -= 1;
                let begun = out.last_mut().context("a piece without a first one")?;
                ensure!(
                    begun.key == record.key,
                    "pieces with different keys at {}",
                    record.offset
                );
                begun
                    .value
                    .as_mut()
                    .context("a piece without bytes")?
                    .extend(record.value.unwrap_or_default());
            }
        }
    }
    ensure!(missing == 0, "the last pieces are missing");
    Ok(out)
}
