//! The checkpoint in the follower: claimed by one worker, compared and bumped first in every follower
//! transaction, written last in it.
//!
//! What changes tables for good without a transaction (DDL) runs under a named lock of the server in one packet
//! that first asks whose the checkpoint is; a worker claims it under the same lock. So a worker that was
//! replaced, and does not know it yet, destroys nothing.

use sha2::{Digest, Sha256};

use super::failure::{plain_error, unreadable};
use super::wire::{Wire, literal};
use crate::error::{Error, Result};
use crate::model::{Checkpoint, Selection};
use crate::sink::owned::{self, Identity};

/// Where it stands.
pub(super) const TABLE: &str = "walferry_checkpoint";

/// Seconds that a worker waits for another one's DDL.
const LOCK_SECONDS: u32 = 30;

/// walferry's own tables, in the database of the url, with a collation in which only equal texts are equal.
pub(super) fn layout(collation: &str) -> Vec<String> {
    let end = format!(
        "ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE {collation} \
         COMMENT 'what walferry knows of this follower; do not edit'"
    );
    vec![
        format!(
            "CREATE TABLE IF NOT EXISTS walferry_checkpoint (
                pipeline VARCHAR(40) NOT NULL,
                sink VARCHAR(255) NOT NULL,
                owner VARCHAR(255) NOT NULL,
                version BIGINT NOT NULL,
                applied VARCHAR(20) NOT NULL DEFAULT '0/0',
                epoch BIGINT UNSIGNED,
                log_offset BIGINT,
                commit_time DATETIME(6),
                system_id VARCHAR(64),
                timeline BIGINT,
                cluster_id VARCHAR(255),
                state LONGTEXT,
                updated_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
                copying TINYINT(1) NOT NULL DEFAULT 1,
                PRIMARY KEY (pipeline, sink)) {end}"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS walferry_tables (
                pipeline VARCHAR(40) NOT NULL,
                sink VARCHAR(255) NOT NULL,
                table_schema VARCHAR(64) NOT NULL,
                table_name VARCHAR(64) NOT NULL,
                filled_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
                PRIMARY KEY (pipeline, sink, table_schema, table_name)) {end}"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS walferry_columns (
                pipeline VARCHAR(40) NOT NULL,
                sink VARCHAR(255) NOT NULL,
                table_schema VARCHAR(64) NOT NULL,
                table_name VARCHAR(64) NOT NULL,
                version VARCHAR(32) NOT NULL,
                noted BIGINT NOT NULL,
                leader LONGTEXT NOT NULL,
                PRIMARY KEY (pipeline, sink, table_schema, table_name, version)) {end}"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS walferry_skips (
                pipeline VARCHAR(40) NOT NULL,
                sink VARCHAR(255) NOT NULL,
                commit_lsn VARCHAR(20) NOT NULL,
                ordinal BIGINT NOT NULL,
                reason LONGTEXT NOT NULL,
                ordered_by VARCHAR(255) NOT NULL,
                ordered_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
                skipped_at DATETIME(6),
                table_schema VARCHAR(64),
                table_name VARCHAR(64),
                PRIMARY KEY (pipeline, sink, commit_lsn, ordinal)) {end}"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS walferry_moves (
                pipeline VARCHAR(40) NOT NULL,
                sink VARCHAR(255) NOT NULL,
                step INT NOT NULL,
                old_schema VARCHAR(64) NOT NULL,
                old_name VARCHAR(64) NOT NULL,
                new_schema VARCHAR(64),
                new_name VARCHAR(64),
                PRIMARY KEY (pipeline, sink, step)) {end}"
        ),
    ]
}

impl Identity {
    /// `pipeline = … AND sink = …`.
    pub(super) fn is_mine(&self) -> String {
        format!(
            "pipeline = {} AND sink = {}",
            literal(&self.pipeline),
            literal(&self.sink)
        )
    }

    /// The two as values.
    pub(super) fn values(&self) -> String {
        format!("{}, {}", literal(&self.pipeline), literal(&self.sink))
    }

    /// The named lock, as a literal: at most 64 characters, whatever the names are.
    fn lock(&self) -> String {
        format!("'walferry {}'", self.token())
    }

