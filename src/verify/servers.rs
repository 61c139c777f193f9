//! The sessions of a comparison: on each server one for snapshots, and one that sees it as it is now.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row};

use super::Pair;
use super::sql::{self, SideSql, TableSql};
use crate::config::PostgresSettings;
use crate::error::{Error, Result};
use crate::model::{Lsn, TableName};
use crate::postgres::classify;
use crate::source::copy::{self, session};
use crate::source::writers::{self, Writer};

/// Between two looks at open transactions.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Numbers, names and types of the columns of a table and its partitions, and where their rows lie.
const SHAPE: &str = "WITH RECURSIVE relations (oid) AS (
        SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = $1 AND c.relname = $2
        UNION ALL
        SELECT i.inhrelid FROM relations r
        JOIN pg_catalog.pg_class p ON p.oid = r.oid AND p.relkind = 'p'
        JOIN pg_catalog.pg_inherits i ON i.inhparent = p.oid
    )
    SELECT c.oid, c.relfilenode, a.attnum, a.attname::text, a.atttypid, a.atttypmod
    FROM relations r JOIN pg_catalog.pg_class c ON c.oid = r.oid
    LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY c.oid, a.attnum";

/// A column of a relation: the relation, where its rows lie, number, name, type and its modifier.
type ColumnShape = (
    u32,
    u32,
    Option<i16>,
    Option<String>,
    Option<u32>,
    Option<i32>,
);

/// Both servers.
pub(super) struct Servers {
    /// The leader.
    pub leader: Server,
    /// The follower.
    pub follower: Server,
}

/// Sessions with one server.
pub(super) struct Server {
    /// For snapshots.
    pub inside: Client,
    /// Sees the server as it is now.
    pub outside: Client,
}

impl Servers {
    /// Connects to both.
    pub(super) async fn open(pair: Pair<'_>) -> Result<Self> {
        let name = |part: &str| format!("walferry verify {part}");
        let leader = Server::open(&pair.source.postgres, &name("leader")).await;
        let leader = leader.map_err(|error| error.at("the leader"))?;
        let follower = Server::open(&pair.follower.postgres, &name(pair.sink)).await;
        let follower = follower.map_err(|error| error.at(format!("follower {}", pair.sink)))?;
        let servers = Servers { leader, follower };
        servers.hash_alike().await?;
        Ok(servers)
    }

    /// The hash is the same in all versions of Postgres up to now, which nobody has promised.
    async fn hash_alike(&self) -> Result<()> {
        let probe = async |server: &Server| -> Result<i64> {
            let row = server.outside.query_one(sql::PROBE, &[]).await;
            let row = row.map_err(|error| classify(&error, "hashing a text"))?;
            Ok(row.get(0))
        };
        if probe(&self.leader).await? == probe(&self.follower).await? {
            return Ok(());
        }
        Err(Error::halt(
            "leader and follower do not compute hashtextextended() alike, so their rows cannot be compared",
            "report the versions and machines of both; a table can be compared by COPY and diff meanwhile",
        ))
    }

    /// Ends the snapshots of both, so that they may remove old rows.
    pub(super) async fn end_snapshots(&self) -> Result<()> {
        tokio::try_join!(self.leader.end_snapshot(), self.follower.end_snapshot())?;
        Ok(())
    }

    /// Keeps a table from being altered, truncated or dropped on both servers while it is read; whether it still is
    /// what the snapshots show, which does not hold of a table that was truncated or rewritten since.
    pub(super) async fn lock(&self, table: &TableName, sql: &TableSql) -> Result<bool> {
        // The leader first: its lock keeps no change from the follower that was made before.
        Ok(self.leader.lock(table, &sql.leader).await?
            && self.follower.lock(table, &sql.follower).await?)
    }

    /// Lets go of the table; the snapshots stay.
    pub(super) async fn unlock(&self) -> Result<()> {
        tokio::try_join!(self.leader.unlock(), self.follower.unlock())?;
        Ok(())
    }
}

