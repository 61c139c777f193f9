//! Tables that the leader has renamed, moved to another schema or dropped: the same is done with the follower's,
//! in the follower transaction that passes the epoch entry which says so.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio_postgres::Client;

use super::Identity;
use super::catalog::relation;
use super::create;
use super::session::{EMPTYING_LIMIT, LIFTED_STATEMENT_TIMEOUT};
use crate::error::{Error, Result};
use crate::model::relation::quote_identifier;
use crate::model::{Moves, TableName};
use crate::postgres::classify;

/// Longest wait for it: readers may be in the way.
pub(super) const MOVING_LIMIT: Duration = EMPTYING_LIMIT;

const MOVING: &str = "renaming";
const DROPPING: &str = "dropping";

const IS_OURS: &str = "SELECT EXISTS (SELECT FROM walferry.tables \
    WHERE pipeline = $1 AND sink = $2 AND schema = $3 AND name = $4)";

/// What is known by a table's name is known by its new one.
const NOTE_MOVED: [&str; 2] = [
    "UPDATE walferry.tables SET schema = $3, name = $4 WHERE schema = $1 AND name = $2",
    "UPDATE walferry.indexes SET table_schema = $3, table_name = $4 \
     WHERE table_schema = $1 AND table_name = $2",
];

/// Nothing is known by a table's name any more.
const FORGET: [&str; 2] = [
    "DELETE FROM walferry.tables WHERE schema = $1 AND name = $2",
    "DELETE FROM walferry.indexes WHERE table_schema = $1 AND table_name = $2",
];

/// The follower while its tables are moved, in the open transaction.
pub(super) struct Moving<'a> {
    /// The connection.
    pub client: &'a Client,
    /// Whose follower it is.
    pub me: &'a Identity,
    /// The table whose turn it is.
    pub at: Option<TableName>,
}

