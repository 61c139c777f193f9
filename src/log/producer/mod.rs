//! The producer of one epoch: idempotent, `acks=all`, `message.timeout.ms=0`. The first delivery
//! error or fatal error ends the epoch: every method then fails.
//!
//! Acknowledgements are counted, not stored: a batch knows how many records are under way and, a
//! partition, the last acknowledged offset and the count (`acks`). Nothing is allocated on our side
//! for a record; librdkafka copies key, value and headers.
//!
//! A partition has one burst of records with librdkafka at a time (`turns`, which says why); what is
//! sent meanwhile is collected. Little goes at once only when it is pushed ([`EpochProducer::push`]).

mod acks;
mod delivery;
mod hand_over;
mod native;
mod turns;

use std::collections::BTreeMap;
use std::sync::Arc;

use rdkafka::producer::{Producer, PurgeConfig, ThreadedProducer};
use rdkafka::topic_partition_list::Offset;

use crate::config::KafkaSettings;
use crate::error::{Error, Result};
use crate::log::client::{client_config, refused};
use crate::log::kept::Kept;
use crate::log::offsets;
use crate::log::topics::RECORD_MAX_BYTES;

use delivery::DeliveryContext;
use hand_over::HandOver;
use turns::{Pace, REQUEST_MAX_BYTES, Record};

/// A topic partition of this producer's, by a small number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionSlot(pub u32);

/// A set of records acknowledged together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BatchId(pub u64);

/// A header of a record.
pub type Header<'a> = (&'static str, &'a [u8]);

/// Headers a record may have.
const HEADERS_MAX: usize = 4;

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

/// What librdkafka keeps a record beside key and value, for the bound of the queue.
const RECORD_OVERHEAD_BYTES: usize = 256;

type Client = Kept<ThreadedProducer<DeliveryContext>>;
/// By [`Pace`].
type Clients = [Arc<Client>; Pace::COUNT];

/// The producer of one epoch. Shared by the stream, the copy readers and the commit log.
pub struct EpochProducer {
    hand_over: Arc<HandOver>,
    clients: Option<Clients>,
    queue_max_bytes: usize,
}

impl EpochProducer {
    /// Makes the producer; connects lazily. The queue takes `queue_max_bytes` of records.
    ///
    /// # Errors
    /// Halt when librdkafka refuses the settings.
    pub fn open(kafka: &KafkaSettings, queue_max_bytes: usize) -> Result<Self> {
        let hand_over = Arc::new(HandOver::new());
        let mut clients = Vec::with_capacity(Pace::COUNT);
        for linger_ms in Pace::LINGER_MS {
            clients.push(Arc::new(client(kafka, linger_ms, Arc::clone(&hand_over))?));
        }
        Ok(EpochProducer {
            hand_over,
            clients: clients.try_into().ok(),
            queue_max_bytes,
        })
    }

    /// How large key, value and headers of one record may be together. Larger values travel in parts.
    pub fn record_max_bytes(&self) -> usize {
        RECORD_MAX_BYTES
    }

    /// The number of a topic's partition; the same for the same arguments.
    pub fn partition_slot(&self, topic: &str, partition: i32) -> PartitionSlot {
        self.slot(topic, partition, false)
    }

    /// The number of the commit log's only partition.
    pub fn log_slot(&self, commits: &str) -> PartitionSlot {
        self.slot(commits, 0, true)
    }

    fn slot(&self, topic: &str, partition: i32, is_log: bool) -> PartitionSlot {
        let clients = self.clients().each_ref().map(|client| client.client());
        let place = (topic, partition);
        self.hand_over.topics.slot(clients, place, is_log)
    }

    /// Topic and partition of a slot.
    ///
    /// # Panics
    /// When the slot is not from this producer.
    pub fn partition_of(&self, slot: PartitionSlot) -> (String, i32) {
        self.hand_over.topics.name(slot)
    }

    /// A new, open batch. At most 4,096 batches may be open at a time.
    ///
    /// # Panics
    /// When more batches are open: a bug of the caller, which must wait for [`EpochProducer::acked`].
    pub fn open_batch(&self) -> BatchId {
        self.hand_over.acks.open()
    }

    /// Sends one record as part of an open batch. Never blocks. Payloads are copied. It may stay here
    /// until [`EpochProducer::push`], [`EpochProducer::acked`] or [`EpochProducer::room`] is called.
    ///
    /// # Errors
    /// The epoch is over; or halt when this record, or one that waited, is larger than Kafka takes.
    ///
    /// # Panics
    /// When a record has more than four headers.
    pub fn send(
        &self,
        batch: BatchId,
        slot: PartitionSlot,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header<'_>],
    ) -> Result<Sent> {
        assert!(headers.len() <= HEADERS_MAX, "{} headers", headers.len());
        self.hand_over.acks.check()?;
        if self.hand_over.acks.queued(RECORD_OVERHEAD_BYTES) >= self.queue_max_bytes {
            return Ok(Sent::Full);
        }
        let mut record = Record {
            key,
            value,
            headers,
            opaque: 0,
        };
        // Counted before it is handed over: its acknowledgement may come before `send` returns.
        record.opaque = self
            .hand_over
            .acks
            .sending(batch, slot, record.payload_len());
        self.hand_over.send(slot, &record);
        self.hand_over.acks.check()?;
        Ok(Sent::Taken)
    }

    /// Whatever was sent so far goes to Kafka as soon as it is its partition's turn: for a sender
    /// that has nothing more at hand.
    pub fn push(&self) {
        self.hand_over.push();
    }

