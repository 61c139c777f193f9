//! Settings: what they are, their defaults and bounds. Parsed and checked once, here, before any
//! connection is opened; past this module nobody re-checks.

mod checks;
mod clickhouse;
mod connector;
pub mod defaults;
mod document;
mod load;
mod mysql;
mod raw;
mod server_url;
mod sink;
pub mod values;

pub use clickhouse::{ClickHouseMode, ClickHouseSinkSettings, Layout};
pub use load::{MAIN_FILE, load};
pub use mysql::MySqlSinkSettings;
pub use server_url::{ServerSettings, ServerUrl};

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

/// A secret: its Debug and Display print `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }
    /// The secret itself; only for the call that sends it to its server.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Everything a process needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Name of the pipeline: prefixes topics, slot and publication. `[a-z0-9_]{1,40}`.
    pub pipeline: String,
    /// The event log.
    pub kafka: KafkaSettings,
    /// The HTTP server.
    pub http: HttpSettings,
    /// Logging.
    pub log: LogSettings,
    /// Traces, if they are wanted.
    pub otlp: Option<OtlpSettings>,
    /// The source, if there is one in `connectors/`.
    pub source: Option<SourceSettings>,
    /// The sinks in `connectors/`, by name, as far as the process runs them.
    pub sinks: Vec<SinkSettings>,
    /// All sinks in `connectors/`: also those that `run --only` leaves to other processes.
    pub known_sinks: Vec<SinkSettings>,
}

/// How Kafka is reached and how its topics are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaSettings {
    /// `bootstrap.servers`.
    pub brokers: String,
    /// What loss of brokers the topics survive.
    pub durability: Durability,
    /// Replication factor of created topics (1 with `single-broker`, else >= 3).
    pub replication_factor: i32,
    /// How long table topics keep records: the longest a sink may be down.
    pub retention: Duration,
    /// Passed through to librdkafka for every client.
    pub properties: BTreeMap<String, Secret>,
}

/// Whether acknowledged records survive the loss of a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Replication factor >= 3, `min.insync.replicas` 2, no unclean election; less is refused.
    Replicated,
    /// One broker: what it loses is lost. For trials.
    SingleBroker,
}

/// Where the status page, `/metrics`, `/healthz`, `/readyz` and `/v1/` listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpSettings {
    /// Address; loopback by default. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Address of `/metrics`, if it is to be another.
    pub metrics_listen: Option<SocketAddr>,
    /// What requests that change something must bear.
    pub token: Option<Secret>,
}

/// Logging.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// A `tracing` filter such as `info` or `walferry=debug`.
    pub level: String,
    /// Form of the lines.
    pub format: LogFormat,
}

/// Where spans go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpSettings {
    /// Host and port of an OpenTelemetry collector that takes OTLP over HTTP.
    pub address: String,
    /// Path there.
    pub path: String,
}

/// Form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Human on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// How a Postgres server is reached. Shared by source and Postgres sinks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresSettings {
    /// `postgres://user:password@host:port/database` or libpq's `key=value` form, without ssl keys.
    pub url: Secret,
    /// TLS, with libpq's names.
    pub tls: TlsSettings,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
}

/// TLS of a connection, with libpq's names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// `sslmode`.
    pub mode: TlsMode,
    /// `sslrootcert`: PEM file; the system's roots when not set.
    pub root_cert: Option<PathBuf>,
    /// `sslcert`: client certificate, PEM.
    pub cert: Option<PathBuf>,
    /// `sslkey`: client key, PEM.
    pub key: Option<PathBuf>,
}

impl From<TlsMode> for TlsSettings {
    /// Without files: the system's roots, and no client certificate.
    fn from(mode: TlsMode) -> Self {
        TlsSettings {
            mode,
            root_cert: None,
            cert: None,
            key: None,
        }
    }
}

/// libpq's `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// Never.
    Disable,
    /// If the server offers it, without verification. libpq's default.
    Prefer,
    /// Always, without verification (with `root_cert`: as verify-ca, as libpq does).
    Require,
    /// Always; the chain is verified.
    VerifyCa,
    /// Always; chain and host name are verified.
    VerifyFull,
}

