//! Schema versions in `P.schemas`: key = version (16 hex digits), value = JSON of [`TableSchema`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::Message;
use rdkafka::message::BorrowedMessage;

use crate::config::KafkaSettings;
use crate::error::{Error, NEW_PIPELINE, Result};
use crate::log::partition::PartitionReader;
use crate::model::{Oid, SchemaVersion, TableName, TableSchema};

/// The topic is only ever read to its end. When that is reached librdkafka has asked for more already, and
/// the next question, for a new version, waits until the broker has answered that there is none.
const WAIT: Duration = Duration::from_millis(5);

/// All schema versions known so far; reads further when an unknown one is asked for.
pub struct SchemaStore {
    reader: PartitionReader,
    topic: String,
    /// Where to read on; none: nothing was read yet.
    next: Option<i64>,
    known: HashMap<SchemaVersion, Known>,
}

/// A version with the offset of its newest record.
struct Known {
    offset: i64,
    schema: Arc<TableSchema>,
}

impl SchemaStore {
    /// Reads the topic to its end. Blocking.
    ///
    /// # Errors
    /// Transient for Kafka's; halt when the topic is gone or holds what is no schema.
    pub fn open(kafka: &KafkaSettings, topic: &str) -> Result<Self> {
        let reader = PartitionReader::open(kafka, topic, 0, WAIT)?;
        let mut store = SchemaStore {
            reader,
            topic: topic.to_owned(),
            next: None,
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
        if let Some(known) = self.known.get(&version) {
            return Ok(Arc::clone(&known.schema));
        }
        self.read_on()?;
        let found = self.known.get(&version);
        found.map(|known| Arc::clone(&known.schema)).ok_or_else(|| {
            Error::halt(
                format!(
                    "schema version {version} is needed by a record and is not in {}: the topic lost \
                     what Kafka had acknowledged",
                    self.topic
                ),
                NEW_PIPELINE,
            )
        })
    }

    /// Whether the version is in the topic as far as it was read.
    pub fn contains(&self, version: SchemaVersion) -> bool {
        self.known.contains_key(&version)
    }

    /// The newest version of a table that was read, of this relation if its OID is known.
    pub fn newest(&self, table: &TableName, relation: Option<Oid>) -> Option<&Arc<TableSchema>> {
        newest(self.known.values(), table, relation)
    }

    /// All versions of a relation that were read, the newest first.
    pub fn of(&self, relation: Oid) -> Vec<&Arc<TableSchema>> {
        let known = self.known.values();
        let mut of: Vec<&Known> = known
            .filter(|known| known.schema.relation == relation)
            .collect();
        of.sort_unstable_by_key(|known| std::cmp::Reverse(known.offset));
        of.into_iter().map(|known| &known.schema).collect()
    }

    /// Reads the topic to its end as it is now. Blocking.
    ///
    /// # Errors
    /// As [`SchemaStore::open`].
    pub fn read_on(&mut self) -> Result<()> {
        let (topic, known) = (&self.topic, &mut self.known);
        let end = self.reader.read_to_end(self.next, |message| {
            let (version, schema) = parse(topic, message)?;
            let (offset, schema) = (message.offset(), Arc::new(schema));
            known.insert(version, Known { offset, schema });
            Ok(())
        })?;
        self.next = Some(end);
        Ok(())
    }
}

fn newest<'a>(
    known: impl Iterator<Item = &'a Known>,
    table: &TableName,
    relation: Option<Oid>,
) -> Option<&'a Arc<TableSchema>> {
    known
        .filter(|known| known.schema.table == *table)
        .filter(|known| relation.is_none_or(|oid| oid == known.schema.relation))
        .max_by_key(|known| known.offset)
        .map(|known| &known.schema)
}

fn parse(topic: &str, message: &BorrowedMessage<'_>) -> Result<(SchemaVersion, TableSchema)> {
    let foreign = || {
        Error::halt(
            format!(
                "the record at offset {} of {topic} is not a schema version",
                message.offset()
            ),
            format!(
                "upgrade this walferry if a newer one wrote it; else stop what writes to the topic, and \
                 {NEW_PIPELINE}"
            ),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Column, ColumnKind, ReplicaIdentity};

    #[test]
    fn the_newest_version_of_a_table_is_the_last_in_the_topic() {
        let known = |offset: i64, name: &str, relation: u32, columns: usize| {
            let column = |number: usize| Column {
                name: format!("c{number}"),
                type_oid: Oid(23),
                type_modifier: -1,
                type_name: String::new(),
                kind: ColumnKind::of(Oid(23)),
                not_null: false,
                number: None,
                fill: None,
            };
            let schema = Arc::new(TableSchema {
                table: TableName::new("public", name),
                relation: Oid(relation),
                columns: (0..columns).map(column).collect(),
                key: vec![0],
                primary_key: vec![0],
                identity: ReplicaIdentity::Default,
                partitions: 1,
                types: vec![],
                dropped: Vec::new(),
                rewritten: None,
                unpublished: Vec::new(),
                exact: false,
            });
            Known { offset, schema }
        };
        let all = [
            known(0, "a", 1, 4),
            known(3, "a", 1, 2),
            known(4, "b", 2, 9),
            known(2, "a", 1, 3),
            known(5, "a", 8, 1),
        ];
        let columns = |name: &str, relation: Option<u32>| {
            let table = TableName::new("public", name);
            let found = newest(all.iter(), &table, relation.map(Oid));
            found.map(|schema| schema.columns.len())
        };
        assert_eq!(columns("a", Some(1)), Some(2), "a column was dropped");
        assert_eq!(columns("a", None), Some(1));
        assert_eq!(columns("b", Some(2)), Some(9));
        assert_eq!(columns("b", Some(1)), None);
    }
}
