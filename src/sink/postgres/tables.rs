//! The follower's tables as its catalog shows them, checked against the leader's schema version.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_postgres::{Client, Statement};

use super::Identity;
use super::catalog::{Attribute, Index, Relation, attributes, indexes, live, relation};
use super::columns::{self, Home, Wanted};
use super::noted::Notes;
use super::session::{EMPTYING_LIMIT, LIFTED_STATEMENT_TIMEOUT};
use super::statements::{self, Shape, cast, operator};
use crate::error::{Error, Result};
use crate::model::relation::quote_identifier;
use crate::model::{Oid, TableName, TableSchema};

/// Prepared statements kept a table; beyond it they are all dropped and made again as needed.
const STATEMENTS_MAX: usize = 64;

/// Types whose equality holds only between values with the same text (for text: under collation "C").
/// bool, bytea, int8, int2, int4, text, oid, varchar, date, time, timestamp, timestamptz, uuid, pg_lsn.
const EXACT_EQUALITY: [u32; 14] = [
    16, 17, 20, 21, 23, 25, 26, 1043, 1082, 1083, 1114, 1184, 2950, 3220,
];

/// A column of the leader's schema as the follower has it.
#[derive(Debug)]
pub(super) struct Column {
    /// Its name in quotes.
    pub quoted: String,
    /// The cast from text, `::type`, to the follower's type: it may be wider than the leader's.
    pub cast: String,
    /// GENERATED ALWAYS AS IDENTITY.
    pub identity_always: bool,
    /// Whether `=` tells apart whatever has different texts.
    pub exact_equality: bool,
    /// Whether the type has a collation.
    pub collatable: bool,
    /// Part of a unique index other than the key's, or of an exclusion constraint.
    pub contested: bool,
}

/// The operators of a key column, from the key's own index.
#[derive(Debug)]
pub(super) struct KeyOperators {
    /// Equality, as SQL.
    pub equal: String,
    /// The index's order, as SQL; not known of every index.
    pub less: Option<String>,
}

/// A follower's table, fit for a schema version.
#[derive(Debug)]
pub(super) struct Table {
    /// The leader's schema version.
    pub schema: TableSchema,
    /// Schema and name in quotes.
    pub quoted: String,
    /// `ONLY ` where inheritance children must be left alone.
    pub only: &'static str,
    /// Written through its root.
    pub partitioned: bool,
    /// Foreign keys of other tables point at it, so TRUNCATE is refused.
    pub referenced: bool,
    /// The follower's table has the OID that the leader's has.
    pub same_oid: bool,
    /// As the schema's columns.
    pub columns: Vec<Column>,
    /// Indexes of the columns that can be written: not generated on the follower.
    pub written: Vec<usize>,
    /// Quoted names of columns that only the follower has and that can be written.
    pub extras: Vec<String>,
    /// The key columns' operators.
    pub operators: Vec<KeyOperators>,
    /// A column with an index in front of which it stands and with exact equality; only for tables
    /// without a key.
    pub indexed: Option<usize>,
    statements: Mutex<HashMap<Shape, Statement>>,
}

impl Table {
    /// Indexes of the key columns.
    pub(super) fn key(&self) -> &[usize] {
        &self.schema.key
    }

    /// Whether values of a column can be written.
    pub(super) fn writes(&self, column: usize) -> bool {
        self.written.binary_search(&column).is_ok()
    }

    /// The prepared statement of a shape, if it has been prepared.
    pub(super) fn prepared(&self, shape: &Shape) -> Option<Statement> {
        self.statements().get(shape).cloned()
    }

    /// Prepares the statement of a shape.
    pub(super) async fn prepare(
        &self,
        client: &Client,
        shape: Shape,
    ) -> Result<Statement, tokio_postgres::Error> {
        let statement = client.prepare(&statements::sql(self, &shape)).await?;
        let mut known = self.statements();
        if known.len() >= STATEMENTS_MAX {
            known.clear();
        }
        known.insert(shape, statement.clone());
        Ok(statement)
    }

