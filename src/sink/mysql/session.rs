//! One session with a follower: connected, found fit, set up, walferry's own tables there.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use mysql_async::{Conn, OptsBuilder};

use super::checkpoint;
use super::failure::plain_error;
use super::tables::Table;
use super::tls;
use super::types::Server;
use super::wire::{Cause, Wire, literal, quoted};
use crate::config::{MySqlSinkSettings, ServerSettings, TlsMode};
use crate::error::{Error, Result};
use crate::model::{SchemaVersion, TableName, TableSchema};

/// Longest wait for the lock of a row or a table.
const LOCK_SECONDS: u64 = 30;
/// How long a server lets a transaction stand that nobody goes on with.
const IDLE_SECONDS: u64 = 60;
/// The same between the chunks of a transaction, and longest wait for an answer within one.
pub(super) const CHUNK_SECONDS: u64 = 3_600;
/// How much longer than the server's own time-out an answer may take.
const ANSWER_GRACE: Duration = Duration::from_secs(30);
/// A quiet connection is probed after this long.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// The server's error for a database that is not there.
const UNKNOWN_DATABASE: u16 = 1049;
/// Schemas whose version is known by their place in memory.
const KNOWN_MAX: usize = 1_024;

/// Oldest servers: with atomic DDL, and with a collation that pads nothing.
const OLDEST_MARIADB: (u16, u16, u16) = (10, 6, 0);
const OLDEST_MYSQL: (u16, u16, u16) = (8, 0, 19);

/// A connection that is set up for applying.
pub(super) struct Session {
    /// The connection.
    pub wire: Wire,
    /// What the server can hold.
    pub server: Server,
    /// Names of tables and databases are kept as they are.
    pub tells_case: bool,
    /// Longest wait for an answer outside of chunks.
    pub limit: Duration,
    statement_timeout: Duration,
    tables: HashMap<SchemaVersion, Arc<Table>>,
    /// Versions that the table cannot take with the rows that it has, and why, in the order of the log.
    unfit: Vec<(TableSchema, String)>,
    /// Versions by address. The schemas are kept alive, so an address stands for one schema.
    known: HashMap<usize, (Arc<TableSchema>, Arc<Table>)>,
    /// Columns to drop once rows of a version are committed.
    pub left: Vec<(SchemaVersion, TableName, Vec<String>)>,
}

/// What a database of the url's name that is not there means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// It is made.
    Make,
    /// The session goes on without.
    Leave,
    /// An error.
    Refuse,
}

/// Connects; nothing is looked at or set but the database.
pub(super) async fn connect(
    settings: &ServerSettings,
    limit: Duration,
    missing: Missing,
) -> Result<(Wire, Server)> {
    let connecting = async {
        match Conn::new(options(settings, settings.tls.mode).await?).await {
            Err(mysql_async::Error::Driver(
                mysql_async::DriverError::NoClientSslFlagFromServer,
            )) if settings.tls.mode == TlsMode::Prefer => {
                Conn::new(options(settings, TlsMode::Disable).await?).await
            }
            connected => connected,
        }
        .map_err(|error| plain_error(&Cause::from(error), "connecting"))
    };
    let connected = tokio::time::timeout(settings.connect_timeout, connecting).await;
    let conn = connected.map_err(|_elapsed| {
        Error::transient(format!(
            "connecting to {} has taken longer than {} s",
            settings.url.host,
            settings.connect_timeout.as_secs()
        ))
    })??;
    let version = conn.server_version();
    let mut wire = Wire::new(conn, limit);
    let rows = wire.rows("SELECT VERSION()").await;
    let rows = rows.map_err(|cause| plain_error(&cause, "asking for the server's version"))?;
    let text = rows
        .into_iter()
        .next()
        .and_then(|mut row| row.pop().flatten());
    let text = text.unwrap_or_default();
    let server = judge_version(&text, version)?;
    if missing == Missing::Make {
        make_database(&mut wire, server, &settings.url.database).await?;
    }
    let using = format!("USE {}", quoted(&settings.url.database));
    match wire.command(&using).await {
        Err(cause) if cause.code() == Some(UNKNOWN_DATABASE) && missing == Missing::Leave => {}
        used => {
            used.map_err(|cause| plain_error(&cause, "connecting"))?;
        }
    }
    Ok((wire, server))
}

/// What a server of this version holds.
pub(super) fn judge_version(text: &str, version: (u16, u16, u16)) -> Result<Server> {
    let (server, oldest, name) = match text.to_ascii_lowercase().contains("mariadb") {
        true => (Server::MARIADB, OLDEST_MARIADB, "MariaDB"),
        false => (Server::MYSQL, OLDEST_MYSQL, "MySQL"),
    };
    if version < oldest {
        let (major, minor, patch) = oldest;
        return Err(Error::halt(
            format!("the follower is {name} {text}"),
            format!("upgrade it: walferry needs {name} {major}.{minor}.{patch} or newer"),
        ));
    }
    Ok(server)
}

