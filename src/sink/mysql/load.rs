//! Many new rows by LOAD DATA LOCAL, which takes two thirds of the time that INSERT takes.
//!
//! The server makes warnings of what is wrong with a row then, and leaves duplicates out. So it runs under a
//! savepoint, and only rows that have all come, without a warning, stay; else INSERT is tried, which says what is
//! wrong. Bytes travel as their digits.

use bytes::Bytes;

use super::encode::Form;
use super::statements::{Failed, Scope, Work};
use super::types::Held;
use super::wire::{Cause, Expected, Failure};
use crate::model::{Cell, RowRef};

/// From so many rows on it is worth its round trips.
const ROWS_MIN: usize = 256;
/// Bytes of a file, after which the next one begins.
const FILE_BYTES: usize = 4 * 1024 * 1024;

/// Whether rows go this way.
pub(super) fn is_good_for(work: &Work<'_>, rows: &[RowRef]) -> bool {
    work.wire.local_infile && rows.len() >= ROWS_MIN
}

/// Loads rows; whether they have come.
pub(super) async fn load(
    work: &mut Work<'_>,
    scope: Scope<'_>,
    rows: &[RowRef],
) -> Result<bool, Failed> {
    let label = || scope.label("loading");
    work.push(label(), "SAVEPOINT walferry_load", Expected::Any)
        .await?;
    work.send().await?;
    let sql = statement(scope);
    let mut at = 0;
    while at < rows.len() {
        let (file, count) = file(scope, &rows[at..])?;
        at += count;
        let came = match work.wire.load(&sql, file).await {
            Ok((came, exact)) => exact && came == count as u64,
            Err(Cause::Server(_why)) => false,
            Err(cause) => {
                let label = label();
                return Err(Failure { label, cause }.into());
            }
        };
        if !came {
            let back = "ROLLBACK TO SAVEPOINT walferry_load";
            work.push(label(), back, Expected::Any).await?;
            return Ok(false);
        }
    }
    let release = "RELEASE SAVEPOINT walferry_load";
    work.push(label(), release, Expected::Any).await?;
    Ok(true)
}

/// Delimiters are hexadecimal: what a backslash in quotes is depends on the session.
fn statement(scope: Scope<'_>) -> String {
    let table = scope.table;
    let (mut fields, mut set) = (Vec::new(), Vec::new());
    for &n in &table.written {
        let column = &table.columns[n];
        match column.held {
            Held::Blob(_) | Held::Varbinary(_) => {
                fields.push(format!("@walferry_{n}"));
                set.push(format!("{} = UNHEX(@walferry_{n})", column.quoted));
            }
            _as_it_is => fields.push(column.quoted.clone()),
        }
    }
    let set = match set.as_slice() {
        [] => String::new(),
        [_, ..] => format!(" SET {}", set.join(", ")),
    };
    format!(
        "LOAD DATA LOCAL INFILE 'walferry' INTO TABLE {} CHARACTER SET utf8mb4 FIELDS TERMINATED BY x'09' \
         ESCAPED BY x'5C' LINES TERMINATED BY x'0A' ({}){set}",
        table.quoted,
        fields.join(", ")
    )
}

/// Lines of as many rows as are good for a file.
fn file(scope: Scope<'_>, rows: &[RowRef]) -> Result<(Bytes, usize), Failed> {
    let mut out = Vec::new();
    for (count, &row) in rows.iter().enumerate() {
        if out.len() >= FILE_BYTES {
            return Ok((out.into(), count));
        }
        for (n, &column) in scope.table.written.iter().enumerate() {
            if n > 0 {
                out.push(b'\t');
            }
            match scope.rows.row(row)[column] {
                Cell::Null => out.extend_from_slice(b"\\N"),
                Cell::Absent | Cell::Text { .. } => {
                    scope.put(row, (column, Form::Field), &mut out)?
                }
            }
        }
        out.push(b'\n');
    }
    Ok((out.into(), rows.len()))
}
