//! Reading records of table and copy topics, partition by partition, on one consumer.
//!
//! Blocking: used from the sink's reader thread. The per-partition queues of librdkafka are the
//! read-ahead buffer; their size is bounded by a budget over all partitions.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::Offset;
use rdkafka::{ClientConfig, Message, TopicPartitionList};

use crate::config::KafkaSettings;
use crate::error::{Error, Result};
use crate::log::fetched::{Fetched, Queue};
use crate::log::header::{
    COPY_HEADER, CopyHeader, NEW_KEY_HEADER, OLD_KEY_HEADER, PART_HEADER, PartHeader,
    RECORD_HEADER, RecordHeader,
};
use crate::log::offsets::{self, Place};
use crate::log::partition::{
    QuietConsumer, consumer, consumer_config, forget_events, one_partition, read_error, watermarks,
};

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

/// Longest wait before the client's own events (lost connections) are looked at.
const SERVE_INTERVAL: Duration = Duration::from_millis(200);

/// Records taken without waiting before the client's own events are looked at.
const SERVE_INTERVAL_RECORDS: u32 = 4096;

/// Fewest partitions that the budget is divided by: a few more can then be assigned without a new consumer.
const SHARES_MIN: usize = 4;
/// How much smaller shares become at once: each time all partitions are fetched anew.
const SHARES_GROW: usize = 4;

/// Smallest share of the budget: below it fetching becomes a request a record.
const SHARE_MIN_BYTES: usize = 64 * 1024;

/// What librdkafka asks for a partition in one request at most; a larger record still comes whole.
const FETCH_MAX_BYTES: usize = 1024 * 1024;

/// What librdkafka keeps a record beside its bytes.
const RECORD_OVERHEAD_BYTES: usize = 512;

/// Reads records of assigned partitions.
pub struct RecordReader {
    kafka: KafkaSettings,
    budget_bytes: usize,
    consumer: QuietConsumer,
    /// For questions, which would wait for the consumer's request for records.
    asking: QuietConsumer,
    /// Partitions that the consumer's share of the budget is made for.
    shares: usize,
    assigned: Vec<Assigned>,
    /// Partitions that the consumer has read and reads no more.
    left: HashSet<(String, i32)>,
    /// Topics whose leaders the consumer has been made to look up.
    introduced: HashSet<String>,
    /// Where the last record came from: the next one mostly does too.
    newest: usize,
    /// Whether an assigned partition is not yet fetched.
    waiting: bool,
    unserved: u32,
}

struct Assigned {
    topic: String,
    partition: i32,
    next: i64,
    /// None: not yet fetched.
    queue: Option<Queue>,
    /// Records fetched before a move may still be in its queue: all others than `next` are passed over.
    moved: bool,
}

impl RecordReader {
    /// Makes the consumer; nothing is assigned. `budget_bytes` bounds what is fetched ahead, over all
    /// partitions; each may exceed its share by one fetched batch.
    ///
    /// # Errors
    /// Halt when librdkafka refuses the settings.
    pub fn open(kafka: &KafkaSettings, budget_bytes: usize) -> Result<Self> {
        let config = config(kafka, budget_bytes, SHARES_MIN);
        Ok(RecordReader {
            kafka: kafka.clone(),
            budget_bytes,
            consumer: consumer(&config)?,
            asking: consumer(&consumer_config(kafka, &[]))?,
            shares: SHARES_MIN,
            assigned: Vec::new(),
            left: HashSet::new(),
            introduced: HashSet::new(),
            newest: 0,
            waiting: false,
            unserved: 0,
        })
    }

    /// Begins to read a partition at an offset, or moves it there. It is fetched from the next call
    /// of [`RecordReader::next`] on, for whatever partition. An offset below the low watermark makes
    /// `next` halt; one that is only a lower bound is to be raised to [`RecordReader::watermarks`] first.
    ///
    /// # Errors
    /// Transient.
    pub fn assign(&mut self, topic: &str, partition: i32, offset: i64) -> Result<()> {
        let moved = self.unassign_known(topic, partition)?
            | self.left.remove(&(topic.to_owned(), partition));
        self.assigned.push(Assigned {
            topic: topic.to_owned(),
            partition,
            next: offset,
            queue: None,
            moved,
        });
        self.waiting = true;
        Ok(())
    }

    /// Stops reading a partition.
    ///
    /// # Errors
    /// Transient.
    pub fn unassign(&mut self, topic: &str, partition: i32) -> Result<()> {
        if self.unassign_known(topic, partition)? {
            self.left.insert((topic.to_owned(), partition));
        }
        Ok(())
    }