impl Server {
    /// What a leader has written.
    pub(super) async fn position(&self) -> Result<Lsn> {
        let asked = "SELECT pg_catalog.pg_current_wal_insert_lsn()::text";
        let row = self.outside.query_one(asked, &[]).await;
        let row = row.map_err(|error| classify(&error, "reading the leader's position"))?;
        let text: &str = row.get(0);
        text.parse()
            .map_err(|_| Error::transient(format!("{text} is not an LSN")))
    }

    /// Waits until a leader's transactions that have written and are open now have ended.
    ///
    /// # Errors
    /// Transient when one has not by then.
    pub(super) async fn old_writers_end(&self, until: Instant) -> Result<()> {
        let leader = &self.outside;
        let now = writers::open(leader).await?;
        let old: HashSet<String> = now.into_iter().map(|writer| writer.xid).collect();
        loop {
            let mut open = writers::open(leader).await?.into_iter();
            let Some(writer) = open.find(|writer| old.contains(&writer.xid)) else {
                return Ok(());
            };
            if Instant::now() >= until {
                return Err(waits_for(&writer));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Connects twice.
    pub(super) async fn open(settings: &PostgresSettings, name: &str) -> Result<Self> {
        Ok(Server {
            inside: session(settings, name).await?,
            outside: session(settings, name).await?,
        })
    }

    /// Begins a snapshot of what the server shows now.
    pub(super) async fn begin_snapshot(&self) -> Result<()> {
        let begun = self.inside.batch_execute(copy::BEGIN).await;
        begun.map_err(|error| classify(&error, "beginning a snapshot"))
    }

    /// Ends it, if there is one.
    pub(super) async fn end_snapshot(&self) -> Result<()> {
        let ended = self.inside.batch_execute("ROLLBACK").await;
        ended.map_err(|error| classify(&error, "ending a snapshot"))
    }

    async fn lock(&self, table: &TableName, sql: &SideSql) -> Result<bool> {
        let lock = format!("SAVEPOINT table_lock; {}", sql.lock());
        match self.inside.batch_execute(&lock).await {
            Ok(()) => Ok(shape(&self.inside, table).await? == shape(&self.outside, table).await?),
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(false),
            Err(error) => Err(classify(&error, &format!("locking table {table}"))),
        }
    }

    async fn unlock(&self) -> Result<()> {
        let unlock = "ROLLBACK TO SAVEPOINT table_lock; RELEASE SAVEPOINT table_lock";
        let unlocked = self.inside.batch_execute(unlock).await;
        unlocked.map_err(|error| classify(&error, "releasing the lock of a table"))
    }
}

/// That a transaction keeps the leader from giving a snapshot.
pub(super) fn waits_for(writer: &Writer) -> Error {
    let ends = match (&writer.gid, writer.pid) {
        (Some(_), _) => "COMMIT PREPARED or ROLLBACK PREPARED ends it".to_owned(),
        (None, Some(pid)) => format!("SELECT pg_terminate_backend({pid}) ends it"),
        (None, None) => "pg_stat_activity tells whose it is".to_owned(),
    };
    Error::transient(format!(
        "the leader gives no snapshot before {writer} has ended, which has written and is still open"
    ))
    .advising(format!(
        "commit it or roll it back ({ends}), or wait longer with --patience"
    ))
}

async fn shape(client: &Client, table: &TableName) -> Result<Vec<ColumnShape>> {
    let rows = client.query(SHAPE, &[&table.schema, &table.name]).await;
    let rows = rows.map_err(|error| classify(&error, "reading a table's columns"))?;
    let shape = |row: &Row| {
        (
            row.get(0),
            row.get(1),
            row.get(2),
            row.get(3),
            row.get(4),
            row.get(5),
        )
    };
    Ok(rows.iter().map(shape).collect())
}

/// That a follower did not come to a position in time.
pub(super) fn not_in_time(sink: &str, shows: Lsn, wanted: Lsn) -> Error {
    Error::transient(format!(
        "follower {sink} shows {shows}, and did not come to {wanted} in time: walferry status tells how its sink is"
    ))
    .advising("wait longer with --patience")
}
