//! Where the columns of a schema version are in the follower's table, and whether they fit. Pure.
//!
//! The leader's DDL is repeated on the follower by hand: before, at or after the place in the log
//! where the leader's changes take the new shape. Names alone cannot tell then: after RENAME a TO b and
//! ADD a, changes from before mean another `a`. So what was found is noted for each schema version, as
//! the follower's column numbers, which a rename does not touch (`noted`); a version met for the first
//! time goes by the notes of the version before it, then by name.
//!
//! The leader's own column numbers are not in the stream, so a name that another column takes over
//! between two versions, unnoticed on the follower, is beyond what can be seen here.

use std::collections::{BTreeMap, BTreeSet};

use super::catalog::Attribute;
use crate::error::{Error, NEW_PIPELINE, Result};
use crate::model::relation::quote_identifier;
use crate::model::widening::{TypeOf, is_widening};
use crate::model::{Oid, TableSchema};
use crate::sink::leader_shape::LeaderShape;

/// A column of the follower's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Live {
    /// `attnum`.
    pub number: i16,
    /// Its name now.
    pub name: String,
}

/// The follower's column numbers of a version, by the leader's name.
pub(super) type Numbers = BTreeMap<String, i16>;

/// What is noted of a table, in the order in which its versions were first met.
#[derive(Clone, Debug, Default)]
pub(super) struct Noted {
    /// Numbers of each version.
    pub versions: Vec<Numbers>,
    /// What each of them was on the leader, where that is noted.
    pub leader: Vec<Option<LeaderShape>>,
    /// Which of them is the version in question; none before its first use.
    pub own: Option<usize>,
}

impl Noted {
    /// Whether the follower's table has the shape of the version in question, as far as is noted.
    pub(super) fn is_current(&self) -> bool {
        self.versions.is_empty() || self.own == self.versions.len().checked_sub(1)
    }

    /// The follower's columns by numbers of the leader's table.
    pub(super) fn homes(&self, relation: Oid) -> BTreeMap<i16, i16> {
        let mut homes = BTreeMap::new();
        for (numbers, leader) in self.versions.iter().zip(&self.leader) {
            let Some(leader) = leader.as_ref().filter(|l| l.relation == relation) else {
                continue;
            };
            for (name, column) in &leader.columns {
                if let Some(home) = numbers.get(name) {
                    homes.insert(column.number, *home);
                }
            }
        }
        homes
    }

    /// The number of a column of this version.
    fn own(&self, name: &str) -> Option<i16> {
        self.versions[self.own?].get(name).copied()
    }

    /// The number that a column of this name had in the version before, for a version met first.
    fn before(&self, name: &str) -> Option<i16> {
        match self.own {
            Some(_) => None,
            None => self.versions.last()?.get(name).copied(),
        }
    }

    /// Whether the leader had this column once, and no more in the version before this one.
    fn is_left_before(&self, number: i16) -> bool {
        let has = |numbers: &Numbers| numbers.values().any(|n| *n == number);
        let met_first = self.own.is_none();
        met_first && self.versions.iter().any(has) && !self.versions.last().is_some_and(has)
    }

    /// Whether a version after this one does not have this column any more.
    fn is_left_later(&self, number: i16) -> bool {
        let lacks = |numbers: &Numbers| numbers.values().all(|n| *n != number);
        let later = self.own.map(|own| &self.versions[own + 1..]);
        later.is_some_and(|later| later.iter().any(lacks))
    }
}

/// A schema version and what is known about its table.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// The version.
    pub schema: &'a TableSchema,
    /// The table's newest version in the log, if that is another one.
    pub newest: Option<&'a TableSchema>,
    /// What is noted.
    pub noted: &'a Noted,
    /// The follower's columns.
    pub live: &'a [Live],
}

/// Where a leader's column is on the follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Home<'a> {
    /// In this column.
    In(&'a Live),
    /// Nowhere, and rightly so: the leader dropped it later, and the follower's, which had this number,
    /// is dropped already.
    Dropped(i16),
    /// Nowhere.
    Missing,
    /// In this column by its number; but another one has the name.
    Twice(&'a Live),
    /// It was dropped, and another one of this name made, while changes from before are still to come.
    Remade,
    /// This column has the name, but is one that the leader dropped before it made the one meant.
    Old(&'a Live),
}

/// The home of each column of the version.
pub(super) fn homes<'a>(wanted: Wanted<'a>) -> Vec<Home<'a>> {
    let mut taken = BTreeSet::new();
    let columns = 0..wanted.schema.columns.len();
    columns
        .map(|n| match home(wanted, n) {
            Home::In(live) if !taken.insert(live.number) => Home::Twice(live),
            home => home,
        })
        .collect()
}

