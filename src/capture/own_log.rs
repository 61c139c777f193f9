//! The commit log as the source reads it before and during a take-over.

use std::time::Duration;

use crate::config::KafkaSettings;
use crate::error::{Error, Result};
use crate::log::commit_log::{Entry, Verdict, judge};
use crate::log::copies::CopyLedger;
use crate::log::producer::{EpochProducer, PartitionSlot};
use crate::log::tail::{From, LogTail};
use crate::log::takeover::LogEnd;
use crate::model::checkpoint::LogPlace;

/// A log whose next entry does not come although the broker says it is there.
const ENTRY_TIMEOUT: Duration = Duration::from_secs(30);

/// What reading the log from its low end has told so far.
#[derive(Clone, Debug)]
pub struct OwnLog {
    kafka: KafkaSettings,
    topic: String,
    /// The reader's place; none before the first reading.
    place: Option<LogPlace>,
    ledger: CopyLedger,
    leader: Option<(String, u32)>,
}

impl OwnLog {
    /// Nothing read yet.
    pub fn new(kafka: KafkaSettings, topic: String) -> Self {
        OwnLog {
            kafka,
            topic,
            place: None,
            ledger: CopyLedger::new(),
            leader: None,
        }
    }

    /// Reads on to the log's end as the broker says it now; returns that offset.
    ///
    /// # Errors
    /// Transient for Kafka's; halt for a hole, or when the log lost what was read before.
    pub async fn read_on(&mut self, producer: &EpochProducer, slot: PartitionSlot) -> Result<i64> {
        let end = producer.high_watermark(slot).await?;
        let from = match &self.place {
            Some(place) if place.next_offset == end => return Ok(end),
            Some(place) => From::Offset(place.next_offset),
            None => From::Low,
        };
        let mut tail = LogTail::open(&self.kafka, &self.topic, from).await?;
        let place = self
            .place
            .get_or_insert_with(|| LogPlace::at_low_end(tail.low()));
        while place.next_offset < end {
            let (offset, entry) = tokio::time::timeout(ENTRY_TIMEOUT, tail.next())
                .await
                .map_err(|_elapsed| {
                    Error::transient(format!(
                        "reading {}: entry {} does not come",
                        self.topic, place.next_offset
                    ))
                })??;
            if judge(place, offset, &entry)? == Verdict::Valid {
                self.ledger.valid(offset, &entry);
                if let Entry::Epoch(epoch) = entry {
                    self.leader = Some((epoch.system_id, epoch.timeline));
                }
            }
        }
        Ok(end)
    }

    /// Reads the log from `from` to its end now.
    pub async fn read_from(
        kafka: &KafkaSettings,
        topic: &str,
        from: i64,
    ) -> Result<Vec<(i64, Entry)>> {
        let mut tail = LogTail::open(kafka, topic, From::Offset(from)).await?;
        let (entries, _end) = tail.read_to_end().await?;
        Ok(entries)
    }

    /// The reader's place.
    ///
    /// # Panics
    /// Before the first reading.
    pub fn place(&self) -> &LogPlace {
        self.place.as_ref().expect("the log was read")
    }

    /// Whether a valid entry was read.
    pub fn has_entries(&self) -> bool {
        self.place
            .as_ref()
            .is_some_and(|place| place.last_valid.is_some())
    }

    /// What is known of copies.
    pub fn ledger(&self) -> &CopyLedger {
        &self.ledger
    }

    /// Where the log ends, and which leader it was written from.
    pub fn end(&self) -> LogEnd {
        LogEnd {
            to: self.place.as_ref().and_then(|place| place.to),
            leader: self.leader.clone(),
        }
    }
}
