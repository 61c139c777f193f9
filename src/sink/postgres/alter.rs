//! What is to be done to a follower's table so that it takes the shape of the leader's next version, as the
//! leader's own DDL did to its table. Pure; [`following`](super::following) does it.
//!
//! The leader's column numbers say which column is which (`attnum`: a rename keeps it, nothing gets it twice),
//! so a rename is told from a column dropped and another one added. Where a version or the notes of the one
//! before have no numbers nothing is decided here: the operator is asked.
//!
//! Columns and indexes that the follower has on top are left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::config::SchemaChanges;
use crate::model::relation::{quote_identifier, quote_literal};
use crate::model::widening::{TypeOf, is_widening};
use crate::model::{Column, Fill, TableSchema};
use crate::sink::leader_shape::{LeaderShape, NeedsCopy, rows_follow, type_of};

/// A column of the follower's table.
#[derive(Clone, Debug)]
pub(super) struct Held {
    /// `attnum`.
    pub number: i16,
    /// Its name.
    pub name: String,
    /// Its type.
    pub of: TypeOf,
    /// It has the very type of the version's column that lives here.
    pub same_type: bool,
    /// NOT NULL.
    pub not_null: bool,
    /// It fills itself: a default, an identity, an expression.
    pub fills_itself: bool,
}

/// The version to come, the one before, and the follower's table.
#[derive(Clone, Copy)]
pub(super) struct Change<'a> {
    /// The version to come.
    pub schema: &'a TableSchema,
    /// The version that the follower shows.
    pub before: &'a LeaderShape,
    /// The follower's columns by the leader's numbers, of all versions noted of this table of the leader's.
    pub homes: &'a BTreeMap<i16, i16>,
    /// The follower's columns.
    pub held: &'a [Held],
    /// The follower's table has no rows.
    pub empty: bool,
    /// What may be done.
    pub may: SchemaChanges,
}

/// Something to be done to the follower's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Alteration {
    /// The leader has dropped the column.
    Drop(String),
    /// From, to.
    Rename(String, String),
    /// The column's type becomes this one, by this expression.
    Type {
        /// Its name.
        name: String,
        /// The type as SQL.
        to: String,
        /// Nothing is converted: the table has no rows.
        empty: bool,
    },
    /// A new column.
    Add {
        /// Its name.
        name: String,
        /// The type as SQL.
        of: String,
        /// What older rows have in it.
        fill: Option<String>,
        /// NOT NULL.
        not_null: bool,
    },
    /// Older rows get what the leader's have in a column that the follower has already.
    Fill {
        /// Its name.
        name: String,
        /// The type as SQL.
        of: String,
        /// What they have.
        fill: Option<String>,
    },
    /// The column may be NULL.
    DropNotNull(String),
    /// The leader's table has another primary key now, of these columns of the follower, or none.
    PrimaryKey(Vec<String>),
}

/// What is to be done, in this order.
///
/// # Errors
/// When the leader has changed rows in a way that the stream does not show, or it cannot be told which column
/// is which.
pub(super) fn alterations(change: Change<'_>) -> Result<Vec<Alteration>, NeedsCopy> {
    let Change { schema, before, .. } = change;
    let after = LeaderShape::told(schema)?;
    if !change.empty {
        rows_follow(schema, before)?;
    }
    let mut all = Vec::new();
    change.old_columns(&mut all);
    change.renames(&mut all);
    for column in &schema.columns {
        change.column(column, &mut all);
    }
    if before.primary_key != after.primary_key && change.may == SchemaChanges::Follow {
        let names = schema.primary_key.iter();
        let names = names.map(|&n| schema.columns[n].name.clone());
        all.push(Alteration::PrimaryKey(names.collect()));
    }
    Ok(all)
}

