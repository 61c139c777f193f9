//! The checkpoint in a store without transactions.
//!
//! Every step of a sink is a row of `walferry_checkpoint`; the one with the greatest `(claim, version)` counts, and
//! merges remove the others. A worker that begins takes the next claim, so whatever a former one still writes is
//! behind it and counts no more. Before it writes anything a batch sees that its own row is the newest; between
//! that look and its writes another worker may begin, which does no harm: rows are versioned by their position, so
//! both write the same.

use serde::{Deserialize, Serialize};

use super::failure::{Doing, Failure};
use super::http::{Http, Query, whole};
use super::sql;
use super::tables::{make_database, rows};
use crate::error::{Error, Result};
use crate::model::{Checkpoint, TableName};
use crate::sink::owned::{self, Identity};

/// walferry's own tables, which no table of the leader's may be.
pub(super) const OWN_TABLES: [&str; 3] =
    ["walferry_checkpoint", "walferry_tables", "walferry_columns"];

/// The statements that make them. `{db}` is the quoted database.
const LAYOUT: [&str; 3] = [
    "CREATE TABLE IF NOT EXISTS {db}.walferry_checkpoint (
        pipeline String,
        sink String,
        claim UInt64,
        version Int64,
        owner String,
        applied String,
        log_offset Int64,
        commit_time Nullable(DateTime64(6, 'UTC')),
        copying Bool,
        state String,
        step UInt128,
        written_at DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC')
    ) ENGINE = ReplacingMergeTree(step) ORDER BY (pipeline, sink)
    SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
    COMMENT 'how far walferry has come with this follower; do not edit'",
    "CREATE TABLE IF NOT EXISTS {db}.walferry_tables (
        pipeline String,
        sink String,
        schema String,
        name String,
        filled_at DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC')
    ) ENGINE = ReplacingMergeTree(filled_at) ORDER BY (pipeline, sink, schema, name)
    SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
    COMMENT 'tables that walferry has filled; do not edit'",
    "CREATE TABLE IF NOT EXISTS {db}.walferry_columns (
        pipeline String,
        sink String,
        schema String,
        name String,
        versions String,
        step UInt128
    ) ENGINE = ReplacingMergeTree(step) ORDER BY (pipeline, sink, schema, name)
    SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
    COMMENT 'which columns the leader had when rows were written; do not edit'",
];

/// The newest row.
#[derive(Debug, Deserialize)]
pub(super) struct Newest {
    /// Which worker's.
    pub claim: u64,
    /// The checkpoint's version.
    pub version: i64,
    /// Its token.
    pub owner: String,
    state: String,
}

impl Newest {
    /// The checkpoint.
    ///
    /// # Errors
    /// Halt when it cannot be read.
    pub(super) fn checkpoint(&self) -> Result<Checkpoint> {
        owned::read(OWN_TABLES[0], self.version, Some(&self.state))
    }
}

#[derive(Serialize)]
struct Row<'a> {
    pipeline: &'a str,
    sink: &'a str,
    claim: u64,
    version: i64,
    owner: &'a str,
    applied: String,
    log_offset: i64,
    commit_time: Option<String>,
    copying: bool,
    state: String,
    step: String,
}

/// The checkpoint's table in one database.
pub(super) struct Store<'a> {
    /// The connection.
    pub http: &'a Http,
    /// The database of the url.
    pub database: &'a str,
    /// Whose.
    pub me: &'a Identity,
}

