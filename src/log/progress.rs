//! `P.progress`: each sink's last durable boundary, and what copies it asks for. Key = sink name.

use serde::{Deserialize, Serialize};

use crate::config::KafkaSettings;
use crate::error::Result;
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

/// Writes progress records (fire and forget: the follower's checkpoint is the truth).
pub struct ProgressWriter {}

impl ProgressWriter {
    /// Makes the producer.
    pub fn open(kafka: &KafkaSettings, topic: &str) -> Result<Self> {
        let _ = (kafka, topic);
        todo!()
    }
    /// Hands one record to the producer; a full queue or a lost record is made good by the next one.
    pub fn write(&self, progress: &Progress) {
        let _ = progress;
        todo!()
    }
}

/// Reads the newest progress of every sink.
pub struct ProgressReader {}

impl ProgressReader {
    /// Reads the topic to its end and goes on in the background.
    pub async fn open(kafka: &KafkaSettings, topic: &str) -> Result<Self> {
        let _ = (kafka, topic);
        todo!()
    }
    /// The newest progress of each sink seen so far.
    pub fn newest(&self) -> std::collections::BTreeMap<String, Progress> {
        todo!()
    }
    /// Waits for a change. Cancel-safe.
    pub async fn changed(&mut self) {
        todo!()
    }
}
