//! Statements on rows, written straight into a script: literals from the rows' memory, as many rows a statement as
//! are good for it and fit into a packet.

use super::encode::{Form, Unfit, put};
use super::failure::unfit_error;
use super::tables::Table;
use super::wire::{Cause, Expected, Failure, Script};
use crate::error::Error;
use crate::model::{Cell, RowRef, Rows, TablePlan};
use crate::sink::place::{Place, only_key};

use std::sync::Arc;

/// What a statement of a transaction is for.
#[derive(Clone, Debug)]
pub(super) enum Label {
    /// Opening the transaction.
    Begin,
    /// Comparing and bumping the checkpoint's version.
    Guard,
    /// Writing the checkpoint and COMMIT.
    Commit,
    /// Rows of a table.
    Rows(Arc<Target>),
}

/// Rows that a statement is to change.
#[derive(Debug)]
pub(super) struct Target {
    /// Table and positions, for errors.
    pub place: Place,
    /// What is done: `deleting`, …
    pub doing: &'static str,
    /// The row, where it is one.
    pub key: Option<String>,
}

/// Why a transaction does not go on.
#[derive(Debug)]
pub(super) enum Failed {
    /// A statement failed.
    Statement(Failure<Label>),
    /// No statement could be written.
    Error(Error),
}

impl From<Failure<Label>> for Failed {
    fn from(failure: Failure<Label>) -> Self {
        Failed::Statement(failure)
    }
}

/// The statements of one transaction.
pub(super) type Work<'w> = Script<'w, Label>;

/// Rows of a table, and what is said of them.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    /// The follower's table.
    pub table: &'a Table,
    /// Memory of the rows.
    pub rows: &'a Rows,
    /// The plan, where it is one; its only row is named in errors.
    pub plan: Option<&'a TablePlan>,
    /// Table and positions.
    pub place: &'a Place,
}

/// Columns of rows that go into one statement.
pub(super) struct Columns<'c> {
    /// Indexes of the columns, and how each of them is used.
    pub all: &'c [(usize, Form)],
    /// The number of the row stands in front.
    pub numbered: bool,
}

impl<'a> Scope<'a> {
    /// The label of a statement.
    pub(super) fn label(&self, doing: &'static str) -> Label {
        Label::Rows(Arc::new(Target {
            place: self.place.clone(),
            doing,
            key: self.plan.and_then(only_key),
        }))
    }

    /// Appends one value.
    pub(super) fn put(
        &self,
        row: RowRef,
        (column, form): (usize, Form),
        out: &mut Vec<u8>,
    ) -> Result<(), Failed> {
        let cell = self.rows.row(row)[column];
        let Some(text) = self.rows.text(cell) else {
            assert!(
                cell == Cell::Null,
                "column {column} of table {} is absent, and would be written",
                self.table.schema.table
            );
            out.extend_from_slice(b"NULL");
            return Ok(());
        };
        put(
            self.table.columns[column].held,
            text,
            (form, self.table.server),
            out,
        )
        .map_err(|unfit| self.unfit(column, unfit))
    }

    fn unfit(&self, column: usize, unfit: Unfit) -> Failed {
        let name = &self.table.schema.columns[column].name;
        let key = self.plan.and_then(only_key);
        let of = (&self.table.schema.table, name.as_str());
        Failed::Error(unfit_error(self.place, of, unfit, key.as_deref()))
    }

