//! Captured tables by OID, each with the schema version that the stream is at.
//!
//! A Relation message says what rows look like from here on; the catalog says the rest (type names,
//! NOT NULL, primary key) but as it is now. So columns and replica identity are the message's, and
//! the catalog only adds to them. Under FULL the message does not name the key, so each message has
//! the catalog asked again (`source::full_identity`). Topics are named by the captured set: a table renamed while it is
//! captured keeps its topic until the next epoch.
//!
//! pgoutput sends a Relation message again before the first change that it filters by other limits of
//! the publication. So with limits that others manage each message has their membership compared with
//! the epoch's, and no change under others gets into the epoch.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use tokio_postgres::Client;

use crate::capture::announced::{Announced, find_schema};
use crate::capture::past::{Pasts, Rewrites};
use crate::error::{Error, Result};
use crate::log::codec::RecordEncoder;
use crate::log::commit_log::Captured;
use crate::log::producer::{EpochProducer, PartitionSlot};
use crate::log::topics::Topics;
use crate::model::{Lsn, Oid, ReplicaIdentity, SchemaVersion, TableName, TableSchema};
use crate::pgoutput::message::Relation;
use crate::source::catalog::{self, CatalogTable};
use crate::source::event_trigger::{Described, Told};
use crate::source::{publication, published};

/// How long an epoch waits in all for ALTER PUBLICATION to become visible. Without a wait for a
/// synchronous standby it does within moments; somebody may also hold it open for hours.
const ALTER_PATIENCE: Duration = Duration::from_secs(1);
/// How long a transaction that is in the stream may take to become visible before the catalog is read
/// without what it did. It takes that long where its commit waits for a synchronous standby, which walferry
/// itself may be.
const COMMIT_PATIENCE: Duration = Duration::from_secs(3);

/// A table as rows are encoded now.
pub struct CapturedTable {
    /// Writes its records.
    pub encoder: RecordEncoder,
    /// The version in records' headers.
    pub version: SchemaVersion,
    /// Which columns are key columns.
    pub is_key: Vec<bool>,
    /// Its topic's partitions.
    pub slots: Vec<PartitionSlot>,
}

impl CapturedTable {
    /// Compiles the encoder of a schema version, for the table's topic or its copy topic.
    pub fn new(
        schema: TableSchema,
        labels: &Labels,
        producer: &EpochProducer,
        topic: &str,
    ) -> Self {
        let version = schema.version();
        let mut is_key = vec![false; schema.columns.len()];
        for &index in &schema.key {
            is_key[index] = true;
        }
        let partitions = i32::try_from(schema.partitions).unwrap_or(i32::MAX);
        CapturedTable {
            slots: (0..partitions)
                .map(|partition| producer.partition_slot(topic, partition))
                .collect(),
            encoder: RecordEncoder::new(Arc::new(schema), &labels.pipeline, &labels.database),
            version,
            is_key,
        }
    }

    /// Its schema version.
    pub fn schema(&self) -> &Arc<TableSchema> {
        self.encoder.schema()
    }
}

/// Names in the `source` block of records.
#[derive(Clone, Debug)]
pub struct Labels {
    /// Pipeline name.
    pub pipeline: String,
    /// The leader's database.
    pub database: String,
}

enum Known {
    /// Of the captured set. `table` is none until rows need it.
    Captured {
        membership: Option<Oid>,
        schema: Box<TableSchema>,
        announced: Option<Announced>,
        /// It was announced more than once since it was last resolved with the catalog's help.
        again: bool,
        /// What the leader's event trigger said of its columns since.
        described: Option<Described>,
        /// What the stream was at before this epoch, until rows of this one are met.
        before: Option<Box<TableSchema>>,
        table: Option<Box<CapturedTable>>,
    },
    /// In the publication but not captured: partitions (their root stands for them), and tables that
    /// are about to leave or have joined since.
    Other,
}

/// All relations of the stream.
pub struct Tables {
    labels: Labels,
    topics: Topics,
    producer: Arc<EpochProducer>,
    /// The publication, if its limits are others' to change.
    limited_by: Option<String>,
    /// What is left of the time to wait for an ALTER of it.
    patience: Duration,
    /// The transaction whose commit was waited for in vain.
    unseen: Option<u32>,
    rewrites: Rewrites,
    known: HashMap<u32, Known>,
}

impl Tables {
    /// The captured set, with the number of partitions of each topic; `limited_by` is the publication
    /// if its limits are others' to change.
    pub fn new(
        captured: &[CatalogTable],
        labels: Labels,
        topics: Topics,
        producer: Arc<EpochProducer>,
        limited_by: Option<String>,
        past: &mut Pasts,
    ) -> Self {
        let known = captured.iter().map(|table| {
            let relation = table.schema.relation;
            let mut schema = Box::new(table.schema.clone());
            schema.rewritten = past.rewrites.at(relation);
            let known = Known::Captured {
                membership: table.limits.membership,
                schema,
                announced: None,
                again: false,
                described: None,
                before: past.before.remove(&relation).map(Box::new),
                table: None,
            };
            (relation.0, known)
        });
        Tables {
            labels,
            topics,
            producer,
            limited_by,
            patience: ALTER_PATIENCE,
            unseen: None,
            known: known.collect(),
            rewrites: past.rewrites.clone(),
        }
    }

