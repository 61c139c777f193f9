//! The applier's side of schema versions: the follower's tables are prepared for a version before its
//! first change, outside of a transaction.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use super::orders::without;
use super::planned::{NeededSchema, Planned};
use super::session::Session;
use super::start;
use super::unfinished;
use crate::error::{Error, Result};
use crate::model::{TableName, TableSchema};

impl Session<'_> {
    /// Whether all these versions have been prepared in this session.
    pub(super) fn is_prepared(&self, schemas: &[NeededSchema]) -> bool {
        schemas
            .iter()
            .all(|needed| self.prepared.contains_key(&address(&needed.schema)))
    }

    /// Makes the follower's tables fit schema versions not met before in this session.
    ///
    /// # Errors
    /// Halt, with the first change concerned, when a table cannot take its rows.
    pub(super) async fn prepare(&mut self, schemas: &[NeededSchema]) -> Result<()> {
        if self.is_prepared(schemas) {
            return Ok(());
        }
        let newest = self.newest(schemas).await?;
        for (needed, newest) in schemas.iter().zip(newest) {
            let schema = &needed.schema;
            if !self.prepared.contains_key(&address(schema)) {
                let prepared = self.sink.prepare_table(schema, newest.as_deref()).await;
                prepared.map_err(|error| match needed.first {
                    Some(position) => error.at(format_args!("the change at {position}")),
                    None => error,
                })?;
                self.prepared.insert(address(schema), schema.clone());
            }
        }
        Ok(())
    }

    /// For each version the newest in the log, where that is another one.
    async fn newest(&self, schemas: &[NeededSchema]) -> Result<Vec<Option<Arc<TableSchema>>>> {
        let wanted: Vec<Arc<TableSchema>> = schemas.iter().map(|n| n.schema.clone()).collect();
        let store = self.schemas.clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
            store.read_on()?;
            let newest = wanted.iter().map(|schema| {
                let newest = store.newest(&schema.table, Some(schema.relation))?;
                (**newest != **schema).then(|| newest.clone())
            });
            Ok::<_, Error>(newest.collect())
        });
        read.await
            .map_err(|error| unfinished("reading the schema versions", error))?
    }

    /// Takes a table out of effect until a new copy comes: its rows were changed on the leader in a way that the
    /// stream does not show.
    pub(super) async fn copy_anew(&mut self, table: TableName, why: &str) -> Result<()> {
        tracing::warn!(
            sink = %self.context.sink.name,
            %table,
            why,
            "the table is copied anew, as its rows cannot follow the leader's"
        );
        // Copies that began before are taken for older, also those that a session need not know whose tables are all
        // in effect.
        let mut refused = self.copies_known().of(&table);
        let before = tokio::select! {
            biased;
            () = self.context.stop.cancelled() => return Ok(()),
            before = start::ledger_of(self.context, &self.terms, self.next_offset()) => before?,
        };
        refused.extend(before.of(&table));
        let refused = BTreeMap::from([(table.clone(), refused)]);
        let next = without(&self.checkpoint, &[table].into(), &refused, &self.terms);
        self.begin().await?;
        self.commit(next).await
    }

    /// A schema version met in the middle of a transaction: the batch is given up, and read again.
    pub(super) async fn prepare_anew(&mut self, planned: &Planned) -> Result<()> {
        self.main.give_up();
        self.sink.rollback().await?;
        self.prepare(&planned.schemas).await?;
        self.restart_reader().await
    }
}

/// Unique while the schema is held.
fn address(schema: &Arc<TableSchema>) -> usize {
    Arc::as_ptr(schema).addr()
}