async fn options(settings: &ServerSettings, mode: TlsMode) -> Result<OptsBuilder> {
    let url = &settings.url;
    let options = OptsBuilder::default()
        .ip_or_hostname(url.host.clone())
        .tcp_port(url.port)
        .user(url.user.clone())
        .pass(
            url.password
                .as_ref()
                .map(|secret| secret.reveal().to_owned()),
        )
        .prefer_socket(false)
        .tcp_keepalive(Some(KEEPALIVE))
        .tcp_nodelay(true)
        .stmt_cache_size(0)
        // Rows that are found count, not only those that change by it.
        .client_found_rows(true)
        // Asked for by the session.
        .max_allowed_packet(Some(1024 * 1024 * 1024))
        .wait_timeout(Some(28_800));
    Ok(options.ssl_opts(tls::options(settings, mode).await?))
}

impl Session {
    /// Whether the session goes on.
    pub(super) fn is_alive(&self) -> bool {
        !self.wire.is_closed()
    }

    /// Connects, checks, sets up.
    pub(super) async fn open(settings: &MySqlSinkSettings) -> Result<Self> {
        let limit = settings.statement_timeout + ANSWER_GRACE;
        let missing = match settings.create_tables {
            true => Missing::Make,
            false => Missing::Refuse,
        };
        let (mut wire, server) = connect(&settings.server, limit, missing).await?;
        set_up(&mut wire, server, settings.statement_timeout).await?;
        let tells_case = check_fitness(&mut wire).await?;
        lay_out(&mut wire, server).await?;
        Ok(Session {
            tells_case,
            ..Session::over(wire, server, settings.statement_timeout)
        })
    }

    /// Over a connection that is set up.
    pub(super) fn over(wire: Wire, server: Server, statement_timeout: Duration) -> Self {
        Session {
            wire,
            server,
            tells_case: true,
            limit: statement_timeout + ANSWER_GRACE,
            statement_timeout,
            tables: HashMap::new(),
            unfit: Vec::new(),
            known: HashMap::new(),
            left: Vec::new(),
        }
    }

    /// Whether a schema version has been prepared in this session.
    pub(super) fn is_prepared(&self, version: SchemaVersion) -> bool {
        self.tables.contains_key(&version) || self.why_unfit(version).is_some()
    }

    /// Keeps a table that is fit for a schema version. There are no more than the worker keeps schemas.
    pub(super) fn keep(&mut self, version: SchemaVersion, table: Table) {
        self.unfit.retain(|(schema, _)| schema.version() != version);
        self.tables.insert(version, Arc::new(table));
    }

    /// Notes a version that the table cannot take with the rows that it has.
    pub(super) fn expect_copy(&mut self, schema: &TableSchema, why: String) {
        self.unfit.push((schema.clone(), why));
    }

    fn why_unfit(&self, version: SchemaVersion) -> Option<&String> {
        let mut unfit = self.unfit.iter();
        unfit
            .find(|(schema, _)| schema.version() == version)
            .map(|(_, why)| why)
    }

    /// The first version that a table is waiting for to be emptied, and why, if there is one.
    pub(super) fn awaited(&self, table: &TableName) -> Option<&(TableSchema, String)> {
        self.unfit.iter().find(|(schema, _)| schema.table == *table)
    }

    /// Whether other versions of the table were prepared in this session.
    pub(super) fn has_others(&self, schema: &TableSchema) -> bool {
        let mut tables = self.tables.values();
        tables.any(|table| table.schema.table == schema.table && table.schema != *schema)
    }

    /// Forgets what was found of these tables.
    pub(super) fn forget(&mut self, tables: &BTreeSet<TableName>) {
        self.tables.retain(|_, t| !tables.contains(&t.schema.table));
        self.unfit.retain(|(s, _)| !tables.contains(&s.table));
        self.known.retain(|_, (s, _)| !tables.contains(&s.table));
    }

    /// All versions of a table that were prepared.
    pub(super) fn versions(&self, table: &TableName) -> Vec<Arc<Table>> {
        let tables = self.tables.values();
        tables
            .filter(|t| t.schema.table == *table)
            .cloned()
            .collect()
    }

    /// The table of a schema, or why it needs a copy. Hashing a schema costs more than a small batch, so versions
    /// are remembered by address.
    ///
    /// # Errors
    /// Transient when it has not been prepared: a new session prepares anew.
    pub(super) fn table(
        &mut self,
        schema: &Arc<TableSchema>,
    ) -> Result<std::result::Result<Arc<Table>, String>> {
        let address = Arc::as_ptr(schema).addr();
        if let Some((_kept, table)) = self.known.get(&address) {
            return Ok(Ok(Arc::clone(table)));
        }
        let version = schema.version();
        if let Some(why) = self.why_unfit(version) {
            return Ok(Err(why.clone()));
        }
        let Some(table) = self.tables.get(&version) else {
            return Err(Error::transient(format!(
                "table {} in version {version} is not prepared; beginning a new session",
                schema.table
            )));
        };
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        let table = Arc::clone(table);
        self.known
            .insert(address, (Arc::clone(schema), Arc::clone(&table)));
        Ok(Ok(table))
    }

