//! Which of the follower's columns are the leader's, and what makes a table fit for the next version. Pure.
//!
//! DDL commits by itself here, so it is done before the transaction that needs it, at the boundary before: one
//! ALTER TABLE a version, which servers do wholly or not at all. So every part of it must be harmless while rows of
//! older versions are still to come, and the same when it is asked for again:
//!
//! - a column is added with the value that older rows have as its default, so that older changes fill it too;
//! - a type only becomes wider, NOT NULL only goes;
//! - a column that has another name keeps its comment (`walferry <relation>.<attnum>` on the leader), by which it
//!   is found, under the old name and the new one;
//! - a column that the leader dropped may be NULL from here on, and is dropped when a transaction with rows of the
//!   version is committed, or none of an older one can come.
//!
//! Readers see the table altered at most one batch before the rows. Whatever cannot be done so, as the rows were
//! changed on the leader in a way that the stream does not show, needs a copy; then the table is emptied first.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::catalog::{Found, Live};
use super::encode::{Form, Unfit, put};
use super::types::{Held, Server};
use super::wire::{literal, quoted};
use crate::config::SchemaChanges;
use crate::model::{Column, Fill, Oid, TableSchema};
use crate::sink::leader_shape::{LeaderShape, NeedsCopy, padded_rows_follow, tag};

/// A version of the leader's table, as it is noted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    /// The version.
    pub version: String,
    /// What it was on the leader; none if it does not have all numbers.
    pub leader: Option<LeaderShape>,
    /// The follower's columns by the leader's names.
    pub homes: BTreeMap<String, String>,
}

fn is_tagged(live: &Live, relation: Oid) -> bool {
    let tag = format!("walferry {}.", relation.0);
    live.comment.starts_with(&tag)
}

/// The follower's column of each of the version's; `own`: the version's own note.
pub(super) fn homes<'f>(
    schema: &TableSchema,
    notes: &[Note],
    found: &'f Found,
) -> Vec<Option<&'f Live>> {
    let version = schema.version().to_string();
    let own = notes.iter().find(|note| note.version == version);
    // A column with another number may have taken the name over.
    let is_free = |live: &Live, column: &Column| {
        let tag = column.number.map(|number| tag(schema.relation, number));
        tag.is_none() || !is_tagged(live, schema.relation) || tag.as_ref() == Some(&live.comment)
    };
    let sure = |column: &Column| {
        let number = column.number;
        let by_tag = number.and_then(|number| {
            let tag = tag(schema.relation, number);
            found.columns.iter().find(|live| live.comment == tag)
        });
        let by_own = || found.column(own?.homes.get(&column.name)?);
        let by_note = || {
            let home = notes.iter().rev().find_map(|note| {
                let leader = note.leader.as_ref()?;
                let of = leader
                    .columns
                    .iter()
                    .find(|(_, of)| Some(of.number) == number)?;
                (leader.relation == schema.relation).then(|| note.homes.get(of.0))?
            })?;
            found.column(home)
        };
        by_tag
            .or_else(|| by_own().filter(|live| is_free(live, column)))
            .or_else(|| by_note().filter(|live| is_free(live, column)))
    };
    let sure: Vec<Option<&Live>> = schema.columns.iter().map(sure).collect();
    let mut taken: BTreeSet<&str> = sure
        .iter()
        .flatten()
        .map(|live| live.name.as_str())
        .collect();
    let columns = schema.columns.iter().zip(&sure);
    columns
        .map(|(column, sure)| match sure {
            Some(live) => Some(*live),
            None => found
                .column(&column.name)
                .filter(|live| column.number.is_none() || !is_tagged(live, schema.relation))
                .filter(|live| taken.insert(live.name.as_str())),
        })
        .collect()
}

/// What is noted of a version whose columns have these homes, behind what is noted already.
pub(super) fn note(schema: &TableSchema, homes: &[Option<&Live>], notes: &[Note]) -> Note {
    let before = notes.last().and_then(|note| note.leader.as_ref());
    let homes = schema.columns.iter().zip(homes);
    Note {
        version: schema.version().to_string(),
        leader: LeaderShape::behind(schema, before.and_then(|before| before.rewritten)),
        homes: homes
            .filter_map(|(column, live)| Some((column.name.clone(), live.as_ref()?.name.clone())))
            .collect(),
    }
}