    fn put_row(
        &self,
        (n, row): (usize, RowRef),
        columns: &Columns<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Failed> {
        let mut first = true;
        if columns.numbered {
            out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
            first = false;
        }
        for &column in columns.all {
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            self.put(row, column, out)?;
        }
        Ok(())
    }

    /// Sends `head`, a list of rows, `tail`: once, or several times where there are more rows than are good for one.
    /// `each`: what stands before the bracket of a row. `numbers`: what rows are numbered from.
    pub(super) async fn list(
        &self,
        work: &mut Work<'_>,
        doing: &'static str,
        (head, each, tail): (&str, &str, &str),
        columns: &Columns<'_>,
        rows: &[(usize, RowRef)],
        expected: impl Fn(u64) -> Expected,
    ) -> Result<(), Failed> {
        let mut at = 0;
        while at < rows.len() {
            let start = work.begin();
            work.sql.extend_from_slice(head.as_bytes());
            let first = at;
            while at < rows.len() {
                let before = work.sql.len();
                if at > first {
                    work.sql.push(b',');
                }
                work.sql.extend_from_slice(each.as_bytes());
                work.sql.push(b'(');
                let put = self.put_row(rows[at], columns, &mut work.sql);
                if let Err(failed) = put {
                    work.discard();
                    return Err(failed);
                }
                work.sql.push(b')');
                if at > first && work.overflows(start) {
                    work.sql.truncate(before);
                    break;
                }
                at += 1;
                if work.is_full(start) {
                    break;
                }
            }
            work.sql.extend_from_slice(tail.as_bytes());
            let count = (at - first) as u64;
            work.end(self.label(doing), expected(count)).await?;
        }
        Ok(())
    }

    /// Names of columns in backquotes.
    pub(super) fn names(&self, columns: &[usize]) -> Vec<&'a str> {
        let table = self.table;
        columns
            .iter()
            .map(|&n| table.columns[n].quoted.as_str())
            .collect()
    }

    /// What makes a table of rows: what stands in front of the rows, before each of them, and behind them. The
    /// table is `s`, its columns have these names.
    pub(super) fn made_table(&self, names: &[String]) -> (String, &'static str, &'static str) {
        let each = if self.table.server.mariadb { "" } else { "ROW" };
        let head = format!("(WITH s({}) AS (VALUES ", names.join(","));
        (head, each, ") SELECT * FROM s) s")
    }

    /// `t.k = s.k0 AND …`, by which rows of the table are found; decimals are compared as such.
    pub(super) fn joined(&self) -> String {
        let key = self.table.schema.key.iter().enumerate();
        let one = |(n, &column): (usize, &usize)| {
            let column = &self.table.columns[column];
            match column.held {
                super::types::Held::Decimal(precision, scale) => format!(
                    "t.{} = CAST(s.k{n} AS DECIMAL({precision},{scale}))",
                    column.quoted
                ),
                _as_it_is => format!("t.{} = s.k{n}", column.quoted),
            }
        };
        let all: Vec<String> = key.map(one).collect();
        all.join(" AND ")
    }

    /// The table as `t`, looked into by its key: a server is never to walk through it to find a few rows.
    pub(super) fn by_key(&self) -> String {
        let index = match self.table.key_index.as_str() {
            "" => String::new(),
            index => format!(" FORCE INDEX ({index})"),
        };
        format!("{} AS t{index}", self.table.quoted)
    }

    /// Appends `k1 = 1 AND k2 = 'a'`.
    pub(super) fn put_key(&self, row: RowRef, out: &mut Vec<u8>) -> Result<(), Failed> {
        for (n, &column) in self.table.schema.key.iter().enumerate() {
            if n > 0 {
                out.extend_from_slice(b" AND ");
            }
            out.extend_from_slice(self.table.columns[column].quoted.as_bytes());
            out.push(b'=');
            self.put(row, (column, Form::Compared), out)?;
        }
        Ok(())
    }

    /// Appends `a = 1, b = 'x'`.
    pub(super) fn put_set(
        &self,
        row: RowRef,
        columns: &[usize],
        out: &mut Vec<u8>,
    ) -> Result<(), Failed> {
        for (n, &column) in columns.iter().enumerate() {
            if n > 0 {
                out.push(b',');
            }
            out.extend_from_slice(self.table.columns[column].quoted.as_bytes());
            out.push(b'=');
            self.put(row, (column, Form::Assigned), out)?;
        }
        Ok(())
    }
}

/// Writes one statement by `write`; what it wrote is forgotten where it fails.
pub(super) async fn one(
    work: &mut Work<'_>,
    label: Label,
    expected: Expected,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), Failed>,
) -> Result<(), Failed> {
    work.begin();
    if let Err(failed) = write(&mut work.sql) {
        work.discard();
        return Err(failed);
    }
    work.end(label, expected).await?;
    Ok(())
}

/// Whether a statement failed because of a unique index.
pub(super) fn is_conflict(failed: &Failed) -> bool {
    match failed {
        Failed::Statement(failure) => {
            matches!(failure.label, Label::Rows(_)) && Cause::is_conflict(&failure.cause)
        }
        Failed::Error(_) => false,
    }
}
