//! What is read of one server in a snapshot: a transaction that only reads.

use std::collections::BTreeMap;

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row as SqlRow};

use super::pace::Blocks;
use super::sql::SideSql;
use crate::error::{Error, Result};
use crate::postgres::classify;
use crate::sink::compared::{Contents, Sum, Sums};

/// A session in a transaction with the snapshot.
#[derive(Clone, Copy)]
pub(super) struct Snapshot<'a>(pub &'a Client);

/// Adds the buckets of a part.
pub(super) fn add(sums: &mut Sums, part: Sums) {
    for (bucket, more) in part {
        let sum = sums.entry(bucket).or_default();
        sum.rows += more.rows;
        sum.hashes += more.hashes;
    }
}

/// Rows of some buckets.
pub(super) fn rows(sums: &Sums) -> u64 {
    sums.values().map(|sum| sum.rows).sum()
}

impl Snapshot<'_> {
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
    pub(super) async fn sums(&self, sql: &SideSql, buckets: u64, part: Blocks) -> Result<Sums> {
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
    ) -> Result<Contents> {
        let rows = self.query(&sql.rows_of(buckets, part), &[&of]).await?;
        Ok(by_key(&rows))
    }

    /// How often each row of some buckets in a part is there, by its content.
    pub(super) async fn counts(
        &self,
        sql: &SideSql,
        (buckets, of): (u64, &[i32]),
        part: Blocks,
    ) -> Result<BTreeMap<String, i64>> {
        let rows = self.query(&sql.counts(buckets, part), &[&of]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    async fn query(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<SqlRow>> {
        let rows = self.0.query(sql, params).await;
        rows.map_err(|error| classify(&error, "reading rows to compare"))
    }
}

/// Rows of a query of keys and contents.
pub(super) fn by_key(rows: &[SqlRow]) -> Contents {
    let mut found = Contents::new();
    for row in rows {
        let key: Vec<Option<String>> = row.get(0);
        // Columns of a key are NOT NULL on the leader; the follower's may hold what nobody expects.
        let key = key
            .into_iter()
            .map(|part| part.unwrap_or_else(|| "null".to_owned()));
        found.insert(key.collect(), row.get(1));
    }
    found
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