/// The version to come, the one before, and the follower's table.
#[derive(Clone, Copy)]
pub(super) struct Change<'a> {
    /// The version to come.
    pub schema: &'a TableSchema,
    /// How its columns are held.
    pub held: &'a [Held],
    /// What is noted, oldest first.
    pub notes: &'a [Note],
    /// The follower's table.
    pub found: &'a Found,
    /// The follower.
    pub server: Server,
    /// What may be done.
    pub may: SchemaChanges,
    /// The table has no rows.
    pub empty: bool,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Parts of one ALTER TABLE.
    pub clauses: Vec<String>,
    /// Assignments for the rows that are there.
    pub fills: Vec<String>,
    /// Columns to drop once no older rows can come.
    pub left: Vec<String>,
}

/// Why it cannot be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hindrance {
    /// The leader's table is another one of that name.
    MadeAnew,
    /// The table needs a copy, for this reason.
    NeedsCopy(String),
    /// What older rows have in this column cannot be held.
    Unfit(String, Unfit),
}

impl From<NeedsCopy> for Hindrance {
    fn from(NeedsCopy(why): NeedsCopy) -> Self {
        Hindrance::NeedsCopy(why)
    }
}

/// What makes the table fit.
pub(super) fn plan(change: Change<'_>) -> Result<Plan, Hindrance> {
    let Change { schema, notes, .. } = change;
    let before = notes.last().and_then(|note| note.leader.as_ref());
    if before.is_none() && !change.empty {
        // It cannot be told what the leader did: whoever looks at the table finds what does not fit.
        return Ok(Plan::default());
    }
    if !change.empty {
        LeaderShape::told(schema)?;
    }
    if before.is_some_and(|before| before.relation != schema.relation) && !change.empty {
        return Err(Hindrance::MadeAnew);
    }
    if let Some(before) = before.filter(|_| !change.empty) {
        padded_rows_follow(schema, before)?;
    }
    let homes = homes(schema, notes, change.found);
    let mut plan = Plan::default();
    change.old_columns(&homes, &mut plan);
    for (n, home) in homes.iter().enumerate() {
        change.column(n, *home, before, &mut plan)?;
    }
    change.keys(&homes, &mut plan);
    Ok(plan)
}

/// The definition of a column that walferry makes.
pub(super) fn definition(
    column: &Column,
    (relation, not_null): (Oid, bool),
    of: &str,
    default: Option<&str>,
) -> String {
    let null = if not_null { "NOT NULL" } else { "NULL" };
    let default = default.map_or_else(String::new, |value| format!(" DEFAULT ({value})"));
    let comment = column.number.map_or_else(String::new, |number| {
        format!(" COMMENT {}", literal(&tag(relation, number)))
    });
    format!("{of} {null}{default}{comment}")
}

