//! A version of the leader's table as followers note it, and whether rows of one can become rows of the next. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::widening::{TypeOf, is_widening};
use crate::model::{Column, Fill, Lsn, Oid, TableSchema};

/// `bpchar`: its values have blanks up to the length that the column has.
const CHAR_OID: Oid = Oid(1042);

/// A version of the leader's table, as it is noted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LeaderShape {
    /// The leader's table.
    pub relation: Oid,
    /// Columns by name.
    pub columns: BTreeMap<String, LeaderColumn>,
    /// Numbers of the primary key's columns.
    pub primary_key: Vec<i16>,
    /// As in the version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewritten: Option<Lsn>,
}

/// A column of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LeaderColumn {
    /// `attnum`.
    pub number: i16,
    /// `atttypid`.
    pub type_oid: Oid,
    /// `atttypmod`.
    pub type_modifier: i32,
    /// NOT NULL.
    pub not_null: bool,
}

impl LeaderShape {
    /// What is noted of a version; none if it does not have all numbers.
    pub(super) fn of(schema: &TableSchema) -> Option<Self> {
        let column = |column: &Column| {
            let noted = LeaderColumn {
                number: column.number?,
                type_oid: column.type_oid,
                type_modifier: column.type_modifier,
                not_null: column.not_null,
            };
            Some((column.name.clone(), noted))
        };
        Some(LeaderShape {
            relation: schema.relation,
            columns: schema.columns.iter().map(column).collect::<Option<_>>()?,
            primary_key: numbers_of(schema, &schema.primary_key),
            rewritten: schema.rewritten,
        })
    }

    /// The same of a version that comes behind another one: what is noted there of rewriting counts where this one
    /// says nothing.
    pub(super) fn behind(schema: &TableSchema, rewritten: Option<Lsn>) -> Option<Self> {
        let mut shape = LeaderShape::of(schema)?;
        shape.rewritten = shape.rewritten.or(rewritten);
        Some(shape)
    }

    /// The same of a version whose rows are to follow those of another one.
    ///
    /// # Errors
    /// When it cannot be told which column is which.
    pub(super) fn told(schema: &TableSchema) -> Result<Self, NeedsCopy> {
        LeaderShape::of(schema).ok_or_else(|| {
            let why =
                "the source learned of a change of its columns only when more of them had followed";
            NeedsCopy(why.to_owned())
        })
    }

    /// The column with this number.
    pub(super) fn numbered(&self, number: i16) -> Option<&LeaderColumn> {
        self.columns.values().find(|column| column.number == number)
    }
}

fn numbers_of(schema: &TableSchema, columns: &[usize]) -> Vec<i16> {
    let numbers = columns.iter().filter_map(|&n| schema.columns[n].number);
    numbers.collect()
}

/// The comment of a follower's column that is the leader's with this number.
pub(super) fn tag(relation: Oid, number: i16) -> String {
    format!("walferry {}.{number}", relation.0)
}

/// Why the follower's rows cannot follow: the table needs a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NeedsCopy(pub String);

/// Whether what the leader's DDL did to its rows can be done to the follower's.
pub(super) fn rows_follow(schema: &TableSchema, before: &LeaderShape) -> Result<(), NeedsCopy> {
    if schema.rewritten.is_some() && schema.rewritten != before.rewritten {
        return Err(NeedsCopy("the leader's rows were rewritten".to_owned()));
    }
    for column in &schema.columns {
        let name = &column.name;
        let Some(number) = column.number else {
            continue;
        };
        match before.numbered(number) {
            None if column.fill == Some(Fill::Unknown) => {
                return Err(NeedsCopy(format!(
                    "column {name} was added, and what older rows have in it does not stand in the catalog"
                )));
            }
            None if is_remade(name, schema, before) => {
                return Err(NeedsCopy(format!(
                    "column {name} was dropped and another one of that name made"
                )));
            }
            Some(old) if !is_harmless(old, column) => {
                return Err(NeedsCopy(format!(
                    "column {name} is of type {} now, and how its values were converted is not known",
                    column.type_name
                )));
            }
            None | Some(_) => {}
        }
    }
    Ok(())
}

/// The same of stores that hold a `char(n)` with its blanks, of which every row has more when it is longer.
pub(super) fn padded_rows_follow(
    schema: &TableSchema,
    before: &LeaderShape,
) -> Result<(), NeedsCopy> {
    rows_follow(schema, before)?;
    for column in &schema.columns {
        let old = column.number.and_then(|number| before.numbered(number));
        let is_longer = old.is_some_and(|old| {
            column.type_oid == CHAR_OID && old.type_modifier != column.type_modifier
        });
        if is_longer {
            return Err(NeedsCopy(format!(
                "column {} is of type {} now, whose values have more blanks",
                column.name, column.type_name
            )));
        }
    }
    Ok(())
}

/// Whether another column had this name, which is gone. Without the leader's word on when that was, changes
/// from before may have been taken for changes from after.
fn is_remade(name: &str, schema: &TableSchema, before: &LeaderShape) -> bool {
    let old = before.columns.get(name);
    !schema.exact && old.is_some_and(|old| schema.numbered(old.number).is_none())
}

fn is_harmless(old: &LeaderColumn, new: &Column) -> bool {
    let from = TypeOf {
        oid: old.type_oid,
        modifier: old.type_modifier,
    };
    let to = type_of(new);
    from == to || is_widening(from, to)
}

/// Its type as two versions are compared by.
pub(super) fn type_of(column: &Column) -> TypeOf {
    TypeOf {
        oid: column.type_oid,
        modifier: column.type_modifier,
    }
}
