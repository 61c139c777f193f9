//! The follower's tables, found fit for a schema version.

use super::catalog::{Found, Live};
use super::shape::{homes_index, is_compared, list};
use super::types::{Held, Server};
use super::wire::quoted;
use crate::error::{Error, Result};
use crate::model::{TableName, TableSchema};

/// Most columns of a table in InnoDB.
const COLUMNS_MAX: usize = 1_017;

/// A column of the leader's schema as the follower has it.
#[derive(Debug)]
pub(super) struct Column {
    /// Its name in backquotes; empty where the follower does not have it any more.
    pub quoted: String,
    /// How its values are held.
    pub held: Held,
    /// Part of a unique index other than the key's.
    pub contested: bool,
}

/// A follower's table, fit for a schema version.
#[derive(Debug)]
pub(super) struct Table {
    /// The leader's schema version.
    pub schema: TableSchema,
    /// Database and name in backquotes.
    pub quoted: String,
    /// The follower.
    pub server: Server,
    /// As the schema's columns.
    pub columns: Vec<Column>,
    /// Indexes of the columns that can be written.
    pub written: Vec<usize>,
    /// Columns that only the follower has and that can be written, in backquotes.
    pub extras: Vec<String>,
    /// The index of the key, in backquotes.
    pub key_index: String,
}

impl Table {
    /// Whether values of a column can be written.
    pub(super) fn writes(&self, column: usize) -> bool {
        self.written.binary_search(&column).is_ok()
    }

    /// Whether a unique index other than the key's is there.
    pub(super) fn is_contested(&self) -> bool {
        self.columns.iter().any(|column| column.contested)
    }
}

/// A version, and where and how its columns are held.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// The version.
    pub schema: &'a TableSchema,
    /// Database and name in backquotes.
    pub quoted: &'a str,
    /// How its columns are to be held.
    pub held: &'a [Held],
    /// The follower's columns.
    pub homes: &'a [Option<&'a Live>],
    /// The follower's table.
    pub found: &'a Found,
    /// The follower.
    pub server: Server,
    /// The follower's table is ahead of this version: columns may have been dropped since.
    pub past: bool,
}

/// The table, if it takes the rows of the version.
///
/// # Errors
/// Halt, with column and remedy.
pub(super) fn fit(wanted: Wanted<'_>) -> Result<Table> {
    let Wanted {
        schema,
        quoted,
        found,
        homes,
        ..
    } = wanted;
    let place = |error: Error| error.at(format!("table {}", schema.table));
    check_table(found, quoted).map_err(place)?;
    let mut columns = Vec::with_capacity(homes.len());
    for n in 0..homes.len() {
        columns.push(column(wanted, n).map_err(place)?);
    }
    let blocking = found.columns.iter().find(|live| {
        let is_home = homes.iter().flatten().any(|home| home.name == live.name);
        !is_home && !live.nullable && !live.fills_itself && !live.generated
    });
    if let Some(extra) = blocking {
        return Err(place(Error::halt(
            format!(
                "column {} exists only on the follower, is NOT NULL and has no default",
                extra.name
            ),
            format!(
                "on the follower: ALTER TABLE {quoted} MODIFY COLUMN {} {} NULL",
                extra.quoted(),
                extra.definition()
            ),
        )));
    }
    let is_written = |n: &usize| homes[*n].is_some_and(|live| !live.generated);
    let is_extra = |live: &&Live| {
        !live.generated && !homes.iter().flatten().any(|home| home.name == live.name)
    };
    Ok(Table {
        schema: schema.clone(),
        quoted: quoted.to_owned(),
        server: wanted.server,
        written: (0..homes.len()).filter(is_written).collect(),
        extras: found
            .columns
            .iter()
            .filter(is_extra)
            .map(Live::quoted)
            .collect(),
        key_index: key_index(wanted).map_err(place)?,
        columns,
    })
}

