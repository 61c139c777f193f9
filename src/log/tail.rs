//! Reading the commit log in order, on a consumer and thread of its own.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::Message;
use rdkafka::message::BorrowedMessage;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::config::KafkaSettings;
use crate::error::{COPY_ANEW, Error, NEW_PIPELINE, Result};
use crate::log::commit_log::Entry;
use crate::log::partition::{
    PartitionReader, QuietConsumer, STOP_CHECK_INTERVAL, drop_elsewhere, watermarks,
};

/// Entries fetched and parsed ahead of who reads them.
const AHEAD_MAX_ENTRIES: usize = 1024;

/// How long the broker keeps a request for entries that are not there yet; the log's end is asked for
/// meanwhile, on the same connection.
const FETCH_WAIT: Duration = Duration::from_millis(50);

/// The log's only partition.
const PARTITION: i32 = 0;

/// A reader of one single-partition topic of entries.
pub struct LogTail {
    topic: String,
    low: i64,
    high: i64,
    next: i64,
    entries: mpsc::Receiver<Result<(i64, Entry)>>,
    /// Read by a `read_to_end` that was cancelled; before what `entries` brings.
    kept: VecDeque<(i64, Entry)>,
    /// For watermarks while its thread reads; there until drop.
    consumer: Option<Arc<QuietConsumer>>,
}

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The oldest entry that is still there.
    Low,
    /// This offset. If the log no longer has it, or does not reach it, opening fails (halt).
    Offset(i64),
    /// Some entries before the next one, to look at them again: `first`, or the oldest that is still there.
    /// If the log no longer has `next`, or does not reach it, opening fails (halt).
    Behind {
        /// Where to begin, at most `next`.
        first: i64,
        /// What is needed from there on.
        next: i64,
    },
    /// This offset, or the oldest entry where the log was trimmed beyond it: [`LogTail::low`] tells.
    OffsetOrLow(i64),
    /// The log's end now.
    End,
}

impl LogTail {
    /// Opens the tail of topic `commits`. Asks the broker for the watermarks.
    ///
    /// # Errors
    /// Transient when Kafka cannot be reached in time; halt when the topic is gone, or `Offset` is
    /// outside of `[low, high]`: the log lost what was acknowledged, or trimmed what was needed.
    pub async fn open(kafka: &KafkaSettings, commits: &str, from: From) -> Result<Self> {
        let (kafka, topic) = (kafka.clone(), commits.to_owned());
        let opened = spawn_blocking(move || {
            let reader = PartitionReader::open(&kafka, &topic, PARTITION, FETCH_WAIT)?;
            let (low, high) = reader.watermarks()?;
            let next = begin(&topic, from, low, high)?;
            reader.start(next)?;
            let (sender, entries) = mpsc::channel(AHEAD_MAX_ENTRIES);
            let tail = LogTail {
                topic: topic.clone(),
                low,
                high,
                next,
                entries,
                kept: VecDeque::new(),
                consumer: Some(reader.consumer()),
            };
            std::thread::Builder::new()
                .name("walferry-log-tail".to_owned())
                .spawn(move || read(&reader, &topic, &sender))
                .map_err(|error| {
                    Error::transient("no thread to read the commit log").caused_by(error)
                })?;
            Ok(tail)
        });
        opened
            .await
            .map_err(|error| Error::transient("opening the commit log").caused_by(error))?
    }

    /// The low watermark at opening.
    pub fn low(&self) -> i64 {
        self.low
    }

    /// The high watermark at opening.
    pub fn high(&self) -> i64 {
        self.high
    }

    /// Offset of what [`LogTail::next`] gives next, where nothing was trimmed meanwhile.
    pub fn next_offset(&self) -> i64 {
        match self.kept.front() {
            Some((offset, _entry)) => *offset,
            None => self.next,
        }
    }

    /// The next entry with its offset; waits for it. Cancel-safe.
    ///
    /// # Errors
    /// Transient for Kafka's; halt for an entry that cannot be parsed. The tail is then of no more use.
    pub async fn next(&mut self) -> Result<(i64, Entry)> {
        match self.kept.pop_front() {
            Some(entry) => Ok(entry),
            None => self.receive().await,
        }
    }

    /// The next of the entries that were there at opening; none behind them. For who reads a log of whatever
    /// length without holding it. Cancel-safe.
    ///
    /// # Errors
    /// As [`LogTail::next`].
    pub async fn next_there(&mut self) -> Result<Option<(i64, Entry)>> {
        if self.next_offset() < self.high {
            self.next().await.map(Some)
        } else {
            Ok(None)
        }
    }

    /// The next entry if it is here already (fetched); never waits.
    ///
    /// # Errors
    /// As [`LogTail::next`].
    pub fn try_next(&mut self) -> Result<Option<(i64, Entry)>> {
        if let Some(entry) = self.kept.pop_front() {
            return Ok(Some(entry));
        }
        match self.entries.try_recv() {
            Ok(entry) => self.received(Some(entry)).map(Some),
            Err(mpsc::error::TryRecvError::Empty) => Ok(None),
            Err(mpsc::error::TryRecvError::Disconnected) => self.received(None).map(Some),
        }
    }

