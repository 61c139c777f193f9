//! What the follower has in columns that a change says nothing about (unchanged TOAST values).
//!
//! A ReplacingMergeTree replaces whole rows, so such values are read before the row is written. Of a row that has stayed
//! under its key, any version before the plan's last change has them: no change of the plan says anything of these
//! columns. Of another one only rows older than the plan's first change are asked: what a crashed attempt has left under
//! that key may be another row. Where the older row is gone (merged away) and the row's key has the plan's version or a
//! later one, that row is right and stays; else the value is not to be had.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use hyper::body::Bytes;

use super::block::{Given, rows_in, version};
use super::http::{Http, Query};
use super::projection::{Projection, Source};
use super::row_binary;
use super::shape::{DELETED, VERSION};
use super::sql;
use super::types::{Kind, Type};
use crate::error::{Error, Result};
use crate::model::{Cell, NetChange, Position, RowRef, Rows};

/// Keys asked for at a time.
const KEYS_MAX: usize = 5_000;

/// Keys with the places of their columns in an answer; none where the row is gone.
type Places = Vec<(Vec<u8>, Option<Vec<Range<usize>>>)>;

/// How many rows the first answer is of.
pub(super) const FIRST_ROWS: usize = 256;

/// About how many bytes an answer may have: values of rows that are updated are read and written answer by answer.
const ANSWER_BYTES: usize = 8 * 1024 * 1024;

/// A row that lacks values: the row with the key that the follower has it under, and the row to be written.
pub(super) type Lacking = (RowRef, RowRef);

/// Values read from the follower.
#[derive(Default)]
pub(super) struct Filled {
    answers: Vec<Bytes>,
    rows: HashMap<RowRef, Entry>,
}

enum Entry {
    /// Columns of the table with their bytes in an answer.
    Known(usize, Vec<(usize, Range<usize>)>),
    /// The follower has this row in a later version.
    Later,
}

impl Filled {
    /// Whether the row is to be written: its values were asked for, and the follower does not have it in a later version.
    pub(super) fn has(&self, row: RowRef) -> bool {
        matches!(self.rows.get(&row), Some(Entry::Known(..)))
    }

    /// How many rows are to be asked for next, by the size of these.
    pub(super) fn next_rows(&self) -> usize {
        let size = self.answers.iter().map(Bytes::len).sum();
        rows_in(ANSWER_BYTES, (self.rows.len(), size)).min(KEYS_MAX)
    }

    /// The bytes of column `n` of the table.
    pub(super) fn bytes(&self, row: RowRef, n: usize) -> &[u8] {
        let Some(Entry::Known(answer, columns)) = self.rows.get(&row) else {
            panic!("values of a row were not asked for")
        };
        let column = columns.iter().find(|(column, _)| *column == n);
        let (_, range) = column.unwrap_or_else(|| panic!("column {n} of a row was not asked for"));
        &self.answers[*answer][range.clone()]
    }
}

fn lacks(rows: &Rows, row: RowRef) -> bool {
    rows.row(row).contains(&Cell::Absent)
}

/// Rows that lack values and have stayed under their key.
pub(super) fn lacking(net: &NetChange, rows: &Rows) -> Vec<Lacking> {
    let returned: HashSet<&RowRef> = net.returned.iter().collect();
    let updates = net.updates.iter().flat_map(|group| &group.rows);
    let updates = updates.chain(&net.same);
    let updates = updates.filter(|row| lacks(rows, **row) && !returned.contains(row));
    updates.map(|row| (*row, *row)).collect()
}

/// Rows that lack values and have been under another key. What was there is read before any is written: merges may
/// remove it from then on.
pub(super) fn lacking_moved(net: &NetChange, rows: &Rows) -> Vec<Lacking> {
    let returned = net.returned.iter().map(|row| (*row, *row));
    let all = returned.chain(net.moves.iter().copied());
    all.filter(|(_, row)| lacks(rows, *row)).collect()
}

/// Reads what rows lack that changes up to `last` leave, from versions before `before`.
///
/// # Errors
/// As a query; `Ok(Err(…))`: how many values are not to be had.
pub(super) async fn fill(
    http: &Http,
    projection: &Projection,
    (lacking, rows): (&[Lacking], &Rows),
    (before, last): (Position, Position),
) -> Result<Result<Filled, usize>> {
    let wanted = wanted(projection, rows, lacking);
    let mut filled = Filled::default();
    let mut missing = 0;
    for some in lacking.chunks(KEYS_MAX) {
        let asking = Asking {
            http,
            projection,
            rows,
            at: last,
        };
        let older = format!("{VERSION} < toUInt128('{}')", version(before));
        asking.known(some, &wanted, &older, &mut filled).await?;
        let unknown = some
            .iter()
            .filter(|(_, row)| !filled.rows.contains_key(row));
        let unknown: Vec<Lacking> = unknown.map(|(_, row)| (*row, *row)).collect();
        if unknown.is_empty() {
            continue;
        }
        let later = format!("{VERSION} >= toUInt128('{}')", version(last));
        let found = asking.ask(&unknown, &[], &later).await?;
        for (key, row) in asking.by_key(&unknown)? {
            if found.iter().any(|(found, _)| *found == key) {
                filled.rows.insert(row, Entry::Later);
            } else {
                missing += 1;
            }
        }
    }
    Ok(match missing {
        0 => Ok(filled),
        some => Err(some),
    })
}

