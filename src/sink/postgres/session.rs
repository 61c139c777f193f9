//! One session with a follower: connected, found fit, set up, the checkpoint's tables there.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::checkpoint::{self, Store};
use super::tables::Table;
use super::{create, readers};
use crate::config::PostgresSinkSettings;
use crate::error::{Error, Result};
use crate::model::relation::quote_identifier;
use crate::model::{Checkpoint, SchemaVersion, TableName, TableSchema};
use crate::postgres::{classify, connect};

/// `lock_timeout`: a reader that holds a table for longer makes the batch wait with back-off.
const LOCK_TIMEOUT_MS: u128 = 30_000;

/// After this long without a statement inside a transaction the server ends the session, so that the
/// locks of a dead worker go.
const IDLE_IN_TRANSACTION_TIMEOUT_MS: u128 = 60_000;

/// The same for a transaction in chunks, which may wait for Kafka between them.
const IDLE_BETWEEN_CHUNKS_TIMEOUT_MS: u128 = 600_000;

/// How much longer than the server's own time-out an answer is awaited.
const ANSWER_GRACE: Duration = Duration::from_secs(30);

/// Longest wait for an answer within a transaction in chunks, whose statements have no time-out on the
/// server: a follower that is frozen, not gone, keeps its connection alive.
pub(super) const CHUNK_ANSWER_LIMIT: Duration = Duration::from_secs(3_600);

/// Longest wait for the DELETE of all rows of a table.
pub(super) const EMPTYING_LIMIT: Duration = Duration::from_secs(24 * 3_600);

/// Lifts the server's time-out of statements until the transaction ends.
pub(super) const LIFTED_STATEMENT_TIMEOUT: &str = "SET LOCAL statement_timeout = 0";

/// Schemas whose version is known by their place in memory.
const KNOWN_MAX: usize = 1_024;

const FITNESS: &str = "SELECT pg_catalog.current_setting('server_encoding'), pg_catalog.pg_is_in_recovery(), \
    pg_catalog.current_setting('transaction_read_only')::bool, \
    EXISTS (SELECT FROM pg_catalog.pg_replication_slots \
        WHERE plugin = 'pgoutput' AND database = pg_catalog.current_database()), \
    pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')";

/// A connection that is set up for applying.
pub(super) struct Session {
    /// The connection.
    pub client: Arc<Client>,
    /// The checkpoint's statements.
    pub store: Store,
    /// Longest wait for an answer.
    pub limit: Duration,
    tables: HashMap<SchemaVersion, Arc<Table>>,
    /// Versions to come, and the newest of their tables in the log where that is another one.
    coming: HashMap<SchemaVersion, Option<TableSchema>>,
    /// Versions whose shape tables have now.
    shapes: HashMap<TableName, SchemaVersion>,
    /// Versions by address. The schemas are kept alive, so an address stands for one schema.
    known: HashMap<usize, (Arc<TableSchema>, Arc<Table>)>,
    system_id: Option<String>,
    has_slot: bool,
    leader_checked: bool,
}

impl Session {
    /// Connects, checks, sets up.
    pub(super) async fn open(settings: &PostgresSinkSettings, name: &str) -> Result<Self> {
        let client = connect(&settings.postgres, name).await?;
        let (has_slot, may_read_control) = check_fitness(&client).await?;
        set_up(&client, settings.statement_timeout).await?;
        lay_out(&client).await?;
        let system_id = if may_read_control {
            read_system_id(&client).await?
        } else {
            None
        };
        let store = Store::prepare(&client).await?;
        Ok(Session {
            client: Arc::new(client),
            store,
            limit: settings.statement_timeout + ANSWER_GRACE,
            tables: HashMap::new(),
            coming: HashMap::new(),
            shapes: HashMap::new(),
            known: HashMap::new(),
            system_id,
            has_slot,
            leader_checked: false,
        })
    }

    /// The follower's system identifier; empty where it may not be read.
    pub(super) fn server(&self) -> &str {
        self.system_id.as_deref().unwrap_or_default()
    }

    /// Whether a schema version has been prepared in this session.
    pub(super) fn is_prepared(&self, version: SchemaVersion) -> bool {
        self.tables.contains_key(&version) || self.coming.contains_key(&version)
    }

    /// Keeps a table that is fit for a schema version, until the session ends: the worker counts on it.
    /// There are no more than the worker keeps schemas.
    pub(super) fn keep(&mut self, version: SchemaVersion, table: Table) {
        self.shapes.insert(table.schema.table.clone(), version);
        self.tables.insert(version, Arc::new(table));
    }

    /// Notes a version for which the table is to be altered, in the transaction that has its first change.
    pub(super) fn expect(&mut self, version: SchemaVersion, newest: Option<&TableSchema>) {
        self.coming.insert(version, newest.cloned());
    }

    /// The newest version in the log of the table that this version is of, as far as one was told.
    pub(super) fn newest(&self, version: SchemaVersion) -> Option<&TableSchema> {
        self.coming.get(&version)?.as_ref()
    }

