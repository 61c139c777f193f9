//! Kafka as the model has it: partitions that only grow at the end, retention at their low end, and
//! producers whose records land late, twice, or after their source is dead.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use walferry::apply::join_load::Entries;
use walferry::apply::partitions::{Cut, Records};
use walferry::error::{Error, Result};
use walferry::log::commit_log::Entry;
use walferry::log::header::{CopyHeader, RecordHeader};
use walferry::log::records::Record;
use walferry::model::{Epoch, Lsn, Position, TableName};

/// A partition: that of the commit log, or a table's or copy's by number in [`Kafka`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Log,
    Part(usize),
}

/// A record as a broker keeps it.
#[derive(Clone, Debug)]
pub struct Stored {
    pub header: RecordHeader,
    pub copy: Option<CopyHeader>,
    pub value: Option<Rc<[u8]>>,
    pub new_key: Option<Rc<[u8]>>,
    pub old_key: Option<Rc<[u8]>>,
}

pub struct Partition {
    pub topic: String,
    pub number: i32,
    pub low: i64,
    pub records: Vec<Stored>,
}

impl Partition {
    pub fn high(&self) -> i64 {
        offset(self.records.len())
    }
}

#[derive(Default)]
pub struct Kafka {
    pub partitions: Vec<Partition>,
    /// All entries ever, the trimmed ones too: what they say is compared with what readers see.
    pub log: Vec<Entry>,
    pub log_low: i64,
}

pub type Shared = Rc<RefCell<Kafka>>;

pub fn offset(index: usize) -> i64 {
    i64::try_from(index).expect("a walk is short")
}

pub fn index(offset: i64) -> usize {
    usize::try_from(offset).expect("offsets are not negative")
}

impl Kafka {
    pub fn add_topic(&mut self, topic: String, partitions: u32) {
        for number in 0..i32::try_from(partitions).expect("few") {
            self.partitions.push(Partition {
                topic: topic.clone(),
                number,
                low: 0,
                records: Vec::new(),
            });
        }
    }

    pub fn find(&self, topic: &str, number: i32) -> usize {
        let found = self
            .partitions
            .iter()
            .position(|p| p.number == number && p.topic == topic);
        found.unwrap_or_else(|| panic!("no topic {topic} {number}"))
    }

    /// The partitions of a topic, by number in [`Kafka`].
    pub fn of_topic(&self, topic: &str) -> Vec<usize> {
        let all = self.partitions.iter().enumerate();
        all.filter(|(_, p)| p.topic == topic)
            .map(|(at, _)| at)
            .collect()
    }

    pub fn high(&self, part: usize) -> i64 {
        self.partitions[part].high()
    }

    pub fn log_high(&self) -> i64 {
        offset(self.log.len())
    }

    /// The log from `from` on, or from its low end where it was trimmed beyond that.
    pub fn log_from(&self, from: i64) -> Vec<(i64, Entry)> {
        let from = from.max(self.log_low);
        let entries = self.log[index(from)..].iter().cloned();
        (from..).zip(entries).collect()
    }

    pub fn append(&mut self, place: Place, what: &What) -> i64 {
        match (place, what) {
            (Place::Log, What::Entry(entry)) => {
                self.log.push((**entry).clone());
                self.log_high() - 1
            }
            (Place::Part(part), What::Record(record)) => {
                self.partitions[part].records.push(record.clone());
                self.high(part) - 1
            }
            (Place::Log, What::Record(_)) | (Place::Part(_), What::Entry(_)) => {
                panic!("entries go into the log, records into partitions")
            }
        }
    }
}

/// What a producer sends.
#[derive(Clone, Debug)]
pub enum What {
    Entry(Box<Entry>),
    Record(Stored),
}

/// A record in a producer, with the batch that waits for it.
pub struct Item {
    pub what: What,
    pub batch: u64,
    pub offset: Option<i64>,
}

#[derive(Default)]
pub struct Queue {
    /// Not landed yet.
    pub queued: VecDeque<Item>,
    /// Landed, not acknowledged yet.
    pub landed: VecDeque<Item>,
}

/// One source's producer: ordered in each partition, in no order across them.
#[derive(Default)]
pub struct Producer {
    pub queues: BTreeMap<Place, Queue>,
}

impl Producer {
    pub fn send(&mut self, place: Place, what: What, batch: u64) {
        let queue = self.queues.entry(place).or_default();
        queue.queued.push_back(Item {
            what,
            batch,
            offset: None,
        });
    }

