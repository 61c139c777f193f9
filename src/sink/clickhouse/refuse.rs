//! Tables that cannot be held at all. Pure.

use super::checkpoint::OWN_TABLES;
use super::shape::{own_columns, wanted};
use super::types::Kind;
use crate::config::{ClickHouseMode, ClickHouseSinkSettings};
use crate::error::{Error, Result};
use crate::model::TableSchema;
use crate::sink::databases::Databases;

/// Refuses a table that cannot be held at all.
pub(super) fn refuse_unheld(
    settings: &ClickHouseSinkSettings,
    databases: &Databases,
    schema: &TableSchema,
) -> Result<()> {
    let table = &schema.table;
    let (database, name) = databases.of(table)?;
    if database == databases.own() && OWN_TABLES.contains(&name) {
        return Err(Error::halt(
            format!("table {table} has the name of one of walferry's own tables on the follower"),
            format!("leave it out with [tables] exclude = [\"{table}\"] in the sink's settings"),
        ));
    }
    if !schema.has_key() && settings.mode == ClickHouseMode::Current {
        return Err(Error::halt(
            format!("table {table} has no key, by which its rows could replace one another"),
            format!(
                "give it a primary key on the leader, leave it out with [tables] exclude = [\"{table}\"], or keep \
                 every change of it with mode = \"history\" in a sink of its own"
            ),
        ));
    }
    let own = own_columns(settings.mode);
    let taken = schema
        .columns
        .iter()
        .find(|column| own.iter().any(|(name, _)| *name == column.name));
    match taken {
        None => refuse_nested(settings, schema),
        Some(column) => Err(Error::halt(
            format!(
                "table {table}: its column {} has a name that walferry needs for its own",
                column.name
            ),
            format!(
                "rename it on the leader, or leave the table out with [tables] exclude = [\"{table}\"]"
            ),
        )),
    }
}

/// Refuses arrays that would be one Nested: of columns that have a name before a point in common ClickHouse wants
/// arrays of one length in every row.
fn refuse_nested(settings: &ClickHouseSinkSettings, schema: &TableSchema) -> Result<()> {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for column in &schema.columns {
        let Some((group, _)) = column.name.split_once('.') else {
            continue;
        };
        if !matches!(wanted(settings, schema, column)?.kind, Kind::Array(_)) {
            continue;
        }
        let (table, name) = (&schema.table, &column.name);
        if let Some((_, other)) = seen.iter().find(|(of, _)| *of == group) {
            return Err(Error::halt(
                format!(
                    "table {table}: its columns {other} and {name} would be arrays of one Nested, {group}, which \
                     ClickHouse wants to be of one length in every row"
                ),
                format!(
                    "hold one as the leader's text, with [columns] \"{table}.{name}\" = \"String\" in the sink's \
                     settings, rename it on the leader, or leave the table out with [tables] exclude = [\"{table}\"]"
                ),
            ));
        }
        seen.push((group, name));
    }
    Ok(())
}