impl<'a> Change<'a> {
    /// The follower's column of the leader's with this number.
    fn home(self, number: i16) -> Option<&'a Held> {
        let home = self.homes.get(&number)?;
        self.held.iter().find(|held| held.number == *home)
    }

    /// The follower's column that the version's column lives in, or may live in: none of another one's.
    fn home_of(self, column: &Column) -> Option<&'a Held> {
        let number = column.number?;
        self.home(number).or_else(|| {
            let named = self.held.iter().find(|held| held.name == column.name)?;
            let is_taken = self.homes.values().any(|home| *home == named.number);
            (!is_taken).then_some(named)
        })
    }

    /// Columns that the follower has from the leader, and the version has not.
    fn old_columns(self, all: &mut Vec<Alteration>) {
        for (number, home) in self.homes {
            let held = self.held.iter().find(|held| held.number == *home);
            let Some(held) = held.filter(|_| self.schema.numbered(*number).is_none()) else {
                continue;
            };
            // Without rows the version may be an older one: what came after it is not there yet.
            let is_later = self.empty && !self.schema.unpublished.contains(number);
            let is_gone = is_later || self.schema.dropped.contains(number);
            if is_gone && self.may == SchemaChanges::Follow {
                all.push(Alteration::Drop(held.name.clone()));
            } else if held.not_null && !held.fills_itself {
                all.push(Alteration::DropNotNull(held.name.clone()));
            }
        }
    }

    /// Columns that have another name now. A name that another one of them has yet is taken in two steps.
    fn renames(self, all: &mut Vec<Alteration>) {
        if self.may != SchemaChanges::Follow {
            return;
        }
        let pairs: Vec<(&Held, &str)> = self
            .schema
            .columns
            .iter()
            .filter_map(|column| Some((self.home(column.number?)?, column.name.as_str())))
            .filter(|(held, name)| held.name != *name)
            .collect();
        let wanted: BTreeSet<&str> = pairs.iter().map(|(_, name)| *name).collect();
        let mut later = Vec::new();
        for (held, name) in pairs {
            if wanted.contains(held.name.as_str()) {
                let between = format!("walferry_{}", held.number);
                all.push(Alteration::Rename(held.name.clone(), between.clone()));
                later.push(Alteration::Rename(between, name.to_owned()));
            } else {
                later.push(Alteration::Rename(held.name.clone(), name.to_owned()));
            }
        }
        all.append(&mut later);
    }

    /// Type, NULLs and older rows of one column; its name is the version's by now.
    fn column(self, column: &Column, all: &mut Vec<Alteration>) {
        let name = column.name.clone();
        let (of, fill) = (column.type_name.clone(), value(column));
        let Some(held) = self.home_of(column) else {
            let not_null = column.not_null && (self.empty || fill.is_some());
            all.push(Alteration::Add {
                name,
                of,
                fill: fill.filter(|_| !self.empty),
                not_null,
            });
            return;
        };
        let name_now = match self.may {
            SchemaChanges::Follow => name,
            SchemaChanges::Compatible | SchemaChanges::Halt => held.name.clone(),
        };
        let before = column
            .number
            .and_then(|number| self.before.numbered(number));
        let to = type_of(column);
        let takes = held.same_type || is_widening(to, held.of);
        let widens = is_widening(held.of, to);
        if !takes && (widens || self.may == SchemaChanges::Follow) {
            all.push(Alteration::Type {
                name: name_now.clone(),
                to: of.clone(),
                empty: self.empty,
            });
        }
        if before.is_none() && !self.empty {
            all.push(Alteration::Fill {
                name: name_now.clone(),
                of,
                fill,
            });
        }
        let was_not_null = before.is_none_or(|before| before.not_null);
        if held.not_null && !column.not_null && was_not_null && !held.fills_itself {
            all.push(Alteration::DropNotNull(name_now));
        }
    }
}

fn value(column: &Column) -> Option<String> {
    match &column.fill {
        Some(Fill::Value(value)) => Some(value.clone()),
        Some(Fill::Unknown) | None => None,
    }
}

impl fmt::Display for Alteration {
    /// For the log: without values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Alteration::Drop(name) => write!(f, "DROP COLUMN {name}"),
            Alteration::Rename(from, to) => write!(f, "RENAME COLUMN {from} TO {to}"),
            Alteration::Type { name, to, .. } => write!(f, "ALTER COLUMN {name} TYPE {to}"),
            Alteration::Add { name, of, .. } => write!(f, "ADD COLUMN {name} {of}"),
            Alteration::Fill { name, .. } => write!(f, "values of older rows in {name}"),
            Alteration::DropNotNull(name) => write!(f, "ALTER COLUMN {name} DROP NOT NULL"),
            Alteration::PrimaryKey(names) if names.is_empty() => write!(f, "no PRIMARY KEY"),
            Alteration::PrimaryKey(names) => write!(f, "PRIMARY KEY ({})", names.join(", ")),
        }
    }
}

impl Alteration {
    /// The statements, for the table with this quoted name.
    pub(super) fn sql(&self, table: &str) -> Vec<String> {
        let alter = format!("ALTER TABLE {table}");
        match self {
            Alteration::Drop(name) => {
                vec![format!("{alter} DROP COLUMN {}", quote_identifier(name))]
            }
            Alteration::Rename(from, to) => vec![format!(
                "{alter} RENAME COLUMN {} TO {}",
                quote_identifier(from),
                quote_identifier(to)
            )],
            Alteration::Type { name, to, empty } => {
                let name = quote_identifier(name);
                let from = if *empty { "NULL" } else { &name };
                vec![format!(
                    "{alter} ALTER COLUMN {name} TYPE {to} USING {from}::{to}"
                )]
            }
            Alteration::Add {
                name,
                of,
                fill,
                not_null,
            } => {
                let name = quote_identifier(name);
                let not_null = if *not_null { " NOT NULL" } else { "" };
                let default = |fill: &String| format!(" DEFAULT {}::{of}", quote_literal(fill));
                let default = fill.as_ref().map(default);
                let mut all = vec![format!(
                    "{alter} ADD COLUMN {name} {of}{}{not_null}",
                    default.as_deref().unwrap_or_default()
                )];
                if default.is_some() {
                    all.push(format!("{alter} ALTER COLUMN {name} DROP DEFAULT"));
                }
                all
            }
            Alteration::Fill { name, of, fill } => {
                let name = quote_identifier(name);
                let value = fill.as_deref().map(quote_literal);
                let value = value.as_deref().unwrap_or("NULL");
                vec![format!(
                    "UPDATE {table} SET {name} = {value}::{of} \
                     WHERE {name}::text IS DISTINCT FROM {value}::{of}::text"
                )]
            }
            Alteration::DropNotNull(name) => vec![format!(
                "{alter} ALTER COLUMN {} DROP NOT NULL",
                quote_identifier(name)
            )],
            Alteration::PrimaryKey(names) if names.is_empty() => Vec::new(),
            Alteration::PrimaryKey(names) => {
                let names: Vec<String> = names.iter().map(|name| quote_identifier(name)).collect();
                vec![format!("{alter} ADD PRIMARY KEY ({})", names.join(", "))]
            }
        }
    }
}

#[cfg(test)]
#[path = "alter_tests.rs"]
mod tests;
