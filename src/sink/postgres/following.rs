//! Altering a follower's table as the leader has altered its own, inside of the follower transaction that
//! applies the first change of the new shape: readers see shape and rows change together, and a transaction
//! that is given up leaves neither.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio_postgres::{Client, Row};

use super::alter::{Alteration, Change, Held, alterations};
use super::catalog::{Relation, indexes, live};
use super::columns::{Noted, Numbers};
use super::create;
use super::noted::Notes;
use super::session::{EMPTYING_LIMIT, LIFTED_STATEMENT_TIMEOUT};
use super::tables::{self, Follower};
use crate::config::SchemaChanges;
use crate::error::{Error, Result};
use crate::model::relation::quote_identifier;
use crate::model::widening::TypeOf;
use crate::model::{Column, Oid, TableSchema};
use crate::postgres::classify;
use crate::sink::leader_shape::{LeaderShape, NeedsCopy};

/// Longest wait for what alters a table: it may have to write all of it anew.
pub(super) const ALTERING_LIMIT: Duration = EMPTYING_LIMIT;

const HELD: &str = "SELECT a.attnum, a.attname::text, a.atttypid, a.atttypmod, a.attnotnull, \
    a.atthasdef OR a.attidentity <> '' OR a.attgenerated <> '', \
    pg_catalog.format_type(a.atttypid, a.atttypmod) \
    FROM pg_catalog.pg_attribute a \
    WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

const PRIMARY_KEY: &str = "SELECT conname::text FROM pg_catalog.pg_constraint \
    WHERE conrelid = $1 AND contype = 'p'";

/// Alters the follower's table for a version, inside of the open transaction. What is noted afterwards says
/// that it has that shape; where it cannot be told what the leader did, nothing is done, and whoever reads the
/// table finds what does not fit.
///
/// # Errors
/// Halt when the follower refuses a statement, with that statement. `Ok(Err(…))`: the table needs a copy.
pub(super) async fn follow(
    follower: Follower<'_>,
    schema: &TableSchema,
    may: SchemaChanges,
) -> Result<std::result::Result<(), NeedsCopy>> {
    let client = follower.client;
    let place = |error: Error| error.at(format!("table {}", schema.table));
    let found = tables::find(client, schema).await?;
    let notes = Notes {
        client,
        me: follower.me,
        server: follower.server,
        relation: found.oid,
    };
    let noted = notes.read(schema).await.map_err(place)?;
    if noted.is_current() {
        return Ok(Ok(()));
    }
    let Some(Some(before)) = noted.leader.last() else {
        return Ok(Ok(()));
    };
    let held = held(client, found, schema).await.map_err(place)?;
    let empty = is_empty(client, found, schema).await.map_err(place)?;
    let of_this = before.relation == schema.relation;
    if !of_this && !empty {
        return Ok(Ok(()));
    }
    let (before, homes) = match of_this {
        true => (before.clone(), noted.homes(schema.relation)),
        false => by_name(schema, before, &noted, &held),
    };
    let change = Change {
        schema,
        before: &before,
        homes: &homes,
        held: &held,
        empty,
        may,
    };
    let all = match alterations(change) {
        Ok(all) => all,
        Err(needs_copy) => return Ok(Err(needs_copy)),
    };
    let altering = Altering {
        client,
        schema,
        oid: found.oid,
    };
    for one in &all {
        altering.run(one).await?;
        tracing::info!(table = %schema.table, version = %schema.version(), "the follower's table is altered as the leader's: {one}");
    }
    if may == SchemaChanges::Follow {
        altering.index_key().await?;
    }
    if let Some(numbers) = homes_now(client, found.oid, schema, &homes)
        .await
        .map_err(place)?
    {
        // Rows that come now come from a copy of this version, which may be older than what was noted.
        let rewritten = before.rewritten.filter(|_| !empty);
        notes.write(schema, &numbers, rewritten).await?;
    }
    Ok(Ok(()))
}

/// The leader's table is another one of that name, and the follower's is empty: columns are the same where
/// their names are.
fn by_name(
    schema: &TableSchema,
    before: &LeaderShape,
    noted: &Noted,
    held: &[Held],
) -> (LeaderShape, BTreeMap<i16, i16>) {
    let old = noted.homes(before.relation);
    let names: BTreeMap<i16, &str> = held.iter().map(|h| (h.number, h.name.as_str())).collect();
    let mut homes = BTreeMap::new();
    for (n, home) in (1..).zip(old.values()) {
        let Some(name) = names.get(home) else {
            continue;
        };
        let same = schema.columns.iter().find(|column| column.name == *name);
        // Numbers below zero are no column's.
        let number = same.and_then(|column| column.number).unwrap_or(-n);
        homes.insert(number, *home);
    }
    let key_names = before.primary_key.iter().filter_map(|number| {
        let mut columns = before.columns.iter();
        columns.find(|(_, column)| column.number == *number)
    });
    let in_schema = |(name, _): (&String, _)| {
        let mut columns = schema.columns.iter();
        columns.find(|column| column.name == *name)?.number
    };
    let before = LeaderShape {
        relation: schema.relation,
        columns: BTreeMap::new(),
        primary_key: key_names.filter_map(in_schema).collect(),
        rewritten: None,
    };
    (before, homes)
}

