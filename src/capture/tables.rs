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

use crate::capture::column_numbers;
use crate::capture::past::{Pasts, Rewrites};
use crate::error::{Error, Result};
use crate::log::codec::RecordEncoder;
use crate::log::commit_log::Captured;
use crate::log::producer::{EpochProducer, PartitionSlot};
use crate::log::topics::Topics;
use crate::model::{
    Column, ColumnKind, Lsn, Oid, ReplicaIdentity, SchemaVersion, TableName, TableSchema,
};
use crate::pgoutput::message::Relation;
use crate::postgres::classify;
use crate::source::catalog::{self, CatalogTable};
use crate::source::event_trigger::{Described, Told};
use crate::source::{full_identity, publication, published, user_types};

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

/// The shape in a Relation message, kept until rows need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    identity: ReplicaIdentity,
    columns: Vec<AnnouncedColumn>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct AnnouncedColumn {
    key: bool,
    name: String,
    type_oid: Oid,
    type_modifier: i32,
}

impl Announced {
    /// Keeps what a Relation message says.
    pub fn from_message(relation: &Relation<'_>) -> Self {
        let columns = relation.columns.iter().map(|column| AnnouncedColumn {
            key: column.key,
            name: column.name.to_owned(),
            type_oid: column.type_oid,
            type_modifier: column.type_modifier,
        });
        Announced {
            identity: catalog::identity_of(Some(relation.identity)),
            columns: columns.collect(),
        }
    }

    /// Whether rows of this shape are those of the schema.
    fn is(&self, schema: &TableSchema) -> bool {
        self.identity == schema.identity
            && self.columns.len() == schema.columns.len()
            && self
                .columns
                .iter()
                .zip(&schema.columns)
                .all(|(ours, theirs)| {
                    ours.name == theirs.name
                        && ours.type_oid == theirs.type_oid
                        && ours.type_modifier == theirs.type_modifier
                })
            && (self.identity == ReplicaIdentity::Full || self.key() == schema.key)
    }

    /// Flagged columns: the replica identity's (under FULL all of them, which says nothing).
    fn key(&self) -> Vec<usize> {
        let flagged = self
            .columns
            .iter()
            .enumerate()
            .filter(|(_, column)| column.key);
        flagged.map(|(index, _)| index).collect()
    }