    /// What a transaction in chunks sets: it may take long, and wait between chunks.
    pub(super) fn lifted(&self) -> Option<String> {
        let lifted = "SET SESSION max_statement_time = 0, idle_write_transaction_timeout";
        self.server
            .mariadb
            .then(|| format!("{lifted} = {CHUNK_SECONDS}"))
    }

    /// Takes it back.
    pub(super) fn lowered(&self) -> Option<String> {
        self.server
            .mariadb
            .then(|| time_outs(self.statement_timeout))
    }
}

fn time_outs(statement_timeout: Duration) -> String {
    format!(
        "SET SESSION max_statement_time = {}, idle_write_transaction_timeout = {IDLE_SECONDS}",
        statement_timeout.as_secs_f64()
    )
}

/// Sets the session up: nothing is cut or changed silently, texts are utf8mb4 and compare by their bytes, times are
/// UTC, a backslash is a backslash.
///
/// READ COMMITTED: rows are found by unique keys and nobody else writes them, so the locks between rows that the
/// higher level takes protect nothing, and are what followers' own readers with locks deadlock with.
pub(super) async fn set_up(
    wire: &mut Wire,
    server: Server,
    statement_timeout: Duration,
) -> Result<()> {
    let failed = |cause| plain_error(&cause, "setting up the follower's session");
    let mut settings = vec![
        format!("SET NAMES utf8mb4 COLLATE {}", server.collation),
        format!(
            "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_BACKSLASH_ESCAPES,NO_AUTO_VALUE_ON_ZERO,NO_ZERO_DATE,\
             NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION', time_zone = '+00:00', \
             foreign_key_checks = 0, unique_checks = 1, sql_notes = 0, autocommit = 1, \
             innodb_lock_wait_timeout = {LOCK_SECONDS}, lock_wait_timeout = {LOCK_SECONDS}, sql_safe_updates = 0, \
             net_write_timeout = {CHUNK_SECONDS}, net_read_timeout = {CHUNK_SECONDS}"
        ),
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED".to_owned(),
    ];
    if server.mariadb {
        settings.push(time_outs(statement_timeout));
    }
    for setting in settings {
        wire.command(&setting).await.map_err(failed)?;
    }
    let asked = "SELECT @@max_allowed_packet, @@global.local_infile";
    let rows = wire.rows(asked).await.map_err(failed)?;
    let packet = rows.first().and_then(|row| row[0].as_deref()?.parse().ok());
    wire.local_infile = rows
        .first()
        .is_some_and(|row| row[1].as_deref() == Some("1"));
    wire.packet_max = packet.unwrap_or(wire.packet_max);
    Ok(())
}

/// Refuses a follower that cannot keep rows, and waits for one that takes no writes: that passes with a failover.
/// Whether it tells names of tables apart by case.
async fn check_fitness(wire: &mut Wire) -> Result<bool> {
    let failed = |cause| plain_error(&cause, "looking at the follower");
    let asked = "SELECT @@global.read_only, @@lower_case_table_names, @@global.log_bin, @@session.binlog_format";
    let rows = wire.rows(asked).await.map_err(failed)?;
    let row = rows.into_iter().next().unwrap_or_default();
    let is = |at: usize, value: &str| row.get(at).is_some_and(|v| v.as_deref() == Some(value));
    // MariaDB 12 says OFF and ON.
    if !is(0, "0") && !is(0, "OFF") {
        return Err(Error::transient(
            "the follower is read-only (read_only); if no failover is under way: SET GLOBAL read_only = 0 there, \
             or name its primary in the sink's url",
        ));
    }
    if is(2, "1") && is(3, "STATEMENT") {
        return Err(Error::halt(
            "the follower logs statements (binlog_format = STATEMENT), which its own replicas could not repeat \
             exactly",
            "set binlog_format = MIXED or ROW on the follower",
        ));
    }
    Ok(is(1, "0"))
}

/// Creates walferry's own tables where they are missing.
pub(super) async fn lay_out(wire: &mut Wire, server: Server) -> Result<()> {
    let there = "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME IN \
         ('walferry_checkpoint', 'walferry_tables', 'walferry_columns', 'walferry_skips', 'walferry_moves')";
    let failed = |cause| plain_error(&cause, "creating walferry's tables");
    let rows = wire.rows(there).await.map_err(failed)?;
    let layout = checkpoint::layout(server.collation);
    if rows
        .first()
        .is_some_and(|row| row[0] == Some(layout.len().to_string()))
    {
        return Ok(());
    }
    for table in layout {
        wire.command(&table).await.map_err(failed)?;
    }
    Ok(())
}

/// Makes a database, unless it is there.
pub(super) async fn make_database(wire: &mut Wire, server: Server, name: &str) -> Result<()> {
    let failed = |cause| plain_error(&cause, &format!("creating database {name}"));
    let there = format!(
        "SELECT SCHEMA_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = {}",
        literal(name)
    );
    if !wire.rows(&there).await.map_err(failed)?.is_empty() {
        return Ok(());
    }
    let create = format!(
        "CREATE DATABASE IF NOT EXISTS {} CHARACTER SET utf8mb4 COLLATE {}",
        quoted(name),
        server.collation
    );
    wire.command(&create).await.map_err(failed)?;
    Ok(())
}