    /// Partitions with records under way.
    pub fn busy(&self) -> Vec<Place> {
        let busy = |queue: &Queue| !queue.queued.is_empty() || !queue.landed.is_empty();
        let queues = self.queues.iter().filter(|(_, queue)| busy(queue));
        queues.map(|(place, _)| *place).collect()
    }
}

/// How a mutant's reader sees records wrongly.
#[derive(Clone, Copy, Debug, Default)]
pub struct Glasses {
    /// Every record has this epoch.
    pub epoch: Option<Epoch>,
    /// A record that repeats a position has a new one.
    pub no_order: bool,
    /// A row that repeats a sequence number has a new one.
    pub no_sequence: bool,
}

/// A consumer.
pub struct Memory {
    kafka: Shared,
    positions: BTreeMap<(String, i32), i64>,
    pub glasses: Glasses,
    seen: BTreeMap<(String, i32), Position>,
    sequence: i64,
}

impl Memory {
    pub fn new(kafka: Shared, glasses: Glasses) -> Self {
        Memory {
            kafka,
            positions: BTreeMap::new(),
            glasses,
            seen: BTreeMap::new(),
            sequence: 0,
        }
    }

    fn disguise(&mut self, place: (String, i32), stored: &mut Stored) {
        stored.header.epoch = self.glasses.epoch.unwrap_or(stored.header.epoch);
        if self.glasses.no_order {
            let last = self.seen.entry(place).or_default();
            let position = &mut stored.header.position;
            // A repeat of the run just read; older records keep their place.
            if *position <= *last && position.commit == last.commit {
                position.ordinal = last.ordinal + 1;
            }
            *last = (*last).max(*position);
        }
        if let Some(copy) = &mut stored.copy
            && self.glasses.no_sequence
        {
            self.sequence += 1;
            copy.sequence = self.sequence;
        }
    }
}

impl Records for Memory {
    fn assign(&mut self, topic: &str, partition: i32, offset: i64) -> Result<()> {
        self.positions.insert((topic.to_owned(), partition), offset);
        Ok(())
    }

    fn unassign(&mut self, topic: &str, partition: i32) -> Result<()> {
        self.positions.remove(&(topic.to_owned(), partition));
        Ok(())
    }

    fn next<R>(
        &mut self,
        topic: &str,
        partition: i32,
        _timeout: Duration,
        take: impl FnOnce(Record<'_>) -> R,
    ) -> Result<Option<R>> {
        let place = (topic.to_owned(), partition);
        let at = self.positions[&place];
        let stored = {
            let kafka = self.kafka.borrow();
            let partition = &kafka.partitions[kafka.find(topic, partition)];
            if at < partition.low {
                return Err(Error::halt("offset out of range", "none: the model"));
            }
            partition.records.get(index(at)).cloned()
        };
        let Some(mut stored) = stored else {
            // A copy may still be running; of a batch all records are there.
            return if topic.contains(".copy.") {
                Ok(None)
            } else {
                Err(Error::halt("read beyond the end", "none: the model"))
            };
        };
        self.positions.insert(place.clone(), at + 1);
        self.disguise(place, &mut stored);
        Ok(Some(take(Record {
            offset: at,
            header: Some(stored.header),
            copy: stored.copy,
            part: None,
            new_key: stored.new_key.as_deref(),
            old_key: stored.old_key.as_deref(),
            key: None,
            value: stored.value.as_deref(),
        })))
    }

    fn watermarks(&self, topic: &str, partition: i32) -> Result<(i64, i64)> {
        let kafka = self.kafka.borrow();
        let partition = &kafka.partitions[kafka.find(topic, partition)];
        Ok((partition.low, partition.high()))
    }

    fn lows(&self, partitions: &[(&str, i32)]) -> Result<Vec<i64>> {
        let low =
            |&(topic, partition): &(&str, i32)| self.watermarks(topic, partition).map(|m| m.0);
        partitions.iter().map(low).collect()
    }

    fn introduce(&mut self, _topics: &[&str]) {}
}

/// A join's view of the commit log.
pub struct LogView(pub Shared);

impl Entries for LogView {
    fn next(&mut self, from: i64, _stop: &CancellationToken) -> Result<(i64, Entry), Cut> {
        let kafka = self.0.borrow();
        if kafka.log_low > from {
            return Err(Cut::Lost {
                table: TableName::new("", ""),
                what: format!("the log was trimmed to {}", kafka.log_low),
            });
        }
        Ok((from, kafka.log[index(from)].clone()))
    }
}

/// The place of a record of the leader's stream.
pub fn position(commit: Lsn, ordinal: usize) -> Position {
    Position {
        commit,
        ordinal: u32::try_from(ordinal).expect("transactions are small"),
    }
}
