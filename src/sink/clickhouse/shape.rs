//! What a table on the follower looks like, and what is to be done so that it takes a schema version. Pure.
//!
//! Columns are found by their number on the leader, which walferry writes into the column's comment
//! (`walferry 16401.3`: relation and `attnum`), else by name: a column that the leader renames is renamed here,
//! and one that somebody added to the follower is left alone.
//!
//! ClickHouse has no transactions, so a table gets the newest shape that the log knows before the first row of any
//! version is written; rows of older versions are written into that shape (`Projection`). Every step can be repeated.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::projection;
use super::sql;
use super::types::{self, Kind, Type};
use crate::config::{ClickHouseMode, ClickHouseSinkSettings, SchemaChanges};
use crate::error::{Error, Result};
use crate::model::relation::Fill;
use crate::model::{Column, TableSchema};
use crate::sink::leader_shape::tag;

/// Position of the change that a row shows: see `position`.
pub(super) const VERSION: &str = "_version";
/// 1: the row is gone.
pub(super) const DELETED: &str = "_deleted";
/// What happened to the row, with Debezium's letter (c u d r t).
pub(super) const OP: &str = "_op";
/// When the leader committed it.
pub(super) const COMMIT_TIME: &str = "_commit_time";
/// Names of columns that the change says nothing about.
pub(super) const ABSENT: &str = "_absent";

/// Columns of walferry's own, with their types, behind those of the leader.
pub(super) fn own_columns(mode: ClickHouseMode) -> &'static [(&'static str, &'static str)] {
    match mode {
        ClickHouseMode::Current => &[(VERSION, "UInt128"), (DELETED, "UInt8")],
        ClickHouseMode::History => &[
            (OP, "LowCardinality(String)"),
            (VERSION, "UInt128"),
            (COMMIT_TIME, "Nullable(DateTime64(6, 'UTC'))"),
            (ABSENT, "Array(LowCardinality(String))"),
        ],
    }
}

/// The end of a column's comment, where walferry has only noted the leader's number.
const MADE_BY_HAND: &str = ", made by hand";

/// A column as `system.columns` tells.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(super) struct Found {
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Its comment.
    pub comment: String,
    /// `ALIAS`, `MATERIALIZED`, …
    pub default_kind: String,
    /// Whether rows replace one another by it.
    pub is_sorted_by: bool,
}

impl Found {
    /// The leader's relation and the column's number there, if walferry has noted it.
    fn number(&self) -> Option<(u32, i16)> {
        let noted = self.comment.strip_prefix("walferry ")?;
        let noted = noted.strip_suffix(MADE_BY_HAND).unwrap_or(noted);
        let (relation, number) = noted.split_once('.')?;
        Some((relation.parse().ok()?, number.parse().ok()?))
    }

    /// Whether somebody else has made it, and so may have chosen its type.
    fn is_made_by_hand(&self) -> bool {
        self.number().is_none() || self.comment.ends_with(MADE_BY_HAND)
    }

    /// Its type, if walferry can write it.
    pub(super) fn of(&self) -> Option<Type> {
        let text = self.type_name.as_str();
        let nullable = text.starts_with("Nullable(") || text == "LowCardinality(Nullable(String))";
        let kind = types::parse(text)?;
        Some(Type { kind, nullable })
    }
}

/// One step towards the shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Alteration {
    /// A column of the leader's that is not there.
    Add(String),
    /// The leader's column has another name.
    Rename(String, String),
    /// It has a wider type, or may be NULL.
    Modify(String, Type),
    /// The leader has dropped it.
    Drop(String),
    /// Its comment is to be this, which names the leader's column, so that it is found when that one has another name:
    /// nobody has noted it, or another table had the name.
    Note(String, String),
}

impl Alteration {
    fn is_compatible(&self) -> bool {
        match self {
            Alteration::Add(_) | Alteration::Modify(..) | Alteration::Note(..) => true,
            Alteration::Rename(..) | Alteration::Drop(_) => false,
        }
    }
}

/// What is to be done with a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// These steps; none: it fits.
    Alter(Vec<Alteration>),
    /// It cannot become what it should be: it is made anew, with a copy. Why.
    Anew(String),
}

/// The type that a column is to have.
///
/// # Errors
/// Halt when the settings give it one that cannot hold it.
pub(super) fn wanted(
    settings: &ClickHouseSinkSettings,
    schema: &TableSchema,
    column: &Column,
) -> Result<Type> {
    let name = format!("{}.{}", schema.table, column.name);
    let Some(written) = settings.columns.get(&name) else {
        return Ok(types::mapped(schema, column));
    };
    types::chosen(schema, column, written).map_err(|why| {
        Error::halt(
            format!("[columns] \"{name}\": {why}"),
            format!(
                "write a type that can, such as {} or String, or remove the line",
                types::mapped(schema, column).kind
            ),
        )
    })
}