    /// Forgets a table in all shapes that it had: it is being altered.
    pub(super) fn forget(&mut self, name: &TableName) {
        let versions = self
            .tables
            .iter()
            .filter(|(_, table)| table.schema.table == *name);
        let versions: Vec<SchemaVersion> = versions.map(|(version, _)| *version).collect();
        for version in versions {
            self.tables.remove(&version);
            self.coming.entry(version).or_default();
        }
        self.shapes.remove(name);
        self.known.retain(|_, (schema, _)| schema.table != *name);
    }

    /// Forgets the shapes of all tables: what a transaction has altered was given up.
    pub(super) fn forget_all(&mut self) {
        for version in std::mem::take(&mut self.tables).into_keys() {
            self.coming.entry(version).or_default();
        }
        self.shapes.clear();
        self.known.clear();
    }

    /// The table of a schema, if it has been prepared and `follows` its shape or has it now. Hashing a schema
    /// costs more than a small batch, so versions are remembered by address.
    pub(super) fn table_now(
        &mut self,
        schema: &Arc<TableSchema>,
        follows: bool,
    ) -> Option<Arc<Table>> {
        let address = Arc::as_ptr(schema) as usize;
        if let Some((_kept, table)) = self.known.get(&address) {
            return Some(Arc::clone(table));
        }
        let version = schema.version();
        if follows && self.shapes.get(&schema.table) != Some(&version) {
            return None;
        }
        let table = self.tables.get(&version)?;
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        self.known
            .insert(address, (Arc::clone(schema), Arc::clone(table)));
        Some(Arc::clone(table))
    }

    /// The same, where it must be.
    ///
    /// # Errors
    /// Transient when it has not been prepared: a new session prepares anew.
    pub(super) fn table(&mut self, schema: &Arc<TableSchema>, follows: bool) -> Result<Arc<Table>> {
        self.table_now(schema, follows).ok_or_else(|| {
            Error::transient(format!(
                "table {} in version {} is not prepared; beginning a new session",
                schema.table,
                schema.version()
            ))
        })
    }

    /// Whether a table has a key in all versions that were prepared; none: it is in none of them.
    pub(super) fn has_key(&self, table: &TableName) -> Option<bool> {
        let versions = self.tables.values().filter(|t| t.schema.table == *table);
        let has_key = versions.map(|version| version.schema.has_key());
        has_key.reduce(|all, this| all && this)
    }

    /// Whether its columns have the leader's names in all versions that were prepared.
    pub(super) fn has_same_names(&self, table: &TableName) -> bool {
        let mut versions = self.tables.values().filter(|t| t.schema.table == *table);
        versions.all(|version| {
            let mut columns = version.schema.columns.iter().zip(&version.columns);
            columns.all(|(leaders, own)| quote_identifier(&leaders.name) == own.quoted)
        })
    }

    /// Forgets what was found of these tables: their indexes have changed.
    pub(super) fn forget_found(&mut self, tables: &BTreeSet<TableName>) {
        self.shapes.retain(|table, _| !tables.contains(table));
        self.tables.retain(|_, t| !tables.contains(&t.schema.table));
        self.known.retain(|_, (s, _)| !tables.contains(&s.table));
    }

    /// Refuses to write into the leader's own database: same cluster, the slot's database, and tables
    /// with the leader's OIDs.
    pub(super) fn refuse_leader(&mut self, to: &Checkpoint) -> Result<()> {
        if self.leader_checked {
            return Ok(());
        }
        let Some(leader) = &to.system_id else {
            return Ok(());
        };
        let same_tables = self.tables.values().any(|table| table.same_oid);
        if self.system_id.as_ref() == Some(leader) && self.has_slot && same_tables {
            return Err(Error::halt(
                "the follower is the leader's own database",
                "set the sink's url to another database than the source's",
            ));
        }
        self.leader_checked = true;
        Ok(())
    }
}

/// What a transaction in chunks sets after BEGIN: it may take long, and wait between chunks.
pub(super) fn lifted_timeouts() -> String {
    format!(
        "{LIFTED_STATEMENT_TIMEOUT}; \
         SET LOCAL idle_in_transaction_session_timeout = {IDLE_BETWEEN_CHUNKS_TIMEOUT_MS}"
    )
}

/// Whether the database has a pgoutput slot, and whether its control file may be read.
async fn check_fitness(client: &Client) -> Result<(bool, bool)> {
    let failed = |error| classify(&error, "looking at the follower");
    let row = client.query_one(FITNESS, &[]).await.map_err(failed)?;
    let encoding: String = row.try_get(0).map_err(failed)?;
    let in_recovery: bool = row.try_get(1).map_err(failed)?;
    let read_only: bool = row.try_get(2).map_err(failed)?;
    takes_writes(&encoding, in_recovery, read_only)?;
    Ok((
        row.try_get(3).map_err(failed)?,
        row.try_get(4).map_err(failed)?,
    ))
}