    /// Waits until there is room in the queue again: a quarter of it, so that a sender is not woken
    /// for every record.
    ///
    /// # Errors
    /// The epoch is over.
    pub async fn room(&self) -> Result<()> {
        self.push();
        let enough = self.queue_max_bytes - self.queue_max_bytes / 4;
        self.hand_over
            .acks
            .room(RECORD_OVERHEAD_BYTES, enough)
            .await
    }

    /// Bytes of keys and values sent and not yet acknowledged.
    pub fn unacknowledged_bytes(&self) -> usize {
        self.hand_over.acks.queued(0)
    }

    /// Waits until every record of the batch is acknowledged (nothing more may be sent to it), and
    /// forgets the batch. Cancel-safe: a batch that was not returned can be waited for again.
    ///
    /// # Errors
    /// The epoch is over.
    pub async fn acked(&self, batch: BatchId) -> Result<BTreeMap<PartitionSlot, Acked>> {
        self.push();
        self.hand_over.acks.acked(batch).await
    }

    /// The high watermark of a partition, asked from the broker now.
    ///
    /// # Errors
    /// Transient when the broker does not answer in time.
    pub async fn high_watermark(&self, slot: PartitionSlot) -> Result<i64> {
        let (_low, high) = self.watermarks(slot).await?;
        Ok(high)
    }

    /// The slots of partitions and their high watermarks, in their order, asked from the broker now in one
    /// question. librdkafka knows their topics then; a slot of one that it does not know has it ask.
    ///
    /// # Errors
    /// As [`EpochProducer::high_watermark`].
    pub async fn high_watermarks(
        &self,
        places: Vec<(String, i32)>,
    ) -> Result<Vec<(PartitionSlot, i64)>> {
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let clients = self.clients().clone();
        let asked = tokio::task::spawn_blocking(move || {
            let borrowed: Vec<_> = places
                .iter()
                .map(|(topic, p)| (topic.as_str(), *p))
                .collect();
            let told = clients.map(|client| offsets::ask(client.client(), &borrowed, Offset::End));
            let ends: Vec<_> = borrowed.iter().map(|&place| told[0].of(place)).collect();
            (places, ends)
        });
        let (places, ends) = asked
            .await
            .map_err(|error| Error::transient("asking for watermarks").caused_by(error))?;
        let mut marks = Vec::with_capacity(places.len());
        for ((topic, partition), end) in places.iter().zip(ends) {
            let slot = self.partition_slot(topic, *partition);
            let end = match end {
                Some(end) => end,
                None => self.high_watermark(slot).await?,
            };
            marks.push((slot, end));
        }
        Ok(marks)
    }

    /// Low and high watermark of a partition, asked from the broker now.
    ///
    /// # Errors
    /// Transient when the broker does not answer in time.
    pub async fn watermarks(&self, slot: PartitionSlot) -> Result<(i64, i64)> {
        let (topic, partition) = self.hand_over.topics.name(slot);
        let producer = Arc::clone(&self.clients()[0]);
        let asked = tokio::task::spawn_blocking(move || {
            offsets::watermarks(producer.client(), &topic, partition).map_err(|error| {
                Error::transient(format!("watermarks of {topic} {partition}")).caused_by(error)
            })
        });
        asked
            .await
            .map_err(|error| Error::transient("asking for watermarks").caused_by(error))?
    }

    /// Waits until the epoch is over through an error of the producer; for `select!`.
    pub async fn failed(&self) -> Error {
        self.hand_over.acks.failed().await
    }

    fn clients(&self) -> &Clients {
        self.clients
            .as_ref()
            .expect("the clients are there until drop")
    }
}

fn client(kafka: &KafkaSettings, linger_ms: &str, hand_over: Arc<HandOver>) -> Result<Client> {
    let record_max = (RECORD_MAX_BYTES + HEADROOM_BYTES).to_string();
    let request_max = REQUEST_MAX_BYTES.to_string();
    let own = [
        ("compression.type", "lz4"),
        ("linger.ms", linger_ms),
        ("batch.size", request_max.as_str()),
    ];
    let fixed = [
        ("enable.idempotence", "true"),
        ("acks", "all"),
        ("message.timeout.ms", "0"),
        ("message.max.bytes", record_max.as_str()),
        // librdkafka's producer asks for it otherwise: a topic that is gone is lost history, and
        // an empty one in its place would hide that.
        ("allow.auto.create.topics", "false"),
        // Ours is the bound that counts (`queue_max_bytes`): it can be waited for.
        ("queue.buffering.max.messages", "0"),
        ("queue.buffering.max.kbytes", "2147483647"),
    ];
    let config = client_config(kafka, &own, &fixed);
    let client = config
        .create_with_context(DeliveryContext::new(hand_over))
        .map_err(|error| refused("Kafka producer", error))?;
    Ok(Kept::new(client, &config))
}

/// Headers (a MOVE's keys) and framing beside key and value of the largest record.
const HEADROOM_BYTES: usize = 64 * 1024;

impl Drop for EpochProducer {
    /// Throws away what is not yet sent. What is under way may still land: it is void by its epoch.
    fn drop(&mut self) {
        self.hand_over
            .acks
            .fail(&Error::transient("the epoch's producer was closed"));
        self.hand_over.topics.release();
        let Some(clients) = self.clients.take() else {
            return;
        };
        for client in &clients {
            client.purge(PurgeConfig::default().queue().inflight().non_blocking());
        }
        // Joining librdkafka's threads takes up to a second while a broker is unreachable.
        let closing = std::thread::Builder::new()
            .name("walferry-producer-close".to_owned())
            .spawn(move || drop(clients));
        if let Err(error) = closing {
            tracing::warn!(%error, "no thread to close a Kafka producer: closed in place");
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