/// How a table of these columns comes to take rows of `schema`.
///
/// # Errors
/// Halt when the settings do not allow what is needed.
pub(super) fn plan(
    settings: &ClickHouseSinkSettings,
    schema: &TableSchema,
    found: &[Found],
) -> Result<Plan> {
    if is_guess(schema, found) {
        return Ok(Plan::Anew(
            "the source learned of a change of its columns only when more of them had followed"
                .to_owned(),
        ));
    }
    if let Some(why) = is_sorted_otherwise(settings.mode, schema, found) {
        return Ok(Plan::Anew(why));
    }
    // A column may have the name of one that is gone.
    let gone = found.iter().filter(|found| {
        let number = found.number().filter(|(of, _)| *of == schema.relation.0);
        number.is_some_and(|(_, number)| {
            (schema.dropped.contains(&number) || schema.unpublished.contains(&number))
                && schema.numbered(number).is_none()
        })
    });
    let mut steps: Vec<Alteration> = gone
        .map(|found| Alteration::Drop(found.name.clone()))
        .collect();
    let (mut renamed, mut others) = (Vec::new(), Vec::new());
    let is_numbered = schema.columns.iter().all(|column| column.number.is_some());
    for column in &schema.columns {
        let want = wanted(settings, schema, column)?;
        let Some(home) = home(schema, column, found) else {
            others.push(Alteration::Add(column.name.clone()));
            continue;
        };
        if home.name != column.name {
            if is_key(schema, column) {
                let why = format!("column {} of its key is {} now", home.name, column.name);
                return Ok(Plan::Anew(why));
            }
            renamed.push((home.name.as_str(), column.name.as_str()));
        }
        match retyped(settings, schema, (column, home), &want) {
            Retyped::Fits => {}
            Retyped::Wider => others.push(Alteration::Modify(column.name.clone(), want)),
            Retyped::Other => {
                let (name, was) = (&column.name, &home.type_name);
                return Ok(Plan::Anew(format!(
                    "column {name} is {was} and is to be {want}"
                )));
            }
        }
        let of_another = home.number().is_some_and(|(of, _)| of != schema.relation.0);
        if let Some(number) = column.number.filter(|_| is_numbered)
            && (home.comment.is_empty() || of_another)
        {
            let by = if home.is_made_by_hand() {
                MADE_BY_HAND
            } else {
                ""
            };
            let noted = tag(schema.relation, number) + by;
            others.push(Alteration::Note(column.name.clone(), noted));
        }
    }
    steps.extend(renames(&renamed, found));
    steps.append(&mut others);
    allowed(settings.schema_changes, schema, steps).map(Plan::Alter)
}

/// New names, of which some may be the old names of others: those go by way of a free one.
fn renames(renamed: &[(&str, &str)], found: &[Found]) -> Vec<Alteration> {
    let step = |from: &str, to: &str| Alteration::Rename(from.to_owned(), to.to_owned());
    let is_taken = |name: &str| renamed.iter().any(|(from, _)| *from == name);
    let is_free = |name: &String| {
        let of_ours = renamed.iter().any(|(_, to)| to == name);
        !of_ours && found.iter().all(|found| found.name != *name)
    };
    let mut free = (0_u32..)
        .map(|n| format!("_walferry_renamed_{n}"))
        .filter(is_free);
    let (mut aside, mut direct, mut back) = (Vec::new(), Vec::new(), Vec::new());
    for &(from, to) in renamed {
        match free.next().filter(|_| is_taken(to)) {
            Some(free) => {
                aside.push(step(from, &free));
                back.push(step(&free, to));
            }
            None => direct.push(step(from, to)),
        }
    }
    aside.into_iter().chain(direct).chain(back).collect()
}

/// Whether it could only be guessed which column is which, and what older rows have in a new one: the version does
/// not tell its columns' numbers, while the follower has columns of known numbers.
fn is_guess(schema: &TableSchema, found: &[Found]) -> bool {
    let mut numbers = found.iter().filter_map(Found::number);
    let is_known = numbers.any(|(of, _)| of == schema.relation.0);
    is_known && schema.columns.iter().any(|column| column.number.is_none())
}

/// Whether columns of a version could be found by name only in a table of the newest one, which has numbers: a name
/// may be another column's there.
pub(super) fn is_doubtful(schema: &TableSchema, newest: &TableSchema) -> bool {
    let unnumbered = |column: &Column| column.number.is_none();
    schema.columns.iter().any(unnumbered) && !newest.columns.iter().all(unnumbered)
}

