//! Statement parameters that read cells straight out of [`Rows`]: no `String` a value.

use std::error::Error;
use std::ops::Deref;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use crate::model::{Cell, RowRef, Rows};

type Encoded = Result<IsNull, Box<dyn Error + Sync + Send>>;

/// Length word of a NULL element in Postgres's binary formats.
const NULL_LENGTH: i32 = -1;

/// Some rows of a [`Rows`].
#[derive(Clone, Debug)]
pub(super) enum Refs<'a> {
    /// As the plan lists them.
    Listed(&'a [RowRef]),
    /// Gathered from several lists.
    Gathered(Arc<[RowRef]>),
}

impl Deref for Refs<'_> {
    type Target = [RowRef];

    fn deref(&self) -> &[RowRef] {
        match self {
            Refs::Listed(refs) => refs,
            Refs::Gathered(refs) => refs,
        }
    }
}

/// A parameter of any of the kinds that walferry's statements take.
#[derive(Debug)]
pub(super) enum Param<'a> {
    /// One column of some rows, as `text[]`.
    Column {
        /// Memory of the rows.
        rows: &'a Rows,
        /// The rows.
        refs: Refs<'a>,
        /// Index of the column.
        column: usize,
    },
    /// For each row one byte a column, 1 where the cell is absent, as `bytea[]`.
    AbsentMask {
        /// Memory of the rows.
        rows: &'a Rows,
        /// The rows.
        refs: Refs<'a>,
    },
    /// One cell, as `text`.
    Cell {
        /// Memory of the row.
        rows: &'a Rows,
        /// The cell.
        cell: Cell,
    },
    /// A count, as `int8`.
    Count(i64),
}

impl ToSql for Param<'_> {
    fn to_sql(&self, _type: &Type, out: &mut BytesMut) -> Encoded {
        match self {
            Param::Column { rows, refs, column } => {
                array_head(refs.len(), Type::TEXT, out)?;
                for &row in refs.iter() {
                    put_text(rows, rows.row(row)[*column], out)?;
                }
            }
            Param::AbsentMask { rows, refs } => {
                array_head(refs.len(), Type::BYTEA, out)?;
                for &row in refs.iter() {
                    let cells = rows.row(row);
                    out.put_i32(i32::try_from(cells.len())?);
                    out.extend(cells.iter().map(|&cell| u8::from(cell == Cell::Absent)));
                }
            }
            Param::Cell { rows, cell } => match rows.text(*cell) {
                Some(text) => out.extend_from_slice(text),
                None => return Ok(IsNull::Yes),
            },
            Param::Count(count) => out.put_i64(*count),
        }
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        [Type::TEXT, Type::TEXT_ARRAY, Type::BYTEA_ARRAY, Type::INT8].contains(kind)
    }

    to_sql_checked!();
}

/// The head of a one-dimensional array in binary format (`array_send` in Postgres's arrayfuncs.c).
fn array_head(
    length: usize,
    element: Type,
    out: &mut BytesMut,
) -> Result<(), std::num::TryFromIntError> {
    out.put_i32(i32::from(length > 0));
    out.put_i32(1);
    out.put_u32(element.oid());
    if length > 0 {
        out.put_i32(i32::try_from(length)?);
        out.put_i32(1);
    }
    Ok(())
}

fn put_text(rows: &Rows, cell: Cell, out: &mut BytesMut) -> Result<(), std::num::TryFromIntError> {
    match rows.text(cell) {
        Some(text) => {
            out.put_i32(i32::try_from(text.len())?);
            out.extend_from_slice(text);
        }
        None => out.put_i32(NULL_LENGTH),
    }
    Ok(())
}

/// A `timestamptz` as microseconds since 2000-01-01 UTC, which is its binary form.
#[derive(Debug)]
pub(super) struct Timestamp(pub i64);

impl ToSql for Timestamp {
    fn to_sql(&self, _type: &Type, out: &mut BytesMut) -> Encoded {
        out.put_i64(self.0);
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::TIMESTAMPTZ
    }

    to_sql_checked!();
}
