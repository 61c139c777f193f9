//! `P.progress`: each sink's last durable boundary, and what copies it asks for. Key = sink name.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::Message;
use rdkafka::message::BorrowedMessage;
use rdkafka::producer::{BaseRecord, FutureProducer, FutureRecord, Producer, ThreadedProducer};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use crate::config::KafkaSettings;
use crate::error::{Error, Result};
use crate::log::client::{QuietContext, client_config, refused};
use crate::log::partition::{ASK_TIMEOUT, FETCH_WAIT, PartitionReader, STOP_CHECK_INTERVAL};
use crate::model::{Lsn, TableName};

/// What a sink says of itself after a durable step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The sink.
    pub sink: String,
    /// Its applied boundary.
    pub applied: Lsn,
    /// Its next commit-log offset: the log is not trimmed beyond it.
    pub log_offset: i64,
    /// Tables for which no usable copy is left: the source makes a new one. `after` is the newest
    /// copy id that the sink could not use (-1: none).
    #[serde(default)]
    pub wants: Vec<Want>,
}

/// A wish for a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// Schema and name.
    #[serde(flatten)]
    pub table: TableName,
    /// A copy with an id above this one is wanted.
    pub after: i64,
}

/// How long the last record may take when the writer is dropped.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the reader waits before it begins anew after an error.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Writes progress records (fire and forget: the follower's checkpoint is the truth).
pub struct ProgressWriter {
    producer: Option<Arc<ThreadedProducer<QuietContext>>>,
    topic: String,
}

impl ProgressWriter {
    /// Makes the producer.
    ///
    /// # Errors
    /// Halt when librdkafka refuses the settings.
    pub fn open(kafka: &KafkaSettings, topic: &str) -> Result<Self> {
        // A newer record makes an older one worthless: do not keep them for an absent broker.
        let own = [
            ("linger.ms", "0"),
            ("message.timeout.ms", "30000"),
            ("queue.buffering.max.messages", "1000"),
        ];
        let fixed = [("enable.idempotence", "true"), ("acks", "all")];
        let producer = client_config(kafka, &own, &fixed)
            .create_with_context(QuietContext::default())
            .map_err(|error| refused("Kafka producer", error))?;
        Ok(ProgressWriter {
            producer: Some(Arc::new(producer)),
            topic: topic.to_owned(),
        })
    }

    /// Hands one record to the producer; a full queue or a lost record is made good by the next one.
    pub fn write(&self, progress: &Progress) {
        let value = serde_json::to_vec(progress).expect("strings and numbers are JSON");
        let record = BaseRecord::to(&self.topic)
            .partition(0)
            .key(&progress.sink)
            .payload(&value);
        let producer = self.producer.as_ref().expect("there until drop");
        if let Err((error, _record)) = producer.send(record) {
            tracing::debug!(sink = progress.sink, %error, "progress not written");
        }
    }
}

impl Drop for ProgressWriter {
    /// Lets the last record go out, on a thread of its own.
    fn drop(&mut self) {
        let Some(producer) = self.producer.take() else {
            return;
        };
        let closing = std::thread::Builder::new()
            .name("walferry-progress-close".to_owned())
            .spawn(move || {
                if let Err(error) = producer.flush(FLUSH_TIMEOUT) {
                    tracing::debug!(%error, "last progress not written");
                }
            });
        if let Err(error) = closing {
            tracing::warn!(%error, "no thread to close a Kafka producer: closed in place");
        }
    }
}

/// Removes what a sink has said: its record becomes a tombstone.
///
/// # Errors
/// Transient when Kafka does not acknowledge it in time; halt when librdkafka refuses the settings.
pub async fn forget(kafka: &KafkaSettings, topic: &str, sink: &str) -> Result<()> {
    let fixed = [("enable.idempotence", "true"), ("acks", "all")];
    let producer: FutureProducer<QuietContext> =
        client_config(kafka, &[("linger.ms", "0")], &fixed)
            .create_with_context(QuietContext::default())
            .map_err(|error| refused("Kafka producer", error))?;
    let tombstone = FutureRecord::<str, [u8]>::to(topic).partition(0).key(sink);
    let failed = || Error::transient(format!("writing to {topic}"));
    producer
        .send(tombstone, ASK_TIMEOUT)
        .await
        .map(|_delivered| ())
        .map_err(|(error, _record)| failed().caused_by(error))
}

/// Reads the newest progress of every sink.
pub struct ProgressReader {
    newest: watch::Receiver<BTreeMap<String, Progress>>,
}

impl ProgressReader {
    /// Reads the topic to its end and goes on in the background, until it is dropped.
    ///
    /// # Errors
    /// Transient for Kafka's; halt when the topic is gone.
    pub async fn open(kafka: &KafkaSettings, topic: &str) -> Result<Self> {
        let (kafka, topic) = (kafka.clone(), topic.to_owned());
        let opened = spawn_blocking(move || {
            let (sender, newest) = watch::channel(BTreeMap::new());
            let reader = catch_up(&kafka, &topic, &sender)?;
            std::thread::Builder::new()
                .name("walferry-progress".to_owned())
                .spawn(move || follow(reader, &kafka, &topic, &sender))
                .map_err(|error| {
                    Error::transient("no thread to read the sinks' progress").caused_by(error)
                })?;
            Ok(ProgressReader { newest })
        });
        opened
            .await
            .map_err(|error| Error::transient("opening the sinks' progress").caused_by(error))?
    }

    /// The newest progress of each sink seen so far.
    pub fn newest(&self) -> BTreeMap<String, Progress> {
        self.newest.borrow().clone()
    }

    /// Waits for a change since it was last waited for. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.newest.changed().await.is_err() {
            // The thread ends only when this reader is dropped.
            std::future::pending::<()>().await;
        }
    }
}

type Newest = watch::Sender<BTreeMap<String, Progress>>;

/// Reads the topic to its end, and begins to follow it.
fn catch_up(kafka: &KafkaSettings, topic: &str, newest: &Newest) -> Result<PartitionReader> {
    let reader = PartitionReader::open(kafka, topic, 0, FETCH_WAIT)?;
    let end = reader.read_to_end(None, |message| {
        note(message, topic, newest);
        Ok(())
    })?;
    reader.start(end)?;
    Ok(reader)
}

fn follow(first: PartitionReader, kafka: &KafkaSettings, topic: &str, newest: &Newest) {
    let mut reader = Some(first);
    while !newest.is_closed() {
        let outcome = match &reader {
            Some(open) => open.poll(STOP_CHECK_INTERVAL).map(|message| {
                if let Some(message) = message {
                    note(&message, topic, newest);
                }
            }),
            None => catch_up(kafka, topic, newest).map(|open| reader = Some(open)),
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "the sinks' progress is not readable");
            reader = None;
            std::thread::sleep(RETRY_INTERVAL);
        }
    }
}

fn note(message: &BorrowedMessage<'_>, topic: &str, newest: &Newest) {
    let sink = message.key().and_then(|key| std::str::from_utf8(key).ok());
    match (sink, message.payload().map(serde_json::from_slice)) {
        (Some(sink), Some(Ok(progress))) => newest.send_modify(|newest| {
            newest.insert(sink.to_owned(), progress);
        }),
        // A tombstone: the sink was removed.
        (Some(sink), None) => newest.send_modify(|newest| {
            newest.remove(sink);
        }),
        (None, _) | (_, Some(Err(_))) => tracing::warn!(
            topic,
            offset = message.offset(),
            "a record is not a sink's progress and is left aside"
        ),
    }
}
