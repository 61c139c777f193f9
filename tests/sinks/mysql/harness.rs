//! A real server of each version, a database a test, and plans made by hand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder, Row, Value as SqlValue};
use walferry::config::{
    MySqlSinkSettings, SchemaChanges, Secret, ServerSettings, ServerUrl, TlsMode, VerifySettings,
};
use walferry::error::{Class, Error, Result};
use walferry::model::{
    Checkpoint, Column, ColumnKind, Oid, Op, ReplicaIdentity, Rows, TableChanges, TableName,
    TablePlan, TableSchema,
};
use walferry::sink::mysql::MySqlSink;
use walferry::sink::{Sink, Work};

use crate::support::MariaDb;
pub use crate::support::plans::{A, N, Plan, V, Value, add, change, checkpoint, position};

/// The versions that every test runs on.
pub const VERSIONS: [&str; 2] = ["10.11", "11.4"];

/// The server of a version that all tests of this file share; stopped at the end of the run.
pub fn port(version: &'static str) -> u16 {
    static SERVERS: OnceLock<Mutex<BTreeMap<&str, MariaDb>>> = OnceLock::new();
    let servers = SERVERS.get_or_init(Mutex::default);
    let mut servers = servers.lock().unwrap_or_else(|broken| broken.into_inner());
    let server = servers.entry(version).or_insert_with(|| {
        let name = format!("sink-mysql-{version}");
        MariaDb::start_version(&name, version, &["--set", "max_allowed_packet=16M"])
    });
    server.port()
}

pub async fn connect(port: u16, database: Option<&str>) -> Conn {
    let options = OptsBuilder::default()
        .ip_or_hostname("127.0.0.1")
        .tcp_port(port)
        .user(Some("walferry"))
        .pass(Some("secret"))
        .prefer_socket(false)
        .db_name(database);
    let mut conn = Conn::new(options).await.unwrap();
    conn.query_drop(
        "SET NAMES utf8mb4 COLLATE utf8mb4_nopad_bin, sql_mode = 'NO_BACKSLASH_ESCAPES'",
    )
    .await
    .unwrap();
    conn
}

pub fn settings(port: u16, database: &str) -> MySqlSinkSettings {
    MySqlSinkSettings {
        server: ServerSettings {
            url: ServerUrl {
                written: Secret::new(""),
                host: "127.0.0.1".to_owned(),
                port,
                user: Some("walferry".to_owned()),
                password: Some(Secret::new("secret")),
                database: database.to_owned(),
            },
            tls: TlsMode::Disable.into(),
            connect_timeout: Duration::from_secs(10),
        },
        statement_timeout: Duration::from_secs(60),
        create_tables: true,
        schema_changes: SchemaChanges::Follow,
        databases: BTreeMap::new(),
        columns: BTreeMap::new(),
        verify: VerifySettings::default(),
    }
}

/// A database of its own, and the sink under test.
pub struct Follower {
    pub conn: Conn,
    pub settings: MySqlSinkSettings,
    pub sink: MySqlSink,
    pub at: Option<Checkpoint>,
}

impl Follower {
    pub async fn new(version: &'static str, name: &str) -> Follower {
        Follower::with(version, name, |_settings| {}).await
    }

    pub async fn with(
        version: &'static str,
        name: &str,
        change: impl FnOnce(&mut MySqlSinkSettings),
    ) -> Follower {
        let port = port(version);
        let mut conn = connect(port, None).await;
        for sql in [
            format!("DROP DATABASE IF EXISTS `{name}`"),
            format!("CREATE DATABASE `{name}` CHARACTER SET latin1"),
            format!("USE `{name}`"),
        ] {
            conn.query_drop(sql).await.unwrap();
        }
        let mut settings = settings(port, name);
        change(&mut settings);
        let mut sink = MySqlSink::new("shop", "copy", "me", settings.clone());
        let at = sink.open().await.unwrap();
        assert_eq!(at, None, "nothing is there at first");
        Follower {
            conn,
            settings,
            sink,
            at,
        }
    }

    /// Another worker of the same sink.
    pub fn another(&self, instance: &str) -> MySqlSink {
        MySqlSink::new("shop", "copy", instance, self.settings.clone())
    }

    pub async fn prepare(&mut self, schema: &Arc<TableSchema>) {
        self.sink.prepare_table(schema, None).await.unwrap();
    }