    /// The schema version of these rows, with what `known` (the catalog now, or the version before)
    /// says beyond the message. `type_names` are by column; `keyed`: the primary key is the key
    /// under FULL.
    fn schema(
        &self,
        (before, known): (&TableSchema, &TableSchema),
        type_names: Vec<String>,
        keyed: bool,
    ) -> TableSchema {
        let names: Vec<&str> = self
            .columns
            .iter()
            .map(|column| column.name.as_str())
            .collect();
        let numbers = column_numbers::numbers(&names, before, Some(known));
        let fill = |number: i16| {
            let column = before.numbered(number).or_else(|| known.numbered(number));
            column.and_then(|column| column.fill.clone())
        };
        let columns: Vec<Column> = self
            .columns
            .iter()
            .zip(numbers)
            .zip(type_names)
            .map(|((column, number), type_name)| Column {
                name: column.name.clone(),
                type_oid: column.type_oid,
                type_modifier: column.type_modifier,
                type_name,
                kind: ColumnKind::of(column.type_oid),
                not_null: known.columns.iter().any(|other| {
                    let same = match (number, other.number) {
                        (Some(ours), Some(theirs)) => ours == theirs,
                        (None, _) | (_, None) => other.name == column.name,
                    };
                    same && other.not_null
                }),
                number,
                fill: number.and_then(fill),
            })
            .collect();
        let primary_key: Vec<usize> = known
            .primary_key
            .iter()
            .map(|&index| {
                let known = &known.columns[index];
                let mut all = columns.iter();
                all.position(|column| match (column.number, known.number) {
                    (Some(ours), Some(theirs)) => ours == theirs,
                    (None, _) | (_, None) => column.name == known.name,
                })
            })
            .collect::<Option<_>>()
            .unwrap_or_default();
        let key = match self.identity {
            ReplicaIdentity::Full if !keyed => Vec::new(),
            ReplicaIdentity::Full => {
                let mut key = primary_key.clone();
                key.sort_unstable();
                key
            }
            ReplicaIdentity::Default | ReplicaIdentity::Index | ReplicaIdentity::Nothing => {
                self.key()
            }
        };
        TableSchema {
            table: known.table.clone(),
            relation: known.relation,
            columns,
            key,
            primary_key,
            identity: self.identity,
            partitions: known.partitions,
            types: Vec::new(),
            dropped: known.dropped.clone(),
            rewritten: None,
            unpublished: before.unpublished.clone(),
            exact: false,
        }
    }
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
        let asks_catalog = announced.as_ref().is_some_and(|announced| {
            let is_known = announced.is(schema) && described.is_none();
            announced.identity == ReplicaIdentity::Full || !is_known || (*again && !schema.exact)
        });
        let mut is_seen = true;
        if asks_catalog {
            is_seen = self.unseen != Some(xid)
                && catalog::await_commit(client, xid, COMMIT_PATIENCE).await?;
            self.unseen = (!is_seen).then_some(xid);
        }
        let is_other = match announced {
            None => false,
            Some(announced) if announced.identity == ReplicaIdentity::Full => true,
            Some(announced) if !announced.is(schema) => true,
            Some(_) if described.is_some() => true,
            Some(_) if schema.exact => false,
            Some(_) => *again && !catalog::still_has(client, schema).await?,
        };
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

impl Announced {
    /// Puts what the leader itself has said of its columns into the version of these rows, if it was of these
    /// columns that it said it.
    fn take_on(&self, described: &Described, schema: &mut TableSchema) {
        let streamed: Vec<_> = described.columns.iter().filter(|c| !c.generated).collect();
        let said = |ours: &AnnouncedColumn| {
            streamed.iter().find(|said| {
                let same_type =
                    (said.type_oid, said.type_modifier) == (ours.type_oid, ours.type_modifier);
                said.name == ours.name && same_type
            })
        };
        let all: Option<Vec<_>> = self.columns.iter().map(said).collect();
        let Some(all) = all else {
            return;
        };
        for (column, said) in schema.columns.iter_mut().zip(all) {
            column.number = Some(said.number);
            column.not_null = said.not_null;
            column.fill = said.fill.clone();
        }
        schema.dropped.clone_from(&described.dropped);
        schema.exact = true;
    }
}

/// The version of announced rows: the catalog's if it still says the same, else the message's
/// columns with what the catalog, or the version before, knows of them.
async fn find_schema(
    announced: &Announced,
    before: &TableSchema,
    client: &Client,
    slot: &str,
) -> Result<TableSchema> {
    let full = announced.identity == ReplicaIdentity::Full;
    let now = catalog::describe(client, &[before.relation]).await?;
    let (mut known, mut keyed) = (before.clone(), false);
    if let Some(now) = now.into_iter().next() {
        keyed = full && full_identity::has_key(client, slot, &now).await?;
        let (table, partitions) = (known.table, known.partitions);
        known = TableSchema {
            table,
            partitions,
            ..now.schema
        };
    }
    if full && known.identity == ReplicaIdentity::Full && !keyed {
        known.key.clear();
    }
    if announced.is(&known) {
        return Ok(known);
    }
    let names = type_names(announced, before, client).await?;
    let mut schema = announced.schema((before, &known), names, keyed);
    let oids: Vec<Oid> = schema
        .columns
        .iter()
        .map(|column| column.type_oid)
        .collect();
    schema.types = user_types::load(client, &oids).await?.needed(oids);
    Ok(schema)
}

async fn type_names(
    announced: &Announced,
    before: &TableSchema,
    client: &Client,
) -> Result<Vec<String>> {
    let oids: Vec<u32> = announced.columns.iter().map(|c| c.type_oid.0).collect();
    let modifiers: Vec<i32> = announced.columns.iter().map(|c| c.type_modifier).collect();
    let rows = client
        .query(
            "SELECT pg_catalog.format_type(t, m), EXISTS (SELECT 1 FROM pg_catalog.pg_type WHERE oid = t)
             FROM unnest($1::oid[], $2::int4[]) WITH ORDINALITY u(t, m, o) ORDER BY o",
            &[&oids, &modifiers],
        )
        .await
        .map_err(|error| classify(&error, "reading type names"))?;
    let names = rows.iter().zip(&announced.columns).map(|(row, column)| {
        let earlier = before
            .columns
            .iter()
            .find(|other| other.type_oid == column.type_oid)
            .map(|other| other.type_name.clone());
        match (row.get::<_, bool>(1), earlier) {
            (false, Some(earlier)) => earlier,
            (true, _) | (false, None) => row.get(0),
        }
    });
    Ok(names.collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, type_oid: u32, not_null: bool) -> Column {
        Column {
            name: name.into(),
            type_oid: Oid(type_oid),
            type_modifier: -1,
            type_name: format!("type{type_oid}"),
            kind: ColumnKind::of(Oid(type_oid)),
            not_null,
            number: None,
            fill: None,
        }
    }

    fn announced(identity: ReplicaIdentity, columns: &[(&str, u32, bool)]) -> Announced {
        Announced {
            identity,
            columns: columns
                .iter()
                .map(|&(name, type_oid, key)| AnnouncedColumn {
                    key,
                    name: name.into(),
                    type_oid: Oid(type_oid),
                    type_modifier: -1,
                })
                .collect(),
        }
    }

    fn catalog_now() -> TableSchema {
        TableSchema {
            table: TableName::new("public", "t"),
            relation: Oid(5),
            columns: vec![column("id", 20, true), column("new", 25, false)],
            key: vec![0],
            primary_key: vec![0],
            identity: ReplicaIdentity::Default,
            partitions: 3,
            types: Vec::new(),
            dropped: Vec::new(),
            rewritten: None,
            unpublished: Vec::new(),
            exact: false,
        }
    }

    #[test]
    fn rows_of_the_past_keep_their_columns_and_take_the_rest_from_the_catalog() {
        let past = announced(
            ReplicaIdentity::Default,
            &[("gone", 25, false), ("id", 23, true)],
        );
        assert!(!past.is(&catalog_now()));
        let schema = past.schema(
            (&catalog_now(), &catalog_now()),
            vec!["text".into(), "integer".into()],
            false,
        );
        assert_eq!(schema.key, vec![1]);
        assert_eq!(schema.primary_key, vec![1]);
        assert_eq!(schema.partitions, 3);
        assert_eq!(schema.columns[1].type_name, "integer");
        assert!(schema.columns[1].not_null && !schema.columns[0].not_null);
        assert!(past.is(&schema), "and are then recognised");
    }

    #[test]
    fn under_full_identity_the_key_is_the_primary_key_although_all_columns_are_flagged() {
        let full = announced(
            ReplicaIdentity::Full,
            &[("id", 20, true), ("new", 25, true)],
        );
        let names = || vec!["bigint".into(), "text".into()];
        let schema = full.schema((&catalog_now(), &catalog_now()), names(), true);
        assert_eq!(schema.key, vec![0]);
        let unproven = full.schema((&catalog_now(), &catalog_now()), names(), false);
        assert!(!unproven.has_key(), "rows may be older than the key");
        assert_eq!(unproven.primary_key, vec![0]);
        let keyless = TableSchema {
            primary_key: Vec::new(),
            ..catalog_now()
        };
        assert!(!full.schema((&keyless, &keyless), names(), true).has_key());
    }
}
