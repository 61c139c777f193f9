//! Change events as JSON lines on standard output.

use async_trait::async_trait;

use super::{Sink, Wants, Work};
use crate::config::StdoutSinkSettings;
use crate::error::Result;
use crate::model::{Checkpoint, TableChanges, TableName, TableSchema};

/// Standard output.
pub struct StdoutSink {}

impl StdoutSink {
    /// Nothing is connected yet.
    pub fn new(settings: StdoutSinkSettings) -> Self {
        let _ = settings;
        StdoutSink {}
    }
}

#[async_trait]
impl Sink for StdoutSink {
    fn wants(&self) -> Wants {
        Wants::Changes
    }
    fn takes_copies(&self) -> bool {
        false
    }
    async fn open(&mut self) -> Result<Option<Checkpoint>> {
        todo!()
    }
    async fn prepare_table(&mut self, _schema: &TableSchema) -> Result<()> {
        todo!()
    }
    async fn begin(&mut self, _from: Option<&Checkpoint>) -> Result<()> {
        todo!()
    }
    async fn empty(&mut self, _table: &TableName) -> Result<()> {
        todo!()
    }
    async fn load(&mut self, _rows: &TableChanges) -> Result<()> {
        todo!()
    }
    async fn apply(&mut self, _work: Work, _more: bool) -> Result<()> {
        todo!()
    }
    async fn commit(&mut self, _to: &Checkpoint) -> Result<()> {
        todo!()
    }
    async fn rollback(&mut self) -> Result<()> {
        todo!()
    }
}
