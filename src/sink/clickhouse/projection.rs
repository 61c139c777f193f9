//! How rows of a schema version are written into a table of the follower. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::row_binary;
use super::types::Type;
use crate::error::{Error, Result};
use crate::model::{TableName, TableSchema};

/// A column that is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Its name here.
    pub name: String,
    /// Its number on the leader.
    pub number: Option<i16>,
    /// Its type here.
    pub of: Type,
    /// What rows have in it that are older than it; none: NULL, or the type's zero.
    pub fill: Option<String>,
}

/// A table as it is now.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// The leader's name of it.
    pub name: TableName,
    /// Its name in SQL.
    pub quoted: String,
    /// The leader's columns that it has.
    pub columns: Vec<Target>,
    /// `INSERT INTO … FORMAT Native`.
    pub insert: String,
    /// What stands before the values of each column in a block, of walferry's own too.
    pub heads: Vec<Vec<u8>>,
    /// The columns by which its rows replace one another.
    pub sorted_by: BTreeSet<String>,
}

/// Where the values of a table's columns come from in rows of one schema version.
#[derive(Clone, Debug)]
pub(super) struct Projection {
    /// The table.
    pub table: Arc<Table>,
    /// For each of the table's columns the index of the version's column, or the bytes that all rows have.
    pub sources: Vec<Source>,
    /// Indexes into the table's columns of the version's key, in the key's order.
    pub key: Vec<usize>,
    /// Whether rows of the table replace one another by the version's key: else what is deleted by that key, which is
    /// all that is known of such a row, is not found.
    pub is_sorted_by_key: bool,
}

/// The origin of a column's values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A column of the schema version.
    Column(usize),
    /// The version has no such column.
    Constant(Vec<u8>),
}

impl Projection {
    /// Rows of `schema`, written into `table`.
    ///
    /// # Errors
    /// Halt when the table lacks a column of the key, or cannot hold what older rows have in a column.
    pub(super) fn new(table: Arc<Table>, schema: &TableSchema) -> Result<Self> {
        let at = |target: &Target| {
            let by_number = schema
                .columns
                .iter()
                .position(|column| column.number.is_some() && column.number == target.number);
            by_number.or_else(|| {
                schema.columns.iter().position(|column| {
                    let numbered = column.number.is_some() && target.number.is_some();
                    column.name == target.name && !numbered
                })
            })
        };
        let mut sources = Vec::with_capacity(table.columns.len());
        for target in &table.columns {
            sources.push(match at(target) {
                Some(index) => Source::Column(index),
                None => Source::Constant(constant(&table.name, target)?),
            });
        }
        let key = schema.key.iter().map(|index| {
            let home = sources
                .iter()
                .position(|source| *source == Source::Column(*index));
            home.ok_or_else(|| {
                let name = &schema.columns[*index].name;
                Error::halt(
                    format!(
                        "table {} on the follower has no column {name}, which is part of its key",
                        table.name
                    ),
                    "have the table copied anew with walferry resync",
                )
            })
        });
        let key = key.collect::<Result<Vec<usize>>>()?;
        let names: BTreeSet<&String> = key.iter().map(|&n| &table.columns[n].name).collect();
        Ok(Projection {
            is_sorted_by_key: names == table.sorted_by.iter().collect(),
            table,
            sources,
            key,
        })
    }
}

fn constant(table: &TableName, target: &Target) -> Result<Vec<u8>> {
    bytes_of_fill(table, &target.name, &target.of, target.fill.as_ref())
}

/// The bytes of what rows have in a column that are older than it.
///
/// # Errors
/// Halt when the column cannot hold it.
pub(super) fn bytes_of_fill(
    table: &TableName,
    column: &str,
    of: &Type,
    fill: Option<&String>,
) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match fill {
        None => row_binary::nothing(of, &mut bytes),
        Some(value) => {
            let written = row_binary::value(of, Some(value.as_bytes()), &mut bytes);
            written.map_err(|why| {
                Error::halt(
                    format!("table {table} column {column}: what older rows have in it {why}"),
                    format!(
                        "give the column another type: [columns] \"{table}.{column}\" = \"String\""
                    ),
                )
            })?;
        }
    }
    Ok(bytes)
}
