//! `kind = "mysql"`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::document::Document;
use super::server_url::{Scheme, server};
use super::sink::{Common, schema_changes, statement_timeout, verify};
use super::{
    SchemaChanges, ServerSettings, SinkSettings, StoreSettings, TlsMode, VerifySettings, raw,
};
use crate::error::Result;

/// A MySQL or MariaDB follower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MySqlSinkSettings {
    /// The follower.
    pub server: ServerSettings,
    /// Longest time of a statement.
    pub statement_timeout: Duration,
    /// Create missing databases and tables (`false`: they must be there).
    pub create_tables: bool,
    /// What happens on the follower when the leader's tables are altered.
    pub schema_changes: SchemaChanges,
    /// Databases of the leader's schemas, where it is not the schema's own name.
    pub databases: BTreeMap<String, String>,
    /// Types of columns, by `schema.table.column`, where it is not the one that the mapping says.
    pub columns: BTreeMap<String, String>,
    /// When and how fast it is compared with the leader.
    pub verify: VerifySettings,
}

pub(super) fn sink(document: &Document, name: &str) -> Result<SinkSettings> {
    let raw: raw::MySqlSink = document.parse()?;
    let schemes = [Scheme {
        name: "mysql",
        port: 3306,
        tls: TlsMode::Prefer,
        takes_tls: true,
    }];
    let store = MySqlSinkSettings {
        server: server(document, &schemes, (raw.url, raw.tls, raw.connect_timeout))?,
        statement_timeout: statement_timeout(document, raw.statement_timeout)?,
        create_tables: raw.create_tables.unwrap_or(true),
        schema_changes: schema_changes(document, raw.schema_changes)?,
        databases: raw.databases,
        columns: raw.columns,
        verify: verify(document, raw.verify_every, None)?,
    };
    let common = Common::new(raw.tables, raw.batch_max_bytes, raw.fetch_max_bytes);
    common.sink(document, name, StoreSettings::MySql(store))
}
