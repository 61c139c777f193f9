//! A connection in replication mode: start-up with `replication=database`, TLS, authentication,
//! simple queries, and COPY BOTH.

use crate::config::PostgresSettings;
use crate::error::Result;
use crate::model::Lsn;
use crate::source::stream::ReplicationStream;

/// An idle replication connection.
pub struct ReplicationConnection {}

/// `IDENTIFY_SYSTEM`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemIdentity {
    /// The cluster's system identifier.
    pub system_id: String,
    /// Current timeline.
    pub timeline: u32,
    /// Current WAL flush position.
    pub flush: Lsn,
    /// Database name.
    pub database: String,
}

/// What `CREATE_REPLICATION_SLOT` answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedSlot {
    /// The slot's consistent point.
    pub consistent_point: Lsn,
    /// Exported snapshot, valid until the connection's next command.
    pub snapshot: Option<String>,
}

impl ReplicationConnection {
    /// Connects and authenticates. `options` are session settings (`wal_sender_timeout`, …) sent in
    /// the start-up packet; the value-format settings of [`crate::postgres::connect`] are always sent,
    /// and `synchronous_commit=local`.
    ///
    /// # Errors
    /// Transient when the server cannot be reached; halt for credentials, TLS, rights.
    pub async fn open(
        settings: &PostgresSettings,
        application_name: &str,
        options: &[(&str, String)],
    ) -> Result<Self> {
        let _ = (settings, application_name, options);
        todo!()
    }

    /// `IDENTIFY_SYSTEM`.
    pub async fn identify_system(&mut self) -> Result<SystemIdentity> {
        todo!()
    }

    /// `SHOW name`.
    pub async fn show(&mut self, name: &str) -> Result<String> {
        let _ = name;
        todo!()
    }

    /// `CREATE_REPLICATION_SLOT name [TEMPORARY] LOGICAL pgoutput (SNAPSHOT 'export' | 'nothing')`,
    /// in the syntax of the server's version. Waits for transactions open now.
    pub async fn create_slot(
        &mut self,
        name: &str,
        temporary: bool,
        export_snapshot: bool,
    ) -> Result<CreatedSlot> {
        let _ = (name, temporary, export_snapshot);
        todo!()
    }

    /// The server's major version.
    pub fn server_major(&self) -> u32 {
        todo!()
    }

    /// `START_REPLICATION SLOT slot LOGICAL at (proto_version '1', publication_names …, messages 'true')`.
    ///
    /// # Errors
    /// Transient with [`crate::source::slot::is_busy`] true when the slot is in use (55006).
    pub async fn start_replication(
        self,
        slot: &str,
        at: Lsn,
        publications: &[String],
    ) -> Result<ReplicationStream> {
        let _ = (slot, at, publications);
        todo!()
    }
}
