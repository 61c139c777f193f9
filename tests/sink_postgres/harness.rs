//! A real server, a database a test for the leader's side and one for the follower's, and plans
//! made by hand.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio_postgres::{Client, NoTls, SimpleQueryMessage};
use walferry::config::{
    BuildIndexes, PostgresSettings, PostgresSinkSettings, SchemaChanges, Secret, TakenIndexes,
    TlsMode, VerifySettings,
};
use walferry::error::{Class, Error, Result};
use walferry::model::{
    Checkpoint, Column, ColumnKind, Oid, Op, ReplicaIdentity, Rows, TableChanges, TableName,
    TablePlan, TableSchema, UserType,
};
use walferry::sink::postgres::PostgresSink;
use walferry::sink::{Sink, Work};

pub use crate::plans::{A, N, Plan, V, Value, add, change, checkpoint, position};

fn test_dir() -> PathBuf {
    let stack = || Path::new(env!("CARGO_MANIFEST_DIR")).join(".stack");
    match (
        std::env::var_os("WALFERRY_TEST_DIR"),
        std::env::var_os("WALFERRY_STACK"),
    ) {
        (Some(dir), _) => dir.into(),
        (None, Some(stack)) => Path::new(&stack).join("test"),
        (None, None) => stack().join("test"),
    }
}

/// The port of a server that all tests of this file share; `./dev server stop-all` stops it.
fn server_port() -> u16 {
    static PORT: OnceLock<u16> = OnceLock::new();
    *PORT.get_or_init(|| {
        let dev = std::env::var("WALFERRY_DEV")
            .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/dev").to_owned());
        let output = Command::new(dev)
            .args(["server", "postgres", "start"])
            .arg(test_dir().join("sink_postgres"))
            .output()
            .expect("./dev runs");
        let text = String::from_utf8_lossy(&output.stdout);
        let port = text
            .split_whitespace()
            .find_map(|word| word.strip_prefix("port="));
        port.and_then(|port| port.parse().ok())
            .unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
    })
}

pub fn url(user: &str, database: &str) -> String {
    format!(
        "host=127.0.0.1 port={} user={user} dbname={database}",
        server_port()
    )
}