fn check_table(found: &Found, quoted: &str) -> Result<()> {
    if found.kind != "BASE TABLE" {
        return Err(Error::halt(
            format!("it is no table on the follower ({})", found.kind),
            "put an ordinary table in its place",
        ));
    }
    if !found.engine.eq_ignore_ascii_case("InnoDB") {
        return Err(Error::halt(
            format!(
                "its engine on the follower is {}, which has no transactions",
                found.engine
            ),
            format!("on the follower: ALTER TABLE {quoted} ENGINE = InnoDB"),
        ));
    }
    Ok(())
}

fn column(wanted: Wanted<'_>, n: usize) -> Result<Column> {
    let Wanted {
        schema,
        server,
        homes,
        found,
        ..
    } = wanted;
    let leader = &schema.columns[n];
    let of = wanted.held[n].sql(server);
    let compared = is_compared(schema, n);
    let Some(live) = homes[n] else {
        if wanted.past && !schema.key.contains(&n) {
            return Ok(Column {
                quoted: String::new(),
                held: wanted.held[n],
                contested: false,
            });
        }
        return Err(Error::halt(
            format!("column {} is missing on the follower", leader.name),
            format!(
                "on the follower, the leader's own DDL: if it added the column, ALTER TABLE {} ADD COLUMN {} {of}; \
                 if it renamed one, ALTER TABLE … RENAME COLUMN",
                wanted.quoted,
                quoted(&leader.name)
            ),
        ));
    };
    if live.generated {
        if compared && schema.has_key() {
            return Err(Error::halt(
                format!("key column {} is generated on the follower", leader.name),
                "make it an ordinary column on the follower",
            ));
        }
        return Ok(Column {
            quoted: live.quoted(),
            held: wanted.held[n],
            contested: false,
        });
    }
    let fitting = live.takes(wanted.held[n], compared, server);
    // A key that came later is shorter; values that do not fit are found one by one.
    let fitting = fitting.or_else(|what| {
        let bounded = wanted.past.then(|| live.bounded(wanted.held[n]));
        bounded.flatten().ok_or(what)
    });
    let held = fitting.map_err(|what| {
        let null = if live.nullable { "NULL" } else { "NOT NULL" };
        Error::halt(
            format!(
                "column {} {what} on the follower, and the leader's {} is to be held as {of}",
                live.name, leader.type_name
            ),
            format!(
                "on the follower: ALTER TABLE {} MODIFY COLUMN {} {of} {null}",
                wanted.quoted,
                live.quoted()
            ),
        )
    })?;
    let key: Vec<Option<&str>> = key_names(wanted);
    let contested = found.indexes.iter().any(|index| {
        let is_key = homes_index(std::slice::from_ref(index), &key).is_some();
        let reads = index
            .columns
            .iter()
            // Of an expression it is not known what it reads.
            .any(|column| column.as_deref().is_none_or(|column| column == live.name));
        index.unique && !is_key && reads
    });
    Ok(Column {
        quoted: live.quoted(),
        held,
        contested,
    })
}

fn key_names<'a>(wanted: Wanted<'a>) -> Vec<Option<&'a str>> {
    let key = wanted.schema.key.iter();
    key.map(|&n| wanted.homes[n].map(|live| live.name.as_str()))
        .collect()
}

/// The unique index on the key, in backquotes; nothing of a table without one.
fn key_index(wanted: Wanted<'_>) -> Result<String> {
    let schema = wanted.schema;
    if !schema.has_key() {
        return Ok(String::new());
    }
    let names = key_names(wanted);
    if let Some(index) = homes_index(&wanted.found.indexes, &names) {
        return Ok(quoted(&index.name));
    }
    // The follower is ahead of it, and has another key: rows are looked for without an index.
    if wanted.past {
        return Ok(String::new());
    }
    let names: Vec<&str> = names.into_iter().flatten().collect();
    Err(Error::halt(
        format!(
            "no unique index on its key ({}) on the follower",
            names.join(", ")
        ),
        format!(
            "on the follower: ALTER TABLE {} ADD UNIQUE INDEX ({})",
            wanted.quoted,
            list(&names)
        ),
    ))
}