/// The source: reads the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceSettings {
    /// File stem: name in logs and labels.
    pub name: String,
    /// The leader.
    pub postgres: PostgresSettings,
    /// Slot name; default `walferry_<pipeline>`.
    pub slot: String,
    /// Publication name; default `walferry_<pipeline>`.
    pub publication: String,
    /// Whether walferry makes and keeps up the publication (`false`: an existing one is used as it is).
    pub manage_publication: bool,
    /// Whether the leader is to say in its stream what ALTER TABLE does, by event triggers.
    pub event_trigger: bool,
    /// Tables to capture: `schema.table` patterns with `*` and `?`.
    pub include: Vec<String>,
    /// Tables not to capture, after `include`.
    pub exclude: Vec<String>,
    /// Partitions of new table topics.
    pub partitions: u32,
    /// Whether existing rows are copied first.
    pub copy: bool,
    /// Parallel readers of a copy.
    pub copy_readers: u32,
    /// Bytes on the leader of the tables that one copy holds; a larger table has a copy of its own.
    pub copy_group_max_bytes: usize,
    /// A table whose newest copy is older gets a new one; none: when one is asked for.
    pub copy_every: Option<Duration>,
    /// How fast the readers of a copy may read, all together; none: as fast as they can.
    pub copy_max_bytes_per_second: Option<usize>,
    /// `wal_sender_timeout` of the replication session.
    pub wal_sender_timeout: Duration,
    /// Age at which an epoch ends and the next one begins.
    pub epoch_max: Duration,
    /// A batch closes at about this many bytes of records.
    pub batch_max_bytes: usize,
    /// Upper bound of memory for records not yet acknowledged.
    pub queue_max_bytes: usize,
}

/// Whether a copy that is begun `every` so often lasts where records are kept for `retention`; none: for ever.
fn lasts(every: Duration, retention: Option<Duration>) -> bool {
    let least = every.checked_mul(2);
    retention.is_none_or(|retention| least.is_some_and(|least| least <= retention))
}

impl SourceSettings {
    /// Whether topics that keep records for `retention` (none: for ever) hold a usable copy at any time.
    /// A copy is `copy.every` old when the next one is begun, and has to last until that one is complete
    /// and whoever loads it meanwhile is through: as long again is given for both.
    pub fn copies_last(&self, retention: Option<Duration>) -> bool {
        self.copy_every.is_none_or(|every| lasts(every, retention))
    }
}

/// A sink: feeds one follower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkSettings {
    /// File stem: name in logs, labels and the checkpoint.
    pub name: String,
    /// The store.
    pub store: StoreSettings,
    /// Tables this follower takes, of those captured: patterns as for the source.
    pub include: Vec<String>,
    /// Tables it does not take.
    pub exclude: Vec<String>,
    /// A batch (chunk) closes at about this many bytes of rows in memory.
    pub batch_max_bytes: usize,
    /// Memory for records fetched ahead.
    pub fetch_max_bytes: usize,
    /// How long a batch is collected before it is applied, unless it is full before; zero: not at all.
    pub batch_max_age: Duration,
}

/// What a follower takes of what the leader has beside keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakenIndexes {
    /// Nothing.
    None,
    /// Unique indexes and UNIQUE constraints.
    Unique,
    /// All indexes, and UNIQUE, CHECK and EXCLUDE constraints.
    All,
}

/// When a copied table gets the indexes that it had before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildIndexes {
    /// Once its rows are there.
    AfterRows,
    /// They are never taken away.
    WithRows,
}

/// Settings of a store, by kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreSettings {
    /// `kind = "postgres"`.
    Postgres(PostgresSinkSettings),
    /// `kind = "clickhouse"`.
    ClickHouse(ClickHouseSinkSettings),
    /// `kind = "mysql"`: MySQL and MariaDB.
    MySql(MySqlSinkSettings),
    /// `kind = "stdout"`: JSON lines.
    Stdout(StdoutSinkSettings),
}

/// When and how fast a follower is compared with the leader, as its settings say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifySettings {
    /// How often it is compared with the leader; none: never.
    pub every: Option<Duration>,
    /// How many rows of each server a comparison reads a second at most; none: as fast as they can.
    pub max_rows_per_second: Option<NonZeroU64>,
}

/// A Postgres follower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresSinkSettings {
    /// The follower.
    pub postgres: PostgresSettings,
    /// Create missing schemas, types and tables (`false`: they must be there).
    pub create_tables: bool,
    /// What happens on the follower when the leader's tables are altered.
    pub schema_changes: SchemaChanges,
    /// `statement_timeout` of the follower session; lifted for chunked transactions.
    pub statement_timeout: Duration,
    /// Which of the leader's indexes and constraints are made where the follower lacks them.
    pub indexes: TakenIndexes,
    /// When a copied table gets its indexes.
    pub build_indexes: BuildIndexes,
    /// When and how fast it is compared with the leader.
    pub verify: VerifySettings,
}

