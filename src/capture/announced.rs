//! What a Relation message says of a table's rows, and the schema version that it makes with what the catalog,
//! the version before and the leader's event trigger know.

use tokio_postgres::Client;

use crate::capture::column_numbers;
use crate::error::Result;
use crate::model::{Column, ColumnKind, Oid, ReplicaIdentity, TableSchema};
use crate::pgoutput::message::Relation;
use crate::postgres::classify;
use crate::source::catalog;
use crate::source::event_trigger::Described;
use crate::source::{full_identity, user_types};

/// The shape in a Relation message, kept until rows need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    pub(super) identity: ReplicaIdentity,
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
    pub(super) fn is(&self, schema: &TableSchema) -> bool {
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

    /// Puts what the leader itself has said of its columns into the version of these rows, if it was of these
    /// columns that it said it.
    pub(super) fn take_on(&self, described: &Described, schema: &mut TableSchema) {
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
///
/// # Errors
/// When the catalog cannot be read.
pub(super) async fn find_schema(
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TableName;

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
