//! Emptying a table for a copy, if its rows are the sink's to remove.
//!
//! A table that is not in effect promises nothing. Where it has many rows, or has to be altered, it is emptied for
//! good before the transaction, which is quick; else by the transaction, which a ROLLBACK takes back.

use std::sync::Arc;

use super::MySqlSink;
use super::ddl::ALTERING_LIMIT;
use super::failure::{plain_error, rows_error};
use super::prepare::{Named, missing};
use super::transaction::{Ending, Transaction};
use super::wire::{Texts, literal};
use crate::error::{Error, Result};
use crate::model::TableName;
use crate::sink::place::Place;

/// From about so many rows on a table is emptied for good.
const MANY_ROWS: u64 = 100_000;

impl MySqlSink {
    /// Empties a table.
    pub(super) async fn empty_table(&mut self, table: &TableName) -> Result<(), Ending> {
        let named = self.named(table)?;
        let found = super::catalog::read(&mut self.session()?.wire, &named.database, &named.name);
        let found = found.await?.ok_or_else(|| missing(table))?;
        let before = match &self.transaction {
            Transaction::Wanted(from) => {
                let in_effect = from
                    .as_ref()
                    .is_some_and(|from| from.in_effect.contains(table));
                (!in_effect).then(|| from.as_ref().map(|from| from.version))
            }
            Transaction::None | Transaction::Open { .. } => None,
        };
        let has_rows = self.has_rows(&named).await?;
        if has_rows && let Some(refusal) = self.refusal(table, &named).await? {
            return Err(refusal.into());
        }
        // Rows of a copy have the oldest of the versions that were prepared: where the table takes that one it stays.
        let session = self.session()?;
        let awaited = session.awaited(table).map(|(awaited, _)| awaited.relation);
        let older = session.versions(table);
        let reshapes = awaited
            .is_some_and(|relation| older.iter().all(|table| table.schema.relation != relation));
        match before {
            Some(version) if reshapes || (has_rows && found.rows >= MANY_ROWS) => {
                self.reshape(table, &named, (version, reshapes)).await?;
            }
            Some(_) | None if reshapes => {
                return Err(Error::transient(format!(
                    "table {table} is to be altered before it is filled; beginning a new session"
                ))
                .into());
            }
            Some(_) | None => {}
        }
        self.start_now().await?;
        let wire = &mut self.session()?.wire;
        if has_rows {
            let delete = format!("DELETE FROM {}", named.quoted);
            let limit = wire.limit.max(ALTERING_LIMIT);
            wire.command_within(&delete, limit)
                .await
                .map_err(|cause| rows_error(&Place::of_table(table), None, &cause, "emptying"))?;
        }
        self.take(table).await?;
        Ok(())
    }

    /// Notes that the table's rows are this sink's from now on.
    async fn take(&mut self, table: &TableName) -> Result<()> {
        let me = Arc::clone(&self.me);
        let is_it = is_it(table);
        let release = format!(
            "DELETE FROM walferry_tables WHERE {is_it} AND NOT EXISTS (SELECT 1 FROM walferry_checkpoint c \
             WHERE c.pipeline = walferry_tables.pipeline AND c.sink = walferry_tables.sink)"
        );
        let take = format!(
            "INSERT IGNORE INTO walferry_tables (pipeline, sink, table_schema, table_name) VALUES ({}, {}, {})",
            me.values(),
            literal(&table.schema),
            literal(&table.name)
        );
        for sql in [release, take] {
            let done = self.session()?.wire.command(&sql).await;
            done.map_err(|cause| plain_error(&cause, "writing walferry_tables"))?;
        }
        Ok(())
    }

    /// Why a table with rows is not emptied: they are nobody's that walferry knows, or another sink's. It may remove
    /// those that it has put there itself, and those of sinks that have no checkpoint any more.
    async fn refusal(&mut self, table: &TableName, named: &Named) -> Result<Option<Error>> {
        let sql = format!(
            "SELECT pipeline, sink, EXISTS (SELECT 1 FROM walferry_checkpoint c \
             WHERE c.pipeline = t.pipeline AND c.sink = t.sink) FROM walferry_tables t WHERE {} ORDER BY 1, 2",
            is_it(table)
        );
        let rows = self.session()?.wire.rows(&sql).await;
        let owners = rows.map_err(|cause| plain_error(&cause, "reading walferry_tables"))?;
        let me = &self.me;
        let mine = |row: &Texts| {
            row[0].as_deref() == Some(&me.pipeline) && row[1].as_deref() == Some(&me.sink)
        };
        if owners.iter().any(mine) {
            return Ok(None);
        }
        if owners.is_empty() {
            return Ok(Some(Error::halt(
                format!("table {table} on the follower holds rows that walferry has not put there"),
                format!(
                    "if they may go: TRUNCATE TABLE {} on the follower, and restart walferry",
                    named.quoted
                ),
            )));
        }
        let living = owners.iter().find(|row| row[2].as_deref() == Some("1"));
        Ok(living.map(|row| {
            let text = |at: usize| row[at].clone().unwrap_or_default();
            let (pipeline, sink) = (text(0), text(1));
            Error::halt(
                format!(
                    "table {table} on the follower holds rows of sink {sink} of pipeline {pipeline}"
                ),
                format!(
                    "exclude the table in the file of one of the two sinks, or, if sink {sink} of pipeline \
                     {pipeline} is gone for good, delete its row from walferry_checkpoint on the follower; \
                     then restart walferry"
                ),
            )
        }))
    }
}

/// `table_schema = … AND table_name = …`.
pub(super) fn is_it(table: &TableName) -> String {
    format!(
        "table_schema = {} AND table_name = {}",
        literal(&table.schema),
        literal(&table.name)
    )
}