/// A column of the leader's that somebody made on the follower, if there is one.
pub(super) fn made_by_hand<'a>(schema: &TableSchema, found: &'a [Found]) -> Option<&'a str> {
    let mut homes = schema
        .columns
        .iter()
        .filter_map(|column| home(schema, column, found));
    let by_hand = homes.find(|home| home.is_made_by_hand());
    by_hand.map(|home| home.name.as_str())
}

/// The follower's column for one of the leader's.
fn home<'a>(schema: &TableSchema, column: &Column, found: &'a [Found]) -> Option<&'a Found> {
    let numbered = |found: &&Found| {
        let number = found.number();
        column.number.is_some() && number == column.number.map(|n| (schema.relation.0, n))
    };
    let named = |found: &&Found| {
        let ours = found.number().filter(|(of, _)| *of == schema.relation.0);
        // A column of that name may be another one of the leader's.
        let other = ours.is_some_and(|(_, number)| column.number.is_some_and(|own| own != number));
        found.name == column.name && !other
    };
    found
        .iter()
        .find(numbered)
        .or_else(|| found.iter().find(named))
}

/// Why rows would not replace one another as they should: those of a table of current rows by the leader's key, and
/// changes by nothing that they share.
fn is_sorted_otherwise(
    mode: ClickHouseMode,
    schema: &TableSchema,
    found: &[Found],
) -> Option<String> {
    let sorted_by = sorted_by(found);
    let listed = sorted_by.iter().copied().collect::<Vec<_>>().join(", ");
    let is = format!("its sorting key is ({listed})");
    if mode == ClickHouseMode::History {
        return (!sorted_by.contains(VERSION)).then(|| format!("{is}, without {VERSION}"));
    }
    let columns = schema.key.iter().map(|&n| &schema.columns[n]);
    let name = |column| home(schema, column, found).map_or(column.name.as_str(), |home| &home.name);
    let key: Vec<&str> = columns.map(name).collect();
    let is_same = key.iter().copied().collect::<BTreeSet<_>>() == sorted_by;
    (!is_same).then(|| format!("{is}, and the leader's key is ({})", key.join(", ")))
}

/// The columns by which rows of a table replace one another.
pub(super) fn sorted_by(found: &[Found]) -> BTreeSet<&str> {
    let sorted = found.iter().filter(|found| found.is_sorted_by);
    sorted.map(|found| found.name.as_str()).collect()
}

/// The newest version, with columns that may be NULL in rows of the older one too.
pub(super) fn also_holding(newest: &TableSchema, older: &TableSchema) -> TableSchema {
    let mut both = newest.clone();
    for column in &mut both.columns {
        let was = older.columns.iter().find(|was| match column.number {
            Some(number) => was.number == Some(number),
            None => was.name == column.name,
        });
        column.not_null &= was.is_none_or(|was| was.not_null);
    }
    both
}

fn is_key(schema: &TableSchema, column: &Column) -> bool {
    let mut key = schema.key.iter();
    key.any(|index| schema.columns[*index].name == column.name)
}

enum Retyped {
    Fits,
    Wider,
    Other,
}

fn retyped(
    settings: &ClickHouseSinkSettings,
    schema: &TableSchema,
    (column, home): (&Column, &Found),
    want: &Type,
) -> Retyped {
    let Some(has) = home.of() else {
        return Retyped::Other;
    };
    let same = printed(&has.kind) == printed(&want.kind);
    if same && (has.nullable || !want.nullable) {
        return Retyped::Fits;
    }
    // A table that somebody made may hold the leader's values in types of his choice.
    let name = format!("{}.{}", schema.table, column.name);
    if home.is_made_by_hand() && !settings.columns.contains_key(&name) {
        let fits = types::chosen(schema, column, &home.type_name);
        if fits.is_ok_and(|fits| has.nullable || !fits.nullable) {
            return Retyped::Fits;
        }
    }
    let widened = (same || is_wider(&has.kind, &want.kind)) && (want.nullable || !has.nullable);
    match widened && !is_key(schema, column) {
        true => Retyped::Wider,
        false => Retyped::Other,
    }
}

fn printed(kind: &Kind) -> String {
    kind.to_string()
}

/// Whether ALTER TABLE … MODIFY COLUMN keeps every value, as the leader's own ALTER does.
fn is_wider(from: &Kind, to: &Kind) -> bool {
    match (from, to) {
        (Kind::Int16, Kind::Int32 | Kind::Int64) | (Kind::Int32, Kind::Int64) => true,
        (Kind::Word, Kind::Text) | (Kind::Text, Kind::Word) => true,
        (Kind::Decimal(p1, s1), Kind::Decimal(p2, s2)) => s2 >= s1 && p2 - s2 >= p1 - s1,
        (_from, _to) => false,
    }
}

