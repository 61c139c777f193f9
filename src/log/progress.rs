//! `P.progress`: each sink's last durable boundary, and what copies it asks for. Key = sink name. Beside
//! them requests of `walferry copy`, under keys that no sink can have (`copy_request`).

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
use crate::log::copy_request::{self, CopyRequest, PAUSE_KEY};
use crate::log::kept::Kept;
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
    producer: Option<Arc<Kept<ThreadedProducer<QuietContext>>>>,
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
        let config = client_config(kafka, &own, &fixed);
        let producer = config
            .create_with_context(QuietContext::default())
            .map_err(|error| refused("Kafka producer", error))?;
        Ok(ProgressWriter {
            producer: Some(Arc::new(Kept::new(producer, &config))),
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

/// Removes what a sink has said, or a request: its record becomes a tombstone.
///
/// # Errors
/// Transient when Kafka does not acknowledge it in time; halt when librdkafka refuses the settings.
pub async fn forget(kafka: &KafkaSettings, topic: &str, key: &str) -> Result<()> {
    put(kafka, topic, key, None).await
}

/// Asks the source for copies, wherever it runs. `key` is [`copy_request::key`].
///
/// # Errors
/// As [`forget`].
pub async fn ask(
    kafka: &KafkaSettings,
    topic: &str,
    key: &str,
    request: &CopyRequest,
) -> Result<()> {
    let value = serde_json::to_vec(request).expect("strings and numbers are JSON");
    put(kafka, topic, key, Some(&value)).await
}

/// Pauses copies until they are [resumed](resume_copies), whatever becomes of the source meanwhile.
///
/// # Errors
/// As [`forget`].
pub async fn pause_copies(kafka: &KafkaSettings, topic: &str) -> Result<()> {
    put(kafka, topic, PAUSE_KEY, Some(br#"{"paused":true}"#)).await
}

/// Lets copies go on.
///
/// # Errors
/// As [`forget`].
pub async fn resume_copies(kafka: &KafkaSettings, topic: &str) -> Result<()> {
    forget(kafka, topic, PAUSE_KEY).await
}

async fn put(kafka: &KafkaSettings, topic: &str, key: &str, value: Option<&[u8]>) -> Result<()> {
    let fixed = [("enable.idempotence", "true"), ("acks", "all")];
    let producer: FutureProducer<QuietContext> =
        client_config(kafka, &[("linger.ms", "0")], &fixed)
            .create_with_context(QuietContext::default())
            .map_err(|error| refused("Kafka producer", error))?;
    let mut record = FutureRecord::<str, [u8]>::to(topic).partition(0).key(key);
    record.payload = value;
    let failed = || Error::transient(format!("writing to {topic}"));
    producer
        .send(record, ASK_TIMEOUT)
        .await
        .map(|_delivered| ())
        .map_err(|(error, _record)| failed().caused_by(error))
}

/// What the topic holds.
#[derive(Clone, Debug, Default)]
struct Newest {
    sinks: BTreeMap<String, Progress>,
    requests: BTreeMap<String, CopyRequest>,
    copies_paused: bool,
}

impl Newest {
    /// Notes a record; whether it is one of these kinds.
    fn note(&mut self, key: &str, value: Option<&[u8]>) -> bool {
        if key == PAUSE_KEY {
            self.copies_paused = value.is_some();
            return true;
        }
        match (copy_request::is_key(key), value) {
            (false, Some(value)) => keep(&mut self.sinks, key, value),
            (true, Some(value)) => keep(&mut self.requests, key, value),
            // A tombstone: the sink was removed, the request fulfilled.
            (is_request, None) => {
                if is_request {
                    self.requests.remove(key);
                } else {
                    self.sinks.remove(key);
                }
                true
            }
        }
    }
}

fn keep<'a, T: Deserialize<'a>>(all: &mut BTreeMap<String, T>, key: &str, value: &'a [u8]) -> bool {
    let parsed = serde_json::from_slice(value);
    let is_one = parsed.is_ok();
    if let Ok(parsed) = parsed {
        all.insert(key.to_owned(), parsed);
    }
    is_one
}

/// Reads the newest progress of every sink, and requests.
pub struct ProgressReader {
    newest: watch::Receiver<Newest>,
}

impl ProgressReader {
    /// Reads the topic to its end and goes on in the background, until it is dropped.
    ///
    /// # Errors
    /// Transient for Kafka's; halt when the topic is gone.
    pub async fn open(kafka: &KafkaSettings, topic: &str) -> Result<Self> {
        let (kafka, topic) = (kafka.clone(), topic.to_owned());
        let opened = spawn_blocking(move || {
            let (sender, newest) = watch::channel(Newest::default());
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
        self.newest.borrow().sinks.clone()
    }

    /// Requests for copies that nobody has removed yet, by key.
    pub fn requests(&self) -> BTreeMap<String, CopyRequest> {
        self.newest.borrow().requests.clone()
    }

    /// Whether copies are paused, for those who are to stop then.
    pub fn pauses(&self) -> Pauses {
        Pauses(self.newest.clone())
    }

    /// Waits for a change since it was last waited for. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.newest.changed().await.is_err() {
            // The thread ends only when this reader is dropped.
            std::future::pending::<()>().await;
        }
    }
}

/// Whether copies are paused.
#[derive(Clone, Debug)]
pub struct Pauses(watch::Receiver<Newest>);

impl Pauses {
    /// They never are.
    pub fn never() -> Self {
        Pauses(watch::channel(Newest::default()).1)
    }

    /// Told by whoever calls the function.
    #[cfg(test)]
    pub(crate) fn told() -> (impl Fn(bool), Self) {
        let (newest, pauses) = watch::channel(Newest::default());
        let tell = move |paused| newest.send_modify(|newest| newest.copies_paused = paused);
        (tell, Pauses(pauses))
    }

    /// Whether they are now.
    pub fn now(&self) -> bool {
        self.0.borrow().copies_paused
    }

    /// Waits until they are, or are not. Cancel-safe.
    pub async fn until(&self, paused: bool) {
        let mut newest = self.0.clone();
        let gone = newest
            .wait_for(|newest| newest.copies_paused == paused)
            .await
            .is_err();
        if gone {
            // Whoever could tell is gone, and the epoch with it.
            std::future::pending::<()>().await;
        }
    }
}

/// Reads the topic to its end, and begins to follow it.
fn catch_up(
    kafka: &KafkaSettings,
    topic: &str,
    newest: &watch::Sender<Newest>,
) -> Result<PartitionReader> {
    let reader = PartitionReader::open(kafka, topic, 0, FETCH_WAIT)?;
    let end = reader.read_to_end(None, |message| {
        note(message, topic, newest);
        Ok(())
    })?;
    reader.start(end)?;
    Ok(reader)
}

fn follow(
    first: PartitionReader,
    kafka: &KafkaSettings,
    topic: &str,
    newest: &watch::Sender<Newest>,
) {
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

fn note(message: &BorrowedMessage<'_>, topic: &str, newest: &watch::Sender<Newest>) {
    let key = message.key().and_then(|key| std::str::from_utf8(key).ok());
    let mut is_known = false;
    if let Some(key) = key {
        newest.send_modify(|newest| is_known = newest.note(key, message.payload()));
    }
    if !is_known {
        tracing::warn!(
            topic,
            offset = message.offset(),
            "a record is neither a sink's progress nor a request for copies and is left aside"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_no_sinks_and_tombstones_remove_either() {
        let mut newest = Newest::default();
        let sink = br#"{"sink":"a","applied":"0/1","log_offset":4}"#;
        let request = br#"{"wants":[{"schema":"public","name":"t","after":7}]}"#;
        let key = copy_request::key("1");
        assert!(newest.note("a", Some(sink)));
        assert!(newest.note(&key, Some(request)));
        let known: Vec<_> = newest.sinks.keys().chain(newest.requests.keys()).collect();
        assert_eq!(known, ["a", key.as_str()]);
        assert_eq!(newest.requests[&key].wants[0].after, 7);
        for (key, wrong) in [("b", &request[..]), (key.as_str(), sink), ("a", b"{")] {
            assert!(!newest.note(key, Some(wrong)), "{key}");
        }
        assert_eq!((newest.sinks.len(), newest.requests.len()), (1, 1));
        assert!(newest.note(&key, None) && newest.note("a", None));
        assert!(newest.sinks.is_empty() && newest.requests.is_empty());
        assert!(newest.note(PAUSE_KEY, Some(br#"{"paused":true}"#)) && newest.copies_paused);
        assert!(newest.sinks.is_empty() && newest.requests.is_empty());
        assert!(newest.note(PAUSE_KEY, None) && !newest.copies_paused);
    }
}
