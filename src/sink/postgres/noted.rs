//! Which of the follower's columns each schema version was found to mean: `walferry.columns`.
//!
//! Written before the first change of a version is applied; `columns` says what it is for, and `alter` what
//! is noted of the leader's side. The newest note is of the shape that the table has. A table made anew, or
//! another server, has no notes.

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use super::Identity;
use super::columns::{Noted, Numbers};
use crate::error::{Error, NEW_PIPELINE, Result};
use crate::model::{Lsn, SchemaVersion, TableSchema};
use crate::postgres::classify;
use crate::sink::leader_shape::LeaderShape;

const READ: &str = "SELECT version, numbers::text, leader::text FROM walferry.columns \
    WHERE pipeline = $1 AND sink = $2 AND relation = $3 AND server = $4 ORDER BY noted";

const WRITE: &str = "INSERT INTO walferry.columns (pipeline, sink, relation, server, version, numbers, leader) \
    VALUES ($1, $2, $3, $4, $5, $6::text::jsonb, $7::text::jsonb) \
    ON CONFLICT (pipeline, sink, relation, server, version) DO UPDATE \
    SET numbers = EXCLUDED.numbers, leader = EXCLUDED.leader, noted = DEFAULT";

/// A table of a follower.
#[derive(Clone, Copy)]
pub(super) struct Notes<'a> {
    /// The connection, outside of a transaction.
    pub client: &'a Client,
    /// Whose notes.
    pub me: &'a Identity,
    /// The follower's system identifier; empty where it may not be read.
    pub server: &'a str,
    /// OID of the follower's table.
    pub relation: u32,
}

impl Notes<'_> {
    /// What is noted of the table, seen from a version.
    pub(super) async fn read(self, schema: &TableSchema) -> Result<Noted> {
        let version = schema.version().to_string();
        let failed = |error| classify(&error, "reading walferry.columns");
        let me = self.me;
        let params: [&(dyn ToSql + Sync); 4] =
            [&me.pipeline, &me.sink, &self.relation, &self.server];
        let mut noted = Noted::default();
        for row in self.client.query(READ, &params).await.map_err(failed)? {
            let (of, numbers, leader) = note(&row)?;
            if of == version {
                noted.own = Some(noted.versions.len());
            }
            noted.versions.push(numbers);
            noted.leader.push(leader);
        }
        Ok(noted)
    }

    /// Notes a version as the one that the follower shows from now on; `rewritten`: what is noted of that of the
    /// version before, which counts where this one says nothing.
    pub(super) async fn write(
        self,
        schema: &TableSchema,
        numbers: &Numbers,
        rewritten: Option<Lsn>,
    ) -> Result<()> {
        let version = schema.version().to_string();
        let numbers = serde_json::to_string(numbers).map_err(unreadable)?;
        let leader = LeaderShape::behind(schema, rewritten);
        let leader = leader.as_ref().map(serde_json::to_string);
        let leader = leader.transpose().map_err(unreadable)?;
        let me = self.me;
        let params: [&(dyn ToSql + Sync); 7] = [
            &me.pipeline,
            &me.sink,
            &self.relation,
            &self.server,
            &version,
            &numbers,
            &leader,
        ];
        self.client
            .execute(WRITE, &params)
            .await
            .map_err(|error| classify(&error, "writing walferry.columns"))?;
        Ok(())
    }
}

/// The newest note of a table: of the version that the follower shows.
#[derive(Clone, Debug)]
pub(super) struct Last {
    /// The version.
    pub version: SchemaVersion,
    /// Its columns on the follower.
    pub numbers: Numbers,
    /// Up to where the leader's rewriting of rows is in it.
    pub rewritten: Option<Lsn>,
    /// How many versions are noted.
    pub versions: usize,
}

/// The newest note of the follower's table with this OID on this server (as in [`Notes`]), if there is one.
pub(super) async fn last(
    client: &Client,
    me: &Identity,
    (server, relation): (&str, u32),
) -> Result<Option<Last>> {
    let failed = |error| classify(&error, "reading walferry.columns");
    let params: [&(dyn ToSql + Sync); 4] = [&me.pipeline, &me.sink, &relation, &server];
    let rows = client.query(READ, &params).await.map_err(failed)?;
    let Some(row) = rows.last() else {
        return Ok(None);
    };
    let (version, numbers, leader) = note(row)?;
    let quoted = serde_json::Value::String(version);
    Ok(Some(Last {
        version: serde_json::from_value(quoted).map_err(unreadable)?,
        numbers,
        rewritten: leader.and_then(|leader| leader.rewritten),
        versions: rows.len(),
    }))
}

/// Version, columns and the leader's side in a row of [`READ`].
fn note(row: &Row) -> Result<(String, Numbers, Option<LeaderShape>)> {
    let failed = |error| classify(&error, "reading walferry.columns");
    let numbers: String = row.try_get(1).map_err(failed)?;
    let leader: Option<String> = row.try_get(2).map_err(failed)?;
    let leader = leader.as_deref().map(serde_json::from_str).transpose();
    Ok((
        row.try_get(0).map_err(failed)?,
        serde_json::from_str(&numbers).map_err(unreadable)?,
        leader.map_err(unreadable)?,
    ))
}

fn unreadable(error: serde_json::Error) -> Error {
    Error::halt(
        "walferry.columns on the follower holds what walferry has not written",
        format!("restore the table as walferry wrote it, or {NEW_PIPELINE}"),
    )
    .caused_by(error)
}
