//! What is asked of both servers about one table.

use tokio_postgres::Client;

use super::pace::Blocks;
use crate::error::Result;
use crate::model::TableSchema;
use crate::model::relation::quote_identifier;
use crate::postgres::classify;
use crate::source::catalog::CatalogTable;

/// The statements for one table.
pub(super) struct TableSql {
    /// For the leader.
    pub leader: SideSql,
    /// For the follower.
    pub follower: SideSql,
}

/// The statements for one table on one server. All columns are cast to text, as both sessions print them
/// alike; a row's content is the text of the row of those.
pub(super) struct SideSql {
    /// The table's name, quoted.
    name: String,
    /// `table` in FROM, without what inherits from it.
    from: String,
    /// The publication's row filter.
    filter: Option<String>,
    /// `md5` of the row.
    content: String,
    /// A number of the row, for sums: see [`number`].
    content_number: String,
    /// Key columns as text; the whole row's hash where there is no key.
    key: Vec<String>,
    /// A number of the key, for its bucket.
    key_number: String,
}

impl TableSql {
    /// For this table; why it cannot be compared, if the follower's has not all columns.
    ///
    /// # Errors
    /// When the follower's catalog cannot be read.
    pub(super) async fn of(
        table: &CatalogTable,
        follower: &Client,
    ) -> Result<Result<Self, String>> {
        let schema = &table.schema;
        let name = schema.table.quoted();
        let found = follower
            .query(
                "SELECT a.attname::text, c.relkind = 'p' FROM pg_catalog.pg_class c
                 LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                 WHERE c.oid = pg_catalog.to_regclass($1)",
                &[&name],
            )
            .await
            .map_err(|error| classify(&error, "reading the follower's columns"))?;
        let Some(first) = found.first() else {
            return Ok(Err("the follower has no table of this name".to_owned()));
        };
        let partitioned: bool = first.get(1);
        let has = |column: &str| {
            found
                .iter()
                .any(|row| row.get::<_, Option<&str>>(0) == Some(column))
        };
        let lacking: Vec<&str> = schema
            .columns
            .iter()
            .map(|column| column.name.as_str())
            .filter(|column| !has(column))
            .collect();
        if !lacking.is_empty() {
            let lacking = lacking.join(", ");
            return Ok(Err(format!("the follower's table has no column {lacking}")));
        }
        let filter = table.limits.row_filter.as_deref();
        Ok(Ok(TableSql {
            leader: SideSql::new(schema, table.partitioned, filter),
            follower: SideSql::new(schema, partitioned, None),
        }))
    }
}

/// A number of 64 bits of columns that are printed as text: their hashes, each with a seed of its own, so that
/// it matters which column has which value. A quarter of what `md5` of the row's text costs; where
/// numbers differ rows are compared by that.
fn number(columns: &[String]) -> String {
    let of = |(column, seed): (&String, usize)| {
        let hash =
            format!("pg_catalog.hashtextextended({column} COLLATE pg_catalog.\"C\", {seed})");
        format!("coalesce({hash}, {seed})")
    };
    match columns {
        [] => "0::int8".to_owned(),
        _some => columns
            .iter()
            .zip(1..)
            .map(of)
            .collect::<Vec<_>>()
            .join(" # "),
    }
}

/// What two servers must print alike, or their numbers cannot be compared.
pub(super) const PROBE: &str =
    "SELECT pg_catalog.hashtextextended('walferry' COLLATE pg_catalog.\"C\", 1)";

impl SideSql {
    fn new(schema: &TableSchema, partitioned: bool, filter: Option<&str>) -> Self {
        let only = if partitioned { "" } else { "ONLY " };
        let text = |at: &usize| format!("{}::text", quote_identifier(&schema.columns[*at].name));
        let columns: Vec<String> = (0..schema.columns.len()).map(|at| text(&at)).collect();
        let content = format!("pg_catalog.md5(ROW({})::text)", columns.join(", "));
        let key: Vec<String> = if schema.has_key() {
            schema.key.iter().map(text).collect()
        } else {
            vec![content.clone()]
        };
        let content_number = number(&columns);
        SideSql {
            name: schema.table.quoted(),
            from: format!("{only}{}", schema.table.quoted()),
            filter: filter.map(|filter| format!("({filter})")),
            key_number: match schema.has_key() {
                true => number(&key),
                false => content_number.clone(),
            },
            content,
            content_number,
            key,
        }
    }

    fn bucket(&self, buckets: u64) -> String {
        let number = &self.key_number;
        format!("((({number}) % {buckets} + {buckets}) % {buckets})::int4")
    }

    /// The table's name, quoted.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// `WHERE …` for the rows of a part that fulfil one more condition, or nothing.
    fn rows_in(&self, part: Blocks, condition: Option<String>) -> String {
        let from = (part.from > 0).then(|| format!("ctid >= '({},0)'::tid", part.from));
        let to = part.to.map(|to| format!("ctid < '({to},0)'::tid"));
        let all = [self.filter.clone(), from, to, condition];
        let all: Vec<String> = all.into_iter().flatten().collect();
        match all.is_empty() {
            true => String::new(),
            false => format!(" WHERE {}", all.join(" AND ")),
        }
    }

    /// Bucket, rows, sum of hashes.
    pub(super) fn sums(&self, buckets: u64, part: Blocks) -> String {
        format!(
            "SELECT {} AS bucket, count(*), pg_catalog.sum({})::text FROM {}{} GROUP BY 1",
            self.bucket(buckets),
            self.content_number,
            self.from,
            self.rows_in(part, None)
        )
    }

    /// Rows of a part in the buckets `$1`.
    fn in_buckets(&self, buckets: u64, part: Blocks) -> String {
        let wanted = format!("{} = ANY($1::int4[])", self.bucket(buckets));
        self.rows_in(part, Some(wanted))
    }

    /// Key and content of the rows in the buckets `$1`.
    pub(super) fn rows_of(&self, buckets: u64, part: Blocks) -> String {
        format!(
            "SELECT ARRAY[{}], {} FROM {}{}",
            self.key.join(", "),
            self.content,
            self.from,
            self.in_buckets(buckets, part)
        )
    }

    /// How often each row in the buckets `$1` is there.
    pub(super) fn counts(&self, buckets: u64, part: Blocks) -> String {
        format!(
            "SELECT {} AS content, count(*) FROM {}{} GROUP BY 1",
            self.content,
            self.from,
            self.in_buckets(buckets, part)
        )
    }

    /// Keeps the table from being altered, truncated or dropped while it is read.
    pub(super) fn lock(&self) -> String {
        format!("LOCK TABLE {} IN ACCESS SHARE MODE", self.from)
    }
}
