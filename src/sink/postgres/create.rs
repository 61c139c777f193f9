//! Creating what a leader's table needs on the follower: schema, user-made types, table, key.

use tokio_postgres::Client;

use super::failure::summary;
use crate::error::{Error, Result};
use crate::model::relation::{quote_identifier, quote_literal};
use crate::model::{TableName, TableSchema, UserType};
use crate::postgres::classify;

/// Advisory lock (`walferry` in ASCII) that lets one worker at a time make things: IF NOT EXISTS
/// alone fails with a unique violation in the catalog when two do it at once.
pub(super) const LOCK: &str = "SELECT pg_catalog.pg_advisory_xact_lock(8602253499418342009)";

const CREATING: &str = "creating";

/// Creates schema, types, table and key of a schema version where they are missing.
pub(super) async fn create(client: &Client, schema: &TableSchema) -> Result<()> {
    run(client, &schema.table, CREATING, "BEGIN").await?;
    let made = create_inside(client, schema).await;
    let end = if made.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let ended = run(client, &schema.table, CREATING, end).await;
    made.and(ended)
}

async fn create_inside(client: &Client, schema: &TableSchema) -> Result<()> {
    let table = &schema.table;
    run(client, table, CREATING, LOCK).await?;
    for user_type in &schema.types {
        create_type(client, table, user_type).await?;
    }
    // Another worker may have made it while this one waited for the lock.
    if super::tables::exists(client, table).await? {
        return Ok(());
    }
    make_schema(client, table, &table.schema).await?;
    run(client, table, CREATING, &table_sql(schema)).await?;
    if schema.has_key() && !same_columns(&schema.key, &schema.primary_key) {
        let index = format!(
            "CREATE UNIQUE INDEX ON {} ({})",
            table.quoted(),
            column_names(schema, &schema.key)
        );
        run(client, table, CREATING, &index).await?;
    }
    Ok(())
}

/// Makes missing types and enum labels only: for a table that is there.
pub(super) async fn create_types(client: &Client, schema: &TableSchema) -> Result<()> {
    for user_type in &schema.types {
        create_type(client, &schema.table, user_type).await?;
    }
    Ok(())
}

/// CREATE TABLE with columns, NOT NULL and primary key.
pub(super) fn table_sql(schema: &TableSchema) -> String {
    let mut parts: Vec<String> = schema
        .columns
        .iter()
        .map(|column| {
            let not_null = if column.not_null { " NOT NULL" } else { "" };
            format!(
                "{} {}{not_null}",
                quote_identifier(&column.name),
                column.type_name
            )
        })
        .collect();
    if !schema.primary_key.is_empty() {
        parts.push(format!(
            "PRIMARY KEY ({})",
            column_names(schema, &schema.primary_key)
        ));
    }
    format!(
        "CREATE TABLE {} ({})",
        schema.table.quoted(),
        parts.join(", ")
    )
}

fn column_names(schema: &TableSchema, columns: &[usize]) -> String {
    let names: Vec<String> = columns
        .iter()
        .map(|&n| quote_identifier(&schema.columns[n].name))
        .collect();
    names.join(", ")
}

fn same_columns(a: &[usize], b: &[usize]) -> bool {
    a.len() == b.len() && a.iter().all(|column| b.contains(column))
}

pub(super) async fn make_schema(client: &Client, table: &TableName, schema: &str) -> Result<()> {
    // Not IF NOT EXISTS alone: that asks for the right to create schemas even if it is there.
    let there = client
        .query_opt(
            "SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1",
            &[&schema],
        )
        .await
        .map_err(|error| classify(&error, "reading the follower's catalog"))?;
    match there {
        Some(_row) => Ok(()),
        None => {
            let sql = format!("CREATE SCHEMA IF NOT EXISTS {}", quote_identifier(schema));
            run(client, table, CREATING, &sql).await
        }
    }
}