    /// Hands the next record of a partition to `take`; `None` when none came in time. Blocking.
    ///
    /// # Errors
    /// Transient for Kafka's own; halt when the topic is gone or the wanted offset is below the
    /// low watermark or beyond the end (retention passed, topic recreated).
    ///
    /// # Panics
    /// When the partition is not assigned: a bug of the caller.
    pub fn next<R>(
        &mut self,
        topic: &str,
        partition: i32,
        timeout: Duration,
        take: impl FnOnce(Record<'_>) -> R,
    ) -> Result<Option<R>> {
        if self.waiting {
            self.fetch_waiting()?;
        }
        self.unserved += 1;
        if self.unserved >= SERVE_INTERVAL_RECORDS {
            self.serve()?;
        }
        let at = self
            .find(topic, partition)
            .unwrap_or_else(|| panic!("{topic} {partition} is not assigned"));
        self.newest = at;
        // The clock is not looked at for a record that is here.
        let mut begun: Option<Instant> = None;
        let mut wait = Duration::ZERO;
        loop {
            let assigned = &mut self.assigned[at];
            let queue = assigned
                .queue
                .as_mut()
                .expect("fetched since fetch_waiting");
            match queue.next(wait) {
                Some(Ok(found)) if assigned.moved && found.offset() != assigned.next => {}
                Some(Ok(found)) => {
                    assigned.next = found.offset() + 1;
                    assigned.moved = false;
                    return Ok(Some(take(record(found))));
                }
                Some(Err(error)) => {
                    let place = (assigned.topic.as_str(), assigned.partition);
                    if let Some(error) = read_error(&self.consumer, place.0, place.1, &error) {
                        return Err(error);
                    }
                }
                None => {
                    self.serve()?;
                    let waited = begun.get_or_insert_with(Instant::now).elapsed();
                    let left = timeout.saturating_sub(waited);
                    if left.is_zero() {
                        return Ok(None);
                    }
                    wait = left.min(SERVE_INTERVAL);
                }
            }
        }
    }

    /// Low and high watermark, asked from the broker. Blocking.
    ///
    /// # Errors
    /// Transient when Kafka does not answer in time; halt when the topic is gone.
    pub fn watermarks(&self, topic: &str, partition: i32) -> Result<(i64, i64)> {
        watermarks(&self.asking, topic, partition)
    }

    /// Low watermarks of partitions, in their order, asked all at once. Blocking.
    ///
    /// # Errors
    /// As [`RecordReader::watermarks`].
    pub fn lows(&self, partitions: &[Place<'_>]) -> Result<Vec<i64>> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let told = offsets::ask(self.asking.client(), partitions, Offset::Beginning);
        let low = |&(topic, partition): &Place<'_>| match told.of((topic, partition)) {
            Some(low) => Ok(low),
            None => self.watermarks(topic, partition).map(|(low, _high)| low),
        };
        partitions.iter().map(low).collect()
    }

    /// Looks up where topics are that are going to be read, all at once: see `offsets`. Best before
    /// anything is fetched, for requests of records hold the question up. Blocking.
    pub fn introduce<'a>(&mut self, topics: impl IntoIterator<Item = &'a str>) {
        let new: Vec<&str> = topics
            .into_iter()
            .filter(|topic| !self.introduced.contains(*topic))
            .collect();
        if new.is_empty() {
            return;
        }
        let places: Vec<Place<'_>> = new.iter().map(|topic| (*topic, 0)).collect();
        for client in [&self.consumer, &self.asking] {
            // For the leaders' sake: whatever is wrong shows when they are read.
            offsets::ask(client.client(), &places, Offset::Beginning);
        }
        self.introduced.extend(new.into_iter().map(str::to_owned));
    }

    fn find(&self, topic: &str, partition: i32) -> Option<usize> {
        let is = |a: &Assigned| a.partition == partition && a.topic == topic;
        if self.assigned.get(self.newest).is_some_and(is) {
            return Some(self.newest);
        }
        self.assigned.iter().position(is)
    }

    fn unassign_known(&mut self, topic: &str, partition: i32) -> Result<bool> {
        let Some(at) = self.find(topic, partition) else {
            return Ok(false);
        };
        let was = self.assigned.swap_remove(at);
        if was.queue.is_none() {
            return Ok(was.moved);
        }
        let list = one_partition(topic, partition, was.next)?;
        kafka_result(self.consumer.incremental_unassign(&list), topic)?;
        Ok(true)
    }