impl Change<'_> {
    fn follows(self) -> bool {
        self.may == SchemaChanges::Follow
    }

    /// Columns that the follower has from the leader, and the version has not.
    fn old_columns(self, homes: &[Option<&Live>], plan: &mut Plan) {
        let schema = self.schema;
        let mut seen = BTreeSet::new();
        for note in self.notes {
            let Some(leader) = &note.leader else { continue };
            for (name, column) in &leader.columns {
                let home = note
                    .homes
                    .get(name)
                    .and_then(|home| self.found.column(home));
                let Some(live) = home.filter(|live| seen.insert(live.name.clone())) else {
                    continue;
                };
                if homes.iter().flatten().any(|home| home.name == live.name) {
                    continue;
                }
                let is_later = self.empty && !schema.unpublished.contains(&column.number);
                let is_gone = is_later || schema.dropped.contains(&column.number);
                if is_gone && self.follows() {
                    plan.left.push(live.name.clone());
                }
                let blocks = !live.nullable && !live.fills_itself && !live.generated;
                if blocks {
                    plan.clauses.push(format!(
                        "MODIFY COLUMN {} {} NULL COMMENT {}",
                        live.quoted(),
                        live.definition(),
                        literal(&live.comment)
                    ));
                }
            }
        }
    }

    fn column(
        self,
        n: usize,
        home: Option<&Live>,
        before: Option<&LeaderShape>,
        plan: &mut Plan,
    ) -> Result<(), Hindrance> {
        let (schema, held) = (self.schema, self.held[n]);
        let column = &schema.columns[n];
        let of = held.sql(self.server);
        let fill = self.fill(column, held)?;
        let Some(live) = home else {
            let not_null = column.not_null && (self.empty || fill.is_some());
            let fill = fill.filter(|_| !self.empty);
            let of = definition(column, (schema.relation, not_null), &of, fill.as_deref());
            plan.clauses
                .push(format!("ADD COLUMN {} {of}", quoted(&column.name)));
            return Ok(());
        };
        let old = column
            .number
            .zip(before)
            .and_then(|(number, before)| before.numbered(number));
        if old.is_none() && before.is_some() && !self.empty {
            let fill = fill.unwrap_or_else(|| "NULL".to_owned());
            plan.fills.push(format!("{} = {fill}", live.quoted()));
        }
        let name = match self.follows() {
            true => &column.name,
            false => &live.name,
        };
        let takes = live.generated || live.takes(held, self.compared(n), self.server).is_ok();
        let was_not_null = old.is_none_or(|old| old.not_null);
        let loosens = !live.nullable && !column.not_null && was_not_null && !live.fills_itself;
        let tagged = column
            .number
            .is_none_or(|number| live.comment == tag(schema.relation, number));
        let retags = self.empty && !tagged && live.comment.starts_with("walferry ");
        if takes && *name == live.name && !loosens && !retags {
            return Ok(());
        }
        let not_null = !live.nullable && !loosens;
        let of = match takes {
            true => live.definition(),
            false => of,
        };
        plan.clauses.push(format!(
            "CHANGE COLUMN {} {} {}",
            live.quoted(),
            quoted(name),
            definition(column, (schema.relation, not_null), &of, None)
        ));
        Ok(())
    }

    /// Whether rows are found by a column: by its key, or by all of them.
    fn compared(self, n: usize) -> bool {
        is_compared(self.schema, n)
    }

    /// What older rows have in a column, as a literal.
    fn fill(self, column: &Column, held: Held) -> Result<Option<String>, Hindrance> {
        let Some(Fill::Value(value)) = &column.fill else {
            return Ok(None);
        };
        let mut out = Vec::new();
        put(
            held,
            value.as_bytes(),
            (Form::Assigned, self.server),
            &mut out,
        )
        .map_err(|unfit| Hindrance::Unfit(column.name.clone(), unfit))?;
        Ok(Some(String::from_utf8_lossy(&out).into_owned()))
    }

    /// Primary key, and the unique index that rows are found by.
    fn keys(self, homes: &[Option<&Live>], plan: &mut Plan) {
        let schema = self.schema;
        if !self.follows() {
            return;
        }
        let named = |columns: &[usize]| -> Vec<&str> {
            columns
                .iter()
                .map(|&n| schema.columns[n].name.as_str())
                .collect()
        };
        // Names before the ALTER, for what is there.
        let homed = |columns: &[usize]| -> Vec<Option<&str>> {
            columns
                .iter()
                .map(|&n| homes[n].map(|live| live.name.as_str()))
                .collect()
        };
        let primary = self
            .found
            .indexes
            .iter()
            .find(|index| index.name == "PRIMARY");
        let is = |columns: &[usize]| {
            let wanted = homed(columns);
            primary.is_some_and(|index| {
                index.columns.len() == wanted.len()
                    && index.columns.iter().map(Option::as_deref).eq(wanted)
            })
        };
        let before = self.notes.last().and_then(|note| note.leader.as_ref());
        let numbers: Vec<i16> = schema
            .primary_key
            .iter()
            .filter_map(|&n| schema.columns[n].number)
            .collect();
        let changed = before.is_none_or(|before| before.primary_key != numbers);
        if changed && !is(&schema.primary_key) {
            if primary.is_some() {
                plan.clauses.push("DROP PRIMARY KEY".to_owned());
            }
            if !schema.primary_key.is_empty() {
                let names = list(&named(&schema.primary_key));
                plan.clauses.push(format!("ADD PRIMARY KEY ({names})"));
            }
        }
        let same = |a: &[usize], b: &[usize]| a.len() == b.len() && a.iter().all(|n| b.contains(n));
        let has = homes_index(&self.found.indexes, &homed(&schema.key)).is_some();
        if schema.has_key() && !same(&schema.key, &schema.primary_key) && !has {
            let names = list(&named(&schema.key));
            plan.clauses.push(format!("ADD UNIQUE INDEX ({names})"));
        }
    }
}

/// Whether rows are found by a column: by its key, or by all of them.
pub(super) fn is_compared(schema: &TableSchema, n: usize) -> bool {
    !schema.has_key() || schema.key.contains(&n) || schema.primary_key.contains(&n)
}

/// Names in backquotes.
pub(super) fn list(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| quoted(name)).collect();
    names.join(", ")
}

/// The unique index that has exactly these columns, whole.
pub(super) fn homes_index<'i>(
    indexes: &'i [super::catalog::Index],
    columns: &[Option<&str>],
) -> Option<&'i super::catalog::Index> {
    indexes.iter().find(|index| {
        let has = |name: &Option<&str>| {
            name.is_some() && index.columns.iter().any(|c| c.as_deref() == *name)
        };
        index.unique
            && index.whole
            && index.columns.len() == columns.len()
            && columns.iter().all(has)
    })
}
