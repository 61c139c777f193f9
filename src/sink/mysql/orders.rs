//! A follower's checkpoint, looked at and changed from outside of the sink that owns it.

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::Identity;
use super::checkpoint::{self, columns};
use super::failure::plain_error;
use super::session::{CHUNK_SECONDS, Missing, connect, lay_out, set_up};
use super::types::Server;
use super::wire::Wire;
use crate::config::MySqlSinkSettings;
use crate::error::{Error, Result};
use crate::model::{Checkpoint, Selection};
use crate::sink::owned;
use crate::sink::{Make, Revise, StoredCheckpoint};
use std::time::Duration;

/// A transaction under way may hold the checkpoint for long: it is waited for.
const PATIENCE: Duration = Duration::from_secs(CHUNK_SECONDS);

/// A connection to a follower, for its checkpoint.
pub struct MySqlCheckpoint {
    wire: Mutex<Wire>,
    server: Server,
    me: Identity,
}

impl MySqlCheckpoint {
    /// Connects; changes nothing.
    ///
    /// # Errors
    /// Transient when the server cannot be reached; halt for wrong credentials or a server that is too old.
    pub async fn open(
        pipeline: &str,
        sink: &str,
        settings: &MySqlSinkSettings,
        selection: Selection,
    ) -> Result<Self> {
        let (mut wire, server) = connect(&settings.server, PATIENCE, Missing::Refuse).await?;
        set_up(&mut wire, server, PATIENCE).await?;
        let patient = format!("SET SESSION innodb_lock_wait_timeout = {CHUNK_SECONDS}");
        wire.command(&patient).await.map_err(failed)?;
        Ok(MySqlCheckpoint {
            wire: Mutex::new(wire),
            server,
            me: Identity::onlooker(pipeline, sink).taking(selection),
        })
    }

    /// Writes what `make` makes of the locked row.
    async fn write(
        &mut self,
        make: impl FnOnce(Option<(i64, Option<String>)>) -> Result<Checkpoint> + Send,
    ) -> Result<Checkpoint> {
        let wire = self.wire.get_mut();
        lay_out(wire, self.server).await?;
        wire.command("START TRANSACTION").await.map_err(failed)?;
        let written = put(wire, &self.me, make).await;
        let end = if written.is_ok() {
            "COMMIT"
        } else {
            "ROLLBACK"
        };
        let ended = wire.command(end).await.map_err(failed);
        let next = written?;
        ended?;
        Ok(next)
    }
}

async fn put(
    wire: &mut Wire,
    me: &Identity,
    make: impl FnOnce(Option<(i64, Option<String>)>) -> Result<Checkpoint> + Send,
) -> Result<Checkpoint> {
    let insert = format!(
        "INSERT IGNORE INTO walferry_checkpoint (pipeline, sink, owner, version) VALUES ({}, '', 0)",
        me.values()
    );
    let made = wire.command(&insert).await.map_err(failed)? == 1;
    let row = checkpoint::row(wire, me, "FOR UPDATE").await?;
    let next = make(row.filter(|_| !made))?;
    // The owner stays: its guard no longer finds the version.
    let sql = format!(
        "UPDATE walferry_checkpoint SET {} WHERE {}",
        columns(&next, &me.selection)?,
        me.is_mine()
    );
    if wire.command(&sql).await.map_err(failed)? != 1 {
        return Err(Error::transient(
            "the checkpoint went away on the follower while it was changed; nothing was ordered",
        ));
    }
    Ok(next)
}

fn failed(cause: super::wire::Cause) -> Error {
    plain_error(&cause, "writing the checkpoint on the follower")
}

#[async_trait]
impl StoredCheckpoint for MySqlCheckpoint {
    async fn look(&self) -> Result<Option<Checkpoint>> {
        let mut wire = self.wire.lock().await;
        let there = "SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() \
             AND TABLE_NAME = 'walferry_checkpoint'";
        let rows = wire.rows(there).await;
        let rows = rows.map_err(|cause| plain_error(&cause, "looking for the checkpoint"))?;
        if rows.is_empty() {
            return Ok(None);
        }
        checkpoint::read(&mut wire, &self.me, "").await
    }

    async fn revise(&mut self, revise: Revise<'_>) -> Result<Checkpoint> {
        self.write(|row| {
            let now = row
                .map(|(version, state)| owned::read(checkpoint::TABLE, version, state.as_deref()));
            revise(now.transpose()?.as_ref())
        })
        .await
    }

    async fn replace(&mut self, make: Make<'_>) -> Result<Checkpoint> {
        self.write(|row| Ok(make(row.map(|(version, _)| version))))
            .await
    }
}