impl SinkSettings {
    /// Whether tables that the leader renames or drops are renamed and dropped on the follower as well.
    pub fn moves_tables(&self) -> bool {
        let schema_changes = match &self.store {
            StoreSettings::Postgres(store) => store.schema_changes,
            StoreSettings::ClickHouse(store) => store.schema_changes,
            StoreSettings::MySql(store) => store.schema_changes,
            StoreSettings::Stdout(_) => return false,
        };
        schema_changes == SchemaChanges::Follow
    }

    /// Whether the store keeps rows and a checkpoint; one that only shows the stream has nothing to be rebuilt or
    /// compared.
    pub fn is_follower(&self) -> bool {
        match &self.store {
            StoreSettings::Postgres(_) | StoreSettings::ClickHouse(_) | StoreSettings::MySql(_) => {
                true
            }
            StoreSettings::Stdout(_) => false,
        }
    }

    /// When and how fast it is compared with the leader.
    pub fn verify(&self) -> VerifySettings {
        match &self.store {
            StoreSettings::Postgres(store) => store.verify,
            StoreSettings::ClickHouse(store) => store.verify,
            StoreSettings::MySql(store) => store.verify,
            StoreSettings::Stdout(_) => VerifySettings::default(),
        }
    }
}

/// What happens on a follower when the leader's tables are altered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaChanges {
    /// The same, at the same place in the stream.
    Follow,
    /// What readers of the follower need not know of: columns that are added or become wider or may be NULL.
    /// Columns that the leader drops stay. Renamed columns and other types halt the sink.
    Compatible,
    /// The sink halts in front of the first change that the follower's table cannot take.
    Halt,
}

/// Change events as JSON lines on standard output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StdoutSinkSettings {
    /// Where to begin: at the log's end, or at its first entry.
    pub from: StdoutFrom,
    /// How a change is printed. JSON for connectors; `walferry tail` asks for either.
    pub form: StdoutForm,
}

/// How a change is printed on standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StdoutForm {
    /// One JSON object a line.
    Json,
    /// For people: time, table, operation, key and changed columns on one line.
    Readable,
}

/// Where a sink without a memory of its own begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StdoutFrom {
    /// With the next transaction.
    Now,
    /// With the oldest entry of the log.
    Earliest,
}

/// Every key that can be set, by the kind of file it stands in: what docs/configuration.md lists.
pub fn all_keys() -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    let mut add = |file: &'static str, section: &str, keys: &[&str]| {
        for key in keys {
            let name = if section.is_empty() {
                (*key).to_owned()
            } else {
                format!("{section}.{key}")
            };
            all.push((file, name));
        }
    };
    let sections = [
        "kafka", "http", "log", "otlp", "tls", "tables", "copy", "layout",
    ];
    let plain = |keys: &[&'static str]| -> Vec<&'static str> {
        let keys = keys.iter().copied();
        keys.filter(|key| !sections.contains(key)).collect()
    };
    add("walferry.toml", "", &plain(raw::keys::<raw::Main>()));
    add("walferry.toml", "kafka", raw::keys::<raw::Kafka>());
    add("walferry.toml", "http", raw::keys::<raw::Http>());
    add("walferry.toml", "log", raw::keys::<raw::Log>());
    add("walferry.toml", "otlp", raw::keys::<raw::Otlp>());
    for (kind, keys) in [
        ("postgres-source", raw::keys::<raw::Source>()),
        ("postgres", raw::keys::<raw::PostgresSink>()),
        ("clickhouse", raw::keys::<raw::ClickHouseSink>()),
        ("mysql", raw::keys::<raw::MySqlSink>()),
        ("stdout", raw::keys::<raw::StdoutSink>()),
    ] {
        add(kind, "", &plain(keys));
        for (section, inner) in [
            ("tls", raw::keys::<raw::Tls>()),
            ("tables", raw::keys::<raw::Tables>()),
            ("copy", raw::keys::<raw::Copy>()),
            ("layout", raw::keys::<raw::Layout>()),
        ] {
            if keys.contains(&section) {
                add(kind, section, inner);
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_hold_a_usable_copy_when_they_keep_it_for_twice_the_time_between_two() {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        assert!(lasts(hours(3), None), "kept for ever");
        assert!(lasts(hours(3), Some(hours(6))));
        assert!(!lasts(hours(3), Some(hours(5))));
        assert!(!lasts(Duration::MAX, Some(Duration::MAX)));
    }
}
