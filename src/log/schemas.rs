//! Schema versions in `P.schemas`: key = version (16 hex digits), value = JSON of [`TableSchema`].

use std::collections::HashMap;
use std::sync::Arc;

use rdkafka::Message;
use rdkafka::message::BorrowedMessage;

use crate::config::KafkaSettings;
use crate::error::{Error, Result};
use crate::log::partition::PartitionReader;
use crate::model::{SchemaVersion, TableSchema};

/// All schema versions known so far; reads further when an unknown one is asked for.
pub struct SchemaStore {
    reader: PartitionReader,
    topic: String,
    next: i64,
    known: HashMap<SchemaVersion, Arc<TableSchema>>,
}

impl SchemaStore {
    /// Reads the topic to its end. Blocking.
    ///
    /// # Errors
    /// Transient for Kafka's; halt when the topic is gone or holds what is no schema.
    pub fn open(kafka: &KafkaSettings, topic: &str) -> Result<Self> {
        let reader = PartitionReader::open(kafka, topic, 0)?;
        let (low, _high) = reader.watermarks()?;
        reader.start(low)?;
        let mut store = SchemaStore {
            reader,
            topic: topic.to_owned(),
            next: low,
            known: HashMap::new(),
        };
        store.read_on()?;
        Ok(store)
    }

    /// The schema of a version. Blocking: reads the topic to its end when the version is new.
    ///
    /// # Errors
    /// Halt when the topic does not have it: what a record needs was acknowledged before the record's entry.
    pub fn get(&mut self, version: SchemaVersion) -> Result<Arc<TableSchema>> {
        if let Some(schema) = self.known.get(&version) {
            return Ok(Arc::clone(schema));
        }
        self.read_on()?;
        self.known.get(&version).cloned().ok_or_else(|| {
            Error::halt(
                format!(
                    "schema version {version} is needed by a record and is not in {}",
                    self.topic
                ),
                "the topic lost what Kafka had acknowledged: restore it, or begin a new pipeline (new \
                 name, new slot)",
            )
        })
    }

    /// Whether the version is in the topic as far as it was read.
    pub fn contains(&self, version: SchemaVersion) -> bool {
        self.known.contains_key(&version)
    }

    /// All versions read so far.
    pub fn all(&self) -> impl Iterator<Item = (SchemaVersion, &Arc<TableSchema>)> {
        self.known
            .iter()
            .map(|(version, schema)| (*version, schema))
    }

    /// Reads the topic to its end as it is now. Blocking.
    ///
    /// # Errors
    /// As [`SchemaStore::open`].
    pub fn read_on(&mut self) -> Result<()> {
        let (topic, known) = (&self.topic, &mut self.known);
        self.next = self.reader.read_to_end(self.next, |message| {
            let (version, schema) = parse(topic, message)?;
            known.insert(version, Arc::new(schema));
            Ok(())
        })?;
        Ok(())
    }
}

fn parse(topic: &str, message: &BorrowedMessage<'_>) -> Result<(SchemaVersion, TableSchema)> {
    let foreign = || {
        Error::halt(
            format!(
                "the record at offset {} of {topic} is not a schema version",
                message.offset()
            ),
            "find out who else writes to the topic; if it was written by a newer walferry, upgrade \
             this one",
        )
    };
    let key = message
        .key()
        .and_then(|key| std::str::from_utf8(key).ok())
        .and_then(|key| u64::from_str_radix(key, 16).ok())
        .ok_or_else(foreign)?;
    let value = message.payload().ok_or_else(foreign)?;
    let schema = serde_json::from_slice(value).map_err(|error| foreign().caused_by(error))?;
    Ok((SchemaVersion(key), schema))
}
