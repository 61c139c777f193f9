//! The writing side.

use std::sync::Arc;

use super::{ColumnPlan, Field, Origin, PLACEHOLDER, json, key_partition, plan_columns};
use crate::error::{Error, Result};
use crate::model::clock::POSTGRES_EPOCH_US;
use crate::model::{ColumnKind, Op, TableSchema};

/// Writes keys and values of one schema version. Buffers are the caller's and are appended to;
/// after an error they are as before.
pub struct RecordEncoder {
    schema: Arc<TableSchema>,
    columns: Box<[ColumnPlan]>,
    key: Box<[ColumnPlan]>,
    /// `,"source":{` up to the value of `ts_ms`.
    source: Box<[u8]>,
    /// Behind `ts_ms` up to the value of `txId`, for the stream.
    source_stream: Box<[u8]>,
    /// The same for rows of copies.
    source_copy: Box<[u8]>,
}

/// Why a value cannot be written.
#[derive(Clone, Copy, Debug)]
enum Unwritable {
    /// Not a value of the column's type.
    Malformed(usize),
    /// Bytes that are not UTF-8 somewhere in the row.
    NotUtf8,
    /// A key column is absent or null.
    NoKey(usize),
}

impl RecordEncoder {
    /// Compiles the encoder. `pipeline` and `database` go into the `source` block.
    pub fn new(schema: Arc<TableSchema>, pipeline: &str, database: &str) -> Self {
        let mut source = Vec::new();
        source.extend_from_slice(b",\"source\":{\"version\":");
        json::write_string(env!("CARGO_PKG_VERSION").as_bytes(), &mut source);
        source.extend_from_slice(b",\"connector\":\"postgresql\",\"name\":");
        json::write_string(pipeline.as_bytes(), &mut source);
        source.extend_from_slice(b",\"ts_ms\":");
        let place = |snapshot: &[u8]| {
            let mut out = b",\"snapshot\":".to_vec();
            json::write_string(snapshot, &mut out);
            out.extend_from_slice(b",\"db\":");
            json::write_string(database.as_bytes(), &mut out);
            out.extend_from_slice(b",\"schema\":");
            json::write_string(schema.table.schema.as_bytes(), &mut out);
            out.extend_from_slice(b",\"table\":");
            json::write_string(schema.table.name.as_bytes(), &mut out);
            out.extend_from_slice(b",\"txId\":");
            out.into_boxed_slice()
        };
        RecordEncoder {
            columns: plan_columns(&schema, 0..schema.columns.len()),
            key: plan_columns(&schema, schema.key.iter().copied()),
            source: source.into(),
            source_stream: place(b"false"),
            source_copy: place(b"true"),
            schema,
        }
    }

    /// The schema it was made for.
    pub fn schema(&self) -> &Arc<TableSchema> {
        &self.schema
    }