async fn held(client: &Client, found: Relation, schema: &TableSchema) -> Result<Vec<Held>> {
    let failed = |error| classify(&error, "reading the follower's columns");
    let rows = client.query(HELD, &[&found.oid]).await.map_err(failed)?;
    let one = |row: &Row| {
        let type_text: String = row.try_get(6)?;
        let name: String = row.try_get(1)?;
        Ok(Held {
            number: row.try_get(0)?,
            of: TypeOf {
                oid: Oid(row.try_get(2)?),
                modifier: row.try_get(3)?,
            },
            same_type: schema
                .columns
                .iter()
                .any(|c| c.type_name == type_text && c.name == name),
            name,
            not_null: row.try_get(4)?,
            fills_itself: row.try_get(5)?,
        })
    };
    rows.iter()
        .map(one)
        .collect::<Result<_, _>>()
        .map_err(failed)
}

async fn is_empty(client: &Client, found: Relation, schema: &TableSchema) -> Result<bool> {
    let only = if found.kind == b'p' { "" } else { "ONLY " };
    let sql = format!(
        "SELECT NOT EXISTS (SELECT FROM {only}{})",
        schema.table.quoted()
    );
    client
        .query_one(&sql, &[])
        .await
        .and_then(|row| row.try_get(0))
        .map_err(|error| classify(&error, "looking for rows on the follower"))
}

/// The follower's numbers of the version's columns; none if one is not there under its name.
async fn homes_now(
    client: &Client,
    oid: u32,
    schema: &TableSchema,
    homes: &BTreeMap<i16, i16>,
) -> Result<Option<Numbers>> {
    let live = live(client, oid).await?;
    let home = |column: &Column| {
        let home = live.iter().find(|live| live.name == column.name)?.number;
        // One that the follower had dropped was made anew.
        let known = column.number.and_then(|number| homes.get(&number));
        let known = known.filter(|known| live.iter().any(|live| live.number == **known));
        (known.is_none_or(|known| *known == home)).then(|| (column.name.clone(), home))
    };
    Ok(schema.columns.iter().map(home).collect())
}

/// The table while it is altered.
struct Altering<'a> {
    client: &'a Client,
    schema: &'a TableSchema,
    oid: u32,
}

impl Altering<'_> {
    async fn run(&self, alteration: &Alteration) -> Result<()> {
        self.execute(LIFTED_STATEMENT_TIMEOUT).await?;
        match alteration {
            Alteration::Drop(name) => return self.drop_column(name, alteration).await,
            Alteration::PrimaryKey(_) => self.drop_primary_key().await?,
            Alteration::Rename(..)
            | Alteration::Type { .. }
            | Alteration::Add { .. }
            | Alteration::Fill { .. }
            | Alteration::DropNotNull(_) => {}
        }
        for sql in alteration.sql(&self.schema.table.quoted()) {
            self.execute(&sql).await?;
        }
        Ok(())
    }

    /// Drops a column, unless something of the follower's own needs it.
    async fn drop_column(&self, name: &str, alteration: &Alteration) -> Result<()> {
        let table = &self.schema.table;
        for sql in alteration.sql(&table.quoted()) {
            if create::drop_unless_needed(self.client, table, ALTERING, &sql).await? {
                continue;
            }
            tracing::warn!(
                %table,
                column = name,
                "the leader has dropped a column that something on the follower depends on; it stays there, \
                 and is NULL in rows from here on"
            );
            let loose = Alteration::DropNotNull(name.to_owned());
            for sql in loose.sql(&table.quoted()) {
                self.execute(&sql).await?;
            }
        }
        Ok(())
    }

    async fn drop_primary_key(&self) -> Result<()> {
        let failed = |error| classify(&error, "reading the follower's primary key");
        let row = self.client.query_opt(PRIMARY_KEY, &[&self.oid]).await;
        let Some(row) = row.map_err(failed)? else {
            return Ok(());
        };
        let name: String = row.try_get(0).map_err(failed)?;
        let sql = format!(
            "ALTER TABLE {} DROP CONSTRAINT {}",
            self.schema.table.quoted(),
            quote_identifier(&name)
        );
        self.execute(&sql).await
    }

    /// Makes the unique index that rows are found by, if the version's key has none.
    async fn index_key(&self) -> Result<()> {
        let schema = self.schema;
        if !schema.has_key() {
            return Ok(());
        }
        let key: Vec<&str> = schema
            .key
            .iter()
            .map(|&n| schema.columns[n].name.as_str())
            .collect();
        let all = indexes(self.client, self.oid).await?;
        let on_key = all.iter().any(|index| {
            let has = |name: &&str| index.columns.iter().any(|c| c.as_deref() == Some(*name));
            index.unique && index.plain && index.columns.len() == key.len() && key.iter().all(has)
        });
        if on_key {
            return Ok(());
        }
        let names: Vec<String> = key.iter().map(|name| quote_identifier(name)).collect();
        let sql = format!(
            "CREATE UNIQUE INDEX ON {} ({})",
            schema.table.quoted(),
            names.join(", ")
        );
        self.execute(&sql).await
    }

    async fn execute(&self, sql: &str) -> Result<()> {
        create::run(self.client, &self.schema.table, ALTERING, sql).await
    }
}

const ALTERING: &str = "altering";