    /// Begins to fetch what was assigned; with a new consumer when the shares have become too large.
    fn fetch_waiting(&mut self) -> Result<()> {
        if self
            .assigned
            .iter()
            .all(|assigned| assigned.queue.is_none())
        {
            forget_events(&self.consumer);
        }
        if self.assigned.len() > self.shares {
            let enough = self.assigned.len().next_power_of_two();
            self.shares = enough.max(self.shares * SHARES_GROW);
            for assigned in &mut self.assigned {
                assigned.queue = None;
                assigned.moved = false;
            }
            let config = config(&self.kafka, self.budget_bytes, self.shares);
            self.consumer = consumer(&config)?;
            self.left.clear();
            let introduced = std::mem::take(&mut self.introduced);
            self.introduce(introduced.iter().map(String::as_str));
        }
        let waiting = self.assigned.iter().filter(|a| a.queue.is_none());
        let waiting: Vec<String> = waiting.map(|a| a.topic.clone()).collect();
        self.introduce(waiting.iter().map(String::as_str));
        let mut list = TopicPartitionList::new();
        for assigned in self.assigned.iter_mut().filter(|a| a.queue.is_none()) {
            let (topic, partition) = (&assigned.topic, assigned.partition);
            let offset = Offset::Offset(assigned.next);
            kafka_result(list.add_partition_offset(topic, partition, offset), topic)?;
            // Split before it is assigned: nothing of it ever comes out of the main queue.
            let queue = Queue::split(self.consumer.shared(), topic, partition);
            assigned.queue =
                Some(queue.ok_or_else(|| {
                    Error::transient(format!("no queue for {topic} {partition}"))
                })?);
        }
        if list.count() > 0 {
            kafka_result(self.consumer.incremental_assign(&list), "table topics")?;
        }
        self.waiting = false;
        Ok(())
    }

    /// Looks at the client's own events.
    fn serve(&mut self) -> Result<()> {
        self.unserved = 0;
        match self.consumer.poll(Duration::ZERO) {
            Some(Err(error)) => match read_error(&self.consumer, "table topics", -1, &error) {
                Some(error) => Err(error),
                None => Ok(()),
            },
            Some(Ok(message)) => Err(Error::transient(format!(
                "a record of {} {} came outside of its queue",
                message.topic(),
                message.partition()
            ))),
            None => Ok(()),
        }
    }
}

fn kafka_result(result: KafkaResult<()>, topic: &str) -> Result<()> {
    result.map_err(|error| Error::transient(format!("assigning {topic}")).caused_by(error))
}

fn config(kafka: &KafkaSettings, budget_bytes: usize, shares: usize) -> ClientConfig {
    let share = (budget_bytes / shares).max(SHARE_MIN_BYTES);
    let share_kbytes = (share / 1024).clamp(1, 2_000_000).to_string();
    let records = (share / RECORD_OVERHEAD_BYTES)
        .clamp(1, 1_000_000)
        .to_string();
    let fetch = share.min(FETCH_MAX_BYTES).to_string();
    let fetch_all = budget_bytes
        .clamp(FETCH_MAX_BYTES, 50 * FETCH_MAX_BYTES)
        .to_string();
    consumer_config(
        kafka,
        &[
            ("queued.max.messages.kbytes", &share_kbytes),
            ("queued.min.messages", &records),
            ("fetch.message.max.bytes", &fetch),
            ("fetch.max.bytes", &fetch_all),
            // While a request is under way, a partition just assigned waits for its answer, and so does one
            // whose read-ahead was full when it was sent: where others are idle, that is this long. At
            // 100 ms a follower that caught up spent half of its time waiting.
            ("fetch.wait.max.ms", "20"),
        ],
    )
}

fn record(found: &Fetched) -> Record<'_> {
    let mut record = Record {
        offset: found.offset(),
        header: None,
        copy: None,
        part: None,
        new_key: None,
        old_key: None,
        key: found.key(),
        value: found.value(),
    };
    for (name, value) in found.headers() {
        match (str::from_utf8(name), value) {
            (Ok(RECORD_HEADER), Some(bytes)) => record.header = RecordHeader::from_bytes(bytes),
            (Ok(COPY_HEADER), Some(bytes)) => record.copy = CopyHeader::from_bytes(bytes),
            (Ok(PART_HEADER), Some(bytes)) => record.part = PartHeader::from_bytes(bytes),
            (Ok(NEW_KEY_HEADER), bytes) => record.new_key = bytes,
            (Ok(OLD_KEY_HEADER), bytes) => record.old_key = bytes,
            (_foreign, _) => {}
        }
    }
    record
}