    fn statements(&self) -> MutexGuard<'_, HashMap<Shape, Statement>> {
        self.statements
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the table is there, in whatever shape.
pub(super) async fn exists(client: &Client, table: &TableName) -> Result<bool> {
    Ok(relation(client, table).await?.is_some())
}

/// How a table is emptied.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Emptying {
    /// The statements, to be run inside a transaction.
    pub sql: String,
    /// The answer may take this long, or as long as any other if that is longer.
    pub limit: Duration,
}

/// How to empty a table of the follower; `None` if it is not there.
pub(super) async fn emptying(client: &Client, table: &TableName) -> Result<Option<Emptying>> {
    Ok(relation(client, table).await?.map(|found| {
        let only = if found.kind == b'p' { "" } else { "ONLY " };
        how_to_empty(found.referenced, only, &table.quoted())
    }))
}

/// How to empty a table. TRUNCATE is refused where other tables' foreign keys point at it, even where
/// they are not enforced (heap_truncate_check_FKs); a DELETE of all rows takes as long as there are
/// rows, so that a time-out would only have it repeated for ever.
pub(super) fn how_to_empty(referenced: bool, only: &str, quoted: &str) -> Emptying {
    if referenced {
        Emptying {
            sql: format!("{LIFTED_STATEMENT_TIMEOUT}; DELETE FROM {only}{quoted}"),
            limit: EMPTYING_LIMIT,
        }
    } else {
        Emptying {
            sql: format!("TRUNCATE {only}{quoted}"),
            limit: Duration::ZERO,
        }
    }
}

/// A follower that tables are read from.
#[derive(Clone, Copy)]
pub(super) struct Follower<'a> {
    /// The connection, outside of a transaction.
    pub client: &'a Client,
    /// Whose follower it is.
    pub me: &'a Identity,
    /// Its system identifier; empty where it may not be read.
    pub server: &'a str,
}

/// Whether the follower's table has the shape of a version, as far as is noted.
pub(super) async fn has_shape(follower: Follower<'_>, schema: &TableSchema) -> Result<bool> {
    let notes = Notes {
        client: follower.client,
        me: follower.me,
        server: follower.server,
        relation: find(follower.client, schema).await?.oid,
    };
    let noted = notes.read(schema).await;
    noted
        .map(|noted| noted.is_current())
        .map_err(|error| error.at(format!("table {}", schema.table)))
}

/// Reads the follower's table, checks that it can take the rows of `schema`, and notes which of its
/// columns they are. `newest`: the newest version in the log, if that is another one.
pub(super) async fn read(
    follower: Follower<'_>,
    schema: &TableSchema,
    newest: Option<&TableSchema>,
) -> Result<Table> {
    let client = follower.client;
    let place = |error: Error| error.at(format!("table {}", schema.table));
    let found = find(client, schema).await?;
    let notes = Notes {
        client,
        me: follower.me,
        server: follower.server,
        relation: found.oid,
    };
    let noted = notes.read(schema).await.map_err(place)?;
    let live = live(client, found.oid).await.map_err(place)?;
    let wanted = Wanted {
        schema,
        newest,
        noted: &noted,
        live: &live,
    };
    let homes = columns::homes(wanted);
    let names = names(&homes);
    let attributes = attributes(client, found.oid, (schema, &names))
        .await
        .map_err(place)?;
    let indexes = indexes(client, found.oid).await.map_err(place)?;
    columns::check(wanted, &homes, &attributes).map_err(place)?;
    let operators = key_operators(schema, &names, &indexes)?;
    let columns = columns_of(&names, &attributes, &indexes, schema);
    if noted.own.is_none() {
        let before = noted.leader.last().and_then(Option::as_ref);
        let rewritten = before.and_then(|before| before.rewritten);
        let numbers = columns::numbers(schema, &homes);
        notes.write(schema, &numbers, rewritten).await?;
    }
    say_other_names(schema, &homes);
    let indexed = indexed_column(schema, &names, (&columns, &indexes));
    Ok(Table {
        schema: schema.clone(),
        quoted: schema.table.quoted(),
        only: if found.kind == b'p' { "" } else { "ONLY " },
        partitioned: found.kind == b'p',
        referenced: found.referenced,
        same_oid: Oid(found.oid) == schema.relation,
        written: written(&attributes),
        extras: attributes
            .iter()
            .filter(|attribute| attribute.leader.is_none() && !attribute.generated)
            .map(|attribute| quote_identifier(&attribute.name))
            .collect(),
        columns,
        operators,
        indexed,
        statements: Mutex::default(),
    })
}