/// Refuses what no table of the server can be named, or be.
///
/// # Errors
/// Halt, with the remedy.
pub(super) fn check_names(
    schema: &TableSchema,
    (database, table): (&str, &str),
    tells_case: bool,
) -> Result<()> {
    let exclude = "exclude the table in the sink's file, or give it another name on the leader";
    for name in [database, table] {
        if let Some(what) = wrong_name(name) {
            return Err(Error::halt(
                format!(
                    "table {}: the name {name:?} {what}, which the follower does not take",
                    schema.table
                ),
                exclude,
            ));
        }
        if !tells_case && name.chars().any(char::is_uppercase) {
            return Err(Error::halt(
                format!(
                    "table {}: the follower does not tell names apart by case (lower_case_table_names)",
                    schema.table
                ),
                exclude,
            ));
        }
    }
    let mut names = std::collections::BTreeSet::new();
    for column in &schema.columns {
        let name = &column.name;
        let what = match wrong_name(name) {
            Some(what) => what,
            None if !names.insert(name.to_lowercase()) => "is another column's but for its case",
            None => continue,
        };
        return Err(Error::halt(
            format!(
                "table {}: the name {name:?} of a column {what}, which the follower does not take",
                schema.table
            ),
            "leave the column out of the publication or give it another name on the leader, or exclude the table in \
             the sink's file",
        ));
    }
    match schema.columns.len() {
        0 => Err(Error::halt(
            format!(
                "table {} has no columns, and the follower has no such tables",
                schema.table
            ),
            "exclude the table in the sink's file",
        )),
        1..=COLUMNS_MAX => Ok(()),
        many => Err(Error::halt(
            format!(
                "table {} has {many} columns, and a table of the follower at most {COLUMNS_MAX}",
                schema.table
            ),
            "exclude the table in the sink's file, or publish fewer of its columns",
        )),
    }
}

/// What is wrong with a name, for an identifier.
fn wrong_name(name: &str) -> Option<&'static str> {
    let length = name.chars().count();
    match () {
        () if name.chars().any(|c| u32::from(c) > 0xFFFF) => Some("has a character beyond U+FFFF"),
        () if name.ends_with(|c: char| c.is_ascii_whitespace()) => Some("ends in a blank"),
        () if length > 64 => Some("is longer than 64 characters"),
        () => None,
    }
}

/// CREATE TABLE with columns, NOT NULL and keys.
pub(super) fn create_sql(
    schema: &TableSchema,
    quoted_table: &str,
    held: &[Held],
    server: Server,
) -> String {
    let mut parts: Vec<String> = schema
        .columns
        .iter()
        .zip(held)
        .enumerate()
        .map(|(n, (column, held))| {
            let not_null =
                column.not_null || schema.key.contains(&n) || schema.primary_key.contains(&n);
            let of = super::shape::definition(
                column,
                (schema.relation, not_null),
                &held.sql(server),
                None,
            );
            format!("{} {of}", quoted(&column.name))
        })
        .collect();
    let names = |columns: &[usize]| {
        let names: Vec<&str> = columns
            .iter()
            .map(|&n| schema.columns[n].name.as_str())
            .collect();
        list(&names)
    };
    let same = schema.key.len() == schema.primary_key.len()
        && schema.key.iter().all(|n| schema.primary_key.contains(n));
    if !schema.primary_key.is_empty() {
        parts.push(format!("PRIMARY KEY ({})", names(&schema.primary_key)));
    }
    if schema.has_key() && !same {
        parts.push(format!("UNIQUE INDEX ({})", names(&schema.key)));
    }
    format!(
        "CREATE TABLE IF NOT EXISTS {quoted_table} ({}) ENGINE=InnoDB ROW_FORMAT=DYNAMIC \
         DEFAULT CHARACTER SET utf8mb4 COLLATE {}",
        parts.join(", "),
        server.collation
    )
}

/// Whether it is one of walferry's own tables.
pub(super) fn is_walferrys(database: &str, own: &str, table: &str) -> bool {
    database == own && table.to_lowercase().starts_with("walferry_")
}

/// That a table of the leader's has the name of one of walferry's.
pub(super) fn name_is_taken(table: &TableName) -> Error {
    Error::halt(
        format!(
            "table {table}: names that begin with walferry_ are walferry's own in this database"
        ),
        "exclude the table in the sink's file, or map its schema to another database under [databases]",
    )
}
