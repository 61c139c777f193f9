//! `kind = "clickhouse"`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::checks::{choice, duration};
use super::document::Document;
use super::server_url::{Scheme, server};
use super::sink::{Common, schema_changes, statement_timeout, verify};
use super::{
    SchemaChanges, ServerSettings, SinkSettings, StoreSettings, TlsMode, VerifySettings, defaults,
    raw,
};
use crate::error::Result;

/// A ClickHouse follower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClickHouseSinkSettings {
    /// The follower, by its HTTP interface.
    pub server: ServerSettings,
    /// Longest time of a statement.
    pub statement_timeout: Duration,
    /// What its tables hold.
    pub mode: ClickHouseMode,
    /// Create missing databases and tables (`false`: they must be there).
    pub create_tables: bool,
    /// What happens on the follower when the leader's tables are altered.
    pub schema_changes: SchemaChanges,
    /// Databases of the leader's schemas, where it is not the schema's own name.
    pub databases: BTreeMap<String, String>,
    /// Types of columns, by `schema.table.column`, where it is not the one that the mapping says.
    pub columns: BTreeMap<String, String>,
    /// How tables are laid out, by `schema.table`, where it is not by their key.
    pub layout: BTreeMap<String, Layout>,
    /// When and how fast it is compared with the leader.
    pub verify: VerifySettings,
}

/// What the tables of a ClickHouse follower hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClickHouseMode {
    /// The leader's rows as they are now.
    Current,
    /// Every change of every row.
    History,
}

/// How a table is laid out on disk when it is created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Columns of ORDER BY; none: the key.
    pub order_by: Option<Vec<String>>,
    /// The expression of PARTITION BY; none: not partitioned.
    pub partition_by: Option<String>,
}

pub(super) fn sink(document: &Document, name: &str) -> Result<SinkSettings> {
    let raw: raw::ClickHouseSink = document.parse()?;
    let schemes = [
        Scheme {
            name: "https",
            port: 8443,
            tls: TlsMode::VerifyFull,
            takes_tls: true,
        },
        Scheme {
            name: "http",
            port: 8123,
            tls: TlsMode::Disable,
            takes_tls: false,
        },
    ];
    let mode = choice(
        document,
        "mode",
        raw.mode,
        ClickHouseMode::Current,
        &[
            ("current", ClickHouseMode::Current),
            ("history", ClickHouseMode::History),
        ],
    )?;
    let store = ClickHouseSinkSettings {
        server: server(document, &schemes, (raw.url, raw.tls, raw.connect_timeout))?,
        statement_timeout: statement_timeout(document, raw.statement_timeout)?,
        mode,
        create_tables: raw.create_tables.unwrap_or(true),
        schema_changes: schema_changes(document, raw.schema_changes)?,
        databases: raw.databases,
        columns: raw.columns,
        layout: layouts(document, raw.layout)?,
        verify: verify(document, raw.verify_every, None)?,
    };
    let common = Common {
        tables: raw.tables,
        batch_max_bytes: (raw.batch_max_bytes, defaults::CLICKHOUSE_BATCH),
        fetch_max_bytes: raw.fetch_max_bytes,
        batch_max_age: duration(
            document,
            "batch_max_age",
            raw.batch_max_age,
            defaults::CLICKHOUSE_BATCH_AGE,
            (Duration::ZERO, Duration::from_secs(3600)),
        )?,
    };
    common.sink(document, name, StoreSettings::ClickHouse(store))
}

fn layouts(
    document: &Document,
    raw: BTreeMap<String, raw::Layout>,
) -> Result<BTreeMap<String, Layout>> {
    let mut layouts = BTreeMap::new();
    for (table, raw) in raw {
        let key = |name: &str| format!("layout.{table}.{name}");
        if raw.order_by.as_ref().is_some_and(Vec::is_empty) {
            return Err(document.error(
                &key("order_by"),
                "names no column",
                "leave it out to order by the key, or name columns: order_by = [\"customer_id\", \"id\"]",
            ));
        }
        let blank = |text: &String| text.trim().is_empty();
        if raw.partition_by.as_ref().is_some_and(blank) {
            return Err(document.error(
                &key("partition_by"),
                "is empty",
                "leave it out, or write an expression: partition_by = \"toYYYYMM(created_at)\"",
            ));
        }
        let layout = Layout {
            order_by: raw.order_by,
            partition_by: raw.partition_by,
        };
        layouts.insert(table, layout);
    }
    Ok(layouts)
}
