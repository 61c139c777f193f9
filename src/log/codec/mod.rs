//! Keys and values of records: Debezium's envelope in JSON, written straight from wire bytes and
//! read straight into [`Rows`](crate::model::Rows), by plans compiled once a schema version. No
//! tree is built, and nothing is allocated a value.
//!
//! This is the layout, byte for byte (line breaks are for reading only, a record has none):
//!
//! ```text
//! {"op":"u",
//!  "absent":["big"],                        only when a column of `after` is absent
//!  "before":null,                           or an object of the columns that are known
//!  "after":{"id":1,"name":"x","big":"__debezium_unavailable_value"},   or null
//!  "source":{"version":"0.1.0","connector":"postgresql","name":"shop","ts_ms":1717243200000,
//!            "snapshot":"false","db":"app","schema":"public","table":"items","txId":771,
//!            "lsn":24023128},
//!  "ts_ms":1717243200000}
//! ```
//!
//! - `op`: `c` `u` `d` `t` in the stream, `r` for a row of a copy (then `snapshot` is `"true"`).
//!   `c` and `r` have no `before`; `d` has no `after`; `t` has neither.
//! - Columns stand in the order of the schema version. `after` has all of them; `before` those that
//!   are known: key columns, or all of them under REPLICA IDENTITY FULL, and then for `u` too.
//! - A column of `after` that Postgres did not send (an unchanged TOAST value) holds Debezium's
//!   placeholder *and* is named in `absent`, in column order. So a text that happens to equal the
//!   placeholder is a text. Only `u` and the `c` of a key change can have absent columns, and key
//!   columns are never absent and never null.
//! - Values: NULL is `null`. `bool` is `true` or `false`; `int2`, `int4`, `int8`, `float4`, `float8`
//!   are numbers with the digits that Postgres prints, but `NaN`, `Infinity` and `-Infinity` are
//!   strings. All else is a string with exactly the text that Postgres prints, in UTF-8; escaped
//!   are `"`, `\` and the characters below U+0020 (`\b \t \n \f \r`, else `\u00xx` in lower case).
//! - Both `ts_ms` are the commit time in milliseconds since 1970; `lsn` is the change's own LSN and
//!   orders nothing: the position in the header does.
//! - A key is `{"id":1}`: the key columns, in key order. Tables without a key have none, nor has a
//!   truncate.
//!
//! The decoder takes exactly this and nothing else, up to the end of `after`; what follows is for
//! people and other consumers. It gives back exactly Postgres's text.

mod decode;
mod encode;
mod json;
mod partition;
#[cfg(test)]
mod tests;

use crate::model::{ColumnKind, Lsn, TableSchema};

pub use decode::{RecordDecoder, commit_time_ms};
pub use encode::RecordEncoder;
pub use partition::key_partition;

/// What stands in JSON for a column that Postgres did not send; Debezium's word.
pub const PLACEHOLDER: &str = "__debezium_unavailable_value";

/// Where and when a change happened; constant in a transaction but for `lsn`.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// Commit time, microseconds since 2000-01-01 UTC.
    pub commit_time_us: i64,
    /// Transaction id.
    pub xid: u32,
    /// The change's own WAL LSN (`source.lsn`; orders nothing).
    pub lsn: Lsn,
}

/// One column's value on its way into a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field<'a> {
    /// SQL NULL.
    Null,
    /// Not known here (unchanged TOAST; not part of an old key).
    Absent,
    /// Postgres's text.
    Text(&'a [u8]),
}

/// A column as both sides of the codec need it.
#[derive(Debug)]
struct ColumnPlan {
    /// Index among the schema's columns.
    index: usize,
    /// How values travel.
    kind: ColumnKind,
    /// `{"name":` for the first of an object, `,"name":` for the others; the name is escaped.
    lead: Box<[u8]>,
}

impl ColumnPlan {
    /// `"name":`.
    fn member(&self) -> &[u8] {
        &self.lead[1..]
    }

    /// `"name"`.
    fn name(&self) -> &[u8] {
        &self.lead[1..self.lead.len() - 1]
    }
}

/// Plans for an object of these columns of a schema.
fn plan_columns(
    schema: &TableSchema,
    indexes: impl IntoIterator<Item = usize>,
) -> Box<[ColumnPlan]> {
    let compile = |(place, index): (usize, usize)| {
        let column = &schema.columns[index];
        let mut lead = vec![if place == 0 { b'{' } else { b',' }];
        json::write_string(column.name.as_bytes(), &mut lead);
        lead.push(b':');
        ColumnPlan {
            index,
            kind: column.kind,
            lead: lead.into(),
        }
    };
    indexes.into_iter().enumerate().map(compile).collect()
}
