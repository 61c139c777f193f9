//! One snapshot of one server: a transaction that only reads.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row as SqlRow};

use super::sql::SideSql;
use crate::error::{Error, Result};
use crate::model::{Lsn, TableName};
use crate::postgres::classify;

const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// Whose checkpoint tells how far the follower is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    /// The pipeline.
    pub pipeline: &'a str,
    /// The sink.
    pub sink: &'a str,
}

/// A snapshot; its transaction ends with the next one on the same connection, or with [`Snapshot::end`].
pub(super) struct Snapshot<'a> {
    client: &'a Client,
    /// Leader: what is visible was committed before it. Follower: all that was committed before it is visible.
    pub lsn: Lsn,
    /// The follower's tables whose copies are in effect.
    pub in_effect: BTreeSet<TableName>,
}

/// A row by its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// Hash of its content.
    pub content: String,
    /// Place and writer of its version on its server.
    pub version: String,
}

/// Rows by key.
pub(super) type Rows = BTreeMap<Vec<String>, Row>;

/// What is in a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sum {
    /// Rows.
    pub rows: u64,
    /// Sum of the hashes of their contents.
    hashes: String,
}

impl<'a> Snapshot<'a> {
    /// Of the leader, now.
    pub(super) async fn of_leader(client: &'a Client) -> Result<Self> {
        begin(client).await?;
        // The snapshot is taken before the position is read.
        let row = client
            .query_one("SELECT pg_catalog.pg_current_wal_insert_lsn()::text", &[])
            .await
            .map_err(|error| classify(&error, "reading the leader's position"))?;
        Ok(Snapshot {
            client,
            lsn: lsn(row.get(0))?,
            in_effect: BTreeSet::new(),
        })
    }

    /// Of the follower, now, wherever it is.
    pub(super) async fn of_follower(client: &'a Client, place: Place<'_>) -> Result<Self> {
        begin(client).await?;
        let row = client
            .query_opt(
                "SELECT applied::text, (state -> 'in_effect')::text FROM walferry.checkpoint
                 WHERE pipeline = $1 AND sink = $2",
                &[&place.pipeline, &place.sink],
            )
            .await
            .map_err(|error| classify(&error, "reading the follower's position"))?;
        let Some(row) = row else {
            return Err(Error::halt(
                format!(
                    "the follower's walferry.checkpoint knows no sink {} of pipeline {}",
                    place.sink, place.pipeline
                ),
                "run the sink first; or correct its url, if that is another database",
            ));
        };
        let in_effect = row.get::<_, Option<&str>>(1).unwrap_or("[]");
        let in_effect = serde_json::from_str(in_effect).map_err(|error| {
            Error::halt(
                "the follower's checkpoint was written in another form",
                "use the walferry that the sink runs",
            )
            .caused_by(error)
        })?;
        Ok(Snapshot {
            client,
            lsn: lsn(row.get(0))?,
            in_effect,
        })
    }

    /// Ends its transaction, so that the server may remove old rows.
    pub(super) async fn end(self) -> Result<()> {
        let ended = self.client.batch_execute("ROLLBACK").await;
        ended.map_err(|error| classify(&error, "ending a snapshot"))
    }

    /// Sums of a table's buckets.
    pub(super) async fn sums(&self, sql: &SideSql, buckets: u64) -> Result<BTreeMap<i32, Sum>> {
        let rows = self.query(&sql.sums(buckets), &[]).await?;
        let sums = rows.iter().map(|row| {
            let rows: i64 = row.get(1);
            let sum = Sum {
                rows: rows.unsigned_abs(),
                hashes: row.get(2),
            };
            (row.get(0), sum)
        });
        Ok(sums.collect())
    }

    /// Rows of some buckets, by key.
    pub(super) async fn rows_of(&self, sql: &SideSql, buckets: u64, of: &[i32]) -> Result<Rows> {
        by_key(&self.query(&sql.rows_of(buckets), &[&of]).await?)
    }

    /// Rows with these keys.
    pub(super) async fn rows_with(&self, sql: &SideSql, keys: &[&Vec<String>]) -> Result<Rows> {
        let columns: Vec<Vec<&str>> = (0..sql.key_width())
            .map(|at| keys.iter().map(|key| key[at].as_str()).collect())
            .collect();
        let params: Vec<&(dyn ToSql + Sync)> = columns
            .iter()
            .map(|list| list as &(dyn ToSql + Sync))
            .collect();
        by_key(&self.query(&sql.rows_with(), &params).await?)
    }

    /// How often each row is there, by its content.
    pub(super) async fn counts(&self, sql: &SideSql) -> Result<BTreeMap<String, i64>> {
        let rows = self.query(&sql.counts(), &[]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    async fn query(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<SqlRow>> {
        query(self.client, sql, params).await
    }
}

/// Rows with these keys, in the transaction that is open, or in one of its own.
pub(super) async fn rows_now(
    client: &Client,
    sql: &SideSql,
    keys: &[&Vec<String>],
) -> Result<Rows> {
    let columns: Vec<Vec<&str>> = (0..sql.key_width())
        .map(|at| keys.iter().map(|key| key[at].as_str()).collect())
        .collect();
    let params = columns.iter().map(|list| list as &(dyn ToSql + Sync));
    let params: Vec<&(dyn ToSql + Sync)> = params.collect();
    by_key(&query(client, &sql.rows_with(), &params).await?)
}

async fn query(client: &Client, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<SqlRow>> {
    let rows = client.query(sql, params).await;
    rows.map_err(|error| classify(&error, "reading rows to compare"))
}

async fn begin(client: &Client) -> Result<()> {
    // What an earlier look left open ends here.
    let begun = client.batch_execute(&format!("ROLLBACK; {BEGIN}")).await;
    begun.map_err(|error| classify(&error, "beginning a snapshot"))
}

fn lsn(text: &str) -> Result<Lsn> {
    text.parse()
        .map_err(|_| Error::transient(format!("{text} is not an LSN")))
}

fn by_key(rows: &[SqlRow]) -> Result<Rows> {
    let mut found = BTreeMap::new();
    for row in rows {
        let key: Vec<Option<String>> = row.get(0);
        // Columns of a key are NOT NULL on the leader; the follower's may hold what nobody expects.
        let key = key
            .into_iter()
            .map(|part| part.unwrap_or_else(|| "null".to_owned()));
        let content = Row {
            content: row.get(1),
            version: row.get(2),
        };
        found.insert(key.collect(), content);
    }
    Ok(found)
}