async fn create_type(client: &Client, table: &TableName, user_type: &UserType) -> Result<()> {
    let (name, definition) = match user_type {
        UserType::Extension { name } => return create_extension(client, table, name).await,
        UserType::Enum { name, labels } => {
            let quoted: Vec<String> = labels.iter().map(|label| quote_literal(label)).collect();
            (
                name,
                format!(
                    "CREATE TYPE {} AS ENUM ({})",
                    name.quoted(),
                    quoted.join(", ")
                ),
            )
        }
        UserType::Domain {
            name,
            base,
            not_null,
            checks,
        } => {
            let mut sql = format!("CREATE DOMAIN {} AS {base}", name.quoted());
            if *not_null {
                sql.push_str(" NOT NULL");
            }
            // A check that does not hold for old rows must not be put upon them here.
            for check in checks.iter().filter(|check| !check.ends_with("NOT VALID")) {
                sql.push(' ');
                sql.push_str(check);
            }
            (name, sql)
        }
        UserType::Composite { name, attributes } => {
            let parts: Vec<String> = attributes
                .iter()
                .map(|(attribute, kind)| format!("{} {kind}", quote_identifier(attribute)))
                .collect();
            (
                name,
                format!("CREATE TYPE {} AS ({})", name.quoted(), parts.join(", ")),
            )
        }
        UserType::Range { name, subtype } => (
            name,
            format!(
                "CREATE TYPE {} AS RANGE (SUBTYPE = {subtype})",
                name.quoted()
            ),
        ),
    };
    let there: Option<u32> = client
        .query_one("SELECT pg_catalog.to_regtype($1)::oid", &[&name.quoted()])
        .await
        .and_then(|row| row.try_get(0))
        .map_err(|error| classify(&error, "reading the follower's types"))?;
    match (there, user_type) {
        (None, _) => {
            make_schema(client, table, &name.schema).await?;
            run(client, table, CREATING, &definition).await
        }
        (Some(oid), UserType::Enum { name, labels }) => {
            add_labels(client, table, oid, name, labels).await
        }
        (
            Some(_there),
            UserType::Domain { .. }
            | UserType::Composite { .. }
            | UserType::Extension { .. }
            | UserType::Range { .. },
        ) => Ok(()),
    }
}

/// Adds the labels that the leader's enum has and the follower's has not, in the leader's order.
async fn add_labels(
    client: &Client,
    table: &TableName,
    oid: u32,
    name: &TableName,
    labels: &[String],
) -> Result<()> {
    let rows = client
        .query(
            "SELECT enumlabel::text FROM pg_catalog.pg_enum WHERE enumtypid = $1",
            &[&oid],
        )
        .await
        .map_err(|error| classify(&error, "reading the follower's enum labels"))?;
    let known: Vec<String> = rows
        .iter()
        .map(|row| row.try_get(0))
        .collect::<Result<_, _>>()
        .map_err(|error| classify(&error, "reading the follower's enum labels"))?;
    let strange = perhaps_renamed(&known, labels);
    if !strange.is_empty() {
        tracing::warn!(
            %table,
            enum_type = %name,
            labels = ?strange,
            "labels are added to the follower's enum, which has others that the leader's has not; if the \
             leader renamed them, rows with an old name keep it: run the leader's ALTER TYPE … RENAME \
             VALUE on the follower before the new name comes, or copy the follower anew"
        );
    }
    for (n, label) in labels.iter().enumerate() {
        if known.contains(label) {
            continue;
        }
        let place = match n.checked_sub(1).and_then(|before| labels.get(before)) {
            Some(before) => format!(" AFTER {}", quote_literal(before)),
            None => labels
                .iter()
                .find(|later| known.contains(later))
                .map_or_else(String::new, |later| {
                    format!(" BEFORE {}", quote_literal(later))
                }),
        };
        let sql = format!(
            "ALTER TYPE {} ADD VALUE IF NOT EXISTS {}{place}",
            name.quoted(),
            quote_literal(label)
        );
        run(client, table, CREATING, &sql).await?;
    }
    Ok(())
}

/// Labels of the follower that the leader has not, if the leader has some that the follower has not:
/// labels cannot be dropped, so they may be the old names of those.
fn perhaps_renamed<'a>(known: &'a [String], labels: &[String]) -> Vec<&'a str> {
    if labels.iter().all(|label| known.contains(label)) {
        return Vec::new();
    }
    let strange = known.iter().filter(|label| !labels.contains(label));
    strange.map(String::as_str).collect()
}