    /// What stands for pipeline and sink in a name.
    pub(super) fn token(&self) -> String {
        let digest = Sha256::digest(format!("{}\0{}", self.pipeline, self.sink).as_bytes());
        digest[..16].iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The first statement of a transaction that begins at `from`; it must change exactly one row.
    pub(super) fn guard(&self, from: Option<&Checkpoint>) -> String {
        match from {
            Some(from) => format!(
                "UPDATE walferry_checkpoint SET version = version + 1 WHERE {} AND {}",
                self.is_mine(),
                self.is_at(from.version, &from.applied.to_string())
            ),
            None => format!(
                "INSERT INTO walferry_checkpoint (pipeline, sink, owner, version) VALUES ({}, {}, 0)",
                self.values(),
                literal(&self.instance)
            ),
        }
    }

    fn is_at(&self, version: i64, applied: &str) -> String {
        format!(
            "owner = {} AND version = {version} AND applied = {}",
            literal(&self.instance),
            literal(applied)
        )
    }

    /// The last statement of a transaction before COMMIT, over a row that has `version` (after a guard: one more
    /// than that of the checkpoint before, or 0 when there was none). It must find exactly one row.
    pub(super) fn write(&self, version: i64, to: &Checkpoint) -> Result<String> {
        Ok(format!(
            "UPDATE walferry_checkpoint SET {} WHERE {} AND owner = {} AND version = {version}",
            columns(to, &self.selection)?,
            self.is_mine(),
            literal(&self.instance)
        ))
    }

    /// Guard and write in one statement, for a transaction without rows.
    pub(super) fn write_alone(&self, from: (i64, &str), to: &Checkpoint) -> Result<String> {
        Ok(format!(
            "UPDATE walferry_checkpoint SET {} WHERE {} AND {}",
            columns(to, &self.selection)?,
            self.is_mine(),
            self.is_at(from.0, from.1)
        ))
    }
}

/// The columns of a checkpoint as assignments.
pub(super) fn columns(to: &Checkpoint, selection: &Selection) -> Result<String> {
    let state = owned::written(to)?;
    let number = |n: Option<String>| n.unwrap_or_else(|| "NULL".to_owned());
    let text = |t: Option<&String>| t.map_or_else(|| "NULL".to_owned(), |t| literal(t));
    // Microseconds since 2000-01-01.
    let commit_time = to.commit_time_us.map(|us| {
        format!(
            "TIMESTAMP'2000-01-01 00:00:00' + INTERVAL {} SECOND + INTERVAL {} MICROSECOND",
            us.div_euclid(1_000_000),
            us.rem_euclid(1_000_000)
        )
    });
    Ok(format!(
        "version = {}, applied = {}, epoch = {}, log_offset = {}, commit_time = {}, system_id = {}, \
         timeline = {}, cluster_id = {}, state = {}, copying = {}, updated_at = UTC_TIMESTAMP(6)",
        to.version,
        literal(&to.applied.to_string()),
        number(to.log.epoch.map(|epoch| epoch.0.to_string())),
        to.log.next_offset,
        number(commit_time),
        text(to.system_id.as_ref()),
        number(to.timeline.map(|timeline| timeline.to_string())),
        text(to.cluster_id.as_ref()),
        literal(&state),
        u8::from(!to.is_complete(selection)),
    ))
}

/// Takes the ownership, if there is a row to own, and reads what it says.
pub(super) async fn claim(wire: &mut Wire, me: &Identity) -> Result<Option<Checkpoint>> {
    let failed = |cause| plain_error(&cause, "claiming the checkpoint");
    let lock = format!("SELECT GET_LOCK({}, {LOCK_SECONDS})", me.lock());
    let got = wire.rows(&lock).await.map_err(failed)?;
    if got
        .first()
        .and_then(|row| row.first().cloned().flatten())
        .as_deref()
        != Some("1")
    {
        return Err(Error::transient(
            "another worker is changing tables of this follower; waiting for it to end",
        ));
    }
    let own = format!(
        "UPDATE walferry_checkpoint SET owner = {}, updated_at = UTC_TIMESTAMP(6) WHERE {}",
        literal(&me.instance),
        me.is_mine()
    );
    let owned = wire.command(&own).await;
    let free = format!("DO RELEASE_LOCK({})", me.lock());
    wire.command(&free).await.map_err(failed)?;
    owned.map_err(failed)?;
    read(wire, me, "").await
}

/// Reads the checkpoint; `lock`: `FOR UPDATE`, or nothing.
pub(super) async fn read(wire: &mut Wire, me: &Identity, lock: &str) -> Result<Option<Checkpoint>> {
    let row = row(wire, me, lock).await?;
    row.map(|(version, state)| owned::read(TABLE, version, state.as_deref()))
        .transpose()
}

/// Version and state as they are stored.
pub(super) async fn row(
    wire: &mut Wire,
    me: &Identity,
    lock: &str,
) -> Result<Option<(i64, Option<String>)>> {
    let sql = format!(
        "SELECT version, state FROM walferry_checkpoint WHERE {} {lock}",
        me.is_mine()
    );
    let rows = wire.rows(&sql).await;
    let rows = rows.map_err(|cause| plain_error(&cause, "reading the checkpoint"))?;
    let Some(mut row) = rows.into_iter().next() else {
        return Ok(None);
    };
    let state = row.pop().flatten();
    let version = row.pop().flatten().and_then(|text| text.parse().ok());
    let version = version.ok_or_else(|| unreadable("walferry_checkpoint"))?;
    Ok(Some((version, state)))
}

/// Why a guard did not find its row. To be asked when the transaction is rolled back.
pub(super) async fn why_refused(wire: &mut Wire, me: &Identity) -> Error {
    let sql = format!(
        "SELECT owner FROM walferry_checkpoint WHERE {}",
        me.is_mine()
    );
    let rows = match wire.rows(&sql).await {
        Ok(rows) => rows,
        Err(cause) => return plain_error(&cause, "looking at the checkpoint"),
    };
    let owner = rows
        .into_iter()
        .next()
        .and_then(|mut row| row.pop().flatten());
    me.refused(TABLE, owner.as_deref())
}

/// A packet that runs `ddl` only while the checkpoint is this worker's, at this version if one is given: a
/// statement that makes NULL of the version of another one's fails, and ends the packet, as one does that is to
/// give one row and has two where the lock is not to be had.
pub(super) fn fenced(me: &Identity, version: Option<i64>, ddl: &[String]) -> String {
    let at = version.map_or_else(String::new, |version| format!(" AND version = {version}"));
    let owner = literal(&me.instance);
    let mut sql = format!(
        "DO IF(GET_LOCK({lock}, {LOCK_SECONDS}) = 1, 1, (SELECT 1 UNION ALL SELECT 2)); \
         UPDATE walferry_checkpoint SET version = IF(owner = {owner}{at}, version, NULL) WHERE {}",
        me.is_mine(),
        lock = me.lock(),
    );
    for statement in ddl {
        sql.push_str("; ");
        sql.push_str(statement);
    }
    sql.push_str(&format!("; DO RELEASE_LOCK({})", me.lock()));
    sql
}

/// Lets the lock go after a packet that was refused.
pub(super) fn unlock(me: &Identity) -> String {
    format!("DO RELEASE_LOCK({})", me.lock())
}
