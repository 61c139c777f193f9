//! The SQL of every statement that changes a follower's table, by shape.
//!
//! Values travel as text and are cast to the column's type, which runs the type's input function
//! (`find_coercion_pathway` in parse_coerce.c: explicit casts from text go through I/O unless
//! `pg_cast` names a function; see [`super::tables`] for that case). Keys are compared with the
//! operator of the key's own index, because the session's search path is empty.

use std::fmt::Write;

use super::tables::Table;
use crate::model::relation::quote_identifier;

/// What a statement does; with a table it names one prepared statement.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Shape {
    /// `(key columns as text[] …)`.
    Delete,
    /// Sets these columns: `(key columns … , these columns … as text[])`.
    Update(Vec<usize>),
    /// `(written columns … as text[])`.
    Insert,
    /// Rows of a table of which no column can be written: `(count as int8)`.
    InsertDefaults,
    /// COPY of the written columns.
    Copy,
    /// Delete by old key, insert the final image: `(old key columns …, written columns … as text[],
    /// absent mask as bytea[])`.
    Replace,
    /// The place (from 1) of the first key that is not in the table: `(key columns as text[] …)`.
    FirstMissing,
    /// Deletes exactly one row with this whole content: `(matched columns as text …)`.
    DeleteOne(Match),
    /// Sets these columns of exactly one row: `(matched columns …, these columns … as text)`.
    UpdateOne(Match, Vec<usize>),
}

/// How a row without a key is found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Match {
    /// Columns to compare.
    pub columns: Vec<usize>,
    /// Among them, one with an index on the follower whose value is not NULL.
    pub indexed: Option<usize>,
}

/// The statement's text.
pub(super) fn sql(table: &Table, shape: &Shape) -> String {
    let (name, only) = (&table.quoted, table.only);
    match shape {
        Shape::Delete => format!(
            "DELETE FROM {only}{name} AS t USING {} WHERE {}",
            sorted_source(table, &[]),
            key_condition(table)
        ),
        Shape::Update(columns) => {
            let set = list(columns, |&c| {
                format!(
                    "{} = s.c{c}{}",
                    table.columns[c].quoted, table.columns[c].cast
                )
            });
            format!(
                "UPDATE {only}{name} AS t SET {set} FROM {} WHERE {}",
                sorted_source(table, columns),
                key_condition(table)
            )
        }
        Shape::Insert => format!(
            "INSERT INTO {name} ({}){} SELECT {} FROM {}",
            written(table),
            overriding(table),
            list(&table.written, |&c| format!(
                "s.c{c}{}",
                table.columns[c].cast
            )),
            source(table.written.iter().map(|c| format!("c{c}")))
        ),
        Shape::InsertDefaults => {
            format!("INSERT INTO {name} SELECT FROM pg_catalog.generate_series(1, $1::int8)")
        }
        Shape::Copy => format!("COPY {name} ({}) FROM STDIN", written(table)),
        Shape::Replace => replace(table),
        Shape::FirstMissing => format!(
            "SELECT s.n FROM {} WHERE NOT EXISTS (SELECT FROM {only}{name} AS t WHERE {}) \
             ORDER BY s.n LIMIT 1",
            ordinal_source(key_aliases(table)),
            key_condition(table)
        ),
        Shape::DeleteOne(found) => {
            format!(
                "DELETE FROM {only}{name} AS t WHERE {}",
                one_row(table, found)
            )
        }
        Shape::UpdateOne(found, columns) => {
            let mut number = found.columns.len();
            let set = list(columns, |&c| {
                number += 1;
                let column = &table.columns[c];
                format!("{} = ${number}::text{}", column.quoted, column.cast)
            });
            format!(
                "UPDATE {only}{name} AS t SET {set} WHERE {}",
                one_row(table, found)
            )
        }
    }
}

/// Deletes all old rows, then inserts all final images. The sort consumes the whole DELETE before
/// the first row is inserted, so no new row meets an old one. Columns that the leader does not have
/// keep their values.
fn replace(table: &Table) -> String {
    let (name, only) = (&table.quoted, table.only);
    let mask = table.key().len() + table.written.len() + 1;
    let aliases = key_aliases(table).chain(table.written.iter().map(|c| format!("c{c}")));
    let mut from = String::from("unnest(");
    let mut names = String::new();
    for (n, alias) in aliases.enumerate() {
        let _ = write!(from, "${}::text[], ", n + 1);
        let _ = write!(names, "{alias}, ");
    }
    let _ = write!(from, "${mask}::bytea[]) WITH ORDINALITY AS s({names}m, n)");
    let image = list(&table.written, |&c| {
        let column = &table.columns[c];
        format!(
            "CASE WHEN pg_catalog.get_byte(s.m, {c}) = 0 THEN s.c{c}{} ELSE t.{} END AS c{c}",
            column.cast, column.quoted
        )
    });
    let mut kept = String::new();
    let mut targets = written(table);
    let mut values = list(&table.written, |c| format!("c{c}"));
    for (n, extra) in table.extras.iter().enumerate() {
        let _ = write!(kept, ", t.{extra} AS x{n}");
        let _ = write!(targets, ", {extra}");
        let _ = write!(values, ", x{n}");
    }
    format!(
        "WITH gone AS (DELETE FROM {only}{name} AS t USING {from} WHERE {} \
         RETURNING s.n AS n, {image}{kept}) \
         INSERT INTO {name} ({targets}){} SELECT {values} FROM gone ORDER BY n",
        key_condition(table),
        overriding(table)
    )
}