async fn create_extension(client: &Client, table: &TableName, name: &str) -> Result<()> {
    let there = client
        .query_opt(
            "SELECT 1 FROM pg_catalog.pg_extension WHERE extname = $1",
            &[&name],
        )
        .await
        .map_err(|error| classify(&error, "reading the follower's extensions"))?;
    if there.is_some() {
        return Ok(());
    }
    let sql = format!(
        "CREATE EXTENSION IF NOT EXISTS {} SCHEMA public",
        quote_identifier(name)
    );
    client.batch_execute(&sql).await.map_err(|error| match error.as_db_error() {
        Some(server) => Error::halt(
            format!(
                "table {table}: extension {name} is needed on the follower and cannot be created: {}",
                summary(server)
            ),
            format!(
                "install extension {name} on the follower: as a superuser, CREATE EXTENSION {}",
                quote_identifier(name)
            ),
        ),
        None => classify(&error, "creating an extension"),
    })
}

/// Runs one statement. `doing`: what it does to the table.
pub(super) async fn run(client: &Client, table: &TableName, doing: &str, sql: &str) -> Result<()> {
    let done = client.batch_execute(sql).await;
    done.map_err(|error| refused(table, doing, sql, &error))
}

/// Runs a statement that drops something, inside of a transaction. `false`: something else depends on it, and
/// nothing was done.
pub(super) async fn drop_unless_needed(
    client: &Client,
    table: &TableName,
    doing: &str,
    sql: &str,
) -> Result<bool> {
    run(client, table, doing, "SAVEPOINT walferry_drop").await?;
    let dropped = client.batch_execute(sql).await;
    if let Err(error) = &dropped {
        // dependent_objects_still_exist
        if error.code().map(|code| code.code()) != Some("2BP01") {
            return Err(refused(table, doing, sql, error));
        }
        run(client, table, doing, "ROLLBACK TO SAVEPOINT walferry_drop").await?;
    }
    run(client, table, doing, "RELEASE SAVEPOINT walferry_drop").await?;
    Ok(dropped.is_ok())
}

/// Why a statement has failed. Errors of DDL are for a person, unless the server's state is to blame.
fn refused(table: &TableName, doing: &str, sql: &str, error: &tokio_postgres::Error) -> Error {
    let doing = format!("{doing} table {table} on the follower");
    match error.as_db_error() {
        Some(server)
            if matches!(
                server.code().code().get(..2),
                Some("42" | "3F" | "0A" | "22" | "23" | "2B" | "54")
            ) =>
        {
            // Messages of data exceptions and violations may hold values.
            let what = match server.code().code().get(..2) {
                Some("22" | "23") => summary(server),
                Some(_) | None => format!("{} ({})", server.message(), server.code().code()),
            };
            Error::halt(
                format!("{doing}: {what}"),
                format!(
                    "let the follower's role do it, or do it by hand: {}",
                    shortened(sql)
                ),
            )
        }
        Some(_) | None => classify(error, &doing),
    }
}

/// A statement for an error text; tables may have 1,600 columns.
fn shortened(sql: &str) -> String {
    const SHOWN_CHARACTERS: usize = 2_000;
    if sql.chars().count() <= SHOWN_CHARACTERS {
        return sql.to_owned();
    }
    let mut text: String = sql.chars().take(SHOWN_CHARACTERS).collect();
    text.push('…');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_may_have_been_renamed_if_one_is_new_and_one_is_strange() {
        let list = |labels: &[&str]| labels.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>();
        let known = list(&["a", "b"]);
        assert_eq!(perhaps_renamed(&known, &list(&["a", "c"])), ["b"]);
        assert!(perhaps_renamed(&known, &list(&["a", "b", "c"])).is_empty());
        assert!(perhaps_renamed(&known, &list(&["a"])).is_empty());
    }

    #[test]
    fn a_long_statement_is_shortened_at_a_character() {
        assert_eq!(shortened("CREATE"), "CREATE");
        let long = "😀".repeat(3_000);
        assert_eq!(shortened(&long).chars().count(), 2_001);
    }
}