    pub fn next(&self) -> Checkpoint {
        checkpoint(self.at.as_ref().map_or(1, |at| at.version + 1))
    }

    /// One transaction with these plans.
    pub async fn apply(&mut self, plans: Vec<TablePlan>) -> Result<()> {
        self.sink.begin(self.at.as_ref()).await?;
        self.sink.apply(Work::Net(plans), false).await?;
        self.commit().await
    }

    pub async fn commit(&mut self) -> Result<()> {
        let next = self.next();
        self.sink.commit(&next).await?;
        self.at = Some(next);
        Ok(())
    }

    /// Rows of a copy, into an emptied table.
    pub async fn load(&mut self, schema: &Arc<TableSchema>, all: &[&[Value<'_>]]) -> Result<()> {
        let mut rows = Rows::new(schema.columns.len());
        let changes = all
            .iter()
            .map(|cells| change(Op::Read, None, Some(add(&mut rows, cells))))
            .collect();
        let changes = TableChanges {
            schema: Arc::clone(schema),
            rows,
            changes,
            times_ms: vec![],
        };
        self.sink.begin(self.at.as_ref()).await?;
        self.sink.empty(&schema.table).await?;
        self.sink.load(&changes, 0).await?;
        self.commit().await
    }

    pub async fn sql(&mut self, sql: &str) {
        self.conn
            .query_drop(sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Rows of a query as texts, NULL as `NULL`, joined by `|`.
    pub async fn rows(&mut self, sql: &str) -> Vec<String> {
        let rows: Vec<Row> = self
            .conn
            .query(sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        let text = |value: SqlValue| match value {
            SqlValue::NULL => "NULL".to_owned(),
            SqlValue::Bytes(bytes) => String::from_utf8(bytes).expect("UTF-8"),
            other => other.as_sql(true),
        };
        rows.into_iter()
            .map(|row| {
                row.unwrap()
                    .into_iter()
                    .map(text)
                    .collect::<Vec<_>>()
                    .join("|")
            })
            .collect()
    }
}

/// OIDs of types, where something depends on them.
fn oid_of(type_name: &str) -> Oid {
    let plain = type_name.split('(').next().unwrap_or(type_name).trim();
    Oid(match plain {
        "boolean" => 16,
        "smallint" => 21,
        "integer" => 23,
        "bigint" => 20,
        "real" => 700,
        "double precision" => 701,
        "numeric" => 1700,
        "text" => 25,
        "character varying" => 1043,
        "character" => 1042,
        _other => 17,
    })
}

/// `atttypmod` of `(n)` or `(p,s)`.
fn modifier_of(type_name: &str) -> i32 {
    let Some((_, rest)) = type_name.split_once('(') else {
        return -1;
    };
    let inside = rest.split(')').next().unwrap_or(rest);
    let numbers: Vec<i32> = inside.split(',').map(|n| n.parse().unwrap()).collect();
    match numbers.as_slice() {
        [precision, scale] => ((precision << 16) | scale) + 4,
        [length] => length + 4,
        _other => -1,
    }
}

pub fn column(number: i16, name: &str, type_name: &str) -> Column {
    let type_oid = oid_of(type_name);
    Column {
        name: name.to_owned(),
        type_oid,
        type_modifier: modifier_of(type_name),
        type_name: type_name.to_owned(),
        kind: ColumnKind::of(type_oid),
        not_null: false,
        number: Some(number),
        fill: None,
    }
}

/// A table of the leader's; the columns in `key` are NOT NULL.
pub fn schema(table: &str, columns: &[(&str, &str)], key: &[usize]) -> TableSchema {
    let numbered = columns.iter().zip(1..);
    let mut columns: Vec<Column> = numbered
        .map(|((name, type_name), number)| column(number, name, type_name))
        .collect();
    for &n in key {
        columns[n].not_null = true;
    }
    TableSchema {
        table: TableName::new("public", table),
        relation: Oid(77),
        columns,
        key: key.to_vec(),
        primary_key: key.to_vec(),
        identity: match key {
            [] => ReplicaIdentity::Full,
            [..] => ReplicaIdentity::Default,
        },
        partitions: 1,
        types: vec![],
        dropped: vec![],
        rewritten: None,
        unpublished: vec![],
        exact: true,
    }
}

/// It halts, and says so.
#[track_caller]
pub fn assert_halt(error: &Error, parts: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.class(), Class::Halt, "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} in {text}");
    }
}
