//! The checkpoint in the follower: claimed by one worker, compared and bumped first in every
//! follower transaction, written last in it.

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use super::params::Timestamp;
use crate::error::{Error, Result};
use crate::model::Checkpoint;
use crate::postgres::classify;
use crate::sink::owned::{self, Identity};

/// walferry's own tables. IF NOT EXISTS does not keep two workers from racing; the caller's
/// advisory lock does.
pub(super) const LAYOUT: &str = "
CREATE SCHEMA IF NOT EXISTS walferry;
CREATE TABLE IF NOT EXISTS walferry.checkpoint (
    pipeline text NOT NULL,
    sink text NOT NULL,
    owner text NOT NULL,
    version bigint NOT NULL,
    applied pg_lsn NOT NULL DEFAULT '0/0',
    epoch bigint,
    log_offset bigint,
    commit_time timestamptz,
    system_id text,
    timeline bigint,
    cluster_id text,
    state jsonb,
    updated_at timestamptz NOT NULL DEFAULT now(),
    copying boolean NOT NULL DEFAULT true,
    PRIMARY KEY (pipeline, sink)
) WITH (fillfactor = 50);
ALTER TABLE walferry.checkpoint ADD COLUMN IF NOT EXISTS copying boolean NOT NULL DEFAULT true;
CREATE TABLE IF NOT EXISTS walferry.tables (
    pipeline text NOT NULL,
    sink text NOT NULL,
    schema text NOT NULL,
    name text NOT NULL,
    filled_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (pipeline, sink, schema, name)
);
CREATE TABLE IF NOT EXISTS walferry.columns (
    pipeline text NOT NULL,
    sink text NOT NULL,
    relation oid NOT NULL,
    server text NOT NULL,
    version text NOT NULL,
    numbers jsonb NOT NULL,
    noted bigint GENERATED ALWAYS AS IDENTITY,
    leader jsonb,
    PRIMARY KEY (pipeline, sink, relation, server, version)
);
ALTER TABLE walferry.columns ADD COLUMN IF NOT EXISTS leader jsonb;
CREATE TABLE IF NOT EXISTS walferry.skips (
    pipeline text NOT NULL,
    sink text NOT NULL,
    commit_lsn pg_lsn NOT NULL,
    ordinal bigint NOT NULL,
    reason text NOT NULL,
    ordered_by text NOT NULL DEFAULT session_user,
    ordered_at timestamptz NOT NULL DEFAULT now(),
    skipped_at timestamptz,
    table_schema text,
    table_name text,
    PRIMARY KEY (pipeline, sink, commit_lsn, ordinal)
);
CREATE TABLE IF NOT EXISTS walferry.indexes (
    table_schema text NOT NULL,
    table_name text NOT NULL,
    name text NOT NULL,
    offered boolean NOT NULL,
    statement text NOT NULL,
    tablespace text NOT NULL DEFAULT '',
    comment text,
    noted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (table_schema, table_name, name)
);
COMMENT ON SCHEMA walferry IS 'what walferry knows of this follower; do not edit';";

/// Whether everything of it is there, for a SELECT. The newest column of the checkpoint stands for all.
pub(super) const IS_THERE: &str = "EXISTS (SELECT FROM pg_catalog.pg_attribute \
        WHERE attrelid = pg_catalog.to_regclass('walferry.checkpoint') AND attname = 'copying') \
    AND pg_catalog.to_regclass('walferry.tables') IS NOT NULL \
    AND EXISTS (SELECT FROM pg_catalog.pg_attribute \
        WHERE attrelid = pg_catalog.to_regclass('walferry.columns') AND attname = 'leader') \
    AND pg_catalog.to_regclass('walferry.skips') IS NOT NULL \
    AND pg_catalog.to_regclass('walferry.indexes') IS NOT NULL";

/// Where it stands.
const TABLE: &str = "walferry.checkpoint";

const CLAIM: &str = "UPDATE walferry.checkpoint SET owner = $3, updated_at = now() \
    WHERE pipeline = $1 AND sink = $2 RETURNING version, state::text";

const GUARD: &str = "UPDATE walferry.checkpoint SET version = version + 1 \
    WHERE pipeline = $1 AND sink = $2 AND owner = $3 AND version = $4 AND applied = $5::text::pg_lsn";

const FIRST: &str = "INSERT INTO walferry.checkpoint (pipeline, sink, owner, version) \
    VALUES ($1, $2, $3, 0) ON CONFLICT DO NOTHING";

const WRITE: &str = "UPDATE walferry.checkpoint SET version = $5, applied = $6::text::pg_lsn, epoch = $7, \
    log_offset = $8, commit_time = $9, system_id = $10, timeline = $11, cluster_id = $12, \
    state = $13::text::jsonb, copying = $14, updated_at = clock_timestamp() \
    WHERE pipeline = $1 AND sink = $2 AND owner = $3 AND version = $4";

const LOOK: &str =
    "SELECT owner, version FROM walferry.checkpoint WHERE pipeline = $1 AND sink = $2";