/// The follower's table of this name.
pub(super) async fn find(client: &Client, schema: &TableSchema) -> Result<Relation> {
    let found = relation(client, &schema.table).await?.ok_or_else(|| {
        Error::halt(
            format!("table {} does not exist on the follower", schema.table),
            format!(
                "create it ({}), or set create_tables = true",
                super::create::table_sql(schema)
            ),
        )
    })?;
    if found.kind != b'r' && found.kind != b'p' {
        return Err(Error::halt(
            format!(
                "table {} is no table on the follower (relkind {})",
                schema.table,
                char::from(found.kind)
            ),
            "put an ordinary or partitioned table in its place",
        ));
    }
    Ok(found)
}

/// The follower's names of the leader's columns; none of one that it does not have.
fn names<'a>(homes: &[Home<'a>]) -> Vec<Option<&'a str>> {
    let name = |home: &Home<'a>| match *home {
        Home::In(live) => Some(live.name.as_str()),
        Home::Dropped(_) | Home::Missing | Home::Twice(_) | Home::Remade | Home::Old(_) => None,
    };
    homes.iter().map(name).collect()
}

/// Says once a session and version which columns have other names on the follower: that is so while
/// changes from before a RENAME COLUMN pass, and should not stay so.
fn say_other_names(schema: &TableSchema, homes: &[Home<'_>]) {
    for (column, home) in schema.columns.iter().zip(homes) {
        if let Home::In(live) = home
            && live.name != column.name
        {
            tracing::warn!(
                table = %schema.table,
                column = column.name,
                follower = live.name,
                "the leader's column has another name on the follower in this version of the table"
            );
        }
    }
}

/// Indexes of the leader's columns whose values can be written.
fn written(attributes: &[Attribute]) -> Vec<usize> {
    let can = attributes.iter().filter(|attribute| !attribute.generated);
    let mut written: Vec<usize> = can.filter_map(|attribute| attribute.leader).collect();
    written.sort_unstable();
    written
}

fn columns_of(
    names: &[Option<&str>],
    attributes: &[Attribute],
    indexes: &[Index],
    schema: &TableSchema,
) -> Vec<Column> {
    let one = |(n, name): (usize, &Option<&str>)| {
        let attribute = attributes
            .iter()
            .find(|attribute| attribute.leader == Some(n));
        match (name, attribute) {
            (Some(name), Some(attribute)) => Column {
                quoted: quote_identifier(name),
                cast: cast(&attribute.type_text, attribute.text_cast_function),
                identity_always: attribute.identity == b'a',
                exact_equality: EXACT_EQUALITY.contains(&attribute.type_oid),
                collatable: attribute.collatable,
                contested: contested(schema, name, names, indexes),
            },
            // Never written, nor compared.
            (None, _) | (_, None) => Column {
                quoted: String::new(),
                cast: String::new(),
                identity_always: false,
                exact_equality: false,
                collatable: false,
                contested: false,
            },
        }
    };
    names.iter().enumerate().map(one).collect()
}

/// Whether an index is unique on exactly these columns, for all rows.
fn is_on_key(schema: &TableSchema, names: &[Option<&str>], index: &Index) -> bool {
    let has = |name: Option<&str>| index.columns.iter().any(|column| column.as_deref() == name);
    index.unique
        && index.plain
        && index.columns.len() == schema.key.len()
        && schema
            .key
            .iter()
            .all(|&n| names[n].is_some() && has(names[n]))
}

/// The operators of the key columns, from the unique index that holds the key.
fn key_operators(
    schema: &TableSchema,
    names: &[Option<&str>],
    indexes: &[Index],
) -> Result<Vec<KeyOperators>> {
    if !schema.has_key() {
        return Ok(Vec::new());
    }
    let index = indexes
        .iter()
        .find(|index| is_on_key(schema, names, index))
        .ok_or_else(|| {
            let names: Vec<&str> = schema.key.iter().filter_map(|&n| names[n]).collect();
            let quoted: Vec<String> = names.iter().map(|name| quote_identifier(name)).collect();
            Error::halt(
                format!(
                    "table {}: no unique index on its key ({}) on the follower",
                    schema.table,
                    names.join(", ")
                ),
                format!(
                    "on the follower: CREATE UNIQUE INDEX ON {} ({})",
                    schema.table.quoted(),
                    quoted.join(", ")
                ),
            )
        })?;
    let count = index.columns.len();
    // Schemas of all operators stand in front of their names.
    let operator_at = |at: usize| {
        let schema = index.operators.get(at)?.as_deref()?;
        let name = index.operators.get(2 * count + at)?.as_deref()?;
        Some(operator(schema, name))
    };
    let of_column = |&n: &usize| {
        let columns = &index.columns;
        let at = columns
            .iter()
            .position(|column| column.as_deref() == names[n]);
        KeyOperators {
            // An index that is not a btree (temporal keys are GiST) is on types with Postgres's own `=`.
            equal: at
                .and_then(operator_at)
                .unwrap_or_else(|| operator("pg_catalog", "=")),
            less: at.and_then(|at| operator_at(count + at)),
        }
    };
    Ok(schema.key.iter().map(of_column).collect())
}

/// Whether another unique index or exclusion constraint watches a column. Of an index with
/// expressions or a predicate it is not known which columns it reads: all of them, then.
fn contested(schema: &TableSchema, name: &str, names: &[Option<&str>], indexes: &[Index]) -> bool {
    let mut watching = indexes
        .iter()
        .filter(|index| (index.unique || index.exclusion) && !is_on_key(schema, names, index));
    let reads = |index: &Index| {
        !index.plain
            || index
                .columns
                .iter()
                .any(|column| column.as_deref() == Some(name))
    };
    watching.any(reads)
}

/// For tables without a key: a column that leads a plain btree index and compares exactly.
fn indexed_column(
    schema: &TableSchema,
    names: &[Option<&str>],
    (columns, indexes): (&[Column], &[Index]),
) -> Option<usize> {
    if schema.has_key() {
        return None;
    }
    let usable = indexes.iter().filter(|index| index.plain && index.btree);
    let mut leading = usable.filter_map(|index| {
        let name = index.columns.first()?.as_deref()?;
        let at = names.iter().position(|column| *column == Some(name))?;
        columns[at].exact_equality.then_some(at)
    });
    leading.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emptying_row_by_row_has_no_time_out() {
        let by_rows = how_to_empty(true, "ONLY ", "\"s\".\"t\"");
        assert_eq!(
            by_rows.sql,
            "SET LOCAL statement_timeout = 0; DELETE FROM ONLY \"s\".\"t\""
        );
        assert_eq!(by_rows.limit, EMPTYING_LIMIT);
        let at_once = how_to_empty(false, "", "\"s\".\"t\"");
        assert_eq!(at_once.sql, "TRUNCATE \"s\".\"t\"");
        assert_eq!(at_once.limit, Duration::ZERO);
    }
}
