//! Keys and values of records: Debezium's envelope in JSON, written straight from wire bytes and
//! read straight into [`Rows`], by plans compiled once a schema version. No tree is built.

use std::sync::Arc;

use crate::error::Result;
use crate::model::{Change, Lsn, Op, Position, RowRef, Rows, TableSchema};

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

/// Writes keys and values of one schema version. Buffers are the caller's and are appended to.
pub struct RecordEncoder {}

impl RecordEncoder {
    /// Compiles the encoder. `pipeline` and `database` go into the `source` block.
    pub fn new(schema: Arc<TableSchema>, pipeline: &str, database: &str) -> Self {
        let _ = (schema, pipeline, database);
        todo!()
    }
    /// The schema it was made for.
    pub fn schema(&self) -> &Arc<TableSchema> {
        todo!()
    }
    /// Appends the key JSON of a row (fields in schema order), e.g. `{"id":1}`.
    ///
    /// # Errors
    /// Halt when a key column is absent or not valid UTF-8.
    pub fn key(&self, row: &[Field<'_>], out: &mut Vec<u8>) -> Result<()> {
        let _ = (row, out);
        todo!()
    }
    /// Appends the value JSON. `before`/`after` in schema order; absent fields are left out of
    /// `before`, and in `after` stand as Debezium's placeholder with their names listed in `"absent"`.
    pub fn value(
        &self,
        op: Op,
        before: Option<&[Field<'_>]>,
        after: Option<&[Field<'_>]>,
        origin: &Origin,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let _ = (op, before, after, origin, out);
        todo!()
    }
    /// The partition of a key: murmur2 as Kafka's Java clients compute it, over the schema's
    /// partitions; 0 without a key.
    pub fn partition(&self, key: &[u8]) -> i32 {
        let _ = key;
        todo!()
    }
}

/// Reads keys and values of one schema version.
pub struct RecordDecoder {}

impl RecordDecoder {
    /// Compiles the decoder.
    pub fn new(schema: Arc<TableSchema>) -> Self {
        let _ = schema;
        todo!()
    }
    /// Reads a value into `rows`.
    ///
    /// # Errors
    /// Halt when the bytes are not what [`RecordEncoder`] writes for this schema.
    pub fn value(&self, position: Position, value: &[u8], rows: &mut Rows) -> Result<Change> {
        let _ = (position, value, rows);
        todo!()
    }
    /// Reads a key (of the record, or of a MOVE's header) into a row with only key cells set.
    pub fn key(&self, key: &[u8], rows: &mut Rows) -> Result<RowRef> {
        let _ = (key, rows);
        todo!()
    }
}