/// The condition that picks one of possibly several equal rows. A ctid is unique in a partition only.
fn one_row(table: &Table, found: &Match) -> String {
    let mut condition = String::new();
    let mut add = |part: String| {
        if !condition.is_empty() {
            condition.push_str(" AND ");
        }
        condition.push_str(&part);
    };
    for (n, &c) in found.columns.iter().enumerate() {
        if found.indexed == Some(c) {
            let column = &table.columns[c];
            add(format!(
                "o.{} = ${}::text{}",
                column.quoted,
                n + 1,
                column.cast
            ));
        }
    }
    // The cheap comparisons first; a filter is evaluated from left to right.
    for exact in [true, false] {
        for (n, &c) in found.columns.iter().enumerate() {
            let column = &table.columns[c];
            if column.exact_equality != exact {
                continue;
            }
            let (left, right) = (
                format!("o.{}", column.quoted),
                format!("${}::text{}", n + 1, column.cast),
            );
            add(if exact {
                let collation = if column.collatable {
                    " COLLATE \"C\""
                } else {
                    ""
                };
                format!("{left} IS NOT DISTINCT FROM {right}{collation}")
            } else {
                // concat() prints by the type's output function, unlike a cast to text (which prints
                // true, not t; strips char(n); adds /32 to inet). IS NULL would hold for a row of NULLs.
                format!(
                    "({left} IS NOT DISTINCT FROM NULL) = (${}::text IS NULL) \
                     AND pg_catalog.concat({left}) COLLATE \"C\" = pg_catalog.concat({right})",
                    n + 1
                )
            });
        }
    }
    if condition.is_empty() {
        condition.push_str("true");
    }
    let (name, only) = (&table.quoted, table.only);
    if table.partitioned {
        format!(
            "(t.tableoid, t.ctid) = (SELECT o.tableoid, o.ctid FROM {only}{name} AS o \
             WHERE {condition} LIMIT 1 FOR UPDATE)"
        )
    } else {
        format!(
            "t.ctid = (SELECT o.ctid FROM {only}{name} AS o WHERE {condition} LIMIT 1 FOR UPDATE)"
        )
    }
}

fn list<T>(items: &[T], mut one: impl FnMut(&T) -> String) -> String {
    let parts: Vec<String> = items.iter().map(&mut one).collect();
    parts.join(", ")
}

fn written(table: &Table) -> String {
    list(&table.written, |&c| table.columns[c].quoted.clone())
}

fn overriding(table: &Table) -> &'static str {
    if table.columns.iter().any(|column| column.identity_always) {
        " OVERRIDING SYSTEM VALUE"
    } else {
        ""
    }
}

fn key_aliases(table: &Table) -> impl Iterator<Item = String> + '_ {
    (0..table.key().len()).map(|n| format!("k{n}"))
}

fn key_condition(table: &Table) -> String {
    let mut condition = String::new();
    for (n, &c) in table.key().iter().enumerate() {
        if n > 0 {
            condition.push_str(" AND ");
        }
        let column = &table.columns[c];
        let operator = &table.operators[n].equal;
        let _ = write!(
            condition,
            "t.{} {operator} s.k{n}{}",
            column.quoted, column.cast
        );
    }
    condition
}

/// The rows of [`source`] in the order of the key's index: neighbours in the index, and mostly in the
/// table, are then touched one after the other, which halves the time of a large statement.
fn sorted_source(table: &Table, columns: &[usize]) -> String {
    let others: Vec<String> = columns.iter().map(|c| format!("c{c}")).collect();
    let plain = source(key_aliases(table).chain(others.iter().cloned()));
    let mut order = Vec::with_capacity(table.key().len());
    let mut output = Vec::with_capacity(table.key().len() + others.len());
    for (n, &c) in table.key().iter().enumerate() {
        let column = &table.columns[c];
        output.push(format!("s.k{n}{} AS k{n}", column.cast));
        if let Some(less) = &table.operators[n].less {
            // Near enough to the index's own order, and much faster to sort by than a language's.
            let collation = if column.collatable {
                " COLLATE \"C\""
            } else {
                ""
            };
            order.push(format!("s.k{n}{}{collation} USING {less}", column.cast));
        }
    }
    if order.is_empty() {
        return plain;
    }
    output.extend(others.iter().map(|alias| format!("s.{alias}")));
    format!(
        "(SELECT {} FROM {plain} ORDER BY {}) AS s",
        output.join(", "),
        order.join(", ")
    )
}

/// `unnest($1::text[], …) AS s(…)`. Postgres makes ROWS FROM of it, so there is no limit of 100
/// arguments; only of the bare name, see `transformRangeFunction` in parse_clause.c.
fn source(aliases: impl Iterator<Item = String>) -> String {
    let (mut params, mut names) = (String::new(), String::new());
    for (n, alias) in aliases.enumerate() {
        let separator = if n > 0 { ", " } else { "" };
        let _ = write!(params, "{separator}${}::text[]", n + 1);
        let _ = write!(names, "{separator}{alias}");
    }
    format!("unnest({params}) AS s({names})")
}

fn ordinal_source(aliases: impl Iterator<Item = String>) -> String {
    let plain = source(aliases);
    let plain = plain.strip_suffix(')').unwrap_or(&plain);
    format!(
        "{}, n)",
        plain.replacen(") AS s(", ") WITH ORDINALITY AS s(", 1)
    )
}

/// The cast of a text value to a column's type. A cast function from text would be called instead of
/// the input function (regclass has one that does not know `-`); from bpchar there is none, so that
/// the input function reads what bpchar's output function prints, which is the text unchanged.
pub(super) fn cast(type_name: &str, text_cast_function: bool) -> String {
    if text_cast_function {
        format!("::bpchar::{type_name}")
    } else {
        format!("::{type_name}")
    }
}

/// `OPERATOR("schema".=)`.
pub(super) fn operator(schema: &str, name: &str) -> String {
    format!("OPERATOR({}.{name})", quote_identifier(schema))
}