impl Store<'_> {
    /// Makes walferry's own tables, and their database, if they are not there.
    ///
    /// # Errors
    /// As a statement.
    pub(super) async fn lay_out(&self) -> Result<()> {
        let there = format!(
            "SELECT count() FROM system.tables WHERE database = {} AND name IN ('{}')",
            sql::text(self.database),
            OWN_TABLES.join("', '")
        );
        let answer = self.http.ask(Query::new(&there)).await;
        let answer = answer.doing("looking for walferry's tables")?;
        if answer.trim_ascii() == OWN_TABLES.len().to_string().as_bytes() {
            return Ok(());
        }
        let doing = format!("creating database {}", self.database);
        make_database(self.http, self.database, &doing).await?;
        let database = sql::name(self.database);
        for statement in LAYOUT {
            let statement = statement.replace("{db}", &database);
            self.http
                .run(&statement)
                .await
                .doing("creating walferry's tables")?;
        }
        Ok(())
    }

    /// The newest row, if there is one.
    ///
    /// # Errors
    /// As a query.
    pub(super) async fn newest(&self) -> Result<Option<Newest>> {
        let ask = format!(
            "SELECT claim, version, owner, state FROM {}.walferry_checkpoint WHERE {} \
             ORDER BY step DESC LIMIT 1 FORMAT JSONEachRow \
             SETTINGS output_format_json_quote_64bit_integers = 0",
            sql::name(self.database),
            self.mine()
        );
        let found: Vec<Newest> = rows(self.http, &ask, "reading the checkpoint").await?;
        Ok(found.into_iter().next())
    }

    /// The claim of whoever takes over.
    ///
    /// # Errors
    /// As a query.
    pub(super) async fn next_claim(&self, newest: Option<&Newest>) -> Result<u64> {
        if let Some(newest) = newest {
            return Ok(newest.claim + 1);
        }
        // What is noted of tables outlives a checkpoint that somebody has removed.
        let ask = format!(
            "SELECT max(step) FROM {}.walferry_columns WHERE {}",
            sql::name(self.database),
            self.mine()
        );
        let doing = "reading walferry_columns";
        let answer = self.http.ask(Query::new(&ask)).await.doing(doing)?;
        let step = str::from_utf8(answer.trim_ascii()).map(str::parse::<u128>);
        match step {
            Ok(Ok(step)) => Ok(claim_of(step) + 1),
            _no_number => Err(Error::transient(format!(
                "{doing}: the greatest step is no number"
            ))),
        }
    }

    /// Writes a row; on return it is durable.
    ///
    /// # Errors
    /// As a statement.
    pub(super) async fn write(&self, claim: u64, to: &Checkpoint) -> Result<(), Failure> {
        let state = owned::written(to)?;
        let step = step(claim, to.version.max(0).unsigned_abs());
        let row = Row {
            pipeline: &self.me.pipeline,
            sink: &self.me.sink,
            claim,
            version: to.version,
            owner: &self.me.instance,
            applied: to.applied.to_string(),
            log_offset: to.log.next_offset,
            commit_time: to.commit_time_us.map(seconds),
            copying: !to.is_complete(&self.me.selection),
            state,
            step: step.to_string(),
        };
        self.insert("walferry_checkpoint", &row).await
    }

    /// Adds a row to one of walferry's own tables; on return it is durable.
    ///
    /// # Errors
    /// As a statement.
    pub(super) async fn insert(&self, table: &str, row: &impl Serialize) -> Result<(), Failure> {
        let data = serde_json::to_vec(row).map_err(|error| {
            Error::transient(format!("a row of {table} cannot be written as JSON")).caused_by(error)
        })?;
        let sql = format!(
            "INSERT INTO {}.{table} FORMAT JSONEachRow",
            sql::name(self.database)
        );
        let query = Query {
            data: Some(whole(data)),
            ..Query::new(&sql)
        };
        self.http.ask(query).await.map(drop)
    }

    /// Whether walferry has filled a table, for this sink.
    ///
    /// # Errors
    /// As a query.
    pub(super) async fn has_filled(&self, table: &TableName) -> Result<bool> {
        let ask = format!(
            "SELECT count() FROM {}.walferry_tables WHERE {}",
            sql::name(self.database),
            self.of(table)
        );
        self.http
            .is_any(&ask)
            .await
            .doing("reading walferry_tables")
    }

    /// Notes that walferry fills a table.
    ///
    /// # Errors
    /// As a statement.
    pub(super) async fn note_filled(&self, table: &TableName) -> Result<()> {
        let row = serde_json::json!({
            "pipeline": self.me.pipeline,
            "sink": self.me.sink,
            "schema": table.schema,
            "name": table.name,
        });
        let noted = self.insert("walferry_tables", &row).await;
        noted.doing("writing walferry_tables")
    }

    /// Forgets it: whoever makes a table of that name from now on has filled it himself.
    ///
    /// # Errors
    /// As a statement.
    pub(super) async fn forget_filled(&self, table: &TableName) -> Result<()> {
        let forget = format!(
            "ALTER TABLE {}.walferry_tables DELETE WHERE {}",
            sql::name(self.database),
            self.of(table)
        );
        let forgotten = self.http.run(&forget).await;
        forgotten.doing("writing walferry_tables")
    }

    /// Rows about a table of the leader's.
    fn of(&self, table: &TableName) -> String {
        format!(
            "{} AND schema = {} AND name = {}",
            self.mine(),
            sql::text(&table.schema),
            sql::text(&table.name)
        )
    }

    /// Rows of this sink.
    pub(super) fn mine(&self) -> String {
        format!(
            "pipeline = {} AND sink = {}",
            sql::text(&self.me.pipeline),
            sql::text(&self.me.sink)
        )
    }
}

/// Orders what is written: by the claim, and by its number among what was written under it.
pub(super) fn step(claim: u64, number: u64) -> u128 {
    u128::from(claim) << 64 | u128::from(number)
}

/// The claim of a step.
fn claim_of(step: u128) -> u64 {
    u64::try_from(step >> 64).expect("64 bits are left")
}

/// Seconds since 1970 with their fraction, from microseconds since 2000.
fn seconds(since_2000_us: i64) -> String {
    const FROM_1970_US: i64 = 946_684_800_000_000;
    let micros = since_2000_us + FROM_1970_US;
    format!(
        "{}.{:06}",
        micros.div_euclid(1_000_000),
        micros.rem_euclid(1_000_000)
    )
}