    /// Appends the key JSON of a row (fields in schema order), e.g. `{"id":1}`; nothing when the
    /// table has no key.
    ///
    /// # Errors
    /// Halt when a key column is absent, null, or not valid UTF-8.
    pub fn key(&self, row: &[Field<'_>], out: &mut Vec<u8>) -> Result<()> {
        self.assert_width(row);
        if self.key.is_empty() {
            return Ok(());
        }
        let start = out.len();
        self.write_key(row, out)
            .and_then(|()| check_utf8(&out[start..]))
            .map_err(|why| {
                out.truncate(start);
                self.explain(why, &[row])
            })
    }

    /// Appends the value JSON. `before`/`after` in schema order; absent fields are left out of
    /// `before`, and in `after` stand as Debezium's placeholder with their names listed in `"absent"`.
    ///
    /// # Errors
    /// Halt when a value is not valid UTF-8 or not of its column's type, or when a key column of
    /// `after`, or of a delete's `before`, is absent or null.
    ///
    /// # Panics
    /// When the rows are not those that `op` has: `c` and `r` only `after`, `d` only `before`,
    /// `t` none, `u` `after` and perhaps `before`; each as wide as the schema.
    pub fn value(
        &self,
        op: Op,
        before: Option<&[Field<'_>]>,
        after: Option<&[Field<'_>]>,
        origin: &Origin,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        assert_rows(op, before.is_some(), after.is_some());
        let start = out.len();
        self.write_rows(op, before, after, out)
            .and_then(|()| check_utf8(&out[start..]))
            .map_err(|why| {
                out.truncate(start);
                let rows = [before.unwrap_or_default(), after.unwrap_or_default()];
                self.explain(why, &rows)
            })?;
        self.write_source(op, origin, out);
        Ok(())
    }

    /// The partition of a key: murmur2 as Kafka's Java clients compute it, over the schema's
    /// partitions; 0 without a key.
    pub fn partition(&self, key: &[u8]) -> i32 {
        key_partition(key, self.schema.partitions)
    }

    fn write_key(&self, row: &[Field<'_>], out: &mut Vec<u8>) -> Result<(), Unwritable> {
        for column in &self.key {
            out.extend_from_slice(&column.lead);
            match row[column.index] {
                Field::Null | Field::Absent => return Err(Unwritable::NoKey(column.index)),
                Field::Text(text) => write_text(column, text, out)?,
            }
        }
        out.push(b'}');
        Ok(())
    }

    fn write_rows(
        &self,
        op: Op,
        before: Option<&[Field<'_>]>,
        after: Option<&[Field<'_>]>,
        out: &mut Vec<u8>,
    ) -> Result<(), Unwritable> {
        out.extend_from_slice(match op {
            Op::Insert => b"{\"op\":\"c\"",
            Op::Update => b"{\"op\":\"u\"",
            Op::Delete => b"{\"op\":\"d\"",
            Op::Read => b"{\"op\":\"r\"",
            Op::Truncate => b"{\"op\":\"t\"",
        });
        if let Some(row) = after {
            self.write_absent(op, row, out)?;
        }
        out.extend_from_slice(b",\"before\":");
        match before {
            Some(row) => self.write_before(row, out)?,
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"after\":");
        match after {
            Some(row) => self.write_after(row, out)?,
            None => out.extend_from_slice(b"null"),
        }
        Ok(())
    }

    /// `"absent"` with the names of absent columns, if there are any.
    fn write_absent(&self, op: Op, row: &[Field<'_>], out: &mut Vec<u8>) -> Result<(), Unwritable> {
        self.assert_width(row);
        let is_absent = |column: &&ColumnPlan| row[column.index] == Field::Absent;
        let mut absent = self.columns.iter().filter(is_absent);
        let Some(first) = absent.next() else {
            return Ok(());
        };
        if op == Op::Read {
            return Err(Unwritable::Malformed(first.index));
        }
        out.extend_from_slice(b",\"absent\":[");
        out.extend_from_slice(first.name());
        for column in absent {
            out.push(b',');
            out.extend_from_slice(column.name());
        }
        out.push(b']');
        Ok(())
    }

    fn write_before(&self, row: &[Field<'_>], out: &mut Vec<u8>) -> Result<(), Unwritable> {
        self.assert_width(row);
        self.check_key(row)?;
        let mut lead = b'{';
        for column in &self.columns {
            match row[column.index] {
                Field::Absent if self.key.is_empty() => {
                    return Err(Unwritable::Malformed(column.index));
                }
                Field::Absent => continue,
                Field::Null => {
                    out.push(lead);
                    out.extend_from_slice(column.member());
                    out.extend_from_slice(b"null");
                }
                Field::Text(text) => {
                    out.push(lead);
                    out.extend_from_slice(column.member());
                    write_text(column, text, out)?;
                }
            }
            lead = b',';
        }
        if lead == b'{' {
            out.push(b'{');
        }
        out.push(b'}');
        Ok(())
    }

    fn write_after(&self, row: &[Field<'_>], out: &mut Vec<u8>) -> Result<(), Unwritable> {
        self.check_key(row)?;
        for column in &self.columns {
            out.extend_from_slice(&column.lead);
            match row[column.index] {
                Field::Null => out.extend_from_slice(b"null"),
                Field::Absent => {
                    out.push(b'"');
                    out.extend_from_slice(PLACEHOLDER.as_bytes());
                    out.push(b'"');
                }
                Field::Text(text) => write_text(column, text, out)?,
            }
        }
        if self.columns.is_empty() {
            out.push(b'{');
        }
        out.push(b'}');
        Ok(())
    }

    fn write_source(&self, op: Op, origin: &Origin, out: &mut Vec<u8>) {
        let ts_ms = origin
            .commit_time_us
            .saturating_add(POSTGRES_EPOCH_US)
            .div_euclid(1000);
        let mut buffer = itoa::Buffer::new();
        let ts_ms = buffer.format(ts_ms).as_bytes();
        let mut number = itoa::Buffer::new();
        out.extend_from_slice(&self.source);
        out.extend_from_slice(ts_ms);
        out.extend_from_slice(match op {
            Op::Read => &self.source_copy,
            Op::Insert | Op::Update | Op::Delete | Op::Truncate => &self.source_stream,
        });
        out.extend_from_slice(number.format(origin.xid).as_bytes());
        out.extend_from_slice(b",\"lsn\":");
        out.extend_from_slice(number.format(origin.lsn.0).as_bytes());
        out.extend_from_slice(b"},\"ts_ms\":");
        out.extend_from_slice(ts_ms);
        out.push(b'}');
    }

    fn check_key(&self, row: &[Field<'_>]) -> Result<(), Unwritable> {
        let unknown = |c: &&ColumnPlan| matches!(row[c.index], Field::Null | Field::Absent);
        match self.key.iter().find(unknown) {
            Some(column) => Err(Unwritable::NoKey(column.index)),
            None => Ok(()),
        }
    }

    fn assert_width(&self, row: &[Field<'_>]) {
        assert_eq!(
            row.len(),
            self.columns.len(),
            "columns of a row of {}",
            self.schema.table
        );
    }

    /// The error for a person; looks the guilty column up.
    #[cold]
    fn explain(&self, why: Unwritable, rows: &[&[Field<'_>]]) -> Error {
        let table = &self.schema.table;
        let name = |index: usize| &self.schema.columns[index].name;
        match why {
            Unwritable::Malformed(index) => Error::halt(
                format!(
                    "table {table}, column \"{}\": the leader sent something that is not a value of type {}",
                    name(index),
                    self.schema.columns[index].type_name
                ),
                "take the table out of the pipeline and report this with the leader's version and the column's type",
            ),
            Unwritable::NotUtf8 => {
                let broken = |field: &Field<'_>| match field {
                    Field::Text(text) => std::str::from_utf8(text).is_err(),
                    Field::Null | Field::Absent => false,
                };
                let column = rows.iter().find_map(|row| row.iter().position(broken));
                Error::halt(
                    format!(
                        "table {table}, column \"{}\": a value is not valid UTF-8",
                        column.map_or("?", |index| name(index))
                    ),
                    "repair the value on the leader (its database encoding does not guard it), or leave the table out of the pipeline",
                )
            }
            Unwritable::NoKey(index) => Error::halt(
                format!(
                    "table {table}, key column \"{}\": the leader did not send its value",
                    name(index)
                ),
                "give the table REPLICA IDENTITY DEFAULT with a primary key, USING INDEX, or FULL; then start a new copy of it",
            ),
        }
    }
}

/// Which rows an operation has.
fn assert_rows(op: Op, before: bool, after: bool) {
    let fits = match op {
        Op::Insert | Op::Read => !before && after,
        Op::Update => after,
        Op::Delete => before && !after,
        Op::Truncate => !before && !after,
    };
    assert!(fits, "{op:?} with before: {before}, after: {after}");
}

/// One look at all values at once: between two of them stands a quote, so a sequence cut off at
/// the end of one cannot be completed by the next.
fn check_utf8(written: &[u8]) -> Result<(), Unwritable> {
    match std::str::from_utf8(written) {
        Ok(_) => Ok(()),
        Err(_) => Err(Unwritable::NotUtf8),
    }
}

fn write_text(column: &ColumnPlan, text: &[u8], out: &mut Vec<u8>) -> Result<(), Unwritable> {
    match column.kind {
        ColumnKind::Text => json::write_string(text, out),
        ColumnKind::Integer if !text.is_empty() && json::integer_len(text) == text.len() => {
            out.extend_from_slice(text);
        }
        ColumnKind::Float if !text.is_empty() && json::number_len(text) == text.len() => {
            out.extend_from_slice(text);
        }
        ColumnKind::Float if matches!(text, b"NaN" | b"Infinity" | b"-Infinity") => {
            json::write_string(text, out);
        }
        ColumnKind::Bool if text == b"t" => out.extend_from_slice(b"true"),
        ColumnKind::Bool if text == b"f" => out.extend_from_slice(b"false"),
        ColumnKind::Bool | ColumnKind::Integer | ColumnKind::Float => {
            return Err(Unwritable::Malformed(column.index));
        }
    }
    Ok(())
}