/// The checkpoint's statements in one session.
pub(super) struct Store {
    guard: Statement,
    first: Statement,
    write: Statement,
}

impl Store {
    /// Prepares the statements.
    pub(super) async fn prepare(client: &Client) -> Result<Self> {
        let failed = |error| classify(&error, "preparing the checkpoint's statements");
        Ok(Store {
            guard: client.prepare(GUARD).await.map_err(failed)?,
            first: client.prepare(FIRST).await.map_err(failed)?,
            write: client.prepare(WRITE).await.map_err(failed)?,
        })
    }

    /// A guard for a transaction that begins at `from`. It must change exactly one row.
    pub(super) fn guard(&self, from: Option<&Checkpoint>) -> Guard {
        match from {
            Some(from) => Guard {
                statement: self.guard.clone(),
                expected: Some((from.version, from.applied.to_string())),
            },
            None => Guard {
                statement: self.first.clone(),
                expected: None,
            },
        }
    }

    /// The write of `to` over a row that has `version` (after a guard: one more than `from`'s, or 0
    /// when there was none). It must change exactly one row.
    pub(super) fn write(&self, version: i64, to: &Checkpoint, me: &Identity) -> Result<Write> {
        let state = owned::written(to)?;
        Ok(Write {
            statement: self.write.clone(),
            version,
            next: to.version,
            applied: to.applied.to_string(),
            epoch: to.log.epoch.map(|epoch| epoch.0.cast_signed()),
            log_offset: to.log.next_offset,
            commit_time: to.commit_time_us.map(Timestamp),
            system_id: to.system_id.clone(),
            timeline: to.timeline.map(i64::from),
            cluster_id: to.cluster_id.clone(),
            state,
            copying: !to.is_complete(&me.selection),
        })
    }
}

/// The first statement of a transaction.
pub(super) struct Guard {
    statement: Statement,
    expected: Option<(i64, String)>,
}

impl Guard {
    /// Sends it; how many rows it changed.
    pub(super) async fn run(
        &self,
        client: &Client,
        me: &Identity,
    ) -> Result<u64, tokio_postgres::Error> {
        let (pipeline, sink, owner) = (&me.pipeline, &me.sink, &me.instance);
        match &self.expected {
            Some((version, applied)) => {
                let params: [&(dyn ToSql + Sync); 5] = [pipeline, sink, owner, version, applied];
                client.execute(&self.statement, &params).await
            }
            None => {
                let params: [&(dyn ToSql + Sync); 3] = [pipeline, sink, owner];
                client.execute(&self.statement, &params).await
            }
        }
    }
}

/// The last statement of a transaction before COMMIT.
pub(super) struct Write {
    statement: Statement,
    version: i64,
    next: i64,
    applied: String,
    epoch: Option<i64>,
    log_offset: i64,
    commit_time: Option<Timestamp>,
    system_id: Option<String>,
    timeline: Option<i64>,
    cluster_id: Option<String>,
    state: String,
    copying: bool,
}

impl Write {
    /// Sends it; how many rows it changed.
    pub(super) async fn run(
        &self,
        client: &Client,
        me: &Identity,
    ) -> Result<u64, tokio_postgres::Error> {
        let params: [&(dyn ToSql + Sync); 14] = [
            &me.pipeline,
            &me.sink,
            &me.instance,
            &self.version,
            &self.next,
            &self.applied,
            &self.epoch,
            &self.log_offset,
            &self.commit_time,
            &self.system_id,
            &self.timeline,
            &self.cluster_id,
            &self.state,
            &self.copying,
        ];
        client.execute(&self.statement, &params).await
    }
}

/// Takes the ownership, if there is a row to own, and reads what it says.
pub(super) async fn claim(client: &Client, me: &Identity) -> Result<Option<Checkpoint>> {
    let row = client
        .query_opt(CLAIM, &[&me.pipeline, &me.sink, &me.instance])
        .await
        .map_err(|error| classify(&error, "claiming the checkpoint"))?;
    row.map(|row| parse(&row)).transpose()
}

/// A checkpoint from its columns version and state.
pub(super) fn parse(row: &Row) -> Result<Checkpoint> {
    let version: i64 = row
        .try_get(0)
        .map_err(|error| owned::unreadable(TABLE, "has no readable version").caused_by(error))?;
    let state: Option<&str> = row
        .try_get(1)
        .map_err(|error| owned::unreadable(TABLE, "has no readable state").caused_by(error))?;
    owned::read(TABLE, version, state)
}

/// Why a guard did not find its row. To be asked when the transaction is rolled back.
pub(super) async fn why_refused(client: &Client, me: &Identity) -> Error {
    let row = match client.query_opt(LOOK, &[&me.pipeline, &me.sink]).await {
        Ok(row) => row,
        Err(error) => return classify(&error, "looking at the checkpoint"),
    };
    let owner: Option<&str> = row.as_ref().and_then(|row| row.try_get(0).ok());
    me.refused(TABLE, owner)
}
