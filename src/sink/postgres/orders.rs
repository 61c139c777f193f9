//! A follower's checkpoint, looked at and changed from outside of the sink that owns it.

use std::collections::BTreeSet;

use async_trait::async_trait;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Transaction};

use super::checkpoint::parse;
use super::session::lay_out;
use crate::config::PostgresSinkSettings;
use crate::error::{Error, Result};
use crate::model::{Checkpoint, Selection, TableName};
use crate::postgres::{classify, connect};
use crate::sink::owned;
use crate::sink::{Make, Revise, StoredCheckpoint};

/// The lock keeps the sink from a durable step meanwhile.
pub(super) const LOCK: &str = "SELECT version, state::text FROM walferry.checkpoint \
    WHERE pipeline = $1 AND sink = $2 FOR UPDATE";

const LOOK: &str = "SELECT version, state::text FROM walferry.checkpoint \
    WHERE pipeline = $1 AND sink = $2";

const INSERT: &str = "INSERT INTO walferry.checkpoint (pipeline, sink, owner, version) \
    VALUES ($1, $2, '', 0) ON CONFLICT DO NOTHING";

/// The owner stays: its guard no longer finds the version.
const REVISE: &str = "UPDATE walferry.checkpoint SET version = $3, applied = $4::text::pg_lsn, \
    state = $5::text::jsonb, copying = $6, updated_at = clock_timestamp() \
    WHERE pipeline = $1 AND sink = $2";

/// A transaction under way may hold the checkpoint for long: it is waited for.
const PATIENT: &str = "SET lock_timeout = 0; SET statement_timeout = 0; SET search_path = ''; \
    SET synchronous_commit = on";

const THERE: &str = "SELECT pg_catalog.to_regclass('walferry.checkpoint') IS NOT NULL";

const INDEXES_LEFT: &str = "SELECT count(*) FROM walferry.indexes i \
    JOIN unnest($1::text[], $2::text[]) AS w(s, t) ON i.table_schema = w.s AND i.table_name = w.t";

/// A connection to a follower, for its checkpoint.
pub struct FollowerCheckpoint {
    pub(super) client: Client,
    pub(super) pipeline: String,
    pub(super) sink: String,
    pub(super) selection: Selection,
}

/// The checkpoint of a sink as a session on its follower sees it; none when the sink has never run there.
///
/// # Errors
/// Transient when it cannot be asked; halt when the checkpoint cannot be read.
pub async fn checkpoint_in(
    client: &Client,
    pipeline: &str,
    sink: &str,
) -> Result<Option<Checkpoint>> {
    let failed = |error| classify(&error, "reading the checkpoint on the follower");
    let there = client.query_one(THERE, &[]).await.map_err(failed)?;
    if !there.try_get::<_, bool>(0).map_err(failed)? {
        return Ok(None);
    }
    let row = client.query_opt(LOOK, &[&pipeline, &sink]).await;
    row.map_err(failed)?.as_ref().map(parse).transpose()
}

impl FollowerCheckpoint {
    /// Connects; changes nothing.
    ///
    /// # Errors
    /// As [`connect`].
    pub async fn open(
        pipeline: &str,
        sink: &str,
        settings: &PostgresSinkSettings,
        selection: Selection,
    ) -> Result<Self> {
        let client = connect(&settings.postgres, "walferry order").await?;
        client
            .batch_execute(PATIENT)
            .await
            .map_err(|error| classify(&error, "setting up a session on the follower"))?;
        Ok(FollowerCheckpoint {
            client,
            pipeline: pipeline.to_owned(),
            sink: sink.to_owned(),
            selection,
        })
    }

    async fn write(
        &mut self,
        make: impl FnOnce(Option<&Row>) -> Result<Checkpoint> + Send,
    ) -> Result<Checkpoint> {
        lay_out(&self.client).await?;
        let transaction = self.client.transaction().await.map_err(failed)?;
        let (pipeline, sink) = (&self.pipeline, &self.sink);
        let row = lock(&transaction, pipeline, sink).await.map_err(failed)?;
        let next = make(row.as_ref())?;
        put(transaction, (pipeline, sink, &self.selection), &next).await?;
        Ok(next)
    }
}

#[async_trait]
impl StoredCheckpoint for FollowerCheckpoint {
    async fn look(&self) -> Result<Option<Checkpoint>> {
        checkpoint_in(&self.client, &self.pipeline, &self.sink).await
    }

    async fn indexes_left(&self, tables: &BTreeSet<TableName>) -> Result<usize> {
        let (schemas, names): (Vec<&str>, Vec<&str>) = tables
            .iter()
            .map(|table| (table.schema.as_str(), table.name.as_str()))
            .unzip();
        let failed = |error| classify(&error, "reading walferry.indexes");
        let row = self
            .client
            .query_one(INDEXES_LEFT, &[&schemas, &names])
            .await;
        let left: i64 = row.and_then(|row| row.try_get(0)).map_err(failed)?;
        Ok(usize::try_from(left).unwrap_or(0))
    }

    async fn revise(&mut self, revise: Revise<'_>) -> Result<Checkpoint> {
        self.write(|row| revise(row.map(parse).transpose()?.as_ref()))
            .await
    }

    async fn replace(&mut self, make: Make<'_>) -> Result<Checkpoint> {
        self.write(|row| {
            Ok(make(
                row.map(|row| row.try_get(0)).transpose().map_err(failed)?,
            ))
        })
        .await
    }
}

/// Writes a checkpoint over one that is locked, and commits.
pub(super) async fn put(
    transaction: Transaction<'_>,
    (pipeline, sink, selection): (&str, &str, &Selection),
    next: &Checkpoint,
) -> Result<()> {
    let state = owned::written(next)?;
    let copying = !next.is_complete(selection);
    let applied = next.applied.to_string();
    let columns: [&(dyn ToSql + Sync); 6] =
        [&pipeline, &sink, &next.version, &applied, &state, &copying];
    let written = transaction.execute(REVISE, &columns).await;
    if written.map_err(failed)? != 1 {
        return Err(Error::transient(
            "the checkpoint went away on the follower while it was changed; nothing was ordered",
        ));
    }
    transaction.commit().await.map_err(failed)
}

/// Locks the checkpoint's row, or makes one that nobody owns; what there was.
async fn lock(
    transaction: &Transaction<'_>,
    pipeline: &str,
    sink: &str,
) -> Result<Option<Row>, tokio_postgres::Error> {
    let row = transaction.query_opt(LOCK, &[&pipeline, &sink]).await?;
    if row.is_some() || transaction.execute(INSERT, &[&pipeline, &sink]).await? == 1 {
        return Ok(row);
    }
    // The sink has begun its work this moment.
    transaction.query_opt(LOCK, &[&pipeline, &sink]).await
}

pub(super) fn failed(error: tokio_postgres::Error) -> Error {
    classify(&error, "writing the checkpoint on the follower")
}