fn allowed(
    may: SchemaChanges,
    schema: &TableSchema,
    steps: Vec<Alteration>,
) -> Result<Vec<Alteration>> {
    let refused = |step: &Alteration| {
        let what = match step {
            Alteration::Add(name) => format!("column {name} is missing"),
            Alteration::Rename(from, to) => format!("column {from} is {to} on the leader"),
            Alteration::Modify(name, of) => format!("column {name} is to be {of}"),
            Alteration::Drop(name) => format!("the leader has dropped column {name}"),
            Alteration::Note(name, _) => format!("column {name} has no comment of walferry's"),
        };
        Error::halt(
            format!("table {} on the follower: {what}", schema.table),
            "alter it on the follower, or let walferry do it with schema_changes = \"follow\"",
        )
    };
    match may {
        SchemaChanges::Follow => Ok(steps),
        // What the leader drops stays.
        SchemaChanges::Compatible => {
            let is_dropped = |name: &String| steps.contains(&Alteration::Drop(name.clone()));
            // A new one of its name would be taken for it.
            let remade = |step: &&Alteration| match step {
                Alteration::Add(name) => is_dropped(name),
                Alteration::Rename(..)
                | Alteration::Modify(..)
                | Alteration::Drop(_)
                | Alteration::Note(..) => false,
            };
            if let Some(step) = steps.iter().find(remade) {
                return Err(refused(step));
            }
            let steps = steps
                .into_iter()
                .filter(|step| !matches!(step, Alteration::Drop(_)));
            let steps: Vec<Alteration> = steps.collect();
            match steps.iter().find(|step| !step.is_compatible()) {
                Some(step) => Err(refused(step)),
                None => Ok(steps),
            }
        }
        SchemaChanges::Halt => {
            let needed = steps
                .iter()
                .find(|step| !matches!(step, Alteration::Drop(_) | Alteration::Note(..)));
            needed.map_or(Ok(Vec::new()), |step| Err(refused(step)))
        }
    }
}

/// The clause that declares a column; `None` where rows that are there would need a value that cannot be told.
///
/// # Errors
/// Halt when the column cannot hold what they have.
fn declared(schema: &TableSchema, column: &Column, of: &Type) -> Result<Option<String>> {
    let default = match &column.fill {
        None => String::new(),
        Some(Fill::Unknown) => return Ok(None),
        Some(Fill::Value(value)) => {
            // ClickHouse would take the nearest value that the type has.
            projection::bytes_of_fill(&schema.table, &column.name, of, Some(value))?;
            match sql::literal(&of.kind, value) {
                Some(literal) => format!(" DEFAULT {literal}"),
                None => return Ok(None),
            }
        }
    };
    Ok(Some(format!(
        "{} {of}{default}{}",
        sql::name(&column.name),
        comment(schema, column)
    )))
}

/// The comment that names the leader's column, where its number is known.
pub(super) fn comment(schema: &TableSchema, column: &Column) -> String {
    column.number.map_or_else(String::new, |number| {
        format!(" COMMENT {}", sql::text(&tag(schema.relation, number)))
    })
}

/// The statement of a step; `None` as for [`declared`].
///
/// # Errors
/// As [`wanted`] and [`declared`].
pub(super) fn statement(
    settings: &ClickHouseSinkSettings,
    schema: &TableSchema,
    (table, step): (&str, &Alteration),
) -> Result<Option<String>> {
    let what = match step {
        Alteration::Add(name) => {
            let mut columns = schema.columns.iter();
            let column = columns.find(|column| column.name == *name);
            let column = column.expect("a column that is added is the schema's");
            match declared(schema, column, &wanted(settings, schema, column)?)? {
                Some(clause) => format!("ADD COLUMN IF NOT EXISTS {clause}"),
                None => return Ok(None),
            }
        }
        Alteration::Rename(from, to) => {
            format!(
                "RENAME COLUMN IF EXISTS {} TO {}",
                sql::name(from),
                sql::name(to)
            )
        }
        // Its comment stays what it is.
        Alteration::Modify(name, of) => format!("MODIFY COLUMN {} {of}", sql::name(name)),
        Alteration::Drop(name) => format!("DROP COLUMN IF EXISTS {}", sql::name(name)),
        Alteration::Note(name, noted) => {
            format!("COMMENT COLUMN {} {}", sql::name(name), sql::text(noted))
        }
    };
    Ok(Some(format!("ALTER TABLE {table} {what}")))
}

#[cfg(test)]
#[path = "shape_tests.rs"]
mod tests;
