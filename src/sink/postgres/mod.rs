//! Postgres followers.

use async_trait::async_trait;

use super::{Sink, Wants, Work};
use crate::config::PostgresSinkSettings;
use crate::error::Result;
use crate::model::{Checkpoint, TableChanges, TableName, TableSchema};

/// A Postgres follower.
pub struct PostgresSink {}

impl PostgresSink {
    /// Nothing is connected yet.
    pub fn new(pipeline: &str, sink: &str, instance: &str, settings: PostgresSinkSettings) -> Self {
        let _ = (pipeline, sink, instance, settings);
        PostgresSink {}
    }
}

#[async_trait]
impl Sink for PostgresSink {
    fn wants(&self) -> Wants {
        Wants::Net
    }
    fn takes_copies(&self) -> bool {
        true
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