/// Columns of the table that some row lacks.
fn wanted(projection: &Projection, rows: &Rows, lacking: &[Lacking]) -> Vec<usize> {
    let lacked = |source: &Source| match source {
        Source::Column(column) => lacking
            .iter()
            .any(|(_, row)| rows.row(*row)[*column] == Cell::Absent),
        Source::Constant(_) => false,
    };
    let columns = projection.sources.iter().enumerate();
    columns
        .filter(|(_, source)| lacked(source))
        .map(|(n, _)| n)
        .collect()
}

struct Asking<'a> {
    http: &'a Http,
    projection: &'a Projection,
    rows: &'a Rows,
    at: Position,
}

impl Asking<'_> {
    async fn known(
        &self,
        some: &[Lacking],
        wanted: &[usize],
        which: &str,
        filled: &mut Filled,
    ) -> Result<()> {
        let asked: HashMap<Vec<u8>, RowRef> = self.by_key(some)?.into_iter().collect();
        let answer = self.answer(some, wanted, which).await?;
        let number = filled.answers.len();
        for (key, columns) in self.parse(&answer, wanted)? {
            if let (Some(row), Some(columns)) = (asked.get(&key), columns) {
                let columns = wanted.iter().copied().zip(columns).collect();
                filled.rows.insert(*row, Entry::Known(number, columns));
            }
        }
        filled.answers.push(answer);
        Ok(())
    }

    async fn ask(&self, some: &[Lacking], wanted: &[usize], which: &str) -> Result<Places> {
        let answer = self.answer(some, wanted, which).await?;
        self.parse(&answer, wanted)
    }

    /// The keys of rows under which the follower has them, with the rows to be written.
    fn by_key(&self, some: &[Lacking]) -> Result<Vec<(Vec<u8>, RowRef)>> {
        let given = Given::new(self.projection, self.rows);
        let keys = some
            .iter()
            .map(|(key, row)| Ok((given.key(*key, self.at)?, *row)));
        keys.collect()
    }

    async fn answer(&self, some: &[Lacking], wanted: &[usize], which: &str) -> Result<Bytes> {
        let table = &self.projection.table;
        let name = |n: &usize| sql::name(&table.columns[*n].name);
        let key: Vec<String> = self.projection.key.iter().map(name).collect();
        let key = key.join(", ");
        let columns: Vec<String> = self.projection.key.iter().chain(wanted).map(name).collect();
        let keys = some.iter().map(|(row, _)| self.literals(*row));
        let keys = keys.collect::<Result<Vec<String>>>()?;
        let ask = format!(
            "SELECT {}, {DELETED} FROM {} WHERE ({key}) IN ({}) AND {which} \
             ORDER BY {VERSION} DESC LIMIT 1 BY {key} FORMAT RowBinary",
            columns.join(", "),
            table.quoted,
            keys.join(", "),
        );
        let asked = self.http.ask(Query::new(&ask)).await;
        asked.map_err(|failure| {
            failure.with_rows(format!("reading unchanged values of table {}", table.name))
        })
    }

    /// A row's key as a tuple of expressions.
    fn literals(&self, row: RowRef) -> Result<String> {
        let cells = self.rows.row(row);
        let table = &self.projection.table;
        let literals = self.projection.key.iter().map(|&n| {
            let text = match &self.projection.sources[n] {
                Source::Column(column) => self.rows.text(cells[*column]),
                Source::Constant(_) => None,
            };
            let text = text.and_then(|text| str::from_utf8(text).ok());
            let literal = text.and_then(|text| sql::literal(&table.columns[n].of.kind, text));
            literal.ok_or_else(|| {
                Error::halt(
                    format!(
                        "table {} column {}: a key of type {} cannot be looked up, which a change without all of a \
                         row's columns needs",
                        table.name, table.columns[n].name, table.columns[n].of
                    ),
                    format!("ALTER TABLE {} REPLICA IDENTITY FULL on the leader, or a key of another type", table.name),
                )
            })
        });
        Ok(format!(
            "({})",
            literals.collect::<Result<Vec<String>>>()?.join(", ")
        ))
    }

    /// Keys with the places of the wanted columns; none where the row is gone.
    fn parse(&self, answer: &Bytes, wanted: &[usize]) -> Result<Places> {
        let cut_off = || {
            let table = &self.projection.table.name;
            Error::transient(format!(
                "the answer about unchanged values of table {table} is cut off"
            ))
        };
        let of = |n: &usize| &self.projection.table.columns[*n].of;
        let mut at = 0;
        let mut next = |of: &Type| {
            let length = row_binary::length(of, answer.get(at..)?)?;
            let range = at..at + length;
            at = range.end;
            Some(range)
        };
        let deleted = Type {
            kind: Kind::Bool,
            nullable: false,
        };
        let mut found = Vec::new();
        let mut end = 0;
        while end < answer.len() {
            let mut key = Vec::new();
            for n in &self.projection.key {
                let range = next(of(n)).ok_or_else(cut_off)?;
                key.extend_from_slice(&answer[range]);
            }
            let columns = wanted.iter().map(|n| next(of(n)).ok_or_else(cut_off));
            let columns = columns.collect::<Result<Vec<_>>>()?;
            let gone = next(&deleted).ok_or_else(cut_off)?;
            end = gone.end;
            let is_there = answer[gone.start] == 0;
            found.push((key, is_there.then_some(columns)));
        }
        Ok(found)
    }
}
