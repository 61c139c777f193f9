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
    /// Key columns as text; the whole row's hash where there is no key.
    key: Vec<String>,
    /// Key columns with their types.
    typed: Vec<(String, String)>,
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
        let typed = schema.key.iter().map(|at| {
            let column = &schema.columns[*at];
            (quote_identifier(&column.name), column.type_name.clone())
        });
        SideSql {
            name: schema.table.quoted(),
            from: format!("{only}{}", schema.table.quoted()),
            filter: filter.map(|filter| format!("({filter})")),
            content,
            key,
            typed: typed.collect(),
        }
    }

    /// A number from a hash, of so many bits.
    fn number(hash: &str, digits: usize, bits: usize) -> String {
        format!("('x' || pg_catalog.left({hash}, {digits}))::bit({bits})")
    }

    fn bucket(&self, buckets: u64) -> String {
        let hash = format!("pg_catalog.md5(ROW({})::text)", self.key.join(", "));
        format!("{}::int4 % {buckets}", Self::number(&hash, 7, 28))
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
        let hash = Self::number(&self.content, 15, 60);
        format!(
            "SELECT {} AS bucket, count(*), pg_catalog.sum({hash}::int8)::text FROM {}{} GROUP BY 1",
            self.bucket(buckets),
            self.from,
            self.rows_in(part, None)
        )
    }

    fn selected(&self) -> String {
        format!(
            "ARRAY[{}], {}, ctid::text || ' ' || xmin::text",
            self.key.join(", "),
            self.content
        )
    }

    /// Key, content and version of the rows in the buckets `$1`.
    pub(super) fn rows_of(&self, buckets: u64, part: Blocks) -> String {
        let wanted = format!("{} = ANY($1::int4[])", self.bucket(buckets));
        format!(
            "SELECT {} FROM {}{}",
            self.selected(),
            self.from,
            self.rows_in(part, Some(wanted))
        )
    }

    /// The same for rows with the keys whose columns are in `$1`, `$2` and so on: by the key's index.
    pub(super) fn rows_with(&self) -> String {
        let lists: Vec<String> = (1..=self.typed.len())
            .map(|at| format!("pg_catalog.unnest(${at}::text[])"))
            .collect();
        let names: Vec<String> = (1..=self.typed.len()).map(|at| format!("k{at}")).collect();
        let equal = self.typed.iter().zip(&names);
        let equal: Vec<String> = equal
            .map(|((column, type_name), name)| format!("t.{column} = wanted.{name}::{type_name}"))
            .collect();
        let filter = self.filter.as_ref();
        format!(
            "SELECT {} FROM (SELECT t.*, t.ctid, t.xmin FROM ROWS FROM ({}) AS wanted({}) JOIN {} t ON {}) t{}",
            self.selected(),
            lists.join(", "),
            names.join(", "),
            self.from,
            equal.join(" AND "),
            filter.map_or_else(String::new, |filter| format!(" WHERE {filter}"))
        )
    }

    /// How often each row is there.
    pub(super) fn counts(&self, part: Blocks) -> String {
        format!(
            "SELECT {} AS content, count(*) FROM {}{} GROUP BY 1",
            self.content,
            self.from,
            self.rows_in(part, None)
        )
    }

    /// Columns of the key.
    pub(super) fn key_width(&self) -> usize {
        self.typed.len()
    }
}