    /// Asks for the high watermark now, and reads up to it. The second value is that watermark.
    /// Cancel-safe: entries read before it was cancelled come from the next call of whatever method.
    ///
    /// # Errors
    /// As [`LogTail::next`].
    pub async fn read_to_end(&mut self) -> Result<(Vec<(i64, Entry)>, i64)> {
        let consumer = self
            .consumer
            .clone()
            .expect("the consumer is there until drop");
        let topic = self.topic.clone();
        let asked = spawn_blocking(move || {
            let answer = watermarks(&consumer, &topic, PARTITION);
            drop_elsewhere(consumer);
            answer
        });
        let (_low, high) = asked.await.map_err(|error| {
            Error::transient("asking for the commit log's end").caused_by(error)
        })??;
        while self.next < high {
            let entry = self.receive().await?;
            self.kept.push_back(entry);
        }
        Ok((self.kept.drain(..).collect(), high))
    }

    async fn receive(&mut self) -> Result<(i64, Entry)> {
        let entry = self.entries.recv().await;
        self.received(entry)
    }

    fn received(&mut self, entry: Option<Result<(i64, Entry)>>) -> Result<(i64, Entry)> {
        let (offset, entry) = entry
            .unwrap_or_else(|| Err(Error::transient("the reader of the commit log has ended")))?;
        self.next = offset + 1;
        Ok((offset, entry))
    }
}

impl Drop for LogTail {
    fn drop(&mut self) {
        // Its thread sees the closed channel and ends.
        self.entries.close();
        if let Some(consumer) = self.consumer.take() {
            drop_elsewhere(consumer);
        }
    }
}

fn begin(topic: &str, from: From, low: i64, high: i64) -> Result<i64> {
    match from {
        From::Low => Ok(low),
        From::End => Ok(high),
        From::Offset(wanted) if wanted < low => Err(Error::halt(
            format!(
                "entry {wanted} of {topic} is needed, but the log now begins at {low}: it was trimmed \
                 or made anew"
            ),
            COPY_ANEW,
        )),
        From::Behind { first, next } => {
            begin(topic, From::Offset(next), low, high)?;
            Ok(first.min(next).max(low))
        }
        From::OffsetOrLow(wanted) if wanted < low => Ok(low),
        From::Offset(wanted) if wanted > high => Err(shorter(topic, wanted, high, COPY_ANEW)),
        // A source's: what it has published is lost for every follower.
        From::OffsetOrLow(wanted) if wanted > high => {
            Err(shorter(topic, wanted, high, NEW_PIPELINE))
        }
        From::Offset(wanted) | From::OffsetOrLow(wanted) => Ok(wanted),
    }
}

fn shorter(topic: &str, wanted: i64, high: i64, remedy: &str) -> Error {
    Error::halt(
        format!(
            "entry {wanted} of {topic} comes next, but it ends at {high}: Kafka lost entries that \
             it had acknowledged, or the topic was made anew"
        ),
        remedy,
    )
}

fn read(reader: &PartitionReader, topic: &str, entries: &mpsc::Sender<Result<(i64, Entry)>>) {
    while !entries.is_closed() {
        let entry = match reader.poll(STOP_CHECK_INTERVAL) {
            Ok(None) => continue,
            Ok(Some(message)) => parse(topic, &message),
            Err(error) => Err(error),
        };
        let over = entry.is_err();
        if entries.blocking_send(entry).is_err() || over {
            return;
        }
    }
}

fn parse(topic: &str, message: &BorrowedMessage<'_>) -> Result<(i64, Entry)> {
    let offset = message.offset();
    let foreign = || {
        Error::halt(
            format!("the record at offset {offset} of {topic} is not an entry of a commit log"),
            format!(
                "upgrade this walferry if a newer one wrote it; else stop what writes to the topic, and \
                 {NEW_PIPELINE}"
            ),
        )
    };
    let value = message.payload().ok_or_else(foreign)?;
    let entry = serde_json::from_slice(value).map_err(|error| foreign().caused_by(error))?;
    Ok((offset, entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_begins_where_it_is_asked_or_says_why_not() {
        let begin = |from| begin("p.commits", from, 10, 20);
        assert_eq!(begin(From::Low).expect("low"), 10);
        assert_eq!(begin(From::Offset(10)).expect("there"), 10);
        assert_eq!(begin(From::OffsetOrLow(15)).expect("there"), 15);
        assert_eq!(begin(From::OffsetOrLow(9)).expect("trimmed"), 10);
        let behind = |first, next| begin(From::Behind { first, next });
        assert_eq!(behind(12, 15).expect("there"), 12);
        assert_eq!(behind(3, 15).expect("trimmed before it"), 10);
        assert!(behind(3, 9).is_err() && behind(15, 21).is_err());
        assert!(begin(From::Offset(9)).is_err(), "trimmed");
        assert!(begin(From::Offset(21)).is_err() && begin(From::OffsetOrLow(21)).is_err());
    }
}
