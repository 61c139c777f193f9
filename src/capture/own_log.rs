//! The commit log as the source reads it before and during a take-over.
//!
//! It is read from its low end once a process; later epochs read on from where the last one was.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::config::KafkaSettings;
use crate::error::{Error, Result};
use crate::log::commit_log::{Entry, Verdict, judge};
use crate::log::copies::CopyLedger;
use crate::log::producer::{EpochProducer, PartitionSlot};
use crate::log::tail::{From, LogTail};
use crate::log::takeover::LogEnd;
use crate::log::trim::TrimPoints;
use crate::model::checkpoint::LogPlace;

/// A log whose next entry does not come although the broker says it is there.
const ENTRY_TIMEOUT: Duration = Duration::from_secs(30);

/// The log as an epoch of this process has read it, for the next one. Taken while an epoch begins
/// and given back once it has begun: after an error in between it is read from its low end again.
#[derive(Clone, Debug, Default)]
pub struct KeptLog(Arc<Mutex<Option<OwnLog>>>);

impl KeptLog {
    /// What was kept, if anything was.
    pub fn take(&self) -> Option<OwnLog> {
        self.place().take()
    }

    /// Keeps it.
    pub fn keep(&self, log: OwnLog) {
        *self.place() = Some(log);
    }

    /// Notes that the log was trimmed.
    pub fn cut(&self, offset: i64) {
        if let Some(log) = self.place().as_mut() {
            log.points.cut(offset);
            log.ledger.cut(offset);
        }
    }

    fn place(&self) -> std::sync::MutexGuard<'_, Option<OwnLog>> {
        // Whole values only: a panic elsewhere leaves none half-done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What reading the log from its low end has told so far.
#[derive(Clone, Debug)]
pub struct OwnLog {
    kafka: KafkaSettings,
    topic: String,
    /// The reader's place; none before the first reading.
    place: Option<LogPlace>,
    ledger: CopyLedger,
    points: TrimPoints,
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
            points: TrimPoints::default(),
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
            Some(place) => From::OffsetOrLow(place.next_offset),
            None => From::Low,
        };
        let mut tail = LogTail::open(&self.kafka, &self.topic, from).await?;
        let low = tail.low();
        // Another source may have trimmed the log beyond what was read here: it begins anew then.
        let place = match &mut self.place {
            Some(place) if place.next_offset >= low => place,
            trimmed_or_none => {
                self.ledger = CopyLedger::at_low_end(low);
                self.points = TrimPoints::default();
                self.leader = None;
                trimmed_or_none.insert(LogPlace::at_low_end(low))
            }
        };
        while place.next_offset < end {
            let (offset, entry) = tokio::time::timeout(ENTRY_TIMEOUT, tail.next())
                .await
                .map_err(|_elapsed| {
                    Error::transient(format!(
                        "reading {}: entry {} does not come",
                        self.topic, place.next_offset
                    ))
                })??;
            let verdict = judge(place, offset, &entry)?;
            self.points.judged(offset, &entry, verdict);
            if let Entry::Batch(batch) = &entry
                && verdict != Verdict::Void
                && let Some(sample) = batch.sample
            {
                self.ledger.sampled(sample.clock_us);
            }
            if verdict == Verdict::Valid {
                self.ledger.valid(offset, &entry);
                if let Entry::Epoch(epoch) = entry {
                    self.leader = Some((epoch.system_id, epoch.timeline));
                }
            }
        }
        Ok(end)
    }

    /// Reads the log from `from` to its end now, or from its low end where another source has
    /// trimmed it beyond that: what follows is then a later epoch than the own one.
    pub async fn read_from(
        kafka: &KafkaSettings,
        topic: &str,
        from: i64,
    ) -> Result<Vec<(i64, Entry)>> {
        let mut tail = LogTail::open(kafka, topic, From::OffsetOrLow(from)).await?;
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

    /// Where the log may be trimmed.
    pub fn points(&self) -> &TrimPoints {
        &self.points
    }

    /// Where the log ends, and which leader it was written from.
    pub fn end(&self) -> LogEnd {
        LogEnd {
            to: self.place.as_ref().and_then(|place| place.to),
            leader: self.leader.clone(),
        }
    }
}