fn home(wanted: Wanted<'_>, n: usize) -> Home<'_> {
    let Wanted {
        schema,
        newest,
        noted,
        live,
    } = wanted;
    let name = &schema.columns[n].name;
    let own = noted.own(name);
    let named = live.iter().find(|live| live.name == *name);
    let by_name = match named {
        None => Home::Missing,
        Some(named) if noted.is_left_before(named.number) => Home::Old(named),
        Some(named) => Home::In(named),
    };
    let Some(number) = own.or_else(|| noted.before(name)) else {
        return by_name;
    };
    let Some(held) = live.iter().find(|live| live.number == number) else {
        let is_key = schema.key.contains(&n);
        return match named {
            None | Some(_) if !is_key && noted.is_left_later(number) => Home::Dropped(number),
            None if !is_key && is_dropped_later(wanted, n) => Home::Dropped(number),
            Some(_) if newest.is_some_and(|newest| has(newest, name)) => Home::Remade,
            None | Some(_) => by_name,
        };
    };
    if held.name == *name {
        return Home::In(held);
    }
    if own.is_none() && has(schema, &held.name) {
        // In this version it is that other column's.
        return by_name;
    }
    // The follower's shape is ahead of this version, or the column was renamed on the follower only.
    match (named, newest) {
        (None, _) | (Some(_), Some(_)) => Home::In(held),
        (Some(_), None) => Home::Twice(held),
    }
}

fn has(schema: &TableSchema, name: &str) -> bool {
    schema.columns.iter().any(|column| column.name == name)
}

/// Whether the leader has dropped a column since. A new column that the follower does not have yet may
/// be this one, renamed: then it is not said.
fn is_dropped_later(wanted: Wanted<'_>, n: usize) -> bool {
    let is_there = |name: &str| {
        let is_live = wanted.live.iter().any(|live| live.name == *name);
        is_live || has(wanted.schema, name)
    };
    let gone = |newest: &TableSchema| {
        let mut names = newest.columns.iter().map(|column| &column.name);
        !has(newest, &wanted.schema.columns[n].name) && names.all(|name| is_there(name))
    };
    wanted.newest.is_some_and(gone)
}

/// The numbers of the follower's columns, to be noted: of those dropped as well.
pub(super) fn numbers(schema: &TableSchema, homes: &[Home<'_>]) -> Numbers {
    let columns = schema.columns.iter().zip(homes);
    columns
        .filter_map(|(column, home)| {
            let number = match home {
                Home::In(live) => live.number,
                Home::Dropped(number) => *number,
                Home::Missing | Home::Twice(_) | Home::Remade | Home::Old(_) => return None,
            };
            Some((column.name.clone(), number))
        })
        .collect()
}

/// Checks that the follower's columns take the rows of the version.
///
/// # Errors
/// Halt, with column and remedy.
pub(super) fn check(
    wanted: Wanted<'_>,
    homes: &[Home<'_>],
    attributes: &[Attribute],
) -> Result<()> {
    let schema = wanted.schema;
    for (n, home) in homes.iter().enumerate() {
        match home {
            Home::In(live) => {
                let found = attributes.iter().find(|a| a.leader == Some(n));
                let found = found.unwrap_or_else(|| panic!("no attribute of column {live:?}"));
                check_fit(wanted, n, found)?;
            }
            Home::Dropped(_) => {}
            Home::Missing => return Err(missing(wanted, n)),
            Home::Twice(held) => return Err(twice(schema, n, held)),
            Home::Remade => return Err(remade(schema, n)),
            Home::Old(_) => return Err(old(schema, n)),
        }
    }
    let blocking = attributes.iter().find(|a| {
        let fills_itself = a.has_default || a.generated || a.identity != 0;
        a.leader.is_none() && a.not_null && !fills_itself
    });
    match blocking {
        None => Ok(()),
        Some(extra) => Err(Error::halt(
            format!(
                "column {} exists only on the follower, is NOT NULL and has no default",
                extra.name
            ),
            format!(
                "on the follower: ALTER TABLE {} ALTER COLUMN {} DROP NOT NULL",
                schema.table.quoted(),
                quote_identifier(&extra.name)
            ),
        )),
    }
}

/// Whether a follower's column takes every value of the leader's.
fn takes(column: &crate::model::Column, attribute: &Attribute) -> bool {
    let leader = TypeOf {
        oid: column.type_oid,
        modifier: column.type_modifier,
    };
    let follower = TypeOf {
        oid: Oid(attribute.type_oid),
        modifier: attribute.type_modifier,
    };
    attribute.same_type || is_widening(leader, follower)
}

fn check_fit(wanted: Wanted<'_>, n: usize, found: &Attribute) -> Result<()> {
    let column = &wanted.schema.columns[n];
    let type_name = &column.type_name;
    if found.generated && wanted.schema.key.contains(&n) {
        return Err(Error::halt(
            format!("key column {} is generated on the follower", column.name),
            "make it an ordinary column on the follower",
        ));
    }
    if found.generated || takes(column, found) {
        return Ok(());
    }
    let name = quote_identifier(&found.name);
    let ahead = match wanted.newest {
        None => "",
        Some(_) => {
            "; these changes are older than the leader's newest shape of the table, so alter it again \
             when the sink asks for it. If it asks for the one and the other in turn, changes of both \
             shapes are in one transaction or entry: rebuild the follower"
        }
    };
    Err(Error::halt(
        format!(
            "column {} is of type {} on the follower and {type_name} on the leader",
            column.name, found.type_text
        ),
        format!(
            "on the follower: ALTER TABLE {} ALTER COLUMN {name} TYPE {type_name} USING {name}::{type_name}{ahead}",
            wanted.schema.table.quoted()
        ),
    ))
}

/// Statements for a remedy: more are not what somebody reads.
const CANDIDATES_MAX: usize = 4;

fn missing(wanted: Wanted<'_>, n: usize) -> Error {
    let Wanted {
        schema,
        noted,
        live,
        ..
    } = wanted;
    let (table, column) = (schema.table.quoted(), &schema.columns[n]);
    let name = quote_identifier(&column.name);
    let add = format!("ALTER TABLE {table} ADD COLUMN {name} {}", column.type_name);
    let what = format!("column {} is missing on the follower", column.name);
    if noted.own(&column.name).is_some() {
        return Error::halt(
            format!("{what}: it was dropped while changes of it are still to come"),
            format!(
                "on the follower: {add}; once the sink has passed the leader's own DROP COLUMN or RENAME COLUMN it may be dropped again"
            ),
        );
    }
    // What may have become the new column: known of the version before, and not of this one.
    let is_left = |live: &&Live| {
        let known = |before: &Numbers| before.values().any(|number| *number == live.number);
        !has(schema, &live.name) && noted.versions.last().is_none_or(known)
    };
    let renames = live.iter().filter(is_left).take(CANDIDATES_MAX);
    let renames: String = renames
        .map(|live| {
            let old = quote_identifier(&live.name);
            format!("if it renamed {old}, ALTER TABLE {table} RENAME COLUMN {old} TO {name}; ")
        })
        .collect();
    let remedy = format!(
        "on the follower, the leader's own DDL: {renames}if it added {name}, {add}, with the DEFAULT and \
         constraints that the leader gave it"
    );
    Error::halt(what, remedy)
}

fn twice(schema: &TableSchema, n: usize, held: &Live) -> Error {
    let (table, name) = (schema.table.quoted(), &schema.columns[n].name);
    let held = &held.name;
    Error::halt(
        format!("column {name} may be the follower's {held}, which it was before, or its {name}"),
        format!(
            "if the leader has renamed {name} to {held}: change a row of the table on the leader, so that its \
             new shape is in the log, and restart walferry; if the leader has dropped {held}, on the \
             follower: ALTER TABLE {table} DROP COLUMN {}",
            quote_identifier(held)
        ),
    )
}

fn remade(schema: &TableSchema, n: usize) -> Error {
    let name = &schema.columns[n].name;
    Error::halt(
        format!(
            "column {name} was dropped on the follower and another one of that name made, while changes of the first are still to come"
        ),
        // Not a copy of this pipeline's: the log still has the changes of the first behind it.
        NEW_PIPELINE,
    )
}

fn old(schema: &TableSchema, n: usize) -> Error {
    let (table, column) = (schema.table.quoted(), &schema.columns[n]);
    let name = quote_identifier(&column.name);
    Error::halt(
        format!(
            "column {} on the follower is one that the leader dropped before it made another of that name",
            column.name
        ),
        format!(
            "on the follower, as on the leader: ALTER TABLE {table} DROP COLUMN {name}; ALTER TABLE {table} \
             ADD COLUMN {name} {}, with the DEFAULT and constraints that the leader gave it",
            column.type_name
        ),
    )
}

#[cfg(test)]
#[path = "columns_tests.rs"]
mod tests;