impl Moving<'_> {
    /// Does it all: first what is dropped, so that its names are free. Returns the new names of tables that have
    /// them now; the others stay as they are, which is said.
    ///
    /// # Errors
    /// Halt when the follower refuses a statement, with that statement.
    pub(super) async fn run(&mut self, moves: &Moves) -> Result<BTreeSet<TableName>> {
        self.client
            .batch_execute(LIFTED_STATEMENT_TIMEOUT)
            .await
            .map_err(|error| classify(&error, "renaming and dropping tables"))?;
        self.drop(&moves.dropped).await?;
        self.rename(&moves.renamed).await
    }

    async fn rename(&mut self, all: &[(TableName, TableName)]) -> Result<BTreeSet<TableName>> {
        let mut moving = Vec::new();
        for (old, new) in all {
            if self.is_ours(old).await? {
                moving.push((old, new));
            } else {
                tracing::warn!(%old, %new, "the leader's table is renamed, and the follower has none of its old name that walferry has filled: it is copied anew");
            }
        }
        // A name that is not free keeps its table back, whose own name is not free then.
        loop {
            let olds: BTreeSet<&TableName> = moving.iter().map(|(old, _)| *old).collect();
            let mut kept = None;
            for (at, (_, new)) in moving.iter().enumerate() {
                if !olds.contains(new) && relation(self.client, new).await?.is_some() {
                    kept = Some(at);
                    break;
                }
            }
            let Some(at) = kept else { break };
            let (old, new) = moving.remove(at);
            tracing::warn!(%old, %new, "the leader's table is renamed, and the follower has another one of the new name: it is copied anew into that one");
        }
        for (n, (old, new)) in moving.iter().enumerate() {
            let way = way_name(n);
            let to_way = format!("ALTER TABLE {} RENAME TO {way}", old.quoted());
            self.execute(old, &to_way).await?;
            if old.schema != new.schema {
                create::make_schema(self.client, new, &new.schema).await?;
                let to_schema = format!(
                    "ALTER TABLE {}.{way} SET SCHEMA {}",
                    quote_identifier(&old.schema),
                    quote_identifier(&new.schema)
                );
                self.execute(old, &to_schema).await?;
            }
        }
        // All old names are free now: tables may have changed places.
        for (n, (old, new)) in moving.iter().enumerate() {
            let to_new = format!(
                "ALTER TABLE {}.{} RENAME TO {}",
                quote_identifier(&new.schema),
                way_name(n),
                quote_identifier(&new.name)
            );
            self.execute(old, &to_new).await?;
        }
        self.note_moved(&moving).await?;
        for (old, new) in &moving {
            tracing::info!(%old, %new, "the follower's table is renamed as the leader's");
        }
        Ok(moving.iter().map(|(_, new)| (*new).clone()).collect())
    }

    /// Notes go by way of names that no table has, as the tables do.
    async fn note_moved(&self, moved: &[(&TableName, &TableName)]) -> Result<()> {
        let way = |n: usize| TableName::new("", format!("{n}"));
        for (n, (old, _)) in moved.iter().enumerate() {
            self.note(old, &way(n)).await?;
        }
        for (n, (_, new)) in moved.iter().enumerate() {
            self.note(&way(n), new).await?;
        }
        Ok(())
    }

    async fn note(&self, old: &TableName, new: &TableName) -> Result<()> {
        self.forget(new).await?;
        for sql in NOTE_MOVED {
            self.client
                .execute(sql, &[&old.schema, &old.name, &new.schema, &new.name])
                .await
                .map_err(|error| classify(&error, "noting the new name of a table"))?;
        }
        Ok(())
    }

    async fn forget(&self, table: &TableName) -> Result<()> {
        for sql in FORGET {
            self.client
                .execute(sql, &[&table.schema, &table.name])
                .await
                .map_err(|error| classify(&error, "noting that a table is no more"))?;
        }
        Ok(())
    }

    /// Drops what walferry has filled. What something of the follower's own depends on stays, with its rows.
    async fn drop(&mut self, tables: &[TableName]) -> Result<()> {
        let mut left = Vec::new();
        for table in tables {
            if self.is_ours(table).await? {
                left.push(table);
            }
        }
        // One may depend on another.
        loop {
            let mut needed = Vec::new();
            for table in &left {
                if !self.drop_one(table).await? {
                    needed.push(*table);
                }
            }
            if needed.is_empty() || needed.len() == left.len() {
                left = needed;
                break;
            }
            left = needed;
        }
        for table in left {
            tracing::warn!(%table, "the leader has dropped a table that something on the follower depends on; it stays there with the rows it has");
        }
        Ok(())
    }

    /// Whether it could be dropped.
    async fn drop_one(&mut self, table: &TableName) -> Result<bool> {
        self.at = Some(table.clone());
        let sql = format!("DROP TABLE {}", table.quoted());
        if !create::drop_unless_needed(self.client, table, DROPPING, &sql).await? {
            return Ok(false);
        }
        self.forget(table).await?;
        tracing::info!(%table, "the follower's table is dropped as the leader's");
        Ok(true)
    }

    /// Whether it is there, and walferry has filled it for this sink.
    async fn is_ours(&self, table: &TableName) -> Result<bool> {
        let found = relation(self.client, table).await?;
        if !found.is_some_and(|found| matches!(found.kind, b'r' | b'p')) {
            return Ok(false);
        }
        let me = self.me;
        self.client
            .query_one(
                IS_OURS,
                &[&me.pipeline, &me.sink, &table.schema, &table.name],
            )
            .await
            .and_then(|row| row.try_get(0))
            .map_err(|error| classify(&error, "reading walferry.tables"))
    }

    async fn execute(&mut self, table: &TableName, sql: &str) -> Result<()> {
        self.at = Some(table.clone());
        create::run(self.client, table, MOVING, sql).await
    }
}

/// A name between the old one and the new one.
fn way_name(n: usize) -> String {
    format!("walferry_on_its_way_{n}")
}

/// That it has taken too long.
pub(super) fn not_ended() -> Error {
    Error::transient("renaming and dropping tables on the follower has not ended")
}
