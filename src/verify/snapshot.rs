//! One snapshot of one server: a transaction that only reads.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row as SqlRow};

use super::pace::Blocks;
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    /// Rows.
    pub rows: u64,
    /// Sum of the hashes of their contents: 64 bits a row.
    hashes: i128,
}

/// Adds the buckets of a part.
pub(super) fn add(sums: &mut BTreeMap<i32, Sum>, part: BTreeMap<i32, Sum>) {
    for (bucket, more) in part {
        let sum = sums.entry(bucket).or_default();
        sum.rows += more.rows;
        sum.hashes += more.hashes;
    }
}

/// Rows of some buckets.
pub(super) fn rows(sums: &BTreeMap<i32, Sum>) -> u64 {
    sums.values().map(|sum| sum.rows).sum()
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
                "SELECT applied::text, (state -> 'in_effect')::text, state ->> 'target'
                 FROM walferry.checkpoint
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
        if let Some(target) = row.get::<_, Option<&str>>(2) {
            return Err(stays(place.sink, target));
        }
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

    /// Blocks of a table's largest relation, and its relations.
    pub(super) async fn size(&self, sql: &SideSql) -> Result<(u64, u64)> {
        const SIZE: &str = "WITH relations AS (
                SELECT relid FROM pg_catalog.pg_partition_tree(pg_catalog.to_regclass($1)) WHERE isleaf
                UNION SELECT pg_catalog.to_regclass($1)
            )
            SELECT coalesce(max(pg_catalog.pg_relation_size(relid)), 0)
                / pg_catalog.current_setting('block_size')::int8, count(*)
            FROM relations";
        let found = self.query(SIZE, &[&sql.name()]).await?;
        let number = |at| found.first().map_or(0, |row| row.get::<_, i64>(at));
        Ok((number(0).unsigned_abs(), number(1).unsigned_abs()))
    }

    /// Sums of the buckets in a part of a table.
    pub(super) async fn sums(
        &self,
        sql: &SideSql,
        buckets: u64,
        part: Blocks,
    ) -> Result<BTreeMap<i32, Sum>> {
        let rows = self.query(&sql.sums(buckets, part), &[]).await?;
        let sums = rows.iter().map(|row| {
            let (rows, hashes): (i64, &str) = (row.get(1), row.get(2));
            let hashes = hashes
                .parse()
                .map_err(|_| Error::transient(format!("{hashes} is not a sum of hashes")))?;
            let sum = Sum {
                rows: rows.unsigned_abs(),
                hashes,
            };
            Ok((row.get(0), sum))
        });
        sums.collect()
    }

    /// Rows of some buckets in a part, by key.
    pub(super) async fn rows_of(
        &self,
        sql: &SideSql,
        (buckets, of): (u64, &[i32]),
        part: Blocks,
    ) -> Result<Rows> {
        by_key(&self.query(&sql.rows_of(buckets, part), &[&of]).await?)
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

    /// How often each row of a part is there, by its content.
    pub(super) async fn counts(
        &self,
        sql: &SideSql,
        part: Blocks,
    ) -> Result<BTreeMap<String, i64>> {
        let rows = self.query(&sql.counts(part), &[]).await?;
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

/// Of a follower that does not come to what the leader has, however long it is waited for.
fn stays(sink: &str, target: &str) -> Error {
    Error::halt(
        format!(
            "follower {sink} was ordered to stop at {target}, so it does not follow the leader"
        ),
        format!("let it follow again with walferry sink resume {sink}, or verify another follower"),
    )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_parts_are_the_sum_of_the_whole() {
        let sum = |rows, hashes| Sum { rows, hashes };
        let mut sums = BTreeMap::from([(1, sum(2, 30)), (2, sum(1, 5))]);
        let part = BTreeMap::from([(1, sum(1, i128::from(i64::MAX))), (7, sum(3, 9))]);
        add(&mut sums, part);
        assert_eq!(sums[&1], sum(3, 30 + i128::from(i64::MAX)));
        assert_eq!((sums[&2], sums[&7]), (sum(1, 5), sum(3, 9)));
        assert_eq!(rows(&sums), 7);
    }
}
