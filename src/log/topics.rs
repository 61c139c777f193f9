//! Names of topics and their making.

use crate::config::KafkaSettings;
use crate::error::Result;
use crate::model::TableName;

/// The topics of a pipeline.
#[derive(Clone, Debug)]
pub struct Topics {
    pipeline: String,
}

impl Topics {
    /// Topics of the pipeline.
    pub fn new(pipeline: impl Into<String>) -> Self {
        Topics {
            pipeline: pipeline.into(),
        }
    }
    /// `P.<schema>.<table>`, with an injective escape for what Kafka names cannot hold
    /// (`copy.` and single-word suffixes cannot be confused with it; over-long names end in a hash).
    pub fn table(&self, table: &TableName) -> String {
        let _ = (table, &self.pipeline);
        todo!()
    }
    /// `P.copy.<schema>.<table>`.
    pub fn copy(&self, table: &TableName) -> String {
        let _ = table;
        todo!()
    }
    /// `P.commits`.
    pub fn commits(&self) -> String {
        todo!()
    }
    /// `P.schemas`.
    pub fn schemas(&self) -> String {
        todo!()
    }
    /// `P.progress`.
    pub fn progress(&self) -> String {
        todo!()
    }
}

/// A topic as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// Name.
    pub name: String,
    /// Partitions.
    pub partitions: i32,
    /// What happens to old records.
    pub retention: Retention,
}

/// What happens to old records of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// `retention.ms` from the settings: table and copy topics.
    Settings,
    /// Kept for ever (`retention.ms=-1`): commits, schemas.
    Unlimited,
    /// `cleanup.policy=compact`: progress.
    Compacted,
}

/// A topic as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicState {
    /// Partitions.
    pub partitions: i32,
    /// Configuration entries that matter, by name.
    pub config: std::collections::BTreeMap<String, String>,
    /// Smallest replication factor of its partitions.
    pub replication: i32,
}

/// Administration of topics.
pub struct TopicAdmin {}

impl TopicAdmin {
    /// Makes the client.
    pub fn open(kafka: &KafkaSettings) -> Result<Self> {
        let _ = kafka;
        todo!()
    }
    /// The cluster's id.
    pub async fn cluster_id(&self) -> Result<String> {
        todo!()
    }
    /// State of the named topics that exist.
    pub async fn describe(
        &self,
        names: &[String],
    ) -> Result<std::collections::BTreeMap<String, TopicState>> {
        let _ = names;
        todo!()
    }
    /// Creates those that are missing, with explicit settings, and checks the others.
    ///
    /// # Errors
    /// Halt when an existing topic would lose data (compacted table topic, replication or
    /// `min.insync.replicas` too low for the durability asked, unclean election on) or has another
    /// number of partitions.
    pub async fn ensure(&self, specs: &[TopicSpec]) -> Result<()> {
        let _ = specs;
        todo!()
    }
    /// Broker settings by name (from any broker), for `walferry check`.
    pub async fn broker_config(&self) -> Result<std::collections::BTreeMap<String, String>> {
        todo!()
    }
    /// Number of live brokers.
    pub async fn brokers(&self) -> Result<usize> {
        todo!()
    }
}
