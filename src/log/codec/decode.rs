//! The reading side.

use std::sync::Arc;

use crate::error::Result;
use crate::model::{Change, Position, RowRef, Rows, TableSchema};

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
    /// Halt when the bytes are not what [`RecordEncoder`](super::RecordEncoder) writes for this schema.
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
