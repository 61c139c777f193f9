//! Transactions of the leader that have written and are still open: what the creation of a slot waits for.
//!
//! Of every database, as a slot's snapshot is. `pg_locks` shows them to every role; who they are of, and since when,
//! `pg_stat_activity` shows to the role itself and to members of `pg_read_all_stats`.

use std::fmt;

use tokio_postgres::Client;

use crate::error::Result;
use crate::postgres::classify;

const OPEN: &str =
    "SELECT l.transactionid::text, l.pid, a.application_name, a.xact_start::text, p.gid
    FROM pg_catalog.pg_locks l
    LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
    LEFT JOIN pg_catalog.pg_prepared_xacts p ON p.transaction = l.transactionid
    WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted
    ORDER BY pg_catalog.age(l.transactionid) DESC";

/// A transaction that has written and is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writer {
    /// Its number.
    pub xid: String,
    /// The server process; none for a prepared transaction.
    pub pid: Option<i32>,
    /// What its application calls itself, if that may be known.
    pub application_name: Option<String>,
    /// When it began, if that may be known.
    pub since: Option<String>,
    /// A prepared transaction's name.
    pub gid: Option<String>,
}

impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.gid, self.pid) {
            (Some(gid), _) => write!(f, "prepared transaction {gid}")?,
            (None, Some(pid)) => write!(f, "transaction {} of process {pid}", self.xid)?,
            (None, None) => write!(f, "transaction {}", self.xid)?,
        }
        if let Some(name) = self
            .application_name
            .as_ref()
            .filter(|name| !name.is_empty())
        {
            write!(f, ", application_name {name}")?;
        }
        match &self.since {
            Some(since) => write!(f, ", open since {since}"),
            None => Ok(()),
        }
    }
}

/// Those that are open now, the oldest first.
///
/// # Errors
/// As a query.
pub async fn open(client: &Client) -> Result<Vec<Writer>> {
    let rows = client.query(OPEN, &[]).await;
    let rows = rows.map_err(|error| classify(&error, "looking for open transactions"))?;
    let writer = |row: &tokio_postgres::Row| Writer {
        xid: row.get(0),
        pid: row.get(1),
        application_name: row.get(2),
        since: row.get(3),
        gid: row.get(4),
    };
    Ok(rows.iter().map(writer).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_named_by_what_may_be_known_of_it() {
        let unknown = Writer {
            xid: "741".to_owned(),
            pid: Some(77),
            application_name: None,
            since: None,
            gid: None,
        };
        assert_eq!(unknown.to_string(), "transaction 741 of process 77");
        let known = Writer {
            application_name: Some("psql".to_owned()),
            since: Some("2026-11-29 11:00:00+00".to_owned()),
            ..unknown.clone()
        };
        assert_eq!(
            known.to_string(),
            "transaction 741 of process 77, application_name psql, open since 2026-11-29 11:00:00+00"
        );
        let prepared = Writer {
            pid: None,
            gid: Some("order 7".to_owned()),
            ..unknown
        };
        assert_eq!(prepared.to_string(), "prepared transaction order 7");
    }
}