/// Refuses a follower that cannot keep values exactly, and waits for one that takes no writes: that
/// passes with a failover, or when a disk has room again.
fn takes_writes(encoding: &str, in_recovery: bool, read_only: bool) -> Result<()> {
    if encoding != "UTF8" {
        return Err(Error::halt(
            format!(
                "the follower's database has encoding {encoding}; values could not be kept exactly"
            ),
            "use a database created with ENCODING 'UTF8'",
        ));
    }
    if in_recovery {
        return Err(Error::transient(
            "the follower is in recovery (a physical standby) and takes no writes; if no failover is \
             under way, set the sink's url to the primary server, or promote this one",
        ));
    }
    if read_only {
        return Err(Error::transient(
            "transactions on the follower are read-only (default_transaction_read_only); if that is to \
             stay so no longer: ALTER DATABASE … SET default_transaction_read_only = off, or the same \
             for the role",
        ));
    }
    Ok(())
}

/// Sets the session up for applying.
///
/// The plans are made once, without values, when tables may still be empty: nested loops over indexes
/// are the only ones that stay good, so nothing else is allowed. The search path is empty as in
/// Postgres's own apply worker (`InitializeLogRepWorker`).
async fn set_up(client: &Client, statement_timeout: Duration) -> Result<()> {
    let role = "SET session_replication_role = replica";
    client.batch_execute(role).await.map_err(|error| {
        if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
            Error::halt(
                "the follower's role may not set session_replication_role",
                "as a superuser: GRANT SET ON PARAMETER session_replication_role TO the role \
                 (Postgres 15 and newer), or make it a superuser",
            )
        } else {
            classify(&error, "setting session_replication_role")
        }
    })?;
    let statement_ms = statement_timeout.as_millis();
    let settings = format!(
        "SET search_path = '';
         SET synchronous_commit = on;
         SET row_security = off;
         SET statement_timeout = {statement_ms};
         SET lock_timeout = {};
         SET idle_in_transaction_session_timeout = {IDLE_IN_TRANSACTION_TIMEOUT_MS};
         SET default_transaction_isolation = 'read committed';
         SET standard_conforming_strings = on;
         SET xmloption = content;
         SET work_mem = '64MB';
         SET jit = off;
         SET plan_cache_mode = force_generic_plan;
         SET enable_seqscan = off;
         SET enable_bitmapscan = off;
         SET enable_hashjoin = off;
         SET enable_mergejoin = off;
         SET enable_material = off",
        LOCK_TIMEOUT_MS.min(statement_ms)
    );
    client
        .batch_execute(&settings)
        .await
        .map_err(|error| classify(&error, "setting up the follower's session"))
}

/// Creates walferry's own tables, and what readers ask for, where they are missing.
pub(super) async fn lay_out(client: &Client) -> Result<()> {
    let failed = |error: &tokio_postgres::Error| {
        if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
            Error::halt(
                "the follower's role may not create or use schema walferry",
                "GRANT CREATE ON DATABASE … TO the role, or create schema walferry with the role as its owner",
            )
        } else {
            classify(error, "creating walferry's tables")
        }
    };
    let there = format!("SELECT {} AND {}", checkpoint::IS_THERE, readers::IS_THERE);
    let there = client
        .query_one(&there, &[])
        .await
        .and_then(|row| row.try_get::<_, bool>(0))
        .map_err(|error| failed(&error))?;
    if there {
        return Ok(());
    }
    // One simple query is one transaction, unless it says otherwise.
    let sql = [create::LOCK, ";", checkpoint::LAYOUT, readers::LAYOUT].concat();
    client
        .batch_execute(&sql)
        .await
        .map_err(|error| failed(&error))
}

/// Whether the session may read the control file.
pub(super) async fn may_read_control(client: &Client) -> Result<bool> {
    let may =
        "SELECT pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')";
    let row = client.query_one(may, &[]).await;
    row.and_then(|row| row.try_get(0))
        .map_err(|error| classify(&error, "looking at the follower"))
}

/// The follower's system identifier.
pub(super) async fn read_system_id(client: &Client) -> Result<Option<String>> {
    client
        .query_one(
            "SELECT system_identifier::text FROM pg_catalog.pg_control_system()",
            &[],
        )
        .await
        .and_then(|row| row.try_get(0))
        .map_err(|error| classify(&error, "reading the follower's system identifier"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;

    #[test]
    fn a_follower_that_takes_no_writes_is_waited_for() {
        for (in_recovery, read_only, remedy) in [
            (true, true, "promote this one"),
            (false, true, "ALTER DATABASE"),
        ] {
            let error = takes_writes("UTF8", in_recovery, read_only).unwrap_err();
            assert_eq!(error.class(), Class::Transient, "{error}");
            assert!(error.what().contains(remedy), "{error}");
        }
        let error = takes_writes("SQL_ASCII", true, true).unwrap_err();
        assert_eq!(error.class(), Class::Halt, "{error}");
        assert!(takes_writes("UTF8", false, false).is_ok());
    }
}