    /// Notes a Relation message.
    pub fn announce(&mut self, relation: &Relation<'_>) {
        let known = self.known.entry(relation.oid.0).or_insert(Known::Other);
        if let Known::Captured {
            schema,
            announced,
            again,
            table,
            ..
        } = known
        {
            let new = Announced::from_message(relation);
            let current = table.as_ref().map_or(&**schema, |table| table.schema());
            let limited = self.limited_by.is_some();
            // Postgres announces a table again when anything of it has changed.
            *again |= announced.is_some();
            if limited || *again || new.identity == ReplicaIdentity::Full || !new.is(current) {
                *table = None;
            }
            *announced = Some(new);
        }
    }

    /// Notes what the leader's event trigger says of a table, at this position. Returns whether its rows were
    /// rewritten in a way that the stream does not show: [`Tables::rewritten`] is to be published.
    pub fn describe(&mut self, told: Told, lsn: Lsn) -> Option<Oid> {
        let relation = told.relation();
        let Some(Known::Captured {
            described, table, ..
        }) = self.known.get_mut(&relation.0)
        else {
            return None;
        };
        *table = None;
        match told {
            Told::Altered(columns) => {
                *described = Some(columns);
                None
            }
            Told::Rewritten(_) => {
                self.rewrites.note(relation, lsn);
                Some(relation)
            }
        }
    }

    /// The version of a table that says, to whoever comes later, that its rows were rewritten; its columns may
    /// be those of before.
    pub fn rewritten(&mut self, relation: Oid) -> Option<TableSchema> {
        match self.known.get_mut(&relation.0) {
            Some(Known::Captured { schema, .. }) => {
                schema.rewritten = self.rewrites.at(relation);
                Some((**schema).clone())
            }
            Some(Known::Other) | None => None,
        }
    }

    /// Whether [`Tables::resolve`] has to be called before rows of the relation can be encoded.
    pub fn is_open(&self, relation: Oid) -> bool {
        matches!(
            self.known.get(&relation.0),
            Some(Known::Captured { table: None, .. })
        )
    }

    /// The table of a relation; none when it is not captured.
    pub fn get(&self, relation: Oid) -> Option<&CapturedTable> {
        match self.known.get(&relation.0) {
            Some(Known::Captured { table, .. }) => table.as_deref(),
            Some(Known::Other) | None => None,
        }
    }

    /// Finds out the schema version of a relation's rows and compiles its encoder. Returns it to be
    /// published before the rows' entry. `xid`: the transaction of the rows.
    ///
    /// # Errors
    /// Transient when the catalog cannot be read, or when the publication limits the table otherwise
    /// than the epoch says.
    pub async fn resolve(
        &mut self,
        relation: Oid,
        client: &Client,
        (slot, xid): (&str, u32),
    ) -> Result<Option<Arc<TableSchema>>> {
        let Some(Known::Captured {
            schema,
            announced,
            again,
            described,
            before,
            table,
            membership,
        }) = self.known.get_mut(&relation.0)
        else {
            return Ok(None);
        };
        if let Some(publication) = &self.limited_by {
            published::await_alter(client, publication, &mut self.patience).await?;
            if let Some(found) = publication::read(client, publication).await? {
                publication::check(&found, publication, false)?;
            }
            let now = published::memberships(client, publication, &[relation]).await?;
            if now.get(&relation) != membership.as_ref() {
                return Err(limits_changed(&schema.table));
            }
        }
        let is_changed = announced.as_ref().is_some_and(|announced| {
            announced.identity == ReplicaIdentity::Full
                || !announced.is(schema)
                || described.is_some()
        });
        let may_be_changed = announced.is_some() && *again && !schema.exact;
        let mut is_seen = true;
        if is_changed || may_be_changed {
            is_seen = self.unseen != Some(xid)
                && catalog::await_commit(client, xid, COMMIT_PATIENCE).await?;
            self.unseen = (!is_seen).then_some(xid);
        }
        let is_other =
            is_changed || (may_be_changed && !catalog::still_has(client, schema).await?);
        // What could not be seen yet is looked for when the table is announced the next time.
        *again = !is_seen;
        let before = before.take();
        if let (Some(announced), true) = (announced, is_other) {
            let known = schema.version();
            let before = before.as_deref().unwrap_or(schema);
            let mut found = find_schema(announced, before, client, slot).await?;
            if let Some(described) = described.take() {
                announced.take_on(&described, &mut found);
            }
            found.rewritten = self.rewrites.at(relation);
            found.partitions = schema.partitions;
            found.table = schema.table.clone();
            **schema = found;
            if schema.version() != known {
                tracing::info!(
                    table = %schema.table,
                    version = %schema.version(),
                    columns = schema.columns.len(),
                    "the table has a new schema version"
                );
            }
        }
        let topic = self.topics.table(&schema.table);
        let made = CapturedTable::new((**schema).clone(), &self.labels, &self.producer, &topic);
        let version = made.schema().clone();
        *table = Some(Box::new(made));
        Ok(Some(version))
    }
}

/// Ends an epoch in which the publication's limits of a table have become others.
pub fn limits_changed(table: &TableName) -> Error {
    Error::transient(format!(
        "the publication's row filter or column list of {table} has changed: a new epoch and a new copy follow"
    ))
}

/// The tables as the captured set stands in epoch entries.
pub fn captured_set(tables: &[CatalogTable]) -> Vec<Captured> {
    let captured = tables.iter().map(|table| Captured {
        table: table.schema.table.clone(),
        relation: table.schema.relation,
        limits: table.limits.clone(),
    });
    captured.collect()
}