/// An ordinary session, with the output settings under which values are text.
pub async fn connect(database: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(&url("postgres", database), NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    client
        .batch_execute(
            "SET extra_float_digits = 3; SET bytea_output = 'hex'; SET datestyle = 'ISO'; \
             SET intervalstyle = 'postgres'; SET timezone = 'UTC'; SET lc_monetary = 'C'",
        )
        .await
        .unwrap();
    client
}

/// Makes a database anew.
pub async fn database(name: &str, options: &str) -> Client {
    let admin = connect("postgres").await;
    admin
        .batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        .await
        .unwrap();
    // Two tests cannot copy the template at the same time.
    loop {
        match admin
            .batch_execute(&format!("CREATE DATABASE {name} {options}"))
            .await
        {
            Ok(()) => break,
            Err(error) if error.code().is_some_and(|code| code.code() == "55006") => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    connect(name).await
}

pub fn sink_settings(user: &str, database: &str) -> PostgresSinkSettings {
    PostgresSinkSettings {
        postgres: PostgresSettings {
            url: Secret::new(url(user, database)),
            tls: TlsMode::Disable.into(),
            connect_timeout: Duration::from_secs(10),
        },
        create_tables: true,
        schema_changes: SchemaChanges::Halt,
        indexes: TakenIndexes::None,
        build_indexes: BuildIndexes::AfterRows,
        statement_timeout: Duration::from_secs(60),
        verify: VerifySettings::default(),
    }
}

/// A leader's database, a follower's, and the sink under test.
pub struct Pair {
    pub leader: Client,
    pub follower: Client,
    pub name: String,
    pub sink: PostgresSink,
    pub at: Option<Checkpoint>,
}

pub fn sink(database: &str, instance: &str) -> PostgresSink {
    PostgresSink::new(
        "shop",
        "copy",
        instance,
        sink_settings("postgres", database),
    )
}

impl Pair {
    pub async fn new(name: &str) -> Pair {
        let leader = database(&format!("{name}_leader"), "").await;
        let follower_name = format!("{name}_follower");
        let follower = database(&follower_name, "").await;
        let mut sink = sink(&follower_name, "me");
        let at = sink.open().await.unwrap();
        assert_eq!(at, None, "nothing is there at first");
        Pair {
            leader,
            follower,
            name: follower_name,
            sink,
            at,
        }
    }

    /// Makes a table on the leader and prepares it on the follower.
    pub async fn table(&mut self, create: &str, table: &str) -> Arc<TableSchema> {
        self.leader.batch_execute(create).await.unwrap();
        let schema = self.schema(table).await;
        self.sink.prepare_table(&schema, None).await.unwrap();
        schema
    }

    pub async fn schema(&self, table: &str) -> Arc<TableSchema> {
        Arc::new(read_schema(&self.leader, "public", table, vec![]).await)
    }

    pub fn next(&self) -> Checkpoint {
        let version = self.at.as_ref().map_or(1, |at| at.version + 1);
        checkpoint(version)
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

    /// All rows of the leader's table go to the follower as rows of a copy.
    pub async fn load(&mut self, schema: &Arc<TableSchema>) {
        let texts = dump(&self.leader, schema).await;
        let mut rows = Rows::new(schema.columns.len());
        let changes = texts
            .iter()
            .map(|cells| {
                let cells: Vec<Value> = cells.iter().map(|c| c.as_deref().map_or(N, V)).collect();
                change(Op::Read, None, Some(add(&mut rows, &cells)))
            })
            .collect();
        let changes = TableChanges {
            schema: Arc::clone(schema),
            rows,
            changes,
            times_ms: Vec::new(),
        };
        self.sink.begin(self.at.as_ref()).await.unwrap();
        self.sink.empty(&schema.table).await.unwrap();
        self.sink.load(&changes, 0).await.unwrap();
        self.commit().await.unwrap();
    }

    pub async fn assert_equal(&self, schema: &TableSchema) {
        let leader = dump(&self.leader, schema).await;
        let follower = dump(&self.follower, schema).await;
        assert_eq!(leader, follower, "table {}", schema.table);
    }
}

/// A table's schema version from the leader's catalog.
pub async fn read_schema(
    leader: &Client,
    schema: &str,
    table: &str,
    types: Vec<UserType>,
) -> TableSchema {
    leader.batch_execute("SET search_path = ''").await.unwrap();
    let columns = leader
        .query(
            "SELECT a.attname::text, a.atttypid, a.atttypmod, format_type(a.atttypid, a.atttypmod), \
             a.attnotnull, c.oid, COALESCE(a.attnum = ANY (i.indkey), false) \
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 \
               AND NOT a.attisdropped AND a.attgenerated = '' \
             LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary \
             WHERE n.nspname = $1 AND c.relname = $2 ORDER BY a.attnum",
            &[&schema, &table],
        )
        .await
        .unwrap();
    leader
        .batch_execute("SET search_path = public")
        .await
        .unwrap();
    assert!(!columns.is_empty(), "{schema}.{table} is there");
    let mut found = TableSchema {
        table: TableName::new(schema, table),
        relation: Oid(columns[0].get(5)),
        columns: vec![],
        key: vec![],
        primary_key: vec![],
        identity: ReplicaIdentity::Default,
        partitions: 1,
        types,
        dropped: Vec::new(),
        rewritten: None,
        unpublished: Vec::new(),
        exact: false,
    };
    for row in &columns {
        let Some(name) = row.get::<_, Option<String>>(0) else {
            continue; // a table without columns
        };
        if row.get(6) {
            found.key.push(found.columns.len());
            found.primary_key.push(found.columns.len());
        }
        let type_oid = Oid(row.get(1));
        found.columns.push(Column {
            name,
            type_oid,
            type_modifier: row.get(2),
            type_name: row.get(3),
            kind: ColumnKind::of(type_oid),
            not_null: row.get(4),
            number: None,
            fill: None,
        });
    }
    if found.key.is_empty() {
        found.identity = ReplicaIdentity::Full;
    }
    found
}

/// All rows as the texts that Postgres prints, sorted.
pub async fn dump(client: &Client, schema: &TableSchema) -> Vec<Vec<Option<String>>> {
    let names: Vec<String> = schema
        .columns
        .iter()
        .map(|column| walferry::model::relation::quote_identifier(&column.name))
        .collect();
    let sql = format!("SELECT {} FROM {}", names.join(", "), schema.table.quoted());
    let mut rows: Vec<Vec<Option<String>>> = client
        .simple_query(&sql)
        .await
        .unwrap()
        .into_iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(
                (0..row.len())
                    .map(|n| row.get(n).map(str::to_owned))
                    .collect(),
            ),
            _ => None,
        })
        .collect();
    rows.sort();
    rows
}

pub fn halted<T: std::fmt::Debug>(result: Result<T>) -> Error {
    let error = result.unwrap_err();
    assert_eq!(error.class(), Class::Halt, "{error}");
    assert!(
        error.remedy().is_some_and(|remedy| !remedy.is_empty()),
        "{error}"
    );
    error
}
