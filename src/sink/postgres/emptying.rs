//! Emptying a table for a copy, if its rows are the sink's to remove.

use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use super::Identity;
use crate::error::Error;
use crate::model::TableName;

/// Sinks that have put rows into a table, and whether they still have a checkpoint.
const OWNERS: &str = "SELECT pipeline, sink, EXISTS (SELECT FROM walferry.checkpoint c \
        WHERE c.pipeline = tables.pipeline AND c.sink = tables.sink) \
    FROM walferry.tables WHERE schema = $1 AND name = $2 ORDER BY 1, 2";

/// Takes a table from sinks that have no checkpoint any more: they have no rows in it from now on.
const RELEASE: &str = "DELETE FROM walferry.tables WHERE schema = $1 AND name = $2 \
    AND NOT EXISTS (SELECT FROM walferry.checkpoint c \
        WHERE c.pipeline = tables.pipeline AND c.sink = tables.sink)";

const TAKE: &str = "INSERT INTO walferry.tables (schema, name, pipeline, sink) VALUES ($1, $2, $3, $4) \
    ON CONFLICT DO NOTHING";

/// Whose rows a table holds that must not be emptied.
pub(super) enum Rows {
    /// None that walferry has put there.
    Foreign,
    /// Those of another sink: its pipeline and name.
    Of(String, String),
}

impl Rows {
    /// Why it is not emptied.
    pub(super) fn refusal(&self, table: &TableName) -> Error {
        match self {
            Rows::Foreign => Error::halt(
                format!("table {table} on the follower holds rows that walferry has not put there"),
                format!(
                    "if they may go: TRUNCATE {} on the follower, and restart walferry",
                    table.quoted()
                ),
            ),
            Rows::Of(pipeline, sink) => Error::halt(
                format!(
                    "table {table} on the follower holds rows of sink {sink} of pipeline {pipeline}"
                ),
                format!(
                    "exclude the table in the file of one of the two sinks, or, if sink {sink} of pipeline \
                     {pipeline} is gone for good, delete its row from walferry.checkpoint on the follower; \
                     then restart walferry"
                ),
            ),
        }
    }
}

/// Empties a table, unless it holds rows that are not the sink's to remove: whose they are then. It may
/// remove those it has put there itself, and those of sinks that have no checkpoint any more: whoever
/// deletes a checkpoint releases the sink's tables.
pub(super) async fn empty_if_ours(
    client: &Client,
    me: &Identity,
    table: &TableName,
    sql: &str,
) -> Result<Option<Rows>, tokio_postgres::Error> {
    let of: [&(dyn ToSql + Sync); 4] = [&table.schema, &table.name, &me.pipeline, &me.sink];
    let holds = format!("SELECT EXISTS (SELECT FROM {})", table.quoted());
    // An empty table is left alone: a TRUNCATE would lock it, and reach whoever follows this follower.
    if client.query_one(&holds, &[]).await?.try_get(0)? {
        let mut owners = Vec::new();
        for row in client.query(OWNERS, &of[..2]).await? {
            let (pipeline, sink): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            owners.push((pipeline, sink, row.try_get::<_, bool>(2)?));
        }
        if let Some(others) = not_ours(me, owners) {
            return Ok(Some(others));
        }
        client.batch_execute(sql).await?;
    }
    client.execute(RELEASE, &of[..2]).await?;
    client.execute(TAKE, &of).await?;
    Ok(None)
}

/// Whose the rows of a table are that these sinks (the last value: with a checkpoint) have put rows
/// into, if they are not `me`'s to remove.
fn not_ours(me: &Identity, owners: Vec<(String, String, bool)>) -> Option<Rows> {
    let mine =
        |(pipeline, sink, _): &(String, String, bool)| *pipeline == me.pipeline && *sink == me.sink;
    if owners.iter().any(mine) {
        return None;
    }
    if owners.is_empty() {
        return Some(Rows::Foreign);
    }
    let living = owners.into_iter().find(|(_, _, lives)| *lives);
    living.map(|(pipeline, sink, _)| Rows::Of(pipeline, sink))
}
